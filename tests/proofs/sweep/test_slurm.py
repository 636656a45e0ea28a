"""Sweeps through submitit: its local executor here, and a real Slurm where this machine has one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.command import Vlsb
from tests.support.datasets import sharing_rows, write_dataset
from tests.support.endpoint import persona
from tests.support.sweeps import tables, write_plan
from vlsb.simulator import SimulatorThread

pytest.importorskip("submitit", reason="needs the extra `slurm`")
SAMPLES = 10

# The sweep's own process, with submitit's local executor in Slurm's place.
LOCALLY = """
import sys
import vlsb.cli.sweeping as sweeping
from functools import partial
sweeping.SweepOnSlurm = partial(sweeping.SweepOnSlurm, cluster="local")
"""


def test_jobs_of_the_local_executor_make_the_tables_of_a_sequential_run(vlsb: Vlsb, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", sharing_rows(SAMPLES))
    with SimulatorThread(persona) as target:
        straight = vlsb("sweep", write_plan(tmp_path, target, data=data, **{"output-dir": "straight"}))
        asked = len(target.completions)
        ended = vlsb("sweep", write_plan(tmp_path, target, data=data), "--slurm", prelude=LOCALLY)

    assert (straight.code, ended.code) == (0, 0), ended.err
    assert tables(vlsb, tmp_path / "sweep") == tables(vlsb, tmp_path / "straight")
    assert len(target.completions) == 2 * asked


def test_a_job_that_is_preempted_goes_on_where_it_was(vlsb: Vlsb, tmp_path: Path) -> None:
    """submitit's own signal: it checkpoints the job, ends it and puts it into the queue again."""
    data = write_dataset(tmp_path / "data", sharing_rows(40))
    with SimulatorThread(persona) as target:
        plan = write_plan(tmp_path, target, data=data, models=["m1"])
        process = vlsb.start("sweep", plan, "--slurm", prelude=LOCALLY)
        process.wait_until(lambda: len(target.completions) > 10, what="requests")
        os.kill(_job_of(tmp_path), signal.SIGUSR2)
        ended = process.wait()

    assert ended.code == 0, ended.err
    assert tables(vlsb, tmp_path / "sweep")["m1"]["judged"] == 40
    events = (tmp_path / "sweep" / "m1" / "events.jsonl").read_text()
    assert events.count('"session_started"') == 2
    # What was stored before is not asked for again.
    assert len(target.completions) < 2 * 80


def _job_of(folder: Path) -> int:
    """The process of submitit that runs the only job."""
    found = subprocess.run(
        ["pgrep", "-f", f"submitit.core._submit.*{folder}"], capture_output=True, text=True, check=False
    )
    return int(found.stdout.split()[0])


def has_slurm() -> bool:
    """Whether this machine has a Slurm with a node that answers."""
    if shutil.which("sbatch") is None:
        return False
    nodes = subprocess.run(["sinfo", "--noheader"], capture_output=True, timeout=60, check=False)
    return nodes.returncode == 0 and bool(nodes.stdout.strip())


@pytest.mark.skipif(not has_slurm(), reason="no Slurm on this machine")
def test_a_real_slurm_runs_the_cells_through_a_requeue_and_the_death_of_the_sweep(
    vlsb: Vlsb, tmp_path: Path
) -> None:
    """The jobs live on without the sweep; started again it waits for them, and submits none twice."""
    data = write_dataset(tmp_path / "data", sharing_rows(SAMPLES))
    slurm = {"PATH": os.environ["PATH"]}
    with SimulatorThread(persona) as target:
        plan = write_plan(tmp_path, target, data=data, slurm={"cpus": 1, "time": 5})
        first = vlsb.start("sweep", plan, "--slurm", env=slurm)
        first.wait_until(lambda: len(target.completions) > 5, what="requests")
        first.kill()
        jobs = json.loads((tmp_path / "sweep" / "slurm" / "jobs.json").read_bytes())
        subprocess.run(["scontrol", "requeue", jobs["m1"]], check=False, capture_output=True)
        ended = vlsb("sweep", plan, "--slurm", env=slurm, timeout_s=400)

    assert ended.code == 0, ended.err
    assert [each["judged"] for each in tables(vlsb, tmp_path / "sweep").values()] == [SAMPLES] * 3
    assert json.loads((tmp_path / "sweep" / "slurm" / "jobs.json").read_bytes()) == jobs
    # Of the requeued cell, what was in flight is asked for again.
    assert len(target.completions) <= 3 * (2 * SAMPLES + 2) + 2 * SAMPLES
