"""The supervisor: an engine that dies comes back, and the sample that kills it is found and left out.

The engines are stand-ins that die when told to; their health is asked over a real socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from vlsb.endpoints.keeper import Fate
from vlsb.endpoints.secrets import Secret
from vlsb.endpoints.simulator import Reply, Simulator, answer
from vlsb.errors import ServerError, ServerExitedError, ServerTimeoutError
from vlsb.serving.launch import RunningServer
from vlsb.serving.processes import EngineProcess
from vlsb.serving.supervisor import Supervisor

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
    """Starts engines, one after the other; `failure` is what the next start raises."""

    def __init__(self, base_url: str) -> None:
        self.engines: list[Mortal] = []
        self.failure: ServerError | None = None
        self.said: list[str] = []
        self.restarts: list[int] = []
        self._base_url = base_url

    async def start(self, last: RunningServer | None) -> RunningServer:
        assert (last is None) == (not self.engines)
        if self.failure is not None:
            raise self.failure
        self.engines.append(Mortal())
        process = cast(EngineProcess, self.engines[-1])
        return RunningServer("llava_hf", self._base_url, Secret("k"), "llava_hf", 1, Path("log"), process)

    def kill(self) -> None:
        self.engines[-1].die()


@asynccontextmanager
async def supervised(max_restarts: int = 1) -> AsyncIterator[tuple[Supervisor, Stable]]:
    async with Simulator(lambda request: answer("Hi")) as endpoint:
        stable = Stable(endpoint.base_url)
        supervisor = Supervisor(
            stable.start, max_restarts=max_restarts, say=stable.said.append, observe=stable.restarts.append
        )
        async with supervisor.running():
            yield supervisor, stable


def run(scenario: Coroutine[Any, Any, Any]) -> Any:
    """Run to the end; only a hang reaches the deadline."""

    async def bounded() -> Any:
        async with asyncio.timeout(DEADLINE_S):
            return await scenario

    return asyncio.run(bounded())


async def send(supervisor: Supervisor, *samples: int) -> None:
    for sample in samples:
        await supervisor.admit(sample)
        supervisor.depart(sample)


async def until(is_so: Callable[[], object]) -> None:
    while not is_so():  # noqa: ASYNC110 - what is waited for happens in the supervisor
        await asyncio.sleep(0.001)


async def fail(supervisor: Supervisor, *samples: int) -> list[Fate]:
    """The requests of these samples fail at once, then leave."""
    fates = await asyncio.gather(*(supervisor.fate(sample) for sample in samples))
    for sample in samples:
        supervisor.leave(sample)
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
            await supervisor.admit(2)

            assert not supervisor.admits(3)
            supervisor.depart(2)
            assert not supervisor.admits(1)
            supervisor.leave(2)
            assert supervisor.admits(1)
            assert not supervisor.admits(3)
            supervisor.depart(1)
            supervisor.leave(1)
            assert supervisor.admits(3)
            assert stable.restarts == [1]

    run(scenario())


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
                supervisor.leave(culprit + 1)
            await supervisor.admit(9)

            assert stable.restarts == [1, 2, 3, 4]

    run(scenario())


def test_a_sample_that_got_its_answer_while_the_engine_died_is_no_suspect() -> None:
    async def scenario() -> None:
        async with supervised() as (supervisor, stable):
            await send(supervisor, 1, 2)
            stable.kill()
            await until(lambda: stable.restarts)
            supervisor.leave(2)
            assert await fail(supervisor, 1) == [Fate.LOST]

            await send(supervisor, 1)
            supervisor.leave(1)
            assert supervisor.admits(3)

    run(scenario())


def test_an_engine_that_dies_too_often_ends_the_run_with_its_log() -> None:
    async def scenario() -> ServerExitedError:
        async with supervised(max_restarts=1) as (supervisor, stable):
            await send(supervisor, 1, 2)
            stable.kill()
            await fail(supervisor, 1, 2)
            for innocent in (1, 2):
                await send(supervisor, innocent)
                supervisor.leave(innocent)
            await send(supervisor, 3, 4)
            stable.kill()
            await fail(supervisor, 3, 4)
            with pytest.raises(ServerExitedError) as raised:
                await supervisor.admit(3)
            return raised.value

    assert "--max-restarts" in run(scenario()).message


def test_an_engine_that_does_not_come_back_ends_the_run() -> None:
    async def scenario() -> None:
        async with supervised() as (supervisor, stable):
            stable.failure = ServerTimeoutError("not ready")
            await send(supervisor, 1)
            stable.kill()
            assert await fail(supervisor, 1) == [Fate.LOST]
            with pytest.raises(ServerTimeoutError):
                await supervisor.admit(1)

    run(scenario())


def test_an_engine_that_is_up_but_not_well_is_ended_and_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """vLLM's API server answers for a while after its core has died."""
    monkeypatch.setattr("vlsb.serving.supervisor._DYING_S", 0.1)

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
