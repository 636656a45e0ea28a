"""Which architectures an engine serves: read from its source, else from the table of the pinned version."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlsb.engines.checks import (
    Architectures,
    engine_architectures,
    require_served,
    shipped_architectures,
)
from vlsb.engines.install import Engine
from vlsb.errors import ConfigError
from vlsb.models.profile import CURRENT, FAMILIES, NEWER

SOURCE = """
import anything_that_is_not_here
_TEXT_GENERATION_MODELS = {"TextOnly": ("text", "TextOnly")}
_MULTIMODAL_MODELS: dict = {"SeesImages": ("sees", "SeesImages"), "TextOnly2": ("a", "b")}
_PREVIOUSLY_SUPPORTED_MODELS = {"Gone": "0.9.2"}
_VLLM_MODELS = {**_TEXT_GENERATION_MODELS, **_MULTIMODAL_MODELS, **_SOMETHING_ELSE}
"""


def engine(folder: Path, source: str | None = SOURCE) -> Engine:
    packages = folder / "lib" / "python3.11" / "site-packages"
    registry = packages / "vllm" / "model_executor" / "models" / "registry.py"
    registry.parent.mkdir(parents=True)
    if source is not None:
        registry.write_text(source)
    return Engine(folder / "bin" / "vllm", "0.18.0", folder / "bin" / "python", is_cpu=True, prefix=folder)


def test_an_engines_own_registry_is_read_without_running_it(tmp_path: Path) -> None:
    found = engine_architectures(engine(tmp_path))

    assert found == Architectures(
        "0.18.0", frozenset({"SeesImages", "TextOnly2"}), frozenset({"TextOnly"}), {"Gone": "0.9.2"}
    )


@pytest.mark.parametrize("source", [None, "not python (", "_MULTIMODAL_MODELS = build()"])
def test_a_registry_that_cannot_be_read_says_nothing(source: str | None, tmp_path: Path) -> None:
    assert engine_architectures(engine(tmp_path, source)) is None


def test_the_shipped_table_is_of_the_pinned_engine_and_has_every_family_that_it_serves() -> None:
    table = shipped_architectures()

    assert table.version == CURRENT.gpu_version
    for family in (*FAMILIES.values(), *NEWER.values()):
        assert (family.architecture in table.multimodal) == (family.engine == CURRENT)
    assert table.until["MllamaForConditionalGeneration"] == "0.10.2"


@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        ("LlamaForCausalLM", "a model for text: it reads no images"),
        ("FooForConditionalGeneration", "does not know FooForConditionalGeneration. A later release may"),
        ("AyaVisionForConditionalGeneration", "; 0.24.0 was the last that did"),
    ],
)
def test_what_the_pinned_engine_does_not_serve_is_said_in_words(architecture: str, said: str) -> None:
    with pytest.raises(ConfigError) as stopped:
        require_served("org/name", architecture, shipped_architectures())

    assert stopped.value.exit_code == 2
    assert stopped.value.message.startswith("org/name")
    assert said in stopped.value.message


def test_an_older_engine_of_the_users_is_told_from_the_pinned_one(tmp_path: Path) -> None:
    old = engine_architectures(engine(tmp_path))
    assert old is not None

    require_served("org/name", "SeesImages", old)
    with pytest.raises(ConfigError, match=r"vLLM 0\.18\.0 does not know Qwen3VLFor\w+; 0\.32\.0 does"):
        require_served("org/name", "Qwen3VLForConditionalGeneration", old)
