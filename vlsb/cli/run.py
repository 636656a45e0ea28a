"""`vlsb run`: respond, judge, summarize."""

from __future__ import annotations

import os
from functools import partial

from vlsb.cli import options as opt
from vlsb.cli.resolve import RunOptions, as_options, resume_command, run_directory
from vlsb.cli.sessions import Job, carry_out

_DEFAULTS = RunOptions()


def run_command(
    engine_options: opt.EngineOptions = None,
    model: opt.Model = None,
    arch: opt.Arch = None,
    base_url: opt.BaseUrl = None,
    api_key_env: opt.ApiKeyEnv = None,
    header: opt.Header = None,
    weights: opt.Weights = None,
    revision: opt.Revision = None,
    dtype: opt.DType = None,
    tensor_parallel_size: opt.TensorParallelSize = None,
    gpus: opt.Gpus = None,
    engine: opt.EngineChoice = _DEFAULTS.engine,
    servers_dir: opt.ServersDir = None,
    start_timeout: opt.StartTimeout = _DEFAULTS.start_timeout,
    max_restarts: opt.MaxRestarts = _DEFAULTS.max_restarts,
    keep_server: opt.KeepServer = False,
    yes: opt.Yes = False,
    judge: opt.Judge = None,
    judge_base_url: opt.JudgeBaseUrl = None,
    judge_api_key_env: opt.JudgeApiKeyEnv = None,
    judge_header: opt.JudgeHeader = None,
    data_root: opt.DataRoot = None,
    limit: opt.Limit = None,
    sample_id: opt.SampleId = None,
    category: opt.Category = None,
    sub_category: opt.SubCategory = None,
    source: opt.Source = None,
    shuffle: opt.Shuffle = False,
    seed: opt.Seed = 0,
    skip_bad_images: opt.SkipBadImages = False,
    accept_changed_images: opt.AcceptChangedImages = False,
    output_dir: opt.OutputDir = _DEFAULTS.output_dir,
    name: opt.Name = None,
    resume: opt.Resume = False,
    retry: opt.Retry = None,
    fail_on_error: opt.FailOnError = _DEFAULTS.fail_on_error,
    display: opt.Display = None,
    epochs: opt.Epochs = 1,
    no_judge: opt.NoJudge = False,
    dry_run: opt.DryRun = False,
    max_requests: opt.MaxRequests = None,
    max_connections: opt.MaxConnections = _DEFAULTS.max_connections,
    judge_max_connections: opt.JudgeMaxConnections = _DEFAULTS.judge_max_connections,
    rpm: opt.Rpm = None,
    tpm: opt.Tpm = None,
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
    max_tokens: opt.MaxTokens = None,
    temperature: opt.Temperature = None,
    system_prompt: opt.SystemPrompt = None,
    judge_template: opt.JudgeTemplate = None,
    target_field: opt.TargetField = None,
    judge_field: opt.JudgeField = None,
) -> int:
    """Evaluate a model on VLSBench: respond, judge, summarize. Safe to interrupt and resume."""
    given = {name: value for name, value in locals().items() if value is not None}
    return run(as_options(given))


def run(options: RunOptions) -> int:
    """Carry out a run and return its exit code."""
    from vlsb.evaluation.session import prepare
    from vlsb.evaluation.settings import open_target

    job = Job(
        options=options,
        open=partial(open_target, options, os.environ),
        prepare=prepare,
        go_on=resume_command(options),
        directory=run_directory(options),
    )
    return carry_out(job)
