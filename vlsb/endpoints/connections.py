"""How much an address can take: requests in flight, found out by what it serves, and whether it is down."""

from __future__ import annotations

import math
from enum import StrEnum

from vlsb.endpoints.traffic import Clock

DOWN_AFTER_SAMPLES = 3
"""Distinct samples that must have failed, with nothing answered since, before an endpoint is down."""
CUT = 0.8
RESTART_CUT = 0.5
GROWTH = 0.05
COOLDOWN_S = 15.0
# Growth without need would let the first burst overrun a limit that was never tested.
SATURATED_SHARE = 0.8


class Phase(StrEnum):
    """Why the limit of connections is what it is."""

    SLOW_START = "slow start"
    GROWING = "growing"
    RATE_LIMIT = "rate limit"
    CEILING = "cap"


class ConnectionLimit:
    """How many requests one endpoint may have in flight. `limit` is always between `floor` and `ceiling`."""

    def __init__(self, *, start: int, ceiling: int, floor: int, clock: Clock) -> None:
        self.floor = min(floor, ceiling)
        self.ceiling = ceiling
        self.limit = max(self.floor, min(start, ceiling))
        self._clock = clock
        self._is_slow_start = True
        self._cooldown_until = float("-inf")
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

    def count_success(self, *, in_flight: int, is_retry: bool) -> None:
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
            self.begin_round()

    def refuse(self, *, pause_s: float, cuts: bool = True, too_steep: bool = False) -> None:
        """Note that the provider said no. Unless it `cuts`, that is about the rate, and connections stay.

        Cut once during a cooldown, which lasts for every pause too. `too_steep` (the provider says "slow
        down") starts over from a lower limit.
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
        self.begin_round()

    def begin_round(self) -> None:
        """Count again: after a change, and after a server error, with which a round proves nothing."""
        self._clean = 0
        self._was_saturated = False

    def restart(self) -> None:
        """Note that the endpoint came back from an outage: it is not met with everything at once."""
        self.limit = min(self.limit, self._start)
        self._is_slow_start = True
        self.begin_round()


class Health:
    """Whether an endpoint is down: all that was in flight has failed, and nothing was answered since."""

    def __init__(self, clock: Clock) -> None:
        self.answers = 0
        self.outages = 0
        self.down_since: float | None = None
        self.code = ""
        self._clock = clock
        self._count = 0
        self._in_flight: set[int] = set()
        self._failing: set[int] = set()
        self._first_failure = 0

    def depart(self) -> int:
        """A request leaves: its number."""
        self._count += 1
        self._in_flight.add(self._count)
        return self._count

    def leave(self, number: int) -> None:
        """It is over."""
        self._in_flight.discard(number)

    def count_answer(self) -> float | None:
        """Anything but a failure came back; the seconds that the endpoint was down, if this ended that."""
        now = self._clock()
        self.answers += 1
        self._failing.clear()
        since, self.down_since = self.down_since, None
        return None if since is None else now - since

    def count_failure(self, number: int, sample_id: int, code: str, connections: int) -> bool:
        """A request brought nothing usable; True if by that the endpoint is down."""
        self.code = code
        if self.down_since is not None:
            return False
        if not self._failing:
            self._first_failure = self._count
        self._failing.add(sample_id)
        others = self._in_flight - {number}
        is_older_left = any(other <= self._first_failure for other in others)
        if len(self._failing) < (connections if is_older_left else 0) + DOWN_AFTER_SAMPLES:
            return False
        self.down_since = self._clock()
        self.outages += 1
        return True
