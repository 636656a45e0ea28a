"""Leasing all engines of a session: one for each local model, or replicas with GPUs of their own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from vlsb.engines.hardware import Gpu, list_gpus
from vlsb.engines.lease import EngineLease, Leases, MayInstall, decline, engine_lease
from vlsb.engines.placement import place
from vlsb.engines.plan import GpuLease, Wishes
from vlsb.engines.registry import ServerRecord
from vlsb.errors import ConfigError
from vlsb.models.profile import ModelProfile
from vlsb.steps import OnProgress, ignore, in_thread


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where a command is carried out: its variables, who may install an engine, who is told of what happens.

    `on_progress` may be called from other threads. Engines that are `hosted` for several sessions are those
    of the only local judge.
    """

    environment: Mapping[str, str]
    may_install: MayInstall = decline
    on_progress: OnProgress = ignore
    say: Callable[[str], None] = lambda line: None
    hosted: tuple[ServerRecord, ...] = ()


class EngineNeed(NamedTuple):
    """A local model that a session wants so many replicas of. Only a single engine can be kept."""

    model: ModelProfile
    wishes: Wishes
    replicas: int = 1
    is_judge: bool = True
    is_kept: bool = False


class Leased(NamedTuple):
    """The engines of a local model; one that `waits` has to be alone on the GPU of the others."""

    leases: Leases
    waits: bool = False


async def lease_engines(
    needs: Mapping[str, EngineNeed], surroundings: Surroundings, held: AsyncExitStack, *, max_restarts: int
) -> dict[str, Leased]:
    """Lease engines for each model until `held` is closed: beside the others while there are GPUs for it.

    Nothing is started yet: whatever keeps one of them from starting is found before anything is spent.
    Raises as `engine_lease`, and ConfigError where replicas do not fit on the GPUs, or would differ.
    """
    taken: list[GpuLease] = []
    leased: dict[str, Leased] = {}
    for name, each in needs.items():
        lease = partial(
            engine_lease,
            environment=surroundings.environment,
            may_install=surroundings.may_install,
            on_progress=surroundings.on_progress,
            say=surroundings.say,
            max_restarts=max_restarts,
            is_kept=each.is_kept,
        )
        if each.is_judge and surroundings.hosted:
            joined = [lease(each.model, each.wishes, hosted=server) for server in surroundings.hosted]
            leased[name] = Leased(tuple([await held.enter_async_context(one) for one in joined]))
            continue
        gpus: Sequence[Gpu] = ()
        if each.is_judge or each.replicas > 1:
            listing = await in_thread(lambda _: list_gpus(surroundings.environment))
            gpus = listing.checked().gpus
        inherited = surroundings.environment.get("CUDA_VISIBLE_DEVICES")
        apart, waits = place(each.model, each.wishes, gpus, taken, count=each.replicas, inherited=inherited)
        leases = await _lease_apart(lease, each.model, apart, surroundings.say, held)
        leased[name] = Leased(leases, waits)
        if waits:
            room = "one GPU" if len(gpus) == 1 else "no GPU left" if gpus else "no GPU"
            surroundings.say(
                f"{each.model.name} judges by itself, when the others are done: there is {room} for both."
            )
        else:
            taken += [engine.wishes.gpus for engine in leases]
    return leased


async def _lease_apart(
    lease: Callable[..., AbstractAsyncContextManager[EngineLease]],
    model: ModelProfile,
    apart: Sequence[Wishes],
    say: Callable[[str], None],
    held: AsyncExitStack,
) -> Leases:
    """Lease an engine for each of the wishes; several are new ones that must be alike."""
    if len(apart) == 1:
        return (await held.enter_async_context(lease(model, apart[0])),)
    leases: list[EngineLease] = []
    for number, wishes in enumerate(apart, 1):
        title = f"{model.name}, replica {number}"

        def say_which(line: str, number: int = number) -> None:
            say(f"Replica {number}: {line}")

        one = lease(model, wishes, joins=False, title=title, say=say_which)
        leases.append(await held.enter_async_context(one))
        if leases[-1].facts != leases[0].facts:
            raise ConfigError(f"--replicas: the engines would differ, replica {number} from the first.")
    return tuple(leases)


@asynccontextmanager
async def host_engines(
    need: EngineNeed, surroundings: Surroundings
) -> AsyncIterator[tuple[ServerRecord, ...]]:
    """Start engines of a model for all sessions of the block. Raises as `lease_engines`.

    A session that joins one ends when it dies: nobody starts it again.
    """

    async def start(lease: EngineLease) -> ServerRecord:
        return lease.joined or lease.record(await lease.start(), owner=os.getpid())

    async with AsyncExitStack() as held:
        leased = await lease_engines({"": need}, surroundings, held, max_restarts=0)
        try:
            async with asyncio.TaskGroup() as group:
                starting = [group.create_task(start(each)) for each in leased[""].leases]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        yield tuple(each.result() for each in starting)
