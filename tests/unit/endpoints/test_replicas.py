"""Several replicas of one model: which is asked, which is left out, and who goes back to where it failed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from tests.unit.endpoints.test_client import GOOD, POLICY, SERVER_ERROR, ModelSettings, lane, run
from vlsb.endpoints.engine_guard import EngineGuard, Fate, InFlight
from vlsb.errors import GapsError, OutageError
from vlsb.records import Completion
from vlsb.simulator import Action, Reply, Request, Simulator, error
from vlsb.simulator.actions import Responder

PATIENT = replace(POLICY, max_attempts=6)


@contextlib.asynccontextmanager
async def two(
    first: Responder, second: Responder, *, limit: int = 4, guard: EngineGuard | None = None
) -> AsyncIterator[tuple[ModelSettings, Simulator, Simulator]]:
    """A client of two replicas that answer so, and both of them."""
    async with (
        Simulator(first) as one,
        Simulator(second) as other,
        lane(one.base_url, PATIENT, limit=limit, guard=guard, others=[other.base_url]) as asked,
    ):
        yield asked, one, other


def good(_: Request) -> Action:
    return GOOD


def limited(_: Request) -> Action:
    """A provider that wants an hour, which no sample has."""
    return error(429, code="rate_limit_exceeded", headers=(("retry-after", "3600"),))


def kinds(asked: ModelSettings, *wanted: str) -> list[tuple[str, int | None]]:
    return [(each.kind, each.replica) for each in asked.events if each.kind in wanted]


def test_a_request_that_failed_tries_the_other_replica_next() -> None:
    async def scenario() -> tuple[int, int]:
        async with two(lambda _: SERVER_ERROR, good) as (asked, one, other):
            assert isinstance(await asked.ask(), Completion)
            return len(one.completions), len(other.completions)

    assert run(scenario()) == (1, 1)


def test_idle_replicas_take_turns() -> None:
    async def scenario() -> tuple[int, int]:
        async with two(good, good) as (asked, one, other):
            for sample in range(6):
                await asked.ask(sample)
            return len(one.completions), len(other.completions)

    assert run(scenario()) == (3, 3)


def test_nobody_waits_for_a_replica_that_asks_for_a_pause_while_another_is_free() -> None:
    paused = error(429, code="rate_limit_exceeded", headers=(("retry-after", "300"),))

    async def scenario() -> tuple[list[type], float]:
        async with two(lambda _: paused, good) as (asked, _, _):
            began = asked.hours.now
            found = [type(await asked.ask(sample)) for sample in range(6)]
            return found, asked.hours.now - began

    found, passed_s = run(scenario())
    assert found == [Completion] * 6
    assert passed_s < 300


def test_a_replica_whose_pause_is_longer_than_a_samples_time_is_given_up() -> None:
    async def scenario() -> tuple[list[type], list[tuple[str, int | None]], int]:
        async with two(limited, good) as (asked, one, _):
            found = [type(await asked.ask(sample)) for sample in range(4)]
            return found, kinds(asked, "replica_lost"), len(one.completions)

    assert run(scenario()) == ([Completion] * 4, [("replica_lost", 1)], 1)


def test_the_last_replica_ends_the_run_in_its_own_words() -> None:
    async def scenario() -> None:
        async with two(limited, limited) as (asked, _, _):
            await asked.ask()

    with pytest.raises(GapsError, match="asks for a pause of 3600 s"):
        run(scenario())


def test_a_replica_that_is_down_longer_than_a_run_waits_is_given_up_and_its_samples_are_answered() -> None:
    """Every answer of the other one takes a minute of the clock."""

    async def scenario() -> tuple[list[type], list[tuple[str, int | None]]]:
        def slow(_: Request) -> Action:
            asked.hours.now += 60
            return GOOD

        async with two(lambda _: SERVER_ERROR, slow) as (asked, _, _):
            found = await asyncio.gather(*(asked.ask(sample) for sample in range(24)))
            return [type(each) for each in found], kinds(asked, "outage", "replica_lost")

    found, events = run(scenario())
    assert found == [Completion] * 24
    assert events == [("outage", 1), ("replica_lost", 1)]


def test_where_all_are_down_the_run_waits_and_ends_as_with_one() -> None:
    async def scenario() -> None:
        def down(_: Request) -> Reply:
            asked.hours.now += 60
            return SERVER_ERROR

        async with two(down, down) as (asked, _, _):
            await asyncio.gather(*(asked.ask(sample) for sample in range(8)))

    with pytest.raises(OutageError, match="no answer for"):
        run(scenario())


class DiesOnce(EngineGuard):
    """The guard of an engine that died of the first request, and is up again."""

    def __init__(self) -> None:
        self.is_first = True

    async def fate(self, request: InFlight) -> Fate:
        was_first, self.is_first = self.is_first, False
        return Fate.LOST if was_first else Fate.ALIVE


def test_a_request_that_an_engine_died_of_goes_back_there_and_endangers_no_other() -> None:
    async def scenario() -> tuple[int, int]:
        def dies(_: Request) -> Action:
            return GOOD if len(one.completions) > 1 else SERVER_ERROR

        async with two(dies, good, guard=DiesOnce()) as (asked, one, other):
            assert isinstance(await asked.ask(), Completion)
            return len(one.completions), len(other.completions)

    assert run(scenario()) == (2, 0)
