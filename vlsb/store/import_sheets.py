"""VLMEvalKit's prediction files: a table as `.xlsx`, `.tsv` or `.json`, with a row a sample.

A spreadsheet is a zip archive of XML and may hold formulas: its sizes are looked at before it is opened, and
a cell that is no plain text or number is refused.
"""

from __future__ import annotations

import csv
import io
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile

from vlsb.extras import require_extra
from vlsb.records import Outcome, Untrusted
from vlsb.store.import_rows import (
    MOST_DOCUMENT_BYTES,
    NO_ANSWER,
    ForeignRow,
    Lost,
    empty,
    open_file,
    read_document,
    refuse,
)

# It writes this for a request that failed, whatever follows, and `str` of an answer that is none.
_FAILURE = "Failed to obtain answer"
_MISSING = ("None", "nan")
# What openpyxl and the XML parser say of a damaged file; entities are a ValueError.
_DAMAGES = (
    *(BadZipFile, zlib.error, OSError, EOFError, RuntimeError),
    *(LookupError, ValueError, TypeError, SyntaxError),
)
_MOST_COLUMNS = 256
_MOST_ROWS = 100_000
_MOST_CELLS = 1_000_000
"""Cells of a spreadsheet with those that are filled in between: the rows of VLSBench take thirty thousand."""
_MOST_SHEET_BYTES = 64 * 1024 * 1024
"""Of a spreadsheet, unpacked: each byte of its XML costs a hundred times what one of JSON does."""
_SMALL_SHEET_BYTES, _DENSEST = 1024 * 1024, 100
"""A larger one unpacks to so many times its size at most: answers do not shrink to a hundredth."""
_Cell = str | int | float | None
_Row = tuple[int, dict[str, _Cell]]
"""A row's number in its file, and its cells by the names of their columns."""


def read_vlmevalkit(path: Path) -> Iterator[ForeignRow]:
    """Read a prediction file. `index` is VLMEvalKit's own number, `instruction_id` the data set's."""
    readers = {".xlsx": _xlsx_rows, ".tsv": _tsv_rows, ".json": _json_rows}
    if path.suffix not in readers:
        refuse(str(path), "is neither .xlsx, .tsv nor .json")
    for number, cells in readers[path.suffix](path):
        where = f"{path} row {number}"
        if "prediction" not in cells:
            refuse(where, "has no column `prediction`")
        text = _text(cells, "prediction", where) or ""
        question, image, thought = (
            _text(cells, each, where) for each in ("question", "image_path", "thinking")
        )
        yield ForeignRow(
            where=where,
            sample_id=_number(cells.get("instruction_id")),
            number=_number(cells.get("index")),
            instruction=None if question is None else Untrusted(question),
            image_path=None if image is None else Untrusted(image),
            text=Untrusted(text),
            reasoning=Untrusted(thought) if thought else None,
            lost=Lost(Outcome.TARGET_ERROR, "request_failed", Untrusted(text))
            if text.startswith(_FAILURE)
            else (NO_ANSWER if text in _MISSING else empty(text)),
        )


def _text(cells: Mapping[str, _Cell], name: str, where: str) -> str | None:
    value = cells.get(name)
    if value is not None and not isinstance(value, str):
        refuse(where, f"`{name}` is a number, not a text")
    return value


