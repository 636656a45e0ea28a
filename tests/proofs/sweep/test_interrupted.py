"""A sweep whose cells are killed, and one that is told to end: once, twice, three times."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands.test_run_local import Desk as LocalDesk
from tests.support.checkpoints import checkpoint
from tests.support.command import Vlsb
from tests.support.datasets import instruction, sharing_rows, write_dataset
from tests.support.fake_engine import events
from tests.support.sweeps import Held, processes_of, tables, write_local_plan, write_plan
from tests.support.waiting import wait_until
from vlsb.simulator import SimulatorThread

SAMPLES = 12


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data", sharing_rows(SAMPLES))


@pytest.fixture
def local(vlsb: Vlsb, tmp_path: Path, minimal_env: dict[str, str]) -> Iterator[LocalDesk]:
    desk = LocalDesk(vlsb, tmp_path, minimal_env)
    yield desk
    desk.gone()


def test_a_cell_whose_command_is_killed_is_started_again_and_goes_on(
    vlsb: Vlsb, tmp_path: Path, data: Path
) -> None:
    """As a system without memory does it."""
    with (
        Held("m1", after=4) as held,
        SimulatorThread(held) as target,
        vlsb.start("sweep", write_plan(tmp_path, target, data=data, models=["m1"])) as process,
    ):
        wait_until(lambda: len(target.completions) >= 6, what="answers, and requests that wait")
        [cell] = [each for each in processes_of(tmp_path) if each.cmdline()[1:4] == ["-m", "vlsb", "run"]]
        cell.kill()
        held.released.set()
        ended = process.wait()

    assert ended.code == 0, ended.err
    assert "m1: killed by signal 9; it is started again" in ended.err
    assert tables(vlsb, tmp_path / "sweep")["m1"]["judged"] == SAMPLES


def test_a_second_ctrl_c_drops_what_the_cells_have_in_flight(vlsb: Vlsb, tmp_path: Path, data: Path) -> None:
    """Nothing is answered any more, so that the first could only end when its time is over."""
    held = Held("m1", "m2", after=4)
    with SimulatorThread(held) as target, held:
        plan = write_plan(tmp_path, target, data=data, models=["m1", "m2"])
        process = vlsb.start("sweep", plan)
        process.wait_until(lambda: held.holds_all, what="requests of both that nobody answers")
        process.signal(signal.SIGINT)
        process.wait_until_said("Press Ctrl-C again to drop it.")
        logs = [tmp_path / "sweep" / "logs" / f"{name}.log" for name in ("m1", "m2")]
        process.wait_until(lambda: all("may finish" in log.read_text() for log in logs), what="both stop")
        process.signal(signal.SIGINT)
        ended = process.wait()
        said = [log.read_text() for log in logs]
        held.released.set()
        again = vlsb.resume(ended)

    assert ended.code == 130, ended.err
    assert all("Dropping what is in flight." in each for each in said)
    assert "Dropping what is in flight." in ended.err
    assert "killed" not in ended.err
    assert again.code == 0, again.err


def test_a_third_ctrl_c_ends_the_sweep_at_once(local: LocalDesk, tmp_path: Path) -> None:
    """Although an engine ignores that it is asked to end; it is killed soon after."""
    weights = str(checkpoint(tmp_path / "ckpt"))
    plan = write_local_plan(tmp_path, local.data, local.engine, models=[weights])
    never = json.dumps(instruction(3))[1:-1]
    environment = local.environment(TERM="ignore", HANG=never)
    with local.vlsb.start("sweep", plan, env=environment) as process:
        asked = lambda: any(never in json.dumps(each) for each in events(local.record, "chat"))  # noqa: E731
        process.wait_until(asked, what="the request that is never answered")
        for said in ("Press Ctrl-C again", "Dropping what is in flight."):
            process.signal(signal.SIGINT)
            process.wait_until_said(said)
        process.signal(signal.SIGINT)
        ended = process.wait()

    assert ended.code == 130, ended.err
    assert ended.resume_command == ["vlsb", "sweep", str(plan)]
    local.gone()
