"""What a sweep says at its end: a page, however many cells it had."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path

import pytest

from tests.support.command import Vlsb
from tests.support.datasets import sharing_rows, write_dataset
from tests.support.sweeps import hosted_at, write_plan
from vlsb.simulator import SimulatorThread

SAMPLES = 12
WIDTH = 80
A_PAGE = 60


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data", sharing_rows(SAMPLES))


def lines_of(text: str) -> int:
    """How many lines of a terminal a text takes."""
    return sum(max(1, math.ceil(len(line) / WIDTH)) for line in text.splitlines())


def test_five_hundred_cells_end_with_one_page(
    vlsb: Vlsb, tmp_path: Path, data: Path, target: SimulatorThread
) -> None:
    """The counts, as many rates as fit, each cause once with an example, and what to type next."""
    plain = hosted_at(target, "m1")
    assert vlsb("sweep", write_plan(tmp_path, target, data=data, models=["m1"])).code == 0
    outputs = tmp_path / "sweep"
    done = [{**plain, "name": f"run-{number}"} for number in range(300)]
    edited = [{**plain, "name": f"edited-{number}", "temperature": 0.5} for number in range(120)]
    damaged = [{**plain, "name": f"damaged-{number}"} for number in range(76)]
    started = [{**plain, "name": f"misplaced-{number}", "data-root": "nowhere"} for number in range(4)]
    for entry in (*done, *edited, *damaged):
        shutil.copytree(outputs / "m1", outputs / str(entry["name"]), copy_function=os.link)
    for entry in damaged:
        manifest = outputs / str(entry["name"]) / "run.json"
        manifest.unlink()
        manifest.write_text("{")
    plan = write_plan(tmp_path, target, data=data, models=[*damaged, *done, *edited, *started])

    ended = vlsb("sweep", plan, env={"COLUMNS": str(WIDTH)})

    assert ended.code == 5, ended.err
    at_end = ended.err.splitlines()
    assert "300 were done before." in at_end
    assert "run-0: " not in ended.err
    first = next(number for number, line in enumerate(at_end) if line.startswith("300 done, 200 failed."))
    said = "\n".join(at_end[first:])
    assert lines_of(ended.out) + lines_of(said) <= A_PAGE
    assert "See everything with: vlsb report sweep" in at_end[first]
    assert "more runs: vlsb report sweep --leaderboard" in ended.out
    assert "run-0 " in ended.out
    # Those that cannot be read have no rates.
    assert "damaged-0" not in ended.out
    for example, others, cause in (
        ("damaged-0", "damaged-1, damaged-2, damaged-3 and 72 more", "run.json is damaged"),
        ("edited-0", "edited-1, edited-2, edited-3 and 116 more", "target.temperature: 0.0 -> 0.5"),
        ("misplaced-0", "misplaced-1, misplaced-2, misplaced-3", "exit code 2: --data-root"),
    ):
        [line] = [each for each in at_end[first:] if each.startswith(f"{example}: failed")]
        assert cause in line
        assert line.endswith(f"Likewise: {others}")
    assert ended.resume_command == ["vlsb", "sweep", str(plan)]


def test_cells_that_were_never_begun_are_one_line(
    vlsb: Vlsb, tmp_path: Path, data: Path, target: SimulatorThread
) -> None:
    plan = write_plan(tmp_path, target, data=data, models=[f"m{number}" for number in range(40)])

    ended = vlsb("sweep", plan, "--max-cost", 0)

    assert ended.code == 4
    assert ended.err.splitlines()[:2] == [
        "40 stopped.",
        "m0: stopped (--max-cost is reached). Likewise: m1, m2, m3 and 36 more",
    ]
    assert lines_of(ended.err) <= 8
