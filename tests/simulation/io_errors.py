"""The n-th call of the file system fails, for every n, each time with another error; then the run is resumed.

The method is SQLite's. A call fails once, or from then on; a write may also take half of what it is given.
`python -m tests.simulation.io_errors` fails every call of small sessions, and exits with 1 if a promise is
broken.
"""

from __future__ import annotations

import argparse
import errno
import os
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import vlsb
from tests.simulation.crash_states import build
from tests.simulation.crash_subjects import BEFORE
from tests.simulation.disk import Call, Disk
from tests.simulation.laboratory import fix_hashes
from tests.simulation.pool import at_once
from tests.simulation.promises import (
    Broken,
    State,
    require_asked_once,
    require_complete,
    require_lines,
    require_torn_kept,
)
from tests.simulation.small_run import Session, SmallRun, enter
from tests.simulation.world import World
from vlsb.errors import VlsbError

SEEDS = 8
# Whatever a disk does, a session ends.
LIVENESS_S = 600.0
# An answer that left the endpoint so long before has long been written.
KEPT_S = 0.2
_SHORT = "short write"


class Fault(NamedTuple):
    """What happens to a call: an error, or for `number` 0 a write of half; `for_good` to later ones too.

    Whoever has taken half of a write for good says then that the disk is full.
    """

    name: str
    number: int
    for_good: bool

    @property
    def calls(self) -> frozenset[str]:
        """The calls to which it happens."""
        return _CALLS[self.name]


_SPACE = frozenset({"create", "write", "pwrite", "fsync", "mkdir", "link", "rename", "replace", "close"})
_CALLS = {
    "ENOSPC": _SPACE,
    "EIO": _SPACE | {"open", "read", "pread", "ftruncate", "unlink", "scandir", "listdir", "stat", "flock"},
    # Python itself makes most calls again that a signal interrupts; not all of these are made by Python.
    "EINTR": frozenset({"open", "create", "read", "write", "pwrite", "fsync", "flock", "close", "ftruncate"}),
    "EMFILE": frozenset({"open", "create", "scandir", "listdir"}),
    _SHORT: frozenset({"write", "pwrite"}),
}
FAULTS = tuple(
    Fault(name, getattr(errno, name, 0), for_good)
    for name in _CALLS
    for for_good in ((False, True) if name in ("ENOSPC", "EIO", _SHORT) else (False,))
)


