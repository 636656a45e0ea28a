"""Sweeps on this machine that take long: many cells, kills, accounts that are shared, turns, watching."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.commands.test_run_local import Desk as LocalDesk
from tests.support.checkpoints import checkpoint
from tests.support.command import Vlsb
from tests.support.datasets import sharing_rows, write_dataset
from tests.support.endpoint import persona
from tests.support.limiters import TokenBucket
from tests.support.sweeps import processes_of, tables, write_local_plan, write_plan
from tests.support.waiting import wait_until
from tests.unit.engines.test_hardware import listing
from vlsb.simulator import Action, Request, SimulatorThread, rate_limited

SAMPLES = 12
PROTOCOLS = {"paper": {}, "warm": {"temperature": 0.7}}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data", sharing_rows(SAMPLES))


@pytest.fixture
def local(vlsb: Vlsb, tmp_path: Path, minimal_env: dict[str, str]) -> Iterator[LocalDesk]:
    desk = LocalDesk(vlsb, tmp_path, minimal_env)
    yield desk
    desk.gone()


def test_every_cell_is_a_run_that_is_what_vlsb_run_makes(
    vlsb: Vlsb, tmp_path: Path, data: Path, target: SimulatorThread
) -> None:
    plan = write_plan(tmp_path, target, data=data, models=["m1", "m2"], protocols=PROTOCOLS, epochs=[1, 2])
    words = ["run", "--model", "m1", "--base-url", target.base_url, "--api-key-env", "CANARY_KEY"]
    words += [
        "--judge",
        "judge-model",
        "--judge-base-url",
        target.base_url,
        "--judge-api-key-env",
        "CANARY_KEY",
    ]
    words += ["--data-root", str(data), "--temperature", "0.7", "--epochs", "2", "--name", "m1--warm--2x"]

    # Nine commands: minutes where others use the machine, too.
    swept = vlsb("sweep", plan, timeout_s=300)
    alone = vlsb(*words, "--output-dir", str(tmp_path / "alone"))

    assert (swept.code, alone.code) == (0, 0), swept.err
    found = tables(vlsb, tmp_path / "sweep")
    assert sorted(found) == sorted(
        f"m{n}--{protocol}--{epochs}x" for n in (1, 2) for protocol in PROTOCOLS for epochs in (1, 2)
    )
    assert found["m1--warm--2x"] == tables(vlsb, tmp_path / "alone")["m1--warm--2x"]
    assert all(f"{name}: done after" in swept.err for name in found)


def test_a_sweep_killed_again_and_again_pays_for_nothing_stored_twice(
    vlsb: Vlsb, tmp_path: Path, data: Path, target: SimulatorThread
) -> None:
    """SIGKILL to the sweep's own process: its cells end with it, and the next goes on."""
    plan = write_plan(tmp_path, target, data=data, models=["m1", "m2", "m3"])
    for least in (10, 30):
        process = vlsb.start("sweep", plan)
        wait_until(lambda least=least: len(target.completions) >= least, what="requests")
        process.kill()
        wait_until(lambda: not processes_of(tmp_path), what="no command of the sweep is left")
    in_flight_at_most = 2 * 2 * SAMPLES

    last = vlsb("sweep", plan)

    assert last.code == 0, last.err
    assert all(each["judged"] == SAMPLES for each in tables(vlsb, tmp_path / "sweep").values())
    straight = 3 * (2 * SAMPLES + 2)
    assert len(target.completions) <= straight + in_flight_at_most


def test_ctrl_c_ends_the_cells_in_order_and_says_how_to_go_on(
    vlsb: Vlsb, tmp_path: Path, data: Path, target: SimulatorThread
) -> None:
    plan = write_plan(tmp_path, target, data=data)
    process = vlsb.start("sweep", plan)
    wait_until(lambda: len(target.completions) >= 5, what="requests")

    process.signal(signal.SIGINT)
    ended = process.wait()

    assert ended.code == 130
    assert ended.resume_command == ["vlsb", "sweep", str(plan)]
    assert not processes_of(tmp_path)
    assert vlsb.resume(ended).code == 0


