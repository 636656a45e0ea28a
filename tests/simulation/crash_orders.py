"""What a crash may leave of what was written, in every order that POSIX allows; each is resumed.

The method is that of ALICE (OSDI 2014). What is synced is on the disk. Of everything after that any part may
be: a name may lead to the old file or the new one; of what is appended all, nothing, a beginning, or zeros;
later writes may be there without earlier ones. Where one moment has few such states all are built, else so
many are drawn. After a kill of the process alone everything written is there.

`python -m tests.simulation.crash_orders [STATES]` builds about so many, and exits with 1 if a promise is
broken.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import math
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path

from tests.simulation.disk import FOLDER, Disk, Op, Recorder, Trace
from tests.simulation.laboratory import fix_hashes
from tests.simulation.loop import LONGEST_THREAD_S
from tests.simulation.promises import (
    Broken,
    State,
    require_asked_once,
    require_complete,
    require_lines,
    require_torn_kept,
)
from tests.simulation.small_run import Session, SmallRun, at_once
from tests.simulation.world import World
from vlsb.errors import StoreError, VlsbError
from vlsb.store.store import SYNC_EVERY_S
from vlsb.store.upkeep import repair_run

STATES, EACH, FEWEST = 20_000, 1000, 10
# What was written so long before a power cut has been synced.
KEPT_S = SYNC_EVERY_S + 4 * LONGEST_THREAD_S
_RETURNED = "returned"
Part = tuple[str, int]
"""How much of a change is on the disk: `all`, `none`, a `torn` beginning, or one that `zeros` follow."""
ALL, NONE = ("all", 0), ("none", 0)


# The states after a crash.


def pending(trace: Trace, at: int) -> list[int]:
    """The changes before operation `at` that no sync has forced to the disk."""
    synced: set[object] = set()
    left = []
    for place in range(at - 1, -1, -1):
        op = trace.ops[place]
        if op.kind == "sync":
            synced.add(op.folder or op.file)
        elif op.kind != _RETURNED and (op.folder if op.names else op.file) not in synced:
            left.append(place)
    return left[::-1]


def state(trace: Trace, at: int, parts: Mapping[int, Part]) -> State:
    """What is there after a crash before operation `at`; a change not in `parts` is there as a whole."""
    names, files = dict(trace.names), {number: bytearray(data) for number, data in trace.files.items()}
    for place, op in enumerate(trace.ops[:at]):
        kind, count = parts.get(place, ALL)
        if kind == "none":
            continue
        for path, number in op.names:
            if number is None:
                names.pop(path, None)
            else:
                names[path] = number
        content = files.setdefault(op.file, bytearray())
        if op.kind == "cut":
            del content[op.offset :]
        elif op.kind == "write":
            whole = op.data if kind == "all" else op.data[:count]
            whole += b"" if kind != "zeros" else bytes(len(op.data) - count)
            content.extend(bytes(max(0, op.offset - len(content))))
            content[op.offset : op.offset + len(whole)] = whole
    return {
        path: _content(files, number) for path, number in names.items() if _is_reachable(path, names, trace)
    }


def _content(files: Mapping[int, bytearray], number: int) -> bytes | None:
    return None if number == FOLDER else bytes(files.get(number, b""))


def _is_reachable(path: str, names: Mapping[str, int], trace: Trace) -> bool:
    folder = os.path.dirname(path)  # noqa: PTH120
    return folder == trace.root or (folder in names and _is_reachable(folder, names, trace))


def orders(trace: Trace, at: int, draw: random.Random, most: int) -> Iterator[dict[int, Part]]:
    """Yield what may be on the disk after a crash before operation `at`: all of it if at most `most`."""
    left = pending(trace, at)
    choices = {place: _parts(trace.ops[place], draw) for place in left}
    if math.prod(map(len, choices.values())) <= most:
        for each in itertools.product(*choices.values()):
            yield dict(zip(left, each, strict=True))
        return
    nothing = dict.fromkeys(left, NONE)
    singles = [{place: NONE} for place in left] + [nothing | {place: ALL} for place in left]
    yield {}
    yield nothing
    yield from draw.sample(singles, min(len(singles), most // 3))
    while True:
        # Most of it or little of it: in the middle all states look alike.
        share = draw.choice((0.1, 0.5, 0.9))
        yield {
            place: ALL if draw.random() < share else draw.choice(_parts(trace.ops[place], draw))
            for place in left
        }


def _parts(op: Op, draw: random.Random) -> tuple[Part, ...]:
    if op.kind != "write" or not op.data:
        return (ALL, NONE)
    middle, other = draw.randrange(len(op.data)), draw.randrange(len(op.data))
    return (ALL, NONE, ("torn", len(op.data) - 1), ("torn", middle), ("zeros", 0), ("zeros", other))


def build(root: Path, contents: State) -> None:
    """Make the folder as the crash left it."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    for path, content in sorted(contents.items()):
        if content is None:
            Path(path).mkdir()
        else:
            Path(path).write_bytes(content)


