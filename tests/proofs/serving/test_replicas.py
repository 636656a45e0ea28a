"""Engines of one run: the GPUs of each, and one that is gone."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.commands.test_replicas import pids_asked
from tests.commands.test_run_local import SAMPLES as LOCAL_SAMPLES
from tests.commands.test_run_local import Desk as LocalDesk
from tests.commands.test_run_local import desk as local_desk
from tests.support.fake_engine import events

__all__ = ["local_desk"]
FOUR_GPUS = """#!/bin/sh
case "$*" in
*query-gpu*) for n in 0 1 2 3; do
  echo "$n, GPU-0000000$n-0000-0000-0000-000000000000, 81559, 81079, 570.86.15, NVIDIA H100 80GB HBM3"
done ;;
*) echo "| NVIDIA-SMI 570.86.15   Driver Version: 570.86.15   CUDA Version: 13.0 |" ;;
esac
"""


@pytest.mark.parametrize(
    ("words", "inherited", "seen"),
    [
        (["--gpus", "1,3"], {}, {"1", "3"}),
        ([], {"CUDA_VISIBLE_DEVICES": "2,0"}, {"0", "2"}),
        (["--tensor-parallel-size", "2"], {}, {"0,1", "2,3"}),
    ],
)
def test_each_engine_sees_gpus_of_its_own(
    local_desk: LocalDesk, words: list[str], inherited: dict[str, str], seen: set[str]
) -> None:
    """On a machine of four GPUs, as its nvidia-smi says."""
    driver = local_desk.folder / "driver" / "nvidia-smi"
    driver.parent.mkdir()
    driver.write_text(FOUR_GPUS)
    driver.chmod(0o755)
    path = f"{driver.parent}{os.pathsep}{os.environ['PATH']}"
    hold = local_desk.folder / "go on"
    wishes = local_desk.environment(HOLD=str(hold), HOLD_AT="chat")
    words = [*local_desk.words("--replicas", "2"), *words]
    with local_desk.vlsb.start(*words, env={**wishes, **inherited, "PATH": path}) as running:
        running.wait_until(lambda: len(events(local_desk.record, "start")) == 2, what="both engines start")
        found = {visible_to(event["pid"]) for event in events(local_desk.record, "start")}
        hold.touch()
        ended = running.wait()

    assert ended.code == 0, ended.err
    assert found == seen
    local_desk.gone()


def visible_to(pid: int) -> str:
    """The GPUs that a process may use."""
    entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(entry.partition("=")[::2] for entry in entries)["CUDA_VISIBLE_DEVICES"]


def test_an_engine_that_is_gone_for_good_leaves_its_samples_to_the_others(local_desk: LocalDesk) -> None:
    words = ("--replicas", "2", "--max-restarts", "0", "--max-connections", "2")
    with local_desk.start(*words, DELAY_S="0.5") as running:
        running.wait_until(lambda: pids_asked(local_desk), what="a sample is asked")
        os.kill(next(iter(pids_asked(local_desk))), signal.SIGKILL)
        ended = running.wait()

    assert ended.code == 0, ended.err
    assert "is not asked any more" in ended.err
    assert len(events(local_desk.record, "start")) == 2
    assert local_desk.summary()["judged"] == LOCAL_SAMPLES
    local_desk.gone()
