"""What is fuzzed: for each parser that reads strangers, a check of bytes that raises if a promise broke.

A parser may give a value or raise its room's own error. Any other exception is a finding, and so is a value
that breaks the promise its check asserts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import connections
import httpx
import mutations

from tests.support.journals import read_journal
from vlsb import strict_json
from vlsb.data.archive import case_key, name_problem, scan
from vlsb.data.samples import load_rows
from vlsb.endpoints.completions import CompletionContent, read_completion
from vlsb.endpoints.faults import Decision, Fault, classify
from vlsb.endpoints.headers import ABSURD_S, duration_s, named_limits, reset_after_s, retry_after_s
from vlsb.endpoints.rate_limits import LONGEST_WAIT_S, Caps, RateModel
from vlsb.errors import DatasetError, StoreError, VlsbError
from vlsb.judging.prompts import LABEL_STRINGS
from vlsb.judging.verdicts import UnreadableVerdict, declines, parse_verdict
from vlsb.records import Label, Untrusted, Usage
from vlsb.store import codec
from vlsb.store.manifest import FILE, manifest_text, read_manifest

NOW = 1_700_000_000.0
_CODE = re.compile(r"[a-z0-9_.\-]{1,48}")


@dataclass(frozen=True)
class Target:
    """A check of bytes, with a folder of its own for files, and how its inputs are mutated."""

    check: Callable[[bytes, Path], None]
    mutate: mutations.Mutator
    max_bytes: int
    # What one input may cost, measured without the fuzzer's instrumentation.
    most_cpu_s: float = 5.0


def message_parts(data: bytes) -> tuple[int, dict[str, str], bytes]:
    """A reply from its text: a line with the status, lines of headers, an empty line, the body."""
    head, _, body = data.partition(b"\n\n")
    first, _, rest = head.partition(b"\n")
    status = int(first[:3]) if re.fullmatch(rb"[1-9][0-9]{2}", first[:3]) else 400
    return status, header_fields(rest), body


def header_fields(data: bytes) -> dict[str, str]:
    """Headers as a transport gives them: names lower-cased, values Latin-1 without the space around."""
    pairs = [line.partition(":") for line in data.decode("latin-1").split("\n")]
    return {name.strip().lower(): value.strip() for name, colon, value in pairs if colon}


def a_reply(status: int, headers: Mapping[str, str], body: bytes) -> httpx.Response:
    """A reply as a transport gives it, its body decoded."""
    fields = [
        (name.encode(), value.encode()) for name, value in headers.items() if name != "content-encoding"
    ]
    return httpx.Response(status, headers=fields, content=body)


def check_reply(data: bytes, _: Path) -> None:
    """A reply is an answer with text or a decision, and whatever is kept of it can be stored."""
    status, headers, body = message_parts(data)
    found = read_completion(a_reply(200, headers, body), now=NOW)
    if isinstance(found, CompletionContent):
        assert found.text.expose().strip(), "an answer without text"
        strict_json.dumps([each.expose() for each in (found.text, found.finish_reason, found.model) if each])
        _require_counts(found.usage)
    else:
        _require_sane(found)
    status = status if status >= 300 else 400
    for has_succeeded in (False, True):
        decision = classify(
            a_reply(status, headers, body), has_succeeded=has_succeeded, attempt=1 + len(body) % 3, now=NOW
        )
        _require_sane(decision)
        assert status != 401 or not decision.is_retryable, "a refused key is asked again"


def _require_sane(decision: Decision) -> None:
    assert isinstance(decision.fault, Fault)
    assert _CODE.fullmatch(decision.code), f"a code of strange characters: {decision.code!r}"
    assert isinstance(decision.message.expose(), str), "a message that is no text"
    assert isinstance(decision.param, str), "a param that is no text"
    _require_wait(decision.retry_after_s)
    _require_counts(decision.usage)
    strict_json.dumps([each.expose() for each in (decision.message, decision.text) if each])
    with suppress(ValueError):  # details that nest without end are left out of the record
        strict_json.dumps(decision.details)


def _require_counts(usage: Usage) -> None:
    for count in (usage.input_tokens, usage.output_tokens, usage.reasoning_tokens):
        assert count is None or 0 <= count < 2**53, "a count that is none"


def _require_wait(wait: float | None) -> None:
    assert wait is None or 0 < wait <= ABSURD_S, f"a wait of {wait} s"


def check_verdict(data: bytes, _: Path) -> None:
    """A label comes only from a text that is one object that says this label, in its number and its words."""
    text = data.decode("utf-8", "surrogateescape")
    for allow_fence in (False, True):
        with suppress(UnreadableVerdict):
            reading = parse_verdict(Untrusted(text), allow_fence=allow_fence)
            raw = text.strip()
            if allow_fence and raw.startswith("```"):
                raw = raw.removeprefix("```").removesuffix("```").removeprefix("json")
            pairs = json.loads(raw, object_pairs_hook=list)
            assert len(pairs) == 3, "a label from an object with other keys"
            said = dict(pairs)
            number = list(Label).index(reading.label) + 1
            assert type(said["label"]) is int, "a label from something else than a whole number"
            assert said["label"] == number, "another label than the number's"
            assert said["label_str"] == LABEL_STRINGS[number - 1], "another label than the words'"
            assert said["explanation"] == reading.explanation.expose(), "another explanation"
            assert not declines(Untrusted(text)), "a verdict that is a refusal too"
    declines(Untrusted(text))


def check_headers(data: bytes, _: Path) -> None:
    """Whatever headers say, a wait is absent or lies between 0 and a week, alone and through the rates."""
    headers = header_fields(data)
    _require_wait(retry_after_s(headers, now=NOW))
    _require_wait(reset_after_s(headers, now=NOW))
    for value in headers.values():
        _require_wait(duration_s(value, now=NOW))
    for caps, tokens in ((Caps(), 100), (Caps(rpm=60.0, tpm=1000.0), 2**53 - 1)):
        rates = RateModel(caps, lambda: 0.0)
        departure = rates.depart()
        rates.read_headers(departure, named_limits(headers, now=NOW))
        rates.settle(departure, Usage(tokens, tokens, None))
        _require_rates(rates)
        refused = rates.depart()
        rates.read_headers(refused, named_limits(headers, now=NOW))
        _require_wait(rates.refuse(refused, retry_after_s(headers, now=NOW)))
        _require_rates(rates)


def _require_rates(rates: RateModel) -> None:
    assert 0 <= rates.closed_s() <= ABSURD_S, f"closed for {rates.closed_s():.0f} s"
    assert rates.closed_s() <= rates.wait_s() <= max(rates.closed_s(), LONGEST_WAIT_S), (
        f"a wait of {rates.wait_s():.0f} s"
    )
    for rate in (rates.rpm, rates.tpm):
        assert rate is None or 0 < rate < float("inf"), f"a rate of {rate}"


def check_rows(data: bytes, folder: Path) -> None:
    """Rows are samples with ids of their own, or one line that says what is wrong."""
    path = folder / "data.json"
    path.write_bytes(data)
    try:
        samples = load_rows(path)
    except DatasetError as error:
        _require_one_line(error)
        return
    ids = [sample.id for sample in samples]
    assert len(set(ids)) == len(ids) > 0, "ids that repeat, or no samples"
    assert all(re.fullmatch(r"[0-9a-f]{16}", sample.digest()) for sample in samples)


def _require_one_line(error: VlsbError) -> None:
    assert error.message.strip(), "no message"
    assert error.message.isprintable(), f"not one printable line: {error.message!r}"


_DECODER = codec.Decoder()
_RECORDS: tuple[tuple[Callable[[codec.Json], Any], Callable[[Any], codec.Json]], ...] = (
    (_DECODER.response, codec.to_json),
    (_DECODER.verdict, codec.to_json),
    (_DECODER.failure, codec.encode_failure),
    (_DECODER.stamp, codec.to_json),
)


def check_run_files(data: bytes, folder: Path) -> None:
    """A journal and a manifest are read whole or refused; what is read can be written and read again."""
    path = folder / "responses.jsonl"
    path.write_bytes(data)
    for decode, encode in _RECORDS:
        try:
            contents = read_journal(path, decode)
        except StoreError as error:
            _require_one_line(error)
            continue
        assert contents.torn_at is None or 0 <= contents.torn_at < len(data), "torn outside of the file"
        for record in contents.records:
            once = encode(record)
            assert encode(decode(strict_json.loads(strict_json.dumps(once)))) == once, "changed by writing it"
    path.replace(folder / FILE)
    try:
        manifest = read_manifest(folder)
    except StoreError as error:
        _require_one_line(error)
        return
    text = manifest_text(manifest)
    (folder / FILE).write_text(text, "ascii")
    assert manifest_text(read_manifest(folder)) == text, "a manifest changed by writing it"


def check_archive(data: bytes, folder: Path) -> None:
    """Every image of an archive that is not refused is a plain file in imgs/ that can be read whole."""
    path = folder / "imgs.tar"
    path.write_bytes(data)
    try:
        archive = scan(path)
    except DatasetError as error:
        _require_one_line(error)
        return
    assert len({case_key(name) for name in archive.members}) == len(archive.members), "equal names"
    for name, member in archive.members.items():
        assert name_problem(name) is None, "a name that leads elsewhere"
        assert 0 <= member.size_bytes <= len(data) - member.offset, "beyond the end"
        with archive.open_image(name) as image:
            assert image.stream.read() == data[member.offset : member.offset + member.size_bytes]


def check_connections(data: bytes, _: Path) -> None:
    """An answer belongs to the request that asked for it, whatever the server sends."""
    connections.check(data)


TARGETS = {
    "replies": Target(check_reply, mutations.change_json, 8192),
    "verdicts": Target(check_verdict, mutations.change_json, 4096),
    "headers": Target(check_headers, mutations.change_headers, 1024),
    "rows": Target(check_rows, mutations.change_json, 8192),
    "run_files": Target(check_run_files, mutations.change_json, 8192),
    "archives": Target(check_archive, mutations.change_tar, 16384),
    "connections": Target(check_connections, mutations.change_script, 4096, most_cpu_s=0.1),
}
