"""Progress of long work (downloads, installs, conversions, engine starts), and a thread to do it in.

Work that blocks for minutes must not hold up Ctrl-C: whoever awaits it in a thread may give it up.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

from vlsb.records import Untrusted

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Step:
    """A report of progress. `stage` and `detail` may hold a stranger's words: only an encoder prints them.

    `number` of `count` is the place of the stage where its number is known. `line` is the last one of a log,
    `model` the local model that it is all for.
    """

    stage: str
    detail: str = ""
    done_bytes: int | None = None
    total_bytes: int | None = None
    number: int = 0
    count: int = 0
    line: Untrusted | None = None
    model: str = ""


OnProgress = Callable[[Step], None]


def ignore(step: Step) -> None:
    """Show nothing."""


class Durations:
    """How often something was done and how long it took, in seconds."""

    __slots__ = ("count", "last_s", "total_s")

    def __init__(self) -> None:
        self.count = 0
        self.total_s = 0.0
        self.last_s = 0.0

    def add(self, seconds: float) -> None:
        """Count one more."""
        self.count += 1
        self.total_s += seconds
        self.last_s = seconds

    @property
    def mean_s(self) -> float:
        """The mean, 0 if there is none."""
        return self.total_s / self.count if self.count else 0.0

    def describe(self) -> dict[str, Any]:
        """Count, sum and mean."""
        return {"count": self.count, "total_s": round(self.total_s, 6), "mean_s": round(self.mean_s, 6)}


def threaded(work: Callable[_Given, _Result]) -> Callable[_Given, Coroutine[Any, Any, _Result]]:
    """Do a function's blocking work in a thread, as `in_thread` does, wherever it is awaited."""

    @wraps(work)
    async def awaited(*args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        return await in_thread(lambda _: work(*args, **kwargs))

    return awaited


class _GivenUp(BaseException):
    """Ends a thread that nobody waits for any more."""


async def in_thread(work: Callable[[OnProgress], _Result], on_progress: OnProgress = ignore) -> _Result:
    """Do blocking work in a thread and return its result; the work is passed a function to report steps to.

    Cancelled, this returns at once: the work ends when it reports its next step, or with the process.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[_Result] = loop.create_future()
    is_given_up = threading.Event()

    def report(step: Step) -> None:
        if is_given_up.is_set():
            raise _GivenUp
        on_progress(step)

    def settle(settle_now: Callable[[], None]) -> None:
        # A loop that has been closed has nobody who waits.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(lambda: None if outcome.done() else settle_now())

    def run() -> None:
        try:
            result = work(report)
        # Whatever ended it is for whoever waits.
        except BaseException as error:  # noqa: BLE001
            settle(partial(outcome.set_exception, error))
        else:
            settle(partial(outcome.set_result, result))

    # A daemon: the threads of the loop's own executor would be waited for.
    threading.Thread(target=run, name="vlsb-work", daemon=True).start()
    try:
        return await outcome
    finally:
        is_given_up.set()
