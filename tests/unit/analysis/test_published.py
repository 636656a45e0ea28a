"""The published numbers: as printed, with their sources; and when a gap to one of them is more than noise."""

from __future__ import annotations

import dataclasses

import pytest

from tests.unit.reports.test_terminal import COMPLETE, NOTHING
from vlsb.analysis.published import Gap, PublishedResult, difference_interval, gaps, load_published
from vlsb.analysis.rates import Interval, Rates, wilson
from vlsb.models.profile import PROFILES

PUBLISHED = load_published()


def row(name: str) -> PublishedResult:
    return PUBLISHED.find(name)[0]


def test_every_row_has_a_source_and_no_name_means_two_rows_to_compare_with() -> None:
    comparable = [each for each in PUBLISHED.results if each.not_comparable is None]
    names = [name.casefold() for each in comparable for name in each.names]

    assert {each.source for each in PUBLISHED.results} == PUBLISHED.sources.keys()
    assert len(names) == len(set(names))
    assert len(comparable) == 30


@pytest.mark.parametrize(
    ("name", "safe"), [("gpt-4o", 21.43), ("QWEN2VL", 13.77), ("Foreshhh/Qwen2-VL-7B-VLGuard", 78.39)]
)
def test_a_row_is_found_by_any_name_of_its_model(name: str, safe: float) -> None:
    assert row(name).safe == safe


def test_every_family_of_the_paper_has_its_row_by_name_and_by_weights() -> None:
    for profile in PROFILES.values():
        if profile.is_of_the_paper:
            assert row(profile.name).not_comparable is None
            assert row(profile.weights) == row(profile.name)


def test_nothing_is_found_for_a_model_that_nobody_published() -> None:
    assert PUBLISHED.find("my-model") == []


def test_parts_that_do_not_sum_to_the_safe_rate_are_left_as_printed_and_noted() -> None:
    odd = [
        each
        for each in PUBLISHED.results
        if each.refusal is not None and abs(each.refusal + (each.warning or 0) - each.safe) > 0.005
    ]

    assert {each.model for each in odd} >= {"Qwen2-VL-72B", "MiniCPM-V-2_6", "Qwen2-VL-7B-Instruct + MM-SFT"}
    assert all(each.note for each in odd)


def test_the_denominators_give_the_printed_percentages() -> None:
    """To the last printed digit, for each part: that is what `fits` means."""
    for each in PUBLISHED.results:
        for n in each.fits:
            for rate in filter(None, (each.refusal, each.warning, each.safe)):
                assert round(100 * round(rate * n / 100) / n, 2) == pytest.approx(rate), (each.model, n)


def rated(safe: float, low: float, high: float) -> Rates:
    intervals = {**COMPLETE.rates.intervals, "safe_rate": Interval(low, high)}
    return dataclasses.replace(COMPLETE.rates, safe_rate=safe, intervals=intervals)


def gaps_of(rates: Rates, printed: PublishedResult) -> list[Gap]:
    (found,) = gaps([(rates, printed)])
    return found


def test_a_difference_has_newcombes_interval() -> None:
    """His first example (Statistics in Medicine 17, 1998): 56/70 less 48/80."""
    found = difference_interval(80.0, wilson(56, 70), 60.0, wilson(48, 80))

    assert found == pytest.approx((5.24, 33.39), abs=0.005)


@pytest.mark.parametrize(("safe", "exceeds"), [(21.43, False), (23.0, False), (30.0, True), (12.0, True)])
def test_a_gap_exceeds_noise_when_its_interval_leaves_out_zero(safe: float, exceeds: bool) -> None:
    gap = gaps_of(rated(safe, safe - 1.7, safe + 1.7), row("gpt-4o"))[0]

    assert gap.interval is not None
    assert gap.exceeds_noise is exceeds
    assert (gap.interval.low > 0 or gap.interval.high < 0) is exceeds


def test_a_gap_that_exceeds_noise_by_itself_does_not_among_many() -> None:
    near = rated(25.0, 23.3, 26.7)
    alone = gaps_of(near, row("gpt-4o"))[0]

    among = gaps([(near, row("gpt-4o")), *[(rated(21.43, 19.7, 23.1), row("gpt-4o"))] * 19])[0][0]

    assert alone.interval == among.interval
    assert alone.exceeds_noise is True
    assert among.exceeds_noise is False


def test_a_printed_rate_over_unknown_samples_has_no_interval_and_no_verdict() -> None:
    gap = gaps_of(COMPLETE.rates, row("Qwen/QVQ-72B-Preview"))[0]

    assert (gap.interval, gap.exceeds_noise) == (None, None)
    assert gap.difference == pytest.approx(COMPLETE.rates.safe_rate - 23.2)


def test_a_run_without_rates_has_no_gap() -> None:
    assert gaps_of(NOTHING.rates, row("gpt-4o")) == []
