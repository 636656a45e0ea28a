"""Run directories that version 0.1.0 wrote: they open, report the same digits and resume.

Intervals are left out of the stored numbers: how they are computed belongs to the version that reports.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cli_tools import Desk

RUNS = Path(__file__).parent / "golden" / "runs_0.1.0"
EXPECTED: dict[str, list[dict[str, Any]]] = json.loads((RUNS / "expected.json").read_text())


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A desk whose outputs are writable copies of the stored runs."""
    found = Desk(tmp_path)
    shutil.copytree(RUNS, found.outputs)
    for run in EXPECTED:
        # git keeps no empty folder
        (found.outputs / run / "verdicts").mkdir(exist_ok=True)
    return found


def _report(desk: Desk, run: str) -> list[dict[str, Any]]:
    return desk.report(desk.outputs / run)


def _resume(desk: Desk, run: str, *words: object) -> None:
    done = desk.vlsb("run", "--model", "demo", "--resume", "--name", run, *words)
    assert done.code == 0, done.err


@pytest.mark.parametrize("run", sorted(EXPECTED))
def test_a_run_of_an_earlier_version_reports_the_same_digits(desk: Desk, run: str) -> None:
    found = _report(desk, run)

    assert [
        _stored_part(row, expected) for row, expected in zip(found, EXPECTED[run], strict=True)
    ] == EXPECTED[run]


def _stored_part(found: Any, expected: Any) -> Any:
    """What was found of the fields that are stored, at any depth."""
    if not isinstance(expected, dict):
        return found
    return {name: _stored_part(found[name], value) for name, value in expected.items()}


@pytest.mark.parametrize("run", ["part", "torn"])
def test_a_partial_run_of_an_earlier_version_resumes_and_keeps_every_whole_row(desk: Desk, run: str) -> None:
    stored = [
        line
        for line in (desk.outputs / run / "responses.jsonl").read_bytes().splitlines(keepends=True)
        if line.endswith(b"\n")
    ]

    _resume(desk, run)

    after = (desk.outputs / run / "responses.jsonl").read_bytes().splitlines(keepends=True)
    assert after[: len(stored)] == stored
    assert len(after) == 30
    assert _report(desk, run)[0]["judged"] == 30


def test_a_finished_run_of_an_earlier_version_has_nothing_left_to_do(desk: Desk) -> None:
    before = (desk.outputs / "plain" / "responses.jsonl").read_bytes()

    _resume(desk, "plain", "--limit", "12")

    assert (desk.outputs / "plain" / "responses.jsonl").read_bytes() == before
    assert _report(desk, "plain")[0]["usage"] == EXPECTED["plain"][0]["usage"]
