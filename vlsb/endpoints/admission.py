"""When a request may leave: what an endpoint's client asks before each attempt, and tells what came of it.

There are six reasons to wait: a rate-limit pause, requests and tokens per minute, connections, an outage, an
engine that is not up, and room for the body. Nobody else keeps such state. Of several replicas the one with
the fewest requests in flight is asked next; one that is down or gone is left out, and what waits or failed
there goes to the others.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from vlsb.config import Party
from vlsb.endpoints.connections import Phase
from vlsb.endpoints.faults import Decision, Fault
from vlsb.endpoints.headers import NamedLimit
from vlsb.endpoints.rate_limits import Account
from vlsb.endpoints.replica import Obstacle, Pass, Replica
from vlsb.endpoints.request import Draft
from vlsb.endpoints.retry import Attempts, Fate
from vlsb.endpoints.timings import HeadOfLine, Timings, Wait
from vlsb.endpoints.traffic import Event, RunContext
from vlsb.errors import ConfigError, GapsError, ServerError, VlsbError
from vlsb.models.prices import Price
from vlsb.records import Usage


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


@dataclass(frozen=True, slots=True)
class AdmissionState:
    """Where an endpoint stands, for whoever shows or explains it.

    `limit` of `ceiling` connections are allowed now, for the reason that `phase` says; `pause_s` is left of
    a rate-limit pause; `rpm` and `tpm` are in force; `waits_for` is why the next request has not left. Of
    several replicas these are sums, and `replicas` says how many are up of how many.
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
    replicas: tuple[int, int]
    waits_for: Wait
    requests: int
    answered: int
    rate_limited: int
    used: Usage
    usd: float | None


