"""The formats of a summary: golden tables, exact documents, hostile names.

The golden tables are plain text in tests/golden; VLSB_WRITE_GOLDEN=1 writes them anew.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence

import pytest
from rich.console import Console

from tests.support import GOLDEN
from tests.support.rates import to_csv, to_json
from tests.support.records import run_facts
from vlsb.analysis.differences import Conditions, JudgeIdentity, SampleData
from vlsb.analysis.rates import SampleOutcome, rates
from vlsb.analysis.summary import ModelUsage, RunFacts, Summary, summarize
from vlsb.records import Outcome, Untrusted
from vlsb.reports.documents import to_latex, to_markdown
from vlsb.reports.encode import for_json
from vlsb.reports.notes import EXPLANATIONS, badges, outcome_counts, remarks
from vlsb.reports.rates_table import render, summary_table
from vlsb.reports.report import duration, text_of

CATEGORIES = {
    "Erotic": 343,
    "Hate": 269,
    "Illegal Activity": 539,
    "Privacy": 130,
    "Self-Harm": 370,
    "Violent": 590,
}
LONG_NAME = "llava_next-llama3-llava-next-8b-hf-with-a-name-of-sixty-chars"[:60]

GOOD = (["unsafe"] * 79) + (["safe_warning"] * 16) + (["safe_refusal"] * 5)
GAPPY = [
    *GOOD[:88],
    *["target_blocked"] * 4,
    *["judge_refused"] * 4,
    "judge_blocked",
    "not_judged",
    *GOOD[-2:],
]


def outcomes(pattern: Sequence[str], counts: Mapping[str, int] = CATEGORIES) -> list[SampleOutcome]:
    """Deal the pattern out over the categories; 1,957 images for 2,241 samples, as published."""
    names = [name for name, count in counts.items() for _ in range(count)]
    return [
        SampleOutcome(
            number,
            Untrusted(f"imgs/{number * 1957 // 2241}.png"),
            Untrusted(name),
            Untrusted("Cybercrime"),
            Untrusted("generation"),
            Outcome(pattern[number * 37 % len(pattern)]),
        )
        for number, name in enumerate(names)
    ]


COMPLETE = summarize(
    outcomes(GOOD),
    RunFacts(
        run=Untrusted("gpt-4o"),
        path=Untrusted("outputs/gpt-4o"),
        target=Untrusted("gpt-4o"),
        judge=Untrusted("gpt-4o-2024-08-06"),
        simulated=False,
        subset=False,
        target_usage=ModelUsage(2245, 3_100_200, 250_100),
        judge_usage=ModelUsage(2241, 3_500_200, 150_100),
        duration_s=751.2,
        target_models={Untrusted("gpt-4o-2024-11-20"): 2241},
        judge_models={Untrusted("gpt-4o-2024-08-06"): 2241},
    ),
)
GAPS = summarize(
    outcomes(GAPPY),
    RunFacts(
        run=Untrusted(LONG_NAME),
        path=Untrusted(f"outputs/{LONG_NAME}"),
        target=Untrusted("llava_next"),
        judge=Untrusted("gpt-4o-2024-08-06"),
        simulated=False,
        subset=False,
        deviations=(
            Untrusted("max_tokens is 512, the paper's is 128"),
            Untrusted("system prompt: Be careful."),
        ),
        target_usage=ModelUsage(2300, 3_100_200, 950_100),
        judge_usage=ModelUsage(2241, 3_500_200, 150_100),
        duration_s=11_105.0,
        target_models={Untrusted("llava_next"): 2151},
        judge_models={Untrusted("gpt-4o-2024-08-06"): 2000, Untrusted("gpt-4o-2024-11-20"): 18},
        cut_responses=1100,
        duplicates=3,
        notices=("A torn last line was left out.",),
    ),
)
NOTHING = summarize(
    outcomes(["not_attempted"], {"Hate": 12, "Privacy": 12}),
    run_facts("demo", path=Untrusted("outputs/demo"), simulated=True, duration_s=0.4),
)
CONDITIONS = Conditions(
    samples={number: SampleData(f"row {number}", f"image {number}") for number in range(2241)},
    deviations=frozenset(),
    judge=JudgeIdentity(Untrusted("gpt-4o"), {"model": '"gpt-4o"', "max_tokens": "512"}),
    simulated=False,
)
OTHER_CONDITIONS = Conditions(
    samples={number: SampleData(f"row {number}", None) for number in range(41, 1100)},
    deviations=frozenset(GAPS.deviations),
    judge=JudgeIdentity(Untrusted("gpt-4o"), {"model": '"gpt-4o"', "max_tokens": "64"}),
    simulated=True,
)
LIKE = dataclasses.replace(COMPLETE, run=Untrusted("base"), conditions=CONDITIONS)
MARKED = [
    LIKE,
    dataclasses.replace(LIKE, run=Untrusted("again"), epochs=3, flip_share=4.5, flip_samples=2200),
    dataclasses.replace(GAPS, run=Untrusted("odd_one"), conditions=OTHER_CONDITIONS),
]
COLLECTED = summarize(
    outcomes(["not_judged"], {"Hate": 12, "Privacy": 12}),
    run_facts(
        "collected",
        path=Untrusted("outputs/collected"),
        target=Untrusted("gpt-4o"),
        judge=None,
        target_usage=ModelUsage(25, 30_000, 2_000),
        duration_s=0.4,
    ),
)
SHOWN = {
    "complete": [COMPLETE],
    "gaps": [GAPS],
    "two_runs": [GAPS, COMPLETE],
    "nothing_judged": [NOTHING],
    "collected": [COLLECTED],
    "marked": MARKED,
}


def with_names(text: str) -> Summary:
    """A summary with gaps and this text in every field that holds text."""
    name = Untrusted(text)
    ended = outcomes(GAPPY, {"Hate": 100})
    return summarize(
        [dataclasses.replace(each, category=name, sub_category=name, source=name) for each in ended],
        run_facts(
            text,
            target=Untrusted(text + " "),
            deviations=(name,),
            target_usage=ModelUsage(1, 2, 3),
            judge_usage=ModelUsage(1, 2, 3),
            duration_s=1.0,
            target_models={name: 1, Untrusted(text + "x"): 2},
            judge_models={name: 1, Untrusted(text + "x"): 2},
            notices=(text,),
        ),
    )


def plain(summaries: Sequence[Summary], width: int = 80) -> str:
    return render(summaries, width=width, color=False)


def hold_to_golden(name: str, text: str) -> None:
    path = GOLDEN / name
    if os.environ.get("VLSB_WRITE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("name", SHOWN)
def test_the_table_looks_as_it_was_approved(name: str, width: int) -> None:
    hold_to_golden(f"{name}_{width}.txt", plain(SHOWN[name], width))


@pytest.mark.parametrize("name", SHOWN)
def test_the_markdown_looks_as_it_was_approved(name: str) -> None:
    hold_to_golden(f"{name}.md", to_markdown(SHOWN[name]))


@pytest.mark.parametrize("name", SHOWN)
def test_the_latex_looks_as_it_was_approved(name: str) -> None:
    hold_to_golden(f"{name}.tex", to_latex(SHOWN[name]))


@pytest.mark.parametrize(("ending", "write"), [("json", to_json), ("csv", to_csv)])
def test_documents_are_as_they_were_approved(ending: str, write: Callable[[Sequence[Summary]], str]) -> None:
    hold_to_golden(f"marked.{ending}", write(MARKED).replace("\r\n", "\n"))


@pytest.mark.parametrize("width", [20, 40, 50, 59, 60, 70, 79, 80, 100, 120, 200])
@pytest.mark.parametrize("name", SHOWN)
def test_no_number_is_cut_and_no_line_is_too_long(name: str, width: int) -> None:
    text = plain(SHOWN[name], width)

    assert "…" not in text
    assert max(map(len, text.splitlines())) <= max(40, width)
    for summary in SHOWN[name]:
        for of in (summary.rates, *summary.by_category.values()):
            assert of.safe_rate is None or f"{of.safe_rate:.2f}" in text.split()


def test_below_60_columns_what_follows_from_other_columns_is_left_out_and_named() -> None:
    narrow, narrower = plain([GAPS], 56), plain([COMPLETE], 40)

    assert "not shown at this width: unsafe\n" in narrow
    assert "not shown at this width: coverage, refusal, warning, unsafe" in " ".join(narrower.split())
    assert re.search(r"^gpt-4o +2,241 21\.02 \[19\.4, 22\.8\]$", narrower, re.MULTILINE)


def test_names_that_share_a_beginning_stay_apart_at_any_width() -> None:
    runs = [dataclasses.replace(COMPLETE, run=Untrusted(f"{LONG_NAME}-{number}")) for number in range(2)]

    for width in (40, 60, 80, 120):
        letters = re.sub(r"[^a-z0-9_-]", "", column_of_names(plain(runs, width)))
        assert letters.count(f"{LONG_NAME}-0") == letters.count(f"{LONG_NAME}-1") == 1


def column_of_names(text: str) -> str:
    """The first column of the runs' table, top to bottom, without what stands below the names."""
    lines = text.split("\n")
    ruler = next(number for number, line in enumerate(lines) if line.startswith("─"))
    rows = lines[ruler + 1 : lines.index("", ruler)]
    width = lines[ruler + 1].index(" ")
    return "".join(row[:width] for row in rows if "gpt" not in row[:width] and not row.startswith("target"))


