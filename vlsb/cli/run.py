"""`vlsb run`: options into a plan, the plan into a run directory, the directory into a table."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from vlsb import config, strict_json
from vlsb.analysis.summary import FailOnError, Summary, missing
from vlsb.cli import options as opt
from vlsb.cli.screen import Screen
from vlsb.errors import ConfigError, GapsError, InterruptedRunError, RunMismatchError, VlsbError
from vlsb.records import JUDGED, Outcome

# Rooms that bring the HTTP stack or Pillow are imported inside the functions that need them: the help
# page must not wait for them.
if TYPE_CHECKING:
    from vlsb.data import Selection
    from vlsb.endpoints.secrets import Credentials
    from vlsb.judging.prompts import JudgeTemplate
    from vlsb.records import Stage
    from vlsb.runs.session import Plan, Prepared

_POLICY = config.RetryPolicy()
_DEMO = "demo"
_RESUMABLE = (3, 4, 5, 130)
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DISPLAYS = ("rich", "plain", "none")
# Fields that define the request itself: changing them would make it another program's request.
_RESERVED_FIELDS = frozenset({"model", "messages", "stream", "n", "response_format"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The options of `vlsb run`, as typed. Field names are option names."""

    model: str | None = None
    arch: str | None = None
    base_url: str | None = None
    api_key_env: str | None = None
    header: tuple[str, ...] = ()
    judge: str | None = None
    judge_base_url: str | None = None
    judge_api_key_env: str | None = None
    judge_header: tuple[str, ...] = ()
    data_root: Path | None = None
    limit: str | None = None
    sample_id: tuple[int, ...] = ()
    category: tuple[str, ...] = ()
    sub_category: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    shuffle: bool = False
    seed: int = 0
    skip_bad_pictures: bool = False
    output_dir: Path = Path(config.DEFAULT_OUTPUT_DIR)
    name: str | None = None
    resume: bool = False
    retry: tuple[str, ...] = ()
    fail_on_error: str = "0"
    display: str | None = None
    max_connections: int | None = None
    judge_max_connections: int | None = None
    max_attempts: int = _POLICY.max_attempts
    attempt_timeout: float = _POLICY.attempt_timeout_s
    sample_timeout: float = _POLICY.sample_timeout_s
    outage_timeout: float = _POLICY.outage_timeout_s
    backoff: float = _POLICY.backoff_s
    allow_http: bool = False
    ca_bundle: Path | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    system_prompt: str | None = None
    judge_template: Path | None = None
    target_field: tuple[str, ...] = ()
    judge_field: tuple[str, ...] = ()


_DEFAULTS = RunOptions()


def run_command(
    model: opt.Model = None,
    arch: opt.Arch = None,
    base_url: opt.BaseUrl = None,
    api_key_env: opt.ApiKeyEnv = None,
    header: opt.Header = None,
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
    skip_bad_pictures: opt.SkipBadPictures = False,
    output_dir: opt.OutputDir = _DEFAULTS.output_dir,
    name: opt.Name = None,
    resume: opt.Resume = False,
    retry: opt.Retry = None,
    fail_on_error: opt.FailOnError = _DEFAULTS.fail_on_error,
    display: opt.Display = None,
    max_connections: opt.MaxConnections = _DEFAULTS.max_connections,
    judge_max_connections: opt.JudgeMaxConnections = _DEFAULTS.judge_max_connections,
    max_attempts: opt.MaxAttempts = _DEFAULTS.max_attempts,
    attempt_timeout: opt.AttemptTimeout = _DEFAULTS.attempt_timeout,
    sample_timeout: opt.SampleTimeout = _DEFAULTS.sample_timeout,
    outage_timeout: opt.OutageTimeout = _DEFAULTS.outage_timeout,
    backoff: opt.Backoff = _DEFAULTS.backoff,
    allow_http: opt.AllowHttp = False,
    ca_bundle: opt.CaBundle = None,
    max_tokens: opt.MaxTokens = None,
    temperature: opt.Temperature = None,
    system_prompt: opt.SystemPrompt = None,
    judge_template: opt.JudgeTemplate = None,
    target_field: opt.TargetField = None,
    judge_field: opt.JudgeField = None,
) -> int:
    """Evaluate a model on VLSBench: respond, judge, summarize. Safe to interrupt and resume."""
    given = {name: value for name, value in locals().items() if value is not None}
    return run(_options(given))


def _options(given: Mapping[str, Any]) -> RunOptions:
    """The options object; lists become tuples, so that it can be compared and kept."""
    values: Any = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
    return RunOptions(**values)


def run(options: RunOptions) -> int:
    """Carry out a run and return its exit code."""
    from vlsb.runs.session import prepare

    screen = Screen(quiet=options.display == "none")
    try:
        display = _display(options.display)
        allowed = FailOnError.parse(options.fail_on_error)
        plan, credentials = resolve(options, os.environ)
        _warn_of_keys(plan, credentials, screen)
        with _signals_as_interrupts():
            prepared = prepare(plan)
    except KeyboardInterrupt:
        screen.error(InterruptedRunError("Interrupted before anything was sent."))
        screen.command(resume_command(options))
        return InterruptedRunError.exit_code
    except VlsbError as error:
        screen.error(error)
        if error.exit_code in _RESUMABLE:
            screen.command(resume_command(options))
        return error.exit_code
    return _carry_out(prepared, credentials, allowed, options, screen, display)


