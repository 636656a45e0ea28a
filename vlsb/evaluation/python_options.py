"""Options as a script gives them: one value or several, numbers as numbers. What none takes is refused."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from numbers import Real
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeGuard, get_args, get_origin, get_type_hints

from vlsb.errors import ConfigError
from vlsb.evaluation.options import Option, RunOptions, require_path

_WORDS = {str: "a text", Path: "a path", bool: "True or False", int: "a whole number", float: "a number"}


def options_of(given: Mapping[str, Any], *, also: Iterable[str] = ()) -> RunOptions:
    """Read the options that a call was given by name; None leaves a default.

    A single value may stand for a list of one. Raises ConfigError for a name that is not an option, with the
    nearest one (`also` are other names of the call), and for a value that the option does not take.
    """
    # Evaluated on first use: what they name is imported here.
    hints = get_type_hints(RunOptions, include_extras=True)
    names = [each.name for each in fields(RunOptions)]
    for name in given:
        if name not in names:
            near = get_close_matches(name, [*names, *also], n=1)
            meant = f" Did you mean {near[0]}?" if near else " The options are those of vlsb run --help-all."
            raise ConfigError(f"{name}: no option of that name.{meant}")
    values = {name: _value(name, value, hints[name]) for name, value in given.items() if value is not None}
    return RunOptions(**values)


def path_of(name: str, value: object) -> Path:
    """Return a path that a call was given. Raises ConfigError for anything else."""
    path: Path = _single(name, value, Path, None, "a path")
    require_path(name, path)
    return path


def text_of(name: str, value: object) -> str | None:
    """Return a text that a call was given, or None. Raises ConfigError for anything else."""
    if value is None or isinstance(value, str):
        return value
    raise _refused(name, "a text", value)


def _value(name: str, value: object, hint: Any) -> Any:
    """Convert a value to what the option has. Lists of one may be given as the one."""
    kind, option = hint, None
    if get_origin(hint) is Annotated:
        kind, option = get_args(hint)
    if get_origin(kind) is UnionType:
        (kind,) = (each for each in get_args(kind) if each is not type(None))
    if get_origin(kind) is not tuple:
        return _single(name, value, kind, option, _WORDS[kind])
    of = get_args(kind)[0]
    several = value if isinstance(value, list | tuple | set | frozenset) else (value,)
    return tuple(_single(name, each, of, option, f"{_WORDS[of]} or a list of them") for each in several)


def _single(name: str, value: object, kind: type, option: Option | None, wanted: str) -> Any:
    try:
        converted = _converted(kind, value)
    except (TypeError, OverflowError):
        raise _refused(name, wanted, value) from None
    if "\0" in str(converted):
        raise ConfigError(f"{name}: holds a null character, which no text or path of these may.")
    if option is not None and isinstance(converted, int | float):
        least, most = option.min, option.max
        if (least is not None and converted < least) or (most is not None and converted > most):
            ends = f"{least:g} or more" if most is None else f"{least or 0:g} to {most:g}"
            raise ConfigError(f"{name}={converted}: give {ends}.")
    return converted


def _refused(name: str, wanted: str, value: object) -> ConfigError:
    # The value is not repeated: it may be a key, or as long as a file.
    return ConfigError(f"{name}: {wanted} is needed, and not a value of type {type(value).__name__}.")


def _converted(kind: type, value: Any) -> Any:
    """Read a value as an option of that kind. Raises TypeError or OverflowError for any other."""
    if kind in (str, Path) and isinstance(value, os.PathLike):
        return Path(value) if kind is Path else Path(value).as_posix()
    if isinstance(value, str) and kind in (str, Path):
        return kind(value)
    if isinstance(value, bool) and kind is bool:
        return value
    if _is_number(value):
        if kind in (str, float):
            # As it is typed: limit=10, limit=0.1, fail_on_error=0.05.
            return kind(value)
        # A number without an end is no whole one.
        if kind is int and math.isfinite(value) and int(value) == value:
            return int(value)
    raise TypeError


def _is_number(value: object) -> TypeGuard[int | float]:
    """Return whether it is a number, as numpy's are; True is not."""
    return isinstance(value, Real) and not isinstance(value, bool)
