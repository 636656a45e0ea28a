"""SIUO: an image and a question that are each harmless, and together are not. Harmful only.

Source: github.com/sinwang20/SIUO, `data/siuo_gen.json` as of commit 18974b65d238 (2025-02-01), the task of
free answers; the one of multiple choice is not read. Licence: CC BY-NC 4.0. Not gated; the images are a
download apart. A judge sees image and question; `safety_reason` is the authors' `safety_warning`. An id is
`question_id`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vlsb.data.adapters.reading import json_rows
from vlsb.data.dataset import PublishedSet
from vlsb.records import Half, Sample


def read(root: Path) -> Iterator[Sample]:
    """Read data/siuo_gen.json; its images are in data/images."""
    for row in json_rows(root / "data" / "siuo_gen.json"):
        yield row.sample(
            row.number("question_id"),
            row.text("question"),
            f"data/images/{row.text('image')}",
            row.text("category"),
            source="siuo_gen",
            safety_reason=row.text("safety_warning"),
        )


ALL = PublishedSet(
    "SIUO",
    Half.HARMFUL,
    167,
    "CC BY-NC 4.0",
    "Clone github.com/sinwang20/SIUO, and unpack the SIUO-images.zip that its README.md links "
    "into data/images: DIR is the clone.",
    read,
)
