"""What would end a local model's start after minutes of installing, downloading or loading, found in seconds.

Memory is checked against the weights' own size, the least that is needed: what passes may still be too large.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlsb.engines.checkpoint import CONFIG, Weights, open_weights
from vlsb.engines.diagnosis import USUAL_SHARE, share_of
from vlsb.engines.hardware import Gpu, GpuListing, free_disk_bytes, memory_bytes, visible_gpus
from vlsb.engines.install import Engine, built_for_cuda
from vlsb.engines.plan import CPU_CACHE_GIB, CPU_DTYPE, Wishes, check_layout, weights_revision
from vlsb.engines.registry import Places, read_records
from vlsb.engines.vllm_options import normal, parse_options
from vlsb.errors import ServerError, StoreError
from vlsb.hub import hub_cache
from vlsb.models.catalog import read_config
from vlsb.models.profile import GIB, EnginePin, ModelProfile

_WIDTHS = {"float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2}
# The driver's tool counts a little more memory than an engine sees.
_TOLERANCE = 0.98


def check_driver(pin: EnginePin, engine: Engine | None, listing: GpuListing) -> None:
    """Raise ServerError where the driver cannot run the CUDA of an engine, or of one to be installed."""
    if engine is None:
        version, cuda = pin.gpu_version, pin.cuda
    else:
        version, cuda = engine.version, "" if engine.is_cpu else built_for_cuda(engine) or ""
    if listing.gpus and not listing.runs_cuda(cuda):
        raise ServerError(
            f"vLLM {version} is built for CUDA {cuda}, and the NVIDIA driver here, {listing.driver}, runs "
            f"CUDA up to {listing.cuda}. Update the driver, or bring an engine that is built for CUDA "
            f"{listing.cuda} or older (`--engine` of vlsb serve and vlsb run)."
        )


def check_start(
    model: ModelProfile,
    wishes: Wishes,
    engine: Engine | None,
    places: Places,
    listing: GpuListing,
    environment: Mapping[str, str],
) -> None:
    """Driver, options, access to the weights, memory and disk. `engine` is None where it is to be installed.

    Blocking; asks the hub for settings and sizes. Raises ServerError, ConfigError, AuthenticationError or
    StoreError.
    """
    check_driver(model.engine, engine, listing)
    written = read_config(model.config)
    passed = parse_options(wishes.engine_options)
    weights = _weights_to_load(model, wishes, written)
    settings = {name: normal(value) for name, value in (written | passed).items()}
    on_cpu = not listing.gpus or (engine is not None and engine.is_cpu)
    if on_cpu:
        dtype = passed.get("dtype") or wishes.dtype or CPU_DTYPE
        _check_memory(model.name, _served_bytes(weights[0], dtype), environment)
    else:
        dtype = passed.get("dtype") or wishes.dtype or written.get("dtype", "auto")
        _check_gpus(model, wishes, settings, _served_bytes(weights[0], dtype), places, listing.gpus)
    _check_disk(model, engine, weights, places, has_gpu=bool(listing.gpus))


def _weights_to_load(model: ModelProfile, wishes: Wishes, written: Mapping[str, Any]) -> list[Weights]:
    """The weights, and the tower that an original LLaVA's are converted with."""
    revision = weights_revision(wishes, written)
    weights = open_weights(wishes.weights or model.weights, revision=revision, offline=wishes.offline)
    source = model.source_architecture
    config = weights.settings(CONFIG)
    if source is None or source not in (config.get("architectures") or ()):
        check_layout(weights, model)
        return [weights]
    tower = str(config.get("mm_vision_tower") or "")
    is_folder = (weights.folder / tower).is_dir() or Path(tower).is_dir()
    # What is none is for the conversion to say.
    if is_folder or tower.count("/") != 1:
        return [weights]
    return [weights, open_weights(tower, revision=None, offline=wishes.offline)]


def _served_bytes(weights: Weights, dtype: object) -> int:
    """What the weights take in memory at least; 0 where nobody knows."""
    config = weights.settings(CONFIG)
    text = config.get("text_config")
    named = [
        each.get(key) for each in (config, text) if isinstance(each, dict) for key in ("dtype", "torch_dtype")
    ]
    stored = next((_WIDTHS[each] for each in named if each in _WIDTHS), None)
    served = _WIDTHS.get(str(dtype))
    size = weights.weight_bytes or 0
    return size if stored is None or served is None else size * served // stored


