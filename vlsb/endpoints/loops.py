"""The event loop that the wire runs on: uvloop's, which writes a large body without copying its rest.

A loop is always closed in order, whatever signals come: one that is torn away from its threads has them end
with a traceback.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any, TypeVar

from vlsb.errors import InterruptedRunError, too_few_files

_Result = TypeVar("_Result")
_FEWER_COLLECTIONS = 20_000
_FEWEST_FILES = 32
"""Streams, loop, lock, journals, an image on its way and a connection to each of two endpoints."""

STOPPING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The ways of asking a command to end."""


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A new loop: uvloop's where it is installed, else the standard library's."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def run(
    main: Coroutine[Any, Any, _Result],
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] = new_event_loop,
    last_words: Callable[[], None] = lambda: None,
) -> _Result:
    """`asyncio.run` on the fastest loop at hand.

    A signal that `main` has no handler for cancels it, and is raised as KeyboardInterrupt after the loop
    was closed in order; the third ends the process, after `last_words`.
    """
    # A loop that finds no room for its own files cannot even be closed in order.
    if 0 <= resource.getrlimit(resource.RLIMIT_NOFILE)[1] < _FEWEST_FILES:
        main.close()
        raise too_few_files(f"needs {_FEWEST_FILES} at least")
    runner = asyncio.Runner(loop_factory=loop_factory)
    with _signals_to(_Interrupts(last_words)) as interrupts, _fewer_collections():
        try:
            return runner.run(interrupts.cancelling(main))
        finally:
            interrupts.cancel = None
            runner.close()


@contextmanager
def _fewer_collections() -> Iterator[None]:
    """Thousands of waiting samples and all modules are no garbage.

    Looked through as often as usual, they took a fifth of a run's processor time.
    """
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(_FEWER_COLLECTIONS, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


class _Interrupts:
    """The signals that came while a loop ran.

    They cancel and never raise: an exception in the midst of uvloop leaves it unable to close in order.
    """

    def __init__(self, last_words: Callable[[], None]) -> None:
        self.count = 0
        self.cancel: Callable[[], object] | None = None
        self._last_words = last_words

    async def cancelling(self, main: Coroutine[Any, Any, _Result]) -> _Result:
        """Return the result of `main`, which signals cancel."""
        loop, task = asyncio.get_running_loop(), asyncio.ensure_future(main)
        self.cancel = partial(loop.call_soon_threadsafe, task.cancel)
        if self.count:
            task.cancel()
        return await task

    def count_one(self, number: int, frame: FrameType | None) -> None:
        """One more signal; the third ends the process."""
        self.count += 1
        if self.count > 2:
            end_at_once(self._last_words)
        if self.cancel is not None:
            self.cancel()


@contextmanager
def _signals_to(interrupts: _Interrupts) -> Iterator[_Interrupts]:
    """Pass the signals of the block on; KeyboardInterrupt at its end if there were any."""
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    before = {number: signal.getsignal(number) for number in STOPPING_SIGNALS}
    try:
        for number, handler in before.items():
            # What the caller ignores stays ignored: `nohup` means it.
            if handler is not signal.SIG_IGN:
                signal.signal(number, interrupts.count_one)
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if interrupts.count:
            raise KeyboardInterrupt


@contextmanager
def signals_in_loop(call: Callable[[], object]) -> Iterator[None]:
    """Have the running loop call `call` at each signal that asks to end, while the block runs."""
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in STOPPING_SIGNALS}
    # What the caller ignores stays ignored: `nohup` means it.
    taken = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in taken:
        loop.add_signal_handler(number, call)
    try:
        yield
    finally:
        for number in taken:
            loop.remove_signal_handler(number)
            signal.signal(number, before[number])


def end_at_once(last_words: Callable[[], None]) -> None:
    """End the process as interrupted, whatever still goes on in it."""
    try:
        last_words()
    finally:
        os._exit(InterruptedRunError.exit_code)
