"""What a crash may leave on a disk of what was written, in every order that POSIX allows.

The method is that of ALICE (OSDI 2014). What is synced is on the disk. Of everything after that any part may
be: a name may lead to the old file or the new one; of what is appended all, nothing, a beginning, or zeros;
later writes may be there without earlier ones. After a kill of the process alone everything written is there.
"""

from __future__ import annotations

import itertools
import math
import os
import random
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.simulation.disk import FOLDER, RETURNED, Op, Trace, moved
from tests.simulation.promises import State

Part = tuple[str, int]
"""How much of a change is on the disk: `all`, `none`, a `torn` beginning, or one that `zeros` follow."""
ALL, NONE = ("all", 0), ("none", 0)


def pending(trace: Trace, at: int) -> list[int]:
    """The changes before operation `at` that no sync has forced to the disk."""
    synced: set[object] = set()
    left = []
    for place in range(at - 1, -1, -1):
        op = trace.ops[place]
        if op.kind == "sync":
            synced.add(op.folder or op.file)
        elif op.kind != RETURNED and (op.folder if op.names else op.file) not in synced:
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
        if op.kind == "rename" and op.names[1][1] == FOLDER:
            names = moved(names, op.names[0][0], op.names[1][0])
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
    choices = {place: parts_of(trace.ops[place], draw) for place in left}
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
            place: ALL if draw.random() < share else draw.choice(parts_of(trace.ops[place], draw))
            for place in left
        }


def parts_of(op: Op, draw: random.Random) -> tuple[Part, ...]:
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
