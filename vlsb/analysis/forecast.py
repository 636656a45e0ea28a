"""What the rest of a run will take, from the part that was done: a total, and the interval around it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from vlsb.analysis.correction import student_t

# Fewer say nothing of how much others differ.
_FEWEST = 5


class TotalForecast(NamedTuple):
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
) -> TotalForecast | None:
    """Estimate the sum over `left` more of what was seen, each from `least` to `most`; None without any.

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
        return TotalForecast(total, None, None)
    most = max(most, *seen)
    as_seen = _ends(seen, weights, left)
    imagined = _ends([*seen, least, most], [*weights, *[fmean(weights)] * 2], left)
    low, high = min(as_seen[0], imagined[0]), max(as_seen[1], imagined[1])
    return TotalForecast(total, max(0.0, low), min(high, left * most))


def _ends(seen: Sequence[float], weights: Sequence[float], left: int) -> tuple[float, float]:
    mean, worth = fmean(seen, weights), _worth(weights)
    variance = fmean([(each - mean) ** 2 for each in seen], weights) * worth / (worth - 1)
    reach = student_t(worth - 1) * math.sqrt(variance * (left**2 / worth + left))
    return mean * left - reach, mean * left + reach


def _worth(weights: Sequence[float]) -> float:
    """Return how many of equal weight tell as much."""
    return sum(weights) ** 2 / sum(each**2 for each in weights)
