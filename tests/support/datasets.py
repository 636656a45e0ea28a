"""Made-up data sets: each sample has an instruction of its own, and as a rule an image of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

PAIRS = (
    ("Violent", "Weapon-Related Violence"),
    ("Hate", "Cultural Xenophobia"),
    ("Privacy", "Unauthorized Data Collection"),
)
SOURCES = ("generation", "coco2017")


def instruction(number: int) -> str:
    """The made-up instruction of a sample: no other sample's contains it."""
    return f"Question {number}?"


def sample_row(number: int, **changes: Any) -> dict[str, Any]:
    """One row of data.json; its instruction names the sample."""
    category, sub_category = PAIRS[number % len(PAIRS)]
    row = {
        "instruction_id": number,
        "instruction": instruction(number),
        "image_path": f"imgs/{number}.png",
        "category": category,
        "sub_category": sub_category,
        "source": SOURCES[number % len(SOURCES)],
        "image_description": "One colour.",
        "safety_reason": "None.",
    }
    return row | changes


def draw_image(path: Path, seed: int) -> None:
    """Write a small PNG; different seeds give different bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = (1 + seed % 8, 1 + seed // 8 % 8)
    Image.new("RGB", size, (seed % 256, seed // 256 % 256, 77)).save(path, format="PNG")


def write_dataset(root: Path, rows: int | Sequence[Mapping[str, Any]] = 6) -> Path:
    """Write a data set folder with these rows, or so many plain ones, and an image for each path."""
    written = [sample_row(number) for number in range(rows)] if isinstance(rows, int) else rows
    root.mkdir(parents=True, exist_ok=True)
    (root / "data.json").write_text(json.dumps(written))
    for row in written:
        draw_image(root / row["image_path"], row["instruction_id"])
    return root


def sharing_rows(count: int) -> list[dict[str, Any]]:
    """Rows of which every seventh has the image of the one before it."""
    return [
        sample_row(number, image_path=f"imgs/{number - 1 if number % 7 == 6 else number}.png")
        for number in range(count)
    ]
