"""`vlsb serve`: a local model on an engine of its own."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from vlsb.cli import options as opt
from vlsb.cli.command import command
from vlsb.cli.screen import Screen
from vlsb.evaluation.options import HelpPanel, Option, RunOptions, names_in

ServedName = Annotated[
    str, typer.Argument(metavar="NAME", help="A name of `vlsb models`, org/name, a folder, or one of yours.")
]


@command()
@opt.takes_run_options(
    "engine_options",
    *names_in(HelpPanel.ENGINE, but=("replicas", "max_restarts", "keep_server")),
    "display",
)
def serve_command(
    name: ServedName,
    port: Annotated[
        int | None,
        Option("Port on 127.0.0.1. (default: a free one)", HelpPanel.SERVER, metavar="N", min=1, max=65535),
    ] = None,
    detach: Annotated[
        bool, Option("Return when it is ready; it runs on in the background.", HelpPanel.SERVER)
    ] = False,
    **given: Any,
) -> int:
    """Serve a local model on this machine, for `vlsb run --model NAME` and for any OpenAI client.

    NAME is one of `vlsb models`, an id on the Hugging Face Hub (org/name), a folder, or one of yours.
    """
    # Engines bring the HTTP stack, which the help page does not wait for.
    from vlsb.cli.serving import serve

    options = RunOptions.of(given)
    screen = Screen(quiet=options.display == "none")
    return serve(name, options, screen, port=port, is_detached=detach)
