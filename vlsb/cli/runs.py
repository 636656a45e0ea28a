"""`vlsb runs`: looking after run directories."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlsb.cli.screen import Screen
from vlsb.errors import VlsbError
from vlsb.store.repair import repair_run

runs_app = typer.Typer(no_args_is_help=True, help="Repair run directories.")


@runs_app.command("repair")
def repair_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The damaged run.")],
) -> int:
    """Keep the good lines of a damaged run and set the bad ones aside. A resume does their samples again."""
    screen = Screen()
    try:
        done = repair_run(run)
    except VlsbError as error:
        screen.error(error)
        return error.exit_code
    for each in done:
        screen.result(f"{each.path}: {each.kept} lines kept, {each.set_aside} set aside in {each.quarantine}")
    if not done:
        screen.result(f"{run}: nothing to repair")
    return 0


@runs_app.callback()
def _runs() -> None:
    """Repair run directories."""