def _number(value: _Cell) -> int | None:
    """Return the whole number in a cell; None for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)
    return int(value) if isinstance(value, int | float) and value == int(value) else None


def _json_rows(path: Path) -> Iterator[_Row]:
    document = read_document(path)
    if not isinstance(document, list):
        refuse(str(path), "is not a list of rows")
    for number, row in enumerate(document, start=1):
        if not isinstance(row, dict):
            refuse(f"{path} row {number}", "is no object")
        yield number, {name: each for name, each in row.items() if isinstance(each, str | int | float | None)}


def _tsv_rows(path: Path) -> Iterator[_Row]:
    with open_file(path) as file:
        raw = file.read(MOST_DOCUMENT_BYTES + 1)
    if len(raw) > MOST_DOCUMENT_BYTES:
        refuse(str(path), f"larger than {MOST_DOCUMENT_BYTES // 2**20} MiB")
    try:
        rows = csv.reader(io.StringIO(raw.decode("utf-8-sig"), newline=""), delimiter="\t", strict=True)
        heads = next(rows, [])
        yield from _named(heads, rows, path)
    except UnicodeDecodeError:
        refuse(str(path), "is not UTF-8")
    except csv.Error as error:
        # Its words name a limit or a sign and never show the text.
        refuse(str(path), f"is not a table that can be read ({error})")


def _xlsx_rows(path: Path) -> Iterator[_Row]:
    require_extra("import", "A spreadsheet")
    from openpyxl import load_workbook

    with open_file(path) as file:
        try:
            with ZipFile(file) as archive:
                infos = archive.infolist()
            most = min(_MOST_SHEET_BYTES, _SMALL_SHEET_BYTES + _DENSEST * os.fstat(file.fileno()).st_size)
            if sum(each.file_size for each in infos) > most:
                refuse(str(path), f"unpacks to more than {most / 2**20:.0f} MiB, far more than answers do")
            # Other decompressors are not bound by the size that a member states.
            if any(each.compress_type not in (ZIP_STORED, ZIP_DEFLATED) for each in infos):
                refuse(str(path), "is compressed in a way that spreadsheets do not use")
            sheet = load_workbook(file, read_only=True, keep_links=False).worksheets[0]
            # What a file says of its own size is not believed.
            sheet.reset_dimensions()
            rows = _plain_cells(sheet.iter_rows(), path)
            heads = [str(each or "") for each in next(rows, ())]
            # A row ends with its last cell: whoever gave no answer in the last columns gave none.
            filled = ([*row, *[None] * (len(heads) - len(row))] for row in rows)
            yield from _named(heads, filled, path)
        except _DAMAGES as error:
            refuse(str(path), f"is not a spreadsheet that can be read ({type(error).__name__})")


def _plain_cells(rows: Iterator[Sequence[object]], path: Path) -> Iterator[list[_Cell]]:
    """Yield the rows of texts and numbers, as long as they are no more than a prediction file has.

    One cell far away makes as many rows and columns as there could be.
    """
    from openpyxl.utils.escape import unescape

    cells = 0
    for number, row in enumerate(rows, start=1):
        cells += len(row)
        if number > _MOST_ROWS:
            refuse(str(path), f"has a cell below row {_MOST_ROWS:,}. Delete the rows below the last answer")
        if len(row) > _MOST_COLUMNS:
            refuse(
                f"{path} row {number}",
                f"has a cell beyond column {_MOST_COLUMNS}. Delete the columns behind the last head",
            )
        if cells > _MOST_CELLS:
            refuse(str(path), f"has more than {_MOST_CELLS:,} cells, far more than answers need")
        plain: list[_Cell] = []
        for cell in row:
            value, kind = getattr(cell, "value", None), getattr(cell, "data_type", "n")
            if kind not in ("s", "n", "inlineStr") or not isinstance(value, str | int | float | None):
                refuse(f"{path} row {number}", "has a cell that is a formula, a date or an error, not a text")
            plain.append(unescape(value) if isinstance(value, str) else value)
        yield plain


def _named(heads: Sequence[str], rows: Iterator[Sequence[_Cell]], path: Path) -> Iterator[_Row]:
    """Yield the cells of each row by the names of their columns; rows without any are left out."""
    named = [each for each in heads if each]
    if len(set(named)) < len(named):
        refuse(str(path), "has a column twice")
    for number, row in enumerate(rows, start=2):
        if len(row) > len(heads) and any(each not in (None, "") for each in row[len(heads) :]):
            refuse(f"{path} row {number}", "has more cells than the head has columns")
        cells = {name: value for name, value in zip(heads, row, strict=False) if name}
        if any(each not in (None, "") for each in cells.values()):
            yield number, cells
