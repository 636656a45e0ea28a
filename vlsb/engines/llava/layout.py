"""An original LLaVA v1.5 checkpoint and its CLIP tower, checked, and the small files of what they become.

Nothing is guessed: what this conversion does not know how to serve (LLaVA 1.6, another projector, other
image markers) is refused with the reason. Names in these files are a stranger's. What makes `llava` differ
from `llava_hf` is here: images are padded to a square with CLIP's mean colour where the original's config
says so, and the tokenizer splits a prompt as the original loader does.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlsb import strict_json
from vlsb.engines.checkpoint import CONFIG, INDEX, SINGLE, json_object
from vlsb.errors import ConfigError
from vlsb.records import Untrusted

SOURCE_ARCHITECTURE = "LlavaLlamaForCausalLM"
SERVED_ARCHITECTURE = "LlavaForConditionalGeneration"
_WEIGHTS = (
    (INDEX, SINGLE),
    ("pytorch_model.bin.index.json", "pytorch_model.bin"),
)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*")
_LFS_POINTER = b"version https://git-lfs"
_ASPECT_RATIOS = ("pad", "square")
_UNFIT = {
    "mm_use_im_start_end": "images between markers",
    "tie_word_embeddings": "tied embeddings",
}


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
class Checkpoint:
    """A folder with a config and the files that hold its weights, in order."""

    folder: Path
    config: Mapping[str, Any]
    weights: tuple[Path, ...]


def read_config(folder: Path) -> Mapping[str, Any]:
    """Return a folder's config.json; ConfigError where it is missing."""
    return read_object(folder / CONFIG)


def read_object(path: Path) -> Mapping[str, Any]:
    """A file that holds one JSON object; ConfigError for anything else."""
    if not path.is_file():
        raise ConfigError(f"{path.parent} has no {path.name}.")
    return json_object(path)


def architecture(config: Mapping[str, Any]) -> str:
    """Return what a config names as its architecture, "" if it does not say."""
    named = config.get("architectures")
    return named[0] if isinstance(named, list) and named and isinstance(named[0], str) else ""


def read_source(folder: Path) -> Checkpoint:
    """Return the original checkpoint in a folder, checked; ConfigError says what is wrong with it."""
    config = read_config(folder)
    if architecture(config) != SOURCE_ARCHITECTURE:
        raise ConfigError(
            f"{folder}: not an original LLaVA v1.5 checkpoint. Its config.json should name "
            f"{SOURCE_ARCHITECTURE}; it names",
            detail=Untrusted(architecture(config) or "no architecture"),
        )
    if str(config.get("image_aspect_ratio") or "square") not in _ASPECT_RATIOS:
        raise ConfigError(
            f"{folder}: images are cut into tiles (image_aspect_ratio), as in LLaVA 1.6. Serve its Hugging "
            "Face version as llava_next."
        )
    if config.get("mm_projector_type", "linear") != "mlp2x_gelu":
        raise ConfigError(f"{folder}: only LLaVA v1.5's projector (mlp2x_gelu) can be converted.")
    for setting, words in _UNFIT.items():
        if config.get(setting):
            raise ConfigError(f"{folder}: {words} ({setting}) cannot be converted.")
    if not any((folder / name).is_file() for name in ("tokenizer.model", "tokenizer.json")):
        raise ConfigError(f"{folder} has no tokenizer: neither tokenizer.model nor tokenizer.json.")
    return Checkpoint(folder, config, weight_files(folder))


def tower_of(source: Checkpoint, override: str | None) -> str:
    """Return the tower to use: an existing folder as an absolute path, or a hub id."""
    named = override or source.config.get("mm_vision_tower") or ""
    folder = source.folder / str(named) if override is None else Path(named)
    if isinstance(named, str) and named and folder.is_dir():
        return str(folder.resolve())
    if isinstance(named, str) and _HUB_ID.fullmatch(named):
        return named
    raise ConfigError(
        f"{source.folder}: its CLIP tower is not there. Pass --vision-tower with a folder or a Hugging Face "
        "id; the tower is named as",
        detail=Untrusted(str(named) or "nothing"),
    )


def read_tower(folder: Path, source: Checkpoint) -> Checkpoint:
    """Return the CLIP checkpoint in a folder, its config reduced to that of the vision tower."""
    config = read_config(folder)
    # The published CLIP describes both its halves; a tower alone is described at the top.
    nested = config.get("vision_config")
    vision = nested if isinstance(nested, dict) else config
    if "clip" not in str(config.get("model_type", "")):
        raise ConfigError(f"{folder}: not a CLIP checkpoint (model_type in its config.json).")
    if vision.get("hidden_size") != source.config.get("mm_hidden_size"):
        raise ConfigError(
            f"{folder}: not the tower of {source.folder}: its width (hidden_size) is not the mm_hidden_size "
            "there. Pass the right --vision-tower."
        )
    return Checkpoint(folder, vision, weight_files(folder))