# What must hold when a state is resumed.


def promised(trace: Trace, at: int, *, is_kill: bool) -> dict[str, list[bytes]]:
    """The lines that a crash before operation `at` must leave, by file.

    They are those that were synced, those that had time to be, and everything of a session that has ended or
    of a process that was only killed.
    """
    names: dict[int, str] = {number: path for path, number in trace.names.items()}
    lines = {
        names[number]: [(-1, 0.0, line) for line in content.splitlines(keepends=True)]
        for number, content in trace.files.items()
    }
    synced: dict[int, int] = {}
    has_ended = False
    for place, op in enumerate(trace.ops[:at]):
        has_ended |= op.kind == _RETURNED
        names |= {number: path for path, number in op.names if number}
        if op.kind == "write":
            lines.setdefault(names[op.file], []).append((place, op.at_s, op.data))
        elif op.kind == "sync" and op.file:
            synced[op.file] = place
    now_s = trace.ops[at].at_s if at < len(trace.ops) else math.inf
    numbers = {path: number for number, path in names.items()}
    return {
        path: [
            line
            for place, at_s, line in written
            if line.endswith(b"\n")
            and (is_kill or has_ended or place < synced.get(numbers[path], -1) or now_s - at_s > KEPT_S)
        ]
        for path, written in lines.items()
        if path.endswith(".jsonl") and not path.endswith("events.jsonl")
    }


def require_promises(run: SmallRun, trace: Trace, at: int, parts: Mapping[int, Part]) -> None:
    """Resume what a crash left; Broken where a promise does not hold."""
    contents = state(trace, at, parts)
    is_kill = all(part == ALL for part in parts.values()) or (
        set(parts) == {at - 1} and parts[at - 1][0] == "torn"
    )
    kept = promised(trace, at, is_kill=is_kill)
    if is_kill and at - 1 in parts:
        # The write that the kill cut off had not returned.
        kept = {
            path: [line for line in lines if line != trace.ops[at - 1].data] for path, lines in kept.items()
        }
    build(run.home, contents)
    session = _resume(run, may_be_damaged=not is_kill)
    require_lines(kept)
    require_torn_kept(contents)
    require_asked_once(run, contents, session)
    require_complete(run)


def _resume(run: SmallRun, *, may_be_damaged: bool) -> Session:
    """Resume; a hole in the middle of what was not synced may be said, and then a repair has to help."""
    session = run.session(99)
    error = session.error
    if isinstance(error, StoreError) and may_be_damaged and "vlsb runs repair" in str(error):
        repair_run(run.directory)
        again = run.session(99)
        error = again.error
        session.asked.update(again.asked)
    if error is not None:
        raise Broken(f"the resume ended with {type(error).__name__}: {error}")
    return session


# What is recorded.


def record(run: SmallRun, number: int = 2) -> Trace:
    """Everything that one session does to the disk, and its return."""
    recorders = []

    def on_disk(world: World) -> AbstractContextManager[None]:
        recorders.append(Recorder(run.home, world.loop.time))
        return Disk([run.home], recorders[0]).entered()

    session = run.session(number, on_disk)
    if session.error is not None:
        raise session.error
    recorders[0].mark(_RETURNED)
    return recorders[0].trace


def _nothing(run: SmallRun, draw: random.Random) -> None:
    build(run.home, {})


