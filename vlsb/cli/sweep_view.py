"""What is shown of a sweep: one live table on a terminal, a line for each change without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vlsb.cli.panel import Speed
from vlsb.cli.screen import error_line
from vlsb.engines.diagnosis import log_text
from vlsb.records import Untrusted
from vlsb.reports.encode import for_terminal
from vlsb.reports.figures import duration
from vlsb.sweep.board import Board, Entry, Status
from vlsb.sweep.cells import Counts, Work

if TYPE_CHECKING:
    from rich.console import RenderableType

_STYLES = {
    Status.WAITING: "dim",
    Status.RUNNING: "bold",
    Status.DONE: "green",
    Status.FAILED: "bold red",
    Status.STOPPED: "yellow",
}
_WITH_GAPS = "yellow"
_ERROR = "Error: "
_LOG_END_BYTES = 16_384
_LONGEST_ERROR = 300


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
        """The table, of at most so many lines: running works come before those that have ended."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table as RichTable
        from rich.text import Text

        grid = RichTable(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
        grid.add_column("cell", overflow="ellipsis", no_wrap=True, max_width=max(16, width - 60))
        for heading in ("state", "where", "done", "per min", "left"):
            grid.add_column(heading, justify="right", no_wrap=True)
        shown = self._shown(height)
        for entry in shown:
            row = self._row(entry, now)
            style = _WITH_GAPS if entry.lacks else _STYLES[entry.status]
            grid.add_row(*(Text(each, style=style if n < 2 else "") for n, each in enumerate(row)))
        hidden = len(self.board.entries) - len(shown)
        grid.caption = count_words(self.board) + (f"; {hidden} more not shown" if hidden else "")
        grid.caption_justify = "left"
        return grid

    def uncounted(self, height: int) -> Iterator[Work]:
        """The works of a table of so many lines whose counts may be others than those that are there."""
        for entry in self._shown(height):
            if entry.status is Status.RUNNING or self._counted_as.get(entry.work.name) is not entry.status:
                self._counted_as[entry.work.name] = entry.status
                yield entry.work

    def _shown(self, height: int) -> list[Entry]:
        most = max(3, height - 5)
        order = {Status.RUNNING: 0, Status.FAILED: 1, Status.WAITING: 2, Status.STOPPED: 2, Status.DONE: 3}
        ranked = sorted(self.board.entries, key=lambda entry: order[entry.status])[:most]
        return [entry for entry in self.board.entries if entry in ranked]

    def _row(self, entry: Entry, now: float) -> tuple[str, ...]:
        counts = self.counts.get(entry.work.name)
        done, speed, left = "", "", ""
        if counts is not None:
            total, there = counts.total, counts.done
            done = f"{there:,}/{total:,}"
            if entry.status is Status.RUNNING:
                rate = self._speeds.setdefault(entry.work.name, Speed()).per_minute(now, there)
                if rate:
                    speed, left = f"{rate:,.0f}", duration(60 * (total - there) / rate)
        name = for_terminal(Untrusted(entry.work.name))
        return name, entry.state, entry.place, done, speed, left


def count_words(board: Board) -> str:
    """How many works stand where."""
    parts = [(board.count(status), status.value) for status in Status]
    parts.append((sum(bool(entry.lacks) for entry in board.entries), "with gaps"))
    return ", ".join(f"{count} {what}" for count, what in parts if count)


def change_line(entry: Entry) -> str:
    """What is said of an entry whose status is another."""
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
        why = failure(entry)
        where = f" See {entry.log}" if entry.log is not None else ""
        return f"{name}: failed{took} ({why}).{where}"
    if status is Status.WAITING and entry.spared:
        return f"{name}: {entry.why}; it goes on with what others leave"
    if status is Status.WAITING and entry.attempts:
        return f"{name}: {entry.why or f'ended with exit code {entry.code}'}; it is started again"
    if status is Status.STOPPED and entry.error is not None:
        return f"{name}: stopped ({error_line(entry.error)})"
    return f"{name}: {status.value}"


def failure(entry: Entry) -> str:
    """Why a work failed, in words: its own, or the last error in the log of its command."""
    if entry.error is not None:
        return error_line(entry.error).rstrip(".")
    if entry.why:
        return entry.why
    said = _last_error(entry.log)
    return f"exit code {entry.code}: {said}" if said else f"exit code {entry.code}"


def _last_error(log: Path | None) -> str:
    """The last error that a command's log has; "" where there is none, or the log is elsewhere."""
    if log is None:
        return ""
    lines = log_text(log, most_bytes=_LOG_END_BYTES).splitlines()
    errors = [line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)]
    return errors[-1].rstrip(".")[:_LONGEST_ERROR] if errors else ""


def live_lines(say: Callable[[str], None]) -> Callable[[Entry], None]:
    """A listener that says a line for each change that is one for a reader."""

    def changed(entry: Entry) -> None:
        # What nobody began changes nothing by being done, or by not beginning.
        if entry.attempts or entry.lacks or entry.status in (Status.RUNNING, Status.FAILED):
            say(change_line(entry))

    return changed
