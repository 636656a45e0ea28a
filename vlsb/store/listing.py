"""Which runs there are. A list of them is told from the heads of their files: it may have thousands."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from vlsb.errors import ConfigError, StoreError, first_of
from vlsb.records import Untrusted
from vlsb.store.journal import require_own_files
from vlsb.store.manifest import is_run, near_name, read_head, selected_count
from vlsb.store.state import RESPONSES

_PIECE = 1 << 20
_MOST_FOLDERS = 4
"""This many folders may lie in each other before a run: a sweep's runs are below its own."""
_MOST_NAMED = 3
_WHAT_A_RUN_IS = "A run is a directory with a run.json."


def natural_key(name: str) -> list[tuple[int, str]]:
    """Return a key by which `step-200` comes before `step-1000`, whatever the case of letters."""
    parts = re.split(r"(\d+)", name.casefold())
    return [*((int(part), "") if part.isdecimal() else (-1, part) for part in parts), (-1, name)]


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


SORTS: dict[str, Callable[[ListedRun], object]] = {
    "name": lambda run: (natural_key(run.path.name), natural_key(str(run.path))),
    "target": lambda run: (
        run.target is None,
        Untrusted("") if run.target is None else run.target,
        natural_key(run.path.name),
    ),
    "created": lambda run: run.created_at,
    "changed": lambda run: run.changed_at,
    "rows": lambda run: run.rows,
}


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """Return the runs at or directly below the paths, each once. ConfigError for a path without any."""
    runs: list[Path] = []
    for path in paths:
        if is_run(path):
            runs.append(path)
            continue
        with _named_folder(path):
            children = sorted(path.iterdir())
        inside = [child for child in children if is_run(child)]
        if not inside:
            # What may be meant are the folders of a sweep.
            below = []
            for child in children:
                # Nobody named a folder that cannot be read.
                with suppress(OSError):
                    if (
                        not child.name.startswith(".")
                        and child.is_dir()
                        and any(map(is_run, child.iterdir()))
                    ):
                        below.append(child)
            named = first_of(below, _MOST_NAMED)
            advice = f"There are runs in {named}: name these." if below else _WHAT_A_RUN_IS
            raise ConfigError(f"{path}: no run in it. {advice}")
        runs += inside
    return _each_once(runs)


def _each_once(runs: Iterable[Path]) -> list[Path]:
    return list({run.resolve(): run for run in runs}.values())


@contextmanager
def _named_folder(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = f"{path}: no run there, and not a directory of runs ({error.strerror})."
        raise ConfigError(what, advice=near_name(path)) from error


def list_runs(paths: Iterable[Path]) -> list[ListedRun]:
    """Return the runs at or anywhere below the paths, each once. ConfigError for a path without any."""
    runs: list[Path] = []
    for path in paths:
        with _named_folder(path):
            below = list(_walked(path, _MOST_FOLDERS))
        if not below:
            raise ConfigError(f"{path}: no run in it or below it. {_WHAT_A_RUN_IS}")
        runs += below
    listed = []
    for path in _each_once(runs):
        changed_s = max(each.lstat().st_mtime for each in (path, *path.glob("*.json*")))
        changed_at, rows = datetime.fromtimestamp(changed_s, UTC), 0
        try:
            require_own_files(path)
            with suppress(OSError), (path / RESPONSES).open("rb") as file:
                rows = sum(piece.count(b"\n") for piece in iter(partial(file.read, _PIECE), b""))
            head = read_head(path)
            selected = selected_count(path) * head.epochs
        except StoreError as error:
            listed.append(ListedRun(path, None, (), False, "", changed_at, rows, problem=error.message))
            continue
        judges = tuple(entry.name for entry in head.judges)
        listed.append(
            ListedRun(path, head.target, judges, head.simulated, head.created_at, changed_at, rows, selected)
        )
    return listed


def _walked(path: Path, folders: int) -> Iterator[Path]:
    if is_run(path):
        yield path
        return
    for child in sorted(path.iterdir()):
        if folders and child.is_dir() and not child.is_symlink() and not child.name.startswith("."):
            yield from _walked(child, folders - 1)
