"""What would end a local model's start after minutes of installing, downloading or loading, found in seconds.

Memory is checked against a forecast of the least that is needed: what passes may still be too large.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlsb.engines.architectures import engine_architectures, require_served, shipped_architectures
from vlsb.engines.checkpoint import CONFIG, Weights, open_weights
from vlsb.engines.diagnosis import USUAL_SHARE, share_of
from vlsb.engines.facts import context_limit
from vlsb.engines.forecast import Forecast, forecast
from vlsb.engines.hardware import Gpu, GpuListing, free_disk_bytes, memory_bytes, visible_gpus
from vlsb.engines.install import Engine, built_for_cuda
from vlsb.engines.plan import (
    CPU_CACHE_GIB,
    GpuLease,
    Wishes,
    check_layout,
    require_no_code,
    weights_revision,
)
from vlsb.engines.registry import Places, read_records
from vlsb.engines.vllm_options import normal, parse_options
from vlsb.errors import ServerError, StoreError
from vlsb.hub import hub_cache
from vlsb.models.catalog import read_config
from vlsb.models.profile import CURRENT, GIB, EnginePin, ModelProfile

SHARED_BY = (1, 2, 4, 8)
"""How many GPUs of one machine may share a copy of a model."""
# The driver's tool counts a little more memory than an engine sees.
_TOLERANCE = 0.98
_PARALLEL = ("tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size")


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
    check_architecture(model, wishes, engine)
    settings = _settings(model, wishes)
    weights = _weights_to_load(model, wishes)
    if not settings.get("trust-remote-code"):
        require_no_code(model, weights[0])
    on_cpu = not listing.gpus or (engine is not None and engine.is_cpu)
    needed = memory_needed(model, wishes, weights[0], on_cpu=on_cpu)
    if on_cpu:
        _check_memory(model.name, needed.weights, environment)
    else:
        _check_gpus(model, wishes, settings, needed, places, listing.gpus)
    _check_disk(model, engine, weights, places, has_gpu=bool(listing.gpus))


def check_architecture(model: ModelProfile, wishes: Wishes, engine: Engine | None) -> None:
    """ConfigError where the engine, or the one to be installed, does not know the model's architecture."""
    is_newest = model.engine == CURRENT and model.source_architecture is None
    if model.architecture and is_newest and "model-impl" not in _settings(model, wishes):
        served = None if engine is None else engine_architectures(engine)
        require_served(model.name, model.architecture, served or shipped_architectures())


def _settings(model: ModelProfile, wishes: Wishes) -> dict[str, Any]:
    """The engine's options by long name as far as they are known before it is there."""
    settings = {**read_config(model.config), **wishes.settings}
    return {name: normal(value) for name, value in (settings | parse_options(wishes.engine_options)).items()}


def memory_needed(model: ModelProfile, wishes: Wishes, weights: Weights, *, on_cpu: bool) -> Forecast:
    """What serving the weights takes, as wished."""
    settings, limit = _settings(model, wishes), context_limit(weights)
    dtype = model.cpu_dtype if on_cpu and "dtype" not in wishes.settings else settings.get("dtype", "auto")
    context = settings.get("max-model-len")
    context = context if isinstance(context, int) else 0
    return forecast(
        weights.settings(CONFIG),
        weights.weight_bytes or 0,
        dtype=dtype,
        context=min(context, limit or context),
        quantization=settings.get("quantization"),
    )


