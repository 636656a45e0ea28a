"""Who may send, what a reply teaches, and what requests cost: an admission in virtual time, with no endpoint.

Nothing is sent: the tests say what came of each attempt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, cast

import pytest

from tests.support.virtual import run_virtually
from vlsb.config import Endpoint, Party, RetryPolicy
from vlsb.endpoints.admission import Admission, AdmissionState
from vlsb.endpoints.connect import Client
from vlsb.endpoints.connections import ConnectionLimit, Phase
from vlsb.endpoints.faults import Decision, Fault
from vlsb.endpoints.headers import NamedLimit, Unit
from vlsb.endpoints.rate_limits import AIM, Account, Caps
from vlsb.endpoints.replica import Pass, Replica
from vlsb.endpoints.request import Draft, ReadImage
from vlsb.endpoints.retry import Attempts, EngineGuard, Fate, InFlight
from vlsb.endpoints.timings import Wait
from vlsb.endpoints.traffic import Event, RunContext, Spending, StoppedError, Time, Traffic, UploadBudget
from vlsb.errors import ConfigError, GapsError, LimitReachedError, OutageError, ServerError
from vlsb.models.prices import Price
from vlsb.records import Key, Untrusted, Usage

T0 = 1000.0
POLICY = RetryPolicy(sample_timeout_s=600.0, outage_timeout_s=300.0, backoff_s=1.0)
PRICE = Price(
    models=("m",),
    input=1.0,
    output=10.0,
    batch_input=0.5,
    batch_output=5.0,
    image_tokens=1000,
    source="the price list",
    as_of=date(2026, 1, 1),
)
ANSWER = Usage(1000, 100)
RATE_LIMITED = Decision(Fault.RATE_LIMITED, "rate_limit_exceeded", Untrusted(""), 429, retry_after_s=20.0)
FAILED = Decision(Fault.TRANSIENT, "http_500", Untrusted(""), 500)


@dataclass
class Way:
    """An admission and what can be seen of it."""

    admission: Admission
    replicas: list[Replica]
    context: RunContext
    events: list[Event] = field(default_factory=list)

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return self.context.time.clock() - T0

    @property
    def spending(self) -> Spending:
        return self.context.traffic.spending

    def attempts(self, sample_id: int = 1) -> Attempts:
        return Attempts(Key(sample_id, 1), self.context.policy, self.context.time)

    async def admit(self, attempts: Attempts | None = None) -> Pass:
        admitted = await self.admission.admit(attempts or self.attempts())
        assert admitted is not None
        return admitted

    async def send(self, result: Usage | Decision, attempts: Attempts | None = None) -> bool:
        """One attempt that brings this, from its beginning to its end."""
        admitted = await self.admit(attempts)
        with self.admission.sending(admitted):
            pass
        served = self.admission.report(admitted, result)
        self.admission.leave(admitted)
        return served

    def state(self) -> AdmissionState:
        return self.admission.state()

    def seen(self, *kinds: str) -> list[str]:
        return [each.kind for each in self.events if each.kind in kinds]

    def go_down(self, replica: Replica) -> None:
        """Three samples fail and nothing else comes back."""
        for sample_id in (101, 102, 103):
            admitted = replica.depart(self.attempts(sample_id))
            replica.count_failure(admitted, "http_500")
            replica.leave(admitted)
        assert replica.is_down


def way(
    count: int = 1,
    *,
    limit: int = 2,
    price: Price | None = None,
    spending: Spending | None = None,
    policy: RetryPolicy = POLICY,
    guards: Sequence[EngineGuard] = (),
    uploads: UploadBudget | None = None,
) -> Way:
    """An admission on the loop's own clock; each replica has an account of its own."""
    loop = asyncio.get_running_loop()
    events: list[Event] = []

    def clock() -> float:
        return T0 + loop.time()

    time = Time(clock, asyncio.sleep, lambda low, high: high)
    traffic = Traffic(spending=spending or Spending())
    context = RunContext(policy, time, traffic, events.append, uploads or UploadBudget(100))
    replicas = [
        Replica(
            Party("target", Endpoint("m", f"http://replica{number}/v1")),
            cast(Client, None),  # it sends nothing
            context,
            account=Account(clock),
            connections=ConnectionLimit(start=limit, ceiling=4, floor=1, clock=clock),
            guard=guards[number] if guards else None,
        )
        for number in range(count)
    ]
    return Way(Admission(replicas[0].party, context, replicas, price=price), replicas, context, events)


async def soon(*coroutines: Coroutine[Any, Any, Any]) -> list[asyncio.Task[Any]]:
    """Start these, and let them get as far as they can without time passing."""
    tasks = [asyncio.create_task(each) for each in coroutines]
    await asyncio.sleep(0.001)
    return tasks


@contextmanager
def samples_in_hand(asked: Way, count: int) -> Iterator[None]:
    if not count:
        yield
        return
    with asked.admission.sample(), samples_in_hand(asked, count - 1):
        yield


