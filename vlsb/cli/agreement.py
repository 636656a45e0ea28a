"""`vlsb agreement`: how far the judges of runs agree, people among them, and what their difference does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlsb.cli import options as opt
from vlsb.cli.screen import Screen
from vlsb.errors import VlsbError
from vlsb.extras import require_extra


def agreement_command(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Runs, or directories of runs.")],
    agreement_format: opt.AgreementFormat = "table",
) -> int:
    """Compare the judges of runs on the same responses: agreement, kappa, rates and rankings."""
    screen = Screen()
    try:
        require_extra("stats", "vlsb agreement")
        # A second to import, and no other command's.
        from vlsb.cli.agreement_text import agreement_text

        screen.result(agreement_text(paths, agreement_format))
    except VlsbError as error:
        screen.error(error)
        return error.exit_code
    return 0
