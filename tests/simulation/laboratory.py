"""Where histories are carried out: one after the other in a process, and in several processes at once."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.simulation.history import History, set_environment, write_data
from tests.simulation.plans import Plan, draw_plan
from tests.simulation.pool import at_once
from tests.simulation.provider import HAS_SDK
from tests.simulation.world import quietly

A_PIECE = 50
# Where the first that fails is looked for, pieces that were begun are in vain.
A_SMALL_PIECE = 5
TELLS_EVERY = 1000
# Sets of words are walked through in the order of their hashes: each process has to have the same.
HASHES = {"PYTHONHASHSEED": "0"}


@dataclass(frozen=True)
class Outcome:
    """What came of a plan: its first problem, None without one; what was logged; a checksum of everything."""

    problem: str | None
    log: Sequence[str]
    digest: str
    virtual_s: float = 0.0


def fix_hashes(module: str) -> None:
    """Start a module again unless sets of words have one order in each process."""
    if os.environ.get("PYTHONHASHSEED") != HASHES["PYTHONHASHSEED"]:
        os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], os.environ | HASHES)


class Laboratory:
    """A directory in memory where histories are carried out, each from nothing."""

    def __init__(self, directory: Path) -> None:
        set_environment()
        self._directory = directory
        self._data = write_data(directory)
        # The first histories import what the program imports late, and fill its caches.
        plan = draw_plan(0)
        self.carry_out(0, plan)
        if HAS_SDK:
            self.carry_out(0, replace(plan, batches=()))
        gc.collect()
        gc.freeze()

    def carry_out(self, seed: int, plan: Plan) -> Outcome:
        """One history of a seed."""
        home = self._directory / "history"
        history = History(seed, plan, home, self._data)
        problem = None
        with quietly():
            try:
                history.carry_out()
            except Exception as error:  # noqa: BLE001 - whatever the program lets out is a finding
                problem = f"{type(error).__name__}: {error}"
        outcome = Outcome(problem, history.log, history.digest(), history.virtual_s)
        shutil.rmtree(home, ignore_errors=True)
        return outcome


def enter(directory: Path) -> Laboratory:
    """Make a laboratory in a process of its own."""
    # What a dead session says at the end of the process is as little news as before.
    sys.unraisablehook = lambda _: None
    return Laboratory(directory)


@dataclass
class Explored:
    """How many histories were carried out, in how many virtual seconds, and what failed by seed."""

    histories: int = 0
    virtual_s: float = 0.0
    problems: dict[int, str] = field(default_factory=dict)

    def add(self, piece: Explored) -> None:
        """Add what was done in a piece, and print what failed, and now and then how many there are."""
        before, self.histories = self.histories, self.histories + piece.histories
        self.virtual_s += piece.virtual_s
        self.problems |= piece.problems
        for seed, problem in piece.problems.items():
            print(f"seed {seed}: {problem}", flush=True)
        if self.histories // TELLS_EVERY > before // TELLS_EVERY:
            print(f"{self.histories:,} histories, {len(self.problems)} violations", file=sys.stderr)


def _try_seeds(laboratory: Laboratory, seeds: range) -> Explored:
    piece = Explored()
    for seed in seeds:
        outcome = laboratory.carry_out(seed, draw_plan(seed))
        piece.histories += 1
        piece.virtual_s += outcome.virtual_s
        if outcome.problem is not None:
            piece.problems[seed] = outcome.problem
    return piece


def explore(first: int, count: int | None, *, until: float, processes: int, stops: bool = False) -> Explored:
    """Carry out the histories of so many seeds, or as many as there is time for, in several processes.

    With `stops` none is begun once one has failed.
    """
    total, pieces = Explored(), _pieces(first, count, until, A_SMALL_PIECE if stops else A_PIECE)
    for piece in at_once(_try_seeds, pieces, processes, enter):
        total.add(piece)
        if stops and total.problems:
            break
    return total


def _pieces(first: int, count: int | None, until: float, size: int) -> Iterator[range]:
    end = first + count if count is not None else sys.maxsize
    for start in range(first, end, size):
        if time.monotonic() > until:
            return
        yield range(start, min(start + size, end))
