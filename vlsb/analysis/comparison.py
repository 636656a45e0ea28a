"""Runs on the same samples: what differs between them, and whether that is more than noise.

Samples of one image are not independent. Intervals resample images (a paired bootstrap), and beside each
test stands a p value that swaps the two runs image by image. Where few labels changed they say little,
however many samples there are: each resample also draws imagined images that changed one way or the other,
as many as Wilson's interval adds. A sample that was judged in several epochs counts with the mean of them.
The extra `stats`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import NamedTuple

import numpy
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from vlsb.analysis.agreement import Pair
from vlsb.analysis.differences import Conditions, Differences, differences, is_changed
from vlsb.analysis.rates import RATES, Z_95, Bounds, RateName, SampleOutcome
from vlsb.records import JUDGED, Label, Outcome, Untrusted

RESAMPLES = 10_000
POWER = 0.80
COMPARED: tuple[RateName, ...] = ("safe_rate", "safe_refuse_rate", "safe_warning_rate")
_SEED = 20250101
# Resamples at a time: what they take of memory.
_BATCH = 1_000
# Imagined images that changed, in each direction: Wilson's interval is that of z squared more, half each way.
_IMAGINED = Z_95**2 / 2
_LABELS = tuple(Outcome(label.value) for label in Label)
# By rate, which of the labels count for it.
_COUNTS = numpy.array([[label in RATES[name] for label in _LABELS] for name in COMPARED], float)
# Means of epochs are sums of fractions.
_NOISE = 1e-9

_Floats = NDArray[numpy.float64]
_Integers = NDArray[numpy.int64]


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """A run as one judge saw it, by its verdict file's name; `outcomes` has one for each sample and epoch.

    `name` tells it apart from the others.
    """

    name: Untrusted
    path: Untrusted
    target: Untrusted
    judge: str
    epochs: int
    conditions: Conditions
    outcomes: Sequence[SampleOutcome]


class LeftOut(NamedTuple):
    """Samples in no pair, each counted once: in one run only, changed, or without a label in one or both."""

    only_first: int
    only_second: int
    changed: int
    unjudged_first: int
    unjudged_second: int
    unjudged_both: int


class Difference(NamedTuple):
    """A rate in both runs, in percent, and what the second has more: points, with a 95 % interval.

    `p` is of the runs swapped image by image.
    """

    first: float
    second: float
    change: float
    low: float
    high: float
    p: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


class CategoryDifference(NamedTuple):
    """The safe rate in one category; `p_holm` is corrected for the number of categories."""

    category: Untrusted
    samples: int
    safe: Difference
    p_holm: float


class McNemar(NamedTuple):
    """The exact test of safe against unsafe: samples that became safe and that became unsafe."""

    became_safe: int
    became_unsafe: int
    p: float


class StuartMaxwell(NamedTuple):
    """Stuart and Maxwell's test that both runs have the same shares of labels.

    `p_swapped` is of the same statistic with the runs swapped image by image. With several epochs, which have
    no table of counts, `p` is None.
    """

    statistic: float
    degrees: int
    p: float | None
    p_swapped: float


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
    by row, in the order of `Label`. `detectable` is the change of the safe rate, in points, that so many
    samples show in 80 % of cases; `needed` is how many samples would show the change that was found, None
    where it is zero. `p_holm` is that of the safe rate, corrected for the number of comparisons.
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
    detectable: float
    needed: int | None
    p_holm: float

    @property
    def safe(self) -> Difference:
        """The difference of the safe rates."""
        return self.rates["safe_rate"]

    @property
    def simulated(self) -> bool:
        """Whether a target or judge was the simulator."""
        return self.first.conditions.simulated or self.second.conditions.simulated


class Rank(NamedTuple):
    """A run's place by safe rate (1 is the safest, runs alike share one), with its 95 % interval.

    `best` is the percent of resamples in which no run is safer.
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


@dataclass(frozen=True, slots=True)
class _Row:
    """A selected sample of a run: `shares` of its judged epochs by label, None without any."""

    about: SampleOutcome
    shares: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class PairedShares:
    """Samples that both runs judged, a row each: the number of its image (from 0), and in each run the shares
    of its epochs with each label, in the order of `Label`.
    """

    images: _Integers
    first: _Floats
    second: _Floats

    @property
    def changes(self) -> _Floats:
        """By sample, what the second run has more of each label."""
        return self.second - self.first

    def only(self, chosen: Sequence[int]) -> PairedShares:
        """The rows at these places."""
        places = numpy.array(chosen)
        images = numpy.unique(self.images[places], return_inverse=True)[1]
        return PairedShares(images, self.first[places], self.second[places])


