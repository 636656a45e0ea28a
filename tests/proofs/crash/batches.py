"""Kill runs by batch with SIGKILL at their awaits, with a list that lags: is each answer paid for once?

`python -m tests.proofs.crash.batches 200` kills so often and prints what came of it. A session of a run is
killed at a random one of all awaits of the state machine, before or after it waited; the next session goes on
and is killed too, until one gets through. Where a session stops and says that it cannot tell what became of a
batch, the user says that it shall be asked again.
"""

from __future__ import annotations

import argparse
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import orjson

from tests.support.batches import paid, respond
from tests.support.command import RESUME, Desk, Finished
from vlsb.simulator import BatchPlan, SimulatorThread, error

SAMPLES = 4
KILLS_A_RUN = 3
NEVER = 10**9
# Three batches may be stopped at, twice each, and a session that is through.
_MOST_STOPS = 9
_AGAIN = re.compile(r"--batch-again (vlsb-[0-9a-f]{16})")
# A list that lags by L seconds shows a batch at the first look after these; so many looks take a minute.
_LOOKS_AT_S = (0, 1, 3, 7, 15, 31, 61)

# Counts where whoever serves the requests begins and ends to wait, and sends itself a signal at one of these.
_COUNTED = """
import os
from vlsb.evaluation.batch import BatchRun

class Counted:
    left = [{at}]

    def __init__(self, coroutine):
        self._coroutine = coroutine

    def _count(self):
        self.left[0] -= 1
        if self.left[0] == 0:
            os.kill(os.getpid(), {number})

    def __await__(self):
        steps = self._coroutine.__await__()
        step, value = steps.send, None
        while True:
            try:
                waits_for = step(value)
            except StopIteration as end:
                return end.value
            self._count()
            try:
                step, value = steps.send, (yield waits_for)
            except BaseException as stopped:
                step, value = steps.throw, stopped
            self._count()

serve = BatchRun._serve

async def counted(self, lanes):
    try:
        await Counted(serve(self, lanes))
    finally:
        with open({counts!r}, "a") as file:
            file.write(str({at} - Counted.left[0]) + "\\n")

BatchRun._serve = counted
"""


@dataclass
class Figures:
    """What was done and found: `stops` are sessions that said so, `paid_again` answers by a user's word."""

    killed_at: list[int] = field(default_factory=list)
    runs: int = 0
    stops: int = 0
    paid_again: int = 0
    violations: list[str] = field(default_factory=list)


