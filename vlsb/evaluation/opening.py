"""Opening a plan: whatever keeps a session from starting is found before anything is spent or started.

Engines for local models are leased as options ask: one, or replicas that each have GPUs of their own.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from vlsb.engines.checkpoint import identify
from vlsb.engines.hardware import Gpu, list_gpus
from vlsb.engines.lease import EngineLease, Leases, MayInstall, decline, engine_lease
from vlsb.engines.placement import gpus_taken, wishes_apart
from vlsb.engines.plan import GpuLease, Lora, Wishes
from vlsb.engines.registry import ServerRecord
from vlsb.errors import ConfigError
from vlsb.evaluation.clients import TARGET
from vlsb.evaluation.named_models import require_one_model, resolve_judges
from vlsb.evaluation.options import RunOptions
from vlsb.evaluation.settings import Resolved, resolve_judging, resolve_run
from vlsb.models.profile import ModelProfile
from vlsb.steps import OnProgress, ignore, in_thread, threaded

# A judge reads the template, a question and a response besides what it writes.
_JUDGE_CONTEXT_TOKENS = 2048

Lease = Callable[..., AbstractAsyncContextManager[EngineLease]]
"""`engine_lease` with all but the model and the wishes."""


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

    async def gpus(self) -> Sequence[Gpu]:
        """Return the GPUs that this process may use. Raises ServerError where the driver does not answer."""
        return (await in_thread(lambda _: list_gpus(self.environment))).checked().gpus


@asynccontextmanager
async def open_target(options: RunOptions, surroundings: Surroundings) -> AsyncIterator[Resolved]:
    """Open the plan of `vlsb run`, with the leases of engines for local models.

    Whatever else is wrong (a judge's key, a template) is found before an engine is installed or started.
    """
    resolved = await resolve_run(options, surroundings.environment)
    if TARGET not in resolved.local:
        await require_one_model(
            resolved.plan.models[TARGET],
            resolved.credentials[TARGET],
            ca_bundle=options.ca_bundle,
            say=surroundings.say,
        )
    async with AsyncExitStack() as held:
        yield await _lease_all(resolved, options, surroundings, held)


@asynccontextmanager
async def open_judging(
    run: Path | None, options: RunOptions, surroundings: Surroundings
) -> AsyncIterator[Resolved]:
    """Open the plan of `vlsb judge RUN`, or of its judges alone without a run, with leases of engines."""
    resolved = await resolve_judging(run, options, surroundings.environment)
    if options.replicas > 1 and not resolved.local:
        raise ConfigError("--replicas is for engines that vlsb starts, and no judge is a local model.")
    async with AsyncExitStack() as held:
        yield await _lease_all(resolved, options, surroundings, held)


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
        lease = partial(_lease_for(options, surroundings), max_restarts=0)
        leases = await _lease_engines(lease, model, wishes, count, held, surroundings, gpus)

        async def start(lease: EngineLease) -> ServerRecord:
            return lease.joined or lease.record(await lease.start(), owner=os.getpid())

        try:
            async with asyncio.TaskGroup() as group:
                starting = [group.create_task(start(each)) for each in leases or ()]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        yield tuple(each.result() for each in starting)


async def _lease_all(
    resolved: Resolved, options: RunOptions, surroundings: Surroundings, held: AsyncExitStack
) -> Resolved:
    """Lease engines for each local model: beside the others while there are GPUs for it, else after them.

    Nothing is started yet: whatever keeps one of them from starting is found before anything is spent.
    """
    taken: list[GpuLease] = []
    for name, profile in resolved.local.items():
        is_target, count = name == TARGET, options.replicas
        wishes = engine_wishes(options) if is_target else judge_wishes(options)
        # Only a single engine can be kept.
        lease = partial(_lease_for(options, surroundings), is_kept=is_target and options.keep_server)
        if not is_target and resolved.plan.target is not None:
            # They were said of the target's engine.
            wishes, count = replace(wishes, gpus=GpuLease(), settings={}), 1
        model, is_alone = profile if is_target else await identified(profile), False
        leases: Leases | None
        if surroundings.hosted and not is_target:
            hosted = [lease(model, wishes, hosted=each) for each in surroundings.hosted]
            leases = tuple([await held.enter_async_context(each) for each in hosted])
        else:
            gpus = await surroundings.gpus() if count > 1 or not is_target else ()
            leases = await _lease_engines(lease, model, wishes, count, held, surroundings, gpus, taken)
            if is_alone := leases is None:
                leases = await _lease_engines(lease, model, wishes, count, held, surroundings, gpus)
                place = "one GPU" if len(gpus) == 1 else "no GPU left" if gpus else "no GPU"
                surroundings.say(
                    f"{profile.name} judges by itself, when the others are done: there is {place} for both."
                )
            else:
                taken += [engine.wishes.gpus for engine in leases]
        resolved = resolved.with_engines(name, leases or (), is_alone=is_alone)
    return resolved


def _lease_for(options: RunOptions, surroundings: Surroundings) -> Lease:
    """Return how an engine is leased for these options, but for its model and the wishes."""
    return partial(
        engine_lease,
        environment=surroundings.environment,
        may_install=surroundings.may_install,
        on_progress=surroundings.on_progress,
        say=surroundings.say,
        max_restarts=options.max_restarts,
    )


@threaded
def identified(model: ModelProfile) -> ModelProfile:
    """Look at a local model's own checkpoint for what it is. Raises as `identify`."""
    return identify(model, weights=None, revision=None, offline=False)


def engine_wishes(options: RunOptions) -> Wishes:
    """Return what options ask of a target's engine."""
    return Wishes(
        weights=options.weights,
        revision=options.revision,
        settings=options.engine_settings(),
        gpus=GpuLease.parse(options.gpus),
        lora=Lora.parse(options.lora),
        thinks={"on": True, "off": False}.get(options.thinking),
        max_tokens=options.max_tokens,
        engine=options.engine,
        engine_options=options.engine_options,
        start_timeout_s=options.start_timeout,
    )


def judge_wishes(options: RunOptions) -> Wishes:
    """Return what options ask of a judge's engine."""
    return Wishes(
        engine=options.engine,
        settings=options.engine_settings(),
        max_tokens=_JUDGE_CONTEXT_TOKENS,
        start_timeout_s=options.start_timeout,
        gpus=GpuLease.parse(options.gpus),
    )


async def _lease_engines(
    lease: Lease,
    model: ModelProfile,
    wishes: Wishes,
    count: int,
    held: AsyncExitStack,
    surroundings: Surroundings,
    gpus: Sequence[Gpu],
    taken: Sequence[GpuLease] = (),
) -> Leases | None:
    """Lease so many engines of a model until `held` is closed; nothing is started yet.

    Return None where there is no room beside what is `taken`. Raises as `engine_lease`, and ConfigError where
    they do not fit on all the `gpus`, or would differ.
    """
    inherited = surroundings.environment.get("CUDA_VISIBLE_DEVICES")
    apart = wishes_apart(model, wishes, gpus, taken, count=count, inherited=inherited)
    if apart is None and not taken:
        size, most = gpus_taken(model, wishes), len(wishes.gpus.entries or gpus)
        which = "that --gpus names" if wishes.gpus.entries else "here"
        raise ConfigError(
            f"--replicas {count}: each takes {size} of the {most} GPUs {which}: {most // size} fit."
        )
    if apart is None:
        return None
    if len(apart) == 1:
        return (await held.enter_async_context(lease(model, apart[0])),)
    leases: list[EngineLease] = []
    for number, each in enumerate(apart, 1):
        title = f"{model.name}, replica {number}"

        def say(line: str, number: int = number) -> None:
            surroundings.say(f"Replica {number}: {line}")

        leases.append(await held.enter_async_context(lease(model, each, joins=False, title=title, say=say)))
        if leases[-1].facts != leases[0].facts:
            raise ConfigError(f"--replicas: the engines would differ, replica {number} from the first.")
    return tuple(leases)
