"""JSON in and out: read by the fast parser, written as pure ASCII.

orjson refuses lone surrogates, which models do emit; the standard library reads those documents, and
reads the same in them: an integer beyond 64 bits is a float. It would also read NaN, endless nesting and
numbers of 5,000 digits: those are not JSON here. What is written is ASCII-escaped, so any text survives
and no line-oriented tool can split a record.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

import orjson

# Deeper than any document of a person; parsers and encoders give up at 500 and more.
_DEEPEST = 64


def loads(document: bytes | str) -> Any:
    """Parse a document. Raises ValueError for anything that is not JSON, and nothing else."""
    try:
        return orjson.loads(document)
    except orjson.JSONDecodeError:
        pass
    try:
        text = document if isinstance(document, str) else document.decode("utf-8-sig")
        return json.loads(text, parse_constant=_refuse, parse_float=_finite, parse_int=_integer)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


def _integer(digits: str) -> int | float:
    number = int(digits)
    return number if -(2**63) <= number < 2**64 else _finite(digits)


def loads_unambiguous(text: str) -> Any:
    """Parse as `loads` does, and refuse a repeated key: for documents whose every key must count."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        document = dict(pairs)
        if len(document) != len(pairs):
            raise ValueError("a key occurs twice")
        return document

    try:
        return json.loads(
            text,
            parse_constant=_refuse,
            parse_float=_finite,
            parse_int=_integer,
            object_pairs_hook=unique,
        )
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def dumps(value: Any, *, indent: int | None = None) -> str:
    """Write ASCII-only JSON. Raises ValueError for NaN, infinities and endless nesting."""
    separators = None if indent else (",", ":")
    try:
        return json.dumps(value, ensure_ascii=True, allow_nan=False, indent=indent, separators=separators)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def is_shallow(value: object, depth: int = _DEEPEST) -> bool:
    """Tell whether lists and objects are nested no deeper than that, and look no deeper."""
    if depth == 0:
        return not isinstance(value, Mapping | list | tuple)
    return all(is_shallow(each, depth - 1) for each in inner_values(value))


def inner_values(value: object) -> Collection[object]:
    """Return the values directly in a list or an object; anything else has none."""
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list | tuple) else ()
