"""Local models by name: ours, and the files of a user's own folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vlsb.errors import ConfigError
from vlsb.models.catalog import find_profile, load_catalog, read_config
from vlsb.models.profile import FAMILIES, GENERIC, NEWER, OWN_TEMPLATE, ModelProfile
from vlsb.strict_yaml import MAX_BYTES


def own(folder: Path, name: str, text: str = "seed: 0\n") -> Path:
    """A folder with one engine config of a user's own in it."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text, "utf-8")
    return folder


def complaint(folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_catalog(folder)
    assert "\n" not in caught.value.message
    return caught.value.message


def test_our_own_are_the_papers_families_the_two_checkpoints_of_the_authors_and_the_newer_families() -> None:
    catalog = load_catalog(None)

    assert list(catalog) == [*FAMILIES, "qwen2vl_vlguard", "qwen2vl_saferlhf", *NEWER]
    for name, family in {**FAMILIES, **NEWER}.items():
        assert catalog[name] == family


def test_only_the_papers_families_are_asked_as_the_authors_ask() -> None:
    assert all(family.is_of_the_paper and family.prompt_source != "own" for family in FAMILIES.values())
    for family in NEWER.values():
        assert not family.is_of_the_paper
        assert (family.protocol, family.prompt_source) == (OWN_TEMPLATE, "own")


@pytest.mark.parametrize(
    ("typed", "weights"),
    [
        ("qwen3-vl", "Qwen/Qwen3-VL-8B-Instruct"),
        ("Qwen3-VL-4B", "Qwen/Qwen3-VL-4B-Instruct"),
        ("qwen3-vl-4b-thinking", "Qwen/Qwen3-VL-4B-Thinking"),
        ("Qwen2.5-VL-7B", "Qwen/Qwen2.5-VL-7B-Instruct"),
        ("gemma-3-27b-it", "google/gemma-3-27b-it"),
        ("google/gemma-3-12b-it", "google/gemma-3-12b-it"),
        ("InternVL3-8B", "OpenGVLab/InternVL3-8B-hf"),
        ("llava-onevision", "llava-hf/llava-onevision-qwen2-7b-ov-hf"),
        ("Mistral-Small-3.1-24B", "mistralai/Mistral-Small-3.1-24B-Instruct-2503"),
        ("MiniCPM-V-4.6", "openbmb/MiniCPM-V-4.6"),
        ("Llama-4-Scout-17B-16E", "meta-llama/Llama-4-Scout-17B-16E-Instruct"),
        ("kimi-vl", "moonshotai/Kimi-VL-A3B-Instruct"),
        ("pixtral-12b", "mistral-community/pixtral-12b"),
    ],
)
def test_a_newer_model_is_found_by_its_name_as_people_type_it(typed: str, weights: str) -> None:
    found = find_profile(typed, None)

    assert found.weights == weights
    assert found.family in NEWER


def test_any_id_of_the_hub_and_any_folder_is_a_generic_model(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}", "utf-8")

    on_hub = find_profile("hf://someone/new-vlm@abc123", None)
    here = find_profile(str(tmp_path / "mine"), None)

    assert (on_hub.family, on_hub.weights, on_hub.revision) == (GENERIC, "someone/new-vlm", "abc123")
    assert (here.name, here.family, here.weights) == ("mine", GENERIC, str(tmp_path / "mine"))
    assert find_profile("someone/new-vlm", None).protocol == here.protocol == OWN_TEMPLATE


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("qwen2vl_vlguard", "Foreshhh/Qwen2-VL-7B-VLGuard"),
        ("qwen2vl_saferlhf", "Foreshhh/Qwen2-VL-7B-SafeRLHF"),
    ],
)
def test_a_checkpoint_of_the_authors_is_qwen2vl_with_other_weights(name: str, weights: str) -> None:
    found, base = find_profile(name, None), find_profile("qwen2vl", None)

    assert (found.name, found.weights) == (name, weights)
    assert (found.family, found.config) == (base.family, base.config)


def test_a_hosted_models_name_is_no_local_model() -> None:
    found = find_profile("gpt-4o", None)

    assert not found.is_local
    assert found == ModelProfile("gpt-4o")
    assert find_profile("openai/gpt-4o", None, is_served=True) == ModelProfile("openai/gpt-4o")


@pytest.mark.parametrize("name", ["openai/gpt-4o", "google/gemini-2.5-pro", "OpenAI/GPT-4o"])
def test_a_hosted_models_name_with_its_organisation_is_none_on_the_hub(name: str) -> None:
    """In capitals it is a mistake that is said, not a checkpoint that does not exist."""
    assert not find_profile(name, None).is_local


@pytest.mark.parametrize("name", ["openai/gpt-oss-20b", "google/gemma-3-4b-it", "Groq/Llama-3-Groq-8B"])
def test_open_weights_of_a_provider_are_local_models(name: str) -> None:
    found = find_profile(name, None)

    assert (found.is_local, found.weights) == (True, name)


def test_a_users_own_file_is_a_model_of_its_family(tmp_path: Path) -> None:
    folder = own(tmp_path, "my-tune.v2.llava_hf.yaml", "model: me/my-tune\nmax_model_len: 2048\n")

    found = find_profile("my-tune.v2", folder)

    assert (found.name, found.family, found.weights) == ("my-tune.v2", "llava_hf", "me/my-tune")
    assert read_config(found.config) == {"model": "me/my-tune", "max-model-len": 2048}


