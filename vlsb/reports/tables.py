"""Plain tables for the terminal, Markdown and LaTeX: rows of words and figures under headings.

A cell that is a `str` is ours; a stranger's is `Untrusted`, and goes through the encoder of the format.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table as RichTable
from rich.text import Text

from vlsb.records import Untrusted
from vlsb.reports.encode import for_latex, for_markdown, for_terminal, latex_row
from vlsb.reports.terminal import text_console

Cell = str | Untrusted
FORMATS = ("table", "json", "csv", "markdown", "latex")
"""What a report made of tables can be written as; JSON and CSV hold its figures, not its tables."""
_GAP = 3
"""Columns between two cells."""
_LEAST_WORDS = 5
"""What a column of words can be folded to before figures are folded, too."""
_JOINER = 2
"""Letters of a word that belongs to its figures: `1 to 2`, `95 % CI`."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its title, and sentences below it; the first `names` columns hold words."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    names: int = 1
    notes: Sequence[str] = ()


def tables_in(form: str, tables: Sequence[Table], *, width: int, color: bool) -> str:
    """The tables as `table`, `markdown` or `latex`."""
    if form == "table":
        return tables_text(tables, width=width, color=color)
    return tables_markdown(tables) if form == "markdown" else tables_latex(tables)


def tables_text(tables: Sequence[Table], *, width: int, color: bool) -> str:
    """The tables as text of at most `width` columns (40 at least)."""
    screen = io.StringIO()
    console = text_console(screen, width=width, color=color)
    for number, table in enumerate(tables):
        console.print(Text(("\n" if number else "") + table.title, style="bold"))
        console.print(_grid(table, console.width))
        for note in table.notes:
            console.print(Text(note, style="dim"))
    return "".join(f"{line.rstrip()}\n" for line in screen.getvalue().splitlines())


def _grid(table: Table, width: int) -> RichTable:
    """The table's rows. Too wide ones fold words, and figures only where these alone do not fit."""
    rows = [[Text(_encoded(cell, for_terminal)) for cell in row] for row in table.rows]
    columns = [[heading, *(row[place].plain for row in rows)] for place, heading in enumerate(table.headings)]
    gaps = _GAP * (len(columns) - 1)
    narrow = [max(map(_least_width, cells)) for cells in columns]
    widest = [max(map(cell_len, cells)) for cells in columns]
    words = sum(min(each, _LEAST_WORDS) for each in widest[: table.names])
    is_wide = sum(widest) + gaps > width
    has_room = sum(narrow[table.names :]) + gaps + words <= width
    grid = RichTable(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for place, heading in enumerate(table.headings):
        is_figure = place >= table.names
        fixed = narrow[place] if is_figure and is_wide and has_room else None
        grid.add_column(heading, justify="right" if is_figure else "left", overflow="fold", width=fixed)
    for cells in rows:
        grid.add_row(*cells)
    return grid


def _least_width(text: str) -> int:
    """The columns that a figure needs, or words that are folded at their blanks."""
    parts = text.split()
    if not any(len(part) > _JOINER and part.isalpha() for part in parts):
        parts = [text]
    return max(map(cell_len, parts), default=0)


def tables_markdown(tables: Sequence[Table]) -> str:
    """The tables as Markdown, each under a heading."""
    blocks = []
    for table in tables:
        rules = [":--" if place < table.names else "--:" for place in range(len(table.headings))]
        rows = [[_encoded(cell, for_markdown) for cell in row] for row in table.rows]
        lines = ("| " + " | ".join(row) + " |" for row in (table.headings, rules, *rows))
        blocks += [f"### {table.title}", "\n".join(lines), *table.notes]
    return "\n\n".join(blocks) + "\n"


def tables_latex(tables: Sequence[Table]) -> str:
    """The tables as LaTeX `tabular`s with the rules of `booktabs`; titles and notes are comments."""
    blocks = []
    for table in tables:
        columns = "l" * table.names + "r" * (len(table.headings) - table.names)
        words = [[for_latex(Untrusted(each)) for each in table.headings]]
        rows = [[_encoded(cell, for_latex, ours=True) for cell in row] for row in table.rows]
        head, *body = map(latex_row, (*words, *rows))
        blocks.append(
            "\n".join(
                [
                    *(f"% {each}" for each in (table.title, *table.notes)),
                    rf"\begin{{tabular}}{{{columns}}}",
                    r"\toprule",
                    head,
                    r"\midrule",
                    *body,
                    r"\bottomrule",
                    r"\end{tabular}",
                ]
            )
        )
    return "\n\n".join(blocks) + "\n"


def _encoded(cell: Cell, encode: Callable[[Untrusted], str], *, ours: bool = False) -> str:
    """A cell's text; with `ours`, our own words hold signs that the format would act on, too."""
    if isinstance(cell, Untrusted):
        return encode(cell)
    return encode(Untrusted(cell)) if ours else cell
