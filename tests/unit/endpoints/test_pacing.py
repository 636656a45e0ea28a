"""When a request may leave: nobody waits too short, nobody waits for ever, no slot is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlsb.config import RetryPolicy
from vlsb.endpoints.faults import Fault
from vlsb.endpoints.pacing import ENDED_ALIKE_LIMIT, Limiter, Rejections, Time, UploadBudget, backoff_s
from vlsb.errors import GapsError
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


# Rejections.


def reject(found: Rejections, samples: Iterable[int], code: str = "context") -> None:
    for sample_id in samples:
        found.ended(sample_id, Fault.ITEM_PERMANENT, code, Untrusted("their words"))


def test_twenty_distinct_samples_rejected_alike_end_the_run():
    found = Rejections("target model-1")
    reject(found, [7] * 50)
    reject(found, range(100, 100 + ENDED_ALIKE_LIMIT - 2))

    with pytest.raises(GapsError) as caught:
        reject(found, [200])

    assert caught.value.exit_code == 4
    assert "target model-1" in caught.value.message
    assert "context" in caught.value.message
    assert caught.value.detail == Untrusted("their words")


@pytest.mark.parametrize("what", ["success", "another reason", "a failure that may pass"])
def test_anything_else_in_between_starts_the_count_of_rejections_again(what: str):
    found = Rejections("judge")
    reject(found, range(ENDED_ALIKE_LIMIT - 1))
    if what == "success":
        found.succeeded()
    elif what == "another reason":
        reject(found, [50], "too_large")
    else:
        found.ended(50, Fault.TRANSIENT, "http_500", Untrusted(""))

    reject(found, range(100, 100 + ENDED_ALIKE_LIMIT - 1))


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
