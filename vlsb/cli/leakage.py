"""`vlsb leakage`: what a model's safety owes to the text, to the image, and to chance."""

from __future__ import annotations

from typing import Annotated

from vlsb.cli import options as opt
from vlsb.cli.command import TABLES, command
from vlsb.evaluation.options import Option
from vlsb.reports.report import Report


@command(extra="stats", form=Option("How to write the shares.", choices=TABLES))
def leakage_command(
    paths: opt.Paths,
    by: Annotated[
        str,
        Option("Causes by category, or data sets side by side.", choices=("category", "dataset")),
    ] = "category",
    judge: opt.ComparedJudge = None,
) -> Report:
    """Tell why a model is unsafe, from its runs with --arm: what it did not see, and what it did not heed."""
    # numpy, scipy and statsmodels: a second that help pages do not wait.
    from vlsb.reports.leakage import leakage_report
    from vlsb.store.arms import target_arms

    return leakage_report(target_arms(paths, judge=judge), by_dataset=by == "dataset")
