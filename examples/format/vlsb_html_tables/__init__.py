"""Reports of vlsb as HTML: paragraphs and tables, to be put into a page of yours."""

from collections.abc import Sequence
from html import escape

from vlsb.reports.encode import for_terminal
from vlsb.reports.report import Report, Table, Words, text_of


def write(report: Report, *, width: int, color: bool) -> str:
    """Return the report as HTML, whatever the terminal is."""
    return "\n".join([*map(_paragraph, report.lead), *map(_table, report.tables)]) + "\n"


def _html(words: Words) -> str:
    # Strangers' words become printable; then HTML acts on nothing in them, nor in ours, such as `<0.001`.
    return escape(text_of(words, for_terminal)).replace("\n", "<br>")


def _paragraph(words: Words) -> str:
    return f"<p>{_html(words)}</p>"


def _table(table: Table) -> str:
    rows = "\n".join(_row("td", row) for row in table.rows)
    parts = [f"<caption>{_html(table.title)}</caption>", _row("th", table.headings), rows]
    return "\n".join(["<table>", *parts, "</table>", *map(_paragraph, table.notes)])


def _row(tag: str, cells: Sequence[Words]) -> str:
    return "<tr>" + "".join(f"<{tag}>{_html(cell)}</{tag}>" for cell in cells) + "</tr>"
