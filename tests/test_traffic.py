"""When a request may leave: nobody waits too short, nobody waits for ever, no slot is lost."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlsb.config import RetryPolicy
from vlsb.endpoints.faults import Fault
from vlsb.endpoints.traffic import ENDED_ALIKE_LIMIT, Breaker, Gate, Limiter, Time, UploadBudget, backoff_s
from vlsb.errors import GapsError, OutageError
from vlsb.records import Untrusted

POLICY = RetryPolicy(backoff_s=1.0, backoff_cap_s=30.0, outage_timeout_s=300.0)


class Hours:
    """A clock that moves only by sleeping, and dice that always fall high (or low)."""

    def __init__(self, *, low: bool = False) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self._low = low

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)

    def time(self) -> Time:
        return Time(lambda: self.now, self._sleep, lambda low, high: low if self._low else high)


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run to the end; only a hang reaches the deadline."""

    async def bounded() -> None:
        async with asyncio.timeout(30):
            await scenario()

    asyncio.run(bounded())


async def settle() -> None:
    """Let every task get as far as it can without time passing."""
    for _ in range(20):
        await asyncio.sleep(0)


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait([task])


def ends(fault: Fault = Fault.TRANSIENT, code: str = "http_500") -> tuple[Fault, str, Untrusted]:
    return fault, code, Untrusted("their words")


# Backoff.


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_a_backoff_is_within_its_cap(retries, share):
    time = Time(lambda: 0.0, asyncio.sleep, lambda low, high: low + share * (high - low))

    assert 0 <= backoff_s(POLICY, retries, time) <= POLICY.backoff_cap_s


def test_a_backoff_doubles_until_its_cap():
    time = Hours().time()

    assert [backoff_s(POLICY, retries, time) for retries in range(7)] == [1, 2, 4, 8, 16, 30, 30]


# The limiter.


@given(st.integers(1, 4), st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.booleans()), max_size=12))
def test_the_limit_is_never_passed_and_no_slot_is_lost(limit, jobs):
    """Jobs hold a slot for some turns, ahead or not, and some are cancelled on their way."""
    most = 0

    async def scenario() -> None:
        limiter = Limiter(limit)

        async def job(turns: int, ahead: bool) -> None:
            nonlocal most
            await limiter.acquire(ahead=ahead)
            try:
                most = max(most, limiter.in_flight)
                for _ in range(turns):
                    await asyncio.sleep(0)
            finally:
                limiter.release()

        tasks = [asyncio.create_task(job(turns, ahead)) for turns, ahead, _ in jobs]
        for task, (turns, _, is_cancelled) in zip(tasks, jobs, strict=True):
            if is_cancelled:
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert limiter.in_flight == 0
        for _ in range(limit):
            await limiter.acquire()
        assert limiter.in_flight == limit

    run(scenario)

    assert most <= limit


def test_slots_are_given_in_the_order_of_asking():
    order = []

    async def scenario() -> None:
        limiter = Limiter(1)
        await limiter.acquire()

        async def job(name: str, *, ahead: bool = False) -> None:
            await limiter.acquire(ahead=ahead)
            order.append(name)
            limiter.release()

        async with asyncio.TaskGroup() as group:
            group.create_task(job("first"))
            group.create_task(job("second"))
            await settle()
            group.create_task(job("retry", ahead=True))
            await settle()
            limiter.release()

    run(scenario)

    assert order == ["retry", "first", "second"]


def test_cancelling_one_who_waits_leaves_the_slot_to_the_next():
    async def scenario() -> None:
        limiter = Limiter(1)
        await limiter.acquire()
        gone, next_one = (asyncio.create_task(limiter.acquire()) for _ in range(2))
        await settle()
        await cancelled(gone)
        limiter.release()
        await next_one

        assert limiter.in_flight == 1

    run(scenario)


