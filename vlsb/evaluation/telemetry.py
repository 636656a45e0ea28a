"""Where the time of a session went: taken as it runs, and written as a file of numbers.

The preflight is timed apart: it sends single samples, whatever the limits are.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vlsb import strict_json
from vlsb._version import __version__
from vlsb.config import MOST_CONNECTIONS, ModelSettings
from vlsb.endpoints.client import EndpointClient
from vlsb.endpoints.timings import Timings, Wait
from vlsb.errors import StoreError
from vlsb.steps import Durations
from vlsb.store.store import RunStore

SCHEMA = 2
CAUSES = {"slot": Wait.CONNECTION, "rate": Wait.RATE, "outage": Wait.OUTAGE, "loop": Wait.LOOP}
"""Why no request could leave, by the names of the file."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """How long the preflight took, then how long the rest, with its processor seconds.

    `cpu_s` is of the whole process, `loop_cpu_s` of the thread that its event loop runs on.
    """

    preflight_s: float
    main_s: float
    cpu_s: float
    loop_cpu_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTimings:
    """Target or judge at the end of a session.

    `connections` is its limit at the end, `ceiling` the most it could have been, `wanted` the most that
    was asked for; `alone_s` is what a request took before there were others, 0 if none did. `limits` a
    minute were in force at the end, `caps` are the user's own; both by option, `rpm` and `tpm`.
    """

    timings: Timings
    requests: int
    rate_limited: int
    connections: int
    ceiling: int
    wanted: int
    alone_s: float
    limits: Mapping[str, float]
    caps: Mapping[str, float | None]
    tokens_per_request: float

    @classmethod
    def of(cls, client: EndpointClient, config: ModelSettings, alone_s: float) -> ModelTimings:
        """Read how target or judge stands."""
        state = client.admission.state()
        limits = {"rpm": state.rpm, "tpm": state.tpm}
        return cls(
            timings=client.timings,
            requests=state.requests,
            rate_limited=state.rate_limited,
            connections=state.limit,
            ceiling=state.ceiling,
            wanted=config.max_connections or MOST_CONNECTIONS * state.replicas[1],
            alone_s=alone_s,
            limits={option: limit for option, limit in limits.items() if limit is not None},
            caps={"rpm": config.rpm, "tpm": config.tpm},
            tokens_per_request=state.tokens_per_request,
        )

    def blocked_s(self, cause: Wait) -> float:
        """Return the seconds for which nothing could leave."""
        return self.timings.head.waited_s(cause)

    def describe(self) -> dict[str, Any]:
        """Return it as the file has it."""
        return {
            "requests": self.requests,
            "rate_limited": self.rate_limited,
            "connections": self.connections,
            "rpm": self.limits.get("rpm"),
            "tpm": self.limits.get("tpm"),
            "alone_s": round(self.alone_s, 6),
            "blocked_s": {name: round(self.blocked_s(cause), 6) for name, cause in CAUSES.items()},
            "steps": {name: step.describe() for name, step in self.timings.steps.items()},
        }


@dataclass(frozen=True, slots=True)
class Profile:
    """A session in seconds. With `shares_account` target and judge share one rate limit."""

    clocks: Clocks
    models: Mapping[str, ModelTimings]
    store: Mapping[str, Durations]
    transport: str = "auto"
    shares_account: bool = False


class _Instant(NamedTuple):
    """The clocks at a moment."""

    wall_s: float
    cpu_s: float
    loop_cpu_s: float


def _read_clocks() -> _Instant:
    return _Instant(time.monotonic(), time.process_time(), time.thread_time())


class Stopwatch:
    """Times a session, from the thread that its event loop runs on."""

    def __init__(
        self, clients: Mapping[str, EndpointClient], settings: Mapping[str, ModelSettings], store: RunStore
    ) -> None:
        self._clients = clients
        self._settings = settings
        self._store = {"write": store.writes, "sync": store.syncs}
        self._began = _read_clocks()
        self._divided: _Instant | None = None
        self._alone_s: Mapping[str, float] = {}

    def preflight_ended(self) -> None:
        """Begin the main part, the first time."""
        if self._divided is not None:
            return
        self._divided = _read_clocks()
        self._alone_s = {name: client.timings.request.last_s for name, client in self._clients.items()}

    def stop(self, transport: str) -> Profile:
        """Return the profile, when the last sample has ended."""
        now = _read_clocks()
        divided = self._divided or now
        main = _Instant(*(after - before for after, before in zip(now, divided, strict=True)))
        models: dict[str, ModelTimings] = {
            stage: ModelTimings.of(self._clients[stage], settings, self._alone_s.get(stage, 0.0))
            for stage, settings in self._settings.items()
        }
        accounts = [client.admission.accounts for client in self._clients.values()]
        return Profile(
            clocks=Clocks(divided.wall_s - self._began.wall_s, *main),
            models=models,
            store=self._store,
            transport=transport,
            shares_account=len(frozenset().union(*accounts)) < sum(map(len, accounts)),
        )


def describe(profile: Profile, limited_by: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the profile as its file has it."""
    clocks = profile.clocks
    return {
        "schema": SCHEMA,
        "vlsb": __version__,
        "preflight_s": round(clocks.preflight_s, 6),
        "main_s": round(clocks.main_s, 6),
        "cpu_s": round(clocks.cpu_s, 6),
        "loop_cpu_s": round(clocks.loop_cpu_s, 6),
        "limited_by": limited_by,
        "lanes": {stage: model.describe() for stage, model in profile.models.items()},
        "store": {name: durations.describe() for name, durations in profile.store.items()},
    }


