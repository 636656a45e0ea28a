"""A launcher that is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_engine import living
from tests.support.waiting import wait_until
from tests.unit.engines.test_launch import Bench, launcher


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Whatever a test leaves behind is killed."""
    bench = Bench(tmp_path)
    yield bench
    for pid in living(bench.mark):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("stage", ["downloading", "loading", "compiling", "warming_up"])
def test_a_launcher_that_is_killed_at_any_stage_leaves_nothing(bench: Bench, stage: str) -> None:
    never = str(bench.folder / "never")
    with launcher(bench, f"HOLD={never}", f"HOLD_AT={stage}", "CHILDREN=plain") as process:
        wait_until(lambda: len(living(bench.mark)) == 4, what="the engine's tree and its reaper")
        process.kill()

    wait_until(lambda: not living(bench.mark), what="the end of the engine")
