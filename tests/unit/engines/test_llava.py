"""Converting LLaVA as far as it needs no torch: what is planned, what is refused, how the folder appears.

The program that moves the tensors runs in an engine's Python; here a stand-in does its part of the
conversation. `tests/proofs/engines` has the real one.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import stat
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

from tests.support import canary
from tests.support.command import Vlsb
from tests.support.waiting import wait_until
from vlsb.engines.checkpoint import wanted_files
from vlsb.engines.install import Engine
from vlsb.engines.llava import convert as llava_convert
from vlsb.engines.llava.convert import convert_llava, read_manifest, servable_folder
from vlsb.engines.llava.layout import (
    added_tokens,
    plan_layout,
    plan_vocabulary,
    read_source,
    read_tower,
    tower_of,
    weight_files,
)
from vlsb.engines.llava.weights import (
    RefusedWeights,
    WeightsJob,
    expected_names,
    opened,
    plan_parts,
    served_form,
    served_name,
    tower_name,
)
from vlsb.engines.registry import Places
from vlsb.errors import ConfigError, ServerError, StoreError, VlsbError
from vlsb.steps import Step

# An original checkpoint, as files.

SPECIAL = ("<unk>", "<s>", "</s>")


def tokenizer(count: int = 300, added: Sequence[str] = ("<image>", "<pad>")) -> dict[str, Any]:
    """What the engine's Python makes of a tokenizer with so many pieces, as far as it is looked at."""
    tokens = [*enumerate(SPECIAL), *enumerate(added, start=count)]
    return {"added_tokens": [{"id": number, "content": text} for number, text in tokens]}


CONFIG: Mapping[str, Any] = {
    "architectures": ["LlavaLlamaForCausalLM"],
    "model_type": "llava",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-05,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "image_aspect_ratio": "pad",
    "mm_hidden_size": 1024,
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "mm_vision_tower": "clip",
    "torch_dtype": "float16",
    "vocab_size": 300,
}
TOWER: Mapping[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "image_size": 336,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "patch_size": 14,
    "projection_dim": 768,
}
# As published: sizes are bare numbers, and the processor has its older name.
IMAGES: Mapping[str, Any] = {
    "crop_size": 336,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": 336,
}


def write_source(folder: Path, *, pieces: int = 300, **changes: Any) -> Path:
    """An original checkpoint as published, but for weights of a few bytes; its tower lies in `clip`."""
    tower = folder / "clip"
    tower.mkdir(parents=True)
    write(folder / "config.json", {**CONFIG, "vocab_size": pieces, **changes})
    generation = {"bos_token_id": 1, "eos_token_id": 2, "temperature": 0.9, "top_p": 0.6}
    write(folder / "generation_config.json", generation)
    bos = {"__type": "AddedToken", "content": "<s>", "lstrip": False}
    write(folder / "special_tokens_map.json", {"bos_token": bos, "pad_token": "<unk>"})
    write(folder / "tokenizer_config.json", {"model_max_length": 2048, "tokenizer_class": "LlamaTokenizer"})
    (folder / "tokenizer.model").write_bytes(b"pieces")
    parts = {"lm_head.weight": "pytorch_model-00002-of-00002.bin", "model.norm.weight": PART}
    write(folder / "pytorch_model.bin.index.json", {"weight_map": parts})
    for name in {*parts.values(), "mm_projector.bin"}:
        (folder / name).write_bytes(b"weights")
    write(tower / "config.json", {"model_type": "clip", "vision_config": TOWER})
    write(tower / "preprocessor_config.json", IMAGES)
    (tower / "pytorch_model.bin").write_bytes(b"tower")
    return folder


PART = "pytorch_model-00001-of-00002.bin"


def write(path: Path, fields: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(fields))


# Names.


