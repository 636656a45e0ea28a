"""Guards and lists of phrases in a table of their own: what they found is no label and enters no rate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vlsb.analysis.summary import GuardCounts, Summary
from vlsb.records import Rating, Untrusted
from vlsb.reports.encode import Encode, for_terminal

GUARD_HEADINGS = ("run", "guard", "safe", "controversial", "unsafe", "refusals", "no finding", "responses")
GUARD_NOTE = (
    "Guards rate harm and see no warning: not the three labels, and not to be compared with safe rates."
)


def guards_of(summaries: Iterable[Summary]) -> list[GuardCounts]:
    """The guards of the runs that these summaries are of, each run's once."""
    runs: dict[Untrusted, tuple[GuardCounts, ...]] = {each.path: each.guards for each in summaries}
    return [guard for guards in runs.values() for guard in guards]


def guard_object(counts: GuardCounts) -> dict[str, object]:
    """One guard as its JSON object; null for what it does not tell."""
    return {
        "guard": counts.guard,
        "responses": counts.responses,
        "found": counts.found,
        "failed": counts.failed,
        **{rating.value: counts.ratings.get(rating, 0) if counts.rates_harm else None for rating in Rating},
        "refusals": counts.refusals,
    }


def guards_table(counts: Sequence[GuardCounts]) -> str:
    """The table as plain text, each row a guard of a run. A dash: it does not tell."""
    rows = [GUARD_HEADINGS, *(guard_cells(each, for_terminal) for each in counts)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(GUARD_HEADINGS))]
    lines = [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join(("Guards", *lines, GUARD_NOTE))


def guard_cells(counts: GuardCounts, encode: Encode) -> tuple[str, ...]:
    """One guard's row under `GUARD_HEADINGS`. A dash: it does not tell."""
    ratings = (str(counts.ratings.get(rating, 0)) if counts.rates_harm else "-" for rating in Rating)
    refusals = "-" if counts.refusals is None else str(counts.refusals)
    names = encode(counts.run), encode(counts.guard)
    return (*names, *ratings, refusals, str(counts.failed), str(counts.responses))
