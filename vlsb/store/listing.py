"""Which runs there are, told from the heads of their files: thousands are listed at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vlsb.errors import StoreError
from vlsb.records import Untrusted
from vlsb.store.manifest import read_head
from vlsb.store.state import RESPONSES
from vlsb.store.summaries import find_runs

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class ListedRun:
    """One run in a few words. `rows` counts the lines of its responses, superseded ones too.

    `changed_at` is when its files changed last. `problem` says why its manifest cannot be read.
    """

    path: Path
    target: Untrusted | None
    judges: tuple[Untrusted, ...]
    simulated: bool
    created_at: str
    changed_at: datetime
    rows: int
    problem: str = ""


SORTS: dict[str, Callable[[ListedRun], object]] = {
    "name": lambda run: run.path.name,
    "target": lambda run: ("" if run.target is None else run.target.sha256(), run.path.name),
    "created": lambda run: run.created_at,
    "changed": lambda run: run.changed_at,
    "rows": lambda run: run.rows,
}


def list_runs(paths: Iterable[Path]) -> list[ListedRun]:
    """The runs at or directly below the paths. ConfigError for a path without any."""
    return [_listed(path) for path in find_runs(paths)]


def _listed(path: Path) -> ListedRun:
    changed_at = datetime.fromtimestamp(max(_times(path)), UTC)
    rows = _lines(path / RESPONSES)
    try:
        head = read_head(path)
    except StoreError as error:
        return ListedRun(path, None, (), False, "", changed_at, rows, error.message)
    judges = tuple(entry.name for entry in head.judges)
    return ListedRun(path, head.target, judges, head.simulated, head.created_at, changed_at, rows)


def _times(path: Path) -> Sequence[float]:
    return [each.stat().st_mtime for each in (path, *path.glob("*.json*"))]


def _lines(path: Path) -> int:
    try:
        with path.open("rb") as file:
            return sum(piece.count(b"\n") for piece in iter(lambda: file.read(_PIECE), b""))
    except OSError:
        return 0