@pytest.mark.parametrize(
    ("original", "served"),
    [
        ("lm_head.weight", "language_model.lm_head.weight"),
        ("model.embed_tokens.weight", "language_model.model.embed_tokens.weight"),
        ("model.norm.weight", "language_model.model.norm.weight"),
        (
            "model.layers.31.self_attn.q_proj.weight",
            "language_model.model.layers.31.self_attn.q_proj.weight",
        ),
        ("model.mm_projector.0.weight", "multi_modal_projector.linear_1.weight"),
        ("model.mm_projector.2.bias", "multi_modal_projector.linear_2.bias"),
        (
            "model.vision_tower.vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias",
            "vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias",
        ),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", None),
        ("model.vision_tower.vision_tower.vision_model.embeddings.position_ids", None),
    ],
)
def test_an_original_name_has_one_served_name(original: str, served: str | None) -> None:
    assert served_name(original) == served


@pytest.mark.parametrize("name", ["model.image_newline", "model.mm_projector.1.weight", "extra", "model.x"])
def test_a_name_that_llava_v15_does_not_have_is_refused(name: str) -> None:
    with pytest.raises(RefusedWeights) as refused:
        served_name(name)

    assert (refused.value.code, refused.value.subject) == ("unexpected_key", name)


@pytest.mark.parametrize(
    "name",
    ["text_model.final_layer_norm.bias", "logit_scale", "visual_projection.weight", "text_projection.weight"],
)
def test_the_text_side_of_clip_is_left_out(name: str) -> None:
    assert tower_name(name) is None


def original_names() -> list[str]:
    """Every tensor of a checkpoint with one layer, by its original name."""
    served = [name for name in sorted(expected_names(1, 1)) if not name.startswith("vision_tower.")]
    renamed = [name.removeprefix("language_model.") for name in served]
    return [
        name.replace("multi_modal_projector.linear_1", "model.mm_projector.0").replace(
            "multi_modal_projector.linear_2", "model.mm_projector.2"
        )
        for name in renamed
    ]


def tower_names() -> list[str]:
    return [
        name.removeprefix("vision_tower.") for name in sorted(expected_names(1, 1)) if "vision_tower" in name
    ]


def make_job(**changes: Any) -> WeightsJob:
    fields = {
        "out": "/out",
        "language": ["a.bin", "b.bin"],
        "tower": ["clip.bin"],
        "layers": 1,
        "tower_layers": 1,
        "rows": 300,
        "grown_rows": 320,
        "dtype": "float16",
    }
    return WeightsJob.parse(fields | changes)


def plan(**files: Sequence[str]) -> list[tuple[str, int]]:
    """The parts of a job over these files: where each comes from, and how many tensors it has."""
    named = {name.replace("_", "."): names for name, names in files.items()}
    return [(part.source, len(part.names)) for part in plan_parts(make_job(), named.__getitem__)]


