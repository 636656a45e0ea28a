"""`vlsb doctor`: one screen that says what is here, what is not, and the command that changes it."""

from __future__ import annotations

import os
import shutil
import sys

from vlsb.cli import options as opt
from vlsb.cli.checkup_text import findings_json, findings_text
from vlsb.cli.screen import Screen
from vlsb.errors import ConfigError, VlsbError

_FORMATS = ("table", "json")


def doctor_command(
    data_root: opt.SurveyedDataRoot = None,
    offline: opt.Offline = False,
    doctor_format: opt.SurveyFormat = "table",
    model: opt.SurveyedModel = None,
) -> int:
    """Say what is ready on this machine, and the one command that makes the rest so. Changes nothing."""
    # Looking brings the HTTP stack, which the help page does not wait for.
    from vlsb.cli.survey import look
    from vlsb.endpoints import loops

    screen = Screen()
    try:
        if doctor_format not in _FORMATS:
            raise ConfigError(f"--format {doctor_format}: not one of {', '.join(_FORMATS)}.")
        found = loops.run(look(os.environ, data_root=data_root, model=model, is_offline=offline))
    except VlsbError as error:
        screen.error(error)
        return error.exit_code
    if doctor_format == "json":
        screen.result(findings_json(found))
    else:
        size = shutil.get_terminal_size((80, 50))
        text = findings_text(found, width=size.columns, height=size.lines, color=sys.stdout.isatty())
        screen.result(text)
    return 0
