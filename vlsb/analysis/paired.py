"""The labels of two runs on the same samples: what differs, and whether that is more than noise.

Samples of one image are not independent. Intervals resample images (a paired bootstrap), and beside each
test stands a p value that swaps the two runs image by image. Where few labels changed they say little,
however many samples there are: each resample also draws imagined images that changed one way or the other,
as many as Wilson's interval adds, each of the mean size. What is said of two runs is the exact mirror of what
is said of them the other way round. The extra `stats`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from vlsb.analysis.rates import LABELS, RATES, SIGNIFICANT, Z_95, RateName
from vlsb.records import Untrusted

RESAMPLES = 10_000
POWER = 0.80
COMPARED: tuple[RateName, ...] = ("safe_rate", "safe_refuse_rate", "safe_warning_rate")
NOISE = 1e-9
"""Below this a difference of shares is rounding: means of epochs are sums of fractions."""
_SEED = 20250101
# Resamples at a time: what they take of memory.
_BATCH = 1_000
# Imagined images that changed, in each direction: Wilson's interval is that of z squared more, half each way.
_IMAGINED = Z_95**2 / 2
# Which of the labels are safe.
_SAFE = numpy.array([label in RATES["safe_rate"] for label in LABELS], float)

Floats = NDArray[numpy.float64]
Integers = NDArray[numpy.int64]


@dataclass(frozen=True, slots=True)
class PairedShares:
    """Samples that both runs judged, a row each: the number of its image (from 0), and in each run the shares
    of its epochs with each label, in the order of `Label`.
    """

    images: Integers
    first: Floats
    second: Floats

    @property
    def changes(self) -> Floats:
        """By sample, what the second run has more of each label."""
        return self.second - self.first

    @property
    def safe_changes(self) -> Floats:
        """By sample, how much more of it is safe in the second run, -1 to 1."""
        changes: Floats = self.changes @ _SAFE
        return changes

    def only(self, chosen: Sequence[int]) -> PairedShares:
        """Return the rows at these places."""
        places = numpy.array(chosen)
        images = numpy.unique(self.images[places], return_inverse=True)[1]
        return PairedShares(images, self.first[places], self.second[places])


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


class Simultaneous(NamedTuple):
    """A change among others: its interval, in points, and p, which hold for all of them at once."""

    low: float
    high: float
    p: float

    @property
    def is_clear(self) -> bool:
        """Whether it is more than noise among all of them."""
        return (self.low > 0 or self.high < 0) and self.p < SIGNIFICANT

    def widened(self, change: float, wider: float, p: float) -> Simultaneous:
        """Return the interval so many times as wide around `change`, within -100 to 100, and this p."""
        return Simultaneous(
            low=max(-100.0, change - wider * (change - self.low)),
            high=min(100.0, change + wider * (self.high - change)),
            p=p,
        )


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


def ends(images: Integers, changes: Floats, resamples: int) -> tuple[Floats, Floats]:
    """Return the 95 % interval of the mean of each column of `changes`, in points.

    Half of the resamples are drawn of the runs the other way round, and turned: so the ends are those of the
    exchanged runs, turned. Single draws are the ends, since a mean of two would be rounded one way.
    """
    drawn = _drawn_both_ways(images, changes, resamples)
    place = math.ceil(0.025 * len(drawn)) - 1
    ordered = numpy.partition(drawn, (place, len(drawn) - 1 - place), axis=0)
    return ordered[place], ordered[-1 - place]


def _drawn_both_ways(images: Integers, changes: Floats, resamples: int) -> Floats:
    half = resamples // 2
    return numpy.concatenate([_drawn(images, changes, half), -_drawn(images, -changes, half)])


def equivalence(pairs: PairedShares, within: float, *, resamples: int = RESAMPLES) -> Equivalence:
    """Return whether the change of the safe rate lies within so many points, by the resamples of `ends`.

    p is the share of them at the limit or beyond it: below .05 exactly where the 90 % interval lies within.
    """
    changes = pairs.safe_changes
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


def _drawn(images: Integers, changes: Floats, resamples: int) -> Floats:
    """Resample means in points, with imagined images that changed one way or the other."""
    _, sizes, sums = resampled(images, changes, resamples)
    dice = numpy.random.default_rng(_SEED)
    mean_size = len(images) / (int(images.max()) + 1)
    more, less = mean_size * dice.poisson(_IMAGINED, (2, *sums.shape))
    drawn: Floats = 100 * (sums + more - less) / (sizes[:, None] + more + less)
    return drawn


def _imagined_variance(count: Integers) -> float:
    """Return what the imagined images add to the variance of a sum, for images of this many samples."""
    return 2 * _IMAGINED * float(count.mean()) ** 2


def detectable(pairs: PairedShares) -> float:
    """Return the least change of the safe rate that so many samples show in 80 % of cases, in points.

    From the cluster-robust standard error with the imagined images.
    """
    changes = pairs.safe_changes
    of_image, count = sums_by_image(pairs.images, changes[:, None])
    apart = of_image[:, 0] - changes.mean() * count
    variance = math.fsum(apart**2) + _imagined_variance(count)
    error = 100 * math.sqrt(variance) / (len(changes) + 2 * _IMAGINED * float(count.mean()))
    return (Z_95 + float(stats.norm.ppf(POWER))) * error


def count_changed(pairs: PairedShares) -> int:
    """Count the images with another safe rate."""
    of_image, _ = sums_by_image(pairs.images, (pairs.safe_changes)[:, None])
    return int((numpy.abs(of_image) > NOISE).sum())


def image_pulls(pairs: PairedShares) -> list[float]:
    """Return by image how far it moves the change of the safe rate, in samples: they sum to zero."""
    changes = pairs.safe_changes
    of_image, count = sums_by_image(pairs.images, changes[:, None])
    pulls: list[float] = (of_image[:, 0] - changes.mean() * count).tolist()
    return pulls


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
    errors[errors < NOISE] = numpy.inf
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
        found.append(Simultaneous(*each[3:]).widened(each.change, wider, p))
    return found


def resampled(images: Integers, values: Floats, resamples: int) -> tuple[Floats, Floats, Floats]:
    """Return the sums of `values` (a row a sample), and the sizes and sums of resampled images.

    Images that are alike are drawn together, which is the same and a hundred times faster.
    """
    of_image, count = sums_by_image(images, values)
    alike, times = numpy.unique(numpy.column_stack([count, of_image]).round(9), axis=0, return_counts=True)
    dice = numpy.random.default_rng(_SEED + 1)
    drawn = numpy.concatenate(
        [dice.multinomial(len(count), times / len(count), size) @ alike for size in _batches(resamples)]
    )
    return values.sum(axis=0), drawn[:, 0], drawn[:, 1:]


def _batches(resamples: int) -> Iterator[int]:
    for start in range(0, resamples, _BATCH):
        yield min(_BATCH, resamples - start)


def swap_p_values(images: Integers, changes: Floats, *, resamples: int = RESAMPLES) -> list[float]:
    """Return by column of `changes` how often the two runs of each image, swapped by chance, differ as much.

    Draws cannot tell how far below 1 / `resamples` that is. Hoeffding's bound on such sums says it is no
    more than so much, as is needed where many comparisons are corrected for.
    """
    sums, of_image = changes.sum(axis=0), sums_by_image(images, changes)[0]
    swapped = numpy.abs(_swapped(of_image, resamples))
    squares = (of_image**2).sum(axis=0)
    return [
        min(
            _share_as_far(swapped[:, at], abs(float(each))),
            2 * math.exp(-(each**2) / 2 / max(square, NOISE)),
        )
        for at, (each, square) in enumerate(zip(sums.tolist(), squares.tolist(), strict=True))
    ]


def _swapped(of_image: Floats, resamples: int) -> Floats:
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


def sums_by_image(images: Integers, values: Floats) -> tuple[Floats, Integers]:
    """Return the sums of `values` by image, and how many samples each image has."""
    count: Integers = numpy.bincount(images)
    sums: Floats = numpy.column_stack([numpy.bincount(images, weights=column) for column in values.T])
    return sums, count


def _share_as_far(drawn: Floats, measured: float) -> float:
    """Return a p value: how often chance goes as far. What was measured is one draw: it is never zero."""
    return (1 + int((drawn >= measured - NOISE).sum())) / (1 + len(drawn))


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
    inverse = numpy.linalg.pinv(changes.T @ changes, rtol=NOISE, hermitian=True)

    def statistics(sums: Floats) -> Floats:
        squares: Floats = numpy.einsum("rk,kl,rl->r", sums, inverse, sums)
        return squares

    statistic = float(statistics(changes.sum(axis=0)[None])[0])
    # The shares of a sample's labels sum to one, so that one label follows from the others.
    degrees = max(0, int((numpy.abs(changes).sum(axis=0) > NOISE).sum()) - 1)
    p = float(stats.chi2.sf(statistic, degrees)) if degrees else 1.0
    swapped = statistics(_swapped(sums_by_image(pairs.images, changes)[0], resamples))
    return StuartMaxwell(statistic, degrees, p if are_counts else None, _share_as_far(swapped, statistic))
