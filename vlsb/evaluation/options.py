"""The options of a run, once: what each is called, what it may be, what it says of itself and its default.

A command's options are made from these fields, and so are the command that resumes a run and the words of
`vlsb.evaluate()`. The help page waits for this module: it brings no HTTP stack and nothing of a screen.
"""

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self, get_args

from vlsb import config
from vlsb.endpoints.credentials import is_variable_name
from vlsb.errors import ConfigError
from vlsb.records import VLSBENCH

_POLICY = config.RetryPolicy()
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class HelpPanel(StrEnum):
    """The boxes of a help page, in their order."""

    TARGET = "Target"
    JUDGE = "Judge"
    DATA = "Data"
    RUN = "Run"
    PROTOCOL = "Protocol (recorded; printed as deviations)"
    SERVER = "Server"
    ENGINE = "Local engine (any other option of `vllm serve` goes after --)"
    SPEED = "Connections and patience"


@dataclass(frozen=True, slots=True)
class Option:
    """What an option says of itself on the command line: its help, its box, the word for its value.

    Its variable is VLSB_ and its name, or `variable` where that means something else. `also` is another name.
    `min` and `max` bound a number; `choices` are the words that it may be. An argument takes what follows
    `--` and is in no help page. One that `goes_to_engine` is an option of `vllm serve` by the same name.
    """

    help: str
    panel: HelpPanel | None = None
    metavar: str | None = None
    also: str | None = None
    variable: str | None = None
    min: float | None = None
    max: float | None = None
    choices: tuple[str, ...] = ()
    is_argument: bool = False
    goes_to_engine: bool = False


_NOT_REPEATED = ("resume", "dry_run", "batch_again", "engine_options")
_OF_EVERY_SESSION = ("data_root", "allow_http", "ca_bundle", "transport", "prices", "display", "servers_dir")
# What may be a folder, and is looked for as one.
_MAY_BE_PATHS = ("model", "judge", "name", "weights", "engine")
# What Linux takes: NAME_MAX, and PATH_MAX less its closing null.
_LONGEST_NAME, _LONGEST_PATH = 255, 4095
DEMO = "demo"
"""The model that the simulator plays, as target and as judge."""
OF_EACH_JUDGE = (
    *("judge", "judge_base_url", "judge_api_key_env"),
    *("judge_max_connections", "judge_rpm", "judge_tpm"),
)
"""Options that are given once for all judges, or once for each in the judges' order."""


