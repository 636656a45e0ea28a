"""The supervisor: an engine that dies comes back, and the sample that kills it is found and left out.

The engines are stand-ins that die when told to; their health is asked over a real socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest

from tests.unit.endpoints.test_client import KIND, POLICY, lane
from vlsb.endpoints.credentials import Secret
from vlsb.endpoints.retry import Fate, InFlight
from vlsb.engines.launch import RunningServer
from vlsb.engines.process import EngineProcess
from vlsb.engines.supervisor import Supervisor
from vlsb.errors import ServerError, ServerExitedError, ServerTimeoutError, StoreError
from vlsb.records import Completion
from vlsb.simulator import Hangup, Reply, Request, Simulator, answer

DEADLINE_S = 60.0


class Mortal:
    """An engine's process that lives until it is killed or stopped."""

    pid = 1

    def __init__(self) -> None:
        self._code: int | None = None
        self._ended = asyncio.Event()
        self.was_stopped = False

    def die(self) -> None:
        self._code = -9
        self._ended.set()

    def exit_code(self) -> int | None:
        return self._code

    async def wait(self) -> int:
        await self._ended.wait()
        assert self._code is not None
        return self._code

    async def stop(self, grace_s: float) -> None:
        self.was_stopped = True
        self.die()


class Stable:
    """Starts engines, one after the other; `failure` is what the next start raises, `is_slow` never ends."""

    def __init__(self, base_url: str) -> None:
        self.engines: list[Mortal] = []
        self.failure: ServerError | None = None
        self.is_slow = False
        self.said: list[str] = []
        self.restarts: list[int] = []
        self._base_url = base_url

    async def start(self, last: RunningServer | None) -> RunningServer:
        assert (last is None) == (not self.engines)
        if self.failure is not None:
            raise self.failure
        self.engines.append(Mortal())
        if self.is_slow:
            try:
                await asyncio.Event().wait()
            finally:
                await self.engines[-1].stop(0)
        process = cast(EngineProcess, self.engines[-1])
        return RunningServer("llava_hf", self._base_url, Secret("k"), "llava_hf", 1, Path("log"), process)

    def kill(self) -> None:
        self.engines[-1].die()


@asynccontextmanager
async def supervised(
    max_restarts: int = 1, keep: Callable[[RunningServer], None] | None = None
) -> AsyncIterator[tuple[Supervisor, Stable]]:
    async with Simulator(lambda request: answer("Hi")) as endpoint:
        stable = Stable(endpoint.base_url)
        supervisor = Supervisor(
            stable.start,
            max_restarts=max_restarts,
            say=stable.said.append,
            observe=stable.restarts.append,
            keep=keep,
        )
        async with supervisor.running():
            yield supervisor, stable


def run(scenario: Coroutine[Any, Any, Any]) -> Any:
    """Run to the end; only a hang reaches the deadline."""

    async def bounded() -> Any:
        async with asyncio.timeout(DEADLINE_S):
            return await scenario

    return asyncio.run(bounded())


@cache
def of(sample: int) -> InFlight:
    """A sample's only request."""
    return InFlight(sample)


async def send(supervisor: Supervisor, *requests: int | InFlight) -> None:
    for request in in_flight(requests):
        assert await supervisor.admit(request)
        supervisor.depart(request)


def in_flight(requests: Iterable[int | InFlight]) -> list[InFlight]:
    return [each if isinstance(each, InFlight) else of(each) for each in requests]


async def until(is_so: Callable[[], object]) -> None:
    while not is_so():  # noqa: ASYNC110 - what is waited for happens in the supervisor
        await asyncio.sleep(0.001)


async def fail(supervisor: Supervisor, *requests: int | InFlight) -> list[Fate]:
    """These requests fail at once, then leave."""
    fates = await asyncio.gather(*(supervisor.fate(request) for request in in_flight(requests)))
    for request in in_flight(requests):
        supervisor.leave(request)
    return fates


def test_a_request_that_fails_at_a_living_engine_is_an_ordinary_failure() -> None:
    async def scenario() -> tuple[list[Fate], int]:
        async with supervised() as (supervisor, stable):
            await send(supervisor, 1)
            return await fail(supervisor, 1), len(stable.engines)

    assert run(scenario()) == ([Fate.ALIVE], 1)


def test_what_was_in_flight_at_a_death_is_sent_again_one_by_one_before_anything_else() -> None:
    async def scenario() -> None:
        async with supervised() as (supervisor, stable):
            await send(supervisor, 1, 2)
            stable.kill()
            assert await fail(supervisor, 1, 2) == [Fate.LOST, Fate.LOST]
            await supervisor.admit(of(2))

            assert not supervisor.admits(of(3))
            supervisor.depart(of(2))
            assert not supervisor.admits(of(1))
            supervisor.leave(of(2))
            assert supervisor.admits(of(1))
            assert not supervisor.admits(of(3))
            supervisor.depart(of(1))
            supervisor.leave(of(1))
            assert supervisor.admits(of(3))
            assert stable.restarts == [1]

    run(scenario())


