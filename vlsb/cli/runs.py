"""`vlsb runs`: looking after run directories."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from vlsb.cli import options as opt
from vlsb.cli.command import LIST, Result, command
from vlsb.cli.screen import Screen, agrees
from vlsb.errors import ConfigError, StoreError
from vlsb.evaluation.options import Option
from vlsb.records import Untrusted
from vlsb.reports.encode import for_json, for_terminal, json_document, versioned
from vlsb.reports.report import Table, Words, counted
from vlsb.reports.writers.terminal import tables_text
from vlsb.store.journal import lock_run
from vlsb.store.listing import SORTS, ListedRun, list_runs
from vlsb.store.manifest import require_run
from vlsb.store.upkeep import merge_runs, repair_run

SCHEMA = 1
_MOST_JUDGES = 2
runs_app = typer.Typer(no_args_is_help=True, help="List, join, repair and remove run directories.")


@runs_app.command("list")
@command(form=Option("How to write the list.", choices=LIST, variable="VLSB_RUNS_FORMAT"))
def list_command(
    paths: opt.Paths,
    sort: Annotated[str, Option("The order.", choices=tuple(SORTS), variable="VLSB_RUNS_SORT")] = "name",
    target: Annotated[
        str | None,
        Option("Only runs whose target has this in its name.", metavar="TEXT", variable="VLSB_RUNS_TARGET"),
    ] = None,
    judge: Annotated[
        str | None,
        Option(
            "Only runs with a judge that has this in its name.", metavar="TEXT", variable="VLSB_RUNS_JUDGE"
        ),
    ] = None,
) -> Result:
    """List runs at any depth: target, judges, how many of their responses are there, when they changed."""

    def has(names: Iterable[Untrusted], words: str | None) -> bool:
        return words is None or any(words.casefold() in for_terminal(each).casefold() for each in names)

    runs = [
        each
        for each in list_runs(paths)
        if has([each.target] if each.target is not None else [], target) and has(each.judges, judge)
    ]
    runs.sort(key=SORTS[sort], reverse=sort in ("created", "changed", "rows"))  # type: ignore[arg-type]
    return Result(partial(_list_text, runs))


def _list_text(runs: list[ListedRun], form: str, *, width: int, color: bool) -> str:
    if form == "json":
        objects = [
            {
                **versioned(SCHEMA),
                "path": for_json(Untrusted(str(each.path))),
                "target": None if each.target is None else for_json(each.target),
                "judges": [for_json(judge) for judge in each.judges],
                "simulated": each.simulated,
                "created_at": each.created_at or None,
                "changed_at": each.changed_at.isoformat(timespec="seconds"),
                "response_rows": each.rows,
                "problem": each.problem or None,
                "selected": each.selected,
            }
            for each in runs
        ]
        return json_document(objects)
    rows: list[tuple[Words, ...]] = []
    for each in runs:
        judges: Words = Untrusted(", ".join(map(for_terminal, each.judges))) if each.judges else "none"
        if len(each.judges) > _MOST_JUDGES:
            # All of them would fold a row over many lines.
            judges = Untrusted(f"{for_terminal(each.judges[0])} and {len(each.judges) - 1} more")
        rows.append(
            (
                Untrusted(str(each.path)),
                each.target if each.target is not None else "damaged",
                judges,
                f"{each.rows:,}" if each.selected is None else f"{each.rows:,}/{each.selected:,}",
                f"{each.changed_at:%Y-%m-%d %H:%M}",
            )
        )
    notes = [f"{counted(len(runs), 'run')}. Times are UTC."]
    notes += [for_terminal(Untrusted(each.problem)) for each in runs if each.problem]
    table = Table("Runs", ("run", "target", "judges", "responses", "changed"), rows, names=3, notes=notes)
    return tables_text([table], width=width, color=color)


@runs_app.command("merge")
@command()
def merge_command(
    parts: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Parts of one evaluation.")],
    into: Annotated[Path, Option("The new run's directory.", metavar="DIR", variable="VLSB_MERGE_INTO")],
) -> None:
    """Join runs of one target over different samples, such as two halves of the data set, into a new run.

    The parts stay. Every row is kept as it was written; nothing is asked again.
    """
    try:
        count = merge_runs(parts, into)
    except OSError as error:
        raise StoreError.of(f"{into}: cannot be written", error) from error
    Screen().answer(f"{into}: {len(parts)} runs, {count:,} samples. Next: vlsb report {into}")


@runs_app.command("rm")
@command()
def remove_command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs to remove.")],
    yes: Annotated[bool, Option("Do not ask.", also="-y", variable="VLSB_REMOVE_YES")] = False,
) -> None:
    """Remove runs with all their responses and verdicts. Asks first; none goes if one is being written."""
    screen = Screen()
    places = list({run.resolve(): run for run in runs}.values())
    for run in places:
        require_run(run)
        if run.is_symlink():
            raise ConfigError(f"{run}: is a link. Name the run itself: {run.resolve()}.")
    rows = sum(each.rows for each in list_runs(places))
    what = f"{counted(len(places), 'run')} with {counted(rows, 'response')}"
    names = ", ".join(map(str, places))
    if not asyncio.run(agrees(screen, f"Remove {what} for good: {names}?", yes=yes)):
        raise ConfigError("Nothing was removed. Without a terminal, say --yes.")
    with ExitStack() as held:
        for run in places:
            held.enter_context(lock_run(run))
        for run in places:
            # Out of sight first: a removal that is cut short leaves no half of a run.
            gone = run.with_name(f".{run.name}.removed")
            try:
                if gone.exists():
                    shutil.rmtree(gone)
                run.rename(gone)
                shutil.rmtree(gone)
            except OSError as error:
                raise StoreError.of(f"{run}: cannot be removed", error) from error
            screen.answer(f"{run}: removed")


@runs_app.command("repair")
@command()
def repair_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The damaged run.")],
) -> None:
    """Keep the good lines of a damaged run and set the bad ones aside. A resume does their samples again."""
    screen = Screen()
    done = repair_run(run)
    for each in done:
        screen.answer(f"{each.path}: {each.kept} lines kept, {each.set_aside} set aside in {each.quarantine}")
    if not done:
        screen.answer(f"{run}: nothing to repair")
