"""`vlsb agreement`: how far the judges of runs agree, people among them, and what their difference does."""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlsb.cli import options as opt
from vlsb.cli.screen import Screen, has_color
from vlsb.errors import ConfigError, VlsbError
from vlsb.judging.human import is_human
from vlsb.records import JUDGED, Untrusted
from vlsb.store.state import RunState, load_state
from vlsb.store.summaries import find_runs, sample_outcomes

if TYPE_CHECKING:
    from vlsb.analysis.agreement import JudgedRun

STATS = ("numpy", "scipy", "statsmodels")


def agreement_command(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Runs, or directories of runs.")],
    agreement_format: opt.AgreementFormat = "table",
) -> int:
    """Compare the judges of runs on the same responses: agreement, kappa, rates and rankings."""
    screen = Screen()
    try:
        require_stats("vlsb agreement")
        screen.result(_report(paths, agreement_format))
    except VlsbError as error:
        screen.error(error)
        return error.exit_code
    return 0


def require_stats(command: str) -> None:
    """Raise ConfigError where the extra `stats` is not installed."""
    if missing := [name for name in STATS if find_spec(name) is None]:
        raise ConfigError(
            f"{command} needs the extra `stats` ({', '.join(missing)} not found). "
            "In a clone: uv sync --extra stats. Elsewhere: install vlsb[stats]."
        )


def _report(paths: list[Path], form: str) -> str:
    # numpy, scipy and statsmodels: a second to import, and no other command's.
    from vlsb.analysis.agreement import compare_judges
    from vlsb.reports.agreement import FORMATS, written

    if form not in FORMATS:
        raise ConfigError(f"--format {form}: not one of {', '.join(FORMATS)}.")
    runs, people = [], set()
    for path in find_runs(paths):
        state = load_state(path)
        runs.append(judged_run(path, state))
        people |= {judge_name(each.file) for each in state.manifest.judges if is_human(each.settings)}
    report = compare_judges(runs, people=people)
    if not report.pairs:
        raise ConfigError(
            "No two judges have labelled the same responses there. Judge a run again, with another judge: "
            f"vlsb judge {paths[0]} --judge NAME."
        )
    width = shutil.get_terminal_size((80, 24)).columns
    return written(report, form, width=width, color=has_color(sys.stdout))


def judge_name(file: str) -> str:
    """What tells a judge apart from others of its model in every run: its verdict file's name."""
    return file.removesuffix(".jsonl")


def judged_run(path: Path, state: RunState) -> JudgedRun:
    """A run's responses with what each of its judges made of them."""
    from vlsb.analysis.agreement import JudgedResponse, JudgedRun, had_response

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
        )
        for row in zip(*columns, strict=True)
        if had_response(row[0].outcome)
    ]
    return JudgedRun(
        run=Untrusted(path.resolve().name),
        target=state.manifest.target,
        simulated=state.manifest.simulated or any(each.simulated for each in state.manifest.judges),
        responses=responses,
    )
