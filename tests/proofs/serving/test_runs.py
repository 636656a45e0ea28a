"""Runs whose engines end before they do, or with them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands.test_run_local import SAMPLES, Desk, text_of
from tests.support.command import Vlsb
from tests.support.fake_engine import events, living
from tests.support.waiting import wait_until


@pytest.fixture
def desk(vlsb: Vlsb, tmp_path: Path, minimal_env: dict[str, str]) -> Iterator[Desk]:
    desk = Desk(vlsb, tmp_path, minimal_env)
    yield desk
    for process in living(desk.mark):
        os.kill(process, signal.SIGKILL)


def test_an_engine_that_keeps_dying_ends_the_run_with_exit_7_and_the_command_that_resumes(desk: Desk) -> None:
    ended = desk.run("--max-restarts", "0", DIE_AFTER="3")

    assert ended.code == 7
    assert ended.err.splitlines()[-1].startswith("Resume with: vlsb run ")
    desk.gone()
    resumed = desk.run("--resume", "--max-restarts", "0", LEDGER=str(desk.folder / "new"))
    assert resumed.code == 0, resumed.err
    assert desk.summary()["judged"] == SAMPLES


def test_two_runs_of_a_family_at_once_have_an_engine_each(desk: Desk) -> None:
    hold = desk.folder / "hold"
    runs = [desk.start("--name", name, HOLD=str(hold)) for name in ("one", "other")]
    wait_until(lambda: len(events(desk.record, "start")) == 2, what="both engines have started")

    hold.touch()

    for run in runs:
        ended = run.wait()
        assert ended.code == 0, ended.err
    commands = [event["argv"] for event in events(desk.record, "start")]
    assert len({words[words.index("--port") + 1] for words in commands}) == 2
    assert len(desk.bodies()) == 2 * SAMPLES
    desk.gone()


def test_ctrl_c_while_the_engine_is_started_again_ends_both(desk: Desk) -> None:
    hold = desk.folder / "hold"
    hold.touch()
    process = desk.start(HOLD=str(hold), HANG=text_of(5))
    wait_until(lambda: len(desk.bodies()) == SAMPLES, what="every sample has been sent")
    hold.unlink()
    os.kill(events(desk.record, "start")[0]["pid"], signal.SIGKILL)
    wait_until(lambda: len(events(desk.record, "start")) == 2, what="the engine is started again")

    process.signal(signal.SIGINT)
    ended = process.wait()

    assert ended.code == 130, ended.err
    assert "Resume with:" in ended.err
    desk.gone()


@pytest.mark.parametrize("stage", ["loading", "running"])
def test_sigkill_leaves_no_engine_behind_and_the_run_resumes(desk: Desk, stage: str) -> None:
    hold = desk.folder / "hold"
    wishes = {"HOLD": str(hold), "CHILDREN": "plain"} if stage == "loading" else {"HANG": text_of(5)}
    process = desk.start(**wishes)
    wait_until(
        (lambda: living(desk.mark)) if stage == "loading" else (lambda: len(desk.bodies()) == SAMPLES),
        what=f"the engine is {stage}",
    )

    process.kill()

    desk.gone()
    resumed = desk.run("--resume")
    assert resumed.code == 0, resumed.err
    assert desk.summary()["judged"] == SAMPLES


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_while_the_engine_starts_ends_both(desk: Desk, number: signal.Signals) -> None:
    process = desk.start(HOLD=str(desk.folder / "hold"))
    wait_until(lambda: events(desk.record, "start"), what="the engine has started")

    process.signal(number)
    ended = process.wait()

    assert ended.code == 130, ended.err
    assert ended.last == "Error: Interrupted. Nothing was stored yet."
    desk.gone()


def test_a_run_ends_with_the_server_that_it_uses_and_goes_on_with_the_next(desk: Desk) -> None:
    """At once, with the command that starts one, and not after an outage's patience."""
    serve = ("serve", "llava_hf", "--engine", str(desk.engine), "--weights", str(desk.weights), "--detach")
    words = ("run", "--model", "llava_hf", "--judge", "demo", "--data-root", desk.data)
    assert desk.vlsb(*serve, env=desk.environment(HANG=text_of(5))).code == 0
    process = desk.vlsb.start(*words, env=desk.environment())
    wait_until(lambda: len(desk.bodies()) == SAMPLES, what="the last sample is in flight")

    stopped = desk.vlsb("engine", "stop", "llava_hf")
    ended = process.wait()

    assert (stopped.code, ended.code) == (0, 7), ended.err
    assert "has ended. Start it again as before (vlsb serve llava_hf)" in ended.err
    assert ended.last.startswith("Resume with: vlsb run ")
    assert not (desk.folder / "outputs" / "llava_hf" / "failures.jsonl").read_text()
    assert desk.vlsb(*serve, env=desk.environment()).code == 0
    resumed = desk.vlsb(*words, "--resume", env=desk.environment())
    assert resumed.code == 0, resumed.err
    assert desk.summary()["judged"] == SAMPLES
    assert desk.vlsb("engine", "stop", "--all").code == 0
    desk.gone()
