"""What `vlsb sweep --dry-run` shows: the matrix, what it needs, what is left, what that costs and takes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from vlsb.cli.estimate import amount
from vlsb.cli.screen import Screen
from vlsb.cli.sweep_forecast import ASSUMED, Money, Outlook, Outlooks
from vlsb.cli.sweep_view import failure
from vlsb.cli.sweeping import SweepWishes, models_now, unsized
from vlsb.engines.checkpoint import open_weights
from vlsb.engines.hardware import list_gpus
from vlsb.errors import VlsbError
from vlsb.evaluation.protocol import safe_name
from vlsb.models.catalog import name_of_place
from vlsb.records import PUBLISHED_IDS, Untrusted
from vlsb.reports.encode import for_terminal
from vlsb.reports.figures import counted, dollars
from vlsb.reports.report import Table, Words
from vlsb.reports.writers.terminal import tables_text
from vlsb.sweep.board import Board, Entry, Status
from vlsb.sweep.cells import Cell, Matrix, Work, matrix
from vlsb.sweep.ended import FILE as ENDED_FILE
from vlsb.sweep.ended import EndedRuns
from vlsb.sweep.here import Slots
from vlsb.sweep.money import Budget
from vlsb.sweep.plan import load_plan

_UNKNOWN = "unknown"
_NO_CENTS = 100.0
_HEADINGS = ("cell", "GPUs", "to download", "left", "requests", "cost", "time", "state")


def show_plan(wishes: SweepWishes, screen: Screen) -> int:
    """Show the plan as it stands; nothing is started, and only the Hub is asked."""
    plan = load_plan(wishes.plan)
    gpus = list_gpus(os.environ).gpus
    sizing = wishes.sizing(plan, None if wishes.is_elsewhere else Slots(gpus))
    found = matrix(plan, sizing, models_now(plan, screen))
    board = Board(EndedRuns(plan.output_dir / ENDED_FILE, os.environ))
    board.add(found.works)
    outlooks = Outlooks(found, datetime.now(UTC).date())
    ahead = {
        entry.work.name: outlooks.of(entry.work) if entry.status is Status.WAITING else Outlook()
        for entry in board.entries
    }
    money = Money.together(each.money for each in ahead.values())
    sizes, cells = _downloads(found, wishes), {cell.work.name: cell for cell in found.cells}
    rows = [
        _row(entry, cells.get(entry.work.name), ahead[entry.work.name], sizes.get(entry.work.name, ""))
        for entry in board.entries
    ]
    shown = [
        place
        for place, heading in enumerate(_HEADINGS)
        # Where no time is known, a note says so once.
        if heading in ("cell", "left", "state")
        or {row[place] for row in rows} - {"", _UNKNOWN if heading == "time" else ""}
    ]
    notes = [
        f"{counted(len(found.cells), 'cell')}"
        + (f", {counted(len(found.judging), 'judge')} after them" if found.judging else "")
        + f"; {board.count(Status.DONE)} done. {counted(len(gpus), 'GPU') if gpus else 'No GPU'} here.",
        *(
            f"{entry.work.name}: {failure(entry)}."
            for entry in board.entries
            if entry.status is Status.FAILED
        ),
        *_forecast_notes(board.entries, ahead, money, outlooks),
        *_limit_notes(board, money, wishes.max_cost),
        *unsized(sizing),
        *(f"Not in the plan: {name} ({why})." for name, why in plan.left_out.items()),
    ]
    table = Table(
        for_terminal(Untrusted(str(plan.output_dir))),
        [_HEADINGS[place] for place in shown],
        [[row[place] for place in shown] for row in rows],
        notes=[for_terminal(Untrusted(note)) for note in notes],
    )
    screen.result(tables_text([table], width=screen.width, color=screen.has_color))
    return 0


def _row(entry: Entry, cell: Cell | None, ahead: Outlook, download: str) -> list[Words]:
    work, is_waiting = entry.work, entry.status is Status.WAITING
    name = work.name
    if cell is not None and safe_name(name_of_place(cell.model)) not in name:
        name = f"{name} ({cell.model})"
    return [
        Untrusted(name),
        "" if work.num_gpus is None else str(work.num_gpus),
        download,
        f"{ahead.left:,}",
        f"{ahead.requests:,}" if ahead.requests else "",
        _cost(ahead.money),
        _time(ahead.seconds) if is_waiting else "",
        entry.state,
    ]


def _cost(money: Money) -> str:
    if money.unknown:
        return _UNKNOWN
    shown = f"${money.usd:,.0f}" if money.usd >= _NO_CENTS else dollars(money.usd)
    return f"~{shown}" if money.assumed else shown if money.measured else ""


def _time(seconds: float | None) -> str:
    if seconds is None:
        return _UNKNOWN
    minutes = max(1, round(seconds / 60)) if seconds else 0
    return f"{minutes // 60}:{minutes % 60:02d} h"


def _forecast_notes(
    entries: Sequence[Entry], ahead: dict[str, Outlook], money: Money, outlooks: Outlooks
) -> Iterator[str]:
    """The totals, and what they rest on."""
    waiting = [entry for entry in entries if entry.status is Status.WAITING]
    if not waiting:
        return
    if outlooks.is_guess:
        yield f"The data set is not here: cells are sized by the {len(PUBLISHED_IDS):,} published samples."
    requests = sum(each.requests for each in ahead.values())
    responses = sum(ahead[entry.work.name].left for entry in waiting if entry.work.is_cell)
    asked = f", {counted(requests, 'request')} to hosted models" if requests else ""
    yield f"Left: {counted(responses, 'response')}{asked}."
    yield from _money_notes(money)
    times = [(ahead[entry.work.name].seconds, entry.work) for entry in waiting]
    known = [(seconds, work) for seconds, work in times if seconds is not None]
    if known:
        on_gpus = sum(seconds * (work.num_gpus or 0) for seconds, work in known) / 3600
        what = f"{_time(sum(seconds for seconds, _ in known))} one after the other"
        what += f", {on_gpus:,.1f} GPU-hours" if on_gpus else ""
        lacking = len(times) - len(known)
        rest = f"; unknown for {lacking}" if lacking else ""
        yield f"Time: about {what}, by what was answered so far{rest}."
    if len(known) < len(times):
        yield "Times are unknown until some samples are answered: sweep with `limit: 20` first; they count."


def _money_notes(money: Money) -> Iterator[str]:
    parts = []
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


def _limit_notes(board: Board, money: Money, most_usd: float | None) -> Iterator[str]:
    """What is left of the limit, and whether what is to come fits in."""
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


def _downloads(found: Matrix, wishes: SweepWishes) -> dict[str, str]:
    """What of each work's weights is not here yet, in words; the Hub is asked for sizes."""
    return {work.name: _download(work, wishes) for work in found.works if work.weights}


def _download(work: Work, wishes: SweepWishes) -> str:
    missing = 0
    for model in work.weights:
        try:
            weights = open_weights(model.weights, revision=model.revision, offline=wishes.offline)
        except VlsbError:
            return _UNKNOWN
        missing += weights.missing_bytes
    return f"{missing / 1e9:.1f} GB" if missing else "here"
