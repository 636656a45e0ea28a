"""Where the time of a session went: taken as it runs, and written as a file of numbers.

The preflight is timed apart: it sends single samples, whatever the limits are.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vlsb import __version__, strict_json
from vlsb.config import MOST_CONNECTIONS
from vlsb.endpoints.timings import Durations, Timings, Wait
from vlsb.errors import StoreError
from vlsb.runs.pipeline import Side
from vlsb.runs.store import RunStore

SCHEMA = 1
CAUSES = {"slot": Wait.SLOT, "rate": Wait.RATE, "outage": Wait.OUTAGE, "loop": Wait.LOOP}
"""Why nothing could leave a lane, by the names of the file."""


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
class LaneProfile:
    """One lane at the end of a session.

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
    def of(cls, side: Side, alone_s: float) -> LaneProfile:
        """A lane as it stands."""
        client, config = side.client, side.config
        rates = client.admission.account.rates
        limits = {"rpm": rates.rpm, "tpm": rates.tpm}
        return cls(
            timings=client.timings,
            requests=client.counts.requests,
            rate_limited=client.counts.rate_limited,
            connections=client.admission.limit,
            ceiling=client.admission.ceiling,
            wanted=config.max_connections or MOST_CONNECTIONS,
            alone_s=alone_s,
            limits={option: limit for option, limit in limits.items() if limit is not None},
            caps={"rpm": config.rpm, "tpm": config.tpm},
            tokens_per_request=rates.tokens_per_request,
        )

    def blocked_s(self, cause: Wait) -> float:
        """Seconds for which nothing could leave."""
        return self.timings.head.waited_s(cause)

    def describe(self) -> dict[str, Any]:
        """The lane as the file has it."""
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
    """A session in seconds. With `shares_gate` both lanes are one endpoint with one rate limit."""

    clocks: Clocks
    lanes: Mapping[str, LaneProfile]
    store: Mapping[str, Durations]
    transport: str = "auto"
    shares_gate: bool = False


class _Reading(NamedTuple):
    """The clocks at a moment."""

    wall_s: float
    cpu_s: float
    loop_cpu_s: float


def _read_clocks() -> _Reading:
    return _Reading(time.monotonic(), time.process_time(), time.thread_time())


class Stopwatch:
    """Times a session, from the thread that its event loop runs on."""

    def __init__(self, sides: Mapping[str, Side], store: RunStore, *, keeps_single: bool) -> None:
        """Start. With `keeps_single` every single duration is kept, for percentiles."""
        self._sides = sides
        self._store = {"write": store.writes, "sync": store.syncs}
        self._began = _read_clocks()
        self._divided: _Reading | None = None
        self._alone_s: Mapping[str, float] = {}
        if keeps_single:
            self._keep()

    def _keep(self) -> None:
        for side in self._sides.values():
            side.client.timings.keep()
        for durations in self._store.values():
            durations.keep()

    def preflight_ended(self) -> None:
        """The main part begins, the first time."""
        if self._divided is not None:
            return
        self._divided = _read_clocks()
        self._alone_s = {lane: side.client.timings.request.last_s for lane, side in self._sides.items()}

    def stop(self, transport: str) -> Profile:
        """The profile, when the last sample has ended."""
        now = _read_clocks()
        divided = self._divided or now
        main = _Reading(*(after - before for after, before in zip(now, divided, strict=True)))
        lanes = {
            lane: LaneProfile.of(side, self._alone_s.get(lane, 0.0)) for lane, side in self._sides.items()
        }
        return Profile(
            clocks=Clocks(divided.wall_s - self._began.wall_s, *main),
            lanes=lanes,
            store=self._store,
            transport=transport,
            shares_gate=len({side.client.admission.account for side in self._sides.values()}) < len(lanes),
        )


def describe(profile: Profile, limited_by: Mapping[str, Any] | None) -> dict[str, Any]:
    """The profile as its file has it."""
    clocks = profile.clocks
    return {
        "schema": SCHEMA,
        "vlsb": __version__,
        "preflight_s": round(clocks.preflight_s, 6),
        "main_s": round(clocks.main_s, 6),
        "cpu_s": round(clocks.cpu_s, 6),
        "loop_cpu_s": round(clocks.loop_cpu_s, 6),
        "limited_by": limited_by,
        "lanes": {stage: lane.describe() for stage, lane in profile.lanes.items()},
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