# What is shown.


def test_the_state_of_a_model_is_the_sum_of_its_replicas() -> None:
    async def scenario() -> None:
        asked = way(2, price=PRICE)
        first, second = asked.replicas
        first.account.rates.set_caps(Caps(rpm=60, tpm=6000))
        second.account.rates.set_caps(Caps(tpm=60_000))
        second.account.rates.settle(second.account.rates.depart(), Usage(500, 0))
        await asked.send(ANSWER)
        await asked.admit()

        assert asked.state() == AdmissionState(
            in_flight=1,
            limit=4,
            ceiling=8,
            phase=Phase.SLOW_START,
            pause_s=0.0,
            rpm=None,
            tpm=pytest.approx(66_000 * AIM),
            tokens_per_request=1100.0,
            is_down=False,
            replicas=(2, 2),
            waits_for=Wait.NOTHING,
            requests=1,
            answered=1,
            rate_limited=0,
            used=ANSWER,
            usd=pytest.approx(0.002),
        )

    run_virtually(scenario())


def test_a_replica_that_is_down_has_no_connections_to_show_until_all_are_down() -> None:
    async def scenario() -> None:
        asked = way(2)
        asked.replicas[1].connections.limit = 1
        asked.go_down(asked.replicas[0])
        state = asked.state()
        assert (state.limit, state.ceiling, state.replicas, state.is_down) == (1, 4, (1, 2), False)

        asked.go_down(asked.replicas[1])
        state = asked.state()
        assert (state.limit, state.ceiling, state.replicas, state.is_down) == (3, 8, (0, 2), True)

    run_virtually(scenario())


def test_a_pause_is_shown_once_every_replica_has_one_and_it_is_the_shortest() -> None:
    async def scenario() -> None:
        asked = way(2)
        first, second = asked.replicas
        first.account.refuse(first.account.rates.depart(), 50.0)
        assert asked.state().pause_s == 0

        second.account.refuse(second.account.rates.depart(), 20.0)
        assert asked.state().pause_s == pytest.approx(20)
        assert asked.admission.accounts == {first.account, second.account}

    run_virtually(scenario())


def test_what_nothing_cost_is_known_with_a_price_and_unknown_without() -> None:
    async def scenario() -> None:
        assert way().state().usd is None
        assert way(price=PRICE).state().usd == 0
        unsaid = way(price=PRICE)
        await unsaid.send(Usage())
        assert unsaid.state().usd == 0

    run_virtually(scenario())


# Where a request goes.


def test_a_replica_that_was_given_up_is_asked_no_more_and_counts_no_more() -> None:
    async def scenario() -> None:
        asked = way(2)
        first, second = asked.replicas
        gone = GapsError("gone")
        assert not asked.admission.is_last(first)
        asked.admission.give_up(first, gone)
        asked.admission.give_up(first, gone)

        lost = [(each.kind, each.replica, each.address) for each in asked.events]
        assert lost == [("replica_lost", 1, "replica0")]
        assert (asked.admission.has(first), asked.admission.has(second)) == (False, True)
        assert asked.admission.is_last(second)
        assert asked.state().replicas == (1, 2)
        assert [(await asked.admit()).replica for _ in range(2)] == [second, second]
        with pytest.raises(GapsError, match="gone for good"):
            asked.admission.give_up(second, GapsError("gone for good"))
        assert asked.admission.has(second)

    run_virtually(scenario())


def test_of_replicas_the_one_with_fewest_requests_in_flight_is_asked_and_then_the_one_asked_least() -> None:
    async def scenario() -> None:
        asked = way(2, limit=4)
        first, second = asked.replicas
        one, two, three = [await asked.admit() for _ in range(3)]
        assert [each.replica for each in (one, two, three)] == [first, second, first]

        asked.admission.leave(one)
        asked.admission.leave(three)
        assert (await asked.admit()).replica is first
        asked.admission.leave(two)
        assert (await asked.admit()).replica is second

    run_virtually(scenario())


def test_a_replica_that_is_alone_has_no_number() -> None:
    async def scenario() -> None:
        asked = way()
        asked.go_down(asked.replicas[0])

        assert [(each.kind, each.replica) for each in asked.events] == [("outage", None)]

    run_virtually(scenario())


def test_a_request_that_failed_at_one_replica_tries_the_other_one_first() -> None:
    async def scenario() -> None:
        asked = way(2)
        attempts = asked.attempts()
        for _ in range(2):
            await asked.send(FAILED, attempts)

        assert [each.sent for each in asked.replicas] == [1, 1]
        asked.replicas[1].sent = 9
        attempts.sent_to(asked.replicas[0])
        assert (await asked.admit(attempts)).replica is asked.replicas[1]

    run_virtually(scenario())


