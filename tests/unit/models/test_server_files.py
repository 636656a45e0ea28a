"""The engine configs in `servers`: every key is an option of its engine, every value one of the profile."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import msgspec
import pytest
import yaml

import vlsb
from tests.support import GOLDEN
from vlsb.engines.checks import shipped_architectures
from vlsb.engines.facts import CANNOT_CHANGE_AN_ANSWER, RESERVED, option_words
from vlsb.models.catalog import read_config
from vlsb.models.profile import (
    CURRENT,
    FAMILIES,
    GENERIC,
    MLLAMA,
    NEWER,
    PROFILES,
    ModelProfile,
    shipped_config,
)

SERVERS = Path(vlsb.__file__).parents[1] / "servers"
VERSIONS = {
    CURRENT.name: sorted({CURRENT.gpu_version, CURRENT.cpu_version}),
    MLLAMA.name: sorted({MLLAMA.gpu_version, MLLAMA.cpu_version}),
}
ENGINES = {
    **{name: family.engine for name, family in {**FAMILIES, **NEWER}.items()},
    GENERIC: CURRENT,
}
"""The engine of each file, by the file's name."""
SENTENCE = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the human's questions."
)


class Option(NamedTuple):
    """An option of the engine: its other spellings, and whether it takes no value."""

    others: frozenset[str]
    is_flag: bool


def engine_options(version: str) -> dict[str, Option]:
    """Every option of `vllm serve` at a version, from the list that its own parser gave."""
    text = (GOLDEN / "engine_options" / f"vllm-{version}.txt").read_text("utf-8")
    lines = [line.split() for line in text.splitlines() if not line.startswith("#")]
    return {name: Option(frozenset(rest) - {"flag"}, "flag" in rest) for name, *rest in lines}


def all_options() -> dict[str, list[Option]]:
    """The options of all versions together."""
    found: dict[str, list[Option]] = {}
    for version in sorted({each for versions in VERSIONS.values() for each in versions}):
        for name, option in engine_options(version).items():
            found.setdefault(name, []).append(option)
    return found


def settings(family: str) -> dict[str, Any]:
    return read_config(SERVERS / f"{family}.yaml")


@pytest.mark.parametrize("family", ENGINES)
def test_every_key_is_an_option_of_every_version_that_serves_the_family(family: str) -> None:
    for version in VERSIONS[ENGINES[family].name]:
        options = engine_options(version)

        assert set(settings(family)) <= set(options)
        for name, value in settings(family).items():
            assert isinstance(value, bool) == options[name].is_flag


@pytest.mark.parametrize("family", ENGINES)
def test_a_file_leaves_answers_to_the_checkpoint_and_runs_nobodys_code(family: str) -> None:
    found = settings(family)
    images = found["limit-mm-per-prompt"]

    assert (yaml.safe_load(images) if isinstance(images, str) else images)["image"] == 1
    assert (found["seed"], found["generation-config"], found["load-format"]) == (0, "auto", "safetensors")
    assert not {"trust-remote-code", "quantization"} & set(found)
    # What InternVL's processor does anyway: without it the engine counts one tile.
    expected = {"crop_to_patches": True} if family == "internvl3" else None
    assert found.get("mm-processor-kwargs") == expected


@pytest.mark.parametrize("family", NEWER)
def test_a_newer_familys_largest_image_fits_with_question_and_answer(family: str) -> None:
    assert settings(family)["max-model-len"] >= NEWER[family].image_tokens + 512 + 128


@pytest.mark.parametrize("family", NEWER)
def test_the_pinned_engine_serves_the_architecture_of_a_newer_family(family: str) -> None:
    assert NEWER[family].architecture in shipped_architectures().multimodal


@pytest.mark.parametrize("family", [*NEWER, GENERIC])
def test_a_judge_of_a_newer_family_spends_no_tokens_on_blanks(family: str) -> None:
    assert settings(family)["structured-outputs-config"] == {
        "backend": "xgrammar",
        "disable_any_whitespace": True,
    }


