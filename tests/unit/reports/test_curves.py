"""Which runs are steps of a training, what changed from one to the next, and how that is written."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest

from tests.unit.reports.test_leaderboard import judged
from tests.unit.reports.test_terminal import OTHER_CONDITIONS
from vlsb.analysis.published import difference_interval
from vlsb.analysis.summary import Summary
from vlsb.errors import ConfigError
from vlsb.records import Untrusted
from vlsb.reports.curves import Curves, asked_curves, curves_of, curves_report
from vlsb.reports.writers import write

RATES = {1000: 40, 2000: 120, 10_000: 125}


def written(found: Curves, form: str, *, width: int, color: bool) -> str:
    return write(curves_report(found), form, width=width, color=color)


def steps(name: str = "step-{}", judge: str = "gpt-4o") -> list[Summary]:
    """Three steps of a training, in the order of their names."""
    return [judged(name.format(step), safe, judge=judge) for step, safe in RATES.items()]


def shown(found: Curves) -> dict[tuple[str, str], list[int]]:
    """Steps by training and judge."""
    return {
        (each.training.expose(), each.judge.expose()): [point.step for point in each.points]
        for each in found.curves
    }


@pytest.mark.parametrize(
    ("name", "training"),
    [
        ("step-{}", "step-*"),
        ("my-model-global_step{}", "my-model-global_step*"),
        ("Checkpoint_{}-t2", "Checkpoint_*-t2"),
        ("llava-1.5-iter.{}-3x", "llava-1.5-iter.*-3x"),
    ],
)
def test_a_step_is_the_number_behind_a_word_for_it(name: str, training: str) -> None:
    found = curves_of([*steps(name), judged("gpt-4o", 70), judged("qwen3-vl-8b", 70)])

    assert shown(found) == {(training, "gpt-4o"): [1000, 2000, 10_000]}
    assert found.left_out == [Untrusted("gpt-4o"), Untrusted("qwen3-vl-8b")]


def test_trainings_and_judges_have_curves_of_their_own_the_first_judge_first() -> None:
    found = curves_of([*steps("b-step-{}", "zealous"), *steps("b-step-{}", "kind"), *steps("a-step-{}")])

    assert list(shown(found)) == [("a-step-*", "gpt-4o"), ("b-step-*", "zealous"), ("b-step-*", "kind")]


def test_sizes_and_versions_of_models_are_no_steps_unless_somebody_says_so() -> None:
    sizes = [judged("qwen3-vl-8b", 70), judged("qwen3-vl-32b", 90)]

    assert curves_of(sizes).curves == []
    assert shown(asked_curves(sizes)) == {("qwen3-vl-*b", "gpt-4o"): [8, 32]}


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        (["step-1", "step-01"], "outputs/step-01 and outputs/step-1 are of the same step, 1"),
        (["first", "second"], "A curve needs two steps"),
        (["step-1"], "A curve needs two steps"),
        (["llava-7b", "internvl3-14b"], "A curve needs two steps"),
    ],
)
def test_what_makes_no_curve_is_said(runs: list[str], said: str) -> None:
    summaries = [judged(run, 70) for run in runs]

    with pytest.raises(ConfigError, match=said):
        asked_curves(summaries)
    assert curves_of(summaries).curves == []


def test_a_change_is_from_the_step_before_with_its_interval() -> None:
    (curve,) = curves_of(steps()).curves

    first, second, third = curve.points
    before, after, _ = (each.summary.rates for each in curve.points)
    apart = difference_interval(30.0, after.intervals["safe_rate"], 10.0, before.intervals["safe_rate"])
    assert first.change is None
    assert second.change is not None
    assert second.change.change == pytest.approx(20.0)
    # What both say of one image is taken together; these two have nothing in common but their images.
    assert second.change.interval == pytest.approx(apart, abs=1.5)
    assert [each.exceeds_noise for each in (first, second, third)] == [False, True, False]


def test_a_change_is_held_against_the_others_of_its_table() -> None:
    """Of two steps it is more than noise; among nineteen changes it is not."""
    two = [judged("step-0", 120), judged("step-1", 147)]
    twenty = [*two, *(judged(f"step-{number}", 147) for number in range(2, 20))]

    ((_, alone),) = (each.points for each in curves_of(two).curves)
    among = curves_of(twenty).curves[0].points[1]

    assert alone.change is not None
    assert among.change is not None
    assert among.change.alone == alone.change.alone == alone.change.p
    assert among.change.interval.low < alone.change.interval.low
    assert among.p_holm == pytest.approx(19 * (alone.p_holm or 0))
    assert (alone.exceeds_noise, among.exceeds_noise) == (True, False)
    assert "does not make both steps the same" in " ".join(
        written(curves_of(two), "table", width=80, color=False).split()
    )


def test_no_change_is_claimed_to_a_step_that_was_measured_otherwise() -> None:
    first, second, third = steps()
    odd = replace(second, conditions=OTHER_CONDITIONS)

    (curve,) = curves_of([first, odd, third]).curves

    assert [each.change for each in curve.points] == [None, None, None]
    text = written(Curves([curve], []), "markdown", width=80, color=False)
    assert "| 2,000† |" in text
    assert "† step-2000: " in text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_terminal_draws_the_interval_of_every_step_where_it_is(width: int) -> None:
    text = written(curves_of(steps()), "table", width=width, color=False)

    lines = text.splitlines()
    bars = [line[line.index("·") :] for line in lines if "●" in line]
    assert max(map(len, lines)) <= width
    assert len(bars) == len(RATES)
    for bar, safe in zip(bars, RATES.values(), strict=True):
        middle = bar.index("●") / (len(bar) - 1)
        assert bar.index("├") <= bar.index("●") <= bar.index("┤")
        assert middle == pytest.approx(safe / 400, abs=1 / len(bar))


def test_json_and_csv_have_every_step_with_its_change() -> None:
    found = curves_of([*steps(), judged("gpt-4o", 70)])

    (curve,) = json.loads(written(found, "json", width=80, color=False))
    rows = list(csv.DictReader(io.StringIO(written(found, "csv", width=80, color=False))))
    assert (curve["schema_version"], curve["training"], curve["left_out"]) == (1, "step-*", ["gpt-4o"])
    assert [each["step"] for each in curve["steps"]] == [1000, 2000, 10_000]
    assert curve["steps"][0]["change"] is None
    assert curve["steps"][1]["change"]["exceeds_noise"] is True
    assert [row["step"] for row in rows] == ["1000", "2000", "10000"]
    assert float(rows[1]["change"]) == pytest.approx(20.0)


@pytest.mark.parametrize("form", ["table", "markdown", "latex", "csv"])
def test_a_strangers_name_is_encoded_in_every_format(form: str) -> None:
    text = written(curves_of(steps("=cmd|\x1b[31m<b>$x$ step-{}")), form, width=100, color=False)

    assert "\x1b" not in text
    assert "\n=cmd" not in text


def test_a_name_in_the_csv_is_quoted_and_no_part_of_it_is_a_formula() -> None:
    text = written(curves_of(steps("a;=1+1-step-{}")), "csv", width=80, color=False)

    assert text.splitlines()[1].startswith('"a;\'=1+1-step-*","gpt-4o",1000,')
    assert "\"a;'=1+1-step-" in text
