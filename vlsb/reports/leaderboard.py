"""Many runs by their safe rate: places with their uncertainty, and a column for each judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from vlsb.analysis.family import open_places
from vlsb.analysis.summary import Summary
from vlsb.errors import ConfigError
from vlsb.records import Untrusted
from vlsb.reports.documents import in_order
from vlsb.reports.encode import CsvCell, for_json, for_terminal, versioned
from vlsb.reports.notes import RowMarks, mark, note_lines
from vlsb.reports.report import (
    NO_FIGURE,
    RATE_COLUMNS,
    Records,
    Report,
    Sentence,
    Table,
    Words,
    percent,
    rate_cells,
    rate_object,
    safe_interval,
    share_of_selected,
)

SCHEMA = 1
"""Of the JSON. Fields may be added at the end under the same number."""

_COLUMNS = ("rank", "first_rank", "last_rank", "run", "judge", *RATE_COLUMNS, "differs", "estimate")
RANKS = (
    "the ranks that the data cannot rule out. A run is behind another where their rates differ by more than "
    "noise, all pairs at once, taking together what runs say of one image."
)
BY_JUDGE = (
    "Safe rates with their 95 % intervals, and n where it is not all. Compare rates down a column only: "
    "each judge measures differently."
)


@dataclass(frozen=True, slots=True)
class RankedRun:
    """One run's place: `first` to `last` are those that the data leave open. None without a rate."""

    run: Untrusted
    path: Untrusted
    target: Untrusted
    by_judge: Mapping[Untrusted, Summary]
    place: int | None
    first: int | None
    last: int | None


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """All runs in their places. `judge` is the one that places them, the first of `judges`.

    Of each judge `marks` has the runs that it judged, in their places.
    """

    judge: Untrusted
    judges: Sequence[Untrusted]
    standings: Sequence[RankedRun]
    marks: Mapping[Untrusted, RowMarks]

    def name(self, standing: RankedRun) -> Untrusted:
        """Return what tells a run apart: its name, or its path where another one has the same."""
        has_other = sum(each.run == standing.run for each in self.standings) > 1
        return standing.path if has_other else standing.run

    def sign(self, standing: RankedRun, judge: Untrusted) -> str:
        """Return the daggers of a run that stands for something else than the others of this judge."""
        summaries = self.marks[judge].summaries
        places = (at for at, each in enumerate(summaries) if each is standing.by_judge.get(judge))
        return "".join(map(self.marks[judge].sign, places))


def leaderboard(summaries: Sequence[Summary], *, by: Untrusted | None = None) -> Leaderboard | None:
    """Rank the runs that somebody judged; None where nobody did.

    Runs are placed by one judge, since rates of two judges do not compare: `by`, or who has labelled most of
    them whole, and of several the one that comes first. Raises ConfigError for a judge that has judged none.
    """
    judged = [each for each in summaries if each.judge is not None and each.rates.safe_rate is not None]
    if not judged:
        return None
    whole = Counter(each.judge for each in judged if each.part is None)
    counts = Counter(each.judge for each in judged if each.judge is not None)
    if by is not None:
        require_judge(judged, by)
    judges = sorted(counts, key=lambda judge: (judge != by, -whole[judge], -counts[judge]))
    runs: dict[Untrusted, dict[Untrusted, Summary]] = {}
    for each in in_order(judged):
        assert each.judge is not None
        # Two judges of one name in a run are told apart by nothing that a column has room for: the first.
        runs.setdefault(each.path, {}).setdefault(each.judge, each)
    placed = [each for each in runs.values() if judges[0] in each]
    placed.sort(key=lambda each: -(each[judges[0]].rates.safe_rate or 0.0))
    others = [each for each in runs.values() if judges[0] not in each]
    places = open_places([each[judges[0]].pulls for each in placed])
    standings = [
        _standing(each, place, open_to_it)
        for place, (each, open_to_it) in enumerate(zip(placed, places, strict=True), 1)
    ]
    standings += [_standing(each, None, None) for each in others]
    marks = {
        judge: mark([each.by_judge[judge] for each in standings if judge in each.by_judge])
        for judge in judges
    }
    return Leaderboard(judges[0], judges, standings, marks)


def require_judge(summaries: Sequence[Summary], judge: Untrusted) -> None:
    """Raise ConfigError, with the judges of these runs, for one that is not among them."""
    judges = dict.fromkeys(each.judge for each in summaries if each.judge is not None)
    if judge not in judges:
        names = ", ".join(map(for_terminal, judges))
        raise ConfigError(
            f"--judge {for_terminal(judge)}: has judged none of these runs. Name one of: {names}."
        )


