"""What kind of checkpoint a name or folder is, and whether an engine serves that kind.

A checkpoint is known by its config.json alone: nothing else is downloaded. What an engine serves is read from
its own registry as text, or from the table of the pinned version: importing it takes seconds, and it may not
be installed yet. A model that is in no table can still be served by the engine's general implementation:
`-- --model-impl transformers`.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from vlsb import strict_json
from vlsb.engines.checkpoint import MANIFEST, read_config_json
from vlsb.engines.install import Engine
from vlsb.errors import ConfigError
from vlsb.models.profile import FAMILIES, GENERIC, NEWER, ModelProfile


def identify(
    model: ModelProfile, *, weights: str | None, revision: str | None, offline: bool
) -> ModelProfile:
    """Find the profile of a model that is named by its checkpoint: its family's or the generic one. Blocking.

    A model with a family is what it is. `weights` and `revision` replace the model's own. Raises ConfigError
    for what is no checkpoint, AuthenticationError where the Hub wants a token.
    """
    if model.family != GENERIC or not model.is_local:
        return model
    config, folder = read_config_json(
        weights or model.weights, revision=revision or model.revision, offline=offline
    )
    architectures = architectures_of(config)
    if not architectures:
        raise ConfigError(f"{model.name}: its config.json names no architecture, so no engine can serve it.")
    family = family_of(config, is_converted=(folder / MANIFEST).is_file())
    if family is None:
        return replace(model, architecture=architectures[0])
    return replace(
        family,
        name=model.name,
        weights=model.weights,
        revision=model.revision,
        own_config=model.own_config,
    )


def family_of(config: Mapping[str, Any], *, is_converted: bool) -> ModelProfile | None:
    """Return the family that serves what a config.json describes; what we converted is told apart."""
    architectures, vision_type = architectures_of(config), _vision_type(config)
    for family in (*FAMILIES.values(), *NEWER.values()):
        if family.source_architecture is not None:
            if family.source_architecture in architectures:
                return family
            if is_converted and family.architecture in architectures:
                return family
        elif not is_converted and family.serves(architectures, vision_type):
            return family
    return None


def architectures_of(config: Mapping[str, Any]) -> list[str]:
    """Return the architectures that a config.json names."""
    found = config.get("architectures")
    return [str(each) for each in found] if isinstance(found, list) else []


def _vision_type(config: Mapping[str, Any]) -> str | None:
    vision = config.get("vision_config")
    found = vision.get("model_type") if isinstance(vision, Mapping) else None
    return found if isinstance(found, str) else None


def code_files(config: Mapping[str, Any]) -> list[str]:
    """Return the Python files of its own repository that a config file wants to be run."""
    named = config.get("auto_map")
    if not isinstance(named, Mapping):
        return []
    places = [each for value in named.values() for each in (value if isinstance(value, list) else [value])]
    modules = {str(each).rpartition("--")[2].partition(".")[0] for each in places if each}
    return sorted(f"{module}.py" for module in modules)


# What an engine serves.

SHIPPED = Path(__file__).parents[1] / "models" / "architectures.json"
_REGISTRY = "vllm/model_executor/models/registry.py"
_SITE_PACKAGES = ("lib/python3.*/site-packages", "lib64/python3.*/site-packages")


@dataclass(frozen=True, slots=True)
class Architectures:
    """What an engine serves: architectures by what they read, and the last version of those it dropped."""

    version: str
    multimodal: frozenset[str]
    text: frozenset[str]
    until: Mapping[str, str]


@cache
def shipped_architectures() -> Architectures:
    """Return the table of the pinned engine, known before it is installed."""
    found = strict_json.loads(SHIPPED.read_bytes())
    version = found["engine"].removeprefix("vllm ")
    return Architectures(version, frozenset(found["multimodal"]), frozenset(found["text"]), found["until"])


def engine_architectures(engine: Engine) -> Architectures | None:
    """Return what an installed engine serves, from its source.

    None where that is not found or written otherwise.
    """
    environment = engine.executable.parent.parent
    for pattern in _SITE_PACKAGES:
        for packages in sorted(environment.glob(pattern)):
            try:
                tables = _tables(ast.parse((packages / _REGISTRY).read_text("utf-8")))
            except (OSError, ValueError, SyntaxError):
                continue
            if multimodal := frozenset(tables.get("_MULTIMODAL_MODELS", {})):
                text = frozenset(tables.get("_TEXT_GENERATION_MODELS", {})) - multimodal
                return Architectures(
                    engine.version, multimodal, text, tables.get("_PREVIOUSLY_SUPPORTED_MODELS", {})
                )
    return None


def require_served(name: str, architecture: str, engine: Architectures) -> None:
    """ConfigError in plain words where an engine does not serve a model's architecture."""
    if architecture in engine.multimodal:
        return
    if architecture in engine.text:
        raise ConfigError(f"{name} is {architecture}, a model for text: it reads no images.")
    said = f"{name}: vLLM {engine.version} does not know {architecture}"
    pinned = shipped_architectures()
    if architecture in pinned.multimodal:
        raise ConfigError(f"{said}; {pinned.version} does. Leave --engine out to use that.")
    if (last := engine.until.get(architecture) or pinned.until.get(architecture)) is not None:
        raise ConfigError(
            f"{said}; {last} was the last that did. Bring an environment with that one: --engine DIR."
        )
    raise ConfigError(
        f"{said}. A later release may: bring an environment with it (--engine DIR), serve the model yourself "
        "and pass --base-url, or try the engine's general implementation: -- --model-impl transformers"
    )


def _tables(tree: ast.Module) -> dict[str, dict[str, Any]]:
    """Return the registry's dictionaries by name: each value is a literal, or None for what is none."""
    tables: dict[str, dict[str, Any]] = {}
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and isinstance(value, ast.Dict):
            tables[target.id] = _entries(value, tables)
    return tables


def _entries(table: ast.Dict, known: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in zip(table.keys, table.values, strict=True):
        if key is None:
            # `**_OTHERS` takes in a table that was written above.
            found |= known.get(getattr(value, "id", ""), {})
        elif isinstance(key, ast.Constant) and isinstance(key.value, str):
            found[key.value] = value.value if isinstance(value, ast.Constant) else None
    return found
