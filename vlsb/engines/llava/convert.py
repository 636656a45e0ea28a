"""Converting an original LLaVA v1.5 checkpoint, once, into the layout that engines serve.

The checkpoint and the CLIP tower that it names are folders or come from the hub; everything about them is
checked before any work, which `build.py` does.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlsb import strict_json
from vlsb.engines.checkpoint import fetch_checkpoint
from vlsb.engines.llava import tokenizer as llava_tokenizer
from vlsb.engines.llava.build import FORMAT, MANIFEST, Conversion, Script, build, read_mark
from vlsb.engines.llava.layout import IMAGE, PAD, added_tokens, plan_layout
from vlsb.engines.llava.source import (
    SERVED_ARCHITECTURE,
    Checkpoint,
    architecture,
    fingerprint,
    read_config,
    read_object,
    read_source,
    read_tower,
    tower_of,
)
from vlsb.engines.registry import Places
from vlsb.errors import ConfigError, ServerError
from vlsb.steps import OnProgress, Step, in_thread

if TYPE_CHECKING:
    from vlsb.engines.install import Engine


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
    destination = places.converted / digest[:32] / _name(weights)
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
        _require_absent(destination)
        await _build(source, tower, digest, destination, engine, environment, on_progress)
    return len(read_manifest(destination)["tensors"])


def read_manifest(folder: Path) -> Mapping[str, Any]:
    """Return what a converted folder says of itself; ConfigError if it is none."""
    manifest = read_object(folder / MANIFEST)
    if manifest.get("format") != FORMAT or not isinstance(manifest.get("tensors"), dict):
        raise ConfigError(f"{folder / MANIFEST} is not of this version. Convert again.")
    return manifest


def engine_python(engine: Engine) -> Path:
    """Return the interpreter beside an engine; ServerError for an engine that has none we know of."""
    if engine.python is None:
        raise ServerError(
            f"{engine.executable}: the Python of this engine is not known. Name its environment's folder."
        )
    return engine.python


def _require_absent(folder: Path) -> None:
    if os.path.lexists(folder):
        raise ConfigError(f"{folder} exists and is not this conversion. Name another folder.")


def _name(weights: str) -> str:
    return Path(weights).resolve().name if Path(weights).is_dir() else weights.rpartition("/")[2]


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
    python = engine_python(engine)
    on_progress(Step("inspecting", "tokenizer"))
    job = llava_tokenizer.TokenizerJob(str(source.folder.resolve()), added_tokens(source), (IMAGE, PAD))
    script = Script(python, environment, source.folder, destination)
    tokenizer = await script.answer(llava_tokenizer, asdict(job), "tokenizer")
    conversion = Conversion(source, tower, plan_layout(source, tower, tokenizer), digest)
    await build(conversion, destination, script, on_progress)
