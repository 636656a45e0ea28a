"""Converting an original LLaVA v1.5 checkpoint, once, into the layout that engines serve.

The checkpoint and the CLIP tower that it names are folders or come from the hub; everything about them is
checked before any work. The tensors are moved by `weights.py` in an engine's own Python, since only that has
torch, into a hidden folder beside the result's place, where it appears when it is whole. That takes minutes
and is done once: a conversion that is killed begins again. The manifest lists the checksum of every tensor,
each verified by reading it back from the disk.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vlsb import strict_json
from vlsb.engines.checkpoint import INDEX, MANIFEST, fetch_checkpoint
from vlsb.engines.hardware import free_disk_bytes
from vlsb.engines.llava import tokenizer as llava_tokenizer
from vlsb.engines.llava import weights as llava_weights
from vlsb.engines.llava.layout import (
    IMAGE,
    PAD,
    SERVED_ARCHITECTURE,
    Checkpoint,
    Layout,
    added_tokens,
    architecture,
    count,
    fingerprint,
    json_bytes,
    plan_layout,
    read_config,
    read_object,
    read_source,
    read_tower,
    tower_of,
)
from vlsb.engines.process import ScriptEnd, run_script
from vlsb.engines.registry import Places
from vlsb.errors import ConfigError, ServerError, StoreError, VlsbError
from vlsb.files import FileLock, sync_directory, sync_file
from vlsb.models.profile import FAMILIES, shipped_config
from vlsb.records import Untrusted
from vlsb.steps import OnProgress, Step, ignore, in_thread

if TYPE_CHECKING:
    from vlsb.engines.install import Engine

FORMAT = 2
# In the result too: by it a conversion is known again. It differs between machines, so it is no part of
# what the result is, and hidden from whoever takes a digest of that.
_MARK = ".conversion-source"
_MARGIN_BYTES = 64 * 1024 * 1024
# What a program needs of an environment that may hold keys.
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")

_REFUSALS: Mapping[str, str] = {
    "unexpected_key": "a tensor that LLaVA v1.5 does not have",
    "missing_key": "a tensor is missing, which would be served as",
    "duplicate_key": "a tensor occurs twice, which would be served as",
    "wrong_rows": "its vocabulary is not as long as config.json says",
    "wrong_dtype": "a tensor of a type that cannot be served",
    "unreadable_file": "a file of weights cannot be read; fetch it again",
    "unknown_tokenizer": "its tokenizer is not one of LLaVA v1.5",
    "added_tokens": "added_tokens.json does not list tokens with ids behind those of its tokenizer",
    "split_otherwise": "with this engine its tokenizer would split texts differently from the original",
    "unsafe_file": "a file holds more than tensors and was not loaded",
}


@dataclass(frozen=True, slots=True)
class Conversion:
    """Two checkpoints, what is made of them, and a digest of both."""

    source: Checkpoint
    tower: Checkpoint
    layout: Layout
    digest: str

    def job(self, out: Path) -> llava_weights.WeightsJob:
        """Return the job of the program that moves the tensors."""
        return llava_weights.WeightsJob(
            out=str(out.resolve()),
            language=tuple(str(path.resolve()) for path in self.source.weights),
            tower=tuple(str(path.resolve()) for path in self.tower.weights),
            layers=count(self.source, "num_hidden_layers"),
            tower_layers=count(self.tower, "num_hidden_layers"),
            rows=self.layout.vocabulary.rows,
            grown_rows=self.layout.vocabulary.grown_rows,
            dtype=self.layout.dtype,
        )

    def size_bytes(self) -> int:
        """At least what the result takes: the added rows are in the margin."""
        files = (*self.source.weights, *self.tower.weights)
        return sum(path.stat().st_size for path in files) + _MARGIN_BYTES


@dataclass(frozen=True, slots=True)
class Script:
    """How programs of ours are run in an engine's Python, and what they are about: for their errors."""

    python: Path
    environment: Mapping[str, str]
    source: Path
    destination: Path

    async def answer(
        self, program: ModuleType, job: Mapping[str, Any], name: str, on_progress: OnProgress = ignore
    ) -> Any:
        """Return what a program has under a name in the last thing it says.

        Its stages go to `on_progress`.
        """

        def report(event: Mapping[str, Any]) -> None:
            if "stage" in event:
                on_progress(Step(event["stage"], event["file"]))

        passed_on = {each: self.environment[each] for each in _PASSED_ON if each in self.environment}
        assert program.__file__ is not None
        end = await run_script(self.python, program.__file__, job, environment=passed_on, emit=report)
        if end.code != 0 or name not in end.last:
            raise self._failure(end)
        return end.last[name]

    def _failure(self, end: ScriptEnd) -> VlsbError:
        reason, subject = str(end.last.get("error")), str(end.last.get("subject", ""))
        detail = Untrusted(subject) if subject else None
        if reason in _REFUSALS:
            return ConfigError(f"{self.source}: {_REFUSALS[reason]}", detail=detail)
        if reason == "disk_full":
            folder = self.destination.parent
            return StoreError(f"no room left in {folder}. Make room and start again.")
        if reason == "damaged_on_disk":
            return StoreError(
                f"{self.destination}: what was written reads back differently. Check the disk", detail=detail
            )
        if reason == "system":
            return StoreError(f"{self.destination}: a file cannot be read or written", detail=detail)
        if end.code < 0:
            return ServerError(
                f"the conversion was killed by signal {-end.code}; if that was for memory, free some and "
                "start again."
            )
        return ServerError("the conversion failed in the engine's Python", detail=end.complaints)


