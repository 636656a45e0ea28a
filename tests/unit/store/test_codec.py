"""Records survive the file as they were, and a damaged one never becomes a response or a label."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.records import make_failure, make_response, make_verdict
from vlsb import strict_json
from vlsb.records import (
    Completion,
    Compliance,
    Failure,
    Finding,
    Key,
    Label,
    Outcome,
    Rating,
    Response,
    Untrusted,
    Usage,
    Verdict,
)
from vlsb.store.codec import (
    Batch,
    BatchStep,
    Decoder,
    Json,
    Stamp,
    encode_failure,
    to_json,
)


def decoding(kind: str) -> Callable[[Json], Any]:
    """Decodes records of a kind, each by a decoder of its own."""
    return lambda record: getattr(Decoder(), kind)(record)


KINDS = ("response", "verdict", "failure", "stamp")
decode_response, decode_verdict, decode_failure, decode_stamp = map(decoding, KINDS)
TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=30) | st.sampled_from(
    ("\ud83d lone", "\u2028\x00\x1b[31m", "\U0001f600", "")
)
UNTRUSTED = TEXT.map(Untrusted)
COUNTS = st.integers(0, 2**53 - 1)
IDS = st.integers(0, 2**63 - 1)
EPOCHS = st.integers(1, 2**31)
DIGESTS = st.text("0123456789abcdef", min_size=64, max_size=64)
USAGE = st.builds(Usage, *(st.none() | COUNTS for _ in range(3)))
# What the file keeps is rounded to milliseconds.
SECONDS = st.integers(0, 10**9).map(lambda ms: round(ms / 1000, 3))

COMPLETIONS = st.builds(
    Completion,
    text=UNTRUSTED,
    origin=st.sampled_from(("content", "refusal")),
    finish_reason=st.none() | UNTRUSTED,
    model=st.none() | UNTRUSTED,
    usage=USAGE,
    attempts=COUNTS,
    latency_s=SECONDS,
    request_sha256=DIGESTS,
    image_sha256=DIGESTS,
    flags=st.lists(st.sampled_from(("unfiltered", "no_finish_reason")), unique=True).map(tuple),
)
RESPONSES = st.builds(Response.of, st.builds(Key, IDS, EPOCHS), COMPLETIONS)
VERDICTS = st.builds(
    Verdict,
    sample_id=IDS,
    label=st.sampled_from(Label),
    explanation=UNTRUSTED,
    response_sha256=DIGESTS,
    image_sha256=DIGESTS,
    model=st.none() | UNTRUSTED,
    usage=USAGE,
    asks=COUNTS,
    attempts=COUNTS,
    latency_s=SECONDS,
    request_sha256=DIGESTS,
    epoch=EPOCHS,
)
STAGED = [outcome for outcome in Outcome if outcome.value.startswith(("target_", "judge_"))]
FAILURES = st.sampled_from(STAGED).flatmap(
    lambda outcome: st.builds(
        Failure,
        sample_id=IDS,
        image_sha256=st.none() | DIGESTS,
        stage=st.just(outcome.value.partition("_")[0]),
        outcome=st.just(outcome),
        fault=TEXT,
        code=TEXT,
        status=st.none() | st.integers(100, 599),
        message=UNTRUSTED,
        attempts=COUNTS,
        usage=USAGE,
        text=st.none() | UNTRUSTED,
        response_sha256=st.none() | DIGESTS,
        details=st.dictionaries(TEXT, st.none() | TEXT | st.booleans(), max_size=3),
        epoch=EPOCHS,
    )
)


def through_the_file(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as it is read again, with the stamp that every line carries."""
    stamp = to_json(Stamp(1, 0.5, "2025-01-01T00:00:00.000+00:00"))
    read: dict[str, Any] = strict_json.loads(strict_json.dumps({**record, **stamp}).encode("ascii"))
    return read


@given(RESPONSES)
def test_any_response_comes_back_as_it_was(response: Response) -> None:
    assert decode_response(through_the_file(to_json(response))) == response


@given(VERDICTS)
def test_any_verdict_comes_back_as_it_was(verdict: Verdict) -> None:
    assert decode_verdict(through_the_file(to_json(verdict))) == verdict


@given(FAILURES)
def test_any_failure_comes_back_as_it_was(failure: Failure) -> None:
    assert decode_failure(through_the_file(encode_failure(failure))) == failure


