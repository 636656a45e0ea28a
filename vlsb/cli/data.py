"""`vlsb data`: fetching the data set, and looking at a copy of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from vlsb.cli import options as opt
from vlsb.cli.command import command
from vlsb.cli.live import Display
from vlsb.cli.options import run_option
from vlsb.cli.screen import Screen
from vlsb.data import check_dataset, fetch_dataset
from vlsb.errors import ConfigError, DatasetError
from vlsb.evaluation.options import Option
from vlsb.reports.data_check import dataset_text

data_app = typer.Typer(no_args_is_help=True, help="Fetch the data set, or check a copy of it.")


@data_app.command("check")
@command()
def check_command(
    context: typer.Context,
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="The data set; the same as --data-root.")
    ] = None,
    data_root: Annotated[Path | None, run_option("data_root")] = None,
) -> None:
    """Read every row and decode every image; say what is missing, broken or odd."""
    screen = Screen()
    source = context.get_parameter_source("data_root")
    if folder and data_root and folder != data_root and source and source.name == "COMMANDLINE":
        raise ConfigError(f"Two folders: {folder} and --data-root {data_root}. Check one at a time.")
    chosen = folder or data_root
    report = check_dataset(chosen or fetch_dataset(revision=None, offline=True).files)
    screen.result(dataset_text(report, width=screen.width, color=sys.stdout.isatty()))
    if report.bad_images:
        first = report.bad_images[0]
        raise DatasetError(
            f"{chosen or report.root}: {len(report.bad_images)} images cannot be used; the first "
            f"belongs to instruction_id {first.sample_ids[0]} ({first.reason}). Fetch them again",
            detail=first.image_path,
        )


@data_app.command("fetch")
@command()
def fetch_command(
    revision: Annotated[
        str | None,
        Option(
            "Commit or branch of the data set. (default: main)", metavar="SHA", variable="VLSB_DATA_REVISION"
        ),
    ] = None,
    display: opt.Display = None,
) -> None:
    """Download VLSBench from the Hugging Face Hub into its cache, or find it there."""
    screen = Screen(quiet=display == "none")
    with Display(display, screen) as live:
        fetched = fetch_dataset(revision=revision, offline=False, on_progress=live.on_progress)
    screen.answer(f"{fetched.repository} at {fetched.revision}")