def test_others_are_left_where_one_is_up_beside_this_one() -> None:
    async def scenario() -> None:
        asked = way(2)
        admitted = await asked.admit()
        assert asked.admission.has_others(admitted)
        asked.go_down(asked.replicas[1])
        assert not asked.admission.has_others(admitted)

        alone = way()
        assert not alone.admission.has_others(await alone.admit())

    run_virtually(scenario())


def test_a_request_that_an_engine_may_have_died_of_waits_for_that_replicas_pause_alone() -> None:
    async def scenario() -> None:
        asked = way(2)
        first = asked.replicas[0]
        first.account.refuse(first.account.rates.depart(), 30.0)
        bound, free = asked.attempts(1), asked.attempts(2)
        bound.suspected_at = first
        assert asked.admission.pause_s(bound) == pytest.approx(30)
        assert asked.admission.pause_s(free) == 0

        (waiting,) = await soon(asked.admit(bound))
        assert (await asked.admit(free)).replica is asked.replicas[1]
        assert asked.now < 1
        assert (await waiting).replica is first
        assert asked.now == pytest.approx(30, abs=0.1)

        # Once that is given up, it goes where others go.
        asked.admission.give_up(first, GapsError("gone"))
        again = asked.attempts(3)
        again.suspected_at = first
        assert asked.admission.pause_s(again) == 0
        assert (await asked.admit(again)).replica is asked.replicas[1]

    run_virtually(scenario())


# Waiting.


def test_who_waits_for_a_connection_has_it_when_one_is_left_and_no_time_of_its_sample_is_spent() -> None:
    async def scenario() -> None:
        asked = way(limit=1)
        first = await asked.admit()
        attempts = asked.attempts(2)
        attempts.begin()
        (waiting,) = await soon(asked.admit(attempts))
        assert asked.state().waits_for is Wait.CONNECTION
        await asyncio.sleep(50)
        assert not waiting.done()

        asked.admission.leave(first)
        await waiting
        assert attempts.left_s() == pytest.approx(600)
        assert asked.state().waits_for is Wait.NOTHING
        assert asked.state().in_flight == 1
        timings = asked.admission.timings
        assert timings.slot.total_s == pytest.approx(50, abs=0.1)
        assert timings.rate.total_s == timings.outage.total_s == 0

    run_virtually(scenario())


def test_a_samples_time_begins_when_its_first_attempt_leaves_and_a_rate_limit_spends_it() -> None:
    async def scenario() -> None:
        asked = way()
        asked.replicas[0].account.refuse(asked.replicas[0].account.rates.depart(), 40.0)
        begun, new = asked.attempts(1), asked.attempts(2)
        begun.begin()
        waiting = await soon(asked.admit(begun), asked.admit(new))
        assert asked.state().waits_for is Wait.RATE
        first = await waiting[0]

        assert asked.now == pytest.approx(40, abs=0.1)
        assert begun.left_s() == pytest.approx(560, abs=0.1)
        asked.admission.report(first, ANSWER)
        await waiting[1]
        assert new.left_s() == pytest.approx(600, abs=0.1)
        assert asked.admission.timings.rate.total_s == pytest.approx(80, abs=0.3)

        # What was paused before is none of the next wait.
        left_s = begun.left_s()
        asked.admission.report(first, replace(RATE_LIMITED, retry_after_s=10.0))
        asked.admission.leave(first)
        await asked.admit(begun)
        assert begun.left_s() == pytest.approx(left_s - 10, abs=0.1)

    run_virtually(scenario())


def test_pauses_of_one_replica_are_none_while_the_other_could_have_been_asked() -> None:
    """What it waited for is connections: time that is given back."""

    async def scenario() -> None:
        asked = way(2, limit=1)
        first, second = asked.replicas
        busy = await asked.admit()
        assert busy.replica is first
        second.account.refuse(second.account.rates.depart(), 100.0)
        attempts = asked.attempts(2)
        attempts.begin()
        (waiting,) = await soon(asked.admit(attempts))
        await asyncio.sleep(30)
        asked.admission.leave(busy)
        await waiting

        assert attempts.left_s() == pytest.approx(600)

    run_virtually(scenario())


def test_of_several_causes_that_one_is_told_which_is_over_first() -> None:
    async def scenario() -> None:
        asked = way(2, limit=1)
        first, second = asked.replicas
        second.account.refuse(second.account.rates.depart(), 100.0)
        busy = await asked.admit()
        waiting = await soon(asked.admit(asked.attempts(2)))
        assert asked.state().waits_for is Wait.CONNECTION
        asked.admission.leave(busy)
        await waiting[0]

        first.account.refuse(first.account.rates.depart(), 10.0)
        asked.admission.leave(waiting[0].result())
        last = await asked.admit(asked.attempts(3))
        assert last.replica is first
        assert asked.now == pytest.approx(10, abs=0.1)

    run_virtually(scenario())


