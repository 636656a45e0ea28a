"""Safe rates of several runs at once: against scipy's normal distribution, and runs that differ."""

from __future__ import annotations

import math
from random import Random

import pytest

from vlsb.analysis.family import RatePulls, changes_at_once, open_places, pulls_of_interval, rate_pulls
from vlsb.analysis.rates import Interval

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


def test_runs_that_are_one_and_the_same_share_their_places() -> None:
    same = run_of(1, 0.3)

    assert open_places([same, same, same]) == [(1, 3)] * 3
    assert [each.p for each in changes_at_once([same] * 3, [(0, 1), (1, 2)])] == [1.0, 1.0]
