"""What `vlsb models show NAME` prints: a model as it would be started and asked. Starts and sends nothing."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlsb.config import OFFICIAL_TARGET_SAMPLING, ModelSettings
from vlsb.endpoints.request import first_guess
from vlsb.engines.checkpoint import identify, open_weights
from vlsb.engines.hardware import gpus
from vlsb.engines.install import Engine
from vlsb.engines.placement import memory_needed
from vlsb.engines.plan import Wishes, plan_server, weights_revision
from vlsb.engines.prompt_check import probe_request
from vlsb.models.catalog import find_profile, read_config
from vlsb.models.profile import ModelProfile
from vlsb.models.providers import resolve_endpoint
from vlsb.records import Untrusted
from vlsb.reports.encode import for_terminal

_IMAGE = "data:image/...;base64,..."
_INSTRUCTION = "<the sample's instruction>"


def model_card(name: str, servers_dir: Path | None, *, is_offline: bool) -> str:
    """A model in full. Blocking; asks the Hub for the small files of a checkpoint that lies there.

    Raises UnknownModelError, ConfigError or AuthenticationError.
    """
    model = find_profile(name, servers_dir)
    lines = _local(model, is_offline=is_offline) if model.is_local else _hosted(name)
    return for_terminal(Untrusted("\n".join(lines)), lines=True)


def _local(model: ModelProfile, *, is_offline: bool) -> Iterator[str]:
    wishes = Wishes(offline=is_offline, settings={"trust-remote-code": True} if model.needs_code else {})
    model = identify(model, weights=None, revision=None, offline=is_offline)
    revision = weights_revision(model, wishes, read_config(model.config))
    has_gpu = bool(gpus(os.environ))
    pin = model.engine
    version = pin.gpu_version if has_gpu else pin.cpu_version
    weights = open_weights(model.weights, revision=revision, offline=is_offline)
    needed = memory_needed(model, wishes, weights, on_cpu=not has_gpu)
    memory = "unknown, as is the size of its weights"
    if needed.weights:
        memory = (
            f"about {needed.total / 1e9:.0f} GB ({needed.weights / 1e9:.1f} of weights, "
            f"{needed.cache / 1e9:.1f} for one prompt of full length)"
        )
    yield from _rows(
        {
            "name": model.name,
            "weights": f"{weights.argument}{f' at {weights.commit}' if weights.commit else ''}",
            "family": model.family,
            "prompt": "the authors'" if model.prompt_source != "own" else "its own chat template",
            "engine": f"vLLM {version}{'' if has_gpu else ' for the CPU'}",
            "memory": memory,
            "reasoning": model.reasoning_parser or "no parser known",
            "tried with": model.tried_with or "nothing yet",
        }
    )
    if model.source_architecture is not None:
        yield from (
            "",
            "Its original weights are converted before the first start: vlsb convert llava SRC DST",
        )
        return
    engine = Engine(Path("vllm"), version, None, is_cpu=not has_gpu, prefix=None)
    trusted = replace(wishes, revision=weights.commit if model.needs_code else None)
    plan = plan_server(model, trusted, engine, environment=os.environ, has_gpu=has_gpu)
    yield from ("", "Started with", f"  {shlex.join(['vllm', *plan.arguments])}")
    yield from _asked(json.loads(b"".join(probe_request(plan.served_name, model))))


def _hosted(name: str) -> Iterator[str]:
    endpoint = resolve_endpoint(name, base_url=None, key_variable=None)
    settings = ModelSettings(endpoint, OFFICIAL_TARGET_SAMPLING)
    dialect = first_guess(endpoint)
    yield from _rows(
        {"name": name, "address": endpoint.base_url, "key": f"in {endpoint.key_variable or 'no variable'}"}
    )
    parts = [
        {"type": "text", "text": _INSTRUCTION},
        {"type": "image_url", "image_url": {"url": _IMAGE}},
    ]
    messages = [
        {"role": "system", "content": settings.system_prompt},
        {"role": "user", "content": parts},
    ]
    body = {
        "model": endpoint.request_model,
        "messages": messages,
        **dialect.sampling_fields(settings.sampling),
    }
    yield from _asked(body)


def _rows(facts: Mapping[str, str]) -> Iterator[str]:
    width = max(map(len, facts))
    yield from (f"{name:<{width}}  {value}" for name, value in facts.items())


def _asked(body: dict[str, Any]) -> Iterator[str]:
    for message in body["messages"]:
        for part in message["content"] if isinstance(message["content"], list) else ():
            if part["type"] == "text":
                part["text"] = _INSTRUCTION
            else:
                part["image_url"]["url"] = _IMAGE
    yield from ("", "Asked with", *(f"  {line}" for line in json.dumps(body, indent=2).splitlines()))
