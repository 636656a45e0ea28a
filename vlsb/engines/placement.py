"""How much memory serving a model takes, from its config and the size of its files alone, and on which GPUs.

Three parts: the weights as they are served, the cache of one prompt of full length, which an engine insists
on, and what the engine itself takes. Attention that sees only so far is counted as if it saw everything; what
a config does not say counts nothing: it is the least that is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from vlsb.engines.checkpoint import CONFIG, Weights, open_weights
from vlsb.engines.diagnosis import USUAL_SHARE
from vlsb.engines.facts import context_limit, normal, parse_options
from vlsb.engines.hardware import Gpu, visible_gpus
from vlsb.engines.plan import GpuLease, Wishes, check_layout, weights_revision
from vlsb.errors import ConfigError, ServerError
from vlsb.models.catalog import read_config
from vlsb.models.profile import GIB, ModelProfile

SHARED_BY = (1, 2, 4, 8)
"""How many GPUs of one machine may share a copy of a model."""
_PARALLEL = ("tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size")
WIDTHS = {"float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2}
# CUDA's own context, the activations of one step and the vision tower's: engines of 7B and 24B models took
# 1.5 GiB at rest and 2.3 GiB while they measured themselves.
ENGINE_BYTES = 2 * GIB
# Bytes that a weight has under `--quantization`, where the checkpoint is not stored so.
_QUANTIZED_WIDTHS = {"fp8": 1.0, "bitsandbytes": 0.55, "experts_int8": 1.0, "torchao": 1.0}


@dataclass(frozen=True, slots=True)
class Forecast:
    """Bytes in all, over however many GPUs share them: weights, cache, and the engine's own on each GPU.

    A GPU holds whole heads of the cache: beyond `cache_parts` GPUs, the others hold copies. `heads` are those
    of attention, 0 where the config does not say.
    """

    weights: int
    cache: int
    cache_parts: int
    heads: int = 0

    def fits(self, count: int, usable_bytes: float) -> bool:
        """Tell whether `count` GPUs hold it that an engine may use so much of, and share its heads evenly."""
        return self.heads % count == 0 and self.per_gpu(count) <= usable_bytes

    def per_gpu(self, count: int) -> int:
        """Return what each of `count` GPUs must have."""
        return self.weights // count + self.cache // min(count, self.cache_parts) + ENGINE_BYTES

    @property
    def total(self) -> int:
        """What one GPU alone must have."""
        return self.per_gpu(1)


def forecast(
    config: Mapping[str, Any], file_bytes: int, *, dtype: object, context: int, quantization: object = None
) -> Forecast:
    """Return what a checkpoint takes with files of that size, `context` tokens long, served in `dtype`."""
    text = _text_settings(config)
    weights = file_bytes
    named = (str(place.get(key)) for place in (config, text) for key in ("dtype", "torch_dtype"))
    stored = next((WIDTHS[each] for each in named if each in WIDTHS), None)
    # What is quantized, or does not say how it is stored, is served as it is.
    if stored is not None and not any(place.get("quantization_config") for place in (config, text)):
        if quantization is not None:
            weights = int(file_bytes * _QUANTIZED_WIDTHS.get(str(quantization), stored) / stored)
        else:
            # Left to itself, an engine serves float32 in half of it.
            weights = file_bytes * WIDTHS.get(str(dtype), min(stored, 2)) // stored
    return Forecast(
        weights=weights,
        cache=context * cache_bytes_per_token(config, dtype),
        cache_parts=1 if _number(text, "kv_lora_rank") else max(1, _key_value_heads(text)),
        heads=_number(text, "num_attention_heads"),
    )


def cache_bytes_per_token(config: Mapping[str, Any], dtype: object) -> int:
    """Keys and values of one token over all layers; 0 where the config does not say."""
    text = _text_settings(config)
    width = WIDTHS.get(str(dtype), 2)
    layers = _number(text, "num_hidden_layers")
    kinds = text.get("layer_types")
    if isinstance(kinds, list):
        # Layers with linear attention keep a state of fixed size.
        layers = sum("linear" not in str(each) for each in kinds)
    if latent := _number(text, "kv_lora_rank"):
        return layers * (latent + _number(text, "qk_rope_head_dim")) * width
    heads = _number(text, "num_attention_heads")
    size = _number(text, "head_dim") or (_number(text, "hidden_size") // heads if heads else 0)
    return layers * 2 * _key_value_heads(text) * size * width


def _text_settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a config says of its language model; an older one says it at the top."""
    named = (config.get(key) for key in ("text_config", "llm_config", "language_config"))
    return next((each for each in named if isinstance(each, Mapping)), config)


