"""The tensors of an original LLaVA v1.5 checkpoint under their Hugging Face names, file by file.

A program of its own, run by the Python of an engine environment (standard library, torch and safetensors):
it imports nothing of ours and reads its job as JSON from stdin. What it says on stdout is one JSON object
a line: the file that it is at, then `done` with the checksum of each tensor by file, or `error`. Every file
is read back and compared before the next one is begun.
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

EMBEDDING = "language_model.model.embed_tokens.weight"
HEAD = "language_model.lm_head.weight"
TOWER = "vision_tower.vision_model."
# Position and rotary buffers, which every implementation computes itself.
_COMPUTED = re.compile(r"\.(?:rotary_emb\.inv_freq|embeddings\.position_ids)$")
# What a whole CLIP has beside its vision tower.
_TEXT_SIDE = re.compile(r"(?:text_model\.|text_projection|visual_projection|logit_scale)")
_PROJECTOR = {"0": "linear_1", "2": "linear_2"}
_DTYPES = ("float16", "bfloat16", "float32")


class RefusedWeights(Exception):
    """A checkpoint that cannot be converted. `code` is ours; `subject` is a name out of the checkpoint."""

    def __init__(self, code: str, subject: str) -> None:
        super().__init__(code)
        self.code = code
        self.subject = subject


@dataclass(frozen=True)
class WeightsJob:
    """What to convert, and into what: absolute paths, counts of layers and of vocabulary rows.

    `dtype` is what the tower is cast to, as the original loader does; the language model's is kept.
    """

    out: str
    language: tuple[str, ...]
    tower: tuple[str, ...]
    layers: int
    tower_layers: int
    rows: int
    grown_rows: int
    dtype: str

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> WeightsJob:
        """Return the job that the caller wrote."""
        return cls(**{**fields, "language": tuple(fields["language"]), "tower": tuple(fields["tower"])})


def served_name(name: str) -> str | None:
    """Return the Hugging Face name of an original tensor; None for a buffer that is computed again.

    Raises RefusedWeights for a name that an original LLaVA v1.5 checkpoint does not have.
    """
    if _COMPUTED.search(name):
        return None
    if match := re.fullmatch(r"model\.mm_projector\.([02])\.(weight|bias)", name):
        return f"multi_modal_projector.{_PROJECTOR[match[1]]}.{match[2]}"
    if name.startswith("model.vision_tower.vision_tower.vision_model."):
        return name.removeprefix("model.vision_tower.")
    is_language = name == "lm_head.weight" or re.match(r"model\.(?:layers\.|norm\.|embed_tokens\.)", name)
    if not is_language:
        raise RefusedWeights("unexpected_key", name)
    return f"language_model.{name}"


def tower_name(name: str) -> str | None:
    """Return the Hugging Face name of a CLIP tensor; None for what LLaVA does not use."""
    if _COMPUTED.search(name) or _TEXT_SIDE.match(name):
        return None
    if not name.startswith("vision_model."):
        raise RefusedWeights("unexpected_key", name)
    return f"vision_tower.{name}"


def expected_names(layers: int, tower_layers: int) -> set[str]:
    """Every tensor that a served checkpoint of these sizes has."""
    names = {EMBEDDING, HEAD, "language_model.model.norm.weight"}
    names |= {f"multi_modal_projector.linear_{i}.{leaf}" for i in (1, 2) for leaf in ("weight", "bias")}
    inner = [f"self_attn.{each}_proj" for each in "qkvo"]
    inner += [f"mlp.{each}_proj" for each in ("gate", "up", "down")]
    inner += ["input_layernorm", "post_attention_layernorm"]
    names |= {f"language_model.model.layers.{n}.{part}.weight" for n in range(layers) for part in inner}
    names |= {f"{TOWER}embeddings.{each}" for each in ("class_embedding", "patch_embedding.weight")}
    names |= {f"{TOWER}embeddings.position_embedding.weight"}
    both = ("weight", "bias")
    # The first norm's name has lacked a letter since the published CLIP.
    names |= {f"{TOWER}{norm}.{leaf}" for norm in ("pre_layrnorm", "post_layernorm") for leaf in both}
    tower_parts = [f"self_attn.{each}_proj" for each in ("q", "k", "v", "out")]
    tower_parts += ["mlp.fc1", "mlp.fc2", "layer_norm1", "layer_norm2"]
    names |= {
        f"{TOWER}encoder.layers.{n}.{part}.{leaf}"
        for n in range(tower_layers)
        for part in tower_parts
        for leaf in both
    }
    return names


@dataclass(frozen=True)
class Part:
    """One file to write: where its tensors come from, and each one's name there by its new name."""

    source: str
    names: Mapping[str, str]
    is_tower: bool


