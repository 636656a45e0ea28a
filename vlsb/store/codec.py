"""Records as JSON objects and back, field by field.

Reading is strict: a record with a missing or mistyped field raises ValueError, so a damaged line can
never become a response or a label. Unknown fields are tolerated: newer versions may add some.

A run is read record by record, 200,000 times for a large one: fields are taken and checked all at once, and
what most records repeat is kept once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, make_dataclass
from itertools import product
from operator import itemgetter
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeVar

from vlsb.records import Completion, Failure, Label, Outcome, Response, Untrusted, Usage, Verdict

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# Thirty years: a longer duration is damage, and sums of shorter ones stay finite.
_LONGEST_S = 1e9

# Deeper than anything that is meant; parsers and encoders give up at depths of their own.
_DEEPEST = 64

Record = TypeVar("Record", bound="DataclassInstance")
Json = dict[str, Any]


class Words(dict[str, Untrusted]):
    """One object for each word that many records of a load repeat: `words[text]` makes it when it is new."""

    def __missing__(self, text: str) -> Untrusted:
        word = self[text] = Untrusted(text)
        return word


def maker(kind: type[Record]) -> Callable[..., Record]:
    """Makes records of a frozen class from all its fields in order, four times as fast as the class itself.

    A frozen class has to go round its own `__setattr__` for every field. A plain class of the same layout
    assigns them; the finished object then becomes one of the frozen class.
    """
    draft: Any = make_dataclass(kind.__name__, [each.name for each in fields(kind)], slots=True)

    def make(*values: Any) -> Record:
        record: Record = draft(*values)
        record.__class__ = kind
        return record

    return make


_make_completion, _make_response, _make_verdict = maker(Completion), maker(Response), maker(Verdict)


class _Shape:
    """The fields of a kind of record, and which types each may have.

    A field that is absent counts as null, except for those in `absent`: records written before there was
    such a field mean that value.
    """

    def __init__(self, fields: Mapping[str, tuple[type, ...]], absent: Mapping[str, object] | None = None):
        self._fields = fields
        self._absent = absent or {}
        self._take: Callable[[Mapping[str, Any]], tuple[Any, ...]] = itemgetter(*fields)
        # Types as they are: a bool is an int to Python, never to us.
        self._good = frozenset(product(*fields.values()))

    def values(self, record: Mapping[str, Any]) -> tuple[Any, ...]:
        """The fields' values, in order. Raises ValueError that names the first bad one."""
        try:
            values = self._take(record)
        except KeyError:
            values = tuple(record.get(name, self._absent.get(name)) for name in self._fields)
        if tuple(map(type, values)) not in self._good:
            raise ValueError(f"{self._bad(values)} is missing or of another type")
        return values

    def _bad(self, values: tuple[Any, ...]) -> str:
        fields = zip(self._fields.items(), values, strict=True)
        return next(name for (name, kinds), value in fields if type(value) not in kinds)


_OPTIONAL_TEXT = (str, NoneType)
_OPTIONAL_COUNT = (int, NoneType)
_NUMBER = (float, int)

_STAMP = _Shape({"session": (int,), "elapsed_s": _NUMBER, "at": (str,)})
_USAGE = _Shape(dict.fromkeys(("input_tokens", "output_tokens", "reasoning_tokens"), _OPTIONAL_COUNT))
_RESPONSE = _Shape(
    {
        "sample_id": (int,),
        "epoch": (int,),
        "text": (str,),
        "origin": (str,),
        "finish_reason": _OPTIONAL_TEXT,
        "model": _OPTIONAL_TEXT,
        "usage": (dict,),
        "attempts": (int,),
        "latency_s": _NUMBER,
        "flags": (list,),
        "response_sha256": (str,),
        "image_sha256": (str,),
        "request_sha256": (str,),
    },
    absent={"epoch": 1},
)
_VERDICT = _Shape(
    {
        "sample_id": (int,),
        "epoch": (int,),
        "label": (str,),
        "explanation": (str,),
        "model": _OPTIONAL_TEXT,
        "usage": (dict,),
        "asks": (int,),
        "attempts": (int,),
        "latency_s": _NUMBER,
        "response_sha256": (str,),
        "image_sha256": (str,),
        "request_sha256": (str,),
    },
    absent={"epoch": 1},
)
_FAILURE = _Shape(
    {
        "sample_id": (int,),
        "epoch": (int,),
        "stage": (str,),
        "outcome": (str,),
        "fault": (str,),
        "code": (str,),
        "status": _OPTIONAL_COUNT,
        "message": (str,),
        "attempts": (int,),
        "usage": (dict,),
        "text": _OPTIONAL_TEXT,
        "response_sha256": _OPTIONAL_TEXT,
        "image_sha256": _OPTIONAL_TEXT,
        "details": (dict,),
    },
    absent={"epoch": 1},
)
_LABELS = {label.value: label for label in Label}


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
    session, elapsed_s = decode_moment(record)
    return Stamp(session, elapsed_s, record["at"])


