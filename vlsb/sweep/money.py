"""The money of a sweep: one limit over its cells, their judges and all its starts, and what is still to come.

What the runs of a plan have cost is spent, whoever spent it and when. Of what is left, each command is given
a share when it is started, as its own `--max-cost`, and what it does not use is there for others when it
ends. Nothing is given twice, so that all together never cost more than the limit and what is in flight in
the commands that run side by side when it is spent.

`--dry-run` looks ahead by what was answered so far. Where nothing was, a cost is what it would be if requests
took `ASSUMED`, and is marked; a time stays unknown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import NamedTuple, TypeVar

from vlsb.analysis.correction import TotalForecast
from vlsb.config import SIMULATED_URL, ModelSettings
from vlsb.data import Positions, fetch_dataset, load_named, mini_root, named_root, parse_limit, select
from vlsb.data.samples import ROWS_FILE, load_rows
from vlsb.engines.checkpoint import open_weights
from vlsb.errors import ConfigError, GapsError, LimitReachedError, VlsbError
from vlsb.evaluation.named_models import NamedTarget, resolve_judges
from vlsb.evaluation.options import RunOptions
from vlsb.evaluation.settings import selection_of
from vlsb.models.prices import Price, PriceTable, load_prices, may_charge
from vlsb.records import PUBLISHED_IDS, VLSBENCH, Sample, Usage
from vlsb.store.costs import costs_of_run, decided_tokens, measure_answers, rest_cost, summed
from vlsb.store.manifest import entries_named, is_run
from vlsb.store.state import RunState, load_state
from vlsb.sweep.board import Board, BoardEntry, Status
from vlsb.sweep.cells import Cell, Matrix, SweepWork
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
        error = LimitReachedError("--max-cost is reached")

        def is_too_little(entry: BoardEntry) -> bool:
            least = max(_LEAST_USD, self._short.get(entry, 0.0) / _NEARLY)
            return may_cost(entry.work) and self.free_usd <= least

        # Whatever waits for money that will not come is stopped, and then the judges that waited for it.
        while not self._shares and (left_out := list(filter(is_too_little, board.waiting()))):
            for entry in left_out:
                board.hold(entry, error)
        chosen: list[BoardEntry] = []
        charged: list[BoardEntry] = []
        # How many may begin now that cost something, with an even share each where others run.
        most = math.inf
        if self.free_usd <= _LEAST_USD:
            most = 0
        elif self._shares:
            ahead = (Status.WAITING, Status.RUNNING)
            works = sum(each.status in ahead and may_cost(each.work) for each in board.entries)
            left_usd = self.free_usd + math.fsum(self._shares.values())
            most = math.floor(self.free_usd * works / left_usd / _NEARLY)
        for entry in list(board.waiting()):
            costs = may_cost(entry.work)
            # What fell short gets all that is left, or nothing.
            may_join = self._short.keys().isdisjoint(charged)
            if entry in self._short:
                may_join = not charged and not self._shares
            if costs and (len(charged) >= most or not may_join):
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
        """Return what a run has cost, and why its last session ended if it was read just now."""
        reason = ""

        def read() -> float:
            nonlocal reason
            state = load_state(run)
            costs = costs_of_run(state, load_prices(work.options.prices))
            for cost in costs:
                if cost.usd is None:
                    raise ConfigError(
                        f"--max-cost: nobody knows what {run} has cost, as a model of it has no price",
                        detail=cost.model,
                        advice="Give it one with `prices: FILE` in the plan.",
                    )
            reason = state.sessions.reason
            return math.fsum(cost.usd or 0.0 for cost in costs) + state.sessions.estimated_usd

        return self.ended.cost(run, work.options, read), reason

    def is_reached(self, board: Board) -> bool:
        """Say whether the limit stopped a work."""
        return any(isinstance(each.error, LimitReachedError) for each in board.entries)


def may_cost(work: SweepWork) -> bool:
    """Say whether somebody may charge for it: engines of ours and simulated models are free."""
    return any(account.base_url != SIMULATED_URL for account in work.accounts)


ASSUMED = Usage(1200, 128)
"""Tokens of a request, of which most are the image's: providers count between 250 and 1,500 for one."""
_Part = TypeVar("_Part")


