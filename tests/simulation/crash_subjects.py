"""What a crash cuts off: sessions of a run, and the acts that change its files between them.

Each subject records what it does to the disk, and says what must hold of every state that a crash may leave.
"""

from __future__ import annotations

import math
import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from tests.simulation.crash_states import ALL, Part, build, pending, state
from tests.simulation.disk import RETURNED, Call, Disk, Recorder, Trace
from tests.simulation.loop import LONGEST_THREAD_S
from tests.simulation.promises import (
    Broken,
    require_asked_once,
    require_complete,
    require_lines,
    require_torn_kept,
)
from tests.simulation.provider import HAS_SDK, Provider
from tests.simulation.small_run import JUDGES, NO_VERDICT, Session, SmallRun
from tests.simulation.world import World
from vlsb.errors import StoreError
from vlsb.evaluation.options import RunOptions
from vlsb.simulator import BatchPlan
from vlsb.store.audit import FILE, draw_audit, draw_calibration, read_audit
from vlsb.store.manifest import read_manifest, write_manifest
from vlsb.store.state import calibration_file
from vlsb.store.store import SYNC_EVERY_S
from vlsb.store.summaries import Gaps
from vlsb.store.upkeep import merge_runs, repair_run
from vlsb.sweep.ended import FILE as ENDED
from vlsb.sweep.ended import EndedRun, EndedRuns

# What was written so long before a power cut has been synced.
KEPT_S = SYNC_EVERY_S + 4 * LONGEST_THREAD_S


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
        has_ended |= op.kind == RETURNED
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


def record(run: SmallRun, number: int = 2, recorder: type[Recorder] = Recorder) -> Trace:
    """Everything that one session does to the disk, and its return."""
    recorders = []

    def on_disk(world: World) -> AbstractContextManager[None]:
        recorders.append(recorder(run.home, world.loop.time))
        return Disk([run.home], recorders[0]).entered()

    session = run.session(number, on_disk)
    if session.error is not None:
        raise session.error
    recorders[0].mark(RETURNED)
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


@contextmanager
def _recorded(run: SmallRun) -> Iterator[Recorder]:
    """Record what the block does to the disk."""
    recorder = Recorder(run.home, time.monotonic)
    with Disk([run.home], recorder).entered():
        yield recorder


def _ended(run: SmallRun) -> None:
    build(run.home, {})
    if (error := run.session(1).error) is not None:
        raise error


# A repair. Damaged lines begin with this, and are told apart by the rest.
_DAMAGE = b"#"


def _repair(run: SmallRun, draw: random.Random) -> Trace:
    """Damage lines of a run that has ended, and repair it."""
    _ended(run)
    journals = [each for each in sorted(run.directory.rglob("*.jsonl")) if each.stat().st_size]
    for path in draw.sample(journals, draw.randint(1, len(journals))):
        lines = path.read_bytes().splitlines(keepends=True)
        for place in draw.sample(range(len(lines)), min(len(lines), draw.randint(1, 2))):
            lines[place] = _DAMAGE + lines[place]
        path.write_bytes(b"".join(lines))
    with _recorded(run) as recorder:
        repair_run(run.directory)
        recorder.mark(RETURNED)
    return recorder.trace


def _require_repaired(run: SmallRun, trace: Trace, at: int, parts: Mapping[int, Part]) -> None:
    """No line is lost, whether it is set aside or not, and the run can be repaired and resumed."""
    build(run.home, state(trace, at, parts))
    lines = {
        path: trace.files[number].splitlines(keepends=True)
        for path, number in trace.names.items()
        if path.endswith(".jsonl")
    }
    good = {path: [each for each in its if not each.startswith(_DAMAGE)] for path, its in lines.items()}
    require_lines(good)
    repair_run(run.directory)
    require_lines(good)
    for path, its in lines.items():
        beside = [each.read_bytes() for each in Path(path).parent.glob(f"{Path(path).name}.damaged-*")]
        for line in its:
            if line.startswith(_DAMAGE) and (times := b"".join(beside).count(line)) != 1:
                raise Broken(f"{Path(path).name}: a damaged line is {times} times beside it: {line[:70]!r}")
    if (error := run.session(99).error) is not None:
        raise Broken(f"the resume ended with {type(error).__name__}: {error}")
    require_lines(good)
    require_complete(run)


