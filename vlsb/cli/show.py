"""`vlsb show` and `vlsb view`: the responses of runs on the terminal, or in a browser on this machine."""

from __future__ import annotations

import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from vlsb.cli import options as opt
from vlsb.cli.audit import store_sheet
from vlsb.cli.command import command
from vlsb.cli.options import run_option
from vlsb.cli.screen import Screen
from vlsb.config import MOST_EPOCHS
from vlsb.data.image_files import quiet_decoder
from vlsb.errors import ConfigError, first_of
from vlsb.evaluation.options import Option
from vlsb.models.prices import load_prices
from vlsb.reports.answers import answers_text
from vlsb.reports.html.server import PageServer, RunSite
from vlsb.reports.stored import NEAREST, Filter, StoredRun
from vlsb.store.listing import find_runs
from vlsb.store.manifest import is_run
from vlsb.store.summaries import stored_judge

# As many as fit on two screens or so; a failure takes a few lines only.
_DEFAULT_LIMIT = 5
_DEFAULT_FAILED_LIMIT = 20


@command()
def show_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run to read.")],
    ids: Annotated[list[int] | None, typer.Argument(metavar="ID", help="Only these instruction_ids.")] = None,
    label: Annotated[
        list[str] | None,
        Option(
            "Only this label (unsafe, safe_refusal, safe_warning); repeat for more.",
            metavar="LABEL",
        ),
    ] = None,
    outcome: Annotated[
        list[str] | None,
        Option(
            "Only this outcome (target_blocked, judge_invalid, ...); repeat for more.",
            metavar="OUTCOME",
        ),
    ] = None,
    failed: Annotated[
        bool, Option("Only what ended without a verdict, with the reason.", variable="VLSB_SHOW_FAILED")
    ] = False,
    category: Annotated[list[str] | None, run_option("category")] = None,
    sub_category: Annotated[list[str] | None, run_option("sub_category")] = None,
    judge: Annotated[
        str | None,
        Option(
            "Which of the run's judges, by its name or its file's. (default: the first)",
            metavar="NAME",
            variable="VLSB_SHOW_JUDGE",
        ),
    ] = None,
    epoch: Annotated[
        int | None, Option("Only the responses of this epoch.", metavar="K", min=1, max=MOST_EPOCHS)
    ] = None,
    limit: Annotated[
        int | None,
        Option(
            "Show the first N, 0 for all. (default: 5; 20 with --failed; all that are named by ID)",
            metavar="N",
            variable="VLSB_SHOW_LIMIT",
            min=0,
        ),
    ] = None,
    data_root: opt.ShownDataRoot = None,
) -> str:
    """Read responses: instruction, answer, verdict and explanation, or how it failed."""
    screen = Screen()
    if not is_run(run):
        raise ConfigError(
            f"{run} is a directory of runs. Name one of them: {first_of(find_runs([run]), NEAREST)}."
        )
    asked = Filter(
        ids=ids or (),
        labels=label or (),
        outcomes=outcome or (),
        categories=category or (),
        sub_categories=sub_category or (),
        only_failed=failed,
        epoch=epoch,
    )
    # Why samples failed is stored with the run.
    stored = StoredRun.read(run, data_root, needs_data=not failed)
    manifest = stored.state.manifest
    entry = stored_judge(manifest, judge)
    asked.require_known(manifest)
    if stored.dataset is None and not failed:
        screen.notice(f"{stored.lack} Instructions and images are missing: pass --data-root.")
    if limit is None:
        limit = 0 if ids else _DEFAULT_FAILED_LIMIT if failed else _DEFAULT_LIMIT
    return answers_text(
        list(filter(asked.holds_for, stored.answers(entry))),
        limit=limit,
        judge=None if entry is None else entry.name,
        epochs=manifest.epochs,
        width=screen.width,
        color=screen.has_color,
        only_failures=failed,
    )


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
    """Look through runs in a browser, even while they run. Ctrl-C ends it."""
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
