"""Ctrl-C once, twice, thrice, and its siblings: what was paid for is kept, and the last line resumes."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections import Counter
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import (
    GRACE_S,
    REQUESTS,
    RESUME,
    SAMPLES,
    Finished,
    Vlsb,
    run_words,
)
from tests.support.datasets import sharing_rows, write_dataset
from tests.support.endpoint import asked, persona
from tests.support.run_files import records, stored_ids
from vlsb.simulator import Action, Reply, Request, SimulatorThread, Stall, rate_limited

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CONNECTIONS = 4
PROMPT_S = 0.8 * GRACE_S
"""What ends within this did not wait for the grace period, let alone for a reply or a rate limit."""
STOPPING = "Stopping"


class Hold:
    """A responder that keeps one lane's requests waiting, all but the first, until they are released."""

    def __init__(self, *, judge: bool, instead: Action | None = None) -> None:
        self._released = asyncio.Event()
        self._holds_judge = judge
        self._instead = instead
        self._first: set[bool] = set()

    def release(self) -> None:
        """Answer what waits and whatever comes. From any thread, after the first request."""
        self._loop.call_soon_threadsafe(self._released.set)

    def __call__(self, request: Request) -> Action | Awaitable[Action]:
        self._loop = asyncio.get_running_loop()
        is_first = request.is_judge not in self._first
        self._first.add(request.is_judge)
        if is_first or request.is_judge != self._holds_judge or self._released.is_set():
            return persona(request)
        return self._wait(request) if self._instead is None else self._instead

    async def _wait(self, request: Request) -> Reply:
        await self._released.wait()
        return persona(request)


def arguments(simulator: SimulatorThread, tmp_path: Path, *more: str) -> list[object]:
    """A run into a relative directory whose name a shell would split."""
    write_dataset(tmp_path / "data", sharing_rows(SAMPLES))
    lanes = ("--max-connections", str(CONNECTIONS), "--judge-max-connections", str(CONNECTIONS))
    return run_words(simulator, Path("data"), "--output-dir", "my outputs", *lanes, *more)


def run_directory(tmp_path: Path) -> Path:
    return tmp_path / "my outputs" / "m"


def resumed_summary(vlsb: Vlsb, ended: Finished) -> dict[str, Any]:
    """What the run comes to when the printed command is typed."""
    resumed = vlsb.resume(ended)
    assert resumed.code == 0, resumed.err
    return vlsb.summary("my outputs")


def assert_interrupted(ended: Finished) -> None:
    assert ended.code == 130, ended
    assert "Traceback" not in ended.err
    assert len(ended.errors) <= 1
    assert ended.resume_command[:2] == ["vlsb", "run"]


# Once.


@pytest.mark.parametrize("number", SIGNALS)
def test_a_first_signal_lets_answers_in_flight_arrive_and_starts_nothing_new(
    tmp_path: Path, straight: dict[str, Any], number: int
) -> None:
    hold = Hold(judge=False)
    vlsb = Vlsb(tmp_path)
    with SimulatorThread(hold) as simulator:
        with vlsb.start(*arguments(simulator, tmp_path)) as process:
            process.wait_until(lambda: simulator.in_flight == CONNECTIONS, what="all connections in use")
            process.signal(number)
            process.wait_until_said(STOPPING)
            hold.release()
            ended = process.wait()
        sent = simulator.completions
        responded, judged = stored_ids(run_directory(tmp_path))
        summary = resumed_summary(vlsb, ended)
        resumed = simulator.completions[len(sent) :]

    assert_interrupted(ended)
    assert len(sent) == 2 + CONNECTIONS
    assert sorted(responded) == sorted(asked(sent, judge=False))
    assert sorted(judged) == sorted(asked(sent, judge=True))
    assert set(asked(resumed, judge=False)).isdisjoint(responded)
    assert responded - judged <= set(asked(resumed, judge=True))
    assert len(sent) + len(resumed) == REQUESTS
    assert summary == straight


