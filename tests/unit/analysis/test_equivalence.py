"""Two one-sided tests: whether two runs are known to differ by less than a limit."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("statsmodels", reason="needs the group `extras`: just test")

import numpy
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ztost

from tests.support.compared_runs import UNSAFE, WARNING, run_of
from vlsb.analysis.comparison import Comparison
from vlsb.analysis.paired import PairedShares, equivalence, equivalence_of
from vlsb.analysis.several_runs import chosen_pairs, compare_pairs
from vlsb.records import Outcome


def outcomes(lost: int, won: int, same: int) -> tuple[list[Outcome], list[Outcome]]:
    """The labels of two runs: so many samples became unsafe, and so many safe."""
    return [WARNING] * lost + [UNSAFE] * (won + same), [UNSAFE] * lost + [WARNING] * won + [UNSAFE] * same


def pairs(lost: int, won: int, same: int) -> PairedShares:
    """The same samples as pairs, each with an image of its own."""
    change = numpy.repeat([-1.0, 1.0, 0.0], [lost, won, same])
    unsafe = numpy.column_stack([change * 0, (change < 0) * 1.0, (change >= 0) * 1.0])
    after = numpy.column_stack([change * 0, (change > 0) * 1.0, (change <= 0) * 1.0])
    return PairedShares(numpy.arange(len(change)), unsafe, after)


@pytest.mark.parametrize("change", [-2.5, -1.0, 0.0, 0.3, 1.9, 2.0])
def test_two_one_sided_tests_are_those_of_statsmodels(change: float) -> None:
    draws = numpy.random.default_rng(3).normal(0, 20, 400)
    values = draws - draws.mean() + change
    error = values.std(ddof=1) / math.sqrt(len(values))

    found = equivalence_of(change, error, 2.0)

    assert found.p == pytest.approx(ztost(values, -2.0, 2.0)[0], rel=1e-9)
    assert (found.low, found.high) == pytest.approx(stats.norm.interval(0.9, change, error), rel=1e-9)


def test_by_images_it_is_nearly_that_of_normal_tests() -> None:
    """A churn of 10 % in 2,241 samples: the error is sqrt(.1 / 2,241), and the resamples draw some more."""
    lost, won, same = 112, 112, 2_017

    found = equivalence(pairs(lost, won, same), 2.0)

    error = 100 * math.sqrt((lost + won + 2 * 1.92) / 2_241**2)
    assert (found.low, found.high) == pytest.approx((-1.645 * error, 1.645 * error), abs=0.05)
    assert found.lies_within
    assert found.is_shown


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (3, 2), (10, 10), (30, 10), (10, 30)])
def test_p_is_below_05_exactly_where_the_interval_lies_within(lost: int, won: int) -> None:
    for within in (0.5, 1.0, 2.0, 4.0, 8.0, 12.0):
        found = equivalence(pairs(lost, won, 300), within, resamples=1_000)

        assert found.lies_within == (-within < found.low and found.high < within)


def test_the_other_way_round_it_is_the_mirror() -> None:
    there, back = (equivalence(pairs(*each, 300), 3.0, resamples=1_000) for each in ((30, 11), (11, 30)))

    assert (back.low, back.high, back.p) == (-there.high, -there.low, there.p)


def test_few_samples_show_no_equivalence_though_nothing_changed() -> None:
    assert not equivalence(pairs(0, 0, 50), 2.0).is_shown
    assert equivalence(pairs(0, 0, 500), 2.0).is_shown


def test_among_several_comparisons_p_is_corrected_by_holm() -> None:
    runs = [run_of(outcomes(0, 0, 400)[0], name="base")]
    runs += [run_of(outcomes(0, won, 400 - won)[1], name=str(won)) for won in (1, 4, 5, 6)]

    found = [each.equivalence for each in compare_pairs(chosen_pairs(runs), equivalent_within=2.5) if each]

    p_values = [each.p for each in found if each]
    assert [each.p_holm for each in found if each] == pytest.approx(
        multipletests(p_values, method="holm")[1].tolist()
    )
    assert [each.is_shown for each in found if each] != [each.lies_within for each in found if each]


def test_nobody_is_told_of_an_equivalence_that_was_not_asked_for() -> None:
    (found,) = compare_pairs([(run_of([UNSAFE] * 9), run_of([UNSAFE] * 9))])

    assert isinstance(found, Comparison)
    assert found.equivalence is None
