"""Rows of published files, with errors that name file and row, and the data set that is made of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from vlsb import strict_json
from vlsb.data.dataset import Dataset
from vlsb.data.samples import MAX_ROWS_BYTES, unreadable
from vlsb.errors import DatasetError
from vlsb.records import Half, Sample, Untrusted


@dataclass(frozen=True, slots=True)
class PublishedSet:
    """A half of a published data set, or all of it: called with a folder, it reads a copy.

    `rows` is how many were published, `get` what to do for a copy, whose folder `--data-root` takes.
    `read` gives the samples of a folder; image paths are relative to it.
    """

    title: str
    half: Half
    rows: int
    licence: str
    get: str
    read: Callable[[Path], Iterable[Sample]]

    def __call__(self, root: Path) -> Dataset:
        """Read a copy. Raises DatasetError with file and row."""
        return Dataset.in_folder(root, self.read(root), half=self.half)


class FileRow(NamedTuple):
    """One row of a file, and the words by which errors name it."""

    fields: Mapping[str, Any]
    where: str

    def text(self, name: str) -> str:
        """Return a field that is text. Raises DatasetError for any other."""
        value = self.fields.get(name)
        if not isinstance(value, str):
            raise DatasetError(f"{self.where} has no text in {name}. Is it a whole copy?")
        return value

    def texts(self, name: str) -> list[str]:
        """Return a field that is a list of texts. Raises DatasetError for any other."""
        value = self.fields.get(name)
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise DatasetError(f"{self.where} has no list of texts in {name}. Is it a whole copy?")
        return value

    def number(self, name: str) -> int:
        """Return a field that is a whole number from 0, or is written as one. Raises DatasetError."""
        value = self.fields.get(name)
        if isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value)
        if type(value) is not int or value < 0:
            raise DatasetError(f"{self.where} has no whole number in {name}. Is it a whole copy?")
        return value

    def sample(
        self,
        number: int,
        instruction: str,
        image: str | PurePosixPath | None,
        category: str,
        sub_category: str | None = None,
        *,
        source: str,
        image_description: str | None = None,
        safety_reason: str | None = None,
    ) -> Sample:
        """Make the sample of this row; without a sub-category it has its category's name."""
        if not category.strip():
            raise DatasetError(f"{self.where} has no category. Give the row the category it belongs to.")
        return Sample(
            id=number,
            instruction=Untrusted(instruction),
            image_path=None if image is None else Untrusted(str(image)),
            category=Untrusted(category),
            sub_category=Untrusted(sub_category or category),
            source=Untrusted(source),
            image_description=None if image_description is None else Untrusted(image_description),
            safety_reason=None if safety_reason is None else Untrusted(safety_reason),
        )


def json_rows(path: Path, rows: Any = None) -> Iterator[FileRow]:
    """Yield the objects of a JSON file, which is a list of them or has them by key.

    `rows` are those of a part of the file that was read before.
    """
    found = json_file(path) if rows is None else rows
    found = list(found.values()) if isinstance(found, dict) else found
    if not isinstance(found, list):
        raise DatasetError(f"{path.name} holds no list of rows. Is it the right file?")
    yield from _rows(path, found)


def json_file(path: Path) -> Any:
    """Return what a JSON file holds."""
    try:
        return strict_json.loads(_content(path))
    except ValueError as error:
        raise DatasetError(f"{path.name} is not JSON ({error}). Download it again.") from error


def json_lines(path: Path) -> Iterator[FileRow]:
    """Yield the objects of a file that has one in every line."""
    lines = (line for line in _content(path).splitlines() if line.strip())
    try:
        yield from _rows(path, [strict_json.loads(line) for line in lines])
    except ValueError as error:
        raise DatasetError(f"{path.name} is not JSON in every line ({error}).") from error


def csv_rows(path: Path) -> Iterator[FileRow]:
    """Yield the rows of a CSV file whose first line names the columns."""
    try:
        stream = io.StringIO(_content(path).decode(), newline="")
        yield from _rows(path, list(csv.DictReader(stream, strict=True)))
    except (csv.Error, UnicodeDecodeError) as error:
        raise DatasetError(f"{path.name} is not CSV in UTF-8 ({error}). Download it again.") from error


def _rows(path: Path, found: list[Any]) -> Iterator[FileRow]:
    for place, fields in enumerate(found, start=1):
        where = f"{path.name} row {place}"
        if not isinstance(fields, dict):
            raise DatasetError(f"{where} is no object with fields. Is it the right file?")
        yield FileRow(fields, where)


def _content(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_ROWS_BYTES:
            most = MAX_ROWS_BYTES // 1024**2
            raise DatasetError(f"{path} is larger than {most} MiB. Is it the right file?")
        return path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except FileNotFoundError as error:
        raise DatasetError(f"{path} is missing. Is it a whole copy?") from error
    except OSError as error:
        raise unreadable(path, error) from error
