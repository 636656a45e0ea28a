"""The files below some folders: each call that the program makes there is seen, and may fail.

Files that are opened there are those of `_pyio`, all of whose work is done by calls of `os`.
"""

from __future__ import annotations

import _pyio  # type: ignore[import-not-found]
import builtins
import fcntl
import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple, Protocol
from unittest.mock import patch

# Those that name a file, and those that are about an open one.
_BY_PATH = ("open", "mkdir", "unlink", "remove", "rename", "replace", "link", "scandir", "listdir", "stat")
_BY_DESCRIPTOR = ("read", "pread", "write", "pwrite", "fsync", "ftruncate", "close")


class Call(NamedTuple):
    """A call of the system; `arguments` are all of them, and the first names `path` or a file of it."""

    name: str
    path: str
    arguments: tuple[Any, ...]


class Watcher(Protocol):
    """Who sees the calls."""

    def before(self, call: Call) -> Sequence[Any]:
        """The arguments with which the call is made. What this raises, the program gets."""
        ...

    def after(self, call: Call, result: Any) -> None:
        """The call was made."""
        ...


class Disk:
    """The calls about files below `roots`, each shown to a watcher."""

    def __init__(self, roots: Sequence[Path], watcher: Watcher) -> None:
        self._roots = tuple(map(str, roots))
        self._watcher = watcher
        self._open: dict[int, str] = {}
        self._lock = RLock()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Watch while the block runs."""
        with ExitStack() as held:
            for name in (*_BY_PATH, *_BY_DESCRIPTOR):
                held.enter_context(patch.object(os, name, self._watched(name, getattr(os, name))))
            held.enter_context(patch.object(fcntl, "flock", self._watched("flock", fcntl.flock)))
            real = builtins.open

            def open_(file: Any, *arguments: Any, **options: Any) -> Any:
                watched = self._path(file, None)
                return (real if watched is None else _pyio.open)(file, *arguments, **options)

            held.enter_context(patch.object(builtins, "open", open_))
            held.enter_context(patch.object(io, "open", open_))
            if (threads := sys.modules.get("aiofiles.threadpool")) is not None:
                held.enter_context(patch.object(threads, "sync_open", open_))
            yield

    def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(first: Any, *others: Any, **options: Any) -> Any:
            path = self._path(first, options.get("dir_fd"))
            if path is None:
                return real(first, *others, **options)
            with self._lock:
                made = Call(name, path, (first, *others))
                if name == "close":
                    # A file is closed even where the system then says that something failed.
                    real(first)
                    del self._open[first]
                    self._watcher.before(made)
                    return self._watcher.after(made, None)
                result = real(*self._watcher.before(made), **options)
                if name == "open":
                    self._open[result] = path
                self._watcher.after(made, result)
                return result

        return call

    def _path(self, file: Any, folder: int | None) -> str | None:
        """The absolute path of what is watched; None for anything else."""
        if isinstance(file, int):
            return self._open.get(file)
        if not isinstance(file, str | os.PathLike):
            return None
        path = os.fspath(file)
        if folder is not None and folder in self._open:
            path = f"{self._open[folder]}/{path}"
        is_ours = isinstance(path, str) and any(
            path == root or path.startswith(f"{root}/") for root in self._roots
        )
        return path if is_ours else None


# What was done, for the orders in which it may have reached the disk.


@dataclass(frozen=True)
class Op:
    """A change: of a name (`names` has what each path then leads to, None for nothing) or of a file's bytes.

    A file is its number. A sync is of a `file` or of a `folder`.
    """

    kind: str
    at_s: float
    folder: str = ""
    names: tuple[tuple[str, int | None], ...] = ()
    file: int = 0
    offset: int = 0
    data: bytes = b""


RETURNED = "returned"
"""The kind of a mark: the program had come to its end, and said so."""
FOLDER = 0
"""The number of everything that is a folder."""


def moved(names: Mapping[str, int], old: str, new: str) -> dict[str, int]:
    """Give what stands below the folder `old` its names below `new`."""
    return {
        new + path.removeprefix(old) if path.startswith(f"{old}/") else path: number
        for path, number in names.items()
    }


@dataclass(frozen=True)
class Trace:
    """What stood below a folder at first, and everything that was then done to it."""

    root: str
    names: dict[str, int]
    files: dict[int, bytes]
    ops: Sequence[Op]


class Recorder:
    """A watcher that notes what changes files or forces them to the disk."""

    def __init__(self, root: Path, now: Callable[[], float]) -> None:
        self._root, self._now = str(root), now
        self._names: dict[str, int] = {}
        self._sizes: dict[int, int] = {}
        self._descriptors: dict[int, tuple[int, bool]] = {}
        self._next = FOLDER + 1
        self.ops: list[Op] = []
        files: dict[int, bytes] = {}
        for path in sorted(root.rglob("*")):
            if path.is_dir():
                self._names[str(path)] = FOLDER
            else:
                number = self._names[str(path)] = self._new_file()
                files[number] = path.read_bytes()
                self._sizes[number] = len(files[number])
        self._began = dict(self._names), files

    @property
    def trace(self) -> Trace:
        """All that was noted."""
        return Trace(self._root, *self._began, self.ops)

    def mark(self, kind: str) -> None:
        """Note that the program has come so far."""
        self.ops.append(Op(kind, self._now()))

    def before(self, call: Call) -> Sequence[Any]:
        """Change nothing."""
        return call.arguments

    def after(self, call: Call, result: Any) -> None:
        """Note what was done."""
        match call.name:
            case "open":
                self._opened(call, result)
            case "mkdir":
                self._named("mkdir", call.path, ((call.path, FOLDER),))
            case "unlink" | "remove":
                self._named("unlink", call.path, ((call.path, None),))
            case "rename" | "replace":
                target = str(call.arguments[1])
                self._named("rename", target, ((call.path, None), (target, self._names[call.path])))
            case "link":
                target = str(call.arguments[1])
                self._named("link", target, ((target, self._names[call.path]),))
            case "write" | "pwrite":
                self._written(call, result)
            case "ftruncate":
                self._cut(self._descriptors[call.arguments[0]][0], call.arguments[1])
            case "fsync":
                number = self._descriptors[call.arguments[0]][0]
                folder = call.path if number == FOLDER else ""
                self.ops.append(Op("sync", self._now(), folder=folder, file=number))

    def _new_file(self) -> int:
        number, self._next = self._next, self._next + 1
        self._sizes[number] = 0
        return number

    def _opened(self, call: Call, descriptor: int) -> None:
        flags = call.arguments[1]
        if call.path not in self._names and call.path != self._root:
            self._named("create", call.path, ((call.path, self._new_file()),))
        number = self._names.get(call.path, FOLDER)
        self._descriptors[descriptor] = number, bool(flags & os.O_APPEND)
        if flags & os.O_TRUNC and self._sizes[number]:
            self._cut(number, 0)

    def _named(self, kind: str, path: str, names: tuple[tuple[str, int | None], ...]) -> None:
        for name, number in names:
            if number is None:
                del self._names[name]
            else:
                self._names[name] = number
        if kind == "rename" and names[1][1] == FOLDER:
            self._names = moved(self._names, names[0][0], names[1][0])
        self.ops.append(Op(kind, self._now(), folder=os.path.dirname(path), names=names))  # noqa: PTH120

    def _written(self, call: Call, count: int) -> None:
        descriptor, data = call.arguments[:2]
        number, appends = self._descriptors[descriptor]
        if call.name == "pwrite":
            offset = call.arguments[2]
        else:
            offset = self._sizes[number] if appends else os.lseek(descriptor, 0, os.SEEK_CUR) - count
        self._sizes[number] = max(self._sizes[number], offset + count)
        self.ops.append(Op("write", self._now(), file=number, offset=offset, data=bytes(data[:count])))

    def _cut(self, number: int, size: int) -> None:
        self._sizes[number] = size
        self.ops.append(Op("cut", self._now(), file=number, offset=size))
