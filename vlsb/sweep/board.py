"""Where every work of a sweep stands: one place that all ways of running write, and the display reads."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from vlsb.analysis.summary import Summary
from vlsb.engines.diagnosis import log_text
from vlsb.errors import (
    ConfigError,
    GapsError,
    InterruptedRunError,
    LimitReachedError,
    ServerError,
    StoreError,
    VlsbError,
)
from vlsb.store.manifest import is_run
from vlsb.store.state import collection_paused, load_state
from vlsb.store.summaries import summarize_judges
from vlsb.sweep.cells import SweepWork, WorkStatus
from vlsb.sweep.ended import EndedRuns

RETRIED = frozenset({GapsError.exit_code, ServerError.exit_code})
"""Exit codes after which the same command may do better: gaps in a run, an engine that failed."""
LOST = frozenset({InterruptedRunError.exit_code})
"""Exit codes of a command that somebody else stopped."""

_ERROR = "Error: "
# A command says why it ends in its last lines, and nobody reads more of them in one of ours.
_LOG_END_BYTES, _LONGEST_ERROR = 16_384, 300


class Status(StrEnum):
    """Where a work stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Stop:
    """What a sweep is asked: `asked`, to end in order; `firmly`, to drop what is in flight or not to wait."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    firmly: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True, eq=False)
class BoardEntry:
    """One work and what became of it. `code` is its last exit code; `why` says what an exit code does not,
    and `error` why it cannot be started or was stopped, or its run cannot be used.

    `lacks` is what a done work is without: samples that ended, and will not be asked for again. `place` is
    where it runs: GPUs, a node. `attempts` counts how often its command was started, `spared` how
    often nothing but its share of the money kept it from going on.
    """

    work: SweepWork
    status: Status = Status.WAITING
    attempts: int = 0
    spared: int = 0
    code: int | None = None
    why: str = ""
    error: VlsbError | None = None
    lacks: str = ""
    place: str = ""
    log: Path | None = None
    began_at: float | None = None
    ended_at: float | None = None

    @property
    def state(self) -> str:
        """Its status in words."""
        return "done, gaps" if self.lacks else self.status.value

    def last_error(self) -> str:
        """Return the last error in the log of its command; "" where the log has none, or is elsewhere."""
        lines = [] if self.log is None else log_text(self.log, most_bytes=_LOG_END_BYTES).splitlines()
        errors = [line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)]
        return errors[-1].rstrip(".")[:_LONGEST_ERROR] if errors else ""


@dataclass(slots=True)
class Board:
    """All works in their order.

    `ended` knows the runs that need not be read; `changed` is called with every entry whose status changes.
    """

    ended: EndedRuns = field(default_factory=EndedRuns)
    changed: Callable[[BoardEntry], None] = lambda entry: None
    clock: Callable[[], float] = time.monotonic
    entries: list[BoardEntry] = field(default_factory=list)

    def add(self, works: Iterable[SweepWork]) -> None:
        """Put up works that are not there yet: by their names. What is done already is so from the start."""
        by_name = {entry.work.name: entry for entry in self.entries}
        for work in works:
            entry = by_name.get(work.name)
            if entry is None:
                self.entries.append(BoardEntry(work))
                self._place(self.entries[-1])
            elif not work.is_cell and entry.work.runs != work.runs:
                # A judge follows the runs that have come since.
                entry.work = work
                if entry.status is Status.DONE:
                    entry.attempts = 0
                    self._place(entry)

    def _place(self, entry: BoardEntry) -> None:
        """Find out where a work stands that nobody has started yet."""
        try:
            standing = entry.work.standing(self.ended)
        except VlsbError as error:
            # A judge has other runs beside the one that cannot be read.
            if entry.work.is_cell:
                self.fail(entry, error)
                return
            standing = WorkStatus(False)
        self._settle(entry, standing)

    def waiting(self) -> Iterator[BoardEntry]:
        """Yield what could be started now, in order: a judge only when no cell is left to be run."""
        has_cells = any(
            entry.work.is_cell and entry.status in (Status.WAITING, Status.RUNNING) for entry in self.entries
        )
        for entry in self.entries:
            if entry.status is not Status.WAITING or (has_cells and not entry.work.is_cell):
                continue
            if entry.work.can_start():
                yield entry
            else:
                self.fail(entry, ConfigError("no cell has a run that it could judge"))

    def count(self, status: Status) -> int:
        """Count the works that stand there."""
        return sum(entry.status is status for entry in self.entries)

    def start(self, entry: BoardEntry, place: str, log: Path | None) -> None:
        """Note that its command was started."""
        entry.place, entry.log, entry.attempts = place, log, entry.attempts + 1
        entry.began_at, entry.ended_at, entry.why, entry.error = self.clock(), None, "", None
        self._set(entry, Status.RUNNING)

    async def end(
        self,
        entry: BoardEntry,
        code: int,
        *,
        retries: int,
        retried: frozenset[int] = RETRIED,
        is_short: bool = False,
    ) -> None:
        """Note how its command ended: done, to be started again, or failed.

        With `is_short` the money that it was given kept it from going on: it waits for more.

        One that a signal ended (a negative code), as a system without memory does, has lost nothing that it
        stored and is started again. One that ended with gaps is done where no other start would fill them:
        its run says so.
        """
        if is_killed := code < 0:
            entry.why, code = f"killed by signal {-code}", InterruptedRunError.exit_code
        entry.code, entry.ended_at = code, self.clock()
        if code == GapsError.exit_code:
            try:
                standing = await asyncio.to_thread(entry.work.standing, self.ended, is_tried=True)
            except VlsbError as error:
                self.fail(entry, error)
                return
            if standing.is_done:
                self._settle(entry, standing)
                return
        if is_short:
            entry.why, entry.spared = "its share of --max-cost is spent", entry.spared + 1
            self._set(entry, Status.WAITING)
        elif code == 0:
            self._set(entry, Status.DONE)
        elif (is_killed or code in retried) and entry.attempts - entry.spared <= retries:
            self._set(entry, Status.WAITING)
        else:
            self._set(entry, Status.FAILED)

    def fail(self, entry: BoardEntry, error: VlsbError) -> None:
        """Note that it cannot be started here, or that its run cannot be read."""
        entry.error, entry.code = error, error.exit_code
        self._set(entry, Status.FAILED)

    def hold(self, entry: BoardEntry, error: LimitReachedError) -> None:
        """Note that there is no money for it."""
        entry.error, entry.code = error, error.exit_code
        self._set(entry, Status.STOPPED)

    def stop(self) -> None:
        """Mark whatever has not ended as stopped."""
        for entry in self.entries:
            if entry.status in (Status.WAITING, Status.RUNNING):
                entry.error = None
                self._set(entry, Status.STOPPED)

    def exit_code(self) -> int:
        """Return 0 where all is done, else what the first that failed ended with; 130 where it was stopped.

        What is done with gaps, or has no money left, counts where nothing failed.
        """
        stopped = [entry for entry in self.entries if entry.status is Status.STOPPED]
        if any(entry.error is None for entry in stopped):
            return InterruptedRunError.exit_code
        gaps = GapsError.exit_code if stopped or any(entry.lacks for entry in self.entries) else 0
        return next((entry.code or 1 for entry in self.entries if entry.status is Status.FAILED), gaps)

    def summaries(self, most: int) -> tuple[list[Summary], int]:
        """Summarize the runs of cells, up to this many judges' rows, and count the runs that can be read.

        All are read once, so that the next start knows what has ended. Blocking.
        """
        summaries: list[Summary] = []
        done = [entry.work for entry in self.entries if entry.status is Status.DONE]
        cells = [entry.work for entry in self.entries if entry.work.is_cell]
        readable = 0
        for run in [run for work in cells for run in work.runs if is_run(run)]:
            # Of one that cannot be read its cell says why.
            with suppress(StoreError), collection_paused():
                state = load_state(run)
                # Whoever asks next need not compare what the works' commands did.
                for work in (each for each in done if run in each.runs):
                    work.ended(run, self.ended, state, is_tried=True)
                if len(summaries) < most:
                    summaries += summarize_judges(state, run)
                readable += 1
        return summaries, readable

    def causes(self, failure: Callable[[BoardEntry], str]) -> list[list[BoardEntry]]:
        """Return the works that are not done, or not without gaps, each with those alike.

        `failure` says why a work failed: the same of two works but for names and numbers is one cause.
        """
        groups: dict[tuple[object, ...], list[BoardEntry]] = {}
        for entry in self.entries:
            if entry.lacks or entry.status is not Status.DONE:
                why = failure(entry) if entry.status is Status.FAILED else ""
                work = entry.work
                names = {work.name, *(run.name for run in work.runs), str(work.options.model)}
                for name in sorted(names, key=len, reverse=True):
                    why = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", "*", why)
                why = re.sub(r"\d+", "#", why)
                key = (entry.status, bool(entry.lacks), entry.error is None, why)
                groups.setdefault(key, []).append(entry)
        return list(groups.values())

    def _settle(self, entry: BoardEntry, standing: WorkStatus) -> None:
        status = Status.DONE if standing.is_done else Status.WAITING
        if (entry.status, entry.lacks) != (status, standing.lacks):
            entry.lacks = standing.lacks
            self._set(entry, status)

    def _set(self, entry: BoardEntry, status: Status) -> None:
        entry.status = status
        self.changed(entry)