@given(st.builds(Stamp, session=COUNTS, elapsed_s=SECONDS, at=TEXT))
def test_any_stamp_comes_back_as_it_was(stamp: Stamp) -> None:
    assert decode_stamp(through_the_file({}) | to_json(stamp)) == stamp


# Damage. Every record below is good; one thing at a time is made wrong.

RESPONSE = to_json(make_response())
VERDICT = to_json(make_verdict(make_response()))
FAILURE = encode_failure(
    make_failure(text=Untrusted("half an answer"), response_sha256="ab" * 32, image_sha256="cd" * 32)
)
STAMP = to_json(Stamp(2, 1.5, "2025-01-01T00:00:00.000+00:00"))

Decode = Callable[[Json], Any]
GOOD: tuple[tuple[str, Decode, dict[str, Any]], ...] = (
    ("response", decode_response, RESPONSE),
    ("verdict", decode_verdict, VERDICT),
    ("failure", decode_failure, FAILURE),
    ("stamp", decode_stamp, STAMP),
)
FIELDS = [
    pytest.param(decode, record, name, id=f"{kind}-{name}")
    for kind, decode, record in GOOD
    for name in record
]


def may_be_null(decode: Decode, name: str) -> bool:
    allowed = {
        # Without an image that was sent, or for a judge that is sent none.
        decode_response: {"finish_reason", "model", "image_sha256"},
        decode_verdict: {"model", "image_sha256"},
        decode_failure: {"status", "text", "response_sha256", "image_sha256"},
    }
    return name in allowed.get(decode, set())


@pytest.mark.parametrize(("decode", "record", "name"), FIELDS)
def test_a_field_that_is_missing_is_damage(decode: Decode, record: dict[str, Any], name: str) -> None:
    """Except where null means that nobody said so, and where older versions had no such field."""
    damaged = {key: value for key, value in record.items() if key != name}

    must_be_there = name == "image_sha256" and decode in (decode_response, decode_verdict)
    if name == "epoch" or (may_be_null(decode, name) and not must_be_there):
        decode(damaged)
    else:
        with pytest.raises(ValueError, match=name):
            decode(damaged)


@pytest.mark.parametrize(("decode", "record", "name"), FIELDS)
def test_a_field_of_another_type_is_damage(decode: Decode, record: dict[str, Any], name: str) -> None:
    right = record[name]
    others: list[Any] = [True, False, 1.5, 3.0, "7", [7], {"a": 7}, 7]
    is_number = isinstance(right, int | float)
    wrong = [other for other in others if not (is_number and type(other) in (int, type(right)))]

    for other in wrong:
        if type(other) is not type(right):
            with pytest.raises(ValueError):
                decode(record | {name: other})


@pytest.mark.parametrize(("decode", "record", "name"), FIELDS)
def test_null_is_damage_where_somebody_must_have_said_something(
    decode: Decode, record: dict[str, Any], name: str
) -> None:
    if may_be_null(decode, name):
        decode(record | {name: None})
    else:
        with pytest.raises(ValueError):
            decode(record | {name: None})


def test_only_an_imported_row_may_lack_what_only_an_endpoint_could_have_said() -> None:
    unknown = {"latency_s": None, "image_sha256": None, "request_sha256": None}

    assert decode_response(RESPONSE | unknown | {"origin": "unknown"}).latency_s is None
    assert decode_verdict(VERDICT | unknown | {"asks": 0}).request_sha256 is None


RECORDS = pytest.mark.parametrize(
    ("decode", "record"), [each[1:] for each in GOOD[:3]], ids=["response", "verdict", "failure"]
)


@RECORDS
@pytest.mark.parametrize("count", ["input_tokens", "output_tokens", "reasoning_tokens"])
@pytest.mark.parametrize("other", [True, 3.0, "3", [3]])
def test_tokens_are_whole_numbers_or_unknown(
    decode: Decode, record: dict[str, Any], count: str, other: object
) -> None:
    usage = record["usage"]

    decode(record | {"usage": usage | {count: None}})
    with pytest.raises(ValueError, match=count):
        decode(record | {"usage": usage | {count: other}})


@RECORDS
def test_a_record_written_before_there_were_epochs_is_of_the_first(
    decode: Decode, record: dict[str, Any]
) -> None:
    old = {name: value for name, value in record.items() if name != "epoch"}

    assert decode(old) == decode(record | {"epoch": 1})
    assert decode(old).key == (record["sample_id"], 1)


