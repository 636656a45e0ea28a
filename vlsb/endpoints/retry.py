"""What one completion has used up, when it is sent again, and when an endpoint is given up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from vlsb.config import RetryPolicy
from vlsb.endpoints.faults import Decision, Fault
from vlsb.endpoints.request import Checksums
from vlsb.endpoints.traffic import Time
from vlsb.errors import GapsError, ImageChangedError
from vlsb.records import STOPPED, THINKING_CUT, Failure, Key, Outcome, Stage, Untrusted, Usage

ENGINE_KILLED = "engine_killed"
"""The code of a sample that killed the engine while nothing else was in flight."""


class Fate(Enum):
    """What a failed request says about the engine."""

    ALIVE = "alive"
    LOST = "lost"
    KILLED_BY_SAMPLE = "killed by sample"


@dataclass(frozen=True, slots=True, eq=False)
class InFlight:
    """One request over all its attempts. Another epoch of its sample is another request."""

    sample_id: int


class EngineGuard:
    """Nobody: every sample may go, and no failure is the engine's death."""

    async def admit(self, request: InFlight) -> bool:
        """Return when the request may be sent, or at once with False if it never may: its sample kills.

        Raises ServerError when the engine is gone for good.
        """
        return True

    def admits(self, request: InFlight) -> bool:
        """Tell whether the request may be sent right now."""
        return True

    def has_killed(self, request: InFlight) -> bool:
        """Tell whether its sample kills the engine, so that it is never sent again."""
        return False

    def watch(self, on_change: Callable[[], None]) -> None:
        """Call `on_change` whenever what `admits` says may have changed. It never does here."""

    def depart(self, request: InFlight) -> None:
        """Note that the request is sent."""

    def leave(self, request: InFlight) -> None:
        """Note that the attempt is over, whatever came of it."""

    async def fate(self, request: InFlight) -> Fate:
        """Tell whether an attempt that just failed, and has not left yet, did so because the engine died."""
        return Fate.ALIVE


ENDED_ALIKE_LIMIT = 20
"""Distinct samples in a row that end for the same reason before the run stops."""
EMPTY_CODES = frozenset({"empty_content", "empty_choices"})
"""Of turns without a text in which nothing else went wrong."""

_MORE_ROOM = (
    "The next ones would be paid for as well. Start a new run (--name) with a larger --max-tokens or, if it "
    "can do without, with --thinking off"
)
_LOOK_AT_IT = (
    "The next ones would be paid for as well. A wrong chat template, a stop word or another model behind "
    "that name does this. When it is repaired, add --retry target_empty to the resume"
)


def backoff_s(policy: RetryPolicy, retries: int, time: Time) -> float:
    """Full jitter: anything up to base x 2^retries, capped. `retries` counts from 0."""
    return time.uniform(0.0, min(policy.backoff_cap_s, policy.backoff_s * 2 ** min(retries, 30)))


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

    def failure(self, key: Key, outcome: Outcome) -> Failure:
        """Return what is stored: the response of `key` ended as `outcome`, which says at which stage."""
        decision = self.decision
        return Failure(
            sample_id=key.sample_id,
            epoch=key.epoch,
            stage="target" if outcome.value.startswith("target_") else "judge",
            outcome=outcome,
            fault=decision.fault.value,
            code=decision.code,
            status=decision.status,
            message=decision.message,
            attempts=self.attempts,
            usage=self.usage,
            text=decision.text,
            image_sha256=self.image_sha256,
            details=decision.details or {},
        )


@dataclass(frozen=True, slots=True)
class Unfinished:
    """What was spent on a response when the run was stopped: replies that had come, and no ending."""

    attempts: int
    usage: Usage
    image_sha256: str | None = None

    def after(self, earlier: Unfinished | None) -> Unfinished:
        """Return the same with what was spent before."""
        if earlier is None:
            return self
        image = self.image_sha256 or earlier.image_sha256
        return Unfinished(earlier.attempts + self.attempts, earlier.usage + self.usage, image)

    def failure(self, key: Key, stage: Stage, response_sha256: str | None) -> Failure:
        """Make the row that says so."""
        return Failure(
            sample_id=key.sample_id,
            epoch=key.epoch,
            stage=stage,
            outcome=Outcome.TARGET_ERROR if stage == "target" else Outcome.JUDGE_ERROR,
            fault=STOPPED,
            code=STOPPED,
            message=Untrusted("the run was stopped before this was done"),
            attempts=self.attempts,
            usage=self.usage,
            response_sha256=response_sha256,
            image_sha256=self.image_sha256,
            details={},
        )


