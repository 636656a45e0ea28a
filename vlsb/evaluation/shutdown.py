"""How a run stops: politely, firmly, at once.

The first request to stop lets requests in flight finish for a while and starts no new one; the second
drops them; the third ends the process. A fatal error stops like the first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from vlsb.config import GRACE_S
from vlsb.endpoints.loops import end_at_once, signals_in_loop
from vlsb.endpoints.traffic import StoppedError, Traffic
from vlsb.errors import InterruptedRunError, VlsbError, machine_lack

_Result = TypeVar("_Result")


class Shutdown:
    """Owns the run's tasks and the reason why they stop.

    `reason` is the first error that stopped the run, None while it goes well.
    """

    def __init__(
        self, traffic: Traffic, *, say: Callable[[str], None], last_words: Callable[[], None]
    ) -> None:
        self.reason: VlsbError | None = None
        self._traffic = traffic
        self._say = say
        self._last_words = last_words
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting: set[asyncio.Future[Any]] = set()
        self._interrupts = 0
        self._group: asyncio.TaskGroup | None = None
        self._grace: asyncio.TimerHandle | None = None

    async def run_all(self, jobs: Sequence[Callable[[], Coroutine[Any, Any, object]]]) -> None:
        """Run every job at once and return when all have ended. What a job raises stops the run."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for job in jobs:
                    self.spawn(job)
        finally:
            self._group = None
            if self._grace is not None:
                self._grace.cancel()

    def spawn(self, job: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Run one more job beside those of `run_all`, which waits for it too; none once the run stops."""
        if self._group is None or self._traffic.is_stopping:
            return
        task = self._group.create_task(self._stop_on_error(job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def unless_stopped(self, job: Coroutine[Any, Any, _Result]) -> _Result:
        """Await a job's result. Raises StoppedError if the run is stopped meanwhile."""
        task = asyncio.ensure_future(job)
        self._starting.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            if self._traffic.is_stopping:
                raise StoppedError from None
            task.cancel()
            raise
        finally:
            self._starting.discard(task)

    async def _stop_on_error(self, job: Callable[[], Coroutine[Any, Any, object]]) -> None:
        try:
            await job()
        except StoppedError:
            pass
        except VlsbError as error:
            self.stop(error)
        except Exception as error:
            # Whatever was being done when memory, files or threads ran out: the sample has no part in it.
            if (lack := machine_lack(error)) is None:
                raise
            self.stop(lack)

    def stop(self, reason: VlsbError) -> None:
        """Start nothing new; what is in flight may finish within the grace period."""
        self.reason = self.reason or reason
        if self._traffic.is_stopping:
            return
        self._traffic.is_stopping = True
        for start in self._starting:
            start.cancel()
        for task in self._tasks - self._traffic.in_flight:
            if task is not asyncio.current_task():
                task.cancel()
        self._grace = asyncio.get_running_loop().call_later(GRACE_S, self.drop)

    def drop(self) -> None:
        """Give up on what is in flight."""
        for task in self._tasks:
            task.cancel()

    def interrupt(self) -> None:
        """Take one more Ctrl-C (or SIGTERM, or SIGHUP). Act before speaking: the terminal may be gone."""
        self._interrupts += 1
        if self._interrupts == 1:
            waiting = len(self._traffic.in_flight)
            self.stop(InterruptedRunError("Interrupted. Everything finished is stored."))
            requests = "1 request" if waiting == 1 else f"{waiting} requests"
            self._say(
                f"Stopping: {requests} in flight may finish for {GRACE_S:g} s. "
                "Press Ctrl-C again to drop what is left."
                if waiting
                else "Stopping."
            )
        elif self._interrupts == 2:
            self.drop()
            self._say("Dropping what is in flight.")
        else:
            end_at_once(self._last_words)

    def listening(self) -> AbstractContextManager[None]:
        """Turn signals into `interrupt` while the block runs."""
        return signals_in_loop(self.interrupt)