def _check_memory(name: str, needed: int, environment: Mapping[str, str]) -> None:
    given = environment.get("VLLM_CPU_KVCACHE_SPACE", "")
    cache = (int(given) if given.isdecimal() else CPU_CACHE_GIB) * GIB
    there = memory_bytes()
    if needed + cache > there:
        raise ServerError(
            f"{name}: without a GPU its weights take {_gib(needed)} and the cache {_gib(cache)} "
            f"(VLLM_CPU_KVCACHE_SPACE), and this machine has {_gib(there)} of memory. Take one with a GPU or "
            "more memory, or smaller weights of the family with --weights."
        )


def _check_gpus(
    model: ModelProfile,
    wishes: Wishes,
    settings: Mapping[str, Any],
    weights_bytes: int,
    places: Places,
    there: Sequence[Gpu],
) -> None:
    """Each GPU that an engine would take: large enough for its part of the weights, and free enough."""
    wishes.gpus.require_inherited(there)
    chosen = [gpu for gpu in visible_gpus(there, wishes.gpus.variable) if gpu.memory_bytes]
    size = wishes.tensor_parallel_size or settings.get("tensor-parallel-size", 1)
    count = size * settings.get("pipeline-parallel-size", 1)
    share = settings.get("gpu-memory-utilization", USUAL_SHARE)
    if not isinstance(count, int) or count < 1 or not isinstance(share, int | float):
        # For the plan to refuse.
        return
    needed = weights_bytes / count
    for gpu in chosen[:count]:
        wanted = share * gpu.memory_bytes
        if needed > wanted:
            raise ServerError(
                f"{model.name}: its weights take {_gib(needed)} a GPU, more than the {share:.0%} of "
                f"{_gib(gpu.memory_bytes)} that an engine uses of GPU {gpu.index} ({gpu.name}). "
                f"{_way_to_fit(chosen, weights_bytes, share)}"
            )
        # The engine of a dropped family takes what is there.
        least = needed if model.engine.newest else max(needed, _TOLERANCE * wanted)
        if gpu.free_bytes < least:
            raise ServerError(f"{model.name}: {_busy(gpu, wanted, needed, places)}")


def _way_to_fit(chosen: Sequence[Gpu], weights_bytes: int, share: float) -> str:
    least = min(gpu.memory_bytes for gpu in chosen) * share
    parts = next((n for n in (2, 4, 8) if n <= len(chosen) and weights_bytes / n <= least), None)
    spread = f"Pass `--tensor-parallel-size {parts}`, or take" if parts else "Take"
    return f"{spread} a larger GPU, or smaller weights of the family with --weights."


def _busy(gpu: Gpu, wanted: float, needed: float, places: Places) -> str:
    free, total = gpu.free_bytes, gpu.memory_bytes
    own = next(
        (f" (`vlsb engine stop {each.name}` ends a server of ours)" for each in read_records(places)), ""
    )
    message = (
        f"out of GPU memory: {_gib(free)} of {_gib(total)} are free on GPU {gpu.index}, and the engine wants "
        f"{_gib(wanted)}. End what else uses the GPU (`nvidia-smi`){own}"
    )
    share = share_of(free, total)
    helps = share >= 0.1 and share * total > needed
    return f"{message}, or pass `-- --gpu-memory-utilization {share:g}`." if helps else f"{message}."


def _check_disk(
    model: ModelProfile, engine: Engine | None, weights: Sequence[Weights], places: Places, *, has_gpu: bool
) -> None:
    """Room for all that is to come, where several of it go to one disk as well."""
    pin = model.engine
    missing = sum(each.missing_bytes for each in weights)
    is_converted = model.source_architecture is not None and len(weights) > 1
    wanted = [
        (
            places.engines,
            (pin.gpu_disk_bytes if has_gpu else pin.cpu_disk_bytes) if engine is None else 0,
            "the engine",
        ),
        (hub_cache(), missing, "its weights"),
        # Weights that are here may have been converted before.
        (places.converted, missing if is_converted else 0, "the converted weights"),
    ]
    disks: dict[int, list[tuple[Path, int, str]]] = {}
    for path, size, what in wanted:
        folder = next((each for each in (path, *path.parents) if each.is_dir()), None)
        if size and folder is not None:
            disks.setdefault(folder.stat().st_dev, []).append((path, size, what))
    for takers in disks.values():
        needed, free = sum(size for _, size, _ in takers), free_disk_bytes(takers[0][0])
        if free is not None and free < needed:
            raise StoreError(
                f"{model.name}: {' and '.join(what for *_, what in takers)} need {needed / 1e9:.1f} GB, and "
                f"the disk of {takers[0][0]} has {free / 1e9:.1f} GB left. Make room, or choose another disk "
                "(XDG_DATA_HOME for engines, HF_HOME for weights, XDG_CACHE_HOME for converted ones)."
            )


def _gib(count: float) -> str:
    return f"{count / GIB:.1f} GiB"