async def servable_folder(
    weights: str,
    revision: str | None,
    places: Places,
    engine: Engine,
    *,
    environment: Mapping[str, str],
    on_progress: OnProgress,
    offline: bool = False,
    vision_tower: str | None = None,
) -> Path:
    """Find the folder to serve `llava` from: the weights if an engine can read them, else converted ones.

    `weights` is a folder or a hub id. A conversion goes into the cache once and is found there again.
    """
    folder = await _folder(weights, revision, offline=offline, on_progress=on_progress)
    if architecture(read_config(folder)) == SERVED_ARCHITECTURE:
        return folder
    source, tower, digest = await _sources(folder, vision_tower, offline=offline, on_progress=on_progress)
    # Named as the weights are: where the name counts, the same weights have the same on every machine.
    local = _local_folder(weights)
    name = local.name if local is not None else weights.rpartition("/")[2]
    destination = places.converted / digest[:32] / name
    if read_mark(destination) != digest:
        await _build(source, tower, digest, destination, engine, environment, on_progress)
    return destination


async def convert_llava(
    weights: str,
    destination: Path,
    engine: Engine,
    *,
    environment: Mapping[str, str],
    revision: str | None = None,
    vision_tower: str | None = None,
    offline: bool = False,
    on_progress: OnProgress,
) -> int:
    """Convert into a folder that does not exist yet; returns how many tensors it has.

    A folder that already holds this very conversion is left as it is.
    """
    folder = await _folder(weights, revision, offline=offline, on_progress=on_progress)
    source, tower, digest = await _sources(folder, vision_tower, offline=offline, on_progress=on_progress)
    if read_mark(destination) != digest:
        _require_absent(destination, "exists and is not this conversion. Name another folder.")
        await _build(source, tower, digest, destination, engine, environment, on_progress)
    return len(read_manifest(destination)["tensors"])


def read_manifest(folder: Path) -> Mapping[str, Any]:
    """Return the manifest of a converted folder; ConfigError for any other folder."""
    manifest = read_object(folder / MANIFEST)
    if manifest.get("format") != FORMAT or not isinstance(manifest.get("tensors"), dict):
        raise ConfigError(f"{folder / MANIFEST} is not of this version. Convert again.")
    return manifest


async def _folder(weights: str, revision: str | None, *, offline: bool, on_progress: OnProgress) -> Path:
    if (folder := _local_folder(weights)) is not None:
        return folder
    return await in_thread(
        lambda report: fetch_checkpoint(weights, revision, offline=offline, on_progress=report), on_progress
    )


def _local_folder(weights: str) -> Path | None:
    """Return the folder that is meant, None for a hub id."""
    folder = Path(weights)
    if folder.is_dir():
        return folder.resolve()
    if folder.is_absolute() or weights.startswith((".", "~")) or weights.count("/") != 1:
        raise ConfigError(f"{weights}: no such folder.")
    return None


def _require_absent(folder: Path, words: str) -> None:
    if os.path.lexists(folder):
        raise ConfigError(f"{folder} {words}")