# Annotations are no texts in this module: a command reads them from the fields.
@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The options of `vlsb run`, `vlsb judge` and `vlsb serve`, as typed. Field names are option names."""

    model: Annotated[
        str | None,
        Option(
            "Model to evaluate: gpt-4o, qwen3-vl, org/name, a folder, ...; repeat for more.",
            HelpPanel.TARGET,
            metavar="NAME",
        ),
    ] = None
    arch: Annotated[
        str | None,
        Option(
            "The authors' spelling: a local family, or openai with --model.", HelpPanel.TARGET, metavar="NAME"
        ),
    ] = None
    base_url: Annotated[
        tuple[str, ...],
        Option(
            "OpenAI-compatible endpoint of the target, up to /v1; repeat for replicas of it.",
            HelpPanel.TARGET,
            metavar="URL",
        ),
    ] = ()
    api_key_env: Annotated[
        str | None, Option("Variable that holds the target's key.", HelpPanel.TARGET, metavar="VAR")
    ] = None
    header: Annotated[
        tuple[str, ...],
        Option("Header for the target, its value read from VAR.", HelpPanel.TARGET, metavar="NAME=VAR"),
    ] = ()
    judge: Annotated[
        tuple[str, ...],
        Option(
            "Judge: a model, a name of `vlsb judges` or KIND:MODEL; repeat for more. (default: gpt-4o)",
            HelpPanel.JUDGE,
            metavar="NAME",
        ),
    ] = ()
    judge_base_url: Annotated[
        tuple[str, ...],
        Option(
            "Endpoint of the judge; never taken from --base-url. Of several: one each, in their order.",
            HelpPanel.JUDGE,
            metavar="URL",
        ),
    ] = ()
    judge_api_key_env: Annotated[
        tuple[str, ...],
        Option(
            "Variable that holds the judge's key. Of several: one each, in their order.",
            HelpPanel.JUDGE,
            metavar="VAR",
        ),
    ] = ()
    judge_header: Annotated[
        tuple[str, ...],
        Option("Header for the judge, its value read from VAR.", HelpPanel.JUDGE, metavar="NAME=VAR"),
    ] = ()
    judges_dir: Annotated[
        Path | None, Option("Folder with your own judges, each a NAME.yaml.", HelpPanel.JUDGE, metavar="DIR")
    ] = None
    dataset: Annotated[
        str, Option("The data set, as an installed package calls it.", HelpPanel.DATA, metavar="NAME")
    ] = VLSBENCH
    data_root: Annotated[
        Path | None,
        Option(
            "VLSBench in a folder, as files or parquet shards. (default: Hugging Face Hub)",
            HelpPanel.DATA,
            metavar="DIR",
        ),
    ] = None
    limit: Annotated[
        str | None,
        Option("First N, positions A to B, or a share of the samples.", HelpPanel.DATA, metavar="N|A-B|0.1"),
    ] = None
    sample_id: Annotated[
        tuple[int, ...], Option("Only this instruction_id; repeat for more.", HelpPanel.DATA, metavar="ID")
    ] = ()
    category: Annotated[
        tuple[str, ...], Option("Only this category; repeat for more.", HelpPanel.DATA, metavar="NAME")
    ] = ()
    sub_category: Annotated[
        tuple[str, ...], Option("Only this sub-category; repeat for more.", HelpPanel.DATA, metavar="NAME")
    ] = ()
    source: Annotated[
        tuple[str, ...], Option("Only this image source; repeat for more.", HelpPanel.DATA, metavar="NAME")
    ] = ()
    shuffle: Annotated[
        bool, Option("Mix the samples, all categories evenly, before --limit.", HelpPanel.DATA)
    ] = False
    seed: Annotated[int, Option("Seed of --shuffle.", HelpPanel.DATA, metavar="N")] = 0
    skip_bad_images: Annotated[
        bool, Option("Record samples with unusable images as errors and go on.", HelpPanel.DATA)
    ] = False
    accept_changed_images: Annotated[
        bool,
        Option(
            "Send images even if they changed since they were first sent. The report says so.",
            HelpPanel.DATA,
        ),
    ] = False
    output_dir: Annotated[Path, Option("Parent directory of runs.", HelpPanel.RUN, metavar="DIR")] = Path(
        config.DEFAULT_OUTPUT_DIR
    )
    name: Annotated[
        str | None, Option("Name of the run's directory. (default: the model)", HelpPanel.RUN, metavar="NAME")
    ] = None
    resume: Annotated[bool, Option("Continue the run, or start it if there is none.", HelpPanel.RUN)] = False
    retry: Annotated[
        tuple[str, ...],
        Option(
            "With --resume: do this outcome again too (target_blocked, judge_invalid, ...).",
            HelpPanel.RUN,
            metavar="OUTCOME",
        ),
    ] = ()
    fail_on_error: Annotated[
        str,
        Option(
            "Samples that may lack a verdict with exit code 0. It never stops a run.",
            HelpPanel.RUN,
            metavar="N|SHARE",
        ),
    ] = "0"
    display: Annotated[
        str | None,
        Option("Progress. (default: rich on a terminal)", HelpPanel.RUN, metavar="rich|plain|none"),
    ] = None
    epochs: Annotated[
        int,
        Option(
            "Responses a sample, each judged apart.",
            HelpPanel.RUN,
            metavar="K",
            min=1,
            max=config.MOST_EPOCHS,
        ),
    ] = 1
    no_judge: Annotated[bool, Option("Only collect responses.", HelpPanel.RUN)] = False
    dry_run: Annotated[bool, Option("Send 20 samples, then say what the rest would cost.", HelpPanel.RUN)] = (
        False
    )
    batch: Annotated[
        bool,
        Option("Send everything through the providers' batch APIs: cheaper, within a day.", HelpPanel.RUN),
    ] = False
    batch_again: Annotated[
        tuple[str, ...],
        Option(
            "With --batch: ask again for what batch NAME cannot deliver, though it may be paid for twice.",
            HelpPanel.RUN,
            metavar="NAME",
        ),
    ] = ()
    max_requests: Annotated[
        int | None,
        Option(
            "Stop after this many requests by this command, over all its models; resumable.",
            HelpPanel.RUN,
            metavar="N",
            min=1,
        ),
    ] = None
    max_cost: Annotated[
        float | None,
        Option(
            "Stop when this command has cost this many dollars, over all its models; resumable.",
            HelpPanel.RUN,
            metavar="USD",
            min=0,
        ),
    ] = None
    prices: Annotated[
        Path | None, Option("Your own prices instead of ours, as JSON.", HelpPanel.RUN, metavar="FILE")
    ] = None
    max_connections: Annotated[
        int | None,
        Option(
            "Most requests in flight to the target. (default: learned, up to 100)",
            HelpPanel.SPEED,
            metavar="N",
            min=1,
            max=4096,
        ),
    ] = None
    judge_max_connections: Annotated[
        tuple[int, ...],
        Option(
            "Most requests in flight to the judge. (default: learned, up to 100)",
            HelpPanel.SPEED,
            metavar="N",
            min=1,
            max=4096,
        ),
    ] = ()
    rpm: Annotated[
        float | None,
        Option("Most requests a minute to the target.", HelpPanel.SPEED, metavar="N", min=0.1),
    ] = None
    tpm: Annotated[
        float | None, Option("Most tokens a minute to the target.", HelpPanel.SPEED, metavar="N", min=1)
    ] = None
    judge_rpm: Annotated[
        tuple[float, ...],
        Option("Most requests a minute to the judge.", HelpPanel.SPEED, metavar="N", min=0.1),
    ] = ()
    judge_tpm: Annotated[
        tuple[float, ...],
        Option("Most tokens a minute to the judge.", HelpPanel.SPEED, metavar="N", min=1),
    ] = ()
    max_attempts: Annotated[
        int,
        Option(
            "Requests sent for one completion; rate limits do not count.", HelpPanel.SPEED, metavar="N", min=1
        ),
    ] = _POLICY.max_attempts
    attempt_timeout: Annotated[
        float, Option("Seconds for one request, all included.", HelpPanel.SPEED, metavar="SECONDS", min=0.1)
    ] = _POLICY.attempt_timeout_s
    sample_timeout: Annotated[
        float,
        Option("Seconds for one completion with its retries.", HelpPanel.SPEED, metavar="SECONDS", min=0.1),
    ] = _POLICY.sample_timeout_s
    outage_timeout: Annotated[
        float,
        Option("Seconds to wait for an endpoint that is down.", HelpPanel.SPEED, metavar="SECONDS", min=0),
    ] = _POLICY.outage_timeout_s
    backoff: Annotated[
        float,
        Option(
            "Seconds of the first retry's longest wait; it doubles.",
            HelpPanel.SPEED,
            metavar="SECONDS",
            min=0.01,
        ),
    ] = _POLICY.backoff_s
    allow_http: Annotated[
        bool, Option("Send keys in clear to a host that has no https.", HelpPanel.SPEED)
    ] = False
    ca_bundle: Annotated[
        Path | None, Option("File of certificates for a private host.", HelpPanel.SPEED, metavar="FILE")
    ] = None
    transport: Annotated[
        str,
        Option(
            "The HTTP transport: our fast one, or httpx's (auto: httpx's behind a proxy).",
            HelpPanel.SPEED,
            metavar="auto|httpx",
            # `wire` is what `auto` was called when it could be had behind a proxy too.
            choices=("auto", "wire", "httpx"),
        ),
    ] = "auto"
    profile: Annotated[
        Path | None, Option("Write where the time went, as JSON.", HelpPanel.SPEED, metavar="FILE")
    ] = None
    weights: Annotated[
        str | None,
        Option(
            "A folder or an id on the Hugging Face Hub. (default: the model's)",
            HelpPanel.ENGINE,
            metavar="WEIGHTS",
        ),
    ] = None
    revision: Annotated[
        str | None,
        Option("Commit or branch of the weights on the Hugging Face Hub.", HelpPanel.ENGINE, metavar="SHA"),
    ] = None
    dtype: Annotated[
        str | None,
        Option(
            "Type of the weights in memory, such as bfloat16.",
            HelpPanel.ENGINE,
            metavar="DTYPE",
            goes_to_engine=True,
        ),
    ] = None
    tensor_parallel_size: Annotated[
        int | None,
        Option(
            "GPUs that share one copy of the model.",
            HelpPanel.ENGINE,
            metavar="N",
            min=1,
            goes_to_engine=True,
        ),
    ] = None
    quantization: Annotated[
        str | None,
        Option(
            "Quantization of the weights, as the engine names it: fp8, bitsandbytes, ...",
            HelpPanel.ENGINE,
            metavar="NAME",
            goes_to_engine=True,
        ),
    ] = None
    lora: Annotated[
        str | None,
        Option("An adapter's folder, and the name to ask it by.", HelpPanel.ENGINE, metavar="NAME=PATH"),
    ] = None
    trust_remote_code: Annotated[
        bool,
        Option(
            "Run the Python code of the weights' repository, at --revision.",
            HelpPanel.ENGINE,
            goes_to_engine=True,
        ),
    ] = False
    gpus: Annotated[
        str | None,
        Option(
            "Which GPUs to use, such as 0,1. (default: those with most memory free)",
            HelpPanel.ENGINE,
            metavar="LIST",
        ),
    ] = None
    engine: Annotated[
        str,
        Option(
            "The engine: one built here or on PATH, a program, or an environment's folder.",
            HelpPanel.ENGINE,
            metavar="ENGINE",
        ),
    ] = "auto"
    servers_dir: Annotated[
        Path | None,
        Option("Folder with your own models, each a NAME.<family>.yaml.", HelpPanel.ENGINE, metavar="DIR"),
    ] = None
    start_timeout: Annotated[
        float,
        Option(
            "Seconds that the server may take to get ready; downloads do not count.",
            HelpPanel.ENGINE,
            metavar="SECONDS",
            min=1,
        ),
    ] = config.START_TIMEOUT_S
    replicas: Annotated[
        int,
        Option(
            "Engines of the model side by side, each on GPUs of its own.",
            HelpPanel.ENGINE,
            metavar="N",
            min=1,
            max=config.MOST_REPLICAS,
        ),
    ] = 1
    max_restarts: Annotated[
        int,
        Option(
            "Restarts of an engine that dies; deaths by one sample do not count.",
            HelpPanel.ENGINE,
            metavar="N",
            min=0,
        ),
    ] = 1
    keep_server: Annotated[
        bool, Option("Leave the engine running when the run is over.", HelpPanel.ENGINE)
    ] = False
    yes: Annotated[
        bool, Option("Do not ask: install a missing engine, judge the rest.", HelpPanel.ENGINE, also="-y")
    ] = False
    engine_options: Annotated[
        tuple[str, ...],
        Option(
            "Options for `vllm serve`, as its own help has them.",
            metavar="-- ENGINE OPTIONS",
            is_argument=True,
        ),
    ] = ()
    max_tokens: Annotated[
        int | None,
        Option(
            f"Most tokens of a response. (default: {config.OFFICIAL_TARGET_TOKENS}; "
            f"{config.THINKING_TOKENS} where the target thinks)",
            HelpPanel.PROTOCOL,
            metavar="N",
            min=1,
        ),
    ] = None
    temperature: Annotated[
        float | None, Option("The target's temperature. (default: 0)", HelpPanel.PROTOCOL, metavar="T")
    ] = None
    thinking: Annotated[
        str,
        Option(
            "Ask the target to reason before it answers, or not to; auto leaves it as it is.",
            HelpPanel.PROTOCOL,
            choices=("auto", "off", "on"),
        ),
    ] = "auto"
    arm: Annotated[
        str,
        Option(
            "What the target is shown: image+text, text, caption+text, blank+text, shuffled+text[:SEED] or "
            "corrupted+text:KIND:LEVEL; repeat for a run of each.",
            HelpPanel.PROTOCOL,
            metavar="ARM",
        ),
    ] = config.USUAL_ARM
    system_prompt: Annotated[
        str | None, Option("The target's system prompt; empty for none.", HelpPanel.PROTOCOL, metavar="TEXT")
    ] = None
    judge_template: Annotated[
        Path | None,
        Option("File with {question} and {response} for the judge.", HelpPanel.PROTOCOL, metavar="FILE"),
    ] = None
    judge_sees: Annotated[
        str,
        Option(
            "Whether the judge is shown the target's reasoning too.",
            HelpPanel.PROTOCOL,
            choices=("answer", "reasoning+answer"),
        ),
    ] = "answer"
    target_field: Annotated[
        tuple[str, ...],
        Option("Extra field of the target's requests.", HelpPanel.PROTOCOL, metavar="KEY=VALUE", also="-M"),
    ] = ()
    judge_field: Annotated[
        tuple[str, ...],
        Option("Extra field of the judge's requests.", HelpPanel.PROTOCOL, metavar="KEY=VALUE", also="-J"),
    ] = ()

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Take what a command was given; None leaves a default. Lists become tuples, to be compared."""
        values: Any = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in given.items()
            if value is not None
        }
        return cls(**values)

    def __post_init__(self) -> None:
        """Refuse numbers without an end, words an option does not take, and keys in place of variables.

        From here on names are shown and stored.
        """
        for name in ("base_url", *OF_EACH_JUDGE):
            # From Python, a single one may be given as it is.
            if not isinstance(value := getattr(self, name), tuple):
                object.__setattr__(self, name, () if value is None else (value,))
        for field in fields(self):
            flag, value = as_flag(field.name), getattr(self, field.name)
            choices: tuple[str, ...] = get_args(field.type)[1].choices
            if choices and value not in choices:
                raise ConfigError(f"{flag} {value}: not one of {', '.join(choices)}.")
            for each in value if isinstance(value, tuple) else (value,):
                if isinstance(each, float) and not math.isfinite(each):
                    raise ConfigError(f"{flag} {each}: not a finite number.")
                if isinstance(each, Path):
                    require_path(flag, each)
                elif isinstance(each, str) and field.name in _MAY_BE_PATHS:
                    # A panel is named with its members.
                    for name in each.split(","):
                        require_path(flag, name)
        if self.api_key_env is not None:
            _require_variable("--api-key-env", self.api_key_env)
        for variable in self.judge_api_key_env:
            _require_variable("--judge-api-key-env", variable)
        for name in ("header", "judge_header"):
            if pairs := getattr(self, name):
                parse_headers(as_flag(name), pairs)

    @property
    def is_demo(self) -> bool:
        """Whether the simulator plays the target."""
        return not self.base_url and (self.model or "").strip() == DEMO

    @property
    def engine_settings(self) -> dict[str, Any]:
        """The options of `vllm serve` that were given, by its names."""
        given = {name.replace("_", "-"): getattr(self, name) for name in _TO_ENGINE}
        return {name: value for name, value in given.items() if value is not None and value is not False}

    def as_words(self) -> list[str]:
        """Return every option that is not at its default, as it is typed, but those of one session."""
        words: list[str] = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value == field.default or field.name in _NOT_REPEATED:
                continue
            if value is True:
                words.append(as_flag(field.name))
            else:
                for each in value if isinstance(value, tuple) else (value,):
                    words += [as_flag(field.name), str(each)]
        return words

    def as_resume(self, *more: str) -> list[str]:
        """Return the command that goes on with a run."""
        after_dashes = ["--", *self.engine_options] if self.engine_options else []
        return ["vlsb", "run", *more, *self.as_words(), "--resume", *after_dashes]

    def of_judging(self) -> Self:
        """Return those options of a run that say how its judges are asked."""
        names = [each.name for each in fields(self)]
        kept = [name for name in names if name.startswith("judge") or name in _OF_EVERY_SESSION]
        return type(self)(**{name: getattr(self, name) for name in kept})


