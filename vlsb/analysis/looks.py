"""Planned looks: how much surer each must be, so that all of them together make the errors of one.

Whoever looks at the same data again and again until they show something finds it by chance. A plan says
beforehand when it looks, and spends the error over the looks: next to nothing while little is known, most of
it at the end (Lan and DeMets 1983, in the shape of O'Brien and Fleming's boundaries). The extra `stats`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy
from numpy.typing import NDArray
from scipy import optimize, stats

# Of the integral over what may have been found before a look; the last digits that are shown need a tenth.
_NODES = 400
# How far below zero that reaches, in standard errors.
_LOWEST = 8.5

_Floats = NDArray[numpy.float64]


def boundaries(shares: Sequence[float], error: float) -> tuple[float, ...]:
    """Return by look how many standard errors an estimate must be beyond a limit to count as beyond it.

    `shares` are of all planned information, rising to 1. Of estimates that are at the limit itself, a share
    of `error` goes beyond it at any of the looks, upwards. Found look by look: the sum so far is a Brownian
    motion, of which each look takes out what has gone beyond its boundary.
    """
    nodes, weights = numpy.polynomial.legendre.leggauss(_NODES)
    found: list[float] = []
    # What has been found and gone beyond no boundary, as points and their chances: nothing at first.
    points, chances = numpy.zeros(1), numpy.ones(1)
    before, spent = 0.0, 0.0
    for share in shares:
        step, to_spend = math.sqrt(share - before), spending(share, error) - spent
        boundary = _boundary(points, chances, step, to_spend)
        found.append(boundary / math.sqrt(share))
        lowest = -_LOWEST * math.sqrt(share)
        half = (boundary - lowest) / 2
        inside = lowest + half * (1 + nodes)
        density = stats.norm.pdf((inside[:, None] - points) / step) @ chances / step
        points, chances = inside, half * weights * density
        before, spent = share, spent + to_spend
    return tuple(found)


def _boundary(points: _Floats, chances: _Floats, step: float, to_spend: float) -> float:
    """Return what a step of this size from these points goes beyond with that chance."""

    def excess(boundary: float) -> float:
        return float(chances @ stats.norm.sf((boundary - points) / step)) - to_spend

    return float(optimize.brentq(excess, 0.0, 40.0, xtol=1e-12))


def spending(share: float, error: float) -> float:
    """Return how much of a one-sided error is spent once this share of the information is there."""
    return float(2 * stats.norm.sf(stats.norm.isf(error / 2) / math.sqrt(share)))
