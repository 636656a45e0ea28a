"""JailBreakV-28K: jailbreaks of language models beside images, and jailbreaks by images. Harmful only.

Source: huggingface.co/datasets/JailbreakV-28K/JailBreakV-28k, whose card, file names and licence (MIT) were
read in several revisions of 2024; the columns are those that public readers of its CSV use (read on
2026-12-03). Not gated; all images but 300 are a download apart. A judge sees the image and the jailbreak
text; `safety_reason` is the harmful question in it. The kind of attack (`format`) is a sample's source; an
id is the published one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vlsb.data.adapters.reading import csv_rows
from vlsb.data.dataset import PublishedSet
from vlsb.records import Half, Sample

_FOLDER = "JailBreakV_28K"


def read(root: Path) -> Iterator[Sample]:
    """Read JailBreakV_28K/JailBreakV_28K.csv; its image paths are relative to its folder."""
    for row in csv_rows(root / _FOLDER / "JailBreakV_28K.csv"):
        yield row.sample(
            row.number("id"),
            row.text("jailbreak_query"),
            f"{_FOLDER}/{row.text('image_path')}",
            row.text("policy"),
            source=row.text("format"),
            safety_reason=row.text("redteam_query"),
        )


ALL = PublishedSet(
    "JailBreakV-28K",
    Half.HARMFUL,
    28_000,
    "MIT",
    "Clone huggingface.co/datasets/JailbreakV-28K/JailBreakV-28k, and unpack the images that its card "
    "links into JailBreakV_28K: DIR is the clone.",
    read,
)
