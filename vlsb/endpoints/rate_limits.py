"""At what rate requests may leave: the limits of one account, learned from headers and from refusals.

The model of rates is pure: it knows a clock and what it is told. An account is what requests of one key at
one address share, in one run or over many. A limit that headers name is followed by what they say is left,
because other people spend from it too. Where nothing is named, the rate that was accepted is the estimate:
small steps up while all goes well, a small step back for a refusal, and the accepted rate after a block.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from vlsb.endpoints.credentials import Secret
from vlsb.endpoints.headers import NamedLimit, Unit
from vlsb.endpoints.traffic import Clock
from vlsb.errors import GapsError
from vlsb.records import Untrusted, Usage

MINUTE_S = 60.0
# A provider's minute and ours do not start together: keep just below what the user allows.
AIM = 0.985
# A timer that fired late is caught up with, by no more than this: an idle second is not saved up.
CATCH_UP_S = 0.1
# Counts and limits come from strangers: no request is worth a longer wait, nor has one more tokens.
LONGEST_WAIT_S = 3600.0
MOST_TOKENS = 10**7
# How fast the guess of a request's tokens follows what usage reports.
TOKEN_SMOOTHING = 0.1

# What is left of a named limit is spent this much faster than it comes back, at most.
AHEAD = 1.04
WINDOW_AHEAD = 1.25
# So much of a limit is left alone, in seconds of its rate, because the newest reading is a latency old.
RESERVE_S = 0.2
FEWEST_LEFT = 2.0
MOST_RESERVED = 0.3
# Over how long a shortage is made good, and a surplus of a limit without a reset is spent.
SHORTAGE_S = 2.0
SURPLUS_S = 5.0
READING_S = 1.0
"""Readings this far apart tell how fast a limit comes back."""
SLOWEST_SHARE = 0.02
# What is left of a small limit is too coarse a number to wait for many periods.
FEWEST_IN_A_PERIOD = 5

GROWTH = 2e-4
"""How much a learned rate grows with each accepted request, at first."""
FASTEST_GROWTH = 1e-3
GROWTH_DOUBLES_AFTER = 500
IDLE_S = 0.5
SHORTEST_CYCLE_S = 1.0
FEWEST_PASSED = 8
STEP_BACK = 0.98
LONG_STEP_BACK = 0.95
CLUSTER = 5
CLUSTER_OF = 30
BLOCKED = 3
PROVEN_FLOOR = 0.9
PROVEN_FOR = 5000
FIRST_PAUSE_S = 0.1
PAUSES_WHILE_YOUNG_S = 1.0
PAUSE_SHARE = 0.05
YOUNG_S = 90.0
LONGEST_PAUSE_S = 30.0
BLOCKED_S = 1.0
SLOWEST_PER_S = 1 / 30


@dataclass(frozen=True, slots=True)
class Caps:
    """What the user allows a minute; None leaves it to the provider."""

    rpm: float | None = None
    tpm: float | None = None

    @classmethod
    def lowest(cls, caps: Iterable[Caps]) -> Caps:
        """Return the lowest of each."""
        all_caps = list(caps)
        return cls(
            min((each.rpm for each in all_caps if each.rpm is not None), default=None),
            min((each.tpm for each in all_caps if each.tpm is not None), default=None),
        )


@dataclass(slots=True, eq=False)
class Departure:
    """A request on its way, with what was booked for it."""

    at: float
    number: int
    booked: dict[Unit, float]


class Meter:
    """One rate, as the moment at which the next unit is free."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.per_s: float | None = None
        self._clock = clock
        self._free_at = -math.inf

    def wait_s(self) -> float:
        """Seconds until something may depart."""
        return 0.0 if self.per_s is None else max(0.0, self._free_at - self._clock())

    def is_tight(self) -> bool:
        """Tell whether whatever departs now had to wait for its share."""
        return self.per_s is not None and self._clock() - self._free_at < max(CATCH_UP_S, 0.5 / self.per_s)

    def book(self, units: float) -> None:
        """Count units as departed; negative to give back what was booked too much."""
        if self.per_s is not None:
            start = max(self._free_at, self._clock() - CATCH_UP_S)
            self._free_at = min(start + units / self.per_s, self._clock() + LONGEST_WAIT_S)

    def forget(self) -> None:
        """Nothing is saved up, and nothing is owed."""
        self._free_at = self._clock()


