"""Several replicas of one model: which is asked, which is left out, and who goes back to where it failed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from tests.support.virtual import run_virtually
from tests.unit.endpoints.test_client import (
    GOOD,
    POLICY,
    QUOTA,
    SERVER_ERROR,
    ModelSettings,
    lane,
    run,
    wait_until,
)
from vlsb.endpoints.retry import ENDED_ALIKE_LIMIT, Ended, EngineGuard, Fate, InFlight
from vlsb.endpoints.timings import Wait
from vlsb.errors import AuthenticationError, GapsError, OutageError
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
        async def passing(asked: ModelSettings) -> None:
            while True:
                asked.hours.now += 1
                await asyncio.sleep(0.1)

        async with two(lambda _: SERVER_ERROR, lambda _: SERVER_ERROR) as (asked, _, _):
            hours = asyncio.ensure_future(passing(asked))
            try:
                await asyncio.gather(*(asked.ask(sample) for sample in range(8)))
            finally:
                hours.cancel()

    with pytest.raises(OutageError, match="no answer for"):
        run_virtually(scenario())


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


def test_a_request_bound_to_a_replica_that_cannot_take_it_keeps_nobody_from_the_other() -> None:
    """Its engine died of it and is up again, and its account is paused: only this request waits for that."""

    class Pausing(DiesOnce):
        async def fate(self, request: InFlight) -> Fate:
            account = asked.client.admission.replicas[0].account
            account.refuse(account.rates.depart(), 300.0)
            return await super().fate(request)

    async def scenario() -> list[int]:
        nonlocal asked
        async with two(lambda _: SERVER_ERROR, good, guard=Pausing()) as (asked, one, other):
            bound = asyncio.ensure_future(asked.ask(1))
            await wait_until(lambda: kinds(asked, "retry"))
            for sample in range(2, 8):
                assert isinstance(await asked.ask(sample), Completion)
            assert not bound.done()
            bound.cancel()
            return [len(one.completions), len(other.completions)]

    asked: ModelSettings
    assert run(scenario()) == [1, 6]


def test_an_engine_that_is_up_again_is_asked_at_once_while_the_other_one_is_full() -> None:
    class Restarting(EngineGuard):
        def __init__(self) -> None:
            self.is_up = False
            self.on_change = lambda: None

        def admits(self, request: InFlight) -> bool:
            return self.is_up

        def watch(self, on_change: Callable[[], None]) -> None:
            self.on_change = on_change

    async def scenario() -> Completion:
        guard, never = Restarting(), asyncio.Event()

        async def hangs(_: Request) -> Action:
            await never.wait()
            return GOOD

        async with two(good, hangs, limit=1, guard=guard) as (asked, _, other):
            hanging = asyncio.ensure_future(asked.ask(1))
            await wait_until(lambda: other.completions)
            waiting = asyncio.ensure_future(asked.ask(2))
            await wait_until(lambda: asked.client.admission.state().waits_for is Wait.CONNECTION)
            guard.is_up = True
            guard.on_change()
            found = await waiting
            assert not hanging.done()
            hanging.cancel()
            never.set()
            return found

    assert isinstance(run(scenario()), Completion)


def test_a_sample_that_waits_to_know_who_is_to_blame_is_answered_elsewhere_when_its_replica_is_gone() -> None:
    """Given up meanwhile, that replica will never show whether it answers others."""

    async def scenario() -> tuple[list[type], list[str]]:
        go_on = asyncio.Event()

        def first(_: Request) -> Action:
            return limited(_) if len(one.completions) > 1 else SERVER_ERROR

        async def second(_: Request) -> Action:
            await go_on.wait()
            return GOOD

        async with (
            Simulator(first) as one,
            Simulator(second) as other,
            lane(one.base_url, replace(POLICY, max_attempts=1), others=[other.base_url]) as asked,
        ):
            failing = asyncio.ensure_future(asked.ask(1))
            busy = [asyncio.ensure_future(asked.ask(sample)) for sample in (2, 3, 4)]
            await wait_until(lambda: kinds(asked, "replica_lost"))
            go_on.set()
            found = await asyncio.gather(failing, *busy)
            return [type(each) for each in found], [each.kind for each in asked.events]

    found, events = run(scenario())
    assert found == [Completion] * 4
    assert "alone" not in events


@pytest.mark.parametrize(
    ("refused", "lost"),
    [
        (error(401, code="invalid_api_key"), "AuthenticationError"),
        (error(404, code="model_not_found"), "UnknownModelError"),
        (QUOTA, "QuotaError"),
    ],
)
def test_a_replica_that_refuses_everything_is_given_up_and_the_other_answers(
    refused: Reply, lost: str
) -> None:
    async def scenario() -> tuple[list[type], list[str], bool]:
        async with two(lambda _: refused, good) as (asked, _, _):
            found = await asyncio.gather(*(asked.ask(sample) for sample in range(12)))
            codes = [each.code for each in asked.events if each.kind == "replica_lost"]
            return [type(each) for each in found], codes, asked.traffic.is_doomed

    assert run(scenario()) == ([Completion] * 12, [lost], False)


def test_the_last_replica_that_refuses_everything_ends_the_run() -> None:
    async def scenario() -> None:
        async with two(lambda _: QUOTA, lambda _: error(401, code="invalid_api_key")) as (asked, _, _):
            try:
                await asked.ask()
            finally:
                assert asked.traffic.is_doomed

    with pytest.raises(AuthenticationError):
        run(scenario())


def test_a_replica_that_keeps_rejecting_samples_is_given_up_and_the_last_one_ends_the_run() -> None:
    """It answers fastest, so that nearly every sample would be sent to it."""
    rejected = error(400, code="context_length_exceeded")

    async def scenario(second: Responder) -> tuple[int, int]:
        async with two(lambda _: rejected, second) as (asked, one, other):
            for sample in range(60):
                found = await asked.ask(sample)
                if isinstance(found, Ended):
                    decision = found.decision
                    asked.client.count_failure(sample, decision.fault, decision.code, decision.message)
            return len(one.completions), len(other.completions)

    assert run(scenario(good)) == (ENDED_ALIKE_LIMIT, 60 - ENDED_ALIKE_LIMIT)
    with pytest.raises(GapsError, match="ended for the same reason"):
        run(scenario(lambda _: rejected))