def test_a_retry_goes_before_those_who_were_never_sent() -> None:
    async def scenario() -> None:
        asked = way(limit=1)
        busy = await asked.admit()
        retry = asked.attempts(9)
        retry.sent_to(asked.replicas[0])
        order = []

        async def job(name: str, attempts: Attempts) -> None:
            admitted = await asked.admit(attempts)
            order.append((name, admitted.is_retry))
            asked.admission.leave(admitted)

        waiting = await soon(job("first", asked.attempts(2)))
        waiting += await soon(job("second", asked.attempts(3)))
        waiting += await soon(job("third", asked.attempts(4)))
        waiting += await soon(job("retry", retry))
        asked.admission.leave(busy)
        await asyncio.gather(*waiting)
        assert order == [("first", False), ("retry", True), ("second", False), ("third", False)]

    run_virtually(scenario())


def test_between_two_heads_of_the_line_the_next_one_waits_for_its_turn_alone() -> None:
    async def scenario() -> None:
        asked = way(limit=1)
        busy = await asked.admit()
        seen = []

        async def job() -> None:
            await asked.admit()
            seen.append(asked.state().waits_for)

        await soon(job(), job())
        asked.admission.leave(busy)
        seen.append(asked.state().waits_for)
        await asyncio.sleep(0.001)
        seen.append(asked.state().waits_for)

        assert seen == [Wait.CONNECTION, Wait.LOOP, Wait.CONNECTION]

    run_virtually(scenario())


def test_nobody_is_admitted_to_a_run_that_stops_and_nobody_hangs() -> None:
    async def scenario() -> None:
        asked = way(limit=1)
        busy = await asked.admit()
        waiting = await soon(asked.admit(), asked.admit(), asked.admit())
        asked.context.traffic.is_stopping = True
        asked.admission.leave(busy)

        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(each) for each in found] == [StoppedError] * 3
        with pytest.raises(StoppedError):
            await asked.admit()

    run_virtually(scenario())


def test_a_model_that_is_down_is_probed_by_one_request_at_a_time_until_patience_ends() -> None:
    async def scenario() -> None:
        asked = way()
        asked.go_down(asked.replicas[0])
        (waiting,) = await soon(asked.admit())
        assert asked.state().waits_for is Wait.OUTAGE
        probe = await waiting
        assert probe.is_probe
        (next_one,) = await soon(asked.admit())
        await asyncio.sleep(1)
        assert not next_one.done()

        # A probe that hangs keeps the next one for ten seconds, and none is sent after five minutes.
        assert (await next_one).is_probe
        assert asked.now == pytest.approx(10, abs=3)
        await asyncio.sleep(300)
        with pytest.raises(OutageError, match="no answer for 300 s"):
            await asked.admit()

    run_virtually(scenario())


def test_a_probe_that_hangs_at_one_of_two_that_are_down_keeps_the_next_one_no_longer_than_alone() -> None:
    async def scenario() -> None:
        asked = way(2)
        for replica in asked.replicas:
            asked.go_down(replica)
        probes = [await asked.admit() for _ in range(2)]
        assert [each.is_probe for each in probes] == [True, True]
        began = asked.now
        third = await asked.admit()

        assert third.is_probe
        assert asked.now - began == pytest.approx(10, abs=0.1)

    run_virtually(scenario())


# Engines.


class Engine(EngineGuard):
    """An engine that is up when the test says so. A request that it died of may never be sent again."""

    def __init__(self, *, is_up: bool = True) -> None:
        self.is_up = asyncio.Event()
        if is_up:
            self.is_up.set()
        self.killers: set[int] = set()
        self.error: Exception | None = None
        self.fates: list[Fate | Exception] = []
        self.asked: set[int] = set()
        self.on_change = lambda: None

    async def admit(self, request: InFlight) -> bool:
        self.asked.add(request.sample_id)
        await self.is_up.wait()
        if self.error is not None:
            raise self.error
        return True

    def admits(self, request: InFlight) -> bool:
        self.asked.add(request.sample_id)
        return self.is_up.is_set() and self.error is None

    def has_killed(self, request: InFlight) -> bool:
        return request.sample_id in self.killers

    def watch(self, on_change: Any) -> None:
        self.on_change = on_change

    async def fate(self, request: InFlight) -> Fate:
        self.asked.add(request.sample_id)
        await asyncio.sleep(7)
        fate = self.fates.pop(0)
        if isinstance(fate, Exception):
            raise fate
        return fate


def test_a_request_waits_for_its_engine_outside_the_line_and_that_is_no_queueing_of_its_own() -> None:
    async def scenario() -> None:
        engine = Engine(is_up=False)
        asked = way(guards=[engine])
        attempts = asked.attempts()
        attempts.begin()
        (waiting,) = await soon(asked.admit(attempts))
        assert asked.state().waits_for is Wait.NOTHING
        await asyncio.sleep(60)
        engine.is_up.set()
        await waiting

        assert attempts.left_s() == pytest.approx(600)
        timings = asked.admission.timings
        assert timings.outage.total_s == pytest.approx(60, abs=0.1)
        assert timings.slot.total_s == pytest.approx(0, abs=0.1)

    run_virtually(scenario())


