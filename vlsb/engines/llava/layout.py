"""The small files of a converted LLaVA: config, tokenizer, processor, as the published HF version has them.

What makes `llava` differ from `llava_hf` is here: images are padded to a square with CLIP's mean colour
where the original's config says so, and the tokenizer splits a prompt as the original loader does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlsb import strict_json
from vlsb.engines.llava.source import SERVED_ARCHITECTURE, Checkpoint, count, read_object
from vlsb.errors import ConfigError

IMAGE, PAD = "<image>", "<pad>"
# The published version rounds its vocabulary up to this.
ROWS_MULTIPLE = 64
_TEXT_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "hidden_act",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "bos_token_id",
    "eos_token_id",
    "torch_dtype",
)
_VISION_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "image_size",
    "patch_size",
    "projection_dim",
    "num_channels",
    "hidden_act",
    "layer_norm_eps",
    "attention_dropout",
)
_DTYPES = ("float16", "bfloat16", "float32")
_PREPROCESSOR = "preprocessor_config.json"
_PLAIN_TOKEN = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokenizer's files and what they need of the weights: rows there are, rows there must be."""

    files: Mapping[str, bytes]
    image_id: int
    pad_id: int
    rows: int
    grown_rows: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything of a converted checkpoint but its tensors."""

    vocabulary: Vocabulary
    files: Mapping[str, bytes]
    dtype: str


def plan_layout(source: Checkpoint, tower: Checkpoint, tokenizer: Mapping[str, Any]) -> Layout:
    """Return the served files of an original checkpoint; ConfigError says what it lacks.

    `tokenizer` is what its tokenizer.json will hold, with IMAGE and PAD among the added tokens.
    """
    dtype = source.config.get("torch_dtype")
    if dtype not in _DTYPES:
        raise ConfigError(
            f"{source.folder / 'config.json'}: torch_dtype must be one of {', '.join(_DTYPES)}."
        )
    vocabulary = plan_vocabulary(source, tokenizer)
    strategy = _feature_strategy(source)
    files = {
        "config.json": _config(source, tower, vocabulary, strategy),
        "generation_config.json": _generation_config(source),
        _PREPROCESSOR: _preprocessor(source, tower),
        "processor_config.json": {
            "processor_class": "LlavaProcessor",
            "image_token": IMAGE,
            "num_additional_image_tokens": 1,
            "patch_size": count(tower, "patch_size"),
            "vision_feature_select_strategy": strategy,
        },
    }
    written = {name: json_bytes(fields) for name, fields in files.items()}
    return Layout(vocabulary, {**written, **vocabulary.files}, dtype)


def json_bytes(fields: Mapping[str, Any]) -> bytes:
    """A JSON file as it is written."""
    return (strict_json.dumps(fields, indent=2) + "\n").encode("ascii")


def _feature_strategy(source: Checkpoint) -> str:
    """Return what of the tower's output is used: the patches, or the class token as well."""
    selected = source.config.get("mm_vision_select_feature", "patch")
    if selected not in ("patch", "cls_patch"):
        raise ConfigError(f"{source.folder / 'config.json'}: mm_vision_select_feature is not known.")
    return "default" if selected == "patch" else "full"


def _config(
    source: Checkpoint, tower: Checkpoint, vocabulary: Vocabulary, strategy: str
) -> Mapping[str, Any]:
    layer = source.config.get("mm_vision_select_layer")
    if not isinstance(layer, int):
        raise ConfigError(f"{source.folder / 'config.json'}: mm_vision_select_layer must be a whole number.")
    patches = (count(tower, "image_size") // count(tower, "patch_size")) ** 2
    text = {key: source.config[key] for key in _TEXT_KEYS if source.config.get(key) is not None}
    vision = {key: tower.config[key] for key in _VISION_KEYS if tower.config.get(key) is not None}
    return {
        "architectures": [SERVED_ARCHITECTURE],
        "model_type": "llava",
        "ignore_index": -100,
        "image_seq_length": patches + (strategy == "full"),
        "image_token_index": vocabulary.image_id,
        "pad_token_id": vocabulary.pad_id,
        "projector_hidden_act": "gelu",
        "text_config": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            **text,
            "pad_token_id": vocabulary.pad_id,
            "tie_word_embeddings": False,
            "vocab_size": vocabulary.grown_rows,
        },
        "tie_word_embeddings": False,
        "torch_dtype": source.config["torch_dtype"],
        "vision_config": {"model_type": "clip_vision_model", **vision},
        "vision_feature_layer": layer,
        "vision_feature_select_strategy": strategy,
    }


