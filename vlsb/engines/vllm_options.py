"""Options of `vllm serve`: read, written as argv, and told apart by whether they can change an answer.

The engine's own parser decides what an option means; here it is read well enough to say what was set.
What is not on the list of those that cannot change an answer can.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from vlsb import strict_json
from vlsb.errors import ConfigError
from vlsb.models.catalog import OVERRULED_IN_FILES, RESERVED

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
    """Turn the settings of a file into argv as the engine reads them, a mapping as JSON for every version.

    A false one is switched off by name.
    """
    return tuple(word for name, value in settings.items() for word in _words(name, value))


def _words(name: str, value: Any) -> Iterator[str]:
    if value is False:
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
