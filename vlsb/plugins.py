"""What installed packages bring by entry points: commands, data sets, formats, judges. Ours come so too."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from vlsb.errors import ConfigError
from vlsb.records import Untrusted

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


def entry_points(group: str) -> tuple[EntryPoint, ...]:
    """Return the entry points of a group, ours first, then by name and package."""
    return _entry_points(group, tuple(sys.path))


# A sweep asks once a cell, and every package's metadata is read.
@cache
def _entry_points(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    if not any(_may_bring(group, place) for place in path):
        return ()
    from importlib import metadata

    points = metadata.entry_points(group=group)
    return tuple(sorted(points, key=lambda each: (owner(each) != "vlsb", each.name, owner(each))))


def _may_bring(group: str, place: str) -> bool:
    """Tell whether a place on `sys.path` has a package with such entry points.

    The help page asks for commands, which hardly any package brings, and `importlib.metadata` would take a
    quarter of its time.
    """
    try:
        packages = [each.path for each in os.scandir(place or ".") if each.name.endswith("-info")]
    except NotADirectoryError:
        return True
    except OSError:
        return False
    for package in packages:
        with suppress(OSError), open(f"{package}/entry_points.txt", "rb") as file:  # noqa: PTH123 - as fast
            if f"[{group}]".encode() in file.read():
                return True
    return False


def owner(point: EntryPoint) -> str:
    """Return the name of the package that an entry point is of."""
    return point.name if point.dist is None else point.dist.name


def load(point: EntryPoint, what: str) -> Any:
    """Import what an entry point names. Raises ConfigError with the package where that fails."""
    try:
        return point.load()
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"The package {owner(point)} says that {what} is {point.value}, which cannot be imported",
            detail=Untrusted(f"{type(error).__name__}: {error}"),
            advice="Repair or uninstall it.",
        ) from error