def _torn(run: SmallRun, draw: random.Random) -> None:
    build(run.home, {})
    trace = record(run, 1)
    rows = [at for at, op in enumerate(trace.ops) if op.kind == "write" and at > len(trace.ops) // 2]
    at = draw.choice(rows) + 1
    last = {trace.ops[each].file: each for each in pending(trace, at) if trace.ops[each].data}
    torn = {each: ("torn", draw.randrange(1, len(trace.ops[each].data))) for each in last.values()}
    build(run.home, state(trace, at, torn))


def _smaller(run: SmallRun, draw: random.Random) -> None:
    build(run.home, {})
    record(replace(run, samples=run.samples - 2, judges=1), 1)


def _refused(run: SmallRun, draw: random.Random) -> None:
    build(run.home, {})
    if run.session(1, is_refused=True).error is None:
        raise AssertionError("a wrong key ended nothing")


BEFORE: Mapping[str, Callable[[SmallRun, random.Random], None]] = {
    "a run from nothing": _nothing,
    "a resume after torn ends": _torn,
    "a larger selection and another judge": _smaller,
    "a run that begins again": _refused,
}
"""What is there before the session that is recorded, by what that session is."""


@dataclass
class Figures:
    """How many traces, crash moments and different states there were, and what was broken."""

    traces: int = 0
    moments: int = 0
    exhausted: int = 0
    states: int = 0
    broken: list[str] = field(default_factory=list)

    def add(self, other: Figures) -> None:
        """Count another part."""
        for name in ("traces", "moments", "exhausted", "states", "broken"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


def explore(directory: Path, data: Path, seed: int, *, most: int) -> Figures:
    """Record a session on a seed, and resume about `most` states that a crash of it may leave."""
    draw = random.Random(f"crash {seed}")
    name = list(BEFORE)[seed % len(BEFORE)]
    run = SmallRun(directory / "home", data, samples=draw.randint(3, 5), judges=draw.choice((1, 2)))
    BEFORE[name](run, draw)
    trace = record(run)
    figures, seen = Figures(traces=1), set[str]()
    end = len(trace.ops)
    # Few states of a few moments say more than one or two of each.
    moments = [*sorted(draw.sample(range(end), min(end, most // FEWEST))), end]
    each_has = max(FEWEST, most // len(moments))
    for at in moments:
        figures.moments += 1
        is_small = math.prod(len(_parts(trace.ops[place], draw)) for place in pending(trace, at)) <= each_has
        figures.exhausted += is_small
        for parts in itertools.islice(_with_torn(trace, at, draw, each_has), each_has):
            digest = _digest(state(trace, at, parts), at)
            if digest in seen:
                continue
            seen.add(digest)
            figures.states += 1
            try:
                require_promises(run, trace, at, parts)
            except (Broken, VlsbError, OSError) as problem:
                shown = {place: part for place, part in parts.items() if part != ALL}
                figures.broken.append(
                    f"seed {seed} ({name}), before operation {at} of {len(trace.ops)}, {shown}: {problem}"
                )
    return figures


def _with_torn(trace: Trace, at: int, draw: random.Random, most: int) -> Iterator[dict[int, Part]]:
    """Yield the orders, and first a kill in the middle of the last write."""
    if at and trace.ops[at - 1].kind == "write" and len(trace.ops[at - 1].data) > 1:
        yield {at - 1: ("torn", draw.randrange(1, len(trace.ops[at - 1].data)))}
    yield from orders(trace, at, draw, most)


def _digest(contents: State, at: int) -> str:
    whole = hashlib.sha256(str(at).encode())
    for path, content in sorted(contents.items()):
        whole.update(f"{path} {content is None} ".encode() + hashlib.sha256(content or b"").digest())
    return whole.hexdigest()


def main(words: Sequence[str]) -> int:
    """Build and resume so many states, and print the figures."""
    parser = argparse.ArgumentParser(prog="crash-orders", description=__doc__.partition("\n")[0])
    parser.add_argument("states", type=int, nargs="?", default=STATES, help=f"how many (default: {STATES:,})")
    parser.add_argument("--seed", type=int, help="repeat this one")
    parser.add_argument("--each", type=int, default=EACH, help=f"states of a seed (default: {EACH:,})")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args(words)
    began, total = time.monotonic(), Figures()
    work = partial(explore, most=asked.each)
    seeds = count(1) if asked.seed is None else iter([asked.seed])
    for figures in at_once(work, seeds, asked.processes):
        total.add(figures)
        for each in figures.broken:
            print(each, flush=True)
        if total.states >= asked.states:
            break
    print(
        f"{total.states:,} states after a crash at {total.moments:,} moments of {total.traces} sessions "
        f"(all of them at {total.exhausted:,} moments, drawn ones at the others), "
        f"{len(total.broken)} broken promises, {time.monotonic() - began:,.0f} s"
    )
    return 1 if total.broken else 0


if __name__ == "__main__":
    fix_hashes(__spec__.name)
    sys.exit(main(sys.argv[1:]))