def test_a_first_signal_lets_verdicts_in_flight_arrive(tmp_path: Path, straight: dict[str, Any]) -> None:
    hold = Hold(judge=True)
    vlsb = Vlsb(tmp_path)
    with SimulatorThread(hold) as simulator:
        with vlsb.start(*arguments(simulator, tmp_path)) as process:
            held = SAMPLES + 1 + CONNECTIONS
            process.wait_until(lambda: simulator.requests == held, what="every answer and all judges asked")
            process.wait_until(lambda: simulator.in_flight == CONNECTIONS, what="judges alone in flight")
            process.signal(signal.SIGINT)
            process.wait_until_said(STOPPING)
            hold.release()
            ended = process.wait()
        sent = simulator.completions
        responded, judged = stored_ids(run_directory(tmp_path))
        summary = resumed_summary(vlsb, ended)

    assert_interrupted(ended)
    assert len(sent) == held
    assert sorted(judged) == sorted(asked(sent, judge=True))
    assert len(responded) == SAMPLES
    assert simulator.requests == REQUESTS
    assert summary == straight


def test_the_resume_command_holds_every_option_and_survives_the_shell(tmp_path: Path) -> None:
    options = ("--limit", "20", "--max-tokens", "64", "--system-prompt", "Be 'brief' & \"kind\".")
    hold = Hold(judge=False)
    vlsb = Vlsb(tmp_path)
    with SimulatorThread(hold) as simulator:
        typed = arguments(simulator, tmp_path, *options)
        with vlsb.start(*typed) as process:
            process.wait_until(lambda: simulator.in_flight == CONNECTIONS, what="all connections in use")
            process.signal(signal.SIGINT)
            process.wait_until_said(STOPPING)
            hold.release()
            ended = process.wait()
        resumed = vlsb.resume(ended)

    assert_interrupted(ended)
    from_variables = ["--api-key-env", "CANARY_KEY", "--judge-api-key-env", "CANARY_KEY"]
    words = ["vlsb", *map(str, typed), *from_variables, "--resume"]
    assert Counter(ended.resume_command) == Counter(words)
    assert resumed.code == 0, resumed.err
    assert vlsb.summary("my outputs")["selected"] == 20


def test_without_a_display_the_resume_command_is_still_the_last_line(tmp_path: Path) -> None:
    vlsb = Vlsb(tmp_path)
    with (
        SimulatorThread(Hold(judge=False, instead=rate_limited(60))) as simulator,
        vlsb.start(*arguments(simulator, tmp_path, "--display", "none")) as process,
    ):
        process.wait_until(lambda: has_event(tmp_path, "rate_limit"), what="a closed gate")
        process.signal(signal.SIGINT)
        ended = process.wait()

    assert_interrupted(ended)
    assert ended.out == ""
    assert len(ended.err.splitlines()) <= 2


# Twice and thrice.


@pytest.mark.parametrize("judge", [False, True])
def test_a_second_signal_drops_what_is_in_flight(
    tmp_path: Path, straight: dict[str, Any], judge: bool
) -> None:
    hold = Hold(judge=judge, instead=Stall())
    vlsb = Vlsb(tmp_path)
    with SimulatorThread(hold) as simulator:
        answered = 1 + (SAMPLES if judge else 1)
        with vlsb.start(*arguments(simulator, tmp_path)) as process:
            stalled = answered + CONNECTIONS
            process.wait_until(lambda: simulator.requests == stalled, what="all connections stalled")
            process.wait_until(lambda: simulator.answered == answered, what="the other lane answered")
            process.signal(signal.SIGINT)
            process.wait_until_said(STOPPING)
            process.signal(signal.SIGINT)
            ended, took_s = process.timed_wait()
        sent = len(simulator.completions)
        hold.release()
        summary = resumed_summary(vlsb, ended)

    assert_interrupted(ended)
    assert took_s < PROMPT_S
    assert sent == stalled
    assert simulator.requests == REQUESTS + CONNECTIONS
    assert summary == straight


