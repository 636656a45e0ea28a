"""Forecasts: the interval against a simulation."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence

import pytest

from vlsb.analysis.correction import TotalForecast, forecast_total


def forecast(
    seen: Sequence[float],
    left: int,
    *,
    most: float = 0.0,
    weights: Sequence[float] | None = None,
) -> TotalForecast | None:
    return forecast_total(seen, left, least=0.0, most=most, weights=weights)


def test_nothing_seen_forecasts_nothing_and_a_few_have_no_interval() -> None:
    assert forecast([], 10) is None
    assert forecast([2.0, 4.0], 10) == TotalForecast(30.0, None, None)


def test_what_never_differs_is_known_only_where_nothing_could_differ() -> None:
    can_differ = forecast([2.0] * 20, 100, most=10.0)

    assert forecast_total([2.0] * 20, 100, least=2.0, most=2.0) == TotalForecast(200.0, 200.0, 200.0)
    assert can_differ is not None
    assert can_differ.low is not None
    assert can_differ.high is not None
    assert can_differ.low < can_differ.total == 200.0 < can_differ.high


def test_no_cost_is_below_nothing_or_above_the_most_that_all_can_cost() -> None:
    found = forecast([0.0, 0.0, 0.0, 0.0, 9.0], 3, most=9.0)

    assert found is not None
    assert (found.low, found.high) == (0.0, 27.0)


def _lognormal(draw: random.Random, sigma: float) -> float:
    return min(4096.0, draw.lognormvariate(math.log(300), sigma))


LENGTHS: Mapping[str, tuple[float, Callable[[random.Random], float]]] = {
    "even": (600.0, lambda draw: min(600.0, draw.gammavariate(4.0, 30.0))),
    "most are cut": (128.0, lambda draw: min(128.0, draw.lognormvariate(math.log(192), 0.5))),
    "thinking": (4096.0, lambda draw: _lognormal(draw, 1.0)),
    "thinking long": (4096.0, lambda draw: _lognormal(draw, 1.5)),
    "few thirty times longer": (4096.0, lambda draw: 3000.0 if draw.random() < 0.05 else 100.0),
    "one in a hundred at the limit": (4096.0, lambda draw: 4096.0 if draw.random() < 0.01 else 100.0),
}


@pytest.mark.parametrize("left", [200, 2221])
@pytest.mark.parametrize("name", LENGTHS)
def test_the_interval_holds_the_total_95_times_in_100_however_skewed_costs_are(name: str, left: int) -> None:
    """From 20 samples, 400 times: the error of a share of .95 is .011."""
    draw, (most, length) = random.Random(13), LENGTHS[name]
    held = 0
    for _ in range(400):
        found = forecast([length(draw) for _ in range(20)], left, most=most)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        held += found.low <= sum(length(draw) for _ in range(left)) <= found.high

    assert held / 400 >= 0.945


def test_the_interval_narrows_as_more_is_seen() -> None:
    draw = random.Random(5)
    seen = [draw.gammavariate(4.0, 30.0) for _ in range(400)]

    widths = []
    for count in (20, 60, 400):
        found = forecast(seen[:count], 2000, most=4096.0)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        widths.append((found.high - found.low) / found.total)

    assert widths[0] > 2 * widths[1] > 4 * widths[2]


def test_weights_count_as_often_as_they_say_and_are_worth_no_more_than_what_was_seen() -> None:
    found = forecast([1.0] * 6 + [3.0] * 6, 100, weights=[1.0] * 6 + [3.0] * 6, most=9.0)
    alike = forecast([1.0] * 6 + [3.0] * 18, 100, most=9.0)

    assert found is not None
    assert alike is not None
    assert found.total == pytest.approx(alike.total) == pytest.approx(250)
    assert found.low is not None
    assert alike.low is not None
    assert found.low < alike.low
    even = forecast([1.0, 2.0, 4.0] * 4, 9, weights=[2.0] * 12, most=9.0)
    assert even == pytest.approx(forecast([1.0, 2.0, 4.0] * 4, 9, most=9.0))
