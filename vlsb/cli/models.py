"""`vlsb models` and `vlsb judges`: which have a name here, and what each of them is."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import Annotated

import typer

from vlsb import strict_json
from vlsb.cli import options as opt
from vlsb.cli.command import LIST, command
from vlsb.cli.options import run_option
from vlsb.cli.screen import list_width
from vlsb.evaluation.options import Option
from vlsb.judging.kinds import Answers, load_judges
from vlsb.models.catalog import load_catalog
from vlsb.models.profile import ModelProfile
from vlsb.models.providers import PROVIDERS
from vlsb.records import Untrusted
from vlsb.reports.encode import for_terminal

SCHEMA = 1
"""Of each object of the JSON lists."""

_COLUMNS = ("name", "weights", "kind", "engine", "memory", "thinking", "tried with")
_WEIGHTIEST = ("name", "weights", "memory", "kind", "engine", "thinking", "tried with")
_GAP = 2
_GIVES = {
    Answers.LABELS: "the three labels",
    Answers.COMPLIANCE: "full, partial or refusal, apart",
    Answers.GUARD: "a guard's rating, apart",
    Answers.PHRASES: "refusal or not, apart",
}
_END = (
    "A model plays the official judge: --judge gpt-4o, --judge qwen3-vl, --judge org/name. Another kind on a "
    "model of yours: --judge hardened:qwen3-vl. Guards and phrases enter no rate; their table is their own.",
    "The majority of three judges or more that have judged a run: vlsb judge RUN --judge panel:A,B,C.",
)
_HEAD = 15
"""The columns before the words of a paragraph's line."""

models_app = typer.Typer(help="List the models that have a name, or show one.")

ShownName = Annotated[
    str, typer.Argument(metavar="NAME", help="A name of the list, org/name, a folder, or a hosted model.")
]


@models_app.callback(invoke_without_command=True)
@command(form=Option("How to write the list.", choices=LIST, variable="VLSB_MODELS_FORMAT"))
def list_command(context: typer.Context, format_: str, servers_dir: opt.ServersDir = None) -> str | None:
    """List the models that have a name, or show one."""
    if context.invoked_subcommand is not None:
        return None
    if format_ == "json":
        return models_json(servers_dir)
    return models_text(servers_dir, width=list_width())


@models_app.command("show")
@command()
def show_command(name: ShownName, servers_dir: opt.ServersDir = None, offline: opt.Offline = False) -> str:
    """Show what a model is: its weights, memory, the engine's command line and the request it is sent."""
    # Engines bring the HTTP stack, which the list does not wait for.
    from vlsb.cli.model_card import model_card

    return model_card(name, servers_dir, is_offline=offline)


def models_text(servers_dir: Path | None, *, width: int) -> str:
    """Every local model, then how hosted ones are named, in so many columns if names leave it at that."""
    rows = [dict(zip(_COLUMNS, _COLUMNS, strict=True)), *map(_row, load_catalog(servers_dir).values())]
    widths = {name: max(len(row[name]) for row in rows) for name in _COLUMNS}
    # The weightiest columns that fit, names and weights in any case.
    columns = list(_WEIGHTIEST)
    while len(columns) > 2 and sum(widths[name] + _GAP for name in columns) - _GAP > width:
        columns.pop()
    lines = [
        (" " * _GAP).join(row[name].ljust(widths[name]) for name in _COLUMNS if name in columns).rstrip()
        for row in rows
    ]
    left_out = ", ".join(name for name in _COLUMNS if name not in columns)
    notes = [
        *([f"Not shown at this width: {left_out}."] if left_out else []),
        "Any other checkpoint: org/name of the Hugging Face Hub, hf://org/name@revision, or a folder.",
        f"Hosted: {', '.join(each.pattern or f'{each.prefix}...' for each in PROVIDERS if each.base_url)}.",
        "One of them in full: vlsb models show NAME",
    ]
    folded = [fill(each, width, break_long_words=False, break_on_hyphens=False) for each in notes]
    return "\n".join([for_terminal(Untrusted("\n".join(lines)), lines=True), "", *folded])


def models_json(servers_dir: Path | None) -> str:
    """Return the local models as JSON: a list of objects with the table's columns as keys."""
    rows = [
        {"schema_version": SCHEMA, **{name.replace(" ", "_"): value for name, value in _row(each).items()}}
        for each in load_catalog(servers_dir).values()
    ]
    return strict_json.dumps(rows, indent=2)


def _row(model: ModelProfile) -> dict[str, str]:
    whose = "yours" if model.own_config is not None else "the paper's" if model.is_of_the_paper else "newer"
    memory = f"{model.gpu_memory_gib} GiB" if model.gpu_memory_gib else "unknown"
    thinks = "Thinking checkpoints" if model.reasoning_parser else "no"
    engine = f"vLLM {model.engine.gpu_version}"
    cells = (model.name, model.weights, whose, engine, memory, thinks, model.tried_with or "nothing yet")
    return dict(zip(_COLUMNS, cells, strict=True))


@command(form=Option("How to write the list.", choices=LIST))
def judges_command(format_: str, judges_dir: Annotated[Path | None, run_option("judges_dir")] = None) -> str:
    """List the judges that have a name: what each sees, gives and cannot tell."""
    kinds = load_judges(judges_dir)
    if format_ == "json":
        objects = [
            {
                "schema_version": SCHEMA,
                "name": kind.name,
                "gives": kind.answers.value,
                "model": kind.model or None,
                "sees": list(kind.sees),
                "about": kind.about,
                "cannot_tell": kind.cannot_tell,
                "source": kind.source,
                "read_on": kind.read_on,
            }
            for kind in kinds.values()
        ]
        return strict_json.dumps(objects, indent=2)
    width = list_width()
    lines = []
    for kind in kinds.values():
        facts = {
            "gives": _GIVES[kind.answers],
            "sees": ", ".join(kind.sees),
            "cannot tell": kind.cannot_tell,
            "model": kind.model or "none",
            "source": f"{kind.source}, read {kind.read_on}",
        }
        lines += [kind.name, _folded("  ", kind.about, width, later="  ")]
        lines += [_folded(f"  {name}".ljust(_HEAD), words, width) for name, words in facts.items()]
        lines.append("")
    text = for_terminal(Untrusted("\n".join(lines)), lines=True)
    return "\n".join([text, *(fill(line, width) for line in _END)])


def _folded(head: str, words: str, width: int, later: str = " " * _HEAD) -> str:
    """Fold the words after a head and under each other; addresses and names stay whole."""
    return fill(
        words,
        width,
        initial_indent=head,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    )