def count(checkpoint: Checkpoint, key: str) -> int:
    """A positive whole number of a config; ConfigError if it is missing."""
    value = checkpoint.config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{checkpoint.folder / 'config.json'}: {key} must be a positive whole number.")
    return value


def weight_files(folder: Path) -> tuple[Path, ...]:
    """Return the files that hold a folder's weights, safetensors before .bin.

    ConfigError names what is missing.
    """
    for index, single in _WEIGHTS:
        if (folder / index).is_file():
            return _listed(folder, index)
        if (folder / single).is_file():
            return _checked((folder / single,))
    raise ConfigError(f"{folder} has no weights: no pytorch_model.bin, model.safetensors or index of parts.")


def _listed(folder: Path, index: str) -> tuple[Path, ...]:
    parts = read_object(folder / index).get("weight_map")
    listed = list(parts.values()) if isinstance(parts, dict) else []
    if not listed or any(
        not isinstance(name, str) or Path(name).name != name or name.startswith(".") for name in listed
    ):
        raise ConfigError(f"{folder / index} does not list the parts of the weights.")
    names = sorted(set(listed))
    lacking = [name for name in names if not (folder / name).is_file()]
    if lacking:
        raise ConfigError(
            f"{folder}: {len(lacking)} of {len(names)} parts of the weights are missing, the first is",
            detail=Untrusted(lacking[0]),
        )
    return _checked(tuple(folder / name for name in names))


def _checked(files: tuple[Path, ...]) -> tuple[Path, ...]:
    for path in files:
        with path.open("rb") as file:
            if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
                raise ConfigError(f"{path} is a pointer of Git LFS, not the file. Run `git lfs pull` there.")
    return files


def fingerprint(checkpoint: Checkpoint) -> list[Any]:
    """Describe a checkpoint's identity as JSON: place, size and time of its weights, small files."""
    states = [(path.name, path.stat()) for path in checkpoint.weights]
    weights = [[name, state.st_size, state.st_mtime_ns] for name, state in states]
    small = [path for path in sorted(checkpoint.folder.iterdir()) if path.suffix in (".json", ".model")]
    digests = [[path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path in small]
    return [str(checkpoint.folder.resolve()), weights, digests]


# What they become.


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
    selected = source.config.get("mm_vision_select_feature", "patch")
    if selected not in ("patch", "cls_patch"):
        raise ConfigError(f"{source.folder / 'config.json'}: mm_vision_select_feature is not known.")
    # What of the tower's output is used: the patches, or the class token as well.
    strategy = "default" if selected == "patch" else "full"
    # What `generate` took from the original's own, the engine takes.
    generation: Mapping[str, Any] = json_object(source.folder / "generation_config.json")
    if not (source.folder / "generation_config.json").is_file():
        ids = ("bos_token_id", "eos_token_id", "pad_token_id")
        generation = {key: source.config[key] for key in ids if source.config.get(key) is not None}
    files = {
        "config.json": _config(source, tower, vocabulary, strategy),
        "generation_config.json": generation,
        _PREPROCESSOR: _preprocessor(source, tower),
        "processor_config.json": {
            "processor_class": "LlavaProcessor",
            "image_token": IMAGE,
            "num_additional_image_tokens": 1,
            "patch_size": count(tower, "patch_size"),
            "vision_feature_select_strategy": strategy,
        },
    }
    contents = {name: json_bytes(fields) for name, fields in files.items()}
    return Layout(vocabulary, {**contents, **vocabulary.files}, dtype)


def json_bytes(fields: Mapping[str, Any]) -> bytes:
    """A JSON file as it is written."""
    return (strict_json.dumps(fields, indent=2) + "\n").encode("ascii")


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
    tokens = json_object(path)
    if not all(isinstance(number, int) for number in tokens.values()):
        raise ConfigError(f"{path} does not list tokens with their ids.")
    return tokens


def _tokenizer_config(source: Checkpoint, special: Mapping[str, int]) -> Mapping[str, Any]:
    own = json_object(source.folder / "tokenizer_config.json")
    return {
        **_named_tokens(source),
        "add_bos_token": own.get("add_bos_token", True),
        "add_eos_token": own.get("add_eos_token", False),
        "added_tokens_decoder": {
            str(number): {"content": text, **_PLAIN_TOKEN, "special": True}
            for text, number in sorted(special.items(), key=lambda each: each[1])
        },
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": own.get("model_max_length", source.config.get("max_position_embeddings")),
        "padding_side": "left",
        "processor_class": "LlavaProcessor",
        # Of no family: the engine takes tokenizer.json as it is.
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def _named_tokens(source: Checkpoint) -> dict[str, str]:
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": PAD}
    for name, described in json_object(source.folder / "special_tokens_map.json").items():
        # Older files wrap a token's text in an object.
        text = described.get("content") if isinstance(described, dict) else described
        if name in tokens and name != "pad_token" and isinstance(text, str) and text:
            tokens[name] = text
    return tokens