# A merge.


def _merge(run: SmallRun, draw: random.Random) -> Trace:
    """Cut a run that has ended in two parts, and merge them."""
    _ended(run)
    parts = [run.home / name for name in ("first", "second")]
    cut = draw.randint(1, run.samples - 1)
    for part, ids in zip(parts, (range(cut), range(cut, run.samples)), strict=True):
        shutil.copytree(run.directory, part)
        manifest = read_manifest(part)
        write_manifest(
            part, replace(manifest, samples=[row for row in manifest.samples if row.sample_id in ids])
        )
        for path in part.rglob("*.jsonl"):
            rows = [line for line in path.read_bytes().splitlines(keepends=True) if _is_of(line, ids)]
            path.write_bytes(b"".join(rows))
    shutil.rmtree(run.directory)
    with _recorded(run) as recorder:
        merge_runs(parts, run.directory)
        recorder.mark(RETURNED)
    return recorder.trace


def _is_of(line: bytes, ids: Collection[int]) -> bool:
    row = orjson.loads(line)
    return "sample_id" not in row or row["sample_id"] in ids


def _require_merged(run: SmallRun, trace: Trace, at: int, parts: Mapping[int, Part]) -> None:
    """The parts are as they were, and the merged run is whole or not there."""
    contents = state(trace, at, parts)
    for path, number in trace.names.items():
        if path.endswith(("json", "jsonl")) and contents.get(path) != trace.files[number]:
            raise Broken(f"{path} is not as it was")
    build(run.home, contents)
    has_returned = any(op.kind == RETURNED for op in trace.ops[:at])
    if has_returned or run.directory.exists():
        require_complete(run)


# The draws of an audit and of a calibration.

_DRAWN = (2, 3)


def _draw(run: SmallRun, draw: random.Random) -> Trace:
    """Draw a sample of a run that has ended, and enlarge it; one for people, and one for a judge."""
    _ended(run)
    with _recorded(run) as recorder:
        for n in _DRAWN:
            _draw_both(run, n)
            recorder.mark(RETURNED)
    return recorder.trace


def _draw_both(run: SmallRun, n: int) -> None:
    draw_audit([run.directory], n=n, seed=None)
    draw_calibration(run.directory, "new.jsonl", n=n, against="j.jsonl", is_against_asked=True)


def _require_drawn(run: SmallRun, trace: Trace, at: int, parts: Mapping[int, Part]) -> None:
    """A draw that was made is there, and what is drawn after a crash is what would have been drawn."""
    build(run.home, state(trace, at, parts))
    made = sum(op.kind == RETURNED for op in trace.ops[:at])
    for file in (FILE, calibration_file("new.jsonl")):
        audit = read_audit(run.directory, file)
        if made and (audit is None or audit.n < _DRAWN[made - 1]):
            raise Broken(f"{file} of a draw that was made is gone")
    earlier = read_audit(run.directory)
    _draw_both(run, _DRAWN[-1])
    audit = read_audit(run.directory)
    assert audit is not None
    if earlier is not None and not {item.key for item in earlier.items} <= {item.key for item in audit.items}:
        raise Broken("what was drawn is drawn no more")
    build(run.home, state(trace, 0, {}))
    _draw_both(run, _DRAWN[0])
    _draw_both(run, _DRAWN[-1])
    if read_audit(run.directory).items != audit.items:
        raise Broken("another sample is drawn than without the crash")
    require_complete(run)


# What a sweep remembers of runs that have ended.


_USD = 0.25


def _remember(run: SmallRun, draw: random.Random) -> Trace:
    """Ask of each run of a sweep whether it has ended, and what it has cost."""
    _ended(run)
    with _recorded(run) as recorder:
        _recall(run)
        recorder.mark(RETURNED)
    return recorder.trace


