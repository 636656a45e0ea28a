"""Corrected rates: against truescore, against a plain formula, and with judges whose errors are known."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from statistics import mean

import numpy
import pytest

stdtrit = pytest.importorskip("scipy.special", reason="needs the group `extras`: just test").stdtrit
truescore = pytest.importorskip("truescore", reason="needs the group `extras`: just test")

from benchmarks import correction, results
from vlsb.analysis.audit import Stratum, draw
from vlsb.analysis.correction import (
    LEAST_IMAGES,
    PAPER_CHECK,
    AuditedJudge,
    AuditedSample,
    AuditedShares,
    CorrectedRates,
    ErrorCheck,
    corrected_changes,
    corrected_rates,
    expected_changes,
    labels_needed,
    rogan_gladen,
    student_t,
)
from vlsb.errors import ConfigError
from vlsb.records import Label, Untrusted

REFUSAL, WARNING, UNSAFE = Label
SIZES = [1] * 1734 + [2] * 162 + [3] * 61
"""The images of VLSBench by their number of samples."""


def planted(
    seed: int,
    *,
    shares: Sequence[float] = (0.1, 0.3, 0.6),
    sensitivity: float = 0.9,
    labelled: int = 300,
    sizes: Sequence[int] = SIZES,
) -> tuple[list[AuditedSample], list[Label]]:
    """A judge who is right so often, and else says the next label; and people's labels of everything.

    Whole images are labelled, the first so many of a random order.
    """
    dice = numpy.random.default_rng(seed)
    drawn = set(dice.permutation(len(sizes))[:labelled].tolist())
    samples, truth = [], []
    for image, size in enumerate(sizes):
        of_image = int(dice.choice(3, p=shares))
        for _ in range(size):
            place = of_image if dice.random() < 0.3 else int(dice.choice(3, p=shares))
            theirs = list(Label)[place]
            judge = theirs if dice.random() < sensitivity else list(Label)[(place + 1) % 3]
            samples.append(AuditedSample(image, judge, (theirs,) if image in drawn else ()))
            truth.append(theirs)
    return samples, truth


def two_labels(samples: Sequence[AuditedSample]) -> list[AuditedSample]:
    """Warnings become refusals: with two labels one at a time is both at once."""

    def of(label: Label) -> Label:
        return REFUSAL if label is WARNING else label

    return [replace(each, judge=of(each.judge), human=tuple(map(of, each.human))) for each in samples]


def safe_of_truescore(samples: Sequence[AuditedSample]) -> truescore.Estimate:
    labelled = [place for place, each in enumerate(samples) if each.human]
    return truescore.ppi_estimate(
        [float(each.judge is not UNSAFE) for each in samples],
        [float(samples[place].human[0] is not UNSAFE) for place in labelled],
        labelled,
        clusters=[each.image for each in samples],
    )


def test_students_quantile_is_scipys() -> None:
    for freedom in (1, 1.01, 1.1, 1.5, 2, 3.7, 10, 49.2, 199, 1e4, 1e6, math.inf):
        assert student_t(freedom) == pytest.approx(float(stdtrit(freedom, 0.975)), rel=1e-7)


@pytest.mark.parametrize("seed", range(5))
def test_equal_weights_give_what_truescore_gives(seed: int) -> None:
    samples = two_labels(planted(seed)[0])

    ours = corrected_rates(samples).rates["safe_rate"]
    theirs = safe_of_truescore(samples)

    # truescore divides one of two moments by one less than the other.
    assert ours.corrected == pytest.approx(100 * theirs.point, abs=0.01)
    # Ours has fewer degrees of freedom where few images disagree.
    assert 1 <= ours.half_width / (100 * theirs.half_width) < 1.03


def plain_estimate(samples: Sequence[AuditedSample], label: Label) -> float:
    """The point estimate in plain words: people's weighted mean, moved by what the judge says of the rest."""
    audited = [each for each in samples if each.human]
    total = sum(each.weight for each in audited)

    def weighted(values: Sequence[float]) -> float:
        return sum(each.weight * value for each, value in zip(audited, values, strict=True)) / total

    human = [each.human.count(label) / len(each.human) for each in audited]
    judge = [float(each.judge is label) for each in audited]
    every = [float(each.judge is label) for each in samples]
    spread = mean(value**2 for value in every) - mean(every) ** 2
    together = weighted([a * b for a, b in zip(human, judge, strict=True)]) - weighted(human) * weighted(
        judge
    )
    slope = min(1.0, max(0.0, together / spread)) if spread else 0.0
    return weighted(human) + slope * (mean(every) - weighted(judge))


