"""Progress while a run is going: the panel on a terminal, a line every few seconds elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from vlsb.cli.screen import Screen
from vlsb.errors import ConfigError
from vlsb.reports.figures import duration

if TYPE_CHECKING:
    from vlsb.runs.progress import LaneView, Progress

LINE_EVERY_S = 5.0
FRAME_EVERY_S = 0.25

_DISPLAYS = ("rich", "plain", "none")

Watch = Callable[["Progress"], Coroutine[Any, Any, None]]


def chosen_display(wanted: str | None) -> str:
    """`rich`, `plain` or `none`: as asked, else by whether there is a terminal."""
    if wanted is None:
        return "rich" if sys.stderr.isatty() else "plain"
    if wanted not in _DISPLAYS:
        raise ConfigError(f"--display {wanted}: not one of {', '.join(_DISPLAYS)}.")
    return wanted


def watcher(display: str, screen: Screen) -> Watch:
    """The coroutine that shows a run's progress until it is cancelled."""
    if display == "none":
        return _watch_nothing
    if display == "rich":
        return lambda progress: _watch_panel(progress, screen)
    return lambda progress: _watch_lines(progress, screen)


async def _watch_nothing(progress: Progress) -> None:
    import asyncio

    await asyncio.Event().wait()


async def _watch_lines(progress: Progress, screen: Screen) -> None:
    import asyncio

    began, before = time.monotonic(), progress.done
    screen.notice(_opening(progress))
    try:
        while True:
            await asyncio.sleep(LINE_EVERY_S)
            screen.notice(_status(progress, time.monotonic() - began, progress.done - before))
    finally:
        screen.notice(_status(progress, time.monotonic() - began, progress.done - before))


async def _watch_panel(progress: Progress, screen: Screen) -> None:
    import asyncio

    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from vlsb.cli.panel import Panel

    screen.notice(_opening(progress))
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    panel = Panel(progress, time.monotonic())
    with Live(console=console, transient=True, auto_refresh=False, redirect_stdout=False) as live:
        screen.above_bar = lambda line: live.console.print(Text(line), soft_wrap=True)
        try:
            while True:
                live.update(panel.draw(time.monotonic(), width=console.width), refresh=True)
                await asyncio.sleep(FRAME_EVERY_S)
        finally:
            screen.above_bar = None


def _opening(progress: Progress) -> str:
    """What this session starts from."""
    pending = progress.selected - progress.kept
    kept = f", {progress.kept:,} kept from before" if progress.kept else ""
    return f"{progress.selected:,} {progress.unit}: {pending:,} to do{kept}."


def _status(progress: Progress, elapsed_s: float, done: int) -> str:
    """One line that says how far a run is, what it waits for and how it looks so far."""
    lanes = progress.lanes()
    parts = [f"{progress.done}/{progress.selected}"]
    parts.append("+".join(str(lane.in_flight) for lane in lanes.values()) + " in flight")
    if progress.judged:
        parts.append(f"safe {100 * progress.safe / progress.judged:.1f} %")
    if failed := sum(progress.failed.values()):
        parts.append(f"{failed} without verdict")
    parts += [wait for name, lane in lanes.items() if (wait := _wait(name, lane))]
    left = progress.selected - progress.done
    if done and left:
        parts.append(f"about {duration(left * elapsed_s / done)} left")
    return " · ".join(parts)


def _wait(name: str, lane: LaneView) -> str:
    if lane.is_down:
        return f"{name} down, probing"
    return f"{name} waits {lane.closed_for_s:.0f} s" if lane.closed_for_s >= 1 else ""
