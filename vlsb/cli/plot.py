"""`vlsb plot`: runs as a figure for a paper or a slide. matplotlib is imported when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlsb.cli import options as opt
from vlsb.cli.screen import Screen
from vlsb.errors import VlsbError
from vlsb.extras import require_extra


def plot_command(
    paths: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs, or directories of runs.")],
    out: opt.PlotFile,
    kind: opt.PlotKind = "labels",
    width: opt.PlotWidth = "single",
    judge: opt.PlotJudge = None,
) -> int:
    """Draw runs: labels, categories, what changed from one to the next, how judges agree."""
    screen = Screen()
    try:
        require_extra("plot", "vlsb plot")
        # Half a second to import, and no other command's.
        from vlsb.cli.drawing import draw

        draw(paths, out, kind=kind, width=width, judge=judge, screen=screen)
    except VlsbError as error:
        screen.error(error)
        return error.exit_code
    return 0
