"""Figures for papers and slides, at a column's width: matplotlib, which only `vlsb plot` imports.

Colours are of Okabe and Ito's palette, which people who see few colours can tell apart; lightness, hatches
and markers tell the same in grey. Fonts are embedded as TrueType in PDF, and text stays text in SVG.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from math import pi
from pathlib import Path
from textwrap import wrap
from typing import Any, NamedTuple

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from vlsb.analysis.differences import differences
from vlsb.analysis.rates import Rates
from vlsb.analysis.summary import Summary
from vlsb.errors import ConfigError
from vlsb.extras import require_extra
from vlsb.records import Label, Untrusted
from vlsb.reports.curves import Curve, asked_curves, curve_name
from vlsb.reports.documents import in_order
from vlsb.reports.encode import for_terminal
from vlsb.reports.notes import (
    DAGGER,
    DOUBLE_DAGGER,
    SECTION,
    RowMarks,
    by_category,
    mark,
    reasons,
    row_name,
    stopped_words,
)
from vlsb.reports.report import Sentence, share_of_selected
from vlsb.store.audit import require_whole
from vlsb.store.listing import find_runs
from vlsb.store.state import load_state
from vlsb.store.summaries import run_conditions, stored_judge, summarize_run, summarize_state

WIDTHS = {"single": 3.3, "double": 6.9}
"""Inches: one column of a two-column paper, and both."""
MOST_RUNS = 8
"""As many colours, and as many markers, as are told apart."""

_RED, _BLUE, _SKY, _GREY = "#D55E00", "#0072B2", "#8CCBF0", "#555555"
_COLORS = (_BLUE, _RED, "#009E73", "#CC79A7", "#E69F00", "#000000", "#56B4E9", "#F0E442")
_MARKERS = "osD^vPX*"
_LABELS = {
    "refusal": (_BLUE, ""),
    "warning": (_SKY, ""),
    "unsafe": (_RED, "////"),
}
_STYLE: dict[Any, Any] = {
    "font.size": 7,
    "axes.titlesize": 8,
    "axes.labelsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "hatch.linewidth": 0.7,
    "legend.frameon": False,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 1.2,
    "figure.constrained_layout.use": True,
    # A stranger's dollar sign begins no formula.
    "text.parse_math": False,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    # The same runs give the same bytes.
    "svg.hashsalt": "vlsb",
}
_NOTE_POINTS = 6
_NOTE_INCHES = 1.3 * _NOTE_POINTS / 72
"""The height of a line of a footnote."""
_NOTE_LETTERS = 20
"""This many letters of a footnote fit in an inch."""
_NO_DATES: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
FORMATS = tuple(_NO_DATES)


@dataclass(frozen=True, slots=True)
class Transitions:
    """What became of the labels of the same responses from one run to another, by label in its order."""

    first: Untrusted
    second: Untrusted
    counts: Sequence[Sequence[int]]
    simulated: bool


class JudgePair(NamedTuple):
    """How often two judges gave one label, in percent of `n` responses, and their kappa, if it is one."""

    first: str
    second: str
    agree: float
    kappa: float | None
    n: int


def labels_figure(summaries: Sequence[Summary], form: str, *, width: float) -> bytes:
    """Draw a bar a run: refusal, warning and unsafe, with the safe rate's interval where it turns unsafe."""
    marks = mark(in_order(summaries))
    rows = [
        f"{_folded(_run(marks, place), width)}\nn = {share_of_selected(each.rates)}"
        for place, each in enumerate(marks.summaries)
    ]
    lines = max(row.count("\n") + 1 for row in rows)
    note = _footnotes(marks, width)
    with _figure(width, 0.62 + len(rows) * (0.09 + 0.11 * lines), note) as figure:
        axes = figure.add_subplot()
        for place, summary in enumerate(marks.summaries):
            _label_bar(axes, place, summary.rates)
        axes.set_yticks(range(len(rows)), rows)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        _percent_axis(axes, "% of judged responses")
        handles: list[Artist] = [
            Patch(facecolor=color, hatch=hatch, edgecolor="white", label=name)
            for name, (color, hatch) in _LABELS.items()
        ]
        interval = Line2D(
            [], [], color="black", marker="|", markersize=4, linewidth=1, label="95 % CI of safe"
        )
        figure.legend(handles=[*handles, interval], loc="outside upper center", ncols=4)
        return _written(figure, form)


