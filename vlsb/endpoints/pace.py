"""Requests and tokens a minute: departures spread so that a provider's limit is met, not hit.

A limit comes from the user (`--rpm`, `--tpm`) or from the provider's headers. Each departure books its
share of the minute; a wrong guess of a request's tokens is settled when its usage is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vlsb.endpoints.headers import count_header, duration_s

MINUTE_S = 60.0
# A provider's window and ours do not start together, and arrivals jitter: aim just below the limit.
AIM = 0.985
CATCH_UP_S = 0.5
# Counts and limits come from strangers: no request is worth a longer wait, nor has one more tokens.
LONGEST_WAIT_S = 3600.0
MOST_TOKENS = 10**7
# How fast the guess of a request's tokens follows what usage reports.
TOKEN_SMOOTHING = 0.1


class Meter:
    """One limit a minute, as the time at which the next unit is free."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.per_minute: float | None = None
        self._clock = clock
        self._free_at = float("-inf")

    def wait_s(self) -> float:
        """Seconds until something may depart."""
        return 0.0 if self.per_minute is None else max(0.0, self._free_at - self._clock())

    def book(self, units: float) -> None:
        """Count units as departed; negative to give back what was booked too much."""
        if self.per_minute is not None:
            # A timer that fired late may catch up a little; an idle minute is not saved up.
            start = max(self._free_at, self._clock() - CATCH_UP_S) if units > 0 else self._free_at
            free_at = start + units * MINUTE_S / (self.per_minute * AIM)
            self._free_at = min(free_at, self._clock() + LONGEST_WAIT_S)

    def hold(self, seconds: float) -> None:
        """Nothing is left for so long, whatever we counted."""
        self._free_at = max(self._free_at, self._clock() + seconds)


@dataclass(frozen=True, slots=True)
class Caps:
    """What the user allows a minute; None leaves it to the provider's headers."""

    rpm: float | None = None
    tpm: float | None = None


class Pace:
    """When the next request of an endpoint may leave, by requests and by tokens a minute."""

    def __init__(self, caps: Caps, clock: Callable[[], float]) -> None:
        self._caps = caps
        self._requests = Meter(clock)
        self._tokens = Meter(clock)
        self._requests.per_minute = caps.rpm
        self._tokens.per_minute = caps.tpm
        # Unknown until the first usage: the preflight's, which goes alone.
        self.tokens_per_request = 0.0

    @property
    def rpm(self) -> float | None:
        """Requests a minute in force."""
        return self._requests.per_minute

    @property
    def tpm(self) -> float | None:
        """Tokens a minute in force."""
        return self._tokens.per_minute

    def wait_s(self) -> float:
        """Seconds until a request may leave."""
        return max(self._requests.wait_s(), self._tokens.wait_s())

    def depart(self) -> float:
        """Book one request; returns the tokens booked for it, to be settled with `arrived`."""
        booked = self.tokens_per_request
        self._requests.book(1.0)
        self._tokens.book(booked)
        return booked

    def arrived(self, *, booked: float, tokens: int | None) -> None:
        """Settle a request whose usage is known; None if the endpoint did not say."""
        if tokens is None or tokens > MOST_TOKENS:
            return
        self._tokens.book(tokens - booked)
        first = self.tokens_per_request == 0.0
        weight = 1.0 if first else TOKEN_SMOOTHING
        self.tokens_per_request += weight * (tokens - self.tokens_per_request)

    def heard(self, headers: Mapping[str, str], *, now: float) -> None:
        """Learn a limit from a reply's headers, and hold when they say that nothing is left.

        The user's own caps win where they are lower. `now` is Unix time.
        """
        for kind, meter, cap in (
            ("requests", self._requests, self._caps.rpm),
            ("tokens", self._tokens, self._caps.tpm),
        ):
            limit = count_header(headers, "limit", kind)
            # Below one a minute it is a broken or hostile number, and one request would book a year.
            if limit is not None and limit >= 1:
                meter.per_minute = limit if cap is None else min(limit, cap)
            left = count_header(headers, "remaining", kind)
            reset = duration_s(headers.get(f"x-ratelimit-reset-{kind}", ""), now=now)
            if left is not None and reset is not None and left <= 0 and reset <= MINUTE_S:
                meter.hold(reset)
