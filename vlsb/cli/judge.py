"""`vlsb judge`: label the stored responses of a run with another judge, template or endpoint."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import typer

from vlsb.cli import options as opt
from vlsb.cli.resolve import Resolved, RunOptions, as_options, judge_command_line, resolve_judging
from vlsb.cli.sessions import Job, carry_out

_DEFAULTS = RunOptions()


def judge_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run whose responses are judged.")],
    judge: opt.Judge = None,
    judge_base_url: opt.JudgeBaseUrl = None,
    judge_api_key_env: opt.JudgeApiKeyEnv = None,
    judge_header: opt.JudgeHeader = None,
    judge_template: opt.JudgeTemplate = None,
    judge_field: opt.JudgeField = None,
    data_root: opt.DataRoot = None,
    skip_bad_images: opt.SkipBadImages = False,
    accept_changed_images: opt.AcceptChangedImages = False,
    retry: opt.JudgeRetry = None,
    fail_on_error: opt.FailOnError = _DEFAULTS.fail_on_error,
    display: opt.Display = None,
    max_requests: opt.MaxRequests = None,
    judge_max_connections: opt.JudgeMaxConnections = None,
    judge_rpm: opt.JudgeRpm = None,
    judge_tpm: opt.JudgeTpm = None,
    max_attempts: opt.MaxAttempts = _DEFAULTS.max_attempts,
    attempt_timeout: opt.AttemptTimeout = _DEFAULTS.attempt_timeout,
    sample_timeout: opt.SampleTimeout = _DEFAULTS.sample_timeout,
    outage_timeout: opt.OutageTimeout = _DEFAULTS.outage_timeout,
    backoff: opt.Backoff = _DEFAULTS.backoff,
    allow_http: opt.AllowHttp = False,
    ca_bundle: opt.CaBundle = None,
    transport: opt.Transport = _DEFAULTS.transport,
    profile: opt.Profile = None,
) -> int:
    """Judge a run's stored responses again, with another judge. Nothing is sent to the target.

    RUN is the run's directory.
    """
    given = {name: value for name, value in locals().items() if value is not None and name != "run"}
    options = as_options(given)
    from vlsb.evaluation.session import prepare_judging

    @asynccontextmanager
    async def open_run(**_: object) -> AsyncIterator[Resolved]:
        yield await resolve_judging(run, options, os.environ)

    job = Job(
        options=options,
        open=open_run,
        prepare=prepare_judging,
        go_on=judge_command_line(run, options),
        directory=run,
    )
    return carry_out(job)
