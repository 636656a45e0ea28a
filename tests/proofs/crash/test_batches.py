"""The harness that kills runs by batch, in short; `just batch-crash` kills hundreds of times."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.proofs.crash.batches import BatchHarness
from tests.proofs.crash.forked import Prepared

pytest.importorskip("openai")
pytest.importorskip("aiofiles")

# A program that makes the first batch again of which it does not know that it was made.
_MAKES_AGAIN = """
find, left = BatchRun._find, [1]
def makes_again(self, lane, batch):
    return self._end(lane, batch, "void") if left and left.pop() else find(self, lane, batch)
BatchRun._find = makes_again
"""


@pytest.fixture(scope="module")
def prepared() -> Iterator[Prepared]:
    with Prepared() as prepared:
        yield prepared


@pytest.mark.parametrize("is_listed", [True, False])
def test_kills_at_any_await_pay_for_each_answer_once(
    tmp_path: Path, prepared: Prepared, is_listed: bool
) -> None:
    """Or the run stops and says so, where the list never shows a batch that may have been made."""
    harness = BatchHarness(tmp_path, prepared, seed=7)

    harness.crash(2, is_listed=is_listed)

    assert harness.figures.violations == []
    assert harness.figures.killed_at
    assert harness.awaits > 100


def test_ctrl_c_at_any_await_ends_with_the_command_that_resumes(tmp_path: Path, prepared: Prepared) -> None:
    harness = BatchHarness(tmp_path, prepared, seed=8, number=signal.SIGINT)

    harness.crash(2)

    assert harness.figures.violations == []
    assert harness.figures.killed_at


def test_a_run_that_ends_before_its_kill_is_due_is_killed_all_the_same(
    tmp_path: Path, prepared: Prepared
) -> None:
    """How many awaits a session has depends on how it ends, and on how busy the machine is."""
    harness = BatchHarness(tmp_path, prepared, seed=10)
    harness.awaits *= 1000

    harness.crash(1)

    assert len(harness.figures.killed_at) == 1
    assert harness.figures.violations == []


def test_the_harness_notices_a_program_that_makes_a_batch_again(tmp_path: Path, prepared: Prepared) -> None:
    harness = BatchHarness(tmp_path, prepared, seed=9, prelude=_MAKES_AGAIN)

    # As many runs are killed at every await.
    for _ in range(harness.awaits):
        harness.crash(1)
        if harness.figures.violations:
            break

    assert any("were paid for twice" in each for each in harness.figures.violations)
