"""What all endpoints of a run share: patience and clock, who may still send, and room for bodies."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from vlsb.config import UPLOAD_BYTES, RetryPolicy
from vlsb.errors import ConfigError, LimitReachedError
from vlsb.records import Stage

Sleep = Callable[[float], Awaitable[None]]
Clock = Callable[[], float]


class StoppedError(Exception):
    """The run is stopping: this request was not sent and its sample is left as it is."""


@dataclass(frozen=True, slots=True)
class Time:
    """A run's clock and sleep, and where its random waits come from; tests bring their own."""

    clock: Clock
    sleep: Sleep
    uniform: Callable[[float, float], float] = random.uniform


@dataclass(slots=True)
class Spending:
    """What a command has sent and what that cost, in US dollars, over all its sessions.

    `most_usd` and `most_requests` are the most that it may, None for any. `reserved_usd` is put by for
    requests in batches: the most that they may cost, until it is known what they did. `uncounted` is who gave
    an answer without counting its tokens: nobody knows what that cost. `estimated` is who counted its input
    alone: what its answers cost is estimated from their length, rather too high, and `estimated_usd` is that
    part of `usd`, which no stored row has.
    """

    most_requests: int | None = None
    requests: int = 0
    most_usd: float | None = None
    usd: float = 0.0
    estimated_usd: float = 0.0
    reserved_usd: float = 0.0
    uncounted: str | None = None
    estimated: str | None = None

    @property
    def reached(self) -> str | None:
        """The option whose limit is reached, so that nothing more may be sent; None while there is more."""
        return self._limit_of(0.0)

    def _limit_of(self, usd: float) -> str | None:
        """Return the option that keeps one more request from being sent, which may cost so much."""
        if self.most_usd is not None:
            held = self.usd + self.reserved_usd
            if held >= self.most_usd or held + usd > self.most_usd:
                return "--max-cost"
        if self.most_requests is not None and self.requests >= self.most_requests:
            return "--max-requests"
        return None

    def require_left(self, usd: float = 0.0) -> None:
        """Raise LimitReachedError where a limit is reached, or would be by a request that costs so much.

        Raises ConfigError where nobody can tell what was spent.
        """
        if self.most_usd is not None and self.uncounted is not None:
            raise ConfigError(
                f"{self.uncounted}: its answers do not say how many tokens they took, so --max-cost "
                "cannot be held. Use --max-requests instead."
            )
        if (limit := self._limit_of(usd)) is not None:
            spent = f"${self.usd:,.4f}" if limit == "--max-cost" else f"{self.requests:,} requests"
            one_more = f", and one more request may cost ${usd:,.4f}" if usd and limit == "--max-cost" else ""
            estimated = ""
            if limit == "--max-cost" and self.estimated is not None:
                spent = f"about {spent}"
                estimated = f" Estimated: {self.estimated} does not count the tokens of its answers."
            raise LimitReachedError(
                f"{limit} is reached: {spent} by this command{one_more}. Everything finished is stored."
                f"{estimated}"
            )


@dataclass(slots=True)
class Traffic:
    """Which tasks have a request in flight, and whether new ones may start.

    `is_doomed` comes before `is_stopping`: what ends the run is known, and being put into words.
    """

    is_stopping: bool = False
    is_doomed: bool = False
    spending: Spending = field(default_factory=Spending)
    in_flight: set[asyncio.Task[object]] = field(default_factory=set)

    def require_open(self) -> None:
        """Raise StoppedError when nothing new may be sent."""
        if self.is_stopping or self.is_doomed:
            raise StoppedError

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """Let what the block does go on when the run is asked to stop. Raises StoppedError if it was."""
        self.require_open()
        task = asyncio.current_task()
        assert task is not None
        self.in_flight.add(task)
        try:
            yield
        finally:
            self.in_flight.discard(task)

    def spend_one(self) -> None:
        """Count a request that is about to leave; raises LimitReachedError when none is left, or no money.

        What is in flight by then may still cost something. Raises ConfigError where nobody can tell the cost.
        """
        self.spending.require_left()
        self.spending.requests += 1


class UploadBudget:
    """Bounds the bytes of request bodies in memory, over all endpoints, first come, first served.

    One body larger than the budget may pass when nothing else is in memory.
    """

    def __init__(self, budget_bytes: int = UPLOAD_BYTES) -> None:
        self._budget = budget_bytes
        self._free = budget_bytes
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def reserve(self, size: int) -> Callable[[], None]:
        """Wait for room for a body; what is returned gives it back, the first time that it is called."""
        share = min(size, self._budget)
        if share <= self._free and not self._waiting:
            self._free -= share
        else:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append((share, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._free += share  # granted and cancelled in the same moment
                self._grant()
                raise
        is_held = True

        def give_back() -> None:
            nonlocal is_held
            if is_held:
                is_held = False
                self._free += share
                self._grant()

        return give_back

    def _grant(self) -> None:
        while self._waiting and (self._waiting[0][1].done() or self._waiting[0][0] <= self._free):
            share, turn = self._waiting.popleft()
            if not turn.done():
                self._free -= share
                turn.set_result(None)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened at the target or the judge: names and numbers, never content.

    Of several replicas, `replica` is the number of the one where it happened, and `address` its host.
    `reason` is in words of ours, for the screen.
    """

    kind: str
    stage: Stage
    sample_id: int | None = None
    code: str = ""
    wait_s: float | None = None
    attempt: int | None = None
    status: int | None = None
    limit: int | None = None
    image_sha256: str | None = None
    replica: int | None = None
    address: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RunContext:
    """What all endpoints of a run go by; `observe` is called with every event."""

    policy: RetryPolicy
    time: Time
    traffic: Traffic
    observe: Callable[[Event], None]
    uploads: UploadBudget = field(default_factory=UploadBudget)
