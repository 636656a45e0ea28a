"""`@command` makes a plain function a command: its options, its format and output, its exit code.

An option is declared where it acts: a parameter with an `Option`, or with one of `vlsb.cli.options`. An error
needs nothing: `vlsb.cli.run_cli` gives each its line and its exit code.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol, get_args

import typer

from vlsb.cli.screen import Screen
from vlsb.errors import ConfigError, StoreError
from vlsb.evaluation.options import Option, as_flag
from vlsb.extras import require_extra
from vlsb.reports import writers
from vlsb.reports.report import Report

TABLES = writers.FORMATS
"""The formats of what is made of tables: beside these, those of installed packages."""
LIST = ("table", "json")
"""The formats of a list."""


class Writer(Protocol):
    """Writes a result in one of a command's formats; width and color are of its table."""

    def __call__(self, form: str, /, *, width: int, color: bool) -> str | bytes: ...


class Result(NamedTuple):
    """What a command came to: what writes it, and the exit code."""

    write: Writer
    code: int = 0


Returned = Report | Result | str | int | None
"""What a command may return: a report, another result, the text of one, or an exit code."""


def command(
    *, form: Option | None = None, output: str | None = None, extra: str | None = None
) -> Callable[[Callable[..., Returned]], Callable[..., int]]:
    """Make a function a command.

    `form` is its `--format`, whose first choice is the default; a function with a parameter `format_` is told
    it. `output` is the help of its `--output`. Without the `extra` it is not called.
    """

    def made(function: Callable[..., Returned]) -> Callable[..., int]:
        own = inspect.signature(function, eval_str=True).parameters
        name = function.__name__.removesuffix("_command")
        added, make = {}, partial(inspect.Parameter, kind=inspect.Parameter.KEYWORD_ONLY)
        if form is not None:
            variable = form.variable or f"VLSB_{name.upper()}_FORMAT"
            kind: Any = Annotated[str, replace(form, variable=variable)]
            added["format_"] = make(name="format_", annotation=kind, default=form.choices[0])
        if output is not None:
            about = Option(output, metavar="FILE", variable=f"VLSB_{name.upper()}_OUTPUT")
            added["output"] = make(name="output", annotation=Annotated[Path | None, about], default=None)
        parameters = [each for each in own.values() if each.name not in added] + list(added.values())
        asked = {each.name: about for each in parameters for about in _options_in(each)}

        @wraps(function)
        def run(**given: Any) -> int:
            for parameter, about in asked.items():
                if about.choices and given[parameter] is not None:
                    require_choice(_flag(parameter), given[parameter], about.choices)
            if extra is not None:
                require_extra(extra, f"vlsb {name}")
            chosen = {each: given.pop(each) for each in added}
            returned = function(**given, **{each: chosen[each] for each in added if each in own})
            return _deliver(returned, chosen.get("format_", ""), chosen.get("output"))

        vars(run)["__signature__"] = inspect.Signature(
            [
                parameter.replace(
                    kind=inspect.Parameter.KEYWORD_ONLY, annotation=_typer_annotation(parameter)
                )
                for parameter in parameters
            ]
        )
        return run

    return made


def as_group() -> None:
    """Be the callback of a group that has one command: without any it would be that command."""


def require_choice(option: str, value: str, choices: Iterable[str]) -> None:
    """Raise ConfigError for a value that is not one of an option's, nor a format of an installed package."""
    if value in choices:
        return
    every = [*choices]
    if set(TABLES) <= set(every):
        every += writers.installed_formats()
    if value not in every:
        raise ConfigError(f"{option} {value}: not one of {', '.join(every)}.")


def write_file(path: Path, content: str | bytes, *, mode: str = "wb") -> None:
    """Write a file that was named for a result. Raises StoreError where it cannot be written."""
    try:
        with path.open(mode) as file:
            file.write(content if isinstance(content, bytes) else content.encode())
    except OSError as error:
        raise StoreError.of(f"{path}: cannot be written", error) from error


def _flag(parameter: str) -> str:
    """Return an option as it is typed. A parameter that would hide a name of Python's ends in `_`."""
    return as_flag(parameter.removesuffix("_"))


def _options_in(parameter: inspect.Parameter) -> list[Option]:
    return [each for each in get_args(parameter.annotation) if isinstance(each, Option)]


def _typer_annotation(parameter: inspect.Parameter) -> Any:
    """Return the annotation that typer reads of a parameter."""
    if not (options := _options_in(parameter)):
        return parameter.annotation
    name, kind, [about] = parameter.name, get_args(parameter.annotation)[0], options
    if about.is_argument:
        return Annotated[kind, typer.Argument(metavar=about.metavar, help=about.help, hidden=True)]
    option = typer.Option(
        _flag(name),
        *([about.also] if about.also else []),
        help=about.help,
        rich_help_panel=about.panel,
        metavar=about.metavar or "|".join(about.choices) or None,
        envvar=about.variable or f"VLSB_{name.removesuffix('_').upper()}",
        show_envvar=False,
        min=about.min,
        max=about.max,
        callback=_lines if list[str] in (kind, *get_args(kind)) else None,
    )
    return Annotated[kind, option]


def _lines(
    context: typer.Context, parameter: typer.CallbackParam, value: list[str] | None
) -> list[str] | None:
    """In a variable, a repeatable option has one value a line: names and JSON hold blanks."""
    source = context.get_parameter_source(parameter.name or "")
    if source is None or source.name != "ENVIRONMENT":
        return value
    text = os.environ.get(str(parameter.envvar), "")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _deliver(returned: Returned, form: str, output: Path | None) -> int:
    """Write what a command came to, to the file that was named for it or to stdout; the exit code."""
    if returned is None or isinstance(returned, int):
        return returned or 0
    screen = Screen()
    if isinstance(returned, Report):
        returned = Result(partial(writers.write, returned), returned.code)
    result = Result(lambda *_, **__: returned) if isinstance(returned, str) else returned
    text = result.write(form, width=screen.width, color=screen.has_color)
    if output is not None:
        write_file(output, text)
    elif isinstance(text, bytes):
        raise ConfigError(f"--format {form} is not text. Name a file for it: --output report.{form}")
    else:
        screen.result(text)
    return result.code
