"""`vlsb run`: respond, judge, summarize."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from vlsb.cli.options import takes_run_options
from vlsb.cli.sessions import Job, carry_out
from vlsb.evaluation.options import RunOptions


@takes_run_options()
def run_command(**given: Any) -> int:
    """Evaluate a model on VLSBench: respond, judge, summarize. Safe to interrupt and resume."""
    return run(RunOptions.of(given))


def run(options: RunOptions) -> int:
    """Carry out a run and return its exit code."""
    from vlsb.evaluation.session import prepare
    from vlsb.evaluation.settings import open_target, run_directory

    after_dashes = ["--", *options.engine_options] if options.engine_options else []
    job = Job(
        options=options,
        open=partial(open_target, options, os.environ),
        prepare=prepare,
        go_on=["vlsb", "run", *options.as_words(), "--resume", *after_dashes],
        directory=run_directory(options),
    )
    return carry_out(job)
