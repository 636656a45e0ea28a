"""Options as typed, and the command that goes on with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from vlsb.evaluation.settings import (
    Resolved,
    RunOptions,
    resolve_judging,
    run_directory,
)

__all__ = [
    "Resolved",
    "RunOptions",
    "as_options",
    "judge_command_line",
    "resolve_judging",
    "resume_command",
    "run_directory",
]

_DEFAULTS = RunOptions()


def as_options(given: Mapping[str, Any]) -> RunOptions:
    """The options object; lists become tuples, so that it can be compared and kept."""
    values: Any = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
    return RunOptions(**values)


def resume_command(options: RunOptions) -> list[str]:
    """The command that continues a run."""
    return ["vlsb", "run", *_given(options), "--resume", *_after_dashes(options)]


def judge_command_line(run: Path, options: RunOptions) -> list[str]:
    """The command that continues judging a run: the same one again."""
    return ["vlsb", "judge", str(run), *_given(options)]


def _after_dashes(options: RunOptions) -> list[str]:
    return ["--", *options.engine_options] if options.engine_options else []


def _given(options: RunOptions) -> list[str]:
    """Every option that is not at its default, but those that say how to begin."""
    words: list[str] = []
    for field in fields(RunOptions):
        value, usual = getattr(options, field.name), getattr(_DEFAULTS, field.name)
        if value == usual or field.name in ("resume", "dry_run", "engine_options"):
            continue
        flag = "--" + field.name.replace("_", "-")
        if value is True:
            words.append(flag)
        else:
            for each in value if isinstance(value, tuple) else (value,):
                words += [flag, str(each)]
    return words
