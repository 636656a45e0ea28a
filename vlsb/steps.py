"""How far something long is: the one event that downloads, installs, conversions and engine starts report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vlsb.records import Untrusted


@dataclass(frozen=True, slots=True)
class Step:
    """One word on the way. `stage` and `detail` may hold a stranger's words: only an encoder prints them.

    `number` of `count` is the place of the stage where its number is known. `line` is the last one of a log.
    """

    stage: str
    detail: str = ""
    done_bytes: int | None = None
    total_bytes: int | None = None
    number: int = 0
    count: int = 0
    line: Untrusted | None = None


OnProgress = Callable[[Step], None]


def ignore(step: Step) -> None:
    """For a caller that shows nothing."""
