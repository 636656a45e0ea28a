"""A report as LaTeX tables with the rules of `booktabs`, captions and notes: to be pasted into a paper.

They compile with pdfLaTeX. A table that is too wide for the page is made smaller, and one that is too long is
several.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil
from typing import NamedTuple

from vlsb.records import Untrusted
from vlsb.reports.encode import for_json, for_latex, latex_row
from vlsb.reports.report import Report, Table, Words, text_of

PACKAGES = "% \\usepackage{booktabs}\n% \\usepackage{graphicx}"
"""What a document needs for these tables, as comments."""
# Of \small rows and \footnotesize lines, on a page of LaTeX's own classes.
_PAGE_LINES = 40
"""This many rows, and lines of notes below them, stand on one page."""
_LINE_LETTERS = 95
"""The letters of a line of notes."""


class LatexRow(NamedTuple):
    """A row in LaTeX; a group has a little room before it, and is not parted if it need not be."""

    text: str
    begins_group: bool = False


class LatexTable(NamedTuple):
    """What stands in a table, all of it LaTeX: its columns' kinds, its head and its rows."""

    columns: str
    head: str
    rows: Sequence[LatexRow]


def write(report: Report, *, width: int, color: bool) -> str:
    """Return each table as a float with its caption and notes; what leads the report is the first notes."""
    blocks = [PACKAGES]
    for place, table in enumerate(report.tables):
        blocks.append(table_floats(table, lead=() if place else report.lead))
    return "\n\n".join(blocks) + "\n"


def table_floats(table: Table, *, lead: Sequence[Words] = ()) -> str:
    """Return a table as floats; `lead` are its first notes."""
    columns = "l" * table.names + "r" * (len(table.headings) - table.names)
    rows = [LatexRow(latex_row([*map(latex, row)])) for row in table.rows]
    body = LatexTable(columns, latex_row([*map(latex, table.headings)]), rows)
    title = text_of(table.title, for_json)
    caption = latex(title if title.endswith((".", ":")) else f"{title}.")
    return latex_floats(caption, table.label, body, list(map(latex, [*lead, *table.notes])))


def latex(words: Words) -> str:
    """Return words in LaTeX. Ours hold signs that it would act on, too, and some run across their parts."""
    return for_latex(Untrusted(text_of(words, for_json)))


def latex_floats(caption: str, label: str, table: LatexTable, notes: Sequence[str]) -> str:
    """Write a table as floats of a page at most, with caption, label and, under the last, the notes.

    Notes that have no room on the page follow as text.
    """
    pages = list(_pages(table.rows))
    lines = len(pages[-1]) + sum(ceil(len(note) / _LINE_LETTERS) for note in notes)
    are_below = not notes or lines <= _PAGE_LINES
    blocks = []
    for number, rows in enumerate(pages, start=1):
        is_last = number == len(pages)
        blocks.append(
            _float(
                f"{caption} ({number} of {len(pages)})" if len(pages) > 1 else caption,
                f"{label}-{number}" if label and number > 1 else label,
                table._replace(rows=rows),
                notes if is_last and are_below else (),
            )
        )
    if not are_below:
        whose = rf"Notes to Table~\ref{{{label}}}. " if label else "Notes. "
        texts = [f"{whose}{notes[0]}", *notes[1:]]
        blocks.append("\n".join([r"{\footnotesize\raggedright\noindent", *_paragraphs(texts), r"\par}"]))
    return "\n\n".join(blocks)


def _pages(rows: Sequence[LatexRow]) -> Iterator[Sequence[LatexRow]]:
    """Return the rows of one page after another, parted before a group where that is possible."""
    start = 0
    while len(rows) - start > _PAGE_LINES:
        end = start + _PAGE_LINES
        groups = [place for place in range(start + 1, end + 1) if rows[place].begins_group]
        end = groups[-1] if groups else end
        yield rows[start:end]
        start = end
    yield rows[start:]


def _float(caption: str, label: str, table: LatexTable, notes: Sequence[str]) -> str:
    lines = [r"\toprule", table.head, r"\midrule"]
    for place, row in enumerate(table.rows):
        lines += [r"\addlinespace", row.text] if row.begins_group and place else [row.text]
    # As wide as it is, or made smaller where that is more than a line.
    tabular = [
        r"  \sbox0{%",
        rf"  \begin{{tabular}}{{{table.columns}}}",
        *(f"    {line}" for line in (*lines, r"\bottomrule")),
        r"  \end{tabular}}%",
        r"  \ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi",
    ]
    below = [
        r"",
        r"  \smallskip",
        r"  \parbox{\linewidth}{\footnotesize\raggedright",
        *_paragraphs(notes),
        "  }",
    ]
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering\small",
            rf"  \caption{{{caption}}}",
            *([rf"  \label{{{label}}}"] if label else []),
            *tabular,
            *(below if notes else []),
            r"\end{table}",
        ]
    )


def _paragraphs(notes: Sequence[str]) -> Iterator[str]:
    for number, note in enumerate(notes, start=1):
        yield f"    {note}" + (r" \par" if number < len(notes) else "")
