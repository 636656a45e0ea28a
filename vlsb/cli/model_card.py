"""What `vlsb models show NAME` prints: a model as it would be started and asked. Starts and sends nothing."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from vlsb.config import Endpoint, ModelSettings
from vlsb.dialect import Dialect
from vlsb.endpoints.request import example, first_guess
from vlsb.engines.preview import Preview, preview
from vlsb.evaluation.named_models import NamedTarget
from vlsb.evaluation.options import RunOptions
from vlsb.records import Untrusted
from vlsb.reports.encode import for_terminal


def model_card(name: str, servers_dir: Path | None, *, is_offline: bool) -> str:
    """A model in full. Blocking; asks the Hub for the small files of a checkpoint that lies there.

    Raises UnknownModelError, ConfigError or AuthenticationError.
    """
    options = RunOptions(model=name, servers_dir=servers_dir)
    target = NamedTarget.of(options)
    if target.is_local:
        started = preview(target.profile, environment=os.environ, is_offline=is_offline)
        lines = _local(started, replace(target, profile=started.model).settings(options))
    else:
        lines = _hosted(name, target.settings(options))
    return for_terminal(Untrusted("\n".join(lines)), lines=True)


def _local(started: Preview, settings: ModelSettings) -> Iterator[str]:
    model, weights, engine, memory, plan = started
    needs = "unknown, as is the size of its weights"
    if memory.weights:
        needs = (
            f"about {memory.total / 1e9:.0f} GB ({memory.weights / 1e9:.1f} of weights, "
            f"{memory.cache / 1e9:.1f} for one prompt of full length)"
        )
    yield from _rows(
        {
            "name": model.name,
            "weights": f"{weights.argument}{f' at {weights.commit}' if weights.commit else ''}",
            "family": model.family,
            "prompt": "the authors'" if model.prompt_source != "own" else "its own chat template",
            "engine": f"vLLM {engine.version}{' for the CPU' if engine.is_cpu else ''}",
            "memory": needs,
            "reasoning": model.reasoning_parser or "no parser known",
            "tried with": model.tried_with or "nothing yet",
        }
    )
    if plan is None:
        yield from (
            "",
            "Its original weights are converted before the first start: vlsb convert llava SRC DST",
        )
        return
    yield from ("", "Started with", f"  {shlex.join(['vllm', *plan.arguments])}")
    yield from _asked(replace(settings, endpoint=Endpoint(plan.served_name, "")), Dialect())


def _hosted(name: str, settings: ModelSettings) -> Iterator[str]:
    endpoint = settings.endpoint
    yield from _rows(
        {"name": name, "address": endpoint.base_url, "key": f"in {endpoint.key_variable or 'no variable'}"}
    )
    yield from _asked(settings, first_guess(endpoint))


def _rows(facts: Mapping[str, str]) -> Iterator[str]:
    width = max(map(len, facts))
    yield from (f"{name:<{width}}  {value}" for name, value in facts.items())


def _asked(settings: ModelSettings, dialect: Dialect) -> Iterator[str]:
    body = json.dumps(example(settings, dialect), indent=2)
    yield from ("", "Asked with", *(f"  {line}" for line in body.splitlines()))
