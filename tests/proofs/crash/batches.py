"""Kill runs by batch with SIGKILL at their awaits, with a list that lags: is each answer paid for once?

`python -m tests.proofs.crash.batches 200` kills so often and prints what came of it. A session of a run is
killed at one of all awaits of the state machine, before or after it waited; the next session goes on and is
killed too, until one gets through. Where a session ends before its await comes, the next one is killed, at
one of as many awaits as that one had. Where a session stops and says that it cannot tell what became of a
batch, the user says that it shall be asked again: only what that batch asks may be paid for once more.
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
from typing import TypeAlias

import orjson

from tests.proofs.crash.forked import Prepared, Session
from tests.support.batches import is_look_at_list, lines_of, paid, respond
from tests.support.command import RESUME, Desk, Finished
from tests.support.endpoint import sample_of
from vlsb.simulator import BatchPlan, Request, SimulatorThread, error

SAMPLES = 4
KILLS_A_RUN = 3
NEVER = 10**9
# Three batches may be stopped at, twice each, and a session that is through.
_MOST_STOPS = 9
# As many runs end before their first kill only where nothing is ever killed.
_MOST_TRIES = 9
_AGAIN = re.compile(r"--batch-again (vlsb-[0-9a-f]{16})")
# When a session looks at the list. One that lags by L seconds shows a batch at the first look after these.
_LOOKS_AT_S = (0, 1, 3, 7, 15, 31, 61)

_Answer: TypeAlias = tuple[str | None, int]
"""A model and a sample."""


@dataclass
class Figures:
    """What was done and found.

    `looks` are those at lists, which lagged by `lags_s`; `stops` are sessions that said so, and `paid_again`
    answers that were paid for again by a user's word.
    """

    killed_at: list[int] = field(default_factory=list)
    lags_s: list[float] = field(default_factory=list)
    runs: int = 0
    sessions: int = 0
    looks: int = 0
    stops: int = 0
    paid_again: int = 0
    violations: list[str] = field(default_factory=list)


class BatchHarness:
    """Runs by batch that are killed, each in a directory of its own; `awaits` are those of one left alone.

    `prelude` changes the program.
    """

    def __init__(
        self,
        directory: Path,
        prepared: Prepared,
        *,
        seed: int,
        number: signal.Signals = signal.SIGKILL,
        prelude: str = "",
    ) -> None:
        self.figures = Figures()
        self._directory = directory
        self._prepared = prepared
        self._draw = random.Random(seed)
        self._signal = number
        self._prelude = prelude
        self._deck: list[int] = []
        self.awaits = self._carry_out(BatchPlan(polls=1), [])

    def crash(self, kills: int, *, is_listed: bool = True) -> None:
        """One run, killed so often at most, with a list that lags up to 30 s; or that never shows a batch."""
        lag_s = self._draw.uniform(0, 30)
        looks = sum(at_s < lag_s for at_s in _LOOKS_AT_S) if is_listed else NEVER
        creation = self._draw.choice((None, None, error(500)))
        plan = BatchPlan(polls=1, unlisted=looks, creation=creation, late=self._draw.choice((0, 2)))
        moments, before = [self._next_moment() for _ in range(kills)], len(self.figures.killed_at)
        if is_listed:
            self.figures.lags_s.append(lag_s)
        for _ in range(_MOST_TRIES):
            had = self._carry_out(plan, moments)
            if len(self.figures.killed_at) > before or self.figures.violations:
                break
            moments[0] = _within(moments[0], had)
        else:
            self._violated(moments, plan, "no session lived until its kill")
        self.figures.runs += 1

    def _next_moment(self) -> int:
        """Every await is drawn once before any is for the second time."""
        self._deck = self._deck or self._draw.sample(range(1, self.awaits + 1), self.awaits)
        return self._deck.pop()

    def _carry_out(self, plan: BatchPlan, moments: Sequence[int]) -> int:
        """A run, session after session, killed at these awaits; how many awaits the last one had."""
        home = self._directory / f"run-{self.figures.sessions}"
        home.mkdir()
        desk, left, had, more, again = Desk(home, SAMPLES), list(moments), 0, list[str](), Counter[str]()
        stops = 0
        with SimulatorThread(respond) as endpoint:
            # A creation that always fails and is never listed could not end otherwise.
            others = plan if plan.unlisted < NEVER else replace(plan, creation=None)
            endpoint.batches.plan = lambda number: plan if number == 1 else others
            for _ in range(len(moments) + _MOST_STOPS):
                at = left[0] if left else NEVER
                ended, had = self._session(desk, endpoint, at, more)
                more = []
                if self._is_killed(ended):
                    self.figures.killed_at.append(left.pop(0))
                    continue
                if left and had:
                    left[0] = _within(at, had)
                if ended.code == 0:
                    break
                if ended.code != 4 or not (found := _AGAIN.search(ended.err)):
                    self._violated(moments, plan, f"exit {ended.code}: {ended.err[-500:]}")
                    return had
                stops += 1
                if stops % 2 == 0:
                    # It was looked for once more before the user says that it is given up.
                    more = ["--batch-again", found[1]]
                    again[found[1]] += 1
            else:
                self._violated(moments, plan, f"never got through: {ended.err[-500:]}")
                return had
            self._judge(desk, endpoint, again, moments, plan)
        self.figures.stops += stops
        return had

    def _session(
        self, desk: Desk, endpoint: SimulatorThread, at: int, more: Sequence[str]
    ) -> tuple[Finished, int]:
        self.figures.sessions += 1
        words = desk.run_words(endpoint, "--batch", "--resume", *more)
        environment = dict(desk.vlsb.environment)
        return self._prepared.run(
            Session([*map(str, words)], str(desk.home), environment, at, self._signal.value, self._prelude)
        )

    def _judge(
        self,
        desk: Desk,
        endpoint: SimulatorThread,
        again: Counter[str],
        moments: Sequence[int],
        plan: BatchPlan,
    ) -> None:
        """Whoever makes a batch pays for what it asks, whether anybody looks at it or not."""
        self.figures.looks += sum(map(is_look_at_list, endpoint.history))
        asked = [_named_answer(line) for lines in endpoint.batches.submitted for line in lines]
        at_once = [each for each in endpoint.completions if each.number in endpoint.answered_at]
        times = Counter(answer for _, answer in asked)
        times.update((each.model, sample_of(each)) for each in at_once)
        answers, may_be_again = dict(asked), Counter[_Answer]()
        for name, requests in _requests(desk).items():
            for each in requests & answers.keys():
                may_be_again[answers[each]] += again[name]
        if twice := [each for each, count in times.items() if count > 1 + may_be_again[each]]:
            self._violated(moments, plan, f"{len(twice)} were paid for twice")
        if len(paid(endpoint)) != 2 * SAMPLES:
            self._violated(moments, plan, f"{len(paid(endpoint))} of {2 * SAMPLES} were answered")
        self.figures.paid_again += times.total() - len(times)

    def _is_killed(self, ended: Finished) -> bool:
        if self._signal is signal.SIGKILL:
            return ended.code == -signal.SIGKILL
        return ended.code == 130 and ended.last.startswith(RESUME) and "internal error" not in ended.err

    def _violated(self, moments: Sequence[int], plan: BatchPlan, what: str) -> None:
        self.figures.violations.append(f"killed at {moments}, {plan}: {what}")


def _within(moment: int, awaits: int) -> int:
    return (moment - 1) % max(1, awaits) + 1


def _named_answer(line: bytes) -> tuple[str, _Answer]:
    """The custom id of a batch's request, and what it asks for."""
    row = orjson.loads(line)
    request = Request(0, "POST", row["url"], {}, orjson.dumps(row["body"]), 0.0)
    return row["custom_id"], (request.model, sample_of(request))


