"""`vlsb run`, `vlsb judge` and `vlsb demo`: a session each, which brings the HTTP stack when it begins."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from vlsb.cli import options as opt
from vlsb.cli.command import command
from vlsb.cli.options import run_option, takes_run_options
from vlsb.evaluation.options import HelpPanel, Option, RunOptions
from vlsb.judging.kinds import PANEL


@command()
@takes_run_options(repeatable=("model", "arm"))
def run_command(**given: Any) -> int:
    """Evaluate a model on VLSBench: respond, judge, summarize. Safe to interrupt and resume."""
    # A session brings the HTTP stack, which the help page does not wait for.
    from vlsb.cli.sessions import evaluate_targets

    models, arms = given.pop("model") or [], given.pop("arm") or []
    return evaluate_targets(RunOptions.of(given), models, arms)


@command()
@opt.takes_run_options(
    *("judge", "judge_base_url", "judge_api_key_env", "judge_header", "judge_template", "judge_field"),
    *("judges_dir", "judge_sees"),
    *("data_root", "skip_bad_images", "accept_changed_images", "fail_on_error", "display", "max_requests"),
    *("max_cost", "prices", "batch", "batch_again"),
    *("judge_max_connections", "judge_rpm", "judge_tpm", "max_attempts", "attempt_timeout", "sample_timeout"),
    *("outage_timeout", "backoff", "allow_http", "ca_bundle", "transport", "profile"),
    *(
        "tensor_parallel_size",
        "gpus",
        "replicas",
        "engine",
        "servers_dir",
        "start_timeout",
        "max_restarts",
        "yes",
    ),
)
def judge_command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs whose responses are judged.")],
    retry: Annotated[
        list[str] | None,
        run_option("retry", help="Do this outcome again too (judge_refused, judge_invalid, ...)."),
    ] = None,
    calibrate: Annotated[
        int | None,
        Option(
            "Judge about N drawn responses first, compare with the run's first judge, ask before the rest.",
            HelpPanel.JUDGE,
            metavar="N",
            min=20,
        ),
    ] = None,
    **given: Any,
) -> int:
    """Judge the stored responses of runs again, with another judge. Nothing is sent to the target.

    RUN is a run's directory. The engine of a local judge is started once for all of them.
    """
    options = RunOptions.of({"retry": retry, **given})
    # A session brings the HTTP stack, which the help page does not wait for.
    from vlsb.cli.sessions import calibrate_judge, judge_by_panel, judge_runs

    if calibrate is not None:
        return calibrate_judge(runs, options, calibrate)
    is_panel = any(name.startswith(PANEL) for name in options.judge)
    return judge_by_panel(runs, options) if is_panel else judge_runs(runs, options)


@command()
def demo_command(
    output_dir: Annotated[
        Path | None, run_option("output_dir", help="Parent directory of the run. (default: a temporary one)")
    ] = None,
    display: opt.Display = None,
    resume: Annotated[bool, run_option("resume")] = False,
) -> int:
    """Run the main job on the embedded demo: 30 benign samples, simulated model and judge."""
    # A session brings the HTTP stack, which the help page does not wait for.
    from vlsb.cli.sessions import evaluate_targets

    parent = output_dir or Path(tempfile.mkdtemp(prefix="vlsb-demo-"))
    return evaluate_targets(RunOptions(output_dir=parent, display=display, resume=resume), ["demo"])