def _key_value_heads(text: Mapping[str, Any]) -> int:
    return _number(text, "num_key_value_heads") or _number(text, "num_attention_heads")


def _number(settings: Mapping[str, Any], name: str) -> int:
    value = settings.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def known_settings(model: ModelProfile, wishes: Wishes) -> dict[str, Any]:
    """Return the engine's options by long name as far as they are known before it is there."""
    typed = parse_options(wishes.engine_options)
    settings = {**read_config(model.config), **wishes.settings, **typed}
    return {name: normal(value) for name, value in settings.items()}


def memory_needed(model: ModelProfile, wishes: Wishes, weights: Weights | None, *, on_cpu: bool) -> Forecast:
    """Forecast what serving the weights takes, as wished.

    Without their files (None), or where the Hub tells no sizes, the model's number of parameters counts.
    """
    settings = known_settings(model, wishes)
    dtype = model.cpu_dtype if on_cpu and "dtype" not in wishes.settings else settings.get("dtype", "auto")
    context = settings.get("max-model-len")
    config: dict[str, Any] = {}
    size = limit = None
    if weights is not None:
        config, size, limit = weights.settings(CONFIG), weights.weight_bytes, context_limit(weights)
    if size is None and wishes.weights is None:
        size = 2 * model.parameters
        config = {**config, "dtype": "float16"}
    context = context if isinstance(context, int) else 0
    return forecast(
        config,
        size or 0,
        dtype=dtype,
        context=min(context, limit or context),
        quantization=settings.get("quantization"),
    )


