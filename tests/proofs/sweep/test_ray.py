"""Sweeps on a real Ray cluster on one machine: a node killed, the driver killed, engines as cells."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.proofs.sweep.test_sweep_cost import IN_FLIGHT, Costly
from tests.proofs.sweep.test_sweep_cost import SAMPLES as COSTLY_SAMPLES
from tests.support.checkpoints import checkpoint
from tests.support.command import Vlsb
from tests.support.datasets import sharing_rows, write_dataset
from tests.support.endpoint import persona, settle
from tests.support.engine_environment import write_environment
from tests.support.sweeps import HOSTED, RAY_MARKS, Held, processes_of, tables, write_plan
from tests.support.waiting import wait_until
from vlsb.simulator import SimulatorThread

ray_cluster = pytest.importorskip("ray.cluster_utils", reason="needs the extra `ray`")
pytestmark = RAY_MARKS
SAMPLES = 10
CELLS = [f"m{number}" for number in range(1, 11)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that runs no cells; tests add workers, with one made-up GPU each."""
    found = ray_cluster.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0, "include_dashboard": False}
    )
    try:
        yield found
    finally:
        found.shutdown()


@pytest.fixture
def add_worker(cluster: Any, vlsb: Vlsb) -> Iterator[Callable[[], Any]]:
    """Adds a worker, which is gone after the test."""
    added = []

    def add() -> Any:
        added.append(
            cluster.add_node(num_cpus=1, num_gpus=1, resources=HOSTED, env_vars=dict(vlsb.environment))
        )
        return added[-1]

    yield add
    for node in added:
        if node in cluster.list_all_nodes():
            cluster.remove_node(node, allow_graceful=False)


def wait_while(condition: Callable[[], object], what: str) -> None:
    wait_until(lambda: not condition(), what=what)


def test_without_the_resource_of_hosted_cells_nothing_waits_for_ever(
    cluster: Any, vlsb: Vlsb, tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "data", 2)
    with SimulatorThread(persona) as target:
        plan = write_plan(tmp_path, target, data=data, models=["m1"])
        ended = vlsb("sweep", plan, "--ray", cluster.address)

    assert ended.code == 2
    assert "vlsb_hosted" in ended.err


def test_a_lost_node_and_a_killed_driver_end_with_the_tables_of_a_sequential_run(
    cluster: Any, add_worker: Callable[[], Any], vlsb: Vlsb, tmp_path: Path
) -> None:
    """Twelve cells, two of them engines; nobody is paid twice for what was stored."""
    data = write_dataset(tmp_path / "data", sharing_rows(SAMPLES))
    engine = write_environment(tmp_path / "engine")
    local = [
        {"model": str(checkpoint(tmp_path / "weights" / name)), "engine": str(engine), "num-gpus": 1}
        for name in ("tiny-a", "tiny-b")
    ]
    with SimulatorThread(persona) as straight_target, SimulatorThread(persona) as target:
        plans = {}
        for name, simulator in (("straight", straight_target), ("on_ray", target)):
            folder = tmp_path / name
            folder.mkdir()
            plans[name] = write_plan(folder, simulator, data=data, models=[*CELLS, *local], retries=3)
        straight = vlsb("sweep", plans["straight"])
        assert straight.code == 0, straight.err
        add_worker()
        lost = add_worker()
        words = ["sweep", plans["on_ray"], "--ray", cluster.address]

        first = vlsb.start(*words)
        first.wait_until(lambda: len(target.completions) > 3 * SAMPLES, what="some cells")
        cluster.remove_node(lost, allow_graceful=False)
        first.wait_until(lambda: len(target.completions) > 8 * SAMPLES, what="more cells after the loss")
        first.kill()
        wait_while(lambda: processes_of(tmp_path / "on_ray"), "no command of the killed sweep is left")
        add_worker()
        last = vlsb(*words)

        assert last.code == 0, last.err
        found = tables(vlsb, tmp_path / "on_ray" / "sweep")
        assert len(found) == 12
        assert found == tables(vlsb, tmp_path / "straight" / "sweep")
        # What was in flight when a node or the driver died is asked for again, and nothing else.
        extra = len(target.completions) - len(straight_target.completions)
        assert 0 <= extra <= 2 * 2 * 2 * SAMPLES
        assert not processes_of(tmp_path)


@pytest.mark.parametrize("where", ["127.0.0.1:{port}", "nowhere.invalid:6379", "a word"])
def test_an_address_without_a_cluster_is_said_at_once(
    vlsb: Vlsb, tmp_path: Path, closed_port: int, where: str
) -> None:
    address = where.format(port=closed_port)
    data = write_dataset(tmp_path / "data", 2)
    plan = write_plan(tmp_path, None, data=data, models=["demo"], judges=["demo"])

    ended = vlsb("sweep", plan, "--ray", address)

    assert ended.code == 2
    assert f"--ray {address}: no Ray cluster can be joined there" in ended.error


