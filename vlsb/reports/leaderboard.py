"""Many runs by their safe rate: places with their uncertainty, and a column for each judge."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vlsb.analysis.rates import Interval, Rates
from vlsb.analysis.summary import Summary
from vlsb.records import Untrusted
from vlsb.reports.documents import in_order
from vlsb.reports.encode import (
    Encode,
    for_csv,
    for_json,
    for_latex,
    for_markdown,
    for_terminal,
    json_document,
    versioned,
)
from vlsb.reports.figures import NO_FIGURE, percent, share_of_selected
from vlsb.reports.marks import Marks, mark
from vlsb.reports.tables import Cell, Table, tables_in

SCHEMA = 1
"""Of the JSON. Fields may be added at the end under the same number."""

_ENCODERS: Mapping[str, Encode] = {"table": for_terminal, "markdown": for_markdown, "latex": for_latex}
_COLUMNS = ("rank", "first_rank", "last_rank", "run", "judge", "n", "selected", "safe_low", "safe_high")
_RATES = ("safe_rate", "safe_refuse_rate", "safe_warning_rate", "unsafe_rate")
_RANKS = (
    "Ranks by the safe rate, with those that the data cannot rule out: a run is surely behind another where "
    "its whole 95 % interval lies below the other's. Runs of one data set share samples, so this is on the "
    "wide side: vlsb compare holds them against each other sample by sample."
)


@dataclass(frozen=True, slots=True)
class Standing:
    """One run's place: `first` to `last` are those that its interval leaves open. None without a rate."""

    run: Untrusted
    target: Untrusted
    by_judge: Mapping[Untrusted, Summary]
    place: int | None
    first: int | None
    last: int | None


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """All runs in their places. `judge` is the one that places them: who has judged most of them."""

    judge: Untrusted
    judges: Sequence[Untrusted]
    standings: Sequence[Standing]
    marks: Marks


def leaderboard(summaries: Sequence[Summary]) -> Leaderboard | None:
    """The places of runs that somebody judged; None where nobody did.

    Runs are placed by one judge: rates of two judges do not compare.
    """
    judged = [each for each in in_order(summaries) if each.judge is not None and each.rates.judged]
    if not judged:
        return None
    counts = Counter(each.judge for each in judged if each.judge is not None)
    judges = sorted(counts, key=lambda judge: (-counts[judge], judge))
    runs: dict[Untrusted, dict[Untrusted, Summary]] = {}
    for each in judged:
        assert each.judge is not None
        # Two judges of one name in a run are told apart by nothing that a column has room for: the first.
        runs.setdefault(each.path, {}).setdefault(each.judge, each)
    placed = [found for found in runs.values() if judges[0] in found]
    placed.sort(key=lambda found: -(found[judges[0]].rates.safe_rate or 0.0))
    others = [found for found in runs.values() if judges[0] not in found]
    spans = [_interval(found[judges[0]].rates) for found in placed]
    standings = [
        _standing(found, place, _open_places(spans, place - 1)) for place, found in enumerate(placed, 1)
    ]
    standings += [_standing(found, None, None) for found in others]
    return Leaderboard(judges[0], judges, standings, mark([found[judges[0]] for found in placed]))


def _standing(
    found: Mapping[Untrusted, Summary], place: int | None, open_places: tuple[int, int] | None
) -> Standing:
    any_summary = next(iter(found.values()))
    first, last = open_places or (None, None)
    return Standing(any_summary.run, any_summary.target, found, place, first, last)


def _interval(rates: Rates) -> Interval:
    return rates.intervals["safe_rate"]


def _open_places(spans: Sequence[Interval], place: int) -> tuple[int, int]:
    """The places that are open to a run: behind all that lie wholly above it, before all wholly below."""
    low, high = spans[place]
    return 1 + sum(each.low > high for each in spans), len(spans) - sum(each.high < low for each in spans)


def written(board: Leaderboard, form: str, *, width: int, color: bool) -> str:
    """The places in one of `FORMATS`."""
    if form == "json":
        return json_document([_object(board, each) for each in board.standings])
    if form == "csv":
        return _csv(board)
    return tables_in(form, [_table(board, _ENCODERS[form])], width=width, color=color)


def _table(board: Leaderboard, encode: Encode) -> Table:
    headings = ["rank", "run", "n", "safe", "95 % CI", "refusal", "warning"]
    headings += [f"safe, {encode(judge)}" for judge in board.judges[1:]]
    notes = [f"Judge: {encode(board.judge)}.", _RANKS]
    if heading := board.marks.heading(encode):
        notes.append(heading)
        notes += [f"† {name}: {why}" for name, why in board.marks.reasons(encode)]
    rows = [_row(board, number, each) for number, each in enumerate(board.standings)]
    return Table("Ranks by safe rate", headings, rows, names=2, notes=notes)


def _row(board: Leaderboard, number: int, standing: Standing) -> list[Cell]:
    own = standing.by_judge.get(board.judge)
    sign = board.marks.sign(number) if own is not None else ""
    if own is None:
        figures = [NO_FIGURE] * 5
    else:
        low, high = _interval(own.rates)
        figures = [
            share_of_selected(own.rates),
            percent(own.rates.safe_rate),
            f"[{low:.1f}, {high:.1f}]",
            percent(own.rates.safe_refuse_rate),
            percent(own.rates.safe_warning_rate),
        ]
    others = [standing.by_judge.get(judge) for judge in board.judges[1:]]
    return [f"{_place(standing)}{sign}", standing.run, *figures, *(_of_judge(each) for each in others)]


def _place(standing: Standing) -> str:
    if standing.place is None:
        return NO_FIGURE
    if standing.first == standing.last:
        return str(standing.place)
    return f"{standing.place} ({standing.first} to {standing.last})"


def _of_judge(summary: Summary | None) -> str:
    """The safe rate by another judge, with its n where that judge has not labelled everything."""
    if summary is None:
        return NO_FIGURE
    rate = percent(summary.rates.safe_rate)
    return f"{rate} ({share_of_selected(summary.rates)})" if summary.rates.missing else rate


def _object(board: Leaderboard, standing: Standing) -> dict[str, object]:
    found: dict[str, object] = {
        "run": for_json(standing.run),
        "target": for_json(standing.target),
        "rank": standing.place,
        "first_rank": standing.first,
        "last_rank": standing.last,
        "ranked_by": for_json(board.judge),
        "judges": [
            {
                "judge": for_json(judge),
                "n": summary.rates.judged,
                "selected": summary.rates.selected,
                "safe_interval": list(_interval(summary.rates)),
                **{name: getattr(summary.rates, name) for name in _RATES},
            }
            for judge, summary in standing.by_judge.items()
        ],
    }
    return {**versioned(SCHEMA), **found}


def _csv(board: Leaderboard) -> str:
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\r\n")
    rows.writerow((*_COLUMNS, *_RATES))
    for standing in board.standings:
        for judge, summary in standing.by_judge.items():
            is_placed = judge == board.judge
            places = (standing.place, standing.first, standing.last) if is_placed else (None, None, None)
            rates = summary.rates
            counts = (rates.judged, rates.selected, *_interval(rates))
            found = (getattr(rates, name) for name in _RATES)
            rows.writerow((*places, for_csv(standing.run), for_csv(judge), *counts, *found))
    return out.getvalue()