@RECORDS
@pytest.mark.parametrize("epoch", [0, -1])
def test_epochs_count_from_one(decode: Decode, record: dict[str, Any], epoch: int) -> None:
    with pytest.raises(ValueError, match="epoch"):
        decode(record | {"epoch": epoch})


@pytest.mark.parametrize("digits", ["9" * 400, "1e999", "-1e999"])
def test_a_duration_that_no_clock_can_show_is_damage(digits: str) -> None:
    line = strict_json.dumps(STAMP).replace(str(STAMP["elapsed_s"]), digits)

    with pytest.raises(ValueError):
        decode_stamp(strict_json.loads(line))


@pytest.mark.parametrize("text", ["", "A plain answer", "A plain answer. ", "A plain \ud800answer."])
def test_a_response_whose_digest_does_not_fit_its_text_is_damage(text: str) -> None:
    with pytest.raises(ValueError, match="response_sha256"):
        decode_response(RESPONSE | {"text": text})


@pytest.mark.parametrize("origin", ["", "judge", "Content"])
def test_a_response_comes_from_the_content_or_the_refusal(origin: str) -> None:
    with pytest.raises(ValueError, match="origin"):
        decode_response(RESPONSE | {"origin": origin})


@pytest.mark.parametrize("flag", [None, {"a": 1}])
def test_a_flag_is_a_word(flag: object) -> None:
    with pytest.raises(ValueError):
        decode_response(RESPONSE | {"flags": [flag]})


@pytest.mark.parametrize("label", ["", "safe", "Unsafe", "unsafe ", "not_judged", "target_error", "3"])
def test_an_unknown_label_is_damage_and_never_a_guess(label: str) -> None:
    with pytest.raises(ValueError):
        decode_verdict(VERDICT | {"label": label})


@pytest.mark.parametrize("stage", ["target", "judge", "", "server"])
@pytest.mark.parametrize("outcome", list(Outcome))
def test_a_failure_ends_at_the_stage_that_its_outcome_names(stage: str, outcome: Outcome) -> None:
    record = FAILURE | {"stage": stage, "outcome": outcome.value}
    is_of_stage = bool(stage) and outcome.value.startswith(f"{stage}_")

    if is_of_stage:
        assert decode_failure(record).outcome is outcome
    else:
        with pytest.raises(ValueError):
            decode_failure(record)


@pytest.mark.parametrize("outcome", ["", "error", "judge_", "TARGET_ERROR"])
def test_an_unknown_outcome_is_damage(outcome: str) -> None:
    with pytest.raises(ValueError):
        decode_failure(FAILURE | {"outcome": outcome})


@pytest.mark.parametrize(("decode", "record"), [each[1:] for each in GOOD], ids=[each[0] for each in GOOD])
def test_fields_of_a_newer_version_are_tolerated(decode: Decode, record: dict[str, Any]) -> None:
    newer = record | {"arm": {"name": "image-off"}, "stop": None}

    assert decode(newer) == decode(record)


@given(st.lists(RESPONSES, min_size=2, max_size=4), st.lists(VERDICTS, min_size=2, max_size=4))
def test_records_of_one_load_are_what_each_is_alone(
    responses: list[Response], verdicts: list[Verdict]
) -> None:
    decoder = Decoder()

    for response in responses:
        read = through_the_file(to_json(response))
        assert decoder.response(read) == response
    for verdict in verdicts:
        assert decoder.verdict(through_the_file(to_json(verdict))) == verdict


def test_what_many_records_hold_is_kept_once() -> None:
    decoder = Decoder()
    response = decoder.response(through_the_file(RESPONSE))
    again = decoder.response(through_the_file(RESPONSE))
    verdict = decoder.verdict(through_the_file(VERDICT))

    assert response.model is again.model
    assert response.image_sha256 is again.image_sha256 is verdict.image_sha256
    assert response.response_sha256 is verdict.response_sha256


@pytest.mark.parametrize("kind", [Response, Verdict])
def test_a_record_that_was_read_is_as_frozen_as_any(kind: type) -> None:
    response, verdict = decode_response(RESPONSE), decode_verdict(VERDICT)
    record = next(each for each in (response, verdict) if type(each) is kind)

    assert replace(record) == record
    assert hash(replace(record)) == hash(record)
    for name in (fields(kind)[0].name, "surplus"):
        with pytest.raises((FrozenInstanceError, TypeError)):
            setattr(record, name, 7)


