"""When a request may leave: what an endpoint's client asks before each attempt, and tells what came of it.

There are six reasons to wait: a rate-limit pause, requests and tokens per minute, connections, an outage, an
engine that is not up, and room for the body. Nobody else keeps such state. The first two belong to the
account, which several endpoints may share, in one run or over many.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum

from vlsb.config import Party
from vlsb.endpoints.credentials import Secret
from vlsb.endpoints.engine_guard import EngineGuard, Fate
from vlsb.endpoints.faults import Decision, Fault
from vlsb.endpoints.headers import NamedLimit
from vlsb.endpoints.rates import Caps, Departure, RateModel
from vlsb.endpoints.retry import Attempts
from vlsb.endpoints.timings import HeadOfLine, Timings, Wait
from vlsb.endpoints.traffic import Clock, Event, RunContext
from vlsb.errors import GapsError, OutageError
from vlsb.models.prices import Price
from vlsb.models.providers import without_snapshot
from vlsb.records import Untrusted, Usage

DOWN_AFTER_SAMPLES = 3
"""Distinct samples that must have failed, with nothing answered since, before an endpoint is down."""
CUT = 0.8
RESTART_CUT = 0.5
GROWTH = 0.05
COOLDOWN_S = 15.0
# Growth without need would let the first burst overrun a limit that was never tested.
SATURATED_SHARE = 0.8
_CONCURRENCY = "concurren"
_TOO_STEEP = "slow_down"


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

    One account is one address, key and model, whatever the key's variable is called and whether the model is
    dated or not. For one thread.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._accounts: dict[tuple[str, frozenset[Secret], str], Account] = {}

    def find(self, base_url: str, secrets: Iterable[Secret], model: str) -> Account:
        """The account that requests spend from."""
        key = (base_url.rstrip("/").lower(), frozenset(secrets), without_snapshot(model))
        return self._accounts.setdefault(key, Account(self._clock))


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
        """The provider said no. Unless it `cuts`, that is about the rate, and connections stay.

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
        """Count anew: after a change, and after a server error, with which a round proves nothing."""
        self._clean = 0
        self._was_saturated = False

    def restart(self) -> None:
        """The endpoint came back from an outage: it is not met with everything at once."""
        self.limit = min(self.limit, self._start)
        self._is_slow_start = True
        self.begin_round()


class Line:
    """A queue with one at its head: first come, first served, retries before newcomers."""

    def __init__(self) -> None:
        self._has_head = False
        # Futures of those who wait. Cancelled ones stay until their turn and are skipped.
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def is_awaited(self) -> bool:
        """Whether anybody waits behind the head."""
        return bool(self._waiting)

    async def acquire(self, *, ahead: bool = False) -> None:
        """Return at the head of the line; `ahead` of those who never were there."""
        if not self._has_head:
            self._has_head = True
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
        """Leave the head to whoever waits longest."""
        self._has_head = False
        while self._waiting and not self._has_head:
            turn = self._waiting.popleft()
            if not turn.done():
                self._has_head = True
                turn.set_result(None)


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


@dataclass(slots=True, eq=False)
class Pass:
    """One attempt that may be sent: what was booked for it, and how many outages there had been then."""

    attempts: Attempts
    departure: Departure
    number: int
    is_probe: bool
    is_retry: bool
    outages: int


@dataclass(frozen=True, slots=True)
class AdmissionState:
    """Where an endpoint stands, for whoever shows or explains it.

    `limit` of `ceiling` connections are allowed now, for the reason that `phase` says; `pause_s` is left of
    a rate-limit pause; `rpm` and `tpm` are in force; `waits_for` is why the next request has not left.
    `requests` were sent so far, `answered` of them brought an answer, `rate_limited` a 429. `used` are their
    tokens, `usd` what these cost, None where that is unknown.
    """

    in_flight: int
    limit: int
    ceiling: int
    phase: Phase
    pause_s: float
    rpm: float | None
    tpm: float | None
    tokens_per_request: float
    is_down: bool
    waits_for: Wait
    requests: int
    answered: int
    rate_limited: int
    used: Usage
    usd: float | None


