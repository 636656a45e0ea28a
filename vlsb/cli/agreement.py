"""`vlsb agreement`: how far the judges of runs agree, people among them, and what their difference does."""

from __future__ import annotations

from vlsb.cli import options as opt
from vlsb.cli.command import TABLES, command
from vlsb.errors import ConfigError
from vlsb.evaluation.options import Option
from vlsb.reports.report import Report


@command(extra="stats", form=Option("How to write the comparison.", choices=TABLES))
def agreement_command(paths: opt.Paths) -> Report:
    """Compare the judges of runs on the same responses: agreement, kappa, rates and rankings."""
    # numpy, scipy and statsmodels: a second that help pages do not wait.
    from vlsb.reports.agreement import agreement_report
    from vlsb.store.comparisons import compare_stored_judges

    compared = compare_stored_judges(paths)
    if not compared.pairs and not compared.refusals:
        raise ConfigError(
            "No two judges have labelled the same responses there. Judge a run again, with another judge: "
            f"vlsb judge {paths[0]} --judge NAME."
        )
    return agreement_report(compared)
