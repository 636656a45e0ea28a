"""What refuses requests at real providers: five ways to count, on whatever clock the caller has.

Each says of a request whether it passes and how long it is held, and what the headers would name: how much
is left, and when. A stranger spends from the same limit.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol


class Limiter(Protocol):
    """Counts units (requests, tokens) against a limit of `limit` in `period_s`."""

    limit: float
    period_s: float

    def admit(self, now: float, units: float = 1.0) -> float | None:
        """Seconds for which the request is held; None if it is refused."""

    def remaining(self, now: float) -> float:
        """How many units are left."""

    def reset_s(self, now: float) -> float:
        """Seconds until all of them are back."""


class TokenBucket:
    """Refilled evenly, holding at most `burst`: most providers, and nginx with `nodelay`."""

    def __init__(self, limit: float, period_s: float = 60.0, *, burst: float | None = None) -> None:
        self.limit, self.period_s = limit, period_s
        self._burst = limit if burst is None else burst
        self._left = self._burst
        self._at = float("-inf")

    def _refill(self, now: float) -> None:
        passed, self._at = now - self._at, now
        self._left = min(self._burst, self._left + passed * self.limit / self.period_s)

    def admit(self, now: float, units: float = 1.0) -> float | None:
        """Pass while there is something in the bucket."""
        self._refill(now)
        if self._left < units:
            return None
        self._left -= units
        return 0.0

    def remaining(self, now: float) -> float:
        """What is in the bucket."""
        self._refill(now)
        return self._left

    def reset_s(self, now: float) -> float:
        """Until the bucket is full."""
        self._refill(now)
        return (self._burst - self._left) * self.period_s / self.limit


class LeakyBucket(TokenBucket):
    """nginx without `nodelay`: what is above the rate waits for its turn, what is above `burst` goes."""

    def admit(self, now: float, units: float = 1.0) -> float | None:
        """Pass in turn."""
        if super().admit(now, units) is None:
            return None
        return max(0.0, (self._burst - self._left - units) * self.period_s / self.limit)


class FixedWindow:
    """So many in each window; windows follow each other from the first request on."""

    def __init__(self, limit: float, period_s: float = 60.0) -> None:
        self.limit, self.period_s = limit, period_s
        self._began: float | None = None
        self._used = 0.0

    def _turn(self, now: float) -> float:
        began = now if self._began is None else self._began
        passed = int((now - began) / self.period_s)
        if passed > 0:
            began, self._used = began + passed * self.period_s, 0.0
        self._began = began
        return began

    def admit(self, now: float, units: float = 1.0) -> float | None:
        """Pass until the window is used up."""
        self._turn(now)
        if self._used + units > self.limit:
            return None
        self._used += units
        return 0.0

    def remaining(self, now: float) -> float:
        """What is left of the window."""
        self._turn(now)
        return self.limit - self._used

    def reset_s(self, now: float) -> float:
        """Until the next window."""
        return self._turn(now) + self.period_s - now


class SlidingWindow:
    """So many in any stretch of time as long as the window."""

    def __init__(self, limit: float, period_s: float = 60.0) -> None:
        self.limit, self.period_s = limit, period_s
        self._passed: deque[tuple[float, float]] = deque()
        self._used = 0.0

    def _forget(self, now: float) -> None:
        while self._passed and self._passed[0][0] <= now - self.period_s:
            self._used -= self._passed.popleft()[1]

    def admit(self, now: float, units: float = 1.0) -> float | None:
        """Pass while the last window has room."""
        self._forget(now)
        if self._used + units > self.limit:
            return None
        self._used += units
        self._passed.append((now, units))
        return 0.0

    def remaining(self, now: float) -> float:
        """The room in the last window."""
        self._forget(now)
        return self.limit - self._used

    def reset_s(self, now: float) -> float:
        """Until the oldest is forgotten."""
        self._forget(now)
        return self._passed[0][0] + self.period_s - now if self._passed else 0.0


class WithStranger:
    """A limiter from which somebody else takes so many units a second, evenly, as far as they are let."""

    def __init__(self, limiter: Limiter, per_s: float) -> None:
        self.limit, self.period_s = limiter.limit, limiter.period_s
        self._limiter, self._per_s = limiter, per_s
        self._next: float | None = None

    def _let_in(self, now: float) -> None:
        moment = now if self._next is None else self._next
        while moment <= now:
            self._limiter.admit(moment)
            moment += 1 / self._per_s
        self._next = moment

    def admit(self, now: float, units: float = 1.0) -> float | None:
        """After the stranger's requests that came before."""
        self._let_in(now)
        return self._limiter.admit(now, units)

    def remaining(self, now: float) -> float:
        """What both have left."""
        self._let_in(now)
        return self._limiter.remaining(now)

    def reset_s(self, now: float) -> float:
        """As the limiter says."""
        self._let_in(now)
        return self._limiter.reset_s(now)
