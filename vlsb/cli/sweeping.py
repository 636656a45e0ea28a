"""Carrying out `vlsb sweep`: its live table or a line for each change, its last page, and `--dry-run`."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from vlsb.analysis.summary import Summary
from vlsb.cli.estimate import amount
from vlsb.cli.live import Display, chosen_display
from vlsb.cli.screen import Screen, error_line, from_here
from vlsb.cli.views import Speed
from vlsb.config import GRACE_S
from vlsb.endpoints import loops
from vlsb.engines.hardware import list_gpus
from vlsb.errors import ConfigError, first_of
from vlsb.models.catalog import name_of_place, safe_name
from vlsb.records import PUBLISHED_IDS, Untrusted
from vlsb.reports.encode import for_terminal
from vlsb.reports.rates_table import render_rates
from vlsb.reports.report import Table, Words, counted, dollars, duration
from vlsb.reports.writers.terminal import tables_text
from vlsb.sweep.board import Board, BoardEntry, Status, Stop
from vlsb.sweep.cells import Cell, Counts, LineCounter, SweepWork, matrix
from vlsb.sweep.ended import FILE as ENDED_FILE
from vlsb.sweep.ended import EndedRuns
from vlsb.sweep.here import Slots
from vlsb.sweep.money import (
    ASSUMED,
    Budget,
    ExpectedCost,
    Outlook,
    SweepForecast,
    forecast_sweep,
    missing_bytes,
)
from vlsb.sweep.on_ray import Job, run_job
from vlsb.sweep.plan import load_plan
from vlsb.sweep.sizing import Sizing
from vlsb.sweep.start import Runner, SweepWishes, models_now, open_sweep, prepare, unsized

if TYPE_CHECKING:
    from rich.console import RenderableType

_REFRESH_S = 1.0
_STYLES = {
    Status.WAITING: "dim",
    Status.RUNNING: "bold",
    Status.DONE: "green",
    Status.FAILED: "bold red",
    Status.STOPPED: "yellow",
}
_WITH_GAPS = "yellow"


def sweep(wishes: SweepWishes, screen: Screen) -> int:
    """Run what is left of a plan and return the exit code: the first that a cell ended with, if not 0."""
    plan = load_plan(wishes.plan)
    if wishes.ray is not None and wishes.is_job:
        address, job = wishes.ray, Job.of(Path(plan.place), wishes.job_words())

        def show(line: str) -> None:
            screen.result(for_terminal(Untrusted(line), lines=True))

        async def run_there() -> int:
            # A signal leaves it there.
            stop = asyncio.Event()
            with loops.signals_in_loop(stop.set):
                return await run_job(address, job, stop, show=show, say=screen.notice)

        return loops.run(run_there())
    kind = chosen_display(wishes.display)

    def say_change(entry: BoardEntry) -> None:
        # What nobody began changes nothing by being done, or by not beginning.
        if entry.attempts or entry.lacks or entry.status in (Status.RUNNING, Status.FAILED):
            screen.notice(change_line(entry))

    on_change = None if kind == "rich" else say_change
    opened = open_sweep(plan, wishes, os.environ, on_change=on_change, say=screen.notice)
    board = opened.board
    loops.run(_watched(opened.runner, board, screen, kind, wishes))
    opened.require_models(plan)
    # With the same limit nothing would be left for it.
    command = wishes.command(times=2 if opened.budget.is_reached(board) else 1)
    code = show_end(board, screen, partial(screen.command, command), opened.budget)
    return code or (ConfigError.exit_code if opened.watch is not None and opened.watch.refused else 0)


async def _watched(runner: Runner, board: Board, screen: Screen, kind: str, wishes: SweepWishes) -> None:
    """Run a sweep while its table is shown; signals stop it as they stop a run."""
    stop, signals = Stop(), count(1)

    def stop_next() -> None:
        # Acts before it speaks: the terminal may be gone.
        number = next(signals)
        if number == 1:
            stop.asked.set()
            screen.notice(
                f"Stopping: what is in flight may finish for {GRACE_S:g} s and is stored. "
                "Press Ctrl-C again to drop it."
            )
        elif number == 2:
            stop.firmly.set()
            screen.notice(runner.hurry)
        else:
            loops.end_at_once(partial(screen.command, wishes.command()))

    with loops.signals_in_loop(stop_next):
        table = asyncio.create_task(_show(SweepView(board), screen)) if kind == "rich" else None
        try:
            await runner.run(stop)
        finally:
            if table is not None:
                table.cancel()
                with suppress(asyncio.CancelledError):
                    await table


async def _show(view: SweepView, screen: Screen) -> None:
    from rich.console import Console
    from rich.live import Live

    console, counter = Console(stderr=True), LineCounter()
    with Live(console=console, auto_refresh=False, transient=True) as live:
        screen.above_bar = lambda line: console.print(line, markup=False, highlight=False)
        try:
            while True:
                size = shutil.get_terminal_size((80, 24))
                for work in view.uncounted(size.lines):
                    if (counts := await asyncio.to_thread(counter.count, work)) is not None:
                        view.counts[work.name] = counts
                live.update(view.draw(time.monotonic(), width=size.columns, height=size.lines), refresh=True)
                await asyncio.sleep(_REFRESH_S)
        finally:
            screen.above_bar = None


@dataclass(slots=True)
class SweepView:
    """The live table: one row a work, with how far it is and when it will end.

    `counts` are refreshed by whoever reads the run directories, with what `uncounted` names.
    """

    board: Board
    counts: dict[str, Counts] = field(default_factory=dict)
    _counted_as: dict[str, Status] = field(default_factory=dict)
    _speeds: dict[str, Speed] = field(default_factory=dict)

    def draw(self, now: float, *, width: int, height: int) -> RenderableType:
        """Return the table, of at most this many lines: running works come before those that have ended."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table as RichTable
        from rich.text import Text

        grid = RichTable(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
        grid.add_column("cell", overflow="ellipsis", no_wrap=True, max_width=max(16, width - 60))
        for heading in ("state", "where", "done", "per min", "left"):
            grid.add_column(heading, justify="right", no_wrap=True)
        entries = self._visible(height)
        for entry in entries:
            counts, name = self.counts.get(entry.work.name), for_terminal(Untrusted(entry.work.name))
            done, speed, time_left = "", "", ""
            if counts is not None:
                done = f"{counts.done:,}/{counts.total:,}"
                if entry.status is Status.RUNNING:
                    rate = self._speeds.setdefault(entry.work.name, Speed()).per_minute(now, counts.done)
                    if rate:
                        speed, time_left = f"{rate:,.0f}", duration(60 * (counts.total - counts.done) / rate)
            row = (name, entry.state, entry.place, done, speed, time_left)
            style = _WITH_GAPS if entry.lacks else _STYLES[entry.status]
            grid.add_row(*(Text(each, style=style if n < 2 else "") for n, each in enumerate(row)))
        hidden = len(self.board.entries) - len(entries)
        grid.caption = count_words(self.board) + (f"; {hidden} more not shown" if hidden else "")
        grid.caption_justify = "left"
        return grid

    def uncounted(self, height: int) -> Iterator[SweepWork]:
        """Yield the works of a table of this many lines whose counts may be others than those that it has."""
        for entry in self._visible(height):
            if entry.status is Status.RUNNING or self._counted_as.get(entry.work.name) is not entry.status:
                self._counted_as[entry.work.name] = entry.status
                yield entry.work

    def _visible(self, height: int) -> list[BoardEntry]:
        # Heading, rule and caption take three lines; two are left for other lines.
        most = max(3, height - 5)
        order = {Status.RUNNING: 0, Status.FAILED: 1, Status.WAITING: 2, Status.STOPPED: 2, Status.DONE: 3}
        ranked = sorted(self.board.entries, key=lambda entry: order[entry.status])[:most]
        return [entry for entry in self.board.entries if entry in ranked]


def prepare_nodes(wishes: SweepWishes, screen: Screen) -> int:
    """Fetch all that the cells need, and return 2 where something could not be."""
    plan = load_plan(wishes.plan)
    cells = matrix(plan, Sizing(), models_now(plan, screen.notice))
    with Display(wishes.display, screen) as display:
        problems = loops.run(prepare(cells, os.environ, on_progress=display.on_progress, say=screen.notice))
    for problem in problems:
        screen.line(f"Error: {problem}")
    if not problems:
        screen.result("Everything is here. On the nodes: vlsb sweep PLAN --offline")
    return 2 if problems else 0


# The end is one page, however many cells a sweep has: all of it for every run is in the reports.
_MOST_ROWS, _MOST_LINES, _MOST_CAUSES, _MOST_NAMES = 25, 36, 8, 3
_UNKNOWN = "unknown"
# From a hundred dollars on, cents say nothing.
_NO_CENTS = 100.0
_HEADINGS = ("cell", "GPUs", "to download", "left", "requests", "cost", "time", "state")


# A work that changes.


def count_words(board: Board) -> str:
    """Say how many works stand where."""
    parts = [(board.count(status), status.value) for status in Status]
    parts.append((sum(bool(entry.lacks) for entry in board.entries), "with gaps"))
    return ", ".join(f"{count} {what}" for count, what in parts if count)


def change_line(entry: BoardEntry) -> str:
    """Say where a work stands whose status is another."""
    name, status = entry.work.name, entry.status
    took = ""
    if entry.began_at is not None and entry.ended_at is not None:
        took = f" after {duration(entry.ended_at - entry.began_at)}"
    if status is Status.RUNNING:
        again = f", attempt {entry.attempts}" if entry.attempts > 1 else ""
        return f"{name}: started{' on ' + entry.place if entry.place else ''}{again}"
    if status is Status.DONE:
        lacks = f"; {entry.lacks}" if entry.lacks else ""
        return f"{name}: done{took if entry.attempts else ' before'}{lacks}"
    if status is Status.FAILED:
        where = f" See {entry.log}" if entry.log is not None else ""
        return f"{name}: failed{took} ({failure(entry)}).{where}"
    if status is Status.WAITING and entry.spared:
        return f"{name}: {entry.why}; it goes on with what others leave"
    if status is Status.WAITING and entry.attempts:
        return f"{name}: {entry.why or f'ended with exit code {entry.code}'}; it is started again"
    if status is Status.STOPPED and entry.error is not None:
        return f"{name}: stopped ({error_line(entry.error)})"
    return f"{name}: {status.value}"


def failure(entry: BoardEntry) -> str:
    """Say why a work failed: in its own words, or with the last error in the log of its command."""
    if entry.error is not None:
        return error_line(entry.error).rstrip(".")
    if entry.why:
        return entry.why
    last_error = entry.last_error()
    return f"exit code {entry.code}: {last_error}" if last_error else f"exit code {entry.code}"


# The end.


def show_end(board: Board, screen: Screen, again: Callable[[], None], budget: Budget) -> int:
    """Say what became of a sweep and how to go on with it; returns its exit code."""
    entries = board.entries
    outputs = from_here(entries[0].work.runs[0].parent) if entries else ""
    report = shlex.join(["vlsb", "report", outputs])
    if entries and all(entry.status is Status.DONE and not entry.attempts for entry in entries):
        screen.notice(f"All {len(entries)} were done before. See the rates with: {report}")
    elif entries:
        summaries, runs = board.summaries(_MOST_ROWS)
        if summaries:
            screen.result(_rates(summaries, runs, outputs, screen))
        screen.notice(f"{count_words(board)}.{f' See everything with: {report}' if summaries else ''}")
    causes = board.causes(failure)
    for group in causes[:_MOST_CAUSES]:
        line, others = change_line(group[0]), [entry.work.name for entry in group[1:]]
        if group[0].lacks:
            line += "."
            if group[0].work.is_cell:
                why = shlex.join(["vlsb", "show", from_here(group[0].work.runs[0]), "--failed"])
                line += f" They have ended, and are not asked for again. See why with: {why}"
        screen.line(f"{line.rstrip('.')}. Likewise: {first_of(others, _MOST_NAMES)}" if others else line)
    if rest := causes[_MOST_CAUSES:]:
        screen.line(f"{sum(map(len, rest)):,} more, for {counted(len(rest), 'other cause')}.")
    if budget.most_usd is not None:
        spent = f"{dollars(budget.spent_usd)} of {dollars(budget.most_usd)}"
        if budget.is_reached(board):
            screen.line(
                f"Error: --max-cost is reached: the runs of this plan have cost {spent}. Everything finished "
                "is stored. With more to spend the sweep goes on; --dry-run says what is left."
            )
        else:
            screen.notice(f"--max-cost: the runs of this plan have cost {spent}.")
    if any(entry.status is not Status.DONE for entry in entries):
        again()
    return board.exit_code()


def _rates(summaries: Sequence[Summary], runs: int, outputs: str, screen: Screen) -> str:
    """Return the table, with as many runs as a page has room for."""
    width, color = screen.width, screen.has_color
    paths = list(dict.fromkeys(each.path for each in summaries))
    while True:
        text = render_rates([each for each in summaries if each.path in paths], width=width, color=color)
        if text.count("\n") <= _MOST_LINES or len(paths) == 1:
            break
        paths = paths[: min(len(paths) - 1, len(paths) * _MOST_LINES // text.count("\n") or 1)]
    if (more := runs - len(paths)) > 0:
        command = shlex.join(["vlsb", "report", outputs, "--leaderboard"])
        text += f"\n{counted(more, 'more run')}: {command}\n"
    return text


# What is ahead.


def show_plan(wishes: SweepWishes, screen: Screen) -> int:
    """Show the plan as it stands; nothing is started, and only the Hub is asked."""
    plan = load_plan(wishes.plan)
    gpus = list_gpus(os.environ).gpus
    sizing = wishes.sizing(plan, None if wishes.is_elsewhere else Slots(gpus))
    cells_and_judges = matrix(plan, sizing, models_now(plan, screen.notice))
    board = Board(EndedRuns(plan.output_dir / ENDED_FILE, os.environ))
    board.add(cells_and_judges.works)
    ahead = forecast_sweep(board, cells_and_judges, datetime.now(UTC).date())
    cells = {cell.work.name: cell for cell in cells_and_judges.cells}
    rows = [
        _row(entry, cells.get(entry.work.name), ahead.outlooks[entry.work.name], wishes)
        for entry in board.entries
    ]
    columns = [
        place
        for place, heading in enumerate(_HEADINGS)
        # Where no time is known, a note says so once.
        if heading in ("cell", "left", "state")
        or {row[place] for row in rows} - {"", _UNKNOWN if heading == "time" else ""}
    ]
    judges = cells_and_judges.judging
    notes = [
        f"{counted(len(cells), 'cell')}"
        + (f", {counted(len(judges), 'judge')} after them" if judges else "")
        + f"; {board.count(Status.DONE)} done. {counted(len(gpus), 'GPU') if gpus else 'No GPU'} here.",
        *(
            f"{entry.work.name}: {failure(entry)}."
            for entry in board.entries
            if entry.status is Status.FAILED
        ),
        *_forecast_notes(ahead),
        *_limit_notes(board, ahead.money, wishes.max_cost),
        *unsized(sizing),
        *(f"Not in the plan: {name} ({why})." for name, why in plan.left_out.items()),
    ]
    table = Table(
        for_terminal(Untrusted(str(plan.output_dir))),
        [_HEADINGS[place] for place in columns],
        [[row[place] for place in columns] for row in rows],
        notes=[for_terminal(Untrusted(note)) for note in notes],
    )
    screen.result(tables_text([table], width=screen.width, color=screen.has_color))
    return 0


def _row(entry: BoardEntry, cell: Cell | None, ahead: Outlook, wishes: SweepWishes) -> list[Words]:
    work = entry.work
    name = work.name
    if cell is not None and safe_name(name_of_place(cell.model)) not in name:
        name = f"{name} ({cell.model})"
    missing = missing_bytes(work, is_offline=wishes.offline) if work.weights else None
    download = _UNKNOWN if missing is None else f"{missing / 1e9:.1f} GB" if missing else "here"
    money = ahead.money
    usd = f"${money.usd:,.0f}" if money.usd >= _NO_CENTS else dollars(money.usd)
    cost = f"~{usd}" if money.assumed else usd if money.measured else ""
    return [
        Untrusted(name),
        "" if work.num_gpus is None else str(work.num_gpus),
        download if work.weights else "",
        f"{ahead.left:,}",
        f"{ahead.requests:,}" if ahead.requests else "",
        _UNKNOWN if money.unknown else cost,
        _time(ahead.seconds) if entry.status is Status.WAITING else "",
        entry.state,
    ]


def _time(seconds: float | None) -> str:
    if seconds is None:
        return _UNKNOWN
    minutes = max(1, round(seconds / 60)) if seconds else 0
    return f"{minutes // 60}:{minutes % 60:02d} h"


def _forecast_notes(ahead: SweepForecast) -> Iterator[str]:
    """Say the totals, and what they rest on."""
    if not ahead.waiting:
        return
    if ahead.is_guess:
        yield f"The data set is not here: cells are sized by the {len(PUBLISHED_IDS):,} published samples."
    requests = f", {counted(ahead.requests, 'request')} to hosted models" if ahead.requests else ""
    yield f"Left: {counted(ahead.responses, 'response')}{requests}."
    money, parts = ahead.money, []
    if money.forecast is not None:
        parts.append(f"about {amount(money.forecast)} by what was answered so far")
    if money.assumed:
        tokens = f"{ASSUMED.input_tokens:,} tokens in and {ASSUMED.output_tokens} out"
        parts.append(f"~{dollars(money.assumed)} where nothing was answered yet, if a request takes {tokens}")
    if money.unknown:
        parts.append(f"unknown for {counted(money.unknown, 'model')} of these cells (price or tokens)")
    if parts:
        yield f"Cost: {'; '.join(parts)}."
    for as_of, source in dict.fromkeys((price.as_of, price.source) for price in money.prices):
        yield f"Prices of {as_of}, from {source}."
    times, lacking = ahead.seconds, len(ahead.waiting) - len(ahead.seconds)
    if times:
        on_gpus = sum(seconds * (work.num_gpus or 0) for seconds, work in times) / 3600
        gpu_hours = f", {on_gpus:,.1f} GPU-hours" if on_gpus else ""
        rest = f"; unknown for {lacking}" if lacking else ""
        in_a_row = f"{_time(sum(seconds for seconds, _ in times))} one after the other{gpu_hours}"
        yield f"Time: about {in_a_row}, by what was answered so far{rest}."
    if lacking:
        yield "Times are unknown until some samples are answered: sweep with `limit: 20` first; they count."


def _limit_notes(board: Board, money: ExpectedCost, most_usd: float | None) -> Iterator[str]:
    """Say what is left of the limit, and whether what is to come fits in."""
    if most_usd is None:
        return
    budget = Budget(most_usd, board.ended)
    budget.look(entry.work for entry in board.entries)
    usd, left_usd = money.usd, max(0.0, budget.free_usd)
    standing = (
        f"--max-cost {dollars(most_usd)}: {dollars(budget.spent_usd)} is spent, {dollars(left_usd)} is left"
    )
    if not usd:
        yield f"{standing}."
    elif usd > left_usd:
        yield f"{standing}. The sweep will stop there: what is to come is about {dollars(usd)}."
    else:
        some = ", without what is unknown" if money.unknown else ""
        yield f"{standing}, which is enough for about {dollars(usd)} to come{some}."
