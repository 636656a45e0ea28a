"""Images inside `imgs.tar`, read in place: its headers are scanned once, nothing is unpacked.

The archive is a stranger's. A member that is anything but a plain file directly in `imgs/`, or a hard link
there, refuses the whole archive, and so does one that is cut or goes on after its end; `tarfile` alone stops
at the first header that it cannot read, as if the archive ended there.
"""

from __future__ import annotations

import io
import os
import re
import stat
import tarfile
import threading
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, BinaryIO, NamedTuple, cast

from vlsb.data.image_files import CHUNK_BYTES, EXTENSIONS, FileStamp, OpenedImage, path_problem
from vlsb.data.samples import unreadable
from vlsb.errors import DatasetError, ImageError
from vlsb.records import Untrusted

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

ARCHIVE_FILE = "imgs.tar"
MAX_MEMBERS = 100_000
MAX_TOTAL_BYTES = 64 * 1024**3
# A header and its extensions are a few KiB; a larger one is made to fill the memory.
MAX_HEADER_BYTES = 64 * 1024
# Attributes that hold for every member; `git archive` writes one.
MAX_SHARED_ATTRIBUTES = 100
# No name is longer; `tarfile` (before 3.11.10 and 3.12.6) takes time in the square of a run of digits.
_LONG_NUMBER = re.compile(rb"[0-9]{256}")

_COMPRESSIONS = {
    b"\x1f\x8b": "gzip -d",
    b"BZh": "bzip2 -d",
    b"\xfd7zXZ": "xz -d",
    b"\x28\xb5\x2f\xfd": "zstd -d",
}
_KNOWN_EXTENSIONS = frozenset().union(*EXTENSIONS.values())
_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.FIFOTYPE: "a FIFO",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
}


class Member(NamedTuple):
    """Where an image's bytes lie in the archive."""

    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Archive:
    """A scanned archive: its file as it was then, and the images by `image_path`.

    `broken_links` says why a hard link leads to no image, in the same terms. A file that changed is scanned
    once more, into `later`: a new time is no new content, and of new content no image is read from where
    another one was.
    """

    path: Path
    stamp: FileStamp
    members: Mapping[str, Member]
    broken_links: Mapping[str, str]
    later: list[Archive] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def open_image(self, image_path: str) -> Iterator[OpenedImage]:
        """One image of the archive, through a descriptor of its own: any number of threads may read."""
        name = str(PurePosixPath(image_path))
        with _descriptor(self.path) as descriptor:
            archive = self._current(descriptor)
            if problem := archive.broken_links.get(name):
                raise ImageError(f"image is a hard link {problem}; pack the archive again")
            member = archive.members.get(name)
            if member is None:
                raise ImageError(
                    "image is missing from the archive; download it again"
                ) from FileNotFoundError()
            with io.BufferedReader(_Slice(descriptor, member)) as stream:
                yield OpenedImage(
                    stream, lambda: FileStamp(member.size_bytes, FileStamp.of(descriptor).mtime_ns)
                )

    def _current(self, descriptor: int) -> Archive:
        if FileStamp.of(descriptor) == self.stamp:
            return self
        with self.lock:
            if not self.later or self.later[0].stamp != FileStamp.of(descriptor):
                try:
                    self.later[:] = [scan(self.path)]
                except DatasetError as error:
                    raise ImageError(f"image lies in {self.path.name}, which changed meanwhile") from error
            return self.later[0]


class _Slice(io.RawIOBase):
    """The bytes of one member, as a file of its own."""

    def __init__(self, descriptor: int, member: Member) -> None:
        self._descriptor = descriptor
        self._member = member
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._member.size_bytes}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        rest = max(0, self._member.size_bytes - self._position)
        place = memoryview(buffer)[:rest]
        count = os.preadv(self._descriptor, [place], self._member.offset + self._position) if place else 0
        self._position += count
        return count


def scan(path: Path) -> Archive:
    """Find the images of an archive by their `image_path`; reads headers only. Blocking, for milliseconds."""
    resolved = path.resolve()
    try:
        with _descriptor(resolved) as descriptor, os.fdopen(descriptor, "rb", closefd=False) as stream:
            head = stream.read(8)
            for magic, command in _COMPRESSIONS.items():
                if head.startswith(magic):
                    raise DatasetError(
                        f"{path} is compressed, so nothing can be read in place. Decompress it to "
                        f"{ARCHIVE_FILE}: {command}"
                    )
            stream.seek(0)
            return Archive(resolved, FileStamp.of(descriptor), *_members(path, stream))
    except OSError as error:
        raise unreadable(path, error) from error


def case_key(name: str) -> str:
    """Return what two names share that some file systems do not tell apart."""
    return unicodedata.normalize("NFC", name).casefold()


def is_of_macos(name: str) -> bool:
    """Tell whether a path is what macOS leaves beside files: resource forks and folder settings, no data."""
    *folders, last = name.split("/")
    return last.startswith("._") or last == ".DS_Store" or "__MACOSX" in (*folders, last)