def test_a_file_that_names_no_weights_has_its_familys(tmp_path: Path) -> None:
    found = find_profile("slow", own(tmp_path, "slow.qwen2vl.yaml"))

    assert found.weights == FAMILIES["qwen2vl"].weights


@pytest.mark.parametrize("named", ["./weights", "../servers/weights"])
def test_a_path_in_a_file_is_seen_from_the_files_folder(
    tmp_path: Path, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own(tmp_path / "servers", "mine.llava_hf.yaml", f"model: {named}\n")
    monkeypatch.chdir(tmp_path)

    found = find_profile("mine", Path("servers"))

    assert found.weights == str(tmp_path / "servers" / "weights")
    assert found.config.is_absolute()


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    own(tmp_path, "notes.txt", "dtype: [")
    own(tmp_path, "template.jinja", "")

    assert load_catalog(tmp_path) == load_catalog(None)


@pytest.mark.parametrize(
    "name",
    ["mine.yaml", "mine.llava_hf.yml", "mine.gpt.yaml", "llava_hf.yaml", ".llava_hf.yaml", "a b.mllama.yaml"],
)
def test_a_file_whose_name_says_no_family_is_named(tmp_path: Path, name: str) -> None:
    """Otherwise a misspelt family would be a model that is silently not there."""
    said = complaint(own(tmp_path, name))

    assert str(tmp_path / name) in said
    assert "NAME.<family>.yaml" in said
    assert all(family in said for family in (*FAMILIES, *NEWER, GENERIC))


def test_a_generic_file_must_name_its_weights(tmp_path: Path) -> None:
    assert "needs a line `model:`" in complaint(own(tmp_path, "mine.generic.yaml"))

    (tmp_path / "mine.generic.yaml").write_text("model: someone/new-vlm\n", "utf-8")
    assert find_profile("mine", tmp_path).weights == "someone/new-vlm"


@pytest.mark.parametrize("name", ["llava_hf", "qwen2vl_vlguard"])
def test_our_names_cannot_be_taken(tmp_path: Path, name: str) -> None:
    assert f"there is a model {name} already" in complaint(own(tmp_path, f"{name}.qwen2vl.yaml"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: 0\ndtype: [float16\n", "line 3: not YAML"),
        ("seed: 0\n\tdtype: half\n", "line 2: not YAML"),
        ("seed: 0\nmax-model-len: 1\nmax_model_len: 2\n", "line 3: max_model_len is set twice"),
        ("seed: 0\nseed: 1\n", "line 2: seed is set twice"),
        ("seed: 0\ndtype:\n", "line 2: dtype has no value"),
        ("seed: .nan\n", "line 1: seed: nan is not a number that can be used"),
        ("seed: 2024-01-01\n", "line 1: seed has no value that can be passed on"),
        ("seed: 2024-13-01\n", "not YAML that can be read"),
        ("seed: !!python/object:os.system x\n", "line 1: not YAML"),
        ("- seed\n", "a list of lines `key: value`"),
        ("", "a list of lines `key: value`"),
        ("seed: 0\n---\nseed: 1\n", "line 2: not YAML"),
        ("1: x\n", "line 1: a key must be a word"),
        ("? [a]\n: x\n", "not YAML"),
        ("model: 7\n", "model must be a Hugging Face id or a path"),
        ("seed: 0\nuds: /tmp/x\n", "line 2: uds cannot be set"),
        ("ssl-keyfile: x\n", "line 1: ssl-keyfile cannot be set"),
    ],
)
def test_what_cannot_be_used_is_named_by_file_and_line(tmp_path: Path, text: str, said: str) -> None:
    found = complaint(own(tmp_path, "mine.llava_hf.yaml", text))

    assert str(tmp_path / "mine.llava_hf.yaml") in found
    assert said in found


@pytest.mark.parametrize("key", ["api-key", "api_key", "hf-token"])
def test_a_key_in_a_file_is_refused_and_not_shown(tmp_path: Path, key: str) -> None:
    found = complaint(own(tmp_path, "mine.llava_hf.yaml", f"{key}: not-for-anyones-eyes\n"))

    assert f"{key} cannot be set" in found
    assert "not-for-anyones-eyes" not in found


@pytest.mark.parametrize("key", ["host", "port", "served-model-name", "revision"])
def test_what_the_command_line_overrules_may_stand_in_a_file(tmp_path: Path, key: str) -> None:
    assert find_profile("mine", own(tmp_path, "mine.llava_hf.yaml", f"{key}: '8000'\n")).is_local


def test_a_large_or_binary_file_is_no_config(tmp_path: Path) -> None:
    path = tmp_path / "mine.llava_hf.yaml"

    path.write_bytes(b"#" * (MAX_BYTES + 1))
    assert "not an engine config" in complaint(tmp_path)
    path.write_bytes(b"seed: \xff\n")
    assert "not UTF-8" in complaint(tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert f"--servers-dir {tmp_path / 'none'}: {os.strerror(2)}" in complaint(tmp_path / "none")