def _generation_config(source: Checkpoint) -> Mapping[str, Any]:
    """Return the original's own: what `generate` took from it, the engine takes."""
    path = source.folder / "generation_config.json"
    if path.is_file():
        return read_object(path)
    ids = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {key: source.config[key] for key in ids if source.config.get(key) is not None}


def _preprocessor(source: Checkpoint, tower: Checkpoint) -> Mapping[str, Any]:
    named = read_object(tower.folder / _PREPROCESSOR)
    lacking = [key for key in ("image_mean", "image_std", "size", "crop_size") if key not in named]
    if lacking:
        raise ConfigError(f"{tower.folder / _PREPROCESSOR} has no {lacking[0]}.")
    size, crop = named["size"], named["crop_size"]
    return {
        "image_processor_type": "LlavaImageProcessor",
        "processor_class": "LlavaProcessor",
        # The original fills with `int(255 * mean)`, as this processor does.
        "do_pad": source.config.get("image_aspect_ratio") == "pad",
        "do_resize": named.get("do_resize", True),
        # The published CLIP writes its sizes as bare numbers.
        "size": {"shortest_edge": size} if isinstance(size, int) else size,
        "resample": named.get("resample", 3),
        "do_center_crop": named.get("do_center_crop", True),
        "crop_size": {"height": crop, "width": crop} if isinstance(crop, int) else crop,
        "do_rescale": True,
        "rescale_factor": named.get("rescale_factor", 1 / 255),
        "do_normalize": named.get("do_normalize", True),
        "do_convert_rgb": True,
        "image_mean": named["image_mean"],
        "image_std": named["image_std"],
    }


# The tokenizer.


def plan_vocabulary(source: Checkpoint, tokenizer: Mapping[str, Any]) -> Vocabulary:
    """Return the files of a tokenizer, and the rows that the weights need for its last token."""
    rows = count(source, "vocab_size")
    special = {each["content"]: each["id"] for each in tokenizer["added_tokens"]}
    needed = max(special[IMAGE], special[PAD]) + 1
    grown = rows if needed <= rows else -(-needed // ROWS_MULTIPLE) * ROWS_MULTIPLE
    files = {
        "tokenizer.json": strict_json.dumps(tokenizer).encode("ascii"),
        "tokenizer_config.json": json_bytes(_tokenizer_config(source, special)),
        "special_tokens_map.json": json_bytes(_named_tokens(source)),
        "added_tokens.json": json_bytes({text: special[text] for text in (IMAGE, PAD)}),
    }
    model = source.folder / "tokenizer.model"
    if model.is_file():
        files["tokenizer.model"] = model.read_bytes()
    return Vocabulary(files, special[IMAGE], special[PAD], rows, grown)


def added_tokens(source: Checkpoint) -> dict[str, int]:
    """Read the tokens that an original checkpoint adds to its `tokenizer.model`, with their ids."""
    path = source.folder / "added_tokens.json"
    found = read_object(path) if path.is_file() else {}
    if not all(isinstance(number, int) for number in found.values()):
        raise ConfigError(f"{path} does not list tokens with their ids.")
    return dict(found)


def _tokenizer_config(source: Checkpoint, special: Mapping[str, int]) -> Mapping[str, Any]:
    path = source.folder / "tokenizer_config.json"
    found = read_object(path) if path.is_file() else {}
    return {
        **_named_tokens(source),
        "add_bos_token": found.get("add_bos_token", True),
        "add_eos_token": found.get("add_eos_token", False),
        "added_tokens_decoder": {
            str(number): {"content": text, **_PLAIN_TOKEN, "special": True}
            for text, number in sorted(special.items(), key=lambda each: each[1])
        },
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": found.get("model_max_length", source.config.get("max_position_embeddings")),
        "padding_side": "left",
        "processor_class": "LlavaProcessor",
        # Of no family: the engine takes tokenizer.json as it is.
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def _named_tokens(source: Checkpoint) -> dict[str, str]:
    path = source.folder / "special_tokens_map.json"
    found = read_object(path) if path.is_file() else {}
    usual = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    named = {name: _token_text(found.get(name)) or text for name, text in usual.items()}
    return named | {"pad_token": PAD}


def _token_text(described: object) -> str | None:
    """A token's text, which older files wrap in an object."""
    inner = described.get("content") if isinstance(described, dict) else described
    return inner if isinstance(inner, str) else None