def test_an_engine_that_dies_while_a_request_waits_for_something_else_is_waited_for_again() -> None:
    async def scenario() -> None:
        engine = Engine(is_up=False)
        asked = way(limit=1, guards=[engine])
        busy = asked.replicas[0].depart(asked.attempts(9))
        (waiting,) = await soon(asked.admit())
        await asyncio.sleep(60)
        engine.is_up.set()
        await asyncio.sleep(5)
        engine.is_up.clear()
        asked.admission.leave(busy)
        await asyncio.sleep(30)
        assert not waiting.done()
        engine.is_up.set()
        await waiting

        timings = asked.admission.timings
        assert timings.outage.total_s == pytest.approx(90, abs=0.1)
        assert timings.slot.total_s == pytest.approx(5, abs=0.1)
        assert engine.asked == {1}

    run_virtually(scenario())


def test_a_request_bound_to_an_engine_that_goes_down_meanwhile_waits_until_that_is_up() -> None:
    async def scenario() -> None:
        engines = [Engine(), Engine()]
        asked = way(2, guards=engines)
        first = asked.replicas[0]
        first.account.refuse(first.account.rates.depart(), 30.0)
        attempts = asked.attempts()
        attempts.suspected_at = first
        (waiting,) = await soon(asked.admit(attempts))
        engines[0].is_up.clear()
        await asyncio.sleep(50)
        assert not waiting.done()
        engines[0].is_up.set()

        assert (await waiting).replica is first

    run_virtually(scenario())


def test_an_engine_that_is_up_again_is_asked_while_the_other_replica_is_paused() -> None:
    async def scenario() -> None:
        engines = [Engine(), Engine(is_up=False)]
        asked = way(2, guards=engines)
        first = asked.replicas[0]
        first.account.refuse(first.account.rates.depart(), 100.0)
        (waiting,) = await soon(asked.admit())
        await asyncio.sleep(10)
        engines[1].is_up.set()
        engines[1].on_change()

        assert (await waiting).replica is asked.replicas[1]
        assert asked.now == pytest.approx(10, abs=0.1)

    run_virtually(scenario())


def test_a_request_that_kills_engines_is_sent_to_none() -> None:
    async def scenario() -> None:
        engines = [Engine(), Engine()]
        engines[1].killers.add(5)
        asked = way(2, guards=engines)

        assert await asked.admission.admit(asked.attempts(5)) is None
        assert await asked.admission.admit(asked.attempts(6)) is not None

    run_virtually(scenario())


def test_an_engine_that_is_gone_is_given_up_while_another_one_starts_and_the_last_one_ends_the_run() -> None:
    async def scenario() -> None:
        engines = [Engine(is_up=False), Engine(is_up=False)]
        asked = way(2, guards=engines)
        (waiting,) = await soon(asked.admit())
        engines[0].error = ServerError("gone")
        engines[0].is_up.set()
        await asyncio.sleep(5)
        assert asked.seen("replica_lost") == ["replica_lost"]
        assert not waiting.done()
        engines[1].is_up.set()
        assert (await waiting).replica is asked.replicas[1]

        engines[1].error = ServerError("gone too")
        with pytest.raises(ServerError, match="gone too"):
            await asked.admit()

    run_virtually(scenario())


def test_whichever_engine_is_up_first_is_asked_and_nobody_goes_on_waiting_for_the_other() -> None:
    async def scenario() -> None:
        engines = [Engine(is_up=False), Engine(is_up=False)]
        asked = way(2, guards=engines)
        (waiting,) = await soon(asked.admit())
        before = len(asyncio.all_tasks())
        engines[1].is_up.set()

        assert (await waiting).replica is asked.replicas[1]
        assert len(asyncio.all_tasks()) == before - 3
        # What is no word about an engine is a defect of ours, and is not swallowed.
        engines[1].is_up.clear()
        (waiting,) = await soon(asked.admit())
        engines[0].error = ZeroDivisionError()
        engines[0].is_up.set()
        with pytest.raises(ZeroDivisionError):
            await waiting

    run_virtually(scenario())


def test_the_time_in_which_an_engine_dies_is_not_its_samples_and_the_request_goes_there_again() -> None:
    async def scenario() -> None:
        engine = Engine()
        asked = way(2, guards=[engine, Engine()])
        engine.fates = [Fate.ALIVE, Fate.LOST, ServerError("gone")]
        admitted = await asked.admit()
        attempts = admitted.attempts
        assert await asked.admission.fate(admitted) is Fate.ALIVE
        assert attempts.suspected_at is None
        assert attempts.left_s() == pytest.approx(600)

        assert await asked.admission.fate(admitted) is Fate.LOST
        assert attempts.suspected_at is asked.replicas[0]
        assert await asked.admission.fate(admitted) is Fate.LOST
        assert not asked.admission.has(asked.replicas[0])
        assert attempts.left_s() == pytest.approx(600)

    run_virtually(scenario())


