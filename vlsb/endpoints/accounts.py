"""Accounts: what requests of one key at one address share, in one run or over many: rates and pauses."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from vlsb.endpoints.credentials import Secret
from vlsb.endpoints.rates import Caps, Departure, RateModel
from vlsb.endpoints.traffic import Clock
from vlsb.errors import GapsError
from vlsb.records import Untrusted, Usage


class Account:
    """What requests of one account share: rates, rate-limit pauses, and the caps of those who use it."""

    def __init__(self, clock: Clock) -> None:
        self.rates = RateModel(Caps(), clock)
        self._clock = clock
        self._caps: list[Caps] = []
        self._paused_s = 0.0
        self._paused_until = float("-inf")
        # When the first request left that was refused with nothing accepted since.
        self._refused_since: float | None = None

    @contextmanager
    def limit_to(self, caps: Caps) -> Iterator[None]:
        """While the block runs the caps hold too: the lowest of all who use the account."""
        if not self._caps:
            # However long nobody asked, nobody was refused.
            self._refused_since = None
        self._caps.append(caps)
        self.rates.set_caps(Caps.lowest(self._caps))
        try:
            yield
        finally:
            self._caps.remove(caps)
            self.rates.set_caps(Caps.lowest(self._caps))

    def pause_s(self) -> float:
        """Seconds until requests may leave again, as far as a pause or an exhausted limit goes."""
        return self.rates.closed_s()

    def total_pause_s(self) -> float:
        """Seconds of pauses since the beginning."""
        return self._paused_s - max(0.0, self._paused_until - self._clock())

    def require_patience(self, name: str, patience_s: float, message: Untrusted | None = None) -> None:
        """Raise GapsError when nothing is accepted for longer than a sample may take.

        `message` is what the provider wrote about it.
        """
        pause_s, now = self.pause_s(), self._clock()
        patience = f"--sample-timeout {patience_s:g}"
        if pause_s > patience_s:
            what = f"asks for a pause of {pause_s:.0f} s, longer than {patience}"
        elif (
            self._refused_since is not None
            and now + self.rates.paused_s() - self._refused_since >= patience_s
        ):
            since_s = now - self._refused_since
            what = f"accepted no request for {since_s:.0f} s because of its rate limit ({patience})"
        else:
            return
        raise GapsError(f"{name} {what}", detail=message, advice="Resume later, or wait longer.")

    def accept(self, departure: Departure, usage: Usage | None) -> None:
        """A request was not refused."""
        self._refused_since = None
        self.rates.settle(departure, usage)

    def refuse(self, departure: Departure, wait_s: float | None) -> float | None:
        """A request was answered 429: the pause in seconds if that began one."""
        pause_s = self.rates.refuse(departure, wait_s)
        now = self._clock()
        until = now + self.rates.paused_s()
        self._paused_s += max(0.0, until - max(now, self._paused_until))
        self._paused_until = max(self._paused_until, until)
        since = departure.at if self._refused_since is None else min(self._refused_since, departure.at)
        self._refused_since = since
        return pause_s


class Accounts:
    """The accounts in use, which may outlive a run: runs of one process that share it share rate limits.

    One account is one address, key and model, whatever the key's variable is called. For one thread.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._accounts: dict[tuple[str, frozenset[Secret], str], Account] = {}

    def find(self, base_url: str, secrets: Iterable[Secret], model: str) -> Account:
        """Return the account that requests spend from; `model` is the name that its limits go by."""
        key = (base_url.rstrip("/").lower(), frozenset(secrets), model)
        return self._accounts.setdefault(key, Account(self._clock))