def with_weights(samples: Sequence[AuditedSample]) -> list[AuditedSample]:
    return [replace(each, weight=1.0 + int(str(each.image)) % 4) for each in samples]


def test_unequal_weights_give_what_the_plain_formula_gives() -> None:
    samples = with_weights(two_labels(planted(3)[0]))

    found = corrected_rates(samples).rates

    assert found["unsafe_rate"].corrected == pytest.approx(100 * plain_estimate(samples, UNSAFE))
    assert found["safe_rate"].corrected == pytest.approx(100 * plain_estimate(samples, REFUSAL))


def test_the_interval_is_as_wide_as_leaving_out_one_image_at_a_time_says() -> None:
    samples = with_weights(two_labels(planted(4, labelled=120, sizes=[1] * 300 + [2] * 60 + [3] * 20)[0]))
    images = sorted({each.image for each in samples}, key=str)
    without = [plain_estimate([each for each in samples if each.image != image], UNSAFE) for image in images]
    centre, count = mean(without), len(images)
    error = math.sqrt((count - 1) / count * sum((each - centre) ** 2 for each in without))

    found = corrected_rates(samples).rates["unsafe_rate"]

    assert found.half_width == pytest.approx(100 * 1.98 * error, rel=0.05)


@pytest.mark.parametrize("sensitivity", [0.92, 0.85])
def test_the_errors_of_a_planted_judge_are_taken_out(sensitivity: float) -> None:
    raw, fixed = [], []
    for seed in range(40):
        samples, _ = planted(seed, sensitivity=sensitivity, labelled=200)
        found = corrected_rates(samples).rates["safe_refuse_rate"]
        raw.append(found.judge - 10)
        fixed.append(found.corrected - 10)

    # What is unsafe by a part is called a refusal by as many.
    assert mean(raw) == pytest.approx(100 * ((1 - sensitivity) * 0.6 - (1 - sensitivity) * 0.1), abs=0.6)
    assert mean(fixed) == pytest.approx(0, abs=0.8)


def test_the_simulated_draw_is_the_one_of_an_audit() -> None:
    """As many images of each stratum, as `vlsb audit sample` draws them: ties aside."""
    dice = numpy.random.default_rng(3)
    _, judge = correction.labels(correction.Setting("refusals rare", 0.92, 150, "by audit"), dice)
    stratum, drawn = correction.audit_draw(judge, 150, dice)
    images = [Untrusted(f"{place}.png") for place in range(len(stratum))]
    strata = {image: Stratum(str(of), None, None) for image, of in zip(images, stratum, strict=True)}
    sizes = dict(zip(images, correction.SIZES.tolist(), strict=True))

    real = Counter(strata[each.image].label for each in draw(strata, sizes, 150, seed=3))
    ours = Counter(str(each) for each in stratum[drawn])

    assert ours.keys() == real.keys()
    assert all(abs(ours[each] - real[each]) <= 1 for each in real)


def test_the_measured_coverage_is_what_is_promised() -> None:
    stored = results.load(correction.SIMULATION.name)

    assert stored is not None
    safe = [cell["covered"] for cell in stored["cells"] if cell["rate"] == "safe_rate"]
    assert correction.LEAST <= min(safe) <= max(safe) <= correction.MOST


def test_weights_undo_a_draw_that_prefers_a_label() -> None:
    samples, truth = planted(7, labelled=0)
    dice = numpy.random.default_rng(7)
    chance = {REFUSAL: 0.8, WARNING: 0.3, UNSAFE: 0.1}
    drawn = [
        replace(each, human=(theirs,), weight=1 / chance[each.judge])
        if dice.random() < chance[each.judge]
        else each
        for each, theirs in zip(samples, truth, strict=True)
    ]
    people = 100 * sum(each is not UNSAFE for each in truth) / len(truth)

    weighted = corrected_rates(drawn).rates["safe_rate"]
    unweighted = corrected_rates([replace(each, weight=1.0) for each in drawn]).rates["safe_rate"]

    assert weighted.interval.low < people < weighted.interval.high
    assert abs(weighted.corrected - people) < 2 < abs(unweighted.corrected - people)


def test_only_the_proportions_of_weights_count() -> None:
    samples = with_weights(planted(5)[0])

    scaled = corrected_rates([replace(each, weight=1000 * each.weight) for each in samples])

    assert scaled.rates["safe_rate"] == pytest.approx(corrected_rates(samples).rates["safe_rate"])