class Attempts:
    """What one completion has used so far of the attempts and the time that its sample has."""

    def __init__(self, key: Key, policy: RetryPolicy, time: Time) -> None:
        self.key = key
        self.request = InFlight(key.sample_id)
        self.sent = 0
        # Where the last attempt was sent, and where an engine died of a request, maybe of this one.
        self.replica: object | None = None
        self.suspected_at: object | None = None
        self.usage = Usage()
        # The last attempt failed in an outage, which is not the sample's fault.
        self.is_excused = False
        self.checksums: Checksums | None = None  # of the attempt that was sent last
        self._failed = 0
        self._failed_by_code: Counter[str] = Counter()
        self._policy = policy
        self._time = time
        self._deadline: float | None = None

    @property
    def sample_id(self) -> int:
        """Whose attempts these are."""
        return self.request.sample_id

    def begin(self) -> None:
        """Start the sample's time with its first attempt: queueing for a slot is not its fault."""
        if self._deadline is None:
            self._deadline = self._time.clock() + self._policy.sample_timeout_s

    def sent_to(self, replica: object) -> None:
        """One more attempt is on its way."""
        self.sent += 1
        self.replica, self.suspected_at = replica, None

    def extend(self, seconds: float) -> None:
        """Give back time that an outage took."""
        if self._deadline is not None:
            self._deadline += seconds

    def left_s(self) -> float:
        """Seconds until the sample's deadline."""
        return (
            self._policy.sample_timeout_s if self._deadline is None else self._deadline - self._time.clock()
        )

    def timeout_s(self, *, thinks: bool) -> float:
        """Return the total deadline of the next attempt, at a model that thinks or does not."""
        most_s = self._policy.thinking_timeout_s if thinks else self._policy.attempt_timeout_s
        return max(0.001, min(most_s, self.left_s()))

    def wait_after_failure_s(self, decision: Decision) -> float | None:
        """Count a failed attempt; seconds to wait before the next, None if none is left."""
        self._failed += 1
        self._failed_by_code[decision.code] += 1
        most = self._policy.max_attempts if decision.max_retries is None else decision.max_retries
        is_spent = self._failed >= self._policy.max_attempts or self._failed_by_code[decision.code] > most
        wait_s = max(decision.retry_after_s or 0.0, backoff_s(self._policy, self._failed - 1, self._time))
        return None if is_spent or wait_s >= self.left_s() else wait_s

    def forgive(self) -> None:
        """Give a sample all its attempts and all its time again: the endpoint was down."""
        self.is_excused = False
        self._failed = 0
        self._failed_by_code.clear()
        self._deadline = None

    @property
    def image_sha256(self) -> str | None:
        """Of the image that was sent last; None if none was."""
        return None if self.checksums is None else self.checksums.image or None

    def end(self, decision: Decision, changed: ImageChangedError | None = None) -> Ended:
        """Say what is left when there is no answer."""
        return Ended(decision, self.sent, self.usage, self.image_sha256, changed)


class Rejections:
    """Notices an endpoint at which every sample ends for the same reason: the next ones would too."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._code = ""
        self._samples: set[int] = set()

    def reset(self) -> None:
        """A request was served: not all are rejected."""
        self._samples.clear()

    def count(self, sample_id: int, fault: Fault, code: str, message: Untrusted) -> None:
        """Count a sample that ended in an error. Raises GapsError when there are too many alike."""
        counts = fault in (Fault.ITEM_PERMANENT, Fault.BAD_PAYLOAD)
        if not counts or code != self._code:
            self._samples.clear()
        if not counts:
            return
        self._code = code
        self._samples.add(sample_id)
        if len(self._samples) < ENDED_ALIKE_LIMIT:
            return
        so_many = f"{self._name}: {len(self._samples)} samples in a row"
        if code == THINKING_CUT:
            raise GapsError(f"{so_many} were cut inside their thinking ({code})", advice=_MORE_ROOM)
        if code in EMPTY_CODES:
            raise GapsError(f"{so_many} were answered without any text ({code})", advice=_LOOK_AT_IT)
        raise GapsError(
            f"{so_many} ended for the same reason ({code}). Fix what it complains about, then resume",
            detail=message,
        )
