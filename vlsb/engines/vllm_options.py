"""Options of `vllm serve`: read, written as argv, and told apart by whether they can change an answer.

The engine's own parser decides what an option means; here it is read well enough to say what was set.
What is not on the list of those that cannot change an answer can.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from vlsb import strict_json
from vlsb.errors import ConfigError
from vlsb.models.catalog import OVERRULED_IN_FILES, RESERVED

# Other spellings of the engine's; `-O` is read apart, because its value may be glued to it.
ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "--device-memory-utilization": "gpu-memory-utilization",
        "-ac": "attention-config",
        "-asc": "api-server-count",
        "-cc": "compilation-config",
        "-dc": "diffusion-config",
        "-dcp": "decode-context-parallel-size",
        "-dp": "data-parallel-size",
        "-dpa": "data-parallel-address",
        "-dpb": "data-parallel-backend",
        "-dpe": "data-parallel-external-lb",
        "-dph": "data-parallel-hybrid-lb",
        "-dpl": "data-parallel-size-local",
        "-dpm": "data-parallel-multi-port-external-lb",
        "-dpn": "data-parallel-rank",
        "-dpp": "data-parallel-rpc-port",
        "-dpr": "data-parallel-start-rank",
        "-ep": "enable-expert-parallel",
        "-n": "nnodes",
        "-pcp": "prefill-context-parallel-size",
        "-pp": "pipeline-parallel-size",
        "-q": "quantization",
        "-r": "node-rank",
        "-sc": "speculative-config",
        "-tp": "tensor-parallel-size",
    }
)

# They are off unless given and have no `--no-` form.
BARE_FLAGS = frozenset(
    {
        "aggregate-engine-logging",
        "allow-credentials",
        "data-parallel-multi-port-external-lb",
        "disable-async-output-proc",
        "disable-fastapi-docs",
        "disable-frontend-multiprocessing",
        "disable-log-requests",
        "disable-log-stats",
        "disable-mm-preprocessor-cache",
        "disable-uvicorn-access-log",
        "enable-auto-tool-choice",
        "enable-force-include-usage",
        "enable-multimodal-encoder-data-parallel",
        "enable-prompt-tokens-details",
        "enable-request-id-headers",
        "enable-server-load-tracking",
        "enable-ssl-refresh",
        "expand-tools-even-if-tool-choice-none",
        "return-tokens-as-token-ids",
        "use-v2-block-manager",
    }
)


# Memory, addresses, concurrency, logs, metrics: how an answer is computed stays the same.
CANNOT_CHANGE_AN_ANSWER = frozenset(
    {
        *OVERRULED_IN_FILES,
        # Addresses and processes.
        "allow-credentials",
        "allowed-headers",
        "allowed-media-domains",
        "allowed-methods",
        "allowed-origins",
        "api-server-count",
        "cpu-distributed-timeout-seconds",
        "data-parallel-address",
        "data-parallel-rpc-port",
        "disable-fastapi-docs",
        "disable-frontend-multiprocessing",
        "distributed-timeout-seconds",
        "enable-offline-docs",
        "enable-request-id-headers",
        "enable-ssl-refresh",
        "h11-max-header-count",
        "h11-max-incomplete-event-size",
        "master-addr",
        "master-port",
        "numa-bind",
        "numa-bind-cpus",
        "numa-bind-nodes",
        "renderer-num-workers",
        "shutdown-timeout",
        "sse-keep-alive-interval",
        # Memory.
        "cpu-offload-gb",
        "disable-mm-preprocessor-cache",
        "download-dir",
        "gpu-memory-utilization",
        "kv-cache-memory-bytes",
        "max-parallel-loading-workers",
        "mm-processor-cache-gb",
        "mm-processor-cache-type",
        "mm-shm-cache-max-object-size-mb",
        "num-gpu-blocks-override",
        "safetensors-load-strategy",
        "safetensors-prefetch-block-size",
        "safetensors-prefetch-num-threads",
        "skip-mm-profiling",
        "swap-space",
        "use-tqdm-on-load",
        # Concurrency.
        "max-num-active-seqs",
        "max-num-batched-tokens",
        "max-num-queued-reqs",
        "max-num-queued-tokens",
        "max-num-seqs",
        "scheduling-policy",
        "stream-interval",
        # Logs and metrics.
        "aggregate-engine-logging",
        "collect-detailed-traces",
        "cudagraph-metrics",
        "custom-histogram-buckets",
        "disable-access-log-for-endpoints",
        "disable-log-requests",
        "disable-log-stats",
        "disable-uvicorn-access-log",
        "enable-force-include-usage",
        "enable-log-deltas",
        "enable-log-outputs",
        "enable-log-requests",
        "enable-logging-iteration-details",
        "enable-mfu-metrics",
        "enable-per-request-metrics",
        "enable-prompt-tokens-details",
        "enable-server-load-tracking",
        "kv-cache-metrics",
        "kv-cache-metrics-sample",
        "log-config-file",
        "log-error-stack",
        "log-level",
        "logging-config",
        "max-log-len",
        "otlp-traces-endpoint",
        "show-hidden-metrics-for-version",
        "uvicorn-log-level",
    }
)

_NUMBER = re.compile(r"-?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")
_OPTIMIZATION = re.compile(r"-O=?(.*)")


def parse_options(tokens: Sequence[str]) -> dict[str, Any]:
    """What a command line sets, by long name, the last word winning as in the engine's parser.

    `--no-x` is false, a bare flag true; `--a.b 1` gives `{"a": {"b": 1}}`. Raises ConfigError for what is
    decided elsewhere and for words that belong to no option.
    """
    found: dict[str, Any] = {}
    dotted: dict[str, dict[str, Any]] = {}
    for token, values in _options(tokens):
        name, value = _meaning(token, values)
        name, *path = name.split(".")
        for reserved, instead in RESERVED.items():
            # The engine's parser takes any beginning of an option's name for the whole.
            if name and reserved.startswith(name):
                raise ConfigError(f"--{name} cannot be given to the engine here: {instead}.")
        if path:
            target = dotted.setdefault(name, {})
            for key in path[:-1]:
                below = target.get(key)
                target[key] = target = below if isinstance(below, dict) else {}
            target[path[-1]] = value
        elif name == "middleware" and name in found:
            found[name] = [*_as_list(found[name]), *_as_list(value)]
        else:
            found[name] = value
    # The engine puts them together behind all the others.
    return found | dotted


def _options(tokens: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Each option with its values, which are the words up to the next option."""
    rest = list(tokens)
    while rest:
        token = rest.pop(0)
        if not _is_option(token):
            raise ConfigError("the first word after -- is no engine option: those start with a dash.")
        values = []
        while rest and not _is_option(rest[0]):
            values.append(rest.pop(0))
        yield token, values