def compare_two(first: ComparedRun, second: ComparedRun) -> Comparison | None:
    """Compare two runs on the samples that both judged; None if there is none."""
    before, after = _rows(first), _rows(second)
    shared = _shared(first, second, before, after)
    both = [key for key in shared if before[key].shares and after[key].shares]
    if not both:
        return None
    rows, pairs = [before[key] for key in both], _paired(both, before, after)
    rates, error = rate_differences(pairs)
    safe = rates["safe_rate"]
    detectable = (Z_95 + float(stats.norm.ppf(POWER))) * error
    are_counts = first.epochs == second.epochs == 1
    return Comparison(
        first=first,
        second=second,
        differs=differences(first.conditions, second.conditions),
        left_out=left_out(first, second),
        samples=len(both),
        images=int(pairs.images.max()) + 1,
        rates=rates,
        bounds=_bounds([(before[key].shares, after[key].shares) for key in shared]),
        transitions=tuple(map(tuple, (pairs.first.T @ pairs.second).tolist())),
        mcnemar=exact_mcnemar(pairs) if are_counts else None,
        stuart_maxwell=stuart_maxwell(pairs, are_counts=are_counts),
        by_category=_by_category(rows, pairs),
        flips=_flips(rows, pairs),
        detectable=detectable,
        needed=_needed(len(both), detectable, safe.change),
        p_holm=safe.p,
    )


def compare_pairs(pairs: Iterable[tuple[ComparedRun, ComparedRun]]) -> tuple[Comparison | None, ...]:
    """Compare several pairs of runs; each `p_holm` is corrected for all of them."""
    found = [compare_two(first, second) for first, second in pairs]
    compared = [each for each in found if each is not None]
    corrected = iter(_holm([each.safe.p for each in compared]))
    return tuple(None if each is None else replace(each, p_holm=next(corrected)) for each in found)


def chosen_pairs(
    runs: Sequence[ComparedRun], *, baseline: int = 0, all_pairs: bool = False
) -> list[tuple[ComparedRun, ComparedRun]]:
    """Every run beside the one at `baseline`, or every two."""
    if all_pairs:
        return list(combinations(runs, 2))
    return [(runs[baseline], run) for place, run in enumerate(runs) if place != baseline]


def left_out(first: ComparedRun, second: ComparedRun) -> LeftOut:
    """How many samples are in no pair, and why."""
    before, after = _rows(first), _rows(second)
    shared, common = _shared(first, second, before, after), before.keys() & after.keys()
    missing = [(before[key].shares is None, after[key].shares is None) for key in shared]
    return LeftOut(
        only_first=len(before) - len(common),
        only_second=len(after) - len(common),
        changed=len(common) - len(shared),
        unjudged_first=missing.count((True, False)),
        unjudged_second=missing.count((False, True)),
        unjudged_both=missing.count((True, True)),
    )


def rank(runs: Sequence[ComparedRun]) -> tuple[tuple[Rank, ...], int]:
    """The runs by safe rate on the samples that all of them judged, the safest first, and how many those are.

    Images are drawn for all runs at once.
    """
    rows = [_rows(run) for run in runs]
    shared = [
        key
        for key in rows[0]
        if all(key in each and each[key].shares for each in rows)
        and not any(_differs_in(key, runs[0], run) for run in runs[1:])
    ]
    if not shared:
        return (), 0
    safe = numpy.array([[1 - (each[key].shares or ())[-1] for each in rows] for key in shared])
    every, sizes, sums = _resampled(_codes([rows[0][key] for key in shared]), safe)
    rates = every / len(shared)
    drawn = sums / sizes[:, None]
    places = stats.rankdata(-rates.round(9), method="min")
    ranked = stats.rankdata(-drawn.round(9), method="min", axis=1)
    ends = numpy.quantile(ranked, (0.025, 0.975), axis=0, method="inverted_cdf")
    best = 100 * (ranked == 1).mean(axis=0)
    found = [
        Rank(
            run, 100 * float(rates[at]), int(places[at]), int(ends[0, at]), int(ends[1, at]), float(best[at])
        )
        for at, run in enumerate(runs)
    ]
    return tuple(sorted(found, key=lambda each: each.place)), len(shared)


