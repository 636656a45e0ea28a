"""VLMEvalKit's prediction files, by the two calls of pandas that its `dump` makes.

It is not on the package index; the calls are those of its `vlmeval/smp/file.py` of August 2026.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pandas

from benchmarks.foreign_jobs.answers import ANSWERS, BLOCKED, FAILED, rows

FAILURE = "Failed to obtain answer via API."


def main(data: Path, out: Path) -> None:
    """Write both tables."""
    answers = list(ANSWERS)
    answers[FAILED], answers[BLOCKED] = FAILURE, f"{FAILURE}: 400 blocked"
    table = pandas.DataFrame(
        [
            {
                "index": number,
                "question": row["instruction"],
                "image_path": row["image_path"],
                "prediction": said,
            }
            for number, (row, said) in enumerate(zip(rows(data), answers, strict=True))
        ]
    )
    options = {"options": {"strings_to_formulas": False}}
    with pandas.ExcelWriter(out / "vlmevalkit.xlsx", engine="xlsxwriter", engine_kwargs=options) as writer:
        table.to_excel(writer, index=False)
    table.to_csv(out / "vlmevalkit.tsv", sep="\t", index=False, encoding="utf-8", quoting=csv.QUOTE_ALL)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
