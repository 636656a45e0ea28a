"""What a request waits for before it leaves: nobody waits for ever, and nothing that was held is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlsb.config import Endpoint
from vlsb.endpoints.admission import Line
from vlsb.endpoints.credentials import Secret
from vlsb.endpoints.rate_limits import Account, Accounts, Caps
from vlsb.endpoints.traffic import UploadBudget
from vlsb.errors import GapsError
from vlsb.models.providers import limited_as

URL = "https://api.openai.com/v1"


def run(scenario: Coroutine[Any, Any, Any]) -> Any:
    """Run to the end; only a hang reaches the deadline."""

    async def bounded() -> Any:
        async with asyncio.timeout(30):
            return await scenario

    return asyncio.run(bounded())


async def settle() -> None:
    """Let every task get as far as it can without time passing."""
    for _ in range(20):
        await asyncio.sleep(0)


class Clock:
    """A clock that moves only when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# Accounts.


def account(accounts: Accounts, url: str = URL, key: str = "sk-one", model: str = "gpt-4o") -> Account:
    return accounts.find(url, [Secret(key)], limited_as(Endpoint(model, url, provider="OpenAI")))


def test_one_key_and_a_dated_model_are_one_account() -> None:
    accounts = Accounts()

    assert account(accounts) is account(accounts, URL + "/", model="gpt-4o-2024-08-06")


@pytest.mark.parametrize(
    "other", [{"model": "gpt-4o-mini"}, {"key": "sk-two"}, {"url": "https://example.org/v1"}]
)
def test_another_model_key_or_address_is_another_account(other: dict[str, str]) -> None:
    accounts = Accounts()

    assert account(accounts) is not account(accounts, **other)


def test_an_account_keeps_the_lowest_caps_of_those_who_use_it_now() -> None:
    shared = Account(Clock())
    seen = []

    with shared.limit_to(Caps(rpm=200)):
        with shared.limit_to(Caps(rpm=100, tpm=1000)):
            seen.append((shared.rates.rpm, shared.rates.tpm))
        seen.append((shared.rates.rpm, shared.rates.tpm))
    seen.append((shared.rates.rpm, shared.rates.tpm))

    assert seen == [pytest.approx((98.5, 985)), (pytest.approx(197), None), (None, None)]


def test_the_next_run_waits_for_the_pause_that_the_last_one_was_told() -> None:
    """Runs one after the other that are given the same accounts."""
    clock = Clock()
    accounts = Accounts(clock)
    with account(accounts).limit_to(Caps()):
        account(accounts).refuse(account(accounts).rates.depart(), 30.0)
    clock.now += 10

    assert account(accounts).pause_s() == pytest.approx(20)


def test_refusals_of_an_earlier_run_use_up_none_of_the_next_ones_patience() -> None:
    clock = Clock()
    shared = Account(clock)
    with shared.limit_to(Caps()):
        shared.refuse(shared.rates.depart(), 1.0)
        clock.now += 3600
        with pytest.raises(GapsError):
            shared.require_patience("target", 600)

    with shared.limit_to(Caps()):
        shared.require_patience("target", 600)


# The line.


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.booleans()), max_size=12))
def test_a_line_has_one_head_and_never_loses_it(jobs: list[tuple[int, bool, bool]]) -> None:
    """Jobs stay at the head for some turns, ahead or not, and some are cancelled on their way."""
    heads = most = 0

    async def scenario() -> None:
        line = Line()

        async def job(turns: int, ahead: bool) -> None:
            nonlocal heads, most
            await line.acquire(ahead=ahead)
            heads += 1
            most = max(most, heads)
            try:
                for _ in range(turns):
                    await asyncio.sleep(0)
            finally:
                heads -= 1
                line.release()

        tasks = [asyncio.create_task(job(turns, ahead)) for turns, ahead, _ in jobs]
        for task, (turns, _, is_cancelled) in zip(tasks, jobs, strict=True):
            if is_cancelled:
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(5):
            await line.acquire()

    run(scenario())

    assert most <= 1


def test_a_line_moves_in_the_order_of_asking_with_retries_ahead() -> None:
    order = []

    async def scenario() -> None:
        line = Line()
        await line.acquire()

        async def job(name: str, **ahead: bool) -> None:
            await line.acquire(**ahead)
            order.append(name)
            line.release()

        async with asyncio.TaskGroup() as group:
            group.create_task(job("first"))
            group.create_task(job("second"))
            await settle()
            group.create_task(job("retry", ahead=True))
            await settle()
            line.release()

    run(scenario())

    assert order == ["retry", "first", "second"]


# The budget of bodies in memory.


class Bodies:
    """Bodies that are held under a budget until told to go."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget = UploadBudget(budget_bytes)
        self.held: list[int] = []
        self.most = 0

    async def hold(self, size: int, release: asyncio.Event) -> None:
        give_back = await self.budget.reserve(size)
        self.held.append(size)
        self.most = max(self.most, sum(self.held))
        try:
            await release.wait()
        finally:
            self.held.remove(size)
            give_back()


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

    assert run(scenario()) == ([6], [])


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

    assert run(scenario()) == [[1], [99]]


def test_room_given_back_early_is_given_back_once() -> None:
    async def scenario() -> int:
        budget, bodies, release = UploadBudget(10), Bodies(0), asyncio.Event()
        bodies.budget = budget
        async with asyncio.TaskGroup() as group:
            give_back = await budget.reserve(10)
            give_back()
            for _ in range(3):
                group.create_task(bodies.hold(5, release))
            await settle()
            give_back()
            await settle()
            release.set()
        return bodies.most

    assert run(scenario()) == 10


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
        async with asyncio.timeout(5):
            await bodies.budget.reserve(12)
        return bodies.most

    assert run(scenario()) <= 12
