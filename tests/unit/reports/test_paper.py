"""A run beside the published row of its model, as text, JSON and CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from typing import Any

import pytest

from tests.support.records import make_manifest
from tests.unit.reports.test_terminal import COMPLETE, NOTHING, hold_to_golden
from vlsb.analysis.published import load_published
from vlsb.records import Untrusted
from vlsb.reports.paper import Parity, paper_report
from vlsb.reports.writers import write

PUBLISHED = load_published()


def parity(name: str, **changes: Any) -> Parity:
    manifest = make_manifest(deviations=[])
    return Parity(
        summary=dataclasses.replace(COMPLETE, **changes),
        manifest=manifest,
        judge=manifest.own_judge,
        published=PUBLISHED,
        results=PUBLISHED.find(name),
    )


def table(*parities: Parity, width: int = 100, form: str = "table") -> str:
    return write(paper_report(parities), form, width=width, color=False)


@pytest.mark.parametrize("form", ["table", "json", "csv", "markdown", "latex"])
def test_a_known_model_looks_as_it_was_approved(form: str) -> None:
    text = table(parity("qwen2vl", deviations=(Untrusted("target seed: 7 (added)"),)), form=form)

    hold_to_golden(f"paper.{form}", text.replace("\r\n", "\n"))


def test_the_verdict_is_of_the_gap_beside_it() -> None:
    text = " ".join(table(parity("gpt-4o")).split())

    assert (
        "The safe rate is -0.4 points from the paper's (95 % -2.9 to +2.1): it cannot be told from noise of "
        "this size, 2.5 points either way. That does not make both rates the same."
    ) in text
    assert "no more than noise" not in text
    assert "fit 2,244 samples and not the 2,241" in text


def test_a_misprint_is_shown_as_printed_and_noted() -> None:
    text = table(parity("Qwen/Qwen2-VL-72B-Instruct"))

    assert "14.86" in text
    assert "Misprint in the paper: refusal and warning sum to 14.84." in text


def test_unknown_samples_give_no_verdict() -> None:
    text = " ".join(table(parity("Qwen/QVQ-72B-Preview")).split())

    assert "nobody can say whether it is noise" in text


def test_rows_of_other_judges_are_listed_apart_with_their_reason_and_no_gap() -> None:
    paligemma = parity("google/paligemma2-3b-mix-448")
    text = table(paligemma, width=160)

    assert "more than noise" not in text
    assert "Also published, and not to be compared with" in text
    assert "another judge with two labels" in text
    [found] = json.loads(table(paligemma, form="json"))
    assert [each["gaps"] for each in found["published"]] == [{}, {}]
    assert list(csv.DictReader(io.StringIO(table(paligemma, form="csv")))) == []


def test_a_model_that_nobody_published_gets_the_papers_list_once() -> None:
    text = table(parity("mine"), dataclasses.replace(parity("mine"), summary=NOTHING), width=120)

    assert (
        text.count("No published row is of the model of gpt-4o, judge gpt-4o-2024-08-06; demo, judge demo")
        == 1
    )
    assert text.count("Claude-3.5-Sonnet") == 1


def test_a_part_of_the_samples_is_told_beside_the_verdict() -> None:
    words = "Your run is not over all published samples"

    assert words in table(parity("gpt-4o", subset=True))
    assert words not in table(parity("gpt-4o"))


def test_a_simulated_run_says_so_beside_the_paper() -> None:
    assert "(SIMULATED)" in table(parity("gpt-4o", simulated=True))


@pytest.mark.parametrize("form", ["table", "markdown", "latex", "json", "csv"])
def test_names_of_strangers_are_encoded(form: str) -> None:
    hostile = Untrusted("\x1b[2J=cmd()|%&_[x]")

    text = table(parity("gpt-4o", run=hostile, judge=hostile, deviations=(hostile,)), form=form)

    assert text.replace("\n", "").replace("\r", "").isprintable()
