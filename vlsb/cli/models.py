"""`vlsb models`: which models have a name here, and what one of them would be started and asked with."""

from __future__ import annotations

from typing import Annotated

import typer

from vlsb.cli import options as opt
from vlsb.cli.command import LIST, command
from vlsb.cli.screen import list_width
from vlsb.evaluation.options import Option

models_app = typer.Typer(help="List the models that have a name, or show one.")

ShownName = Annotated[
    str, typer.Argument(metavar="NAME", help="A name of the list, org/name, a folder, or a hosted model.")
]


@models_app.callback(invoke_without_command=True)
@command(form=Option("How to write the list.", choices=LIST))
def list_command(context: typer.Context, format_: str, servers_dir: opt.ServersDir = None) -> str | None:
    """List the models that have a name, or show one."""
    if context.invoked_subcommand is not None:
        return None
    from vlsb.cli.models_text import models_json, models_text

    if format_ == "json":
        return models_json(servers_dir)
    return models_text(servers_dir, width=list_width())


@models_app.command("show")
@command()
def show_command(name: ShownName, servers_dir: opt.ServersDir = None, offline: opt.Offline = False) -> str:
    """Show what a model is: its weights, memory, the engine's command line and the request it is sent."""
    # Engines bring the HTTP stack, which the list does not wait for.
    from vlsb.cli.model_card import model_card

    return model_card(name, servers_dir, is_offline=offline)
