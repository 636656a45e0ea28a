"""`vlsb models`: which models have a name here, and what one of them would be started and asked with."""

from __future__ import annotations

from typing import Annotated

import typer

from vlsb.cli import options as opt
from vlsb.cli.screen import Screen, list_width
from vlsb.errors import ConfigError, VlsbError

models_app = typer.Typer(help="List the models that have a name, or show one.")

ShownName = Annotated[
    str, typer.Argument(metavar="NAME", help="A name of the list, org/name, a folder, or a hosted model.")
]


@models_app.callback(invoke_without_command=True)
def list_command(
    context: typer.Context,
    servers_dir: opt.ServersDir = None,
    models_format: opt.ModelsFormat = "table",
) -> int:
    """List the models that have a name, or show one."""
    if context.invoked_subcommand is not None:
        return 0
    from vlsb.cli.models_text import models_json, models_text

    screen = Screen()
    try:
        if models_format not in ("table", "json"):
            raise ConfigError(f"--format {models_format}: not one of table, json.")
        if models_format == "json":
            screen.result(models_json(servers_dir))
        else:
            screen.result(models_text(servers_dir, width=list_width()))
    except VlsbError as error:
        screen.error(error)
        return error.exit_code
    return 0


@models_app.command("show")
def show_command(name: ShownName, servers_dir: opt.ServersDir = None, offline: opt.Offline = False) -> int:
    """Show what a model is: its weights, memory, the engine's command line and the request it is sent."""
    # Engines bring the HTTP stack, which the list does not wait for.
    from vlsb.cli.model_card import model_card

    screen = Screen()
    try:
        screen.result(model_card(name, servers_dir, is_offline=offline))
    except VlsbError as error:
        screen.error(error)
        return error.exit_code
    return 0