def test_whoever_watches_hears_when_the_engine_goes_and_when_it_is_up_again() -> None:
    async def scenario() -> list[bool]:
        heard: list[bool] = []
        async with supervised() as (supervisor, stable):
            supervisor.watch(lambda: heard.append(supervisor.admits(of(1))))
            stable.kill()
            await until(lambda: heard[-1:] == [True])
            return heard

    assert run(scenario()) == [False, True]


def test_the_sample_that_kills_the_engine_twice_is_found_and_the_rest_goes_on() -> None:
    """It is not sent a third time, and its deaths do not count against the restarts."""

    async def scenario() -> None:
        async with supervised(max_restarts=1) as (supervisor, stable):
            for culprit in (1, 5):
                await send(supervisor, culprit, culprit + 1)
                stable.kill()
                assert set(await fail(supervisor, culprit, culprit + 1)) == {Fate.LOST}
                await send(supervisor, culprit)
                stable.kill()
                assert await fail(supervisor, culprit) == [Fate.KILLED_BY_SAMPLE]
                await send(supervisor, culprit + 1)
                supervisor.leave(of(culprit + 1))
            await supervisor.admit(of(9))

            assert stable.restarts == [1, 2, 3, 4]

    run(scenario())


def test_a_sample_that_got_its_answer_while_the_engine_died_is_no_suspect() -> None:
    async def scenario() -> None:
        async with supervised() as (supervisor, stable):
            await send(supervisor, 1, 2)
            stable.kill()
            await until(lambda: stable.restarts)
            supervisor.leave(of(2))
            assert await fail(supervisor, 1) == [Fate.LOST]

            await send(supervisor, 1)
            supervisor.leave(of(1))
            assert supervisor.admits(of(3))

    run(scenario())


def test_an_engine_that_dies_too_often_ends_the_run_with_its_cause_and_the_option_that_helps() -> None:
    async def scenario() -> tuple[str, list[str]]:
        async with supervised(max_restarts=1) as (supervisor, stable):
            await send(supervisor, 1, 2)
            stable.kill()
            await fail(supervisor, 1, 2)
            for innocent in (1, 2):
                await send(supervisor, innocent)
                supervisor.leave(of(innocent))
            await send(supervisor, 3, 4)
            stable.kill()
            await fail(supervisor, 3, 4)
            with pytest.raises(ServerExitedError) as raised:
                await supervisor.admit(of(3))
            return raised.value.message, stable.said

    message, said = run(scenario())
    assert "SIGKILL" in message
    assert "--max-restarts" in said[-1]


def test_an_engine_that_does_not_come_back_ends_the_run() -> None:
    async def scenario() -> None:
        async with supervised() as (supervisor, stable):
            stable.failure = ServerTimeoutError("not ready")
            await send(supervisor, 1)
            stable.kill()
            assert await fail(supervisor, 1) == [Fate.LOST]
            with pytest.raises(ServerTimeoutError):
                await supervisor.admit(of(1))

    run(scenario())


def test_an_engine_that_is_up_but_not_well_is_ended_and_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """vLLM's API server answers for a while after its core has died."""
    monkeypatch.setattr("vlsb.engines.supervisor._DYING_S", 0.1)

    async def scenario() -> None:
        async with Simulator(lambda request: answer("Hi")) as endpoint:
            stable = Stable(endpoint.base_url)
            supervisor = Supervisor(
                stable.start, max_restarts=1, say=stable.said.append, observe=stable.restarts.append
            )
            async with supervisor.running():
                endpoint.routes["GET /health"] = Reply(status=503)
                await send(supervisor, 1)
                assert await fail(supervisor, 1) == [Fate.LOST]
                assert stable.engines[0].was_stopped
                assert len(stable.engines) == 2

    run(scenario())


def test_the_engine_is_stopped_at_the_end_also_while_it_is_being_restarted() -> None:
    async def scenario() -> Stable:
        async with supervised() as (supervisor, stable):
            await send(supervisor, 1)
            stable.kill()
            await until(lambda: len(stable.engines) == 2)
        return stable

    assert run(scenario()).engines[-1].was_stopped


def test_leaving_while_the_engine_is_being_restarted_ends_the_start() -> None:
    async def scenario() -> Stable:
        async with supervised() as (_, stable):
            stable.is_slow = True
            stable.kill()
            await until(lambda: len(stable.engines) == 2)
        return stable

    assert run(scenario()).engines[-1].was_stopped


def test_a_request_that_is_given_up_while_the_engine_is_down_holds_nobody_back() -> None:
    async def scenario() -> None:
        async with supervised() as (supervisor, stable):
            await send(supervisor, 1, 2)
            asked = asyncio.create_task(supervisor.fate(of(1)))
            await asyncio.sleep(0)
            asked.cancel()
            await asyncio.wait([asked])
            stable.kill()
            await until(lambda: len(stable.engines) == 2)
            supervisor.leave(of(1))
            assert await fail(supervisor, 2) == [Fate.LOST]
            await send(supervisor, 2)
            supervisor.leave(of(2))

            assert supervisor.admits(of(3))

    run(scenario())


