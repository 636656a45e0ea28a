"""The live panel: one picture of a run, two lanes, a few lines. Pure: a view in, lines out."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vlsb.analysis.rates import wilson
from vlsb.records import Outcome
from vlsb.reports.figures import duration

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from vlsb.runs.progress import LaneView, Progress

RATE_WINDOW_S = 30.0
_HEADINGS = ("", "done", "in flight", "limit", "a minute", "waiting", "failures")


@dataclass(slots=True)
class Meter:
    """Recent counts of something, for a rate a minute."""

    _seen: deque[tuple[float, int]] = field(default_factory=deque)

    def per_minute(self, now: float, count: int) -> float | None:
        """The rate over the last half minute; None until there is something to compare."""
        self._seen.append((now, count))
        while self._seen[0][0] < now - RATE_WINDOW_S:
            self._seen.popleft()
        then, before = self._seen[0]
        return 60 * (count - before) / (now - then) if now - then >= 1 else None


@dataclass(slots=True)
class Panel:
    """Draws a run again and again; remembers only what rates need."""

    progress: Progress
    began: float
    _requests: dict[str, Meter] = field(default_factory=dict)
    _done: Meter = field(default_factory=Meter)

    def draw(self, now: float, *, width: int) -> RenderableType:
        """The panel at a moment of the monotonic clock, for a terminal of `width` columns."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        progress = self.progress
        share = f"{progress.done:,}/{progress.selected:,}"
        bar = ProgressBar(
            total=max(1, progress.selected), completed=progress.done, width=width - len(share) - 2
        )
        row = _grid()
        row.add_row(bar, Text(share))
        return Group(
            Text(self._heading(now), overflow="ellipsis", no_wrap=True), row, self._lanes(now), self._rate()
        )

    def _heading(self, now: float) -> str:
        progress, elapsed = self.progress, now - self.began
        parts = [duration(elapsed)]
        speed = self._done.per_minute(now, progress.done)
        left = progress.selected - progress.done
        if speed and left:
            parts.append(f"about {duration(60 * left / speed)} left")
        if progress.kept:
            parts.append(f"{progress.kept:,} kept from before")
        return " · ".join(parts)

    def _lanes(self, now: float) -> RenderableType:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, pad_edge=False)
        for number, heading in enumerate(_HEADINGS):
            is_number = 0 < number < 3 or number == 4
            table.add_column(
                heading,
                justify="right" if is_number else "left",
                header_style="dim",
                # The one column that grows without bound: it wraps, so that no figure beside it is cut.
                no_wrap=heading != "failures",
            )
        for name, lane in self.progress.lanes().items():
            meter = self._requests.setdefault(name, Meter())
            speed = meter.per_minute(now, lane.requests)
            table.add_row(*(Text(cell) for cell in _cells(name, lane, speed)))
        return table

    def _rate(self) -> RenderableType:
        from rich.text import Text

        progress = self.progress
        if not progress.judged:
            return Text("no verdict yet", style="dim")
        low, high = wilson(progress.safe, progress.judged)
        rate = 100 * progress.safe / progress.judged
        return Text(f"safe so far {rate:.1f} % [{low:.1f}, {high:.1f}] of {progress.judged:,} judged")


def _cells(name: str, lane: LaneView, per_minute: float | None) -> tuple[str, ...]:
    return (
        name,
        f"{lane.done:,}",
        f"{lane.in_flight}",
        f"{lane.limit} {lane.phase}",
        "-" if per_minute is None else f"{per_minute:,.0f}",
        _waiting(lane),
        _failures(lane.failures),
    )


def _waiting(lane: LaneView) -> str:
    """What the lane waits for now, else how often it had to."""
    if lane.is_down:
        return "down, probing"
    if lane.closed_for_s >= 0.5:
        return f"{lane.closed_for_s:.0f} s"
    return f"429 x{lane.rate_limited}" if lane.rate_limited else "-"


def _failures(failures: Mapping[Outcome, int]) -> str:
    parts = [f"{count} {outcome.value.partition('_')[2]}" for outcome, count in failures.items() if count]
    return ", ".join(parts) or "-"


def _grid() -> Table:
    from rich.table import Table

    grid = Table.grid(padding=(0, 1))
    grid.add_column()
    grid.add_column(no_wrap=True)
    return grid