def test_a_hundred_thousand_samples_still_fit_80_columns() -> None:
    summary = dataclasses.replace(
        GAPS, rates=dataclasses.replace(GAPS.rates, selected=100_000, labels=99_999, safe_rate=100.0)
    )

    assert re.search(r" 99,999/100,000 .* 100\.00 \[", plain([summary]))


def test_colour_changes_nothing_but_colour() -> None:
    coloured = render([GAPS, COMPLETE], width=80, color=True)

    assert "\x1b[" in coloured
    bare = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert [line.rstrip() for line in bare.splitlines()] == plain([GAPS, COMPLETE]).splitlines()


def test_a_simulated_run_says_so_in_every_format() -> None:
    mixed = [NOTHING, COMPLETE]

    assert plain(mixed).count("SIMULATED") == 1
    assert to_markdown(mixed).count("SIMULATED") == 1
    assert [each["simulated"] for each in json.loads(to_json(mixed))] == [True, False]
    assert {(row["run"], row["simulated"]) for row in rows(to_csv(mixed))} == {
        ("demo", "true"),
        ("gpt-4o", "false"),
    }


def test_a_subset_is_not_passed_off_as_the_full_set() -> None:
    larger = dataclasses.replace(COMPLETE, subset=True)

    assert badges(COMPLETE) == ("FULL (2,241 samples)",)
    assert badges(NOTHING) == ("SIMULATED", "SUBSET (24 of 2,241)")
    assert badges(dataclasses.replace(NOTHING, epochs=2)) == ("SIMULATED", "SUBSET (12 of 2,241)")
    assert badges(larger) == ("NOT THE PUBLISHED SET (2,241 samples)",)


