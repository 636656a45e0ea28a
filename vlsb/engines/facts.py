"""What a server's run records: whatever can change an answer, and where that leaves the paper's setting.

Facts are JSON without a path of this machine, equal wherever the same answers are to be expected. Options of
`vllm serve` are read here and written as argv. The engine's own parser decides what one means; all that is
known here is which of them cannot change an answer.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vlsb import strict_json
from vlsb.endpoints.credentials import WITHHELD, is_secret_name
from vlsb.engines.checkpoint import CONFIG, Weights, chat_template, content_digest, file_digest, json_object
from vlsb.engines.install import Engine
from vlsb.errors import ConfigError
from vlsb.models.catalog import OVERRULED_IN_FILES, RESERVED, read_config
from vlsb.models.profile import ModelProfile, shipped_config

_SAME_DTYPES = MappingProxyType({"half": "float16", "float": "float32"})
# What the engine takes from a generation config, and the ids that end an answer.
_SAMPLING = (
    "eos_token_id",
    "max_new_tokens",
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "temperature",
    "top_k",
    "top_p",
)
# What decides which pixels a model sees.
_IMAGE = (
    "crop_size",
    "do_center_crop",
    "do_pad",
    "do_resize",
    "image_grid_pinpoints",
    "image_processor_type",
    "max_image_tiles",
    "max_pixels",
    "min_pixels",
    "size",
)
# Whether an engine sets a thought apart or leaves it before the answer, the answer is the same.
_OF_THE_PROFILE = frozenset({"reasoning-parser"})
# They change how much work is done where, and numbers in their last digits: recorded, no deviation.
_ON_THIS_MACHINE = frozenset(
    {
        "data-parallel-size",
        "distributed-executor-backend",
        "enforce-eager",
        "max-model-len",
        "pipeline-parallel-size",
        "tensor-parallel-size",
    }
)
_PARALLEL = MappingProxyType(
    {"tensor": "tensor-parallel-size", "pipeline": "pipeline-parallel-size", "data": "data-parallel-size"}
)
# These have a fact of their own.
_OWN_FACT = frozenset({"chat-template", "dtype", "generation-config", "max-model-len", *_PARALLEL.values()})
# Variables of the engine that say nothing about an answer.
_PLAIN_VARIABLES = frozenset(
    {
        *WITHHELD,
        "VLLM_CACHE_ROOT",
        "VLLM_CONFIG_ROOT",
        "VLLM_CONFIGURE_LOGGING",
        "VLLM_CPU_KVCACHE_SPACE",
        "VLLM_CPU_NUM_OF_RESERVED_CPU",
        "VLLM_CPU_OMP_THREADS_BIND",
        "VLLM_DO_NOT_TRACK",
        "VLLM_ENGINE_READY_TIMEOUT_S",
        "VLLM_HOST_IP",
        "VLLM_LOGGING_CONFIG_PATH",
        "VLLM_LOGGING_LEVEL",
        "VLLM_LOGGING_PREFIX",
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS",
        "VLLM_NO_USAGE_STATS",
        "VLLM_PORT",
        "VLLM_RPC_BASE_PATH",
        "VLLM_RPC_TIMEOUT",
        "VLLM_USAGE_SOURCE",
        "VLLM_USAGE_STATS_SERVER",
    }
)
_LONGEST_SHOWN = 80


def server_facts(
    model: ModelProfile,
    engine: Engine,
    weights: Weights,
    effective: Mapping[str, Any],
    environment: Mapping[str, str],
    *,
    on_cpu: bool,
) -> dict[str, Any]:
    """Return what can change an answer.

    `effective` are the engine's options by long name, in their normal form.
    """
    dtype = str(effective.get("dtype", "auto"))
    own_images = weights.settings("preprocessor_config.json")
    inner_images = weights.settings("processor_config.json").get("image_processor")
    images = own_images or (inner_images if isinstance(inner_images, dict) else {})
    others = {
        name: _portable(value)
        for name, value in sorted(effective.items())
        if name not in CANNOT_CHANGE_AN_ANSWER | _OWN_FACT | _OF_THE_PROFILE
    }
    prompt = {} if model.prompt_source != "own" else {"prompt": "own chat template"}
    # What decides about sampling and the end of an answer where a request says nothing.
    generation = effective.get("generation-config", "auto")
    if generation == "auto":
        generation = _subset(weights.settings("generation_config.json"), _SAMPLING)
    elif generation != "vllm":
        place = Path(str(generation)).expanduser() / "generation_config.json"
        generation = _subset(json_object(place), _SAMPLING)
    return {
        "family": model.family,
        **prompt,
        "engine": {
            "name": "vllm",
            # Whether the CPU build says so depends on how it was installed.
            "version": engine.version.removesuffix("+cpu"),
            "device": "cpu" if on_cpu else "gpu",
        },
        "weights": weights.identity(),
        "dtype": _SAME_DTYPES.get(dtype, dtype),
        "context": effective.get("max-model-len"),
        "parallel": {name: effective.get(option, 1) for name, option in _PARALLEL.items()},
        "chat_template_sha256": _template_digest(effective.get("chat-template"), weights),
        "pictures": _subset(images, _IMAGE),
        "generation": generation,
        "options": others,
        "variables": {
            name: _portable(normal(value))
            for name, value in sorted(environment.items())
            if name.startswith("VLLM_") and name not in _PLAIN_VARIABLES and not is_secret_name(name)
        },
    }


def _template_digest(given: object, weights: Weights) -> str | None:
    if given is None:
        template = chat_template(weights)
        return None if template is None else _text_digest(template)
    if is_inline(str(given)):
        return _text_digest(str(given))
    return file_digest(Path(str(given)).expanduser())


def _text_digest(text: str) -> str:
    # A template may hold a lone surrogate, which JSON can carry and UTF-8 cannot.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _subset(settings: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: settings[name] for name in names if settings.get(name) is not None}


def _portable(value: Any) -> Any:
    """A value without paths of this machine: a file or folder becomes its last name and its content."""
    if isinstance(value, dict):
        return {name: _portable(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_portable(each) for each in value]
    if not isinstance(value, str):
        return value
    name, equals, setting = value.partition("=")
    if equals and setting.startswith("/"):
        return {name: _portable(setting)}
    if "/" not in value:
        return value
    path = Path(value).expanduser()
    try:
        if path.is_file():
            return {"file": path.name, "digest": file_digest(path)}
        if path.is_dir():
            return {"folder": path.name, "digest": content_digest(path)}
    except (OSError, ValueError):
        # Too long for a path, or with a zero byte.
        return value
    return {"missing": path.name} if path.is_absolute() else value


# Deviations.


def setting_deviations(
    model: ModelProfile, weights: Weights, effective: Mapping[str, Any], facts: Mapping[str, Any]
) -> Iterator[str]:
    """In words, where options and weights leave what the authors' loader does or the family's file says."""
    shipped = read_config(shipped_config(f"{model.family}.yaml"))
    usual = "official" if model.is_of_the_paper else "the family's file"
    if facts["dtype"] != model.dtype:
        yield f"target dtype: {_shown(facts['dtype'])} ({usual}: {model.dtype})"
    official = None if model.chat_template is None else str(shipped_config(model.chat_template))
    if facts["chat_template_sha256"] != _template_digest(official, weights):
        yield "target chat template: another than the family's"
    if effective.get("generation-config", "auto") != "auto":
        yield "target generation config: not the checkpoint's own"
    context, longest = effective.get("max-model-len"), shipped["max-model-len"]
    least = min(longest, context_limit(weights) or longest)
    if isinstance(context, int) and context < least:
        yield f"target context: {context} tokens (official: not limited; {least} hold every picture)"
    if "quantization_config" in weights.settings(CONFIG):
        yield "target weights: quantized (official: not)"
    for name, value in facts["options"].items():
        if name not in _ON_THIS_MACHINE and value != normal(shipped.get(name)):
            yield f"target engine option --{name}: {_shown(value)} ({_usual(shipped.get(name))})"
    for name in shipped:
        is_lost = name not in effective and name not in CANNOT_CHANGE_AN_ANSWER
        if is_lost and name not in _ON_THIS_MACHINE | _OWN_FACT:
            yield f"target engine option --{name}: not set ({_usual(shipped[name])})"


def _usual(value: Any) -> str:
    return "added" if value is None else f"the family's file: {_shown(normal(value))}"


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else strict_json.dumps(value)
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 3] + "..."


def is_inline(template: str) -> bool:
    """Tell whether it is a template itself and not a path; the engine tells them apart in this way too."""
    return any(each in template for each in "{}\n")


def context_limit(weights: Weights) -> int | None:
    """How many tokens the model was made for; the engine refuses a longer context."""
    config = weights.settings(CONFIG)
    for place in (config.get("text_config"), config.get("llm_config"), config):
        if not isinstance(place, dict):
            continue
        limit = place.get("max_position_embeddings")
        if isinstance(limit, int) and limit > 0:
            return limit
    return None


# Options of `vllm serve`.

# What people set for a machine's sake, and what our own files set: how an answer is computed stays the same.
# Any other option is recorded and compared as it was written.
CANNOT_CHANGE_AN_ANSWER = frozenset(
    {
        *OVERRULED_IN_FILES,
        "allowed-media-domains",
        "cpu-offload-gb",
        "disable-log-requests",
        "disable-uvicorn-access-log",
        "download-dir",
        "gpu-memory-utilization",
        "kv-cache-memory-bytes",
        "max-num-batched-tokens",
        "max-num-seqs",
        "mm-processor-cache-gb",
        "swap-space",
    }
)

_NUMBER = re.compile(r"-?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")


def parse_options(tokens: Sequence[str]) -> dict[str, Any]:
    """Return what a command line sets, by long name, the last word winning as in the engine's parser.

    `--no-x` is false, a bare flag true; `--a.b 1` gives `{"a": {"b": 1}}`. Raises ConfigError for what is
    decided elsewhere and for words that belong to no option.
    """
    options: dict[str, Any] = {}
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
        elif name == "middleware" and name in options:
            options[name] = [*_as_list(options[name]), *_as_list(value)]
        else:
            options[name] = value
    # The engine puts them together behind all the others.
    return options | dotted


def _options(tokens: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Each option with its values, which are the words up to the next option."""
    rest = list(tokens)
    while rest:
        token = rest.pop(0)
        if not _is_option(token):
            raise ConfigError("the first word after -- is not an engine option: those start with a dash.")
        if not token.startswith("--"):
            raise ConfigError(
                "engine options are given by their long names here: --tensor-parallel-size, not -tp."
            )
        values = []
        while rest and not _is_option(rest[0]):
            values.append(rest.pop(0))
        yield token, values


