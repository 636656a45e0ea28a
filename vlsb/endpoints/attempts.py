"""What sending requests uses up and leaves behind: attempts, time, tokens, events; and who may still send."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from vlsb.config import RetryPolicy
from vlsb.endpoints.faults import Decision
from vlsb.endpoints.pacing import Time
from vlsb.endpoints.request import Checksums
from vlsb.errors import GapsError, ImageChangedError
from vlsb.records import Stage, Usage


class StoppedError(Exception):
    """The run is stopping: this request was not sent and its sample is left as it is."""


@dataclass(slots=True)
class Traffic:
    """Which tasks have a request in flight, and whether new ones may start. Shared by both lanes.

    `is_doomed` comes before `is_stopping`: what ends the run is known, and being put into words.
    `left` is how many requests may still be sent; None for any number.
    """

    is_stopping: bool = False
    is_doomed: bool = False
    left: int | None = None
    in_flight: set[asyncio.Task[object]] = field(default_factory=set)

    @property
    def is_over(self) -> bool:
        """Whether nothing new may be sent."""
        return self.is_stopping or self.is_doomed

    def spend_one(self) -> None:
        """Count a request that is about to leave; raises GapsError when none is left."""
        if self.left is None:
            return
        if self.left <= 0:
            raise GapsError("--max-requests is reached. Everything finished is stored.")
        self.left -= 1


@dataclass(frozen=True, slots=True)
class Event:
    """Something a lane did: names and numbers, never content."""

    kind: str
    lane: Stage
    sample_id: int | None = None
    code: str = ""
    wait_s: float | None = None
    attempt: int | None = None
    status: int | None = None
    limit: int | None = None
    image_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """A request that brought no answer, after `attempts` HTTP requests.

    `image_sha256` is of the image that was sent last, None if none was. `changed` ends the run: the image
    is not that one any more.
    """

    decision: Decision
    attempts: int
    usage: Usage = Usage()
    image_sha256: str | None = None
    changed: ImageChangedError | None = None


@dataclass(slots=True)
class Counts:
    """What a lane has done so far in this session, for the progress display."""

    requests: int = 0
    answered: int = 0
    rate_limited: int = 0


class Spending:
    """What one completion has used up so far."""

    def __init__(self, policy: RetryPolicy, time: Time) -> None:
        self.sent = 0
        self.failed = 0
        self.failed_by_code: Counter[str] = Counter()
        self.usage = Usage()
        # The last attempt failed in an outage, which is not the sample's fault.
        self.is_excused = False
        self.checksums: Checksums | None = None  # of the attempt that was sent last
        self._policy = policy
        self._time = time
        self._deadline: float | None = None

    def begin(self) -> None:
        """Start the sample's time with its first attempt: queueing for a slot is not its fault."""
        if self._deadline is None:
            self._deadline = self._time.clock() + self._policy.sample_timeout_s

    def count_failure(self, code: str) -> None:
        """One attempt less."""
        self.failed += 1
        self.failed_by_code[code] += 1

    def forgive(self) -> None:
        """The endpoint was down: the sample has all its attempts and all its time again."""
        self.is_excused = False
        self.failed = 0
        self.failed_by_code.clear()
        self._deadline = None

    def extend(self, seconds: float) -> None:
        """Give back time that an outage took."""
        if self._deadline is not None:
            self._deadline += seconds

    def left_s(self) -> float:
        """Seconds until the sample's deadline."""
        return (
            self._policy.sample_timeout_s if self._deadline is None else self._deadline - self._time.clock()
        )

    def attempt_timeout_s(self) -> float:
        """The total deadline of the next attempt."""
        return max(0.001, min(self._policy.attempt_timeout_s, self.left_s()))

    @property
    def image_sha256(self) -> str | None:
        """Of the image that was sent last; None if none was."""
        return None if self.checksums is None else self.checksums.image

    def ended(self, decision: Decision, changed: ImageChangedError | None = None) -> Ended:
        """What is left to say when there is no answer."""
        return Ended(decision, self.sent, self.usage, self.image_sha256, changed)

    def add(self, usage: Usage) -> None:
        """Tokens of unusable answers were paid for too."""
        self.usage = add_usage(self.usage, usage)


def add_usage(one: Usage, other: Usage) -> Usage:
    """The sum; a count that neither gives stays unknown."""

    def total(a: int | None, b: int | None) -> int | None:
        return None if a is None and b is None else (a or 0) + (b or 0)

    return Usage(
        total(one.input_tokens, other.input_tokens),
        total(one.output_tokens, other.output_tokens),
        total(one.reasoning_tokens, other.reasoning_tokens),
    )
