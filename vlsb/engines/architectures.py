"""Which architectures an engine serves: its own registry, read as text, or the table of the pinned version.

Importing the engine takes seconds and it may not be installed yet. A model that is in no table can still be
served by the engine's general implementation: `-- --model-impl transformers`.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vlsb import strict_json
from vlsb.engines.install import Engine
from vlsb.errors import ConfigError

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
    """The table of the pinned engine, known before it is installed."""
    found = strict_json.loads(SHIPPED.read_bytes())
    version = found["engine"].removeprefix("vllm ")
    return Architectures(version, frozenset(found["multimodal"]), frozenset(found["text"]), found["until"])


def engine_architectures(engine: Engine) -> Architectures | None:
    """What an installed engine serves, from its source; None where that is not found or written otherwise."""
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
    """The registry's dictionaries by name: each value is a literal, or None for what is none."""
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