class ExpectedCost(NamedTuple):
    """US dollars of requests to come: by what others took, and if they take what is assumed.

    `unknown` counts the models whose price or tokens nobody knows; `prices` are those that were used.
    """

    measured: tuple[TotalForecast, ...] = ()
    assumed: float = 0.0
    unknown: int = 0
    prices: tuple[Price, ...] = ()

    @classmethod
    def together(cls, parts: Iterable[ExpectedCost]) -> ExpectedCost:
        """Add costs up."""
        costs = list(parts)
        return cls(
            tuple(each for money in costs for each in money.measured),
            sum(money.assumed for money in costs),
            sum(money.unknown for money in costs),
            tuple(dict.fromkeys(each for money in costs for each in money.prices)),
        )

    @property
    def forecast(self) -> TotalForecast | None:
        """The measured part in all; None where there is none."""
        return summed(self.measured) if self.measured else None

    @property
    def usd(self) -> float:
        """The measured and the assumed part together."""
        return self.assumed + (self.forecast.total if self.forecast else 0.0)


class Outlook(NamedTuple):
    """What is left of a work: responses or, for a judge, labels; requests to others; their cost; the time.

    `seconds` is None where nobody knows.
    """

    left: int = 0
    requests: int = 0
    money: ExpectedCost = ExpectedCost()
    seconds: float | None = 0.0


class SweepForecast(NamedTuple):
    """The outlook of every work by its name, and those works that wait.

    `is_guess` says that the data set is not here: cells have the size of the published one.
    """

    outlooks: Mapping[str, Outlook]
    waiting: Sequence[SweepWork]
    is_guess: bool

    @property
    def money(self) -> ExpectedCost:
        """What all of it costs."""
        return ExpectedCost.together(each.money for each in self.outlooks.values())

    @property
    def requests(self) -> int:
        """Requests to hosted models."""
        return sum(each.requests for each in self.outlooks.values())

    @property
    def responses(self) -> int:
        """Responses that cells still ask for."""
        return sum(self.outlooks[work.name].left for work in self.waiting if work.is_cell)

    @property
    def seconds(self) -> list[tuple[float, SweepWork]]:
        """How long each work takes, of those of which it is known."""
        times = ((self.outlooks[work.name].seconds, work) for work in self.waiting)
        return [(seconds, work) for seconds, work in times if seconds is not None]


def forecast_sweep(board: Board, cells: Matrix, today: date) -> SweepForecast:
    """Look ahead at all works of a board that wait. Blocking; raises ConfigError for a wrong selection."""
    ahead = _Lookout(cells, today)
    outlooks = {
        entry.work.name: ahead.of(entry.work) if entry.status is Status.WAITING else Outlook()
        for entry in board.entries
    }
    waiting = [entry.work for entry in board.entries if entry.status is Status.WAITING]
    return SweepForecast(outlooks, waiting, ahead.is_guess)


class _Taken(NamedTuple):
    """What requests took, and the most tokens that one may answer with; None where nobody looked."""

    usages: list[Usage]
    most_tokens: int | None


class _Left(NamedTuple):
    """Responses of a cell that are to come, and labels by the judges' titles."""

    responses: int
    labels: Mapping[str, int]


