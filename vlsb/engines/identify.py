"""What kind of checkpoint a name or folder is, from its config.json alone: nothing else is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vlsb.engines.checkpoint import read_config_json
from vlsb.engines.llava.build import MANIFEST
from vlsb.errors import ConfigError
from vlsb.models.profile import FAMILIES, GENERIC, NEWER, ModelProfile


def identify(
    model: ModelProfile, *, weights: str | None, revision: str | None, offline: bool
) -> ModelProfile:
    """The profile of a model named by where its checkpoint lies: its family's, or the generic one. Blocking.

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
    """The family that serves what a config.json describes; what we converted is told apart."""
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
    """The architectures that a config.json names."""
    found = config.get("architectures")
    return [str(each) for each in found] if isinstance(found, list) else []


def _vision_type(config: Mapping[str, Any]) -> str | None:
    vision = config.get("vision_config")
    found = vision.get("model_type") if isinstance(vision, Mapping) else None
    return found if isinstance(found, str) else None


def code_files(config: Mapping[str, Any]) -> list[str]:
    """The Python files of its own repository that a config file wants to be run."""
    named = config.get("auto_map")
    if not isinstance(named, Mapping):
        return []
    places = [each for value in named.values() for each in (value if isinstance(value, list) else [value])]
    modules = {str(each).rpartition("--")[2].partition(".")[0] for each in places if each}
    return sorted(f"{module}.py" for module in modules)
