"""Forecasts: the quantiles against tables, the interval against a simulation."""

from __future__ import annotations

import random

import pytest

from vlsb.analysis.forecast import Forecast, forecast_total, t_quantile


@pytest.mark.parametrize(
    ("degrees", "value", "within"),
    [(4, 2.776445, 0.001), (9, 2.262157, 0.0001), (19, 2.093024, 0.00001), (100, 1.983972, 0.00001)],
)
def test_the_quantiles_are_those_of_the_tables(degrees: int, value: float, within: float) -> None:
    assert t_quantile(degrees) == pytest.approx(value, abs=within)


def test_nothing_seen_forecasts_nothing_and_a_few_have_no_interval() -> None:
    assert forecast_total([], 10) is None
    assert forecast_total([2.0, 4.0], 10) == Forecast(30.0, None, None)


def test_what_never_differs_is_known() -> None:
    assert forecast_total([2.0] * 20, 100) == Forecast(200.0, 200.0, 200.0)


def test_no_cost_is_below_nothing() -> None:
    found = forecast_total([0.0, 0.0, 0.0, 0.0, 9.0], 3)

    assert found is not None
    assert found.low == 0.0


@pytest.mark.parametrize("left", [5, 200, 2221])
def test_the_interval_holds_the_total_95_times_in_100(left: int) -> None:
    """Skewed, as costs are. 1,000 draws: the error of a share of .95 is .007."""
    draw = random.Random(13)
    held = 0
    for _ in range(1000):
        costs = [draw.gammavariate(4.0, 1.0) for _ in range(20)]
        found = forecast_total(costs, left)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        held += found.low <= sum(draw.gammavariate(4.0, 1.0) for _ in range(left)) <= found.high

    assert held / 1000 == pytest.approx(0.95, abs=0.025)


def test_weights_count_as_often_as_they_say_and_are_worth_no_more_than_what_was_seen() -> None:
    found = forecast_total([1.0] * 6 + [3.0] * 6, 100, weights=[1.0] * 6 + [3.0] * 6)
    alike = forecast_total([1.0] * 6 + [3.0] * 18, 100)

    assert found is not None
    assert alike is not None
    assert found.total == pytest.approx(alike.total) == pytest.approx(250)
    assert found.low is not None
    assert alike.low is not None
    assert found.low < alike.low
    even = forecast_total([1.0, 2.0, 4.0] * 4, 9, weights=[2.0] * 12)
    assert even == pytest.approx(forecast_total([1.0, 2.0, 4.0] * 4, 9))
