"""Small parts of getting requests out: time, turns, room in memory, and when to give up on rejections."""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum

from vlsb.config import RetryPolicy
from vlsb.endpoints.faults import Fault
from vlsb.errors import GapsError
from vlsb.records import Untrusted

Sleep = Callable[[float], Awaitable[None]]
Clock = Callable[[], float]

ENDED_ALIKE_LIMIT = 20
"""Distinct samples in a row that end for the same reason before the run stops."""


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
    """So many at a time. First come, first served, retries before newcomers."""

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


class Rejections:
    """Notices an endpoint at which every sample ends for the same reason: the next ones would too."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._code = ""
        self._samples: set[int] = set()

    def succeeded(self) -> None:
        """Any served request: not all are rejected."""
        self._samples.clear()

    def ended(self, sample_id: int, fault: Fault, code: str, message: Untrusted) -> None:
        """Count a sample that ended in an error. Raises GapsError when there are too many alike."""
        counts = fault in (Fault.ITEM_PERMANENT, Fault.BAD_PAYLOAD)
        if not counts or code != self._code:
            self._samples.clear()
        if not counts:
            return
        self._code = code
        self._samples.add(sample_id)
        if len(self._samples) >= ENDED_ALIKE_LIMIT:
            raise GapsError(
                f"{self._name}: {len(self._samples)} samples in a row ended for the same reason "
                f"({code}). Fix what it complains about, then resume",
                detail=message,
            )


CUT = 0.8
RESTART_CUT = 0.5
GROWTH = 0.05
COOLDOWN_S = 15.0
# Growth without need would let the first burst overrun a limit that was never tested.
SATURATED_SHARE = 0.8


class Phase(StrEnum):
    """Why the limit is what it is."""

    SLOW_START = "slow start"
    GROWING = "growing"
    RATE_LIMIT = "rate limit"
    CEILING = "cap"


class AdaptiveLimit:
    """The limit of one lane. `limit` is always between `floor` and `ceiling`."""

    def __init__(self, *, start: int, ceiling: int, floor: int, clock: Callable[[], float]) -> None:
        self.floor = min(floor, ceiling)
        self.ceiling = ceiling
        self.limit = max(self.floor, min(start, ceiling))
        self._clock = clock
        self._is_slow_start = True
        self._cooldown_until = float("-inf")
        self._said = self.limit
        self._start = self.limit
        self._refused_until = float("-inf")
        self._clean = 0
        self._was_saturated = False

    @property
    def phase(self) -> Phase:
        """Why the limit is what it is."""
        if self._clock() < max(self._cooldown_until, self._refused_until):
            return Phase.RATE_LIMIT
        if self.limit >= self.ceiling:
            return Phase.CEILING
        return Phase.SLOW_START if self._is_slow_start else Phase.GROWING

    def succeeded(self, *, in_flight: int, is_retry: bool) -> None:
        """A request was served while `in_flight` were under way, itself included.

        After as many clean ones as the limit (a round), the limit grows if it was in the way. Retries
        and answers during a cooldown say nothing about a higher limit.
        """
        if is_retry or self._clock() < self._cooldown_until:
            return
        self._clean += 1
        self._was_saturated |= in_flight >= SATURATED_SHARE * self.limit
        if self._clean >= self.limit and self._was_saturated:
            step = self.limit if self._is_slow_start else max(1, math.ceil(self.limit * GROWTH))
            self.limit = min(self.ceiling, self.limit + step)
            self._begin_round()

    def rate_limited(self, *, pause_s: float, cuts: bool = True, too_steep: bool = False) -> None:
        """The provider said no. Unless it `cuts`, that is about the rate, and connections stay.

        Cut once an episode, which lasts for the cooldown and for every pause. `too_steep` (the provider
        says "slow down") starts over from a lower limit.
        """
        now = self._clock()
        self._refused_until = now + max(pause_s, COOLDOWN_S)
        if not cuts:
            return
        if now >= self._cooldown_until:
            self.limit = max(self.floor, int(self.limit * (RESTART_CUT if too_steep else CUT)))
            self._is_slow_start = too_steep
            self._cooldown_until = now + COOLDOWN_S
        self._cooldown_until = max(self._cooldown_until, now + pause_s)
        self._begin_round()

    def faltered(self) -> None:
        """A server error, timeout or broken reply: this round proves nothing."""
        self._begin_round()

    def restart(self) -> None:
        """The endpoint came back from an outage: it is not met with everything at once."""
        self.limit = min(self.limit, self._start)
        self._is_slow_start = True
        self._begin_round()

    def has_changed(self) -> bool:
        """Whether the limit is another one than when this was asked last."""
        before, self._said = self._said, self.limit
        return before != self.limit

    def _begin_round(self) -> None:
        self._clean = 0
        self._was_saturated = False
