"""Safe rates of several runs at once: against scipy's normal distribution, and runs that differ."""

from __future__ import annotations

import math
from random import Random

import pytest

from tests.support.compared_runs import REFUSAL, UNSAFE, WARNING
from tests.support.compared_runs import run_of as run_of_labels
from vlsb.analysis.family import (
    RatePulls,
    changes_at_once,
    open_places,
    pulls_of,
    pulls_of_interval,
    rate_pulls,
)
from vlsb.analysis.rates import Z_95, Interval
from vlsb.records import Outcome, Untrusted

IMAGES = 600


def labels(run: int, rate: float, *, kept: float) -> list[bool]:
    """Labels of single images: so many are what every run says, the others this run's own."""
    shared, own = Random(1), Random(f"run {run}")
    common = [shared.random() < rate for _ in range(IMAGES)]
    return [label if own.random() < kept else own.random() < rate for label in common]


def run_of(number: int, rate: float, *, kept: float = 0.0, of: int = IMAGES) -> RatePulls:
    return rate_pulls(
        {image: (float(safe), 1) for image, safe in enumerate(labels(number, rate, kept=kept)[:of])}
    )


def width(found: Interval) -> float:
    return found.high - found.low


def test_runs_that_say_the_same_of_most_images_have_narrower_differences() -> None:
    apart, alike = (
        changes_at_once([run_of(1, 0.3, kept=kept), run_of(2, 0.3, kept=kept)], [(0, 1)])[0]
        for kept in (0.0, 0.9)
    )

    assert width(alike.interval) < 0.5 * width(apart.interval)


def test_one_change_has_the_standard_error_of_pairs() -> None:
    first, second = (labels(run, 0.3, kept=0.8) for run in (1, 2))
    changes = [after - before for before, after in zip(first, second, strict=True)]
    mean = sum(changes) / IMAGES
    # Imagined images add 3.84 changes of one image each.
    variance = sum((each - mean) ** 2 for each in changes) + 3.8415

    (found,) = changes_at_once([run_of(1, 0.3, kept=0.8), run_of(2, 0.3, kept=0.8)], [(0, 1)])

    assert found.change == pytest.approx(100 * mean)
    assert width(found.interval) / 2 == pytest.approx(196 * math.sqrt(variance) / IMAGES, rel=0.001)
    assert found.p == found.alone


def test_several_changes_reach_as_far_as_the_largest_of_normal_numbers() -> None:
    stats = pytest.importorskip("scipy.stats", reason="needs the group `extras`: just test")
    runs = [RatePulls(30.0, {number: 1.0}) for number in range(4)]
    pairs = [(0, 1), (0, 2), (0, 3)]

    found = changes_at_once(runs, pairs)

    # Three differences from one run: any two have a correlation of one half.
    joint = stats.multivariate_normal(cov=[[1, 0.5, 0.5], [0.5, 1, 0.5], [0.5, 0.5, 1]])
    reach = width(found[0].interval) / 2 / math.sqrt(2)
    assert joint.cdf([reach] * 3, lower_limit=[-reach] * 3) == pytest.approx(0.95, abs=0.01)


def test_runs_that_share_most_of_what_moves_them_are_drawn_together() -> None:
    """Four runs, two of them the same: differences of a tenth of a point, of rates that move by one."""
    stats = pytest.importorskip("scipy.stats", reason="needs the group `extras`: just test")
    alike = {"all": 1.0, "a": 0.1}
    runs = [
        RatePulls(30.0, alike),
        RatePulls(30.0, alike),
        RatePulls(30.3, {"all": 1.0, "a": 0.02, "b": 0.1}),
        RatePulls(29.9, {"all": 1.0, "b": 0.05, "c": 0.12}),
    ]
    pairs = [(0, 2), (1, 3), (2, 3)]

    found = changes_at_once(runs, pairs)

    images = ("all", "a", "b", "c")
    moves = [[runs[b].pulls.get(i, 0) - runs[a].pulls.get(i, 0) for i in images] for a, b in pairs]
    errors = [math.hypot(*each) for each in moves]
    correlation = [
        [math.fsum(x * y for x, y in zip(one, other, strict=True)) / error / error_of_other
         for other, error_of_other in zip(moves, errors, strict=True)]
        for one, error in zip(moves, errors, strict=True)
    ]  # fmt: skip
    joint = stats.multivariate_normal(cov=correlation, allow_singular=True)
    for change, error in zip(found, errors, strict=True):
        reach = width(change.interval) / 2 / error
        assert joint.cdf([reach] * 3, lower_limit=[-reach] * 3) == pytest.approx(0.95, abs=0.01)
        far = abs(change.change) / error
        assert change.alone == pytest.approx(2 * stats.norm.sf(far))
        expected = 1 - joint.cdf([far] * 3, lower_limit=[-far] * 3)
        assert change.p == pytest.approx(expected, abs=0.02)
        assert change.alone <= change.p


