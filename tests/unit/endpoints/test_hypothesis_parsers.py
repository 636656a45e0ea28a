"""Whatever strangers write, a parser gives a value or its room's own error, and nothing else.

Mutated valid input gets deeper than arbitrary bytes do: each property starts from a document that is right
and damages it, byte by byte or value by value.
"""

from __future__ import annotations

import copy
import io
import json
import re
import tarfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.journals import Contents, read_journal
from tests.support.rates import to_json
from tests.support.records import make_failure, make_judge, make_manifest, make_response, make_verdict
from vlsb import strict_json
from vlsb.data.archive import scan
from vlsb.data.samples import load_rows
from vlsb.endpoints.completions import CompletionContent, read_completion
from vlsb.endpoints.faults import Decision, Fault, ReplyTooLarge, classify
from vlsb.endpoints.headers import ABSURD_S, named_limits
from vlsb.endpoints.rate_limits import LONGEST_WAIT_S, Caps, RateModel
from vlsb.errors import DatasetError, ImageError, RunMismatchError, StoreError, VlsbError
from vlsb.judging.prompts import LABEL_STRINGS
from vlsb.judging.verdicts import Reading, UnreadableVerdict, parse_verdict
from vlsb.records import Label, Outcome, Untrusted
from vlsb.reports.rates_table import render
from vlsb.store import codec
from vlsb.store.manifest import Manifest, manifest_text, read_manifest, require_match
from vlsb.store.state import EVENTS, FAILURES, RESPONSES, VERDICTS, load_state
from vlsb.store.summaries import summarize_run
from vlsb.store.upkeep import repair_run

NOW = 1_700_000_000.0
Json = Any
T = TypeVar("T")
E = TypeVar("E", bound=VlsbError)

# Mutations.

# What JSON text can hold and Python's own writer would not write: put in when the document is a text.
SPECIALS = {
    "@huge@": "1e999",
    "@minus@": "-1e999",
    "@digits@": "9" * 5000,
    "@long@": "9" * 30,
    "@nan@": "NaN",
    "@deep@": "[" * 900 + "]" * 900,
    "@deeper@": '{"a":' * 3000 + "1" + "}" * 3000,
}
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec=None, exclude_categories=()), max_size=12)
    | st.sampled_from(["", "\ud800", "\x1b]52;c;AA\x07", "\u2028", "../x", "0", "-1", "1e3", *SPECIALS])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS.map(str), inner, max_size=3)
)


def places(document: Json) -> list[tuple[Json, Any]]:
    """Every (container, key or index) in a document."""
    found: list[tuple[Json, Any]] = []
    entries = (
        document.items()
        if isinstance(document, dict)
        else enumerate(document)
        if isinstance(document, list)
        else ()
    )
    for key, value in entries:
        found += [(document, key), *places(value)]
    return found


@st.composite
def mutated(draw: st.DrawFn, document: Json) -> Json:
    """The document with one to three of its values replaced, removed, doubled or swapped."""
    holder = [copy.deepcopy(document)]
    for _ in range(draw(st.integers(1, 3))):
        container, key = draw(st.sampled_from(places(holder)))
        change = draw(st.sampled_from(["replace", "replace", "remove", "double", "swap"]))
        if change == "replace" or container is holder:
            container[key] = draw(VALUES)
        elif change == "remove":
            del container[key]
        elif change == "double" and isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
        else:
            container[key] = copy.deepcopy(draw(st.sampled_from([c[k] for c, k in places(holder)])))
    return holder[0]


