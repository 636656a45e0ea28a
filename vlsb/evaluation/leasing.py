"""Engines for local models, as options ask for them: one, or replicas that each have GPUs of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from functools import partial

from vlsb.engines.checkpoint import identify
from vlsb.engines.hardware import Gpu, list_gpus
from vlsb.engines.lease import EngineLease, Leases, MayInstall, decline, engine_lease
from vlsb.engines.placement import gpus_taken, wishes_apart
from vlsb.engines.plan import GpuLease, Lora, Wishes
from vlsb.engines.registry import ServerRecord
from vlsb.errors import ConfigError
from vlsb.evaluation.options import RunOptions
from vlsb.models.profile import ModelProfile
from vlsb.steps import OnProgress, ignore, in_thread

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


def lease_for(options: RunOptions, surroundings: Surroundings) -> Lease:
    """Return how an engine is leased for these options, but for its model and the wishes."""
    return partial(
        engine_lease,
        environment=surroundings.environment,
        may_install=surroundings.may_install,
        on_progress=surroundings.on_progress,
        say=surroundings.say,
        max_restarts=options.max_restarts,
    )


async def identified(model: ModelProfile) -> ModelProfile:
    """Look at a local model's own checkpoint for what it is. Raises as `identify`."""
    return await in_thread(lambda _: identify(model, weights=None, revision=None, offline=False))


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


async def lease_engines(
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
        title, say = f"{model.name}, replica {number}", partial(_say_of, surroundings.say, number)
        leases.append(await held.enter_async_context(lease(model, each, joins=False, title=title, say=say)))
        if leases[-1].facts != leases[0].facts:
            raise ConfigError(f"--replicas: the engines would differ, replica {number} from the first.")
    return tuple(leases)


def _say_of(say: Callable[[str], None], number: int, line: str) -> None:
    say(f"Replica {number}: {line}")
