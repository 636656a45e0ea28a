"""What the rest of a run will take, from the part that was done: a total, and the interval around it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean
from typing import NamedTuple

# Fewer say nothing of how much others differ.
_FEWEST = 5


class Forecast(NamedTuple):
    """A total to come, and where it should fall 95 times in 100; no ends from fewer than five samples."""

    total: float
    low: float | None
    high: float | None


def forecast_total(
    seen: Sequence[float], left: int, *, weights: Sequence[float] | None = None
) -> Forecast | None:
    """The sum over `left` more of what was seen; None where nothing was.

    The interval is that of a new sum: the mean's own error and the spread of those to come, with t quantiles.
    A spread sample that covers all categories differs from their mix by less than it says. `weights` say how
    many each stands for, where they were not drawn with equal chance; as many count as the weights are worth.
    """
    if not seen:
        return None
    mean = fmean(seen, weights)
    worth = len(seen) if weights is None else sum(weights) ** 2 / sum(each**2 for each in weights)
    if worth < _FEWEST:
        return Forecast(mean * left, None, None)
    variance = fmean([(each - mean) ** 2 for each in seen], weights) * worth / (worth - 1)
    reach = t_quantile(worth - 1) * math.sqrt(variance * (left**2 / worth + left))
    return Forecast(mean * left, max(0.0, mean * left - reach), mean * left + reach)


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
