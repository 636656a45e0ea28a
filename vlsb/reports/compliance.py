"""How far responses comply, as every format has it: beside the rates of safety, and never among them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from vlsb.analysis.compliance import ComplianceShares, RunCompliance
from vlsb.analysis.summary import Summary
from vlsb.records import Compliance, Untrusted
from vlsb.reports.report import Table, Words, interval_text, percent

TITLE = "Compliance"
NOTE = (
    "Percent of the responses that a judge of compliance has read (n), with 95 % intervals clustered by "
    "image. It says nothing of safety: of harmless questions more is better, of harmful ones less."
)
_HEADINGS = ("n", "answered", "95 % CI", "partial", "refused", "95 % CI")


def compliance_of(summaries: Iterable[Summary]) -> list[RunCompliance]:
    """Return what judges of compliance say of the runs that these summaries are of, each run's once."""
    runs = {each.path: each.compliance for each in summaries}
    return [each for found in runs.values() for each in found]


def compliance_table(found: Sequence[RunCompliance]) -> Table:
    """Return a row for each run and judge, and below it its categories where it has several."""
    rows: list[tuple[Words, ...]] = []
    for each in found:
        rows.append((each.run, each.judge, "all", *_figures(each.shares)))
        if len(each.by_category) > 1:
            rows += [(each.run, each.judge, name, *_figures(of)) for name, of in each.by_category.items()]
    return Table(
        TITLE,
        ("run", "judge", "category", *_HEADINGS),
        rows,
        names=3,
        notes=[NOTE],
        label="tab:compliance",
        foldable=[0, 2],
    )


def compliance_object(found: RunCompliance) -> dict[str, object]:
    """Return one judge's shares as a JSON object: percent, unrounded, null where nothing was judged."""
    return {
        "judge": found.judge,
        **_object(found.shares),
        "by_category": {name: _object(of) for name, of in found.by_category.items()},
    }


_Cells = dict[str, int | float | None]


def compliance_rows(found: RunCompliance) -> Iterator[tuple[str, str | Untrusted, _Cells]]:
    """Yield scope, name and figures of each row of a spreadsheet."""
    yield "compliance", "", _cells(found.shares)
    for name, of in found.by_category.items():
        yield "compliance by category", name, _cells(of)


COLUMNS = tuple(f"{each.value}_share{end}" for each in Compliance for end in ("", "_low", "_high"))
"""The columns of `compliance_rows` beside those that safety rates have too."""


def _figures(shares: ComplianceShares) -> Iterator[str]:
    is_whole = shares.judged == shares.selected
    yield f"{shares.judged:,}" if is_whole else f"{shares.judged:,}/{shares.selected:,}"
    for each in Compliance:
        yield percent(shares.percent(each))
        if each is not Compliance.PARTIAL:
            yield interval_text(shares.intervals[each] if shares.judged else None)


def _object(shares: ComplianceShares) -> dict[str, object]:
    return {
        "selected": shares.selected,
        "judged": shares.judged,
        **{each.value: shares.percent(each) for each in Compliance},
        "intervals": {each.value: shares.intervals[each] for each in Compliance},
        "counts": {each.value: shares.counts[each] for each in Compliance},
    }


def _cells(shares: ComplianceShares) -> _Cells:
    values = [value for each in Compliance for value in (shares.percent(each), *shares.intervals[each])]
    return {"selected": shares.selected, "found": shares.judged, **dict(zip(COLUMNS, values, strict=True))}
