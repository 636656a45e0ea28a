"""An event loop on a seed: time passes when nothing else can happen, ready tasks run in a drawn order.

Blocking work that a thread would do is done at a drawn moment, in the loop's own thread. A program that waits
for something that can never come raises `Deadlock`.
"""

from __future__ import annotations

import asyncio
import random
from asyncio import base_events
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from itertools import count
from typing import Any

from anyio._backends._asyncio import _task_states

from tests.simulation.network import Network

LONGEST_THREAD_S = 0.02
# A history that has not ended after a virtual day never will.
LONGEST_HISTORY_S = 24 * 3600.0
# Turns of the loop at one moment; the busiest of 400 histories took 15.
MOST_TURNS = 5_000


class Deadlock(AssertionError):
    """Nothing is ready and no timer runs, but the program has not ended."""


class _Numbered:
    """An identity that is the same in each replay of a seed, so that sets of these have one order."""

    _numbers = count()

    def __init__(self, *args: Any, **options: Any) -> None:
        self._number = next(_Numbered._numbers)
        super().__init__(*args, **options)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class SimulatedTask(_Numbered, asyncio.Task):  # type: ignore[type-arg]
    """A task with a number."""


class SimulatedFuture(_Numbered, asyncio.Future):  # type: ignore[type-arg]
    """A future with a number."""


class _NoSelector:
    """Nothing outside the loop can wake it: to wait is to move the clock."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop
        self._still = 0

    def select(self, timeout: float | None) -> list[object]:
        if timeout is None:
            raise Deadlock("nothing is ready, no timer runs, and the program has not ended")
        self._still = 0 if timeout else self._still + 1
        if self._still > MOST_TURNS:
            raise Deadlock(f"the program was busy for {MOST_TURNS:,} turns, and no time went by")
        self._loop.now_s += timeout
        if self._loop.now_s > LONGEST_HISTORY_S:
            raise Deadlock(f"the program has not ended after {LONGEST_HISTORY_S:g} virtual seconds")
        return []


class SimulatedLoop(base_events.BaseEventLoop):
    """The loop of one history. `on_step` is called after each turn."""

    def __init__(self, draw: random.Random, on_step: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.now_s = 0.0
        self.steps = 0
        self.signal_handlers: dict[int, Callable[[], None]] = {}
        self.network = Network(self, draw)
        self._draw = draw
        self.on_step = on_step
        self._selector = _NoSelector(self)
        # One tick of the clock: two timers of the same moment stay apart.
        self._clock_resolution = 1e-9
        _Numbered._numbers = count()
        self.set_task_factory(_task)

    def time(self) -> float:
        """Virtual seconds since the history began."""
        return self.now_s

    def forget(self) -> None:
        """Drop everything that was to come: the program was killed."""
        self.set_exception_handler(lambda *_: None)
        self._ready.clear()  # type: ignore[attr-defined]
        self._scheduled.clear()  # type: ignore[attr-defined]
        # anyio, below the SDK, keeps the tasks of scopes that were never left.
        _task_states.clear()

    def create_future(self) -> asyncio.Future[Any]:
        """A future whose place in a set follows from the seed."""
        return SimulatedFuture(loop=self)

    def call_soon_threadsafe(
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """There are no threads: everything is in the loop's own."""
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Do the work at a drawn moment, as a thread would."""
        future = self.create_future()

        def work() -> None:
            try:
                result = func(*args)
            except BaseException as error:  # noqa: BLE001
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        self.call_later(self._draw.uniform(0, LONGEST_THREAD_S), work)
        return future

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: Any) -> None:
        """Remember the handler; a history calls it."""
        self.signal_handlers[sig] = lambda: (callback(*args), None)[1]

    def remove_signal_handler(self, sig: int) -> bool:
        """Forget the handler."""
        return self.signal_handlers.pop(sig, None) is not None

    async def create_connection(
        self, protocol_factory: Any, host: Any = None, port: Any = None, **_: Any
    ) -> Any:
        """Connect within the history's network."""
        return await self.network.connect(protocol_factory, host, port)

    async def create_server(self, protocol_factory: Any, *_: Any, sock: Any = None, **__: Any) -> Any:
        """Listen within the history's network."""
        return self.network.listen(protocol_factory, sock)

    async def shutdown_asyncgens(self) -> None:
        """Nothing to wait for: generators end with their history."""

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """No thread was started."""

    def _process_events(self, event_list: object) -> None:
        """Nothing comes from outside."""

    def _run_once(self) -> None:
        self._mix_tasks()
        super()._run_once()  # type: ignore[misc]
        self.steps += 1
        self.on_step()

    def _mix_tasks(self) -> None:
        """Let the tasks that are ready run in a drawn order, each callback of the loop in its own place."""
        ready: deque[asyncio.Handle] = self._ready  # type: ignore[attr-defined]
        places = [place for place, handle in enumerate(ready) if _is_step(handle)]
        if len(places) > 1:
            order = places[:]
            self._draw.shuffle(order)
            handles = list(ready)
            for place, other in zip(places, order, strict=True):
                ready[place] = handles[other]


def _is_step(handle: asyncio.Handle) -> bool:
    callback = handle._callback  # type: ignore[attr-defined]
    return (
        isinstance(getattr(callback, "__self__", None), asyncio.Task) or "TaskStep" in type(callback).__name__
    )


def _task(
    loop: asyncio.AbstractEventLoop,
    coroutine: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
    **options: Any,
) -> asyncio.Future[Any]:
    return SimulatedTask(coroutine, loop=loop, **options)
