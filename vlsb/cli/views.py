"""What is drawn of a run while it is going, of something long on its way, and of an engine at work.

Pure: a view and a moment in, lines out; remembers only what rates and silences need.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vlsb.endpoints.timings import Wait
from vlsb.records import Untrusted
from vlsb.reports.encode import for_terminal
from vlsb.reports.report import counted, dollars, duration

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from vlsb.engines.hardware import Gpu
    from vlsb.engines.supervisor import EngineLoad
    from vlsb.evaluation.progress import ModelView, Progress
    from vlsb.steps import Step

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
        rate = Text("no verdict yet", style="dim")
        if progress.judged and not progress.has_rate:
            rate = Text(f"{progress.judged:,} judged, a drawn part among them: no rate yet", style="dim")
        elif progress.judged:
            # No interval: which images are judged first is not a draw, and it would say more than is known.
            share_safe = 100 * progress.safe / progress.judged
            rate = Text(f"safe so far {share_safe:.1f} % of {progress.judged:,} judged")
        return Group(*lines, rate)

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


# Something long on its way.

# The last lines of an engine's log: enough to see that it moves, few enough for a small terminal.
LOG_LINES = 4
# Below this width a bar would leave no room for the figure it stands for.
_NARROW, _MOST_BAR = 40, 40
_GIB = 1024**3
# Downloads of weights are tens of gigabytes: a line each minute or so where there is no terminal.
_LOGGED_EVERY_BYTES = 10**9
# From these sizes on a file of many is named, and its tenths are.
_NAMED_BYTES, _TENTHS_BYTES = 20_000_000, 100_000_000
_BANNER = re.compile("[\u2580\u2584\u2588]{2}")
# (EngineCore pid=7) INFO 11-24 18:00:03 [kv_cache_utils.py:2327] ...
_PREFIX = re.compile(r"^(?:\(\S+ pid=\d+\) )?(DEBUG|INFO|WARNING|ERROR)\s+[\d-]+ [\d:]+ \[[^]\s]+\]\s*")


@dataclass(slots=True)
class StepsView:
    """Something long on its way: stages that are through with their times, the one it is in, the log's end.

    `model` is the local model that is to start, `about` its engine and weights, as far as steps have said.
    """

    began: float
    model: str = ""
    about: str = ""
    _stages: list[tuple[str, float]] = field(default_factory=list)
    _now: Step | None = None
    _log: deque[str] = field(default_factory=lambda: deque(maxlen=LOG_LINES))

    def add(self, step: Step, now: float) -> None:
        """Take the next step."""
        self.model = step.model
        if step.stage == "starting":
            self.about = step.detail
            return
        if not self._stages or self._stages[-1][0] != _stage(step):
            self._stages.append((_stage(step), now))
        self._now = step
        line = ""
        if step.line is not None:
            # Without what stands before every line of a log; a level is kept where it alarms.
            line = _PREFIX.sub(
                lambda match: "" if match[1] == "INFO" else f"{match[1]} ", for_terminal(step.line)
            )
        if line and not _BANNER.search(line) and (not self._log or self._log[-1] != line):
            self._log.append(line)

    def draw(self, now: float, *, width: int) -> RenderableType:
        """Draw the display at a moment of the monotonic clock, for a terminal of `width` columns."""
        from rich.console import Group
        from rich.text import Text

        parts = (f"{self.model} is starting", duration(now - self.began), _clean(self.about))
        heading = [_line(" · ".join(filter(None, parts)))] if self.model else []
        stages = _grid("", "", "")
        # A copy: a download is told of from another thread.
        told = list(self._stages)
        ends = [began for _, began in told[1:]] + [now]
        for number, ((stage, began), end) in enumerate(zip(told, ends, strict=False), start=1):
            took, is_now = end - began, number == len(told)
            style = "bold" if is_now else "dim"
            detail = _detail(self._now) if is_now and self._now else ""
            # As wide as the longest stage: the columns stay where they are.
            stages.add_row(
                Text(f"{stage:<11}", style=style), Text(f"{duration(took):<10}", style=style), Text(detail)
            )
        log = [_line(f"│ {line}", "dim") for line in list(self._log)]
        step, bar = self._now, []
        if step is not None and step.total_bytes and step.done_bytes is not None:
            bar = [_bar("", step.done_bytes / step.total_bytes, _amount(step), width)]
        return Group(*heading, stages, *bar, *log)


@dataclass(slots=True)
class StepLines:
    """Which steps deserve a line where nothing can be redrawn: new stages, files, a tenth of a large one."""

    _said: set[tuple[object, ...]] = field(default_factory=set)

    def next(self, step: Step) -> str | None:
        """Return the line to print, None for nothing new."""
        done, total = step.done_bytes or 0, step.total_bytes or 0
        if step.stage == "starting":
            # A restart goes through the stages again.
            self._said.clear()
        # The many small files of an install get no lines of their own.
        file = step.detail if total >= _NAMED_BYTES or (total and not step.count) else ""
        part = 10 * done // total if total >= _TENTHS_BYTES else done // _LOGGED_EVERY_BYTES
        mark = (_stage(step), file, part)
        if mark in self._said:
            return None
        self._said.add(mark)
        words = ", ".join(filter(None, (_stage(step), _detail(step), _amount(step) if file else "")))
        return f"{step.model}: {words}" if step.model else words


def _stage(step: Step) -> str:
    stage = _clean(step.stage)
    return f"[{step.number}/{step.count}] {stage}" if step.count else stage


def _detail(step: Step) -> str:
    has_end = step.done_bytes is None or step.total_bytes
    amount = "" if has_end else f"{(step.done_bytes or 0) / 1e9:.2f} GB so far"
    return ", ".join(filter(None, (_clean(step.detail), amount)))


def _amount(step: Step) -> str:
    done, total = step.done_bytes or 0, step.total_bytes or 0
    if total < 1e9:
        return f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB"
    return f"{done / 1e9:.2f} of {total / 1e9:.2f} GB"


# An engine at work.


@dataclass(slots=True)
class ServerView:
    """An engine at work: `load` is the last that it told. Remembers only what rates need besides."""

    name: str
    about: str
    began: float
    load: EngineLoad | None = None
    _gpus: tuple[Gpu, ...] = ()
    _silent_since: float | None = None
    _out: Speed = field(default_factory=Speed)
    _in: Speed = field(default_factory=Speed)
    _out_a_minute: float | None = None
    _in_a_minute: float | None = None

    def add(self, load: EngineLoad | None, gpus: tuple[Gpu, ...], now: float) -> None:
        """Take a look at the engine; None: it gave no answer."""
        self._gpus = gpus
        if load is None:
            self._silent_since = now if self._silent_since is None else self._silent_since
            return
        self._silent_since = None
        self.load = load
        if load.generation_tokens is not None:
            self._out_a_minute = self._out.per_minute(now, load.generation_tokens)
        if load.prompt_tokens is not None:
            self._in_a_minute = self._in.per_minute(now, load.prompt_tokens)

    def closing(self, now: float) -> str:
        """Return the line for the end."""
        answered = None if self.load is None else self.load.answered
        done = "" if answered is None else f" and {counted(answered, 'answer')}"
        return f"{self.name} has ended, after {duration(now - self.began)}{done}."

    def draw(self, now: float, *, width: int) -> RenderableType:
        """Draw the display at a moment of the monotonic clock, for a terminal of `width` columns."""
        from rich.console import Group

        heading = f"{self.name} is up · {duration(now - self.began)} · {_clean(self.about)}"
        rows: list[RenderableType] = [_line(""), _line(heading)]
        load = self.load
        if self._silent_since is not None:
            rows.append(_row("engine", f"no answer for {duration(now - self._silent_since)}"))
        elif load is None:
            rows.append(_row("engine", "not asked yet"))
        if load is not None:
            rows += [_row("requests", _requests(load)), _row("tokens", self._tokens(load))]
        if load is not None and load.cache_share is not None:
            rows.append(_bar("cache", load.cache_share, f"{100 * load.cache_share:.1f} % full", width))
        for gpu in (each for each in self._gpus if each.memory_bytes):
            used = gpu.memory_bytes - gpu.free_bytes
            figure = f"{used / _GIB:.1f} of {gpu.memory_bytes / _GIB:.1f} GiB"
            rows.append(_bar(f"GPU {gpu.index}", used / gpu.memory_bytes, figure, width))
        return Group(*rows, _line("Ctrl-C stops it.", "dim"))

    def _tokens(self, load: EngineLoad) -> str:
        return _figures_line(
            (_per_second(self._out_a_minute), "out"),
            (_per_second(self._in_a_minute), "in"),
            (load.generation_tokens, "written"),
        )

    def line(self) -> str:
        """Say the load in one line, for a screen that is not a terminal."""
        if self._silent_since is not None or self.load is None:
            return f"{self.name}: no answer from the engine"
        return f"{self.name}: {_requests(self.load)} · {self._tokens(self.load)}"


def _requests(load: EngineLoad) -> str:
    return _figures_line(
        (load.running, "running"),
        (load.waiting, "waiting"),
        (load.answered, "answered"),
        (load.unanswered or None, "without an answer"),
    )


def _figures_line(*figures: tuple[int | str | None, str]) -> str:
    """Return `16 running · 240 waiting`; what the engine does not tell is left out."""
    parts = [(f"{value:,}" if isinstance(value, int) else value, what) for value, what in figures]
    return " · ".join(f"{value} {what}" for value, what in parts if value is not None) or "-"


def _per_second(per_minute: float | None) -> str | None:
    return None if per_minute is None else f"{per_minute / 60:,.0f}/s"


_LABEL_WIDTH = 10


def _row(label: str, text: str) -> RenderableType:
    return _line(f"{label:<{_LABEL_WIDTH}}{text}")


def _bar(label: str, share: float, figure: str, width: int) -> RenderableType:
    """Draw a labelled bar with its figure, without the bar where there is no room for it."""
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    if width < _NARROW:
        return _row(label, figure)
    room = min(_MOST_BAR, width - _LABEL_WIDTH - len(figure) - 2)
    grid = _grid("", "", "", padding=0)
    bar = ProgressBar(
        total=1.0, completed=min(1.0, max(0.0, share)), width=room, finished_style="bar.complete"
    )
    grid.add_row(Text(f"{label:<{_LABEL_WIDTH}}"), bar, Text(f" {figure}"))
    return grid


def _grid(*columns: str, padding: int = 2) -> Table:
    from rich.table import Table

    grid = Table.grid(padding=(0, padding, 0, 0))
    for _ in columns:
        grid.add_column(no_wrap=True, overflow="ellipsis")
    return grid


def _line(text: str, style: str = "") -> RenderableType:
    from rich.text import Text

    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _clean(text: str) -> str:
    """Return an engine's words as one line that no terminal acts on."""
    return for_terminal(Untrusted(text))