class Admission:
    """One endpoint's way out: `admit` waits, `report` learns from replies, `state` says what is waited for.

    `has_served` says that the model has answered something. Two of one `account` share its rate limits.
    What requests cost is known where they have a `price`.
    """

    def __init__(
        self,
        party: Party,
        context: RunContext,
        *,
        account: Account,
        connections: ConnectionLimit,
        guard: EngineGuard | None = None,
        price: Price | None = None,
    ) -> None:
        self.context = context
        self.account = account
        self.timings = Timings(context.time.clock)
        self.has_served = False
        self._stage = party.stage
        self._name = str(party)
        self._policy = context.policy
        self._time = context.time
        self._connections = connections
        self._reported_limit = connections.limit
        self._guard = guard or EngineGuard()
        self._health = Health(context.time.clock)
        self._in_flight = 0
        self._requests = self._answered = self._rate_limited = 0
        self._price = price
        self._used = Usage()
        self._line = Line()
        self._changed = asyncio.Event()
        # Samples in hand, those of them whose fate hangs on others, and what wakes these.
        self._samples = 0
        self._undecided = 0
        self._others_changed = asyncio.Event()
        self._probes: set[Pass] = set()
        self._probe_count = 0
        self._next_probe_at = 0.0

    @property
    def is_down(self) -> bool:
        """Whether the endpoint is taken to be down."""
        return self._health.down_since is not None

    def state(self) -> AdmissionState:
        """Where the endpoint stands now."""
        rates = self.account.rates
        return AdmissionState(
            in_flight=self._in_flight,
            limit=self._connections.limit,
            ceiling=self._connections.ceiling,
            phase=self._connections.phase,
            pause_s=self.account.pause_s(),
            rpm=rates.rpm,
            tpm=rates.tpm,
            tokens_per_request=rates.tokens_per_request,
            is_down=self.is_down,
            waits_for=self.timings.head.what,
            requests=self._requests,
            answered=self._answered,
            rate_limited=self._rate_limited,
            used=self._used,
            usd=None if self._price is None else self._price.usd(self._used) or 0.0,
        )

    # Waiting.

    @contextmanager
    def sample(self) -> Iterator[None]:
        """One more sample is in hand while the block runs."""
        self._samples += 1
        try:
            yield
        finally:
            self._samples -= 1
            self._wake()

    async def admit(self, attempts: Attempts) -> Pass | None:
        """Wait until the next attempt may be sent; it holds a connection until `leave`.

        None if the engine's guard will never have it sent again. Raises GapsError or OutageError when
        waiting is no use, StoppedError when the run is stopping.

        Only the head of the line waits for a cause; the others wait for the head, so that a pause wakes one
        task and not thousands.
        """
        began, paused_before = self._time.clock(), self.account.total_pause_s()
        head, engine_s = self.timings.head, 0.0
        pauses_before = head.pauses_s()
        admitted: Pass | None = None
        while admitted is None:
            asked = self._time.clock()
            # Outside the line: while an engine is examined, who may go next need not be at its head.
            if not await self._guard.admit(attempts.request):
                return None
            engine_s += self._time.clock() - asked
            await self._line.acquire(ahead=attempts.sent > 0)
            try:
                admitted = await self._wait_at_the_head(attempts, head)
            finally:
                head.waits_for(Wait.LOOP if self._line.is_awaited else Wait.NOTHING)
                self._line.release()
        # Neither an outage nor the line for a connection is this sample's fault; a rate-limit pause counts.
        waited, paused = self._time.clock() - began, self.account.total_pause_s() - paused_before
        attempts.extend(max(0.0, waited - paused))
        self.timings.add_queueing(waited, pauses_before, engine_s)
        attempts.begin()
        return admitted

    async def _wait_at_the_head(self, attempts: Attempts, head: HeadOfLine) -> Pass | None:
        """Wait for one cause after the other; None if the engine's guard will not have the request now."""
        while self._guard.admits(attempts.request):
            self.context.traffic.require_open()
            obstacle = self._obstacle()
            if obstacle is None:
                self._guard.depart(attempts.request)
                return self._depart(attempts)
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
            youngest = max((probe.departure.at for probe in self._probes), default=-math.inf)
            if now - youngest < self._policy.probe_cap_s:
                return Wait.OUTAGE, None
        self.account.require_patience(self._name, self._policy.sample_timeout_s)
        if (wait_s := self.account.rates.wait_s()) > 0:
            return Wait.RATE, wait_s
        is_full = self._in_flight >= self._connections.limit and down_since is None
        return (Wait.CONNECTION, None) if is_full else None

    def _probe_patience_s(self) -> float | None:
        if (since := self._health.down_since) is None:
            return None
        left_s = since + self._policy.outage_timeout_s - self._time.clock()
        return max(0.001, min(self._policy.probe_cap_s, left_s))

    def _depart(self, attempts: Attempts) -> Pass:
        self._in_flight += 1
        admitted = Pass(
            attempts,
            self.account.rates.depart(),
            self._health.depart(),
            is_probe=self.is_down,
            is_retry=attempts.sent > 0,
            outages=self._health.outages,
        )
        if admitted.is_probe:
            self._probes.add(admitted)
            self._probe_count += 1
        return admitted

    async def make_room(self, attempts: Attempts, size: int) -> Callable[[], None]:
        """Wait for room in memory for a body of `size` bytes; what is returned gives it back, once."""
        began = self._time.clock()
        give_back = await self.context.uploads.reserve(size)
        waited = self._time.clock() - began
        attempts.extend(waited)
        self.timings.room.add(waited)
        return give_back

    @contextmanager
    def sending(self, attempts: Attempts) -> Iterator[None]:
        """An attempt is on its way while the block runs; raises GapsError when no more may be sent."""
        task, traffic = asyncio.current_task(), self.context.traffic
        assert task is not None
        traffic.spend_one()
        traffic.in_flight.add(task)
        self._requests += 1
        attempts.sent += 1
        try:
            yield
        finally:
            traffic.in_flight.discard(task)

    # What came back.

    def report(self, admitted: Pass, result: Usage | Decision, limits: Sequence[NamedLimit] = ()) -> bool:
        """What an attempt brought: an answer's usage or a decision, and the limits that its headers name.

        True if the model served it, be it with nothing. Raises GapsError when there is no use in waiting.
        """
        self.account.rates.read_headers(admitted.departure, limits)
        is_answer = isinstance(result, Usage)
        self._count_tokens(result if isinstance(result, Usage) else result.usage, is_answer=is_answer)
        if isinstance(result, Usage):
            self._answered += 1
            usage, is_served = result, True
        else:
            usage, is_served = (
                result.usage,
                result.fault is Fault.PROVIDER_BLOCKED or result.ends_as == "empty",
            )
            if not is_served and result.fault is Fault.RATE_LIMITED:
                self._count_refusal(admitted, result)
                return False
            if not is_served and result.is_retryable and not result.is_a_reply:
                self._count_failure(admitted, result.code)
                return False
        self.account.accept(admitted.departure, usage if is_served else None)
        self._count_reply(admitted)
        if is_served:
            self.has_served = True
            self._connections.count_success(in_flight=self._in_flight, is_retry=admitted.is_retry)
            self._report_limit("")
        return is_served

    def count_batched(self, usage: Usage, *, is_answer: bool) -> None:
        """What a request brought that went through a batch: it took no connection and no rate."""
        self._answered += is_answer
        self._count_tokens(usage, is_answer=is_answer)

    def batch_usd(self, usage: Usage) -> float | None:
        """What so many tokens cost through a batch; None where that is unknown."""
        return None if self._price is None else self._price.batch_usd(usage)

    def _count_tokens(self, usage: Usage, *, is_answer: bool) -> None:
        self._used += usage
        if self._price is None:
            return
        spending, usd = self.context.traffic.spending, self._price.usd(usage)
        spending.usd += usd or 0.0
        if usd is None and is_answer:
            spending.uncounted = spending.uncounted or self._name

    def _count_refusal(self, admitted: Pass, decision: Decision) -> None:
        self._rate_limited += 1
        self._count_reply(admitted)
        pause_s, code = self.account.refuse(admitted.departure, decision.retry_after_s), decision.code
        if pause_s is not None:
            cuts = code == _TOO_STEEP or _CONCURRENCY in code
            self._connections.refuse(pause_s=pause_s, cuts=cuts, too_steep=code == _TOO_STEEP)
            self._report_limit(code)
            kind = "long_wait" if pause_s > self._policy.long_wait_s else "rate_limit"
            self.context.observe(Event(kind, self._stage, code=code, wait_s=pause_s, status=decision.status))
        self.account.require_patience(self._name, self._policy.sample_timeout_s, decision.message)

    def _count_failure(self, admitted: Pass, code: str) -> None:
        """Nothing usable came back; excused if the endpoint is down, or was while this request was out."""
        self._connections.begin_round()
        self.account.rates.settle(admitted.departure)
        sample_id, health = admitted.attempts.sample_id, self._health
        if health.count_failure(admitted.number, sample_id, code, self._connections.limit):
            self._probe_count = 0
            self._next_probe_at = self._time.clock() + self._probe_pause_s()
            self.context.observe(Event("outage", self._stage, sample_id, code))
            self._wake()
        is_excused = self.is_down or admitted.is_probe or admitted.outages != health.outages
        admitted.attempts.is_excused = is_excused

    def _count_reply(self, admitted: Pass) -> None:
        """The endpoint is up."""
        down_s = self._health.count_answer()
        if down_s is not None:
            self._probes.clear()
            self._connections.restart()
            self._report_limit("")
            sample_id = admitted.attempts.sample_id
            self.context.observe(Event("recovered", self._stage, sample_id, wait_s=down_s))
        if self._undecided or down_s is not None:
            self._wake()

    def leave(self, admitted: Pass) -> None:
        """The attempt is over, whatever came of it."""
        self._in_flight -= 1
        self._health.leave(admitted.number)
        if admitted in self._probes:
            self._probes.discard(admitted)
            self._next_probe_at = self._time.clock() + self._probe_pause_s()
        self._guard.leave(admitted.attempts.request)
        self._wake()

    async def fate(self, attempts: Attempts) -> Fate:
        """Whether an attempt that just failed, and has not left yet, did so because the engine died.

        However long an engine takes to die, it is not this sample's time.
        """
        began = self._time.clock()
        fate = await self._guard.fate(attempts.request)
        attempts.extend(self._time.clock() - began)
        return fate

    async def is_to_blame(self, attempts: Attempts) -> bool:
        """Whether a sample without an attempt left has failed by itself: others are answered.

        False when the endpoint is down: then the sample waits and is sent again, with all its attempts. A
        sample with no other beside it cannot be told from an outage, and keeps to its attempts.
        """
        health, began = self._health, self._time.clock()
        answers, outages = health.answers, health.outages
        self._undecided += 1
        try:
            while not self.is_down and (health.answers, health.outages) == (answers, outages):
                if self._undecided >= self._samples:
                    self.context.observe(Event("alone", self._stage, attempts.sample_id, health.code))
                    return True
                self._wake()
                await self._others_changed.wait()
        finally:
            self._undecided -= 1
        attempts.extend(self._time.clock() - began)
        return not self.is_down and health.outages == outages

    def _probe_pause_s(self) -> float:
        return min(self._policy.probe_cap_s, self._policy.backoff_s * 2.0 ** min(self._probe_count, 30))

    def _report_limit(self, code: str) -> None:
        limit = self._connections.limit
        if limit != self._reported_limit:
            self._reported_limit = limit
            self.context.observe(Event("limit", self._stage, code=code, limit=limit))
            self._changed.set()

    def _wake(self) -> None:
        """Wake the head of the line, and whoever waits for what becomes of others."""
        self._changed.set()
        if self._undecided:
            self._others_changed.set()
            self._others_changed = asyncio.Event()
