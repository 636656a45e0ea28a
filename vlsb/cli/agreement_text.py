"""From runs to the comparison of their judges, as text. numpy, scipy and statsmodels: a second to import."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from vlsb.analysis.agreement import AgreementReport, compare_judges
from vlsb.analysis.panel import members_of
from vlsb.cli.screen import has_color
from vlsb.errors import ConfigError
from vlsb.reports.agreement import written
from vlsb.reports.tables import FORMATS
from vlsb.store.comparisons import judge_name, judged_run
from vlsb.store.state import load_state
from vlsb.store.summaries import find_runs


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
        people |= {judge_name(each.file) for each in state.manifest.judges if each.is_human}
        panels |= {
            judge_name(each.file): members
            for each in state.manifest.judges
            if (members := members_of(each.settings))
        }
    return compare_judges(runs, people=people, panels=panels)
