"""`vlsb doctor`: one screen that says what is here, what is not, and the command that changes it."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from vlsb.cli.options import _option
from vlsb.cli.screen import Screen
from vlsb.errors import ConfigError, VlsbError

_FORMATS = ("table", "json")

DataRoot = Annotated[
    Path | None,
    _option("--data-root", help="A copy of VLSBench to look at. (default: the hub's cache)"),
]
Offline = Annotated[bool, _option("--offline", help="Do not ask whether the hub can be reached.")]
# Its own variable: VLSB_FORMAT names a format of `vlsb report`.
DoctorFormat = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="table|json",
        help="How to write what was found.",
        envvar="VLSB_DOCTOR_FORMAT",
        show_envvar=False,
    ),
]


def doctor_command(
    data_root: DataRoot = None, offline: Offline = False, doctor_format: DoctorFormat = "table"
) -> int:
    """Say what is ready on this machine, and the one command that makes the rest so. Changes nothing."""
    from vlsb.cli.checkup import findings
    from vlsb.cli.checkup_text import MIN_WIDTH, findings_json, findings_text
    from vlsb.cli.survey import survey

    screen = Screen()
    try:
        if doctor_format not in _FORMATS:
            raise ConfigError(f"--format {doctor_format}: not one of {', '.join(_FORMATS)}.")
        found = findings(survey(os.environ, data_root=data_root, is_offline=offline))
    except VlsbError as error:
        screen.error(error)
        return error.exit_code
    if doctor_format == "json":
        screen.result(findings_json(found))
    else:
        size = shutil.get_terminal_size((MIN_WIDTH, 50))
        text = findings_text(found, width=size.columns, height=size.lines, color=sys.stdout.isatty())
        screen.result(text)
    return 0
