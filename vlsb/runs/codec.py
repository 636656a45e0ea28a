"""Records as JSON objects and back, field by field.

Reading is strict: a record with a missing or mistyped field raises ValueError, so a damaged line can
never become a response or a label. Unknown fields are tolerated: newer versions may add some.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from vlsb.records import Completion, Failure, Label, Outcome, Response, Untrusted, Usage, Verdict

# Thirty years: a longer duration is damage, and sums of shorter ones stay finite.
_LONGEST_S = 1e9

T = TypeVar("T")
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Stamp:
    """When a record was written: session number, seconds since that session began, wall time."""

    session: int
    elapsed_s: float
    at: str


def encode_stamp(stamp: Stamp) -> Json:
    """The stamp's fields; wall time is for people, everything computed uses the other two."""
    return {"session": stamp.session, "elapsed_s": round(stamp.elapsed_s, 3), "at": stamp.at}


def decode_stamp(record: Mapping[str, Any]) -> Stamp:
    """The stamp in a record."""
    return Stamp(_get(record, "session", int), float(_number(record, "elapsed_s")), _get(record, "at", str))


def encode_usage(usage: Usage) -> Json:
    """Token counts; null where the endpoint did not say."""
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
    }


def decode_usage(record: Mapping[str, Any]) -> Usage:
    """The usage in a record."""
    usage = _get(record, "usage", dict)
    return Usage(
        _optional(usage, "input_tokens", int),
        _optional(usage, "output_tokens", int),
        _optional(usage, "reasoning_tokens", int),
    )


def encode_response(response: Response) -> Json:
    """A line of responses.jsonl, without its stamp."""
    completion = response.completion
    return {
        "sample_id": response.sample_id,
        "epoch": response.epoch,
        "text": completion.text.expose(),
        "origin": completion.origin,
        "finish_reason": _raw(completion.finish_reason),
        "model": _raw(completion.model),
        "usage": encode_usage(completion.usage),
        "attempts": completion.attempts,
        "latency_s": round(completion.latency_s, 3),
        "flags": list(completion.flags),
        "response_sha256": response.sha256,
        "image_sha256": response.image_sha256,
        "request_sha256": completion.request_sha256,
    }


def decode_response(record: Mapping[str, Any]) -> Response:
    """The response in a line of responses.jsonl; its digest must fit its text."""
    origin = _get(record, "origin", str)
    if origin not in ("content", "refusal"):
        raise ValueError("origin is neither content nor refusal")
    completion = Completion(
        text=Untrusted(_get(record, "text", str)),
        origin="content" if origin == "content" else "refusal",
        finish_reason=_untrusted(record, "finish_reason"),
        model=_untrusted(record, "model"),
        usage=decode_usage(record),
        attempts=_get(record, "attempts", int),
        latency_s=_number(record, "latency_s"),
        request_sha256=_get(record, "request_sha256", str),
        flags=_words(record, "flags"),
    )
    response = Response(
        _get(record, "sample_id", int), _get(record, "image_sha256", str), completion, _epoch(record)
    )
    if response.sha256 != _get(record, "response_sha256", str):
        raise ValueError("response_sha256 does not fit the text")
    return response


def encode_verdict(verdict: Verdict) -> Json:
    """A line of verdicts/<judge>.jsonl, without its stamp."""
    return {
        "sample_id": verdict.sample_id,
        "epoch": verdict.epoch,
        "label": verdict.label.value,
        "explanation": verdict.explanation.expose(),
        "model": _raw(verdict.model),
        "usage": encode_usage(verdict.usage),
        "asks": verdict.asks,
        "attempts": verdict.attempts,
        "latency_s": round(verdict.latency_s, 3),
        "response_sha256": verdict.response_sha256,
        "image_sha256": verdict.image_sha256,
        "request_sha256": verdict.request_sha256,
    }


def decode_verdict(record: Mapping[str, Any]) -> Verdict:
    """The verdict in a line of verdicts/<judge>.jsonl."""
    return Verdict(
        sample_id=_get(record, "sample_id", int),
        label=Label(_get(record, "label", str)),
        explanation=Untrusted(_get(record, "explanation", str)),
        response_sha256=_get(record, "response_sha256", str),
        image_sha256=_get(record, "image_sha256", str),
        model=_untrusted(record, "model"),
        usage=decode_usage(record),
        asks=_get(record, "asks", int),
        attempts=_get(record, "attempts", int),
        latency_s=_number(record, "latency_s"),
        request_sha256=_get(record, "request_sha256", str),
        epoch=_epoch(record),
    )


def encode_failure(failure: Failure) -> Json:
    """A line of failures.jsonl, without its stamp and judge."""
    return {
        "sample_id": failure.sample_id,
        "epoch": failure.epoch,
        "stage": failure.stage,
        "outcome": failure.outcome.value,
        "fault": failure.fault,
        "code": failure.code,
        "status": failure.status,
        "message": failure.message.expose(),
        "attempts": failure.attempts,
        "usage": encode_usage(failure.usage),
        "text": _raw(failure.text),
        "response_sha256": failure.response_sha256,
        "details": dict(failure.details),
    }


def decode_failure(record: Mapping[str, Any]) -> Failure:
    """The failure in a line of failures.jsonl; its outcome must belong to its stage."""
    outcome, stage = Outcome(_get(record, "outcome", str)), _get(record, "stage", str)
    if stage not in ("target", "judge") or not outcome.value.startswith(f"{stage}_"):
        raise ValueError("stage and outcome disagree")
    return Failure(
        sample_id=_get(record, "sample_id", int),
        stage="target" if stage == "target" else "judge",
        outcome=outcome,
        fault=_get(record, "fault", str),
        code=_get(record, "code", str),
        status=_optional(record, "status", int),
        message=Untrusted(_get(record, "message", str)),
        attempts=_get(record, "attempts", int),
        usage=decode_usage(record),
        text=_untrusted(record, "text"),
        response_sha256=_optional(record, "response_sha256", str),
        details=_get(record, "details", dict),
        epoch=_epoch(record),
    )


def _epoch(record: Mapping[str, Any]) -> int:
    """The record's epoch; those written before there were epochs are of the first."""
    epoch = record.get("epoch", 1)
    if type(epoch) is not int or epoch < 1:
        raise ValueError("epoch is not a number from 1")
    return epoch


def _words(record: Mapping[str, Any], name: str) -> tuple[str, ...]:
    words = _get(record, name, list)
    if not all(isinstance(word, str) for word in words):
        raise ValueError(f"{name} holds something else than words")
    return tuple(words)


def _raw(text: Untrusted | None) -> str | None:
    return None if text is None else text.expose()


def _untrusted(record: Mapping[str, Any], name: str) -> Untrusted | None:
    value = _optional(record, name, str)
    return None if value is None else Untrusted(value)


def _get(record: Mapping[str, Any], name: str, kind: type[T]) -> T:
    value = record.get(name)
    # A bool is an int to Python, never to us.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{name} is missing or not a {kind.__name__}")
    return value


def _optional(record: Mapping[str, Any], name: str, kind: type[T]) -> T | None:
    return None if record.get(name) is None else _get(record, name, kind)


def _number(record: Mapping[str, Any], name: str) -> float:
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is missing or not a number")
    if not abs(value) <= _LONGEST_S:
        raise ValueError(f"{name} is no duration")
    return float(value)
