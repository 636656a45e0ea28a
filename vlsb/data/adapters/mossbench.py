"""MOSSBench: harmless questions about images that make models refuse. Benign only.

Source: github.com/xirui-li/MOSSBench, `data/images_information/information.json` as of commit 8d68b0614b39
(2024-11-16). Licence: CC BY-SA 4.0; its authors allow no training on it. Not gated. A judge sees image and
question; `image_description` is the authors' `description`. The three kinds of `metadata.over` are
categories, by the names of the authors' README.md; an id is `pid`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vlsb.data.adapters.reading import json_rows
from vlsb.data.dataset import PublishedSet
from vlsb.errors import DatasetError
from vlsb.records import Half, Sample

_KINDS = {
    "type 1": "Exaggerated Risk",
    "type 2": "Negated Harm",
    "type 3": "Counterintuitive Interpretation",
}


def read(root: Path) -> Iterator[Sample]:
    """Read data/images_information/information.json; image paths are relative to data/."""
    for row in json_rows(root / "data" / "images_information" / "information.json"):
        kind = row.inner("metadata").text("over")
        if kind not in _KINDS:
            raise DatasetError(
                f"{row.where}: its kind is not one of {', '.join(_KINDS)}. Is it a whole copy?"
            )
        yield row.sample(
            row.number("pid"),
            row.text("question"),
            f"data/{row.text('image')}",
            _KINDS[kind],
            source="mossbench",
            image_description=row.text("description"),
        )


ALL = PublishedSet(
    "MOSSBench",
    Half.BENIGN,
    300,
    "CC BY-SA 4.0",
    "Clone github.com/xirui-li/MOSSBench: DIR is the clone.",
    read,
)
