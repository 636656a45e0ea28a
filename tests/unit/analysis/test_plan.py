"""A plan's numbers: closed formulas, those of statsmodels, and the figures that were simulated elsewhere."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import fmean, pvariance

import pytest

from vlsb.analysis.correction import AuditedSample, corrected_rates
from vlsb.analysis.plan import CHURN, LEAST_FLIPS, Flips, Noise, noise_of_one, noise_of_runs
from vlsb.errors import ConfigError
from vlsb.records import Label

TENTH = Noise.guessed(30.0, 10.0)
EVERY = 2_241


def labels(text: str) -> dict[int, bool]:
    """A sample a letter: `s` is safe, `u` is unsafe, `-` has no label."""
    return {number: letter == "s" for number, letter in enumerate(text) if letter != "-"}


def alone(samples: int) -> dict[int, int]:
    return {number: number for number in range(samples)}


# Figures of an independent check.


def test_a_tenth_of_flips_gives_the_figures_that_were_simulated() -> None:
    assert TENTH.smallest_change(EVERY) == pytest.approx(1.9, abs=0.05)
    assert TENTH.smallest_change(200) == pytest.approx(6.3, abs=0.05)
    assert TENTH.samples_for_equivalence(2.0) == pytest.approx(2_140, abs=1)
    assert TENTH.churn_that_hides(1.5, EVERY) == pytest.approx(13, abs=0.5)


# Closed formulas.


@pytest.mark.parametrize("change", [0.0, 0.4, 1.9, 7.0])
@pytest.mark.parametrize("samples", [200, EVERY])
def test_how_often_a_change_is_found_is_as_statsmodels_says(change: float, samples: int) -> None:
    power = pytest.importorskip("statsmodels.stats.power", reason="needs the group `extras`: just test")

    said = power.normal_power(change / 100 / math.sqrt(0.1), samples, 0.05)

    assert TENTH.found(change, samples) == pytest.approx(100 * said, rel=1e-9)


@pytest.mark.parametrize("samples", [1_800, EVERY, 9_000])
def test_how_often_an_equivalence_is_shown_is_as_statsmodels_says(samples: int) -> None:
    """A share of a half has the variance of a churn of 25 %."""
    tests = pytest.importorskip("statsmodels.stats.proportion", reason="needs the group `extras`: just test")
    noise = Noise.guessed(50.0, 25.0)

    said, _ = tests.power_ztost_prop(
        0.48, 0.52, samples, 0.5, 0.05, dist="norm", variance_prop=0.5, discrete=False, continuity=0
    )

    assert noise.shown_equivalent(2.0, samples) == pytest.approx(100 * said, rel=1e-9)
    assert noise.shown_equivalent(2.0, 1_000) == 0


@pytest.mark.parametrize("within", [0.7, 2.0, 5.0])
def test_no_fewer_samples_show_an_equivalence(within: float) -> None:
    needed = TENTH.samples_for_equivalence(within)

    assert TENTH.shown_equivalent(within, needed) >= 80 > TENTH.shown_equivalent(within, needed - 1)


@pytest.mark.parametrize("comes_on_top", [False, True])
@pytest.mark.parametrize("epochs", [1, 3])
def test_the_smallest_change_is_found_in_80_percent_of_cases(comes_on_top: bool, epochs: int) -> None:
    noise = Noise(30.0, 12.0, together=1.2, comes_on_top=comes_on_top)

    least = noise.smallest_change(500, epochs)

    assert noise.found(least, 500, epochs) == pytest.approx(80, abs=1e-4)


def test_labels_that_a_change_moves_come_on_top_of_what_a_baseline_flips() -> None:
    measured = Noise(30.0, 10.0, comes_on_top=True)

    assert measured.smallest_change(200) > TENTH.smallest_change(200)
    assert measured.samples_for_equivalence(2.0) == TENTH.samples_for_equivalence(2.0)


def test_a_gap_with_the_churn_that_hides_it_is_at_the_edge_of_noise() -> None:
    noise = Noise(30.0, 10.0, together=1.3)
    hides = Noise(30.0, noise.churn_that_hides(1.5, EVERY), together=1.3)

    assert hides.error(0.0, EVERY) * 1.959963984540054 == pytest.approx(1.5)


def test_epochs_find_what_as_many_samples_find_where_all_is_chance() -> None:
    assert TENTH.smallest_change(500, 4) == pytest.approx(TENTH.smallest_change(2_000))
    assert TENTH.half_width(500, 4) > TENTH.half_width(2_000)


def test_the_variance_of_a_rate_is_that_of_samples_that_are_sometimes_safe() -> None:
    """A fifth is always safe, half never, and three in ten are safe in one answer of two."""
    chances = [1.0] * 20 + [0.0] * 50 + [0.5] * 30
    mean = fmean(chances)
    flips = 100 * fmean(2 * each * (1 - each) for each in chances)

    noise = Noise.guessed(100 * mean, flips)

    for epochs in (1, 2, 5):
        within = fmean(each * (1 - each) for each in chances) / epochs
        assert noise.of_a_rate(epochs) == pytest.approx(pvariance(chances) + within)


# What runs say.


def test_flips_are_counted_between_every_two_epochs_of_a_run() -> None:
    columns = [labels("ssuu-s"), labels("susu-s"), labels("ssuusu")]

    noise, flips = noise_of_runs(columns, [], alone(6))

    assert flips == Flips(15, 2 + 1 + 3)
    assert noise.churn == pytest.approx(100 * 6 / 15)
    assert noise.safe_rate == pytest.approx(100 * 9 / 16)
    assert noise.comes_on_top


def test_of_two_runs_each_epoch_of_one_meets_each_of_the_other() -> None:
    first, second = [labels("ssuu"), labels("suuu")], [labels("uuss")]

    _, flips = noise_of_runs(first, second, alone(4))

    assert flips == Flips(8, 4 + 3)


def test_samples_of_an_image_that_flip_together_are_the_noise_of_fewer() -> None:
    before, after = labels("ssuussuu" * 10), labels("uussssuu" * 10)
    pairs = {number: number // 2 for number in range(80)}

    together, apart = (noise_of_runs([before], [after], each)[0] for each in (pairs, alone(80)))

    assert (together.together, apart.together) == (2.0, 1.0)
    assert together.smallest_change(500) == pytest.approx(math.sqrt(2) * apart.smallest_change(500), rel=0.1)


def test_where_no_label_flipped_some_are_counted_that_may_be_missed() -> None:
    noise, flips = noise_of_runs([labels("su" * 50)], [labels("su" * 50)], alone(100))

    assert flips == Flips(100, 0)
    assert noise.churn == LEAST_FLIPS
    assert noise.smallest_change(200) > 0


def test_one_run_tells_its_rate_and_the_churn_is_a_guess() -> None:
    noise = noise_of_one([labels("ssuuuuuuuu")], alone(10)).with_churn(None)

    assert (noise.safe_rate, noise.churn, noise.comes_on_top) == (20.0, CHURN, False)


@pytest.mark.parametrize("columns", [[], [labels("---")]])
def test_runs_without_labels_are_refused(columns: Sequence[dict[int, bool]]) -> None:
    with pytest.raises(ConfigError, match="No sample has a label"):
        noise_of_one(columns, alone(3))
    with pytest.raises(ConfigError, match="No sample has a label"):
        noise_of_runs(columns, [labels("---")], alone(3))


def test_more_flips_than_the_safe_rate_allows_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"at most 9\.5 % of the labels flip"):
        Noise.guessed(5.0, 10.0)
    assert Noise.guessed(5.0, None).churn == pytest.approx(9.5)


# Human labels.


def test_human_labels_correct_a_rate_as_narrowly_as_was_planned() -> None:
    """A judge that errs as in the paper's check, and as many labels as ±4 points need."""
    dice = random.Random(5)
    needed = TENTH.human_labels(4.0, EVERY)
    assert needed is not None
    samples = []
    for number in range(EVERY):
        is_safe = number % 10 < 3
        is_called_safe = dice.random() < (0.91 if is_safe else 0.16)
        judged, human = (Label.SAFE_WARNING if each else Label.UNSAFE for each in (is_called_safe, is_safe))
        samples.append(AuditedSample(number, judged, (human,) if number < needed else ()))

    found = corrected_rates(samples).rates["safe_rate"]

    assert found.half_width == pytest.approx(4.0, rel=0.1)


def test_no_number_of_labels_gives_what_other_images_leave_open() -> None:
    assert TENTH.human_labels(1.0, 500) is None
    assert TENTH.human_labels(3.0, EVERY) is not None
