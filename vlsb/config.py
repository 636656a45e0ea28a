"""The settings of a run: endpoints, sampling, limits, retry policy, protocol.

Defaults live here and nowhere else. Durations are seconds, sizes bytes. Nothing here holds a key:
an endpoint knows the *name* of the variable that does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from vlsb.records import Stage

OFFICIAL_SYSTEM_PROMPT = "You are a helpful assistant."
OFFICIAL_TARGET_TOKENS = 128
# For a target that thinks: the official 128 end before its answer begins.
THINKING_TOKENS = 4096
# Samples of a dry run: enough to see how much they differ, and one in a hundred of them all.
FORECAST_SAMPLES = 20
OFFICIAL_JUDGE_MODEL = "gpt-4o"
# The official 128 cuts the explanation and fails the parse; the label comes first, so it cannot change.
JUDGE_TOKENS = 512
# Without an explicit number of connections a model starts here and finds its own limit below the ceiling.
START_CONNECTIONS = 16
MOST_CONNECTIONS = 100
FEWEST_CONNECTIONS = 4
# Bounds against a slip of the hand, far above any use that is known.
MOST_EPOCHS = 1000
MOST_REPLICAS = 64
DEFAULT_OUTPUT_DIR = "outputs"

MAX_BODY_BYTES = 8 * 1024 * 1024
"""Decoded bytes of one reply that are read; a longer body is a fault, never an answer."""

UPLOAD_BYTES = 64 * 1024 * 1024
"""Bytes of request bodies that are in memory at once, over both models."""

START_TIMEOUT_S: float = 1800
"""How long a local engine may take to be ready, not counting a download that grows."""

GRACE_S = 10.0
"""How long requests in flight may finish after the first Ctrl-C."""

NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI-compatible base URL with a model name and the name of a key variable.

    `model` is the name as the user typed it, which every file and report shows; requests leave its `prefix`
    out. `headers` are pairs (header name, name of the variable that holds its value). `provider` names a row
    of `vlsb.models.providers`, empty for a server that is in no table.
    """

    model: str
    base_url: str
    key_variable: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    provider: str = ""
    prefix: str = ""

    @property
    def request_model(self) -> str:
        """The model's name as the provider wants it."""
        return self.model.removeprefix(self.prefix)


@dataclass(frozen=True, slots=True)
class Sampling:
    """A request's settings beyond its messages. None means: not sent.

    `extra` holds body fields that the user adds or overrides; values are JSON.
    """

    max_tokens: int
    temperature: float | None = 0.0
    top_p: float | None = None
    extra: Mapping[str, Any] = field(default_factory=lambda: NOTHING)


def merged_fields(fields: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Put together the fields of both, of which the others win; an object in both gets the keys of both."""
    return dict(fields) | {
        name: {**fields[name], **value}
        if isinstance(value, Mapping) and isinstance(fields.get(name), Mapping)
        else value
        for name, value in others.items()
    }


SAMPLING_FIELDS = tuple(each.name for each in fields(Sampling) if each.name != "extra")
"""The fields of a request that settings of a target or a judge have, in the order of run.json."""

OFFICIAL_TARGET_SAMPLING = Sampling(OFFICIAL_TARGET_TOKENS, temperature=0.0, top_p=1.0)
OFFICIAL_JUDGE_SAMPLING = Sampling(JUDGE_TOKENS, temperature=0.0, top_p=None)


@dataclass(frozen=True, slots=True)
class TargetProtocol:
    """How the paper's script asks a kind of target: its system prompt and the order of the two parts.

    An empty `system_prompt` sends none. `fields` are body fields without which a served engine would not
    build the prompt that the script's loader does.
    """

    system_prompt: str
    image_first: bool
    fields: Mapping[str, Any] = field(default_factory=lambda: NOTHING)


USUAL_ARM = "image+text"
"""What a target is shown in the paper."""

OPENAI_PROTOCOL = TargetProtocol(OFFICIAL_SYSTEM_PROMPT, image_first=False)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to insist. Attempts and total time are both bounded; all durations in seconds.

    `thinking_timeout_s` is for an attempt at a model that thinks: thousands of tokens take minutes where
    many requests share an engine.
    A wait for a rate limit does not use up attempts; `sample_timeout_s` bounds it.
    `outage_timeout_s` is how long a run probes an endpoint that stopped answering, `probe_cap_s` the
    longest pause between two probes.
    """

    max_attempts: int = 6
    attempt_timeout_s: float = 180
    thinking_timeout_s: float = 600
    sample_timeout_s: float = 1800
    outage_timeout_s: float = 300
    backoff_s: float = 1
    backoff_cap_s: float = 30.0
    probe_cap_s: float = 10.0
    # A provider that asks for more than this is shown to the user; the wait itself is honoured up to
    # the sample's deadline.
    long_wait_s: float = 120.0


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """How the target or a judge is asked: its endpoint, its sampling and its connections.

    `max_connections` starts there and is the ceiling; without it the limit is found by itself. `rpm` and
    `tpm` cap requests and tokens a minute. `protocol` is the paper's for this kind of target. `engine` is
    what can change an answer of a local engine, as JSON, and `deviations` where it leaves the paper's
    setting, in words; both are empty for any other endpoint.

    `other_urls` are further base URLs of the same model. `arm` says what a target is shown of a sample.
    `thinks` says that the model is known to reason before it answers; `thinking_tokens` are what one that
    does gets for that and its answer, None for those of `sampling`. A judge with `sees_reasoning` is shown
    what the target thought before its answer.
    """

    endpoint: Endpoint
    sampling: Sampling
    max_connections: int | None = None
    system_prompt: str = OFFICIAL_SYSTEM_PROMPT
    rpm: float | None = None
    tpm: float | None = None
    protocol: TargetProtocol = OPENAI_PROTOCOL
    engine: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    deviations: tuple[str, ...] = ()
    thinks: bool = False
    thinking_tokens: int | None = None
    sees_reasoning: bool = False
    other_urls: tuple[str, ...] = ()
    arm: str = USUAL_ARM

    @property
    def base_urls(self) -> tuple[str, ...]:
        """All addresses where the model can be asked."""
        return (self.endpoint.base_url, *self.other_urls)


SIMULATED_URL = "simulator:"
"""Stands for the simulator's address, which exists only while a run is going."""


class Party(NamedTuple):
    """The target or the judge of a run. As text: `judge gpt-4o at api.openai.com`."""

    stage: Stage
    endpoint: Endpoint

    def __str__(self) -> str:
        model, url = self.endpoint.model, self.endpoint.base_url
        where = "in the simulator" if url == SIMULATED_URL else f"at {urlsplit(url).netloc}"
        # Before the endpoint has said which model it has, there is no name.
        return " ".join(filter(None, (self.stage, model, where)))

    def flag(self, name: str) -> str:
        """An option of this party: for a judge, `model` is --judge and `base-url` --judge-base-url."""
        if self.stage == "target":
            return f"--{name}"
        return "--judge" if name == "model" else f"--judge-{name}"
