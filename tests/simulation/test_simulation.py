"""Histories of the simulation: a seed is one history, and nothing that must hold is violated in any."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.simulation.planted import PLANTED, ROOT, Planted


def simulate(*words: str) -> subprocess.CompletedProcess[str]:
    """`python -m tests.simulation` in a process of its own."""
    command = [sys.executable, "-m", "tests.simulation", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_seed_gives_the_same_history_to_the_byte_in_every_process() -> None:
    first, second = simulate("--seed", "6"), simulate("--seed", "6")

    assert first.returncode == 0, first.stdout + first.stderr
    assert "checksum " in first.stdout
    assert first.stdout == second.stdout


def test_nothing_that_must_hold_is_violated_in_twenty_histories() -> None:
    ended = simulate("20", "--processes", "1")

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "20 histories" in ended.stdout


@pytest.mark.parametrize("defect", PLANTED.values(), ids=PLANTED)
def test_every_planted_defect_still_has_its_place_in_the_program(defect: Planted) -> None:
    assert (ROOT / "vlsb" / defect.file).read_text("utf-8").count(defect.old) == 1
