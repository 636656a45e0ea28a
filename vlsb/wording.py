"""Sentences that several rooms say in the same words."""

from __future__ import annotations

from collections.abc import Sequence


def first_of(names: Sequence[object], most: int, *, separator: str = ", ") -> str:
    """Return the first `most` of these, and how many others there are: `a, b and 3 more`."""
    rest = len(names) - most
    last_joint = " and" if separator == ", " else f"{separator}and"
    return separator.join(map(str, names[:most])) + (f"{last_joint} {rest:,} more" if rest > 0 else "")
