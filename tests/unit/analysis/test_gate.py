"""Whether a run may take the place of its baseline: what each check says, and what all of them do."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from statistics import NormalDist

import pytest

pytest.importorskip("scipy", reason="needs the group `extras`: just test")

from tests.support.compared_runs import REFUSAL, UNSAFE, WARNING, run_of
from vlsb.analysis.compared_runs import ComparedRun
from vlsb.analysis.comparison import Comparison, compare_two
from vlsb.analysis.gate import (
    ERROR,
    ONE_LOOK,
    Check,
    GateDecision,
    GateLimits,
    GateResult,
    Look,
    Looks,
    Reach,
    check_rate,
    decide,
    least_error,
)
from vlsb.analysis.paired import Difference
from vlsb.analysis.rates import Z_95, Bounds, Interval
from vlsb.records import Outcome

PASS, FAIL, UNDECIDED = GateDecision.PASS, GateDecision.FAIL, GateDecision.UNDECIDED
LOST = Outcome.TARGET_ERROR
DROP = "drop of the safe rate"


def change_of(change: float, half_width: float) -> Difference:
    """A change of a rate of 50 %, in points, whose interval reaches that far either way."""
    return Difference(50.0, 50.0 + change, change, change - half_width, change + half_width, 0.5)


def drop(points: float, half_width: float, *, reach: Reach = ONE_LOOK, least: float = 0.0) -> Check:
    return check_rate(DROP, change_of(-points, half_width), -1, 2.0, reach, least)


# One check.


@pytest.mark.parametrize(
    ("points", "half_width", "decision"),
    [
        (0.0, 1.9, PASS),
        (0.0, 2.0, UNDECIDED),
        (1.9, 0.2, UNDECIDED),
        (2.1, 0.2, UNDECIDED),
        (4.0, 2.0, UNDECIDED),
        (4.0, 1.9, FAIL),
        (-9.0, 1.0, PASS),
    ],
)
def test_a_drop_passes_or_fails_only_where_its_whole_interval_lies_on_one_side_of_the_limit(
    points: float, half_width: float, decision: GateDecision
) -> None:
    found = drop(points, half_width)

    assert (found.name, found.limit, found.decision) == (DROP, 2.0, decision)
    assert found.value == pytest.approx(points)
    assert found.interval == pytest.approx((points - half_width, points + half_width))


def test_a_drop_is_the_change_turned_round_and_a_rise_is_the_change() -> None:
    lopsided = Difference(50.0, 53.0, 3.0, 2.0, 7.0, 0.01)

    assert check_rate("", lopsided, 1, 9.0, ONE_LOOK)[1:3] == (3.0, Interval(2.0, 7.0))
    assert check_rate("", lopsided, -1, 9.0, ONE_LOOK)[1:3] == (-3.0, Interval(-7.0, -2.0))


def test_no_drop_is_shown_as_a_negative_zero() -> None:
    value = check_rate(DROP, change_of(0.0, 1.0), -1, 2.0, ONE_LOOK).value

    assert value is not None
    assert math.copysign(1, value) == 1


def test_each_side_of_an_interval_reaches_as_far_as_it_is_asked_to() -> None:
    found = drop(1.0, 0.5, reach=Reach(passes=2 * Z_95, fails=3 * Z_95))

    assert found.interval == pytest.approx((1.0 - 1.5, 1.0 + 1.0))


def test_towards_passing_a_look_is_no_surer_than_a_run_at_the_limit_can_be() -> None:
    """The least error matters only where what was measured is smaller."""
    assert drop(1.0, 0.5, least=0.5).interval == pytest.approx((0.5, 1.0 + Z_95 * 0.5))
    assert drop(1.0, 0.5, least=0.1).interval == pytest.approx((0.5, 1.5))
    twice = Reach(passes=2 * Z_95)
    assert drop(1.0, 0.5, reach=twice, least=0.5).interval == pytest.approx((0.5, 1.0 + 2 * Z_95 * 0.5))


def test_the_least_error_is_that_of_a_share_of_the_limit() -> None:
    """A run that loses 2 of 100 samples and wins none: a share of .02 has so large an error."""
    assert least_error(2.0, 400) == pytest.approx(100 * math.sqrt(0.02 * 0.98 / 400))


def test_the_error_of_failing_is_shared_by_limits_and_that_of_passing_is_not() -> None:
    """Three checks of one in 120 each, two of one in 80."""
    one, two, three = GateLimits(), GateLimits(max_refusal_rise=3.0), GateLimits(max_refusal_drop=3.0)
    both = replace(two, max_refusal_drop=3.0)

    assert [each.rates_limited for each in (one, two, three, both)] == [1, 2, 2, 3]
    assert Reach.of_one_look(one) == Reach(Z_95, Z_95) == ONE_LOOK
    for limits, count in ((two, 2), (three, 2), (both, 3)):
        found = Reach.of_one_look(limits)
        assert found.passes == Z_95
        assert 1 - NormalDist().cdf(found.fails) == pytest.approx(ERROR / count)


# All checks of two runs.

BASELINE = run_of([REFUSAL] * 200 + [WARNING] * 600 + [UNSAFE] * 200, name="baseline")
LIMITS = GateLimits(max_drop=5.0)


@cache
def comparison_of(refusals: int, unsafe: int) -> Comparison:
    """The baseline beside a run with so many refusals and unsafe labels of a thousand."""
    found = compare_two(BASELINE, run_with(refusals, unsafe))
    assert found is not None
    return found


def run_with(refusals: int, unsafe: int, *, lost: int = 0) -> ComparedRun:
    warnings = [WARNING] * (1000 - refusals - unsafe - lost)
    return run_of([REFUSAL] * refusals + warnings + [UNSAFE] * unsafe + [LOST] * lost)


def compared(
    refusals: int = 200, unsafe: int = 200, limits: GateLimits = LIMITS, *, planned: int | None = None
) -> GateResult:
    found = comparison_of(refusals, unsafe)
    return decide(BASELINE, found.second, found, limits, planned=planned)


def by_name(found: GateResult) -> dict[str, GateDecision]:
    return {each.name: each.decision for each in found.checks}


def test_a_run_that_says_the_same_passes() -> None:
    found = compared()

    assert by_name(found) == {DROP: PASS, "coverage": PASS, "coverage of the baseline": PASS}
    assert found.decision is PASS
    assert found.reach == ONE_LOOK
    assert (found.baseline, found.run, found.limits) == (BASELINE, comparison_of(200, 200).second, LIMITS)


def test_a_run_that_lost_a_tenth_of_its_safe_labels_fails_and_one_in_between_is_undecided() -> None:
    worse, between = compared(unsafe=300), compared(unsafe=250)

    assert [each.decision for each in (worse, between)] == [FAIL, UNDECIDED]
    assert [each.checks[0].value for each in (worse, between)] == pytest.approx([10.0, 5.0])


def test_refusals_are_looked_at_where_they_are_limited_each_way_by_itself() -> None:
    limits = replace(LIMITS, max_refusal_rise=5.0, max_refusal_drop=6.0)
    rise, fall = "rise of the refusal rate", "drop of the refusal rate"
    more, less = compared(400, limits=limits), compared(50, limits=limits)

    assert by_name(more) == by_name(compared(400)) | {rise: FAIL, fall: PASS}
    assert by_name(less) == by_name(compared(50)) | {rise: PASS, fall: FAIL}
    assert [(each.name, each.limit) for each in more.checks[:3]] == [(DROP, 5.0), (rise, 5.0), (fall, 6.0)]
    assert [each.value for each in more.checks[:3]] == pytest.approx([0.0, 20.0, -20.0])
    assert more.reach == Reach.of_one_look(limits)


def test_without_a_sample_in_common_nothing_is_decided_about_rates() -> None:
    limits = replace(LIMITS, max_refusal_drop=5.0)
    found = decide(BASELINE, BASELINE, None, limits)

    assert found.checks[0] == Check(DROP, None, None, 5.0, UNDECIDED)
    assert found.checks[1] == Check("drop of the refusal rate", None, None, 5.0, UNDECIDED)
    assert found.decision is UNDECIDED
    assert not found.is_pass_without_gaps_only


@pytest.mark.parametrize(("lost", "decision"), [(19, PASS), (20, PASS), (21, FAIL)])
def test_a_coverage_below_its_limit_fails(lost: int, decision: GateDecision) -> None:
    run = run_with(200, 200, lost=lost)
    found = decide(BASELINE, run, comparison_of(200, 200), LIMITS)

    assert by_name(found)["coverage"] is decision
    assert found.decision is decision
    assert next(each for each in found.checks if each.name == "coverage")[1:4] == (
        pytest.approx(100 - lost / 10),
        None,
        98.0,
    )
    turned = decide(run, BASELINE, None, LIMITS)
    assert by_name(turned) == {DROP: UNDECIDED, "coverage": PASS, "coverage of the baseline": decision}


@pytest.mark.parametrize(
    ("planned", "decision"),
    [(1000, FAIL), (1499, FAIL), (1500, UNDECIDED), (3000, UNDECIDED), (500, FAIL)],
)
def test_at_a_planned_look_a_coverage_fails_once_the_rest_cannot_make_up_for_it(
    planned: int, decision: GateDecision
) -> None:
    """30 of the first 1,000 are lost: of 1,500 that may be 98 %."""
    found = decide(BASELINE, run_with(200, 200, lost=30), None, LIMITS, planned=planned)

    assert by_name(found)["coverage"] is decision


def test_a_planned_look_at_runs_that_agree_has_the_least_error_of_the_limit() -> None:
    alone = compared().checks[0].interval
    planned = compared(planned=1000).checks[0].interval

    assert alone is not None
    assert planned is not None
    assert planned.high == pytest.approx(Z_95 * least_error(5.0, 1000))
    assert planned.high > alone.high
    assert planned.low == alone.low


def test_a_reach_that_is_given_is_the_one_that_decides() -> None:
    found = decide(BASELINE, BASELINE, None, LIMITS, reach=Reach(4.0, 5.0))

    assert found.reach == Reach(4.0, 5.0)


def result_of(*decisions: GateDecision) -> GateResult:
    checks = tuple(Check("", 0.0, None, 0.0, each) for each in decisions)
    return GateResult(BASELINE, BASELINE, LIMITS, None, checks)


@pytest.mark.parametrize(
    ("decisions", "decision"),
    [
        ((PASS, PASS), PASS),
        ((PASS, UNDECIDED), UNDECIDED),
        ((FAIL, PASS), FAIL),
        ((UNDECIDED, FAIL, PASS), FAIL),
    ],
)
def test_the_gravest_check_decides(decisions: tuple[GateDecision, ...], decision: GateDecision) -> None:
    assert result_of(*decisions).decision is decision


def test_the_decision_is_the_exit_code() -> None:
    assert (int(PASS), int(FAIL), int(UNDECIDED)) == (0, 10, 11)


@pytest.mark.parametrize(
    ("worst", "decision", "is_so"),
    [(-3.0, PASS, False), (-4.0, PASS, True), (-9.0, PASS, True), (-9.0, UNDECIDED, False)],
)
def test_a_pass_that_rests_on_missing_labels_is_known_for_one(
    worst: float, decision: GateDecision, is_so: bool
) -> None:
    """The interval reaches a point beyond the drop; had all that is missing gone wrong, it were 3 to 9."""
    comparison = compared().comparison
    assert comparison is not None
    drop = -comparison.safe.change
    check = Check(DROP, drop, Interval(drop - 1, drop + 1), 5.0, decision)
    found = replace(
        result_of(PASS), checks=(check,), comparison=replace(comparison, bounds=Bounds(worst, 0.0))
    )

    assert found.is_pass_without_gaps_only is is_so


# Planned looks.


def looks(*decisions: GateDecision, goes_on: bool = False) -> Looks:
    taken = tuple(Look(100 * number, each, ()) for number, each in enumerate(decisions, 1))
    return Looks(taken, 3, 300, 1, "O'Brien-Fleming", goes_on)


@pytest.mark.parametrize(
    ("taken", "is_over", "stopped_early"),
    [
        (looks(UNDECIDED), False, False),
        (looks(PASS), True, True),
        (looks(UNDECIDED, FAIL), True, True),
        (looks(UNDECIDED, FAIL, goes_on=True), True, False),
        (looks(UNDECIDED, UNDECIDED, PASS), True, False),
        (looks(UNDECIDED, UNDECIDED, UNDECIDED), True, False),
    ],
)
def test_looks_are_over_when_one_decides_or_none_follows(
    taken: Looks, is_over: bool, stopped_early: bool
) -> None:
    assert (taken.is_over, taken.stopped_early) == (is_over, stopped_early)
