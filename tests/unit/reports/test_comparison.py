"""How comparisons and decisions are written: approved texts in every format, and strangers' names in them."""

from __future__ import annotations

import json
import os
import re
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("statsmodels", reason="needs the group `extras`: just test")

from tests.support.compared_runs import LABELS, UNSAFE, WARNING, run_of, runs_of_table
from vlsb.analysis.comparison import compare_two
from vlsb.analysis.gate import GateDecision, GateLimits, GateResult, decide
from vlsb.analysis.several_runs import ComparisonReport, chosen_pairs, compare_pairs, rank
from vlsb.records import Outcome
from vlsb.reports import comparison, gate
from vlsb.reports.encode import for_terminal
from vlsb.reports.writers import FORMATS, write

GOLDEN = Path(__file__).parents[2] / "golden"
ENDINGS = {"json": "json", "csv": "csv", "markdown": "md", "latex": "tex"}
HOSTILE = "\x1b]0;gone\x07=cmd|'/c calc'!A0 <img src=x> | \\input{x} `*_ %"
LIMITS = GateLimits(max_drop=2, max_refusal_rise=5, max_refusal_drop=None, min_coverage=98)


@cache
def two_runs(first: str = "released", second: str = "candidate") -> ComparisonReport:
    """120 samples, two an image, of which 20 changed and two have no label in the second run."""
    categories = ["Hate" if number % 3 else "Violent" for number in range(120)]
    images = [number // 2 for number in range(120)]
    before = [LABELS[number % 3] for number in range(120)]
    after = [*([WARNING] * 20 + before[20:118]), Outcome.JUDGE_REFUSED, Outcome.TARGET_BLOCKED]
    runs = (
        run_of(before, name=first, images=images, categories=categories),
        run_of(after, name=second, images=images, categories=categories),
    )
    return report_of(*runs)


def report_of(*runs: comparison.ComparedRun, all_pairs: bool = False) -> ComparisonReport:
    found = compare_pairs(chosen_pairs(runs, all_pairs=all_pairs))
    ranks, samples = rank(runs) if len(runs) > 2 else ((), 0)
    return ComparisonReport(runs, tuple(each for each in found if each is not None), ranks, samples)


@cache
def three_runs() -> ComparisonReport:
    labels = {"released": 40, "candidate": 60, "a-name-that-is-rather-long-for-a-table": 61}
    return report_of(
        *(
            run_of([WARNING if key < safe else UNSAFE for key in range(100)], name=name)
            for name, safe in labels.items()
        ),
        all_pairs=True,
    )


@cache
def decided(first: str = "released", second: str = "candidate") -> GateResult:
    (found,) = two_runs(first, second).comparisons
    return decide(found.first, found.second, found, LIMITS)


def undecided() -> GateResult:
    first, second = runs_of_table(((0, 0, 0), (0, 500, 25), (0, 0, 475)))
    limits = GateLimits(max_drop=2, max_refusal_rise=None, max_refusal_drop=None, min_coverage=98)
    return decide(first, second, compare_two(first, second), limits)


def compared_text(report: ComparisonReport, form: str, width: int = 80) -> str:
    return write(comparison.comparison_report(report, shown=5), form, width=width, color=False)


def decided_text(result: GateResult, form: str, width: int = 80) -> str:
    return write(gate.gate_report(result), form, width=width, color=False)


def hold_to_golden(name: str, text: str) -> None:
    path = GOLDEN / name
    if os.environ.get("VLSB_WRITE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    # Newlines as they are: CSV has its own.
    assert text == path.read_bytes().decode("utf-8")


@pytest.mark.parametrize("form", ENDINGS)
def test_every_format_looks_as_it_was_approved(form: str) -> None:
    hold_to_golden(f"compare.{ENDINGS[form]}", compared_text(two_runs(), form))
    hold_to_golden(f"gate.{ENDINGS[form]}", decided_text(decided(), form))


@pytest.mark.parametrize("width", [80, 120])
def test_the_tables_look_as_they_were_approved(width: int) -> None:
    hold_to_golden(f"compare_{width}.txt", compared_text(two_runs(), "table", width))
    hold_to_golden(f"compare_three_{width}.txt", compared_text(three_runs(), "table", width))
    hold_to_golden(f"gate_{width}.txt", decided_text(decided(), "table", width))


def test_junit_and_the_jobs_summary_look_as_they_were_approved() -> None:
    hold_to_golden("gate_junit.xml", gate.junit(decided()))
    hold_to_golden("gate_summary.md", gate.summary_markdown(decided()))


@pytest.mark.parametrize("form", FORMATS)
def test_a_strangers_name_reaches_no_reader_as_it_is(form: str) -> None:
    texts = [
        compared_text(two_runs(second=HOSTILE), form),
        decided_text(decided(second=HOSTILE), form),
    ]

    for text in texts:
        assert "\x1b" not in text
        assert "\x07" not in text
        if form == "markdown":
            assert not re.search(r"(?<!\\)<img", text)
        if form == "latex":
            assert "\\input" not in text
            lines = [line.replace("\\%", "").removesuffix("%") for line in text.splitlines()]
            assert all(line.startswith("%") or "%" not in line for line in lines)
        if form == "csv":
            assert '"=cmd' not in text
    if form == "json":
        assert json.loads(texts[0])["runs"][1]["run"] == HOSTILE


def test_a_strangers_name_is_plain_text_in_junit() -> None:
    text = gate.junit(decided(second=HOSTILE))

    assert "\x1b" not in text
    assert "<img" not in text
    assert ElementTree.fromstring(text).get("tests") == "4"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (((0, 0, 0), (0, 100, 0), (0, 40, 60)), "second is safer than first by 20.0 points"),
        (((0, 0, 0), (0, 100, 40), (0, 0, 60)), "second is less safe than first by 20.0 points"),
        (((0, 0, 0), (0, 50, 3), (0, 5, 50)), "The data cannot tell whether second or first is safer"),
        (((0, 0, 0), (0, 50, 0), (0, 0, 50)), "(95 % CI -3.8 to +3.8). No image changed."),
        (((0, 0, 0), (0, 50, 0), (0, 5, 50)), "Only 5 images changed, and fewer than six cannot tell."),
        (((0, 0, 0), (0, 50, 6), (0, 6, 50)), "the change is +0.0 points (95 % CI -6.9 to +6.9)."),
    ],
)
def test_the_sentence_says_which_is_safer_or_that_nobody_can_tell(
    table: tuple[tuple[int, ...], ...], said: str
) -> None:
    found = compare_two(*runs_of_table(table))

    assert found is not None
    assert said in comparison.sentence(found).text(for_terminal)


