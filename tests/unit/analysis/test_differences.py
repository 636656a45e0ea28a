"""What differs between runs that stand side by side, and which one the others are held against."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from vlsb.analysis.differences import Aspect, Conditions, JudgeIdentity, SampleData, differences, typical
from vlsb.records import Untrusted

JUDGE = JudgeIdentity(
    name=Untrusted("gpt-4o"),
    settings={"model": '"gpt-4o"', "max_tokens": "512"},
    models=frozenset({Untrusted("gpt-4o-2024-08-06")}),
)
RUN = Conditions(
    samples={number: SampleData(f"row {number}", f"image {number}") for number in range(5)},
    deviations=frozenset({Untrusted("target top_p: 0.5 (official: 1.0)")}),
    judge=JUDGE,
    simulated=False,
)
WARMER = Untrusted("target temperature: 1.0 (official: 0.0)")


def judged_by(**changes: object) -> Conditions:
    return replace(RUN, judge=replace(JUDGE, **changes))


def test_a_run_does_not_differ_from_itself() -> None:
    found = differences(RUN, replace(RUN, samples=dict(RUN.samples)))

    assert not found
    assert found.shared == 5


def test_samples_that_only_one_run_has_are_counted_for_each() -> None:
    others = {number: SampleData(f"row {number}", f"image {number}") for number in range(3, 10)}

    found = differences(RUN, replace(RUN, samples=others))

    assert found.aspects == (Aspect.SAMPLES,)
    assert (found.shared, found.only_first, found.only_second, found.changed) == (2, 3, 5, 0)


@pytest.mark.parametrize("sample", [SampleData("another row", "image 2"), SampleData("row 2", "another")])
def test_a_shared_sample_with_another_row_or_image_is_other_data(sample: SampleData) -> None:
    found = differences(RUN, replace(RUN, samples={**RUN.samples, 2: sample}))

    assert found.aspects == (Aspect.DATA,)
    assert (found.shared, found.changed) == (5, 1)


def test_an_image_that_was_not_sent_yet_makes_no_difference() -> None:
    unsent = {number: each._replace(image=None) for number, each in RUN.samples.items()}

    assert not differences(RUN, replace(RUN, samples=unsent))


def test_deviations_that_both_have_are_none_between_them() -> None:
    found = differences(RUN, replace(RUN, deviations=RUN.deviations | {WARMER}))

    assert found.aspects == (Aspect.PROTOCOL,)
    assert (found.deviations_first, found.deviations_second) == ((), (WARMER,))
    assert differences(replace(RUN, deviations=RUN.deviations | {WARMER}), RUN).deviations_first == (WARMER,)


def test_another_judge_is_named_and_says_its_own_deviations() -> None:
    other = judged_by(settings={"model": '"gpt-4o-mini"'}, deviations=frozenset({Untrusted("judge: warmer")}))

    found = differences(RUN, other)

    assert found.aspects == (Aspect.JUDGE,)
    assert found.judges == (RUN.judge, other.judge)


def test_the_same_judge_asked_otherwise_is_another_protocol() -> None:
    found = differences(RUN, judged_by(deviations=frozenset({Untrusted("judge: no response_format")})))

    assert found.aspects == (Aspect.PROTOCOL,)


def test_a_judge_that_answered_as_another_snapshot_is_told() -> None:
    snapshot = frozenset({Untrusted("gpt-4o-2024-11-20")})

    found = differences(RUN, judged_by(models=snapshot))

    assert found.aspects == (Aspect.SNAPSHOT,)
    assert found.snapshots == (JUDGE.models, snapshot)


def test_nothing_is_claimed_of_a_judge_that_is_not_there_or_named_no_model() -> None:
    assert not differences(RUN, replace(RUN, judge=None))
    assert not differences(RUN, judged_by(models=frozenset()))


def test_a_simulated_run_differs_from_a_real_one() -> None:
    assert differences(RUN, replace(RUN, simulated=True)).aspects == (Aspect.SIMULATED,)


def test_the_typical_run_differs_from_the_fewest_and_of_several_has_the_most_samples() -> None:
    part = replace(RUN, samples={0: RUN.samples[0]})
    odd = replace(RUN, deviations=frozenset({WARMER}))

    assert typical([odd, RUN, RUN]) == 1
    assert typical([odd, RUN]) == 0
    assert typical([part, RUN]) == 1
    assert typical([RUN]) == 0


def test_digests_follow_rows_and_settings_and_nothing_else() -> None:
    backwards = replace(RUN, samples=dict(reversed(RUN.samples.items())), simulated=True)
    renamed = replace(JUDGE, name=Untrusted("the judge"), models=frozenset())

    assert backwards.samples_digest == RUN.samples_digest
    assert renamed.digest == JUDGE.digest
    assert replace(RUN, samples={}).samples_digest != RUN.samples_digest
    assert replace(JUDGE, settings={"model": '"gpt-4o"'}).digest != JUDGE.digest


def test_anybody_can_compute_the_digest_of_a_runs_samples() -> None:
    two = replace(RUN, samples={7: SampleData("row b", None), 3: SampleData("row a", "image")})

    assert two.samples_digest == hashlib.sha256(b"3 row a\n7 row b\n").hexdigest()
