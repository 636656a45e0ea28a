"""`vlsb compare`: runs on the same samples, what differs, and whether that is more than noise."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from vlsb.cli import options as opt
from vlsb.cli.command import TABLES, command
from vlsb.evaluation.options import Option
from vlsb.reports.report import Report


@command(extra="stats", form=Option("How to write the comparison.", choices=TABLES))
def compare_command(
    paths: opt.Paths,
    baseline: Annotated[
        Path | None,
        Option(
            "The run that the others are held against, by path or name. (default: the first)",
            metavar="RUN",
            variable="VLSB_COMPARE_BASELINE",
        ),
    ] = None,
    all_pairs: Annotated[bool, Option("Compare every two runs, not each with the baseline.")] = False,
    judge: opt.ComparedJudge = None,
    across_judges: Annotated[
        bool, Option("Let runs have different judges, if one of the runs measures how far these agree.")
    ] = False,
    show: Annotated[
        int, Option("List so many samples whose label changed, 0 for all.", metavar="N", min=0)
    ] = 10,
) -> Report:
    """Compare runs on the same samples: what differs, whether it is more than noise, what changed."""
    # numpy, scipy and statsmodels: a second that help pages do not wait.
    from vlsb.reports.comparison import comparison_report
    from vlsb.store.comparisons import compare_runs

    compared = compare_runs(
        *paths, judge=judge, baseline=baseline, across_judges=across_judges, all_pairs=all_pairs
    )
    return comparison_report(compared, shown=show)
