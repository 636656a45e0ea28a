"""What a command shows while it works: a display at the foot of a terminal, lines without one, or nothing."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Protocol, Self

from vlsb.cli.screen import Screen, has_color
from vlsb.cli.views import Panel, StepLines, StepsView
from vlsb.errors import ConfigError
from vlsb.steps import Step

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

    from vlsb.cli.views import ServerView, StepLines, StepsView
    from vlsb.evaluation.progress import Progress

# A log of an hour's run stays under a thousand lines; a server is watched for days.
LINE_EVERY_S = 5.0
SERVER_LINE_EVERY_S = 60.0
# Often enough to look alive, too rare to be seen in the processor time of a run.
FRAME_EVERY_S = 0.25

_DISPLAYS = ("rich", "plain", "none")


class Draw(Protocol):
    """The display at a moment of the monotonic clock, for a terminal of that width."""

    def __call__(self, now: float, *, width: int) -> RenderableType: ...


def chosen_display(wanted: str | None) -> str:
    """Return `rich`, `plain` or `none`: as asked, else by whether a terminal can redraw lines."""
    if wanted is None:
        return "rich" if has_color(sys.stderr) else "plain"
    if wanted not in _DISPLAYS:
        raise ConfigError(f"--display {wanted}: not one of {', '.join(_DISPLAYS)}.")
    return wanted


class Display:
    """Shows steps until something else is shown, then a run or a server until it is cancelled.

    Leaving it clears the terminal.
    """

    def __init__(self, wanted: str | None, screen: Screen) -> None:
        self.kind = chosen_display(wanted)
        self._screen = screen
        self._steps: StepsView | None = None
        self._lines: StepLines | None = None
        self._foot: Live | None = None
        self._is_taken = False
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    def on_progress(self, step: Step) -> None:
        """Show the next step of something long. May be called from any thread."""
        if self.kind == "none":
            return
        with self._lock:
            if self.kind == "plain" or self._is_taken:
                self._lines = self._lines or StepLines()
                if (line := self._lines.next(step)) is not None:
                    self._screen.notice(line)
                return
            if self._steps is None:
                self._steps = StepsView(time.monotonic())
            self._steps.add(step, time.monotonic())
            if self._foot is None:
                self._foot = _foot(self._screen, self._steps.draw, refreshes_itself=True)
                self._foot.start(refresh=True)

    def clear(self) -> None:
        """Take the steps off the terminal."""
        with self._lock:
            foot, self._foot, self._steps = self._foot, None, None
        if foot is not None:
            self._screen.above_bar = None
            foot.stop()

    async def show_run(self, progress: Progress) -> None:
        """Show how a run stands, until cancelled."""
        if self.kind == "none":
            await asyncio.Event().wait()
        panel = Panel(progress, time.monotonic())
        with self._own_terminal():
            pending = progress.selected - progress.kept - progress.left_out
            kept = f", {progress.kept:,} kept from before" if progress.kept else ""
            units = progress.unit.removesuffix("s") if progress.selected == 1 else progress.unit
            self._screen.notice(f"{progress.selected:,} {units}: {pending:,} to do{kept}.")
            if self.kind == "rich":
                await self._draw(panel.draw)
            panel.line(panel.began)  # What later ones are compared with.
            try:
                while True:
                    await asyncio.sleep(LINE_EVERY_S)
                    self._screen.notice(panel.line(time.monotonic()))
            finally:
                self._screen.notice(panel.line(time.monotonic()))

    async def show_server(self, view: ServerView) -> None:
        """Show a server at work, until cancelled."""
        with self._own_terminal():
            if self.kind == "rich":
                await self._draw(view.draw)
            last = None
            while True:
                await asyncio.sleep(SERVER_LINE_EVERY_S)
                # A server that nobody asks says nothing for hours.
                if view.load != last:
                    last = view.load
                    self._screen.notice(view.line())

    @contextmanager
    def _own_terminal(self) -> Iterator[None]:
        """Show steps as lines while something else has the terminal: an engine may be started again."""
        self.clear()
        self._is_taken = True
        try:
            yield
        finally:
            self._is_taken = False

    async def _draw(self, draw: Draw) -> NoReturn:
        """Draw again and again from the loop, whose values change under no thread, until cancelled."""
        with _foot(self._screen, draw) as foot:
            try:
                while True:
                    foot.refresh()
                    await asyncio.sleep(FRAME_EVERY_S)
            finally:
                self._screen.above_bar = None


def _foot(screen: Screen, draw: Draw, *, refreshes_itself: bool = False) -> Live:
    """Make a display at the foot of the terminal; the screen's lines go above it."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    foot = Live(
        console=console,
        transient=True,
        auto_refresh=refreshes_itself,
        refresh_per_second=1 / FRAME_EVERY_S,
        redirect_stdout=False,
        get_renderable=lambda: draw(time.monotonic(), width=console.width),
    )
    screen.above_bar = lambda line: foot.console.print(Text(line), soft_wrap=True)
    return foot
