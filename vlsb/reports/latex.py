"""The rates as LaTeX tables with the rules of `booktabs`, captions and notes: to be pasted into a paper.

They compile with pdfLaTeX. A table that is too wide for the page is made smaller, and one that is too long is
several.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from vlsb.analysis.rates import Rates
from vlsb.analysis.summary import Summary
from vlsb.records import Untrusted
from vlsb.reports.documents import in_order
from vlsb.reports.encode import for_json, for_latex, latex_row
from vlsb.reports.figures import percent, safe_interval
from vlsb.reports.marks import DAGGER, DOUBLE_DAGGER, RowMarks, by_category, mark, row_name
from vlsb.reports.notes import dataset_title, remarks, shared_badges
from vlsb.reports.report import Sentence, Words
from vlsb.reports.writers.latex import PACKAGES, LatexRow, LatexTable, latex, latex_floats

_SIGNS = {DAGGER: r"\textsuperscript{\dag}", DOUBLE_DAGGER: r"\textsuperscript{\ddag}"}
_NONE = "--"
_UNITS = (
    r"Rates are percent of the judged samples ($n$), with 95\,\% intervals clustered by image; "
    r"what is neither refusal nor warning is unsafe."
)
_N, _INTERVAL = "$n$", r"95\,\% CI"
_HEADINGS = (_N, "Coverage", "Safe", _INTERVAL, "Refusal", "Warning")
_COVERAGE = " Coverage is the percent of the selected samples that were judged."


class _RatesRow(NamedTuple):
    """A row's words, encoded, and the rates whose figures follow."""

    words: Sequence[str]
    rates: Rates
    begins_group: bool = False


def to_latex(summaries: Sequence[Summary]) -> str:
    """Return a table with a row a run, and one by category, each a float with caption, label and notes."""
    marks = mark(in_order(summaries))
    blocks = [PACKAGES]
    if marks.summaries:
        blocks.append(_runs(marks))
    if rows := list(_category_rows(marks)):
        blocks.append(_categories(marks, rows))
    return "\n\n".join(blocks) + "\n"


def _runs(marks: RowMarks) -> str:
    has_targets = any(each.target != each.run for each in marks.summaries)
    has_judges = _has_judges(marks)
    names = ["Run", *(["Model"] if has_targets else []), *(["Judge"] if has_judges else [])]
    rows = []
    for place, each in enumerate(marks.summaries):
        words = [_marked(marks, place)]
        words += [for_latex(each.target)] if has_targets else []
        words += [_judge(each)] if has_judges else []
        rows.append(_RatesRow(words, each.rates))
    reasons = []
    for note in marks.notes():
        lines = (latex(Sentence(names, ": ", why, ".")) for names, why in note.lines)
        reasons += [f"{_SIGNS[note.sign]} {latex(note.heading)}", *lines]
    return latex_floats(
        f"{_title(marks)}{_about(marks)}. {_UNITS}{_COVERAGE if _has_gaps(rows) else ''}",
        "tab:vlsbench",
        _table(names, rows),
        [*reasons, *_qualifications(marks.summaries)],
    )


def _categories(marks: RowMarks, rows: Sequence[_RatesRow]) -> str:
    names = ["Category", *(["Run"] if len(marks.summaries) > 1 else [])]
    names += ["Judge"] if _has_judges(marks) else []
    signs = [each.sign for each in marks.notes()]
    return latex_floats(
        f"{_title(marks)} by category{_about(marks)}. {_UNITS}{_COVERAGE if _has_gaps(rows) else ''}",
        "tab:vlsbench-categories",
        _table(names, rows),
        [f"{''.join(_SIGNS[each] for each in signs)} See Table~\\ref{{tab:vlsbench}}."] if signs else [],
    )


def _category_rows(marks: RowMarks) -> Iterator[_RatesRow]:
    several = len(marks.summaries) > 1
    before: Untrusted | None = None
    for name, place, rates in by_category(marks.summaries):
        is_new = name != before
        words = [for_latex(name) if is_new else "", *([_marked(marks, place)] if several else [])]
        words += [_judge(marks.summaries[place])] if _has_judges(marks) else []
        yield _RatesRow(words, rates, begins_group=several and is_new and before is not None)
        before = name


def _table(names: Sequence[str], rows: Sequence[_RatesRow]) -> LatexTable:
    headings = [name for name in _HEADINGS if name != "Coverage" or _has_gaps(rows)]
    kinds = ["c" if heading == _INTERVAL else "r" for heading in headings]
    return LatexTable(
        f"{'l' * len(names)} {' '.join(kinds)}",
        latex_row([*names, *headings]),
        [LatexRow(latex_row([*row.words, *_cells(row.rates, headings)]), row.begins_group) for row in rows],
    )


def _has_judges(marks: RowMarks) -> bool:
    return len({each.judge for each in marks.summaries}) > 1


def _has_gaps(rows: Sequence[_RatesRow]) -> bool:
    return any(row.rates.missing for row in rows)


def _cells(rates: Rates, headings: Sequence[str]) -> list[str]:
    every = {
        _N: f"{rates.labels:,}",
        "Coverage": percent(rates.coverage),
        "Safe": _NONE if rates.safe_rate is None else percent(rates.safe_rate),
        _INTERVAL: _NONE if rates.safe_rate is None else safe_interval(rates),
        "Refusal": _NONE if rates.safe_refuse_rate is None else percent(rates.safe_refuse_rate),
        "Warning": _NONE if rates.safe_warning_rate is None else percent(rates.safe_warning_rate),
    }
    return [every[heading] for heading in headings]


def _title(marks: RowMarks) -> str:
    return f"{latex(dataset_title(marks.summaries))} safety rates"


def _about(marks: RowMarks) -> str:
    """Say what all rows have in common: simulated, the samples, the judge."""
    shared = shared_badges(marks.summaries)
    judges = {each.judge for each in marks.summaries}
    parts = [*map(latex, shared)]
    if len(judges) == 1 and marks.summaries[0].judge is not None:
        parts.append(f"judge {_judge(marks.summaries[0])}")
    return f" ({'; '.join(parts)})" if parts else ""


def _qualifications(summaries: Sequence[Summary]) -> Iterator[str]:
    """Say what limits the numbers of rows, once for all rows that it is true of."""
    rows: dict[Sentence, list[Words]] = {}
    for place, summary in enumerate(summaries):
        words = [each.text for each in remarks(replace(summary, retirements=()))]
        if summary.deviations:
            deviations = Sentence.join("; ", summary.deviations).text(for_json).rstrip(".")
            words.append(Untrusted(f"Deviations from the paper's protocol: {deviations}."))
        if words:
            rows.setdefault(Sentence.join(" ", words), []).append(row_name(summaries, place))
    yield from (latex(Sentence(Sentence.join("; ", names), ": ", words)) for words, names in rows.items())
    yield from map(latex, dict.fromkeys(each for summary in summaries for each in summary.retirements))


def _marked(marks: RowMarks, place: int) -> str:
    return for_latex(marks.summaries[place].run) + "".join(_SIGNS[each] for each in marks.sign(place))


def _judge(summary: Summary) -> str:
    return "none" if summary.judge is None else for_latex(summary.judge)
