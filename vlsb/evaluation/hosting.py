"""A local judge's engines for several sessions in turn: started once, joined by each, ended after them."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

from vlsb.engines.hardware import list_gpus
from vlsb.engines.lease import EngineLease, Leases, MayInstall
from vlsb.engines.registry import ServerRecord
from vlsb.evaluation.leasing import identified, judge_wishes, lease_for, lease_replicas, wishes_of_replicas
from vlsb.evaluation.options import RunOptions
from vlsb.evaluation.settings import judge_models
from vlsb.steps import OnProgress, in_thread

_LOOK_EVERY_S = 0.2


@contextmanager
def judge_served(
    options: RunOptions,
    environment: Mapping[str, str],
    *,
    may_install: MayInstall,
    on_progress: OnProgress,
    say: Callable[[str], None],
) -> Iterator[tuple[ServerRecord, ...]]:
    """The engines of the one local judge that options name, up for as long as the block lasts.

    Sessions of the block are opened with them. Without a local judge, or with several, which may not fit
    beside each other, nothing is started here. Raises as `engine_lease`.
    """
    local = [profile for profile in judge_models(options).values() if profile is not None]
    if len(local) != 1:
        yield ()
        return
    lease = lease_for(options, environment, may_install=may_install, on_progress=on_progress, say=say)
    unwatched = partial(lease, max_restarts=0)

    async def open_leases(held: AsyncExitStack) -> Leases:
        model = await identified(local[0])
        there = (await in_thread(lambda _: list_gpus(environment))).checked().gpus
        wishes, count = judge_wishes(options), options.replicas
        apart = wishes_of_replicas(model, wishes, count, there, environment) or []
        return await lease_replicas(unwatched, model, apart, held, say=say)

    host = _Host(open_leases)
    host.start()
    try:
        yield host.wait_until_up()
    finally:
        host.stop()


@dataclass(eq=False)
class _Host:
    """A thread whose event loop holds the engines: each session runs and closes a loop of its own."""

    open_leases: Callable[[AsyncExitStack], Awaitable[Leases]]
    _records: tuple[ServerRecord, ...] = ()
    _is_up: threading.Event = field(default_factory=threading.Event)
    _problem: BaseException | None = None
    _cancel: Callable[[], object] | None = None
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="judge's engines")
        self._thread.start()

    def wait_until_up(self) -> tuple[ServerRecord, ...]:
        """The engines, when they answer; raises what kept them from that. A signal is heard meanwhile."""
        while not self._is_up.wait(_LOOK_EVERY_S):
            pass
        if self._problem is not None:
            raise self._problem
        return self._records

    def stop(self) -> None:
        """End the engines in order, also those that are being started."""
        assert self._thread is not None
        while self._thread.is_alive():
            if self._cancel is not None:
                self._cancel()
            self._thread.join(_LOOK_EVERY_S)

    def _run(self) -> None:
        try:
            asyncio.run(self._hold())
        except asyncio.CancelledError:
            pass
        # Whatever it is, it is raised in the thread that waits for the engines.
        except BaseException as error:  # noqa: BLE001
            self._problem = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error
        finally:
            self._is_up.set()

    async def _hold(self) -> None:
        loop, stopped = asyncio.get_running_loop(), asyncio.Event()
        task = asyncio.current_task()
        assert task is not None
        self._cancel = partial(loop.call_soon_threadsafe, task.cancel)
        async with AsyncExitStack() as held:
            leases = await self.open_leases(held)
            async with asyncio.TaskGroup() as group:
                starting = [group.create_task(_joinable(lease)) for lease in leases]
            self._records = tuple(each.result() for each in starting)
            self._is_up.set()
            self._cancel = partial(loop.call_soon_threadsafe, stopped.set)
            await stopped.wait()


async def _joinable(lease: EngineLease) -> ServerRecord:
    """A judge's engine, up: started, unless it runs already."""
    return lease.joined or lease.record(await lease.start(), owner=os.getpid())
