"""The tables on a terminal: calm, aligned, whole from 60 columns on and readable at 40.

Names fold and numbers never do: where there is little room, headings get shorter, then columns that follow
from others go. Everything is a rich `Text`, because a string would be read as markup.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from vlsb.analysis.rates import Rates
from vlsb.analysis.summary import Summary
from vlsb.records import JUDGED, Untrusted
from vlsb.reports.documents import in_order
from vlsb.reports.encode import for_terminal
from vlsb.reports.notes import (
    RowMarks,
    badges,
    costs,
    dataset_title,
    mark,
    outcome_counts,
    remarks,
    said_once,
    shared_badges,
)
from vlsb.reports.report import (
    NO_FIGURE,
    RATE_HEADINGS,
    Sentence,
    Words,
    rate_and_n,
    rate_figures,
    safe_interval,
    text_of,
)
from vlsb.reports.writers.terminal import MIN_WIDTH, text_console

WIDE = 110
"""From here on target and judge have columns of their own."""

NARROW = 60
"""Below, outcomes stand without their explanations."""


class _ColumnLayout(NamedTuple):
    """Which of the rate columns are shown, and the least that the names beside them get.

    Without `has_selected` n is the judged samples alone: their share stands in the next column.
    """

    columns: tuple[int, ...]
    headings: tuple[str, ...]
    name_width: int
    has_selected: bool = True


_SHORT_HEADINGS = ("n", "cov.", "safe", "95 % CI", "ref.", "warn.", "unsafe")
_ALL = tuple(range(len(RATE_HEADINGS)))
# From the widest to the narrowest. Unsafe is what safe leaves of 100, warning what refusal leaves of safe.
_LAYOUTS = (
    _ColumnLayout(_ALL, RATE_HEADINGS, 12),
    *(
        _ColumnLayout(_ALL[:last], _SHORT_HEADINGS, 9, has_selected)
        for last in (7, 6, 5, 4)
        for has_selected in (True, False)
    ),
    _ColumnLayout((0, 2, 3), _SHORT_HEADINGS, 9),
)

_BY_CATEGORY = "safe rate (n), 95 % CI"
_COLUMN_WIDTH = 18
_NUMBER_WIDTH = 6
_GAP = 2


def render(summaries: Sequence[Summary], *, width: int, color: bool) -> str:
    """Return the tables as text of at most `width` columns (40 at least), with or without colour."""
    return _text_of(summary_table(summaries, width=width), width=width, color=color)


def _text_of(drawn: RenderableType, *, width: int, color: bool) -> str:
    screen = io.StringIO()
    text_console(screen, width=width, color=color).print(drawn)
    return "".join(f"{line.rstrip()}\n" for line in screen.getvalue().splitlines())


def render_rates(summaries: Sequence[Summary], *, width: int, color: bool) -> str:
    """Return the title and a row a run, without what `render` says of each, as text."""
    ordered, width = in_order(summaries), max(width, MIN_WIDTH)
    marks = mark(ordered)
    rows = [*_title(ordered), Text(), *_runs_table(ordered, marks, width=width), *_reasons(marks)]
    return _text_of(Group(*rows), width=width, color=color)


def summary_table(summaries: Sequence[Summary], *, width: int) -> Group:
    """Return the title, a row a run, the categories, and what qualifies the numbers."""
    ordered, width = in_order(summaries), max(width, MIN_WIDTH)
    if not ordered:
        return Group(Text("No runs."))
    marks = mark(ordered)
    blocks: list[RenderableType] = [*_title(ordered)]
    if len(ordered) > 1 or ordered[0].rates.judged:
        blocks += [Text(), *_runs_table(ordered, marks, width=width), *_reasons(marks)]
    if len(ordered) > 1:
        blocks += _categories_by_run(ordered, marks, width=width)
    for summary in said_once(ordered):
        blocks += _details(summary, heading=len(ordered) > 1, explains=width >= NARROW)
    return Group(*blocks)


def _title(summaries: Sequence[Summary]) -> list[Text]:
    shared = shared_badges(summaries)
    has_rates = any(each.rates.safe_rate is not None for each in summaries)
    what = f"{dataset_title(summaries)} {'safety rates' if has_rates else 'responses'}"
    lines = [Text("  ").join([Text(what, style="bold"), *map(_badge, shared)])]
    if len(summaries) == 1 and summaries[0].target != summaries[0].run:
        lines.append(Text(f"target: {for_terminal(summaries[0].target)}", style="dim", overflow="fold"))
    if summaries[0].judge is not None and len({each.judge for each in summaries}) == 1:
        lines.append(Text(f"judge: {_judge(summaries[0])}", style="dim", overflow="fold"))
    if has_rates:
        lines.append(Text("percent of judged samples (n); 95 % intervals clustered by image", style="dim"))
    return lines


def _badge(badge: str) -> Text:
    return Text(badge, style="bold" if badge.startswith("FULL") else "bold yellow")


def _runs_table(summaries: Sequence[Summary], marks: RowMarks, *, width: int) -> list[RenderableType]:
    """A single run's categories are rows of its table: the columns line up under one heading."""
    shared = shared_badges(summaries)
    has_judges = len({each.judge for each in summaries}) > 1
    has_judge_column = has_judges and width >= WIDE
    names = []
    for place, summary in enumerate(summaries):
        lines = [Text(_marked(summary.run, marks.sign(place)), style="bold", overflow="fold")]
        if len(summaries) > 1 and summary.target != summary.run:
            lines.append(Text(f"target {for_terminal(summary.target)}", style="dim"))
        if has_judges and not has_judge_column:
            lines.append(Text(f"judge {_judge(summary)}", style="dim"))
        lines += [_badge(each) for each in badges(summary) if each not in shared]
        names.append(Text("\n").join(lines))
    categories = summaries[0].by_category if len(summaries) == 1 else {}
    every = [*(each.rates for each in summaries), *categories.values()]
    layout = (
        _LAYOUTS[0] if has_judge_column else _widest_layout([*names, *map(_text, categories)], every, width)
    )
    table = _new_table(
        ("run", "judge") if has_judge_column else ("run",),
        [layout.headings[column] for column in layout.columns],
        gap=1 if width >= WIDE else 0,
        least=1 if layout.headings is _SHORT_HEADINGS else _NUMBER_WIDTH,
    )
    for summary, name in zip(summaries, names, strict=True):
        judge = [Text(_judge(summary))] if has_judge_column else []
        table.add_row(name, *judge, *(Text(each, style="bold") for each in _figures(summary.rates, layout)))
    if categories:
        table.add_section()
        for category, of in categories.items():
            table.add_row(_text(category), *map(Text, _figures(of, layout)))
    left_out = [RATE_HEADINGS[column] for column in _ALL if column not in layout.columns]
    if not left_out:
        return [table]
    return [table, Text(), Text(f"not shown at this width: {', '.join(left_out)}", style="dim")]


