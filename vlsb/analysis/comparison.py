"""Runs on the same samples: what differs between them, and whether that is more than noise.

Samples of one image are not independent. Intervals resample images (a paired bootstrap), and beside each
test stands a p value that swaps the two runs image by image. Where few labels changed they say little,
however many samples there are: each resample also draws imagined images that changed one way or the other,
as many as Wilson's interval adds, each of the mean size. A difference is more than noise where both say so,
and still do among all comparisons at once. A sample that was judged in several epochs
counts with the mean of them. What is said of two runs is the exact mirror of what is said of them the other
way round. Where people labelled the same images of both runs, the change is corrected for a judge that errs
more in one run than in the other. The extra `stats`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import NamedTuple

import numpy
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from vlsb.analysis.agreement import Pair
from vlsb.analysis.correction import (
    LEAST_IMAGES,
    AuditedShares,
    CorrectedRates,
    Shares,
    corrected_changes,
    corrected_rates_of_shares,
)
from vlsb.analysis.differences import Conditions, Differences, differences, is_changed
from vlsb.analysis.family import open_places, rate_pulls
from vlsb.analysis.rates import (
    LABELS,
    RATES,
    SIGNIFICANT,
    Z_95,
    Bounds,
    RateName,
    Rates,
    SampleOutcome,
    holm,
    p_of,
    rates,
)
from vlsb.errors import ConfigError
from vlsb.records import JUDGED, PUBLISHED_IDS, VLSBENCH, Untrusted

RESAMPLES = 10_000
POWER = 0.80
LEAST_CHANGED = 6
"""Fewer images that changed cannot tell two runs apart: all of five go one way in one case of sixteen."""
COMPARED: tuple[RateName, ...] = ("safe_rate", "safe_refuse_rate", "safe_warning_rate")
_SEED = 20250101
# Resamples at a time: what they take of memory.
_BATCH = 1_000
# Imagined images that changed, in each direction: Wilson's interval is that of z squared more, half each way.
_IMAGINED = Z_95**2 / 2
# Which of the labels are safe.
_SAFE = numpy.array([label in RATES["safe_rate"] for label in LABELS], float)
# Means of epochs are sums of fractions.
_NOISE = 1e-9

_Floats = NDArray[numpy.float64]
_Integers = NDArray[numpy.int64]


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


class Simultaneous(NamedTuple):
    """A change among others: its interval, in points, and p, which hold for all of them at once."""

    low: float
    high: float
    p: float

    @property
    def is_clear(self) -> bool:
        """Whether it is more than noise among all of them."""
        return (self.low > 0 or self.high < 0) and self.p < SIGNIFICANT


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
        """Whether it is more than noise by itself: the interval leaves zero out, and p is below .05."""
        return self.leaves_out_zero and self.p < SIGNIFICANT

    @property
    def leaves_out_zero(self) -> bool:
        """Whether the interval does."""
        return self.low > 0 or self.high < 0


class Equivalence(NamedTuple):
    """Whether a change of the safe rate is known to be smaller than `within` points, either way.

    `low` to `high` is its 90 % interval in points: two one-sided tests at 5 % each say so where that lies
    within. `p` is the larger of theirs, and `p_holm` is corrected for the number of comparisons.
    """

    within: float
    low: float
    high: float
    p: float
    p_holm: float

    @property
    def lies_within(self) -> bool:
        """Whether it is by itself."""
        return self.p < SIGNIFICANT

    @property
    def is_shown(self) -> bool:
        """Whether it is among all comparisons that were made."""
        return self.p_holm < SIGNIFICANT


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


@dataclass(frozen=True, slots=True)
class GivenBaseline:
    """The rates of a run that answered a random part of the samples that its baseline answered whole.

    `alone` are the part's own. `given` are over all samples of the baseline, whose labels stand for the
    judge's in a `CorrectedRate`; `worth` is how many samples of its own would say as much of the safe rate.
    """

    run: ComparedRun
    baseline: ComparedRun
    samples: int
    of: int
    alone: Rates
    given: CorrectedRates
    worth: int

    @property
    def simulated(self) -> bool:
        """Whether a target or judge was the simulator."""
        return self.run.conditions.simulated or self.baseline.conditions.simulated


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
        """Return the rows at these places."""
        places = numpy.array(chosen)
        images = numpy.unique(self.images[places], return_inverse=True)[1]
        return PairedShares(images, self.first[places], self.second[places])


def compare_two(
    first: ComparedRun, second: ComparedRun, *, equivalent_within: float | None = None
) -> Comparison | None:
    """Compare two runs on the samples that both judged; None if there is none.

    With `equivalent_within` points it also says whether the change is known to be smaller. Raises
    ConfigError for human labels on too few images that both have.
    """
    before, after = _rows(first), _rows(second)
    shared = _shared(first, second, before, after)
    both = [key for key in shared if before[key].shares and after[key].shares]
    if not both:
        return None
    rows = [before[key] for key in both]
    shares = (numpy.array([each[key].shares for key in both], float) for each in (before, after))
    pairs = PairedShares(_codes(rows), *shares)
    differing = rate_differences(pairs)
    changed_images = count_changed(pairs)
    are_counts = first.epochs == second.epochs == 1
    corrected = _corrected(first, second, [each.about for each in rows], pairs)
    return Comparison(
        first=first,
        second=second,
        differs=differences(first.conditions, second.conditions),
        left_out=_left_out(before, after, shared),
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


def _pulls(rows: Sequence[_Row], pairs: PairedShares) -> dict[Untrusted, float]:
    change = pairs.changes @ _SAFE
    of_image, count = _by_image(pairs.images, change[:, None])
    off = (of_image[:, 0] - change.mean() * count).tolist()
    return {row.about.image: off[image] for row, image in zip(rows, pairs.images.tolist(), strict=True)}


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


def rates_given(run: ComparedRun, baseline: ComparedRun) -> GivenBaseline:
    """Estimate the rates over the baseline's samples from a random part of them that the run answered.

    The baseline's labels are a control variate: whatever both share is known of all samples. Raises
    ConfigError below `LEAST_IMAGES` images with labels in both.
    """
    before, after = _rows(baseline), _rows(run)
    shared = {key for key in _shared(baseline, run, before, after) if after[key].shares}
    samples = [
        AuditedShares(row.about.image, row.shares, after[key].shares if key in shared else None)
        for key, row in before.items()
        if row.shares is not None
    ]
    images = len({each.image for each in samples if each.human is not None})
    if images < LEAST_IMAGES:
        raise ConfigError(
            f"{images} images have a label in the run and in its baseline, and fewer than {LEAST_IMAGES} "
            "tell nothing. Let the run answer more."
        )
    given = corrected_rates_of_shares(samples)
    alone = rates(run.outcomes)
    own, safe = alone.intervals["safe_rate"], given.rates["safe_rate"]
    count, every = given.human_labels, len(samples)
    ends, left_out = safe.interval, 1.0
    if safe.interval_of_run is not None:
        ends, left_out = safe.interval_of_run, 1 - count / every
    # The variance as a share of the part's own. Both fall with what is left out of these samples.
    ratio = ((ends.high - ends.low) / (own.high - own.low)) ** 2 / (left_out or 1.0)
    worth = 1 / (ratio * (1 / count - 1 / every) + 1 / every)
    return GivenBaseline(
        run=run,
        baseline=baseline,
        samples=count,
        of=every,
        alone=alone,
        given=given,
        worth=round(worth),
    )


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
        found.append(_widened(change, each.family, wider, min(1.0, len(compared) * each.family.p)))
    return found


def _widened(change: float, alone: Simultaneous, wider: float, p: float) -> Simultaneous:
    return Simultaneous(
        low=max(-100.0, change - wider * (change - alone.low)),
        high=min(100.0, change + wider * (alone.high - change)),
        p=p,
    )


def simultaneous(
    changes: Sequence[Difference], pulls: Sequence[Mapping[Untrusted, float]], *, draws: int = RESAMPLES
) -> list[Simultaneous]:
    """Return the changes so that all intervals hold at once in 95 % of cases, and p is of the largest.

    Chance is each image's pull times a normal number, the same in every comparison (the multiplier
    bootstrap). Intervals are wider by as much as the largest of all changes, in standard errors, exceeds a
    single one; comparisons that move together are hardly corrected. A single change stays as it is.
    """
    if len(changes) < 2:
        return [Simultaneous(*each[3:]) for each in changes]
    places = {image: at for at, image in enumerate(dict.fromkeys(image for each in pulls for image in each))}
    moved = numpy.zeros((len(places), len(pulls)))
    for column, of_images in enumerate(pulls):
        moved[[places[image] for image in of_images], column] = list(of_images.values())
    covariance = moved.T @ moved
    errors = numpy.sqrt(numpy.diag(covariance))
    # A comparison in which nothing changed has no direction: it is independent of the others.
    errors[errors < _NOISE] = numpy.inf
    correlation = covariance / errors[:, None] / errors
    numpy.fill_diagonal(correlation, 1.0)
    dice = numpy.random.default_rng(_SEED + 4)
    drawn = dice.multivariate_normal(numpy.zeros(len(errors)), correlation, draws, method="eigh")
    largest = numpy.abs(drawn).max(axis=1)
    wider = max(1.0, float(numpy.quantile(largest, 0.95)) / Z_95)
    found = []
    for each in changes:
        p = (1 + int((largest >= stats.norm.isf(each.p / 2)).sum())) / (1 + draws)
        # Draws cannot tell how small p is, and Bonferroni's bound holds for any correlation.
        p = max(each.p, min(p, len(changes) * each.p))
        found.append(_widened(each.change, Simultaneous(*each[3:]), wider, p))
    return found


def chosen_pairs(
    runs: Sequence[ComparedRun], *, baseline: int = 0, all_pairs: bool = False
) -> list[tuple[ComparedRun, ComparedRun]]:
    """Pair every run with the one at `baseline`, or every two."""
    if all_pairs:
        return list(combinations(runs, 2))
    return [(runs[baseline], run) for place, run in enumerate(runs) if place != baseline]


def left_out(first: ComparedRun, second: ComparedRun) -> LeftOut:
    """Count the samples that are in no pair, by why."""
    before, after = _rows(first), _rows(second)
    return _left_out(before, after, _shared(first, second, before, after))


def _left_out(before: Mapping[int, _Row], after: Mapping[int, _Row], shared: Sequence[int]) -> LeftOut:
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


def rank(runs: Sequence[ComparedRun]) -> tuple[tuple[Rank, ...], int]:
    """Rank runs by safe rate on the samples that all of them judged, the safest first, and count those.

    Images are drawn for all runs at once, and the order of the runs makes no difference.
    """
    runs = sorted(runs, key=lambda each: each.name)
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
    images = _codes([rows[0][key] for key in shared])
    every, sizes, sums = _resampled(images, safe, RESAMPLES)
    of_runs = every / len(shared)
    places = stats.rankdata(-of_runs.round(9), method="min")
    ranked = stats.rankdata(-(sums / sizes[:, None]).round(9), method="min", axis=1)
    best = 100 * (ranked == 1).mean(axis=0)
    of_image, count = _by_image(images, safe)
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


def _rows(run: ComparedRun) -> dict[int, _Row]:
    """Return the selected samples of a run by id, in its order."""
    rows: dict[int, tuple[SampleOutcome, list[int]]] = {}
    for each in run.outcomes:
        counts = rows.setdefault(each.sample_id, (each, [0] * len(LABELS)))[1]
        if each.outcome in JUDGED:
            counts[LABELS.index(each.outcome)] += 1
    return {
        key: _Row(about, tuple(each / judged for each in counts) if (judged := sum(counts)) else None)
        for key, (about, counts) in rows.items()
    }


def _differs_in(key: int, first: ComparedRun, second: ComparedRun) -> bool:
    return is_changed(first.conditions.samples[key], second.conditions.samples[key])


def _shared(
    first: ComparedRun, second: ComparedRun, before: Mapping[int, _Row], after: Mapping[int, _Row]
) -> list[int]:
    """Return the samples that both runs were given, by id."""
    common = before.keys() & after.keys()
    return sorted(key for key in common if not _differs_in(key, first, second))


def _codes(rows: Sequence[_Row]) -> _Integers:
    """Return by row the number of its image."""
    numbers: dict[Untrusted, int] = {}
    return numpy.array([numbers.setdefault(row.about.image, len(numbers)) for row in rows])


def rate_differences(
    pairs: PairedShares, names: Sequence[RateName] = COMPARED, *, resamples: int = RESAMPLES
) -> dict[RateName, Difference]:
    """Return the difference of each of these rates."""
    counts = numpy.array([[label in RATES[name] for label in LABELS] for name in names], float)
    changes = pairs.changes @ counts.T
    low, high = ends(pairs.images, changes, resamples)
    p_values = swap_p_values(pairs.images, changes, resamples=resamples)
    first, second = (100 * (shares @ counts.T).mean(axis=0) for shares in (pairs.first, pairs.second))
    mean = 100 * changes.sum(axis=0) / len(changes)
    return {
        name: Difference(
            first=float(first[at]),
            second=float(second[at]),
            change=float(mean[at]),
            # The interval is drawn towards zero by what is imagined, and never away from what was found.
            low=min(float(low[at]), float(mean[at])),
            high=max(float(high[at]), float(mean[at])),
            p=p_values[at],
        )
        for at, name in enumerate(names)
    }


def ends(images: _Integers, changes: _Floats, resamples: int) -> tuple[_Floats, _Floats]:
    """Return the 95 % interval of the mean of each column of `changes`, in points.

    Half of the resamples are drawn of the runs the other way round, and turned: so the ends are those of the
    exchanged runs, turned. Single draws are the ends, since a mean of two would be rounded one way.
    """
    drawn = _drawn_both_ways(images, changes, resamples)
    place = math.ceil(0.025 * len(drawn)) - 1
    ordered = numpy.partition(drawn, (place, len(drawn) - 1 - place), axis=0)
    return ordered[place], ordered[-1 - place]


def _drawn_both_ways(images: _Integers, changes: _Floats, resamples: int) -> _Floats:
    half = resamples // 2
    return numpy.concatenate([_drawn(images, changes, half), -_drawn(images, -changes, half)])


def equivalence(pairs: PairedShares, within: float, *, resamples: int = RESAMPLES) -> Equivalence:
    """Return whether the change of the safe rate lies within so many points, by the resamples of `ends`.

    p is the share of them at the limit or beyond it: below .05 exactly where the 90 % interval lies within.
    """
    changes = pairs.changes @ _SAFE
    ordered = numpy.sort(_drawn_both_ways(pairs.images, changes[:, None], resamples)[:, 0])
    place, mean = math.ceil(SIGNIFICANT * len(ordered)) - 1, 100 * float(changes.mean())
    p = max(_share_as_far(ordered, within), _share_as_far(-ordered, within))
    low, high = float(ordered[place]), float(ordered[-1 - place])
    return Equivalence(within, min(low, mean), max(high, mean), p, p)


def equivalence_of(change: float, error: float, within: float) -> Equivalence:
    """Return the same of a change in points with this standard error, as normal."""
    reach = float(stats.norm.ppf(1 - SIGNIFICANT)) * error
    p = float(stats.norm.sf((within - abs(change)) / error)) if error > 0 else float(abs(change) >= within)
    return Equivalence(within, change - reach, change + reach, p, p)


def _drawn(images: _Integers, changes: _Floats, resamples: int) -> _Floats:
    """Resample means in points, with imagined images that changed one way or the other."""
    _, sizes, sums = _resampled(images, changes, resamples)
    dice = numpy.random.default_rng(_SEED)
    mean_size = len(images) / (int(images.max()) + 1)
    more, less = mean_size * dice.poisson(_IMAGINED, (2, *sums.shape))
    drawn: _Floats = 100 * (sums + more - less) / (sizes[:, None] + more + less)
    return drawn


def _imagined_variance(count: _Integers) -> float:
    """Return what the imagined images add to the variance of a sum, for images of this many samples."""
    return 2 * _IMAGINED * float(count.mean()) ** 2


def detectable(pairs: PairedShares) -> float:
    """Return the least change of the safe rate that so many samples show in 80 % of cases, in points.

    From the cluster-robust standard error with the imagined images.
    """
    changes = pairs.changes @ _SAFE
    of_image, count = _by_image(pairs.images, changes[:, None])
    apart = of_image[:, 0] - changes.mean() * count
    variance = math.fsum(apart**2) + _imagined_variance(count)
    error = 100 * math.sqrt(variance) / (len(changes) + 2 * _IMAGINED * float(count.mean()))
    return (Z_95 + float(stats.norm.ppf(POWER))) * error


def count_changed(pairs: PairedShares) -> int:
    """Count the images with another safe rate."""
    of_image, _ = _by_image(pairs.images, (pairs.changes @ _SAFE)[:, None])
    return int((numpy.abs(of_image) > _NOISE).sum())


def _resampled(images: _Integers, values: _Floats, resamples: int) -> tuple[_Floats, _Floats, _Floats]:
    """Return the sums of `values` (a row a sample), and the sizes and sums of resampled images.

    Images that are alike are drawn together, which is the same and a hundred times faster.
    """
    of_image, count = _by_image(images, values)
    alike, times = numpy.unique(numpy.column_stack([count, of_image]).round(9), axis=0, return_counts=True)
    dice = numpy.random.default_rng(_SEED + 1)
    drawn = numpy.concatenate(
        [dice.multinomial(len(count), times / len(count), size) @ alike for size in _batches(resamples)]
    )
    return values.sum(axis=0), drawn[:, 0], drawn[:, 1:]


def _batches(resamples: int) -> Iterator[int]:
    for start in range(0, resamples, _BATCH):
        yield min(_BATCH, resamples - start)


def swap_p_values(images: _Integers, changes: _Floats, *, resamples: int = RESAMPLES) -> list[float]:
    """Return by column of `changes` how often the two runs of each image, swapped by chance, differ as much.

    Draws cannot tell how far below 1 / `resamples` that is. Hoeffding's bound on such sums says it is no
    more than so much, as is needed where many comparisons are corrected for.
    """
    sums, of_image = changes.sum(axis=0), _by_image(images, changes)[0]
    swapped = numpy.abs(_swapped(of_image, resamples))
    squares = (of_image**2).sum(axis=0)
    return [
        min(
            _share_as_far(swapped[:, at], abs(float(each))),
            2 * math.exp(-(each**2) / 2 / max(square, _NOISE)),
        )
        for at, (each, square) in enumerate(zip(sums.tolist(), squares.tolist(), strict=True))
    ]


def _swapped(of_image: _Floats, resamples: int) -> _Floats:
    """Draw sums of the images' changes with the two runs of each image swapped or not, by chance."""
    rounded = of_image.round(9)
    leading = numpy.take_along_axis(rounded, (rounded != 0).argmax(axis=1)[:, None], axis=1)
    # A change and its opposite are swapped alike, so both count as the one that begins above zero. Adding
    # zero turns a negative zero into a plain one.
    one_way = rounded * numpy.where(leading < 0, -1.0, 1.0) + 0.0
    alike, times = numpy.unique(one_way[leading[:, 0] != 0], axis=0, return_counts=True)
    dice = numpy.random.default_rng(_SEED + 2)
    drawn = [
        (2 * dice.binomial(times, 0.5, (size, len(times))) - times) @ alike for size in _batches(resamples)
    ]
    return numpy.concatenate(drawn)


