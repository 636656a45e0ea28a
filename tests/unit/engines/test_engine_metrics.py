"""The figures read from an engine's `/metrics` page, in both versions' words and whatever else is on it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlsb.engines.supervisor import EngineLoad, parse_metrics

CURRENT = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="llava_hf"} 16.0
vllm:num_requests_waiting{engine="0",model_name="llava_hf"} 240.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="llava_hf",reason="capacity"} 240.0
vllm:kv_cache_usage_perc{engine="0",model_name="llava_hf"} 0.4325
vllm:prompt_tokens_total{engine="0",model_name="llava_hf"} 1.2345e+06
vllm:prompt_tokens_created{engine="0",model_name="llava_hf"} 1.79e+09
vllm:generation_tokens_total{engine="0",model_name="llava_hf"} 287000.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="llava_hf"} 2000.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="llava_hf"} 241.0
vllm:request_success_total{engine="0",finished_reason="abort",model_name="llava_hf"} 2.0
vllm:request_success_total{engine="0",finished_reason="error",model_name="llava_hf"} 1.0
vllm:request_prompt_tokens_bucket{engine="0",le="+Inf",model_name="llava_hf"} 5.0
python_gc_objects_collected_total{generation="0"} 8254.0
"""
OLDER = """\
vllm:num_requests_running{engine="0",model_name="mllama"} 3.0
vllm:num_requests_waiting{engine="0",model_name="mllama"} 0.0
vllm:num_requests_swapped{engine="0",model_name="mllama"} 0.0
vllm:gpu_cache_usage_perc{engine="0",model_name="mllama"} 0.25
vllm:prompt_tokens_total{engine="0",model_name="mllama"} 900.0
vllm:generation_tokens_total{engine="0",model_name="mllama"} 160.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="mllama"} 10.0
"""


def test_the_current_engines_page_is_read() -> None:
    assert parse_metrics(CURRENT) == EngineLoad(
        running=16,
        waiting=240,
        prompt_tokens=1_234_500,
        generation_tokens=287_000,
        cache_share=0.4325,
        answered=2241,
        unanswered=3,
    )


def test_the_older_engines_page_is_read() -> None:
    assert parse_metrics(OLDER) == EngineLoad(
        running=3,
        waiting=0,
        prompt_tokens=900,
        generation_tokens=160,
        cache_share=0.25,
        answered=10,
        unanswered=None,
    )


def test_ranks_are_added_up_and_the_fullest_cache_counts() -> None:
    second = CURRENT.replace('engine="0"', 'engine="1"').replace("0.4325", "0.9")

    load = parse_metrics(CURRENT + second)

    assert (load.running, load.waiting, load.answered) == (32, 480, 4482)
    assert load.cache_share == 0.9


@pytest.mark.parametrize("name", ['llava"}{,', "a b", "back\\\\slash", "finished_reason=stop", "}"])
def test_a_models_name_cannot_break_a_line(name: str) -> None:
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')

    load = parse_metrics(f'vllm:num_requests_running{{model_name="{quoted}",engine="0"}} 7.0\n')

    assert load.running == 7


def test_what_a_page_does_not_say_is_unknown_and_not_zero() -> None:
    assert parse_metrics("") == EngineLoad()
    assert parse_metrics("<html>502</html>\n# vllm:num_requests_running 3\n") == EngineLoad()


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-1", "many", "1_0x"])
def test_a_value_that_is_no_count_is_passed_over(value: str) -> None:
    assert parse_metrics(f"vllm:num_requests_running {value}\n") == EngineLoad()


@given(st.text(alphabet='vllm:num_requests_running{}",\\= 0.\n', max_size=200))
def test_text_of_a_pages_own_characters_is_read_without_an_error(text: str) -> None:
    parse_metrics(text)
