"""Progress while a run is going: the panel on a terminal, a line every few seconds elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from vlsb.cli.screen import Screen, has_color
from vlsb.errors import ConfigError

if TYPE_CHECKING:
    from vlsb.evaluation.progress import Progress

LINE_EVERY_S = 5.0
FRAME_EVERY_S = 0.25

_DISPLAYS = ("rich", "plain", "none")

Watch = Callable[["Progress"], Coroutine[Any, Any, None]]


def chosen_display(wanted: str | None) -> str:
    """`rich`, `plain` or `none`: as asked, else by whether there is a terminal that can redraw lines."""
    if wanted is None:
        return "rich" if has_color(sys.stderr) else "plain"
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

    from vlsb.cli.panel import Panel

    panel = Panel(progress, time.monotonic())
    screen.notice(_opening(progress))
    panel.line(panel.began)  # What later ones are compared with.
    try:
        while True:
            await asyncio.sleep(LINE_EVERY_S)
            screen.notice(panel.line(time.monotonic()))
    finally:
        screen.notice(panel.line(time.monotonic()))


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