def test_two_judges_of_one_run_are_told_apart() -> None:
    second = dataclasses.replace(COMPLETE, judge=Untrusted("gpt-4o-mini"))

    for width in (80, 120):
        text = plain([second, COMPLETE], width)
        assert text.index("gpt-4o-2024-08-06") < text.index("gpt-4o-mini")


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_the_categories_of_many_runs_take_as_many_tables_as_they_need(width: int) -> None:
    many = [dataclasses.replace(COMPLETE, run=Untrusted(f"run-{number}")) for number in range(7)]

    text = plain(many, width)

    tables = [line for line in text.split("\n") if line.startswith("Erotic ")]
    assert sum(line.count("20.99") for line in tables) == 7
    assert (len(tables) == 1) is (width == 120)
    assert max(map(len, text.split("\n"))) <= width


def test_a_run_that_nobody_judged_still_says_what_failed() -> None:
    ended = outcomes(["not_judged"] * 3 + ["target_error"], {"Hate": 12})

    text = plain([dataclasses.replace(COLLECTED, rates=rates(ended))])

    assert "9 of 12 samples answered, none judged." in text
    assert re.search(r"target_error +3  the request to the target failed", text)


def test_no_runs_are_an_empty_report() -> None:
    assert plain([]) == "No runs.\n"
    assert json.loads(to_json([])) == []
    assert rows(to_csv([])) == []


def test_every_outcome_has_a_plain_explanation() -> None:
    assert list(EXPLANATIONS) == list(Outcome)


def test_the_shown_outcomes_sum_to_the_selection_and_is_left_out_when_all_is_labelled() -> None:
    assert sum(line.samples for line in outcome_counts(GAPS)) == 2241
    assert outcome_counts(COMPLETE) == ()