def plan_parts(job: WeightsJob, names_in: Callable[[str], Sequence[str]]) -> list[Part]:
    """One part a source file, in order. RefusedWeights if not whole, or more than LLaVA v1.5.

    A tower inside the checkpoint was trained with it and wins over the one that the checkpoint names.
    """
    parts = [_part(source, names_in(source), served_name, is_tower=False) for source in job.language]
    if not any(name.startswith(TOWER) for part in parts for name in part.names):
        parts += [_part(source, names_in(source), tower_name, is_tower=True) for source in job.tower]
    seen: set[str] = set()
    for part in parts:
        if twice := seen & set(part.names):
            raise RefusedWeights("duplicate_key", min(twice))
        seen |= set(part.names)
    expected = expected_names(job.layers, job.tower_layers)
    if missing := expected - seen:
        raise RefusedWeights("missing_key", min(missing))
    if unexpected := seen - expected:
        raise RefusedWeights("unexpected_key", min(unexpected))
    return [part for part in parts if part.names]


def _part(source: str, found: Sequence[str], rename: Callable[[str], str | None], *, is_tower: bool) -> Part:
    renamed = ((rename(name), name) for name in found)
    return Part(source, {new: old for new, old in renamed if new is not None}, is_tower)


# Reading.


@contextmanager
def opened(path: str) -> Iterator[tuple[Sequence[str], Callable[[str], Any]]]:
    """Give the tensor names of a file and a function that gives one tensor.

    Only what is asked for is read.
    """
    try:
        if path.endswith(".safetensors"):
            with importlib.import_module("safetensors").safe_open(path, framework="pt") as file:
                yield list(file.keys()), file.get_tensor
        else:
            tensors = _unpickled(path)
            yield list(tensors), tensors.__getitem__
    except (OSError, RefusedWeights):
        raise
    # Each library reports a damaged file with a class of its own.
    except Exception as error:
        raise RefusedWeights("unreadable_file", f"{Path(path).name} ({type(error).__name__})") from error


def _unpickled(path: str) -> Mapping[str, Any]:
    torch = importlib.import_module("torch")
    pickle = importlib.import_module("pickle")

    def load(*, mmap: bool) -> Any:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)

    try:
        loaded = load(mmap=True)
    except pickle.UnpicklingError as error:
        raise RefusedWeights("unsafe_file", Path(path).name) from error
    except RuntimeError:
        # The file format before torch 1.6 cannot be mapped.
        loaded = load(mmap=False)
    if not isinstance(loaded, dict) or not all(torch.is_tensor(each) for each in loaded.values()):
        raise RefusedWeights("unreadable_file", Path(path).name)
    return loaded


def served_form(job: WeightsJob, part: Part, name: str, tensor: Any) -> tuple[str, list[int]]:
    """Type and shape of a tensor as it is served: the tower in the model's type, vocabulary rows added."""
    dtype = job.dtype if part.is_tower else str(tensor.dtype).removeprefix("torch.")
    if dtype not in _DTYPES:
        raise RefusedWeights("wrong_dtype", f"{part.names[name]}: {dtype}")
    shape = list(tensor.shape)
    if name in (EMBEDDING, HEAD):
        if shape[0] != job.rows:
            raise RefusedWeights("wrong_rows", f"{part.names[name]}: {shape[0]}, not {job.rows}")
        shape[0] = job.grown_rows
    return dtype, shape


