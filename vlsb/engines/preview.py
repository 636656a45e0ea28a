"""A local model as it would be started here, told from its small files alone: nothing is started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from vlsb.engines.checkpoint import Weights, identify, open_weights
from vlsb.engines.hardware import gpus
from vlsb.engines.install import Engine
from vlsb.engines.placement import Forecast, memory_needed
from vlsb.engines.plan import ServerPlan, Wishes, plan_server, weights_revision
from vlsb.models.catalog import read_config
from vlsb.models.profile import ModelProfile


class Preview(NamedTuple):
    """What a start would come to; without a `plan` where the weights have to be converted first."""

    model: ModelProfile
    weights: Weights
    engine: Engine
    memory: Forecast
    plan: ServerPlan | None


def preview(model: ModelProfile, *, environment: Mapping[str, str], is_offline: bool) -> Preview:
    """Preview the start of a local model with the engine that would be installed for it. Blocking.

    Asks the Hub for the small files of a checkpoint that lies there. Raises ConfigError or
    AuthenticationError.
    """
    wishes = Wishes(offline=is_offline, settings={"trust-remote-code": True} if model.needs_code else {})
    model = identify(model, offline=is_offline)
    revision = weights_revision(model, wishes, read_config(model.config))
    has_gpu = bool(gpus(environment))
    version = model.engine.gpu_version if has_gpu else model.engine.cpu_version
    engine = Engine(Path("vllm"), version, None, is_cpu=not has_gpu, prefix=None)
    weights = open_weights(model.weights, revision=revision, offline=is_offline)
    memory = memory_needed(model, wishes, weights, on_cpu=not has_gpu)
    plan = None
    if model.source_architecture is None:
        trusted = replace(wishes, revision=weights.commit if model.needs_code else None)
        plan = plan_server(model, trusted, engine, environment=environment, has_gpu=has_gpu)
    return Preview(model, weights, engine, memory, plan)
