"""`vlsb compare`: runs on the same samples, what differs, and whether that is more than noise."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from vlsb.cli import options as opt
from vlsb.cli.command import command
from vlsb.cli.screen import Screen
from vlsb.errors import ConfigError
from vlsb.evaluation.options import Option
from vlsb.extras import require_extra
from vlsb.reports.tables import FORMATS


@command()
def compare_command(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Runs, or directories of runs.")],
    baseline: Annotated[
        Path | None,
        Option(
            "The run that the others are held against, by path or name. (default: the first)",
            metavar="RUN",
            variable="VLSB_COMPARE_BASELINE",
        ),
    ] = None,
    all_pairs: Annotated[bool, Option("Compare every two runs, not each with the baseline.")] = False,
    judge: opt.ComparedJudge = None,
    across_judges: Annotated[
        bool, Option("Let runs have different judges, if one of the runs measures how far these agree.")
    ] = False,
    show: Annotated[
        int, Option("List so many samples whose label changed, 0 for all.", metavar="N", min=0)
    ] = 10,
    format_: Annotated[
        str,
        Option(
            "How to write the comparison.",
            metavar="table|json|csv|markdown|latex",
            variable="VLSB_COMPARE_FORMAT",
        ),
    ] = "table",
) -> int:
    """Compare runs on the same samples: what differs, whether it is more than noise, what changed."""
    screen = Screen()
    if format_ not in FORMATS:
        raise ConfigError(f"--format {format_}: not one of {', '.join(FORMATS)}.")
    text: str = comparing("vlsb compare").comparison_text(
        paths,
        format_,
        judge=judge,
        baseline=baseline,
        across_judges=across_judges,
        all_pairs=all_pairs,
        shown=show,
    )
    screen.result(text)
    return 0


def comparing(command: str) -> ModuleType:
    """The module that compares, with numpy, scipy and statsmodels: a second that help pages do not wait.

    Raises ConfigError without the extra `stats`.
    """
    require_extra("stats", command)
    from vlsb.cli import comparing as module

    return module
