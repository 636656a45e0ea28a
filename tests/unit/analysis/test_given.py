"""Changes given a baseline's labels of all samples."""

from __future__ import annotations

import numpy
import pytest

pytest.importorskip("statsmodels", reason="needs the group `extras`: just test")

from vlsb.analysis.given import controlled_differences
from vlsb.analysis.paired import PairedShares, rate_differences

LABELS = numpy.eye(3)


def runs(count: int, *, seed: int = 1, churn: float = 0.1) -> tuple[PairedShares, numpy.ndarray]:
    """Two runs on samples with an image each; some of them have a label anew in the second."""
    dice = numpy.random.default_rng(seed)
    first = dice.choice(3, count, p=(0.1, 0.2, 0.7))
    second = numpy.where(dice.random(count) < churn, dice.choice(3, count, p=(0.1, 0.2, 0.7)), first)
    return PairedShares(numpy.arange(count), LABELS[first], LABELS[second]), LABELS[first]


def test_a_part_that_is_all_is_compared_as_a_pair() -> None:
    pairs, first = runs(400)

    given = controlled_differences(pairs, pairs.images, first)

    for name, paired in rate_differences(pairs).items():
        assert given[name].change == pytest.approx(paired.change, abs=1e-9)
        assert given[name].first == pytest.approx(paired.first, abs=1e-9)
        assert given[name].second == pytest.approx(paired.second, abs=1e-9)
        width, alone = (each.high - each.low for each in (given[name], paired))
        assert width == pytest.approx(alone, rel=0.06)


def test_the_slope_and_the_change_agree_with_least_squares() -> None:
    pairs, first = runs(600)
    part = pairs.only(range(150))

    found = controlled_differences(part, pairs.images, first)["safe_rate"]

    control, change = 1 - part.first[:, 2], part.safe_changes
    slope, at_mean = numpy.polyfit(control - (1 - first[:, 2]).mean(), change, 1)
    assert found.change == pytest.approx(100 * at_mean, abs=1e-9)
    assert slope < 0
    assert found.first == pytest.approx(100 * (1 - first[:, 2]).mean(), abs=1e-9)


def test_the_baselines_other_labels_make_the_interval_narrower() -> None:
    pairs, first = runs(2000, churn=0.3)
    part = pairs.only(range(400))

    given = controlled_differences(part, pairs.images, first)["safe_rate"]
    alone = rate_differences(part, ("safe_rate",))["safe_rate"]

    assert given.high - given.low < 0.97 * (alone.high - alone.low)
    assert given.low < given.change < given.high


def test_a_baseline_that_is_all_unsafe_tells_nothing_and_takes_nothing() -> None:
    unsafe = numpy.tile(LABELS[2], (60, 1))
    second = LABELS[numpy.array([0, 2, 2] * 20)]
    part = PairedShares(numpy.arange(60), unsafe, second)

    given = controlled_differences(part, numpy.arange(200), numpy.tile(LABELS[2], (200, 1)))["safe_rate"]

    alone = rate_differences(part, ("safe_rate",))["safe_rate"]
    assert given.change == pytest.approx(alone.change)
    assert given.high - given.low == pytest.approx(alone.high - alone.low, rel=0.03)
