"""`vlsb plot`: runs as a figure for a paper or a slide. matplotlib is imported when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlsb.cli.command import command
from vlsb.cli.screen import Screen
from vlsb.evaluation.options import Option
from vlsb.extras import require_extra


@command()
def plot_command(
    paths: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs, or directories of runs.")],
    out: Annotated[
        Path, Option("The figure's file: .svg, .pdf or .png.", metavar="FILE", variable="VLSB_PLOT_OUT")
    ],
    kind: Annotated[
        str,
        Option(
            "What to draw.",
            metavar="labels|categories|radar|steps|transitions|agreement",
            variable="VLSB_PLOT_KIND",
        ),
    ] = "labels",
    width: Annotated[
        str,
        Option(
            "One column of a paper (3.3 inches), or both (6.9).",
            metavar="single|double",
            variable="VLSB_PLOT_WIDTH",
        ),
    ] = "single",
    judge: Annotated[
        str | None,
        Option("Draw this judge's labels only. (default: all)", metavar="NAME", variable="VLSB_PLOT_JUDGE"),
    ] = None,
) -> int:
    """Draw runs: labels, categories, what changed from one to the next, how judges agree."""
    screen = Screen()
    require_extra("plot", "vlsb plot")
    # Half a second to import, and no other command's.
    from vlsb.cli.drawing import draw

    draw(paths, out, kind=kind, width=width, judge=judge, screen=screen)
    return 0
