"""When a request may leave: the shared gate, the connection limit and the circuit breaker.

A 429 seen by one request pauses everybody at the gate, once an episode. The breaker watches how samples
end: it stops a run that is rejected for one reason, and waits out an endpoint that went down.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from vlsb.config import RetryPolicy
from vlsb.endpoints.faults import Fault
from vlsb.endpoints.pace import Caps, Pace
from vlsb.errors import GapsError, OutageError
from vlsb.records import Untrusted

Sleep = Callable[[float], Awaitable[None]]
Clock = Callable[[], float]

ENDED_ALIKE_LIMIT = 20
"""Distinct samples in a row that end for the same reason before the breaker opens."""


@dataclass(frozen=True, slots=True)
class Time:
    """The clock, sleep and dice of a run; tests bring their own."""

    clock: Clock
    sleep: Sleep
    uniform: Callable[[float, float], float] = random.uniform


def backoff_s(policy: RetryPolicy, retries: int, time: Time) -> float:
    """Full jitter: anything up to base x 2^retries, capped. `retries` counts from 0."""
    return time.uniform(0.0, min(policy.backoff_cap_s, policy.backoff_s * 2 ** min(retries, 30)))


class Limiter:
    """How many requests of a lane may be in flight. First come, first served, retries before newcomers."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_flight = 0
        # Futures of those who wait. Cancelled ones stay until their turn and are skipped.
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def is_awaited(self) -> bool:
        """Whether anybody waits for a slot."""
        return bool(self._waiting)

    async def acquire(self, *, ahead: bool = False) -> None:
        """Take a slot, waiting for one if need be; `ahead` of those who never had one."""
        if self.in_flight < self.limit:
            self.in_flight += 1
            return
        turn = asyncio.get_running_loop().create_future()
        (self._waiting.appendleft if ahead else self._waiting.append)(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()  # granted and cancelled in the same moment
            raise

    def release(self) -> None:
        """Give a slot back to whoever waits longest."""
        self.in_flight -= 1
        self._grant()

    def resize(self, limit: int) -> None:
        """Change the limit; what is in flight above a lower one finishes."""
        self.limit = limit
        self._grant()

    def _grant(self) -> None:
        while self._waiting and self.in_flight < self.limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self.in_flight += 1
                turn.set_result(None)


class UploadBudget:
    """Bounds the bytes of request bodies in memory, over all lanes, first come, first served.

    One body larger than the budget may pass when nothing else is in memory.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._free = budget_bytes
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def reserved(self, size: int) -> AsyncIterator[Callable[[], None]]:
        """Hold room for a body; what is yielded gives it back early, at the latest the end of the block."""
        share = min(size, self._budget)
        await self._take(share)
        is_held = True

        def give_back() -> None:
            nonlocal is_held
            if is_held:
                is_held = False
                self._free += share
                self._grant()

        try:
            yield give_back
        finally:
            give_back()

    async def _take(self, share: int) -> None:
        if share <= self._free and not self._waiting:
            self._free -= share
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((share, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._free += share  # granted and cancelled in the same moment
            self._grant()
            raise

    def _grant(self) -> None:
        while self._waiting and (self._waiting[0][1].done() or self._waiting[0][0] <= self._free):
            share, turn = self._waiting.popleft()
            if not turn.done():
                self._free -= share
                turn.set_result(None)


class Gate:
    """One rate limit, shared by everybody who meets it: closed until a point in time.

    `pace` spreads departures below a known limit, so that the gate seldom has to close. After a pause
    that the provider did not explain, one request goes ahead alone: if it is refused too, only one was.
    `on_episode` hears of each rate-limit episode once, with its pause in seconds and its code.
    """

    def __init__(self, policy: RetryPolicy, time: Time, pace: Pace | None = None) -> None:
        self.pace = pace or Pace(Caps(), time.clock)
        self.on_episode: list[Callable[[float, str], None]] = []
        self._policy = policy
        self._time = time
        self._opens_at = float("-inf")
        self._closed_s = 0.0
        self._episode_began = float("-inf")
        self._episodes = 0
        self._needs_scout = False
        self._scout: asyncio.Task[Any] | None = None
        self._scout_is_back = asyncio.Event()

    def closed_for_s(self) -> float:
        """Seconds until the gate opens; 0 when it is open."""
        return max(0.0, self._opens_at - self._time.clock())

    def closed_so_far_s(self) -> float:
        """Seconds that the gate has been closed since the beginning."""
        return self._closed_s - self.closed_for_s()

    async def wait(self) -> None:
        """Return when the gate is open and the pace allows a request; both may change again."""
        while True:
            # Decided by one look at the clock: between two of them the gate may open.
            if (remaining := max(self.closed_for_s(), self.pace.wait_s())) > 0:
                await self._time.sleep(remaining)
            elif self._is_waiting_for_scout:
                self._scout_is_back.clear()
                await self._scout_is_back.wait()
            else:
                return

    def is_open(self) -> bool:
        """Whether a request may leave right now."""
        return not (self.closed_for_s() or self.pace.wait_s() or self._is_waiting_for_scout)

    @property
    def _is_waiting_for_scout(self) -> bool:
        return self._needs_scout and self._scout is not None

    def depart(self) -> float:
        """This task's request leaves; returns the tokens booked for it."""
        if self._needs_scout:
            self._scout = asyncio.current_task()
        return self.pace.depart()

    def leave(self) -> None:
        """This task's request is over, whatever came of it."""
        if self._scout is not None and self._scout is asyncio.current_task():
            self._scout = None
            self._scout_is_back.set()

    def rate_limited(self, *, sent_at: float, wait_s: float | None, code: str = "") -> float | None:
        """Close the gate after a 429 of a request sent at `sent_at`.

        Returns the pause in seconds if this began a new episode, None if the request was sent before
        the running one: then only a longer explicit wait moves the gate.
        """
        now = self._time.clock()
        if sent_at <= self._episode_began:
            self._close_until(now + (wait_s or 0.0))
            return None
        pause = wait_s if wait_s is not None else self._computed_wait()
        self._episodes += 1
        self._needs_scout = wait_s is None
        self._episode_began = now
        self._close_until(now + pause)
        for hear in self.on_episode:
            hear(pause, code)
        return pause

    def _close_until(self, moment: float) -> None:
        closed_from = max(self._opens_at, self._time.clock())
        if moment > closed_from:
            self._closed_s += moment - closed_from
            self._opens_at = moment

    def _computed_wait(self) -> float:
        # Never near zero: failed requests count against a per-minute limit.
        longest = min(self._policy.backoff_cap_s, self._policy.backoff_s * 2 ** min(self._episodes, 30))
        return self._time.uniform(longest / 2, longest)

    def succeeded(self, *, sent_at: float = float("inf")) -> None:
        """A request sent since the last episode was served: the next one starts from a short wait again."""
        if sent_at > self._episode_began:
            self._episodes = 0
            self._needs_scout = False
            self._scout_is_back.set()


class Breaker:
    """Notices an endpoint that fails every sample alike.

    Closed, it lets everybody pass. Rejections for one reason end the run. Transient failures open it:
    then one request at a time probes, and the first success closes it again.
    """

    def __init__(self, policy: RetryPolicy, time: Time, *, name: str) -> None:
        self._policy = policy
        self._time = time
        self._name = name
        self._reason: tuple[Fault, str] | None = None
        self._samples: set[int] = set()
        self._opened_at: float | None = None
        self._prober: asyncio.Task[Any] | None = None
        self._probes = 0
        self._changed = asyncio.Event()

    @property
    def is_open(self) -> bool:
        """Whether the endpoint is taken to be down."""
        return self._opened_at is not None

    def succeeded(self) -> None:
        """Any served request proves that the endpoint works."""
        self._reason = None
        self._samples.clear()
        self.answered()

    def answered(self) -> None:
        """A definite answer, a rejection included, proves that the endpoint is not down."""
        if self.is_open:
            self._opened_at = None
            self._wake()

    def ended(self, sample_id: int, fault: Fault, code: str, message: Untrusted) -> bool:
        """Count a sample that ended in an error; True if this opened the breaker.

        Raises GapsError when the endpoint keeps rejecting samples for the same reason.
        """
        if fault is Fault.RATE_LIMITED:
            return False
        reason = (fault, code)
        if reason != self._reason:
            self._reason = reason
            self._samples.clear()
        self._samples.add(sample_id)
        if len(self._samples) < ENDED_ALIKE_LIMIT or self.is_open:
            return False
        if fault is Fault.ITEM_PERMANENT:
            raise GapsError(
                f"{self._name}: {len(self._samples)} samples in a row were rejected for the same reason "
                f"({code}). Fix what it complains about, then resume",
                detail=message,
            )
        self._opened_at = self._time.clock()
        self._probes = 0
        return True

    async def admit(self) -> None:
        """Return when this task may send: at once when closed, one task at a time when open.

        Raises OutageError when the endpoint stayed down for the policy's outage timeout.
        """
        while self.is_open and self._prober is not None:
            self._changed.clear()
            await self._changed.wait()
        if self.is_open:
            self._prober = asyncio.current_task()
            await self._before_probe()

    def admits(self) -> bool:
        """Whether this task may send right now."""
        return not self.is_open or self._prober is asyncio.current_task()

    def leave(self) -> None:
        """This task's request is over: let the next probe go."""
        if self._prober is asyncio.current_task():
            self._prober = None
            self._wake()

    async def _before_probe(self) -> None:
        assert self._opened_at is not None
        pause = min(self._policy.probe_cap_s, self._policy.backoff_s * 2 ** min(self._probes, 30))
        self._probes += 1
        left = self._opened_at + self._policy.outage_timeout_s - self._time.clock()
        if left <= 0:
            raise OutageError(
                f"{self._name}: no answer for {self._policy.outage_timeout_s:g} s "
                f"({self._reason[1] if self._reason else 'unknown'}). Resume when it is back, "
                "or wait longer with --outage-timeout."
            )
        await self._time.sleep(min(pause, left))

    def _wake(self) -> None:
        self._changed.set()
