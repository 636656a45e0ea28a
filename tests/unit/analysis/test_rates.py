"""Rates, intervals, bounds and the summary's groups."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import coverage, results
from tests.support.records import run_facts
from vlsb.analysis.rates import (
    RATES,
    Cluster,
    Interval,
    Rates,
    SampleOutcome,
    clustered_interval,
    rates,
    wilson,
)
from vlsb.analysis.summary import FailOnError, Summary, summarize
from vlsb.errors import ConfigError
from vlsb.records import JUDGED, Outcome, Untrusted

REFUSAL, WARNING, UNSAFE = Outcome.SAFE_REFUSAL, Outcome.SAFE_WARNING, Outcome.UNSAFE


def sample(
    sample_id: int,
    outcome: Outcome,
    *,
    image: str | None = None,
    category: str = "Hate",
    sub_category: str = "Cultural Xenophobia",
    source: str = "generation",
) -> SampleOutcome:
    return SampleOutcome(
        sample_id,
        Untrusted(image or f"imgs/{sample_id}.png"),
        Untrusted(category),
        Untrusted(sub_category),
        Untrusted(source),
        outcome,
    )


def with_distinct_images(outcomes: Sequence[Outcome]) -> list[SampleOutcome]:
    return [sample(number, outcome) for number, outcome in enumerate(outcomes)]


def in_images(*images: Sequence[Outcome]) -> list[SampleOutcome]:
    """One sample for each outcome, each inner list sharing an image."""
    pairs = [(f"imgs/{place}.png", each) for place, inner in enumerate(images) for each in inner]
    return [sample(number, outcome, image=image) for number, (image, outcome) in enumerate(pairs)]


def summary_of(outcomes: Sequence[SampleOutcome]) -> Summary:
    return summarize(
        outcomes,
        run_facts("demo", path=Untrusted("outputs/demo"), simulated=True),
    )


samples = st.lists(
    st.builds(
        sample,
        st.integers(0, 99),
        st.sampled_from(Outcome),
        image=st.sampled_from([f"imgs/{number}.png" for number in range(9)]),
        category=st.sampled_from(["Hate", "Privacy", "Violent"]),
        sub_category=st.sampled_from(["a", "b"]),
    ),
    max_size=60,
)


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        (81, 263, 25.53, 36.62),
        (15, 148, 6.24, 16.05),
        (0, 20, 0.0, 16.11),
        (1, 29, 0.61, 17.18),
    ],
)
def test_wilson_agrees_with_published_values(hits: int, n: int, low: float, high: float) -> None:
    """Newcombe (1998), table I, method 3."""
    assert wilson(hits, n) == pytest.approx((low, high), abs=0.005)


@given(st.integers(1, 5000), st.data())
def test_an_interval_contains_its_rate_and_stays_within_percent(n: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, n))
    effect = data.draw(st.floats(1, n))

    low, high = wilson(hits, n, design_effect=effect)

    assert 0 <= low <= 100 * hits / n <= high <= 100


@given(st.lists(st.sampled_from(sorted(JUDGED)), min_size=1, max_size=80))
def test_samples_with_an_image_each_get_the_plain_wilson_interval(labels: list[Outcome]) -> None:
    of = rates(with_distinct_images(labels))

    for name, counted in RATES.items():
        assert of.intervals[name] == wilson(sum(each in counted for each in labels), len(labels))


def test_shared_images_widen_the_interval_by_their_design_effect() -> None:
    of = rates(in_images([REFUSAL, REFUSAL], [UNSAFE, UNSAFE], [REFUSAL, UNSAFE], [UNSAFE]))

    # By hand: n = 7, p = 3/7; residuals (8, -6, 1, -3)/7; robust = 4/3 * 110/49 / 49; simple = 12/49 / 6.
    effect = (4 / 3 * 110 / 49 / 49) / (12 / 49 / 6)
    # Two images have the rarer label, and ten count as much as the guess that an image is one sample.
    effect += (1 - 2 / (2 + 10)) * (7 / 4 - effect)
    assert of.intervals["safe_rate"] == pytest.approx(wilson(3, 7, design_effect=effect))
    assert effect > 1


def test_many_shared_images_have_the_design_effect_that_is_measured() -> None:
    """500 images, half of them safe twice, half of them unsafe twice: every image is one sample."""
    interval = clustered_interval({Cluster(0, 2): 250, Cluster(2, 2): 250})

    assert interval == pytest.approx(wilson(250, 500), abs=0.01)


def test_images_that_do_not_differ_count_as_one_sample_each() -> None:
    of = rates(in_images([REFUSAL, UNSAFE], [REFUSAL, UNSAFE], [REFUSAL, UNSAFE]))

    assert of.intervals["safe_rate"] == wilson(3, 6, design_effect=2)


def test_two_images_judged_a_hundred_times_alike_give_the_interval_of_two_samples() -> None:
    of = rates(in_images([REFUSAL] * 100, [REFUSAL] * 100))

    assert of.intervals["safe_rate"] == pytest.approx(wilson(2, 2))
    assert of.intervals["unsafe_rate"] == pytest.approx(wilson(0, 2))


def test_one_label_that_differs_does_not_make_two_hundred_samples_of_two_images() -> None:
    low, high = rates(in_images([REFUSAL] * 99 + [UNSAFE], [REFUSAL] * 100)).intervals["safe_rate"]

    assert high - low > 60


clusters = st.dictionaries(
    st.integers(1, 15).flatmap(lambda size: st.builds(Cluster, st.integers(0, size), st.just(size))),
    st.integers(1, 200),
    min_size=1,
    max_size=12,
)


@given(clusters)
def test_shared_images_never_narrow_an_interval(found: dict[Cluster, int]) -> None:
    low, high = clustered_interval(found)

    plain = wilson(
        sum(each.hits * times for each, times in found.items()),
        sum(each.size * times for each, times in found.items()),
    )
    assert low <= plain.low + 1e-9
    assert high >= plain.high - 1e-9


def width_of(interval: Interval) -> float:
    return interval.high - interval.low


@pytest.mark.parametrize(("rare", "believed"), [(1, 0.15), (10, 0.6), (100, 0.95)])
def test_a_rare_label_is_believed_by_how_many_images_have_it(rare: int, believed: float) -> None:
    """Five labels an image, of which the rare one is independent: from one image alone nobody could tell."""
    found = {Cluster(4, 5): rare, Cluster(5, 5): 2000 - rare}

    width = width_of(clustered_interval(found))

    hits = 10_000 - rare
    every, one_an_image = (width_of(wilson(hits, 10_000, design_effect=effect)) for effect in (1, 5))
    assert (one_an_image - width) / (one_an_image - every) == pytest.approx(believed, abs=0.15)


@given(clusters)
def test_the_complement_of_a_rate_has_the_mirrored_interval(found: dict[Cluster, int]) -> None:
    low, high = clustered_interval({Cluster(size - hits, size): n for (hits, size), n in found.items()})

    assert clustered_interval(found) == pytest.approx((100 - high, 100 - low))


@pytest.mark.parametrize("dependence", ["much", "epochs alike"])
def test_intervals_of_several_epochs_cover_the_true_rate(dependence: str) -> None:
    """A short run of `benchmarks/coverage.py`, with its seed."""
    dice = numpy.random.default_rng(1)

    covered = [
        coverage.simulate(50, 5, dependence, rate, replicates=400, dice=dice).covered
        for rate in coverage.RATES
    ]

    assert mean(covered) >= coverage.LEAST_ON_AVERAGE
    assert min(covered) >= 0.92


@pytest.mark.parametrize("rate", coverage.RATES_NEAR_1)
def test_intervals_near_1_cover_as_often_as_one_sample_an_image_would(rate: float) -> None:
    """Five epochs that always agree, as at temperature 0."""
    cell = coverage.simulate(200, 5, "images alike", rate, replicates=1500, dice=numpy.random.default_rng(1))

    assert cell.covered >= cell.plain - 0.03


@pytest.mark.parametrize("samples", [1, 2, 3])
@pytest.mark.parametrize("dependence", coverage.DEPENDENCE.values(), ids=list(coverage.DEPENDENCE))
def test_the_simulated_labels_have_the_rate_and_the_agreement_that_they_are_named_for(
    samples: int, dependence: coverage.Dependence
) -> None:
    chances = coverage.hits_of_image(samples, 2, 0.9, dependence)

    assert sum(chances) == pytest.approx(1)
    assert sum(hits * chance for hits, chance in enumerate(chances)) == pytest.approx(0.9 * samples * 2)
    both = dependence.image + (1 - dependence.image) * dependence.sample
    if samples == 1:
        # Two epochs of one sample: the chance that both are hits is p * (p + correlation * (1 - p)).
        assert chances[2] == pytest.approx(0.9 * (0.9 + both * 0.1))


def test_the_page_on_intervals_shows_the_coverage_that_was_measured() -> None:
    stored = results.load(coverage.NAME)
    page = coverage.PAGE.read_text()

    assert stored is not None
    assert page == coverage.shown(page, stored)
    assert stored["replicates"] >= 5000
    assert all(each["is_met"] for each in stored["targets"])


def test_the_coverage_is_measured_and_written_into_its_page(tmp_path: Path) -> None:
    page = tmp_path / "intervals.md"
    page.write_text("<!-- coverage -->\n<!-- /coverage -->\n")

    coverage.main(["--replicates", "50", "--sizes", "50", "--results", str(tmp_path), "--page", str(page)])

    assert len(json.loads((tmp_path / "coverage.json").read_text())["cells"]) == 14 * 14
    assert "| 50, 5, images alike |" in page.read_text()


def test_one_image_counts_as_one_sample() -> None:
    of = rates(in_images([REFUSAL, REFUSAL, UNSAFE, UNSAFE]))

    assert of.intervals["safe_rate"] == wilson(2, 4, design_effect=4)


def test_unequal_images_that_all_agree_count_as_one_sample_each() -> None:
    of = rates(in_images([UNSAFE, UNSAFE], [UNSAFE]))

    assert of.intervals["unsafe_rate"] == pytest.approx(wilson(2, 2))
    assert of.intervals["safe_rate"] == pytest.approx(wilson(0, 2))


def test_images_of_unjudged_samples_are_no_clusters() -> None:
    judged = in_images([REFUSAL, UNSAFE, UNSAFE])
    unjudged = [sample(99, Outcome.TARGET_ERROR, image="imgs/other.png")]

    assert rates(judged + unjudged).intervals == rates(judged).intervals


@given(samples, st.randoms(use_true_random=False))
def test_the_order_of_the_samples_changes_no_digit(
    outcomes: list[SampleOutcome], dice: random.Random
) -> None:
    shuffled = dice.sample(outcomes, len(outcomes))

    assert summary_of(shuffled) == summary_of(outcomes)


@given(samples)
def test_the_ledger_holds_every_outcome_and_sums_to_the_selection(
    outcomes: list[SampleOutcome],
) -> None:
    of = rates(outcomes)

    assert list(of.outcomes) == list(Outcome)
    assert sum(of.outcomes.values()) == of.selected == len(outcomes)
    assert sum(of.outcomes[each] for each in JUDGED) == of.judged


@given(samples)
def test_refusals_and_warnings_are_safe_and_the_rest_is_unsafe(
    outcomes: list[SampleOutcome],
) -> None:
    of = rates(outcomes)

    if of.judged:
        assert of.safe_rate is not None
        assert of.safe_rate == pytest.approx((of.safe_refuse_rate or 0) + (of.safe_warning_rate or 0))
        assert of.safe_rate + (of.unsafe_rate or 0) == pytest.approx(100)
    else:
        assert [of.rate(name) for name in RATES] == [None] * 4
        assert set(of.intervals.values()) == {Interval(0.0, 100.0)}


@given(samples, st.data())
def test_bounds_contain_every_completion_of_the_missing_verdicts(
    outcomes: list[SampleOutcome], data: st.DataObject
) -> None:
    labels = st.sampled_from(sorted(JUDGED))
    completed = [each.outcome if each.outcome in JUDGED else data.draw(labels) for each in outcomes]

    bounds = rates(outcomes).bounds

    full = rates(with_distinct_images(completed))
    for name in RATES:
        low, high = sorted(bounds[name])
        assert full.rate(name) is None or low <= (full.rate(name) or 0) <= high


def test_the_worst_case_is_the_bad_end_of_every_rate() -> None:
    of = rates(with_distinct_images([REFUSAL, WARNING, UNSAFE, Outcome.JUDGE_ERROR]))

    assert of.bounds["safe_rate"] == (50.0, 75.0)
    assert of.bounds["safe_refuse_rate"] == (25.0, 50.0)
    assert of.bounds["unsafe_rate"] == (50.0, 25.0)


def test_no_samples_have_no_rates_and_no_coverage() -> None:
    of = rates([])

    assert (of.selected, of.judged, of.coverage, of.safe_rate) == (0, 0, 0.0, None)
    assert of.bounds["safe_rate"] == (0.0, 100.0)
    assert of.bounds["unsafe_rate"] == (100.0, 0.0)


def test_rates_are_not_rounded() -> None:
    of = rates(with_distinct_images([REFUSAL, UNSAFE, UNSAFE]))

    assert of.safe_rate == 100 / 3
    assert all(math.isfinite(end) for interval in of.intervals.values() for end in interval)


def test_one_sub_category_name_under_two_categories_is_two_groups() -> None:
    summary = summary_of(
        [
            sample(1, REFUSAL, category="Self-Harm", sub_category="Psychological and Disordered Harm"),
            sample(2, UNSAFE, category="Hate", sub_category="Psychological and Disordered Harm"),
        ]
    )

    pairs = [(each.category, each.sub_category, each.rates.judged) for each in summary.by_sub_category]
    name = Untrusted("Psychological and Disordered Harm")
    assert pairs == [(Untrusted("Hate"), name, 1), (Untrusted("Self-Harm"), name, 1)]


@given(samples)
def test_every_grouping_covers_every_sample_once_and_is_sorted(outcomes: list[SampleOutcome]) -> None:
    summary = summary_of(outcomes)

    groupings: list[list[Rates]] = [
        list(summary.by_category.values()),
        [each.rates for each in summary.by_sub_category],
        [each.rates for each in summary.by_source],
    ]
    assert [sum(each.selected for each in grouping) for grouping in groupings] == [len(outcomes)] * 3
    assert list(summary.by_category) == sorted(summary.by_category)
    assert summary.rates.missing == sum(each.outcome not in JUDGED for each in outcomes)


@pytest.mark.parametrize(
    ("lacking", "selected", "option", "expected"),
    [
        (0, 24, "0", False),
        (1, 24, "0", True),
        (12, 2241, "12", False),
        (13, 2241, "12", True),
        (1, 2241, "1", False),
        (112, 2241, "0.05", False),
        (113, 2241, "5%", True),
        (29, 100, "29%", False),
        (29, 100, ".29", False),
        (30, 100, "0.29", True),
        (24, 24, "1.0", False),
        (24, 24, "100 %", False),
        (1, 24, "0.0", True),
        (0, 0, "0.5", False),
    ],
)
def test_fail_on_error_is_a_count_or_an_exact_share(
    lacking: int, selected: int, option: str, expected: bool
) -> None:
    assert FailOnError.parse(option).is_exceeded(lacking, selected=selected) is expected


@pytest.mark.parametrize(
    "option", ["", "-1", "1.5", "101%", "five", "1/2", "1e3", "nan", "0x1", "٣", "1\n", "%", "."]
)
def test_nonsense_for_fail_on_error_is_a_configuration_error(option: str) -> None:
    with pytest.raises(ConfigError, match="--fail-on-error"):
        FailOnError.parse(option)
