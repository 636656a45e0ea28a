"""Carrying out `vlsb sweep`, with a live table on a terminal, or a line for each change without one."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from vlsb.cli.live import Display, chosen_display
from vlsb.cli.panel import Speed
from vlsb.cli.screen import Screen
from vlsb.cli.sweep_text import change_line, count_words, show_end
from vlsb.config import GRACE_S
from vlsb.endpoints import loops
from vlsb.errors import ConfigError
from vlsb.records import Untrusted
from vlsb.reports.encode import for_terminal
from vlsb.reports.report import duration
from vlsb.sweep.board import Board, BoardEntry, Status, Stop
from vlsb.sweep.cells import Counts, LineCounter, SweepWork, matrix
from vlsb.sweep.on_ray import Job, run_job
from vlsb.sweep.plan import load_plan
from vlsb.sweep.sizing import Sizing
from vlsb.sweep.start import Runner, SweepWishes, models_now, open_sweep, prepare

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
        """Return the table, of at most so many lines: running works come before those that have ended."""
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
        """Yield the works of a table of so many lines whose counts may be others than those that it has."""
        for entry in self._visible(height):
            if entry.status is Status.RUNNING or self._counted_as.get(entry.work.name) is not entry.status:
                self._counted_as[entry.work.name] = entry.status
                yield entry.work

    def _visible(self, height: int) -> list[BoardEntry]:
        # Heading, rule and caption take three lines; two are left for what is said meanwhile.
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