@dataclass(slots=True)
class _Lookout:
    """The outlook of each work of a matrix. `is_guess`: sizes are those of the published data set."""

    matrix: Matrix
    today: date
    is_guess: bool = False
    _states: dict[Path, RunState | None] = field(default_factory=dict)
    _rows: dict[tuple[str, Path | None], tuple[Sample, ...] | None] = field(default_factory=dict)
    _tables: dict[Path | None, PriceTable] = field(default_factory=dict)

    def of(self, work: SweepWork) -> Outlook:
        """Look at what is left of a work. Blocking; raises ConfigError for a wrong selection."""
        cell = next((each for each in self.matrix.cells if each.work is work), None)
        return self._of_judges(work) if cell is None else self._of_cell(cell)

    def _of_cell(self, cell: Cell) -> Outlook:
        work, rest = cell.work, self._left(cell, cell.work.judges)
        target = None if work.num_gpus is not None else NamedTarget.of(work.options).hosted(work.options)
        judges = {} if work.options.no_judge else resolve_judges(work.options).hosted
        alike = [
            each for each in self.matrix.cells if (each.entry, each.protocol) == (cell.entry, cell.protocol)
        ]
        money, requests = [], 0
        if target is not None:
            same = [each for each in alike if each.model == cell.model]
            money.append(self._money(work.options, target, rest.responses, self._taken(cell, same, None)))
            requests += rest.responses
        for title, settings in judges.items():
            if settings is not None:
                taken = self._taken(cell, self.matrix.cells, title)
                money.append(self._money(work.options, settings, rest.labels[title], taken))
                requests += rest.labels[title]
        seconds = _first(self._seconds(each, rest) for each in (cell, *alike))
        return Outlook(rest.responses, requests, ExpectedCost.together(money), seconds)

    def _of_judges(self, work: SweepWork) -> Outlook:
        labels = dict.fromkeys(work.judges, 0)
        for cell in self.matrix.cells:
            of_cell = self._left(cell, work.judges)
            for title in work.judges:
                labels[title] += of_cell.labels[title]
        money, requests, seconds = [], 0, list[float | None]()
        for title, settings in resolve_judges(work.options).hosted.items():
            if settings is not None:
                taken = _first(self._taken_by(cell, title) for cell in self.matrix.cells)
                money.append(self._money(work.options, settings, labels[title], taken))
                requests += labels[title]
            # The first run with labels of this judge says how long one takes.
            a_label = None
            for state in (self._state(cell.directory) for cell in self.matrix.cells):
                file = None if state is None else _file(state, title)
                if state is None or file is None or a_label is not None:
                    continue
                elapsed = state.sessions.elapsed_s.items()
                in_all_s = sum(s for number, s in elapsed if state.sessions.judge.get(number) == file)
                if in_all_s and (count := len(state.rows(file).answers)):
                    a_label = in_all_s / count
            seconds.append(None if a_label is None else a_label * labels[title])
        times = [each for each in seconds if each is not None]
        in_all = sum(times) if len(times) == len(seconds) else None
        return Outlook(sum(labels.values()), requests, ExpectedCost.together(money), in_all)

    # What is left.

    def _left(self, cell: Cell, titles: Sequence[str]) -> _Left:
        options, state = cell.work.options, self._state(cell.directory)
        if state is None:
            responses = self._samples(options) * options.epochs
            return _Left(responses, dict.fromkeys(titles, responses))
        keys = list(state.asked_for())
        is_same = state.manifest.selection == selection_of(options).describe()
        samples = len(state.manifest.samples) if is_same else self._samples(options)
        ended = sum(not state.is_left(key, None) for key in keys)
        responses = max(0, samples * options.epochs - ended)
        labels = {}
        for title in titles:
            file = _file(state, title)
            labels[title] = responses + sum(
                file is None or state.is_left(key, file) for key in state.responses
            )
        return _Left(responses, labels)

    def _samples(self, options: RunOptions) -> int:
        """Count the samples of a cell: in the data set where its rows are here, else in the published one."""
        selection = selection_of(options)
        is_demo = (options.model, options.base_url, options.data_root) == ("demo", (), None)
        root = mini_root() if is_demo else options.data_root or named_root(options.dataset)
        place = options.dataset, root
        if place not in self._rows:
            self._rows[place] = None
            # A cell says what is wrong with its data set, or downloads it.
            with suppress(VlsbError):
                if options.dataset != VLSBENCH and root is not None:
                    self._rows[place] = load_named(options.dataset, root).samples
                elif root is None:
                    self._rows[place] = load_rows(fetch_dataset(revision=None, offline=True).files.rows)
                else:
                    self._rows[place] = load_rows(root / ROWS_FILE)
        if (rows := self._rows[place]) is not None:
            return len(select(rows, selection))
        self.is_guess = True
        count = len(selection.sample_ids) or len(PUBLISHED_IDS)
        limit = None if selection.limit is None else parse_limit(selection.limit)
        if isinstance(limit, Positions):
            return max(0, min(limit.last, count) - limit.first + 1)
        return count if limit is None else math.ceil(limit.value * count)

    def _state(self, run: Path) -> RunState | None:
        if run not in self._states:
            try:
                self._states[run] = load_state(run) if is_run(run) else None
            except VlsbError:
                # Its cell says so.
                self._states[run] = None
        return self._states[run]

    # What it takes.

    def _taken(self, cell: Cell, others: Sequence[Cell], title: str | None) -> _Taken | None:
        """Return what requests took in the cell's own run, or else in another one."""
        return _first(self._taken_by(each, title) for each in (cell, *others))

    def _taken_by(self, cell: Cell, title: str | None) -> _Taken | None:
        if (state := self._state(cell.directory)) is None:
            return None
        file = None if title is None else _file(state, title)
        # A judge that the run does not have is not the target, whose file is None.
        answers = [] if file is None and title is not None else measure_answers(state, file)
        return _Taken([usage for usage, _ in answers], decided_tokens(state, file)) if answers else None

    def _money(
        self, options: RunOptions, settings: ModelSettings, left: int, taken: _Taken | None
    ) -> ExpectedCost:
        if not left or not may_charge(settings.endpoint):
            return ExpectedCost()
        if options.prices not in self._tables:
            self._tables[options.prices] = load_prices(options.prices)
        price = self._tables[options.prices].find(settings.endpoint, self.today)
        if price is None:
            return ExpectedCost(unknown=1)
        if taken is not None:
            most_tokens = taken.most_tokens or settings.sampling.max_tokens
            cost = rest_cost(price, taken.usages, left, most_tokens=most_tokens)[options.batch]
            return ExpectedCost(unknown=1) if cost is None else ExpectedCost((cost,), prices=(price,))
        if settings.thinks:
            # How long it thinks nobody can assume.
            return ExpectedCost(unknown=1)
        usage = replace(ASSUMED, output_tokens=min(settings.sampling.max_tokens, ASSUMED.output_tokens or 0))
        usd = price.batch_usd(usage) if options.batch else price.usd(usage)
        return ExpectedCost(unknown=1) if usd is None else ExpectedCost(assumed=usd * left, prices=(price,))

    def _seconds(self, cell: Cell, rest: _Left) -> float | None:
        """Tell how long so much would take at the pace of that cell's run; None where that has none."""
        state = self._state(cell.directory)
        if state is None or not state.responses:
            return None
        elapsed_s = state.sessions.duration_s(None)
        parts = [(rest.responses, len(state.responses))]
        for title, count in rest.labels.items():
            parts.append((count, len(state.rows(_file(state, title)).answers)))
        if any(count and not done for count, done in parts):
            return None
        return max(elapsed_s * count / max(1, done) for count, done in parts)


def _first(parts: Iterable[_Part | None]) -> _Part | None:
    return next((each for each in parts if each is not None), None)


def missing_bytes(work: SweepWork, *, is_offline: bool) -> int | None:
    """Return what of a work's weights is not here yet; None where nobody says. The Hub is asked for sizes."""
    missing = 0
    for model in work.weights:
        try:
            weights = open_weights(model.weights, revision=model.revision, offline=is_offline)
        except VlsbError:
            return None
        missing += weights.missing_bytes
    return missing


def _file(state: RunState, title: str) -> str | None:
    """Return the file of a judge in a run by its title; the last, if there are several."""
    return next((each.file for each in reversed(entries_named(state.manifest, title))), None)
