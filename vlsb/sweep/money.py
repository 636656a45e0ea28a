"""One limit of money over a sweep: its cells, their judges and all its starts.

What the runs of a plan have cost is spent, whoever spent it and when. Of what is left, each command is given
a share when it is started, as its own `--max-cost`, and what it does not use is there for others when it
ends. Nothing is given twice, so that all together never cost more than the limit and what is in flight in
the commands that run side by side when it is spent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from vlsb.config import SIMULATED_URL
from vlsb.errors import ConfigError, GapsError, LimitReachedError, VlsbError
from vlsb.models.prices import PriceTable, load_prices
from vlsb.store.costs import costs_of_run
from vlsb.store.manifest import is_run
from vlsb.store.state import load_state
from vlsb.sweep.board import Board, BoardEntry, Status
from vlsb.sweep.cells import SweepWork
from vlsb.sweep.ended import EndedRuns

# Less than the cheapest request with an image costs.
_LEAST_USD = 1e-4
# Shares are whole millionths of a dollar: as words of a command they are exact.
_SHARES_TO_A_DOLLAR = 1e6
# Of sums of the same requests in another order.
_NEARLY = 1 - 1e-9


@dataclass(slots=True)
class Budget:
    """What a sweep may cost in US dollars, what its runs have cost, and the shares of commands that run.

    `ended` remembers what runs have cost that are as they were.
    Without a limit it gives no shares and reads no runs. `_short` has what was left of a share that was not
    enough for one more request.
    """

    most_usd: float | None = None
    ended: EndedRuns = field(default_factory=EndedRuns)
    _spent: dict[Path, float] = field(default_factory=dict)
    _shares: dict[BoardEntry, float] = field(default_factory=dict)
    _short: dict[BoardEntry, float] = field(default_factory=dict)

    @property
    def spent_usd(self) -> float:
        """What the runs have cost, without what running commands have spent by now."""
        return math.fsum(self._spent.values())

    @property
    def free_usd(self) -> float:
        """What is neither spent nor part of a share."""
        if self.most_usd is None:
            return math.inf
        return self.most_usd - self.spent_usd - math.fsum(self._shares.values())

    def look(self, works: Iterable[SweepWork]) -> None:
        """Count what the runs of cells have cost that were not looked at yet. Blocking.

        Raises StoreError for a damaged run, and ConfigError where nobody knows what one has cost.
        """
        for work in () if self.most_usd is None else works:
            for run in work.runs if work.is_cell else ():
                if run not in self._spent:
                    self._spent[run] = self._cost(run, work)[0] if is_run(run) else 0.0

    def to_start(
        self, board: Board, take: Callable[[BoardEntry], bool], *, places: int = 1
    ) -> list[tuple[BoardEntry, float | None]]:
        """Choose the works that are started now, each with its share; None for one that costs nothing.

        `take` is asked whether there is room for a work. The shares are even, and leave some over where fewer
        begin than there are `places`. While others run, nobody begins with less than an even share of all
        that is left for all that is to do: a command that is soon stopped again may start an engine in vain.
        """
        if self.most_usd is None:
            return [(entry, None) for entry in list(board.waiting()) if take(entry)]
        self._hold_back(board)
        chosen: list[BoardEntry] = []
        charged: list[BoardEntry] = []
        most = self._most_to_start(board)
        for entry in list(board.waiting()):
            costs = may_cost(entry.work)
            if costs and (len(charged) >= most or not self._may_join(entry, charged)):
                continue
            if take(entry):
                chosen.append(entry)
                charged += [entry] if costs else []
        is_short = not self._short.keys().isdisjoint(charged)
        parts = 1 if is_short else max(len(charged), places, 1)
        share = math.floor(self.free_usd / parts * _SHARES_TO_A_DOLLAR)
        self._shares |= dict.fromkeys(charged, share / _SHARES_TO_A_DOLLAR)
        return [(entry, self._shares.get(entry)) for entry in chosen]

    def give_back(self, entry: BoardEntry) -> None:
        """Take the share back of a work whose command was not started."""
        self._shares.pop(entry, None)

    def end(self, entry: BoardEntry, code: int) -> bool:
        """Count what a command has cost that has ended, and say whether its share stopped it. Blocking."""
        share = self._shares.pop(entry, None)
        if share is None:
            return False
        self._short.pop(entry, None)
        before, reasons = self.spent_usd, set[str]()
        for run in filter(is_run, entry.work.runs):
            try:
                self._spent[run], reason = self._cost(run, entry.work)
                reasons.add(reason)
            except VlsbError:
                # What cannot be read has cost all that it might.
                self._spent[run] = self._spent.get(run, 0.0) + share
        used = self.spent_usd - before
        is_whole = used >= share * _NEARLY
        if code != GapsError.exit_code or not (is_whole or LimitReachedError.__name__ in reasons):
            return False
        if not is_whole:
            self._short[entry] = share - used
        return True

    def _cost(self, run: Path, work: SweepWork) -> tuple[float, str]:
        """Return what a run has cost, and why its last session ended if it was read anew."""
        reason = ""

        def read() -> float:
            nonlocal reason
            usd, reason = _read(run, load_prices(work.options.prices))
            return usd

        return self.ended.cost(run, work.options, read), reason

    def is_reached(self, board: Board) -> bool:
        """Say whether the limit stopped a work."""
        return any(isinstance(each.error, LimitReachedError) for each in board.entries)

    def _most_to_start(self, board: Board) -> float:
        """Count the works that may begin now and cost something, with an even share each where others run."""
        if self.free_usd <= _LEAST_USD:
            return 0
        if not self._shares:
            return math.inf
        ahead = (Status.WAITING, Status.RUNNING)
        works = sum(each.status in ahead and may_cost(each.work) for each in board.entries)
        left_usd = self.free_usd + math.fsum(self._shares.values())
        return math.floor(self.free_usd * works / left_usd / _NEARLY)

    def _may_join(self, entry: BoardEntry, charged: list[BoardEntry]) -> bool:
        """Say whether it may be started beside these: what fell short gets all that is left, or nothing."""
        if entry in self._short:
            return not charged and not self._shares
        return self._short.keys().isdisjoint(charged)

    def _hold_back(self, board: Board) -> None:
        """Stop whatever waits for money that will not come, and then the judges that waited for it."""
        error = LimitReachedError("--max-cost is reached")

        def is_too_little(entry: BoardEntry) -> bool:
            least = max(_LEAST_USD, self._short.get(entry, 0.0) / _NEARLY)
            return may_cost(entry.work) and self.free_usd <= least

        while not self._shares and (left_out := list(filter(is_too_little, board.waiting()))):
            for entry in left_out:
                board.hold(entry, error)


def may_cost(work: SweepWork) -> bool:
    """Say whether somebody may charge for it: engines of ours and simulated models are free."""
    return any(account.base_url != SIMULATED_URL for account in work.accounts)


def _read(run: Path, prices: PriceTable) -> tuple[float, str]:
    """Read what a run has cost, with what its sessions estimated, and why the last of them ended."""
    state = load_state(run)
    costs = costs_of_run(state, prices)
    for cost in costs:
        if cost.usd is None:
            raise ConfigError(
                f"--max-cost: nobody knows what {run} has cost, as a model of it has no price",
                detail=cost.model,
                advice="Give it one with `prices: FILE` in the plan.",
            )
    counted_usd = math.fsum(cost.usd or 0.0 for cost in costs)
    return counted_usd + state.sessions.estimated_usd, state.sessions.reason
