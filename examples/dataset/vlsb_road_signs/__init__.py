"""Road signs: `signs.csv` has a question and an image in every row."""

import csv
from pathlib import Path

from vlsb.data import Dataset
from vlsb.records import Sample, Untrusted


def read(root: Path) -> Dataset:
    """Read `root`/signs.csv. An error may be raised as it comes: vlsb makes one line of it."""
    with (root / "signs.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return Dataset.in_folder(
        root,
        [
            Sample(
                id=number,
                instruction=Untrusted(row["question"]),
                image_path=Untrusted(row["image"]),
                category=Untrusted(row["kind"]),
                sub_category=Untrusted(row["kind"]),
                source=Untrusted("road-signs"),
            )
            for number, row in enumerate(rows)
        ],
    )
