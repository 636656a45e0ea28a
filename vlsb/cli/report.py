"""`vlsb report`: finished or running runs as a table, JSON, CSV or Markdown. Reads only."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from vlsb.analysis.summary import Summary
from vlsb.cli import options as opt
from vlsb.cli.screen import Screen
from vlsb.errors import ConfigError, VlsbError

_FORMATS = ("table", "json", "csv", "markdown")


def report_command(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Runs, or directories of runs.")],
    report_format: opt.ReportFormat = "table",
) -> int:
    """Show the rates of runs, with intervals, coverage and bounds. Also while a run is going."""
    screen = Screen()
    try:
        text = _report(paths, report_format)
    except VlsbError as error:
        screen.error(error)
        return error.exit_code
    screen.result(text)
    return 0


def _report(paths: list[Path], report_format: str) -> str:
    from vlsb.runs.summaries import find_runs, summarize_run

    if report_format not in _FORMATS:
        raise ConfigError(f"--format {report_format}: not one of {', '.join(_FORMATS)}.")
    summaries = [summary for run in find_runs(paths) for summary in summarize_run(run)]
    return _written(summaries, report_format)


def _written(summaries: list[Summary], report_format: str) -> str:
    from vlsb.reports import documents, markdown, terminal

    if report_format == "json":
        return documents.to_json(summaries)
    if report_format == "csv":
        return documents.to_csv(summaries)
    if report_format == "markdown":
        return markdown.to_markdown(summaries)
    width = shutil.get_terminal_size((80, 24)).columns
    return terminal.render(summaries, width=width, color=sys.stdout.isatty())
