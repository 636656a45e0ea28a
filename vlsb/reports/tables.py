"""Plain tables for the terminal, Markdown and LaTeX: rows of words and figures under headings.

A cell that is a `str` is ours; a stranger's is `Untrusted`, and goes through the encoder of the format.
Titles, headings and notes are made with one of `ENCODERS`.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table as RichTable
from rich.text import Text

from vlsb.records import Untrusted
from vlsb.reports.encode import Encode, for_json, for_latex, for_markdown, for_terminal, latex_row
from vlsb.reports.latex import PACKAGES, LatexRow, LatexTable, latex_floats, sentence
from vlsb.reports.terminal import MIN_WIDTH, text_console

Cell = str | Untrusted
FORMATS = ("table", "json", "csv", "markdown", "latex")
"""What a report made of tables can be written as; JSON and CSV hold its figures, not its tables."""
ENCODERS: Mapping[str, Encode] = {"table": for_terminal, "markdown": for_markdown, "latex": for_json}
"""What stands for a stranger's words in a sentence of ours; of LaTeX's the whole sentence is encoded here."""
GAP = 2
"""Columns between two cells at least; one more where there is room."""
_LEAST_WORDS = 5
"""What a column of words can be folded to before figures are folded, too."""
_JOINER = 2
"""Letters of a word that belongs to its figures: `1 to 2`, `95 % CI`."""
_WORDS = re.compile(r"\s*\S+\s*")
_PIECES = re.compile(r"[^-_/.,:]*(?:[-_/.,:]+|$)\s*")
"""What of a long name stays on one line, if the line has room for it."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its title, and sentences below it; the first `names` columns hold words.

    Of these a terminal folds the `foldable`, all if none is named. A newline in a cell of ours parts what may
    stand below each other. `label` is what a LaTeX document refers to the table by.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    names: int = 1
    notes: Sequence[str] = ()
    label: str = ""
    foldable: Sequence[int] = ()


def tables_in(form: str, tables: Sequence[Table], *, width: int, color: bool) -> str:
    """The tables as `table`, `markdown` or `latex`."""
    if form == "table":
        return tables_text(tables, width=width, color=color)
    return tables_markdown(tables) if form == "markdown" else tables_latex(tables)


def led_by(lines: Sequence[str], tables: Sequence[Table], form: str, *, width: int, color: bool) -> str:
    """Sentences, then the tables; in LaTeX they are the first notes of the first table."""
    if form == "latex":
        first, *others = tables
        return tables_latex([replace(first, notes=[*lines, *first.notes]), *others])
    if form == "table":
        lead = "".join(f"{textwrap.fill(line, max(width, MIN_WIDTH))}\n" for line in lines) + "\n"
    else:
        lead = "".join(f"{line}\n\n" for line in lines)
    return lead + tables_in(form, tables, width=width, color=color)


def tables_text(tables: Sequence[Table], *, width: int, color: bool) -> str:
    """The tables as text of at most `width` columns (40 at least)."""
    screen = io.StringIO()
    console = text_console(screen, width=width, color=color)
    for number, table in enumerate(tables):
        console.print(Text(("\n" if number else "") + table.title, style="bold"))
        for grid in _grids(table, console.width):
            console.print(grid)
        for note in table.notes:
            console.print(Text(note, style="dim"))
    return "".join(f"{line.rstrip()}\n" for line in screen.getvalue().splitlines())


class _Column(NamedTuple):
    """A column's heading and cells, encoded."""

    lines: Sequence[str]
    is_name: bool
    is_foldable: bool

    @property
    def widest(self) -> int:
        return max(cell_len(line) for each in self.lines for line in each.split("\n"))

    @property
    def least(self) -> int:
        """What it needs where every other column is folded first."""
        if self.is_foldable:
            return min(self.widest, _LEAST_WORDS)
        return max(_least_width(line) for each in self.lines for line in each.split("\n"))