def test_a_third_signal_ends_the_process_at_once(tmp_path: Path, straight: dict[str, Any]) -> None:
    """The three arrive together, so that the second cannot have done the work."""
    hold = Hold(judge=False, instead=Stall())
    vlsb = Vlsb(tmp_path)
    with SimulatorThread(hold) as simulator:
        with vlsb.start(*arguments(simulator, tmp_path)) as process:
            process.wait_until(lambda: simulator.in_flight == CONNECTIONS, what="all connections stalled")
            process.stop()
            for number in SIGNALS:
                process.signal(number)
            process.signal(signal.SIGCONT)
            ended, took_s = process.timed_wait()
        ended_in_order = has_event(tmp_path, "session_ended")
        hold.release()
        summary = resumed_summary(vlsb, ended)

    assert_interrupted(ended)
    assert took_s < PROMPT_S
    assert ended.out == ""
    assert not ended_in_order
    assert summary == straight


def test_impatient_signals_never_bring_a_traceback(tmp_path: Path, straight: dict[str, Any]) -> None:
    hold = Hold(judge=False, instead=Stall())
    vlsb = Vlsb(tmp_path)
    with SimulatorThread(hold) as simulator:
        with vlsb.start(*arguments(simulator, tmp_path)) as process:
            process.wait_until(lambda: simulator.in_flight == CONNECTIONS, what="all connections stalled")
            while process.is_running:
                process.signal(signal.SIGINT)
                time.sleep(0.002)
            ended = process.wait()
        hold.release()
        summary = resumed_summary(vlsb, ended)

    assert_interrupted(ended)
    assert summary == straight


# While nothing is in flight.


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_wait_for_a_rate_limit(
    tmp_path: Path, straight: dict[str, Any], number: int
) -> None:
    hold = Hold(judge=False, instead=rate_limited(60))
    vlsb = Vlsb(tmp_path)
    with SimulatorThread(hold) as simulator:
        with vlsb.start(*arguments(simulator, tmp_path)) as process:
            process.wait_until(lambda: has_event(tmp_path, "rate_limit"), what="a closed gate")
            process.wait_until(lambda: simulator.in_flight == 0, what="nothing in flight")
            process.signal(number)
            ended, took_s = process.timed_wait()
        hold.release()
        summary = resumed_summary(vlsb, ended)

    assert_interrupted(ended)
    assert took_s < PROMPT_S
    assert summary == straight


def test_a_signal_ends_the_wait_before_a_retry(tmp_path: Path, straight: dict[str, Any]) -> None:
    """The preflight's first request fails and is to be repeated after a minute."""
    is_broken = threading.Event()
    is_broken.set()

    def respond(request: Request) -> Action:
        if is_broken.is_set():
            return Reply(503, b"", headers=(("retry-after", "60"),))
        return persona(request)

    vlsb = Vlsb(tmp_path)
    with SimulatorThread(respond) as simulator:
        with vlsb.start(*arguments(simulator, tmp_path)) as process:
            process.wait_until(lambda: has_event(tmp_path, "retry"), what="a wait before a retry")
            process.signal(signal.SIGINT)
            ended, took_s = process.timed_wait()
        sent = simulator.requests
        is_broken.clear()
        again = vlsb(*arguments_again(simulator))
        summary = vlsb.summary("my outputs")

    assert ended.code == 130, ended
    assert RESUME not in ended.err  # nothing was answered: there is nothing to go on with
    assert again.code == 0, again.err
    assert took_s < PROMPT_S
    assert sent == 1
    assert summary == straight


def has_event(tmp_path: Path, kind: str) -> bool:
    path = run_directory(tmp_path) / "events.jsonl"
    return path.exists() and any(each["kind"] == kind for each in records(path.read_bytes()))


def arguments_again(simulator: SimulatorThread) -> list[object]:
    return run_words(simulator, Path("data"), "--output-dir", "my outputs", "--resume")
