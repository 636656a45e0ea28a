"""Who may send, and when: the one object that a side asks before each request.

There are four reasons to wait: a pause after a 429, requests and tokens a minute, connections in flight, an
outage. Nobody else keeps such state. The first two belong to the account, which two sides may share.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from vlsb.config import RetryPolicy
from vlsb.endpoints.attempts import Event, Spending, StoppedError, Traffic
from vlsb.endpoints.engine_guard import EngineGuard, Fate, InFlight
from vlsb.endpoints.faults import Decision
from vlsb.endpoints.headers import NamedLimit
from vlsb.endpoints.pacing import AdaptiveLimit, Limiter, Phase, Time
from vlsb.endpoints.rates import Caps, Departure, RateModel
from vlsb.endpoints.timings import HeadOfLine, Timings, Wait
from vlsb.errors import GapsError, OutageError
from vlsb.records import Stage, Untrusted, Usage

DOWN_AFTER_SAMPLES = 3
"""Distinct samples that must have failed, with nothing answered since, before an endpoint is down."""
_CONCURRENCY = "concurren"
_TOO_STEEP = "slow_down"


class Account:
    """What requests of one account share: its rates, its pauses, and the patience with them."""

    def __init__(self, policy: RetryPolicy, time: Time, caps: Caps | None = None) -> None:
        self.rates = RateModel(caps or Caps(), time.clock)
        self._patience_s = policy.sample_timeout_s
        self._clock = time.clock
        self._paused_s = 0.0
        self._paused_until = float("-inf")
        # When the first request left that was refused with nothing accepted since.
        self._refused_since: float | None = None

    def paused_for_s(self) -> float:
        """Seconds until requests may leave again, as far as a pause or an exhausted limit goes."""
        return self.rates.closed_s()

    def paused_so_far_s(self) -> float:
        """Seconds of pauses since the beginning."""
        return self._paused_s - max(0.0, self._paused_until - self._clock())

    def require_patience(self, name: str, said: Untrusted | None = None) -> None:
        """Raise GapsError when nothing is accepted for longer than a sample may take.

        `said` is what the provider wrote about it.
        """
        pause_s, now = self.paused_for_s(), self._clock()
        patience = f"--sample-timeout {self._patience_s:g}"
        if pause_s > self._patience_s:
            what = f"asks for a pause of {pause_s:.0f} s, longer than {patience}"
        elif (
            self._refused_since is not None
            and now + self.rates.paused_s() - self._refused_since >= self._patience_s
        ):
            since_s = now - self._refused_since
            what = f"accepted no request for {since_s:.0f} s because of its rate limit ({patience})"
        else:
            return
        raise GapsError(f"{name} {what}", detail=said, advice="Resume later, or wait longer.")

    def accepted(self, departure: Departure, usage: Usage | None) -> None:
        """A request was not refused."""
        self._refused_since = None
        self.rates.arrived(departure, usage)

    def refused(self, departure: Departure, wait_s: float | None) -> float | None:
        """A request was answered 429: the pause in seconds if that began one."""
        pause_s = self.rates.refused(departure, wait_s)
        now = self._clock()
        until = now + self.rates.paused_s()
        self._paused_s += max(0.0, until - max(now, self._paused_until))
        self._paused_until = max(self._paused_until, until)
        since = departure.at if self._refused_since is None else min(self._refused_since, departure.at)
        self._refused_since = since
        return pause_s


@dataclass(slots=True, eq=False)
class Pass:
    """One attempt that may be sent: what was booked for it, and what the endpoint had answered then."""

    in_flight: InFlight
    departure: Departure
    number: int
    is_probe: bool
    is_retry: bool
    outages: int


class Health:
    """Whether an endpoint is down: all that was in flight has failed, and nothing was answered since."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.answers = 0
        self.outages = 0
        self.down_since: float | None = None
        self.code = ""
        self._clock = clock
        self._count = 0
        self._in_flight: set[int] = set()
        self._failing: set[int] = set()
        self._first_failure = 0

    def sent(self) -> int:
        """A request leaves: its number."""
        self._count += 1
        self._in_flight.add(self._count)
        return self._count

    def left(self, number: int) -> None:
        """It is over."""
        self._in_flight.discard(number)

    def answered(self) -> float | None:
        """Anything but a failure came back; the seconds that the endpoint was down, if this ended that."""
        now = self._clock()
        self.answers += 1
        self._failing.clear()
        since, self.down_since = self.down_since, None
        return None if since is None else now - since

    def failed(self, number: int, sample_id: int, code: str, connections: int) -> bool:
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


