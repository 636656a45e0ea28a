"""`vlsb plan`: what a run would show, and cost, before any money is spent."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from vlsb.analysis.plan import Noise
from vlsb.cli import options as opt
from vlsb.cli.command import TABLES, command
from vlsb.config import OFFICIAL_JUDGE_MODEL
from vlsb.errors import ConfigError
from vlsb.evaluation.options import Option
from vlsb.models.prices import load_prices
from vlsb.records import PUBLISHED_IDS
from vlsb.reports.plan import plan_report
from vlsb.reports.report import Report
from vlsb.store.planning import Grounds, grounds_of_runs, guessed_models


@command(form=Option("How to write the plan.", choices=TABLES))
def plan_command(
    baseline: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="BASELINE...",
            help="A run with --epochs, two runs of one model, or one run and a guess of --churn.",
        ),
    ] = None,
    safe_rate: Annotated[
        float | None,
        Option("Without a run: the safe rate, a guess. (default: 30)", metavar="PERCENT", min=0, max=100),
    ] = None,
    churn: Annotated[
        float | None,
        Option(
            "How many labels flip between two runs of one model, a guess. (default: 10)",
            metavar="PERCENT",
            min=0.01,
            max=100,
        ),
    ] = None,
    equivalent_within: Annotated[
        float,
        Option("The points within which runs count as equivalent.", metavar="POINTS", min=0.1, max=100),
    ] = 2.0,
    gap: Annotated[
        float,
        Option("Say when a gap of this size is noise.", metavar="POINTS", min=0.1, max=100),
    ] = 1.5,
    model: Annotated[
        str | None,
        Option("Without a run: the hosted model, for its price.", metavar="NAME", variable="VLSB_PLAN_MODEL"),
    ] = None,
    judge: Annotated[
        str | None,
        Option(
            "The judge: a run's, by its name or its file's, or a hosted model. (default: the first; gpt-4o)",
            metavar="NAME",
            variable="VLSB_PLAN_JUDGE",
        ),
    ] = None,
    prices: opt.Prices = None,
) -> Report:
    """Say what a run would find and cost: the smallest change, samples, epochs, human labels and dollars."""
    runs, today, table = baseline or [], datetime.now(UTC).date(), load_prices(prices)
    if len(runs) > 2:
        raise ConfigError(f"A plan rests on one run or two, not {len(runs)}. Name two runs of one model.")
    if runs:
        if given := [
            name for name, each in (("--safe-rate", safe_rate), ("--model", model)) if each is not None
        ]:
            raise ConfigError(f"{given[0]}: the run says it. Leave out one of them.")
        grounds = grounds_of_runs(runs, table, today, judge=judge, guess=churn)
        if churn is not None and grounds.flips is not None:
            raise ConfigError("--churn: the labels of these runs show it. Leave it out.")
    else:
        grounds = Grounds(
            noise=Noise.guessed(safe_rate, churn),
            flips=None,
            runs=(),
            models=guessed_models(model or OFFICIAL_JUDGE_MODEL, judge or OFFICIAL_JUDGE_MODEL, table, today),
            most_samples=len(PUBLISHED_IDS),
            simulated=False,
        )
    return plan_report(grounds, within=equivalent_within, gap=gap)
