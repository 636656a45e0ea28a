"""Limits that an endpoint of a history enforces and names in its headers, as providers do.

Each model has its own at each address, as accounts have. What is over it is refused, so what counts is what
vlsb does with what it was told: of the refusals that it could have foreseen there may be few.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from tests.simulation.network import LATENCY_S
from tests.support.limiters import FixedWindow, Limiter, SlidingWindow, TokenBucket

# A reply and a request take no longer than this through the network, in all their pieces.
ON_ITS_WAY_S = 6 * LATENCY_S[1]
# A bucket is asked a little faster than it fills, and within a second's window the ways of requests differ.
MOST_REFUSED = 2
MOST_REFUSED_SHARE = 0.1

Account = tuple[str, str]
"""A model and the address where it is asked."""


@dataclass(frozen=True)
class LimitPlan:
    """So many requests in `period_s` or, with `in_tokens`, their tokens; a bucket holds `burst` of them."""

    kind: Literal["fixed windows", "sliding window", "bucket"]
    requests: int
    period_s: float
    burst: int
    in_tokens: bool

    def units(self, tokens: int) -> int:
        """How much of it a request of so many tokens takes."""
        return tokens if self.in_tokens else 1

    def limiter(self, tokens: int) -> Limiter:
        """What counts requests of so many tokens."""
        units = self.units(tokens)
        if self.kind == "bucket":
            return TokenBucket(self.requests * units, self.period_s, burst=self.burst * units)
        window = FixedWindow if self.kind == "fixed windows" else SlidingWindow
        return window(self.requests * units, self.period_s)


def draw_limit(draw: random.Random) -> LimitPlan:
    """Draw a limit that a run of a few samples meets."""
    requests, period_s = draw.randint(2, 12), draw.choice((3.0, 10.0, 60.0))
    # What one leaves after the other may arrive together.
    burst = draw.randint(1 + int(requests / period_s * ON_ITS_WAY_S), requests)
    kind = draw.choice(("fixed windows", "sliding window", "bucket"))
    return LimitPlan(kind, requests, period_s, burst, draw.random() < 0.4)


@dataclass(frozen=True)
class Ruling:
    """What the headers of a request's reply name and, if it is refused, until when they say to wait."""

    headers: tuple[tuple[str, str], ...]
    refused_until: float | None


class Enforced:
    """A limit as one session meets it."""

    def __init__(self, plan: LimitPlan, tokens: int) -> None:
        self._plan = plan
        self._tokens = tokens
        self._limiters: dict[Account, Limiter] = {}
        self._sent = Counter[Account]()
        self._refused = Counter[Account]()
        # When an account's first reply had arrived, and the newest of its refusals.
        self._told: dict[Account, float] = {}
        self._told_again: dict[Account, float] = {}

    def rule(self, account: Account, now: float) -> Ruling:
        """Let a request pass or not."""
        limiter = self._limiters.setdefault(account, self._plan.limiter(self._tokens))
        is_refused = limiter.admit(now, self._plan.units(self._tokens)) is None
        self._sent[account] += 1
        self._refused[account] += is_refused and self._could_foresee(account, now)
        left, reset_s = int(limiter.remaining(now)), limiter.reset_s(now)
        unit = "tokens" if self._plan.in_tokens else "requests"
        headers = (
            (f"x-ratelimit-limit-{unit}", f"{limiter.limit:.0f}"),
            (f"x-ratelimit-remaining-{unit}", f"{left}"),
            (f"x-ratelimit-reset-{unit}", f"{reset_s:.6f}s"),
            (f"x-ratelimit-renewalperiod-{unit}", f"{limiter.period_s:.0f}"),
        )
        return Ruling(headers, now + reset_s if is_refused else None)

    def _could_foresee(self, account: Account, now: float) -> bool:
        """Whether a request was sent when its account had heard of the limit, and of the last refusal."""
        sent_at = now - ON_ITS_WAY_S
        return self._told.get(account, now) < sent_at and self._told_again.get(account, 0.0) < sent_at

    def tell(self, account: Account, now: float, *, is_refusal: bool) -> None:
        """Note that a reply has left, with its headers."""
        self._told.setdefault(account, now)
        if is_refusal:
            self._told_again[account] = now

    def problem(self) -> str | None:
        """Say where more was sent than the limit allowed."""
        for (lane, address), refused in self._refused.items():
            sent = self._sent[lane, address]
            if refused > MOST_REFUSED + MOST_REFUSED_SHARE * sent:
                return f"{lane} at {address} was over its limit with {refused} of {sent} requests"
        return None