def test_the_health_of_the_next_engine_says_nothing_of_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A restart keeps the address: an answer may come from the engine that came after."""

    async def scenario() -> None:
        async with supervised() as (supervisor, stable):

            async def slow_health(server: RunningServer) -> bool:
                stable.kill()
                await until(lambda: len(stable.engines) == 2)
                return True

            monkeypatch.setattr("vlsb.engines.supervisor._is_healthy", slow_health)
            await send(supervisor, 1)
            assert await fail(supervisor, 1) == [Fate.LOST]

    run(scenario())


# Several epochs: the same sample twice at a time.


def test_another_epoch_of_a_sample_is_a_request_of_its_own() -> None:
    """One that hears of the death after the other has left is lost too, and waits for nothing."""

    async def scenario() -> None:
        first, second = InFlight(1), InFlight(1)
        async with supervised() as (supervisor, stable):
            await send(supervisor, first, second)
            stable.kill()
            assert await fail(supervisor, first) == [Fate.LOST]
            await until(lambda: len(stable.engines) == 2)
            assert await fail(supervisor, second) == [Fate.LOST]

            await send(supervisor, first)
            assert not supervisor.admits(second)
            supervisor.leave(first)
            assert not supervisor.admits(of(3))
            await send(supervisor, second)
            supervisor.leave(second)
            assert supervisor.admits(of(3))

    run(scenario())


def test_no_other_epoch_of_a_sample_that_kills_the_engine_is_sent() -> None:
    async def scenario() -> None:
        first, second, third = InFlight(1), InFlight(1), InFlight(1)
        async with supervised(max_restarts=1) as (supervisor, stable):
            await send(supervisor, first, second)
            stable.kill()
            assert await fail(supervisor, first, second) == [Fate.LOST, Fate.LOST]
            await send(supervisor, first)
            waiting = asyncio.create_task(supervisor.admit(second))
            stable.kill()
            assert await fail(supervisor, first) == [Fate.KILLED_BY_SAMPLE]

            assert await waiting is False
            assert await supervisor.admit(third) is False
            assert await supervisor.admit(of(2))
            assert stable.restarts == [1, 2]

    run(scenario())


# With a client.


def test_a_sample_that_may_not_go_yet_does_not_keep_the_probe_of_an_outage() -> None:
    """The suspects go first, one by one, also where the endpoint was taken to be down already."""
    arrived, dies = asyncio.Event(), asyncio.Event()

    async def respond(request: Request) -> Reply | Hangup:
        if dies.is_set():
            return answer("Hi")
        arrived.set()
        await dies.wait()
        return Hangup()

    async def scenario() -> list[Completion]:
        KIND.set("wire")
        async with Simulator(respond) as endpoint:
            stable = Stable(endpoint.base_url)
            supervisor = Supervisor(
                stable.start, max_restarts=1, say=stable.said.append, observe=stable.restarts.append
            )
            async with (
                supervisor.running(),
                lane(endpoint.base_url, POLICY, limit=1, guard=supervisor) as made,
            ):
                suspect = asyncio.create_task(made.ask(1))
                await arrived.wait()
                health = made.client.admission.replicas[0].health
                for sample in range(100, 104):
                    health.count_failure(health.depart(), sample, "server_error", connections=1)
                assert made.client.admission.is_down
                other = asyncio.create_task(made.ask(2))
                await until(lambda: made.client.admission.state().in_flight == 2)
                stable.kill()
                dies.set()
                return [await suspect, await other]

    assert all(isinstance(each, Completion) for each in run(scenario()))


# An engine that is kept.


def test_an_engine_that_is_kept_is_handed_over_and_not_stopped() -> None:
    kept: list[RunningServer] = []

    async def scenario() -> Stable:
        async with supervised(keep=kept.append) as (supervisor, stable):
            stable.kill()
            await supervisor.admit(of(1))
            await until(lambda: len(stable.engines) == 2)
        return stable

    stable = run(scenario())
    assert [server.process for server in kept] == [stable.engines[1]]
    assert not stable.engines[1].was_stopped


@pytest.mark.parametrize("is_slow", [False, True])
def test_an_engine_that_has_ended_is_not_kept_which_is_said(is_slow: bool) -> None:
    """Whether that was noticed already or not."""
    kept: list[RunningServer] = []

    async def scenario() -> Stable:
        async with supervised(keep=kept.append) as (_, stable):
            stable.is_slow = is_slow
            stable.kill()
            if is_slow:
                await until(lambda: len(stable.engines) == 2)
        return stable

    stable = run(scenario())
    assert "llava_hf is not kept: its engine has ended." in stable.said
    assert kept == []


def test_an_engine_that_cannot_be_kept_is_stopped() -> None:
    def refuse(server: RunningServer) -> None:
        raise StoreError("the disk is full")

    stables: list[Stable] = []

    async def scenario() -> None:
        async with supervised(keep=refuse) as (_, stable):
            stables.append(stable)

    with pytest.raises(StoreError):
        run(scenario())
    assert stables[0].engines[0].was_stopped
