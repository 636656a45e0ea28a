"""SIGKILL at any moment, then `--resume`: the same numbers, and hardly anything is asked twice.

Moments are counted by the endpoint, never timed: the k-th request that arrives, or is answered, kills.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.support.command import (
    REQUESTS,
    SAMPLES,
    Process,
    Vlsb,
    at_audit_event,
    run_words,
)
from tests.support.datasets import sharing_rows, write_dataset
from tests.support.endpoint import asked, persona, sample_of, settle
from tests.support.run_files import journals, stored_ids, whole_lines
from tests.support.waiting import DEADLINE_S
from vlsb.simulator import Request, SimulatorThread

LOST_S = 0.1
"""What was answered this shortly before a kill may not have been stored. Time in which the machine gave
the process no CPU does not count: nobody stores anything in it."""
KILLS_A_RUN = 4
CONNECTIONS = 6

Kind = Literal["request", "answered"]


@dataclass(frozen=True)
class Moment:
    """When to kill: at the `count`-th event of a kind since the process was started."""

    kind: Kind
    count: int


class Killer:
    """Kills the process under its eyes at a moment.

    `killed_at` is monotonic time, `cpu_waits_s` what the process had waited for a CPU when each request
    was answered, by its number.
    """

    def __init__(self) -> None:
        self.killed_at: float | None = None
        self.cpu_waits_s: dict[int, float] = {}
        self._moment: Moment | None = None
        self._seen = 0
        self._process: Process | None = None
        self._has_process = threading.Event()

    def arm(self, moment: Moment) -> None:
        """Before the process is started."""
        self._has_process.clear()
        self._moment, self._seen, self.killed_at = moment, 0, None

    def watch(self, process: Process) -> None:
        """Once it is started."""
        self._process = process
        self._has_process.set()

    def on_request(self, request: Request) -> None:
        self._happened("request", request)

    def on_answered(self, request: Request) -> None:
        if self._process is not None:
            self.cpu_waits_s[request.number] = self._process.cpu_waits_s()
        self._happened("answered", request)

    def _happened(self, kind: Kind, request: Request) -> None:
        if self._moment is None or kind != self._moment.kind or request.method != "POST":
            return
        self._seen += 1
        if self._seen == self._moment.count:
            assert self._has_process.wait(DEADLINE_S)
            assert self._process is not None
            self.killed_at = time.monotonic()
            self._process.signal(signal.SIGKILL)


@dataclass(frozen=True)
class Killed:
    """A session that was killed: the requests it sent, when it died and what it left."""

    requests: list[Request]
    answered_at: dict[int, float]
    cpu_waits_s: dict[int, float]
    at: float
    cpu_waits_at_end_s: float
    journals: dict[str, bytes]
    responded: set[int]
    judged: set[int]

    def is_stored(self, request: Request) -> bool:
        """Whether the outcome of a request is in the files."""
        return sample_of(request) in (self.judged if request.is_judge else self.responded)

    def may_be_lost(self, request: Request) -> bool:
        """Whether a request was unanswered, or answered too shortly before the end."""
        answered_at = self.answered_at.get(request.number)
        if answered_at is None:
            return True
        without_cpu_s = self.cpu_waits_at_end_s - self.cpu_waits_s[request.number]
        return self.at - answered_at - without_cpu_s < LOST_S


class Interrupted:
    """One run in `tmp_path`, killed and resumed."""

    def __init__(self, tmp_path: Path, simulator: SimulatorThread, killer: Killer) -> None:
        self.vlsb = Vlsb(tmp_path)
        self.run = tmp_path / "outputs" / "m"
        self._killer = killer
        self._simulator = simulator
        lanes = ("--max-connections", str(CONNECTIONS), "--judge-max-connections", str(CONNECTIONS))
        data = write_dataset(tmp_path / "data", sharing_rows(SAMPLES))
        self.arguments = run_words(simulator, data, *lanes, "--display", "none", "--resume")

    def kill(self, moment: Moment) -> Killed:
        """Start or resume, and kill at this moment."""
        before = len(self._simulator.completions)
        self._killer.arm(moment)
        with self.vlsb.start(*self.arguments) as process:
            self._killer.watch(process)
            process.wait_until_dead()
            cpu_waits_s = process.cpu_waits_s()
            ended = process.wait()
        assert ended.code == -signal.SIGKILL, ended
        assert self._killer.killed_at is not None
        settle(self._simulator)
        return Killed(
            requests=self._simulator.completions[before:],
            answered_at=self._simulator.answered_at,
            cpu_waits_s=self._killer.cpu_waits_s.copy(),
            at=self._killer.killed_at,
            cpu_waits_at_end_s=cpu_waits_s,
            journals=journals(self.run),
            **dict(zip(("responded", "judged"), stored_ids(self.run), strict=True)),
        )

    def finish(self) -> list[Request]:
        """Resume to the end; returns what was sent."""
        before = len(self._simulator.completions)
        ended = self.vlsb(*self.arguments)
        assert (ended.code, ended.err) == (0, "")
        return self._simulator.completions[before:]


def moments(seed: int) -> list[Moment]:
    """Random moments that lie within the requests that a run needs at least, in order."""
    draw = random.Random(seed)
    cuts = [0, *sorted(draw.sample(range(1, REQUESTS), KILLS_A_RUN))]
    kinds: tuple[Kind, Kind] = ("request", "answered")
    return [Moment(draw.choice(kinds), now - last) for last, now in pairwise(cuts)]


@pytest.mark.parametrize("seed", range(5))
def test_a_run_killed_again_and_again_ends_as_if_nothing_had_happened(
    tmp_path: Path, straight: dict[str, Any], seed: int
) -> None:
    """Of what was asked, only what a kill may have lost is asked again; what was written stays."""
    killer = Killer()
    with SimulatorThread(persona, on_request=killer.on_request, on_answered=killer.on_answered) as simulator:
        interrupted = Interrupted(tmp_path, simulator, killer)
        killed = [interrupted.kill(moment) for moment in moments(seed)]
        last = interrupted.finish()

    assert interrupted.vlsb.summary() == straight
    assert simulator.errors == []
    sent_later = [[each.requests for each in killed[n:]] + [last] for n in range(1, len(killed) + 1)]
    for session, later in zip(killed, sent_later, strict=True):
        again = {request.identity for requests in later for request in requests}
        repeated = [request for request in session.requests if request.identity in again]
        assert [each for each in repeated if session.is_stored(each)] == []
        assert [each for each in repeated if not session.may_be_lost(each)] == []
        for is_judge in (False, True):
            assert len(sorted(asked(repeated, judge=is_judge))) <= CONNECTIONS
        assert_nothing_is_missing(session, interrupted.run)


def assert_nothing_is_missing(session: Killed, run: Path) -> None:
    now = journals(run)
    for name, contents in session.journals.items():
        assert now[name].startswith(whole_lines(contents)), name


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("kind", ["request", "answered"])
def test_a_kill_during_the_preflight_costs_at_most_one_request(
    tmp_path: Path, straight: dict[str, Any], kind: Kind, count: int
) -> None:
    killer = Killer()
    with SimulatorThread(persona, on_request=killer.on_request, on_answered=killer.on_answered) as simulator:
        interrupted = Interrupted(tmp_path, simulator, killer)
        killed = interrupted.kill(Moment(kind, count))
        last = interrupted.finish()

    assert len(killed.requests) <= 3
    assert len(killed.requests) + len(last) <= REQUESTS + 1
    assert interrupted.vlsb.summary() == straight


@pytest.mark.parametrize(
    ("event", "path"),
    [
        ("open", "data.json"),
        ("open", ".png"),
        ("os.mkdir", "outputs/m"),
        ("open", "outputs/m/.lock"),
        ("os.rename", "outputs/m/run.json"),
        ("os.mkdir", "outputs/m/verdicts"),
        ("open", "outputs/m/responses.jsonl"),
    ],
)
def test_a_run_killed_before_anything_was_sent_starts_again(
    tmp_path: Path, straight: dict[str, Any], event: str, path: str
) -> None:
    die = at_audit_event(event, path, "os.kill(os.getpid(), signal.SIGKILL)")
    vlsb = Vlsb(tmp_path)
    with SimulatorThread(persona) as simulator:
        arguments = run_words(simulator, write_dataset(tmp_path / "data", sharing_rows(SAMPLES)), "--resume")
        killed = vlsb(*arguments, prelude=die)
        sent_before = simulator.requests
        ended = vlsb(*arguments)

    assert killed.code == -signal.SIGKILL
    assert sent_before == 0
    assert ended.code == 0, ended.err
    assert simulator.requests == REQUESTS
    assert vlsb.summary() == straight


def test_a_run_killed_before_its_manifest_was_written_needs_no_resume(
    tmp_path: Path, straight: dict[str, Any]
) -> None:
    die = at_audit_event("os.rename", "outputs/m/run.json", "os.kill(os.getpid(), signal.SIGKILL)")
    vlsb = Vlsb(tmp_path)
    with SimulatorThread(persona) as simulator:
        arguments = run_words(simulator, write_dataset(tmp_path / "data", sharing_rows(SAMPLES)))
        killed = vlsb(*arguments, prelude=die)
        ended = vlsb(*arguments)

    assert killed.code == -signal.SIGKILL
    assert ended.code == 0, ended.err
    assert vlsb.summary() == straight
    assert [path.name for path in (tmp_path / "outputs" / "m").glob(".run.json*")] == []


def test_after_a_kill_when_everything_was_judged_nothing_is_sent(
    tmp_path: Path, straight: dict[str, Any]
) -> None:
    """The kill comes when the run's files are read again for the table."""
    all_answered = tmp_path / "all-answered"

    def on_answered(request: Request) -> None:
        if request.number == REQUESTS:
            all_answered.touch()

    die = at_audit_event(
        "open", "outputs/m/run.json", "os.kill(os.getpid(), signal.SIGKILL)", armed_by=all_answered
    )
    vlsb = Vlsb(tmp_path)
    with SimulatorThread(persona, on_answered=on_answered) as simulator:
        arguments = run_words(simulator, write_dataset(tmp_path / "data", sharing_rows(SAMPLES)), "--resume")
        killed = vlsb(*arguments, prelude=die)
        _, judged = stored_ids(tmp_path / "outputs" / "m")
        ended = vlsb(*arguments)

    assert killed.code == -signal.SIGKILL
    assert len(judged) == SAMPLES
    assert ended.code == 0, ended.err
    assert simulator.requests == REQUESTS
    assert vlsb.summary() == straight
