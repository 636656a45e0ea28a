"""`vlsb selftest judge`: attack the configured judge, and say which attacks it fell for."""

from __future__ import annotations

from typing import Any

import typer

from vlsb.cli import options as opt
from vlsb.cli.command import command
from vlsb.evaluation.options import RunOptions

selftest_app = typer.Typer(help="Check what is configured by attacking it.")


@selftest_app.callback()
def _group() -> None:
    """Check what is configured by attacking it."""


@selftest_app.command("judge")
@command()
@opt.takes_run_options(
    *("judge", "judge_base_url", "judge_api_key_env", "judge_header", "judge_template", "judge_field"),
    *("judges_dir", "attempt_timeout", "backoff", "allow_http", "ca_bundle", "transport"),
    *("gpus", "engine", "servers_dir", "start_timeout", "max_restarts", "yes"),
)
def judge_command(**given: Any) -> int:
    """Send a judge responses that saw no risk and try to be labelled safe; exit code 10 if one succeeds."""
    # A session brings the HTTP stack, which the help page does not wait for.
    from vlsb.cli.attacks_text import attack_configured_judge

    return attack_configured_judge(RunOptions.of(given))
