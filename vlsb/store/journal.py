"""Append-only JSONL that survives being killed at any byte.

A record is one immediate `os.write` of one line, so a killed process loses nothing that was written.
Only `fsync` is grouped. Reading splits bytes at 0x0A and nothing else: text may hold any other separator.
"""

from __future__ import annotations

import errno
import os
import shlex
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from vlsb import strict_json
from vlsb.errors import RunLockedError, StoreError
from vlsb.files import FileLock, replace_file, sync_directory, sync_file
from vlsb.records import Untrusted
from vlsb.store.codec import Json

# A run is read from end to end: fewer and larger reads than the usual eight kilobytes.
_READ_AT_ONCE = 1024 * 1024


def require_own_files(run: Path) -> None:
    """Raise StoreError where anything in a run directory is a link, or neither a file nor a folder.

    A run may come from a stranger: through a link, reading would show another file of this machine, and
    writing would change it. The path of the run itself may be a link: whoever runs us has named it.
    """
    with reading(run), suppress(FileNotFoundError):
        with os.scandir(run) as entries:
            folders = [each for each in entries if _is_own_folder(run, each)]
        for folder in folders:
            with os.scandir(folder) as entries:
                for each in entries:
                    _is_own_folder(run, each)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the system says about a file or folder that is looked at into a StoreError."""
    try:
        yield
    except OSError as error:
        raise StoreError.of(f"{error.filename or path}: cannot be read", error) from error


def _is_own_folder(run: Path, entry: os.DirEntry[str]) -> bool:
    try:
        mode = entry.stat(follow_symlinks=False).st_mode
    except FileNotFoundError:
        # The draft of a file, of a session that is going on.
        return False
    if stat.S_ISLNK(mode):
        raise StoreError(
            f"{entry.path} is a link. A run has all its files in its own folder: nothing was read or changed",
            advice="If it is your link, put what it leads to in its place; if the run is somebody else's, "
            f"look at what it leads to before anything else: ls -lR {shlex.quote(str(run))}",
        )
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise StoreError(f"{entry.path} is not a file: nothing was read or changed", advice="Remove it.")
    return stat.S_ISDIR(mode)


@dataclass(frozen=True, slots=True)
class End:
    """How a journal ends. `torn_at` is the offset of a torn last line, None if there is none.

    `lacks_newline` says that the last record is whole but for its newline.
    """

    torn_at: int | None
    lacks_newline: bool


def scan_journal(path: Path, take: Callable[[Json], None]) -> End:
    """Hand over every record of a journal, one line in memory at a time; a missing file is an empty one.

    `take` raises ValueError for a record that it refuses, and has then kept nothing of it. A last line
    without its newline that is not a record is torn: left out, and its offset given. Any other line that is
    refused raises StoreError with path and line number.
    """
    try:
        with path.open("rb", buffering=_READ_AT_ONCE) as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    try:
                        _hand_over(line, take)
                    except ValueError:
                        return End(lines.tell() - len(line), lacks_newline=False)
                    return End(None, lacks_newline=True)
                try:
                    _hand_over(line, take)
                except ValueError as error:
                    run = next(
                        each
                        for each in (path.parent, *path.parents)
                        if each.name not in ("verdicts", "findings")
                    )
                    raise StoreError(
                        f"{path} line {number} is damaged. Nothing was changed",
                        advice="Restore the file from a copy, or set the line aside and evaluate its sample "
                        f"again with: vlsb runs repair {shlex.quote(str(run))}",
                    ) from error
    except FileNotFoundError:
        return End(None, lacks_newline=False)
    except OSError as error:
        raise StoreError.of(f"{path}: cannot be read", error) from error
    return End(None, lacks_newline=False)


def _hand_over(line: bytes, take: Callable[[Json], None]) -> None:
    record = strict_json.loads(line)
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    take(record)


class Journal:
    """The writing end of a journal. Exactly one exists for a file, held by the run's lock.

    A record that the disk did not take is kept in `unwritten`; `rescue` tries those once more.
    """

    def __init__(self, path: Path, *, size: int, lacks_newline: bool) -> None:
        """Open for appending at `size`, the end of the last whole record."""
        self.path = path
        self.unwritten: list[bytes] = []
        # `_written` belongs to the loop's thread and `_synced` to the syncing one: no count is lost.
        self._written = 0
        self._synced = 0
        self._sync_failure: StoreError | None = None
        # A record that stands half-written at the end because it could not be cut off, and its rest.
        self._torn: tuple[bytes, bytes] | None = None
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            raise StoreError.of(f"{path}: cannot be opened for writing", error) from error
        self._size = size
        if lacks_newline:
            self._write(b"\n")

    def append(self, record: Json) -> None:
        """Write one record now. Raises StoreError if the disk does not take it whole."""
        line = strict_json.dumps(record).encode("ascii") + b"\n"
        try:
            self._write(line)
        except StoreError:
            self.unwritten.append(line)
            raise

    def _write(self, line: bytes) -> None:
        """Write it whole or not at all: the part that a full disk took is cut off again."""
        self._mend()
        taken = 0
        try:
            taken = os.write(self._descriptor, line)
            if taken < len(line):
                # A short write means that the disk is full; the next one says so with its errno.
                taken += os.write(self._descriptor, line[taken:])
            if taken < len(line):
                raise OSError(errno.ENOSPC, "the disk took only a part")
        except OSError as error:
            if taken and not self._is_cut_back():
                self._torn = (line, line[taken:])
            raise self._refusal(error) from error
        self._size += len(line)
        self._written += 1

    def _refusal(self, error: OSError) -> StoreError:
        return StoreError.of(f"{self.path}: the disk takes no more", error)

    def _is_cut_back(self) -> bool:
        """Cut the file back to its last whole record, and say whether that could be done."""
        try:
            os.ftruncate(self._descriptor, self._size)
        except OSError:
            return False
        return True

    def _mend(self) -> None:
        """Cut a half-written record off, or complete it: nothing may follow it on its line."""
        if self._torn is None:
            return
        line, rest = self._torn
        if not self._is_cut_back():
            try:
                taken = os.write(self._descriptor, rest)
            except OSError as error:
                raise self._refusal(error) from error
            if taken < len(rest):
                self._torn = (line, rest[taken:])
                raise self._refusal(OSError(errno.ENOSPC, "the disk took only a part"))
            self.unwritten.remove(line)
            self._size += len(line)
            self._written += 1
        self._torn = None

    @property
    def unsynced(self) -> int:
        """Records written since the last sync."""
        return self._written - self._synced

    def sync(self) -> None:
        """Force what was written to the disk. Blocks. Never retried: after a failure the kernel may have
        dropped the pages and would report success."""
        if self._sync_failure is not None:
            raise self._sync_failure
        records = self._written
        if records == self._synced:
            return
        try:
            os.fsync(self._descriptor)
            self._synced = records
        except OSError as error:
            self._sync_failure = StoreError(
                f"{self.path}: the disk failed to keep the last {self.unsynced} records ({error.strerror}). "
                "They may be lost",
                advice="Check the disk before resuming.",
            )
            raise self._sync_failure from error

    def rescue(self) -> int:
        """Try once more to write what the disk refused; returns how many records are still unwritten."""
        with suppress(StoreError):
            self._mend()
            while self.unwritten:
                self._write(self.unwritten[0])
                del self.unwritten[0]
        return len(self.unwritten)

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._descriptor >= 0:
            # It is closed even where the system says that closing failed. Whether the disk has kept what was
            # written, the last sync has said.
            with suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = -1


def quarantine_torn_tail(path: Path, offset: int) -> Path:
    """Move the bytes from `offset` on to `<name>.torn-<n>` beside the file and cut them off.

    Only for the holder of the run's lock. The bytes are kept: they may be a paid answer.
    """
    with os.fdopen(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC), "r+b") as file:
        file.seek(offset)
        kept = set_aside(path, "torn", file.read())
        file.truncate(offset)
        sync_file(file)
    return kept


def set_aside(path: Path, what: str, content: bytes) -> Path:
    """Keep bytes of a file beside it, as `<name>.<what>-<n>`; they are on the disk when this returns.

    Such a file may hold them already: whoever was to take them out of theirs was interrupted.
    """
    kept = next(each for each in _beside(path, what) if not each.exists() or each.read_bytes() == content)
    if kept.exists():
        sync_directory(path.parent)
    else:
        replace_file(kept, [content])
    return kept


def next_free(path: Path, what: str) -> Path:
    """Return a name beside `path` that nothing has yet: `<name>.<what>-<n>`."""
    return next(each for each in _beside(path, what) if not each.exists())


def _beside(path: Path, what: str) -> Iterator[Path]:
    return (path.with_name(f"{path.name}.{what}-{number}") for number in count(1))


# The exclusive right to write a run, held as long as its file is open.


LOCK = ".lock"


def lock_run(directory: Path) -> FileLock:
    """Take the exclusive right to write a run. Raises RunLockedError, naming the process that holds it."""
    path = directory / LOCK
    try:
        lock = FileLock(path)
    except OSError as error:
        raise StoreError.of(f"{path}: cannot be opened", error) from error
    try:
        if not lock.try_lock():
            holder = os.pread(lock.descriptor, 200, 0).decode("utf-8", "replace")
            raise RunLockedError(
                f"{directory} is being written by another process. Wait for it, or stop it",
                detail=Untrusted(holder or "unknown"),
            )
        os.ftruncate(lock.descriptor, 0)
        os.pwrite(lock.descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    except OSError as error:
        lock.close()
        raise StoreError.of(f"{path}: cannot be written", error) from error
    except BaseException:
        lock.close()
        raise
    return lock