def as_text(document: Json) -> str:
    """The document as JSON, with the specials as what they stand for."""
    text = json.dumps(document)
    for name, special in SPECIALS.items():
        text = text.replace(f'"{name}"', special)
    return text


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """The bytes with a few changed, put in, left out or cut off."""
    found = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(found)))
        change = draw(st.sampled_from(["set", "insert", "remove", "cut"]))
        if change == "set":
            found[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
        elif change == "insert":
            found[place:place] = draw(st.binary(max_size=4) | st.sampled_from([b"\n", b'"', b"{", b"\xff"]))
        elif change == "remove":
            del found[place : place + draw(st.integers(1, 8))]
        elif draw(st.integers(0, 3)) == 0:
            del found[place:]
    return bytes(found)


def variants(document: Json) -> st.SearchStrategy[bytes]:
    """A document's bytes after either kind of mutation."""
    text = json.dumps(document).encode()
    return damaged(text) | mutated(document).map(lambda found: as_text(found).encode())


def value_or(refusal: type[E], parse: Callable[[Path], T], path: Path) -> T | E:
    """What a parser makes of a file, or the one error that it may raise."""
    try:
        return parse(path)
    except refusal as error:
        return error


# Response bodies.

COMPLETION = {
    "id": "x",
    "object": "chat.completion",
    "model": "m-1",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Fine.", "refusal": None, "reasoning": "hm"},
            "finish_reason": "stop",
            "content_filter_results": {
                "hate": {"filtered": False},
                "error": {"code": "content_filter_error"},
            },
        }
    ],
    "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {"hate": {"filtered": False}}}],
    "prompt_feedback": {"block_reason": "SAFETY"},
    "usage": {
        "prompt_tokens": 5,
        "completion_tokens": 7,
        "completion_tokens_details": {"reasoning_tokens": 3},
    },
}
IN_PARTS = {
    "choices": [
        {"message": {"content": [{"type": "text", "text": "a"}, {"text": "b"}]}, "finish_reason": "length"}
    ],
    "usage": {},
}
BODIES = [
    COMPLETION,
    IN_PARTS,
    {"choices": [], "prompt_feedback": {"block_reason": "SAFETY"}, "usage": {"prompt_tokens": 5}},
    {"choices": [{"error": {"code": 502, "message": "upstream"}, "finish_reason": "error"}]},
]
ERRORS = [
    {"error": {"code": "rate_limit_exceeded", "type": "requests", "param": None, "message": "slow"}},
    [
        {
            "error": {
                "code": 429,
                "message": "Quota",
                "status": "RESOURCE_EXHAUSTED",
                "details": [
                    {"@type": "q", "violations": [{"quotaId": "PerDayPerModel", "quotaMetric": "m"}]},
                    {"@type": "r", "retryDelay": "34s"},
                    {"@type": "e", "reason": "API_KEY_INVALID"},
                ],
            }
        }
    ],
    {
        "error": {
            "code": "content_filter",
            "param": "prompt",
            "status": 400,
            "message": "filtered",
            "innererror": {
                "code": "ResponsibleAIPolicyViolation",
                "content_filter_result": {"hate": {"filtered": True, "severity": "high"}},
            },
        }
    },
    {
        "error": {
            "code": 403,
            "message": "Provider returned error",
            "metadata": {"raw": "no", "provider_name": "p", "reasons": ["x"], "flagged_input": "y"},
        }
    },
    {
        "type": "error",
        "error": {"type": "rate_limit_error", "details": {"error_code": "enforced_spend_limit"}},
    },
    {"object": "error", "message": "too long", "type": "BadRequestError", "param": None, "code": 400},
]

