"""Rows of published files, and the samples that are made of them, with errors that name file and row."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from vlsb import strict_json
from vlsb.data.samples import MAX_ROWS_BYTES, unreadable
from vlsb.errors import DatasetError
from vlsb.records import Sample, Untrusted


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

    def flag(self, name: str) -> bool:
        """Return a field that is true or false. Raises DatasetError for any other."""
        value = self.fields.get(name)
        if not isinstance(value, bool):
            raise DatasetError(f"{self.where} has neither true nor false in {name}. Is it a whole copy?")
        return value

    def inner(self, name: str) -> FileRow:
        """Return a field that is an object, as a row. Raises DatasetError for any other."""
        return next(rows_of([self.fields.get(name)], f"{self.where} {name}"))

    def inners(self, name: str) -> Iterator[FileRow]:
        """Yield the objects of a field that is a list of them, as rows. Raises DatasetError for any other."""
        return rows_of(self.fields.get(name), f"{self.where} {name}")

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


def json_rows(path: Path) -> Iterator[FileRow]:
    """Yield the objects of a JSON file, which is a list of them or has them by key."""
    found = json_file(path)
    return rows_of(list(found.values()) if isinstance(found, dict) else found, path.name)


def json_objects(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds."""
    found = json_file(path)
    if not isinstance(found, dict):
        raise DatasetError(f"{path.name} holds no object with keys. Is it the right file?")
    return found


def json_file(path: Path) -> Any:
    """Return what a JSON file holds."""
    try:
        return strict_json.loads(_content(path))
    except ValueError as error:
        raise DatasetError(f"{path.name} is not JSON ({error}). Download it again.") from error


def json_lines(path: Path) -> Iterator[FileRow]:
    """Yield the objects of a file that has one in every line."""
    try:
        found = [strict_json.loads(line) for line in _content(path).splitlines() if line.strip()]
    except ValueError as error:
        raise DatasetError(f"{path.name} is not JSON in every line ({error}).") from error
    return rows_of(found, path.name)


def csv_rows(path: Path) -> Iterator[FileRow]:
    """Yield the rows of a CSV file whose first line names the columns."""
    try:
        stream = io.StringIO(_content(path).decode(), newline="")
        found = list(csv.DictReader(stream, strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise DatasetError(f"{path.name} is not CSV in UTF-8 ({error}). Download it again.") from error
    if any(None in row or None in row.values() for row in found):
        raise DatasetError(f"{path.name} has rows with more fields than its first line, or fewer.")
    return rows_of(found, path.name)


def rows_of(found: object, name: str) -> Iterator[FileRow]:
    """Yield a list's objects as rows; `name` is what errors call the list."""
    if not isinstance(found, list):
        raise DatasetError(f"{name} is no list of rows. Is it the right file?")
    for place, fields in enumerate(found, start=1):
        where = f"{name} row {place}"
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
