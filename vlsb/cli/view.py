"""`vlsb view`: runs in a browser on this machine, live while they are going. Writes nothing but labels."""

from __future__ import annotations

import webbrowser
from contextlib import suppress
from typing import Annotated

from vlsb.cli import options as opt
from vlsb.cli.audit import store_sheet
from vlsb.cli.command import command
from vlsb.cli.screen import Screen
from vlsb.data.image_files import quiet_decoder
from vlsb.errors import ConfigError
from vlsb.evaluation.options import Option
from vlsb.models.prices import load_prices
from vlsb.reports.html.server import PageServer
from vlsb.reports.html.site import RunSite
from vlsb.store.listing import find_runs


@command()
def view_command(
    paths: opt.Paths,
    port: Annotated[
        int | None,
        Option(
            "Port on 127.0.0.1. (default: a free one)",
            metavar="N",
            variable="VLSB_VIEW_PORT",
            min=1,
            max=65535,
        ),
    ] = None,
    open_: Annotated[bool, Option("Open it in the system's browser.", variable="VLSB_VIEW_OPEN")] = False,
    data_root: opt.ShownDataRoot = None,
    prices: opt.Prices = None,
) -> None:
    """Look through runs in a browser, also while they are going. Ctrl-C ends it."""
    screen = Screen()
    find_runs(paths)
    site = RunSite(paths, data_root=data_root, prices=load_prices(prices), store_labels=store_sheet)
    try:
        server = PageServer(site, port=port or 0)
    except OSError as error:
        raise ConfigError(
            f"--port {port}: cannot be used ({error.strerror}). Leave it out for a free one."
        ) from error
    # Warning filters belong to the process, and images are drawn by many threads.
    with suppress(KeyboardInterrupt), quiet_decoder(), server:
        screen.result(
            f"{server.address}\nFor this machine alone, and for whoever has the address. Ctrl-C ends it."
        )
        if open_:
            webbrowser.open(server.address)
        server.serve_forever()