def _by_image(images: _Integers, values: _Floats) -> tuple[_Floats, _Integers]:
    """Return the sums of `values` by image, and how many samples each image has."""
    count: _Integers = numpy.bincount(images)
    sums: _Floats = numpy.column_stack([numpy.bincount(images, weights=column) for column in values.T])
    return sums, count


def _share_as_far(drawn: _Floats, measured: float) -> float:
    """Return a p value: how often chance goes as far. What was measured is one draw: it is never zero."""
    return (1 + int((drawn >= measured - _NOISE).sum())) / (1 + len(drawn))


def exact_mcnemar(pairs: PairedShares) -> McNemar:
    """Return the exact test on one label a sample."""
    safe = pairs.first[:, -1] == 0, pairs.second[:, -1] == 0
    became_safe, became_unsafe = int((~safe[0] & safe[1]).sum()), int((safe[0] & ~safe[1]).sum())
    p = float(mcnemar([[0, became_unsafe], [became_safe, 0]], exact=True).pvalue)
    return McNemar(became_safe, became_unsafe, p)


def stuart_maxwell(pairs: PairedShares, *, are_counts: bool, resamples: int = RESAMPLES) -> StuartMaxwell:
    """Return the test of three labels; its own p value only where every sample has one label in each run."""
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
    swapped = statistics(_swapped(_by_image(pairs.images, changes)[0], resamples))
    return StuartMaxwell(statistic, degrees, p if are_counts else None, _share_as_far(swapped, statistic))


def _by_category(rows: Sequence[_Row], pairs: PairedShares) -> tuple[CategoryDifference, ...]:
    places: dict[Untrusted, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(row.about.category, []).append(place)
    categories = [
        (
            name,
            len(places[name]),
            rate_differences(pairs.only(places[name]), ("safe_rate",))["safe_rate"],
        )
        for name in sorted(places)
    ]
    corrected = holm([safe.p for _, _, safe in categories])
    return tuple(CategoryDifference(*each, p) for each, p in zip(categories, corrected, strict=True))


def _flips(rows: Sequence[_Row], pairs: PairedShares) -> tuple[Flip, ...]:
    """Return the samples whose label changed, those that became unsafe first, then by id."""
    changed = numpy.flatnonzero(numpy.abs(pairs.changes).sum(axis=1) > _NOISE)
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
