"""An original LLaVA v1.5 checkpoint and its CLIP tower, as folders: found, read and checked before any work.

Nothing is guessed: what this conversion does not know how to serve (LLaVA 1.6, another projector, other
image markers) is refused with the reason. Names in these files are a stranger's.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlsb import strict_json
from vlsb.errors import ConfigError
from vlsb.records import Untrusted

SOURCE_ARCHITECTURE = "LlavaLlamaForCausalLM"
SERVED_ARCHITECTURE = "LlavaForConditionalGeneration"
_WEIGHTS = (
    ("model.safetensors.index.json", "model.safetensors"),
    ("pytorch_model.bin.index.json", "pytorch_model.bin"),
)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*")
_LFS_POINTER = b"version https://git-lfs"
_ASPECT_RATIOS = ("pad", "square")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder with a config and the files that hold its weights, in order."""

    folder: Path
    config: Mapping[str, Any]
    weights: tuple[Path, ...]


def read_config(folder: Path) -> Mapping[str, Any]:
    """A folder's config.json; ConfigError if there is none."""
    return read_object(folder / "config.json")


def read_object(path: Path) -> Mapping[str, Any]:
    """A file that holds one JSON object; ConfigError for anything else."""
    try:
        found = strict_json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"{path.parent} has no {path.name}.") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON.") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is not a JSON object.")
    return found


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
    _refuse_other_llava(folder, config)
    if not any((folder / name).is_file() for name in ("tokenizer.model", "tokenizer.json")):
        raise ConfigError(f"{folder} has no tokenizer: neither tokenizer.model nor tokenizer.json.")
    return Checkpoint(folder, config, weight_files(folder))


def _refuse_other_llava(folder: Path, config: Mapping[str, Any]) -> None:
    if str(config.get("image_aspect_ratio") or "square") not in _ASPECT_RATIOS:
        raise ConfigError(
            f"{folder}: images are cut into tiles (image_aspect_ratio), as in LLaVA 1.6. Serve its Hugging "
            "Face version as llava_next."
        )
    if config.get("mm_projector_type", "linear") != "mlp2x_gelu":
        raise ConfigError(f"{folder}: only LLaVA v1.5's projector (mlp2x_gelu) can be converted.")
    if config.get("mm_use_im_start_end"):
        raise ConfigError(f"{folder}: images between markers (mm_use_im_start_end) cannot be converted.")
    if config.get("tie_word_embeddings"):
        raise ConfigError(f"{folder}: tied embeddings (tie_word_embeddings) cannot be converted.")


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
    names = sorted(set(parts.values())) if isinstance(parts, dict) and _all_text(list(parts.values())) else []
    if not names or any(Path(name).name != name or name.startswith(".") for name in names):
        raise ConfigError(f"{folder / index} does not list the parts of the weights.")
    lacking = [name for name in names if not (folder / name).is_file()]
    if lacking:
        raise ConfigError(
            f"{folder}: {len(lacking)} of {len(names)} parts of the weights are missing, the first is",
            detail=Untrusted(lacking[0]),
        )
    return _checked(tuple(folder / name for name in names))


def _all_text(values: Sequence[object]) -> bool:
    return all(isinstance(value, str) for value in values)


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