def said(pattern: Sequence[str]) -> str:
    summary = dataclasses.replace(COMPLETE, rates=rates(outcomes(pattern, {"Hate": len(pattern)})))
    return " ".join(text_of(each.text, for_json) for each in remarks(summary))


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        (["unsafe"] * 98 + ["judge_refused"] * 2, "If the 2 unjudged samples were all unsafe/safe"),
        (["unsafe"] * 98 + ["not_judged"] * 2, "the safe rate would be 0.0 to 2.0 %"),
        (["unsafe"] * 97 + ["not_judged"] * 3, "Only 97.00 % of the samples were judged."),
        (["unsafe"] * 97 + ["judge_blocked"] * 3, "declined 3.0 % of the responses it saw (3 of 100): read"),
        (["unsafe"] * 89 + ["judge_refused"] * 11, "the rates are unreliable"),
        (["not_attempted"], "Nothing was judged"),
        ([], "No samples were selected."),
    ],
)
def test_what_limits_the_numbers_is_said_in_words(pattern: list[str], words: str) -> None:
    assert words in said(pattern)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        (["unsafe"] * 98 + ["not_judged"] * 2, "Only"),
        (["unsafe"] * 98 + ["judge_refused"] * 2, "declined"),
        (["unsafe"] * 90 + ["judge_refused"] * 10, "unreliable"),
        (["unsafe"], "unjudged"),
    ],
)
def test_nothing_is_said_at_or_below_its_threshold(pattern: list[str], words: str) -> None:
    assert words not in said(pattern)


def test_a_run_nobody_judged_has_a_null_judge_and_comes_first() -> None:
    unjudged = dataclasses.replace(COMPLETE, judge=None)

    assert [each["judge"] for each in json.loads(to_json([COMPLETE, unjudged]))] == [
        None,
        "gpt-4o-2024-08-06",
    ]
    assert "\njudge" not in plain([unjudged])


def test_a_missing_rate_is_an_empty_csv_cell() -> None:
    assert {row["safe_rate"] for row in rows(to_csv([NOTHING]))} == {""}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0.4 s"),
        (59.99, "1 min 00 s"),
        (751.2, "12 min 31 s"),
        (3599.7, "1 h 00 min"),
        (11_105, "3 h 05 min"),
    ],
)
def test_durations_read_as_a_person_says_them(seconds: float, words: str) -> None:
    assert duration(seconds) == words


HOSTILE = [
    "[red]x[/red]",
    "[/nothing]",
    "[link=http://e.vil]x[/link]",
    "\x1b]52;c;aGk=\x07x",
    "\x1b[2Jx",
    "\x9b31mx",
    "=cmd()",
    "@SUM(A1)",
    "\u202ex",
    "a\nb|c",
    "<img src=x>",
    "\ud800",
    "![x](http://e.vil)",
    ":smile:",
    "",
]
FORMATS: Mapping[str, Callable[[Sequence[Summary]], str]] = {
    "table": plain,
    "json": to_json,
    "csv": to_csv,
    "markdown": to_markdown,
    "latex": to_latex,
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("text", HOSTILE)
def test_no_raw_control_leaves_through_any_format(form: str, text: str) -> None:
    """One run and two: they have different tables."""
    for summaries in ([with_names(text)], [with_names(text), with_names(text)]):
        written = FORMATS[form](summaries)
        assert written.replace("\n", "").replace("\r", "").isprintable()
        written.encode("utf-8")


@pytest.mark.parametrize("text", ["[red]x[/red]", "[/nothing]", ":smile:"])
def test_brackets_reach_the_screen_as_brackets(text: str) -> None:
    """Even on a console that reads markup, which is what the commands print through."""
    screen = io.StringIO()
    console = Console(file=screen, width=120, color_system=None, markup=True, emoji=True, highlight=True)

    console.print(summary_table([with_names(text), with_names(text)], width=120))

    assert screen.getvalue().count(text) >= 12


@pytest.mark.parametrize("text", ["=cmd()", "@SUM(A1)", "+1", "-1", "\t=x"])
def test_no_csv_cell_is_a_formula(text: str) -> None:
    sheet = csv.reader(io.StringIO(to_csv([with_names(text)])))

    assert not [cell for row in sheet for cell in row if re.match(r"\s*[=+@-]", cell)]


def test_a_separator_in_a_name_opens_no_cell_in_any_locale() -> None:
    text = to_csv([with_names("a;=cmd()")])

    assert '"a;\'=cmd()"' in text
    assert not re.search(r"(^|,)a;", text, re.MULTILINE)


def test_json_gives_names_back_unchanged() -> None:
    [back] = json.loads(to_json([with_names("\x1b[2J\x7f\ud800[x]")]))

    assert back["run"] == "\x1b[2J\x7f\ud800[x]"


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))
