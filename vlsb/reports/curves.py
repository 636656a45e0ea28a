"""Safe rates over training: which runs are steps of one, and a curve for each judge, in every format.

A step is the number behind a word such as step, checkpoint or epoch in a run's name. Runs whose names are the
same but for it are of one training.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

from vlsb.analysis.differences import differences
from vlsb.analysis.family import FamilyChange, changes_at_once
from vlsb.analysis.rates import holm
from vlsb.analysis.summary import Summary
from vlsb.errors import ConfigError
from vlsb.records import Untrusted
from vlsb.reports.documents import in_order
from vlsb.reports.encode import CsvCell, for_json, for_terminal, versioned
from vlsb.reports.leaderboard import require_judge
from vlsb.reports.notes import RowMarks, mark, note_lines
from vlsb.reports.report import (
    NO_FIGURE,
    RATE_COLUMNS,
    RateBar,
    Records,
    Report,
    Sentence,
    Table,
    interval_text,
    percent,
    rate_cells,
    rate_object,
    safe_interval,
    share_of_selected,
)

SCHEMA = 1
"""Of the JSON. Fields may be added at the end under the same number."""

CHANGES = (
    "Changes in points from the step before, image by image, with intervals that hold for all changes of a "
    "table at once; * is more than noise among them. A change without a star cannot be told from noise of "
    "its interval's size; that does not make both steps the same."
)

_STEP = re.compile(
    r"(?<![a-z])(?:global[-_]?step|steps?|checkpoint|ckpt|iter(?:ation)?|epoch|update)[-_.=]?([0-9]{1,12})(?![0-9])",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"([0-9]{1,12})(?![0-9])")
STEP_HEADINGS = ("step", "n", "safe", "95 % CI", "refusal", "warning", "change", "95 % CI")
"""The columns of a table of steps."""


class Point(NamedTuple):
    """A step of a training.

    `change` is from the step before, among all changes of the curve; None for the first one, and where one of
    the two was measured otherwise. `p_holm` is its p by Holm.
    """

    step: int
    summary: Summary
    change: FamilyChange | None = None
    p_holm: float | None = None

    @property
    def exceeds_noise(self) -> bool:
        """Whether the change is more than noise, among all of its curve."""
        return self.change is not None and self.change.is_clear


@dataclass(frozen=True, slots=True)
class Curve:
    """The steps of one training by one judge, in their order; `marks` has them by their places.

    `training` is the name that its runs share, with a star for the step.
    """

    training: Untrusted
    judge: Untrusted
    points: Sequence[Point]
    marks: RowMarks


@dataclass(frozen=True, slots=True)
class Curves:
    """All curves, and the runs that are on none of them."""

    curves: Sequence[Curve]
    left_out: Sequence[Untrusted]


class _TrainingStep(NamedTuple):
    training: str
    step: int


def curves_of(summaries: Sequence[Summary]) -> Curves:
    """Return the curves of runs whose names have a step, where two steps can be told apart."""
    judged = _judged(summaries)
    places = _places(judged, _STEP)
    unclear = {place.training for place, runs in _runs_by_place(judged, places).items() if len(runs) > 1}
    return _curves(judged, {path: each for path, each in places.items() if each.training not in unclear})


def asked_curves(summaries: Sequence[Summary], *, judge: Untrusted | None = None) -> Curves:
    """Return the curves of runs that somebody calls steps, all or a judge's.

    Where no name has a step, the last number in it is one. Raises ConfigError where that makes no curve.
    """
    judged = _judged(summaries)
    if judge is not None:
        require_judge(judged, judge)
        judged = [each for each in judged if each.judge == judge]
    places = _places(judged, _STEP) or _places(judged, _NUMBER)
    for place, runs in _runs_by_place(judged, places).items():
        if len(runs) > 1:
            # Two trainings in two folders may have the same names.
            raise ConfigError(
                f"{' and '.join(map(for_terminal, runs))} are of the same step, {place.step:,}. "
                "Name the runs of one training."
            )
    curves = _curves(judged, places)
    if not curves.curves:
        raise ConfigError(
            "A curve needs two steps that one judge has judged: runs whose names are the same but for a "
            "number, such as step-1000 and step-2000."
        )
    return curves


def _judged(summaries: Sequence[Summary]) -> list[Summary]:
    """Those with rates, by run; of a run the judges stay in its order."""
    names = {each.path: place for place, each in enumerate(in_order(summaries))}
    judged = [each for each in summaries if each.judge is not None and each.rates.safe_rate is not None]
    return sorted(judged, key=lambda each: names[each.path])


def _places(judged: Sequence[Summary], pattern: re.Pattern[str]) -> dict[Untrusted, _TrainingStep]:
    """By its path, the training and the step of each run whose name has one; the last one counts."""
    places = {}
    for each in judged:
        name = for_terminal(each.run)
        if matches := list(pattern.finditer(name)):
            start, end = matches[-1].span(1)
            places[each.path] = _TrainingStep(f"{name[:start]}*{name[end:]}", int(name[start:end]))
    return places


def _runs_by_place(
    judged: Sequence[Summary], places: Mapping[Untrusted, _TrainingStep]
) -> dict[_TrainingStep, list[Untrusted]]:
    runs: dict[_TrainingStep, list[Untrusted]] = {}
    for path in dict.fromkeys(each.path for each in judged if each.path in places):
        runs.setdefault(places[path], []).append(path)
    return runs


def _curves(judged: Sequence[Summary], places: Mapping[Untrusted, _TrainingStep]) -> Curves:
    lines: dict[tuple[str, Untrusted], list[Summary]] = {}
    for each in judged:
        if each.path in places and each.judge is not None:
            lines.setdefault((places[each.path].training, each.judge), []).append(each)
    curves = []
    for (training, judge), runs in sorted(lines.items(), key=lambda line: line[0][0]):
        if len(runs) > 1:
            runs.sort(key=lambda each: places[each.path].step)
            steps = [places[each.path].step for each in runs]
            curves.append(Curve(Untrusted(training), judge, _points(steps, runs), mark(runs)))
    drawn = {point.summary.path for curve in curves for point in curve.points}
    left_out = {each.path: each.run for each in judged if each.path not in drawn}
    return Curves(curves, list(left_out.values()))


def _points(steps: Sequence[int], runs: Sequence[Summary]) -> list[Point]:
    comparable = [
        not (before.conditions and after.conditions and differences(before.conditions, after.conditions))
        for before, after in pairwise(runs)
    ]
    pairs = [(place, place + 1) for place, is_alike in enumerate(comparable) if is_alike]
    changes = changes_at_once([each.pulls for each in runs], pairs)
    corrected = holm([each.alone for each in changes])
    found = {
        after: each for (_, after), each in zip(pairs, zip(changes, corrected, strict=True), strict=True)
    }
    return [
        Point(step, run, *found.get(place, (None, None)))
        for place, (step, run) in enumerate(zip(steps, runs, strict=True))
    ]


def curves_report(found: Curves) -> Report:
    """Return a table for each curve, which a terminal draws as well."""
    *before, last = [_table(each, is_first=not place) for place, each in enumerate(found.curves)]
    left_out = (
        [Sentence("Not on a curve: ", Sentence.join(", ", found.left_out), ".")] if found.left_out else []
    )
    changes = ("change", "change_low", "change_high", "differs", "estimate", "p_holm", "p_family")
    columns = ("training", "judge", "step", "run", *RATE_COLUMNS, *changes)
    return Report(
        # What is true of all tables stands below the last.
        tables=[*before, replace(last, notes=[*last.notes, CHANGES, *left_out])],
        data=[_object(each, found.left_out) for each in found.curves],
        records=Records(columns, list(_rows(found.curves))),
    )


def curve_name(curve: Curve) -> Sentence:
    """Return what tells a curve apart: its training and its judge."""
    return Sentence(curve.training, ", judge ", curve.judge)


def _table(curve: Curve, *, is_first: bool) -> Table:
    simulated = " (SIMULATED)" if any(each.summary.simulated for each in curve.points) else ""
    longest = max(len(f"{each.step:,}") for each in curve.points)
    rates = [each.summary.rates for each in curve.points]
    return Table(
        Sentence("Safe rate over training: ", curve_name(curve), simulated),
        STEP_HEADINGS,
        [
            (f"{each.step:>{longest},}{curve.marks.sign(place)}", *step_figures(each))
            for place, each in enumerate(curve.points)
        ],
        notes=[line for note in curve.marks.notes() for line in note_lines(note)],
        label="tab:vlsbench-steps" if is_first else "",
        bars=[RateBar(each.safe_rate or 0.0, *each.intervals["safe_rate"]) for each in rates],
    )


def step_figures(point: Point) -> tuple[str, ...]:
    """Return one row under `STEP_HEADINGS`, after its step."""
    rates, star = point.summary.rates, "*" if point.exceeds_noise else ""
    return (
        share_of_selected(rates),
        percent(rates.safe_rate),
        safe_interval(rates),
        percent(rates.safe_refuse_rate),
        percent(rates.safe_warning_rate),
        NO_FIGURE if point.change is None else f"{point.change.change:+.2f}{star}",
        interval_text(None if point.change is None else point.change.interval, "+"),
    )


def _object(curve: Curve, left_out: Sequence[Untrusted]) -> dict[str, object]:
    steps = []
    for place, point in enumerate(curve.points):
        rates = point.summary.rates
        change = None
        if point.change is not None:
            change = {
                "points": point.change.change,
                "interval": point.change.interval,
                "exceeds_noise": point.exceeds_noise,
                "p_holm": point.p_holm,
                "p_family": point.change.p,
            }
        about = {
            "step": point.step,
            "run": point.summary.run,
            "path": point.summary.path,
            "target": point.summary.target,
            **rate_object(rates),
            "change": change,
            "differs": curve.marks.reasons(place),
            "estimate": rates.estimate,
        }
        steps.append(about)
    return {
        **versioned(SCHEMA),
        "training": curve.training,
        "judge": curve.judge,
        "simulated": any(each.summary.simulated for each in curve.points),
        "steps": steps,
        "left_out": left_out,
    }


def _rows(curves: Sequence[Curve]) -> Iterator[tuple[CsvCell, ...]]:
    for curve in curves:
        for place, point in enumerate(curve.points):
            rates = point.summary.rates
            yield (
                curve.training,
                curve.judge,
                point.step,
                point.summary.run,
                *rate_cells(rates),
                *((None,) * 3 if point.change is None else (point.change.change, *point.change.interval)),
                Untrusted(Sentence.join("; ", curve.marks.reasons(place)).text(for_json)),
                rates.estimate,
                point.p_holm,
                None if point.change is None else point.change.p,
            )