@pytest.mark.parametrize(
    "family", ["qwen2vl", "qwen2_5_vl", "qwen3_vl", "internvl3", "llava_onevision", "minicpm_v"]
)
def test_no_video_is_planned_for_where_the_engine_would(family: str) -> None:
    assert settings(family)["limit-mm-per-prompt"] == {"image": 1, "video": 0}


def test_the_old_engines_file_has_nothing_nested() -> None:
    """Versions before 0.11 write a mapping into their command line as Python would, and not as JSON."""
    assert all(isinstance(value, str | int | bool) for value in settings("mllama").values())


def test_the_old_engine_writes_no_prompt_into_its_log() -> None:
    assert settings("mllama")["disable-log-requests"] is True


@pytest.mark.parametrize("family", ENGINES)
def test_every_line_says_where_its_value_comes_from(family: str) -> None:
    lines = (SERVERS / f"{family}.yaml").read_text("utf-8").splitlines()
    first = next(number for number, line in enumerate(lines) if re.match(r"[a-z]", line))

    uncommented = [
        line
        for before, line in zip(lines[first - 1 :], lines[first:], strict=False)
        if re.match(r"[a-z]", line) and not before.startswith("#")
    ]
    assert uncommented == []


def test_there_is_a_file_for_each_family_and_one_for_any_other_checkpoint() -> None:
    assert {path.stem for path in SERVERS.glob("*.yaml")} == set(ENGINES)


def table_row(name: str) -> str:
    """A model's line of the table in the folder's README."""
    model = PROFILES[name]
    whose = f"the authors' `{model.family}`" if model.is_of_the_paper else "own chat template"
    gpu, cpu = model.engine.gpu_version, model.engine.cpu_version
    engine = f"vLLM {gpu}" if cpu == gpu else f"vLLM {gpu}, on a CPU {cpu}"
    memory = f"{model.gpu_memory_gib} GiB"
    cells = (f"`{name}`", f"`{model.weights}`", f"{whose}, {model.dtype}", engine, memory, model.tried_with)
    return f"| {' | '.join(cells)} |"


def test_the_table_is_what_the_files_say() -> None:
    """With VLSB_WRITE_DOCS=1 it is written again."""
    page = SERVERS / "README.md"
    text = page.read_text("utf-8")
    table = re.search(r"(?<=\| --- \|\n)(?:\| `.*\n)+", text)
    assert table
    generated = "".join(f"{table_row(name)}\n" for name in PROFILES)
    if "VLSB_WRITE_DOCS" in os.environ:
        page.write_text(text.replace(table[0], generated), "utf-8")
        return

    assert table[0] == generated


@pytest.mark.parametrize("family", [*FAMILIES, *NEWER])
def test_every_fact_of_a_file_has_the_type_that_its_profile_says(family: str) -> None:
    profile = PROFILES[family]
    for name, kind in get_type_hints(ModelProfile).items():
        if name not in ("protocol", "engine", "own_config"):
            assert msgspec.convert(getattr(profile, name), kind) == getattr(profile, name)

    assert type(profile.protocol.image_first) is bool
    assert set(profile.protocol.fields) <= {"add_special_tokens"}


def test_the_original_llava_template_has_its_sentence_and_no_bos() -> None:
    """The BOS comes with `add_special_tokens`; a second one would be another prompt."""
    template = shipped_config("llava_v1.jinja").read_text("utf-8")

    assert template.count(SENTENCE) == 1
    assert not {"<s>", "bos_token"} & set(re.findall(r"<s>|bos_token", template))
    assert FAMILIES["llava"].protocol.fields == {"add_special_tokens": True}


def test_what_cannot_change_an_answer_and_what_is_reserved_are_options_of_an_engine() -> None:
    """A name that no engine has would say nothing, or hide a misspelt one."""
    known = set(all_options())

    assert known >= CANNOT_CHANGE_AN_ANSWER
    assert known >= set(RESERVED)
    assert set(RESERVED) >= {"grpc", "headless", "help"}


@pytest.mark.parametrize("family", ENGINES)
def test_a_file_is_written_as_words_that_its_engine_knows(family: str) -> None:
    words = option_words(settings(family))
    options = {word.removeprefix("--") for word in words if word.startswith("--")}

    for version in VERSIONS[ENGINES[family].name]:
        assert options <= set(engine_options(version))
