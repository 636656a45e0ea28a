"""`vlsb doctor`: one screen that says what is here, what is not, and the command that changes it."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vlsb.cli import options as opt
from vlsb.cli.screen import Screen
from vlsb.errors import ConfigError, VlsbError

if TYPE_CHECKING:
    from vlsb.cli.checkup import Finding

_FORMATS = ("table", "json")


def doctor_command(
    data_root: opt.SurveyedDataRoot = None,
    offline: opt.Offline = False,
    doctor_format: opt.SurveyFormat = "table",
    model: opt.SurveyedModel = None,
) -> int:
    """Say what is ready on this machine, and the one command that makes the rest so. Changes nothing."""
    from vlsb.cli.checkup_text import findings_json, findings_text
    from vlsb.endpoints import loops

    screen = Screen()
    try:
        if doctor_format not in _FORMATS:
            raise ConfigError(f"--format {doctor_format}: not one of {', '.join(_FORMATS)}.")
        found = loops.run(_look(data_root, model, is_offline=offline))
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


async def _look(data_root: Path | None, model: str | None, *, is_offline: bool) -> list[Finding]:
    """What is here; a model that was named has its row above the families'."""
    from vlsb.cli.checkup import Group, findings
    from vlsb.cli.survey import check_model, survey

    named = [] if model is None else [await check_model(model, os.environ, is_offline=is_offline)]
    found = findings(await survey(os.environ, data_root=data_root, is_offline=is_offline))
    place = next(number for number, each in enumerate(found) if each.group is Group.MODELS)
    others = [each for each in found[place:] if each.group is not Group.MODELS or each.name != model]
    return [*found[:place], *named, *others]
