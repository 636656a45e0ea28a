"""A sweep on a Ray cluster with a real engine among its cells, whose node is lost in the middle."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.proofs.engines.conftest import PINS, engine_of
from tests.proofs.engines.desk import COMMAND_TIMEOUT_S, SAMPLES, Tell
from tests.support.command import Vlsb
from tests.support.endpoint import persona
from tests.support.sweeps import HOSTED, RAY_MARKS, processes_of, tables, write_plan
from tests.support.waiting import wait_until
from vlsb.data import mini_root
from vlsb.simulator import SimulatorThread

ray_cluster = pytest.importorskip("ray.cluster_utils", reason="needs the extra `ray`")
pytestmark = RAY_MARKS
CELLS = [f"m{number}" for number in range(1, 12)]
NAME = "real"
STORED_AT_LOSS = 5


@pytest.mark.parametrize("family", ["qwen3_vl"])
def test_a_real_engine_moves_to_another_node_and_ends_with_the_tables_of_a_sequential_run(
    family: str,
    tiny: Callable[[str], Path],
    turn: None,
    vlsb: Vlsb,
    tmp_path: Path,
    engine_environment: dict[str, str],
    record_property: Tell,
) -> None:
    """Twelve cells, eleven of them simulated. No engine is left on the node that was lost, nor at the end."""
    prefix = engine_of(PINS[family]).prefix
    assert prefix is not None
    real = {
        "model": family,
        "name": NAME,
        "weights": str(tiny(family)),
        "engine": str(prefix),
        "num-gpus": 1,
        # The rest of the cell takes longer than it takes to see that some is stored.
        "rpm": 60,
        "start-timeout": 300,
    }
    variables = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": engine_environment["VLLM_CPU_KVCACHE_SPACE"],
    }
    cluster = ray_cluster.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0, "include_dashboard": False}
    )

    def add_worker(gpus: int) -> Any:
        environment = {**vlsb.environment, **variables}
        return cluster.add_node(num_cpus=1, num_gpus=gpus, resources=HOSTED, env_vars=environment)

    try:
        with SimulatorThread(persona) as straight_target, SimulatorThread(persona) as target:
            plans = {}
            for name, simulator in (("straight", straight_target), ("on_ray", target)):
                (tmp_path / name).mkdir()
                plans[name] = write_plan(
                    tmp_path / name, simulator, data=mini_root(), models=[real, *CELLS], retries=3
                )
            began_at = time.monotonic()
            straight = vlsb("sweep", plans["straight"], env=variables, timeout_s=COMMAND_TIMEOUT_S)
            record_property("straight_s", round(time.monotonic() - began_at))
            assert straight.code == 0, straight.err
            add_worker(0)
            lost = add_worker(1)
            began_at = time.monotonic()
            process = vlsb.start("sweep", plans["on_ray"], "--ray", cluster.address, env=variables)
            await_responses(tmp_path / "on_ray" / "sweep" / NAME, STORED_AT_LOSS)
            cluster.remove_node(lost, allow_graceful=False)
            wait_until(lambda: not engines(prefix), what="the engine to be gone with its node")
            add_worker(1)
            ended = process.wait(COMMAND_TIMEOUT_S)
            record_property("on_ray_s", round(time.monotonic() - began_at))
    finally:
        cluster.shutdown()

    assert ended.code == 0, ended.err
    found, expected = (tables(vlsb, tmp_path / name / "sweep") for name in ("on_ray", "straight"))
    assert len(found) == 12
    assert found == expected
    texts, straight_texts = (responses(tmp_path / name / "sweep" / NAME) for name in ("on_ray", "straight"))
    record_property("same_texts", sum(straight_texts[each] == text for each, text in texts.items()))
    assert texts == straight_texts
    events = (tmp_path / "on_ray" / "sweep" / NAME / "events.jsonl").read_text()
    assert events.count('"session_started"') == 2
    assert not engines(prefix)
    assert not processes_of(tmp_path)


def responses(run: Path) -> dict[int, str]:
    """The texts that a run has stored; a last line without its end is not stored."""
    path = run / "responses.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return {row["sample_id"]: row["text"] for row in map(json.loads, lines)}


def await_responses(run: Path, count: int) -> None:
    """Return when so many are stored, as the run goes on."""
    ends_at = time.monotonic() + COMMAND_TIMEOUT_S
    while len(found := responses(run)) < count:
        assert time.monotonic() < ends_at, "the engine does not answer"
        time.sleep(0.05)
    assert len(found) < SAMPLES


def engines(prefix: Path) -> list[psutil.Process]:
    """The living processes of an engine's environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(word.startswith(f"{prefix}/") for word in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found