def test_cancelling_in_the_moment_of_the_grant_passes_the_slot_on():
    async def scenario() -> None:
        limiter = Limiter(1)
        await limiter.acquire()
        gone, next_one = (asyncio.create_task(limiter.acquire()) for _ in range(2))
        await settle()
        limiter.release()
        await cancelled(gone)
        await next_one

        assert gone.cancelled()
        assert limiter.in_flight == 1

    run(scenario)


def test_cancelling_the_last_one_in_the_moment_of_the_grant_frees_the_slot():
    async def scenario() -> None:
        limiter = Limiter(1)
        await limiter.acquire()
        gone = asyncio.create_task(limiter.acquire())
        await settle()
        limiter.release()
        await cancelled(gone)

        assert limiter.in_flight == 0

    run(scenario)


# The gate.


def test_a_gate_is_open_until_a_rate_limit_closes_it():
    hours = Hours()
    gate = Gate(POLICY, hours.time())

    assert gate.closed_for_s() == 0
    assert gate.rate_limited(sent_at=hours.now, wait_s=20.0) == 20.0
    assert gate.closed_for_s() == 20.0


def test_waiting_lasts_at_least_as_long_as_the_provider_asks():
    hours = Hours(low=True)

    async def scenario() -> None:
        gate = Gate(POLICY, hours.time())
        gate.rate_limited(sent_at=hours.now, wait_s=20.0)
        await gate.wait()

    run(scenario)

    assert sum(hours.slept) == 20.0


def test_an_open_gate_costs_no_time():
    hours = Hours()

    run(Gate(POLICY, hours.time()).wait)

    assert hours.slept == []


def test_a_gate_that_closes_again_is_waited_for_again():
    hours = Hours(low=True)

    async def scenario() -> None:
        gate = Gate(POLICY, hours.time())
        gate.rate_limited(sent_at=hours.now, wait_s=5.0)
        began = hours.now
        waiting = asyncio.create_task(gate.wait())
        await asyncio.sleep(0)
        gate.rate_limited(sent_at=began, wait_s=50.0)
        await waiting

        assert hours.now >= began + 50

    run(scenario)


def test_many_limits_of_one_episode_are_one_pause():
    hours = Hours()
    gate = Gate(POLICY, hours.time())
    sent_at = hours.now
    hours.now += 1
    pauses = [gate.rate_limited(sent_at=sent_at, wait_s=None) for _ in range(50)]

    assert pauses[0] is not None
    assert pauses[1:] == [None] * 49
    assert gate.closed_for_s() == pauses[0]


def test_a_longer_explicit_wait_of_the_same_episode_moves_the_gate_and_a_shorter_does_not():
    hours = Hours()
    gate = Gate(POLICY, hours.time())
    sent_at = hours.now
    hours.now += 1
    gate.rate_limited(sent_at=sent_at, wait_s=10.0)

    assert gate.rate_limited(sent_at=sent_at, wait_s=3.0) is None
    assert gate.closed_for_s() == 10.0
    assert gate.rate_limited(sent_at=sent_at, wait_s=60.0) is None
    assert gate.closed_for_s() == 60.0


def test_a_limit_of_a_request_sent_after_the_pause_is_a_new_episode():
    hours = Hours()
    gate = Gate(POLICY, hours.time())
    gate.rate_limited(sent_at=hours.now - 1, wait_s=10.0)
    hours.now += 10

    assert gate.rate_limited(sent_at=hours.now, wait_s=4.0) == 4.0
    assert gate.closed_for_s() == 4.0


def episodes(gate: Gate, hours: Hours, count: int) -> list[float]:
    pauses = []
    for _ in range(count):
        pause = gate.rate_limited(sent_at=hours.now, wait_s=None)
        assert pause is not None
        pauses.append(pause)
        hours.now += pause + 1
    return pauses


def test_computed_waits_grow_by_episode_up_to_the_cap():
    hours = Hours()

    assert episodes(Gate(POLICY, hours.time()), hours, 7) == [1, 2, 4, 8, 16, 30, 30]