def name_problem(name: str) -> str | None:
    """Why an image may not have this path in an archive, or None."""
    parts = name.split("/")
    if problem := path_problem(name):
        return problem
    if len(parts) != 2 or parts[0] != "imgs" or parts[1] in ("", "."):
        return "does not lie directly in imgs/"
    if PurePosixPath(name).suffix.lower() not in _KNOWN_EXTENSIONS:
        return "has no extension of an image"
    return None


def _members(path: Path, stream: BinaryIO) -> tuple[dict[str, Member], dict[str, str]]:
    """Return the images, hard links included, and what is wrong with links that lead to none."""
    members: dict[str, Member] = {}
    links: dict[str, str] = {}
    seen: set[str] = set()
    for count, member in enumerate(_headers(path, stream), start=1):
        name = member.name.removeprefix("./")
        if count > MAX_MEMBERS or member.offset_data + member.size > MAX_TOTAL_BYTES:
            limit = f"{MAX_MEMBERS:,} images or {MAX_TOTAL_BYTES // 1024**3} GiB"
            raise DatasetError(
                f"{path} holds more than {limit}, far more than VLSBench. Is it the right file?"
            )
        if is_of_macos(name) or (member.isdir() and name in ("", ".", "imgs")):
            continue
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.LNKTYPE):
            kind = (
                "a folder besides imgs/" if member.isdir() else _KINDS.get(member.type, "of an unknown kind")
            )
            problem: str | None = (
                f"is {kind}; only files in imgs/ are read (tar --dereference stores what links point to)"
            )
        elif member.issparse():
            problem = "is stored as a sparse file"
        else:
            problem = "declares a size below 0" if member.size < 0 else name_problem(name)
        if problem:
            raise DatasetError(f"{path}: a member {problem}. Pack it again", detail=Untrusted(member.name))
        if case_key(name) in seen:
            raise DatasetError(
                f"{path}: a member occurs twice, or twice but for its case. Pack it again",
                detail=Untrusted(name),
            )
        seen.add(case_key(name))
        if member.islnk():
            links[name] = member.linkname.removeprefix("./")
        else:
            members[name] = Member(member.offset_data, member.size)
    return members, _resolve_links(links, members)


def _resolve_links(links: Mapping[str, str], members: dict[str, Member]) -> dict[str, str]:
    """Put the links into `members`, each with the bytes it leads to; returns why the others lead nowhere.

    A link may stand before its target, and may point to another link.
    """
    broken: dict[str, str] = {}
    for link in links:
        passed: dict[str, None] = {}
        name = link
        while name in links and name not in passed and name not in members and name not in broken:
            passed[name] = None
            name = links[name]
        for each in passed:
            if name in members:
                members[each] = members[name]
            elif name in passed:
                broken[each] = "in a circle"
            elif name in broken:
                broken[each] = broken[name]
            else:
                broken[each] = (
                    "out of the archive" if path_problem(name) else "to a member that the archive lacks"
                )
    return broken


def _headers(path: Path, stream: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Every header; raises if the archive does not end where and as an archive ends."""
    last: str | None = None
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", _HeaderReader(stream)), mode="r:") as archive:
            while member := archive.next():
                last = member.name
                yield member
                # It keeps every member, each with a copy of the attributes of all.
                archive.members.clear()  # type: ignore[attr-defined]
                if len(archive.pax_headers) > MAX_SHARED_ATTRIBUTES:
                    raise tarfile.ReadError("too many attributes for every member")
            end = archive.offset
    except (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        raise _damage_error(path, last) from error
    # Zeros and nothing else follow, one block at least.
    stream.seek(end)
    padding = 0
    while chunk := stream.read(CHUNK_BYTES):
        if chunk.strip(b"\0"):
            raise _damage_error(path, last)
        padding += len(chunk)
    if padding < tarfile.BLOCKSIZE:
        raise _damage_error(path, last)


def _damage_error(path: Path, last: str | None) -> DatasetError:
    place = "from its start" if last is None else "at or after a member"
    detail = None if last is None else Untrusted(last)
    return DatasetError(
        f"{path} is cut or damaged {place}, or not a tar archive. Download it again", detail=detail
    )


class _HeaderReader:
    """What `tarfile` reads headers through: it would take any size that a header declares."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.seek = stream.seek
        self.tell = stream.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError("a header declares an impossible size")
        header = self._stream.read(size)
        if _LONG_NUMBER.search(header):
            raise tarfile.ReadError("a header holds an impossible number")
        return header


@contextmanager
def _descriptor(path: Path) -> Iterator[int]:
    # Opening a FIFO must not hang. The archive itself may be a link, as in the Hugging Face cache.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise DatasetError(f"{path} is not a regular file. Put the real file there.")
        yield descriptor
    finally:
        os.close(descriptor)
