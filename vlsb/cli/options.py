"""Options that more than one command has, and those of a run for other commands.

`--data_root` and the other spellings of the authors' script work because option names are read with `_`
and `-` alike (see `vlsb.cli.app`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import typer

from vlsb.evaluation.options import Option, RunOptions

_FIELDS = {field.name: field for field in fields(RunOptions)}
_Returned = TypeVar("_Returned")
_LISTS = {
    tuple[str, ...]: list[str] | None,
    tuple[int, ...]: list[int] | None,
    tuple[float, ...]: list[float] | None,
}


def run_option(name: str, **others: Any) -> Option:
    """Return an option of a run for another command; `others` is what it says of itself there."""
    about: Option = get_args(_FIELDS[name].type)[1]
    return replace(about, **others)


def takes_run_options(
    *names: str, repeatable: Collection[str] = ()
) -> Callable[[Callable[..., _Returned]], Callable[..., _Returned]]:
    """Give a command the named options of a run, all where none is named, for its `**given`.

    Options named by `repeatable` may be given more than once, and are a list.
    """

    def with_options(command: Callable[..., _Returned]) -> Callable[..., _Returned]:
        own = inspect.signature(command, eval_str=True)
        parameters = [each for each in own.parameters.values() if each.kind is not each.VAR_KEYWORD]
        for name in names or _FIELDS:
            kind, about = get_args(_FIELDS[name].type)
            is_list = kind in _LISTS or name in repeatable
            parameters.append(
                inspect.Parameter(
                    name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=None if is_list else _FIELDS[name].default,
                    annotation=Annotated[_LISTS.get(kind, list[str] | None if is_list else kind), about],
                )
            )
        vars(command)["__signature__"] = own.replace(parameters=parameters)
        return command

    return with_options


Paths = Annotated[list[Path], typer.Argument(metavar="PATH...", help="Runs, or directories of runs.")]
Annotator = Annotated[
    str,
    Option(
        "Who labels: a short name. Each annotator is a judge of their own.",
        metavar="NAME",
        variable="VLSB_ANNOTATOR",
    ),
]
ComparedJudge = Annotated[
    str | None,
    Option(
        "The judge whose labels to use, by its name or its file's. (default: the first that all runs have)",
        metavar="NAME",
        variable="VLSB_COMPARE_JUDGE",
    ),
]
Display = Annotated[str | None, run_option("display")]
Offline = Annotated[bool, Option("Do not ask the Hugging Face Hub; what is in its cache can be used.")]
Prices = Annotated[Path | None, run_option("prices")]
ServersDir = Annotated[Path | None, run_option("servers_dir")]
ShownDataRoot = Annotated[
    Path | None,
    Option("The data set of the run, for its instructions. (default: where the run read it)", metavar="DIR"),
]
