"""What a crash may leave of what was written, in every order that POSIX allows; each state is resumed.

Where one moment has few such states all are built, else so many are drawn.
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
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count

from tests.simulation.crash_states import ALL, Part, orders, parts_of, pending, state
from tests.simulation.crash_subjects import SUBJECTS
from tests.simulation.disk import Trace
from tests.simulation.laboratory import fix_hashes
from tests.simulation.pool import at_once
from tests.simulation.promises import Broken, State
from tests.simulation.small_run import SmallRun, enter
from vlsb.errors import VlsbError

STATES, EACH, FEWEST = 20_000, 1000, 10
TELLS_EVERY = 1000


@dataclass
class Figures:
    """How many traces, crash moments and different states there were, and what was broken.

    Of one directory that may be left at several moments not the same has to hold: these are states, too.
    """

    traces: int = 0
    moments: int = 0
    exhausted: int = 0
    states: int = 0
    directories: int = 0
    broken: list[str] = field(default_factory=list)

    def add(self, other: Figures) -> None:
        """Count another part."""
        for name in ("traces", "moments", "exhausted", "states", "directories", "broken"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


def explore(run: SmallRun, seed: int, *, most: int) -> Figures:
    """Record a session on a seed, and resume about `most` states that a crash of it may leave."""
    draw = random.Random(f"crash {seed}")
    name = list(SUBJECTS)[seed % len(SUBJECTS)]
    subject = SUBJECTS[name]
    run = replace(run, samples=draw.randint(3, 5), judges=draw.choice((1, 2)))
    trace = subject.record(run, draw)
    figures, seen = Figures(traces=1), set[tuple[str, int]]()
    end = len(trace.ops)
    # Few states of a few moments say more than one or two of each.
    moments = [*sorted(draw.sample(range(end), min(end, most // FEWEST))), end]
    each_has = max(FEWEST, most // len(moments))
    for at in moments:
        figures.moments += 1
        is_small = (
            math.prod(len(parts_of(trace.ops[place], draw)) for place in pending(trace, at)) <= each_has
        )
        figures.exhausted += is_small
        for parts in itertools.islice(_with_torn(trace, at, draw, each_has), each_has):
            found = _digest(state(trace, at, parts)), at
            if found in seen:
                continue
            seen.add(found)
            figures.states += 1
            try:
                subject.require(run, trace, at, parts)
            except (Broken, VlsbError, OSError) as problem:
                shown = {place: part for place, part in parts.items() if part != ALL}
                figures.broken.append(
                    f"seed {seed} ({name}), before operation {at} of {len(trace.ops)}, {shown}: {problem}"
                )
    figures.directories = len({digest for digest, _ in seen})
    return figures


def _with_torn(trace: Trace, at: int, draw: random.Random, most: int) -> Iterator[dict[int, Part]]:
    """Yield the orders, and first a kill in the middle of the last write."""
    if at and trace.ops[at - 1].kind == "write" and len(trace.ops[at - 1].data) > 1:
        yield {at - 1: ("torn", draw.randrange(1, len(trace.ops[at - 1].data)))}
    yield from orders(trace, at, draw, most)


def _digest(contents: State) -> str:
    whole = hashlib.sha256()
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
    for figures in at_once(work, seeds, asked.processes, enter):
        before = total.states
        total.add(figures)
        if total.states // TELLS_EVERY > before // TELLS_EVERY:
            print(f"{total.states:,} states, {len(total.broken)} broken promises", file=sys.stderr)
        for each in figures.broken:
            print(each, flush=True)
        if total.states >= asked.states:
            break
    print(
        f"{total.states:,} states after a crash ({total.directories:,} different directories) "
        f"at {total.moments:,} moments of {total.traces} sessions "
        f"(all of them at {total.exhausted:,} moments, drawn ones at the others), "
        f"{len(total.broken)} broken promises, {time.monotonic() - began:,.0f} s"
    )
    return 1 if total.broken else 0


if __name__ == "__main__":
    fix_hashes(__spec__.name)
    sys.exit(main(sys.argv[1:]))