# Sending.


def test_an_attempt_on_its_way_is_counted_and_seen_and_none_leaves_beyond_a_limit() -> None:
    async def scenario() -> None:
        asked = way(spending=Spending(most_requests=1))
        admitted = await asked.admit()
        with asked.admission.sending(admitted):
            assert asked.context.traffic.in_flight == {asyncio.current_task()}
            assert admitted.attempts.replica is admitted.replica
        assert asked.context.traffic.in_flight == set()
        assert (asked.state().requests, admitted.attempts.sent, asked.spending.requests) == (1, 1, 1)

        with pytest.raises(LimitReachedError), asked.admission.sending(admitted):
            pytest.fail("it was sent")
        assert (asked.state().requests, admitted.attempts.sent) == (1, 1)

    run_virtually(scenario())


def test_a_body_waits_for_room_and_that_is_not_its_samples_time() -> None:
    async def scenario() -> None:
        asked = way(uploads=UploadBudget(10))
        attempts = asked.attempts()
        attempts.begin()
        give_back = await asked.admission.make_room(attempts, 8)
        (waiting,) = await soon(asked.admission.make_room(attempts, 8))
        await asyncio.sleep(30)
        give_back()
        (await waiting)()

        assert attempts.left_s() == pytest.approx(600, abs=0.1)
        room = asked.admission.timings.room
        assert (room.count, room.total_s) == (2, pytest.approx(30, abs=0.1))

    run_virtually(scenario())


# What came back.


def test_an_answer_is_counted_with_its_tokens_and_its_cost() -> None:
    async def scenario() -> None:
        asked = way(price=PRICE)
        assert not asked.admission.has_served
        assert await asked.send(ANSWER)

        assert asked.admission.has_served
        state = asked.state()
        assert (state.answered, state.rate_limited, state.used) == (1, 0, ANSWER)
        assert (state.usd, asked.spending.usd) == (pytest.approx(0.002), pytest.approx(0.002))
        assert state.tokens_per_request == 1100
        assert (asked.spending.estimated, asked.spending.uncounted) == (None, None)
        assert asked.spending.estimated_usd == 0

        await asked.send(ANSWER)
        assert (asked.state().answered, asked.state().used) == (2, ANSWER + ANSWER)

    run_virtually(scenario())


@pytest.mark.parametrize(
    "decision",
    [
        Decision(Fault.PROVIDER_BLOCKED, "content_filter", Untrusted(""), 400, ends_as="blocked"),
        Decision(Fault.BAD_PAYLOAD, "empty_content", Untrusted(""), 200, ends_as="empty"),
    ],
)
def test_what_a_model_served_with_nothing_is_served_and_no_answer(decision: Decision) -> None:
    async def scenario() -> None:
        asked = way(price=PRICE)
        assert await asked.send(replace(decision, usage=ANSWER))

        assert asked.admission.has_served
        assert (asked.state().answered, asked.state().used) == (0, ANSWER)
        assert asked.state().tokens_per_request == 1100

    run_virtually(scenario())


def test_a_rejected_request_is_a_reply_and_nothing_that_was_served() -> None:
    async def scenario() -> None:
        asked = way(price=PRICE)
        decision = Decision(Fault.ITEM_PERMANENT, "bad_request", Untrusted(""), 400, usage=ANSWER)
        assert not await asked.send(decision)

        assert not asked.admission.has_served
        assert asked.state().tokens_per_request == 0
        assert asked.replicas[0].health.answers == 1

    run_virtually(scenario())


def test_a_failure_is_no_reply_and_an_unusable_one_of_the_model_is() -> None:
    async def scenario() -> None:
        asked = way()
        assert not await asked.send(FAILED)
        assert asked.replicas[0].health.answers == 0

        assert not await asked.send(Decision(Fault.BAD_PAYLOAD, "no_choices", Untrusted(""), 200))
        assert asked.replicas[0].health.answers == 1

    run_virtually(scenario())


def test_a_refusal_for_its_rate_is_counted_and_paused_for() -> None:
    async def scenario() -> None:
        asked = way()
        assert not await asked.send(RATE_LIMITED)

        state = asked.state()
        assert (state.rate_limited, state.answered, state.requests) == (1, 0, 1)
        assert state.pause_s == pytest.approx(20)
        assert asked.replicas[0].health.answers == 1
        await asked.send(RATE_LIMITED)
        assert asked.state().rate_limited == 2

    run_virtually(scenario())


