"""The world of one history: whatever the program asks of the system is answered from the seed.

Clock, dates, random numbers, names of batches, threads and sockets are the world's while the `with` lasts.
Files are real, in a directory of the history.
"""

from __future__ import annotations

import asyncio
import gc
import random
import secrets
import sys
import threading
import time
import warnings
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cache
from types import ModuleType
from typing import Any, TypeVar
from unittest.mock import patch
from weakref import WeakSet

import vlsb.api
import vlsb.data.image_files
import vlsb.endpoints.client
import vlsb.endpoints.connect
import vlsb.simulator.server
import vlsb.steps
from tests.simulation.loop import LONGEST_THREAD_S, SimulatedLoop
from vlsb.config import UPLOAD_BYTES
from vlsb.endpoints.rate_limits import Accounts
from vlsb.endpoints.traffic import UploadBudget
from vlsb.endpoints.transport import Upload

_Result = TypeVar("_Result")
BEGAN_AT = datetime(2026, 1, 1, tzinfo=UTC)


class Bodies:
    """The request bodies that are in memory. `most_bytes` were at once, `largest` is the largest one."""

    def __init__(self) -> None:
        self.most_bytes = self.largest = 0
        self._alive: WeakSet[Upload] = WeakSet()

    def add(self, upload: Upload) -> None:
        """Count a body until its pieces are taken."""
        self._alive.add(upload)
        self.largest = max(self.largest, upload.size)
        self.most_bytes = max(self.most_bytes, sum(each.size for each in self._alive if each._pieces))


class _InTurn:
    """A pool whose work is done when it is asked for."""

    def __init__(self, *_: object) -> None:
        pass

    def __enter__(self) -> _InTurn:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    map = staticmethod(map)


class World:
    """Everything around the program, on a seed. `skew_s` is how far the calendar was moved meanwhile."""

    def __init__(self, seed: str, *, budget_bytes: int = UPLOAD_BYTES) -> None:
        self.draw = random.Random(seed)
        self.loop = SimulatedLoop(self.draw)
        self.skew_s = 0.0
        self.bodies = Bodies()
        self._budget_bytes = budget_bytes

    @contextmanager
    def entered(self) -> Iterator[World]:
        """Answer for the system while the block runs."""
        world = self

        class Calendar(datetime):
            """Dates of the world."""

            @classmethod
            def now(cls, tz: tzinfo | None = None) -> Any:
                return (BEGAN_AT + timedelta(seconds=world.calendar_s)).astimezone(tz or UTC)

        class Thread:
            """Work that is done at a drawn moment, in the loop's own thread."""

            def __init__(self, target: Callable[[], None], **_: object) -> None:
                self._target = target

            def start(self) -> None:
                world.loop.call_later(world.draw.uniform(0, LONGEST_THREAD_S), self._target)

        class Threads:
            """`threading`, with threads of the world."""

            Event = threading.Event

        Threads.Thread = Thread  # type: ignore[attr-defined]
        bodies = self.bodies

        class CountedUpload(Upload):
            """A body whose memory is counted until it is let go."""

            def __init__(self, pieces: Iterable[bytes], on_sent: Callable[[], None] = lambda: None) -> None:
                super().__init__(pieces, on_sent)
                bodies.add(self)

        state = random.getstate()
        random.seed(self.draw.random())
        with ExitStack() as held:
            for name in ("monotonic", "perf_counter"):
                held.enter_context(patch.object(time, name, self.loop.time))
            for name in ("process_time", "thread_time"):
                held.enter_context(patch.object(time, name, lambda: 0.0))
            held.enter_context(patch.object(time, "time", lambda: BEGAN_AT.timestamp() + self.calendar_s))
            held.enter_context(patch.object(secrets, "token_hex", self._token))
            held.enter_context(patch.object(vlsb.steps, "threading", Threads))
            held.enter_context(patch.object(vlsb.simulator.server, "_bound_socket", self.loop.network.socket))
            for module in _that_tell_dates(len(sys.modules)):
                held.enter_context(patch.object(module, "datetime", Calendar))
            held.callback(random.setstate, state)
            held.enter_context(patch.object(vlsb.endpoints.client, "Upload", CountedUpload))
            held.enter_context(patch.object(vlsb.endpoints.connect, "tls_context", _tls_context))
            held.enter_context(patch.object(vlsb.data.image_files, "ThreadPoolExecutor", _InTurn))
            held.enter_context(patch.object(Accounts.__init__, "__defaults__", (self.loop.time,)))
            held.enter_context(patch.object(UploadBudget.__init__, "__defaults__", (self._budget_bytes,)))
            yield self

    @property
    def calendar_s(self) -> float:
        """Seconds of the calendar since the history began."""
        return self.loop.time() + self.skew_s

    def run(self, main: Coroutine[Any, Any, _Result]) -> _Result:
        """Run the program to its end."""
        asyncio.set_event_loop(self.loop)
        try:
            return self.loop.run_until_complete(main)
        finally:
            self.loop.set_exception_handler(lambda *_: None)
            asyncio.set_event_loop(None)

    def _token(self, length: int = 16) -> str:
        return self.draw.randbytes(length).hex()


# Certificates take longer to read than most sessions, and nothing here is encrypted.
_tls_context = cache(vlsb.endpoints.connect.tls_context)


@cache
def _that_tell_dates(_: int) -> list[ModuleType]:
    """The program's modules that ask for the date, found anew when there are more modules."""
    modules = [each for name, each in sys.modules.items() if name.startswith("vlsb.")]
    return [each for each in modules if getattr(each, "datetime", None) is datetime]


@contextmanager
def quietly() -> Iterator[None]:
    """Hide what a dead session says when its memory is freed, which is nobody's business.

    A session may not thaw what is frozen, neither alive nor as it is freed: collections would take long.
    """
    with (
        patch("sys.unraisablehook", lambda _: None),
        patch.multiple(gc, freeze=lambda: None, unfreeze=lambda: None),
        warnings.catch_warnings(),
    ):
        for kind in (RuntimeWarning, ResourceWarning):
            warnings.simplefilter("ignore", kind)
        yield
