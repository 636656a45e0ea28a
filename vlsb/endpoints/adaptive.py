"""How many requests a lane may have in flight, learned from what the provider says.

Slow start, then additive increase and multiplicative decrease: double each clean round until the first
rate-limit episode; one cut an episode; then a little more each round. Server errors freeze growth and
never cut. Pure: it knows a clock and what it is told.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum

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
