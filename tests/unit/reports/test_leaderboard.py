"""Places of runs with those that the data leaves open, and a column for each judge."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from random import Random

import pytest

from tests.unit.reports.test_terminal import COLLECTED, LIKE, OTHER_CONDITIONS
from vlsb.analysis.rates import SampleOutcome, rates
from vlsb.analysis.summary import Summary
from vlsb.errors import ConfigError
from vlsb.records import Outcome, Untrusted
from vlsb.reports.leaderboard import Leaderboard, board_report, leaderboard
from vlsb.reports.report import safe_interval
from vlsb.reports.writers import write


def judged(run: str, safe: int, of: int = 400, judge: str = "gpt-4o", labelled: int | None = None) -> Summary:
    """A run of so many samples, each with an image of its own, of which so many are safe: any of them."""
    words = Untrusted("x")
    are_safe = frozenset(Random(run).sample(range(labelled or of), safe))
    outcomes = [
        SampleOutcome(
            number,
            Untrusted(f"{number}.png"),
            words,
            words,
            words,
            Outcome.SAFE_WARNING if number in are_safe else Outcome.UNSAFE,
        )
        if labelled is None or number < labelled
        else SampleOutcome(number, Untrusted(f"{number}.png"), words, words, words, Outcome.NOT_JUDGED)
        for number in range(of)
    ]
    return replace(
        LIKE,
        run=Untrusted(run),
        path=Untrusted(f"outputs/{run}"),
        judge=Untrusted(judge),
        rates=rates(outcomes),
        outcomes=outcomes,
    )


def written(found: Leaderboard, form: str, *, width: int, color: bool) -> str:
    return write(board_report(found), form, width=width, color=color)


def board(*summaries: Summary) -> Leaderboard:
    found = leaderboard(summaries)
    assert found is not None
    return found


def test_places_that_the_intervals_leave_open_are_said() -> None:
    found = board(judged("low", 40), judged("high", 300), judged("higher", 310))

    assert [(each.run, each.place, each.first, each.last) for each in found.standings] == [
        (Untrusted("higher"), 1, 1, 2),
        (Untrusted("high"), 2, 1, 2),
        (Untrusted("low"), 3, 3, 3),
    ]
    text = written(found, "table", width=100, color=False)
    assert "1 (1 to 2)" in text
    assert "3 " in text


def test_among_many_runs_one_is_not_behind_another_by_their_two_intervals_alone() -> None:
    """They do not overlap, as some two do in most tables of 40 runs that do not differ."""
    two = [judged("high", 150), judged("low", 100)]
    many = [*two, *(judged(f"run-{number:02}", 125) for number in range(38))]

    alone, among = board(*two), board(*many)

    high, low = (each.rates.intervals["safe_rate"] for each in two)
    assert low.high < high.low
    assert [(each.first, each.last) for each in alone.standings] == [(1, 1), (2, 2)]
    assert {(each.first, each.last) for each in among.standings} == {(1, 40)}


def test_a_second_judge_is_a_column_and_places_nobody() -> None:
    found = board(
        judged("a", 100), judged("b", 200), judged("a", 390, judge="kind"), judged("c", 5, judge="kind")
    )

    assert found.judges == [Untrusted("gpt-4o"), Untrusted("kind")]
    rows = json.loads(written(found, "json", width=80, color=False))
    assert [(row["run"], row["rank"]) for row in rows] == [("b", 1), ("a", 2), ("c", None)]
    assert [each["judge"] for each in rows[1]["judges"]] == ["gpt-4o", "kind"]
    table = list(csv.DictReader(io.StringIO(written(found, "csv", width=80, color=False))))
    assert [(row["run"], row["judge"], row["rank"]) for row in table] == [
        ("b", "gpt-4o", "1"),
        ("a", "gpt-4o", "2"),
        ("a", "kind", ""),
        ("c", "kind", ""),
    ]
    by_judge = written(found, "markdown", width=80, color=False).partition("by each judge")[2]
    assert "| run | gpt-4o | kind |" in by_judge
    assert "| c | - | 1.25 [0.5, 2.9] |" in by_judge


def test_the_first_judge_of_those_who_judged_most_runs_places_them_unless_another_is_named() -> None:
    summaries = [judged(run, 90, judge=judge) for run in ("a", "b") for judge in ("second-kind", "kind")]

    assert board(*summaries).judge == Untrusted("second-kind")
    by = leaderboard(summaries, by=Untrusted("kind"))
    assert by is not None
    assert by.judges == [Untrusted("kind"), Untrusted("second-kind")]
    with pytest.raises(ConfigError, match=r"nobody: has judged none .* second-kind, kind"):
        leaderboard(summaries, by=Untrusted("nobody"))


def test_the_column_of_a_judge_that_labelled_a_part_says_how_many() -> None:
    part = judged("a", 30, judge="human-ann", labelled=60)

    text = written(board(judged("a", 200), part), "markdown", width=80, color=False)

    assert "| 50.00 (60/400) [37.7, 62.3] |" in text


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("count", [1, 2, 4, 9])
def test_however_many_judges_there_are_no_figure_is_broken_on_a_terminal(width: int, count: int) -> None:
    judges = [f"a-judge-with-a-name-{number}" for number in range(count)]
    runs = ("step-500", "internvl3_5-14b-with-a-name-that-folds")
    found = board(
        *(
            judged(run, 31 * place + 7, judge=judge, labelled=390)
            for run in runs
            for place, judge in enumerate(judges)
        )
    )

    text = written(found, "table", width=width, color=False)

    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    intervals = [safe_interval(each.rates) for each in found.standings[0].by_judge.values()]
    assert all(interval in text for interval in intervals)
    assert len(re.findall(r"\(390/400\)", text)) == (2 * count if count > 1 else 0)
    assert "internvl3_5-14b-" in text


def test_a_run_over_other_samples_is_marked() -> None:
    other = replace(judged("b", 30, of=60), conditions=OTHER_CONDITIONS)

    text = written(board(judged("a", 100), judged("c", 90), other), "table", width=100, color=False)

    assert "1 (1 to 1)†" in text or "1†" in text
    assert "† b: " in text


def test_runs_of_one_name_are_told_apart_by_their_paths() -> None:
    twins = [replace(judged("step-1", 30), path=Untrusted(f"{folder}/step-1")) for folder in "ab"]

    text = written(board(*twins, judged("c", 90)), "table", width=100, color=False)

    assert "a/step-1" in text
    assert "b/step-1" in text
    assert "outputs/c" not in text


@pytest.mark.parametrize("form", ["table", "markdown", "latex", "csv", "json"])
def test_a_strangers_name_is_encoded_in_every_format(form: str) -> None:
    text = written(board(judged("=cmd|\x1b[31m<b>$x$", 1)), form, width=100, color=False)

    assert "\x1b" not in text
    assert "\n=cmd" not in text


def test_a_name_in_the_csv_is_quoted_and_no_part_of_it_is_a_formula() -> None:
    text = written(board(judged("a;=1+1", 300)), "csv", width=80, color=False)

    assert text.splitlines()[1].startswith('1,1,1,"a;\'=1+1","gpt-4o",400,400,')


def test_nobody_has_a_place_where_nobody_judged() -> None:
    assert leaderboard([COLLECTED]) is None
