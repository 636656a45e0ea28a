"""`vlsb judge`: label the stored responses of a run with another judge, template or endpoint."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlsb.cli import options as opt
from vlsb.cli.sessions import Job, carry_out
from vlsb.evaluation.options import RunOptions

if TYPE_CHECKING:
    from vlsb.evaluation.settings import Resolved


@opt.takes_run_options(
    *("judge", "judge_base_url", "judge_api_key_env", "judge_header", "judge_template", "judge_field"),
    *("data_root", "skip_bad_images", "accept_changed_images", "fail_on_error", "display", "max_requests"),
    *("judge_max_connections", "judge_rpm", "judge_tpm", "max_attempts", "attempt_timeout", "sample_timeout"),
    *("outage_timeout", "backoff", "allow_http", "ca_bundle", "transport", "profile"),
)
def judge_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run whose responses are judged.")],
    retry: opt.JudgeRetry = None,
    **given: Any,
) -> int:
    """Judge a run's stored responses again, with another judge. Nothing is sent to the target.

    RUN is the run's directory.
    """
    options = RunOptions.of({"retry": retry, **given})
    from vlsb.evaluation.session import prepare_judging
    from vlsb.evaluation.settings import resolve_judging

    @asynccontextmanager
    async def open_run(**_: object) -> AsyncIterator[Resolved]:
        yield await resolve_judging(run, options, os.environ)

    job = Job(
        options=options,
        open=open_run,
        prepare=prepare_judging,
        go_on=["vlsb", "judge", str(run), *options.as_words()],
        directory=run,
    )
    return carry_out(job)