class Admission:
    """One side's way to its endpoint.

    `in_flight`, `limit`, `phase`, `is_down` and the like are for whoever shows or explains them.
    """

    def __init__(
        self,
        stage: Stage,
        name: str,
        *,
        connections: AdaptiveLimit,
        account: Account,
        guard: EngineGuard,
        policy: RetryPolicy,
        traffic: Traffic,
        time: Time,
        observe: Callable[[Event], None],
    ) -> None:
        self.account = account
        self.timings = Timings(time.clock)
        self.in_flight = 0
        self._stage: Stage = stage
        self._name = name
        self._connections = connections
        self._guard = guard
        self._policy = policy
        self._traffic = traffic
        self._time = time
        self._observe = observe
        self._health = Health(time.clock)
        self._line = Limiter(1)
        self._changed = asyncio.Event()
        # Samples that this side has in hand, those of them whose fate hangs on others, and what wakes these.
        self._active = 0
        self._held = 0
        self._news = asyncio.Event()
        self._probes: set[Pass] = set()
        self._probe_count = 0
        self._next_probe_at = 0.0

    # What others may read.

    @property
    def limit(self) -> int:
        """How many requests may be in flight now."""
        return self._connections.limit

    @property
    def ceiling(self) -> int:
        """How many there may ever be."""
        return self._connections.ceiling

    @property
    def phase(self) -> Phase:
        """Why the limit is what it is."""
        return self._connections.phase

    @property
    def is_awaited(self) -> bool:
        """Whether anybody stands in line behind its head."""
        return self._line.is_awaited

    @property
    def is_down(self) -> bool:
        """Whether the endpoint is taken to be down."""
        return self._health.down_since is not None

    def paused_for_s(self) -> float:
        """Seconds until a rate-limit pause is over."""
        return self.account.paused_for_s()

    # Getting in.

    @asynccontextmanager
    async def sample(self) -> AsyncIterator[None]:
        """This side has one more sample in hand while the block runs."""
        self._active += 1
        try:
            yield
        finally:
            self._active -= 1
            self._tell()

    async def enter(self, in_flight: InFlight, request: Spending) -> Pass | None:
        """Return when the request may be sent; None if the engine's guard will never have it sent again.

        Raises GapsError or OutageError when waiting is no use, StoppedError when the run is stopping.

        Only the head of the line waits for a cause; the others wait for the head, so that a pause wakes one
        task and not thousands.
        """
        began, paused_before = self._time.clock(), self.account.paused_so_far_s()
        head, engine_s = self.timings.head, 0.0
        pauses_before = head.pauses_s()
        admitted: Pass | None = None
        while admitted is None:
            asked = self._time.clock()
            # Outside the line: while an engine is examined, who may go next need not be at its head.
            if not await self._guard.admit(in_flight):
                return None
            engine_s += self._time.clock() - asked
            await self._line.acquire(ahead=request.sent > 0)
            try:
                admitted = await self._at_the_head(in_flight, head, is_retry=request.sent > 0)
            finally:
                head.waits_for(Wait.LOOP if self._line.is_awaited else Wait.NOTHING)
                self._line.release()
        # Neither an outage nor the line for a slot is this sample's fault; a rate-limit pause counts.
        waited, paused = self._time.clock() - began, self.account.paused_so_far_s() - paused_before
        request.extend(max(0.0, waited - paused))
        self.timings.queued(waited, pauses_before, engine_s)
        return admitted

    async def _at_the_head(self, in_flight: InFlight, head: HeadOfLine, *, is_retry: bool) -> Pass | None:
        """Wait for one cause after the other; None if the engine's guard will not have the request now."""
        while self._guard.admits(in_flight):
            if self._traffic.is_over:
                raise StoppedError
            obstacle = self._obstacle()
            if obstacle is None:
                self._guard.depart(in_flight)
                return self._depart(in_flight, is_retry=is_retry)
            cause, wait_s = obstacle
            head.waits_for(cause)
            if wait_s is not None:
                await self._time.sleep(wait_s)
            else:
                self._changed.clear()
                # A probe that hangs does not keep the next one.
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._probe_patience_s()):
                        await self._changed.wait()
        return None

    def _obstacle(self) -> tuple[Wait, float | None] | None:
        """What a request has to wait for, and how long; None seconds for a change."""
        if (down_since := self._health.down_since) is not None:
            now = self._time.clock()
            left_s = down_since + self._policy.outage_timeout_s - now
            if left_s <= 0:
                raise OutageError(
                    f"{self._name}: no answer for {self._policy.outage_timeout_s:g} s ({self._health.code}). "
                    "Resume when it is back, or wait longer with --outage-timeout."
                )
            if now < self._next_probe_at:
                return Wait.OUTAGE, min(left_s, self._next_probe_at - now)
            if self._probes and not self._is_overdue():
                return Wait.OUTAGE, None
        self.account.require_patience(self._name)
        if (wait_s := self.account.rates.wait_s()) > 0:
            return Wait.RATE, wait_s
        return (Wait.SLOT, None) if self.in_flight >= self.limit and not self.is_down else None

    def _probe_patience_s(self) -> float | None:
        if (since := self._health.down_since) is None:
            return None
        left_s = since + self._policy.outage_timeout_s - self._time.clock()
        return max(0.001, min(self._policy.probe_cap_s, left_s))

    def _is_overdue(self) -> bool:
        youngest = max(probe.departure.at for probe in self._probes)
        return self._time.clock() - youngest >= self._policy.probe_cap_s

    def _depart(self, in_flight: InFlight, *, is_retry: bool) -> Pass:
        self.in_flight += 1
        found = Pass(
            in_flight,
            self.account.rates.depart(),
            self._health.sent(),
            is_probe=self.is_down,
            is_retry=is_retry,
            outages=self._health.outages,
        )
        if found.is_probe:
            self._probes.add(found)
            self._probe_count += 1
        return found

    async def fate(self, in_flight: InFlight) -> Fate:
        """Whether an attempt that just failed, and has not left yet, did so because the engine died."""
        return await self._guard.fate(in_flight)

    # What came of it.

    def heard(self, admitted: Pass, limits: Iterable[NamedLimit]) -> None:
        """What the headers of a reply name."""
        self.account.rates.heard(admitted.departure, limits)

    def answered(self, admitted: Pass, usage: Usage | None = None, *, is_served: bool = True) -> None:
        """A definite answer came back, a rejection included, served or not."""
        self.account.accepted(admitted.departure, usage)
        self._is_alive(admitted)
        if is_served:
            self._connections.succeeded(in_flight=self.in_flight, is_retry=admitted.is_retry)
            self._resized("")

    def refused(self, admitted: Pass, decision: Decision) -> None:
        """The answer was 429. Raises GapsError when there is no use in waiting."""
        self._is_alive(admitted)
        pause_s, code = self.account.refused(admitted.departure, decision.retry_after_s), decision.code
        if pause_s is not None:
            cuts = code == _TOO_STEEP or _CONCURRENCY in code
            self._connections.rate_limited(pause_s=pause_s, cuts=cuts, too_steep=code == _TOO_STEEP)
            self._resized(code)
            kind = "long_wait" if pause_s > self._policy.long_wait_s else "rate_limit"
            self._observe(Event(kind, self._stage, code=code, wait_s=pause_s, status=decision.status))
        self.account.require_patience(self._name, decision.message)

    def failed(self, admitted: Pass, code: str) -> bool:
        """Nothing usable came back: a server error, a timeout, a broken reply.

        True if the endpoint is down, or was while this request was out: then that explains it.
        """
        self._connections.faltered()
        self.account.rates.arrived(admitted.departure)
        if self._health.failed(admitted.number, admitted.in_flight.sample_id, code, self.limit):
            self._probe_count = 0
            self._next_probe_at = self._time.clock() + self._probe_pause_s()
            self._observe(Event("outage", self._stage, admitted.in_flight.sample_id, code))
            self._tell()
        return self.is_down or admitted.is_probe or admitted.outages != self._health.outages

    def leave(self, admitted: Pass) -> None:
        """The attempt is over, whatever came of it."""
        self.in_flight -= 1
        self._health.left(admitted.number)
        if admitted in self._probes:
            self._probes.discard(admitted)
            self._next_probe_at = self._time.clock() + self._probe_pause_s()
        self._guard.leave(admitted.in_flight)
        self._tell()

    async def is_to_blame(self, in_flight: InFlight, request: Spending) -> bool:
        """Whether a sample without an attempt left has failed by itself: others are answered.

        False when the endpoint is down: then the sample waits and is sent again, with all its attempts. A
        sample with no other beside it cannot be told from an outage, and keeps to its attempts.
        """
        health, began = self._health, self._time.clock()
        answers, outages = health.answers, health.outages
        self._held += 1
        try:
            while not self.is_down and (health.answers, health.outages) == (answers, outages):
                if self._held >= self._active:
                    self._observe(Event("alone", self._stage, in_flight.sample_id, health.code))
                    return True
                self._tell()
                await self._news.wait()
        finally:
            self._held -= 1
        request.extend(self._time.clock() - began)
        return not self.is_down and health.outages == outages

    def _is_alive(self, admitted: Pass) -> None:
        down_s = self._health.answered()
        if down_s is not None:
            self._probes.clear()
            self._connections.restart()
            self._resized("")
            self._observe(Event("recovered", self._stage, admitted.in_flight.sample_id, wait_s=down_s))
        if self._held or down_s is not None:
            self._tell()

    def _probe_pause_s(self) -> float:
        return min(self._policy.probe_cap_s, self._policy.backoff_s * 2.0 ** min(self._probe_count, 30))

    def _resized(self, code: str) -> None:
        if self._connections.has_changed():
            self._observe(Event("limit", self._stage, code=code, limit=self.limit))
            self._changed.set()

    def _tell(self) -> None:
        """Wake the head of the line, and whoever waits for what becomes of others."""
        self._changed.set()
        if self._held:
            self._news.set()
            self._news = asyncio.Event()