def decode_moment(record: Mapping[str, Any]) -> tuple[int, float]:
    """Session and seconds of a record's stamp: what is computed with. All of the stamp is checked."""
    session, elapsed_s, _ = _STAMP.values(record)
    return session, _duration("elapsed_s", elapsed_s)


def encode_usage(usage: Usage) -> Json:
    """Token counts; null where the endpoint did not say."""
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
    }


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
        "image_sha256": completion.image_sha256,
        "request_sha256": completion.request_sha256,
    }


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
        "image_sha256": failure.image_sha256,
        # What a stranger nested without end is no detail worth keeping, and might not be read again.
        "details": dict(failure.details) if is_shallow(failure.details) else {},
    }


class Decoder:
    """Decodes the records of one load: a word or digest that many of them hold is one object."""

    def __init__(self) -> None:
        self._words = Words()

    def response(self, record: Mapping[str, Any]) -> tuple[Response, str]:
        """The response in a line of responses.jsonl, and its digest, which must fit its text."""
        values = _RESPONSE.values(record)
        sample_id, epoch, raw, origin, finish_reason, model, usage, attempts, latency_s, flags, *rest = values
        response_sha256, image_sha256, request_sha256 = rest
        if origin not in ("content", "refusal"):
            raise ValueError("origin is neither content nor refusal")
        text = Untrusted(raw)
        if text.sha256() != response_sha256:
            raise ValueError("response_sha256 does not fit the text")
        completion = _make_completion(
            text,
            "content" if origin == "content" else "refusal",
            None if finish_reason is None else self._words[finish_reason],
            None if model is None else self._words[model],
            Usage(*_USAGE.values(usage)),
            attempts,
            _duration("latency_s", latency_s),
            request_sha256,
            sys.intern(image_sha256),
            _flags(flags) if flags else (),
        )
        response = _make_response(sample_id, completion, _epoch(epoch))
        return response, sys.intern(response_sha256)

    def verdict(self, record: Mapping[str, Any]) -> Verdict:
        """The verdict in a line of verdicts/<judge>.jsonl."""
        values = _VERDICT.values(record)
        sample_id, epoch, label, explanation, model, usage, asks, attempts, latency_s, *rest = values
        response_sha256, image_sha256, request_sha256 = rest
        if label not in _LABELS:
            raise ValueError("label is no label")
        return _make_verdict(
            sample_id,
            _LABELS[label],
            Untrusted(explanation),
            sys.intern(response_sha256),
            sys.intern(image_sha256),
            None if model is None else self._words[model],
            Usage(*_USAGE.values(usage)),
            asks,
            attempts,
            _duration("latency_s", latency_s),
            request_sha256,
            _epoch(epoch),
        )


def decode_response(record: Mapping[str, Any]) -> Response:
    """The response in a line of responses.jsonl; its digest must fit its text."""
    return Decoder().response(record)[0]


def decode_verdict(record: Mapping[str, Any]) -> Verdict:
    """The verdict in a line of verdicts/<judge>.jsonl."""
    return Decoder().verdict(record)


def decode_failure(record: Mapping[str, Any]) -> Failure:
    """The failure in a line of failures.jsonl; its outcome must belong to its stage."""
    values = _FAILURE.values(record)
    sample_id, epoch, stage, ended, fault, code, status, message, attempts, usage, text, *others = values
    response_sha256, image_sha256, details = others
    outcome = Outcome(ended)
    if stage not in ("target", "judge") or not ended.startswith(f"{stage}_"):
        raise ValueError("stage and outcome disagree")
    return Failure(
        sample_id=sample_id,
        stage="target" if stage == "target" else "judge",
        outcome=outcome,
        fault=fault,
        code=code,
        status=status,
        message=Untrusted(message),
        attempts=attempts,
        usage=Usage(*_USAGE.values(usage)),
        text=None if text is None else Untrusted(text),
        response_sha256=response_sha256,
        image_sha256=image_sha256,
        details=details,
        epoch=_epoch(epoch),
    )


def is_shallow(value: object, depth: int = _DEEPEST) -> bool:
    """Whether lists and objects are nested no deeper than that. Looks no deeper itself."""
    if depth == 0:
        return not isinstance(value, Mapping | list | tuple)
    return all(is_shallow(each, depth - 1) for each in inner(value))


def inner(value: object) -> Collection[object]:
    """The values directly in a list or an object; none in anything else."""
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


def _duration(name: str, seconds: float) -> float:
    if not -_LONGEST_S <= seconds <= _LONGEST_S:
        raise ValueError(f"{name} is no duration")
    return float(seconds)


def _epoch(epoch: int) -> int:
    if epoch < 1:
        raise ValueError("epoch is not a number from 1")
    return epoch


def _flags(flags: list[Any]) -> tuple[str, ...]:
    if not all(isinstance(flag, str) for flag in flags):
        raise ValueError("flags holds something else than words")
    return tuple(flags)


def _raw(text: Untrusted | None) -> str | None:
    return None if text is None else text.expose()
