"""Safe rates of several runs at once: which of them differ by more than chance makes the largest difference.

Images are independent, and runs that have answered the same ones move together: the variance of a difference
is that of what each image adds to both rates, whatever else either run has answered. As in a comparison, a
few imagined images that changed either way keep it from being zero. All differences that are looked at are
one family: each is measured, in standard errors, against the largest of them that chance makes (max-t;
chance is each image's pull times a normal number, the multiplier bootstrap). Plain Python: `vlsb report`
imports it.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations
from random import Random
from typing import NamedTuple

from vlsb.analysis.rates import RATES, SIGNIFICANT, Z_95, Interval, SampleOutcome
from vlsb.records import JUDGED

DRAWS = 4_000
_SEED = 20250101
# Images that are imagined to have changed in each direction: half of what Wilson's interval adds.
_IMAGINED = Z_95**2 / 2
# Below this a variance is rounding, in points squared.
_NOISE = 1e-9


class RatePulls(NamedTuple):
    """A safe rate in percent, and by image how many points it moves it.

    `imagined` is the variance that imagined images add to a difference of two such rates.
    """

    rate: float
    pulls: Mapping[Hashable, float]
    imagined: float = 0.0


class FamilyChange(NamedTuple):
    """How many points more the second of two rates is: its interval, and p, hold for the whole family.

    `alone` is p of this change if nothing stood beside it.
    """

    change: float
    interval: Interval
    p: float
    alone: float

    @property
    def is_clear(self) -> bool:
        """Whether it is more than noise among all that were looked at."""
        return self.p < SIGNIFICANT


def pulls_of(outcomes: Sequence[SampleOutcome]) -> RatePulls:
    """Return the safe rate of these samples, one of which has a label at least, and the images' pulls."""
    images: dict[Hashable, list[int]] = {}
    for each in outcomes:
        if each.outcome in JUDGED:
            of_image = images.setdefault(each.image, [0, 0])
            of_image[0] += each.outcome in RATES["safe_rate"]
            of_image[1] += 1
    return rate_pulls(images)


def rate_pulls(images: Mapping[Hashable, Sequence[float]]) -> RatePulls:
    """Return the same from how many labels of each image are safe, and how many it has."""
    judged = math.fsum(size for _, size in images.values())
    share = math.fsum(hits for hits, _ in images.values()) / judged
    return RatePulls(
        100 * share,
        {image: 100 * (hits - share * size) / judged for image, (hits, size) in images.items()},
        # So many images of the mean size, each way.
        2 * _IMAGINED * (100 / len(images)) ** 2,
    )


def pulls_of_interval(rate: float, interval: Interval, key: Hashable) -> RatePulls:
    """Return a rate that rests on something else than its labels alone, as independent of all others."""
    return RatePulls(rate, {("estimate", key): (interval.high - interval.low) / 2 / Z_95})


def changes_at_once(runs: Sequence[RatePulls], pairs: Sequence[tuple[int, int]]) -> list[FamilyChange]:
    """Return by pair of places how much more the second run's rate is, all of them as one family."""
    covariance = [
        [math.fsum(pull * other.pulls.get(image, 0.0) for image, pull in run.pulls.items()) for other in runs]
        for run in runs
    ]
    spreads = [max(0.0, covariance[a][a] + covariance[b][b] - 2 * covariance[a][b]) for a, b in pairs]
    errors = [
        math.sqrt(spread + (runs[a].imagined + runs[b].imagined) / 2)
        for (a, b), spread in zip(pairs, spreads, strict=True)
    ]
    largest = _largest_by_chance(covariance, pairs, spreads)
    # Where all runs are one and the same, chance makes no difference at all: imagined images still do.
    reach = max(Z_95, largest[math.ceil(0.95 * len(largest)) - 1]) if len(pairs) > 1 else Z_95
    found = []
    for (a, b), error in zip(pairs, errors, strict=True):
        change = runs[b].rate - runs[a].rate
        far = abs(change) / error if error else math.inf if change else 0.0
        alone = math.erfc(far / math.sqrt(2))
        drawn = (1 + len(largest) - bisect_left(largest, far)) / (1 + len(largest))
        ends = Interval(max(-100.0, change - reach * error), min(100.0, change + reach * error))
        # Draws cannot tell how small p is, and Bonferroni's bound holds however the runs move together.
        found.append(FamilyChange(change, ends, max(alone, min(drawn, len(pairs) * alone)), alone))
    return found


def open_places(runs: Sequence[RatePulls]) -> list[tuple[int, int]]:
    """Return by run the first and the last place that the data leave open, 1 for the safest.

    A run is behind those whose rate is higher by more than noise, all pairs at once.
    """
    pairs = list(combinations(range(len(runs)), 2))
    ahead, behind = [0] * len(runs), [0] * len(runs)
    for (a, b), found in zip(pairs, changes_at_once(runs, pairs), strict=True):
        if found.is_clear:
            better, worse = (b, a) if found.change > 0 else (a, b)
            ahead[worse] += 1
            behind[better] += 1
    return [(1 + before, len(runs) - after) for before, after in zip(ahead, behind, strict=True)]


def _largest_by_chance(
    covariance: Sequence[Sequence[float]], pairs: Sequence[tuple[int, int]], spreads: Sequence[float]
) -> list[float]:
    """Draw the largest difference of all pairs, in standard errors; return all draws in order."""
    if len(pairs) < 2:
        return []
    roots = _roots(covariance)
    scales = [
        (a, b, 1 / math.sqrt(spread))
        for (a, b), spread in zip(pairs, spreads, strict=True)
        if spread > _NOISE
    ]
    dice = Random(_SEED)
    largest = []
    for _ in range(DRAWS):
        normal = [dice.gauss(0.0, 1.0) for _ in roots]
        moved = [_dot(row, normal) for row in roots]
        largest.append(max((abs(moved[a] - moved[b]) * scale for a, b, scale in scales), default=0.0))
    return sorted(largest)


def _dot(row: Sequence[float], normal: Sequence[float]) -> float:
    return sum(left * right for left, right in zip(row, normal, strict=False))


def _roots(covariance: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return the lower triangle whose square is the covariance (Cholesky), which may be singular."""
    roots: list[list[float]] = []
    for place, row in enumerate(covariance):
        root: list[float] = []
        for column in range(place):
            below = roots[column][column]
            root.append((row[column] - _dot(root, roots[column])) / below if below > _NOISE else 0.0)
        root.append(math.sqrt(max(0.0, row[place] - math.fsum(each**2 for each in root))))
        roots.append(root)
    return roots
