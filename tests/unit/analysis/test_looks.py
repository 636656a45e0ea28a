"""The boundaries of planned looks: those of tables, of an integral in as many dimensions, and of chance."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("scipy", reason="needs the group `extras`: just test")

import numpy
from scipy import stats

from vlsb.analysis.gate import ERROR
from vlsb.analysis.looks import boundaries, spending

# Lan and DeMets' spending in the shape of O'Brien and Fleming's boundaries, two-sided .05, as ldbounds and
# gsDesign print them.
PUBLISHED = {
    1: (1.960,),
    2: (2.963, 1.969),
    3: (3.710, 2.511, 1.993),
    4: (4.333, 2.963, 2.359, 2.014),
    5: (4.877, 3.357, 2.680, 2.290, 2.031),
}


@pytest.mark.parametrize("looks", PUBLISHED)
def test_the_boundaries_are_those_of_the_tables(looks: int) -> None:
    shares = [number / looks for number in range(1, looks + 1)]

    assert boundaries(shares, ERROR) == pytest.approx(PUBLISHED[looks], abs=1e-3)


@pytest.mark.parametrize("shares", [(0.5, 1.0), (0.1, 0.35, 1.0), (0.3, 0.55, 0.9, 1.0)])
@pytest.mark.parametrize("error", [ERROR, ERROR / 3])
def test_what_has_gone_beyond_by_a_look_is_what_the_spending_says(
    shares: tuple[float, ...], error: float
) -> None:
    """Against the normal distribution in as many dimensions as there are looks, integrated by scipy."""
    found = boundaries(shares, error)

    for count in range(1, len(shares) + 1):
        until = shares[:count]
        covariance = [[math.sqrt(min(a, b) / max(a, b)) for a in until] for b in until]
        normal = stats.multivariate_normal(cov=covariance, seed=1)
        assert 1 - normal.cdf(found[:count]) == pytest.approx(spending(until[-1], error), abs=5e-5)


def test_ten_looks_make_the_error_of_one() -> None:
    """Estimates at the limit itself, drawn look by look; the plain interval errs thrice as often."""
    shares = numpy.arange(1, 11) / 10
    dice = numpy.random.default_rng(5)
    sums = numpy.cumsum(dice.normal(0, math.sqrt(0.1), (200_000, 10)), axis=1)
    estimates = sums / numpy.sqrt(shares)

    planned = (estimates > numpy.array(boundaries(shares.tolist(), ERROR))).any(axis=1).mean()
    plain = (estimates > boundaries([1.0], ERROR)[0]).any(axis=1).mean()

    assert planned == pytest.approx(ERROR, abs=0.0015)
    assert plain > 0.08


def test_all_of_the_error_is_spent_at_the_end_and_hardly_any_at_the_start() -> None:
    assert spending(1.0, ERROR) == pytest.approx(ERROR, rel=1e-12)
    assert spending(0.1, ERROR) < 1e-11