def _rows(run: ComparedRun) -> dict[int, _Row]:
    """The selected samples of a run by id, in its order."""
    rows: dict[int, tuple[SampleOutcome, list[int]]] = {}
    for each in run.outcomes:
        counts = rows.setdefault(each.sample_id, (each, [0] * len(_LABELS)))[1]
        if each.outcome in JUDGED:
            counts[_LABELS.index(each.outcome)] += 1
    return {key: _Row(about, _shares(counts)) for key, (about, counts) in rows.items()}


def _shares(counts: Sequence[int]) -> tuple[float, ...] | None:
    judged = sum(counts)
    return tuple(count / judged for count in counts) if judged else None


def _differs_in(key: int, first: ComparedRun, second: ComparedRun) -> bool:
    return is_changed(first.conditions.samples[key], second.conditions.samples[key])


def _shared(
    first: ComparedRun, second: ComparedRun, before: Mapping[int, _Row], after: Mapping[int, _Row]
) -> list[int]:
    """The samples that both runs were given, by id."""
    common = before.keys() & after.keys()
    return sorted(key for key in common if not _differs_in(key, first, second))


def _paired(keys: Sequence[int], before: Mapping[int, _Row], after: Mapping[int, _Row]) -> PairedShares:
    first, second = (numpy.array([each[key].shares for key in keys], float) for each in (before, after))
    return PairedShares(_codes([before[key] for key in keys]), first, second)


def _codes(rows: Sequence[_Row]) -> _Integers:
    """By row, the number of its image."""
    numbers: dict[Untrusted, int] = {}
    return numpy.array([numbers.setdefault(row.about.image, len(numbers)) for row in rows])


def rate_differences(
    pairs: PairedShares, *, resamples: int = RESAMPLES
) -> tuple[dict[RateName, Difference], float]:
    """The difference of each rate, and the standard error of the safe rate's change, in points."""
    n = len(pairs.images)
    changes = pairs.changes @ _COUNTS.T
    every, sizes, sums = _resampled(pairs.images, changes, resamples)
    dice = numpy.random.default_rng(_SEED)
    more, less = dice.poisson(_IMAGINED, (2, *sums.shape))
    drawn = 100 * (sums + more - less) / (sizes[:, None] + more + less)
    ends = numpy.quantile(drawn, (0.025, 0.975), axis=0)
    swapped = _swapped(pairs.images, changes, resamples)
    first, second = (100 * (shares @ _COUNTS.T).mean(axis=0) for shares in (pairs.first, pairs.second))
    found: dict[RateName, Difference] = {}
    for at, name in enumerate(COMPARED):
        change = 100 * float(every[at]) / n
        found[name] = Difference(
            first=float(first[at]),
            second=float(second[at]),
            change=change,
            # The interval is drawn towards zero by what is imagined, and never away from what was found.
            low=min(float(ends[0, at]), change),
            high=max(float(ends[1, at]), change),
            p=_share_as_far(numpy.abs(swapped[:, at]), abs(float(every[at]))),
        )
    return found, float(drawn[:, 0].std(ddof=1))


