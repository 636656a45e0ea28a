"""Run directories that earlier versions wrote: they open, report the same digits and go on.

`tests/support/write_runs.py` made those of schema 2. `expected/` beside them holds what `vlsb report` says
of each stored run (step 0) and of a copy after each command of `STEPS`; VLSB_WRITE_GOLDEN=1 writes it anew.
Every byte is compared, but not the duration where new sessions add to it. No field depends on the version
today; the intervals may change with the method that computes them, and no other number may.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from tests.support import GOLDEN
from tests.support.command import Desk, Finished
from tests.support.write_runs import TEMPLATE, strict_judge
from vlsb.simulator import SimulatorThread

STEPS = {
    "runs_0.1.0/epochs": ["run --model demo --resume --name epochs --limit 7 --epochs 3"],
    "runs_0.1.0/judged": ["judge outputs/judged --judge demo --judge-template template.txt"],
    "runs_0.1.0/nojudge": ["judge outputs/nojudge --judge demo"],
    "runs_0.1.0/part": ["run --model demo --resume --name part"],
    "runs_0.1.0/plain": ["run --model demo --resume --name plain --limit 12"],
    "runs_0.1.0/torn": ["run --model demo --resume --name torn"],
    "runs_schema_2/collect_only": [
        "run --model demo --resume --name collect_only --limit 8 --no-judge",
        "judge outputs/collect_only --judge demo",
    ],
    "runs_schema_2/damaged": [
        "runs repair outputs/damaged",
        "run --model demo --resume --name damaged --limit 8",
    ],
    "runs_schema_2/epochs": ["run --model demo --resume --name epochs --limit 5 --epochs 4"],
    "runs_schema_2/plain": [
        "run --model demo --resume --name plain --limit 12",
        "judge outputs/plain --judge demo --judge-template template.txt",
    ],
    "runs_schema_2/resumed": [
        "run --model demo --resume --name resumed --limit 24 --judge judge-model --judge-base-url JUDGE"
        " --retry judge_blocked"
    ],
    "runs_schema_2/several_judges": [
        "judge outputs/several_judges --judge judge-model --judge-base-url JUDGE",
        "judge outputs/several_judges --judge demo --judge-field top_p=0.5",
    ],
}


@pytest.fixture
def desk(tmp_path: Path, request: pytest.FixtureRequest) -> Desk:
    """A desk whose outputs are a writable copy of the stored runs."""
    found = Desk(tmp_path)
    folder, _, run = request.node.callspec.params["path"].partition("/")
    shutil.copytree(GOLDEN / folder / run, found.outputs / run)
    # git keeps no empty folder
    (found.outputs / run / "verdicts").mkdir(exist_ok=True)
    (found.home / "template.txt").write_text(TEMPLATE)
    return found


def test_every_stored_run_is_looked_at() -> None:
    stored = {str(path.parent.relative_to(GOLDEN)) for path in GOLDEN.glob("runs_*/*/run.json")}

    assert stored == STEPS.keys()


@pytest.mark.parametrize("path", STEPS)
def test_a_run_of_an_earlier_version_reports_the_same_digits_and_goes_on(desk: Desk, path: str) -> None:
    run = desk.outputs / path.partition("/")[2]
    _check_report(desk, path, 0)

    for number, command in enumerate(STEPS[path], start=1):
        before = _whole_lines(run)
        done = _typed(desk, command)

        assert done.code == 0, done.err
        after = _whole_lines(run)
        for file, lines in before.items():
            assert after[file][: len(lines)] == lines
        rows = [json.loads(line) for line in after["responses.jsonl"]]
        assert len({(row["sample_id"], row["epoch"]) for row in rows}) == len(rows)
        _check_report(desk, path, number)


def _typed(desk: Desk, command: str) -> Finished:
    with SimulatorThread(strict_judge) as judge:
        return desk.vlsb(*command.replace("JUDGE", judge.base_url).split())


def _whole_lines(run: Path) -> dict[str, list[bytes]]:
    """The lines of each file, without what is torn or damaged."""
    lines = {str(path.relative_to(run)): path.read_bytes().splitlines() for path in run.rglob("*.jsonl")}
    return {file: [line for line in every if _is_json(line)] for file, every in lines.items()}


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _check_report(desk: Desk, path: str, step: int) -> None:
    """Compare the table with the stored one, and of the run as it is stored also the JSON."""
    folder, _, run = path.partition("/")
    expected = GOLDEN / folder / "expected"
    table = desk.vlsb("report", f"outputs/{run}", env={"COLUMNS": "100"})
    text = f"{table.out}{table.err}exit code {table.code}\n"
    if step:
        _compare(expected / f"{run}.{step}.txt", re.sub(r"(?m)^time    .* s$", "time", text))
        return
    document = desk.vlsb("report", f"outputs/{run}", "--format", "json")
    _compare(expected / f"{run}.{step}.txt", text)
    if table.code == 0:
        _compare(expected / f"{run}.{step}.json", document.out)
    else:
        assert (document.out, document.err, document.code) == ("", table.err, table.code)


def _compare(stored: Path, found: str) -> None:
    """JSON is stored without its indentation, which is compared too."""
    is_json = stored.suffix == ".json"
    if os.environ.get("VLSB_WRITE_GOLDEN"):
        stored.parent.mkdir(exist_ok=True)
        stored.write_text(json.dumps(json.loads(found), separators=(",", ":")) if is_json else found)
    text = stored.read_text()
    if is_json:
        text = json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n"
    assert found == text
