"""`vlsb agreement`: how far the judges of runs agree, people among them, and what their difference does."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from vlsb.cli import options as opt
from vlsb.cli.screen import Screen
from vlsb.errors import ConfigError, VlsbError

STATS = ("numpy", "scipy", "statsmodels")


def agreement_command(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Runs, or directories of runs.")],
    agreement_format: opt.AgreementFormat = "table",
) -> int:
    """Compare the judges of runs on the same responses: agreement, kappa, rates and rankings."""
    screen = Screen()
    try:
        require_stats("vlsb agreement")
        # A second to import, and no other command's.
        from vlsb.cli.agreement_text import agreement_text

        screen.result(agreement_text(paths, agreement_format))
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
