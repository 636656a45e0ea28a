"""What is shown of a run while it is going: a few lines, or one where there is no room for more.

Pure: a view of the run and a moment in, lines out; remembers only what rates and silences need.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vlsb.endpoints.timings import Wait
from vlsb.reports.encode import for_terminal
from vlsb.reports.report import dollars, duration

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from vlsb.evaluation.progress import ModelView, Progress

RATE_WINDOW_S = 30.0
SILENT_S = 10.0
"""No answer for so long is worth saying. Models take seconds, and requests end at different times."""
ONE_LINE_BELOW = 60
"""Columns of a terminal that has no room for a table."""
PHASES_FROM = 100
"""Columns from which there is room for why the number of connections is what it is."""
_HEADINGS = ("", "done", "in flight", "per min", "waiting for")


@dataclass(slots=True)
class Speed:
    """Recent counts of something, for a rate a minute."""

    _seen: deque[tuple[float, int]] = field(default_factory=deque)

    def per_minute(self, now: float, count: int) -> float | None:
        """Return the rate over the last half minute; None until there is something to compare."""
        self._seen.append((now, count))
        while self._seen[0][0] < now - RATE_WINDOW_S:
            self._seen.popleft()
        then, before = self._seen[0]
        return 60 * (count - before) / (now - then) if now - then >= 1 else None


@dataclass(slots=True)
class Silence:
    """For how long nothing has come back while requests were in flight."""

    _since: float | None = None
    _seen: tuple[int, ...] = ()

    def seconds(self, now: float, view: ModelView) -> float:
        """Return the seconds since the last reply, or since something was sent after all was answered."""
        seen = (view.answered, view.rate_limited, *view.failures.values())
        if self._since is None or seen != self._seen or not view.in_flight:
            self._since, self._seen = now, seen
        return now - self._since


@dataclass(frozen=True, slots=True)
class Row:
    """Target or judge at a moment, in words."""

    name: str
    view: ModelView
    per_minute: float | None
    wait: str
    is_stuck: bool


@dataclass(slots=True)
class Panel:
    """Draws a run again and again."""

    progress: Progress
    began: float
    _answers: dict[str, Speed] = field(default_factory=dict)
    _silences: dict[str, Silence] = field(default_factory=dict)
    _done: Speed = field(default_factory=Speed)

    def draw(self, now: float, *, width: int) -> RenderableType:
        """Draw the panel at a moment of the monotonic clock, for a terminal of `width` columns."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        if width < ONE_LINE_BELOW:
            return Group(Text(self.line(now), overflow="ellipsis", no_wrap=True))
        progress, rows = self.progress, self._rows(now)
        share = f"{progress.done:,}/{progress.selected:,}"
        bar = Table.grid(padding=(0, 1))
        bar.add_column()
        bar.add_column(no_wrap=True)
        bar.add_row(
            ProgressBar(max(1, progress.selected), progress.done, width=width - len(share) - 2), Text(share)
        )
        judge = "no judge" if progress.judge is None else f"judge {for_terminal(progress.judge)}"
        title = f"{for_terminal(progress.run)} · target {for_terminal(progress.target)} · {judge}"
        times = [_in_short(now - self.began), *self._left(now, rows)]
        if progress.kept:
            times.append(f"{progress.kept:,} kept from before")
        lines = [
            Text(title, style="bold", overflow="ellipsis", no_wrap=True),
            bar,
            Text(" · ".join(times), overflow="ellipsis", no_wrap=True),
            _table(rows, has_phases=width >= PHASES_FROM),
        ]
        spent, failures = [], []
        for name, view in ((row.name, row.view) for row in rows):
            if view.used.input_tokens:
                usd = "" if view.usd is None else f", {dollars(view.usd)}"
                spent.append(
                    f"{name} {view.used.input_tokens:,} in, {view.used.output_tokens or 0:,} out{usd}"
                )
            counts = [f"{n:,} {each.value.partition('_')[2]}" for each, n in view.failures.items() if n]
            failures += [f"{name} {', '.join(counts)}"] if counts else []
        if spent:
            lines.append(Text(f"tokens: {'; '.join(spent)}", style="dim", overflow="ellipsis", no_wrap=True))
        if failures:
            lines.append(Text(f"without a verdict: {'; '.join(failures)}", style="yellow"))
        return Group(*lines, self._rate())

    def line(self, now: float) -> str:
        """Say how far the run is, what it waits for and how it looks; what matters most comes first."""
        progress, rows = self.progress, self._rows(now)
        parts = [f"{progress.done:,}/{progress.selected:,}"]
        parts += [f"{row.name}: {row.wait}" for row in rows if row.is_stuck]
        parts += [
            f"{row.name}: {up} of {n} replicas" for row in rows for up, n in [row.view.replicas] if up < n
        ]
        parts += self._left(now, rows)
        if progress.judged and progress.has_rate:
            parts.append(f"safe {100 * progress.safe / progress.judged:.1f} %")
        parts.append("+".join(str(row.view.in_flight) for row in rows) + " in flight")
        if failed := sum(progress.failed.values()):
            parts.append(f"{failed:,} failed")
        return " · ".join(parts)

    def _rows(self, now: float) -> list[Row]:
        rows = []
        for name, view in self.progress.models().items():
            per_minute = self._answers.setdefault(name, Speed()).per_minute(now, view.answered)
            silent_s = self._silences.setdefault(name, Silence()).seconds(now, view)
            rows.append(Row(name, view, per_minute, *_wait(view, silent_s)))
        return rows

    def _left(self, now: float, rows: list[Row]) -> list[str]:
        """Say the time left by the last half minute; nobody knows it for an endpoint that hangs."""
        progress = self.progress
        speed = self._done.per_minute(now, progress.done)
        rest = progress.selected - progress.done
        is_hanging = any(
            row.view.is_down or row.view.batch or row.wait.startswith("no answer") for row in rows
        )
        return [f"about {_in_short(60 * rest / speed)} left"] if speed and rest and not is_hanging else []

    def _rate(self) -> Text:
        from rich.text import Text

        progress = self.progress
        if not progress.judged:
            return Text("no verdict yet", style="dim")
        if not progress.has_rate:
            return Text(f"{progress.judged:,} judged, a drawn part among them: no rate yet", style="dim")
        # No interval: which images are judged first is no draw, and it would say more than is known.
        rate = 100 * progress.safe / progress.judged
        return Text(f"safe so far {rate:.1f} % of {progress.judged:,} judged")