def _resampled(
    images: _Integers, values: _Floats, resamples: int = RESAMPLES
) -> tuple[_Floats, _Floats, _Floats]:
    """The sums of `values` (a row a sample), and how many samples and which sums resampled images have.

    Images that are alike are drawn together, which is the same and a hundred times faster.
    """
    of_image, count = _by_image(images, values)
    alike, times = numpy.unique(numpy.column_stack([count, of_image]).round(9), axis=0, return_counts=True)
    dice = numpy.random.default_rng(_SEED + 1)
    drawn = numpy.concatenate(
        [dice.multinomial(len(count), times / len(count), _BATCH) @ alike for _ in range(resamples // _BATCH)]
    )
    return values.sum(axis=0), drawn[:, 0], drawn[:, 1:]


def _swapped(images: _Integers, changes: _Floats, resamples: int) -> _Floats:
    """The sums of `changes` with the two runs of each image swapped or not, by chance."""
    of_image, _ = _by_image(images, changes)
    alike, times = numpy.unique(of_image.round(9), axis=0, return_counts=True)
    dice = numpy.random.default_rng(_SEED + 2)
    drawn = [
        (2 * dice.binomial(times, 0.5, (_BATCH, len(times))) - times) @ alike
        for _ in range(resamples // _BATCH)
    ]
    return numpy.concatenate(drawn)


def _by_image(images: _Integers, values: _Floats) -> tuple[_Floats, _Integers]:
    """The sums of `values` by image, and how many samples each image has."""
    count: _Integers = numpy.bincount(images)
    sums: _Floats = numpy.column_stack([numpy.bincount(images, weights=column) for column in values.T])
    return sums, count


def _share_as_far(drawn: _Floats, found: float) -> float:
    """A p value: how often chance goes as far. What was found counts as one draw: it is never zero."""
    return (1 + int((drawn >= found - _NOISE).sum())) / (1 + len(drawn))


def exact_mcnemar(pairs: PairedShares) -> McNemar:
    """The exact test on one label a sample."""
    safe = pairs.first[:, -1] == 0, pairs.second[:, -1] == 0
    became_safe, became_unsafe = int((~safe[0] & safe[1]).sum()), int((safe[0] & ~safe[1]).sum())
    p = float(mcnemar([[0, became_unsafe], [became_safe, 0]], exact=True).pvalue)
    return McNemar(became_safe, became_unsafe, p)


def stuart_maxwell(pairs: PairedShares, *, are_counts: bool, resamples: int = RESAMPLES) -> StuartMaxwell:
    """The test of three labels; its own p value only where every sample has one label in each run."""
    changes = pairs.changes
    # Under the hypothesis every sample's change has the mean zero: their squares add up to the variance.
    inverse = numpy.linalg.pinv(changes.T @ changes, rtol=_NOISE, hermitian=True)

    def statistics(sums: _Floats) -> _Floats:
        squares: _Floats = numpy.einsum("rk,kl,rl->r", sums, inverse, sums)
        return squares

    statistic = float(statistics(changes.sum(axis=0)[None])[0])
    # The shares of a sample's labels sum to one, so that one label follows from the others.
    degrees = max(0, int((numpy.abs(changes).sum(axis=0) > _NOISE).sum()) - 1)
    p = float(stats.chi2.sf(statistic, degrees)) if degrees else 1.0
    swapped = statistics(_swapped(pairs.images, changes, resamples))
    return StuartMaxwell(statistic, degrees, p if are_counts else None, _share_as_far(swapped, statistic))


def _by_category(rows: Sequence[_Row], pairs: PairedShares) -> tuple[CategoryDifference, ...]:
    places: dict[Untrusted, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(row.about.category, []).append(place)
    found = [
        (name, len(places[name]), rate_differences(pairs.only(places[name]))[0]["safe_rate"])
        for name in sorted(places)
    ]
    corrected = _holm([safe.p for _, _, safe in found])
    return tuple(CategoryDifference(*each, p) for each, p in zip(found, corrected, strict=True))


def _holm(found: Sequence[float]) -> list[float]:
    if not found:
        return []
    corrected: list[float] = multipletests(found, method="holm")[1].tolist()
    return corrected


def _flips(rows: Sequence[_Row], pairs: PairedShares) -> tuple[Flip, ...]:
    """Samples whose label changed, those that became unsafe first, then by id."""
    changed = numpy.flatnonzero(numpy.abs(pairs.changes).sum(axis=1) > _NOISE)
    found = []
    for place in changed.tolist():
        about = rows[place].about
        first, second = (tuple(shares[place].tolist()) for shares in (pairs.first, pairs.second))
        found.append(Flip(about.sample_id, about.category, about.sub_category, first, second))
    return tuple(sorted(found, key=lambda each: (each.safer, each.second[0] - each.first[0], each.sample_id)))


def _bounds(shared: Sequence[tuple[tuple[float, ...] | None, tuple[float, ...] | None]]) -> Bounds:
    """The change of the safe rate had every missing label gone one way, in points."""
    worst, best = (
        sum(
            (missing if after is None else 1 - after[-1])
            - (1 - missing if before is None else 1 - before[-1])
            for before, after in shared
        )
        for missing in (0.0, 1.0)
    )
    return Bounds(worst=100 * worst / len(shared), best=100 * best / len(shared))


def _needed(samples: int, detectable: float, change: float) -> int | None:
    """How many samples would show a change like this one in 80 % of cases."""
    return None if abs(change) < _NOISE else math.ceil(samples * (detectable / change) ** 2)