def test_a_computed_wait_is_never_near_zero():
    hours = Hours(low=True)

    assert episodes(Gate(POLICY, hours.time()), hours, 4) == [0.5, 1, 2, 4]


def test_a_success_starts_the_waits_from_the_shortest_again():
    hours = Hours()
    gate = Gate(POLICY, hours.time())
    episodes(gate, hours, 4)
    gate.succeeded()

    assert episodes(gate, hours, 1) == [1]


@pytest.mark.parametrize("readings", range(2, 12))
def test_a_gate_that_opens_between_two_readings_of_the_clock_keeps_nobody(readings: int) -> None:
    """Timers fire early: the moment at which it opens may pass between any two lines."""
    ticks = itertools.count()

    async def too_short(seconds: float) -> None:
        await asyncio.sleep(0)

    async def scenario() -> None:
        gate = Gate(POLICY, Time(lambda: float(next(ticks)), too_short))
        gate.rate_limited(sent_at=0.5, wait_s=float(readings))
        await gate.wait()

    run(scenario)


def scouting(hours: Hours) -> Gate:
    """A gate that has opened again after a pause that nobody explained."""
    gate = Gate(POLICY, hours.time())
    gate.rate_limited(sent_at=hours.now, wait_s=None)
    hours.now += 100
    return gate


def test_after_an_unexplained_pause_one_request_goes_ahead_alone():
    async def scenario() -> None:
        hours = Hours()
        gate = scouting(hours)
        came_through: list[str] = []

        async def scout(is_back: asyncio.Event) -> None:
            gate.depart()
            came_through.append("scout")
            await is_back.wait()
            gate.succeeded(sent_at=hours.now)
            gate.leave()

        async def other() -> None:
            await gate.wait()
            came_through.append("other")

        is_back = asyncio.Event()
        first = asyncio.create_task(scout(is_back))
        await settle()
        second = asyncio.create_task(other())
        await settle()
        seen_while_out, is_open_while_out = list(came_through), gate.is_open()
        is_back.set()
        await asyncio.gather(first, second)

        assert (seen_while_out, is_open_while_out) == (["scout"], False)
        assert came_through == ["scout", "other"]

    run(scenario)


@pytest.mark.parametrize("how", ["refused", "failed"])
def test_a_scout_that_brings_nothing_is_followed_by_another(how: str):
    async def scenario() -> None:
        hours = Hours()
        gate = scouting(hours)

        async def scout() -> None:
            sent_at = hours.now
            gate.depart()
            if how == "refused":
                hours.now += 1
                gate.rate_limited(sent_at=sent_at, wait_s=None)
            gate.leave()

        await asyncio.create_task(scout())
        hours.now += 100
        before = gate.is_open()
        gate.depart()

        assert before
        assert not gate.is_open()
        gate.leave()
        assert gate.is_open()

    run(scenario)


def test_a_pause_that_the_provider_explained_needs_no_scout():
    async def scenario() -> None:
        hours = Hours()
        gate = Gate(POLICY, hours.time())
        gate.rate_limited(sent_at=hours.now, wait_s=5.0)
        hours.now += 6
        gate.depart()

        assert gate.is_open()

    run(scenario)


def test_a_success_of_a_request_sent_before_the_episode_proves_nothing():
    async def scenario() -> None:
        hours = Hours()
        gate = scouting(hours)
        gate.depart()
        gate.succeeded(sent_at=hours.now - 101)

        assert not gate.is_open()
        gate.leave()

    run(scenario)


# The breaker.


def breaker(hours: Hours) -> Breaker:
    return Breaker(POLICY, hours.time(), name="target model-1")


def opened(hours: Hours) -> Breaker:
    found = breaker(hours)
    assert [found.ended(each, *ends()) for each in range(ENDED_ALIKE_LIMIT)][-1]
    return found


def test_twenty_distinct_samples_that_end_alike_open_it():
    found = breaker(Hours())
    said = [found.ended(sample_id, *ends()) for sample_id in range(20)]

    assert said == [False] * 19 + [True]
    assert found.is_open