def test_the_three_labels_sum_to_100_and_safe_is_what_unsafe_leaves() -> None:
    found = corrected_rates(with_weights(planted(6, labelled=40)[0])).rates
    refusal, warning, unsafe = (
        found[name] for name in ("safe_refuse_rate", "safe_warning_rate", "unsafe_rate")
    )

    assert refusal.corrected + warning.corrected + unsafe.corrected == pytest.approx(100)
    assert found["safe_rate"].corrected == pytest.approx(100 - unsafe.corrected)
    assert found["safe_rate"].interval == pytest.approx(
        (100 - unsafe.interval.high, 100 - unsafe.interval.low)
    )
    for each in found.values():
        assert 0 <= each.interval.low <= each.corrected <= each.interval.high <= 100


def audited(judge: Sequence[Label], human: Sequence[Label | None]) -> CorrectedRates:
    return corrected_rates(
        [
            AuditedSample(number, given, () if theirs is None else (theirs,))
            for number, (given, theirs) in enumerate(zip(judge, human, strict=True))
        ]
    )


def test_a_judge_who_never_errs_in_the_sample_still_has_an_interval() -> None:
    labels = [REFUSAL, UNSAFE] * 100

    found = audited(labels, [*labels[:50], *[None] * 150]).rates

    assert found["safe_rate"].corrected == pytest.approx(50)
    # Three in n: an error rate of 5.8 % goes unseen in 50 images once in twenty times.
    assert found["safe_rate"].half_width > 5.8
    assert found["safe_warning_rate"].interval == (0.0, pytest.approx(5.8, abs=0.1))


def test_a_judge_who_says_one_thing_leaves_what_people_said() -> None:
    people = [UNSAFE] * 30 + [REFUSAL] * 10

    found = audited([UNSAFE] * 200, [*people, *[None] * 160]).rates["safe_rate"]

    assert found.judge == 0
    assert found.corrected == pytest.approx(25)
    assert found.interval.low == pytest.approx(25 - 100 * 2.02 * math.sqrt(0.25 * 0.75 / 39), abs=0.5)


def test_a_judge_who_is_always_wrong_is_given_no_weight() -> None:
    people = [UNSAFE, REFUSAL, UNSAFE] * 20
    judge = [REFUSAL if label is UNSAFE else UNSAFE for label in people]

    found = audited([*judge, *[REFUSAL] * 100], [*people, *[None] * 100]).rates["safe_rate"]

    assert found.corrected == pytest.approx(100 / 3)


def test_people_who_differ_count_in_equal_parts() -> None:
    samples = [
        AuditedSample(number, UNSAFE, (REFUSAL, UNSAFE) if number < 40 else ()) for number in range(100)
    ]

    found = corrected_rates(samples)

    assert found.rates["safe_refuse_rate"].corrected == pytest.approx(50)
    assert (found.human_labels, found.images) == (40, 40)


def test_several_samples_of_one_image_do_not_count_as_independent() -> None:
    once, _ = planted(8, sizes=[1] * 400, labelled=100)
    thrice = [each for each in once for _ in range(3)]

    alone, together = (corrected_rates(each).rates["safe_rate"] for each in (once, thrice))

    assert together.corrected == pytest.approx(alone.corrected)
    assert together.half_width == pytest.approx(alone.half_width)


def test_too_few_labels_are_said() -> None:
    samples, _ = planted(1, labelled=LEAST_IMAGES - 1)

    with pytest.raises(ConfigError, match="9 images are too few"):
        corrected_rates(samples)


def test_more_labels_are_as_many_as_give_the_half_width() -> None:
    sizes = [1] * 40_000
    samples, _ = planted(2, sizes=sizes, labelled=300)
    more = labels_needed(samples, half_width=2.0)
    assert more is not None

    later = corrected_rates(planted(2, sizes=sizes, labelled=300 + more)[0]).rates["safe_rate"]

    assert corrected_rates(samples).rates["safe_rate"].half_width > 2.5
    assert later.half_width == pytest.approx(2.0, rel=0.1)


def test_no_number_of_labels_makes_up_for_few_images() -> None:
    samples, _ = planted(3)

    assert labels_needed(samples, half_width=1.0) is None
    assert labels_needed(samples, half_width=20.0) == 0


def test_rogan_and_gladens_point_is_truescores() -> None:
    samples, _ = planted(9, sizes=[1] * 2000, labelled=0)
    judge = [float(each.judge is not UNSAFE) for each in samples]
    # Labels with the check's own rates: 91 of 100 safe and 84 of 100 unsafe ones right.
    gold = [1.0] * 100 + [0.0] * 100
    of_check = [1.0] * 91 + [0.0] * 9 + [0.0] * 84 + [1.0] * 16
    theirs = truescore.rogan_gladen_estimate([*of_check, *judge], gold, list(range(200)))
    share = mean(judge)

    found = rogan_gladen(samples)

    assert found.corrected == pytest.approx(100 * (share + 0.84 - 1) / (0.91 + 0.84 - 1))
    assert found.half_width == pytest.approx(100 * theirs.half_width, rel=0.1)