def write_profile(path: Path, document: Mapping[str, Any]) -> None:
    """Write the file, for its owner alone. Raises StoreError."""
    text = strict_json.dumps(document, indent=2) + "\n"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
    except OSError as error:
        raise StoreError.of(f"{path}: the profile cannot be written", error) from error


SHORTEST_S = 10.0
"""A session's main part that is shorter tells nothing about its limit."""
WORTH_SAYING = 0.25
"""The share of a session for which nothing could leave, below which no flag gains much."""
BUSY_LOOP = 0.8
BUSY_PROCESS = 0.95
"""Processor seconds a second, of the loop's thread and of all threads, that leave nothing to gain."""
SLOWED_DOWN = 4.0
"""How much longer a request takes among many than alone, from which more connections are no advice."""
TURNS = 10
"""How often a request waits for its turn on the loop, at most."""
# A provider that refuses requests far below the limit it names means another one.
NEAR_LIMIT = 0.5
# With everything in flight at once, a session takes a few latencies of target and judge.
FEW_LATENCIES = 5
# The most that `--max-connections` takes.
MOST_TYPED = 4096

_UNITS = {"rpm": "requests", "tpm": "tokens"}


@dataclass(frozen=True, slots=True)
class Limit:
    """What limited a session: connections, endpoint, upload, rate, outage, processor, latency.

    `stage` is None for what target and judge share; `share` is the part of the session that it took, for the
    processor the part of a core that was used.
    """

    cause: str
    stage: str | None
    share: float
    line: str

    def describe(self) -> dict[str, Any]:
        """Return the limit as the profile's file has it."""
        return {"cause": self.cause, "lane": self.stage, "share": round(self.share, 4), "line": self.line}


def find_limit(profile: Profile) -> Limit | None:
    """Find what limited a session; None where it was too short, or where nothing stands out."""
    main_s = profile.clocks.main_s
    if main_s < SHORTEST_S or not profile.models:
        return None
    blocked = {
        (stage, cause): model.blocked_s(cause)
        for stage, model in profile.models.items()
        for cause in CAUSES.values()
    }
    (stage, cause), most_s = max(blocked.items(), key=lambda each: each[1])
    share = min(1.0, most_s / main_s)
    is_blocked = share >= WORTH_SAYING
    if is_blocked and cause is Wait.OUTAGE:
        return Limit("outage", stage, share, f"Limited by outages: the {stage} was down for {most_s:.0f} s.")
    if is_blocked and cause is Wait.RATE:
        return _rate(stage, profile, share)
    process, loop = profile.clocks.cpu_s / main_s, profile.clocks.loop_cpu_s / main_s
    # One loop can use no more than one core.
    is_busy, model = loop >= BUSY_LOOP or process >= BUSY_PROCESS, profile.models[stage]
    # Requests may wait for this process: for their turn, or for their bodies to be built.
    is_late = (
        _bodies_s(model)[0] >= model.timings.request.mean_s
        or model.blocked_s(Wait.LOOP) >= WORTH_SAYING * main_s
    )
    if is_busy or (is_blocked and is_late):
        helps = " Try --transport auto." if profile.transport == "httpx" else ""
        line = f"Limited by the processor: vlsb got {100 * process:.0f} % of a core.{helps}"
        return Limit("processor", None, process, line)
    return _connections(stage, profile, share) if is_blocked else _latency(profile)


