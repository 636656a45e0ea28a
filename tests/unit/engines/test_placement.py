"""What serving takes, from published configs: a token's cache, weights as they are served, shared GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from vlsb.engines.placement import ENGINE_BYTES, cache_bytes_per_token, forecast
from vlsb.models.profile import GIB

# Qwen2.5-VL-7B-Instruct: an older layout, everything at the top, the size of a head left to be computed.
FLAT = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "torch_dtype": "bfloat16",
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
}
# Qwen3-VL-8B-Instruct.
NESTED = {
    "architectures": ["Qwen3VLForConditionalGeneration"],
    "text_config": {
        "dtype": "bfloat16",
        "head_dim": 128,
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "num_hidden_layers": 36,
        "num_key_value_heads": 8,
    },
    "vision_config": {"hidden_size": 1152, "num_heads": 16, "depth": 27},
}
# Qwen3.5-27B: every fourth layer sees all tokens, the others keep a state.
HYBRID = {
    "text_config": {
        "dtype": "bfloat16",
        "head_dim": 256,
        "layer_types": [*["linear_attention"] * 3, "full_attention"] * 16,
        "num_attention_heads": 24,
        "num_hidden_layers": 64,
        "num_key_value_heads": 4,
    }
}
# Kimi-VL-A3B: one compressed vector a token and layer, and the part that knows its place.
LATENT = {
    "text_config": {
        "torch_dtype": "bfloat16",
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 64,
        "hidden_size": 2048,
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "num_key_value_heads": 16,
    }
}


@pytest.mark.parametrize(
    ("config", "dtype", "expected"),
    [
        (FLAT, "bfloat16", 57_344),
        # The engine says 36.0 GiB for 262,144 tokens.
        (NESTED, "bfloat16", 36 * GIB // 262_144),
        (NESTED, "float32", 2 * 36 * GIB // 262_144),
        (NESTED, "auto", 36 * GIB // 262_144),
        (HYBRID, "bfloat16", 16 * 2 * 4 * 256 * 2),
        (LATENT, "bfloat16", 27 * (512 + 64) * 2),
    ],
)
def test_the_cache_of_a_token_follows_from_a_published_config(
    config: Mapping[str, Any], dtype: str, expected: int
) -> None:
    assert cache_bytes_per_token(config, dtype) == expected


@pytest.mark.parametrize("key", ["text_config", "llm_config", "language_config"])
def test_the_language_model_is_found_by_any_of_its_names(key: str) -> None:
    assert cache_bytes_per_token({key: NESTED["text_config"]}, "bfloat16") == 147_456


def test_where_no_heads_are_shared_each_keeps_its_own() -> None:
    config = {**FLAT, "num_key_value_heads": None}

    assert cache_bytes_per_token(config, "bfloat16") == 7 * 57_344


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"text_config": {}},
        {"text_config": None, "num_hidden_layers": 28},
        {**FLAT, "num_hidden_layers": "28"},
        {**FLAT, "num_hidden_layers": True},
        {**FLAT, "num_hidden_layers": -1},
        {**FLAT, "num_attention_heads": 0, "num_key_value_heads": 0},
    ],
)
def test_what_a_config_does_not_say_counts_nothing(config: Mapping[str, Any]) -> None:
    found = forecast(config, 10 * GIB, dtype="bfloat16", context=4096)

    assert (found.weights, found.cache) == (10 * GIB, 0)
    assert found.per_gpu(2) == 5 * GIB + ENGINE_BYTES


@pytest.mark.parametrize(
    ("stored", "dtype", "quantization", "share"),
    [
        ("bfloat16", "bfloat16", None, 1),
        ("bfloat16", "float16", None, 1),
        ("bfloat16", "auto", None, 1),
        ("float32", "bfloat16", None, 0.5),
        ("float32", "float32", None, 1),
        # Left to itself, an engine does not serve float32.
        ("float32", "auto", None, 0.5),
        ("bfloat16", "float32", None, 2),
        ("bfloat16", "bfloat16", "fp8", 0.5),
        ("float32", "bfloat16", "fp8", 0.25),
        ("bfloat16", "bfloat16", "bitsandbytes", 0.275),
        # Needs a checkpoint that is stored so.
        ("bfloat16", "bfloat16", "awq", 1),
        ("uint8", "bfloat16", None, 1),
        (["bfloat16"], "bfloat16", "fp8", 1),
    ],
)
@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_weights_count_as_they_are_served(
    key: str, stored: object, dtype: str, quantization: str | None, share: float
) -> None:
    for config in ({key: stored}, {"text_config": {key: stored}}):
        found = forecast(config, 1000, dtype=dtype, context=1, quantization=quantization)

        assert found.weights == 1000 * share


@pytest.mark.parametrize("place", ["top", "text_config"])
def test_a_quantised_checkpoint_is_served_as_it_is_stored(place: str) -> None:
    how = {"quantization_config": {"quant_method": "awq", "bits": 4}}
    config = {**FLAT, **how} if place == "top" else {"text_config": {**FLAT, **how}}

    assert forecast(config, 7 * GIB, dtype="float32", context=1, quantization="fp8").weights == 7 * GIB


def test_gpus_share_weights_and_cache_and_each_has_an_engine() -> None:
    found = forecast(NESTED, 16 * GIB, dtype="bfloat16", context=262_144)

    assert found.total == found.per_gpu(1) == (16 + 36) * GIB + ENGINE_BYTES
    assert found.per_gpu(4) == (4 + 9) * GIB + ENGINE_BYTES


def test_more_gpus_than_heads_hold_copies_of_the_cache() -> None:
    found = forecast(NESTED, 16 * GIB, dtype="bfloat16", context=262_144)

    assert found.per_gpu(16) == 1 * GIB + 36 * GIB // 8 + ENGINE_BYTES


def test_every_gpu_holds_the_whole_of_a_latent_cache() -> None:
    found = forecast(LATENT, 32 * GIB, dtype="bfloat16", context=131_072)

    assert found.cache == 131_072 * 31_104
    assert found.per_gpu(2) == 16 * GIB + found.cache + ENGINE_BYTES
