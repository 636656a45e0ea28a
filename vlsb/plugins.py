"""What installed packages bring by entry points: commands, data sets, judges. Ours come by the same way."""

from __future__ import annotations

import sys
from functools import cache
from importlib import metadata
from typing import Any

from vlsb.errors import ConfigError


def entry_points(group: str) -> tuple[metadata.EntryPoint, ...]:
    """Return the entry points of a group, ours first, then by name and package."""
    return _entry_points(group, tuple(sys.path))


# A sweep asks once a cell, and every package's metadata is read.
@cache
def _entry_points(group: str, path: tuple[str, ...]) -> tuple[metadata.EntryPoint, ...]:
    points = metadata.entry_points(group=group)
    return tuple(sorted(points, key=lambda each: (owner(each) != "vlsb", each.name, owner(each))))


def owner(point: metadata.EntryPoint) -> str:
    """Return the name of the package that an entry point is of."""
    return point.name if point.dist is None else point.dist.name


def load(point: metadata.EntryPoint, what: str) -> Any:
    """Import what an entry point names. Raises ConfigError with the package where that fails."""
    try:
        return point.load()
    except Exception as error:
        raise ConfigError(
            f"The package {owner(point)} says that {what} is {point.value}, which cannot be imported: "
            f"{type(error).__name__}: {error}. Repair or uninstall it."
        ) from error