def test_the_same_sample_counts_once():
    found = breaker(Hours())
    for _ in range(50):
        found.ended(7, *ends())

    assert not found.is_open


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(ends(code="http_503"), id="another-code"),
        pytest.param(ends(Fault.BAD_PAYLOAD, "http_500"), id="another-class"),
    ],
)
def test_another_reason_starts_the_count_again(other):
    found = breaker(Hours())
    for sample_id in range(19):
        found.ended(sample_id, *ends())
    found.ended(19, *other)
    for sample_id in range(20, 39):
        assert not found.ended(sample_id, *ends())

    assert found.ended(39, *ends())


def test_a_success_starts_the_count_again():
    found = breaker(Hours())
    for sample_id in range(19):
        found.ended(sample_id, *ends())
    found.succeeded()

    assert not any(found.ended(sample_id, *ends()) for sample_id in range(19))


def test_a_rate_limit_is_no_sign_of_an_outage():
    found = breaker(Hours())

    assert not any(found.ended(sample_id, *ends(Fault.RATE_LIMITED, "slow_down")) for sample_id in range(60))
    assert not found.is_open


def test_rejections_for_one_reason_end_the_run():
    found = breaker(Hours())
    rejected = ends(Fault.ITEM_PERMANENT, "context")
    for sample_id in range(19):
        found.ended(sample_id, *rejected)

    with pytest.raises(GapsError) as caught:
        found.ended(19, *rejected)

    assert caught.value.exit_code == 4
    assert "target model-1" in caught.value.message
    assert "context" in caught.value.message
    assert caught.value.detail == rejected[2]


def test_a_closed_breaker_lets_everybody_pass_at_once():
    hours = Hours()

    async def scenario() -> None:
        found = breaker(hours)
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(found.admit())

        assert found.admits()

    run(scenario)

    assert hours.slept == []


def test_an_open_breaker_lets_one_probe_go_at_a_time():
    probing: list[int] = []
    most = 0

    async def scenario() -> None:
        found = opened(Hours())

        async def probe(number: int) -> None:
            nonlocal most
            await found.admit()
            assert found.admits()
            probing.append(number)
            most = max(most, len(probing))
            await settle()
            probing.remove(number)
            found.leave()

        async with asyncio.TaskGroup() as group:
            for number in range(5):
                group.create_task(probe(number))

        assert found.is_open

    run(scenario)

    assert most == 1


def test_others_may_not_send_while_somebody_probes():
    async def scenario() -> None:
        found = opened(Hours())
        await found.admit()

        assert found.admits()
        assert not await asyncio.create_task(_admits(found))

    run(scenario)


async def _admits(found: Breaker) -> bool:
    return found.admits()


def test_a_successful_probe_closes_it_for_all_who_wait():
    hours = Hours()

    async def scenario() -> None:
        found = opened(hours)
        await found.admit()
        waiting = [asyncio.create_task(found.admit()) for _ in range(5)]
        await settle()
        assert not any(task.done() for task in waiting)
        found.succeeded()
        found.leave()
        await asyncio.gather(*waiting)

        assert not found.is_open
        assert found.admits()

    run(scenario)

    assert len(hours.slept) == 1


def test_a_cancelled_probe_makes_room_for_the_next():
    async def scenario() -> None:
        found = opened(Hours())

        async def probe(hold: Callable[[], Awaitable[Any]]) -> None:
            try:
                await found.admit()
                await hold()
            finally:
                found.leave()

        held = asyncio.create_task(probe(asyncio.Event().wait))
        await settle()
        next_one = asyncio.create_task(probe(settle))
        await settle()
        assert not next_one.done()
        await cancelled(held)
        await next_one

    run(scenario)


