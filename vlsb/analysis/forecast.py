"""What the rest of a run will take, from the part that was done: a total, and the interval around it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean
from typing import NamedTuple

# Fewer say nothing of how much others differ.
_FEWEST = 5


class Forecast(NamedTuple):
    """A total to come, and where it falls 95 times in 100 or more; no ends from fewer than five samples."""

    total: float
    low: float | None
    high: float | None


def forecast_total(
    seen: Sequence[float],
    left: int,
    *,
    least: float,
    most: float,
    weights: Sequence[float] | None = None,
) -> Forecast | None:
    """The sum over `left` more of what was seen, none below `least` or above `most`; None without any.

    The interval is that of a new sum: the mean's own error and the spread of those to come, with t quantiles.
    A few that were seen need not hold one of the rare large ones that most of the sum may be in. So it also
    reaches as far as it would with one more at either limit. `weights` say how many each stands for, where
    they were not drawn with equal chance; as many count as the weights are worth.
    """
    if not seen:
        return None
    weights = [1.0] * len(seen) if weights is None else weights
    total = fmean(seen, weights) * left
    if _worth(weights) < _FEWEST:
        return Forecast(total, None, None)
    most = max(most, *seen)
    as_seen = _ends(seen, weights, left)
    imagined = _ends([*seen, least, most], [*weights, *[fmean(weights)] * 2], left)
    low, high = min(as_seen[0], imagined[0]), max(as_seen[1], imagined[1])
    return Forecast(total, max(0.0, low), min(high, left * most))


def _ends(seen: Sequence[float], weights: Sequence[float], left: int) -> tuple[float, float]:
    mean, worth = fmean(seen, weights), _worth(weights)
    variance = fmean([(each - mean) ** 2 for each in seen], weights) * worth / (worth - 1)
    reach = t_quantile(worth - 1) * math.sqrt(variance * (left**2 / worth + left))
    return mean * left - reach, mean * left + reach


def _worth(weights: Sequence[float]) -> float:
    """As many of equal weight tell as much."""
    return sum(weights) ** 2 / sum(each**2 for each in weights)


def t_quantile(degrees: float, *, tail: float = 0.025) -> float:
    """The value that Student's t exceeds with probability `tail`, from four degrees of freedom on.

    Expansion in 1 / degrees (Abramowitz and Stegun 26.7.5), right to .01 at four and to .001 at ten.
    """
    z = NormalDist().inv_cdf(1 - tail)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / float(degrees**power) for power, term in enumerate(terms, start=1))
