"""`vlsb runs`: looking after run directories."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from vlsb.cli import options as opt
from vlsb.cli.screen import Screen, agrees, has_color
from vlsb.errors import ConfigError, StoreError, VlsbError
from vlsb.records import Untrusted
from vlsb.reports.encode import for_json, for_terminal, json_document, versioned
from vlsb.reports.tables import Table, tables_text
from vlsb.store.listing import SORTS, ListedRun, list_runs
from vlsb.store.manifest import require_run
from vlsb.store.merge import merge_runs
from vlsb.store.repair import repair_run
from vlsb.store.store import lock_run

SCHEMA = 1
runs_app = typer.Typer(no_args_is_help=True, help="List, join, repair and remove run directories.")


@runs_app.command("list")
def list_command(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Runs, or directories of runs.")],
    sort: opt.RunsSort = "name",
    target: opt.RunsTarget = None,
    judge: opt.RunsJudge = None,
    runs_format: opt.RunsFormat = "table",
) -> int:
    """List runs: target, judges, how many responses, when they changed. Thousands at once."""
    screen = Screen()
    try:
        if sort not in SORTS:
            raise ConfigError(f"--sort {sort}: not one of {', '.join(SORTS)}.")
        if runs_format not in ("table", "json"):
            raise ConfigError(f"--format {runs_format}: not one of table, json.")
        found = [each for each in list_runs(paths) if _is_wanted(each, target, judge)]
        found.sort(key=SORTS[sort], reverse=sort in ("created", "changed", "rows"))  # type: ignore[arg-type]
        if runs_format == "json":
            screen.result(json_document([_object(each) for each in found]))
        else:
            screen.result(_table(found))
    except VlsbError as error:
        screen.error(error)
        return error.exit_code
    return 0


def _is_wanted(run: ListedRun, target: str | None, judge: str | None) -> bool:
    """Whether a run's target and one of its judges have these words in their names."""
    names = [for_terminal(each).casefold() for each in run.judges]
    has_target = target is None or (
        run.target is not None and target.casefold() in for_terminal(run.target).casefold()
    )
    return has_target and (judge is None or any(judge.casefold() in name for name in names))


def _table(runs: list[ListedRun]) -> str:
    rows = [
        (
            Untrusted(str(each.path)),
            each.target if each.target is not None else "damaged",
            f"{each.rows:,}",
            Untrusted(", ".join(for_terminal(judge) for judge in each.judges) or "none"),
            f"{each.changed_at:%Y-%m-%d %H:%M}",
        )
        for each in runs
    ]
    notes = [f"{len(runs):,} runs. Times are UTC.", *(each.problem for each in runs if each.problem)]
    table = Table("Runs", ("run", "target", "responses", "judges", "changed"), rows, names=2, notes=notes)
    return tables_text([table], width=shutil.get_terminal_size((80, 24)).columns, color=has_color(sys.stdout))


def _object(run: ListedRun) -> dict[str, object]:
    return {
        **versioned(SCHEMA),
        "path": for_json(Untrusted(str(run.path))),
        "target": None if run.target is None else for_json(run.target),
        "judges": [for_json(each) for each in run.judges],
        "simulated": run.simulated,
        "created_at": run.created_at or None,
        "changed_at": run.changed_at.isoformat(timespec="seconds"),
        "response_rows": run.rows,
        "problem": run.problem or None,
    }


@runs_app.command("merge")
def merge_command(
    parts: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Parts of one evaluation.")],
    into: opt.MergeInto,
) -> int:
    """Join runs of one target over different samples, such as two halves of the data set, into a new run.

    The parts stay. Every row is kept as it was written; nothing is asked again.
    """
    screen = Screen()
    try:
        count = merge_runs(parts, into)
    except VlsbError as error:
        screen.error(error)
        return error.exit_code
    except OSError as error:
        failed = StoreError.of(f"{into}: cannot be written", error)
        screen.error(failed)
        return failed.exit_code
    screen.result(f"{into}: {len(parts)} runs, {count:,} samples. Next: vlsb report {into}")
    return 0


@runs_app.command("rm")
def remove_command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs to remove.")],
    yes: opt.RemoveYes = False,
) -> int:
    """Remove runs with all their responses and verdicts. Asks first; one that is being written stays."""
    screen = Screen()
    try:
        for run in runs:
            require_run(run)
        names = ", ".join(map(str, runs))
        if not asyncio.run(agrees(screen, f"Remove {names} for good?", yes=yes)):
            raise ConfigError("Nothing was removed. Without a terminal, say --yes.")
        for run in runs:
            _remove(run)
            screen.result(f"{run}: removed")
    except VlsbError as error:
        screen.error(error)
        return error.exit_code
    return 0


def _remove(run: Path) -> None:
    """Out of sight first, so that a removal that is cut short leaves no half of a run."""
    with lock_run(run):
        gone = run.with_name(f".{run.name}.removed")
        try:
            run.rename(gone)
            shutil.rmtree(gone)
        except OSError as error:
            raise StoreError.of(f"{run}: cannot be removed", error) from error


@runs_app.command("repair")
def repair_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The damaged run.")],
) -> int:
    """Keep the good lines of a damaged run and set the bad ones aside. A resume does their samples again."""
    screen = Screen()
    try:
        done = repair_run(run)
    except VlsbError as error:
        screen.error(error)
        return error.exit_code
    for each in done:
        screen.result(f"{each.path}: {each.kept} lines kept, {each.set_aside} set aside in {each.quarantine}")
    if not done:
        screen.result(f"{run}: nothing to repair")
    return 0
