"""VLGuard's test set: harmful images, and harmless ones with a harmful or a harmless question.

Source: github.com/ys-zong/VLGuard, `data/test.json` as of commit a2f85c90e103 (2025-01-19); the images are
test.zip of huggingface.co/datasets/ys-zong/VLGuard, which is gated, so that its licence could not be read.
A judge sees image and question. The authors' subsets are sources: `unsafes` (442) and `safe_unsafes` (558,
a harmless image with a harmful question) are the harmful half, `safe_safes` (558) the benign one.

An id is the place in test.json, from 0: a harmless image has the same in both halves.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from vlsb.data.adapters.reading import FileRow, json_rows
from vlsb.data.dataset import PublishedSet
from vlsb.records import Half, Sample


def read(half: Half, root: Path) -> Iterator[Sample]:
    """Read a half of test.json; its image paths are relative to test/."""
    for number, row in enumerate(json_rows(root / "test.json")):
        if not (is_safe := row.flag("safe")) and half is Half.BENIGN:
            continue
        source = "unsafes" if not is_safe else "safe_safes" if half is Half.BENIGN else "safe_unsafes"
        names = {
            "unsafes": "instruction",
            "safe_safes": "safe_instruction",
            "safe_unsafes": "unsafe_instruction",
        }
        asked = {name: text for turn in row.inners("instr-resp") for name, text in turn.fields.items()}
        yield row.sample(
            number,
            FileRow(asked, row.where).text(names[source]),
            f"test/{row.text('image')}",
            source if is_safe else row.text("harmful_category"),
            None if is_safe else row.text("harmful_subcategory"),
            source=source,
        )


_GET = (
    "Accept the conditions of huggingface.co/datasets/ys-zong/VLGuard, put test.json and test.zip into DIR, "
    "and unpack test.zip there, so that DIR has the folder test."
)
UNSAFE = PublishedSet("VLGuard, unsafe", Half.HARMFUL, 1000, "gated", _GET, partial(read, Half.HARMFUL))
SAFE = PublishedSet("VLGuard, safe", Half.BENIGN, 558, "gated", _GET, partial(read, Half.BENIGN))