class BatchHarness:
    """Runs by batch that are killed, each in a directory of its own; `awaits` are those of one left alone.

    `prelude` changes the program.
    """

    def __init__(
        self, directory: Path, *, seed: int, number: signal.Signals = signal.SIGKILL, prelude: str = ""
    ) -> None:
        self.figures = Figures()
        self._directory = directory
        self._draw = random.Random(seed)
        self._signal = number
        self._prelude = prelude
        self.awaits = 0
        self.awaits = self._run(BatchPlan(polls=1), [])
        # Every await is the first kill of a run before any is for the second time.
        self._order = self._draw.sample(range(1, self.awaits + 1), self.awaits)

    def crash(self, kills: int, *, is_listed: bool = True) -> None:
        """One run, killed so often at most, with a list that lags up to 30 s; or that never shows a batch."""
        lag_s = self._draw.uniform(0, 30)
        looks = sum(at_s < lag_s for at_s in _LOOKS_AT_S) if is_listed else NEVER
        creation = self._draw.choice((None, None, error(500)))
        plan = BatchPlan(polls=1, unlisted=looks, creation=creation, late=self._draw.choice((0, 2)))
        first = self._order[self.figures.runs % self.awaits]
        later = [self._draw.randint(1, self.awaits) for _ in range(kills - 1)]
        self._run(plan, [first, *later])
        self.figures.runs += 1

    def _run(self, plan: BatchPlan, moments: Sequence[int]) -> int:
        """Session after session, killed at these awaits; how many awaits the last one had."""
        home = self._directory / f"run-{len(list(self._directory.iterdir()))}"
        home.mkdir()
        desk, left, more, stops = Desk(home, SAMPLES), list(moments), list[str](), 0
        with SimulatorThread(respond) as endpoint:
            # A creation that always fails and is never listed could not end otherwise.
            others = plan if plan.unlisted < NEVER else replace(plan, creation=None)
            endpoint.batches.plan = lambda number: plan if number == 1 else others
            for _ in range(len(moments) + _MOST_STOPS):
                at = left.pop(0) if left else NEVER
                prelude = _COUNTED.format(at=at, counts=str(home / "awaits"), number=self._signal.value)
                words = desk.run_words(endpoint, "--batch", "--resume", *more)
                ended, more = desk.vlsb(*words, prelude=prelude + self._prelude), []
                if ended.code == 0:
                    break
                if ended.code == 4 and (found := _AGAIN.search(ended.err)):
                    # It is looked for once more before the user says that it is given up.
                    stops += 1
                    more = ["--batch-again", found[1]] if stops % 2 == 0 else []
                elif self._is_killed(ended):
                    self.figures.killed_at.append(at)
                else:
                    self._violated(moments, plan, f"exit {ended.code}: {ended.err[-500:]}")
                    return 0
            else:
                self._violated(moments, plan, f"never got through: {ended.err[-500:]}")
            answers, asked = paid(endpoint), endpoint.batches.submitted
        # Whoever makes a batch pays for it, whether anybody looks at it again or not.
        names = Counter(orjson.loads(line)["custom_id"] for lines in asked for line in lines)
        twice = [each for each, count in (*answers.items(), *names.items()) if count > 1]
        if len(answers) != 2 * SAMPLES or (twice and stops < 2):
            self._violated(moments, plan, f"{len(answers)} were answered, {len(twice)} were paid for twice")
        self.figures.stops += stops
        self.figures.paid_again += len(twice)
        return sum(map(int, (home / "awaits").read_text().split()))

    def _is_killed(self, ended: Finished) -> bool:
        if self._signal is signal.SIGKILL:
            return ended.code == -signal.SIGKILL
        return ended.code == 130 and ended.last.startswith(RESUME) and "internal error" not in ended.err

    def _violated(self, moments: Sequence[int], plan: BatchPlan, what: str) -> None:
        self.figures.violations.append(f"killed at {moments}, {plan}: {what}")


def main(arguments: Sequence[str]) -> int:
    """Kill until there were enough kills, print the figures, and say by the exit code whether all is well."""
    parser = argparse.ArgumentParser(prog="batch-crash", description=__doc__)
    parser.add_argument("kills", type=int, nargs="?", default=200, help="how many at least (default: 200)")
    parser.add_argument("--seed", type=int, default=None, help="repeat a harness run's choices")
    options = parser.parse_args(arguments)
    seed = random.randrange(10**6) if options.seed is None else options.seed
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        harness = BatchHarness(Path(directory), seed=seed)
        figures = harness.figures
        while len(figures.killed_at) < options.kills and len(figures.violations) < 20:
            # Of every sixth run the list shows no batch at all: it has to stop and say so.
            harness.crash(KILLS_A_RUN, is_listed=figures.runs % 6 != 5)
            print(f"{len(figures.killed_at)} kills, {len(figures.violations)} violations", flush=True)
    for violation in figures.violations:
        print(f"VIOLATION {violation}")
    print(
        f"seed {seed}: {len(figures.killed_at)} kills at {len(set(figures.killed_at))} of {harness.awaits} "
        f"awaits, {figures.runs} runs, "
        f"{figures.stops} stops that said so, {figures.paid_again} answers paid again after the user's word, "
        f"{len(figures.violations)} violations, {time.monotonic() - began:.0f} s"
    )
    return 1 if figures.violations else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
