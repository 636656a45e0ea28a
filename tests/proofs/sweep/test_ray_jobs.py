"""`vlsb sweep --ray http://...`: the sweep as a job of a cluster, sent, left, followed again."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Vlsb
from tests.support.ray_jobs import JobsServer

PLAN = '# it\'s "$HOME" %s\nmodels: [demo]\njudges: [demo]\n'
# What a cluster has in the place of `vlsb`: it ends with 4 as soon as it may.
VLSB = """#!/bin/sh
echo "words: $*"; cat "$2"
printf 'half a '; while [ ! -e go ]; do sleep 0.05; done; echo line
exit 4
"""


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "my plan.yaml"
    path.write_text(PLAN)
    return path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[JobsServer]:
    home = tmp_path / "cluster"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "vlsb").write_text(VLSB)
    (home / "bin" / "vlsb").chmod(0o755)
    with JobsServer(home, {"PATH": f"{home}/bin:/usr/bin:/bin"}) as found:
        yield found


def test_the_plan_and_the_options_arrive_and_the_sweeps_exit_code_comes_back(
    vlsb: Vlsb, plan: Path, server: JobsServer
) -> None:
    (server.home / "go").touch()

    ended = vlsb("sweep", plan, "--ray", server.address, "--offline", "--yes")

    assert ended.code == 4, ended.err
    words, rest = ended.out.split("\n", 1)
    assert words.startswith("words: sweep .cache/vlsb/plans/")
    assert words.endswith("/my plan.yaml --ray auto --offline --yes")
    assert rest == f"{PLAN}half a line\n"


def test_ctrl_c_leaves_the_job_and_the_command_again_follows_it(
    vlsb: Vlsb, plan: Path, server: JobsServer
) -> None:
    first = vlsb.start("sweep", plan, "--ray", server.address)
    first.wait_until(lambda: "judges: [demo]" in first.out, what="the job's log")
    first.signal(signal.SIGINT)
    left = first.wait()
    (name,) = server.jobs
    second = vlsb.start("sweep", plan, "--ray", server.address)
    second.wait_until_said("running there already")
    (server.home / "go").touch()
    ended = second.wait()
    again = vlsb("sweep", plan, "--ray", server.address)

    assert left.code == 130
    assert f"ray job stop --address {server.address} {name}" in left.err
    assert "half a" not in left.out
    assert (ended.code, again.code) == (4, 4)
    assert ended.out.count("half a line") == 1
    assert list(server.jobs) == [name, f"{name}-2"]


def test_a_cluster_without_vlsb_and_an_address_without_a_cluster_are_said_in_one_line(
    vlsb: Vlsb, plan: Path, server: JobsServer, closed_port: int
) -> None:
    nobody = f"127.0.0.1:{closed_port}"
    (server.home / "bin" / "vlsb").unlink()
    missing = vlsb("sweep", plan, "--ray", server.address)
    silent = vlsb("sweep", plan, "--ray", f"http://{nobody}")
    secret = vlsb("sweep", plan, "--ray", f"http://me:hunter2@{nobody}")

    assert missing.code == silent.code == secret.code == 2
    assert "hunter2" not in secret.error
    assert "no vlsb on the cluster" in missing.error
    assert f"http://{nobody}: nothing answers there" in silent.error


def test_a_job_that_somebody_stopped_is_an_interrupted_sweep(
    vlsb: Vlsb, plan: Path, server: JobsServer
) -> None:
    process = vlsb.start("sweep", plan, "--ray", server.address)
    process.wait_until(lambda: "judges: [demo]" in process.out, what="the job's log")
    (job,) = server.jobs
    server.stopped.add(job)
    server.jobs[job].kill()

    assert process.wait().code == 130