@dataclass(slots=True)
class _LimitSeen:
    left: float
    spent: float
    at: float


class NamedRate:
    """The rate that a limit of the headers allows, by what is left of it and how that changes."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.limit = 0.0
        self.per_s: float | None = None
        self.period_s = MINUTE_S
        self._clock = clock
        self._readings: deque[_LimitSeen] = deque()
        self._newest = -math.inf
        self._most_left = 0.0
        self._held_until = -math.inf
        self._has_windows = False

    def wait_s(self) -> float:
        """Seconds for which nothing is left."""
        return max(0.0, self._held_until - self._clock())

    def read(self, named: NamedLimit, *, sent_at: float, spent: float, cost: float) -> None:
        """A reply's headers; `spent` is what had left before that request, itself included.

        One more is expected to take `cost`, 0 where nobody knows.
        """
        if sent_at < self._newest:
            return
        self._newest = sent_at
        period = named.period_s or MINUTE_S
        if named.limit is not None and named.limit >= 1:
            self.limit = named.limit
        # A reset that is further away than a minute is none of a minute's window.
        if named.period_s is None and named.reset_s is not None and named.reset_s > MINUTE_S * 1.1:
            period = named.reset_s
        self.period_s = period
        if named.left is not None and named.reset_s is not None:
            self._note_windows(named.left, named.reset_s)
            if named.left <= 0:
                self._hold(named.reset_s)
        if period > MINUTE_S or not self.limit:
            # A day's limit is not a pace: it is spent as it comes, and waited for when it is gone.
            self.per_s = None
            return
        base = self.limit / period
        self.per_s = base * AIM if named.left is None else self._by_what_is_left(named, base, spent, cost)

    def _note_windows(self, left: float, reset_s: float) -> None:
        """Note a reset that is further away than a bucket takes to be full again."""
        if self.limit > 0:
            fill_s = (self.limit - left) / self.limit * self.period_s
            # Some round up to whole seconds.
            self._has_windows |= reset_s > fill_s + min(1.0, 0.1 * self.period_s)

    def _hold(self, reset_s: float) -> None:
        # A bucket's reset is when it is full again; a window's is when anything is.
        is_bucket = self.limit > 0 and abs(reset_s - self.period_s) < 0.02 * self.period_s
        if self._has_windows or not is_bucket:
            self._held_until = max(self._held_until, self._clock() + reset_s)

    def _by_what_is_left(self, named: NamedLimit, base: float, spent: float, cost: float) -> float:
        assert named.left is not None
        left = named.left
        self._most_left = max(self._most_left, left)
        comes_back = self._follow(left, spent, base)
        # Nothing comes back before a window ends: it is spent to the end.
        is_window = named.reset_s is not None and comes_back < SLOWEST_SHARE * base
        reserve = FEWEST_LEFT if is_window else max(FEWEST_LEFT, RESERVE_S * base)
        reserve = min(reserve, MOST_RESERVED * self._most_left)
        if left < reserve:
            over_s = SHORTAGE_S
        elif named.reset_s is not None:
            over_s = max(0.3 if is_window else 1.0, named.reset_s)
        else:
            over_s = SURPLUS_S
        rate = comes_back + (left - reserve) / over_s
        slowest = max(SLOWEST_SHARE * base, min(base / 2, FEWEST_IN_A_PERIOD * cost / self.period_s))
        return min((WINDOW_AHEAD if is_window else AHEAD) * base, max(slowest, rate))

    def _follow(self, left: float, spent: float, base: float) -> float:
        """Tell how fast the limit comes back to us: what is refilled, less what others take."""
        now = self._newest
        readings = self._readings
        readings.append(_LimitSeen(left, spent, now))
        while len(readings) > 1 and readings[1].at <= now - READING_S:
            readings.popleft()
        first = readings[0]
        if now - first.at < READING_S:
            return base
        rate = (left - first.left + spent - first.spent) / (now - first.at)
        if left >= 0.9 * self._most_left:
            rate = base  # it is full: what came back beyond that was not counted
        return min(base, max(-base, rate))


class LearnedRate:
    """The rate of requests that an account accepts, where nobody names one. None until a refusal."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.per_s: float | None = None
        self._clock = clock
        # Departures that were not refused, since when they are counted.
        self._passed = 0
        self._anchor = 0.0
        # The same since the last block ended: a window's worth, pauses and idle times included.
        self._passed_in_window = 0
        self._window_anchor: float | None = None
        self._last = -math.inf
        self._proven = 0.0
        self._is_ramping = False
        self._since_refusal = 0
        self._refused_at: deque[int] = deque(maxlen=CLUSTER)
        self._departed = 0

    def count_departure(self, *, is_binding: bool, is_blocked: bool) -> None:
        """A request leaves; the rate grows if it was what the request waited for."""
        now = self._clock()
        since_s = now - self._last
        if since_s > IDLE_S and not is_blocked:
            self._anchor, self._passed = now, 0
        self._last = now
        if self._window_anchor is None:
            self._window_anchor = now
        self._departed += 1
        self._passed += 1
        self._passed_in_window += 1
        self._since_refusal += 1
        if self.per_s is not None and is_binding and not is_blocked:
            growth = min(FASTEST_GROWTH, GROWTH * 2 ** (self._since_refusal / GROWTH_DOUBLES_AFTER))
            self.per_s *= 2 ** min(since_s, IDLE_S) if self._is_ramping else 1 + growth

    def count_refusal(self, departed_at: float) -> None:
        """One of them was refused."""
        self._passed -= departed_at >= self._anchor
        self._passed_in_window -= departed_at >= (self._window_anchor or 0.0)
        self._since_refusal = 0
        self._refused_at.append(self._departed)

    def reopen(self, at: float, *, is_blocked: bool, is_named: bool) -> None:
        """Requests come through again since `at`, `is_blocked` if not at the first try: settle on a rate.

        Where headers name one (`is_named`), a stray refusal teaches nothing, and what is learned passes.
        """
        passed, since = self._passed, self._anchor
        if is_blocked:
            passed, since = self._passed_in_window, self._window_anchor or 0.0
            self._passed_in_window, self._window_anchor = 1, at
        cycle_s = at - since
        estimate = max(1.0, passed - 1) / max(1e-3, cycle_s)
        is_known = cycle_s >= SHORTEST_CYCLE_S and passed >= FEWEST_PASSED
        is_cluster = len(self._refused_at) == CLUSTER and self._departed - self._refused_at[0] < CLUSTER_OF
        was_ramping, self._is_ramping = self._is_ramping, is_named
        if is_named and not is_blocked and not is_cluster:
            return
        if self.per_s is None:
            # What came before was no saturated stretch: a start, to find the limit from.
            self.per_s, self._is_ramping = estimate, is_named or not (is_blocked and is_known)
        else:
            step = self.per_s * (LONG_STEP_BACK if is_cluster else STEP_BACK)
            if is_known and not was_ramping:
                aged = 0.0 if is_blocked else self._proven * math.exp(-self._passed / PROVEN_FOR)
                self._proven = max(estimate, aged)
                step = min(step, estimate)
            # Less than what was accepted lately would not be refused less: those are strays.
            self.per_s = max(step, PROVEN_FLOOR * self._proven)
        self.per_s = max(SLOWEST_PER_S, self.per_s)
        if is_known:
            self._anchor, self._passed = at, 1


