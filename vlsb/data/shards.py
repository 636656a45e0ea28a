"""The Hugging Face Hub's parquet shards, unpacked once into a cache: rows and an archive of their images.

A shard's row group is decoded as a whole to get at one image (about 140 MB and more than a second
with 100 rows of 1.4 MB), so random reads in place do not work; one pass in order needs the memory of
one row group, whatever the number of shards.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from vlsb import strict_json
from vlsb.data.archive import ARCHIVE_FILE, case_key, is_of_macos, name_problem
from vlsb.data.image_files import MAX_IMAGE_BYTES
from vlsb.data.samples import ROWS_FILE, parse_rows
from vlsb.errors import DatasetError, StoreError
from vlsb.extras import lacks_extra
from vlsb.files import FileLock, new_file, sync_directory
from vlsb.records import Untrusted

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]

# Part of the cache's key: raise it when what is written there changes.
CACHE_FORMAT = 1
BATCH_ROWS = 8
MAX_ROW_GROUP_BYTES = 4 * 1024**3
MAX_ROWS = 100_000

_TEXT_COLUMNS = ("instruction_id", "instruction", "image_path", "category", "sub_category", "source")
_LATER_COLUMNS = ("image_description", "safety_reason")
_IMAGE_COLUMN = "image"


class Unpacked(NamedTuple):
    """What `load_dataset_files` takes."""

    rows: Path
    archive: Path


def shard_paths(root: Path) -> tuple[Path, ...]:
    """Find the shards of a folder, in order: beside each other, or in `data/` as on the Hugging Face Hub."""
    beside, below = (
        sorted(path for path in root.glob(pattern) if not is_of_macos(path.name))
        for pattern in ("*.parquet", "data/*.parquet")
    )
    return tuple(beside or below)


def unpack(shards: Sequence[Path], cache: Path) -> Unpacked:
    """Unpack the shards' rows and images below `cache`, or find them there. Blocking.

    They are found again while every shard has the name, size and time that it had. Two processes that
    come at once unpack once; what a killed one left behind goes with the next attempt.
    """
    key = hashlib.sha256(f"{CACHE_FORMAT}".encode())
    for shard in shards:
        facts = shard.stat()
        key.update(os.fsencode(shard.name) + f"\0{facts.st_size}\0{facts.st_mtime_ns}\0".encode())
    place = cache / "parquet" / key.hexdigest()[:32]
    unpacked = Unpacked(place / ROWS_FILE, place / ARCHIVE_FILE)
    if place.exists():
        return unpacked
    try:
        # `parents` would make the middle ones readable for everybody.
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.parent.mkdir(mode=0o700, exist_ok=True)
        with FileLock(place.with_suffix(".lock")) as lock:
            lock.wait()
            if not place.exists():
                _unpack_into(place, shards)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what = "is full; unpacking the parquet shards takes as much room as they do"
        else:
            what = f"cannot be written ({os.strerror(error.errno) if error.errno else 'no reason given'})"
        advice = "Make room, or set XDG_CACHE_HOME to another folder."
        raise StoreError(f"the cache {cache} {what}. {advice}") from error
    return unpacked


def _unpack_into(place: Path, shards: Sequence[Path]) -> None:
    unfinished = place.with_suffix(".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    try:
        rows: list[dict[str, Any]] = []
        for shard in shards:
            with _shard(shard) as file:
                names = set(file.schema_arrow.names)
                if missing := [name for name in (*_TEXT_COLUMNS, _IMAGE_COLUMN) if name not in names]:
                    raise DatasetError(f"{shard} has no column {missing[0]!r}. Is it a shard of VLSBench?")
                if file.metadata.num_rows > MAX_ROWS:
                    raise DatasetError(
                        f"{shard} holds more than {MAX_ROWS:,} rows. Is it a shard of VLSBench?"
                    )
                columns = [*_TEXT_COLUMNS, *(name for name in _LATER_COLUMNS if name in names)]
                rows += file.read(columns=columns, use_threads=False).to_pylist()
        parse_rows(rows, named="parquet")
        with new_file(unfinished / ROWS_FILE) as stream:
            stream.write(strict_json.dumps(rows).encode())
        with new_file(unfinished / ARCHIVE_FILE) as stream:
            _write_images(stream, shards)
        # An image's time is that of the file it came from, so a later run knows it again.
        newest = max(shard.stat().st_mtime_ns for shard in shards)
        os.utime(unfinished / ARCHIVE_FILE, ns=(newest, newest))
        sync_directory(unfinished)
        unfinished.rename(place)
        sync_directory(place.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write_images(stream: IO[bytes], shards: Sequence[Path]) -> None:
    images: dict[str, tuple[str, bytes]] = {}
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for where, image_path, content in _images(shards):
            image = image_path, hashlib.sha256(content).digest()
            earlier = images.setdefault(case_key(image_path), image)
            if earlier != image:
                raise DatasetError(
                    f"{where}: an earlier row has the same image_path, or one that differs by its case only, "
                    "with another image.",
                    detail=Untrusted(image_path),
                )
            if earlier is image:
                member = tarfile.TarInfo(image_path)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def _images(shards: Sequence[Path]) -> Iterator[tuple[str, str, bytes]]:
    """Yield where it is, `image_path` and bytes of every row that has an image, in order."""
    for shard in shards:
        with _shard(shard) as file:
            position = 0
            for group in range(file.num_row_groups):
                if file.metadata.row_group(group).total_byte_size > MAX_ROW_GROUP_BYTES:
                    raise DatasetError(f"{shard}: row group {group} is too large to be read into memory.")
                batches = file.iter_batches(
                    BATCH_ROWS, row_groups=[group], columns=["image_path", _IMAGE_COLUMN], use_threads=False
                )
                for row in (row for batch in batches for row in batch.to_pylist()):
                    position += 1
                    where, image_path, image = (
                        f"{shard} row {position}",
                        row["image_path"],
                        row[_IMAGE_COLUMN],
                    )
                    if problem := name_problem(image_path):
                        raise DatasetError(f"{where}: image_path {problem}", detail=Untrusted(image_path))
                    # A row without an image is named where samples are inspected.
                    if not isinstance(image, dict) or not isinstance(content := image.get("bytes"), bytes):
                        continue
                    own_name = image.get("path")
                    if own_name and PurePosixPath(own_name).name != PurePosixPath(image_path).name:
                        raise DatasetError(
                            f"{where}: the image's own file name is not that of its image_path",
                            detail=Untrusted(own_name),
                        )
                    if len(content) > MAX_IMAGE_BYTES:
                        raise DatasetError(
                            f"{where}: its image is larger than {MAX_IMAGE_BYTES // 1024**2} MiB."
                        )
                    yield where, image_path, content


@contextmanager
def _shard(path: Path) -> Iterator[ParquetFile]:
    """An open shard; whatever pyarrow says of its bytes is a `DatasetError`."""
    try:
        import pyarrow  # type: ignore[import-untyped]
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise lacks_extra("parquet", f"{path} is a parquet file: that needs the extra `parquet`") from error
    try:
        with ParquetFile(path) as file:
            yield file
    except (pyarrow.ArrowException, OSError) as error:
        raise DatasetError(f"{path} cannot be read as parquet. Download it again") from error
