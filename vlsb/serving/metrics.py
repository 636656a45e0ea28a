"""What an engine says of its load: the few figures of its `/metrics` page that a person watches.

The page is Prometheus text with a line a series, one series an engine rank. Names differ between engine
versions; a figure that a version does not have is None, never zero.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass

# A label's value may hold any character, an escaped quote and a closing brace included.
_SAMPLE = re.compile(
    r"""(?P<name>[a-zA-Z_:][\w:]*)
    (?:\{(?P<labels>(?:[^"{}]|"(?:[^"\\]|\\.)*")*)\})?
    [ \t]+(?P<value>\S+)""",
    re.VERBOSE | re.ASCII,
)
_REASON = re.compile(r'(?:^|,)\s*finished_reason="((?:[^"\\]|\\.)*)"')

_ANSWERED = frozenset({"stop", "length"})


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """One look at an engine. Counters grow from its start; `cache_share` is of the fullest rank.

    `answered` counts requests that ended by `stop` or `length`, `unanswered` all others (aborted, failed).
    """

    running: int | None = None
    waiting: int | None = None
    prompt_tokens: int | None = None
    generation_tokens: int | None = None
    cache_share: float | None = None
    answered: int | None = None
    unanswered: int | None = None


def parse_metrics(text: str) -> EngineLoad:
    """The load that a `/metrics` page tells. What is not a sample is passed over."""
    values: defaultdict[str, list[float]] = defaultdict(list)
    for line in text.splitlines():
        found = _SAMPLE.match(line)
        value = None if found is None else _number(found["value"])
        if found is not None and value is not None:
            values[_key(found["name"], found["labels"] or "")].append(value)
    shares = values.get("vllm:kv_cache_usage_perc") or values.get("vllm:gpu_cache_usage_perc")
    return EngineLoad(
        running=_total(values.get("vllm:num_requests_running")),
        waiting=_total(values.get("vllm:num_requests_waiting")),
        prompt_tokens=_total(values.get("vllm:prompt_tokens_total")),
        generation_tokens=_total(values.get("vllm:generation_tokens_total")),
        cache_share=min(1.0, max(shares)) if shares else None,
        answered=_total(values.get("answered")),
        unanswered=_total(values.get("unanswered")),
    )


def _key(name: str, labels: str) -> str:
    """The name that a sample is added up under."""
    if name != "vllm:request_success_total":
        return name
    reason = _REASON.search(labels)
    return "answered" if reason is not None and reason[1] in _ANSWERED else "unanswered"


def _number(digits: str) -> float | None:
    try:
        value = float(digits)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _total(values: list[float] | None) -> int | None:
    return None if not values else round(sum(values))
