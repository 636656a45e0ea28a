"""`vlsb compare`: runs on the same samples, what differs, and whether that is more than noise."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from vlsb.cli import options as opt
from vlsb.cli.screen import Screen
from vlsb.errors import ConfigError, VlsbError
from vlsb.extras import require_extra
from vlsb.reports.tables import FORMATS


def compare_command(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Runs, or directories of runs.")],
    baseline: opt.CompareBaseline = None,
    all_pairs: opt.AllPairs = False,
    judge: opt.ComparedJudge = None,
    across_judges: opt.AcrossJudges = False,
    show: opt.ShownChanges = 10,
    compare_format: opt.CompareFormat = "table",
) -> int:
    """Compare runs on the same samples: what differs, whether it is more than noise, what changed."""
    screen = Screen()
    try:
        if compare_format not in FORMATS:
            raise ConfigError(f"--format {compare_format}: not one of {', '.join(FORMATS)}.")
        text: str = comparing("vlsb compare").comparison_text(
            paths,
            compare_format,
            judge=judge,
            baseline=baseline,
            across_judges=across_judges,
            all_pairs=all_pairs,
            shown=show,
        )
        screen.result(text)
    except VlsbError as error:
        screen.error(error)
        return error.exit_code
    return 0


def comparing(command: str) -> ModuleType:
    """The module that compares, with numpy, scipy and statsmodels: a second that help pages do not wait.

    Raises ConfigError without the extra `stats`.
    """
    require_extra("stats", command)
    from vlsb.cli import comparing as module

    return module
