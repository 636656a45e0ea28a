"""The harness that kills runs by batch, in short; `just batch-crash` kills hundreds of times."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.proofs.crash.batches import BatchHarness

pytest.importorskip("openai")
pytest.importorskip("aiofiles")

# A program that makes the first batch again of which it does not know that it was made.
_MAKES_AGAIN = """
find, left = BatchRun._find, [1]
def makes_again(self, lane, batch):
    return self._end(lane, batch, "void") if left and left.pop() else find(self, lane, batch)
BatchRun._find = makes_again
"""


@pytest.mark.parametrize("is_listed", [True, False])
def test_kills_at_any_await_pay_for_each_answer_once(tmp_path: Path, is_listed: bool) -> None:
    """Or the run stops and says so, where the list never shows a batch that may have been made."""
    harness = BatchHarness(tmp_path, seed=7)

    harness.crash(2, is_listed=is_listed)

    assert harness.figures.violations == []
    assert harness.figures.killed_at
    assert harness.awaits > 100


def test_ctrl_c_at_any_await_ends_with_the_command_that_resumes(tmp_path: Path) -> None:
    harness = BatchHarness(tmp_path, seed=8, number=signal.SIGINT)

    harness.crash(2)

    assert harness.figures.violations == []


def test_the_harness_notices_a_program_that_makes_a_batch_again(tmp_path: Path) -> None:
    harness = BatchHarness(tmp_path, seed=9, prelude=_MAKES_AGAIN)

    for _ in range(6):
        harness.crash(1)
        if harness.figures.violations:
            break

    assert any("were paid for twice" in each for each in harness.figures.violations)
