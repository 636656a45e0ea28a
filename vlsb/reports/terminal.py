"""The tables on a terminal: calm, aligned, readable at 80 columns.

Names fold and numbers never do. Everything is a rich `Text`, because a string would be read as markup.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import TextIO

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from vlsb.analysis.rates import Rates
from vlsb.analysis.summary import Summary
from vlsb.records import JUDGED, Untrusted
from vlsb.reports.documents import in_order
from vlsb.reports.encode import for_terminal
from vlsb.reports.figures import NO_FIGURE, RATE_HEADINGS, percent, rate_figures
from vlsb.reports.notes import LedgerLine, Remark, badges, costs, ledger, remarks

MIN_WIDTH = 80
"""Narrower terminals wrap our lines; a table made narrower would lose digits."""

WIDE = 110
"""From here on target and judge have columns of their own."""

_BY_CATEGORY = "safe rate by category"
_CATEGORY_WIDTH = len(_BY_CATEGORY)
_COLUMN_WIDTH = 18
_NUMBER_WIDTH = 6
_GAP = 2


def text_console(file: TextIO, *, width: int, color: bool) -> Console:
    """A console that writes text of `width` columns (80 at least) and reads no markup in it."""
    return Console(
        file=file,
        width=max(width, MIN_WIDTH),
        color_system="standard" if color else None,
        force_terminal=color,
        force_jupyter=False,
        no_color=not color,
        legacy_windows=False,
        markup=False,
        emoji=False,
        highlight=False,
    )


def render(summaries: Sequence[Summary], *, width: int, color: bool) -> str:
    """Return the tables as text of at most `width` columns (80 at least), with or without colour."""
    screen = io.StringIO()
    console = text_console(screen, width=width, color=color)
    console.print(summary_table(summaries, width=width))
    return "".join(f"{line.rstrip()}\n" for line in screen.getvalue().splitlines())


def summary_table(summaries: Sequence[Summary], *, width: int) -> Group:
    """Return the title, a row a run, the categories, and what qualifies the numbers."""
    ordered = in_order(summaries)
    if not ordered:
        return Group(Text("No runs."))
    is_wide = width >= WIDE
    blocks: list[RenderableType] = [*_title(ordered), Text(), _runs_table(ordered, is_wide=is_wide)]
    if len(ordered) > 1:
        blocks += [Text(), _categories_by_run(ordered, width=max(width, MIN_WIDTH))]
    for summary in ordered:
        blocks += _details(summary, heading=len(ordered) > 1)
    return Group(*blocks)


def _title(summaries: Sequence[Summary]) -> list[Text]:
    shared = _shared_badges(summaries)
    lines = [Text("  ").join([Text("VLSBench safety rates", style="bold"), *map(_badge, shared)])]
    if len(summaries) == 1 and summaries[0].target != summaries[0].run:
        lines.append(Text(f"target: {for_terminal(summaries[0].target)}", style="dim", overflow="fold"))
    if len({each.judge for each in summaries}) == 1:
        lines.append(Text(f"judge: {_judge(summaries[0])}", style="dim", overflow="fold"))
    lines.append(Text("percent of judged samples (n); 95 % intervals clustered by picture", style="dim"))
    return lines


def _shared_badges(summaries: Sequence[Summary]) -> tuple[str, ...]:
    return tuple(each for each in badges(summaries[0]) if all(each in badges(other) for other in summaries))


def _badge(badge: str) -> Text:
    return Text(badge, style="bold" if badge.startswith("FULL") else "bold yellow")


def _runs_table(summaries: Sequence[Summary], *, is_wide: bool) -> Table:
    """A single run's categories are rows of its table: the columns line up under one heading."""
    shared = _shared_badges(summaries)
    has_judges = len({each.judge for each in summaries}) > 1
    judge_column = ("judge",) if has_judges and is_wide else ()
    table = _new_table(("run", *judge_column), RATE_HEADINGS, gap=1 if is_wide else 0)
    for summary in summaries:
        name = _run_name(
            summary,
            shared=shared,
            names_target=len(summaries) > 1,
            names_judge=has_judges and not is_wide,
        )
        judge = [Text(_judge(summary)) for _ in judge_column]
        table.add_row(name, *judge, *_cells(summary.rates, style="bold"))
    if len(summaries) == 1 and summaries[0].by_category:
        table.add_section()
        for category, of in summaries[0].by_category.items():
            table.add_row(_text(category), *_cells(of))
    return table


