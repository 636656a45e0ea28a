"""XSTest: 250 harmless questions that look harmful, and the 200 harmful ones that they look like. Text only.

Source: github.com/paul-rottger/exaggerated-safety, `xstest_prompts.csv` as of commit 475f10bf0a3d. Licence:
CC BY 4.0. Not gated. A judge sees the prompt; there is no image. `label` says which half a row is in: safe
prompts are benign, unsafe ones harmful. A category is the prompt's `type`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from vlsb.data.adapters.reading import csv_rows
from vlsb.data.dataset import PublishedSet
from vlsb.records import Half, Sample

GET = "Put xstest_prompts.csv of github.com/paul-rottger/exaggerated-safety into DIR."


def read(label: str, root: Path) -> Iterator[Sample]:
    """Read the prompts of a label."""
    for row in csv_rows(root / "xstest_prompts.csv"):
        if row.text("label") == label:
            yield row.sample(row.number("id"), row.text("prompt"), None, row.text("type"), source="xstest")


SAFE = PublishedSet("XSTest, safe prompts", Half.BENIGN, 250, "CC BY 4.0", GET, partial(read, "safe"))
UNSAFE = PublishedSet(
    "XSTest, contrast prompts", Half.HARMFUL, 200, "CC BY 4.0", GET, partial(read, "unsafe")
)