def test_of_many_comparisons_one_is_not_more_than_noise_by_its_interval_alone() -> None:
    """The repair of a sentence that was wrong in half of all tables of twenty runs that do not differ."""
    base = [WARNING] * 100 + [UNSAFE] * 100
    odd = [*[UNSAFE] * 6, *[WARNING] * 111, *[UNSAFE] * 83]
    names = ("odd", *(f"run {number}" for number in range(15)))
    report = report_of(
        run_of(base, name="base"), *(run_of(odd if name == "odd" else base, name=name) for name in names)
    )

    text = " ".join(compared_text(report, "table").split())

    assert "more than noise" not in text
    assert "The data cannot tell whether odd or base is safer: the change is +5.5 points" in text
    assert "Alone its interval would leave out zero, as one of 16 may by noise: among all, p is" in text
    alone = comparison.sentence(report_of(*report.runs[:2]).comparisons[0])
    assert "more than noise" in alone.text(for_terminal)


@pytest.mark.parametrize("form", ["table", "markdown", "json"])
def test_nothing_is_said_of_how_many_samples_the_change_that_was_found_would_take(form: str) -> None:
    """Such a number spreads over a factor of fifty. What so many samples can show does not."""
    texts = [
        compared_text(report_of(*runs_of_table(((0, 0, 0), (0, 900, 99), (0, 100, 900)))), form),
        decided_text(undecided(), form),
    ]

    for text in texts:
        assert "would show a change like" not in text
        assert "would decide" not in text
    if form == "json":
        assert json.loads(texts[0])["comparisons"][0]["samples_needed"] is None
        assert json.loads(texts[1])["samples_needed"] is None
    else:
        assert "found in 80 % of cases; with all 2,241," in " ".join(texts[0].split())
        assert "away from it; with all 2,241," in " ".join(texts[1].split())
        assert "one in forty holds for one look" in " ".join(texts[1].split())


