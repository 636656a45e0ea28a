"""The whole of a journal, as tests compare it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from vlsb.store.codec import Json
from vlsb.store.journal import scan_journal

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Contents(Generic[T]):
    """What a journal holds, and how it ends."""

    records: list[T]
    torn_at: int | None
    lacks_newline: bool


def read_journal(path: Path, parse: Callable[[Json], T]) -> Contents[T]:
    """Read every record of a journal."""
    records: list[T] = []
    end = scan_journal(path, lambda record: records.append(parse(record)))
    return Contents(records, end.torn_at, end.lacks_newline)