def _recall(run: SmallRun) -> list[object]:
    """Ask what is remembered of a run that lacks nothing, of one with gaps, and of one that goes on."""
    ended = EndedRuns(run.home / ENDED)
    options = RunOptions(model="m", output_dir=run.home, name=run.directory.name)
    gaps = Gaps(1, run.samples, "response")
    answers: list[object] = [
        ended.recall(run.directory, (name,), options, partial(EndedRun, gaps if name == "gaps" else None))
        for name in ("whole", "gaps")
    ]
    answers.append(ended.recall(run.directory, ("open",), options, lambda: None))
    return [*answers, ended.cost(run.directory, options, lambda: _USD)]


def _require_remembered(run: SmallRun, trace: Trace, at: int, parts: Mapping[int, Part]) -> None:
    """What is remembered after a crash is what was found, and what was torn is found anew."""
    build(run.home, state(trace, at, parts))
    gaps = Gaps(1, run.samples, "response")
    expected = [EndedRun(None), EndedRun(gaps), None, _USD]
    for _ in range(2):
        if (answers := _recall(run)) != expected:
            raise Broken(f"a sweep remembers {answers}")
    require_complete(run)


# A run by batch.

MOST_RESUMES = 12


@dataclass(frozen=True)
class _BatchTrace(Trace):
    """What was done to the disk, and how the provider stood after each operation."""

    providers: Sequence[Provider] = ()


def _by_batch(run: SmallRun, draw: random.Random) -> Trace:
    """Ask everything in batches, from nothing."""
    build(run.home, {})
    provider, providers = Provider((), random.Random("provider")), list[Provider]()

    class Watcher(Recorder):
        """A recorder that remembers the provider, too."""

        def after(self, call: Call, result: Any) -> None:
            super().after(call, result)
            while len(providers) < len(self.ops):
                providers.append(provider.as_it_is())

    provider.let_all(BatchPlan(polls=1))
    trace = record(replace(run, provider=provider), recorder=Watcher)
    first = Provider((), random.Random("provider"))
    return _BatchTrace(**vars(trace), providers=[first, *providers, provider])


def _require_paid_once(run: SmallRun, trace: Trace, at: int, parts: Mapping[int, Part]) -> None:
    """The run can be brought to its end, and nothing is paid for twice."""
    assert isinstance(trace, _BatchTrace)
    build(run.home, state(trace, at, parts))
    provider = trace.providers[min(at, len(trace.providers) - 1)].as_it_is()
    provider.let_all(BatchPlan())
    resumed = replace(run, provider=provider)
    doubts = Counter[str]()
    for _ in range(MOST_RESUMES):
        # A batch that the crash left in doubt is looked for once more before the user gives it up.
        lost = [name for name, times in doubts.items() if times > 1]
        if (error := resumed.session(99, batch_again=lost).error) is None:
            break
        doubts.update(re.findall(r"--batch-again ([\w-]+)", f"{error} {error.advice}")[:1])
        if "vlsb runs repair" in str(error):
            repair_run(run.directory)
    else:
        raise Broken(f"the resumes ended with {type(error).__name__}: {error}")
    # A judge whose reply is no verdict is asked twice; where its batch is given up, from the first on again.
    again = {(judge, NO_VERDICT) for judge in JUDGES}
    most = 3 if max(doubts.values(), default=0) > 1 else 2
    if twice := (provider.paid_too_often(1) - again) | provider.paid_too_often(most):
        raise Broken(f"{sorted(twice)} were paid for twice")
    require_complete(run)


@dataclass(frozen=True)
class Subject:
    """What is recorded, and what must hold of each state that a crash may leave of it."""

    record: Callable[[SmallRun, random.Random], Trace]
    require: Callable[[SmallRun, Trace, int, Mapping[int, Part]], None]


def _session(before: Callable[[SmallRun, random.Random], None]) -> Subject:
    def recorded(run: SmallRun, draw: random.Random) -> Trace:
        before(run, draw)
        return record(run)

    return Subject(recorded, require_promises)


SUBJECTS: Mapping[str, Subject] = {
    **{name: _session(before) for name, before in BEFORE.items()},
    **({"a run by batch": Subject(_by_batch, _require_paid_once)} if HAS_SDK else {}),
    "a repair": Subject(_repair, _require_repaired),
    "a merge": Subject(_merge, _require_merged),
    "the draws of an audit": Subject(_draw, _require_drawn),
    "what a sweep remembers": Subject(_remember, _require_remembered),
}
"""By name."""
