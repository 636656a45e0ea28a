"""Made-up checkpoints: the files that tell families apart, and weights that hold nothing."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from vlsb.engines.checkpoint import MANIFEST
from vlsb.models.profile import FAMILIES


def checkpoint(folder: Path, family: str = "llava_hf", **files: Any) -> Path:
    """A made-up checkpoint of a family; `files` are JSON files by their stem, None leaves one out."""
    folder.mkdir(parents=True)
    usual = {
        "config": {
            "architectures": [FAMILIES[family].architecture],
            "text_config": {"max_position_embeddings": 131072},
        },
        "generation_config": {"eos_token_id": 2, "repetition_penalty": 1.05, "transformers_version": "4"},
        "preprocessor_config": {"max_pixels": 50176, "image_mean": [0.5]},
        "chat_template": {"chat_template": "{{ messages }}"},
        "tokenizer_config": {},
    }
    for name, content in (usual | files).items():
        if content is not None:
            (folder / f"{name}.json").write_text(json.dumps(content), "utf-8")
    write_tensors(folder / "model.safetensors")
    return folder


def write_tensors(path: Path, *, seed: int = 0, size: int = 100_000) -> None:
    """A safetensors file with two tensors, the first of which `seed` fills."""
    spans = {"a": [0, size], "b": [size, size + 4]}
    header = {
        name: {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}
        for name, (begin, end) in spans.items()
    }
    head = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + bytes([seed]) * size + b"last")


def converted(folder: Path) -> Path:
    """A made-up checkpoint as `vlsb convert llava` leaves one."""
    checkpoint(folder, "llava")
    (folder / MANIFEST).write_text("{}", "utf-8")
    return folder