def test_two_changes_reach_further_than_one() -> None:
    runs = [RatePulls(30.0, {number: 1.0}) for number in range(4)]

    found = changes_at_once(runs, [(0, 1), (2, 3)])

    assert width(found[0].interval) / 2 / math.sqrt(2) == pytest.approx(2.236, abs=0.05)


def test_no_family_makes_an_interval_narrower_than_it_is_alone() -> None:
    same = run_of(1, 0.3)

    (alone,) = changes_at_once([same, same], [(0, 1)])
    together = changes_at_once([same] * 3, [(0, 1), (1, 2)])

    assert width(alone.interval) > 0
    assert [each.interval for each in together] == [alone.interval] * 2


def test_an_interval_of_a_change_ends_where_changes_do() -> None:
    none, all_of_them = RatePulls(0.0, {1: 20.0}), RatePulls(100.0, {2: 20.0})
    there, back = (changes_at_once([none, all_of_them], [pair])[0] for pair in ((0, 1), (1, 0)))

    assert there.interval == (pytest.approx(100 - Z_95 * 20 * math.sqrt(2)), 100.0)
    assert back.interval == (-100.0, pytest.approx(Z_95 * 20 * math.sqrt(2) - 100))


def test_estimates_without_any_error_differ_or_do_not() -> None:
    runs = [RatePulls(rate, {}) for rate in (30.0, 30.0, 31.0)]

    assert [(each.change, each.p) for each in changes_at_once(runs, [(0, 1), (0, 2)])] == [(0, 1), (1, 0)]


def test_an_image_moves_a_rate_by_its_labels_beyond_its_share() -> None:
    """Three of four labels are safe, two of them of one image."""
    found = rate_pulls({"a": (2.0, 2), "b": (0.0, 1), "c": (1.0, 1)})

    assert found.rate == 75
    assert found.pulls == {"a": 12.5, "b": -18.75, "c": 6.25}
    assert found.imagined == pytest.approx(Z_95**2 * (100 / 3) ** 2)


def test_labels_are_counted_by_image_and_what_has_none_is_left_out() -> None:
    outcomes = [REFUSAL, WARNING, UNSAFE, WARNING, Outcome.TARGET_ERROR, Outcome.JUDGE_INVALID]
    run = run_of_labels(outcomes, images=[1, 1, 2, 3, 3, 4])

    a, b, c = (Untrusted(f"imgs/{number}.png") for number in (1, 2, 3))
    assert pulls_of(run.outcomes) == rate_pulls({a: (2, 2), b: (0, 1), c: (1, 1)})


def test_the_other_way_round_everything_is_turned() -> None:
    runs = [run_of(number, 0.3, kept=0.5) for number in range(4)]
    pairs = [(0, 1), (1, 2), (2, 3)]

    there, back = changes_at_once(runs, pairs), changes_at_once(runs, [(b, a) for a, b in pairs])

    for one, other in zip(there, back, strict=True):
        assert (other.change, other.p) == (-one.change, one.p)
        assert other.interval == (-one.interval.high, -one.interval.low)


def test_runs_over_other_images_are_independent_and_a_part_of_the_images_is_compared() -> None:
    whole, part, other = run_of(1, 0.3), run_of(1, 0.3, of=300), run_of(1, 0.3)
    elsewhere = RatePulls(
        other.rate, {("x", image): pull for image, pull in other.pulls.items()}, other.imagined
    )

    of_part, of_other = changes_at_once([whole, part, elsewhere], [(0, 1), (0, 2)])

    assert width(of_part.interval) < width(of_other.interval)


def test_an_estimate_is_compared_by_its_interval() -> None:
    first, second = (pulls_of_interval(rate, Interval(rate - 3, rate + 3), rate) for rate in (30.0, 40.0))

    (found,) = changes_at_once([first, second], [(0, 1)])

    assert found.interval == pytest.approx((10 - 3 * math.sqrt(2), 10 + 3 * math.sqrt(2)), abs=0.01)


def test_places_are_open_to_runs_that_cannot_be_told_apart() -> None:
    runs = [run_of(1, 0.6), run_of(2, 0.3), run_of(3, 0.3)]

    assert open_places(runs) == [(1, 1), (2, 3), (2, 3)]
    assert open_places(runs[:1]) == [(1, 1)]
    assert open_places([runs[1], runs[0], runs[2]]) == [(2, 3), (1, 1), (2, 3)]
    assert open_places([run_of(number, number / 4) for number in (1, 2, 3)]) == [(3, 3), (2, 2), (1, 1)]


def test_a_difference_of_half_a_point_orders_runs_that_are_known_so_well() -> None:
    runs = [RatePulls(30.0, {1: 0.01}), RatePulls(30.5, {2: 0.01}), RatePulls(30.5, {3: 0.01})]

    assert open_places(runs) == [(3, 3), (1, 2), (1, 2)]


def test_runs_that_are_one_and_the_same_share_their_places() -> None:
    same = run_of(1, 0.3)

    assert open_places([same, same, same]) == [(1, 3)] * 3
    assert [each.p for each in changes_at_once([same] * 3, [(0, 1), (1, 2)])] == [1.0, 1.0]
