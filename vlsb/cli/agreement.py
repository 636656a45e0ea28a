"""`vlsb agreement`: how far the judges of runs agree, people among them, and what their difference does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlsb.cli.command import command
from vlsb.cli.screen import Screen
from vlsb.evaluation.options import Option
from vlsb.extras import require_extra


@command()
def agreement_command(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Runs, or directories of runs.")],
    format_: Annotated[
        str,
        Option(
            "How to write the comparison.",
            metavar="table|json|csv|markdown|latex",
            variable="VLSB_AGREEMENT_FORMAT",
        ),
    ] = "table",
) -> int:
    """Compare the judges of runs on the same responses: agreement, kappa, rates and rankings."""
    screen = Screen()
    require_extra("stats", "vlsb agreement")
    # A second to import, and no other command's.
    from vlsb.cli.agreement_text import agreement_text

    screen.result(agreement_text(paths, format_))
    return 0