def _grids(table: Table, width: int) -> Iterator[RichTable]:
    """The table's rows; figures that have no room beside the others follow below, after the same names."""
    foldable = table.foldable or range(table.names)
    columns = [
        _Column(
            [heading, *(_encoded(row[place], for_terminal) for row in table.rows)],
            place < table.names,
            place in foldable,
        )
        for place, heading in enumerate(table.headings)
    ]
    names, figures = columns[: table.names], columns[table.names :]
    room = width - sum(each.least + GAP for each in names)
    part: list[_Column] = []
    for each in figures:
        if part and sum(one.least + GAP for one in (*part, each)) - GAP > room:
            yield _grid([*names, *part], width)
            part = []
        part.append(each)
    yield _grid([*names, *part], width)


def _grid(columns: Sequence[_Column], width: int) -> RichTable:
    """The columns beside each other: names are folded where that is needed, and figures only at blanks."""
    widest = [each.widest for each in columns]
    gap = GAP + (sum(widest) + (GAP + 1) * (len(columns) - 1) <= width)
    room = width - gap * (len(columns) - 1)
    if sum(widest) > room:
        widest = [each.widest if each.is_foldable else each.least for each in columns]
    widths = _folded(widest, [each.is_foldable for each in columns], room)
    grid = RichTable(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, gap - 2, 0, 1))
    cells = [
        [_fold(line, size) if column.is_foldable else line for line in column.lines]
        for column, size in zip(columns, widths, strict=True)
    ]
    for column, lines, size in zip(columns, cells, widths, strict=True):
        justify: Literal["left", "right"] = "left" if column.is_name else "right"
        # Figures alone may be wider than the terminal: then these are folded as well.
        fixed = size if sum(widths) <= room else None
        grid.add_column(lines[0], justify=justify, overflow="fold", width=fixed)
    for row in zip(*(lines[1:] for lines in cells), strict=True):
        grid.add_row(*map(Text, row))
    return grid


def _folded(widths: Sequence[int], foldable: Sequence[bool], room: int) -> list[int]:
    """The widths with the widest of the foldable made smaller until all have room, if they can have it."""
    found = list(widths)
    places = [place for place, is_foldable in enumerate(foldable) if is_foldable]
    while sum(found) > room and places:
        widest = max(places, key=lambda place: found[place])
        if found[widest] <= _LEAST_WORDS:
            break
        found[widest] -= 1
    return found


def _fold(text: str, width: int) -> str:
    """Words in lines of that width; those that are wider are parted at dashes and the like, else by rich."""
    lines = [""]
    for word in _WORDS.findall(text):
        for piece in [word] if cell_len(word.rstrip()) <= width else _PIECES.findall(word):
            if lines[-1] and cell_len(lines[-1] + piece.rstrip()) > width:
                lines.append("")
            lines[-1] += piece
    return "\n".join(map(str.rstrip, lines))


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
    """The tables as LaTeX, each a float with its caption, and its notes below."""
    blocks = [PACKAGES]
    for table in tables:
        head = latex_row([sentence(each) for each in table.headings])
        rows = [latex_row([_encoded(cell, for_latex, ours=True) for cell in row]) for row in table.rows]
        columns = "l" * table.names + "r" * (len(table.headings) - table.names)
        body = LatexTable(columns, head, [LatexRow(row) for row in rows])
        caption = sentence(table.title if table.title.endswith((".", ":")) else f"{table.title}.")
        blocks.append(latex_floats(caption, table.label, body, [sentence(each) for each in table.notes]))
    return "\n\n".join(blocks) + "\n"


def _encoded(cell: Cell, encode: Callable[[Untrusted], str], *, ours: bool = False) -> str:
    """A cell's text; with `ours`, our own words hold signs that the format would act on, too."""
    if isinstance(cell, Untrusted):
        return encode(cell)
    return encode(Untrusted(cell)) if ours else cell if encode is for_terminal else cell.replace("\n", " ")
