"""Rows over other samples, data, protocols or judges: marked, explained, and in every format."""

from __future__ import annotations

import csv
import dataclasses
import io
import json

import pytest

from tests.support.rates import to_csv, to_json
from tests.unit.reports.test_terminal import (
    COLLECTED,
    COMPLETE,
    CONDITIONS,
    LIKE,
    MARKED,
    OTHER_CONDITIONS,
)
from vlsb.analysis.differences import Differences, JudgeIdentity, SampleData, differences
from vlsb.analysis.summary import Summary
from vlsb.records import Untrusted
from vlsb.reports.documents import in_order, to_latex, to_markdown, to_parquet
from vlsb.reports.encode import for_json, for_terminal
from vlsb.reports.notes import mark, reasons, row_name
from vlsb.reports.rates_table import render
from vlsb.reports.report import Sentence, text_of


def test_rows_alike_have_no_mark_and_no_word_about_it() -> None:
    text = render([LIKE, dataclasses.replace(LIKE, run=Untrusted("again"))], width=80, color=False)

    assert "†" not in text
    assert "Not measured" not in text


def test_a_marked_row_is_marked_in_every_format() -> None:
    assert "odd_one †" in render(MARKED, width=80, color=False)
    assert "odd\\_one †" in to_markdown(MARKED)
    assert "odd\\_one\\textsuperscript{\\dag}" in to_latex(MARKED)
    again, base, odd = json.loads(to_json(MARKED))
    assert (again["differs"], base["differs"]) == (None, None)
    assert odd["differs"]["in"] == ["simulated", "judge", "samples", "protocol"]
    assert {row["differs_in"] for row in csv.DictReader(io.StringIO(to_csv(MARKED)))} == {
        "",
        "simulated; judge; samples; protocol",
    }


def test_json_and_csv_carry_what_tells_rows_apart() -> None:
    first = json.loads(to_json(MARKED))[0]
    row = next(csv.DictReader(io.StringIO(to_csv(MARKED))))

    assert first["samples_digest"] == row["samples_digest"] == CONDITIONS.samples_digest
    assert CONDITIONS.judge is not None
    assert first["judge_digest"] == row["judge_digest"] == CONDITIONS.judge.digest
    assert (row["subset"], row["deviations"], row["flip_samples"]) == ("false", "", "2200")


def test_parquet_has_the_rows_of_the_csv_with_their_types() -> None:
    pytest.importorskip("pyarrow")
    from pyarrow import BufferReader, parquet

    table = parquet.read_table(BufferReader(to_parquet(MARKED)))

    rows = list(csv.DictReader(io.StringIO(to_csv(MARKED))))
    assert table.column_names == list(rows[0])
    assert [str(each) for each in table["judged"].to_pylist()] == [row["judged"] for row in rows]
    odd = table.to_pylist()[-1]
    assert odd["differs_in"] == ["simulated", "judge", "samples", "protocol"]
    assert (odd["simulated"], odd["scope"]) == (False, "category")


def test_the_row_that_the_others_are_like_is_never_the_marked_one() -> None:
    marks = mark(in_order(MARKED))

    assert [for_json(marks.summaries[place].run) for place in marks.differing] == ["odd_one"]


def test_a_runs_own_judge_is_the_one_that_its_other_judges_are_held_against() -> None:
    """However many of the others are alike."""
    others = [
        dataclasses.replace(LIKE, judge=Untrusted(name), conditions=OTHER_CONDITIONS, is_own=False)
        for name in ("a", "b", "c")
    ]

    marks = mark(in_order([LIKE, *others]))

    own = marks.summaries.index(LIKE)
    assert marks.reference == own
    assert [marks.sign(place) for place in range(4)] == ["" if place == own else "†" for place in range(4)]


def test_runs_without_rates_are_held_against_nothing() -> None:
    unjudged = dataclasses.replace(COLLECTED, conditions=OTHER_CONDITIONS)

    assert not mark([LIKE, unjudged]).differing
    assert not mark([COMPLETE, LIKE]).differing


def found(**changes: object) -> str:
    return Sentence.join(
        "; ", reasons(differences(CONDITIONS, dataclasses.replace(CONDITIONS, **changes)))
    ).text(for_json)


def samples(first: int, last: int) -> dict[int, SampleData]:
    return {number: SampleData(f"row {number}", f"image {number}") for number in range(first, last)}


@pytest.mark.parametrize(
    ("selected", "words"),
    [
        (samples(0, 100), "only 100 of the 2,241 samples"),
        (samples(0, 2242), "all 2,241 samples and 1 more"),
        (samples(2241, 2341), "100 other samples, none of the 2,241"),
        (samples(2231, 2341), "only 10 of the 2,241 samples, and 100 others"),
        (
            samples(0, 2240) | {2240: SampleData("row 2240", "another")},
            "1 shared sample with another text or image",
        ),
    ],
)
def test_which_samples_differ_is_said_in_numbers(selected: dict[int, SampleData], words: str) -> None:
    assert found(samples=selected) == words


def test_another_judge_is_named_and_another_setting_of_one_judge_too() -> None:
    mini = JudgeIdentity(Untrusted("gpt-4o-mini"), {"model": '"gpt-4o-mini"'})
    hotter = JudgeIdentity(Untrusted("gpt-4o"), {"model": '"gpt-4o"', "max_tokens": "64"})

    assert found(judge=mini) == "judged by gpt-4o-mini, not gpt-4o"
    assert found(judge=hotter) == "judge max_tokens: 64, not 512"


def test_deviations_of_either_run_and_snapshots_are_told() -> None:
    warm, thinks = Untrusted("target temperature: 1.0"), Untrusted("target thinks")
    told = Differences(
        shared=1,
        deviations_first=(thinks,),
        deviations_second=(warm,),
        snapshots=(frozenset({Untrusted("a-1")}), frozenset({Untrusted("a-2")})),
    )

    assert [text_of(each, for_json) for each in reasons(told)] == [
        "target temperature: 1.0",
        "not target thinks",
        "its judge answered as a-2, not a-1",
    ]


def test_judges_of_one_run_are_named_where_the_run_alone_does_not_tell() -> None:
    mini: Summary = dataclasses.replace(LIKE, judge=Untrusted("gpt-4o-mini"))

    assert row_name([LIKE, mini], 1).text(for_terminal) == "base, judge gpt-4o-mini"
    assert row_name([LIKE], 0).text(for_terminal) == "base"
