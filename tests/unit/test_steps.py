"""Blocking work in a thread: its result, its errors, and that giving it up holds nobody up."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tests.support.waiting import DEADLINE_S
from vlsb.steps import OnProgress, Step, in_thread


def test_the_result_and_the_steps_of_work_reach_who_waits_for_it() -> None:
    seen: list[Step] = []

    def work(report: OnProgress) -> str:
        report(Step("downloading", "a file", 1, 2))
        return threading.current_thread().name

    assert asyncio.run(in_thread(work, seen.append)) == "vlsb-work"
    assert seen == [Step("downloading", "a file", 1, 2)]


def test_what_ends_the_work_is_raised_where_it_is_waited_for() -> None:
    def work(report: OnProgress) -> None:
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        asyncio.run(in_thread(work))


def test_work_that_is_given_up_holds_nobody_up_and_ends_at_its_next_step() -> None:
    """It cleans up on its way out, as whatever is ended by an exception does."""
    is_given_up, has_cleaned_up = threading.Event(), threading.Event()
    seen: list[Step] = []

    def work(report: OnProgress) -> None:
        try:
            is_given_up.wait(DEADLINE_S)
            report(Step("downloading"))
        finally:
            has_cleaned_up.set()

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await in_thread(work, seen.append)

    asyncio.run(give_up())

    is_given_up.set()
    assert has_cleaned_up.wait(DEADLINE_S)
    assert seen == []
