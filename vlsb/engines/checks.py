"""Whether a local model can be started on this machine: one judgement, for a start and for `vlsb doctor`.

What would end a start after minutes of installing, downloading or loading is found in seconds. Memory is held
against a forecast of the least that is needed: what passes may still be too large. What an engine serves is
read from its own registry as text, or from the table of the pinned version: importing it takes seconds, and
it may not be installed yet. A model that is in no table can still be served by the engine's general
implementation: `-- --model-impl transformers`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from vlsb import strict_json
from vlsb.engines.checkpoint import Weights
from vlsb.engines.diagnosis import USUAL_SHARE, share_of
from vlsb.engines.hardware import Gpu, GpuListing, free_disk_bytes, memory_bytes, visible_gpus
from vlsb.engines.install import Engine, engine_bytes
from vlsb.engines.placement import (
    SHARED_BY,
    Forecast,
    gpu_count,
    known_settings,
    memory_needed,
    weights_to_load,
)
from vlsb.engines.plan import CPU_CACHE_GIB, Wishes, require_no_code
from vlsb.engines.registry import Places, read_records
from vlsb.errors import ConfigError, ServerError, StoreError, VlsbError
from vlsb.hub import hub_cache
from vlsb.models.profile import CURRENT, GIB, EnginePin, ModelProfile

# The driver's tool counts a little more memory than an engine sees.
_TOLERANCE = 0.98


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What is in the way of a start: the error that it ends with, the same in brief, and what helps."""

    error: VlsbError
    brief: str
    command: str | None = None


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk by its number, what is free on it, and a folder of ours that is or will be there."""

    folder: Path
    device: int
    free_bytes: int

    @classmethod
    def of(cls, folder: Path) -> Disk | None:
        """Ask the system; None where it does not say."""
        existing = next((each for each in (folder, *folder.parents) if each.is_dir()), None)
        free = free_disk_bytes(folder)
        if existing is None or free is None:
            return None
        return cls(folder, existing.stat().st_dev, free)


@dataclass(frozen=True, slots=True)
class Machine:
    """What an engine finds here: GPUs, memory, and the disks of engines, weights and converted weights.

    `servers` are ours that run, by name; `cpu_cache_bytes` is the cache of an engine without a GPU.
    """

    listing: GpuListing
    memory_bytes: int
    engines: Disk | None
    weights: Disk | None
    converted: Disk | None
    servers: tuple[str, ...] = ()
    cpu_cache_bytes: int = CPU_CACHE_GIB * GIB

    @classmethod
    def of(cls, environment: Mapping[str, str], listing: GpuListing, places: Places) -> Machine:
        """Look at this machine; the GPUs were asked for before."""
        cache = environment.get("VLLM_CPU_KVCACHE_SPACE", "")
        return cls(
            listing,
            memory_bytes(),
            Disk.of(places.engines),
            Disk.of(hub_cache()),
            Disk.of(places.converted),
            tuple(each.name for each in read_records(places)),
            (int(cache) if cache.isdecimal() else CPU_CACHE_GIB) * GIB,
        )


def check_start(model: ModelProfile, wishes: Wishes, engine: Engine | None, machine: Machine) -> None:
    """Refuse what cannot be started: driver, options, access to the weights, memory, disk.

    `engine` is None where it is to be installed. Blocking; asks the Hub for settings and sizes. Raises
    ServerError, ConfigError, AuthenticationError or StoreError.
    """
    check_driver(model.engine, engine, machine.listing)
    settings = known_settings(model, wishes)
    check_architecture(model, settings, engine)
    weights = weights_to_load(model, wishes)
    if not settings.get("trust-remote-code"):
        require_no_code(model, weights[0])
    if machine.listing.gpus and not (engine is not None and engine.is_cpu):
        wishes.gpus.require_inherited(machine.listing.gpus)
    if (obstacle := room_obstacle(model, wishes, engine, weights, machine)) is not None:
        raise obstacle.error


def check_driver(pin: EnginePin, engine: Engine | None, listing: GpuListing) -> None:
    """Raise ServerError where the driver cannot run the CUDA of an engine, or of one to be installed."""
    if (obstacle := driver_obstacle(pin, engine, listing)) is not None:
        raise obstacle.error


def driver_obstacle(pin: EnginePin, engine: Engine | None, listing: GpuListing) -> Obstacle | None:
    """Return what keeps the driver from running an engine, or the one to be installed (None)."""
    if engine is None:
        version, cuda = pin.gpu_version, pin.cuda
    else:
        version, cuda = engine.version, "" if engine.is_cpu else engine.cuda or ""
    if not listing.gpus or listing.runs_cuda(cuda):
        return None
    error = ServerError(
        f"vLLM {version} is built for CUDA {cuda}, and the NVIDIA driver here, {listing.driver}, runs "
        f"CUDA up to {listing.cuda}. Update the driver, or bring an engine that is built for CUDA "
        f"{listing.cuda} or older (`--engine` of vlsb serve and vlsb run)."
    )
    return Obstacle(error, f"needs CUDA {cuda}, and the driver runs CUDA up to {listing.cuda}: update it")


def check_architecture(model: ModelProfile, settings: Mapping[str, Any], engine: Engine | None) -> None:
    """Raise ConfigError where the engine, or the one to be installed, does not know the architecture.

    `settings` are those of `known_settings`.
    """
    is_newest = model.engine == CURRENT and model.source_architecture is None
    if model.architecture and is_newest and "model-impl" not in settings:
        served = None if engine is None else engine_architectures(engine)
        require_served(model.name, model.architecture, served or shipped_architectures())


def room_obstacle(
    model: ModelProfile,
    wishes: Wishes,
    engine: Engine | None,
    weights: Sequence[Weights],
    machine: Machine,
) -> Obstacle | None:
    """Return the first thing that lacks of memory and disk; `weights` is empty where none of them is here."""
    on_cpu = not machine.listing.gpus or (engine is not None and engine.is_cpu)
    needed = memory_needed(model, wishes, weights[0] if weights else None, on_cpu=on_cpu)
    if on_cpu and needed.weights + machine.cpu_cache_bytes > machine.memory_bytes:
        error = ServerError(
            f"{model.name}: without a GPU its weights take {gib(needed.weights)} and the cache "
            f"{gib(machine.cpu_cache_bytes)} (VLLM_CPU_KVCACHE_SPACE), and this machine has "
            f"{gib(machine.memory_bytes)} of memory. Take one with a GPU or more memory, or smaller weights "
            "of the family with --weights."
        )
        command = f"vlsb serve {model.name} --weights DIR"
        return Obstacle(error, "its weights need a GPU; small ones:", command)
    if not on_cpu and (obstacle := next(_gpu_obstacles(model, wishes, needed, machine), None)) is not None:
        return obstacle
    return _disk_obstacle(model, engine, weights, machine)


def _gpu_obstacles(
    model: ModelProfile, wishes: Wishes, needed: Forecast, machine: Machine
) -> Iterator[Obstacle]:
    """Yield what is wrong with each GPU that an engine would take: too small, or not free enough."""
    settings, listed = known_settings(model, wishes), machine.listing.gpus
    count, share = gpu_count(settings), settings.get("gpu-memory-utilization", USUAL_SHARE)
    if count is None or not isinstance(share, int | float):
        # For the plan to refuse.
        return
    each = needed.per_gpu(count) if needed.weights else 0
    chosen = [gpu for gpu in visible_gpus(listed, wishes.gpus.variable) if gpu.memory_bytes]
    for gpu in chosen[:count]:
        usable = share * gpu.memory_bytes
        brief = f"needs about {gib(each)} on a GPU"
        if each > usable:
            parts = f"{_gb(needed.weights)} of weights and {_gb(needed.cache)} for one prompt of full length"
            options = _ways_to_fit(listed, needed, settings, share)
            advice = f"Use {' or '.join(options)}, or" if options else "Take a larger GPU, or"
            error = ServerError(
                f"{model.name}: needs about {_gb(each)} on each GPU ({parts} in all), and an engine uses "
                f"{share:.0%} of the {_gb(gpu.memory_bytes)} of GPU {gpu.index} ({gpu.name}). {advice} "
                f"smaller weights of the family {'(--weights)' if options else 'with --weights'}."
            )
            command = f"vlsb serve {model.name} {options[0]}" if options else None
            yield Obstacle(error, f"{brief}; GPU {gpu.index} has {gib(gpu.memory_bytes)}", command)
        # The engine of a dropped family takes what is there.
        elif gpu.free_bytes < (each if model.engine.newest else max(each, _TOLERANCE * usable)):
            stop = f"vlsb engine stop {machine.servers[0]}" if machine.servers else None
            error = ServerError(f"{model.name}: {_busy(gpu, usable, each, stop)}")
            wants = brief if each > gpu.free_bytes else f"an engine wants {gib(usable)}"
            yield Obstacle(error, f"{wants}; {gib(gpu.free_bytes)} are free on GPU {gpu.index}", stop)


def _ways_to_fit(
    there: Sequence[Gpu], needed: Forecast, settings: Mapping[str, Any], share: float
) -> list[str]:
    """Name the options that help: more GPUs where there are, weights of eight bits where those fit."""
    least = min(gpu.memory_bytes for gpu in there) * share
    now = gpu_count(settings) or 1
    counts = (n for n in SHARED_BY if now < n <= len(there) and needed.fits(n, least))
    options = [f"--tensor-parallel-size {n}" for n in counts][:1]
    halved = replace(needed, weights=needed.weights // 2)
    if not settings.get("quantization") and halved.per_gpu(now) <= least:
        options.append("--quantization fp8")
    return options


def _busy(gpu: Gpu, usable: float, needed: float, stop: str | None) -> str:
    free, total = gpu.free_bytes, gpu.memory_bytes
    own = f" (`{stop}` ends one of our servers)" if stop else ""
    message = (
        f"out of GPU memory: {gib(free)} of {gib(total)} are free on GPU {gpu.index}, and the engine wants "
        f"{gib(usable)}. End what else uses the GPU (`nvidia-smi`){own}"
    )
    share = share_of(free, total)
    helps = share >= 0.1 and share * total > needed
    return f"{message}, or pass `-- --gpu-memory-utilization {share:g}`." if helps else f"{message}."


def _disk_obstacle(
    model: ModelProfile, engine: Engine | None, weights: Sequence[Weights], machine: Machine
) -> Obstacle | None:
    """Return the disk without room for all that is to come, where several of it go to one disk as well."""
    pin, has_gpu = model.engine, bool(machine.listing.gpus)
    # Published checkpoints are stored in 16 bits.
    missing = sum(each.missing_bytes for each in weights) if weights else 2 * model.parameters
    is_converted = model.source_architecture is not None and len(weights) != 1
    build = engine_bytes(pin, has_gpu=has_gpu)
    takers = (
        (machine.engines, build if engine is None else 0, "the engine"),
        (machine.weights, missing, "its weights"),
        # Weights that are here may have been converted before.
        (machine.converted, missing if is_converted else 0, "the converted weights"),
    )
    for device in {disk.device: None for disk, *_ in takers if disk is not None}:
        here = [(disk, size, what) for disk, size, what in takers if disk and disk.device == device and size]
        needed = sum(size for _, size, _ in here)
        if here and here[0][0].free_bytes < needed:
            disk, what = here[0][0], " and ".join(what for *_, what in here)
            error = StoreError(
                f"{model.name}: {what} need {needed / 1e9:.1f} GB, and the disk of {disk.folder} has "
                f"{disk.free_bytes / 1e9:.1f} GB left. Make room, or choose another disk (XDG_DATA_HOME for "
                "engines, HF_HOME for weights, XDG_CACHE_HOME for converted ones)."
            )
            return Obstacle(error, f"{what} need {gib(needed)}; {gib(disk.free_bytes)} are free")
    return None


def _gb(count: float) -> str:
    """As model cards and GPUs' names have it."""
    return f"{count / 1e9:.0f} GB"