def test_probes_come_ever_more_rarely_and_end_with_an_outage():
    hours = Hours()

    async def scenario() -> None:
        found = opened(hours)
        began = hours.now

        async def probe_for_ever() -> None:
            while True:
                await found.admit()
                found.leave()

        with pytest.raises(OutageError) as caught:
            await probe_for_ever()

        assert hours.now - began == POLICY.outage_timeout_s
        assert caught.value.exit_code == 4
        assert "http_500" in caught.value.message

    run(scenario)

    assert hours.slept[:6] == [1, 2, 4, 8, 10, 10]


def test_everybody_who_waits_learns_of_the_outage():
    hours = Hours()

    async def scenario() -> None:
        found = opened(hours)
        hours.now += POLICY.outage_timeout_s

        async def probe() -> None:
            try:
                await found.admit()
            finally:
                found.leave()

        found_out = await asyncio.gather(*(probe() for _ in range(5)), return_exceptions=True)

        assert [type(each) for each in found_out] == [OutageError] * 5

    run(scenario)


def test_after_it_closed_the_next_outage_has_its_full_time_again():
    hours = Hours()

    async def scenario() -> None:
        found = opened(hours)
        hours.now += POLICY.outage_timeout_s - 1
        found.succeeded()
        for sample_id in range(ENDED_ALIKE_LIMIT):
            found.ended(sample_id, *ends())
        began = hours.now
        await found.admit()

        assert hours.now - began == POLICY.backoff_s

    run(scenario)


def test_samples_that_end_while_it_is_open_do_not_open_it_again():
    hours = Hours()
    found = opened(hours)

    assert not any(found.ended(sample_id, *ends()) for sample_id in range(100, 200))


# The budget of bodies in memory.


class Bodies:
    """Bodies that are held under a budget until told to go."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget = UploadBudget(budget_bytes)
        self.held: list[int] = []
        self.most = 0

    async def hold(self, size: int, release: asyncio.Event) -> None:
        async with self.budget.reserved(size):
            self.held.append(size)
            self.most = max(self.most, sum(self.held))
            try:
                await release.wait()
            finally:
                self.held.remove(size)


def test_bodies_wait_for_room_in_the_order_they_came() -> None:
    async def scenario() -> tuple[list[int], list[int]]:
        bodies, release = Bodies(10), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for size in (6, 5, 1):
                group.create_task(bodies.hold(size, release))
                await settle()
            # The last one would fit, but who came before it goes before it.
            before = list(bodies.held)
            release.set()
        return before, bodies.held

    assert asyncio.run(scenario()) == ([6], [])


def test_a_body_larger_than_the_budget_passes_alone() -> None:
    async def scenario() -> list[list[int]]:
        bodies, first, second = Bodies(10), asyncio.Event(), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(bodies.hold(1, first))
            await settle()
            group.create_task(bodies.hold(99, second))
            await settle()
            seen = [list(bodies.held)]
            first.set()
            await settle()
            seen.append(list(bodies.held))
            second.set()
        return seen

    assert asyncio.run(scenario()) == [[1], [99]]


def test_room_given_back_early_is_given_back_once() -> None:
    async def scenario() -> int:
        budget, bodies, release = UploadBudget(10), Bodies(0), asyncio.Event()
        bodies.budget = budget
        async with asyncio.TaskGroup() as group:
            async with budget.reserved(10) as give_back:
                give_back()
                give_back()
                for _ in range(3):
                    group.create_task(bodies.hold(5, release))
                await settle()
            await settle()
            release.set()
        return bodies.most

    assert asyncio.run(scenario()) == 10


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=12),
    dropped=st.sets(st.integers(0, 11)),
)
def test_whoever_gives_up_takes_no_room_along(sizes: list[int], dropped: set[int]) -> None:
    """Tasks cancelled while they wait or hold leave the whole budget to those who come later."""

    async def scenario() -> int:
        bodies, release = Bodies(12), asyncio.Event()
        tasks = [asyncio.create_task(bodies.hold(size, release)) for size in sizes]
        await settle()
        for number in dropped & set(range(len(tasks))):
            tasks[number].cancel()
        release.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(5), bodies.budget.reserved(12):
            return bodies.most

    assert asyncio.run(scenario()) <= 12
