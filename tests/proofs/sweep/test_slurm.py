"""Sweeps through submitit: its local executor, and a real Slurm of one node where that can be started."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.checkpoints import checkpoint
from tests.support.command import Vlsb
from tests.support.datasets import sharing_rows, write_dataset
from tests.support.endpoint import persona
from tests.support.engine_environment import write_environment
from tests.support.sweeps import Held, processes_of, tables, write_plan
from tests.support.waiting import wait_until
from vlsb.simulator import SimulatorThread

pytest.importorskip("submitit", reason="needs the extra `slurm`")
SAMPLES = 10
NODE = Path(__file__).with_name("slurm_node.sh")

# The sweep's own process, with submitit's local executor in Slurm's place.
LOCALLY = """
import sys
import vlsb.sweep.start as start
from functools import partial
start.SweepOnSlurm = partial(start.SweepOnSlurm, cluster="local")
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


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A Slurm of one node: the variables by which commands find it."""
    if os.geteuid() or not all(map(shutil.which, ("sbatch", "slurmctld", "slurmd", "munged"))):
        pytest.skip("needs root, and slurm-wlm and munge installed")
    # Nobody but root may write above the socket of munge, and paths of sockets are short.
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/run") as folder:
        ports = [str(port) for port in free_ports(2)]
        started = subprocess.run([NODE, "up", folder, *ports], capture_output=True, text=True, check=False)
        if started.returncode:
            pytest.skip(f"no Slurm could be started here: {started.stderr[-500:]}")
        try:
            yield {"PATH": os.environ["PATH"], "SLURM_CONF": f"{folder}/slurm.conf"}
        finally:
            subprocess.run([NODE, "down", folder], check=True)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def test_a_real_slurm_runs_the_cells_through_requeues_and_the_death_of_the_sweep(
    vlsb: Vlsb, tmp_path: Path, slurm: dict[str, str]
) -> None:
    """Twelve cells, two of them engines. The jobs live on without the sweep; started again it waits for them,
    and submits none twice. One is put into the queue again by Slurm, one by the signal that comes before a
    job's time is over: what they had stored is not asked for again."""
    data = write_dataset(tmp_path / "data", sharing_rows(SAMPLES))
    engine = write_environment(tmp_path / "engine")
    local = [
        {"model": str(checkpoint(tmp_path / "weights" / name)), "engine": str(engine), "num-gpus": 1}
        for name in ("tiny-a", "tiny-b")
    ]
    models = [*(f"m{number}" for number in range(1, 11)), *local]
    held = Held("m1", "m2", after=5)
    with SimulatorThread(persona) as straight_target, SimulatorThread(held) as target, held:
        straight = vlsb(
            "sweep",
            write_plan(tmp_path, straight_target, data=data, models=models, **{"output-dir": "straight"}),
        )
        plan = write_plan(tmp_path, target, data=data, models=models, slurm={"cpus": 1, "time": 5})
        first = vlsb.start("sweep", plan, "--slurm", env=slurm)
        stored = [tmp_path / "sweep" / name / "responses.jsonl" for name in ("m1", "m2")]
        first.wait_until(lambda: all(map(line_count, stored)), what="responses of both")
        first.kill()
        jobs = json.loads((tmp_path / "sweep" / "slurm" / "jobs.json").read_bytes())
        command(slurm, "scontrol", "requeue", jobs["m1"])
        warning = subprocess.Popen(["scancel", "--signal=USR2", jobs["m2"]], env={**os.environ, **slurm})
        restarted = [jobs["m1"], jobs["m2"]]
        wait_until(lambda: all("Restarts=1" in job(slurm, each) for each in restarted), what="requeues")
        # It may find the job already on its way into the queue, and would try again in some seconds.
        warning.kill()
        warning.wait()
        held.released.set()
        ended = vlsb("sweep", plan, "--slurm", env=slurm, timeout_s=300)

    assert (straight.code, ended.code) == (0, 0), ended.err
    assert len(jobs) == len(models)
    assert json.loads((tmp_path / "sweep" / "slurm" / "jobs.json").read_bytes()) == jobs
    assert tables(vlsb, tmp_path / "sweep") == tables(vlsb, tmp_path / "straight")
    # A warning leaves the time to end in order; a requeue may not.
    assert sessions(tmp_path / "sweep" / "m1") in ((2, 1), (2, 2))
    assert sessions(tmp_path / "sweep" / "m2") == (2, 2)
    # What was in flight when the two were stopped is asked for again, and nothing else.
    extra = len(target.completions) - len(straight_target.completions)
    assert 0 <= extra <= 2 * 2 * SAMPLES
    assert not processes_of(tmp_path)


def sessions(run: Path) -> tuple[int, int]:
    """How many sessions of a run have started, and how many have ended in order."""
    events = (run / "events.jsonl").read_text()
    return events.count('"session_started"'), events.count('"session_ended"')


def line_count(path: Path) -> int:
    """How many lines a file has; none where there is no file."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def command(slurm: Mapping[str, str], *words: str) -> str:
    """What a command of Slurm's says."""
    return subprocess.run(
        words, env={**os.environ, **slurm}, capture_output=True, text=True, check=True
    ).stdout


def job(slurm: Mapping[str, str], number: str) -> str:
    """All that Slurm tells of a job."""
    return command(slurm, "scontrol", "show", "job", number)
