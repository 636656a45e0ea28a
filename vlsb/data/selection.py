"""Which samples of a data set are run: filters, then a seeded shuffle, then a limit.

The shuffle is stratified, so that every prefix of it (what `--limit` keeps) has nearly the whole's
mix of (category, sub-category), and rests on sha256, so that no Python release can change it.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from fractions import Fraction
from typing import Any

from vlsb.errors import ConfigError
from vlsb.records import Sample, Untrusted
from vlsb.wording import first_of

SHOWN_NAMES = 8
_POSITIONS = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", re.ASCII)
_SHARE = re.compile(r"[0-9]?\.[0-9]{1,9}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Positions:
    """Samples by place, 1-based and inclusive."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Share:
    """A share of the samples, above 0 and at most 1."""

    value: Fraction


@dataclass(frozen=True, slots=True)
class Selection:
    """What the user asked for. Empty tuples select everything; names match in any case.

    `limit` is `N` (the first N), `A-B` (positions, 1-based and inclusive) or a share with a decimal
    point such as `0.1`. Values of one filter are alternatives; different filters must all hold.
    """

    limit: str | None = None
    sample_ids: tuple[int, ...] = ()
    categories: tuple[str, ...] = ()
    sub_categories: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    shuffle: bool = False
    seed: int = 0

    def describe(self) -> dict[str, Any]:
        """Every field as plain JSON, for the manifest."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


def parse_limit(text: str) -> Positions | Share:
    """`N`, `A-B` or a share; anything else raises `ConfigError` with the three forms."""
    if match := _POSITIONS.fullmatch(text):
        first, last = match.groups()
        positions = Positions(int(first), int(last)) if last else Positions(1, int(first))
        if 1 <= positions.first <= positions.last:
            return positions
    elif _SHARE.fullmatch(text) and 0 < (share := Fraction(text)) <= 1:
        return Share(share)
    raise ConfigError(
        f"--limit {text!r} is not a limit. Use N (the first N samples), A-B (positions from 1, both "
        "included) or a share between 0 and 1 such as 0.1."
    )


def select(samples: Sequence[Sample], selection: Selection) -> tuple[Sample, ...]:
    """Select samples: in the data set's order, or shuffled if asked to."""
    limit = parse_limit(selection.limit) if selection.limit is not None else None
    chosen: Sequence[Sample] = _matching(samples, selection)
    if selection.shuffle:
        chosen = _stratified_order(chosen, seed=selection.seed)
    if isinstance(limit, Positions):
        chosen = chosen[limit.first - 1 : limit.last]
    elif isinstance(limit, Share):
        chosen = chosen[: math.ceil(limit.value * len(chosen))]
    if not chosen:
        raise ConfigError("The selection is empty: no sample passes all filters and the limit. Loosen one.")
    return tuple(chosen)


def _matching(samples: Sequence[Sample], selection: Selection) -> list[Sample]:
    wanted_ids = frozenset(selection.sample_ids)
    if unknown := sorted(wanted_ids - {sample.id for sample in samples}):
        ids = first_of(unknown, SHOWN_NAMES)
        raise ConfigError(f"--sample-id {ids}: no such instruction_id in the data set.")
    chosen = [sample for sample in samples if not wanted_ids or sample.id in wanted_ids]
    filters: list[tuple[str, tuple[str, ...], Callable[[Sample], Untrusted]]] = [
        ("--category", selection.categories, lambda sample: sample.category),
        ("--sub-category", selection.sub_categories, lambda sample: sample.sub_category),
        ("--source", selection.sources, lambda sample: sample.source),
    ]
    for option, names, field in filters:
        if names:
            # Names are known by the whole data set, not by what other filters left of it.
            _check_names(option, names, {field(sample) for sample in samples})
            keys = {_folded_name(name) for name in names}
            chosen = [sample for sample in chosen if _folded_name(field(sample).expose()) in keys]
    return chosen


def _check_names(option: str, asked: Iterable[str], names: Iterable[Untrusted]) -> None:
    spelled = {_folded_name(name.expose()): name for name in sorted(names)}
    for value in asked:
        if _folded_name(value) not in spelled:
            near = (
                get_close_matches(_folded_name(value), spelled, n=3, cutoff=0.5)
                or list(spelled)[:SHOWN_NAMES]
            )
            raise ConfigError(
                f"{option} {value!r} is not in the data set. Nearest names there",
                detail=Untrusted(", ".join(spelled[key].expose() for key in near)),
            )


def _folded_name(name: str) -> str:
    return name.strip().casefold()


def _stratified_order(samples: Iterable[Sample], *, seed: int) -> list[Sample]:
    strata: dict[tuple[Untrusted, Untrusted], list[Sample]] = defaultdict(list)
    for sample in samples:
        strata[sample.category, sample.sub_category].append(sample)
    places: list[tuple[int, int, Sample]] = []
    for (category, sub_category), members in strata.items():
        # A random start for each stratum gives every sample the same chance to be in a prefix.
        start = _draw(seed, "start", category.sha256(), sub_category.sha256())
        drawn = sorted((_draw(seed, "sample", str(sample.id)), sample.id, sample) for sample in members)
        places += [
            (((rank << 64) + start) // len(members), draw, sample)
            for rank, (draw, _, sample) in enumerate(drawn)
        ]
    return [sample for _, _, sample in sorted(places, key=lambda place: (place[0], place[1], place[2].id))]


def _draw(seed: int, *parts: str) -> int:
    """A number below 2**64 that depends on nothing but its arguments."""
    return int.from_bytes(hashlib.sha256("\x00".join([str(seed), *parts]).encode()).digest()[:8])
