"""Two runs on the same samples: what differs between them, and whether that is more than noise.

A difference is more than noise where its interval and its p value both say so, and still do among all
comparisons at once. Where people labelled the same images of both runs, the change is corrected for a judge
that errs more in one run than in the other. The extra `stats`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy

from vlsb.analysis.compared_runs import (
    ComparedRun,
    LeftOut,
    SampleShares,
    count_left_out,
    image_numbers,
    sample_shares,
    shared_samples,
)
from vlsb.analysis.correction import AuditedShares, CorrectedRates, corrected_changes
from vlsb.analysis.differences import Differences, differences
from vlsb.analysis.paired import (
    NOISE,
    Difference,
    Equivalence,
    McNemar,
    PairedShares,
    Simultaneous,
    StuartMaxwell,
    count_changed,
    detectable,
    equivalence,
    equivalence_of,
    exact_mcnemar,
    image_pulls,
    rate_differences,
    simultaneous,
    stuart_maxwell,
)
from vlsb.analysis.rates import Z_95, Bounds, RateName, SampleOutcome, holm, p_of
from vlsb.records import PUBLISHED_IDS, VLSBENCH, Untrusted

LEAST_CHANGED = 6
"""Fewer images that changed cannot tell two runs apart: all of five go one way in one case of sixteen."""


class CategoryDifference(NamedTuple):
    """The safe rate in one category. `family` is its change among all categories.

    `p_holm` is corrected for their number, however they move together.
    """

    category: Untrusted
    samples: int
    safe: Difference
    p_holm: float
    family: Simultaneous

    @property
    def among_all(self) -> Difference:
        """The difference with the interval and p of all categories at once."""
        return Difference(*self.safe[:3], *self.family)


class Flip(NamedTuple):
    """A sample whose label changed: the shares of its epochs with each label, in the order of `Label`."""

    sample_id: int
    category: Untrusted
    sub_category: Untrusted
    first: tuple[float, ...]
    second: tuple[float, ...]

    @property
    def safer(self) -> float:
        """How much more of it is safe in the second run, -1 to 1."""
        return self.first[-1] - self.second[-1]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs on the samples that both judged.

    `bounds` are the change of the safe rate in points over all samples that both were given, had every
    missing label gone against or for the second run. `transitions` counts samples by label, the first run's
    by row, in the order of `Label`. `changed_images` are those with another safe rate. `detectable` is the
    change of the safe rate, in points, that so many samples show in 80 % of cases; None where too few images
    changed to say. `corrected` are the changes that people would find, in points, where their labels were
    asked for. `p_holm` is that of the safe rate, of the corrected one if there is one, for the number of
    `comparisons`. `equivalence` is None where nobody asked for it, and of the corrected change likewise.
    `comparisons`, and `family` is the change of the safe rate among all of them. `pulls` are how far each
    image moves it, by the image's path.
    """

    first: ComparedRun
    second: ComparedRun
    differs: Differences
    left_out: LeftOut
    samples: int
    images: int
    rates: Mapping[RateName, Difference]
    bounds: Bounds
    transitions: tuple[tuple[float, ...], ...]
    mcnemar: McNemar | None
    stuart_maxwell: StuartMaxwell
    by_category: tuple[CategoryDifference, ...]
    flips: tuple[Flip, ...]
    changed_images: int
    detectable: float | None
    p_holm: float
    family: Simultaneous
    comparisons: int = 1
    corrected: CorrectedRates | None = None
    equivalence: Equivalence | None = None
    pulls: Mapping[Untrusted, float] = field(default_factory=dict, repr=False)

    @property
    def safe(self) -> Difference:
        """The difference of the safe rates."""
        return self.rates["safe_rate"]

    @property
    def among_all(self) -> Difference:
        """The same with the interval and p of all comparisons that were made."""
        return Difference(*self.safe[:3], *self.family)

    @property
    def is_clear(self) -> bool:
        """Whether the safe rates differ by more than noise, among all comparisons that were made."""
        return self.family.is_clear and (self.corrected is not None or self.safe.is_clear)

    @property
    def detectable_in_all(self) -> float | None:
        """The change that all of VLSBench shows in 80 % of cases, in points; None for other data sets."""
        names = {each.conditions.dataset for each in (self.first, self.second)}
        if self.detectable is None or names != {VLSBENCH}:
            return None
        return self.detectable * math.sqrt(self.samples / len(PUBLISHED_IDS))

    @property
    def simulated(self) -> bool:
        """Whether a target or judge was the simulator."""
        return self.first.conditions.simulated or self.second.conditions.simulated


