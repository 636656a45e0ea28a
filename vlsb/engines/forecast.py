"""How much memory serving a checkpoint takes, from its config and the size of its files alone.

Three parts: the weights as they are served, the cache of one prompt of full length, which an engine insists
on, and what the engine itself takes. Attention that sees only so far is counted as if it saw everything; what
a config does not say counts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlsb.models.profile import GIB

WIDTHS = {"float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2}
# CUDA's own context, the activations of one step and the vision tower's: what engines of 7B models report.
ENGINE_BYTES = 2 * GIB
# Bits that a weight has under `--quantization`, where the checkpoint is not stored so.
_QUANTIZED_WIDTHS = {"fp8": 1.0, "bitsandbytes": 0.55, "experts_int8": 1.0, "torchao": 1.0}


@dataclass(frozen=True, slots=True)
class Forecast:
    """Bytes in all, over however many GPUs share them: weights, cache, and the engine's own on each GPU."""

    weights: int
    cache: int

    def per_gpu(self, count: int) -> int:
        """What each of `count` GPUs must have."""
        return (self.weights + self.cache) // count + ENGINE_BYTES

    @property
    def total(self) -> int:
        """What one GPU alone must have."""
        return self.per_gpu(1)


def forecast(
    config: Mapping[str, Any], file_bytes: int, *, dtype: object, context: int, quantization: object = None
) -> Forecast:
    """What a checkpoint takes with files of that size, `context` tokens long, served in `dtype`."""
    return Forecast(
        weights=_served_bytes(config, file_bytes, dtype, quantization),
        cache=context * cache_bytes_per_token(config, dtype),
    )


def _served_bytes(config: Mapping[str, Any], size: int, dtype: object, quantization: object) -> int:
    stored = next((WIDTHS[each] for each in _named_dtypes(config) if each in WIDTHS), None)
    served: float | None = WIDTHS.get(str(dtype))
    if "quantization_config" in config or (config.get("text_config") or {}).get("quantization_config"):
        # Stored as it is served.
        return size
    if quantization is not None:
        served = _QUANTIZED_WIDTHS.get(str(quantization))
    return size if stored is None or served is None else int(size * served / stored)


def _named_dtypes(config: Mapping[str, Any]) -> list[object]:
    places = (config, config.get("text_config"))
    return [each.get(key) for each in places if isinstance(each, Mapping) for key in ("dtype", "torch_dtype")]


def cache_bytes_per_token(config: Mapping[str, Any], dtype: object) -> int:
    """Keys and values of one token over all layers; 0 where the config does not say."""
    text = next(
        (
            config[key]
            for key in ("text_config", "llm_config", "language_config")
            if isinstance(config.get(key), Mapping)
        ),
        config,
    )
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
    return layers * 2 * (_number(text, "num_key_value_heads") or heads) * size * width


def _number(settings: Mapping[str, Any], name: str) -> int:
    value = settings.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
