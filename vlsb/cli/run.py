"""`vlsb run`: respond, judge, summarize."""

from __future__ import annotations

from typing import Any

from vlsb.cli.command import command
from vlsb.cli.options import takes_run_options
from vlsb.evaluation.options import RunOptions


@command()
@takes_run_options(repeatable=("model",))
def run_command(**given: Any) -> int:
    """Evaluate a model on VLSBench: respond, judge, summarize. Safe to interrupt and resume."""
    # A session brings the HTTP stack, which the help page does not wait for.
    from vlsb.cli.sessions import evaluate_targets

    models = given.pop("model") or []
    return evaluate_targets(RunOptions.of(given), models)
