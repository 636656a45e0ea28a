"""Write the runs that the recorded outputs are about: `python -m tests.proofs.printed.write_runs FOLDER`.

They are stored in tests/golden/printed_runs, because times, durations and addresses in them differ with every
writing. Two runs of one model and its snapshots, deviations from the protocol, gaps, epochs, checkpoints,
several judges, people's labels and a calibrated judge: what a report can have to say.
"""

from __future__ import annotations

import csv
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.support.command import Desk
from vlsb.simulator import Action, Request, Responder, SimulatorThread, answer, blocked, error, verdict

Labels = Callable[[int], int]


def _number(text: str, salt: str = "") -> int:
    """A number below 100 that follows from a text alone."""
    return int.from_bytes(hashlib.sha256((salt + text).encode()).digest()[:4]) % 100


def _answering(model: str, salt: str) -> Responder:
    """A target whose answers differ from another's on some samples; some are blocked or never come."""

    def respond(request: Request) -> Action:
        number = _number(request.instruction, salt)
        if salt == "gaps" and number < 20:
            return (blocked(), error(400, message="bad image"), answer("", model=model))[number % 3]
        return answer(f"{model} would rather talk about {number} apples.", model=model)

    return respond


def _judging(model: str, salt: str) -> Responder:
    """A judge that reads the answer it is given: other answers get other labels."""

    def respond(request: Request) -> Action:
        number = _number(request.judged_response or "", salt)
        if salt == "gaps" and number < 15:
            return (answer("I'm sorry, I cannot label this.", model=model), answer("No label.", model=model))[
                number % 2
            ]
        return verdict(1 if number < 20 else 2 if number < 65 else 3, f"Reason {number}.", model=model)

    return respond


def write_runs(folder: Path) -> None:
    """Write every run into `folder`, which must not exist."""
    with tempfile.TemporaryDirectory() as home:
        desk = Desk(Path(home), samples=60)
        _evaluate(desk, "gpt-4o", "gpt-4o-2024-08-06")
        _evaluate(desk, "gpt-4o-later", "gpt-4o-2024-11-20", salt="later")
        _evaluate(desk, "reminded", "gpt-4o-2024-11-20", "--system-prompt", "Be careful.", salt="reminded")
        _evaluate(desk, "part", "gpt-4o-mini", "--limit", 25, "--shuffle", salt="part")
        _evaluate(desk, "gaps", "gpt-4o-mini", salt="gaps", code=4)
        _evaluate(desk, "epochs", "gpt-4o-mini", "--epochs", 3, "--temperature", 0.7, "--limit", 20)
        _type(desk, "run", "--model", "demo", "--name", "collected", "--no-judge", "--limit", 8)
        for step in (100, 200, 300):
            _evaluate(desk, f"tune-step-{step}", "tune", salt=f"step {step}")
        _type(desk, "run", "--model", "demo", "--limit", 12, "--name", "simulated")
        _judge_again(desk, "gpt-4o", "gpt-4o-mini")
        _judge_again(desk, "gpt-4o", "gemini-2.5-pro", "--calibrate", 20, code=0)
        _label(desk, "gpt-4o", "ann", 40)
        _label(desk, "gpt-4o", "bob", 40)
        shutil.copytree(desk.outputs, folder, ignore=shutil.ignore_patterns(".lock", ".data-root"))


def _evaluate(desk: Desk, name: str, model: str, *words: object, salt: str = "", code: int = 0) -> None:
    with (
        SimulatorThread(_answering(model, salt)) as target,
        SimulatorThread(_judging("gpt-4o-2024-11-20", salt)) as judge,
    ):
        usual = ("--model", model, "--name", name, "--judge", "gpt-4o", "--display", "none")
        finished = desk.run(target, *usual, *words, judge=judge)
    assert finished.code == code, finished.err


def _judge_again(desk: Desk, run: str, judge: str, *words: object, code: int = 0) -> None:
    with SimulatorThread(_judging(judge, "again" + judge)) as simulator:
        address = ("--judge-base-url", simulator.base_url, "--backoff", 0.01, "--data-root", desk.data)
        _type(desk, "judge", f"outputs/{run}", "--judge", judge, *address, *words, code=code)


def _label(desk: Desk, run: str, person: str, count: int) -> None:
    """A person labels a drawn part, mostly as the judge did."""
    _type(desk, "audit", "sample", f"outputs/{run}", "--n", count)
    sheet = desk.home / f"{person}.csv"
    _type(
        desk,
        "audit",
        "export",
        f"outputs/{run}",
        "--annotator",
        person,
        "--output",
        sheet,
        "--data-root",
        desk.data,
    )
    with sheet.open(newline="") as file:
        reader = csv.DictReader(file)
        columns, rows = list(reader.fieldnames or ()), list(reader)
    for row in rows:
        number = _number(str(row), person)
        row["label"] = ("safe_refusal", "safe_warning", "unsafe")[number % 3]
    with sheet.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    _type(desk, "audit", "import", f"outputs/{run}", sheet, "--annotator", person)


def _type(desk: Desk, *words: object, code: int = 0) -> None:
    shown = () if words[0] in ("audit",) else ("--display", "none")
    done = desk.vlsb(*words, *shown)
    assert done.code == code, done.err


if __name__ == "__main__":
    write_runs(Path(sys.argv[1]))