def with_free_gpus(
    model: ModelProfile, wishes: Wishes, there: Sequence[Gpu], inherited: str | None
) -> Wishes:
    """The wishes with as many GPUs as they need, those with most memory free; unchanged where some are named.

    `there` are those that this process may use itself. An `inherited` CUDA_VISIBLE_DEVICES with a MIG slice
    in it holds as it is: what the slice belongs to is not known here.
    """
    count = _gpu_count(_settings(model, wishes))
    is_free = wishes.gpus.entries is None and "MIG-" not in (inherited or "")
    is_free = is_free and all(gpu.memory_bytes for gpu in there)
    if not is_free or count is None or len(there) <= count:
        return wishes
    # Alike within a GiB they are taken in their order.
    freest = sorted(there, key=lambda gpu: (-(gpu.free_bytes // GIB), gpu.index))[:count]
    entries = tuple(str(index) for index in sorted(gpu.index for gpu in freest))
    return replace(wishes, gpus=GpuLease(entries))


def wishes_apart(
    model: ModelProfile,
    wishes: Wishes,
    there: Sequence[Gpu],
    taken: Sequence[GpuLease] = (),
    *,
    count: int = 1,
    inherited: str | None = None,
) -> list[Wishes] | None:
    """The wishes of so many engines, each with GPUs that neither another nor one of the `taken` leases has.

    None where too few are left. One beside nobody takes what it wishes, and so does each of several where no
    GPU is there. GPUs that are named are shared out in their order, and so are the MIG slices of an
    `inherited` CUDA_VISIBLE_DEVICES, which nobody else can choose from.
    """
    if not there or (count == 1 and not taken):
        return None if taken else [wishes] * count
    wishes.gpus.require_inherited(there)
    used = {gpu.index for lease in taken for gpu in visible_gpus(there, lease.variable)}
    size = gpus_taken(model, wishes)
    named = wishes.gpus.entries
    if named is None and "MIG-" in (inherited or ""):
        named = tuple((inherited or "").split(","))
    if named is not None:
        free = [each for each in named if used.isdisjoint(gpu.index for gpu in visible_gpus(there, each))]
        parts = [tuple(free[n * size : (n + 1) * size]) for n in range(count)]
    else:
        parts = []
        left = [gpu for gpu in there if gpu.index not in used]
        for _ in range(count):
            chosen = with_free_gpus(model, wishes, left, None).gpus.entries
            parts.append(tuple(str(gpu.index) for gpu in left[:size]) if chosen is None else chosen)
            left = [gpu for gpu in left if str(gpu.index) not in parts[-1]]
    if len(parts[-1]) < size:
        return None
    return [replace(wishes, gpus=GpuLease(part)) for part in parts]


def gpus_taken(model: ModelProfile, wishes: Wishes) -> int:
    """How many GPUs its engine takes, by its own config and what is wished; 1 where they are wrong."""
    return _gpu_count(_settings(model, wishes)) or 1


def declares_gpus(model: ModelProfile, wishes: Wishes) -> bool:
    """Whether its own config or the wishes say how many GPUs its engine takes."""
    return not _settings(model, wishes).keys().isdisjoint(_PARALLEL)


def gpus_needed(model: ModelProfile, wishes: Wishes, memory_bytes: int) -> int:
    """How many GPUs of so much memory its engine needs, by the forecast of `check_start`. Blocking.

    Asks the Hub for settings and sizes. Raises ServerError where no number of them is enough or the sizes
    are not known, and what `open_weights` raises.
    """
    weights = _weights_to_load(model, wishes)[0]
    needed = memory_needed(model, wishes, weights, on_cpu=False)
    share = _settings(model, wishes).get("gpu-memory-utilization", USUAL_SHARE)
    if not needed.weights:
        raise ServerError(f"{model.name}: the size of its weights is not known.")
    usable = memory_bytes * (share if isinstance(share, int | float) else USUAL_SHARE)
    fitting = [count for count in SHARED_BY if needed.fits(count, usable)]
    if not fitting:
        raise ServerError(f"{model.name}: {SHARED_BY[-1]} GPUs of {_gb(memory_bytes)} are too few for it.")
    return fitting[0]


def _gpu_count(settings: Mapping[str, Any]) -> int | None:
    """How many GPUs an engine with these options takes; None where they are for the plan to refuse."""
    count = 1
    for option in _PARALLEL:
        size = settings.get(option, 1)
        if not isinstance(size, int) or size < 1:
            return None
        count *= size
    return count


def _weights_to_load(model: ModelProfile, wishes: Wishes) -> list[Weights]:
    """The weights, and the tower that an original LLaVA's are converted with."""
    revision = weights_revision(model, wishes, read_config(model.config))
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
    needed: Forecast,
    places: Places,
    there: Sequence[Gpu],
) -> None:
    """Each GPU that an engine would take: large enough for its part, and free enough."""
    wishes.gpus.require_inherited(there)
    chosen = [gpu for gpu in visible_gpus(there, wishes.gpus.variable) if gpu.memory_bytes]
    count = _gpu_count(settings)
    share = settings.get("gpu-memory-utilization", USUAL_SHARE)
    if count is None or not isinstance(share, int | float):
        # For the plan to refuse.
        return
    each = needed.per_gpu(count) if needed.weights else 0
    for gpu in chosen[:count]:
        wanted = share * gpu.memory_bytes
        if each > wanted:
            parts = f"{_gb(needed.weights)} of weights and {_gb(needed.cache)} for one prompt of full length"
            raise ServerError(
                f"{model.name}: needs about {_gb(each)} on each GPU ({parts} in all), and an engine uses "
                f"{share:.0%} of the {_gb(gpu.memory_bytes)} of GPU {gpu.index} ({gpu.name}). "
                f"{_way_to_fit(visible_gpus(there, None), needed, settings, share)}"
            )
        # The engine of a dropped family takes what is there.
        least = each if model.engine.newest else max(each, _TOLERANCE * wanted)
        if gpu.free_bytes < least:
            raise ServerError(f"{model.name}: {_busy(gpu, wanted, each, places)}")


def _way_to_fit(there: Sequence[Gpu], needed: Forecast, settings: Mapping[str, Any], share: float) -> str:
    """What helps: more GPUs where there are, weights of eight bits where those fit, else another machine."""
    least = min(gpu.memory_bytes for gpu in there) * share
    now = _gpu_count(settings) or 1
    ways = [
        f"--tensor-parallel-size {n}" for n in SHARED_BY if now < n <= len(there) and needed.fits(n, least)
    ][:1]
    if (
        not settings.get("quantization")
        and replace(needed, weights=needed.weights // 2).per_gpu(now) <= least
    ):
        ways.append("--quantization fp8")
    if ways:
        return f"Use {' or '.join(ways)}, or smaller weights of the family (--weights)."
    return "Take a larger GPU, or smaller weights of the family with --weights."


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


def _gb(count: float) -> str:
    """As model cards and GPUs' names have it."""
    return f"{count / 1e9:.0f} GB"


def _gib(count: float) -> str:
    return f"{count / GIB:.1f} GiB"
