"""The command tree. Each command's module is light; what it needs is imported when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from vlsb import __version__
from vlsb.cli.convert import convert_app
from vlsb.cli.data import data_app
from vlsb.cli.demo import demo_command
from vlsb.cli.doctor import doctor_command
from vlsb.cli.engine import engine_app
from vlsb.cli.judge import judge_command
from vlsb.cli.report import report_command
from vlsb.cli.run import run_command
from vlsb.cli.runs import runs_app
from vlsb.cli.serve import serve_command
from vlsb.cli.show import show_command

# The authors' script spells options with underscores; both spellings are one option here.
_CONTEXT = {
    "token_normalize_func": lambda token: token.replace("_", "-"),
    "help_option_names": ["-h", "--help"],
}

app = typer.Typer(
    name="vlsb",
    no_args_is_help=True,
    context_settings=_CONTEXT,
    help="Evaluate vision-language models on VLSBench, concurrently and resumably.",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"vlsb {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Evaluate vision-language models on VLSBench, concurrently and resumably."""


app.command("run")(run_command)
app.command("judge")(judge_command)
app.command("report")(report_command)
app.command("show")(show_command)
app.command("demo")(demo_command)
app.command("serve")(serve_command)
app.command("doctor")(doctor_command)
app.add_typer(convert_app, name="convert")
app.add_typer(data_app, name="data")
app.add_typer(runs_app, name="runs")
app.add_typer(engine_app, name="engine")