def served_tensor(tensor: Any, dtype: str, shape: Sequence[int]) -> Any:
    """A tensor in its served form. An added row is the mean of all rows.

    As a row of the head it scores the mean of all scores, which no hidden state can make the largest: the
    added tokens cannot be chosen in greedy decoding.
    """
    torch = importlib.import_module("torch")
    added = shape[0] - tensor.shape[0] if shape else 0
    if added:
        mean = tensor.to(torch.float64).mean(dim=0, keepdim=True).to(tensor.dtype)
        tensor = torch.cat([tensor, mean.expand(added, -1)])
    tensor = tensor.to(getattr(torch, dtype)).contiguous()
    # safetensors takes no two tensors that share memory, as pickled ones may.
    is_part = tensor.untyped_storage().nbytes() != tensor.nbytes
    return tensor.clone() if is_part else tensor


def raw_bytes(tensor: Any) -> memoryview:
    """Return the bytes of a tensor as safetensors stores them."""
    torch = importlib.import_module("torch")
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())


# Writing.


@dataclass(frozen=True)
class TensorRecord:
    """One tensor of a file that was written."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str


def say(fields: Mapping[str, Any]) -> None:
    """One line on stdout. A caller that has gone ends this program here."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def write_part(job: WeightsJob, part: Part, path: Path) -> dict[str, TensorRecord]:
    """Write one file and return the checksums of what was meant to be written.

    Tensors whose form does not change stay in the mapped source until they are written.
    """
    safetensors = importlib.import_module("safetensors")
    entries: dict[str, TensorRecord] = {}
    with opened(part.source) as (_, get):
        forms = {name: served_form(job, part, name, get(part.names[name])) for name in sorted(part.names)}
        tensors = {name: served_tensor(get(part.names[name]), *form) for name, form in forms.items()}
        for name, (dtype, shape) in forms.items():
            digest = hashlib.sha256(raw_bytes(tensors[name])).hexdigest()
            entries[name] = TensorRecord(dtype, tuple(shape), digest)
        try:
            importlib.import_module("safetensors.torch").save_file(tensors, path, metadata={"format": "pt"})
        except safetensors.SafetensorError as error:
            match = re.search(r"os error (\d+)", str(error))
            raise OSError(int(match[1]) if match else errno.EIO, "safetensors") from error
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return entries


def is_whole(path: Path, entries: Mapping[str, TensorRecord]) -> bool:
    """Tell whether a file, read back, holds exactly these tensors bit for bit."""
    try:
        with opened(str(path)) as (names, get):
            return set(names) == set(entries) and all(
                hashlib.sha256(raw_bytes(get(name))).hexdigest() == entries[name].sha256 for name in names
            )
    except (OSError, RefusedWeights):
        return False


def convert(job: WeightsJob) -> dict[str, dict[str, TensorRecord]]:
    """Write every file of the served checkpoint; returns what each holds, in order."""

    def names_in(path: str) -> Sequence[str]:
        say({"stage": "inspecting", "file": Path(path).name})
        with opened(path) as (names, _):
            return names

    parts = plan_parts(job, names_in)
    files = {}
    for number, part in enumerate(parts, start=1):
        target = Path(job.out) / f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        say({"stage": "converting", "file": target.name})
        entries = write_part(job, part, target)
        say({"stage": "verifying", "file": target.name})
        if not is_whole(target, entries):
            raise RefusedWeights("damaged_on_disk", target.name)
        files[target.name] = entries
    return files


def main() -> int:
    """Read the job, do it, say how it ended."""
    try:
        files = convert(WeightsJob.parse(json.loads(sys.stdin.read())))
        done = {
            file: {name: asdict(entry) for name, entry in entries.items()} for file, entries in files.items()
        }
    except RefusedWeights as refused:
        say({"error": refused.code, "subject": refused.subject})
        return 1
    except BrokenPipeError:
        # Nobody listens any more: whoever started this has ended.
        return 1
    except OSError as error:
        code = "disk_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "system"
        say({"error": code, "subject": os.strerror(error.errno or errno.EIO)})
        return 1
    say({"done": done})
    return 0


if __name__ == "__main__":
    sys.exit(main())
