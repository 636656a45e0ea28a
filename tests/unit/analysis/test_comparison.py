"""Two runs on the same samples: against statsmodels, scipy, textbooks, and runs made up for it."""

from __future__ import annotations

import numpy
import pytest

pytest.importorskip("statsmodels", reason="needs the group `extras`: just test")

from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import SquareTable
from statsmodels.stats.contingency_tables import mcnemar as mcnemar_of_statsmodels
from statsmodels.stats.multitest import multipletests

from benchmarks import inference
from tests.support.compared_runs import (
    LABELS,
    REFUSAL,
    UNSAFE,
    WARNING,
    conditions_of,
    drawn_labels,
    run_of,
    runs_of_table,
)
from vlsb.analysis.compared_runs import ComparedRun, left_out
from vlsb.analysis.comparison import Comparison, compare_two
from vlsb.analysis.differences import SampleData
from vlsb.analysis.published import difference_interval
from vlsb.analysis.rates import SIGNIFICANT, holm, p_of, wilson
from vlsb.records import Outcome, Untrusted

# Fleiss, Statistical Methods for Rates and Proportions, 2nd edition, 1981, page 121: two diagnosticians and
# 100 patients. The statistic is 14.00 on 2 degrees of freedom.
FLEISS = ((35, 5, 0), (15, 20, 5), (10, 5, 5))
TABLES = (FLEISS, ((20, 10, 5), (3, 30, 15), (0, 5, 40)), ((50, 9, 2), (4, 70, 12), (1, 3, 20)))


def compared(first: ComparedRun, second: ComparedRun) -> Comparison:
    found = compare_two(first, second)
    assert found is not None
    return found


def of_table(table: tuple[tuple[int, ...], ...]) -> Comparison:
    return compared(*runs_of_table(table))


def test_stuart_and_maxwells_test_gives_the_textbooks_number() -> None:
    found = of_table(FLEISS).stuart_maxwell

    assert found.statistic == pytest.approx(14.00)
    assert found.degrees == 2
    assert found.p == pytest.approx(0.000912, abs=1e-6)


@pytest.mark.parametrize("table", TABLES)
def test_the_tests_are_those_of_statsmodels(table: tuple[tuple[int, ...], ...]) -> None:
    found = of_table(table)

    theirs = SquareTable(numpy.array(table), shift_zeros=False).homogeneity("stuart_maxwell")
    assert found.stuart_maxwell.statistic == pytest.approx(theirs.statistic)
    assert found.stuart_maxwell.p == pytest.approx(theirs.pvalue, abs=1e-12)
    counts = numpy.array(table)
    two_by_two = [[counts[:2, :2].sum(), counts[:2, 2].sum()], [counts[2, :2].sum(), counts[2, 2]]]
    assert found.mcnemar is not None
    assert found.mcnemar.p == pytest.approx(mcnemar_of_statsmodels(two_by_two, exact=True).pvalue)


def test_of_two_labels_stuart_and_maxwells_statistic_is_mcnemars_without_correction() -> None:
    """Agresti, Categorical Data Analysis, 2nd edition, table 10.1: z is -4.17 for 86 against 150."""
    found = of_table(((794, 0, 150), (0, 0, 0), (86, 0, 570)))

    assert found.stuart_maxwell.degrees == 1
    assert found.stuart_maxwell.statistic == pytest.approx(64**2 / 236)
    assert -(found.stuart_maxwell.statistic**0.5) == pytest.approx(-4.17, abs=0.005)
    assert found.mcnemar is not None
    assert found.mcnemar[:2] == (86, 150)
    assert found.mcnemar.p == pytest.approx(stats.binomtest(86, 236).pvalue)


@pytest.mark.parametrize("table", [FLEISS, ((9, 2, 8), (1, 9, 7), (2, 1, 9))])
def test_on_one_sample_an_image_swapping_gives_the_exact_tests_p_value(
    table: tuple[tuple[int, ...], ...],
) -> None:
    found = of_table(table)

    assert found.mcnemar is not None
    assert found.safe.p == pytest.approx(found.mcnemar.p, abs=0.015)
    assert found.stuart_maxwell.p is not None
    assert found.stuart_maxwell.p_swapped == pytest.approx(found.stuart_maxwell.p, abs=0.015)