def _in_short(seconds: float) -> str:
    """Return a duration without tenths: they would flicker, and say more than is known."""
    return f"{seconds:.0f} s" if seconds < 59.5 else duration(max(60.0, seconds))


def _table(rows: list[Row], *, has_phases: bool) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, pad_edge=False)
    for heading in _HEADINGS:
        is_last = heading == _HEADINGS[-1]
        table.add_column(
            heading,
            justify="left" if heading in ("", "in flight") or is_last else "right",
            header_style="dim",
            # Words wrap, so that no figure beside them is cut.
            no_wrap=not is_last,
        )
    for row in rows:
        view = row.view
        up, count = view.replicas
        phase = f", {view.phase}" if has_phases else ""
        phase = phase if count == 1 else f", {up} of {count} replicas"
        cells = (
            row.name,
            f"{view.done:,}",
            f"{view.in_flight:,} in batches" if view.batch else f"{view.in_flight} of {view.limit}{phase}",
            "-" if row.per_minute is None else f"{row.per_minute:,.0f}",
            row.wait or "-",
        )
        table.add_row(*map(Text, cells))
    return table


def _wait(view: ModelView, silent_s: float) -> tuple[str, bool]:
    """Say what a model's requests wait for, the gravest first, and if that is more than its turn."""
    if view.batch:
        return view.batch, False
    if view.is_down:
        return "outage detected", True
    if view.closed_for_s >= 0.5:
        return f"rate-limit pause {view.closed_for_s:.0f} s", True
    if silent_s >= SILENT_S:
        return f"no answer for {silent_s:.0f} s", True
    if view.waits_for is Wait.RATE:
        return f"{'tokens' if view.rpm is None and view.tpm is not None else 'requests'} per minute", False
    if view.waits_for is Wait.CONNECTION:
        return "connections", False
    return "", False
