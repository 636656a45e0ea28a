"""Ctrl-C where one command carries out several sessions, with an engine that outlives each of them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands.test_run_local import SAMPLES, text_of
from tests.commands.test_run_local import Desk as LocalDesk
from tests.support.checkpoints import checkpoint
from tests.support.command import Desk, Process, Vlsb
from tests.support.datasets import write_dataset
from tests.support.endpoint import labelling
from tests.support.fake_engine import events, living
from tests.support.run_files import stored_ids
from vlsb.simulator import Action, Request, SimulatorThread, Stall

VERDICT = json.dumps({"label": 3, "label_str": "Unsafe", "explanation": "It saw nothing."})
FEW = 2
"""Samples of the first run: what is held is a sample that only the second has."""
HELD = 5


@pytest.fixture
def local(vlsb: Vlsb, tmp_path: Path, minimal_env: dict[str, str]) -> Iterator[LocalDesk]:
    desk = LocalDesk(vlsb, tmp_path, minimal_env)
    with SimulatorThread(labelling()) as target:
        words = ["run", "--model", "m", "--base-url", target.base_url, "--no-judge"]
        assert desk.vlsb(*words, "--data-root", str(desk.data), "--name", "a", "--limit", str(FEW)).code == 0
        assert desk.vlsb(*words, "--data-root", str(desk.data), "--name", "b").code == 0
    checkpoint(tmp_path / "judge")
    yield desk
    for process in living(desk.mark):
        os.kill(process, signal.SIGKILL)


def judge_words(local: LocalDesk) -> list[str]:
    words = ["judge", "outputs/a", "outputs/b", "--judge", str(local.folder / "judge")]
    return [*words, "--engine", str(local.engine)]


def start(local: LocalDesk, **wishes: str) -> Process:
    return local.vlsb.start(*judge_words(local), env=local.environment(ANSWER=VERDICT, **wishes))


def judged(local: LocalDesk, name: str) -> set[int]:
    return stored_ids(local.folder / "outputs" / name)[1]


def hold_in_second_run(local: LocalDesk, **wishes: str) -> Process:
    """The command when all of the second run is judged but one sample, whose verdict never comes."""
    process = start(local, HANG=text_of(HELD), **wishes)
    process.wait_until(lambda: len(judged(local, "b")) == SAMPLES - 1, what="all other verdicts")
    return process


def test_ctrl_c_in_a_later_run_lets_requests_in_flight_finish_and_then_drops_them(local: LocalDesk) -> None:
    with hold_in_second_run(local) as process:
        process.signal(signal.SIGINT)
        process.wait_until_said("Stopping: 1 request in flight")
        assert living(local.mark)
        process.signal(signal.SIGINT)
        ended = process.wait()

    assert ended.code == 130, ended.err
    assert ended.resume_command[:4] == ["vlsb", "judge", "outputs/a", "outputs/b"]
    assert "Traceback" not in ended.err
    local.gone()
    assert len(judged(local, "a")) == FEW
    resumed = local.vlsb(*judge_words(local), env=local.environment(ANSWER=VERDICT))
    assert resumed.code == 0, resumed.err
    assert len(judged(local, "b")) == SAMPLES


def test_a_third_ctrl_c_ends_at_once_even_an_engine_that_does_not_want_to_go(local: LocalDesk) -> None:
    with hold_in_second_run(local, TERM="ignore") as process:
        process.signal(signal.SIGINT)
        process.wait_until_said("Stopping")
        process.signal(signal.SIGINT)
        process.wait_until_said("Resume with")
        process.signal(signal.SIGINT)
        ended = process.wait()

    assert ended.code == 130, ended.err
    assert ended.resume_command[:2] == ["vlsb", "judge"]
    assert "Traceback" not in ended.err
    local.gone()


def test_ctrl_c_after_the_last_run_only_hastens_the_end_of_the_engine(local: LocalDesk) -> None:
    """Everything is judged and said: the outcome stays what it was."""
    with start(local, TERM="ignore") as process:
        process.wait_until(lambda: "safe rate" in process.out, what="the table of both runs")
        process.signal(signal.SIGINT)
        ended = process.wait()

    assert ended.code == 0, ended.err
    assert "Interrupted" not in ended.err
    local.gone()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_the_engine_starts_ends_it_before_any_run(local: LocalDesk, number: int) -> None:
    hold = local.folder / "hold"
    with start(local, HOLD=str(hold)) as process:
        process.wait_until(lambda: events(local.record, "start"), what="an engine that starts")
        process.signal(number)
        ended = process.wait()

    assert ended.code == 130, ended.err
    assert "Run 1 of 2" not in ended.err
    assert ended.resume_command[:4] == ["vlsb", "judge", "outputs/a", "outputs/b"]
    assert ended.errors == ["Error: Interrupted. Everything finished is stored."]
    local.gone()


def test_a_run_that_cannot_be_judged_gives_the_exit_code_and_the_others_are_judged(
    local: LocalDesk, tmp_path: Path
) -> None:
    moved = write_dataset(tmp_path / "moved", FEW)
    with SimulatorThread(labelling()) as target:
        words = ["run", "--model", "m", "--base-url", target.base_url, "--no-judge", "--name", "c"]
        assert local.vlsb(*words, "--data-root", str(moved)).code == 0
    moved.rename(tmp_path / "elsewhere")
    judge, *others = judge_words(local)

    ended = local.vlsb(judge, "outputs/c", *others, env=local.environment(ANSWER=VERDICT))

    assert ended.code == 2, ended.err
    assert "not there any more" in ended.err
    assert len(judged(local, "b")) == SAMPLES
    assert len(events(local.record, "start")) == 1
    local.gone()


def test_an_engine_that_has_ended_ends_every_run_with_its_exit_code(local: LocalDesk) -> None:
    ended = local.vlsb(*judge_words(local), env=local.environment(ANSWER=VERDICT, DIE_AFTER=str(2 + FEW)))

    assert ended.code == 7, ended.err
    assert "has ended" in ended.err
    assert len(judged(local, "a")) == FEW
    local.gone()


def test_ctrl_c_is_heard_in_a_later_model(desk: Desk) -> None:
    """The end of the first session does not close our ears for the second."""
    answered = list[Request]()

    def hold_second(request: Request) -> Action:
        if request.json["model"] == "m2":
            answered.append(request)
        return Stall() if len(answered) > 1 else labelling()(request)

    with SimulatorThread(hold_second) as endpoint:
        words = ["--model", "m1", "--model", "m2", "--base-url", endpoint.base_url, "--data-root", desk.data]
        judge = ["--judge", "j", "--judge-base-url", endpoint.base_url]
        with desk.vlsb.start("run", *words, *judge) as process:
            process.wait_until_said("Run 2 of 2")
            process.wait_until(lambda: endpoint.in_flight == 3, what="all others of the second model")
            process.signal(signal.SIGINT)
            process.wait_until_said("Stopping: 3 requests in flight")
            process.signal(signal.SIGINT)
            ended = process.wait()

    assert ended.code == 130, ended.err
    assert ended.resume_command[:2] == ["vlsb", "run"]