def test_pickled_parts_are_read_as_tensors_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else a pickle holds is refused by its loader, and the part by its name."""
    asked = []

    def load(path: str, **options: Any) -> object:
        asked.append(options["weights_only"])
        raise pickle.UnpicklingError("Unsupported global: os.system")

    monkeypatch.setitem(sys.modules, "torch", cast(ModuleType, SimpleNamespace(load=load)))

    with pytest.raises(RefusedWeights) as refused, opened("/source/pytorch_model.bin"):
        pass

    assert (refused.value.code, refused.value.subject) == ("unsafe_file", "pytorch_model.bin")
    assert asked == [True]


def test_each_file_of_weights_becomes_one() -> None:
    names = original_names()

    parts = plan(a_bin=names[:3], b_bin=[*names[3:], "model.layers.0.self_attn.rotary_emb.inv_freq"],
                 clip_bin=[*tower_names(), "logit_scale"])  # fmt: skip

    assert parts == [("a.bin", 3), ("b.bin", len(names) - 3), ("clip.bin", len(tower_names()))]


@pytest.mark.parametrize("lost", [*original_names(), *tower_names()])
def test_every_tensor_is_missed(lost: str) -> None:
    names, tower = original_names(), tower_names()

    with pytest.raises(RefusedWeights, match="missing_key"):
        plan(
            a_bin=[name for name in names if name != lost],
            b_bin=[],
            clip_bin=[name for name in tower if name != lost],
        )


def test_a_tensor_that_occurs_twice_is_refused() -> None:
    with pytest.raises(RefusedWeights) as refused:
        plan(a_bin=original_names(), b_bin=["lm_head.weight"], clip_bin=tower_names())

    assert (refused.value.code, refused.value.subject) == ("duplicate_key", "language_model.lm_head.weight")


def test_a_layer_too_many_is_refused() -> None:
    with pytest.raises(RefusedWeights, match="unexpected_key"):
        plan(
            a_bin=original_names(),
            b_bin=["model.layers.1.mlp.up_proj.weight"],
            clip_bin=tower_names(),
        )


class Shaped:
    """What is asked of a tensor before it is moved."""

    def __init__(self, dtype: str, *shape: int) -> None:
        self.dtype = f"torch.{dtype}"
        self.shape = shape


def test_only_vocabulary_rows_are_added_and_only_the_tower_changes_type() -> None:
    job = make_job(dtype="bfloat16")
    language, tower = plan_parts(
        job, {"a.bin": original_names(), "b.bin": [], "clip.bin": tower_names()}.__getitem__
    )
    head, norm = "language_model.lm_head.weight", "language_model.model.norm.weight"
    embedding = "vision_tower.vision_model.embeddings.class_embedding"

    assert served_form(job, language, head, Shaped("float16", 300, 8)) == ("float16", [320, 8])
    assert served_form(job, language, norm, Shaped("float16", 8)) == ("float16", [8])
    assert served_form(job, tower, embedding, Shaped("float32", 8)) == ("bfloat16", [8])
    with pytest.raises(RefusedWeights, match="wrong_rows"):
        served_form(job, language, head, Shaped("float16", 299, 8))


# The small files.


def layout_of(source: Path) -> dict[str, Any]:
    """Every JSON file of a converted checkpoint."""
    checkpoint = read_source(source)
    layout = plan_layout(checkpoint, read_tower(source / "clip", checkpoint), tokenizer())
    return {name: json.loads(raw) for name, raw in layout.files.items() if name.endswith(".json")}


def test_the_vocabulary_of_the_published_version_comes_out(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", pieces=32000)

    vocabulary = plan_vocabulary(read_source(source), tokenizer(32000))

    assert (vocabulary.image_id, vocabulary.pad_id) == (32000, 32001)
    assert (vocabulary.rows, vocabulary.grown_rows) == (32000, 32064)


def test_tokens_that_are_there_already_add_no_rows(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", vocab_size=302)

    vocabulary = plan_vocabulary(read_source(source), tokenizer(300))

    assert (vocabulary.image_id, vocabulary.grown_rows) == (300, 302)


def test_tokens_without_ids_are_refused(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    write(source / "added_tokens.json", {"<image>": "behind"})

    with pytest.raises(ConfigError, match="does not list tokens with their ids"):
        added_tokens(read_source(source))


def test_a_source_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    (source / "tokenizer.model").unlink()

    with pytest.raises(ConfigError, match=r"neither tokenizer\.model nor tokenizer\.json"):
        read_source(source)


def test_the_served_config_has_both_models_and_the_image_token(tmp_path: Path) -> None:
    files = layout_of(write_source(tmp_path / "source"))

    config = files["config.json"]
    assert config["architectures"] == ["LlavaForConditionalGeneration"]
    assert config["text_config"]["vocab_size"] == 320
    assert config["text_config"]["intermediate_size"] == 11008
    assert config["vision_config"]["image_size"] == 336
    assert (config["image_token_index"], config["image_seq_length"]) == (300, 576)
    assert (config["vision_feature_layer"], config["vision_feature_select_strategy"]) == (-2, "default")


def test_the_generation_config_is_the_originals(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")

    assert layout_of(source)["generation_config.json"] == json.loads(
        (source / "generation_config.json").read_text()
    )


@pytest.mark.parametrize(("ratio", "is_padded"), [("pad", True), (None, False), ("square", False)])
def test_images_are_padded_where_the_original_pads(
    ratio: str | None, is_padded: bool, tmp_path: Path
) -> None:
    images = layout_of(write_source(tmp_path / "source", image_aspect_ratio=ratio))[
        "preprocessor_config.json"
    ]

    assert images["do_pad"] is is_padded
    assert images["image_processor_type"] == "LlavaImageProcessor"
    assert images["size"] == {"shortest_edge": 336}
    assert images["crop_size"] == {"height": 336, "width": 336}
    assert images["image_mean"] == IMAGES["image_mean"]


def test_the_tokenizer_is_told_to_be_taken_as_it_is(tmp_path: Path) -> None:
    files = layout_of(write_source(tmp_path / "source"))

    settings = files["tokenizer_config.json"]
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert (settings["bos_token"], settings["eos_token"], settings["pad_token"]) == ("<s>", "</s>", "<pad>")
    assert {each["content"] for each in settings["added_tokens_decoder"].values()} == {
        "<unk>", "<s>", "</s>", "<image>", "<pad>"
    }  # fmt: skip
    assert settings["model_max_length"] == 2048


# Sources that cannot be converted.


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architectures": ["LlavaForConditionalGeneration"]}, "not an original"),
        ({"architectures": []}, "not an original"),
        ({"architectures": "LlavaLlamaForCausalLM"}, "not an original"),
        ({"image_aspect_ratio": "anyres"}, "LLaVA 1.6"),
        ({"mm_projector_type": "linear"}, "projector"),
        ({"mm_use_im_start_end": True}, "markers"),
        ({"tie_word_embeddings": True}, "tied"),
        ({"torch_dtype": "int8"}, "torch_dtype"),
        ({"vocab_size": None}, "vocab_size"),
        ({"mm_vision_select_layer": None}, "mm_vision_select_layer"),
        ({"mm_vision_select_feature": "all"}, "mm_vision_select_feature"),
        ({"mm_hidden_size": 768}, "not the tower"),
    ],
)
def test_a_config_that_this_does_not_know_how_to_serve_is_refused(
    changes: Mapping[str, Any], said: str, tmp_path: Path
) -> None:
    source = write_source(tmp_path / "source", **changes)

    with pytest.raises(ConfigError, match=said):
        layout_of(source)


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    (source / PART).unlink()

    with pytest.raises(ConfigError, match="1 of 2 parts") as refused:
        weight_files(source)

    assert refused.value.detail is not None
    assert refused.value.detail.expose() == PART


@pytest.mark.parametrize(
    "index",
    [
        {},
        {"weight_map": {}},
        {"weight_map": {"a": "../b.bin"}},
        {"weight_map": {"a": 1}},
        {"weight_map": {"a": ["b.bin"]}},
    ],
)
def test_an_index_that_lists_no_parts_of_this_folder_is_refused(
    index: Mapping[str, Any], tmp_path: Path
) -> None:
    source = write_source(tmp_path / "source")
    write(source / "pytorch_model.bin.index.json", index)

    with pytest.raises(ConfigError, match="does not list the parts"):
        weight_files(source)


def test_a_pointer_of_git_lfs_is_no_file_of_weights(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    (source / PART).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")

    with pytest.raises(ConfigError, match="git lfs pull"):
        weight_files(source)


def test_the_tower_is_a_folder_of_the_source_a_hub_id_or_what_the_user_says(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    published = write_source(tmp_path / "published", mm_vision_tower="openai/clip-vit-large-patch14-336")
    lost = read_source(write_source(tmp_path / "lost", mm_vision_tower="/nowhere/clip"))

    assert tower_of(read_source(source), None) == str((source / "clip").resolve())
    assert tower_of(read_source(published), None) == "openai/clip-vit-large-patch14-336"
    assert tower_of(lost, str(source / "clip")) == str((source / "clip").resolve())
    assert tower_of(lost, "someone/clip") == "someone/clip"
    with pytest.raises(ConfigError, match="--vision-tower"):
        tower_of(lost, None)


def test_of_a_hub_repository_only_the_checkpoint_is_fetched() -> None:
    published = [
        ".gitattributes",
        "README.md",
        "config.json",
        "mm_projector.bin",
        PART,
        "pytorch_model.bin.index.json",
        "tf_model.h5",
        "tokenizer.model",
        "onnx/model.onnx",
    ]

    assert wanted_files(published) == ["config.json", "pytorch_model.bin.index.json", "tokenizer.model", PART]
    assert wanted_files(["model.safetensors", "pytorch_model.bin"]) == ["model.safetensors"]


# The folder that appears.

STAND_IN = """#!{python}
import json, os, sys, time
from pathlib import Path

