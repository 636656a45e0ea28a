"""Sentences that several rooms say in the same words, and the order of names that all of them show."""

from __future__ import annotations

import re
from collections.abc import Sequence


def first_of(names: Sequence[object], most: int, *, separator: str = ", ") -> str:
    """Return the first `most` of these, and how many others there are: `a, b and 3 more`."""
    rest = len(names) - most
    last_joint = " and" if separator == ", " else f"{separator}and"
    return separator.join(map(str, names[:most])) + (f"{last_joint} {rest:,} more" if rest > 0 else "")


def natural_key(name: str) -> list[tuple[int, str]]:
    """Return a key by which `step-200` comes before `step-1000`, whatever the case of letters."""
    parts = re.split(r"(\d+)", name.casefold())
    return [*((int(part), "") if part.isdecimal() else (-1, part) for part in parts), (-1, name)]