def test_the_ranks_name_what_they_leave_open() -> None:
    text = compared_text(three_runs(), "table")

    ranks = text[text.index("Ranks by safe rate") :]
    assert "open" in ranks
    assert "95 % CI" not in ranks


# Decisions.


@pytest.mark.parametrize(
    ("table", "max_drop", "decision"),
    [
        (((0, 0, 0), (0, 500, 5), (0, 5, 490)), 2.0, GateDecision.PASS),
        (((0, 0, 0), (0, 500, 80), (0, 0, 420)), 2.0, GateDecision.FAIL),
        (((0, 0, 0), (0, 500, 25), (0, 0, 475)), 2.0, GateDecision.UNDECIDED),
        # Thirty samples without any change: nobody knows that less than two points are lost.
        (((0, 0, 0), (0, 15, 0), (0, 0, 15)), 2.0, GateDecision.UNDECIDED),
        (((0, 0, 0), (0, 500, 0), (0, 80, 420)), 0.0, GateDecision.PASS),
    ],
)
def test_the_whole_interval_decides(
    table: tuple[tuple[int, ...], ...], max_drop: float, decision: GateDecision
) -> None:
    first, second = runs_of_table(table)
    limits = GateLimits(max_drop=max_drop, max_refusal_rise=None, max_refusal_drop=None, min_coverage=98)

    result = decide(first, second, compare_two(first, second), limits)

    assert result.decision is decision
    drop = result.checks[0]
    assert drop.interval is not None
    below, above = drop.interval.high < max_drop, drop.interval.low > max_drop
    assert (below, above) == (decision is GateDecision.PASS, decision is GateDecision.FAIL)


def test_one_check_that_fails_fails_all() -> None:
    labels = [WARNING] * 470 + [UNSAFE] * 500
    full = run_of([*labels, *[UNSAFE] * 30])
    gaps = run_of([*labels, *[Outcome.JUDGE_ERROR] * 30])
    limits = GateLimits(max_drop=2, max_refusal_rise=2, max_refusal_drop=2, min_coverage=98)

    result = decide(full, gaps, compare_two(full, gaps), limits)

    found = {check.name: check.decision for check in result.checks}
    assert found.pop("coverage") is GateDecision.FAIL
    assert set(found.values()) == {GateDecision.PASS}
    assert result.decision is GateDecision.FAIL
    assert "coverage 97.00 %" in gate.headline(result).text(for_terminal)


def test_several_limits_share_the_error_of_failing_and_none_of_passing() -> None:
    """Each of three limits had a whole chance of one in forty to fail a run that was within all of them."""
    first, second = runs_of_table(((100, 0, 0), (25, 475, 50), (0, 20, 330)))
    found = compare_two(first, second)
    assert found is not None
    drop, low = -found.safe.change, -found.safe.high
    lowest = drop - (drop - low) * 2.393980 / 1.959964
    # Above the interval of three limits, and below that of one.
    limit = (low + lowest) / 2
    one = GateLimits(max_drop=limit, max_refusal_rise=None, max_refusal_drop=None, min_coverage=98)
    three = GateLimits(max_drop=limit, max_refusal_rise=20, max_refusal_drop=20, min_coverage=98)

    alone, shared = (decide(first, second, found, limits) for limits in (one, three))

    assert alone.checks[0].interval == (low, -found.safe.low)
    assert shared.checks[0].interval == pytest.approx((lowest, -found.safe.low), abs=1e-5)
    assert (alone.decision, shared.decision) == (GateDecision.FAIL, GateDecision.UNDECIDED)
    assert "95 % CI" in gate.headline(alone).text(for_terminal)
    said = " ".join(gate.junit(shared).split())
    assert "95 % CI" not in said
    assert "Any of 3 limits fails the run, so each has a part of the error of 2.5 %" in said