def categories_figure(summaries: Sequence[Summary], form: str, *, width: float) -> bytes:
    """Draw a row a category: every run's safe rate there, as a dot with its interval."""
    marks = mark(in_order(summaries))
    cells = list(by_category(marks.summaries))
    names = list(dict.fromkeys(name for name, _, _ in cells))
    height = 0.55 + len(names) * (0.12 + 0.11 * len(summaries)) + _legend_inches(marks, width)
    with _figure(width, height, _footnotes(marks, width)) as figure:
        axes = figure.add_subplot()
        for name, place, rates in cells:
            if rates.safe_rate is not None:
                # The dots of several runs stand below each other around the middle of the row.
                below = 0.72 * ((place + 0.5) / len(summaries) - 0.5)
                low, high = rates.intervals["safe_rate"]
                axes.errorbar(
                    rates.safe_rate,
                    names.index(name) + below,
                    xerr=[[rates.safe_rate - low], [high - rates.safe_rate]],
                    color=_COLORS[place],
                    marker=_MARKERS[place],
                    markersize=3.4,
                    linewidth=0.9,
                    capsize=1.6,
                    capthick=0.7,
                )
        axes.set_yticks(range(len(names)), [_folded(for_terminal(name), width) for name in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        for boundary in range(1, len(names)):
            axes.axhline(boundary - 0.5, color="#DDDDDD", linewidth=0.5, zorder=0)
        _percent_axis(axes, "safe rate, % (95 % CI)")
        _run_legend(figure, marks, width)
        return _written(figure, form)


def radar_figure(summaries: Sequence[Summary], form: str, *, width: float) -> bytes:
    """Draw the paper's figure: safe rates by category around a circle. It has no intervals."""
    marks = mark(in_order(summaries))
    cells = {(name, place): rates for name, place, rates in by_category(marks.summaries)}
    names = list(dict.fromkeys(name for name, _ in cells))
    angles = [2 * pi * place / len(names) for place in range(len(names))]
    height = width * 0.86 + _legend_inches(marks, width)
    with _figure(width, height, _footnotes(marks, width)) as figure:
        axes = figure.add_subplot(projection="polar")
        for place in range(len(marks.summaries)):
            rates = [cells.get((name, place)) for name in names]
            values = [
                float("nan") if each is None or each.safe_rate is None else each.safe_rate for each in rates
            ]
            axes.plot(
                [*angles, angles[0]],
                [*values, values[0]],
                color=_COLORS[place],
                marker=_MARKERS[place],
                markersize=3,
                linewidth=1,
            )
        axes.set_xticks(angles, [for_terminal(name) for name in names])
        axes.set_ylim(0, 100)
        axes.set_yticks([25, 50, 75, 100], ["25", "50", "75", "100"])
        axes.grid(linewidth=0.4, color="#BBBBBB")
        _run_legend(figure, marks, width)
        return _written(figure, form)


def steps_figure(curves: Sequence[Curve], form: str, *, width: float) -> bytes:
    """Draw safe rates over training, a line for each training and judge.

    Raises ConfigError for more than can be told apart.
    """
    if len(curves) > MOST_RUNS:
        raise ConfigError(
            f"{len(curves)} curves are more than a figure can tell apart ({MOST_RUNS}). "
            "Name the runs of fewer trainings, or one judge with --judge."
        )
    has_trainings = len({each.training for each in curves}) > 1
    names = [
        curve_name(each).text(for_terminal) if has_trainings else for_terminal(each.judge) for each in curves
    ]
    note = _simulated(any(each.summary.simulated for curve in curves for each in curve.points))
    with _figure(width, width * 0.62 + 0.14 * len(names), note) as figure:
        axes = figure.add_subplot()
        for place, (name, curve) in enumerate(zip(names, curves, strict=True)):
            rates = [each.summary.rates for each in curve.points]
            safe = [each.safe_rate or 0.0 for each in rates]
            spans = [each.intervals["safe_rate"] for each in rates]
            axes.errorbar(
                [each.step for each in curve.points],
                safe,
                yerr=[
                    [rate - low for rate, (low, _) in zip(safe, spans, strict=True)],
                    [high - rate for rate, (_, high) in zip(safe, spans, strict=True)],
                ],
                color=_COLORS[place],
                marker=_MARKERS[place],
                markersize=3.4,
                linewidth=1,
                elinewidth=0.8,
                capsize=1.6,
                # matplotlib leaves out what begins with an underscore.
                label=f" {_folded(name, width)}",
            )
        axes.set_ylim(0, 100)
        axes.set_yticks([0, 25, 50, 75, 100])
        axes.set_ylabel("safe rate, % (95 % CI)")
        axes.set_xlabel("step")
        axes.locator_params(axis="x", nbins=5)
        if len(curves) > 1:
            figure.legend(loc="outside upper center", ncols=_legend_columns(width))
        return _written(figure, form)


def transitions_figure(transitions: Transitions, form: str, *, width: float) -> bytes:
    """Draw a square of counts: the labels of one run by row, those of the other by column."""
    total = sum(map(sum, transitions.counts))
    names = [_LABEL_WORDS[label] for label in Label]
    cells = [
        [
            _MatrixField(
                f"{_turn(before, after).sign}{count:,}\n{100 * count / total:.1f} %",
                count / total,
                _turn(before, after).color,
            )
            for after, count in zip(Label, row, strict=True)
        ]
        for before, row in zip(Label, transitions.counts, strict=True)
    ]
    with _figure(width, width * 0.86, _simulated(transitions.simulated)) as figure:
        axes = figure.add_subplot()
        _square(axes, cells, names)
        axes.set_xlabel(f"{_folded(for_terminal(transitions.second), 2 * width)} (n = {total:,} responses)")
        axes.set_ylabel(_folded(for_terminal(transitions.first), 2 * width))
        handles: list[Artist] = [
            Patch(facecolor=turn.color, label=f"{turn.sign}{turn.words}")
            for turn in (_SAFER, _UNSAFER, _ALIKE)
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=3)
        return _written(figure, form)


def agreement_figure(pairs: Sequence[JudgePair], form: str, *, width: float, simulated: bool) -> bytes:
    """Draw a square of judges: how often each two gave one label, and their kappa; darker from 50 % on."""
    judges = sorted({name for pair in pairs for name in (pair.first, pair.second)})
    cells = [[_MatrixField("", 0.12, _GREY) for _ in judges] for _ in judges]
    for pair in pairs:
        kappa = "" if pair.kappa is None else f"\nκ = {pair.kappa:.2f}"
        text = f"{pair.agree:.1f} %{kappa}\nn = {pair.n:,}"
        places = judges.index(pair.first), judges.index(pair.second)
        for row, column in (places, places[::-1]):
            cells[row][column] = _MatrixField(text, max(0.0, pair.agree / 50 - 1), _BLUE)
    names = [_folded(for_terminal(Untrusted(name)), width / 2) for name in judges]
    with _figure(width, 0.5 + 0.62 * len(judges), _simulated(simulated)) as figure:
        axes = figure.add_subplot()
        _square(axes, cells, names)
        axes.set_xlabel("equal labels of two judges")
        return _written(figure, form)


_LABEL_WORDS = {Label.SAFE_REFUSAL: "refusal", Label.SAFE_WARNING: "warning", Label.UNSAFE: "unsafe"}


class _Change(NamedTuple):
    """What a change of label comes to: in words, as a sign that is seen in grey too, and its color."""

    words: str
    sign: str
    color: str


_SAFER, _UNSAFER = _Change("became safe", "▲ ", _BLUE), _Change("became unsafe", "▼ ", _RED)
_ALIKE = _Change("as before", "", _GREY)


class _MatrixField(NamedTuple):
    """A field of a square: its words, and its color, as strong as `strength` (0 to 1)."""

    text: str
    strength: float
    color: str


def _turn(before: Label, after: Label) -> _Change:
    was_unsafe, is_unsafe = before is Label.UNSAFE, after is Label.UNSAFE
    if was_unsafe == is_unsafe:
        return _ALIKE
    return _UNSAFER if is_unsafe else _SAFER


@contextmanager
def _figure(width: float, height: float, note: str = "") -> Iterator[Figure]:
    """Make an empty figure of that many inches, in our style; its footnote stands below them."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # A box stands for a sign that the font lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        # Room that the footnote takes from the axes would be the bars'.
        lines = note.count("\n") + 1 if note else 0
        figure = Figure(figsize=(width, height + _NOTE_INCHES * (lines + 0.5 * bool(note))))
        if note:
            figure.supxlabel(note, fontsize=_NOTE_POINTS, color=_GREY)
        yield figure


def _written(figure: Figure, form: str) -> bytes:
    sheet = io.BytesIO()
    figure.savefig(sheet, format=form, dpi=300, metadata=_NO_DATES[form])
    return sheet.getvalue()


def _label_bar(axes: Axes, place: int, rates: Rates) -> None:
    shares = (rates.safe_refuse_rate, rates.safe_warning_rate, rates.unsafe_rate)
    start = 0.0
    for share, (color, hatch) in zip(shares, _LABELS.values(), strict=True):
        width = share or 0.0
        axes.barh(
            place, width, left=start, height=0.66, color=color, hatch=hatch, edgecolor="white", linewidth=0.4
        )
        start += width
    if rates.safe_rate is not None:
        low, high = rates.intervals["safe_rate"]
        reach = [[rates.safe_rate - low], [high - rates.safe_rate]]
        for color, thickness in (("white", 2.4), ("black", 1.0)):
            axes.errorbar(
                rates.safe_rate,
                place,
                xerr=reach,
                color=color,
                linewidth=thickness,
                capsize=2,
                capthick=thickness,
            )


def _square(axes: Axes, cells: Sequence[Sequence[_MatrixField]], names: Sequence[str]) -> None:
    """Draw the cells under the same names by row and by column, white words on strong colors."""
    for row, line in enumerate(cells):
        for column, cell in enumerate(line):
            # Even a rare change shows its color.
            strength = 0.1 + 0.9 * min(1.0, cell.strength)
            corner = (column - 0.5, row - 0.5)
            axes.add_patch(
                Rectangle(corner, 1, 1, facecolor=to_rgba(cell.color, strength), edgecolor="white")
            )
            color = "white" if strength > 0.6 else "black"
            axes.text(column, row, cell.text, ha="center", va="center", color=color)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _percent_axis(axes: Axes, label: str) -> None:
    axes.set_xlim(0, 100)
    axes.set_xticks([0, 25, 50, 75, 100])
    axes.set_xlabel(label)


def _folded(name: str, width: float) -> str:
    """Fold an encoded name in lines that leave room beside them, broken at hyphens if it has any."""
    return "\n".join(wrap(name, max(8, int(6 * width))))


def _run(marks: RowMarks, place: int) -> str:
    # A dagger does not stand alone on a line.
    return "\u00a0".join(
        filter(None, (row_name(marks.summaries, place).text(for_terminal), marks.sign(place)))
    )


def _run_legend(figure: Figure, marks: RowMarks, width: float) -> None:
    if len(marks.summaries) == 1:
        figure.suptitle(_run(marks, 0), fontsize=8)
        return
    handles = [
        # matplotlib leaves out what begins with an underscore.
        Line2D(
            [],
            [],
            color=_COLORS[place],
            marker=_MARKERS[place],
            markersize=3.4,
            linewidth=0.9,
            label=f" {_folded(_run(marks, place), width)}",
        )
        for place in range(len(marks.summaries))
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=_legend_columns(width))


def _legend_columns(width: float) -> int:
    return 2 if width < 5 else 4


def _legend_inches(marks: RowMarks, width: float) -> float:
    """Return the height of the legend: its columns are filled one after the other, and names are folded."""
    lines = [_folded(_run(marks, place), width).count("\n") + 1 for place in range(len(marks.summaries))]
    rows = -(-len(lines) // _legend_columns(width))
    columns = [lines[start : start + rows] for start in range(0, len(lines), rows)]
    return sum(0.03 + 0.11 * max(row) for row in zip_longest(*columns, fillvalue=1))


def _footnotes(marks: RowMarks, width: float) -> str:
    """Say what a reader must know before any number: simulated, and what the signs mean."""
    notes = []
    if marks.differing and marks.reference is not None:
        name = row_name(marks.summaries, marks.reference).text(for_terminal)
        notes.append(f"{DAGGER} not measured as {name} was")
    if any(each.part is not None for each in marks.summaries):
        notes.append(f"{DOUBLE_DAGGER} estimated from a drawn part")
    if any(stopped_words(each.conditions) is not None for each in marks.summaries):
        notes.append(f"{SECTION} stopped early by vlsb gate")
    if any(each.simulated for each in marks.summaries):
        notes.append("SIMULATED")
    # No line is wider than the figure.
    return "\n".join(wrap(" · ".join(notes), int(_NOTE_LETTERS * width)))


def _simulated(is_simulated: bool) -> str:
    return "SIMULATED" if is_simulated else ""


_OF_SUMMARIES = {
    "labels": labels_figure,
    "categories": categories_figure,
    "radar": radar_figure,
}


def draw(
    paths: Sequence[Path],
    form: str,
    *,
    kind: str,
    inches: float,
    judge: str | None,
    say: Callable[[str], None],
) -> bytes:
    """Return the figure; `say` gets notes on it. Raises ConfigError for what cannot be drawn."""
    runs = find_runs(paths)
    if kind == "transitions":
        drawn = transitions_figure(_transitions(runs, judge, say), form, width=inches)
    elif kind == "agreement":
        drawn = _agreement(runs, form, inches)
    elif kind == "steps":
        asked = asked_curves(_summaries(runs, judge, most=None))
        drawn = steps_figure(asked.curves, form, width=inches)
        for curve in asked.curves:
            _explain(curve.marks, say)
        if left_out := ", ".join(map(for_terminal, asked.left_out)):
            say(f"Not on a curve: {left_out}.")
    else:
        summaries = _summaries(runs, judge, most=MOST_RUNS)
        drawn = _OF_SUMMARIES[kind](summaries, form, width=inches)
        _explain(mark(in_order(summaries)), say)
    return drawn


def _explain(marks: RowMarks, say: Callable[[str], None]) -> None:
    for note in marks.notes():
        for names, why in note.lines:
            say(Sentence(f"{note.sign} ", names, ": ", why).text(for_terminal))


def _summaries(runs: Sequence[Path], judge: str | None, *, most: int | None) -> list[Summary]:
    """Return the runs with rates, under each of their judges or the one that was named.

    Raises ConfigError for more than `most`.
    """
    summaries: list[Summary] = []
    for run in runs:
        if judge is None:
            summaries += summarize_run(run)
        else:
            state = load_state(run)
            entry = stored_judge(state.manifest, judge)
            summaries.append(summarize_state(state, run, None if entry is None else entry.file))
    judged = [each for each in summaries if each.rates.safe_rate is not None]
    if not judged:
        raise ConfigError("There are no rates to draw: nothing was judged there, or a drawn part too small.")
    if most is not None and len(judged) > most:
        raise ConfigError(
            f"{len(judged)} runs and judges are more than a figure can tell apart ({most}). "
            "Name fewer runs, or one judge with --judge."
        )
    return judged


def _transitions(runs: Sequence[Path], judge: str | None, say: Callable[[str], None]) -> Transitions:
    """Count labels over what both runs have a label for. ConfigError unless one judge gave them all."""
    if len(runs) != 2:
        raise ConfigError(f"--kind transitions is from one run to another: name two, not {len(runs)}.")
    states = [load_state(run) for run in runs]
    files = []
    for state, run in zip(states, runs, strict=True):
        entry = stored_judge(state.manifest, judge)
        if entry is None:
            raise ConfigError(f"{run}: nobody has judged it.")
        require_whole(run, state, entry)
        files.append(entry.file)
    first, second = (run_conditions(state, file) for state, file in zip(states, files, strict=True))
    differs = differences(first, second)
    if differs.judges is not None:
        raise ConfigError(
            "The two runs have other judges, whose labels cannot be compared. "
            "Name one that judged both: --judge NAME."
        )
    if why := Sentence.join("; ", reasons(differs)).text(for_terminal):
        say(f"{runs[1]} was measured differently from {runs[0]}: {why}")
    counts = [[0] * len(Label) for _ in Label]
    order = list(Label)
    for key in states[0].asked_for():
        before, after = (state.label(key, file) for state, file in zip(states, files, strict=True))
        if before is not None and after is not None:
            counts[order.index(before)][order.index(after)] += 1
    if not any(map(any, counts)):
        raise ConfigError("No sample has a label in both runs.")
    names = [Untrusted(run.resolve().name) for run in runs]
    return Transitions(names[0], names[1], counts, first.simulated or second.simulated)


def _agreement(runs: Sequence[Path], form: str, inches: float) -> bytes:
    require_extra("stats", "vlsb plot --kind agreement")
    # numpy, scipy and statsmodels, which no other figure needs.
    from vlsb.store.comparisons import compare_stored_judges

    report = compare_stored_judges(runs)
    pairs = [
        JudgePair(
            pair.first,
            pair.second,
            pair.agreement.raw.value or 0.0,
            pair.agreement.kappa.value,
            pair.agreement.responses,
        )
        for pair in report.pairs
    ]
    if not pairs:
        raise ConfigError(
            "No two judges have labelled the same responses there: vlsb judge RUN --judge NAME."
        )
    return agreement_figure(pairs, form, width=inches, simulated=report.simulated)