class Failing:
    """A watcher that counts the calls, and lets one fail."""

    def __init__(
        self, fault: Fault | None = None, at: int = 0, now: Callable[[], float] = lambda: 0.0
    ) -> None:
        # What kind of call, and of which path.
        self.calls: list[tuple[str, str]] = []
        self.refused: Call | None = None
        self.refused_at_s = 0.0
        self.for_good = fault is not None and fault.for_good
        self._fault, self._at, self._now = fault, at, now

    def before(self, call: Call) -> Sequence[Any]:
        """Count it; OSError if it is the one, or a shorter write."""
        kind = _kind(call)
        self.calls.append((kind, call.path))
        number, fault = len(self.calls) - 1, self._fault
        is_hit = number == self._at or (number > self._at and fault is not None and fault.for_good)
        if fault is None or not is_hit or kind not in fault.calls:
            return call.arguments
        if self.refused is None:
            self.refused, self.refused_at_s = call, self._now()
        number = fault.number
        if not number and self.refused is not call:
            number = errno.ENOSPC
        if number:
            raise OSError(number, os.strerror(number), call.path)
        first, data, *others = call.arguments
        return first, bytes(data)[: -(-len(data) // 2)], *others

    def after(self, call: Call, result: Any) -> None:
        """Nothing to do."""


def _kind(call: Call) -> str:
    if call.name == "open" and call.arguments[1] & os.O_CREAT and not os.access(call.path, os.F_OK):
        return "create"
    return {"remove": "unlink"}.get(call.name, call.name)


def calls_of(run: SmallRun) -> list[tuple[str, str]]:
    """The calls of a session in which nothing fails: of what kind, and of which path."""
    counting = Failing()
    session = run.session(2, lambda _: Disk([run.home, run.data], counting).entered())
    if session.error is not None:
        raise session.error
    return counting.calls


def require_survived(run: SmallRun, before: State, fault: Fault, at: int) -> str:
    """Let call number `at` of a session fail, then resume without a fault; how the session ended."""
    build(run.home, before)
    watchers: list[Failing] = []

    def on_disk(world: World) -> AbstractContextManager[None]:
        watchers.append(Failing(fault, at, world.loop.time))
        return Disk([run.home, run.data], watchers[0]).entered()

    try:
        session = run.session(2, on_disk)
    except Exception as error:
        raise Broken(f"the session ended with {type(error).__name__}: {error}, {_place(error)}") from error
    if session.error is not None and not str(session.error).strip():
        raise Broken("the session ended without a word")
    if session.took_s > LIVENESS_S:
        raise Broken(f"the session took {session.took_s:,.0f} s")
    left = snapshot(run.home)
    _require_stored(run, left, session, watchers[0])
    again = run.session(3)
    if again.error is not None:
        raise Broken(f"the resume ended with {type(again.error).__name__}: {again.error}")
    require_lines(_lines(left))
    require_torn_kept(left)
    require_asked_once(run, left, again)
    require_complete(run)
    return "went on" if session.error is None else type(session.error).__name__


def _require_stored(run: SmallRun, left: State, session: Session, watcher: Failing) -> None:
    """Answers that had come before the fault are stored, and so is a row that was refused once."""
    responses = left.get(str(run.directory / "responses.jsonl")) or b""
    for at_s, text in session.handed_over:
        if at_s < watcher.refused_at_s - KEPT_S and text.encode() not in responses:
            raise Broken(f"{text!r} came {watcher.refused_at_s - at_s:.2f} s before the fault and is lost")
    if (call := watcher.refused) is None or watcher.for_good or call.name != "write":
        return
    is_row = call.path.endswith(".jsonl") and not call.path.endswith("events.jsonl")
    if is_row and bytes(call.arguments[1]) not in (left[call.path] or b""):
        raise Broken(f"a row of {Path(call.path).name} was refused once and is lost")


def _place(error: BaseException) -> str:
    """Where in the program an error comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    return ", ".join(
        f"{Path(each.filename).name}:{each.lineno}" for each in frames if "/vlsb/" in each.filename
    )


def snapshot(root: Path) -> State:
    """What stands below a folder."""
    return {str(path): None if path.is_dir() else path.read_bytes() for path in sorted(root.rglob("*"))}


def _lines(contents: State) -> dict[str, list[bytes]]:
    """The whole lines of journals."""
    return {
        path: [line for line in content.splitlines(keepends=True) if line.endswith(b"\n")]
        for path, content in contents.items()
        if content is not None and path.endswith(".jsonl") and not path.endswith("events.jsonl")
    }


def require_read(run: SmallRun) -> int:
    """Let each call fail with which a finished run is read; how many there are."""
    counting = Failing()
    with Disk([run.home], counting).entered():
        vlsb.load_run(run.directory).summary()
    for at, (kind, path) in enumerate(counting.calls):
        with Disk([run.home], Failing(Fault("EIO", errno.EIO, False), at)).entered():
            try:
                vlsb.load_run(run.directory).summary()
            except VlsbError:
                continue
            except OSError as error:
                raise Broken(f"call {at} of a reader, {kind} {Path(path).name}: {error}") from error
    return len(counting.calls)


@dataclass
class Figures:
    """How many sessions there were, their calls, the faults, how sessions ended, and what was broken."""

    sessions: int = 0
    calls: int = 0
    faults: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    def add(self, other: Figures) -> None:
        """Count another part."""
        for name in ("sessions", "calls", "faults", "ends", "broken"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


def explore(run: SmallRun, seed: int, *, share: float) -> Figures:
    """Let calls of a session on a seed fail: all of them, or that share."""
    draw = random.Random(f"errors {seed}")
    name = list(BEFORE)[seed % len(BEFORE)]
    run = replace(run, samples=4, judges=draw.choice((1, 2)))
    BEFORE[name](run, draw)
    before = snapshot(run.home)
    calls = calls_of(run)
    figures = Figures(sessions=1, calls=len(calls))
    try:
        figures.calls += require_read(run)
    except Broken as problem:
        figures.broken.append(f"seed {seed} ({name}): {problem}")
    for at, fault in _faults(calls):
        if draw.random() >= share:
            continue
        figures.faults += 1
        try:
            end = require_survived(run, before, fault, at)
        except AssertionError as problem:
            how = "from then on" if fault.for_good else "once"
            figures.broken.append(
                f"seed {seed} ({name}), call {at}, {calls[at][0]}: {fault.name} {how}: {problem}"
            )
        else:
            figures.ends[end] += 1
    return figures


def _faults(calls: Sequence[tuple[str, str]]) -> Iterator[tuple[int, Fault]]:
    for at, (kind, _) in enumerate(calls):
        yield from ((at, fault) for fault in FAULTS if kind in fault.calls)


def main(words: Sequence[str]) -> int:
    """Let every call fail, and print the figures."""
    parser = argparse.ArgumentParser(prog="io-errors", description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, help="repeat this one")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"how many sessions (default: {SEEDS})")
    parser.add_argument("--share", type=float, default=1.0, help="of the faults (default: 1, all)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args(words)
    began, total = time.monotonic(), Figures()
    seeds = range(1, asked.seeds + 1) if asked.seed is None else [asked.seed]
    for figures in at_once(partial(explore, share=asked.share), iter(seeds), asked.processes, enter):
        total.add(figures)
        for each in figures.broken:
            print(each, flush=True)
    how = ", ".join(f"{end} {times:,}" for end, times in sorted(total.ends.items()))
    print(
        f"{total.faults:,} faults at {total.calls:,} calls of {total.sessions} sessions ({how}), "
        f"{len(total.broken)} broken promises, {time.monotonic() - began:,.0f} s"
    )
    return 1 if total.broken else 0


if __name__ == "__main__":
    fix_hashes(__spec__.name)
    sys.exit(main(sys.argv[1:]))