def _is_option(token: str) -> bool:
    return token.startswith("-") and len(token) > 1 and _NUMBER.fullmatch(token) is None


def _meaning(token: str, values: list[str]) -> tuple[str, Any]:
    if optimization := _OPTIMIZATION.fullmatch(token):
        return "optimization-level", normal(_only([*filter(None, [optimization[1]]), *values]))
    token, equals, inline = token.partition("=")
    values = [inline, *values] if equals else values
    head, dot, path = token.partition(".")
    head = head.replace("_", "-")
    name = ALIASES.get(head) or head.lstrip("-")
    if path.endswith("+"):
        return f"{name}.{path[:-1]}", [normal(each) for each in ",".join(values).split(",")]
    if not values and name.startswith("no-"):
        return name.removeprefix("no-"), False
    return f"{name}{dot}{path}", normal(_only(values))


def _only(values: list[str]) -> Any:
    return True if not values else values[0] if len(values) == 1 else values


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def require_whole_name(name: str, names: Iterable[str]) -> None:
    """ConfigError where one of the names is a beginning of this one, which the engine would complete."""
    for each in names:
        if each != name and name.startswith(each):
            raise ConfigError(f"--{each} would be taken for --{name}. Write the name in full.")


def normal(value: Any) -> Any:
    """A value in the one form in which it compares: numbers as numbers, JSON as what it says."""
    if isinstance(value, list):
        return normal(value[0]) if len(value) == 1 else [normal(each) for each in value]
    if isinstance(value, dict):
        return {str(key): normal(each) for key, each in value.items()}
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text[:1] in ("{", "[") or _NUMBER.fullmatch(text):
        try:
            return normal(strict_json.loads(text))
        except ValueError:
            return value
    return value


def option_words(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The settings of a file as argv: as the engine itself reads it, and a mapping as JSON for every version.

    A false one is switched off by name where it can be; elsewhere leaving it out says the same.
    """
    return tuple(word for name, value in settings.items() for word in _words(name, value))


def _words(name: str, value: Any) -> Iterator[str]:
    if value is False:
        if name not in BARE_FLAGS:
            yield f"--no-{name}"
    elif value is True:
        yield f"--{name}"
    elif isinstance(value, list):
        # Without items the option would lack its value.
        yield from [f"--{name}", *map(str, value)] if value else []
    elif isinstance(value, dict):
        yield from (f"--{name}", strict_json.dumps(value))
    elif str(value).startswith("-"):
        yield f"--{name}={value}"
    else:
        yield from (f"--{name}", str(value))