@pytest.mark.parametrize(("known_by", "most_refused"), [("plan", 4), ("headers", 10), ("refusals", 120)])
def test_two_cells_side_by_side_do_not_storm_the_account_of_their_judge(
    local: LocalDesk, tmp_path: Path, known_by: str, most_refused: int
) -> None:
    """Each on a GPU of its own, with one hosted judge that takes 20 requests a second, 20 at once.

    Refusals teach a single run no cheaper: it is refused as often before it knows the rate.
    """
    data = write_dataset(tmp_path / "more", sharing_rows(40))
    limiter, refused, lock = TokenBucket(1200, burst=20), [], threading.Lock()

    def judge(request: Request) -> Action:
        with lock:
            now = time.monotonic()
            is_refused = limiter.admit(now) is None
            left, reset_s = int(limiter.remaining(now)), limiter.reset_s(now)
        headers = (
            ("x-ratelimit-limit-requests", "1200"),
            ("x-ratelimit-remaining-requests", str(left)),
            ("x-ratelimit-reset-requests", f"{reset_s:.3f}s"),
        )
        refused.extend([request] * is_refused)
        reply = rate_limited() if is_refused else persona(request)
        return replace(reply, headers=headers) if known_by == "headers" else reply

    for name in ("a", "b"):
        checkpoint(tmp_path / "ckpt" / name)
    rows = "\n".join(f"{n}, GPU-{n}, 81920, 81920, 550.90.07, NVIDIA H100" for n in (0, 1))
    path = os.pathsep.join([listing(tmp_path / "smi", rows)["PATH"], os.defpath])
    with SimulatorThread(judge) as simulator:
        plan = write_plan(
            tmp_path,
            simulator,
            data=data,
            models=[{"model": "./ckpt/*"}],
            defaults={
                "data-root": str(data),
                "engine": str(local.engine),
                **({"judge-rpm": 1200} if known_by == "plan" else {}),
            },
        )
        ended = local.vlsb("sweep", plan, env=local.environment() | {"PATH": path})

    assert ended.code == 0, ended.err
    assert ended.err.index("b: started on GPU 1") < ended.err.index("done after")
    assert [each["judged"] for each in tables(local.vlsb, tmp_path / "sweep").values()] == [40, 40]
    assert len(refused) <= most_refused


def test_many_hosted_cells_do_not_all_start_at_once(vlsb: Vlsb, tmp_path: Path) -> None:
    data, names = write_dataset(tmp_path / "one", 1), [f"m{number}" for number in range(18)]

    with SimulatorThread(persona) as target:
        ended = vlsb("sweep", write_plan(tmp_path, target, data=data, models=names, judges=[]))

    assert ended.code == 0, ended.err
    said = [line.partition(": ")[2] for line in ended.err.splitlines()]
    before_an_end = said[: next(n for n, each in enumerate(said) if each.startswith("done after"))]
    assert before_an_end == ["started"] * 16


def test_watching_waits_for_the_first_checkpoint_and_leaves_out_one_whose_name_is_taken(
    local: LocalDesk, tmp_path: Path
) -> None:
    """It is said, once, and ends no other cell; that it was left out is no success."""
    plan = write_local_plan(tmp_path, local.data, local.engine, models=["./*/final"])
    process = local.vlsb.start("sweep", plan, "--watch", env=local.environment())
    process.wait_until_said("./*/final matches no folder. Waiting for it.")
    checkpoint(tmp_path / "later" / "b" / "final").parent.rename(tmp_path / "b")
    process.wait_until_said("final: done")
    # By its name it comes first, and the other one keeps its run.
    checkpoint(tmp_path / "later" / "a" / "final").parent.rename(tmp_path / "a")
    process.wait_until_said("It is left out.")
    process.signal(signal.SIGINT)
    ended = process.wait()

    assert ended.code == 2
    (said,) = [line for line in ended.err.splitlines() if "would write to" in line]
    assert said.index("/a/final (./*/final) would write to") < said.index("as " + str(tmp_path / "b"))
    assert tables(local.vlsb, tmp_path / "sweep")["final"]["selected"] == 8


def test_watching_takes_a_checkpoint_that_comes_later(local: LocalDesk, tmp_path: Path) -> None:
    checkpoint(tmp_path / "ckpt" / "step-1")
    plan = write_local_plan(tmp_path, local.data, local.engine, models=["./ckpt/step-*"])
    process = local.vlsb.start("sweep", plan, "--watch", env=local.environment())
    process.wait_until_said("step-1: done")

    whole = checkpoint(tmp_path / "later" / "step-2")
    half = tmp_path / "ckpt" / "step-2"
    shutil.copytree(whole, half)
    weights = (whole / "model.safetensors").read_bytes()
    (half / "model.safetensors").write_bytes(weights[:-1])
    checkpoint(tmp_path / "ckpt" / "step-3")
    process.wait_until_said("step-3: done")
    assert "step-2: started" not in process.err
    assert "step-2 is not a whole checkpoint yet" in process.err

    (half / "model.safetensors").write_bytes(weights)
    process.wait_until_said("step-2: done")
    process.signal(signal.SIGINT)
    assert process.wait().code == 0
