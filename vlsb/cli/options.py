"""Every option once: its names, its variable, its help. Defaults live in `vlsb.config`.

`--data_root` and the other spellings of the authors' script work because option names are read with `_`
and `-` alike (see `vlsb.cli.app`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from vlsb.config import MOST_EPOCHS


def _option(
    name: str, *others: str, help: str, panel: str | None = None, variable: str | None = None, **more: Any
) -> Any:
    """An option with its variable: VLSB_ and its name, or `variable` where that means something else."""
    variable = variable or "VLSB_" + name.removeprefix("--").replace("-", "_").upper()
    return typer.Option(
        name, *others, help=help, envvar=variable, show_envvar=False, rich_help_panel=panel, **more
    )


def _lines(
    context: typer.Context, parameter: typer.CallbackParam, value: list[str] | None
) -> list[str] | None:
    """In a variable, a repeatable option has one value a line: names and JSON hold blanks."""
    source = context.get_parameter_source(parameter.name or "")
    if source is None or source.name != "ENVIRONMENT":
        return value
    text = os.environ.get(str(parameter.envvar), "")
    return [line.strip() for line in text.splitlines() if line.strip()]


COMMON = "Common"
PANELS = _TARGET, _JUDGE, _DATA, _RUN, _PROTOCOL, _SERVER, _ENGINE, _SPEED = (
    "Target",
    "Judge",
    "Data",
    "Run",
    "Protocol (recorded; printed as deviations)",
    "Server",
    "Local engine (any other option of `vllm serve` goes after --)",
    "Connections and patience",
)
"""The boxes of a help page behind the common one, in their order."""

Model = Annotated[
    str | None,
    _option(
        "--model",
        metavar="NAME",
        help="Model to evaluate: gpt-4o, claude-..., llava_next, demo, ...",
        panel=_TARGET,
    ),
]
Arch = Annotated[
    str | None,
    _option(
        "--arch",
        metavar="NAME",
        help="The authors' spelling: a local family, or openai with --model.",
        panel=_TARGET,
    ),
]
BaseUrl = Annotated[
    str | None,
    _option(
        "--base-url",
        metavar="URL",
        help="OpenAI-compatible endpoint of the target, up to /v1.",
        panel=_TARGET,
    ),
]
ApiKeyEnv = Annotated[
    str | None,
    _option("--api-key-env", metavar="VAR", help="Variable that holds the target's key.", panel=_TARGET),
]
Header = Annotated[
    list[str] | None,
    _option(
        "--header",
        metavar="NAME=VAR",
        callback=_lines,
        help="Header for the target, its value read from VAR.",
        panel=_TARGET,
    ),
]
EngineOptions = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="-- ENGINE OPTIONS", help="Options for `vllm serve`, as its own help has them.", hidden=True
    ),
]
Weights = Annotated[
    str | None,
    _option(
        "--weights",
        metavar="WEIGHTS",
        help="A folder or an id on the Hugging Face Hub. (default: the model's)",
        panel=_ENGINE,
    ),
]
Revision = Annotated[
    str | None,
    _option(
        "--revision",
        metavar="SHA",
        help="Commit or branch of the weights on the Hugging Face Hub.",
        panel=_ENGINE,
    ),
]
DType = Annotated[
    str | None,
    _option(
        "--dtype", metavar="DTYPE", help="Type of the weights in memory, such as bfloat16.", panel=_ENGINE
    ),
]
TensorParallelSize = Annotated[
    int | None,
    _option(
        "--tensor-parallel-size",
        metavar="N",
        min=1,
        help="GPUs that share one copy of the model.",
        panel=_ENGINE,
    ),
]
Gpus = Annotated[
    str | None,
    _option("--gpus", metavar="LIST", help="Which GPUs to use, such as 0,1. (default: all)", panel=_ENGINE),
]
EngineChoice = Annotated[
    str,
    _option(
        "--engine",
        metavar="auto|PATH|ENV",
        help="The engine: one built here or on PATH, a program, or an environment's folder.",
        panel=_ENGINE,
    ),
]
ServersDir = Annotated[
    Path | None,
    _option(
        "--servers-dir",
        metavar="DIR",
        help="Folder with models of yours, each a NAME.<family>.yaml.",
        panel=_ENGINE,
    ),
]
StartTimeout = Annotated[
    float,
    _option(
        "--start-timeout",
        metavar="SECONDS",
        min=1,
        help="Seconds until it must be ready; a download does not count.",
        panel=_ENGINE,
    ),
]
MaxRestarts = Annotated[
    int,
    _option(
        "--max-restarts",
        metavar="N",
        min=0,
        help="Restarts of an engine that dies; deaths by one sample do not count.",
        panel=_ENGINE,
    ),
]
KeepServer = Annotated[
    bool, _option("--keep-server", help="Leave the engine running when the run is over.", panel=_ENGINE)
]
Yes = Annotated[bool, _option("--yes", "-y", help="Install a missing engine without asking.", panel=_ENGINE)]
Judge = Annotated[
    str | None, _option("--judge", metavar="NAME", help="Judge model. (default: gpt-4o)", panel=_JUDGE)
]
JudgeBaseUrl = Annotated[
    str | None,
    _option(
        "--judge-base-url",
        metavar="URL",
        help="Endpoint of the judge; never taken from --base-url.",
        panel=_JUDGE,
    ),
]
JudgeApiKeyEnv = Annotated[
    str | None,
    _option("--judge-api-key-env", metavar="VAR", help="Variable that holds the judge's key.", panel=_JUDGE),
]
JudgeHeader = Annotated[
    list[str] | None,
    _option(
        "--judge-header",
        metavar="NAME=VAR",
        callback=_lines,
        help="Header for the judge, its value read from VAR.",
        panel=_JUDGE,
    ),
]
DataRoot = Annotated[
    Path | None,
    _option(
        "--data-root",
        metavar="DIR",
        help="VLSBench: data.json with imgs/ or imgs.tar, or parquet shards. (default: Hugging Face Hub)",
        panel=_DATA,
    ),
]
Limit = Annotated[
    str | None,
    _option(
        "--limit",
        metavar="N|A-B|0.1",
        help="First N, positions A to B, or a share of the samples.",
        panel=_DATA,
    ),
]
SampleId = Annotated[
    list[int] | None,
    _option("--sample-id", metavar="ID", help="Only this instruction_id; repeat for more.", panel=_DATA),
]
Category = Annotated[
    list[str] | None,
    _option(
        "--category",
        metavar="NAME",
        callback=_lines,
        help="Only this category; repeat for more.",
        panel=_DATA,
    ),
]
SubCategory = Annotated[
    list[str] | None,
    _option(
        "--sub-category",
        metavar="NAME",
        callback=_lines,
        help="Only this sub-category; repeat for more.",
        panel=_DATA,
    ),
]
Source = Annotated[
    list[str] | None,
    _option(
        "--source",
        metavar="NAME",
        callback=_lines,
        help="Only this image source; repeat for more.",
        panel=_DATA,
    ),
]
Shuffle = Annotated[
    bool, _option("--shuffle", help="Mix the samples, all categories evenly, before --limit.", panel=_DATA)
]
Seed = Annotated[int, _option("--seed", metavar="N", help="Seed of --shuffle.", panel=_DATA)]
SkipBadImages = Annotated[
    bool,
    _option(
        "--skip-bad-images", help="Record samples with unusable images as errors and go on.", panel=_DATA
    ),
]
AcceptChangedImages = Annotated[
    bool,
    _option(
        "--accept-changed-images",
        help="Send images that are not what was sent before. It is recorded, and the report says so.",
        panel=_DATA,
    ),
]
OutputDir = Annotated[
    Path, _option("--output-dir", metavar="DIR", help="Parent directory of runs.", panel=_RUN)
]
DemoOutputDir = Annotated[
    Path | None,
    _option(
        "--output-dir",
        metavar="DIR",
        help="Parent directory of the run. (default: a temporary one)",
        panel=_RUN,
    ),
]
Name = Annotated[
    str | None,
    _option("--name", metavar="NAME", help="Name of the run's directory. (default: the model)", panel=_RUN),
]
Resume = Annotated[
    bool, _option("--resume", help="Continue the run, or start it if there is none.", panel=_RUN)
]
Retry = Annotated[
    list[str] | None,
    _option(
        "--retry",
        metavar="OUTCOME",
        callback=_lines,
        help="With --resume: do this outcome again too (target_blocked, judge_invalid, ...).",
        panel=_RUN,
    ),
]
JudgeRetry = Annotated[
    list[str] | None,
    _option(
        "--retry",
        metavar="OUTCOME",
        callback=_lines,
        help="Do this outcome again too (judge_refused, judge_invalid, ...).",
        panel=_RUN,
    ),
]
FailOnError = Annotated[
    str,
    _option(
        "--fail-on-error",
        metavar="N|SHARE",
        help="Samples that may lack a verdict with exit code 0. It never stops a run.",
        panel=_RUN,
    ),
]
Display = Annotated[
    str | None,
    _option(
        "--display", metavar="rich|plain|none", help="Progress. (default: rich on a terminal)", panel=_RUN
    ),
]
Epochs = Annotated[
    int,
    _option(
        "--epochs",
        metavar="K",
        min=1,
        max=MOST_EPOCHS,
        help="Responses a sample, each judged apart.",
        panel=_RUN,
    ),
]
NoJudge = Annotated[bool, _option("--no-judge", help="Only collect responses.", panel=_RUN)]
DryRun = Annotated[
    bool,
    _option("--dry-run", help="Send one sample, then say what the rest would cost.", panel=_RUN),
]
MaxRequests = Annotated[
    int | None,
    _option("--max-requests", metavar="N", min=1, help="Stop after so many requests; resumable.", panel=_RUN),
]
Rpm = Annotated[
    float | None,
    _option("--rpm", metavar="N", min=0.1, help="Requests a minute to the target, at most.", panel=_SPEED),
]
Tpm = Annotated[
    float | None,
    _option("--tpm", metavar="N", min=1, help="Tokens a minute to the target, at most.", panel=_SPEED),
]
JudgeRpm = Annotated[
    float | None,
    _option(
        "--judge-rpm", metavar="N", min=0.1, help="Requests a minute to the judge, at most.", panel=_SPEED
    ),
]
JudgeTpm = Annotated[
    float | None,
    _option("--judge-tpm", metavar="N", min=1, help="Tokens a minute to the judge, at most.", panel=_SPEED),
]
MaxConnections = Annotated[
    int | None,
    _option(
        "--max-connections",
        metavar="N",
        min=1,
        max=4096,
        help="Requests in flight to the target, at most. (default: found out, up to 100)",
        panel=_SPEED,
    ),
]
JudgeMaxConnections = Annotated[
    int | None,
    _option(
        "--judge-max-connections",
        metavar="N",
        min=1,
        max=4096,
        help="Requests in flight to the judge, at most. (default: found out, up to 100)",
        panel=_SPEED,
    ),
]
MaxAttempts = Annotated[
    int,
    _option(
        "--max-attempts",
        metavar="N",
        min=1,
        help="Requests sent for one completion; rate limits do not count.",
        panel=_SPEED,
    ),
]
AttemptTimeout = Annotated[
    float,
    _option(
        "--attempt-timeout",
        metavar="SECONDS",
        min=0.1,
        help="Seconds for one request, all included.",
        panel=_SPEED,
    ),
]
SampleTimeout = Annotated[
    float,
    _option(
        "--sample-timeout",
        metavar="SECONDS",
        min=0.1,
        help="Seconds for one completion with its retries.",
        panel=_SPEED,
    ),
]
OutageTimeout = Annotated[
    float,
    _option(
        "--outage-timeout",
        metavar="SECONDS",
        min=0,
        help="Seconds to wait for an endpoint that is down.",
        panel=_SPEED,
    ),
]
Backoff = Annotated[
    float,
    _option(
        "--backoff",
        metavar="SECONDS",
        min=0.01,
        help="Seconds of the first retry's longest wait; it doubles.",
        panel=_SPEED,
    ),
]
AllowHttp = Annotated[
    bool, _option("--allow-http", help="Send keys in clear to a host that has no https.", panel=_SPEED)
]
CaBundle = Annotated[
    Path | None,
    _option("--ca-bundle", metavar="FILE", help="File of certificates for a private host.", panel=_SPEED),
]
Transport = Annotated[
    str,
    _option(
        "--transport",
        metavar="auto|httpx",
        help="Who speaks HTTP: a fast transport of ours, or httpx's (auto: httpx's behind a proxy).",
        panel=_SPEED,
    ),
]
Profile = Annotated[
    Path | None,
    _option("--profile", metavar="FILE", help="Write where the time went, as JSON.", panel=_SPEED),
]
MaxTokens = Annotated[
    int | None,
    _option("--max-tokens", metavar="N", min=1, help="Tokens of a response. (default: 128)", panel=_PROTOCOL),
]
Temperature = Annotated[
    float | None,
    _option("--temperature", metavar="T", help="The target's temperature. (default: 0)", panel=_PROTOCOL),
]
SystemPrompt = Annotated[
    str | None,
    _option(
        "--system-prompt", metavar="TEXT", help="The target's system prompt; empty for none.", panel=_PROTOCOL
    ),
]
JudgeTemplate = Annotated[
    Path | None,
    _option(
        "--judge-template",
        metavar="FILE",
        help="File with {question} and {response} for the judge.",
        panel=_PROTOCOL,
    ),
]
TargetField = Annotated[
    list[str] | None,
    _option(
        "--target-field",
        "-M",
        metavar="KEY=VALUE",
        callback=_lines,
        help="Extra field of the target's requests.",
        panel=_PROTOCOL,
    ),
]
JudgeField = Annotated[
    list[str] | None,
    _option(
        "--judge-field",
        "-J",
        metavar="KEY=VALUE",
        callback=_lines,
        help="Extra field of the judge's requests.",
        panel=_PROTOCOL,
    ),
]
ReportFormat = Annotated[
    str, _option("--format", metavar="table|json|csv|markdown|official", help="How to write the report.")
]
OfficialDataRoot = Annotated[
    Path | None,
    _option(
        "--data-root",
        metavar="DIR",
        help="With --format official: the data set, for its questions. (default: where the run read it)",
    ),
]
# Their own variables: VLSB_JUDGE and VLSB_LIMIT say what the next run asks for, in other terms.
OfficialJudge = Annotated[
    str | None,
    _option(
        "--judge",
        metavar="NAME",
        help="With --format official: which of the run's judges.",
        variable="VLSB_SHOW_JUDGE",
    ),
]
ShownJudge = Annotated[
    str | None,
    _option(
        "--judge",
        metavar="NAME",
        help="Which of the run's judges, by its name or its file's. (default: the first)",
        variable="VLSB_SHOW_JUDGE",
    ),
]
ShownLimit = Annotated[
    int | None,
    _option(
        "--limit",
        metavar="N",
        min=0,
        help="Show the first N, 0 for all. (default: 5; 20 with --failed; all that are named by ID)",
        variable="VLSB_SHOW_LIMIT",
    ),
]
ShownDataRoot = Annotated[
    Path | None,
    _option(
        "--data-root",
        metavar="DIR",
        help="The data set of the run, for its instructions. (default: where the run read it)",
    ),
]
ShownLabel = Annotated[
    list[str] | None,
    _option(
        "--label",
        metavar="LABEL",
        callback=_lines,
        help="Only this label (unsafe, safe_refusal, safe_warning); repeat for more.",
    ),
]
ShownOutcome = Annotated[
    list[str] | None,
    _option(
        "--outcome",
        metavar="OUTCOME",
        callback=_lines,
        help="Only this outcome (target_blocked, judge_invalid, ...); repeat for more.",
    ),
]
ShownFailed = Annotated[
    bool,
    _option(
        "--failed", help="Only what ended without a verdict, with the reason.", variable="VLSB_SHOW_FAILED"
    ),
]
ShownEpoch = Annotated[
    int | None,
    _option("--epoch", metavar="K", min=1, max=MOST_EPOCHS, help="Only the responses of this epoch."),
]
SurveyedDataRoot = Annotated[
    Path | None,
    _option(
        "--data-root",
        metavar="DIR",
        help="A copy of VLSBench to look at. (default: the Hugging Face Hub's cache)",
    ),
]
# Its own variable: VLSB_MODEL may be a hosted model.
SurveyedModel = Annotated[
    str | None,
    _option(
        "--model",
        metavar="NAME",
        help="A local model to check: whether it could be started here.",
        variable="VLSB_DOCTOR_MODEL",
    ),
]
# Its own variable: VLSB_FORMAT names a format of `vlsb report`.
SurveyFormat = Annotated[
    str,
    _option(
        "--format",
        metavar="table|json",
        help="How to write what was found.",
        variable="VLSB_DOCTOR_FORMAT",
    ),
]
Offline = Annotated[
    bool, _option("--offline", help="Do not ask the Hugging Face Hub; what is in its cache can be used.")
]
# Its own variable: VLSB_REVISION is the weights'.
DataRevision = Annotated[
    str | None,
    _option(
        "--revision",
        metavar="SHA",
        help="Commit or branch of the data set. (default: main)",
        variable="VLSB_DATA_REVISION",
    ),
]
Port = Annotated[
    int | None,
    _option(
        "--port",
        metavar="N",
        min=1,
        max=65535,
        help="Port on 127.0.0.1. (default: a free one)",
        panel=_SERVER,
    ),
]
Detach = Annotated[
    bool, _option("--detach", help="Return when it is ready; it runs on in the background.", panel=_SERVER)
]
# Its own variable: one that is left set must not stop what another command is asked about.
Rebuild = Annotated[bool, _option("--rebuild", help="Build it anew, even if it is there.")]
StopAll = Annotated[bool, _option("--all", help="Stop every server.", variable="VLSB_STOP_ALL")]
VisionTower = Annotated[
    str | None,
    _option(
        "--vision-tower",
        metavar="TOWER",
        help="CLIP tower: a folder or an id on the Hugging Face Hub. (default: as SRC says)",
    ),
]
