"""Several findings in one table: how far each may be trusted among the others.

Plain Python, so that `vlsb report` stays light.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from vlsb.analysis.rates import Z_95, Interval

SIGNIFICANT = 0.05
"""A finding is more than noise where its p value, corrected for the others beside it, is below this."""


def holm(found: Sequence[float]) -> list[float]:
    """The p values of one family, corrected by Holm: any false finding at 5 % in 5 % of families or fewer."""
    corrected, least = [0.0] * len(found), 0.0
    for rank, place in enumerate(sorted(range(len(found)), key=found.__getitem__)):
        least = max(least, min(1.0, (len(found) - rank) * found[place]))
        corrected[place] = least
    return corrected


def p_of(difference: float, interval: Interval) -> float:
    """The p value of no difference, from its 95 % interval: below .05 exactly where that leaves out zero.

    The interval's reach towards zero is taken for that of a normal distribution.
    """
    if difference == 0:
        return 1.0
    reach = difference - interval.low if difference > 0 else interval.high - difference
    return math.erfc(Z_95 * abs(difference) / reach / math.sqrt(2)) if reach > 0 else 0.0
