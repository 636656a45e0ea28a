"""The variance of a rate by source: images, decoding, judging."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

pytest.importorskip("statsmodels", reason="needs the group `extras`: just test")

from benchmarks import inference
from tests.unit.analysis.test_rates import REFUSAL, UNSAFE
from vlsb.analysis.rates import Interval, SampleOutcome
from vlsb.analysis.variance import VarianceSources, variance_sources
from vlsb.records import Outcome, Untrusted

WORDS = Untrusted("words")
TEN_POINTS = Interval(40.0, 60.0)


def labels(sample_id: int, safe: str, texts: str = "", image: int | None = None) -> list[SampleOutcome]:
    """A sample with a label an epoch, s or u, or - for none; texts that have the same letter are alike."""
    outcomes = {"s": REFUSAL, "u": UNSAFE, "-": Outcome.NOT_JUDGED}
    answers: Sequence[str | None] = list(texts) or [None] * len(safe)
    name = Untrusted(str(sample_id if image is None else image))
    return [
        SampleOutcome(sample_id, name, WORDS, WORDS, WORDS, outcomes[each], answer=answer)
        for each, answer in zip(safe, answers, strict=True)
    ]


def sources(*samples: Sequence[SampleOutcome]) -> VarianceSources:
    found = variance_sources([each for sample in samples for each in sample], TEN_POINTS)
    assert found is not None
    return found


def test_parts_agree_with_a_calculation_by_hand() -> None:
    always, never = ([labels(at + 100 * i, each) for at in range(6)] for i, each in enumerate(("ss", "uu")))
    either = [labels(200 + at, "su") for at in range(4)]

    found = sources(*always, *never, *either)

    # Of 16 images twelve add (2 - 1) squared and four nothing: 16/15 * 12. By chance these four add 1 each.
    assert found.chance.percent == pytest.approx(100 * 4 / (12 * 16 / 15))
    assert found.images == pytest.approx(100 - found.chance.percent)
    assert found.judging is None
    assert (found.labels, found.repeated) == (32, 0)
    stays = found.images / 100
    assert found.half_width == 10
    assert found.with_twice_epochs == pytest.approx(10 * (stays + (1 - stays) / 2) ** 0.5)
    assert found.with_endless_epochs == pytest.approx(10 * stays**0.5)
    assert found.with_twice_images == pytest.approx(10 / 2**0.5)


def test_labels_of_one_text_tell_judging_from_decoding() -> None:
    stable = [labels(at, "sss" if at % 2 else "uuu", "aaa") for at in range(20)]
    judged = [labels(100 + at, "ssu", "aaa") for at in range(5)]
    decoded = [labels(200 + at, "ssu", "aab") for at in range(5)]

    found = sources(*stable, *judged, *decoded)

    assert found.judging is not None
    assert found.judging.percent == pytest.approx(found.chance.percent / 2)
    assert found.decoding == pytest.approx(found.chance.percent / 2)
    assert found.repeated == 60 + 15 + 10
    assert found.chance.interval is not None
    assert found.chance.interval.low < found.chance.percent < found.chance.interval.high


def test_epochs_that_agree_leave_everything_to_the_images() -> None:
    found = sources(*(labels(at, "ss" if at % 3 else "uu", "ab") for at in range(30)))

    assert (found.images, found.decoding) == (100, 0)
    assert found.chance.interval is None
    assert found.with_endless_epochs == found.half_width


def test_samples_of_one_image_are_one_cluster() -> None:
    apart = sources(*(labels(at, ("ss", "uu", "su")[at % 3]) for at in range(60)))
    shared = sources(*(labels(at, ("ss", "uu", "su")[at // 2 % 3], image=at // 2) for at in range(60)))

    # Twice the labels of half the images: all of a cluster agree, and chance is a smaller part.
    assert shared.chance.percent == pytest.approx(apart.chance.percent / 2, rel=0.03)


def test_a_sample_with_one_label_is_taken_to_differ_as_the_others_do() -> None:
    both = [labels(at, ("ss", "uu", "su")[at % 3]) for at in range(60)]
    single = [labels(100 + at, ("s-", "u-")[at % 2]) for at in range(60)]

    found = sources(*both, *single)

    # By chance 20 of 120 labels of pairs, so 30 of 180; of all the square of every image's sum.
    every = 120 / 119 * (40 * 1 + 60 * 0.25)
    assert found.chance.percent == pytest.approx(100 * 30 / every)


@pytest.mark.parametrize(
    "outcomes",
    [
        [each for at in range(20) for each in labels(at, "s-")],
        [each for at in range(9) for each in labels(at, ("ss", "su")[at % 2])],
        [each for at in range(20) for each in labels(at, "ss")],
    ],
    ids=["one label each", "few images", "all alike"],
)
def test_nothing_is_said_where_nothing_can_be_told(outcomes: list[SampleOutcome]) -> None:
    assert variance_sources(outcomes, TEN_POINTS) is None


def test_planted_parts_are_found_again() -> None:
    """The stored simulation has each of them, by a thousand replicates or more; this is a glance at one."""
    setting = inference.Setting(inference.SOURCE, "chance: 20 % of texts and 10 % of labels anew", 5, 200)

    (cell,) = inference.simulate(setting, 60, 1)

    assert cell.wrong < 0.05 + 3 * (0.05 * 0.95 / 60) ** 0.5
    assert 3 < cell.width < 5
