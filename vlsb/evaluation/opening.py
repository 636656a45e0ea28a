"""Opening a plan: whatever keeps a session from starting is found before anything is spent or started."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from vlsb.engines.lease import EngineLease
from vlsb.engines.plan import GpuLease
from vlsb.engines.registry import ServerRecord
from vlsb.errors import ConfigError
from vlsb.evaluation.clients import TARGET
from vlsb.evaluation.judges import resolve_judges
from vlsb.evaluation.leasing import (
    Surroundings,
    engine_wishes,
    identified,
    judge_wishes,
    lease_engines,
    lease_for,
)
from vlsb.evaluation.options import RunOptions
from vlsb.evaluation.settings import Resolved, resolve_judging, resolve_run
from vlsb.evaluation.target import NamedTarget, require_one_model
from vlsb.steps import in_thread


@asynccontextmanager
async def open_target(options: RunOptions, surroundings: Surroundings) -> AsyncIterator[Resolved]:
    """Open the plan of `vlsb run`, with the leases of engines for local models.

    Whatever else is wrong (a judge's key, a template) is found before an engine is installed or started.
    """
    target = await in_thread(lambda _: NamedTarget.identified(options))
    if target.is_local and options.replicas > 1 and options.keep_server:
        raise ConfigError("--keep-server keeps one engine. Leave it out, or --replicas.")
    resolved = await resolve_run(options, surroundings.environment, target)
    async with AsyncExitStack() as held:
        if target.is_local:
            # Only a single engine can be kept.
            lease = partial(lease_for(options, surroundings), is_kept=options.keep_server)
            wishes, count = engine_wishes(options), options.replicas
            gpus = await surroundings.gpus() if count > 1 else ()
            leases = await lease_engines(lease, target.profile, wishes, count, held, surroundings, gpus)
            resolved = resolved.with_engines(TARGET, leases or ())
        else:
            asked = resolved.plan.target
            assert asked is not None
            await require_one_model(
                asked, resolved.credentials[TARGET], ca_bundle=options.ca_bundle, say=surroundings.say
            )
        yield await _lease_judges(resolved, options, surroundings, held)


@asynccontextmanager
async def open_judging(
    run: Path | None, options: RunOptions, surroundings: Surroundings
) -> AsyncIterator[Resolved]:
    """Open the plan of `vlsb judge RUN`, or of its judges alone without a run, with leases of engines."""
    resolved = await in_thread(lambda _: resolve_judging(run, options, surroundings.environment))
    if options.replicas > 1 and not resolved.judges.local:
        raise ConfigError("--replicas is for engines that vlsb starts, and no judge is a local model.")
    async with AsyncExitStack() as held:
        yield await _lease_judges(resolved, options, surroundings, held)


@asynccontextmanager
async def judge_hosted(
    options: RunOptions, surroundings: Surroundings
) -> AsyncIterator[tuple[ServerRecord, ...]]:
    """Start the engines of the one local judge that options name, for all sessions of the block.

    Without a local judge, or with several, which may not fit beside each other, nothing is started here.
    Raises as `engine_lease`.
    """
    local = list((await in_thread(lambda _: resolve_judges(options))).local.values())
    if len(local) != 1:
        yield ()
        return
    model, gpus = await identified(local[0]), await surroundings.gpus()
    wishes, count = judge_wishes(options), options.replicas
    async with AsyncExitStack() as held:
        # A session that joins one ends when it dies: nobody starts it again.
        lease = partial(lease_for(options, surroundings), max_restarts=0)
        leases = await lease_engines(lease, model, wishes, count, held, surroundings, gpus)
        try:
            async with asyncio.TaskGroup() as group:
                starting = [group.create_task(_joinable(each)) for each in leases or ()]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        yield tuple(each.result() for each in starting)


async def _joinable(lease: EngineLease) -> ServerRecord:
    return lease.joined or lease.record(await lease.start(), owner=os.getpid())


async def _lease_judges(
    resolved: Resolved, options: RunOptions, surroundings: Surroundings, held: AsyncExitStack
) -> Resolved:
    """Lease engines for each local judge: beside the others while there are GPUs for it, else after them.

    Nothing is started yet: whatever keeps one of them from
    starting is found before anything is spent.
    """
    if not resolved.judges.local:
        return resolved
    lease, gpus = lease_for(options, surroundings), await surroundings.gpus()
    taken = [engine.wishes.gpus for leases in resolved.engines.values() for engine in leases]
    for name, profile in resolved.judges.local.items():
        model = await identified(profile)
        wishes, count = judge_wishes(options), options.replicas
        if resolved.plan.target is not None:
            # They were said of the target's engine.
            wishes, count = replace(wishes, gpus=GpuLease(), settings={}), 1
        if surroundings.hosted:
            hosted = [lease(model, wishes, hosted=each) for each in surroundings.hosted]
            joined = [await held.enter_async_context(each) for each in hosted]
            return resolved.with_engines(name, tuple(joined))
        leases = await lease_engines(lease, model, wishes, count, held, surroundings, gpus, taken)
        is_alone = leases is None
        if leases is None:
            leases = await lease_engines(lease, model, wishes, count, held, surroundings, gpus) or ()
        else:
            taken += [engine.wishes.gpus for engine in leases]
        if is_alone:
            place = "one GPU" if len(gpus) == 1 else "no GPU left" if gpus else "no GPU"
            surroundings.say(
                f"{profile.name} judges by itself, when the others are done: there is {place} for both."
            )
        resolved = resolved.with_engines(name, leases, is_alone=is_alone)
    return resolved
