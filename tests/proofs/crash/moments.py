"""When to kill: moments that the endpoint counts, and moments between the program's own system calls."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from tests.proofs.test_kill_and_resume import Moment as CountedMoment
from tests.support.command import at_audit_event

Kind: TypeAlias = Literal[
    "before run.json", "preflight", "request", "answer", "resuming", "written", "torn", "fsync"
]
KINDS: dict[Kind, str] = {
    "before run.json": "before run.json exists",
    "preflight": "during the preflight",
    "request": "as a request arrives",
    "answer": "as an answer was written to the socket",
    "resuming": "while a resume opens the run",
    "written": "between a record's write and its fsync",
    "torn": "with a record written in part",
    "fsync": "as an fsync begins",
}
ANYWHERE: tuple[Kind, ...] = ("request", "answer", "resuming", "written", "torn", "fsync")
"""The kinds that every session of an existing run has."""

_BEFORE_MANIFEST = (
    ("open", "data.json"),
    ("open", ".png"),
    ("os.mkdir", "outputs/m"),
    ("open", "outputs/m/.lock"),
    ("os.rename", "outputs/m/run.json"),
)
_RESUMING = (
    ("open", "data.json"),
    ("open", "outputs/m/run.json"),
    ("open", "outputs/m/.lock"),
    ("open", "outputs/m/responses.jsonl"),
)
# Two directories are synced when a run is opened, and at least two journals when it is closed.
_FEWEST_SYNCS = 4


@dataclass(frozen=True)
class Moment:
    """A moment of a session.

    `counted` is the endpoint's, `event` an audit event and the end of a path; else it is the `count`-th
    system call of its kind. `kept` is the share of a torn record that is written.
    """

    kind: Kind
    count: int = 1
    counted: CountedMoment | None = None
    event: tuple[str, str] | None = None
    kept: float = 0.0

    def prelude(self, stamp: Path) -> str | None:
        """What makes the process kill itself at this moment, its time in `stamp`; None if we have to."""
        if self.event is not None:
            return f"import time\n{at_audit_event(*self.event, _die(stamp))}"
        if self.kind in ("written", "torn", "fsync"):
            return _AT_SYSTEM_CALL.format(moment=self, die=_die(stamp))
        return None


def draw_moment(draw: random.Random, kind: Kind, *, requests: int, lanes: int) -> Moment:
    """A moment of this kind that a session reaches for sure: it has to send that many `requests`.

    Its preflight sends one through each of the `lanes`. "before run.json" is for a run's first session.
    """
    match kind:
        case "before run.json":
            return Moment(kind, event=draw.choice(_BEFORE_MANIFEST))
        case "resuming":
            return Moment(kind, event=draw.choice(_RESUMING))
        case "preflight":
            at: Literal["request", "answered"] = draw.choice(("request", "answered"))
            return Moment(kind, counted=CountedMoment(at, draw.randint(1, min(lanes, requests))))
        case "request":
            return Moment(kind, counted=CountedMoment("request", draw.randint(1, requests)))
        case "answer":
            return Moment(kind, counted=CountedMoment("answered", draw.randint(1, requests)))
        case "fsync":
            return Moment(kind, draw.randint(1, _FEWEST_SYNCS))
        case "written" | "torn":
            # Each answer is a record, and the session's beginning one more.
            count = draw.randint(1, requests + 1)
            return Moment(kind, count, kept=draw.choice((0.0, 1.0, draw.random())))


def _die(stamp: Path) -> str:
    """Say when, and be gone: nothing runs after it, not even a `finally`."""
    return f"open({str(stamp)!r}, 'w').write(repr(time.monotonic())) and os.kill(os.getpid(), signal.SIGKILL)"


# The interpreter has no audit event for `os.write` and `os.fsync`, so the functions are replaced.
_AT_SYSTEM_CALL = """
import os, signal, time
left = [{moment.count}]
journals = set()
really_open, really_write, really_fsync = os.open, os.write, os.fsync

def is_now():
    left[0] -= 1
    return left[0] == 0

def open_(path, *arguments, **options):
    descriptor = really_open(path, *arguments, **options)
    (journals.add if os.fsdecode(path).endswith(".jsonl") else journals.discard)(descriptor)
    return descriptor

def write(descriptor, data):
    if {moment.kind!r} == "fsync" or descriptor not in journals or not is_now():
        return really_write(descriptor, data)
    if {moment.kind!r} == "torn":
        data = data[:max(1, int((len(data) - 1) * {moment.kept}))]
    really_write(descriptor, data)
    {die}

def fsync(descriptor):
    if {moment.kind!r} == "fsync" and is_now():
        {die}
    really_fsync(descriptor)

os.open, os.write, os.fsync = open_, write, fsync
"""
