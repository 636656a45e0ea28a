"""Which runs there are, told from the heads of their files: thousands are listed at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vlsb.errors import ConfigError, StoreError
from vlsb.records import Untrusted
from vlsb.store.journal import require_own_files
from vlsb.store.manifest import is_run, near_name, read_head, selected_count
from vlsb.store.state import RESPONSES

_PIECE = 1 << 20
_MOST_FOLDERS = 4
"""So many folders may lie in each other before a run: a sweep's runs are below its own."""
_NUMBERS = re.compile(r"([0-9]+)")


@dataclass(frozen=True, slots=True)
class ListedRun:
    """One run in a few words. `rows` counts the lines of its responses, superseded ones too.

    `selected` is how many responses the run is to have. `changed_at` is when its files changed last.
    `problem` says why its manifest cannot be read.
    """

    path: Path
    target: Untrusted | None
    judges: tuple[Untrusted, ...]
    simulated: bool
    created_at: str
    changed_at: datetime
    rows: int
    selected: int | None = None
    problem: str = ""


def _natural(text: str) -> list[tuple[int, str]]:
    """A key by which `step-200` comes before `step-1000`."""
    return [(int(each), "") if each.isdigit() else (-1, each) for each in _NUMBERS.split(text.casefold())]


SORTS: dict[str, Callable[[ListedRun], object]] = {
    "name": lambda run: (_natural(run.path.name), _natural(str(run.path))),
    "target": lambda run: (
        run.target is None,
        Untrusted("") if run.target is None else run.target,
        _natural(run.path.name),
    ),
    "created": lambda run: run.created_at,
    "changed": lambda run: run.changed_at,
    "rows": lambda run: run.rows,
}


def list_runs(paths: Iterable[Path]) -> list[ListedRun]:
    """The runs at or below the paths, each once. ConfigError for a path without any."""
    found = [run for path in paths for run in _runs_below(path)]
    return [_listed(path) for path in {run.resolve(): run for run in found}.values()]


def _runs_below(path: Path) -> list[Path]:
    try:
        found = list(_walked(path, _MOST_FOLDERS))
    except OSError as error:
        said = f"{path}: no run there, and not a directory of runs ({error.strerror})."
        raise ConfigError(said, advice=near_name(path)) from error
    if not found:
        raise ConfigError(f"{path}: no run in it or below it. A run is a directory with a run.json.")
    return found


def _walked(path: Path, folders: int) -> Iterator[Path]:
    if is_run(path):
        yield path
        return
    for child in sorted(path.iterdir()):
        if folders and child.is_dir() and not child.is_symlink() and not child.name.startswith("."):
            yield from _walked(child, folders - 1)


def _listed(path: Path) -> ListedRun:
    changed_at, rows = datetime.fromtimestamp(max(_times(path)), UTC), 0
    try:
        require_own_files(path)
        rows = _lines(path / RESPONSES)
        head = read_head(path)
        selected = selected_count(path) * head.epochs
    except StoreError as error:
        return ListedRun(path, None, (), False, "", changed_at, rows, problem=error.message)
    judges = tuple(entry.name for entry in head.judges)
    return ListedRun(path, head.target, judges, head.simulated, head.created_at, changed_at, rows, selected)


def _times(path: Path) -> Sequence[float]:
    return [each.lstat().st_mtime for each in (path, *path.glob("*.json*"))]


def _lines(path: Path) -> int:
    try:
        with path.open("rb") as file:
            return sum(piece.count(b"\n") for piece in iter(lambda: file.read(_PIECE), b""))
    except OSError:
        return 0