HEADER_VALUES = (
    st.sampled_from(
        [
            *("20", "1.5", "1250", "6m0s", "12ms", "1s", "0", "-1", "nan", "inf", "9" * 35, ""),
            "Fri, 29 Sep 2023 16:26:57 GMT",
            "2024-01-01T00:00:00Z",
            "Fri, 31 Dec 100000 00:00:00 GMT",
        ]
    )
    .flatmap(
        lambda value: st.just(value) | damaged(value.encode()).map(lambda found: found.decode("latin-1"))
    )
    .map(str)
)
HEADER_NAMES = st.sampled_from(
    [
        *("retry-after", "retry-after-ms", "date", "x-should-retry", "location"),
        *("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
        *("x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-rate-limit-reset-tokens"),
        *("anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"),
    ]
)
HEADERS = st.dictionaries(HEADER_NAMES, HEADER_VALUES, max_size=5)


def require_sane(decision: Decision) -> None:
    """A decision's own words are short and harmless, and its wait is one that can be waited."""
    assert isinstance(decision.fault, Fault)
    assert re.fullmatch(r"[a-z0-9_.\-]{1,48}", decision.code), decision.code
    assert isinstance(decision.message, Untrusted)
    assert isinstance(decision.param, str)
    wait = decision.retry_after_s
    assert wait is None or 0 < wait <= ABSURD_S


def a_reply(status: int, headers: Mapping[str, str], body: bytes) -> httpx.Response:
    """A reply as a transport gives it: any bytes may stand in a header's value."""
    fields = [(name.encode(), value.encode()) for name, value in headers.items()]
    return httpx.Response(status, headers=fields, content=body)


@given(body=st.sampled_from(BODIES).flatmap(variants), headers=HEADERS)
def test_a_mutated_completion_is_an_answer_with_text_or_a_decision(
    body: bytes, headers: Mapping[str, str]
) -> None:
    found = read_completion(a_reply(200, headers, body), now=NOW)

    if isinstance(found, CompletionContent):
        assert found.text.expose().strip()
    else:
        require_sane(found)


@given(
    body=st.sampled_from(ERRORS).flatmap(variants),
    status=st.integers(201, 999),
    headers=HEADERS,
    first=st.booleans(),
)
@example(body=b"{}", status=429, headers={"retry-after-ms": "\x1c5"}, first=False)
def test_a_mutated_error_is_a_decision(
    body: bytes, status: int, headers: Mapping[str, str], first: bool
) -> None:
    reply = a_reply(status, headers, body)

    decision = classify(reply, has_succeeded=not first, attempt=1, now=NOW)

    require_sane(decision)
    if status == 401:
        assert not decision.is_retryable


@given(body=st.sampled_from(ERRORS).flatmap(variants), headers=HEADERS)
def test_a_mutated_error_under_a_200_is_never_an_answer(body: bytes, headers: Mapping[str, str]) -> None:
    found = read_completion(a_reply(200, headers, body), now=NOW)

    assert isinstance(found, Decision)
    require_sane(found)


@given(document=st.sampled_from(BODIES).flatmap(mutated).filter(lambda found: isinstance(found, dict)))
def test_a_document_with_an_error_is_never_an_answer(document: dict[str, Json]) -> None:
    body = as_text(document | {"error": {"message": "no"}}).encode()

    assert isinstance(read_completion(a_reply(200, {}, body), now=NOW), Decision)


ENDINGS = (httpx.ConnectError, httpx.ReadTimeout, httpx.ReadError, httpx.RemoteProtocolError, ReplyTooLarge)


@given(kind=st.sampled_from(ENDINGS), message=st.text(), attempt=st.integers(1, 9), first=st.booleans())
def test_a_reply_that_never_came_is_a_decision(
    kind: type[httpx.RequestError], message: str, attempt: int, first: bool
) -> None:
    decision = classify(kind(message), has_succeeded=not first, attempt=attempt, now=NOW)

    require_sane(decision)


@given(replies=st.lists(HEADERS, max_size=5))
@example(replies=[{"x-ratelimit-limit-requests": "\x1c0"}])
def test_mutated_headers_never_stop_the_pace_for_long(replies: list[dict[str, str]]) -> None:
    rates = RateModel(Caps(), lambda: 0.0)

    for headers in replies:
        rates.read_headers(rates.depart(), named_limits(headers, now=NOW))

    assert 0 <= rates.closed_s() <= ABSURD_S
    assert rates.closed_s() <= rates.wait_s() <= max(rates.closed_s(), LONGEST_WAIT_S)
    for rate in (rates.rpm, rates.tpm):
        assert rate is None or rate > 0


# Verdicts.

VERDICT = {"label": 3, "label_str": LABEL_STRINGS[2], "explanation": "It answers."}


@given(raw=variants(VERDICT), allow_fence=st.booleans())
@example(raw=b'{"label": 3, "label_str": "@", "explanation": "", "label": 1}', allow_fence=False)
def test_a_mutated_verdict_is_what_it_says_or_no_verdict(raw: bytes, allow_fence: bool) -> None:
    text = raw.decode("utf-8", "surrogateescape")

    try:
        reading = parse_verdict(Untrusted(text), allow_fence=allow_fence)
    except UnreadableVerdict:
        return

    assert isinstance(reading, Reading)
    document = json.loads(text)
    assert document["label"] == list(Label).index(reading.label) + 1
    assert document["label_str"] == LABEL_STRINGS[document["label"] - 1]
    assert document["explanation"] == reading.explanation.expose()


@given(raw=variants(VERDICT), before=st.text(max_size=5), after=st.text(max_size=5))
def test_a_fence_with_anything_in_it_is_a_verdict_or_none(raw: bytes, before: str, after: str) -> None:
    text = f"{before}```json\n{raw.decode('utf-8', 'surrogateescape')}\n```{after}"

    with suppress(UnreadableVerdict):
        parse_verdict(Untrusted(text), allow_fence=True)
        assert (before + after).strip() == ""


# The rows of a data set.

ROWS = [
    {
        "instruction_id": number,
        "instruction": "What is this?",
        "image_path": f"imgs/{number}.png",
        "category": "Violent",
        "sub_category": "Weapons",
        "source": "made up",
        "image_description": "One colour.",
        "safety_reason": None,
    }
    for number in range(2)
]


@given(content=variants(ROWS))
def test_mutated_rows_are_samples_with_ids_of_their_own_or_a_data_set_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "data.json"
    path.write_bytes(content)

    samples = value_or(DatasetError, load_rows, path)

    if isinstance(samples, DatasetError):
        assert "\n" not in samples.message
        return
    ids = [sample.id for sample in samples]
    assert len(set(ids)) == len(ids) > 0
    assert all(len(sample.digest()) == 16 for sample in samples)


# Run files.

STAMP = {"session": 1, "elapsed_s": 0.5, "at": "2025-01-01T00:00:00.000+00:00"}
RESPONSE = make_response()

RECORDS: dict[str, tuple[Callable[[codec.Json], Any], Callable[[Any], codec.Json], dict[str, Any]]] = {
    "response": (codec.Decoder().response, codec.to_json, codec.to_json(RESPONSE)),
    "verdict": (codec.Decoder().verdict, codec.to_json, codec.to_json(make_verdict(RESPONSE))),
    "failure": (codec.Decoder().failure, codec.encode_failure, codec.encode_failure(make_failure())),
    "stamp": (codec.Decoder().stamp, codec.to_json, STAMP),
}


@pytest.mark.parametrize("kind", RECORDS)
@given(choice=st.data())
def test_a_mutated_record_is_one_that_can_be_written_again_or_damage(
    kind: str, choice: st.DataObject
) -> None:
    decode, encode, record = RECORDS[kind]
    raw = choice.draw(variants(record))

    try:
        document = strict_json.loads(raw)
        if not isinstance(document, dict):
            return
        found = decode(document)
    except ValueError:
        return

    once = encode(found)
    assert encode(decode(strict_json.loads(strict_json.dumps(once)))) == once


LINES = [codec.to_json(make_response(number)) | STAMP for number in range(3)]
JOURNAL = b"".join(strict_json.dumps(line).encode() + b"\n" for line in LINES)


@given(content=damaged(JOURNAL))
def test_a_mutated_journal_is_read_or_refused_with_path_and_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "records.jsonl"
    path.write_bytes(content)

    contents = value_or(StoreError, lambda it: read_journal(it, codec.Decoder().response), path)

    if isinstance(contents, StoreError):
        assert re.search(r"records\.jsonl line [0-9]+ is damaged", contents.message)
        return
    assert isinstance(contents, Contents)
    if contents.torn_at is not None:
        assert b"\n" not in content[contents.torn_at :]
    assert len(contents.records) == content.count(b"\n") + contents.lacks_newline


MANIFEST = make_manifest(
    (0, 1), judges=[make_judge(decision={"tokens_field": "m", "unsent": [], "structured": True})]
)
MANIFEST_DOCUMENT = json.loads(manifest_text(MANIFEST))


def written_manifest(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> Path:
    directory = tmp_path_factory.getbasetemp() / "run"
    (directory / VERDICTS).mkdir(parents=True, exist_ok=True)
    (directory / "run.json").write_bytes(content)
    return directory


def with_special(where: str, special: str) -> bytes:
    """The manifest with a special in place of the value at a path such as `images.imgs/0.png.2`."""
    document = copy.deepcopy(MANIFEST_DOCUMENT)
    *path, last = where.split(" ")
    holder = document
    for step in path:
        holder = holder[int(step)] if isinstance(holder, list) else holder[step]
    holder[int(last) if isinstance(holder, list) else last] = special
    return as_text(document).encode()


@given(content=variants(MANIFEST_DOCUMENT))
@example(content=with_special("pictures imgs/0.png 2", "@huge@"))
@example(content=with_special("settings model", "@deep@"))
@example(content=with_special("settings model", "@deeper@"))
@example(content=with_special("settings temperature", "@huge@"))
def test_a_mutated_manifest_is_one_that_can_be_used_or_damage(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    directory = written_manifest(tmp_path_factory, content)

    with suppress(StoreError, RunMismatchError):
        found = read_manifest(directory)
        assert isinstance(found, Manifest)
        manifest_text(found)
        require_match(directory, found, MANIFEST, sent=MANIFEST.images)
        require_match(directory, MANIFEST, found, sent=found.images)


def journals(content: Mapping[str, bytes], directory: Path) -> None:
    for name, text in content.items():
        (directory / name).write_bytes(text)


def lines(*records: Mapping[str, Any]) -> bytes:
    return b"".join(as_text(record).encode() + b"\n" for record in records)


FAILURE = codec.encode_failure(make_failure(1, Outcome.JUDGE_ERROR)) | STAMP | {"judge": "judge-model.jsonl"}
STARTED = {"kind": "session_started", "pending": 2, "judge": "judge-model.jsonl", "only_judge": True} | STAMP
VERDICT_LINE = codec.to_json(make_verdict(make_response(0))) | STAMP
JUDGED_BY = f"{VERDICTS}/judge-model.jsonl"
GOOD: dict[str, bytes] = {
    RESPONSES: lines(*LINES[:2]),
    JUDGED_BY: lines(VERDICT_LINE),
    FAILURES: lines(FAILURE),
    EVENTS: lines(STARTED),
}
PARSED: dict[str, dict[str, Any]] = {
    RESPONSES: LINES[0],
    JUDGED_BY: VERDICT_LINE,
    FAILURES: FAILURE,
    EVENTS: STARTED,
}


def test_a_manifest_that_asks_for_endless_epochs_is_refused(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """A report counts every response that the selection asks for: it would never end."""
    document = MANIFEST_DOCUMENT | {"epochs": 10**12}
    directory = written_manifest(tmp_path_factory, json.dumps(document).encode())

    with pytest.raises(StoreError):
        read_manifest(directory)


@st.composite
def damaged_runs(draw: st.DrawFn) -> dict[str, bytes]:
    """The files of a run, one of them mutated: a line of it, or any of its bytes."""
    name = draw(st.sampled_from(sorted(GOOD)))
    bad = draw(damaged(GOOD[name]) | mutated(PARSED[name]).map(lambda found: lines(found) + GOOD[name]))
    return GOOD | {name: bad}


LONG = STAMP | {"elapsed_s": 1.7e308}


@given(content=damaged_runs())
@example(content=GOOD | {EVENTS: lines(STARTED | LONG, STARTED | LONG | {"session": 2})})
@example(content=GOOD | {RESPONSES: lines(LINES[0] | {"elapsed_s": -1.0}, LINES[1])})
def test_a_report_of_a_mutated_run_is_made_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, bytes]
) -> None:
    directory = written_manifest(tmp_path_factory, manifest_text(MANIFEST).encode())
    journals(content, directory)

    with suppress(StoreError):
        summaries = summarize_run(directory)
        assert json.loads(to_json(summaries))
        assert render(summaries, width=80, color=False)


@given(content=damaged_runs())
@example(content=GOOD | {FAILURES: lines(FAILURE | {"judge": 5}, FAILURE)})
@example(content=GOOD | {EVENTS: lines(STARTED | {"judge": ["x"]}, STARTED)})
@example(content=GOOD | {RESPONSES: GOOD[RESPONSES] + b"\n" + GOOD[RESPONSES]})
def test_after_a_repair_a_mutated_run_is_read(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, bytes]
) -> None:
    directory = written_manifest(tmp_path_factory, manifest_text(MANIFEST).encode())
    journals(content, directory)

    repair_run(directory)

    load_state(directory)


# Archives.

IMAGE = b"\x89PNG\r\n\x1a\n" + bytes(range(40))
LONG_NAME = f"imgs/{'n' * 140}.png"


def packed(form: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        folder = tarfile.TarInfo("imgs")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name in ("imgs/0.png", LONG_NAME if form != tarfile.USTAR_FORMAT else "imgs/1.png", "imgs/2.jpg"):
            member = tarfile.TarInfo(name)
            member.size = len(IMAGE)
            archive.addfile(member, io.BytesIO(IMAGE))
    # Without the padding to a record most mutations meet a header.
    return buffer.getvalue().rstrip(b"\0") + b"\0" * 1536


ARCHIVES = [packed(form) for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]


def checked(block: bytes) -> bytes:
    """A header block with the checksum that fits it, so that the mutation is believed."""
    total = sum(block) - sum(block[148:156]) + 8 * 0x20
    return block[:148] + b"%06o\0 " % total + block[156:]


@st.composite
def forged(draw: st.DrawFn, content: bytes) -> bytes:
    """An archive with fields of its headers changed and their checksums made right again."""
    found = bytearray(content)
    headers = [at for at in range(0, len(found), 512) if found[at + 257 : at + 262] == b"ustar"]
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.sampled_from(headers))
        start, size = draw(
            st.sampled_from([(0, 100), (100, 8), (124, 12), (136, 12), (156, 1), (157, 100), (345, 155)])
        )
        value = draw(
            st.binary(max_size=size)
            | st.sampled_from([b"../../x", b"/etc/x", b"7" * 11, b"\x80" + b"\xff" * 11, b"-1"])
        )
        found[at + start : at + start + size] = value[:size].ljust(size, b"\0")
        found[at : at + 512] = checked(bytes(found[at : at + 512]))
    return bytes(found)


@given(content=st.sampled_from(ARCHIVES).flatmap(lambda found: damaged(found) | forged(found)))
def test_a_mutated_archive_is_read_within_its_folder_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "imgs.tar"
    path.write_bytes(content)

    archive = value_or(DatasetError, scan, path)

    if isinstance(archive, DatasetError):
        assert "\n" not in archive.message
        return
    for name, member in archive.members.items():
        assert re.fullmatch(r"imgs/[^/\\\0]+", name)
        assert ".." not in name.split("/")
        with suppress(ImageError), archive.open_image(name) as opened:
            assert len(opened.stream.read()) <= member.size_bytes


def test_the_archives_that_are_mutated_are_good_ones(tmp_path: Path) -> None:
    path = tmp_path / "imgs.tar"

    for content in ARCHIVES:
        path.write_bytes(content)
        archive = scan(path)
        assert len(archive.members) == 3
        for name in archive.members:
            with archive.open_image(name) as opened:
                assert opened.stream.read() == IMAGE


def test_the_run_that_is_mutated_is_a_good_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = written_manifest(tmp_path_factory, manifest_text(MANIFEST).encode())
    journals(GOOD, directory)

    state = load_state(directory)

    assert (len(state.responses), len(state.judged["judge-model.jsonl"].verdicts)) == (2, 1)
    assert repair_run(directory) == []