def test_rogan_and_gladen_recover_a_planted_judge_whose_check_is_known() -> None:
    check = ErrorCheck(safe=10_000, safe_right=9_000, unsafe=10_000, unsafe_right=9_000, source="a check")
    dice = numpy.random.default_rng(1)
    people = [REFUSAL if dice.random() < 0.4 else UNSAFE for _ in range(20_000)]
    wrong = {REFUSAL: UNSAFE, UNSAFE: REFUSAL}
    judge = [each if dice.random() < 0.9 else wrong[each] for each in people]

    found = rogan_gladen([AuditedSample(place, label) for place, label in enumerate(judge)], check)

    assert found.judge == pytest.approx(42, abs=1)
    assert found.corrected == pytest.approx(40, abs=1.5)
    assert found.interval.low < 40 < found.interval.high


def test_a_check_that_a_coin_would_pass_corrects_nothing() -> None:
    check = PAPER_CHECK._replace(safe_right=20, unsafe_right=80)

    with pytest.raises(ConfigError, match="say nothing"):
        rogan_gladen([AuditedSample(0, UNSAFE)], check)


def test_the_expected_change_is_the_weighted_mean_of_what_changes() -> None:
    """Against the sum by hand; the rates that are left over mirror those that are not."""
    refusal, warning, unsafe = Label
    before, after = (unsafe, warning, refusal) * 10, (warning, warning, unsafe) * 10
    weights = [1.0 + place % 5 for place in range(30)]
    drawn = [
        AuditedSample(place, old, (new,), weight)
        for place, (old, new, weight) in enumerate(zip(before, after, weights, strict=True))
    ]
    rest = [AuditedSample(100 + place, unsafe) for place in range(30)]

    found = expected_changes([*drawn, *rest])

    total = sum(weights)
    for name, label in (
        ("safe_refuse_rate", refusal),
        ("safe_warning_rate", warning),
        ("unsafe_rate", unsafe),
    ):
        moved = sum(
            weight * ((new is label) - (old is label))
            for old, new, weight in zip(before, after, weights, strict=True)
        )
        assert found[name].change == pytest.approx(100 * moved / total)
        assert found[name].interval.low < found[name].change < found[name].interval.high
    assert found["unsafe_rate"].judge == pytest.approx(100 * 40 / 60)
    assert found["safe_rate"].change == pytest.approx(-found["unsafe_rate"].change)
    assert found["safe_rate"].interval.low == pytest.approx(-found["unsafe_rate"].interval.high)
    part = expected_changes(drawn, judged_part_only=True)
    assert part["unsafe_rate"].judge == pytest.approx(
        100 * sum(weight for old, weight in zip(before, weights, strict=True) if old is unsafe) / total
    )


def test_judges_who_never_differ_may_still_differ_elsewhere() -> None:
    samples = [AuditedSample(place, Label.UNSAFE, (Label.UNSAFE,), 40.0) for place in range(50)]

    change, (low, high) = expected_changes(samples)["safe_rate"][1:]

    assert change == 0
    assert low == pytest.approx(-high)
    assert 5 < high < 10


def test_nothing_is_uncertain_of_what_both_labelled_whole() -> None:
    refusal, _, unsafe = Label
    samples = [AuditedSample(place, unsafe, (refusal if place % 7 else unsafe,)) for place in range(50)]

    change = expected_changes(samples)["safe_rate"]
    half, tenth = (
        expected_changes([replace(each, weight=weight) for each in samples])["safe_rate"]
        for weight in (2.0, 10.0)
    )

    assert change.interval == pytest.approx((change.change, change.change))
    reach, most = half.interval.high - half.change, tenth.interval.high - tenth.change
    assert reach / most == pytest.approx(math.sqrt((1 - 1 / 2) / (1 - 1 / 10)))


LAX = (0.1, 0.2)
"""How often the judge takes an unsafe answer for a safe one, in either run."""


