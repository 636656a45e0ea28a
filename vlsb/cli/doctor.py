"""`vlsb doctor`: one screen that says what is here, what is not, and the command that changes it."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

from vlsb.cli import options as opt
from vlsb.cli.checkup_text import findings_json, findings_text
from vlsb.cli.command import command
from vlsb.cli.screen import Screen
from vlsb.errors import ConfigError
from vlsb.evaluation.options import Option

_FORMATS = ("table", "json")


@command()
def doctor_command(
    data_root: Annotated[
        Path | None,
        Option("A copy of VLSBench to look at. (default: the Hugging Face Hub's cache)", metavar="DIR"),
    ] = None,
    offline: opt.Offline = False,
    format_: Annotated[
        str, Option("How to write what was found.", metavar="table|json", variable="VLSB_DOCTOR_FORMAT")
    ] = "table",
    model: Annotated[
        str | None,
        Option(
            "A local model to check: whether it could be started here.",
            metavar="NAME",
            variable="VLSB_DOCTOR_MODEL",
        ),
    ] = None,
) -> int:
    """Say what is ready on this machine, and the one command that makes the rest so. Changes nothing."""
    # Looking brings the HTTP stack, which the help page does not wait for.
    from vlsb.cli.survey import look
    from vlsb.endpoints import loops

    screen = Screen()
    if format_ not in _FORMATS:
        raise ConfigError(f"--format {format_}: not one of {', '.join(_FORMATS)}.")
    found = loops.run(look(os.environ, data_root=data_root, model=model, is_offline=offline))
    if format_ == "json":
        screen.result(findings_json(found))
    else:
        size = shutil.get_terminal_size((80, 50))
        text = findings_text(found, width=size.columns, height=size.lines, color=sys.stdout.isatty())
        screen.result(text)
    return 0
