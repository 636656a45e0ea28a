"""Files that are whole or not there, and locks that end with their process.

What these functions have written survives a power loss once they have returned.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Self

_PRIVATE = 0o600


class FileLock:
    """An exclusive lock on a file, made if missing, or on a folder that exists.

    Nothing is locked before `try_lock` or `wait`; the lock ends when the last process that holds `descriptor`
    closes it or dies. Raises OSError for a path that cannot be opened or locked.
    """

    def __init__(self, path: Path, *, is_folder: bool = False) -> None:
        flags = os.O_DIRECTORY if is_folder else os.O_RDWR | os.O_CREAT
        self.descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, _PRIVATE)

    def try_lock(self) -> bool:
        """Take the lock if nobody has it; whether it is ours now."""
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def wait(self) -> None:
        """Take the lock once whoever has it is done. Blocks."""
        fcntl.flock(self.descriptor, fcntl.LOCK_EX)

    def close(self) -> None:
        """Give the lock back. Idempotent."""
        if self.descriptor >= 0:
            # It is given back even where the system says that closing failed.
            with suppress(OSError):
                os.close(self.descriptor)
            self.descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """Make a file that did not exist before, for this user alone; it is on the disk when the block ends.

    Raises FileExistsError. Its name needs `sync_directory`.
    """
    with open(path, "xb", opener=open_private) as file:
        yield file
        sync_file(file)


def open_private(path: str | os.PathLike[str], flags: int) -> int:
    """Open a file for this user alone and follow no link: an `opener`."""
    return os.open(path, flags | os.O_NOFOLLOW, _PRIVATE)


def replace_file(path: Path, parts: Iterable[bytes]) -> None:
    """Put new contents in place as a whole: a reader sees the old file or the new one.

    One writer at a time: the draft is `draft_of(path)`, and one that a killed process left is removed.
    """
    draft = draft_of(path)
    try:
        draft.unlink(missing_ok=True)
        with new_file(draft) as file:
            file.writelines(parts)
        draft.replace(path)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise
    sync_directory(path.parent)


@contextmanager
def created_file(path: Path) -> Iterator[IO[bytes]]:
    """Make a file that appears at its place as a whole when the block ends, and never before.

    Raises FileExistsError if something has taken the place; a draft that a killed process left is removed.
    """
    draft = draft_of(path)
    draft.unlink(missing_ok=True)
    try:
        with new_file(draft) as file:
            yield file
        # Unlike a rename, a link never takes another file's place.
        path.hardlink_to(draft)
    finally:
        draft.unlink(missing_ok=True)
    sync_directory(path.parent)


def draft_of(path: Path) -> Path:
    """Return the path at which `replace_file` writes the next `path`."""
    return path.with_name(f".{path.name}")


def sync_file(file: IO[Any]) -> None:
    """Force what was written to a file to the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Make the names created in a directory survive a power loss."""
    descriptor = os.open(path, os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
