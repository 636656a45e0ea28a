"""What is said when a sweep has ended: a page, however many cells it has.

How many stand where, the rates of as many runs as fit, each cause of failure once with an example, and what
to type next. All of it for every run is in the reports.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from vlsb.analysis.summary import Summary
from vlsb.cli.screen import Screen, from_here
from vlsb.cli.sweep_view import change_line, count_words, failure
from vlsb.errors import StoreError
from vlsb.reports.figures import counted, dollars
from vlsb.reports.terminal import render_rates
from vlsb.store.manifest import is_run
from vlsb.store.state import collection_paused, load_state
from vlsb.store.summaries import summarize_judges
from vlsb.sweep.board import Board, Entry, Status
from vlsb.sweep.cells import Work
from vlsb.sweep.ended import EndedRuns
from vlsb.sweep.money import Budget
from vlsb.wording import first_of

_MOST_ROWS = 25
_MOST_LINES = 36
_MOST_CAUSES = 8
_MOST_NAMES = 3


def show_end(board: Board, screen: Screen, again: Callable[[], None], budget: Budget) -> int:
    """Say what became of a sweep and how to go on with it; returns its exit code."""
    entries = board.entries
    outputs = from_here(entries[0].work.runs[0].parent) if entries else ""
    if entries and all(entry.status is Status.DONE and not entry.attempts for entry in entries):
        report = shlex.join(["vlsb", "report", outputs])
        screen.notice(f"All {len(entries)} were done before. See the rates with: {report}")
    elif _show_rates(board, screen, outputs):
        screen.notice(f"{count_words(board)}. See everything with: {shlex.join(['vlsb', 'report', outputs])}")
    elif entries:
        screen.notice(f"{count_words(board)}.")
    for line in _causes(entries):
        screen.line(line)
    _say_spent(board, screen, budget)
    if any(entry.status is not Status.DONE for entry in entries):
        again()
    return board.exit_code()


def _say_spent(board: Board, screen: Screen, budget: Budget) -> None:
    if budget.most_usd is None:
        return
    spent = f"{dollars(budget.spent_usd)} of {dollars(budget.most_usd)}"
    if budget.is_reached(board):
        screen.line(
            f"Error: --max-cost is reached: the runs of this plan have cost {spent}. Everything finished is "
            "stored. With more to spend the sweep goes on; --dry-run says what is left."
        )
    else:
        screen.notice(f"--max-cost: the runs of this plan have cost {spent}.")


# The rates.


def _show_rates(board: Board, screen: Screen, outputs: str) -> bool:
    """Show the rates of the first runs; False where there are none.

    All are read once: what has ended is known at the next start.
    """
    summaries: list[Summary] = []
    done = [entry.work for entry in board.entries if entry.status is Status.DONE]
    cells = [entry.work for entry in board.entries if entry.work.is_cell]
    runs = [run for work in cells for run in work.runs if is_run(run)]
    readable = 0
    for run in runs:
        # Of one that cannot be read its cell says why.
        with suppress(StoreError), collection_paused():
            summaries += _summarized(run, done, board.ended, is_shown=len(summaries) < _MOST_ROWS)
            readable += 1
    if not summaries:
        return False
    screen.result(_rates(summaries, readable, outputs, screen))
    return True


def _rates(summaries: Sequence[Summary], runs: int, outputs: str, screen: Screen) -> str:
    """The table, with as many runs as a page has room for."""
    width, color = screen.width, screen.has_color
    paths = list(dict.fromkeys(each.path for each in summaries))
    while True:
        text = render_rates([each for each in summaries if each.path in paths], width=width, color=color)
        if text.count("\n") <= _MOST_LINES or len(paths) == 1:
            break
        paths = paths[: min(len(paths) - 1, len(paths) * _MOST_LINES // text.count("\n") or 1)]
    if (more := runs - len(paths)) > 0:
        command = shlex.join(["vlsb", "report", outputs, "--leaderboard"])
        text += f"\n{counted(more, 'more run')}: {command}\n"
    return text


def _summarized(run: Path, done: Sequence[Work], ended: EndedRuns, *, is_shown: bool) -> list[Summary]:
    state = load_state(run)
    for work in done:
        if run in work.runs:
            # Whoever asks next need not compare what its command did.
            work.ended(run, ended, lambda: state, is_tried=True)
    return summarize_judges(state, run) if is_shown else []


# What is not done.


def _causes(entries: Iterable[Entry]) -> list[str]:
    """A line for each cause for which works are not done, or not without gaps: an example, and who else."""
    groups: dict[tuple[object, ...], list[Entry]] = {}
    for entry in entries:
        if entry.lacks or entry.status is not Status.DONE:
            why = _without_names(failure(entry), entry) if entry.status is Status.FAILED else ""
            key = (entry.status, bool(entry.lacks), entry.error is None, why)
            groups.setdefault(key, []).append(entry)
    shown, hidden = list(groups.values())[:_MOST_CAUSES], list(groups.values())[_MOST_CAUSES:]
    lines = list(map(_cause_line, shown))
    if hidden:
        lines.append(f"{sum(map(len, hidden)):,} more, for {counted(len(hidden), 'other cause')}.")
    return lines


def _without_names(said: str, entry: Entry) -> str:
    """A cause as it is said of any work alike: without its names, and without numbers."""
    names = {entry.work.name, *(run.name for run in entry.work.runs), str(entry.work.options.model)}
    for name in sorted(names, key=len, reverse=True):
        said = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", "*", said)
    return re.sub(r"\d+", "#", said)


def _cause_line(group: Sequence[Entry]) -> str:
    """What is said of the first of those alike, and the others' names."""
    line, others = change_line(group[0]), [entry.work.name for entry in group[1:]]
    if group[0].lacks:
        line = f"{line}.{_why_gaps(group[0])}"
    if not others:
        return line
    return f"{line.rstrip('.')}. Likewise: {first_of(others, _MOST_NAMES)}"


def _why_gaps(entry: Entry) -> str:
    """That a cell's missing samples are not asked for again, and where to read why."""
    if not entry.work.is_cell:
        return ""
    why = shlex.join(["vlsb", "show", from_here(entry.work.runs[0]), "--failed"])
    return f" They have ended, and are not asked for again. See why with: {why}"