job = json.loads(sys.stdin.read())
if sys.argv[-1].endswith("tokenizer.py"):
    {tokenizer}
    sys.exit()
out = Path(job["out"])
(out.parent / "seen environment").write_text(json.dumps(dict(os.environ)))
(out.parent / "seen arguments").write_text(json.dumps(sys.argv[1:]))

def say(**fields):
    print(json.dumps(fields), flush=True)

def finish(name, tensor):
    (out / name).write_bytes(b"tensors of " + name.encode())
    return {{tensor: {{"dtype": "float16", "shape": [1], "sha256": "00"}}}}

print("a library's own line")
say(stage="converting", file="model-00001-of-00002.safetensors")
done = {{"model-00001-of-00002.safetensors": finish("model-00001-of-00002.safetensors", "a")}}
{then}
"""
WHOLE = """
done["model-00002-of-00002.safetensors"] = finish("model-00002-of-00002.safetensors", "b")
say(done=done)
"""


def stand_in(folder: Path, then: str = WHOLE, *, answer: Mapping[str, Any] | None = None) -> Engine:
    """An engine whose Python is a program that does as `then` says after its first file.

    `answer` is what it says when it is asked for the tokenizer; anything but a tokenizer with exit code 0.
    """
    path = folder / "python"
    said = json.dumps({"tokenizer": tokenizer()} if answer is None else answer)
    path.write_text(STAND_IN.format(python=sys.executable, then=then, tokenizer=f"print({said!r})"))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return Engine(folder / "vllm", "0.32.0", path, is_cpu=True, prefix=folder)


def convert(source: Path, destination: Path, engine: Engine, **options: Any) -> int:
    given = {"environment": os.environ, "on_progress": lambda _: None} | options
    return asyncio.run(convert_llava(str(source), destination, engine, **given))


def test_the_folder_appears_whole_with_an_index_and_a_manifest(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    heard: list[Step] = []

    count = convert(source, tmp_path / "new" / "out", stand_in(tmp_path), on_progress=heard.append)

    out = tmp_path / "new" / "out"
    assert count == 2
    assert heard == [
        Step("inspecting", "tokenizer"),
        Step("converting", "model-00001-of-00002.safetensors"),
    ]
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {
        "a": "model-00001-of-00002.safetensors",
        "b": "model-00002-of-00002.safetensors",
    }
    manifest = json.loads((out / "conversion.json").read_text())
    assert manifest["tensors"]["b"] == {
        "file": "model-00002-of-00002.safetensors", "dtype": "float16", "shape": [1], "sha256": "00"
    }  # fmt: skip
    assert manifest["rows"] == {"original": 300, "served": 320}
    assert (out / "chat_template.jinja").is_file()
    assert [path.name for path in out.parent.iterdir() if path.is_dir()] == ["out"]


def test_no_key_reaches_the_program(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    environment = {**os.environ, **canary.ENVIRONMENT, "HF_TOKEN": canary.CANARY}

    convert(source, tmp_path / "out", stand_in(tmp_path), environment=environment)

    assert canary.CANARY not in (tmp_path / "seen environment").read_text()
    assert "PATH" in json.loads((tmp_path / "seen environment").read_text())
    # Isolated: what lies beside the program is not imported by name.
    assert json.loads((tmp_path / "seen arguments").read_text())[0] == "-I"


@pytest.mark.parametrize(
    ("then", "error", "said"),
    [
        ("say(error='missing_key', subject='x.weight'); sys.exit(1)", ConfigError, "a tensor is missing"),
        ("say(error='unsafe_file', subject='x.bin'); sys.exit(1)", ConfigError, "more than tensors"),
        ("say(error='disk_full', subject=''); sys.exit(1)", StoreError, "no room"),
        ("say(error='damaged_on_disk', subject='x'); sys.exit(1)", StoreError, "reads back differently"),
        ("say(error='system', subject='Input/output error'); sys.exit(1)", StoreError, "cannot be read"),
        ("os.kill(os.getpid(), 9)", ServerError, "killed by signal 9"),
        ("raise ModuleNotFoundError('no torch')", ServerError, "the engine's Python"),
        ("sys.exit(0)", ServerError, "the engine's Python"),
    ],
)
def test_a_conversion_that_fails_leaves_nothing_and_can_be_started_again(
    then: str, error: type[VlsbError], said: str, tmp_path: Path
) -> None:
    source = write_source(tmp_path / "source")

    with pytest.raises(error, match=said):
        convert(source, tmp_path / "out", stand_in(tmp_path, then))

    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["source"]
    assert convert(source, tmp_path / "out", stand_in(tmp_path)) == 2


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        ({"error": "unknown_tokenizer"}, ConfigError, "not one of LLaVA v1.5"),
        ({"error": "added_tokens"}, ConfigError, "with ids behind"),
        ({"error": "split_otherwise"}, ConfigError, "split texts differently"),
        ({}, ServerError, "the engine's Python"),
    ],
)
def test_a_tokenizer_that_cannot_be_made_ends_it_before_any_work(
    answer: Mapping[str, Any], error: type[VlsbError], said: str, tmp_path: Path
) -> None:
    source = write_source(tmp_path / "source")

    with pytest.raises(error, match=said):
        convert(source, tmp_path / "out", stand_in(tmp_path, answer=answer))

    assert not building_of(tmp_path / "out").exists()


def test_another_tokenizer_is_another_conversion(tmp_path: Path) -> None:
    """The weights alone do not say what comes out."""
    source = write_source(tmp_path / "source")
    convert(source, tmp_path / "out", stand_in(tmp_path))
    (source / "tokenizer.model").write_bytes(b"other pieces")

    with pytest.raises(ConfigError, match="is not this conversion"):
        convert(source, tmp_path / "out", stand_in(tmp_path))


def test_the_end_of_the_programs_stderr_is_told(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")

    with pytest.raises(ServerError) as failed:
        convert(source, tmp_path / "out", stand_in(tmp_path, "raise ModuleNotFoundError('no torch')"))

    assert failed.value.detail is not None
    assert failed.value.detail.expose().endswith("ModuleNotFoundError: no torch\n")


def building_of(destination: Path) -> Path:
    """Where a conversion is built before it appears."""
    return destination.with_name(f".{destination.name}.vlsb-conversion")


def test_what_a_killed_conversion_left_is_removed(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    building = building_of(tmp_path / "out")
    building.mkdir()
    for half in ("model-00001-of-00003.safetensors", ".tmpab12", "config.json"):
        (building / half).write_bytes(b"half")

    assert convert(source, tmp_path / "out", stand_in(tmp_path)) == 2

    assert not building.exists()
    assert "model-00001-of-00003.safetensors" not in tree(tmp_path / "out")
    assert ".tmpab12" not in tree(tmp_path / "out")


def test_the_same_conversion_is_not_done_twice_and_another_is_refused(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    convert(source, tmp_path / "out", stand_in(tmp_path))

    assert convert(source, tmp_path / "out", stand_in(tmp_path, "sys.exit(1)")) == 2
    (source / PART).write_bytes(b"other weights")
    with pytest.raises(ConfigError, match="is not this conversion"):
        convert(source, tmp_path / "out", stand_in(tmp_path))


def test_cancelling_kills_the_program(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    engine = stand_in(tmp_path, "say(stage='converting', file=str(os.getpid())); time.sleep(600)")
    pids: list[int] = []

    async def begin() -> None:
        def hear(progress: Step) -> None:
            if progress.detail.isdecimal():
                pids.append(int(progress.detail))
                task.cancel()

        task = asyncio.create_task(
            convert_llava(str(source), tmp_path / "out", engine, environment=os.environ, on_progress=hear)
        )
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(begin())

    wait_until(lambda: not Path(f"/proc/{pids[0]}").exists(), what="the program to be gone")


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder; None for what is no file."""
    paths = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