def _requests(desk: Desk) -> dict[str, set[str]]:
    """The custom ids of each batch that the run has planned."""
    found: dict[str, set[str]] = {}
    for step in lines_of(desk.run_dir / "batches.jsonl"):
        found.setdefault(step["name"], set()).update(step.get("requests", ()))
    return found


def main(arguments: Sequence[str]) -> int:
    """Kill until there were enough kills, print the figures, and say by the exit code whether all is well."""
    parser = argparse.ArgumentParser(prog="batch-crash", description=__doc__)
    parser.add_argument("kills", type=int, nargs="?", default=200, help="how many at least (default: 200)")
    parser.add_argument("--seed", type=int, default=None, help="repeat a harness run's choices")
    options = parser.parse_args(arguments)
    seed = random.randrange(10**6) if options.seed is None else options.seed
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory, Prepared() as prepared:
        harness = BatchHarness(Path(directory), prepared, seed=seed)
        figures = harness.figures
        while len(figures.killed_at) < options.kills and len(figures.violations) < 20:
            # Of every sixth run the list shows no batch at all: it has to stop and say so.
            harness.crash(KILLS_A_RUN, is_listed=figures.runs % 6 != 5)
            print(f"{len(figures.killed_at)} kills, {len(figures.violations)} violations", flush=True)
    for violation in figures.violations:
        print(f"VIOLATION {violation}")
    print(
        f"seed {seed}: {len(figures.killed_at)} kills at {len(set(figures.killed_at))} of {harness.awaits} "
        f"awaits in {figures.runs} runs and {figures.sessions} sessions; lists that lagged "
        f"{min(figures.lags_s):.1f} to {max(figures.lags_s):.1f} s were looked at {figures.looks} times; "
        f"{figures.stops} stops that said so, {figures.paid_again} answers paid again after the user's word, "
        f"{len(figures.violations)} violations, {time.monotonic() - began:.0f} s"
    )
    return 1 if figures.violations else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
