"""What `vlsb data check` prints: counts, categories, oddities and everything that is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vlsb.errors import first_of
from vlsb.records import PUBLISHED_IDS, Untrusted
from vlsb.reports.encode import for_terminal

if TYPE_CHECKING:
    from vlsb.data.check import DatasetReport

_SHOWN_PROBLEMS = 20
_SHOWN_IDS = 8


def dataset_text(report: DatasetReport, *, width: int, color: bool) -> str:
    """Return the whole page, at a fixed width."""
    out = StringIO()
    console = Console(
        file=out, width=max(width, 80), force_terminal=color, no_color=not color, highlight=False
    )
    counts, altered = report.counts, len(report.altered_ids)
    # How the rows stand to the published ones, and what is not known of the images.
    if report.has_published_ids and altered:
        published = (
            f"This is not VLSBench: same ids, other content in {altered:,} of {counts.row_count:,} rows.\n"
            f"The first of them: instruction_id {_ids(report.altered_ids[:_SHOWN_IDS])}."
        )
    elif report.is_full:
        published = (
            "The rows are those of VLSBench as published.\n"
            "Whether the images are cannot be checked: their checksums were never published."
        )
    else:
        here = f"{report.published_rows:,} of its {len(PUBLISHED_IDS):,} rows are here"
        published = f"This is not the full published VLSBench: {here}."
    for line in (
        f"{counts.row_count:,} rows, {counts.image_count:,} images",
        f"{counts.instruction_count:,} distinct instructions",
        published,
        f"checksum {report.digest}",
    ):
        console.print(Text(line), soft_wrap=True)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    table.add_column("category")
    table.add_column("sub-category")
    table.add_column("rows", justify="right")
    for category in counts.categories:
        table.add_row(_text(category.name, "bold"), Text(""), Text(f"{category.rows:,}", style="bold"))
        for pair in counts.pairs:
            if pair.category == category.name:
                table.add_row(Text(""), _text(pair.sub_category), Text(f"{pair.rows:,}"))
    console.print(table)
    for line in (*_oddities(report), *_problems(report)):
        console.print(Text(line), soft_wrap=True)
    return out.getvalue()


def _oddities(report: DatasetReport) -> Iterator[str]:
    counts = report.counts
    sources = ", ".join(f"{for_terminal(s.source)} {s.rows:,} ({s.images:,})" for s in counts.sources)
    times = {1: "once", 2: "twice"}
    uses = (f"{images:,} used {times.get(count, f'{count} times')}" for count, images in counts.image_uses)
    yield f"sources, rows (images): {sources}"
    yield f"images: {', '.join(uses)}"
    if report.distinct_images < counts.image_count:
        yield f"images that differ in their bytes: {report.distinct_images:,} of {counts.image_count:,}"
    yield f"types: {', '.join(f'{kind} {count:,}' for kind, count in report.media_types)}"
    yield f"(category, sub-category) pairs: {len(counts.pairs)}"
    yield f"empty instructions: {_ids(counts.empty_instruction_ids)}"
    pairs = "; ".join(_ids(ids) for ids in counts.duplicate_ids) or "none"
    yield f"identical (image, instruction) pairs: {pairs}"
    yield f"ids that are not their image's file name: {counts.renamed_count:,}"
    if report.misnamed_images:
        named = ", ".join(
            f"{for_terminal(p.image_path)} is {p.media_type}" for p in report.misnamed_images[:5]
        )
        yield f"names that do not fit the bytes: {len(report.misnamed_images)} ({named})"


def _problems(report: DatasetReport) -> Iterator[str]:
    missing = sum(image.is_missing for image in report.bad_images)
    broken = len(report.bad_images) - missing
    yield f"missing images: {missing:,}; broken images: {broken:,}"
    for image in report.bad_images[:_SHOWN_PROBLEMS]:
        name, ids = for_terminal(image.image_path), _ids(image.sample_ids)
        yield f"  {name} (instruction_id {ids}): {image.reason}"
    if len(report.bad_images) > _SHOWN_PROBLEMS:
        yield f"  and {len(report.bad_images) - _SHOWN_PROBLEMS:,} more"


def _ids(ids: tuple[int, ...]) -> str:
    return first_of(ids, _SHOWN_IDS) or "none"


def _text(text: Untrusted, style: str = "") -> Text:
    return Text(for_terminal(text), style=style)
