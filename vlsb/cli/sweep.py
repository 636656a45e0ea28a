"""`vlsb sweep`: many runs from one plan, on this machine, on Ray or on Slurm."""

from __future__ import annotations

from typing import Annotated

import typer

from vlsb.cli import options as opt
from vlsb.cli.command import command
from vlsb.cli.options import run_option
from vlsb.cli.screen import Screen
from vlsb.errors import ConfigError
from vlsb.evaluation.options import Option


@command()
def sweep_command(
    plan: Annotated[
        str | None, typer.Argument(metavar="PLAN", help="A plan's file, or paper-table3.", show_default=False)
    ] = None,
    dry_run: Annotated[
        bool,
        run_option(
            "dry_run", help="Show cells, GPUs, downloads, what is left, cost and time; start nothing."
        ),
    ] = False,
    watch: Annotated[
        bool, Option("Go on with checkpoints that appear where the plan has a pattern.")
    ] = False,
    prepare: Annotated[
        bool, Option("Only fetch data, engines and weights, for nodes without a network.")
    ] = False,
    offline: opt.Offline = False,
    ray: Annotated[str | None, Option("Run the cells on a Ray cluster.", metavar="auto|ADDRESS")] = None,
    slurm: Annotated[bool, Option("Run the cells as Slurm arrays.")] = False,
    max_cost: Annotated[
        float | None,
        run_option(
            "max_cost",
            help="Stop when the plan's runs have cost this many dollars, over all cells, judges and starts.",
        ),
    ] = None,
    schema: Annotated[bool, Option("Print the JSON schema of a plan, for an editor.")] = False,
    display: opt.Display = None,
    yes: Annotated[bool, run_option("yes")] = False,
) -> int:
    """Run all cells of a plan: models, protocols, judges. Safe to interrupt and repeat."""
    screen = Screen(quiet=display == "none")
    # Engines, judges and the HTTP stack, which the help page does not wait for.
    from vlsb.cli import sweeping
    from vlsb.reports.encode import json_document
    from vlsb.sweep.plan import plan_schema
    from vlsb.sweep.start import SweepWishes

    if schema:
        screen.result(json_document(plan_schema()))
        return 0
    if plan is None:
        raise ConfigError("Which plan? Pass its file, or paper-table3. --schema shows what may be in one.")
    if sum((dry_run, watch, prepare)) > 1 or (ray is not None and slurm):
        raise ConfigError("Pass one of --dry-run, --watch and --prepare, and one of --ray and --slurm.")
    if watch and (ray is not None or slurm):
        raise ConfigError("--watch works on this machine. Start the sweep again for new checkpoints.")
    wishes = SweepWishes(
        plan=plan,
        watch=watch,
        offline=offline,
        ray=ray,
        slurm=slurm,
        max_cost=max_cost,
        display=display,
        yes=yes,
    )
    if dry_run:
        return sweeping.show_plan(wishes, screen)
    return sweeping.prepare_nodes(wishes, screen) if prepare else sweeping.sweep(wishes, screen)
