"""From runs to the comparison of their judges, as text. numpy, scipy and statsmodels: a second to import."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from vlsb.analysis.agreement import AgreementReport, JudgedResponse, JudgedRun, compare_judges, had_response
from vlsb.analysis.panel import members_of
from vlsb.cli.screen import has_color
from vlsb.errors import ConfigError
from vlsb.judging.human import is_human
from vlsb.records import JUDGED, Key, Untrusted
from vlsb.reports.agreement import written
from vlsb.reports.tables import FORMATS
from vlsb.store.audit import FILE, read_audit
from vlsb.store.state import RunState, calibration_file, load_state
from vlsb.store.summaries import find_runs, sample_outcomes


def agreement_text(paths: list[Path], form: str) -> str:
    """The judges of these runs compared. Raises ConfigError for no two with labels of the same responses."""
    if form not in FORMATS:
        raise ConfigError(f"--format {form}: not one of {', '.join(FORMATS)}.")
    report = judges_report(paths)
    if not report.pairs and not report.refusals:
        raise ConfigError(
            "No two judges have labelled the same responses there. Judge a run again, with another judge: "
            f"vlsb judge {paths[0]} --judge NAME."
        )
    width = shutil.get_terminal_size((80, 24)).columns
    return written(report, form, width=width, color=has_color(sys.stdout))


def judges_report(paths: Sequence[Path]) -> AgreementReport:
    """Every two judges of these runs, and several at once; a panel is not held against its members."""
    runs, people = [], set()
    panels: dict[str, list[str]] = {}
    for path in find_runs(paths):
        state = load_state(path)
        runs.append(judged_run(path, state))
        people |= {judge_name(each.file) for each in state.manifest.judges if is_human(each.settings)}
        panels |= {
            judge_name(each.file): members
            for each in state.manifest.judges
            if (members := members_of(each.settings))
        }
    return compare_judges(runs, people=people, panels=panels)


def judge_name(file: str) -> str:
    """What tells a judge apart from others of its model in every run: its verdict file's name."""
    return file.removesuffix(".jsonl")


def judged_run(path: Path, state: RunState, *, calibrated: str | None = None) -> JudgedRun:
    """A run's responses with what each of its judges made of them.

    People labelled what was drawn for them, and so did a judge that was calibrated and has not labelled the
    rest; `calibrated` is the file of one to be held to its draw in any case.
    """
    draws = _draws(path, state, calibrated)
    weights: dict[Key, dict[str, float]] = {}
    for file, audit in {file: read_audit(path, file) for file in draws.values()}.items():
        for item, _ in () if audit is None else audit.current(state):
            weights.setdefault(item.key, {})[file] = item.weight
    names = [judge_name(each.file) for each in state.manifest.judges]
    columns = [sample_outcomes(state, each.file) for each in state.manifest.judges]
    people = {
        name for name, each in zip(names, state.manifest.judges, strict=True) if is_human(each.settings)
    }
    responses = [
        JudgedResponse(
            row[0].image,
            row[0].category,
            {
                name: each.outcome
                for name, each in zip(names, row, strict=True)
                # People are given a part of the responses only: the rest they did not fail to label.
                if name not in people or each.outcome in JUDGED
            },
            weights.get(key, {}),
            {
                judge_name(guard.file): found.refuses
                for guard in state.manifest.guards
                if (found := state.finding(key, guard.file)) is not None and found.refuses is not None
            },
        )
        for key, row in zip(state.asked_for(), zip(*columns, strict=True), strict=True)
        if had_response(row[0].outcome)
    ]
    return JudgedRun(
        run=Untrusted(path.resolve().name),
        target=state.manifest.target,
        simulated=state.manifest.simulated or any(each.simulated for each in state.manifest.judges),
        responses=responses,
        draws=draws,
    )


def _draws(path: Path, state: RunState, calibrated: str | None) -> dict[str, str]:
    """The file of the draw by the name of each judge that labelled a drawn part only."""
    found = {}
    for entry in state.manifest.judges:
        file = FILE if is_human(entry.settings) else calibration_file(entry.file)
        is_whole = not is_human(entry.settings) and not state.pending(entry.file)
        if (path / file).exists() and (entry.file == calibrated or not is_whole):
            found[judge_name(entry.file)] = file
    return found