def _is_option(token: str) -> bool:
    return token.startswith("-") and len(token) > 1 and _NUMBER.fullmatch(token) is None


def _meaning(token: str, values: list[str]) -> tuple[str, Any]:
    token, equals, inline = token.partition("=")
    values = [inline, *values] if equals else values
    head, dot, path = token.partition(".")
    name = head.lstrip("-").replace("_", "-")
    if path.endswith("+"):
        return f"{name}.{path[:-1]}", [normal(each) for each in ",".join(values).split(",")]
    if not values and name.startswith("no-"):
        return name.removeprefix("no-"), False
    return f"{name}{dot}{path}", normal(values or True)


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
    """Turn the settings of a file into argv as the engine reads them, a mapping as JSON for every version.

    A false one is switched off by name.
    """
    words: list[str] = []
    for name, value in settings.items():
        if value is False:
            words.append(f"--no-{name}")
        elif value is True:
            words.append(f"--{name}")
        elif isinstance(value, list):
            # Without items the option would lack its value.
            words += [f"--{name}", *map(str, value)] if value else []
        elif isinstance(value, dict):
            words += [f"--{name}", strict_json.dumps(value)]
        elif str(value).startswith("-"):
            words.append(f"--{name}={value}")
        else:
            words += [f"--{name}", str(value)]
    return tuple(words)
