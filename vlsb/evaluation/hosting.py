"""A local judge's engines for several sessions in turn: started once, joined by each, ended after them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial

from vlsb.engines.registry import ServerRecord
from vlsb.evaluation.leasing import Surroundings
from vlsb.evaluation.opening import judge_hosted
from vlsb.evaluation.options import RunOptions

_LOOK_EVERY_S = 0.2


@contextmanager
def judge_served(options: RunOptions, surroundings: Surroundings) -> Iterator[tuple[ServerRecord, ...]]:
    """Hold the engines of the one local judge for as long as the block lasts. Raises as `judge_hosted`."""
    host = _Host(partial(judge_hosted, options, surroundings))
    host.start()
    try:
        yield host.wait_until_up()
    finally:
        host.stop()


@dataclass(eq=False)
class _Host:
    """A thread whose event loop holds the engines: each session runs and closes a loop of its own."""

    open_engines: Callable[[], AbstractAsyncContextManager[tuple[ServerRecord, ...]]]
    _records: tuple[ServerRecord, ...] = ()
    _is_up: threading.Event = field(default_factory=threading.Event)
    _problem: BaseException | None = None
    _cancel: Callable[[], object] | None = None
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="judge's engines")
        self._thread.start()

    def wait_until_up(self) -> tuple[ServerRecord, ...]:
        """The engines, when they answer; raises what kept them from that. A signal is heard meanwhile."""
        while not self._is_up.wait(_LOOK_EVERY_S):
            pass
        if self._problem is not None:
            raise self._problem
        return self._records

    def stop(self) -> None:
        """End the engines in order, also those that are being started."""
        assert self._thread is not None
        while self._thread.is_alive():
            if self._cancel is not None:
                self._cancel()
            self._thread.join(_LOOK_EVERY_S)

    def _run(self) -> None:
        try:
            asyncio.run(self._hold())
        except asyncio.CancelledError:
            pass
        # Whatever it is, it is raised in the thread that waits for the engines.
        except BaseException as error:  # noqa: BLE001
            self._problem = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error
        finally:
            self._is_up.set()

    async def _hold(self) -> None:
        loop, stopped = asyncio.get_running_loop(), asyncio.Event()
        task = asyncio.current_task()
        assert task is not None
        self._cancel = partial(loop.call_soon_threadsafe, task.cancel)
        async with self.open_engines() as records:
            self._records = records
            self._is_up.set()
            self._cancel = partial(loop.call_soon_threadsafe, stopped.set)
            await stopped.wait()
