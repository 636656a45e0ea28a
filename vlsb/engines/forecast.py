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
        """Whether `count` GPUs hold it that an engine may use so much of, and share its heads evenly."""
        return self.heads % count == 0 and self.per_gpu(count) <= usable_bytes

    def per_gpu(self, count: int) -> int:
        """What each of `count` GPUs must have."""
        return self.weights // count + self.cache // min(count, self.cache_parts) + ENGINE_BYTES

    @property
    def total(self) -> int:
        """What one GPU alone must have."""
        return self.per_gpu(1)


def forecast(
    config: Mapping[str, Any], file_bytes: int, *, dtype: object, context: int, quantization: object = None
) -> Forecast:
    """What a checkpoint takes with files of that size, `context` tokens long, served in `dtype`."""
    text = _text_settings(config)
    return Forecast(
        weights=_served_bytes(config, file_bytes, dtype, quantization),
        cache=context * cache_bytes_per_token(config, dtype),
        cache_parts=1 if _number(text, "kv_lora_rank") else max(1, _key_value_heads(text)),
        heads=_number(text, "num_attention_heads"),
    )


def _served_bytes(config: Mapping[str, Any], size: int, dtype: object, quantization: object) -> int:
    places = (config, _text_settings(config))
    named = (str(place.get(key)) for place in places for key in ("dtype", "torch_dtype"))
    stored = next((WIDTHS[each] for each in named if each in WIDTHS), None)
    if stored is None or any(place.get("quantization_config") for place in places):
        # Served as it is stored.
        return size
    if quantization is not None:
        return int(size * _QUANTIZED_WIDTHS.get(str(quantization), stored) / stored)
    # Left to itself, an engine serves float32 in half of it.
    return size * WIDTHS.get(str(dtype), min(stored, 2)) // stored


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
    """What a config says of its language model; an older one says it at the top."""
    named = (config.get(key) for key in ("text_config", "llm_config", "language_config"))
    return next((each for each in named if isinstance(each, Mapping)), config)


def _key_value_heads(text: Mapping[str, Any]) -> int:
    return _number(text, "num_key_value_heads") or _number(text, "num_attention_heads")


def _number(settings: Mapping[str, Any], name: str) -> int:
    value = settings.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
