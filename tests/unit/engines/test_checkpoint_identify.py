"""A checkpoint that is named by its place: which family it is, from config.json alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoints import converted
from vlsb.engines.checkpoint import code_files, identify
from vlsb.errors import ConfigError
from vlsb.models.catalog import find_profile
from vlsb.models.profile import FAMILIES, GENERIC, NEWER, ModelProfile


def identified(folder: Path) -> ModelProfile:
    return identify(find_profile(str(folder), None), weights=None, revision=None, offline=True)


def described(folder: Path, config: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def config_of(family: ModelProfile) -> dict[str, Any]:
    config: dict[str, Any] = {"architectures": [family.source_architecture or family.architecture]}
    return config | ({"vision_config": {"model_type": family.vision_type}} if family.vision_type else {})


@pytest.mark.parametrize("name", [*FAMILIES, *NEWER])
def test_a_folder_is_served_as_the_family_that_it_is_of(name: str, tmp_path: Path) -> None:
    family = {**FAMILIES, **NEWER}[name]

    found = identified(described(tmp_path / "my-tune", config_of(family)))

    assert (found.name, found.family) == ("my-tune", name)
    assert found.weights == str((tmp_path / "my-tune").resolve())
    assert (found.protocol, found.engine) == (family.protocol, family.engine)


def test_what_we_converted_is_of_llava_and_not_of_its_hugging_face_twin(tmp_path: Path) -> None:
    assert identified(converted(tmp_path / "weights")).family == "llava"


def test_any_other_architecture_is_asked_by_its_own_template(tmp_path: Path) -> None:
    found = identified(described(tmp_path / "new", {"architectures": ["NewForConditionalGeneration"]}))

    assert (found.family, found.architecture) == (GENERIC, "NewForConditionalGeneration")
    assert found.protocol.system_prompt == ""
    assert found.protocol.image_first


@pytest.mark.parametrize("config", [{}, {"architectures": []}, {"architectures": "Text"}])
def test_a_config_without_an_architecture_is_refused(config: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names no architecture"):
        identified(described(tmp_path / "weights", config))


def test_a_model_with_a_family_is_what_it_is() -> None:
    model = find_profile("qwen3-vl", None)

    assert identify(model, weights=None, revision=None, offline=True) is model


def test_the_code_that_a_config_wants_to_run_is_named() -> None:
    config = {
        "auto_map": {
            "AutoConfig": "configuration_new.NewConfig",
            "AutoModel": "other/repo--modeling_new.NewModel",
            "AutoTokenizer": ["tokenization_new.A", None],
        }
    }

    assert code_files(config) == ["configuration_new.py", "modeling_new.py", "tokenization_new.py"]
    assert code_files({}) == []
