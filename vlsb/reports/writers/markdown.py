"""A report as Markdown: sentences, then each table under a heading with its notes below."""

from __future__ import annotations

from vlsb.reports.encode import for_markdown
from vlsb.reports.report import Report, Table, Words, text_of


def write(report: Report, *, width: int, color: bool) -> str:
    """Return the report as Markdown, whatever the terminal is."""
    blocks = [_text(each) for each in report.lead]
    for table in report.tables:
        blocks += [f"### {_text(table.title)}", markdown_table(table), *map(_text, table.notes)]
    return "\n\n".join(blocks) + "\n"


def markdown_table(table: Table) -> str:
    """Return the rows of a table under their headings, without its title and notes."""
    rules = [":--" if place < table.names else "--:" for place in range(len(table.headings))]
    rows = (table.headings, rules, *table.rows)
    cells = ([_text(each).replace("\n", " ").strip() for each in row] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _text(words: Words) -> str:
    return text_of(words, for_markdown)
