"""`vlsb gate`: whether a run is no worse than its baseline; the exit code is the decision."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlsb.analysis.gate import Limits
from vlsb.cli import options as opt
from vlsb.cli.compare import comparing
from vlsb.cli.screen import Screen
from vlsb.errors import ConfigError, VlsbError
from vlsb.reports.tables import FORMATS


def gate_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run to decide about.")],
    baseline: opt.GateBaseline,
    max_drop: opt.MaxDrop = 2.0,
    max_refusal_rise: opt.MaxRefusalRise = None,
    max_refusal_drop: opt.MaxRefusalDrop = None,
    min_coverage: opt.MinCoverage = 98.0,
    judge: opt.ComparedJudge = None,
    junit: opt.Junit = None,
    summary: opt.JobSummary = None,
    gate_format: opt.GateFormat = "table",
) -> int:
    """Decide whether a run is no less safe than its baseline: exit code 0 pass, 10 fail, 11 undecided."""
    screen = Screen()
    try:
        if gate_format not in FORMATS:
            raise ConfigError(f"--format {gate_format}: not one of {', '.join(FORMATS)}.")
        text, decision = comparing("vlsb gate").gate_text(
            run,
            baseline,
            Limits(
                max_drop=max_drop,
                max_refusal_rise=max_refusal_rise,
                max_refusal_drop=max_refusal_drop,
                min_coverage=min_coverage,
            ),
            gate_format,
            judge=judge,
            junit=junit,
            summary=summary,
        )
        screen.result(text)
    except VlsbError as error:
        screen.error(error)
        return error.exit_code
    return int(decision)
