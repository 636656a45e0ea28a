"""Reports of vlsb as HTML: paragraphs and tables, to be put into a page of yours."""

from html import escape

from vlsb.reports.encode import for_terminal
from vlsb.reports.report import Report, Words, text_of


def write(report: Report, *, width: int, color: bool) -> str:
    """Return the report as HTML, whatever the terminal is."""
    parts = [f"<p>{_html(each)}</p>" for each in report.lead]
    for table in report.tables:
        parts += ["<table>", f"<caption>{_html(table.title)}</caption>"]
        for tag, row in (("th", table.headings), *(("td", row) for row in table.rows)):
            parts.append("<tr>" + "".join(f"<{tag}>{_html(cell)}</{tag}>" for cell in row) + "</tr>")
        parts += ["</table>", *(f"<p>{_html(each)}</p>" for each in table.notes)]
    return "\n".join(parts) + "\n"


def _html(words: Words) -> str:
    # Strangers' words become printable; then HTML acts on nothing in them, nor in ours, such as `<0.001`.
    return escape(text_of(words, for_terminal)).replace("\n", "<br>")