def names_in(panel: HelpPanel, *, but: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the options in a box of the help page, in their order."""
    own = [each.name for each in fields(RunOptions) if get_args(each.type)[1].panel is panel]
    return tuple(name for name in own if name not in but)


ONLY_ENGINES = (
    *names_in(HelpPanel.ENGINE, but=("engine", "servers_dir", "start_timeout", "max_restarts", "yes")),
    "engine_options",
)
"""Options that mean something only for a target's engine; those left out speak of a judge's engine too."""
_TO_ENGINE = tuple(each.name for each in fields(RunOptions) if get_args(each.type)[1].goes_to_engine)


def as_flag(name: str) -> str:
    """Return a field's name as it is typed."""
    return "--" + name.replace("_", "-")


def require_path(flag: str, path: Path | str) -> None:
    """Raise ConfigError for what no file system can look up: it would be an error of its own everywhere."""
    try:
        name = os.fsencode(path)
    except UnicodeEncodeError:
        raise ConfigError(f"{flag}: holds a character that no path can have.") from None
    if b"\0" in name:
        raise ConfigError(f"{flag}: holds a null character, which no path can have.")
    if len(name) > _LONGEST_PATH or any(len(part) > _LONGEST_NAME for part in name.split(b"/")):
        raise ConfigError(
            f"{flag}: is longer than a path may be: {_LONGEST_NAME} bytes a name, {_LONGEST_PATH:,} in all."
        )


def _require_variable(flag: str, name: str) -> None:
    if not is_variable_name(name):
        # What was given is not repeated: it may be the key.
        raise ConfigError(
            f"{flag}: not the name of a variable. Put the key into a variable and pass the variable's name, "
            f"for example {flag} OPENAI_API_KEY."
        )


def parse_headers(flag: str, pairs: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return the header names of NAME=VARIABLE pairs with their variables. Raises ConfigError for others."""
    headers = []
    for pair in pairs:
        name, _, variable = pair.partition("=")
        if not _HEADER_NAME.fullmatch(name) or not is_variable_name(variable):
            # The pair is not repeated: a value instead of a variable's name may be a key.
            raise ConfigError(f"{flag}: write NAME=VARIABLE, for example api-key=AZURE_OPENAI_API_KEY.")
        headers.append((name, variable))
    return tuple(headers)
