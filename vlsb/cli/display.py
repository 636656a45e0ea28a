"""Progress while a run is going: a bar on a terminal, a line every few seconds elsewhere, or nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from vlsb.cli.screen import Screen

if TYPE_CHECKING:
    from vlsb.runs.progress import Progress

LINE_EVERY_S = 5.0
FRAME_EVERY_S = 0.2

Watch = Callable[["Progress"], Coroutine[Any, Any, None]]


def watcher(display: str, screen: Screen) -> Watch:
    """The coroutine that shows a run's progress until it is cancelled."""
    if display == "none":
        return _watch_nothing
    if display == "rich":
        return lambda progress: _watch_bar(progress, screen)
    return lambda progress: _watch_lines(progress, screen)


async def _watch_nothing(progress: Progress) -> None:
    await asyncio.Event().wait()


async def _watch_lines(progress: Progress, screen: Screen) -> None:
    began, before = time.monotonic(), progress.done
    screen.notice(_opening(progress))
    try:
        while True:
            await asyncio.sleep(LINE_EVERY_S)
            screen.notice(_status(progress, time.monotonic() - began, progress.done - before))
    finally:
        screen.notice(_status(progress, time.monotonic() - began, progress.done - before))


async def _watch_bar(progress: Progress, screen: Screen) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar
    from rich.text import Text

    began, before = time.monotonic(), progress.done
    screen.notice(_opening(progress))
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    columns = (BarColumn(bar_width=None), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Bar(*columns, console=console, transient=True, refresh_per_second=1 / FRAME_EVERY_S) as bar:
        screen.above_bar = lambda line: console.print(Text(line), soft_wrap=True)
        task = bar.add_task("", total=progress.selected)
        try:
            while True:
                line = _status(progress, time.monotonic() - began, progress.done - before)
                bar.update(task, completed=progress.done, description=line)
                await asyncio.sleep(FRAME_EVERY_S)
        finally:
            screen.above_bar = None


def _opening(progress: Progress) -> str:
    """What this session starts from."""
    pending = progress.selected - progress.kept
    kept = f", {progress.kept} kept from before" if progress.kept else ""
    return f"{progress.selected} samples: {pending} to do{kept}."


def _status(progress: Progress, elapsed_s: float, done: int) -> str:
    """One line that says how far a run is, what it waits for and how it looks so far."""
    parts = [f"{progress.done}/{progress.selected}"]
    parts.append(f"{progress.target.limiter.in_flight}+{progress.judge.limiter.in_flight} in flight")
    if progress.safe_rate is not None:
        parts.append(f"safe {progress.safe_rate:.1f} %")
    if failed := sum(progress.failed.values()):
        parts.append(f"{failed} without verdict")
    parts += [wait for client in (progress.target, progress.judge) if (wait := _wait(client))]
    left = progress.selected - progress.done
    if done and left:
        parts.append(f"{_span(left * elapsed_s / done)} left")
    return " · ".join(parts)


def _wait(client: Any) -> str:
    if client.breaker.is_open:
        return f"{client.lane} down, probing"
    closed_s = client.gate.closed_for_s()
    return f"{client.lane} waits {closed_s:.0f} s" if closed_s >= 1 else ""


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
