"""Limits of money and of requests: nothing leaves beyond them, and the message says which and how much."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from vlsb.endpoints.traffic import Spending, StoppedError, Traffic, UploadBudget
from vlsb.errors import ConfigError, LimitReachedError

DONE = "Everything finished is stored."


def words_of(spending: Spending, usd: float = 0.0) -> str | None:
    """What keeps a request that may cost so much from leaving; None where it may leave."""
    try:
        spending.require_left(usd)
    except LimitReachedError as error:
        return error.message
    return None


def test_without_a_limit_everything_may_leave() -> None:
    assert words_of(Spending(requests=10**6, usd=1e6, uncounted="target m")) is None
    assert Spending(requests=10**6, usd=1e6).reached is None


def test_money_that_is_spent_or_reserved_up_to_the_limit_leaves_nothing() -> None:
    assert Spending(most_usd=2.0, usd=1.99).reached is None
    assert Spending(most_usd=2.0, usd=2.0).reached == "--max-cost"
    assert Spending(most_usd=2.0, usd=0.5, reserved_usd=1.5).reached == "--max-cost"
    assert words_of(Spending(most_usd=2.0, usd=1.0, reserved_usd=0.5)) is None
    assert (
        words_of(Spending(most_usd=2.0, usd=2.5)) == f"--max-cost is reached: $2.5000 by this command. {DONE}"
    )


def test_a_request_that_may_cost_more_than_is_left_does_not_leave_and_one_that_fits_does() -> None:
    spending = Spending(most_usd=2.0, usd=1.0, reserved_usd=0.25)

    assert words_of(spending, 0.75) is None
    assert words_of(spending, 0.8) == (
        f"--max-cost is reached: $1.0000 by this command, and one more request may cost $0.8000. {DONE}"
    )


def test_requests_are_counted_up_to_their_limit() -> None:
    assert words_of(Spending(most_requests=1200, requests=1199), 9.0) is None
    assert words_of(Spending(most_requests=1200, requests=1200), 9.0) == (
        f"--max-requests is reached: 1,200 requests by this command. {DONE}"
    )
    assert Spending(most_requests=1200, requests=1201).reached == "--max-requests"
    assert Spending(most_requests=0).reached == "--max-requests"


def test_money_that_is_partly_estimated_is_told_as_such() -> None:
    spending = Spending(most_usd=1.0, usd=1.25, most_requests=5, requests=5, estimated="judge m")
    only_requests = Spending(most_requests=5, requests=5, estimated="judge m")

    assert words_of(spending) == (
        f"--max-cost is reached: about $1.2500 by this command. {DONE} "
        "Estimated: judge m does not count the tokens of its answers."
    )
    assert words_of(only_requests) == f"--max-requests is reached: 5 requests by this command. {DONE}"


def test_a_limit_of_money_cannot_be_held_where_answers_are_not_counted() -> None:
    with pytest.raises(ConfigError, match="target m: its answers do not say") as raised:
        Spending(most_usd=1.0, uncounted="target m").require_left()

    assert "--max-requests" in raised.value.message


def test_a_request_is_counted_when_it_leaves_and_not_when_it_may_not() -> None:
    traffic = Traffic(spending=Spending(most_requests=2))
    traffic.spend_one()
    traffic.spend_one()

    with pytest.raises(LimitReachedError):
        traffic.spend_one()
    assert traffic.spending.requests == 2
    Traffic(spending=Spending(most_usd=2.0, usd=1.99)).spend_one()


@pytest.mark.parametrize("ending", [{"is_stopping": True}, {"is_doomed": True}])
def test_nothing_new_leaves_a_run_that_is_stopping(ending: dict[str, bool]) -> None:
    traffic = Traffic()
    traffic.require_open()

    with pytest.raises(StoppedError):
        Traffic(**ending).require_open()
    with pytest.raises(StoppedError), Traffic(**ending).finishing():
        pytest.fail("it went on")


def run(scenario: Coroutine[Any, Any, Any]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(10):
            return await scenario

    return asyncio.run(bounded())


async def settle() -> None:
    for _ in range(9):
        await asyncio.sleep(0)


def test_what_was_begun_may_finish_and_is_seen_while_it_does() -> None:
    async def scenario() -> list[int]:
        traffic = Traffic()
        seen = [len(traffic.in_flight)]
        with traffic.finishing():
            assert traffic.in_flight == {asyncio.current_task()}
            seen.append(len(traffic.in_flight))
        return [*seen, len(traffic.in_flight)]

    assert run(scenario()) == [0, 1, 0]


# Room for bodies.


def test_room_that_is_exactly_enough_is_given_at_once_and_comes_back_once() -> None:
    async def scenario() -> list[bool]:
        budget = UploadBudget(10)
        first, second = await budget.reserve(6), await budget.reserve(4)
        third = asyncio.create_task(budget.reserve(5))
        await settle()
        seen = [third.done()]
        second()
        second()
        await settle()
        seen.append(third.done())
        first()
        await settle()
        seen.append(third.done())
        return seen

    assert run(scenario()) == [False, False, True]


def test_whoever_fits_waits_behind_who_came_before_and_both_are_let_in_together() -> None:
    async def scenario() -> list[tuple[bool, bool, bool]]:
        budget = UploadBudget(10)
        first = await budget.reserve(8)
        waiting = [asyncio.create_task(budget.reserve(size)) for size in (6, 4, 1)]
        seen = []
        for step in (lambda: None, first):
            step()
            await settle()
            seen.append(tuple(each.done() for each in waiting))
        waiting[1].result()()
        await settle()
        seen.append(tuple(each.done() for each in waiting))
        return seen

    assert run(scenario()) == [(False, False, False), (True, True, False), (True, True, True)]


@pytest.mark.parametrize(("size", "is_granted"), [(6, True), (10, True), (10, False)])
def test_who_gives_up_waiting_leaves_its_room_to_the_next(size: int, is_granted: bool) -> None:
    """Also where its turn came in the moment in which it was cancelled."""

    async def scenario() -> list[bool]:
        budget = UploadBudget(10)
        first = await budget.reserve(10)
        quitter, next_one = (asyncio.create_task(budget.reserve(each)) for each in (size, 10))
        await settle()
        if is_granted:
            first()
        quitter.cancel()
        await settle()
        seen = [quitter.cancelled(), next_one.done()]
        if not is_granted:
            first()
        await settle()
        after = await asyncio.wait_for(next_one, 5)
        after()
        (await asyncio.wait_for(budget.reserve(10), 5))()
        return seen

    assert run(scenario()) == [True, is_granted]


def test_a_body_larger_than_the_budget_takes_all_of_it_and_gives_that_back() -> None:
    async def scenario() -> list[bool]:
        budget = UploadBudget(10)
        large = await budget.reserve(99)
        other = asyncio.create_task(budget.reserve(1))
        await settle()
        seen = [other.done()]
        large()
        await settle()
        seen.append(other.done())
        other.result()()
        whole = asyncio.create_task(budget.reserve(10))
        more = asyncio.create_task(budget.reserve(1))
        await settle()
        return [*seen, whole.done(), more.done()]

    assert run(scenario()) == [False, True, True, False]
