"""Records as JSON objects and back, by the types of their fields.

Reading is strict: a record with a missing or mistyped field raises ValueError, so a damaged line can
never become a response or a label. Unknown fields are tolerated: newer versions may add some.

A run is read record by record, 200,000 times for a large one: what many records repeat is kept once.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from vlsb.records import Failure, Finding, Response, Untrusted, Verdict
from vlsb.strict_json import is_shallow

# Thirty years: a longer duration is damage, and sums of shorter ones stay finite.
_LONGEST_S = 1e9
# Names of models, reasons and categories are shorter, and most responses longer.
_LONGEST_SHARED = 64
_RARE_COUNTS = ("cached_tokens", "thought_tokens", "batch_input_tokens", "batch_output_tokens")
_RARE_FIELDS = ("compliance", "explanation")
_STAMP = ("session", "elapsed_s", "at")

Kind = TypeVar("Kind")
_Answer = TypeVar("_Answer", Response, Verdict, Finding)
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Stamp:
    """When a record was written: session number, seconds since that session began, wall time.

    Wall time is for people, everything computed uses the other two.
    """

    session: int
    elapsed_s: float
    at: str


class Decoder:
    """Decodes the records of one load: a short text or a checksum that many of them hold is one object."""

    def __init__(self) -> None:
        self._texts: dict[str, Untrusted] = {}

    def parse(self, value: object, kind: type[Kind]) -> Kind:
        """Read the value as that type. Raises ValueError that names the first bad field."""
        try:
            return msgspec.convert(value, kind, dec_hook=self._share_untrusted)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error

    def _share_untrusted(self, _: type, text: object) -> Untrusted:
        if not isinstance(text, str):
            raise ValueError("not a text")
        if len(text) > _LONGEST_SHARED:
            return Untrusted(text)
        shared = self._texts.get(text)
        if shared is None:
            shared = self._texts[text] = Untrusted(text)
        return shared

    def _answer(self, record: Json, kind: type[_Answer]) -> _Answer:
        # A verdict names the checksums that its response has.
        for name in ("response_sha256", "image_sha256"):
            checksum = record.get(name)
            if type(checksum) is str:
                record[name] = sys.intern(checksum)
        answer = self.parse(record, kind)
        _require_duration("latency_s", answer.latency_s)
        _require_epoch(answer.epoch)
        return answer

    def response(self, record: Json) -> Response:
        """Read the response in a line of responses.jsonl; its digest must fit its text."""
        response = self._answer(record, Response)
        if response.text.sha256() != response.response_sha256:
            raise ValueError("response_sha256 does not fit the text")
        required = (response.latency_s, response.request_sha256)
        if response.origin != "unknown" and None in required:
            raise ValueError("something is missing that only an imported response may lack")
        return response

    def verdict(self, record: Json) -> Verdict:
        """Read the verdict in a line of verdicts/<judge>.jsonl."""
        verdict = self._answer(record, Verdict)
        if verdict.asks and None in (verdict.latency_s, verdict.request_sha256):
            raise ValueError("something is missing that only an imported verdict may lack")
        return verdict

    def finding(self, record: Json) -> Finding:
        """Read the finding in a line of findings/<guard>.jsonl."""
        return self._answer(record, Finding)

    def failure(self, record: Json) -> Failure:
        """Read the failure in a line of failures.jsonl; its outcome must belong to its stage."""
        failure = self.parse(record, Failure)
        if not failure.outcome.startswith(f"{failure.stage}_"):
            raise ValueError("stage and outcome disagree")
        _require_epoch(failure.epoch)
        return failure

    def stamp(self, record: Json) -> Stamp:
        """Read the stamp that every record has."""
        # Of a record, only these: what it holds besides would be compared with every field's name.
        stamp = self.parse({name: record.get(name) for name in _STAMP}, Stamp)
        _require_duration("elapsed_s", stamp.elapsed_s)
        return stamp


def to_json(record: object) -> Json:
    """Return the fields of a record as JSON has them, in their order; durations to the millisecond.

    A response without reasoning has no such key: most models do not think. Nor has a finding what only a
    judge of compliance says, or a usage those of `_RARE_COUNTS` that the endpoint did not report.
    """
    fields: Json = msgspec.to_builtins(record, enc_hook=_expose)
    rare = _RARE_FIELDS if isinstance(record, Finding) else ("reasoning",)
    for name in rare:
        if fields.get(name, "") is None:
            del fields[name]
    if (usage := fields.get("usage")) is not None:
        for name in _RARE_COUNTS:
            if usage[name] is None:
                del usage[name]
    for name in ("latency_s", "elapsed_s"):
        if fields.get(name) is not None:
            fields[name] = round(fields[name], 3)
    return fields


def encode_failure(failure: Failure) -> Json:
    """A line of failures.jsonl, without its stamp and judge."""
    # What a stranger nested without end is not a detail worth keeping, and might not be read again.
    details = dict(failure.details) if is_shallow(failure.details) else {}
    return to_json(replace(failure, details=details))


def _expose(value: object) -> str:
    if isinstance(value, Untrusted):
        return value.expose()
    raise TypeError(f"{type(value).__name__} is not part of a record")


def _require_duration(name: str, seconds: float | None) -> None:
    if seconds is not None and not -_LONGEST_S <= seconds <= _LONGEST_S:
        raise ValueError(f"{name} is not a duration")


def _require_epoch(epoch: int) -> None:
    if epoch < 1:
        raise ValueError("epoch is not a number from 1")


# What a run knows of its batches: a line a step, written before the step that follows it.
#
# A batch is planned under a name of ours before anything of it is sent. Whoever is killed between two steps
# leaves enough to find out at the provider what became of it.


# A stranger's run may hold anything: a name becomes that of a file, a custom id the numbers in it.
_Name = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_-]{1,64}\Z")]
_CustomId = Annotated[str, Meta(pattern=r"\A[0-9]{1,18}-[0-9]{1,9}-[0-9]{1,9}-[0-9a-f]{32}\Z")]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStep:
    """A line of batches.jsonl; `name` and `step` are always there.

    `planned` says what is asked (`requests` are the custom ids) and for which judge's file, None for the
    target. `uploaded` repeats that, so that no single damaged line hides it, and holds the provider's `id` of
    the input file; a batch may exist from then on. `created` holds its `id`. `ended` holds its last `status`,
    and its results are on the disk then: `given_up` are those that never came whole. `void` was not made, or
    was refused as a whole.
    """

    name: _Name
    step: Literal["planned", "uploaded", "created", "ended", "void"]
    judge: str | None = None
    requests: tuple[_CustomId, ...] = ()
    id: str | None = None
    status: Literal["completed", "expired", "cancelled", "given_up"] | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as far as its steps say. `status` is its last one, or `void`.

    Without one the provider may still be at work on it, or hold results that nobody fetched.
    """

    name: str
    judge: str | None = None
    requests: tuple[str, ...] = ()
    file_id: str | None = None
    batch_id: str | None = None
    status: str | None = None

    def after(self, step: BatchStep) -> Batch:
        """Return the batch after one more step."""
        return replace(
            self,
            judge=step.judge or self.judge,
            requests=step.requests or self.requests,
            file_id=step.id if step.step == "uploaded" else self.file_id,
            batch_id=step.id if step.step == "created" else self.batch_id,
            status="void" if step.step == "void" else step.status or self.status,
        )
