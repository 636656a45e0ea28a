"""`vlsb plot`: runs as a figure for a paper or a slide. matplotlib is imported when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlsb.cli.command import command, write_file
from vlsb.cli.screen import Screen
from vlsb.errors import ConfigError
from vlsb.evaluation.options import Option


@command(extra="plot")
def plot_command(
    paths: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs, or directories of runs.")],
    out: Annotated[
        Path, Option("The figure's file: .svg, .pdf or .png.", metavar="FILE", variable="VLSB_PLOT_OUT")
    ],
    kind: Annotated[
        str,
        Option(
            "What to draw.",
            choices=("labels", "categories", "radar", "steps", "transitions", "agreement"),
            variable="VLSB_PLOT_KIND",
        ),
    ] = "labels",
    width: Annotated[
        str,
        Option(
            "One column of a paper (3.3 inches), or both (6.9).",
            choices=("single", "double"),
            variable="VLSB_PLOT_WIDTH",
        ),
    ] = "single",
    judge: Annotated[
        str | None,
        Option("Draw this judge's labels only. (default: all)", metavar="NAME", variable="VLSB_PLOT_JUDGE"),
    ] = None,
) -> None:
    """Draw runs: labels, categories, what changed from one to the next, how judges agree."""
    # Half a second to import, and no other command's.
    from vlsb.reports.plots import FORMATS, WIDTHS, draw

    form = out.suffix.removeprefix(".").lower()
    if form not in FORMATS:
        raise ConfigError(
            f"--out {out}: name a file that ends in {', '.join('.' + each for each in FORMATS)}."
        )
    screen, inches = Screen(), WIDTHS[width]
    write_file(out, draw(paths, form, kind=kind, inches=inches, judge=judge, say=screen.notice))
    screen.notice(f"{kind} in {out}, {inches} inches wide.")