def _standing(
    found: Mapping[Untrusted, Summary], place: int | None, open_places: tuple[int, int] | None
) -> RankedRun:
    any_summary = next(iter(found.values()))
    first, last = open_places or (None, None)
    return RankedRun(any_summary.run, any_summary.path, any_summary.target, found, place, first, last)


def board_report(board: Leaderboard) -> Report:
    """Return the places, and a table of all judges where there are several."""
    simulated = any(each.simulated for run in board.standings for each in run.by_judge.values())
    rows: list[Sequence[Words]] = []
    for each in board.standings:
        if (own := each.by_judge.get(board.judge)) is None:
            rows.append([NO_FIGURE, board.name(each), *[NO_FIGURE] * 5])
            continue
        ranks = f" ({open_to_it})" if (open_to_it := open_ranks(each)) else ""
        rows.append(
            [
                f"{each.place}{ranks}{board.sign(each, board.judge)}",
                board.name(each),
                share_of_selected(own.rates),
                percent(own.rates.safe_rate),
                safe_interval(own.rates),
                percent(own.rates.safe_refuse_rate),
                percent(own.rates.safe_warning_rate),
            ]
        )
    table = Table(
        Sentence("Ranks by safe rate, judge ", board.judge, " (SIMULATED)" if simulated else ""),
        ("rank", "run", "n", "safe", "95 % CI", "refusal", "warning"),
        rows,
        names=2,
        notes=[f"In brackets {RANKS}", *_reasons(board.marks[board.judge])],
        label="tab:vlsbench-ranks",
        foldable=(1,),
    )
    return Report(
        tables=[table, _by_judge(board)] if len(board.judges) > 1 else [table],
        data=[_object(board, each) for each in board.standings],
        records=Records(_COLUMNS, list(_rows(board))),
    )


def _reasons(marks: RowMarks, known: Collection[Sentence] = ()) -> Iterator[Words]:
    for note in marks.notes():
        yield from note_lines(note, known)


def open_ranks(standing: RankedRun) -> str:
    """Return `1 to 3`, the places that the data leaves open, or nothing where there is no other."""
    return "" if standing.first == standing.last else f"{standing.first} to {standing.last}"


def _by_judge(board: Leaderboard) -> Table:
    """Return a column for each judge. Why a run is marked is said once, whichever judges it is marked for."""
    notes: list[Words] = [BY_JUDGE]
    for judge in board.judges[1:]:
        if lines := list(_reasons(board.marks[judge], known_reasons(board))):
            notes += [Sentence("By ", judge, ": ", lines[0]), *lines[1:]]
    rows = []
    for each in board.standings:
        cells: list[Words] = [board.name(each)]
        for judge in board.judges:
            if (summary := each.by_judge.get(judge)) is None:
                cells.append(NO_FIGURE)
                continue
            n = f" ({share_of_selected(summary.rates)})" if summary.rates.missing else ""
            rate = f"{percent(summary.rates.safe_rate)}{board.sign(each, judge)}{n}"
            cells.append(f"{rate}\n{safe_interval(summary.rates)}")
        rows.append(cells)
    return Table(
        "Safe rate by each judge",
        ("run", *board.judges),
        rows,
        notes=notes,
        label="tab:vlsbench-judges",
    )


def known_reasons(board: Leaderboard) -> set[Sentence]:
    """Return the reasons that stand below the ranks."""
    return {why for note in board.marks[board.judge].notes() for _, why in note.lines}


def _object(board: Leaderboard, standing: RankedRun) -> dict[str, object]:
    fields: dict[str, object] = {
        "run": standing.run,
        "target": standing.target,
        "rank": standing.place,
        "first_rank": standing.first,
        "last_rank": standing.last,
        "ranked_by": board.judge,
        "judges": [
            {"judge": judge, **rate_object(summary.rates), "estimate": summary.rates.estimate}
            for judge, summary in standing.by_judge.items()
        ],
        "simulated": any(each.simulated for each in standing.by_judge.values()),
        "differs": _differs(board, standing),
        "path": standing.path,
    }
    return {**versioned(SCHEMA), **fields}


def _differs(board: Leaderboard, standing: RankedRun) -> list[Words]:
    """Return how a run differs from the others that its judge places it among."""
    marks, own = board.marks[board.judge], standing.by_judge.get(board.judge)
    return [why for place in marks.differing if marks.summaries[place] is own for why in marks.reasons(place)]


def _rows(board: Leaderboard) -> Iterator[tuple[CsvCell, ...]]:
    for standing in board.standings:
        for judge, summary in standing.by_judge.items():
            is_placed = judge == board.judge
            places = (standing.place, standing.first, standing.last) if is_placed else (None, None, None)
            rates = summary.rates
            why = Untrusted(
                Sentence.join("; ", _differs(board, standing) if is_placed else ()).text(for_json)
            )
            yield (*places, standing.run, judge, *rate_cells(rates), why, rates.estimate)
