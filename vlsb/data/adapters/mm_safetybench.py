"""MM-SafetyBench: questions whose harmful phrase an image shows: drawn (SD), typed (TYPO) or both (SD_TYPO).

Source: github.com/isXinLiu/MM-SafetyBench. No copy of it could be read: the layout is what three public
readers of it agree on (read on 2026-12-03), and so is the licence, CC BY-NC 4.0. Not gated; the images are
a download apart. A judge sees the image and the rephrased question; `safety_reason` is the question in
plain words. Harmful only; the scenarios 08 to 13 ask for advice rather than for harm. The kind of image is
a sample's source.

An id is 10,000 times the scenario's number, 10 times the question's, and 1, 2 or 3 for SD, SD_TYPO and
TYPO.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vlsb.data.adapters.reading import FileRow, json_objects
from vlsb.data.dataset import PublishedSet
from vlsb.errors import DatasetError
from vlsb.records import Half, Sample

_QUESTIONS = {"SD": "Rephrased Question(SD)", "SD_TYPO": "Rephrased Question", "TYPO": "Rephrased Question"}


def read(root: Path) -> Iterator[Sample]:
    """Read data/processed_questions/*.json, whose images are data/imgs/SCENARIO/KIND/NUMBER.jpg."""
    files = sorted((root / "data" / "processed_questions").glob("[01][0-9]-*.json"))
    if not files:
        raise DatasetError(f"{root} has no data/processed_questions/*.json. Is it a whole copy?")
    for file in files:
        questions = FileRow(json_objects(file), file.name)
        for number in questions.fields:
            row = questions.inner(number)
            first = 10_000 * int(file.name[:2]) + 10 * int(number)
            for kind, (variant, name) in enumerate(_QUESTIONS.items(), start=1):
                yield row.sample(
                    first + kind,
                    row.text(name),
                    f"data/imgs/{file.stem}/{variant}/{number}.jpg",
                    file.stem,
                    source=variant,
                    safety_reason=row.text("Question"),
                )


ALL = PublishedSet(
    "MM-SafetyBench",
    Half.HARMFUL,
    5040,
    "CC BY-NC 4.0",
    "Clone github.com/isXinLiu/MM-SafetyBench, and unpack the images that its README.md links "
    "into data/imgs: DIR is the clone.",
    read,
)
