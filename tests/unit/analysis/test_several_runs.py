"""Several runs on the same samples: how they are corrected for their number, and ranked."""

from __future__ import annotations

import math

import numpy
import pytest

pytest.importorskip("statsmodels", reason="needs the group `extras`: just test")

from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tests.support.compared_runs import (
    UNSAFE,
    WARNING,
    drawn_labels,
    run_of,
)
from vlsb.analysis.paired import Difference, simultaneous
from vlsb.analysis.rates import Z_95
from vlsb.analysis.several_runs import chosen_pairs, compare_pairs, rank
from vlsb.records import Untrusted


def test_several_comparisons_are_corrected_for_their_number() -> None:
    labels = [drawn_labels(5, 300, kept=kept)[1] for kept in (1.0, 0.9, 0.5)]
    runs = [run_of(each, name=str(place)) for place, each in enumerate(labels)]

    against_second = chosen_pairs(runs, baseline=1)
    every_two = chosen_pairs(runs, all_pairs=True)
    found = [each for each in compare_pairs(every_two) if each is not None]

    assert [(a.name.expose(), b.name.expose()) for a, b in against_second] == [("1", "0"), ("1", "2")]
    assert len(found) == 3
    smallest = min(found, key=lambda each: each.safe.p)
    assert smallest.p_holm == pytest.approx(min(1.0, 3 * smallest.safe.p))
    assert all(each.p_holm >= each.safe.p for each in found)


def changed_by(point: float, error: float) -> Difference:
    """A change with this standard error, in points, and the p value of a normal distribution."""
    p = 2 * float(stats.norm.sf(abs(point) / error))
    return Difference(50.0, 50.0 + point, point, point - Z_95 * error, point + Z_95 * error, p)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_intervals_of_several_changes_hold_at_once(correlation: float) -> None:
    """Three of one correlation: the largest of normal numbers, by scipy's distribution function."""
    dice = numpy.random.default_rng(3)
    shared, *own = dice.standard_normal((4, 4_000))
    moved = [math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * each for each in own]
    pulls = [{Untrusted(str(at)): float(pull) for at, pull in enumerate(each)} for each in moved]
    joint = stats.multivariate_normal(cov=numpy.full((3, 3), correlation) + (1 - correlation) * numpy.eye(3))

    found = simultaneous([changed_by(2.5, 1.0)] * 3, pulls)

    reach = (found[0].high - found[0].low) / 2
    assert joint.cdf([reach] * 3, lower_limit=[-reach] * 3) == pytest.approx(0.95, abs=0.01)
    outside = 1 - joint.cdf([2.5] * 3, lower_limit=[-2.5] * 3)
    assert found[0].p == pytest.approx(outside, abs=0.005)


def test_comparisons_that_move_as_one_are_not_corrected_and_one_alone_stays_as_it_is() -> None:
    pulls = {Untrusted(str(at)): float(pull) for at, pull in enumerate(numpy.arange(-50, 51))}
    change = changed_by(2.5, 1.0)

    together = simultaneous([change] * 20, [pulls] * 20)
    (alone,) = simultaneous([change], [pulls])

    assert alone == (change.low, change.high, change.p)
    for each in together:
        assert each == pytest.approx(alone, abs=0.06)


def test_p_of_a_family_is_never_above_bonferronis_nor_below_its_own() -> None:
    pulls = [{Untrusted(f"{run} {at}"): 1.0 - 2 * (at % 2) for at in range(100)} for run in range(10)]

    found = simultaneous([changed_by(7.0, 1.0), *[changed_by(0.1, 1.0)] * 9], pulls)

    assert found[0].p == pytest.approx(10 * changed_by(7.0, 1.0).p)
    assert all(each.p > 0.99 for each in found[1:])


def test_one_comparison_among_many_is_not_more_than_noise_by_its_interval_alone() -> None:
    """Twenty runs: one is 5.5 points away, and p is .03 for it alone."""
    base = [WARNING] * 100 + [UNSAFE] * 100
    odd = [*[WARNING] * 100, *[WARNING] * 17, *[UNSAFE] * 83]
    odd[:6] = [UNSAFE] * 6
    runs = [run_of(base, name="base"), run_of(odd, name="odd")]

    (alone,) = compare_pairs(chosen_pairs(runs))
    among = compare_pairs(chosen_pairs([*runs, *(run_of(base, name=str(n)) for n in range(19))]))[0]

    assert alone is not None
    assert among is not None
    assert alone.is_clear
    assert among.safe == alone.safe
    assert among.comparisons == 20
    assert among.p_holm == pytest.approx(20 * alone.safe.p)
    assert not among.is_clear


def test_ranks_say_how_sure_they_are() -> None:
    """The worst is far behind; the first two differ in one sample of 200."""
    ids = range(200)
    labels = {"worst": 40, "good": 150, "better": 151}
    runs = [
        run_of([WARNING if key < safe else UNSAFE for key in ids], name=name) for name, safe in labels.items()
    ]

    ranks, samples = rank(runs)

    assert samples == 200
    assert [each.run.name.expose() for each in ranks] == ["better", "good", "worst"]
    assert [each.place for each in ranks] == [1, 2, 3]
    assert (ranks[1].low, ranks[1].high) == (1, 2)
    assert (ranks[2].low, ranks[2].high) == (3, 3)
    assert ranks[0].best == 100
    assert 20 < ranks[1].best < 60
    assert ranks[2].best == 0


@given(st.lists(st.lists(st.booleans(), min_size=24, max_size=24), min_size=2, max_size=5))
def test_a_rank_is_among_those_left_open_and_the_order_of_the_runs_makes_no_difference(
    safe: list[list[bool]],
) -> None:
    images = [place // 2 for place in range(24)]
    runs = [
        run_of([WARNING if each else UNSAFE for each in labels], name=f"run {number}", images=images)
        for number, labels in enumerate(safe)
    ]

    ranks, _ = rank(runs)

    assert all(each.low <= each.place <= each.high for each in ranks)
    assert rank(runs[::-1])[0] == ranks


def test_thirteen_runs_of_one_rate_leave_every_rank_open() -> None:
    """Percentiles of resampled ranks said "rank 1, 3 to 11" of one of these."""
    dice = numpy.random.default_rng(11)
    labels = [WARNING] * 60 + [UNSAFE] * 140
    runs = [
        run_of([labels[place] for place in dice.permutation(200)], name=f"run {number:02}")
        for number in range(13)
    ]

    ranks, _ = rank(runs)

    assert {(each.place, each.low, each.high) for each in ranks} == {(1, 1, 13)}


def test_runs_alike_share_a_rank_and_no_common_sample_gives_none() -> None:
    first, second = run_of([UNSAFE, WARNING]), run_of([WARNING, UNSAFE])

    ranks, _ = rank([first, second])

    assert [each.place for each in ranks] == [1, 1]
    assert rank([first, run_of([UNSAFE], ids=(9,))]) == ((), 0)
