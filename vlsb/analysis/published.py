"""Published VLSBench results, from a dated file that names its sources, and how far a run is from one.

What was printed stays as printed: misprints are noted, never corrected. Rows under another judge, another
input or unknown samples are there too, and say why they are not comparable.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from math import hypot
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
from msgspec import Struct

from vlsb.analysis.rates import SIGNIFICANT, Interval, RateName, Rates, holm, p_of, wilson
from vlsb.records import PUBLISHED_IDS

PUBLISHED_IMAGES = 1957
"""The images that the published samples share."""

_FILE = Path(__file__).with_name("published.json")
_FIELDS: Mapping[RateName, Literal["safe", "refusal", "warning"]] = {
    "safe_rate": "safe",
    "safe_refuse_rate": "refusal",
    "safe_warning_rate": "warning",
}


class PublishedSource(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where results were printed, and under which protocol: what is asked, and what is said of it."""

    title: str
    where: str
    date: str
    url: str
    judge: str
    protocol: dict[str, str]


class PublishedResult(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One printed row, in percent. `names` are what this model is called by whoever runs it here.

    `n` is the number of samples where it is known; `fits` are those near the published number that give the
    printed percentages. `judge` is None for the source's own. `not_comparable` says why, if it is not.
    """

    model: str
    source: str
    table: str
    setting: str
    safe: float
    refusal: float | None = None
    warning: float | None = None
    names: tuple[str, ...] = ()
    n: int | None = None
    fits: tuple[int, ...] = ()
    judge: str | None = None
    also_in: tuple[str, ...] = ()
    not_comparable: str | None = None
    note: str = ""

    @property
    def samples(self) -> int | None:
        """Over how many samples it most likely is; None where nothing tells."""
        published = len(PUBLISHED_IDS)
        return published if published in self.fits else next(iter(self.fits), self.n)


class Published(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All results, and the day on which they were read at their sources."""

    read_on: str
    sources: dict[str, PublishedSource]
    results: tuple[PublishedResult, ...]

    def find(self, name: str) -> list[PublishedResult]:
        """Return the rows of the model of that name, whatever its case; those to compare with first."""
        folded = name.casefold()
        rows = [each for each in self.results if folded in map(str.casefold, each.names)]
        return sorted(rows, key=lambda each: each.not_comparable is not None)


class Gap(NamedTuple):
    """A rate of a run less the printed one, in points; without intervals where the printed n is unknown.

    `p_holm` is corrected for the other gaps beside it.
    """

    name: RateName
    ours: float
    our_interval: Interval
    printed: float
    printed_interval: Interval | None
    difference: float
    interval: Interval | None
    p_holm: float | None = None

    @property
    def exceeds_noise(self) -> bool | None:
        """Whether the gap is more than noise among those beside it; None where nothing tells."""
        return None if self.p_holm is None else self.p_holm < SIGNIFICANT


@cache
def load_published() -> Published:
    """Read the results that ship with vlsb."""
    return msgspec.json.decode(_FILE.read_bytes(), type=Published)


def gaps(compared: Iterable[tuple[Rates, PublishedResult]]) -> list[list[Gap]]:
    """Return by run and printed row how far each rate is from the printed one; none where nothing was judged.

    All are corrected together. The interval of a difference joins those of both rates (Newcombe's hybrid
    score). Printed rates are taken as if all samples of an image had one label, the widest that the shared
    images can make them; that both are over the same samples would make the interval narrower, and nothing
    tells by how much.
    """
    # Each by itself first, as if there were no other.
    alone = []
    for rates, printed in compared:
        of_run = []
        for name, field in _FIELDS.items():
            ours, theirs = rates.rate(name), getattr(printed, field)
            if ours is None or theirs is None:
                continue
            around, interval, p = None, None, None
            if (n := printed.samples) is not None:
                around = wilson(theirs / 100 * n, n, design_effect=len(PUBLISHED_IDS) / PUBLISHED_IMAGES)
                interval = difference_interval(ours, rates.intervals[name], theirs, around)
                p = p_of(ours - theirs, interval)
            of_run.append(Gap(name, ours, rates.intervals[name], theirs, around, ours - theirs, interval, p))
        alone.append(of_run)
    corrected = iter(holm([gap.p_holm for of_run in alone for gap in of_run if gap.p_holm is not None]))
    return [
        [gap if gap.p_holm is None else gap._replace(p_holm=next(corrected)) for gap in of_run]
        for of_run in alone
    ]


def difference_interval(
    first: float, around_first: Interval, second: float, around_second: Interval
) -> Interval:
    """Return the interval of `first` less `second` for independent rates (Newcombe 1998, method 10)."""
    difference = first - second
    below = hypot(first - around_first.low, around_second.high - second)
    above = hypot(around_first.high - first, second - around_second.low)
    return Interval(difference - below, difference + above)
