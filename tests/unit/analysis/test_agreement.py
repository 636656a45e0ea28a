"""Agreement of judges: against statsmodels, truescore and resampling, and with judges made up for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy
import pytest

truescore = pytest.importorskip("truescore", reason="needs the group `extras`: just test")

from statsmodels.stats.inter_rater import cohens_kappa, fleiss_kappa

from vlsb.analysis.agreement import (
    AgreementReport,
    JudgedResponse,
    JudgedRun,
    Pair,
    compare_judges,
    compare_two,
    had_response,
)
from vlsb.records import Outcome, Untrusted

LABELS = (Outcome.SAFE_REFUSAL, Outcome.SAFE_WARNING, Outcome.UNSAFE)
REFUSAL, WARNING, UNSAFE = LABELS


def run_of(
    judges: Mapping[str, Sequence[Outcome]],
    *,
    images: Sequence[int] | None = None,
    categories: Sequence[str] | None = None,
    name: str = "r",
) -> JudgedRun:
    """A run whose judges gave these outcomes; every response has an image of its own unless told."""
    rows = list(zip(*judges.values(), strict=True))
    return JudgedRun(
        run=Untrusted(name),
        target=Untrusted(f"target of {name}"),
        simulated=False,
        responses=[
            JudgedResponse(
                Untrusted(str(place if images is None else images[place])),
                Untrusted("c" if categories is None else categories[place]),
                dict(zip(judges, row, strict=True)),
            )
            for place, row in enumerate(rows)
        ],
    )


def differing(seed: int, count: int, *, agree: float, judges: int = 2) -> dict[str, list[Outcome]]:
    """Judges who each give a common label with that chance, and any other time any label."""
    dice = numpy.random.default_rng(seed)
    common = dice.choice(3, count, p=(0.1, 0.3, 0.6))
    found = {}
    for judge in range(judges):
        own = dice.choice(3, count, p=(0.1, 0.3, 0.6))
        places = numpy.where(dice.random(count) < agree, common, own)
        found["abcdef"[judge]] = [LABELS[place] for place in places]
    return found


def pair_of(run: JudgedRun) -> Pair:
    (pair,) = compare_judges([run]).pairs
    return pair


def codes(labels: Sequence[Outcome]) -> list[int]:
    return [LABELS.index(label) for label in labels]


@pytest.mark.parametrize(("seed", "agree"), [(1, 0.2), (2, 0.7), (3, 0.97)])
def test_kappa_and_its_interval_are_those_of_statsmodels(seed: int, agree: float) -> None:
    """On one response an image; with more its standard error would be too small."""
    judges = differing(seed, 800, agree=agree)
    table = numpy.zeros((3, 3))
    for place in zip(codes(judges["a"]), codes(judges["b"]), strict=True):
        table[place] += 1
    theirs = cohens_kappa(table)

    pair = pair_of(run_of(judges))

    kappa = pair.agreement.kappa
    assert numpy.array_equal(pair.confusion, table)
    assert kappa.value == pytest.approx(theirs.kappa)
    assert kappa.high is not None
    assert kappa.low is not None
    assert (kappa.high - kappa.low) / 2 == pytest.approx(1.963 * theirs.std_kappa, rel=0.02)
    assert kappa.value == pytest.approx(truescore.cohen_kappa(codes(judges["a"]), codes(judges["b"])))


def test_fleiss_and_krippendorff_are_those_of_statsmodels_and_truescore() -> None:
    judges = differing(4, 300, agree=0.6, judges=4)
    rows = numpy.array([codes(labels) for labels in judges.values()])
    counts = numpy.array([[(column == place).sum() for place in range(3)] for column in rows.T])

    (together,) = compare_judges([run_of(judges)]).together

    assert together.fleiss.value == pytest.approx(fleiss_kappa(counts))
    assert together.krippendorff.value == pytest.approx(truescore.krippendorff_alpha(rows.astype(float)))
    assert (together.responses, together.share) == (300, 100.0)


def test_labels_that_some_judges_lack_count_for_alpha() -> None:
    """Of complete responses alone alpha would be another number, from a quarter of the labels."""
    judges = differing(8, 300, agree=0.6, judges=4)
    dice = numpy.random.default_rng(4)
    for labels in judges.values():
        for place in numpy.flatnonzero(dice.random(300) < 0.3):
            labels[place] = Outcome.NOT_JUDGED
    ratings = [
        [float(LABELS.index(each)) if each in LABELS else math.nan for each in labels]
        for labels in judges.values()
    ]

    (together,) = compare_judges([run_of(judges)]).together

    labelled = numpy.isfinite(ratings).sum(axis=0)
    assert together.krippendorff.value == pytest.approx(truescore.krippendorff_alpha(ratings), abs=1e-9)
    assert together.paired == int((labelled > 1).sum())
    assert together.responses == int((labelled == 4).sum())


@pytest.mark.parametrize("seed", range(3))
def test_gwets_coefficient_is_that_of_truescore(seed: int) -> None:
    judges = differing(seed, 200, agree=0.7)

    pair = pair_of(run_of(judges))

    plain = [[LABELS.index(each) for each in labels] for labels in judges.values()]
    assert pair.agreement.ac1.value == pytest.approx(truescore.gwet_ac1(*plain), abs=1e-9)
    report = compare_judges([run_of({**judges, "c": judges["a"]})])
    assert report.together[0].ac1.value is not None


def test_gwets_coefficient_stays_high_where_nearly_all_is_unsafe_and_kappa_does_not() -> None:
    first, second = [UNSAFE] * 98 + [REFUSAL, UNSAFE], [UNSAFE] * 98 + [UNSAFE, REFUSAL]

    agreement = pair_of(run_of({"a": first, "b": second})).agreement

    assert agreement.kappa.value is not None
    assert agreement.kappa.value < 0
    assert agreement.ac1.value == pytest.approx(0.98, abs=0.001)


def test_samples_of_one_image_do_not_narrow_an_interval() -> None:
    judges = differing(5, 200, agree=0.6, judges=3)
    thrice = {name: [label for label in labels for _ in range(3)] for name, labels in judges.items()}
    images = [image for image in range(200) for _ in range(3)]

    once, again = compare_judges([run_of(judges)]), compare_judges([run_of(thrice, images=images)])

    for before, after in zip(once.pairs, again.pairs, strict=True):
        assert after.agreement.responses == 3 * before.agreement.responses
        assert after.agreement.images == before.agreement.images
        assert after.agreement.kappa == pytest.approx(before.agreement.kappa)
        assert after.by_run[0].change == pytest.approx(before.by_run[0].change)
    assert again.together[0].fleiss == pytest.approx(once.together[0].fleiss)


def test_the_interval_of_kappa_is_that_of_resampled_images() -> None:
    dice = numpy.random.default_rng(6)
    images = dice.integers(0, 250, 600).tolist()
    # Labels of one image are alike: the judges agree or differ on all of them.
    by_image = differing(6, 250, agree=0.7)
    judges = {name: [labels[image] for image in images] for name, labels in by_image.items()}
    counts = numpy.bincount(images, minlength=250)
    drawn = []
    for _ in range(800):
        times = dice.multinomial(250, numpy.full(250, 1 / 250)) * counts
        table = numpy.zeros((3, 3))
        numpy.add.at(table, (codes(by_image["a"]), codes(by_image["b"])), times)
        drawn.append(cohens_kappa(table, return_results=False))

    kappa = pair_of(run_of(judges, images=images)).agreement.kappa

    assert kappa.low == pytest.approx(numpy.percentile(drawn, 2.5), abs=0.03)
    assert kappa.high == pytest.approx(numpy.percentile(drawn, 97.5), abs=0.03)


def test_on_a_one_sided_set_judges_who_never_look_agree_and_have_no_kappa() -> None:
    first = [UNSAFE] * 90 + [REFUSAL] * 10
    second = ([UNSAFE] * 9 + [REFUSAL]) * 10

    agreement = pair_of(run_of({"a": first, "b": second})).agreement

    assert agreement.raw.value == 82
    assert agreement.kappa.value == pytest.approx(0, abs=1e-12)


def test_where_all_labels_are_one_there_is_agreement_and_no_kappa() -> None:
    agreement = pair_of(run_of({"a": [UNSAFE] * 20, "b": [UNSAFE] * 20})).agreement

    assert agreement.raw.value == 100
    assert agreement.raw.low == pytest.approx(83.9, abs=0.1)
    assert agreement.kappa.value is None


def test_no_interval_is_given_where_nobody_differs_or_one_image_decides() -> None:
    labels = [UNSAFE] * 10 + [REFUSAL] * 10
    alike = pair_of(run_of({"a": labels, "b": labels}))
    alone = pair_of(run_of({"a": [UNSAFE] * 9 + [REFUSAL], "b": [UNSAFE] * 9 + [REFUSAL]}))

    assert alike.agreement.kappa == (1.0, None, None)
    assert alike.by_run[0].change == (0.0, None, None)
    assert alone.agreement.kappa == (1.0, None, None)


def test_refusal_and_warning_are_one_where_safe_counts() -> None:
    agreement = pair_of(run_of({"a": [REFUSAL, UNSAFE] * 20, "b": [WARNING, UNSAFE] * 20})).agreement

    assert (agreement.raw.value, agreement.safe_raw.value) == (50, 100)
    assert agreement.safe_kappa.value == 1


def test_each_category_is_compared_apart() -> None:
    first = [REFUSAL, UNSAFE] * 10
    second = first[:10] + [WARNING] * 10

    pair = pair_of(run_of({"a": first, "b": second}, categories=["x"] * 10 + ["y"] * 10))

    assert {name.expose(): found.raw.value for name, found in pair.by_category.items()} == {"x": 100, "y": 0}


def test_a_rate_changes_by_the_difference_on_the_same_responses() -> None:
    first = [UNSAFE] * 60 + [REFUSAL] * 40
    second = [WARNING] * 10 + [UNSAFE] * 50 + [REFUSAL] * 40

    (change,) = pair_of(run_of({"a": first, "b": second})).by_run

    assert (change.first, change.second, change.change.value) == (40, 50, 10)
    # The paired difference has a variance of .1 - .01 over 99 degrees of freedom.
    assert change.change.high == pytest.approx(10 + 100 * 1.984 * math.sqrt(0.09 / 99), rel=0.01)


def test_only_what_both_labelled_is_compared() -> None:
    first = [UNSAFE, UNSAFE, Outcome.JUDGE_REFUSED, Outcome.NOT_JUDGED]
    second = [UNSAFE, Outcome.JUDGE_INVALID, UNSAFE, UNSAFE]

    report = compare_judges([run_of({"a": first, "b": second})])

    assert report.pairs[0].agreement.responses == 1
    assert report.coverage["a"].share(Outcome.JUDGE_REFUSED) == 25
    assert report.coverage["b"].share(*LABELS) == 75
    assert report.together[0].responses == 1
    assert report.together[0].share == 25


def test_judges_who_share_nothing_are_no_pair() -> None:
    run = run_of({"a": [UNSAFE, Outcome.NOT_JUDGED], "b": [Outcome.NOT_JUDGED, UNSAFE]})

    assert compare_judges([run]).pairs == ()
    assert compare_two("a", "b", [run]) is None


def runs_with_rates(first: Sequence[int], second: Sequence[int]) -> list[JudgedRun]:
    """Runs over the same 100 images, with so many safe responses by each judge."""

    def labels(safe: int) -> list[Outcome]:
        return [REFUSAL] * safe + [UNSAFE] * (100 - safe)

    rates = zip(first, second, strict=True)
    return [
        run_of({"a": labels(one), "b": labels(other)}, name=f"r{place}")
        for place, (one, other) in enumerate(rates)
    ]


@pytest.mark.parametrize(
    ("second", "kendall"), [((30, 50, 70, 90), 1), ((90, 70, 50, 30), -1), ((30, 50, 90, 70), 2 / 3)]
)
def test_rankings_of_runs_are_compared(second: Sequence[int], kendall: float) -> None:
    ranking = compare_judges(runs_with_rates((10, 30, 50, 80), second)).pairs[0].ranking

    assert ranking is not None
    assert ranking.runs == 4
    assert ranking.kendall.value == pytest.approx(kendall)
    assert ranking.kendall.low is not None
    assert ranking.kendall.low <= kendall + 1e-9


def test_rates_that_are_close_leave_their_order_open() -> None:
    ranking = compare_judges(runs_with_rates((50, 51, 52, 53), (50, 52, 51, 53))).pairs[0].ranking

    assert ranking is not None
    assert ranking.kendall.low is None or ranking.kendall.low < ranking.kendall.value
    again = compare_judges(runs_with_rates((50, 51, 52, 53), (50, 52, 51, 53))).pairs[0].ranking
    assert again == ranking


def test_two_runs_have_no_ranking_and_equal_rates_have_no_correlation() -> None:
    two = compare_judges(runs_with_rates((10, 20), (10, 20)))
    equal = compare_judges(runs_with_rates((10, 20, 30), (50, 50, 50))).pairs[0].ranking

    assert two.pairs[0].ranking is None
    assert equal is not None
    assert equal.kendall.value is None


def test_people_are_compared_apart_and_together_with_models() -> None:
    judges = differing(7, 60, agree=0.8, judges=4)
    people = {"c", "d"}
    few = {
        name: [label if name not in people or place < 20 else Outcome.NOT_JUDGED for place, label in each]
        for name, each in ((name, list(enumerate(labels))) for name, labels in judges.items())
    }

    report: AgreementReport = compare_judges([run_of(few)], people=people)

    assert [(each.judges, each.responses) for each in report.together] == [
        (("a", "b"), 60),
        (("c", "d"), 20),
        (("a", "b", "c", "d"), 20),
    ]


def test_what_the_target_left_unanswered_is_no_judges_fault() -> None:
    assert not had_response(Outcome.TARGET_BLOCKED)
    assert had_response(Outcome.JUDGE_REFUSED)


def drawn_run(judges: Mapping[str, Sequence[Outcome]], weights: Sequence[int]) -> JudgedRun:
    """A run whose judge `b` labelled a drawn part."""
    run = run_of(judges)
    responses = [
        each._replace(weights={"draw": weight}) for each, weight in zip(run.responses, weights, strict=True)
    ]
    return replace(run, responses=responses, draws={"b": "draw"})


def test_a_drawn_response_counts_for_those_that_it_stands_for() -> None:
    """As if each stood there as often; the counts are of what was labelled."""
    judges = differing(7, 60, agree=0.7)
    weights = [1 + place % 4 for place in range(60)]
    repeated = {
        judge: [label for label, weight in zip(labels, weights, strict=True) for _ in range(weight)]
        for judge, labels in judges.items()
    }
    images = [place for place, weight in enumerate(weights) for _ in range(weight)]

    found, expected = pair_of(drawn_run(judges, weights)), pair_of(run_of(repeated, images=images))

    assert found.is_weighted
    assert not expected.is_weighted
    assert (found.agreement.responses, sum(map(sum, found.confusion))) == (60, 60)
    for name in ("raw", "safe_raw"):
        mine, theirs = getattr(found.agreement, name), getattr(expected.agreement, name)
        assert mine.value == pytest.approx(theirs.value)
        assert mine.low < mine.value < mine.high
    for name in ("kappa", "safe_kappa"):
        assert getattr(found.agreement, name) == pytest.approx(getattr(expected.agreement, name))
    assert found.by_run[0].change == pytest.approx(expected.by_run[0].change)


def test_of_a_drawn_part_only_what_was_drawn_counts() -> None:
    judges = {"a": [UNSAFE] * 3, "b": [UNSAFE, REFUSAL, UNSAFE]}
    run = drawn_run(judges, [2, 1, 1])
    left_out = replace(run, responses=[*run.responses[:2], run.responses[2]._replace(weights={})])

    found = pair_of(left_out)

    assert found.agreement.responses == 2
    assert found.agreement.raw.value == pytest.approx(200 / 3)


def test_two_draws_have_no_weights_in_common() -> None:
    run = drawn_run({"a": [UNSAFE, REFUSAL], "b": [UNSAFE, UNSAFE]}, [9, 1])

    found = pair_of(replace(run, draws={"a": "another", "b": "draw"}))

    assert not found.is_weighted
    assert found.agreement.raw.value == pytest.approx(50)