def _widest_layout(names: Iterable[Text], rates: Sequence[Rates], width: int) -> _ColumnLayout:
    """Return the widest layout for which these names and figures have room, else the narrowest."""
    longest_name = max((cell_len(line) for name in names for line in name.plain.split("\n")), default=0)
    for layout in _LAYOUTS:
        rows = [[layout.headings[column] for column in layout.columns]]
        rows += [_figures(each, layout) for each in rates]
        figures = sum(max(map(len, column)) + 1 for column in zip(*rows, strict=True))
        if min(layout.name_width, longest_name) + figures <= width:
            return layout
    return _LAYOUTS[-1]


def _figures(rates: Rates, layout: _ColumnLayout) -> list[str]:
    """One row of a layout."""
    figures = list(rate_figures(rates))
    if not layout.has_selected:
        figures[0] = f"{rates.labels:,}"
    return [figures[column] for column in layout.columns]


def _reasons(marks: RowMarks) -> list[RenderableType]:
    """Under the table, why rows in it are marked."""
    blocks: list[RenderableType] = []
    for note in marks.notes():
        blocks += [Text(), _item(note.sign, _words(note.heading, style="yellow"))]
        blocks += [_item("", _words(Sentence(names, ": ", why))) for names, why in note.lines]
    return blocks


