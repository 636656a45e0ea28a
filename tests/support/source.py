"""The program's source, for tests of what it says."""

from __future__ import annotations

import ast
import gc
from collections.abc import Iterator
from pathlib import Path

import vlsb

PACKAGE = Path(vlsb.__file__).parent


def parsed(path: Path) -> ast.Module:
    """Parse a file.

    The garbage collector would walk through every node that is there so far, again and again, and a tree has
    no cycle.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(path.read_text("utf-8"))
    finally:
        if was_enabled:
            gc.enable()


def trees() -> Iterator[tuple[Path, ast.Module]]:
    """Parse every module, one after the other; all at once are a third of a million nodes."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path, parsed(path)
