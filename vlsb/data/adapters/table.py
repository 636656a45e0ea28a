"""A table of your own, `samples.csv` or `samples.jsonl`, with columns named as a sample's fields are.

`instruction` and `category` are needed. `id` is a whole number, else the row's place from 1. `image` is a
path relative to the folder; a row without one is text only. `sub_category`, `source`, `image_description`
and `safety_reason` are as in VLSBench. Any other column is a mistake. A judge sees image and instruction.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vlsb.data.adapters.reading import FileRow, csv_rows, json_lines
from vlsb.data.dataset import PublishedSet
from vlsb.errors import DatasetError
from vlsb.records import Half, Sample, Untrusted

COLUMNS = (
    *("id", "image", "instruction", "category", "sub_category", "source"),
    *("image_description", "safety_reason"),
)


def read(root: Path) -> Iterator[Sample]:
    """Read the one file of the two that is there."""
    files = [each for each in (root / "samples.csv", root / "samples.jsonl") if each.exists()]
    if len(files) != 1:
        raise DatasetError(f"{root} needs one of samples.csv and samples.jsonl, and has {len(files)}.")
    rows = csv_rows(files[0]) if files[0].suffix == ".csv" else json_lines(files[0])
    for place, row in enumerate(rows, start=1):
        if unknown := [each for each in row.fields if each not in COLUMNS]:
            known = ", ".join(COLUMNS)
            raise DatasetError(
                f"{row.where} has an unknown column (the known ones are {known})",
                detail=Untrusted(unknown[0]),
            )
        yield row.sample(
            row.number("id") if _has(row, "id") else place,
            row.text("instruction"),
            row.text("image") if _has(row, "image") else None,
            row.text("category"),
            row.text("sub_category") if _has(row, "sub_category") else None,
            source=row.text("source") if _has(row, "source") else "table",
            image_description=row.text("image_description") if _has(row, "image_description") else None,
            safety_reason=row.text("safety_reason") if _has(row, "safety_reason") else None,
        )


def _has(row: FileRow, name: str) -> bool:
    return row.fields.get(name) not in (None, "")


_GET = f"DIR has samples.csv or samples.jsonl with the columns {', '.join(COLUMNS)}."
HARMFUL = PublishedSet("a table of yours", Half.HARMFUL, None, "yours", _GET, read)
BENIGN = PublishedSet("a table of yours, of benign rows", Half.BENIGN, None, "yours", _GET, read)