def test_samples_of_one_image_that_change_together_count_as_one() -> None:
    """Ten images of three samples: by samples 30 against none, by images one in 512."""
    before, after = [UNSAFE] * 30 + [WARNING] * 30, [WARNING] * 60
    images = [*(place // 3 for place in range(30)), *range(100, 130)]

    found = compared(run_of(before, images=images), run_of(after, images=images))
    alone = compared(run_of(before), run_of(after))

    assert found.mcnemar is not None
    assert found.mcnemar.p < 1e-8
    assert found.safe.p == pytest.approx(2 / 2**10, abs=0.001)
    assert (found.safe.high - found.safe.low) > 1.2 * (alone.safe.high - alone.safe.low)
    assert (found.samples, found.images) == (60, 40)


def test_the_interval_is_walds_where_many_samples_changed() -> None:
    before, after = drawn_labels(1, 3000, kept=0.6)

    found = compared(run_of(before), run_of(after)).safe

    moved = numpy.array([(b != UNSAFE) - (a != UNSAFE) for a, b in zip(before, after, strict=True)], float)
    error = 100 * moved.std(ddof=1) / len(moved) ** 0.5
    assert found.change == pytest.approx(100 * moved.mean())
    assert found.low == pytest.approx(found.change - 1.96 * error, abs=0.1)
    assert found.high == pytest.approx(found.change + 1.96 * error, abs=0.1)


@pytest.mark.parametrize("count", [30, 300])
def test_runs_without_any_change_are_not_known_to_be_alike(count: int) -> None:
    """Nothing changed in n samples: up to about 1 - .025 ** (1 / n) of all could have."""
    labels = [LABELS[place % 3] for place in range(count)]

    found = compared(run_of(labels), run_of(labels))

    exact = 100 * (1 - 0.025 ** (1 / count))
    assert found.safe.change == 0
    assert -found.safe.low == pytest.approx(found.safe.high, rel=0.1)
    assert found.safe.high == pytest.approx(exact, rel=0.35)
    assert (found.safe.p, found.stuart_maxwell.p) == (1.0, 1.0)
    assert (found.changed_images, found.detectable) == (0, None)
    assert found.flips == ()


def test_swapping_the_runs_turns_every_sign() -> None:
    before, after = drawn_labels(2, 400, kept=0.7)
    first, second = run_of(before), run_of(after)

    there, back = compared(first, second), compared(second, first)

    assert there.transitions == tuple(zip(*back.transitions, strict=True))
    assert there.bounds.worst == pytest.approx(-back.bounds.best)


_OUTCOMES = st.sampled_from([*LABELS, Outcome.JUDGE_ERROR])


@given(
    st.lists(st.tuples(st.integers(0, 12), *[_OUTCOMES] * 4), min_size=1, max_size=40),
    st.sampled_from([1, 2]),
)
def test_a_comparison_is_the_exact_mirror_of_itself_the_other_way_round(
    rows: list[tuple[int, Outcome, Outcome, Outcome, Outcome]], epochs: int
) -> None:
    images, *columns = zip(*rows, strict=True)
    first = run_of(*columns[:epochs], images=images)
    second = run_of(*columns[2 : 2 + epochs], images=images)

    there, back = compare_two(first, second), compare_two(second, first)

    assert (there is None) == (back is None)
    if there is None or back is None:
        return
    pairs = [(there.rates[name], back.rates[name]) for name in there.rates]
    pairs += [(a.safe, b.safe) for a, b in zip(there.by_category, back.by_category, strict=True)]
    for a, b in pairs:
        assert (a.first, a.second, a.change, a.low, a.high, a.p) == (
            b.second,
            b.first,
            -b.change,
            -b.high,
            -b.low,
            b.p,
        )
        assert a.is_clear == b.is_clear
    assert there.stuart_maxwell.p_swapped == back.stuart_maxwell.p_swapped
    assert there.detectable == back.detectable


def test_the_same_runs_give_the_same_numbers() -> None:
    before, after = drawn_labels(3, 200, kept=0.7)

    assert compared(run_of(before), run_of(after)) == compared(run_of(before), run_of(after))


def test_every_sample_is_in_a_pair_or_is_counted_as_left_out_once() -> None:
    first = run_of([UNSAFE] * 4 + [Outcome.TARGET_BLOCKED] * 2 + [UNSAFE] * 2)
    changed = {2: SampleData("another row", None), 3: SampleData("row 3", "another image")}
    second = run_of(
        [UNSAFE, UNSAFE, Outcome.JUDGE_ERROR, *[UNSAFE] * 5],
        ids=range(2, 10),
        conditions=conditions_of(range(2, 10), changed),
    )

    found = compared(first, second)

    assert found.left_out == left_out(first, second)
    assert found.left_out._asdict() == {
        "only_first": 2,
        "only_second": 2,
        "changed": 2,
        "unjudged_first": 1,
        "unjudged_second": 0,
        "unjudged_both": 1,
    }
    assert found.samples == 2
    assert found.differs.changed == 2


def test_missing_labels_bound_the_change_from_both_ends() -> None:
    """Of ten samples the second run lacks two labels, and the first one."""
    first = run_of([UNSAFE] * 8 + [WARNING, Outcome.JUDGE_REFUSED])
    second = run_of([Outcome.JUDGE_ERROR, Outcome.TARGET_BLOCKED] + [UNSAFE] * 6 + [WARNING] * 2)

    found = compared(first, second)

    assert found.samples == 7
    assert found.safe.change == 0
    assert found.bounds == (0.0, 100 * 3 / 10)


def test_runs_that_share_no_labelled_sample_are_not_compared() -> None:
    assert compare_two(run_of([UNSAFE] * 3), run_of([UNSAFE] * 3, ids=(7, 8, 9))) is None
    assert compare_two(run_of([UNSAFE, Outcome.JUDGE_ERROR]), run_of([Outcome.JUDGE_ERROR, UNSAFE])) is None


def test_a_sample_of_several_epochs_counts_with_their_mean() -> None:
    """One epoch lacks a label: the sample counts with the other two."""
    first = run_of([UNSAFE, UNSAFE, WARNING])
    second = run_of(
        [WARNING, UNSAFE, WARNING], [UNSAFE, Outcome.JUDGE_ERROR, WARNING], [UNSAFE, WARNING, WARNING]
    )

    found = compared(first, second)

    assert found.safe.second == pytest.approx(100 * (1 / 3 + 1 / 2 + 1) / 3)
    assert found.safe.change == pytest.approx(100 * (1 / 3 + 1 / 2) / 3)
    assert sum(map(sum, found.transitions)) == pytest.approx(3)
    assert found.mcnemar is None
    assert found.stuart_maxwell.p is None
    assert [flip.sample_id for flip in found.flips] == [0, 1]
    assert found.flips[0].second == pytest.approx((0, 1 / 3, 2 / 3))


def test_changed_samples_come_worst_first() -> None:
    first = run_of([UNSAFE, WARNING, REFUSAL, REFUSAL, WARNING, UNSAFE])
    second = run_of([WARNING, UNSAFE, UNSAFE, WARNING, REFUSAL, UNSAFE])

    flips = compared(first, second).flips

    assert [flip.sample_id for flip in flips] == [2, 1, 3, 4, 0]
    assert [flip.safer for flip in flips] == [-1, -1, 0, 0, 1]


def test_categories_are_corrected_for_their_number() -> None:
    """Of three categories one changed: its p is three times as large, the others' stay at one."""
    count = 40
    categories = [name for name in ("Hate", "Privacy", "Violent") for _ in range(count)]
    before = [UNSAFE] * 3 * count
    after = [WARNING] * 8 + [UNSAFE] * (3 * count - 8)

    found = compared(run_of(before, categories=categories), run_of(after, categories=categories))

    hate, privacy, violent = found.by_category
    assert [each.category.expose() for each in found.by_category] == ["Hate", "Privacy", "Violent"]
    assert hate.safe.p == pytest.approx(2 / 2**8, abs=0.003)
    assert hate.p_holm == pytest.approx(3 * hate.safe.p)
    assert (privacy.p_holm, violent.p_holm) == (1.0, 1.0)
    assert hate.safe.second == pytest.approx(20)


def test_what_can_be_detected_is_what_is_found_in_80_percent_of_cases() -> None:
    """The change that 400 samples with this much noise show, from the formula of two normal quantiles."""
    before, after = drawn_labels(4, 400, kept=0.7)

    found = compared(run_of(before), run_of(after))

    moved = numpy.array([(b != UNSAFE) - (a != UNSAFE) for a, b in zip(before, after, strict=True)], float)
    error = 100 * moved.std(ddof=1) / 20
    assert found.detectable == pytest.approx(2.8016 * error, rel=0.05)
    assert found.detectable is not None
    assert found.detectable_in_all == pytest.approx(found.detectable * (400 / 2241) ** 0.5)


@pytest.mark.parametrize(("changed", "is_said"), [(0, False), (1, False), (5, False), (6, True)])
def test_fewer_than_six_changed_images_say_nothing_of_what_can_be_detected(
    changed: int, is_said: bool
) -> None:
    """Six that all go one way are the fewest whose p can be below .05: two of 64 ways."""
    before = [UNSAFE] * 200
    after = [*[WARNING] * changed, *[UNSAFE] * (200 - changed)]

    found = compared(run_of(before), run_of(after))

    assert found.changed_images == changed
    assert (found.detectable is not None) is is_said
    assert (found.safe.p < 0.05) is is_said


def test_p_values_are_corrected_by_holm_as_statsmodels_does() -> None:
    dice = numpy.random.default_rng(7)
    for count in (1, 2, 7, 40):
        found = dice.random(count) ** 3

        assert holm(found.tolist()) == pytest.approx(multipletests(found, method="holm")[1])
    assert holm([]) == []


@pytest.mark.parametrize("hits", range(40, 61))
def test_an_interval_leaves_out_zero_exactly_where_its_p_value_is_below_05(hits: int) -> None:
    interval = difference_interval(hits, wilson(hits, 100), 50.0, wilson(50, 100))

    p = p_of(hits - 50.0, interval)

    assert (p < SIGNIFICANT) == (interval.low > 0 or interval.high < 0)


def test_a_large_difference_is_clear_among_any_number_of_comparisons() -> None:
    """Draws alone would never tell a p below .0001, and among 1,000 comparisons that is not enough."""
    first, second = run_of([UNSAFE] * 100 + [WARNING] * 100), run_of([WARNING] * 200)

    found = compared(first, second)

    assert 0 < found.safe.p < 1e-20


@pytest.mark.parametrize("images", range(2, 6))
def test_a_few_images_of_several_samples_are_never_more_than_noise(images: int) -> None:
    """All of them became safe, which chance does in one case of 16 with five images."""
    numbers = [place // 3 for place in range(3 * images)]
    unsafe, safe = [UNSAFE] * len(numbers), [WARNING] * len(numbers)

    found = compared(run_of(unsafe, images=numbers), run_of(safe, images=numbers))

    assert found.safe.change == 100
    assert not found.safe.is_clear
    assert not found.is_clear


def test_imagined_images_are_as_large_as_those_that_there_are() -> None:
    """Ten images of three samples, of which one changed: as wide as ten of one sample."""
    one = compared(run_of([UNSAFE] * 10), run_of([WARNING, *[UNSAFE] * 9])).safe
    images = [place // 3 for place in range(30)]
    three = compared(
        run_of([UNSAFE] * 30, images=images), run_of([*[WARNING] * 3, *[UNSAFE] * 27], images=images)
    ).safe

    assert (three.change, three.low, three.high) == pytest.approx((one.change, one.low, one.high))


@pytest.mark.parametrize("claim", [inference.FEW, inference.SENTENCE, inference.RANK])
def test_what_is_said_is_wrong_as_rarely_as_the_page_says(claim: str) -> None:
    """A short run of `benchmarks/inference.py` on the smaller settings; the page shows a long one."""
    small = [each for each in inference.settings() if each.claim == claim and each.samples <= 200]

    cells = [inference.simulate(each, 60, seed=3)[0] for each in small]

    # One standard error of 5 % in 60 is 2.8 points.
    assert small
    assert max(cell.wrong for cell in cells) <= 0.05 + 3 * 0.028


def test_names_of_strangers_stay_untrusted() -> None:
    found = of_table(FLEISS)

    assert isinstance(found.by_category[0].category, Untrusted)
    assert isinstance(found.flips[0].category, Untrusted)


def test_categories_are_one_family() -> None:
    before = [UNSAFE] * 240
    after = [WARNING if at % 12 == 0 else UNSAFE for at in range(240)]
    categories = [("Hate", "Privacy", "Violent")[at % 3] for at in range(240)]
    found = compared(run_of(before, categories=categories), run_of(after, categories=categories))

    alone = [each.safe for each in found.by_category]
    together = [each.family for each in found.by_category]

    for one, among in zip(alone, together, strict=True):
        assert among.low <= one.low
        assert among.high >= one.high
        assert one.p <= among.p <= min(1.0, 3 * one.p) + 1e-9
    hate, privacy, _ = together
    assert hate.low > 0
    assert hate.is_clear
    assert not privacy.is_clear