def test_a_link_in_the_place_to_build_in_is_not_followed(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "thesis.tex").write_text("years of work")
    building_of(tmp_path / "out").symlink_to(theirs)

    with pytest.raises(StoreError, match="cannot be written"):
        convert(source, tmp_path / "out", stand_in(source))

    assert tree(theirs) == {"thesis.tex": b"years of work"}


@pytest.mark.parametrize("kind", ["a folder", "a file", "a link to nothing", "a link"])
def test_a_destination_that_exists_is_refused_and_left_as_it_is(kind: str, tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    destination = tmp_path / "out"
    if kind == "a folder":
        destination.mkdir()
    elif kind == "a file":
        destination.write_text("words")
    else:
        destination.symlink_to(source if kind == "a link" else tmp_path / "nowhere")
    engine = stand_in(source)
    before = tree(tmp_path)

    with pytest.raises(ConfigError, match="exists and is not this conversion"):
        convert(source, destination, engine)

    assert tree(tmp_path) == before


def test_a_destination_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    engine = stand_in(tmp_path, f"Path({str(tmp_path / 'out')!r}).mkdir()\n{WHOLE}")

    with pytest.raises(ConfigError, match="has appeared in the meantime"):
        convert(source, tmp_path / "out", engine)

    assert list((tmp_path / "out").iterdir()) == []


def test_of_two_conversions_at_once_one_builds_and_the_other_is_told(tmp_path: Path) -> None:
    source, go = write_source(tmp_path / "source"), tmp_path / "go"
    held = f"while not os.path.exists({str(go)!r}): time.sleep(0.005)\n"
    engine = stand_in(tmp_path, held + WHOLE)

    async def both() -> int:
        is_building, loop = asyncio.Event(), asyncio.get_running_loop()

        def hear(step: Step) -> None:
            if step.stage == "converting":
                loop.call_soon_threadsafe(is_building.set)

        given: dict[str, Any] = {"environment": os.environ, "on_progress": hear}
        first = asyncio.ensure_future(convert_llava(str(source), tmp_path / "out", engine, **given))
        await is_building.wait()
        with pytest.raises(ServerError):
            await convert_llava(str(source), tmp_path / "out", engine, **given)
        go.touch()
        return await first

    assert asyncio.run(both()) == 2
    assert read_manifest(tmp_path / "out")["tensors"].keys() == {"a", "b"}


def test_a_disk_without_room_is_noticed_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_source(tmp_path / "source")
    monkeypatch.setattr(llava_convert, "free_disk_bytes", lambda _: 1000)

    with pytest.raises(StoreError, match="no room"):
        convert(source, tmp_path / "out", stand_in(tmp_path))

    assert not (tmp_path / "seen arguments").exists()


def test_a_python_that_cannot_be_started_or_is_not_known_is_said(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    gone = Engine(tmp_path / "vllm", "0.32.0", tmp_path / "gone", is_cpu=True, prefix=None)
    unknown = Engine(tmp_path / "vllm", "0.32.0", None, is_cpu=True, prefix=None)

    with pytest.raises(ServerError, match="cannot be started"):
        convert(source, tmp_path / "out", gone)
    with pytest.raises(ServerError, match="is not known"):
        convert(source, tmp_path / "out", unknown)


def test_the_cache_folder_has_the_name_of_the_weights(tmp_path: Path) -> None:
    source = write_source(tmp_path / "llava-v1.5-7b")
    places = Places(tmp_path, tmp_path, tmp_path / "cache")

    def folder(engine: Engine) -> Path:
        given: dict[str, Any] = {"environment": os.environ, "on_progress": lambda _: None}
        return asyncio.run(servable_folder(str(source), None, places, engine, **given))

    first = folder(stand_in(tmp_path))

    assert first.name == "llava-v1.5-7b"
    assert first.parent.parent == tmp_path / "cache"
    assert folder(stand_in(tmp_path, "sys.exit(1)")) == first


@pytest.mark.parametrize("weights", ["/nowhere", "./nowhere", "nowhere", "a/b/c"])
def test_a_folder_that_is_not_there_is_no_hub_id(weights: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        convert(Path(weights) if weights != "./nowhere" else weights, tmp_path / "out", stand_in(tmp_path))  # type: ignore[arg-type]


# The command.


def test_the_command_names_the_engine_to_install(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    home = {"HOME": str(tmp_path), "PATH": "", "XDG_DATA_HOME": str(tmp_path)}

    done = Vlsb(tmp_path, home)("convert", "llava", source, tmp_path / "out")

    assert done.code == 7
    assert "vlsb engine install llava" in done.error
