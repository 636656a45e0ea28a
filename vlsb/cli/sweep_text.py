"""What `vlsb sweep` says: a line for each change, the page at its end, and the page of `--dry-run`."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

from vlsb.analysis.summary import Summary
from vlsb.cli.estimate import amount
from vlsb.cli.screen import Screen, error_line, from_here
from vlsb.engines.hardware import list_gpus
from vlsb.errors import first_of
from vlsb.models.catalog import name_of_place, safe_name
from vlsb.records import PUBLISHED_IDS, Untrusted
from vlsb.reports.encode import for_terminal
from vlsb.reports.report import Table, Words, counted, dollars, duration
from vlsb.reports.terminal import render_rates
from vlsb.reports.writers.terminal import tables_text
from vlsb.sweep.board import Board, BoardEntry, Status
from vlsb.sweep.cells import Cell, matrix
from vlsb.sweep.ended import FILE as ENDED_FILE
from vlsb.sweep.ended import EndedRuns
from vlsb.sweep.here import Slots
from vlsb.sweep.money import (
    ASSUMED,
    Budget,
    ExpectedCost,
    Outlook,
    SweepForecast,
    forecast_sweep,
    missing_bytes,
)
from vlsb.sweep.plan import load_plan
from vlsb.sweep.start import SweepWishes, models_now, unsized

# The end is one page, however many cells a sweep has: all of it for every run is in the reports.
_MOST_ROWS, _MOST_LINES, _MOST_CAUSES, _MOST_NAMES = 25, 36, 8, 3
_UNKNOWN = "unknown"
# From a hundred dollars on, cents say nothing.
_NO_CENTS = 100.0
_HEADINGS = ("cell", "GPUs", "to download", "left", "requests", "cost", "time", "state")


# A work that changes.


def count_words(board: Board) -> str:
    """Say how many works stand where."""
    parts = [(board.count(status), status.value) for status in Status]
    parts.append((sum(bool(entry.lacks) for entry in board.entries), "with gaps"))
    return ", ".join(f"{count} {what}" for count, what in parts if count)


def change_line(entry: BoardEntry) -> str:
    """Say where a work stands whose status is another."""
    name, status = entry.work.name, entry.status
    took = ""
    if entry.began_at is not None and entry.ended_at is not None:
        took = f" after {duration(entry.ended_at - entry.began_at)}"
    if status is Status.RUNNING:
        again = f", attempt {entry.attempts}" if entry.attempts > 1 else ""
        return f"{name}: started{' on ' + entry.place if entry.place else ''}{again}"
    if status is Status.DONE:
        lacks = f"; {entry.lacks}" if entry.lacks else ""
        return f"{name}: done{took if entry.attempts else ' before'}{lacks}"
    if status is Status.FAILED:
        where = f" See {entry.log}" if entry.log is not None else ""
        return f"{name}: failed{took} ({failure(entry)}).{where}"
    if status is Status.WAITING and entry.spared:
        return f"{name}: {entry.why}; it goes on with what others leave"
    if status is Status.WAITING and entry.attempts:
        return f"{name}: {entry.why or f'ended with exit code {entry.code}'}; it is started again"
    if status is Status.STOPPED and entry.error is not None:
        return f"{name}: stopped ({error_line(entry.error)})"
    return f"{name}: {status.value}"


def failure(entry: BoardEntry) -> str:
    """Say why a work failed: in its own words, or with the last error in the log of its command."""
    if entry.error is not None:
        return error_line(entry.error).rstrip(".")
    if entry.why:
        return entry.why
    last_error = entry.last_error()
    return f"exit code {entry.code}: {last_error}" if last_error else f"exit code {entry.code}"


# The end.


def show_end(board: Board, screen: Screen, again: Callable[[], None], budget: Budget) -> int:
    """Say what became of a sweep and how to go on with it; returns its exit code."""
    entries = board.entries
    outputs = from_here(entries[0].work.runs[0].parent) if entries else ""
    report = shlex.join(["vlsb", "report", outputs])
    if entries and all(entry.status is Status.DONE and not entry.attempts for entry in entries):
        screen.notice(f"All {len(entries)} were done before. See the rates with: {report}")
    elif entries:
        summaries, runs = board.summaries(_MOST_ROWS)
        if summaries:
            screen.result(_rates(summaries, runs, outputs, screen))
        screen.notice(f"{count_words(board)}.{f' See everything with: {report}' if summaries else ''}")
    causes = board.causes(failure)
    for group in causes[:_MOST_CAUSES]:
        line, others = change_line(group[0]), [entry.work.name for entry in group[1:]]
        if group[0].lacks:
            line += "."
            if group[0].work.is_cell:
                why = shlex.join(["vlsb", "show", from_here(group[0].work.runs[0]), "--failed"])
                line += f" They have ended, and are not asked for again. See why with: {why}"
        screen.line(f"{line.rstrip('.')}. Likewise: {first_of(others, _MOST_NAMES)}" if others else line)
    if rest := causes[_MOST_CAUSES:]:
        screen.line(f"{sum(map(len, rest)):,} more, for {counted(len(rest), 'other cause')}.")
    if budget.most_usd is not None:
        spent = f"{dollars(budget.spent_usd)} of {dollars(budget.most_usd)}"
        if budget.is_reached(board):
            screen.line(
                f"Error: --max-cost is reached: the runs of this plan have cost {spent}. Everything finished "
                "is stored. With more to spend the sweep goes on; --dry-run says what is left."
            )
        else:
            screen.notice(f"--max-cost: the runs of this plan have cost {spent}.")
    if any(entry.status is not Status.DONE for entry in entries):
        again()
    return board.exit_code()


def _rates(summaries: Sequence[Summary], runs: int, outputs: str, screen: Screen) -> str:
    """Return the table, with as many runs as a page has room for."""
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


# What is ahead.


def show_plan(wishes: SweepWishes, screen: Screen) -> int:
    """Show the plan as it stands; nothing is started, and only the Hub is asked."""
    plan = load_plan(wishes.plan)
    gpus = list_gpus(os.environ).gpus
    sizing = wishes.sizing(plan, None if wishes.is_elsewhere else Slots(gpus))
    cells_and_judges = matrix(plan, sizing, models_now(plan, screen.notice))
    board = Board(EndedRuns(plan.output_dir / ENDED_FILE, os.environ))
    board.add(cells_and_judges.works)
    ahead = forecast_sweep(board, cells_and_judges, datetime.now(UTC).date())
    cells = {cell.work.name: cell for cell in cells_and_judges.cells}
    rows = [
        _row(entry, cells.get(entry.work.name), ahead.outlooks[entry.work.name], wishes)
        for entry in board.entries
    ]
    columns = [
        place
        for place, heading in enumerate(_HEADINGS)
        # Where no time is known, a note says so once.
        if heading in ("cell", "left", "state")
        or {row[place] for row in rows} - {"", _UNKNOWN if heading == "time" else ""}
    ]
    judges = cells_and_judges.judging
    notes = [
        f"{counted(len(cells), 'cell')}"
        + (f", {counted(len(judges), 'judge')} after them" if judges else "")
        + f"; {board.count(Status.DONE)} done. {counted(len(gpus), 'GPU') if gpus else 'No GPU'} here.",
        *(
            f"{entry.work.name}: {failure(entry)}."
            for entry in board.entries
            if entry.status is Status.FAILED
        ),
        *_forecast_notes(ahead),
        *_limit_notes(board, ahead.money, wishes.max_cost),
        *unsized(sizing),
        *(f"Not in the plan: {name} ({why})." for name, why in plan.left_out.items()),
    ]
    table = Table(
        for_terminal(Untrusted(str(plan.output_dir))),
        [_HEADINGS[place] for place in columns],
        [[row[place] for place in columns] for row in rows],
        notes=[for_terminal(Untrusted(note)) for note in notes],
    )
    screen.result(tables_text([table], width=screen.width, color=screen.has_color))
    return 0


def _row(entry: BoardEntry, cell: Cell | None, ahead: Outlook, wishes: SweepWishes) -> list[Words]:
    work = entry.work
    name = work.name
    if cell is not None and safe_name(name_of_place(cell.model)) not in name:
        name = f"{name} ({cell.model})"
    missing = missing_bytes(work, is_offline=wishes.offline) if work.weights else None
    download = _UNKNOWN if missing is None else f"{missing / 1e9:.1f} GB" if missing else "here"
    money = ahead.money
    usd = f"${money.usd:,.0f}" if money.usd >= _NO_CENTS else dollars(money.usd)
    cost = f"~{usd}" if money.assumed else usd if money.measured else ""
    return [
        Untrusted(name),
        "" if work.num_gpus is None else str(work.num_gpus),
        download if work.weights else "",
        f"{ahead.left:,}",
        f"{ahead.requests:,}" if ahead.requests else "",
        _UNKNOWN if money.unknown else cost,
        _time(ahead.seconds) if entry.status is Status.WAITING else "",
        entry.state,
    ]


def _time(seconds: float | None) -> str:
    if seconds is None:
        return _UNKNOWN
    minutes = max(1, round(seconds / 60)) if seconds else 0
    return f"{minutes // 60}:{minutes % 60:02d} h"


def _forecast_notes(ahead: SweepForecast) -> Iterator[str]:
    """Say the totals, and what they rest on."""
    if not ahead.waiting:
        return
    if ahead.is_guess:
        yield f"The data set is not here: cells are sized by the {len(PUBLISHED_IDS):,} published samples."
    requests = f", {counted(ahead.requests, 'request')} to hosted models" if ahead.requests else ""
    yield f"Left: {counted(ahead.responses, 'response')}{requests}."
    money, parts = ahead.money, []
    if money.forecast is not None:
        parts.append(f"about {amount(money.forecast)} by what was answered so far")
    if money.assumed:
        tokens = f"{ASSUMED.input_tokens:,} tokens in and {ASSUMED.output_tokens} out"
        parts.append(f"~{dollars(money.assumed)} where nothing was answered yet, if a request takes {tokens}")
    if money.unknown:
        parts.append(f"unknown for {counted(money.unknown, 'model')} of these cells (price or tokens)")
    if parts:
        yield f"Cost: {'; '.join(parts)}."
    for as_of, source in dict.fromkeys((price.as_of, price.source) for price in money.prices):
        yield f"Prices of {as_of}, from {source}."
    times, lacking = ahead.seconds, len(ahead.waiting) - len(ahead.seconds)
    if times:
        on_gpus = sum(seconds * (work.num_gpus or 0) for seconds, work in times) / 3600
        gpu_hours = f", {on_gpus:,.1f} GPU-hours" if on_gpus else ""
        rest = f"; unknown for {lacking}" if lacking else ""
        in_a_row = f"{_time(sum(seconds for seconds, _ in times))} one after the other{gpu_hours}"
        yield f"Time: about {in_a_row}, by what was answered so far{rest}."
    if lacking:
        yield "Times are unknown until some samples are answered: sweep with `limit: 20` first; they count."


def _limit_notes(board: Board, money: ExpectedCost, most_usd: float | None) -> Iterator[str]:
    """Say what is left of the limit, and whether what is to come fits in."""
    if most_usd is None:
        return
    budget = Budget(most_usd, board.ended)
    budget.look(entry.work for entry in board.entries)
    usd, left_usd = money.usd, max(0.0, budget.free_usd)
    left = (
        f"--max-cost {dollars(most_usd)}: {dollars(budget.spent_usd)} is spent, {dollars(left_usd)} is left"
    )
    if not usd:
        yield f"{left}."
    elif usd > left_usd:
        yield f"{left}. The sweep will stop there: what is to come is about {dollars(usd)}."
    else:
        some = ", without what is unknown" if money.unknown else ""
        yield f"{left}, which is enough for about {dollars(usd)} to come{some}."
