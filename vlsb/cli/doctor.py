"""`vlsb doctor`: one screen that says what is here, what is not, and the command that changes it."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

from vlsb.cli import options as opt
from vlsb.cli.checkup_text import findings_json, findings_text
from vlsb.cli.command import LIST, command
from vlsb.evaluation.options import Option


@command(form=Option("How to write what was found.", choices=LIST))
def doctor_command(
    format_: str,
    data_root: Annotated[
        Path | None,
        Option("A copy of VLSBench to look at. (default: the Hugging Face Hub's cache)", metavar="DIR"),
    ] = None,
    offline: opt.Offline = False,
    model: Annotated[
        str | None,
        Option(
            "A local model to check: whether it could be started here.",
            metavar="NAME",
            variable="VLSB_DOCTOR_MODEL",
        ),
    ] = None,
) -> str:
    """Say what is ready on this machine, and the one command that makes the rest so. Changes nothing."""
    # Looking brings the HTTP stack, which the help page does not wait for.
    from vlsb.cli.survey import look
    from vlsb.endpoints import loops

    found = loops.run(look(os.environ, data_root=data_root, model=model, is_offline=offline))
    if format_ == "json":
        return findings_json(found)
    size = shutil.get_terminal_size((80, 50))
    return findings_text(found, width=size.columns, height=size.lines, color=sys.stdout.isatty())
