"""HoliSafe-Bench: all combinations of a safe or unsafe image with a safe or unsafe question. Both halves.

Source: huggingface.co/datasets/etri-vilab/holisafe-bench, which is gated, so that neither a revision nor
its licence could be read: the layout is what several public readers of its holisafe_bench.json agree on
(read on 2026-12-03), and the 4,031 rows are those of the authors' README.md. A judge sees image and
question. A row's `type` has a letter each for image, question and both together: those that end in S are
the benign half, those in U the harmful one. The type is a sample's source; an id is the published one.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from vlsb.data.adapters.reading import json_rows
from vlsb.data.dataset import PublishedSet
from vlsb.records import Half, Sample


def read(last: str, root: Path) -> Iterator[Sample]:
    """Read the rows whose type ends in a letter; image paths are relative to images/."""
    for row in json_rows(root / "holisafe_bench.json"):
        kind = row.text("type")
        if kind.endswith(last):
            yield row.sample(
                row.number("id"),
                row.text("query"),
                f"images/{row.text('image')}",
                row.text("category"),
                row.text("subcategory"),
                source=kind,
            )


_GET = (
    "Accept the conditions of huggingface.co/datasets/etri-vilab/holisafe-bench, and put "
    "holisafe_bench.json and the folder images into DIR."
)
UNSAFE = PublishedSet("HoliSafe-Bench, unsafe", Half.HARMFUL, None, "gated", _GET, partial(read, "U"))
SAFE = PublishedSet("HoliSafe-Bench, safe", Half.BENIGN, None, "gated", _GET, partial(read, "S"))