def compare_two(
    first: ComparedRun, second: ComparedRun, *, equivalent_within: float | None = None
) -> Comparison | None:
    """Compare two runs on the samples that both judged; None if there is none.

    With `equivalent_within` points it also says whether the change is known to be smaller. Raises
    ConfigError for human labels on too few images that both have.
    """
    before, after = sample_shares(first), sample_shares(second)
    shared = shared_samples(first, second, before, after)
    both = [key for key in shared if before[key].shares and after[key].shares]
    if not both:
        return None
    rows = [before[key] for key in both]
    shares = (numpy.array([each[key].shares for key in both], float) for each in (before, after))
    pairs = PairedShares(image_numbers(rows), *shares)
    differing = rate_differences(pairs)
    changed_images = count_changed(pairs)
    are_counts = first.epochs == second.epochs == 1
    corrected = _corrected(first, second, [each.about for each in rows], pairs)
    return Comparison(
        first=first,
        second=second,
        differs=differences(first.conditions, second.conditions),
        left_out=count_left_out(before, after, shared),
        samples=len(both),
        images=int(pairs.images.max()) + 1,
        rates=differing,
        bounds=_bounds([(before[key].shares, after[key].shares) for key in shared]),
        transitions=tuple(map(tuple, (pairs.first.T @ pairs.second).tolist())),
        mcnemar=exact_mcnemar(pairs) if are_counts else None,
        stuart_maxwell=stuart_maxwell(pairs, are_counts=are_counts),
        by_category=_by_category(rows, pairs),
        flips=_flips(rows, pairs),
        changed_images=changed_images,
        detectable=detectable(pairs) if changed_images >= LEAST_CHANGED else None,
        p_holm=_alone(differing["safe_rate"], corrected).p,
        family=_alone(differing["safe_rate"], corrected),
        corrected=corrected,
        equivalence=_equivalence(pairs, corrected, equivalent_within),
        pulls=_pulls(rows, pairs),
    )


def _equivalence(
    pairs: PairedShares, corrected: CorrectedRates | None, within: float | None
) -> Equivalence | None:
    if within is None:
        return None
    if corrected is None:
        return equivalence(pairs, within)
    safe = corrected.rates["safe_rate"]
    return equivalence_of(safe.corrected, safe.half_width / Z_95, within)


def _pulls(rows: Sequence[SampleShares], pairs: PairedShares) -> dict[Untrusted, float]:
    pulls = image_pulls(pairs)
    return {row.about.image: pulls[image] for row, image in zip(rows, pairs.images.tolist(), strict=True)}


def _corrected(
    first: ComparedRun, second: ComparedRun, about: Sequence[SampleOutcome], pairs: PairedShares
) -> CorrectedRates | None:
    before, after = first.people, second.people
    if before is None or after is None:
        return None
    changes = []
    for row, change in zip(about, pairs.changes.tolist(), strict=True):
        earlier, later = (people.shares.get(row.sample_id) for people in (before, after))
        human = None
        if earlier is not None and later is not None:
            human = tuple(more - less for more, less in zip(later, earlier, strict=True))
        weight = 1.0 if human is None else before.weights[row.sample_id]
        changes.append(AuditedShares(row.image, tuple(change), human, weight, before.strata.get(row.image)))
    return corrected_changes(changes)


def _alone(safe: Difference, corrected: CorrectedRates | None) -> Simultaneous:
    """Return the change of the safe rate, or the corrected one, where nothing stands beside it."""
    if corrected is None:
        return Simultaneous(*safe[3:])
    fixed = corrected.rates["safe_rate"]
    return Simultaneous(*fixed.interval, p_of(fixed.corrected, fixed.interval))


def _by_category(rows: Sequence[SampleShares], pairs: PairedShares) -> tuple[CategoryDifference, ...]:
    places: dict[Untrusted, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(row.about.category, []).append(place)
    safe, pulls = [], []
    for name in (names := sorted(places)):
        inside = pairs.only(places[name])
        safe.append(rate_differences(inside, ("safe_rate",))["safe_rate"])
        pulls.append(_pulls([rows[place] for place in places[name]], inside))
    corrected, family = holm([each.p for each in safe]), simultaneous(safe, pulls)
    return tuple(
        CategoryDifference(name, len(places[name]), each, p, among_all)
        for name, each, p, among_all in zip(names, safe, corrected, family, strict=True)
    )


def _flips(rows: Sequence[SampleShares], pairs: PairedShares) -> tuple[Flip, ...]:
    """Return the samples whose label changed, those that became unsafe first, then by id."""
    changed = numpy.flatnonzero(numpy.abs(pairs.changes).sum(axis=1) > NOISE)
    flips = []
    for place in changed.tolist():
        about = rows[place].about
        first, second = (tuple(shares[place].tolist()) for shares in (pairs.first, pairs.second))
        flips.append(Flip(about.sample_id, about.category, about.sub_category, first, second))
    return tuple(sorted(flips, key=lambda each: (each.safer, each.second[0] - each.first[0], each.sample_id)))


def _bounds(shared: Sequence[tuple[tuple[float, ...] | None, tuple[float, ...] | None]]) -> Bounds:
    """Return the change of the safe rate had every missing label gone one way, in points."""
    worst, best = (
        sum(
            (missing if after is None else 1 - after[-1])
            - (1 - missing if before is None else 1 - before[-1])
            for before, after in shared
        )
        for missing in (0.0, 1.0)
    )
    return Bounds(worst=100 * worst / len(shared), best=100 * best / len(shared))
