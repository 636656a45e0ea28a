"""From runs to a figure. matplotlib: half a second to import."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vlsb.analysis.differences import differences
from vlsb.analysis.summary import Summary
from vlsb.errors import ConfigError
from vlsb.extras import require_extra
from vlsb.records import JUDGED, Label, Outcome, Untrusted
from vlsb.reports import plots
from vlsb.reports.curves import asked_curves
from vlsb.reports.documents import in_order
from vlsb.reports.encode import for_terminal
from vlsb.reports.marks import RowMarks, mark, reasons
from vlsb.reports.report import Sentence
from vlsb.store.audit import require_whole
from vlsb.store.listing import find_runs
from vlsb.store.state import RunState, load_state
from vlsb.store.summaries import run_conditions, stored_judge, summarize_run, summarize_state

_OF_SUMMARIES = {
    "labels": plots.labels_figure,
    "categories": plots.categories_figure,
    "radar": plots.radar_figure,
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
        drawn = plots.transitions_figure(_transitions(runs, judge, say), form, width=inches)
    elif kind == "agreement":
        drawn = _agreement(runs, form, inches)
    elif kind == "steps":
        drawn = _steps(runs, judge, form, inches, say)
    else:
        summaries = _summaries(runs, judge, most=plots.MOST_RUNS)
        drawn = _OF_SUMMARIES[kind](summaries, form, width=inches)
        _explain(mark(in_order(summaries)), say)
    return drawn


def _explain(marks: RowMarks, say: Callable[[str], None]) -> None:
    for note in marks.notes():
        for names, why in note.lines:
            say(Sentence(f"{note.sign} ", names, ": ", why).text(for_terminal))


def _steps(
    runs: Sequence[Path], judge: str | None, form: str, inches: float, say: Callable[[str], None]
) -> bytes:
    found = asked_curves(_summaries(runs, judge, most=None))
    drawn = plots.steps_figure(found.curves, form, width=inches)
    for curve in found.curves:
        _explain(curve.marks, say)
    if left_out := ", ".join(map(for_terminal, found.left_out)):
        say(f"Not on a curve: {left_out}.")
    return drawn


def _summaries(runs: Sequence[Path], judge: str | None, *, most: int | None) -> list[Summary]:
    """What is to be drawn: runs with rates, under each of their judges or the one that was named.

    Raises ConfigError for more than `most`.
    """
    found: list[Summary] = []
    for run in runs:
        if judge is None:
            found += summarize_run(run)
        else:
            state = load_state(run)
            entry = stored_judge(state.manifest, judge)
            found.append(summarize_state(state, run, None if entry is None else entry.file))
    judged = [each for each in found if each.rates.safe_rate is not None]
    if not judged:
        raise ConfigError("There are no rates to draw: nothing was judged there, or a drawn part too small.")
    if most is not None and len(judged) > most:
        raise ConfigError(
            f"{len(judged)} runs and judges are more than a figure can tell apart ({most}). "
            "Name fewer runs, or one judge with --judge."
        )
    return judged


def _transitions(runs: Sequence[Path], judge: str | None, say: Callable[[str], None]) -> plots.Transitions:
    """Counts of labels over what both runs have a label for. ConfigError unless one judge gave them all."""
    if len(runs) != 2:
        raise ConfigError(f"--kind transitions is from one run to another: name two, not {len(runs)}.")
    states = [load_state(run) for run in runs]
    files = [_judge_file(state, run, judge) for state, run in zip(states, runs, strict=True)]
    for state, run, file in zip(states, runs, files, strict=True):
        require_whole(run, state, state.manifest.judge(file))
    first, second = (run_conditions(state, file) for state, file in zip(states, files, strict=True))
    found = differences(first, second)
    if found.judges is not None:
        raise ConfigError(
            "The two runs have other judges, whose labels are not to be held against each other. "
            "Name one that judged both: --judge NAME."
        )
    if why := Sentence.join("; ", reasons(found)).text(for_terminal):
        say(f"{runs[1]} has otherwise than {runs[0]}: {why}")
    labels = [_labels(state, file) for state, file in zip(states, files, strict=True)]
    counts = [[0] * len(Label) for _ in Label]
    order = {Outcome(label.value): place for place, label in enumerate(Label)}
    for key in labels[0].keys() & labels[1].keys():
        counts[order[labels[0][key]]][order[labels[1][key]]] += 1
    if not any(map(any, counts)):
        raise ConfigError("No sample has a label in both runs.")
    names = [Untrusted(run.resolve().name) for run in runs]
    return plots.Transitions(names[0], names[1], counts, first.simulated or second.simulated)


def _judge_file(state: RunState, run: Path, judge: str | None) -> str:
    entry = stored_judge(state.manifest, judge)
    if entry is None:
        raise ConfigError(f"{run}: nobody has judged it.")
    return entry.file


def _labels(state: RunState, file: str) -> Mapping[object, Outcome]:
    outcomes = ((key, state.outcome(key, file)) for key in state.asked_for())
    return {key: outcome for key, outcome in outcomes if outcome in JUDGED}


def _agreement(runs: Sequence[Path], form: str, inches: float) -> bytes:
    require_extra("stats", "vlsb plot --kind agreement")
    # numpy, scipy and statsmodels, which no other figure needs.
    from vlsb.store.comparisons import compare_stored_judges

    report = compare_stored_judges(runs)
    pairs = [
        plots.JudgePair(
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
    return plots.agreement_figure(pairs, form, width=inches, simulated=report.simulated)