async def _sources(
    folder: Path, vision_tower: str | None, *, offline: bool, on_progress: OnProgress
) -> tuple[Checkpoint, Checkpoint, str]:
    """An original checkpoint, its tower, and a digest of both."""
    source = read_source(folder)
    tower_folder = await _folder(
        tower_of(source, vision_tower), None, offline=offline, on_progress=on_progress
    )
    tower = read_tower(tower_folder, source)
    facts = [FORMAT, fingerprint(source), fingerprint(tower)]
    return source, tower, hashlib.sha256(strict_json.dumps(facts).encode("ascii")).hexdigest()


async def _build(
    source: Checkpoint,
    tower: Checkpoint,
    digest: str,
    destination: Path,
    engine: Engine,
    environment: Mapping[str, str],
    on_progress: OnProgress,
) -> None:
    """Plan everything but the tensors, then build. The tokenizer is made in the engine's Python too."""
    if engine.python is None:
        raise ServerError(
            f"{engine.executable}: the Python of this engine is not known. Name its environment's folder."
        )
    on_progress(Step("inspecting", "tokenizer"))
    job = llava_tokenizer.TokenizerJob(str(source.folder.resolve()), added_tokens(source), (IMAGE, PAD))
    script = Script(engine.python, environment, source.folder, destination)
    tokenizer = await script.answer(llava_tokenizer, asdict(job), "tokenizer")
    conversion = Conversion(source, tower, plan_layout(source, tower, tokenizer), digest)
    await _write(conversion, destination, script, on_progress)


async def _write(conversion: Conversion, destination: Path, script: Script, on_progress: OnProgress) -> None:
    """Convert into a folder that does not exist yet. Nothing is left of a conversion that fails."""
    building = destination.with_name(f".{destination.name}.vlsb-conversion")
    try:
        with _sole_build(building):
            if read_mark(destination) == conversion.digest:
                # Another process built it between the look and the lock.
                building.rmdir()
                return
            needed, free = conversion.size_bytes(), free_disk_bytes(building)
            if free is not None and free < needed:
                raise StoreError(
                    f"no room in {building.parent}: the converted weights take {needed / 1e9:.1f} GB, and "
                    f"{free / 1e9:.1f} GB are free. Make room, or convert into another folder."
                )
            job = asdict(conversion.job(building))
            records = await script.answer(llava_weights, job, "done", on_progress)
            _add_small_files(building, conversion, records)
            _require_absent(destination, "has appeared in the meantime. Move it away and start again.")
            building.rename(destination)
            sync_directory(destination.parent)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else type(error).__name__
        raise StoreError(f"{building} cannot be written ({reason}).") from error


@contextmanager
def _sole_build(building: Path) -> Iterator[None]:
    """Hold an empty folder to build in, for one process at a time; it is removed when the block fails.

    Its name is ours alone: what a killed conversion left in it is removed.
    """
    building.mkdir(parents=True, exist_ok=True)
    with FileLock(building, is_folder=True) as lock:
        if not lock.try_lock():
            raise ServerError(f"{building}: another process is converting into it. Wait for it.")
        try:
            for path in building.iterdir():
                path.unlink()
            yield
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise


def read_mark(folder: Path) -> str | None:
    """Return the digest of what a folder was, or is being, converted from; None if it is not a conversion."""
    try:
        return (folder / _MARK).read_text("ascii")
    except (OSError, ValueError):
        return None


def _add_small_files(
    building: Path, conversion: Conversion, records: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> None:
    """Add config, tokenizer, chat template, index, manifest and mark to the files of weights."""
    placed = {tensor: name for name, record in records.items() for tensor in record}
    tensors = {
        tensor: {"file": name, **facts}
        for name, record in records.items()
        for tensor, facts in record.items()
    }
    total = sum((building / name).stat().st_size for name in records)
    vocabulary = conversion.layout.vocabulary
    manifest = {
        "format": FORMAT,
        "rows": {"original": vocabulary.rows, "served": vocabulary.grown_rows},
        "tensors": dict(sorted(tensors.items())),
    }
    template = FAMILIES["llava"].chat_template
    small = {
        **conversion.layout.files,
        **({"chat_template.jinja": shipped_config(template).read_bytes()} if template else {}),
        INDEX: json_bytes({"metadata": {"total_size": total}, "weight_map": dict(sorted(placed.items()))}),
        MANIFEST: json_bytes(manifest),
        _MARK: conversion.digest.encode("ascii"),
    }
    for name, raw in small.items():
        with (building / name).open("wb") as file:
            file.write(raw)
            sync_file(file)
    sync_directory(building)