def gib(count: float) -> str:
    """Return bytes as GiB, as `nvidia-smi` and `free` count."""
    return f"{count / GIB:.1f} GiB"


# What an engine serves.

SHIPPED = Path(__file__).parents[1] / "models" / "architectures.json"
_REGISTRY = "vllm/model_executor/models/registry.py"
_SITE_PACKAGES = ("lib/python3.*/site-packages", "lib64/python3.*/site-packages")


@dataclass(frozen=True, slots=True)
class Architectures:
    """What an engine serves: architectures by what they read, and the last version of those it dropped."""

    version: str
    multimodal: frozenset[str]
    text: frozenset[str]
    until: Mapping[str, str]


@cache
def shipped_architectures() -> Architectures:
    """Return the table of the pinned engine, known before it is installed."""
    shipped = strict_json.loads(SHIPPED.read_bytes())
    version = shipped["engine"].removeprefix("vllm ")
    return Architectures(
        version, frozenset(shipped["multimodal"]), frozenset(shipped["text"]), shipped["until"]
    )


def engine_architectures(engine: Engine) -> Architectures | None:
    """Return what an installed engine serves, from its source.

    None where that is not found or written otherwise.
    """
    environment = engine.executable.parent.parent
    for pattern in _SITE_PACKAGES:
        for packages in sorted(environment.glob(pattern)):
            try:
                tables = _tables(ast.parse((packages / _REGISTRY).read_text("utf-8")))
            except (OSError, ValueError, SyntaxError):
                continue
            if multimodal := frozenset(tables.get("_MULTIMODAL_MODELS", {})):
                text = frozenset(tables.get("_TEXT_GENERATION_MODELS", {})) - multimodal
                return Architectures(
                    engine.version, multimodal, text, tables.get("_PREVIOUSLY_SUPPORTED_MODELS", {})
                )
    return None