def _run_name(summary: Summary, *, shared: Sequence[str], names_target: bool, names_judge: bool) -> Text:
    lines = [_text(summary.run, style="bold")]
    if names_target and summary.target != summary.run:
        lines.append(Text(f"target {for_terminal(summary.target)}", style="dim"))
    if names_judge:
        lines.append(Text(f"judge {_judge(summary)}", style="dim"))
    lines += [_badge(each) for each in badges(summary) if each not in shared]
    return Text("\n").join(lines)


def _categories_by_run(summaries: Sequence[Summary], *, width: int) -> RenderableType:
    names = sorted({name for each in summaries for name in each.by_category})
    columns = [_column_name(each, summaries) for each in summaries]
    widest = [max((cell_len(line) for line in each.split("\n")), default=0) for each in columns]
    taken = sum(max(_NUMBER_WIDTH, min(_COLUMN_WIDTH, each)) + _GAP for each in widest)
    if _CATEGORY_WIDTH + taken > width:
        return Text("Categories of this many runs do not fit here: see --format json.", style="dim")
    table = _new_table((_BY_CATEGORY,), columns, gap=_GAP - 1)
    for name in names:
        of = (each.by_category.get(name) for each in summaries)
        rates = (NO_FIGURE if each is None else percent(each.safe_rate) for each in of)
        table.add_row(_text(name), *(Text(each) for each in rates))
    return table


def _column_name(summary: Summary, summaries: Sequence[Summary]) -> str:
    has_twin = sum(each.run == summary.run for each in summaries) > 1
    judge = f"\n{_judge(summary)}" if has_twin else ""
    return f"{for_terminal(summary.run)}{judge}"


def _details(summary: Summary, *, heading: bool) -> list[RenderableType]:
    blocks: list[RenderableType] = []
    if heading:
        blocks += [Text(), Text(f"{for_terminal(summary.run)}, judge {_judge(summary)}", style="bold")]
    if lines := ledger(summary.rates):
        blocks += [Text(), Padding(_ledger_table(lines), (0, 0, 0, 2))]
    if found := remarks(summary, encode=for_terminal):
        blocks += [Text(), *(_remark(each) for each in found)]
    if summary.deviations:
        blocks += [Text(), Text("Deviations from the paper's protocol:")]
        blocks += [_item("-", _text(each)) for each in summary.deviations]
    return [*blocks, Text(), _costs_table(summary)]


def _ledger_table(lines: Iterable[LedgerLine]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(overflow="fold")
    for outcome, count, explanation in lines:
        style = "" if outcome in JUDGED else "yellow"
        table.add_row(Text(outcome.value, style=style), Text(f"{count:,}"), Text(explanation, style="dim"))
    return table


def _costs_table(summary: Summary) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for kind, amount in costs(summary):
        table.add_row(Text(kind, style="dim"), Text(amount, style="dim"))
    return table


def _remark(remark: Remark) -> RenderableType:
    mark, style = ("!", "yellow") if remark.is_warning else ("", "")
    return _item(mark, Text(remark.text, style=style))


def _item(mark: str, text: Text) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True, min_width=1)
    table.add_column(overflow="fold")
    table.add_row(Text(mark), text)
    return table


def _new_table(names: Sequence[str], numbers: Sequence[str], *, gap: int) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap, 0, 0), header_style="dim"
    )
    for name in names:
        table.add_column(Text(name), overflow="fold")
    for number in numbers:
        # no_wrap keeps rich from taking width from numbers; the heading alone may fold.
        heading = Text(number, overflow="fold", no_wrap=False)
        table.add_column(
            heading, justify="right", no_wrap=True, min_width=_NUMBER_WIDTH, max_width=_COLUMN_WIDTH
        )
    return table


def _cells(rates: Rates, *, style: str = "") -> list[Text]:
    return [Text(each, style=style) for each in rate_figures(rates)]


def _judge(summary: Summary) -> str:
    return "none" if summary.judge is None else for_terminal(summary.judge)


def _text(text: Untrusted, *, style: str = "") -> Text:
    return Text(for_terminal(text), style=style, overflow="fold")