def _categories_by_run(summaries: Sequence[Summary], marks: RowMarks, *, width: int) -> list[RenderableType]:
    """Tables of as many runs as fit beside each other: a rate with its n, its interval below."""
    rated = [place for place, each in enumerate(summaries) if each.rates.safe_rate is not None]
    rows = [(summaries[place], marks.sign(place)) for place in rated]
    categories = sorted({name for each, _ in rows for name in each.by_category})
    name_width = min(len(_BY_CATEGORY), max(16, width // 4))
    runs = Counter(each.run for each, _ in rows)
    columns = [
        _marked(each.run, sign) + (f"\n{_judge(each)}" if runs[each.run] > 1 else "") for each, sign in rows
    ]
    cells = []
    for each, _ in rows:
        column = []
        for name in categories:
            rates = each.by_category.get(name)
            if rates is None or rates.safe_rate is None:
                column.append(Text(NO_FIGURE))
            else:
                column.append(Text(f"{rate_and_n(rates)}\n").append(safe_interval(rates), style="dim"))
        cells.append(column)
    figures = (line for column in cells for cell in column for line in cell.plain.split("\n"))
    least = max(map(len, figures), default=0)
    widest = max((cell_len(line) for each in columns for line in each.split("\n")), default=0)
    column_width = max(least, min(_COLUMN_WIDTH, widest, (width - name_width) // 2 - _GAP))
    at_once = max(1, (width - name_width) // (column_width + _GAP))
    blocks: list[RenderableType] = []
    for first in range(0, len(rows), at_once):
        beside = slice(first, first + at_once)
        table = _new_table((_BY_CATEGORY,), columns[beside], gap=_GAP - 1, most=column_width)
        for row, name in enumerate(categories):
            table.add_row(_text(name), *(column[row] for column in cells[beside]))
        blocks += [Text(), table]
    return blocks


def _details(summary: Summary, *, heading: bool, explains: bool) -> list[RenderableType]:
    blocks: list[RenderableType] = []
    if heading:
        blocks += [Text(), Text(f"{for_terminal(summary.run)}, judge {_judge(summary)}", style="bold")]
    if counts := outcome_counts(summary):
        outcomes = Table.grid(padding=(0, 2))
        outcomes.add_column(no_wrap=True)
        outcomes.add_column(no_wrap=True, justify="right")
        for outcome, count, explanation in counts:
            name = Text(outcome.value, style="" if outcome in JUDGED else "yellow")
            explained = [Text(explanation, style="dim", overflow="fold")] if explains else []
            outcomes.add_row(name, Text(f"{count:,}"), *explained)
        blocks += [Text(), Padding(outcomes, (0, 0, 0, 2))]
    if remarked := remarks(summary):
        blocks.append(Text())
        for remark in remarked:
            mark, style = ("!", "yellow") if remark.is_warning else ("", "")
            blocks.append(_item(mark, _words(remark.text, style=style)))
    if summary.deviations:
        blocks += [Text(), Text("Deviations from the paper's protocol:")]
        blocks += [_item("-", _text(each)) for each in summary.deviations]
    table = Table.grid(padding=(0, 2, 0, 0))
    for kind, amount in costs(summary):
        table.add_row(Text(kind, style="dim"), _words(amount, style="dim"))
    return [*blocks, Text(), table]


def _item(mark: str, text: Text) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True, min_width=1)
    table.add_column(overflow="fold")
    table.add_row(Text(mark), text)
    return table


def _new_table(
    names: Sequence[str],
    numbers: Sequence[str],
    *,
    gap: int,
    least: int = _NUMBER_WIDTH,
    most: int = _COLUMN_WIDTH,
) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap, 0, 0), header_style="dim"
    )
    for name in names:
        table.add_column(Text(name), overflow="fold")
    for number in numbers:
        # no_wrap keeps rich from taking width from numbers; the heading alone may fold.
        heading = Text(number, overflow="fold", no_wrap=False)
        table.add_column(heading, justify="right", no_wrap=True, min_width=least, max_width=most)
    return table


def _judge(summary: Summary) -> str:
    return "none" if summary.judge is None else for_terminal(summary.judge)


def _marked(run: Untrusted, sign: str) -> str:
    return for_terminal(run) + (f" {sign}" if sign else "")


def _text(text: Untrusted, *, style: str = "") -> Text:
    return Text(for_terminal(text), style=style, overflow="fold")


def _words(words: Words, *, style: str = "") -> Text:
    return Text(text_of(words, for_terminal), style=style)