def require_served(name: str, architecture: str, engine: Architectures) -> None:
    """ConfigError in plain words where an engine does not serve a model's architecture."""
    if architecture in engine.multimodal:
        return
    if architecture in engine.text:
        raise ConfigError(f"{name} is {architecture}, a model for text: it reads no images.")
    problem = f"{name}: vLLM {engine.version} does not know {architecture}"
    pinned = shipped_architectures()
    if architecture in pinned.multimodal:
        raise ConfigError(f"{problem}; {pinned.version} does. Leave --engine out to use that.")
    if (last := engine.until.get(architecture) or pinned.until.get(architecture)) is not None:
        raise ConfigError(
            f"{problem}; {last} was the last that did. Bring an environment with that one: --engine DIR."
        )
    raise ConfigError(
        f"{problem}. A later release may: bring an environment with it (--engine DIR), serve the model "
        "yourself and pass --base-url, or try the engine's general implementation: -- --model-impl "
        "transformers"
    )


def _tables(tree: ast.Module) -> dict[str, dict[str, Any]]:
    """Return the registry's dictionaries by name; a value that is no literal is None."""
    tables: dict[str, dict[str, Any]] = {}
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if not isinstance(target, ast.Name) or not isinstance(value, ast.Dict):
            continue
        table = tables[target.id] = {}
        for key, entry in zip(value.keys, value.values, strict=True):
            if key is None:
                # `**_OTHERS` takes in a table that was written above.
                table |= tables.get(getattr(entry, "id", ""), {})
            elif isinstance(key, ast.Constant) and isinstance(key.value, str):
                table[key.value] = entry.value if isinstance(entry, ast.Constant) else None
    return tables
