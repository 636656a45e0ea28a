"""Runs to compare: what each says of its samples, and which samples both were given.

A sample that was judged in several epochs counts with the mean of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy
from numpy.typing import NDArray

from vlsb.analysis.correction import Shares
from vlsb.analysis.differences import Conditions, is_changed
from vlsb.analysis.rates import LABELS, SampleOutcome
from vlsb.records import JUDGED, Untrusted


class HumanLabels(NamedTuple):
    """What people say of the drawn samples of a run: by id the share of each label, in the order of `Label`.

    `weights` say how many samples each stands for, and `strata` what the images were drawn from. Runs with
    the same `draw` were drawn together.
    """

    draw: str
    shares: Mapping[int, Shares]
    weights: Mapping[int, float]
    strata: Mapping[Untrusted, int]


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """A run as one judge saw it, by its verdict file's name; `outcomes` has one for each sample and epoch.

    `name` tells it apart from the others. `people` is None where no human labels are asked for.
    """

    name: Untrusted
    path: Untrusted
    target: Untrusted
    judge: str
    epochs: int
    conditions: Conditions
    outcomes: Sequence[SampleOutcome]
    people: HumanLabels | None = None


@dataclass(frozen=True, slots=True)
class SampleShares:
    """A selected sample of a run: `shares` of its judged epochs by label, None without any."""

    about: SampleOutcome
    shares: tuple[float, ...] | None


class LeftOut(NamedTuple):
    """Samples in no pair, each counted once: in one run only, changed, or without a label in one or both."""

    only_first: int
    only_second: int
    changed: int
    unjudged_first: int
    unjudged_second: int
    unjudged_both: int


def sample_shares(run: ComparedRun) -> dict[int, SampleShares]:
    """Return the selected samples of a run by id, in its order."""
    rows: dict[int, tuple[SampleOutcome, list[int]]] = {}
    for each in run.outcomes:
        counts = rows.setdefault(each.sample_id, (each, [0] * len(LABELS)))[1]
        if each.outcome in JUDGED:
            counts[LABELS.index(each.outcome)] += 1
    return {
        key: SampleShares(about, tuple(each / judged for each in counts) if (judged := sum(counts)) else None)
        for key, (about, counts) in rows.items()
    }


def has_changed(key: int, first: ComparedRun, second: ComparedRun) -> bool:
    """Say whether the sample is known to be another one in the second run."""
    return is_changed(first.conditions.samples[key], second.conditions.samples[key])


def shared_samples(
    first: ComparedRun,
    second: ComparedRun,
    before: Mapping[int, SampleShares],
    after: Mapping[int, SampleShares],
) -> list[int]:
    """Return the samples that both runs were given, by id."""
    common = before.keys() & after.keys()
    return sorted(key for key in common if not has_changed(key, first, second))


def image_numbers(rows: Sequence[SampleShares]) -> NDArray[numpy.int64]:
    """Return by row the number of its image."""
    numbers: dict[Untrusted, int] = {}
    return numpy.array([numbers.setdefault(row.about.image, len(numbers)) for row in rows])


def left_out(first: ComparedRun, second: ComparedRun) -> LeftOut:
    """Count the samples that are in no pair, by why."""
    before, after = sample_shares(first), sample_shares(second)
    return count_left_out(before, after, shared_samples(first, second, before, after))


def count_left_out(
    before: Mapping[int, SampleShares], after: Mapping[int, SampleShares], shared: Sequence[int]
) -> LeftOut:
    """Count the same from the samples of both runs; `shared` are those that both were given."""
    common = before.keys() & after.keys()
    missing = [(before[key].shares is None, after[key].shares is None) for key in shared]
    return LeftOut(
        only_first=len(before) - len(common),
        only_second=len(after) - len(common),
        changed=len(common) - len(shared),
        unjudged_first=missing.count((True, False)),
        unjudged_second=missing.count((False, True)),
        unjudged_both=missing.count((True, True)),
    )