@pytest.mark.parametrize("depth", [64, 65, 900, 100_000])
def test_details_nested_without_end_are_left_out(depth: int) -> None:
    details: dict[str, Any] = {"a": []}
    for _ in range(depth - 2):
        details["a"] = [details["a"]]

    record = encode_failure(make_failure(details=details))

    assert record["details"] == (details if depth == 64 else {})
    assert decode_failure(through_the_file(record)).details == record["details"]


@given(st.integers(-(2**70), 2**70) | st.integers(-(10**400), 10**400))
@example(2**63)
@example(2**64)
@example(-(2**63) - 1)
def test_both_parsers_read_the_same_number(number: int) -> None:
    """A lone surrogate leaves the document to the standard library."""

    def read(text: str) -> list[Any] | None:
        try:
            found: list[Any] = strict_json.loads(f'[{number}, "{text}"]')
        except ValueError:
            return None
        return found[:1]

    fast, other = read("plain"), read("\\ud800")

    assert (fast, type(fast and fast[0])) == (other, type(other and other[0]))


def test_milliseconds_are_what_the_file_keeps_of_a_duration() -> None:
    response = make_response(latency_s=0.1234567)

    record = to_json(response)

    assert record["latency_s"] == 0.123
    assert decode_response(record) == replace(response, latency_s=0.123)


@pytest.mark.parametrize("seconds", [1e9, -1e9])
@pytest.mark.parametrize(("name", "decode"), [("latency_s", decode_response), ("elapsed_s", decode_stamp)])
def test_thirty_years_are_a_duration_and_more_is_damage(name: str, decode: Decode, seconds: float) -> None:
    record = to_json(make_response()) | {"session": 1, "elapsed_s": 0.0, "at": "then"}

    assert getattr(decode(record | {name: seconds}), name) == seconds
    with pytest.raises(ValueError, match=f"^{name} is not a duration$"):
        decode(record | {name: seconds * 1.01})


def test_a_finding_comes_back_as_it_was_but_for_what_nobody_said() -> None:
    finding = Finding(
        sample_id=7,
        epoch=2,
        rating=Rating.UNSAFE,
        refuses=None,
        category=Untrusted("S2" * 40),
        usage=Usage(input_tokens=3, cached_tokens=2),
        asks=1,
        attempts=1,
        latency_s=0.5,
        response_sha256="a" * 64,
        image_sha256=None,
        request_sha256="b" * 64,
    )
    record = to_json(finding)

    assert Decoder().finding(through_the_file(record)) == finding
    assert record["usage"] == {
        "input_tokens": 3,
        "output_tokens": None,
        "reasoning_tokens": None,
        "cached_tokens": 2,
    }
    assert record.keys().isdisjoint({"compliance", "explanation"})
    complied = replace(finding, rating=None, compliance=Compliance.FULL, explanation=Untrusted("All of it."))
    assert Decoder().finding(through_the_file(to_json(complied))) == complied
    assert "reasoning" not in to_json(make_response())
    assert to_json(Stamp(1, 0.1234567, "then"))["elapsed_s"] == 0.123


def test_nothing_but_values_of_json_is_part_of_a_record() -> None:
    with pytest.raises(TypeError, match=r"^complex is not part of a record$"):
        to_json({"a": 1j})


@pytest.mark.parametrize(("length", "is_kept_once"), [(64, True), (65, False)])
def test_a_short_text_is_kept_once_and_a_long_one_as_it_is(length: int, is_kept_once: bool) -> None:
    decoder, text = Decoder(), "a" * length
    first, second = (decoder.parse(text, Untrusted) for _ in range(2))

    assert first == second == Untrusted(text)
    assert (first is second) is is_kept_once


def test_a_batch_is_what_all_its_steps_say_and_none_takes_back_another() -> None:
    custom_id = f"7-1-1-{'a' * 32}"
    planned = Batch("b").after(BatchStep(name="b", step="planned", judge="j", requests=(custom_id,)))
    uploaded = planned.after(BatchStep(name="b", step="uploaded", id="file"))
    created = uploaded.after(BatchStep(name="b", step="created", id="batch"))
    ended = created.after(BatchStep(name="b", step="ended", status="completed"))

    assert planned == Batch("b", "j", (custom_id,))
    assert uploaded == replace(planned, file_id="file")
    assert created == replace(uploaded, batch_id="batch")
    assert ended == replace(created, status="completed")
    assert ended.after(BatchStep(name="b", step="planned")) == ended
    assert created.after(BatchStep(name="b", step="void")) == replace(created, status="void")