def test_a_refusal_for_longer_than_a_sample_has_gives_a_replica_up_and_ends_the_run_at_the_last_one() -> None:
    async def scenario() -> None:
        asked = way(2)
        long = replace(RATE_LIMITED, retry_after_s=3600.0)
        assert not await asked.send(long)
        assert not asked.admission.has(asked.replicas[0])

        with pytest.raises(GapsError, match="asks for a pause of 3600 s"):
            await asked.send(long)

    run_virtually(scenario())


def test_the_limits_that_headers_name_are_read_off_any_reply() -> None:
    async def scenario() -> None:
        asked = way()
        for result in (ANSWER, FAILED):
            admitted = await asked.admit()
            asked.admission.report(admitted, result, [NamedLimit(Unit.REQUESTS, 600.0)])
            asked.admission.leave(admitted)
            assert asked.state().rpm == pytest.approx(600 * AIM)
        assert way().state().rpm is None

    run_virtually(scenario())


# Money.


def test_an_answer_whose_tokens_nobody_counted_is_estimated_apart() -> None:
    async def scenario() -> None:
        asked = way(price=PRICE)
        admitted = await asked.admit()
        asked.admission.report(admitted, Usage(1000, None), unsaid_tokens=50)

        assert asked.spending.usd == pytest.approx(0.0015)
        assert asked.spending.estimated_usd == pytest.approx(0.0005)
        assert asked.spending.estimated == "target m at replica0"
        assert asked.state().used == Usage(1000, None)
        # Who is named first stays.
        asked.spending.estimated = asked.spending.uncounted = "judge j"
        asked.admission.report(admitted, Usage(1000, None), unsaid_tokens=50)
        assert asked.spending.estimated_usd == pytest.approx(0.001)
        asked.admission.report(admitted, Usage())
        assert (asked.spending.estimated, asked.spending.uncounted) == ("judge j", "judge j")

    run_virtually(scenario())


def test_an_answer_of_unknown_cost_is_told_and_a_failure_without_tokens_is_not() -> None:
    async def scenario() -> None:
        asked = way(price=PRICE)
        admitted = await asked.admit()
        asked.admission.report(admitted, FAILED)
        assert (asked.spending.uncounted, asked.spending.usd) == (None, 0)

        asked.admission.report(admitted, ANSWER)
        asked.admission.report(admitted, Usage())
        assert asked.spending.uncounted == "target m at replica0"
        assert asked.spending.usd == pytest.approx(0.002)
        assert asked.spending.estimated_usd == 0

    run_virtually(scenario())


def test_without_a_price_no_money_is_counted() -> None:
    async def scenario() -> None:
        asked = way()
        admitted = await asked.admit()
        asked.admission.report(admitted, Usage(), unsaid_tokens=50)

        assert asked.spending == Spending()

    run_virtually(scenario())


def test_a_batch_costs_its_own_price_and_gives_back_what_was_reserved() -> None:
    async def scenario() -> None:
        asked = way(price=PRICE)
        asked.spending.reserved_usd = 3.0
        count = asked.admission.count_batched
        count(ANSWER.as_batch(), 1.0, is_answer=True, unsaid_tokens=0)
        assert asked.spending.usd == pytest.approx(0.001)
        count(Usage(1000, None).as_batch(), 0.5, is_answer=True, unsaid_tokens=50)
        assert asked.spending.usd == pytest.approx(0.001 + 0.00075)
        assert asked.spending.estimated_usd == pytest.approx(0.00025)
        count(Usage(), 0.25, is_answer=False, unsaid_tokens=0)

        assert asked.spending.reserved_usd == pytest.approx(1.25)
        assert asked.spending.uncounted is None
        assert (asked.state().answered, asked.state().requests) == (2, 0)
        count(Usage(), 0.25, is_answer=True, unsaid_tokens=0)
        assert asked.spending.uncounted == "target m at replica0"

    run_virtually(scenario())


def draft_of(body: bytes, *, has_image: bool = False) -> Draft:
    """A request of exactly this text; an image would stand before its last letter."""
    head, tail = (body[:-1], body[-1:]) if has_image else (body, b"")

    def never() -> ReadImage:
        raise AssertionError

    return Draft(head, tail, never, len(body))


LIMITED = b'{"max_tokens": 100}'


def test_the_most_that_a_request_may_cost_in_a_batch_is_reserved_before_it_is_sent() -> None:
    """A token for each byte of its text, those of an image, and all that it may answer."""

    async def scenario() -> None:
        asked = way(price=PRICE, spending=Spending(most_usd=1.0))
        text_usd, answer_usd, image_usd = len(LIMITED) * 0.5e-6, 100 * 5e-6, 1000 * 0.5e-6

        assert asked.admission.reserve(draft_of(LIMITED), is_sent=False) == pytest.approx(
            text_usd + answer_usd
        )
        found = asked.admission.reserve(draft_of(LIMITED, has_image=True), is_sent=False)
        assert found == pytest.approx(text_usd + answer_usd + image_usd)
        assert asked.spending.reserved_usd == pytest.approx(2 * (text_usd + answer_usd) + image_usd)
        assert (asked.spending.requests, asked.spending.usd) == (2, 0)

    run_virtually(scenario())