def _bodies_s(model: ModelTimings) -> tuple[float, float]:
    """Return what building and uploading a body took; the slower one makes others wait for room in memory."""
    building, uploading, room = (
        step.mean_s for step in (model.timings.body, model.timings.upload, model.timings.room)
    )
    return (building + room, uploading) if building >= uploading else (building, uploading + room)


def _connections(stage: str, profile: Profile, share: float) -> Limit:
    """Say that every connection was in use: because of latency, unless there was another reason."""
    model = profile.models[stage]
    if model.rate_limited and model.connections < model.ceiling:
        return _rate(stage, profile, share)
    waiting_s, (_, uploading_s) = model.timings.first_byte.mean_s, _bodies_s(model)
    if uploading_s >= waiting_s:
        line = (
            f"Limited by the upload: {_seconds(uploading_s)} a request, then {_seconds(waiting_s)} to wait."
        )
        return Limit("upload", stage, share, line)
    number = "1 connection" if model.connections == 1 else f"{model.connections} connections"
    late_s = TURNS * model.blocked_s(Wait.LOOP) / max(1, model.requests)
    # Whether the endpoint takes much longer under load, our own lateness taken off.
    if 0 < model.alone_s * SLOWED_DOWN <= model.timings.request.mean_s - late_s:
        many, alone = _seconds(model.timings.request.mean_s), _seconds(model.alone_s)
        line = f"Limited by the {stage}: {many} a request at {number}, {alone} alone."
        return Limit("endpoint", stage, share, line)
    if model.connections == model.ceiling < model.wanted:
        helps = ": raise `ulimit -n`"
    elif model.connections < MOST_TYPED:
        helps = f": try {_flag(stage, 'max-connections')} {min(MOST_TYPED, 2 * model.connections)}"
    else:
        helps = ""
    return Limit("connections", stage, share, f"Limited by the {stage}'s latency at {number}{helps}.")


def _rate(stage: str, profile: Profile, share: float) -> Limit:
    """Say which limit a minute held, the user's or the provider's; else one that was only met as 429."""
    models = profile.models if profile.shares_account else {stage: profile.models[stage]}
    stage = next(iter(models))
    whose = "endpoint" if profile.shares_account else stage
    refused = sum(model.rate_limited for model in models.values())
    sent_per_minute = 60 * sum(model.requests for model in models.values()) / profile.clocks.main_s
    option = _tighter_limit(models[stage], at_most=sent_per_minute / NEAR_LIMIT if refused else None)
    per_minute = 0.0 if option is None else models[stage].limits[option]
    # The shares of replicas add up to nearly that.
    capped = [
        each
        for each in models
        if option and (cap := models[each].caps[option]) is not None and math.isclose(cap, per_minute)
    ]
    if option is None:
        met = f" (429 x{refused})" if refused else ""
        line = f"Limited by the {whose}'s rate limit{met}: try {_flag(stage, 'rpm')} with your tier's number."
    elif capped:
        stage = capped[0]
        line = f"Limited by {_flag(stage, option)} {_number(per_minute)}."
    else:
        line = f"Limited by the {whose}'s rate limit, {_number(per_minute)} {_UNITS[option]} a minute."
    return Limit("rate", stage if capped or not profile.shares_account else None, share, line)


def _tighter_limit(model: ModelTimings, *, at_most: float | None) -> str | None:
    """Return the tighter limit a minute, in requests, leaving out those above `at_most`."""
    tokens = model.tokens_per_request
    allowed = {
        option: limit / tokens if option == "tpm" else limit
        for option, limit in model.limits.items()
        if option != "tpm" or tokens > 0
    }
    near = [option for option, requests in allowed.items() if at_most is None or requests <= at_most]
    return min(near, key=lambda option: allowed[option], default=None)


def _latency(profile: Profile) -> Limit | None:
    """Say that hardly anything had to wait: a session then takes as long as its answers."""
    means: Mapping[str, float] = {
        stage: model.timings.request.mean_s for stage, model in profile.models.items()
    }
    share = sum(means.values()) / profile.clocks.main_s
    if share * FEW_LATENCIES < 1:
        return None
    slower = max(means, key=lambda stage: means[stage])
    line = f"Limited by the {slower}'s latency, {_seconds(means[slower])} a request: hardly one had to wait."
    return Limit("latency", slower, min(1.0, share), line)


def _flag(stage: str, name: str) -> str:
    return f"--{name}" if stage == "target" else f"--judge-{name}"


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value >= 1 else f"{value:.2f} s"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:g}"
