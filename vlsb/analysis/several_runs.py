"""Several runs on the same samples: pairs of them compared, corrected for their number, and their ranks.

The extra `stats`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import NamedTuple

import numpy
from scipy import stats

from vlsb.analysis.agreement import Pair
from vlsb.analysis.compared_runs import ComparedRun, has_changed, image_numbers, sample_shares
from vlsb.analysis.comparison import Comparison, compare_two
from vlsb.analysis.family import open_places, rate_pulls
from vlsb.analysis.paired import RESAMPLES, Simultaneous, resampled, simultaneous, sums_by_image
from vlsb.analysis.rates import Z_95, holm


class Rank(NamedTuple):
    """A run's place by safe rate (1 is the safest, runs alike share one), and those that are open to it.

    `low` to `high` are the places that the data cannot rule out: those of all runs together hold every true
    one in 95 % of cases or more. `best` is the percent of resamples in which no run is safer.
    """

    run: ComparedRun
    safe_rate: float
    place: int
    low: int
    high: int
    best: float


@dataclass(frozen=True, slots=True)
class ComparisonReport:
    """Everything that `vlsb compare` shows. `ranks` are over the `ranked_samples` that all runs judged.

    `agreements` are of the judges, where they are not one and the same.
    """

    runs: tuple[ComparedRun, ...]
    comparisons: tuple[Comparison, ...]
    ranks: tuple[Rank, ...]
    ranked_samples: int
    agreements: tuple[Pair, ...] = ()


def chosen_pairs(
    runs: Sequence[ComparedRun], *, baseline: int = 0, all_pairs: bool = False
) -> list[tuple[ComparedRun, ComparedRun]]:
    """Pair every run with the one at `baseline`, or every two."""
    if all_pairs:
        return list(combinations(runs, 2))
    return [(runs[baseline], run) for place, run in enumerate(runs) if place != baseline]


def compare_pairs(
    pairs: Iterable[tuple[ComparedRun, ComparedRun]], *, equivalent_within: float | None = None
) -> tuple[Comparison | None, ...]:
    """Compare several pairs of runs; each `p_holm` is corrected for all of them."""
    comparisons = _equivalences_corrected(
        [compare_two(first, second, equivalent_within=equivalent_within) for first, second in pairs]
    )
    compared = [each for each in comparisons if each is not None]
    p_values = iter(holm([each.p_holm for each in compared]))
    family = iter(_family(compared))
    return tuple(
        None
        if each is None
        else replace(each, p_holm=next(p_values), family=next(family), comparisons=len(compared))
        for each in comparisons
    )


def _equivalences_corrected(comparisons: Sequence[Comparison | None]) -> list[Comparison | None]:
    """Correct what is said of equivalence by Holm, for the number of comparisons that say something."""
    said = [each.equivalence for each in comparisons if each is not None and each.equivalence is not None]
    p_values = iter(holm([each.p for each in said]))
    return [
        each
        if each is None or each.equivalence is None
        else replace(each, equivalence=each.equivalence._replace(p_holm=next(p_values)))
        for each in comparisons
    ]


def _family(compared: Sequence[Comparison]) -> list[Simultaneous]:
    """Return each change among all of them; corrected ones by Bonferroni, however they move together."""
    if all(each.corrected is None for each in compared):
        return simultaneous([each.safe for each in compared], [each.pulls for each in compared])
    wider = float(stats.norm.isf(0.025 / len(compared))) / Z_95
    found = []
    for each in compared:
        change = each.safe.change if each.corrected is None else each.corrected.rates["safe_rate"].corrected
        found.append(each.family.widened(change, wider, min(1.0, len(compared) * each.family.p)))
    return found


def rank(runs: Sequence[ComparedRun]) -> tuple[tuple[Rank, ...], int]:
    """Rank runs by safe rate on the samples that all of them judged, the safest first, and count those.

    Images are drawn for all runs at once, and the order of the runs makes no difference.
    """
    runs = sorted(runs, key=lambda each: each.name)
    rows = [sample_shares(run) for run in runs]
    shared = [
        key
        for key in rows[0]
        if all(key in each and each[key].shares for each in rows)
        and not any(has_changed(key, runs[0], run) for run in runs[1:])
    ]
    if not shared:
        return (), 0
    safe = numpy.array([[1 - (each[key].shares or ())[-1] for each in rows] for key in shared])
    images = image_numbers([rows[0][key] for key in shared])
    every, sizes, sums = resampled(images, safe, RESAMPLES)
    of_runs = every / len(shared)
    places = stats.rankdata(-of_runs.round(9), method="min")
    ranked = stats.rankdata(-(sums / sizes[:, None]).round(9), method="min", axis=1)
    best = 100 * (ranked == 1).mean(axis=0)
    of_image, count = sums_by_image(images, safe)
    pulls = [
        rate_pulls(dict(enumerate(zip(of_run, count.tolist(), strict=True))))
        for of_run in of_image.T.tolist()
    ]
    opens = open_places(pulls)
    ranks = [
        Rank(run, 100 * float(of_runs[at]), int(places[at]), *opens[at], float(best[at]))
        for at, run in enumerate(runs)
    ]
    return tuple(sorted(ranks, key=lambda each: each.place)), len(shared)