def _carry_out(
    prepared: Prepared,
    credentials: Mapping[Stage, Credentials],
    allowed: FailOnError,
    options: RunOptions,
    screen: Screen,
    display: str,
) -> int:
    import asyncio

    from vlsb.cli.display import watcher
    from vlsb.runs.session import Listeners, run_session
    from vlsb.runs.summaries import summarize_run

    listeners = Listeners(
        say=screen.notice,
        watch=watcher(display, screen),
        last_words=lambda: screen.command(resume_command(options)),
    )
    try:
        reason = asyncio.run(run_session(prepared, credentials, listeners))
        summary = summarize_run(prepared.plan.directory)
    except VlsbError as error:
        reason, summary = error, None
    if summary is not None and (reason is None or summary.rates.judged or summary.target_usage.requests):
        screen.result(_table(summary))
    if (
        reason is None
        and summary is not None
        and allowed.is_exceeded(missing(summary), selected=summary.rates.selected)
    ):
        reason = GapsError(f"{missing(summary)} of {summary.rates.selected} samples have no verdict.")
    if reason is None:
        return 0
    screen.error(reason)
    if reason.exit_code != RunMismatchError.exit_code:
        screen.command(resume_command(options))
    return reason.exit_code


@contextmanager
def _signals_as_interrupts() -> Iterator[None]:
    """SIGTERM and SIGHUP act as Ctrl-C until the run takes over; then it has handlers of its own."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _warn_of_keys(plan: Plan, credentials: Mapping[Stage, Credentials], screen: Screen) -> None:
    from vlsb.endpoints.providers import key_mismatch

    for endpoint, found in (
        (plan.target.endpoint, credentials["target"]),
        (plan.judge.endpoint, credentials["judge"]),
    ):
        if found.bearer is not None and (warning := key_mismatch(endpoint, found.bearer.reveal())):
            screen.notice(f"Warning: {warning}.")


def _table(summary: Summary) -> str:
    from vlsb.reports.terminal import render

    width = shutil.get_terminal_size((80, 24)).columns
    return render([summary], width=width, color=sys.stdout.isatty())


def resume_command(options: RunOptions) -> list[str]:
    """The command that continues this run: every option that is not at its default, and `--resume`."""
    words = ["vlsb", "run"]
    for field in fields(RunOptions):
        value, usual = getattr(options, field.name), getattr(_DEFAULTS, field.name)
        if value == usual or field.name == "resume":
            continue
        flag = "--" + field.name.replace("_", "-")
        if value is True:
            words.append(flag)
        else:
            for each in value if isinstance(value, tuple) else (value,):
                words += [flag, str(each)]
    return [*words, "--resume"]


def resolve(options: RunOptions, environment: Mapping[str, str]) -> tuple[Plan, dict[Stage, Credentials]]:
    """Turn options into a plan and the credentials it needs. Raises ConfigError or AccessError."""
    from vlsb.endpoints.secrets import load_credentials
    from vlsb.runs.session import Plan

    target = _target(options)
    judge = _judge(options, is_demo=target.endpoint.model == _DEMO and options.base_url is None)
    credentials: dict[Stage, Credentials] = {
        "target": load_credentials(target.endpoint, environment),
        "judge": load_credentials(judge.endpoint, environment),
    }
    plan = Plan(
        directory=_directory(options, target),
        target=target,
        judge=judge,
        template=_template(options),
        data_root=_data_root(options, target),
        selection=_selection(options),
        policy=_policy(options),
        is_resume=options.resume,
        retry=_retried(options),
        skip_bad_pictures=options.skip_bad_pictures,
        ca_bundle=options.ca_bundle,
    )
    return plan, credentials


def _target(options: RunOptions) -> config.Lane:
    from vlsb.endpoints.providers import resolve_endpoint

    sampling = config.OFFICIAL_TARGET_SAMPLING
    if options.max_tokens is not None:
        sampling = replace(sampling, max_tokens=options.max_tokens)
    if options.temperature is not None:
        sampling = replace(sampling, temperature=options.temperature)
    system_prompt = options.system_prompt
    return config.Lane(
        endpoint=resolve_endpoint(
            _model(options),
            base_url=options.base_url,
            key_variable=options.api_key_env,
            headers=_headers("--header", options.header),
            allow_http=options.allow_http,
        ),
        sampling=replace(sampling, extra=_extra("-M", options.target_field)),
        max_connections=options.max_connections,
        system_prompt=config.OFFICIAL_SYSTEM_PROMPT if system_prompt is None else system_prompt,
    )


def _judge(options: RunOptions, *, is_demo: bool) -> config.Lane:
    from vlsb.endpoints.providers import resolve_endpoint

    return config.Lane(
        endpoint=resolve_endpoint(
            options.judge or (_DEMO if is_demo else config.OFFICIAL_JUDGE_MODEL),
            base_url=options.judge_base_url,
            key_variable=options.judge_api_key_env,
            headers=_headers("--judge-header", options.judge_header),
            allow_http=options.allow_http,
            flags=("--judge-base-url", "--judge-api-key-env"),
        ),
        sampling=replace(config.OFFICIAL_JUDGE_SAMPLING, extra=_extra("-J", options.judge_field)),
        max_connections=options.judge_max_connections,
    )


def _model(options: RunOptions) -> str:
    """The target's name from `--model` and the authors' `--arch`."""
    from vlsb.endpoints.providers import LOCAL_FAMILIES

    model, arch = (options.model or "").strip(), options.arch
    if arch is not None and arch not in (*LOCAL_FAMILIES, "openai"):
        raise ConfigError(f"--arch {arch}: not one of {', '.join(LOCAL_FAMILIES)} or openai.")
    if arch == "openai" and not model:
        raise ConfigError("--arch openai needs --model, for example --model gpt-4o.")
    if arch not in (None, "openai"):
        if model and model != arch:
            raise ConfigError(f"--arch {arch} and --model {model} name two targets. Pass one of them.")
        model = arch or ""
    if not model:
        raise ConfigError("Which model? Pass --model NAME, for example --model gpt-4o or --model demo.")
    return model


def _directory(options: RunOptions, target: config.Lane) -> Path:
    from vlsb.runs.protocol import safe_name

    name = options.name
    if name is None:
        name = safe_name(target.endpoint.model)
    elif name != safe_name(name):
        raise ConfigError(f"--name {name!r}: use letters, digits, '.', '_' and '-' (at most 100).")
    return options.output_dir / name


def _template(options: RunOptions) -> JudgeTemplate:
    from vlsb.judging.prompts import load_template, official_template

    return official_template() if options.judge_template is None else load_template(options.judge_template)


def _data_root(options: RunOptions, target: config.Lane) -> Path:
    from vlsb.data import mini_root
    from vlsb.endpoints.providers import SIMULATED_URL

    if options.data_root is not None:
        return options.data_root
    if target.endpoint.base_url == SIMULATED_URL:
        return mini_root()
    raise ConfigError("Where is VLSBench? Pass --data-root DIR, the folder with data.json and imgs/.")


def _selection(options: RunOptions) -> Selection:
    from vlsb.data import Selection, parse_limit

    if options.limit is not None:
        parse_limit(options.limit)
    return Selection(
        limit=options.limit,
        sample_ids=options.sample_id,
        categories=options.category,
        sub_categories=options.sub_category,
        sources=options.source,
        shuffle=options.shuffle,
        seed=options.seed,
    )


def _policy(options: RunOptions) -> config.RetryPolicy:
    return config.RetryPolicy(
        max_attempts=options.max_attempts,
        attempt_timeout_s=options.attempt_timeout,
        sample_timeout_s=options.sample_timeout,
        outage_timeout_s=options.outage_timeout,
        backoff_s=options.backoff,
    )


def _retried(options: RunOptions) -> tuple[Outcome, ...]:
    if options.retry and not options.resume:
        raise ConfigError("--retry works on an existing run: add --resume.")
    choices = [outcome.value for outcome in Outcome if outcome not in JUDGED]
    for name in options.retry:
        if name not in choices:
            raise ConfigError(f"--retry {name!r}: not one of {', '.join(choices)}. Labels are never retried.")
    return tuple(Outcome(name) for name in options.retry)


def _headers(flag: str, pairs: Sequence[str]) -> tuple[tuple[str, str], ...]:
    found = []
    for pair in pairs:
        name, _, variable = pair.partition("=")
        if not _HEADER_NAME.fullmatch(name) or not _VARIABLE_NAME.fullmatch(variable):
            # The pair is not repeated: a value instead of a variable's name may be a key.
            raise ConfigError(f"{flag}: write NAME=VARIABLE, for example api-key=AZURE_OPENAI_API_KEY.")
        found.append((name, variable))
    return tuple(found)


def _extra(flag: str, pairs: Sequence[str]) -> dict[str, Any]:
    """Extra body fields: JSON where the value is JSON, else the text itself."""
    fields_: dict[str, Any] = {}
    for pair in pairs:
        name, is_pair, value = pair.partition("=")
        if not is_pair or not name.strip():
            raise ConfigError(f"{flag} {pair}: write KEY=VALUE, for example {flag} seed=7.")
        if name in _RESERVED_FIELDS:
            raise ConfigError(f"{flag} {name}: this field belongs to the protocol and cannot be set.")
        try:
            fields_[name] = strict_json.loads(value)
        except ValueError:
            fields_[name] = value
    return fields_


def _display(wanted: str | None) -> str:
    if wanted is None:
        return "rich" if sys.stderr.isatty() else "plain"
    if wanted not in _DISPLAYS:
        raise ConfigError(f"--display {wanted}: not one of {', '.join(_DISPLAYS)}.")
    return wanted
