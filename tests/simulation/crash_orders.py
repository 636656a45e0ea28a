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
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import orjson

import vlsb
from tests.simulation.disk import FOLDER, Disk, Op, Recorder, Trace
from tests.simulation.loop import LONGEST_THREAD_S
from tests.simulation.small_run import Session, SmallRun, at_once, fix_hashes, outcome_of
from tests.simulation.world import World
from vlsb.errors import StoreError, VlsbError
from vlsb.store.repair import repair_run
from vlsb.store.store import SYNC_EVERY_S

STATES, EACH, FEWEST = 20_000, 1000, 10
# What was written so long before a power cut has been synced.
KEPT_S = SYNC_EVERY_S + 4 * LONGEST_THREAD_S
_RETURNED = "returned"
_DRAFT = ".run.json"

Part = tuple[str, int]
"""How much of a change is on the disk: `all`, `none`, a `torn` beginning, or one that `zeros` follow."""
ALL, NONE = ("all", 0), ("none", 0)
State = Mapping[str, bytes | None]
"""What stands below a folder, by path: bytes, or None for a folder."""


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


class Broken(AssertionError):
    """A promise that does not hold."""


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
    _require_lines(kept)
    _require_torn_kept(contents)
    _require_asked_once(run, contents, session)
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


def _require_lines(kept: Mapping[str, Sequence[bytes]]) -> None:
    for path, lines in kept.items():
        there = (
            Counter(Path(path).read_bytes().splitlines(keepends=True)) if Path(path).exists() else Counter()
        )
        for line in lines:
            if there[line] != 1:
                raise Broken(f"{Path(path).name} has {there[line]} times: {line[:70]!r}")


def _require_torn_kept(contents: State) -> None:
    for path, content in contents.items():
        if content is None or not path.endswith(".jsonl"):
            continue
        tail = content[content.rfind(b"\n") + 1 :]
        if not tail or _is_row(tail):
            continue
        beside = [each.read_bytes() for each in Path(path).parent.glob(f"{Path(path).name}.*-*")]
        if not any(tail in each for each in beside):
            raise Broken(f"the torn end of {Path(path).name} is gone")


def _require_asked_once(run: SmallRun, contents: State, session: Session) -> None:
    """Nobody is asked for what the crash has left, or twice."""
    responses = rows(contents, run.directory / "responses.jsonl")
    failures = rows(contents, run.directory / "failures.jsonl")
    sent = {row["response_sha256"] for row in responses}
    done = {("t", row["sample_id"]) for row in responses}
    done |= {("t", row["sample_id"]) for row in failures if row["stage"] == "target"}
    done |= {
        (row["judge"].removesuffix(".jsonl"), row["sample_id"])
        for row in failures
        if row["stage"] == "judge" and row["response_sha256"] in sent
    }
    for judge in ("j", "k"):
        verdicts = rows(contents, run.directory / "verdicts" / f"{judge}.jsonl")
        done |= {(judge, row["sample_id"]) for row in verdicts if row["response_sha256"] in sent}
    if again := done & session.asked.keys():
        raise Broken(f"asked again: {sorted(again)}")
    if more := {each for each, count in session.asked.items() if count > (2 if each[0] != "t" else 1)}:
        raise Broken(f"asked more than once: {sorted(more)}")


def require_complete(run: SmallRun) -> None:
    """The run reads cleanly, and each sample is in the outcome in which it has to be, once."""
    loaded = vlsb.load_run(run.directory)
    if len(loaded.judges) != run.judges:
        raise Broken(f"the judges are {loaded.judges}")
    for judge in loaded.judges:
        ended = [(each.sample_id, each.outcome) for each in loaded.answers(judge)]
        if ended != [(sample, outcome_of(sample)) for sample in range(run.samples)]:
            raise Broken(f"{judge}: {ended}")
    if (run.directory / _DRAFT).exists():
        raise Broken(f"{_DRAFT} is left")
    for path in sorted(run.directory.rglob("*.jsonl")):
        seen = Counter(_key(row) for row in map(orjson.loads, path.read_bytes().splitlines()))
        if twice := [key for key, count in seen.items() if key is not None and count > 1]:
            raise Broken(f"{path.name} has twice: {twice}")


def _key(row: Mapping[str, Any]) -> tuple[object, ...] | None:
    if "sample_id" not in row or row.get("fault") == "stopped":
        return None
    names = ["sample_id", "epoch", "stage", "judge"]
    # There is one response; a verdict may be about one that the crash took.
    is_response = not row.keys() & {"stage", "label"}
    return tuple(map(row.get, names if is_response else [*names, "response_sha256"]))


def rows(contents: State, path: Path) -> list[dict[str, Any]]:
    """The rows of a journal that can be read."""
    return [orjson.loads(line) for line in (contents.get(str(path)) or b"").split(b"\n") if _is_row(line)]


def _is_row(line: bytes) -> bool:
    try:
        return isinstance(orjson.loads(line), dict)
    except ValueError:
        return False


# What is recorded.


def record(run: SmallRun, number: int) -> Trace:
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


def first_session(run: SmallRun, draw: random.Random) -> Trace:
    """A run from nothing."""
    build(run.home, {})
    return record(run, 1)


def resumed_session(run: SmallRun, draw: random.Random) -> Trace:
    """A session that goes on after a kill, with a line torn in each journal where that could be."""
    trace = first_session(run, draw)
    writes = [
        place for place, op in enumerate(trace.ops) if op.kind == "write" and place > len(trace.ops) // 2
    ]
    at = draw.choice(writes) + 1
    torn = {
        place: ("torn", draw.randrange(1, len(trace.ops[place].data)))
        for place in {
            trace.ops[each].file: each for each in pending(trace, at) if trace.ops[each].data
        }.values()
    }
    build(run.home, state(trace, at, torn))
    return record(run, 2)


def larger_session(run: SmallRun, draw: random.Random) -> Trace:
    """A session that asks for more samples and another judge."""
    first_session(replace(run, samples=run.samples - 2, judges=1), draw)
    return record(run, 2)


def refused_session(run: SmallRun, draw: random.Random) -> Trace:
    """A session after one in which nothing was answered: it begins the run again."""
    build(run.home, {})
    if run.session(1, is_refused=True).error is None:
        raise AssertionError("a wrong key ended nothing")
    return record(run, 2)


SESSIONS = {
    "a run from nothing": first_session,
    "a resume after a torn end": resumed_session,
    "a larger selection": larger_session,
    "a run that begins again": refused_session,
}


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
    name = list(SESSIONS)[seed % len(SESSIONS)]
    run = SmallRun(directory / "home", data, samples=draw.randint(3, 5), judges=draw.choice((1, 2)))
    trace = SESSIONS[name](run, draw)
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
