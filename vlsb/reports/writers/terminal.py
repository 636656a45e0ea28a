"""A report at a terminal: sentences, then tables in which names fold and figures never do.

Everything is a rich `Text`, because a string would be read as markup.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, TextIO

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from vlsb.reports.encode import for_terminal
from vlsb.reports.report import RateBar, Report, Table, Words, text_of

MIN_WIDTH = 40
"""Narrower terminals wrap our lines; a table made narrower would lose digits."""
GAP = 2
"""Columns between two cells at least; one more where there is room."""
_LEAST_WORDS = 5
"""What a column of words can be folded to before figures are folded, too."""
_BAR_WIDTHS = (26, 52)
"""The least and the most columns of a bar: steps of four percent, and of two."""
_JOINER = 2
"""Letters of a word that belongs to its figures: `1 to 2`, `95 % CI`."""
_WORDS = re.compile(r"\s*\S+\s*")
_PIECES = re.compile(r"[^-_/.,:]*(?:[-_/.,:]+|$)\s*")
"""What of a long name stays on one line, if the line has room for it."""


def write(report: Report, *, width: int, color: bool) -> str:
    """Return the report as text of at most `width` columns (40 at least)."""
    lead = "".join(f"{textwrap.fill(_text(each), max(width, MIN_WIDTH))}\n" for each in report.lead)
    return (f"{lead}\n" if lead else "") + tables_text(report.tables, width=width, color=color)


def text_console(file: TextIO, *, width: int, color: bool) -> Console:
    """Return a console that writes text of `width` columns (40 at least) and reads no markup in it.

    Colour is also left out where NO_COLOR is set; bold type, faint type and links are no colours.
    """
    return Console(
        file=file,
        width=max(width, MIN_WIDTH),
        color_system="standard" if color else None,
        force_terminal=color,
        force_jupyter=False,
        no_color=None if color else True,
        legacy_windows=False,
        markup=False,
        emoji=False,
        highlight=False,
    )


def tables_text(tables: Sequence[Table], *, width: int, color: bool) -> str:
    """Return the tables as text of at most `width` columns (40 at least)."""
    screen = io.StringIO()
    console = text_console(screen, width=width, color=color)
    for number, table in enumerate(tables):
        console.print(Text(("\n" if number else "") + _text(table.title), style="bold"))
        for grid in _grids(table, console.width):
            console.print(grid)
        for note in table.notes:
            console.print(Text(_text(note), style="dim"))
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
        least = 0
        for line in (line for each in self.lines for line in each.split("\n")):
            # A figure stays whole, and words are folded at their blanks.
            parts = line.split()
            has_words = any(len(part) > _JOINER and part.isalpha() for part in parts)
            least = max([least, *map(cell_len, parts if has_words else [line])])
        return least


def _grids(table: Table, width: int) -> Iterator[RichTable]:
    """Lay out the rows; figures that have no room beside the others follow below, after the same names."""
    foldable = table.foldable or range(table.names)
    cells = [list(map(_text, row)) for row in (table.headings, *table.rows)]
    if table.bars:
        cells = _with_bars(cells, table.bars, width)
    columns = [
        _Column(column, place < table.names, place in foldable)
        for place, column in enumerate(zip(*cells, strict=True))
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


def _with_bars(cells: list[list[str]], bars: Sequence[RateBar], width: int) -> list[list[str]]:
    """Add a bar to the end of each row, beside the other cells or, where there is no room, below them."""
    taken = [max(map(len, column)) + GAP for column in zip(*cells, strict=True)]
    least, most = _BAR_WIDTHS
    beside = width - sum(taken)
    size = min(most, beside if beside >= least else width - taken[0])
    drawn = [f"0{'50':^{size - 4}}100"]
    for bar in bars:
        middle, low, high = (round((size - 1) * each / 100) for each in bar)
        line = ["·"] * size
        line[low : high + 1] = "─" * (high + 1 - low)
        line[low], line[high], line[middle] = "├", "┤", "●"
        drawn.append("".join(line))
    return [[*row, each] for row, each in zip(cells, drawn, strict=True)]


def _grid(columns: Sequence[_Column], width: int) -> RichTable:
    """Put columns beside each other: names are folded where that is needed, and figures only at blanks."""
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
    """Make the widest of the foldable smaller until all have room, if they can have it."""
    sizes = list(widths)
    places = [place for place, is_foldable in enumerate(foldable) if is_foldable]
    while sum(sizes) > room and places:
        widest = max(places, key=sizes.__getitem__)
        if sizes[widest] <= _LEAST_WORDS:
            break
        sizes[widest] -= 1
    return sizes


def _fold(text: str, width: int) -> str:
    """Fold words in lines of that width; those that are wider are parted at dashes, else by rich."""
    lines = [""]
    for word in _WORDS.findall(text):
        for piece in [word] if cell_len(word.rstrip()) <= width else _PIECES.findall(word):
            if lines[-1] and cell_len(lines[-1] + piece.rstrip()) > width:
                lines.append("")
            lines[-1] += piece
    return "\n".join(map(str.rstrip, lines))


def _text(words: Words) -> str:
    return text_of(words, for_terminal)
