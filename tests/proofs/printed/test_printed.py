"""Every output is the recorded one, byte for byte: tables in every form and width, help pages, mistakes.

VLSB_WRITE_GOLDEN=1 records anew. Each changed line of tests/golden/printed is a decision: look at that diff.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.proofs.printed.lines import HOSTILE, WIDTHS, Line, lines
from tests.support import GOLDEN
from tests.support.command import Vlsb
from tests.support.datasets import write_dataset
from tests.test_docs import COMMANDS

pytest.importorskip("scipy", reason="comparisons are among the outputs; they need the extra `stats`")
pytest.importorskip("statsmodels", reason="agreement is among the outputs; it needs the extra `stats`")

RECORDS = GOLDEN / "printed"
RUNS = GOLDEN / "printed_runs"
# A checkout dates its files by itself, and lists of runs print when a run changed.
CHANGED_S = 1_790_000_000
HELP = {"help": [Line(" ".join((*name, "--help")), width) for name in ((), *COMMANDS) for width in WIDTHS]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory that holds the runs, some of them by names that mean something to a program."""
    folder = tmp_path_factory.mktemp("printed")
    shutil.copytree(RUNS, folder, dirs_exist_ok=True)
    write_dataset(folder / "data", 60)
    for place, name in enumerate(HOSTILE.values()):
        source = ("gpt-4o-later", "reminded", "tune-step-100", "tune-step-200")[place]
        shutil.copytree(RUNS / source, folder / "hostile" / name)
    return folder


@pytest.mark.parametrize(("name", "typed"), [*lines(), *HELP.items()])
def test_every_output_is_the_recorded_one(
    name: str, typed: list[Line], runs: Path, minimal_env: dict[str, str]
) -> None:
    for path in runs.rglob("*"):
        os.utime(path, (CHANGED_S, CHANGED_S))
    vlsb = Vlsb(runs / "hostile" if name == "hostile" else runs, minimal_env)
    record = "\n".join(_output(vlsb, line) for line in typed).replace(str(runs), "FOLDER")
    path = RECORDS / f"{name}.txt"
    if os.environ.get("VLSB_WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(record, "utf-8", newline="")

    assert record == path.read_bytes().decode()


def _output(vlsb: Vlsb, line: Line) -> str:
    finished = vlsb(*line.words, env={"COLUMNS": str(line.width)})
    parts = [f"$ vlsb {line.typed}", f"# {line.width} columns, exit code {finished.code}"]
    if finished.err:
        parts.append(f"# stderr\n{finished.err.rstrip(chr(10))}")
    if finished.out:
        parts.append(f"# stdout\n{finished.out}")
    return "\n".join(parts) + "\n"