def with_free_gpus(
    model: ModelProfile, wishes: Wishes, there: Sequence[Gpu], inherited: str | None
) -> Wishes:
    """Add as many GPUs as are needed, those with most free memory first; named ones stay as they are.

    `there` are those that this process may use itself. An `inherited` CUDA_VISIBLE_DEVICES with a MIG slice
    in it holds as it is: what the slice belongs to is not known here.
    """
    count = gpu_count(known_settings(model, wishes))
    is_free = wishes.gpus.entries is None and "MIG-" not in (inherited or "")
    is_free = is_free and all(gpu.memory_bytes for gpu in there)
    if not is_free or count is None or len(there) <= count:
        return wishes
    # Alike within a GiB they are taken in their order.
    freest = sorted(there, key=lambda gpu: (-(gpu.free_bytes // GIB), gpu.index))[:count]
    entries = tuple(str(index) for index in sorted(gpu.index for gpu in freest))
    return replace(wishes, gpus=GpuLease(entries))


class Placement(NamedTuple):
    """What each engine of a model wishes, with GPUs of its own; where it `waits`, others leave first."""

    wishes: Sequence[Wishes]
    waits: bool = False


def place(
    model: ModelProfile,
    wishes: Wishes,
    there: Sequence[Gpu],
    taken: Sequence[GpuLease] = (),
    *,
    count: int = 1,
    inherited: str | None = None,
) -> Placement:
    """Give each of `count` engines GPUs of its own, apart from those of the `taken` leases.

    They wait where too few are left. One beside nobody takes what it wishes, and so does each of several
    where no GPU is there. GPUs that are named are shared out in their order, and so are the MIG slices of an
    `inherited` CUDA_VISIBLE_DEVICES, which nobody else can choose from. Raises ConfigError where there are
    too few for so many engines.
    """
    if taken:
        apart = _apart(model, wishes, there, taken, count, inherited) if there else None
        if apart is not None:
            return Placement(apart)
    if not there or count == 1:
        return Placement([wishes] * count, waits=bool(taken))
    apart = _apart(model, wishes, there, (), count, inherited)
    if apart is None:
        size, most = gpus_taken(model, wishes), len(wishes.gpus.entries or there)
        which = "that --gpus names" if wishes.gpus.entries else "here"
        raise ConfigError(
            f"--replicas {count}: each takes {size} of the {most} GPUs {which}: {most // size} fit."
        )
    return Placement(apart, waits=bool(taken))


def _apart(
    model: ModelProfile,
    wishes: Wishes,
    there: Sequence[Gpu],
    taken: Sequence[GpuLease],
    count: int,
    inherited: str | None,
) -> list[Wishes] | None:
    """Share out the GPUs that nobody has taken; None where too few are left."""
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
        rest = [gpu for gpu in there if gpu.index not in used]
        for _ in range(count):
            chosen = with_free_gpus(model, wishes, rest, None).gpus.entries
            parts.append(tuple(str(gpu.index) for gpu in rest[:size]) if chosen is None else chosen)
            rest = [gpu for gpu in rest if str(gpu.index) not in parts[-1]]
    if len(parts[-1]) < size:
        return None
    return [replace(wishes, gpus=GpuLease(part)) for part in parts]


def gpus_taken(model: ModelProfile, wishes: Wishes) -> int:
    """How many GPUs its engine takes, by its own config and what is wished; 1 where they are wrong."""
    return gpu_count(known_settings(model, wishes)) or 1


def declares_gpus(model: ModelProfile, wishes: Wishes) -> bool:
    """Tell whether its own config or the wishes say how many GPUs its engine takes."""
    return not known_settings(model, wishes).keys().isdisjoint(_PARALLEL)


def gpus_needed(model: ModelProfile, wishes: Wishes, memory_bytes: int) -> int:
    """How many GPUs of so much memory its engine needs, by the forecast of `check_start`. Blocking.

    Asks the Hub for settings and sizes. Raises ServerError where no number of them is enough or the sizes
    are not known, and what `open_weights` raises.
    """
    weights = weights_to_load(model, wishes)[0]
    needed = memory_needed(model, wishes, weights, on_cpu=False)
    share = known_settings(model, wishes).get("gpu-memory-utilization", USUAL_SHARE)
    if not needed.weights:
        raise ServerError(f"{model.name}: the size of its weights is not known.")
    usable = memory_bytes * (share if isinstance(share, int | float) else USUAL_SHARE)
    fitting = [count for count in SHARED_BY if needed.fits(count, usable)]
    if not fitting:
        raise ServerError(
            f"{model.name}: {SHARED_BY[-1]} GPUs of {memory_bytes / 1e9:.0f} GB are too few for it."
        )
    return fitting[0]


def gpu_count(settings: Mapping[str, Any]) -> int | None:
    """How many GPUs an engine with these options takes; None for options that the plan will refuse."""
    count = 1
    for option in _PARALLEL:
        size = settings.get(option, 1)
        if not isinstance(size, int) or size < 1:
            return None
        count *= size
    return count


def weights_to_load(model: ModelProfile, wishes: Wishes) -> list[Weights]:
    """Return the weights, and the tower that an original LLaVA's are converted with."""
    revision = weights_revision(model, wishes, read_config(model.config))
    weights = open_weights(wishes.weights or model.weights, revision=revision, offline=wishes.offline)
    source = model.source_architecture
    config = weights.settings(CONFIG)
    if source is None or source not in (config.get("architectures") or ()):
        check_layout(weights, model)
        return [weights]
    tower = str(config.get("mm_vision_tower") or "")
    is_folder = (weights.folder / tower).is_dir() or Path(tower).is_dir()
    # The conversion names a tower that is neither.
    if is_folder or tower.count("/") != 1:
        return [weights]
    return [weights, open_weights(tower, revision=None, offline=wishes.offline)]