@dataclass(slots=True)
class _Block:
    """Refusals without anything accepted between them."""

    began: float
    refused: int = 1
    last_refused: float = 0.0


class RateModel:
    """When the next request of an account may leave, and what every reply teaches about that."""

    def __init__(self, caps: Caps, clock: Callable[[], float]) -> None:
        self._caps = caps
        self._clock = clock
        self._named: dict[tuple[Unit, float | None], NamedRate] = {}
        self._learned = LearnedRate(clock)
        self._meters: dict[Unit, Meter] = {}
        self._spent: dict[Unit, float] = dict.fromkeys(Unit, 0.0)
        self._costs: dict[Unit, float] = {Unit.REQUESTS: 1.0}
        self._count = 0
        self._paused_until = -math.inf
        self._block: _Block | None = None
        self._stepped_at = -math.inf
        self._refusal_s = 0.05
        self._scout: Departure | None = None
        self._scout_until = -math.inf
        self._set_rates()

    # What others may read.

    @property
    def rpm(self) -> float | None:
        """Requests a minute in force."""
        return self._per_minute(Unit.REQUESTS)

    @property
    def tpm(self) -> float | None:
        """Tokens a minute in force."""
        return self._per_minute(Unit.TOKENS)

    @property
    def tokens_per_request(self) -> float:
        """What a request costs, by what was reported; 0 until then."""
        return self._costs.get(Unit.TOKENS, 0.0)

    def _per_minute(self, unit: Unit) -> float | None:
        meter = self._meters.get(unit)
        return None if meter is None or meter.per_s is None else meter.per_s * MINUTE_S

    def paused_s(self) -> float:
        """Seconds until a pause after a refusal is over; 0 when there is none."""
        return max(0.0, self._paused_until - self._clock())

    def closed_s(self) -> float:
        """Seconds until a pause is over, or until something is left of what the headers say is used up."""
        return max(self.paused_s(), *(named.wait_s() for named in self._named.values()), 0.0)

    def wait_s(self) -> float:
        """Seconds until a request may leave, or until it is worth asking again."""
        wait = max(self.closed_s(), *(meter.wait_s() for meter in self._meters.values()))
        if wait <= 0 and self._scout is not None:
            return min(0.05, max(0.0, self._scout_until - self._clock()))
        return wait

    # What happens.

    def set_caps(self, caps: Caps) -> None:
        """From now on the user allows so much."""
        self._caps = caps
        self._set_rates()

    def depart(self) -> Departure:
        """Book one request."""
        now = self._clock()
        self._count += 1
        booked = {unit: self._costs.get(unit, 0.0) for unit in Unit}
        departure = Departure(now, self._count, booked)
        if self._block is not None:
            if self._scout is not None:
                # Its hold is over and nobody refused it: it came through.
                self._reopen()
            else:
                self._scout = departure
                self._scout_until = now + min(3.0, max(0.1, 2 * self._refusal_s))
        pace = self._meters[Unit.REQUESTS]
        is_binding = self._learned.per_s == pace.per_s and pace.is_tight()
        self._learned.count_departure(is_binding=is_binding, is_blocked=self._block is not None)
        if self._learned.per_s is not None:
            self._set_rates()
        for unit, units in booked.items():
            self._spent[unit] += units
            if meter := self._meters.get(unit):
                meter.book(units)
        return departure

    def settle(self, departure: Departure, usage: Usage | None = None) -> None:
        """A request was not refused, whatever else became of it; its tokens are settled if known."""
        if departure is self._scout:
            self._reopen()
        if usage is None or (usage.input_tokens is None and usage.output_tokens is None):
            return
        tokens = {Unit.INPUT: float(usage.input_tokens or 0), Unit.OUTPUT: float(usage.output_tokens or 0)}
        tokens[Unit.TOKENS] = tokens[Unit.INPUT] + tokens[Unit.OUTPUT]
        if tokens[Unit.TOKENS] > MOST_TOKENS:
            return
        for unit, count in tokens.items():
            self._spent[unit] += count - departure.booked[unit]
            if meter := self._meters.get(unit):
                meter.book(count - departure.booked[unit])
            before = self._costs.get(unit)
            weight = 1.0 if before is None else TOKEN_SMOOTHING
            self._costs[unit] = (before or 0.0) + weight * (count - (before or 0.0))

    def read_headers(self, departure: Departure, limits: Sequence[NamedLimit]) -> None:
        """Take in what a reply's headers name, refused or not."""
        if not limits:
            return
        for named in limits:
            key = (named.unit, named.period_s)
            rate = self._named.get(key)
            if rate is None:
                rate = self._named[key] = NamedRate(self._clock)
            # What left after this request is not in its reading.
            cost = self._costs.get(named.unit, 0.0)
            later = (self._count - departure.number) * cost
            rate.read(named, sent_at=departure.at, spent=self._spent[named.unit] - later, cost=cost)
        self._set_rates()

    def refuse(self, departure: Departure, wait_s: float | None = None) -> float | None:
        """A request was answered 429. The pause in seconds if that began one, else None."""
        now = self._clock()
        self._learned.count_refusal(departure.at)
        self._refusal_s = max(now - departure.at, 0.9 * self._refusal_s)
        if departure.at <= self._stepped_at:
            # Sent before the running pause began: only a longer explicit wait changes anything.
            self._paused_until = max(self._paused_until, now + (wait_s or 0.0))
            return None
        if self._block is None:
            self._block = _Block(now)
        else:
            self._block.refused += 1
        self._scout = None
        pause = self._computed_pause_s() if wait_s is None else wait_s
        self._block.last_refused = now
        self._stepped_at = now
        self._paused_until = max(self._paused_until, now + pause)
        return pause

    def _computed_pause_s(self) -> float:
        assert self._block is not None
        apart_s = 1 / self._learned.per_s if self._learned.per_s else 0.0
        pause = max(FIRST_PAUSE_S, apart_s / 2) * 2.0 ** min(20, self._block.refused - 1)
        blocked_s = self._clock() - self._block.began
        young = max(PAUSES_WHILE_YOUNG_S, PAUSE_SHARE * blocked_s, 10 * apart_s)
        return min(pause, LONGEST_PAUSE_S, young if blocked_s < YOUNG_S else LONGEST_PAUSE_S)

    def _reopen(self) -> None:
        assert self._block is not None
        assert self._scout is not None
        blocked_s = self._scout.at - self._block.began
        # A long one ended somewhere between the last refusal and the scout.
        at = (self._block.last_refused + self._scout.at) / 2 if blocked_s >= BLOCKED_S else self._scout.at
        is_blocked = self._block.refused >= BLOCKED or blocked_s >= BLOCKED_S
        is_named = any(named.per_s is not None for named in self._named.values())
        self._learned.reopen(at, is_blocked=is_blocked, is_named=is_named)
        self._block = None
        self._scout = None
        self._set_rates()

    def _set_rates(self) -> None:
        """Set the meters' rates: the lowest of what the user, the headers and the refusals allow."""
        allowed: dict[Unit, list[float]] = {Unit.REQUESTS: []}
        for unit, cap in ((Unit.REQUESTS, self._caps.rpm), (Unit.TOKENS, self._caps.tpm)):
            if cap is not None:
                allowed.setdefault(unit, []).append(cap * AIM / MINUTE_S)
        for (unit, _), named in self._named.items():
            if named.per_s is not None:
                allowed.setdefault(unit, []).append(named.per_s)
        if self._learned.per_s is not None:
            allowed[Unit.REQUESTS].append(self._learned.per_s)
        for unit in {**self._meters, **allowed}:
            meter = self._meters.setdefault(unit, Meter(self._clock))
            was, meter.per_s = meter.per_s, min(allowed.get(unit, ()), default=None)
            if was is None and meter.per_s is not None:
                meter.forget()


class Account:
    """What requests of one account share: rates, rate-limit pauses, and the caps of those who use it."""

    def __init__(self, clock: Clock) -> None:
        self.rates = RateModel(Caps(), clock)
        self._clock = clock
        self._caps: list[Caps] = []
        self._paused_s = 0.0
        self._paused_until = -math.inf
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