def test_a_cluster_that_goes_away_ends_the_sweep_with_a_word(vlsb: Vlsb, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", sharing_rows(SAMPLES))
    head = {
        "num_cpus": 1,
        "include_dashboard": False,
        "resources": HOSTED,
        "env_vars": dict(vlsb.environment),
    }
    impatient = "import vlsb.sweep.on_ray as ours; ours._HEAD_PATIENCE_S = 1.0"
    with Held("m1", after=5) as held, SimulatorThread(held) as target:
        plan = write_plan(tmp_path, target, data=data, models=["m1"])
        found = ray_cluster.Cluster(initialize_head=True, head_node_args=head)
        try:
            process = vlsb.start("sweep", plan, "--ray", found.address, prelude=impatient)
            process.wait_until(lambda: len(target.completions) > 5, what="requests")
            found.remove_node(found.head_node, allow_graceful=False)
            ended = process.wait()
        finally:
            found.shutdown()
        wait_while(lambda: processes_of(tmp_path), "no command is left")
        held.released.set()
        here = vlsb("sweep", plan)

    assert ended.code == 4, ended.err
    assert "the cluster's head is gone" in ended.err
    assert here.code == 0, here.err
    assert tables(vlsb, tmp_path / "sweep")["m1"]["judged"] == SAMPLES


def test_an_interrupted_sweep_leaves_no_command_on_the_nodes(
    cluster: Any, add_worker: Callable[[], Any], vlsb: Vlsb, tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "data", sharing_rows(SAMPLES))
    add_worker()
    with SimulatorThread(persona) as target:
        plan = write_plan(tmp_path, target, data=data, models=CELLS)
        process = vlsb.start("sweep", plan, "--ray", cluster.address)
        process.wait_until(lambda: len(target.completions) > SAMPLES, what="requests")
        process.signal(signal.SIGINT)
        ended = process.wait()

    assert ended.code == 130, ended.err
    assert ended.resume_command[:2] == ["vlsb", "sweep"]
    wait_while(lambda: processes_of(tmp_path), "no command is left")


def test_a_second_ctrl_c_leaves_commands_on_the_nodes_that_end_by_themselves(
    cluster: Any, add_worker: Callable[[], Any], vlsb: Vlsb, tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "data", sharing_rows(SAMPLES))
    add_worker()
    held = Held("m1", after=4)
    with SimulatorThread(held) as target, held:
        plan = write_plan(tmp_path, target, data=data, models=["m1"])
        process = vlsb.start("sweep", plan, "--ray", cluster.address)
        process.wait_until(lambda: held.holds_all, what="a request that nobody answers")
        process.signal(signal.SIGINT)
        process.wait_until_said("Press Ctrl-C again to drop it.")
        process.signal(signal.SIGINT)
        ended = process.wait()
        wait_while(lambda: processes_of(tmp_path), "no command is left")
        held.released.set()
        again = vlsb.resume(ended)

    assert ended.code == 130, ended.err
    assert "Leaving: the commands on the nodes end by themselves." in ended.err
    assert again.code == 0, again.err


def test_runs_are_synced_with_an_address_where_nodes_share_no_folder(
    cluster: Any, add_worker: Callable[[], Any], vlsb: Vlsb, tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "data", sharing_rows(SAMPLES))
    add_worker()
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    with SimulatorThread(persona) as target:
        plan = write_plan(tmp_path, target, data=data, models=["m1"], **{"output-dir": f"file://{bucket}/x"})
        ended = vlsb("sweep", plan, "--ray", cluster.address)
        asked = len(target.completions)
        again = vlsb("sweep", plan, "--ray", cluster.address)

    assert ended.code == 0, ended.err
    assert again.code == 0, again.err
    assert len(target.completions) == asked
    assert (bucket / "x" / "m1" / "run.json").exists()
    assert tables(vlsb, bucket / "x")["m1"]["judged"] == SAMPLES
    assert os.environ.get("RAY_ADDRESS") is None


def test_keys_that_nodes_lack_are_named_once_before_the_first_cell(
    cluster: Any, vlsb: Vlsb, tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "data", 2)
    environment = {name: value for name, value in vlsb.environment.items() if name != "CANARY_KEY"}
    node = cluster.add_node(num_cpus=1, resources=HOSTED, env_vars={**environment, "CANARY_KEY": ""})
    try:
        with SimulatorThread(persona) as target:
            plan = write_plan(tmp_path, target, data=data)
            ended = vlsb("sweep", plan, "--ray", cluster.address)
            assert target.completions == []
    finally:
        cluster.remove_node(node)

    assert ended.code == 3
    assert ended.error.count("CANARY_KEY") == 1
    assert not (tmp_path / "sweep" / "m1").exists()


def test_cells_on_nodes_share_the_sweeps_limit_of_money(cluster: Any, vlsb: Vlsb, tmp_path: Path) -> None:
    """Also when the driver was killed. What a node itself has as a limit is nothing to the cells."""
    costly, most = Costly(vlsb, tmp_path), 30
    environment = {**vlsb.environment, "VLSB_MAX_COST": "1"}
    node = cluster.add_node(num_cpus=1, resources=HOSTED, env_vars=environment)
    at_once = HOSTED["vlsb_hosted"] * IN_FLIGHT
    try:
        with SimulatorThread(persona) as target:
            plan = costly.plan(target)
            words = ["sweep", plan, "--ray", cluster.address, "--max-cost"]
            first = vlsb.start(*words, most)
            first.wait_until(lambda: len(target.completions) >= 8, what="requests")
            first.kill()
            wait_while(lambda: processes_of(tmp_path), "no command of the killed sweep is left")
            ended = vlsb(*words, most)
            sent = settle(target)
            finished = vlsb(*words, 100)

            assert ended.code == 4, ended.err
            assert most <= sent <= most - 1 + 2 * at_once
            assert "--max-cost is reached: the runs of this plan have cost $" in ended.err
            assert finished.code == 0, finished.err
            assert settle(target) <= 3 * 2 * COSTLY_SAMPLES + at_once
    finally:
        cluster.remove_node(node)
