"""Sweeps of many cells on this machine: they share an account, and do not start all at once."""

from __future__ import annotations

import os
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
from tests.support.sweeps import tables, write_plan
from tests.unit.engines.test_hardware import listing
from vlsb.simulator import Action, Request, SimulatorThread, rate_limited


@pytest.fixture
def local(vlsb: Vlsb, tmp_path: Path, minimal_env: dict[str, str]) -> Iterator[LocalDesk]:
    desk = LocalDesk(vlsb, tmp_path, minimal_env)
    yield desk
    desk.gone()


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
