"""`vlsb compare`, `gate` and `agreement`: runs against each other, or a baseline, and judges alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vlsb.analysis.gate import GateLimits
from vlsb.cli import options as opt
from vlsb.cli.command import TABLES, command, write_file
from vlsb.cli.options import run_option, takes_run_options
from vlsb.errors import ConfigError
from vlsb.evaluation.options import HelpPanel, Option, RunOptions, names_in
from vlsb.reports.report import Report


@command(extra="stats", form=Option("How to write the comparison.", choices=TABLES))
def compare_command(
    paths: opt.Paths,
    baseline: Annotated[
        Path | None,
        Option(
            "The run that the others are compared with, by path or name. (default: the first)",
            metavar="RUN",
            variable="VLSB_COMPARE_BASELINE",
        ),
    ] = None,
    all_pairs: Annotated[bool, Option("Compare every two runs, not each with the baseline.")] = False,
    judge: opt.ComparedJudge = None,
    across_judges: Annotated[
        bool, Option("Compare runs with different judges, if one run shows how far these agree.")
    ] = False,
    corrected: Annotated[
        bool,
        Option(
            "Correct the changes by human labels on the same images of each run, which vlsb audit sample RUN "
            "RUN draws."
        ),
    ] = False,
    equivalent_within: Annotated[
        float | None,
        Option(
            "Say whether the change is known to be smaller than this.",
            metavar="POINTS",
            min=0.1,
            max=100,
        ),
    ] = None,
    show: Annotated[
        int, Option("List this many samples whose label changed, 0 for all.", metavar="N", min=0)
    ] = 10,
) -> Report:
    """Compare runs on the same samples: what differs, whether it is more than noise, what changed."""
    # numpy, scipy and statsmodels: a second that help pages do not wait.
    from vlsb.reports.comparison import comparison_report
    from vlsb.store.comparisons import compare_runs

    compared = compare_runs(
        *paths,
        judge=judge,
        baseline=baseline,
        across_judges=across_judges,
        all_pairs=all_pairs,
        corrected=corrected,
        equivalent_within=equivalent_within,
    )
    return comparison_report(compared, shown=show)


# The run is made as its baseline was, where nothing else is asked for.
_OF_A_TARGET = (
    *names_in(HelpPanel.TARGET, but=("model",)),
    *("judge_base_url", "judge_api_key_env", "judge_header", "judges_dir"),
    *("data_root", "skip_bad_images", "accept_changed_images"),
    *("display", "max_requests", "max_cost", "prices"),
    *names_in(HelpPanel.SPEED, but=("profile",)),
    *names_in(HelpPanel.ENGINE),
    *names_in(HelpPanel.PROTOCOL),
)
_LIMITS = GateLimits()


@command(extra="stats", form=Option("How to write the result.", choices=TABLES))
@takes_run_options(*_OF_A_TARGET)
def gate_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run to decide about.")],
    baseline: Annotated[
        Path,
        Option(
            "The run to compare with, on the same samples.",
            metavar="RUN",
            variable="VLSB_GATE_BASELINE",
        ),
    ],
    sequential: Annotated[
        bool,
        Option("Run it too, on images in random order, and stop at the first of ten looks that decides."),
    ] = False,
    model: Annotated[
        str | None, run_option("model", help="With --sequential: the model to evaluate.")
    ] = None,
    seed: Annotated[int, run_option("seed", help="Seed of the order of images.", panel=None)] = 0,
    max_drop: Annotated[
        float, Option("How many points of the safe rate may be lost.", metavar="POINTS", min=0, max=100)
    ] = _LIMITS.max_drop,
    max_refusal_rise: Annotated[
        float | None, Option("How many points the refusal rate may rise.", metavar="POINTS", min=0, max=100)
    ] = None,
    max_refusal_drop: Annotated[
        float | None, Option("How many points the refusal rate may fall.", metavar="POINTS", min=0, max=100)
    ] = None,
    min_coverage: Annotated[
        float,
        Option(
            "The share of the selection that must have a label in both runs.",
            metavar="PERCENT",
            min=0,
            max=100,
        ),
    ] = _LIMITS.min_coverage,
    judge: opt.ComparedJudge = None,
    junit: Annotated[Path | None, Option("Also write the checks as JUnit's XML.", metavar="FILE")] = None,
    summary: Annotated[
        Path | None,
        Option("Also append the result as Markdown, as for $GITHUB_STEP_SUMMARY.", metavar="FILE"),
    ] = None,
    **given: Any,
) -> Report | int:
    """Decide whether a run is no less safe than its baseline: exit code 0 pass, 10 fail, 11 undecided."""
    # numpy, scipy and statsmodels: a second that help pages do not wait.
    from vlsb.analysis.gate import decide
    from vlsb.reports import gate
    from vlsb.store.comparisons import compare_with_baseline
    from vlsb.store.gates import is_planned, planned_result

    limits = GateLimits(
        max_drop=max_drop,
        max_refusal_rise=max_refusal_rise,
        max_refusal_drop=max_refusal_drop,
        min_coverage=min_coverage,
    )
    if sequential:
        # A session brings the HTTP stack, which other gates do not wait for.
        from vlsb.cli.gating import Gate, drive

        code = drive(Gate(run, baseline, limits, judge, seed, RunOptions.of({"model": model, **given})))
        if code:
            return code
    if sequential or is_planned(run):
        result = planned_result(run, baseline, limits)
    else:
        first, second, comparison, changes = compare_with_baseline(run, baseline, judge=judge)
        result = decide(first, second, comparison, limits, given=changes)
    if junit is not None:
        write_file(junit, gate.junit(result))
    if summary is not None:
        write_file(summary, gate.summary_markdown(result), mode="ab")
    return gate.gate_report(result)


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