def test_a_request_for_which_no_money_is_left_is_not_reserved_unless_it_was_sent() -> None:
    async def scenario() -> None:
        asked = way(price=PRICE, spending=Spending(most_usd=0.0007))
        usd = asked.admission.reserve(draft_of(LIMITED), is_sent=False)
        with pytest.raises(LimitReachedError, match="--max-cost is reached"):
            asked.admission.reserve(draft_of(LIMITED), is_sent=False)
        assert (asked.spending.reserved_usd, asked.spending.requests) == (usd, 1)

        assert asked.admission.reserve(draft_of(LIMITED), is_sent=True) == usd
        assert (asked.spending.reserved_usd, asked.spending.requests) == (2 * usd, 1)

    run_virtually(scenario())


def test_a_request_whose_answer_nothing_bounds_cannot_be_reserved() -> None:
    async def scenario() -> None:
        asked = way(price=PRICE, spending=Spending(most_usd=1.0))
        with pytest.raises(ConfigError, match="target m at replica0: its requests have no max_tokens"):
            asked.admission.reserve(draft_of(b"{}"), is_sent=False)

    run_virtually(scenario())


def test_where_money_is_not_limited_nothing_is_reserved_and_requests_are_counted() -> None:
    async def scenario() -> None:
        limited = Spending(most_requests=1)
        asked = way(price=PRICE, spending=limited)
        assert asked.admission.reserve(draft_of(b"{}"), is_sent=False) == 0
        assert (limited.requests, limited.reserved_usd) == (1, 0)
        with pytest.raises(LimitReachedError, match="--max-requests is reached"):
            asked.admission.reserve(draft_of(b"{}"), is_sent=False)

        unpriced = way(spending=Spending(most_usd=1.0))
        assert unpriced.admission.reserve(draft_of(b"{}"), is_sent=False) == 0

    run_virtually(scenario())


# Who is to blame.


def test_others_decide_whether_a_sample_is_to_blame() -> None:
    """Another sample is answered there meanwhile: the model is up, and this one failed by itself."""

    async def scenario() -> None:
        asked = way(limit=4)
        attempts = asked.attempts(1)
        with samples_in_hand(asked, 2):
            await asked.send(FAILED, attempts)
            for _ in range(2):
                (undecided,) = await soon(asked.admission.is_to_blame(attempts))
                await asyncio.sleep(30)
                assert not undecided.done()
                await asked.send(ANSWER, asked.attempts(2))

                assert await undecided
        assert attempts.left_s() == pytest.approx(600)
        assert asked.seen("alone") == []

    run_virtually(scenario())


def test_a_sample_is_not_to_blame_for_an_outage_or_a_replica_that_is_gone() -> None:
    async def scenario(*, is_gone: bool) -> bool:
        asked = way(2, limit=4)
        attempts = asked.attempts(1)
        with samples_in_hand(asked, 3):
            await asked.send(FAILED, attempts)
            (undecided,) = await soon(asked.admission.is_to_blame(attempts))
            if is_gone:
                asked.admission.give_up(asked.replicas[0], GapsError("gone"))
            else:
                asked.go_down(asked.replicas[0])
            return bool(await undecided)

    assert not run_virtually(scenario(is_gone=True))
    assert not run_virtually(scenario(is_gone=False))


def test_an_outage_that_is_over_by_then_was_one() -> None:
    async def scenario() -> None:
        asked = way(limit=4)
        attempts = asked.attempts(1)
        with samples_in_hand(asked, 3):
            await asked.send(FAILED, attempts)
            undecided = asyncio.create_task(asked.admission.is_to_blame(attempts))
            await asyncio.sleep(1)
            asked.go_down(asked.replicas[0])
            asked.replicas[0].health.count_answer()

            assert not await undecided

    run_virtually(scenario())


def test_samples_with_no_other_beside_them_keep_to_their_attempts() -> None:
    async def scenario() -> None:
        asked = way(limit=4)
        first, second = asked.attempts(1), asked.attempts(2)
        for attempts in (first, second):
            await asked.send(FAILED, attempts)
        with asked.admission.sample():
            with samples_in_hand(asked, 2):
                waiting = await soon(asked.admission.is_to_blame(first), asked.admission.is_to_blame(second))
                assert [each.done() for each in waiting] == [False, False]
            # The others are done: nobody is left who could tell.
            assert await asyncio.gather(*waiting) == [True, True]

        alone = [each for each in asked.events if each.kind == "alone"]
        assert {each.sample_id for each in alone} == {1, 2}
        assert {(each.stage, each.code) for each in alone} == {("target", "http_500")}

    run_virtually(scenario())