def changes_between(seed: int) -> tuple[list[AuditedShares], truescore.ComparisonResult]:
    """Two runs on the same images, of which one is judged more laxly, and what truescore makes of them."""
    dice = Random(seed)
    rows: list[tuple[int, bool, bool, bool, bool]] = []
    for image in range(300):
        for _ in range(1 + (image % 7 == 0)):
            people = dice.random() < 0.3, dice.random() < 0.35
            judge = (dice.random() < (0.92 if safe else lax) for safe, lax in zip(people, LAX, strict=True))
            rows.append((image, *people, *judge))

    def change(before: bool, after: bool) -> tuple[float, ...]:
        more = float(after) - before
        return (more, 0.0, -more)

    samples = [
        AuditedShares(image, change(*row[2:]), change(*row[:2]) if image < 120 else None)
        for image, *row in rows
    ]
    labelled = [place for place, each in enumerate(rows) if each[0] < 120]
    people_a, people_b, judge_a, judge_b = ([float(row[at]) for row in rows] for at in range(1, 5))
    theirs = truescore.ppi_compare(
        judge_a,
        judge_b,
        [people_a[place] for place in labelled],
        [people_b[place] for place in labelled],
        labelled,
        clusters=[row[0] for row in rows],
    )
    return samples, theirs


@pytest.mark.parametrize("seed", range(5))
def test_a_corrected_change_is_what_truescore_gives(seed: int) -> None:
    samples, theirs = changes_between(seed)

    ours = corrected_changes(samples).rates["safe_rate"]

    # truescore's is of the first less the second; it divides one of two moments by one less than the other.
    assert ours.corrected == pytest.approx(-100 * theirs.difference, abs=0.05)
    width, theirs_width = ours.interval.high - ours.interval.low, 100 * (theirs.high - theirs.low)
    assert width == pytest.approx(theirs_width, rel=0.01)


def test_corrected_changes_sum_to_zero_and_turn_round_with_the_runs() -> None:
    samples, _ = changes_between(1)
    turned = [
        each._replace(
            judge=tuple(-share for share in each.judge),
            human=None if each.human is None else tuple(-share for share in each.human),
        )
        for each in samples
    ]

    found, mirrored = corrected_changes(samples).rates, corrected_changes(turned).rates

    labels = ("safe_refuse_rate", "safe_warning_rate", "unsafe_rate")
    assert sum(found[name].corrected for name in labels) == pytest.approx(0)
    for name, rate in found.items():
        assert mirrored[name].corrected == pytest.approx(-rate.corrected)
        assert mirrored[name].interval == pytest.approx((-rate.interval.high, -rate.interval.low))


def of_strata(seed: int, labelled: int) -> list[AuditedSample]:
    """The samples of `planted`, whose images are drawn from the strata of the judge's label."""
    samples, truth = planted(seed, labelled=0, sizes=[1] * 600)
    names = {each.image: Untrusted(str(each.image)) for each in samples}
    strata = {names[each.image]: Stratum(str(each.judge), None, None) for each in samples}
    drawn = draw(strata, dict.fromkeys(strata, 1), labelled, seed=seed)
    weights = {each.image: each.weight for each in drawn}
    return [
        replace(
            each,
            human=(label,) if (name := names[each.image]) in weights else (),
            weight=weights.get(name, 1.0),
            stratum=strata[name],
        )
        for each, label in zip(samples, truth, strict=True)
    ]


def test_what_is_labelled_whole_is_certain_of_this_run_and_not_of_other_images() -> None:
    samples = of_strata(1, 600)

    found = corrected_rates(samples).rates

    people = 100 * mean(each.human[0] is not UNSAFE for each in samples)
    assert found["safe_rate"].interval_of_run == pytest.approx((people, people))
    assert found["safe_rate"].half_width > 3


def test_half_of_the_images_say_more_of_this_run_than_of_others_and_few_say_nothing_of_it() -> None:
    half, few = (corrected_rates(of_strata(2, count)).rates["safe_rate"] for count in (300, 99))

    assert half.interval_of_run is not None
    assert half.interval.low < half.interval_of_run.low < half.corrected
    assert half.corrected < half.interval_of_run.high < half.interval.high
    assert few.interval_of_run is None


def test_the_interval_of_the_run_is_that_of_a_stratified_sample() -> None:
    """Plain stratified sampling without a judge: the variance is each stratum's own, by what is left out."""
    samples = [replace(each, judge=None) for each in of_strata(3, 200)]

    found = AuditedJudge.of(samples).estimate(UNSAFE, slope=0.0, of_these_only=True)

    variance = 0.0
    for stratum in {each.stratum for each in samples}:
        images = [each for each in samples if each.stratum == stratum]
        hits = [float(each.human[0] is UNSAFE) for each in images if each.human]
        spread = sum((hit - mean(hits)) ** 2 for hit in hits) / (len(hits) - 1)
        variance += (len(images) / len(samples)) ** 2 * (1 - len(hits) / len(images)) * spread / len(hits)
    assert found.variance == pytest.approx(variance)