class Admission:
    """A model's way out: `admit` waits, `report` learns from replies, `state` says what is waited for.

    `has_served` says that the model has answered something. What requests cost is known where they have a
    `price`.
    """

    def __init__(
        self,
        party: Party,
        context: RunContext,
        replicas: Sequence[Replica],
        *,
        price: Price | None = None,
    ) -> None:
        self.context = context
        self.replicas = tuple(replicas)
        self.timings = Timings(context.time.clock)
        self.has_served = False
        self._stage = party.stage
        self._name = str(party)
        self._time = context.time
        self._requests = self._answered = self._rate_limited = 0
        self._price = price
        self._used = Usage()
        self._line = Line()
        self._changed = asyncio.Event()
        # Samples in hand, those of them whose fate hangs on others, and what wakes these.
        self._samples = 0
        self._undecided = 0
        self._others_changed = asyncio.Event()
        # Those that were not given up: never empty.
        self._left = list(self.replicas)
        for number, replica in enumerate(self.replicas, 1):
            replica.join(self._wake, number if len(self.replicas) > 1 else None)

    @property
    def accounts(self) -> frozenset[Account]:
        """Whose rate limits its requests spend."""
        return frozenset(replica.account for replica in self.replicas)

    @property
    def is_down(self) -> bool:
        """Whether the model is taken to be down, wherever it can be asked."""
        return all(replica.is_down for replica in self._left)

    def state(self) -> AdmissionState:
        """Tell where the model stands now."""
        replicas = self._left
        up = [replica for replica in replicas if not replica.is_down] or replicas
        rates = [replica.account.rates for replica in replicas]
        return AdmissionState(
            in_flight=sum(replica.in_flight for replica in self.replicas),
            limit=sum(replica.connections.limit for replica in up),
            ceiling=sum(replica.connections.ceiling for replica in up),
            phase=up[0].connections.phase,
            pause_s=min(replica.account.pause_s() for replica in replicas),
            rpm=_total([each.rpm for each in rates]),
            tpm=_total([each.tpm for each in rates]),
            tokens_per_request=max(each.tokens_per_request for each in rates),
            is_down=self.is_down,
            replicas=(0 if self.is_down else len(up), len(self.replicas)),
            waits_for=self.timings.head.what,
            requests=self._requests,
            answered=self._answered,
            rate_limited=self._rate_limited,
            used=self._used,
            usd=None if self._price is None else self._price.usd(self._used) or 0.0,
        )

    # Choosing.

    def _bound_to(self, attempts: Attempts) -> list[Replica]:
        """Return the replica whose engine may have died of a request: it goes there again, and nowhere else.

        Empty for any other request, and where that replica was given up.
        """
        if attempts.suspected_at is None:
            return []
        return [replica for replica in self._left if replica is attempts.suspected_at]

    def _choices(self, attempts: Attempts) -> list[Replica]:
        """Tell where an attempt may go."""
        return self._bound_to(attempts) or self._left

    def has(self, replica: Replica) -> bool:
        """Tell whether a replica was not given up."""
        return replica in self._left

    def is_last(self, replica: Replica) -> bool:
        """Tell whether all others were given up."""
        return self._left == [replica]

    def give_up(self, replica: Replica, error: VlsbError) -> None:
        """Send nothing more to a replica. Raises the error if no other is left."""
        if self.is_last(replica):
            raise error
        if self.has(replica):
            self._left = [each for each in self._left if each is not replica]
            replica.give_up(error)

    def pause_s(self, attempts: Attempts) -> float:
        """Seconds until the next attempt may leave, as far as rate-limit pauses go."""
        return min(replica.account.pause_s() for replica in self._choices(attempts))

    def has_others(self, admitted: Pass) -> bool:
        """Tell whether another replica is up, so that one that cannot be reached is just down."""
        return any(each is not admitted.replica and not each.is_down for each in self._left)

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

        None if the guard of its engine will never have it sent again. Raises GapsError or OutageError when
        waiting is no use, ServerError when no engine is left, StoppedError when the run is stopping.

        Only the head of the line waits for a cause; the others wait for the head, so that a pause wakes one
        task and not thousands.
        """
        began, paused_before = self._time.clock(), self._total_pause_s()
        head, engine_s = self.timings.head, 0.0
        pauses_before = head.pauses_s()
        admitted: Pass | None = None
        while admitted is None:
            asked = self._time.clock()
            # Outside the line: while an engine is examined, who may go next need not be at its head.
            if not await self._wait_for_engine(attempts):
                return None
            engine_s += self._time.clock() - asked
            if len(self.replicas) > 1 and self._bound_to(attempts):
                # What it waits for concerns one replica: nobody who could go to another waits behind it.
                admitted = await self._wait_for_a_chance(attempts, None)
                continue
            await self._line.acquire(ahead=attempts.sent > 0)
            try:
                admitted = await self._wait_for_a_chance(attempts, head)
            finally:
                head.waits_for(Wait.LOOP if self._line.is_awaited else Wait.NOTHING)
                self._line.release()
        # Neither an outage nor the line for a connection is this sample's fault; a rate-limit pause counts.
        waited, paused = self._time.clock() - began, self._total_pause_s() - paused_before
        attempts.extend(max(0.0, waited - paused))
        self.timings.add_queueing(waited, pauses_before, engine_s)
        attempts.begin()
        return admitted

    def _total_pause_s(self) -> float:
        """Seconds for which every replica's account has been paused, at least."""
        return min(replica.account.total_pause_s() for replica in self.replicas)

    async def _wait_for_engine(self, attempts: Attempts) -> bool:
        """Return when an engine would have the request, False if none ever may: its sample kills.

        Raises ServerError when no engine is left.
        """
        request = attempts.request
        while True:
            choices = self._choices(attempts)
            if any(replica.guard.has_killed(request) for replica in self.replicas):
                return False
            if len(choices) == 1:
                try:
                    return await choices[0].guard.admit(request)
                except ServerError as error:
                    self.give_up(choices[0], error)
            elif any(replica.guard.admits(request) for replica in choices):
                return True
            else:
                await self._first_engine(choices, attempts)

    async def _first_engine(self, choices: Sequence[Replica], attempts: Attempts) -> None:
        """Wait until one of the engines is up again, or gone for good."""
        waiting = {asyncio.create_task(each.guard.admit(attempts.request)): each for each in choices}
        try:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        for task in done:
            if isinstance(error := task.exception(), ServerError):
                self.give_up(waiting[task], error)
            elif error is not None:
                raise error

    async def _wait_for_a_chance(self, attempts: Attempts, head: HeadOfLine | None) -> Pass | None:
        """Wait for one cause after the other; None if no engine's guard will have the request now.

        Of the `head` of the line it is noted what it waits for.
        """
        while True:
            self.context.traffic.require_open()
            free, obstacles = self._look_around(attempts)
            if free:
                # The one with fewest requests in flight; a request that failed tries another one first.
                chosen = min(free, key=lambda each: (each is attempts.replica, each.in_flight, each.sent))
                return chosen.depart(attempts)
            if not obstacles:
                return None
            # A connection comes back first.
            if head is not None:
                head.waits_for(min(cause for cause, _ in obstacles.values()))
            waits_s = [wait_s for _, wait_s in obstacles.values() if wait_s is not None]
            if len(self.replicas) == 1 and waits_s:
                await self._time.sleep(waits_s[0])
            else:
                patience = (each.probe_patience_s() for each in obstacles)
                ends = [*waits_s, *(s for s in patience if s is not None)]
                self._changed.clear()
                # A probe that hangs does not keep the next one.
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(ends, default=None)):
                        await self._changed.wait()

    def _look_around(self, attempts: Attempts) -> tuple[list[Replica], dict[Replica, Obstacle]]:
        """Return the replicas that would take a request now, and what keeps it from the guarded others.

        One where waiting is no use is given up.
        """
        free, obstacles = [], {}
        for replica in self._choices(attempts):
            if replica.guard.admits(attempts.request):
                try:
                    obstacle = replica.obstacle()
                except GapsError as error:
                    self.give_up(replica, error)
                    continue
                if obstacle is None:
                    free.append(replica)
                else:
                    obstacles[replica] = obstacle
        return free, obstacles

    async def make_room(self, attempts: Attempts, size: int) -> Callable[[], None]:
        """Wait for room in memory for a body of `size` bytes; what is returned gives it back, once."""
        began = self._time.clock()
        give_back = await self.context.uploads.reserve(size)
        waited = self._time.clock() - began
        attempts.extend(waited)
        self.timings.room.add(waited)
        return give_back

    @contextmanager
    def sending(self, admitted: Pass) -> Iterator[None]:
        """An attempt is on its way while the block runs; raises GapsError when no more may be sent."""
        task, traffic = asyncio.current_task(), self.context.traffic
        assert task is not None
        traffic.spend_one()
        traffic.in_flight.add(task)
        self._requests += 1
        admitted.attempts.sent_to(admitted.replica)
        try:
            yield
        finally:
            traffic.in_flight.discard(task)

    # What came back.

    def report(
        self,
        admitted: Pass,
        result: Usage | Decision,
        limits: Sequence[NamedLimit] = (),
        *,
        unsaid_tokens: int = 0,
    ) -> bool:
        """Take in what an attempt brought: an answer's usage or a decision, and the limits in its headers.

        `unsaid_tokens` are those of an answer that nobody counted, as far as they can be estimated.
        True if the model served it, be it with nothing. Raises GapsError when there is no use in waiting.
        """
        replica = admitted.replica
        replica.read_limits(admitted, limits)
        is_answer = isinstance(result, Usage)
        counted = result if isinstance(result, Usage) else result.usage
        self._count_tokens(counted, is_answer=is_answer, unsaid_tokens=unsaid_tokens)
        if isinstance(result, Usage):
            self._answered += 1
            usage, is_served = result, True
        else:
            usage, is_served = (
                result.usage,
                result.fault is Fault.PROVIDER_BLOCKED or result.ends_as == "empty",
            )
            if not is_served and result.fault is Fault.RATE_LIMITED:
                self._rate_limited += 1
                try:
                    replica.count_refusal(admitted, result)
                except GapsError as error:
                    self.give_up(replica, error)
                self._wake_undecided()
                return False
            if not is_served and result.is_retryable and not result.is_a_reply:
                replica.count_failure(admitted, result.code)
                return False
        replica.count_reply(admitted, usage if is_served else None)
        self._wake_undecided()
        if is_served:
            self.has_served = True
        return is_served

    def count_batched(
        self, usage: Usage, reserved_usd: float, *, is_answer: bool, unsaid_tokens: int
    ) -> None:
        """Take in what a request of a batch brought: it took no connection and no rate.

        What was reserved for it is free again, and not before its cost is counted.
        """
        self._answered += is_answer
        self._count_tokens(usage, is_answer=is_answer, unsaid_tokens=unsaid_tokens)
        self.context.traffic.spending.reserved_usd -= reserved_usd

    def reserve(self, draft: Draft, *, is_sent: bool) -> float:
        """Reserve the most that a request may cost in a batch, where money is limited; how many dollars.

        Raises GapsError where so much is not left, unless it was sent, and ConfigError where nobody can tell.
        """
        spending = self.context.traffic.spending
        usd = 0.0
        if spending.most_usd is not None and self._price is not None:
            text_tokens, output_tokens = draft.most_tokens()
            if output_tokens is None:
                raise ConfigError(
                    f"{self._name}: its requests have no max_tokens, so nobody knows what a batch may cost, "
                    "and --max-cost cannot be held. Give them one, or use --max-requests instead."
                )
            usd = self._price.most_batch_usd(text_tokens, output_tokens, has_image=draft.has_image)
        if not is_sent:
            spending.require_left(usd)
            spending.requests += 1
        spending.reserved_usd += usd
        return usd

    def _count_tokens(self, usage: Usage, *, is_answer: bool, unsaid_tokens: int) -> None:
        self._used += usage
        if self._price is None:
            return
        spending = self.context.traffic.spending
        said_usd = self._price.usd(usage)
        if unsaid_tokens:
            is_batched = usage.batch_input_tokens is not None
            usage = replace(usage, output_tokens=unsaid_tokens)
            usage = usage.as_batch() if is_batched else usage
            spending.estimated = spending.estimated or self._name
        usd = self._price.usd(usage)
        spending.usd += usd or 0.0
        spending.estimated_usd += (usd or 0.0) - (said_usd or 0.0)
        if usd is None and is_answer:
            spending.uncounted = spending.uncounted or self._name

    def leave(self, admitted: Pass) -> None:
        """Note that the attempt is over, whatever came of it."""
        admitted.replica.leave(admitted)

    async def fate(self, admitted: Pass) -> Fate:
        """Tell whether an attempt that just failed, and has not left yet, did so because its engine died.

        However long an engine takes to die, it is not this sample's time.
        """
        attempts, began = admitted.attempts, self._time.clock()
        try:
            fate = await admitted.replica.guard.fate(attempts.request)
        except ServerError as error:
            self.give_up(admitted.replica, error)
            fate = Fate.LOST
        attempts.extend(self._time.clock() - began)
        if fate is Fate.LOST:
            attempts.suspected_at = admitted.replica
        return fate

    async def is_to_blame(self, attempts: Attempts) -> bool:
        """Tell whether a sample without an attempt left failed by itself: others are answered there.

        False when that is down or gone: then the sample is sent again, with all its attempts. A sample
        with no other beside it cannot be told from an outage, and keeps to its attempts.
        """
        replica = attempts.replica
        assert isinstance(replica, Replica)
        health, began = replica.health, self._time.clock()
        answers, outages = health.answers, health.outages
        self._undecided += 1
        # Others may wait for the same, and be the last that nobody is beside now.
        self._wake()
        try:
            while self._may_answer(replica) and (health.answers, health.outages) == (answers, outages):
                if self._undecided >= self._samples:
                    self.context.observe(Event("alone", self._stage, attempts.sample_id, health.code))
                    return True
                await self._others_changed.wait()
        finally:
            self._undecided -= 1
        attempts.extend(self._time.clock() - began)
        return self._may_answer(replica) and health.outages == outages

    def _may_answer(self, replica: Replica) -> bool:
        return self.has(replica) and not replica.is_down

    def _wake(self) -> None:
        """Wake the head of the line, and whoever waits for what becomes of others."""
        self._changed.set()
        self._wake_undecided()

    def _wake_undecided(self) -> None:
        if self._undecided:
            self._others_changed.set()
            self._others_changed = asyncio.Event()


def _total(rates: Sequence[float | None]) -> float | None:
    """Add limits up; None where one has no limit."""
    limits = [each for each in rates if each is not None]
    return sum(limits) if len(limits) == len(rates) else None
