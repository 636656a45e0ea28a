"""Where each target starts: small valid inputs, made up and harmless, and the words of its format."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator
from typing import Any

from mutations import BLOCK

from vlsb.judging.prompts import LABEL_STRINGS
from vlsb.records import (
    Completion,
    Failure,
    ImageFile,
    Key,
    Label,
    Outcome,
    Response,
    Sample,
    Untrusted,
    Usage,
    Verdict,
)
from vlsb.store import codec
from vlsb.store.manifest import JudgeEntry, Manifest, manifest_text, sample_row

_COMPLETION = {
    "model": "m-1",
    "choices": [
        {
            "message": {"role": "assistant", "content": "Fine.", "refusal": None, "reasoning": "hm"},
            "finish_reason": "stop",
            "content_filter_results": {
                "hate": {"filtered": False},
                "error": {"code": "content_filter_error"},
            },
        }
    ],
    "usage": {
        "prompt_tokens": 5,
        "completion_tokens": 7,
        "completion_tokens_details": {"reasoning_tokens": 3},
    },
}
_PARTS = {
    "choices": [
        {"message": {"content": [{"type": "text", "text": "a"}, {"text": "b"}]}, "finish_reason": "length"}
    ]
}
_FILTERED = {
    "code": "content_filter",
    "param": "prompt",
    "message": "filtered",
    "innererror": {
        "code": "ResponsibleAIPolicyViolation",
        "content_filter_result": {"hate": {"filtered": True}},
    },
}
_DETAILS = [
    {"violations": [{"quotaId": "PerDayPerModel"}]},
    {"retryDelay": "34s"},
    {"reason": "API_KEY_INVALID"},
]
_ROUTED = {
    "code": 403,
    "message": "Provider returned error",
    "metadata": {"raw": "no", "provider_name": "p", "reasons": ["x"], "flagged_input": "y"},
}
_BODIES: tuple[tuple[int, Any], ...] = (
    (200, _COMPLETION),
    (200, _PARTS),
    (200, {"choices": [{"message": {"content": "", "refusal": "I will not."}, "finish_reason": "refusal"}]}),
    (200, {"choices": [], "prompt_feedback": {"block_reason": "SAFETY"}, "usage": {"prompt_tokens": 5}}),
    (
        200,
        {"choices": [], "prompt_filter_results": [{"content_filter_results": {"hate": {"filtered": True}}}]},
    ),
    (200, {"choices": [{"error": {"code": 502, "message": "upstream"}, "finish_reason": "error"}]}),
    (429, {"error": {"code": "rate_limit_exceeded", "type": "requests", "param": None, "message": "slow"}}),
    (429, {"error": {"code": "insufficient_quota", "type": "insufficient_quota"}}),
    (
        429,
        [{"error": {"code": 429, "message": "Quota", "status": "RESOURCE_EXHAUSTED", "details": _DETAILS}}],
    ),
    (400, {"error": _FILTERED}),
    (403, {"error": _ROUTED}),
    (400, {"type": "error", "error": {"type": "rate_limit_error", "details": {"error_code": "x_limit"}}}),
    (400, {"object": "error", "message": "maximum context length", "type": "BadRequestError", "code": 400}),
    (
        400,
        {
            "error": {
                "type": "invalid_request_error",
                "message": "Your spend limit; blocked by content filtering",
            }
        },
    ),
    (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
)
_HEADERS = (
    "retry-after: 20\nx-should-retry: false",
    "retry-after-ms: 1250\ndate: Fri, 29 Sep 2023 16:26:57 GMT",
    "date: Tue, 14 Nov 2023 22:13:20 GMT\nretry-after: Tue, 14 Nov 2023 22:14:20 GMT",
    "x-ratelimit-limit-requests: 60\nx-ratelimit-remaining-requests: 0\nx-ratelimit-reset-requests: 6m0s",
    "x-ratelimit-limit-tokens: 1000\nx-ratelimit-remaining-tokens: 0\nx-ratelimit-reset-tokens: 12ms",
    "x-rate-limit-reset-tokens: 55\nx-ratelimit-reset: 1.5",
    "anthropic-ratelimit-tokens-remaining: 0\nanthropic-ratelimit-tokens-reset: 2023-11-14T22:14:20Z",
    "ratelimit-remaining: 0\nratelimit-reset: 1d2h3m4s5ms6us7ns\nratelimit-limit: 9",
)
_WORDS = re.compile(rb"[A-Za-z_][A-Za-z0-9_\-]{2,}")


def seeds_of(target: str) -> Iterator[bytes]:
    """The valid inputs that a target's corpus starts from."""
    yield from _SEEDS[target]()


def large_of(target: str) -> Iterator[bytes]:
    """Inputs whose size is the attack: too large for mutation, checked once each against the limits."""
    deep = b"[" * 2**20
    yield from _LARGE[target]() if target in _LARGE else ()
    if target not in ("headers", "archives", "connections"):
        yield from (deep, b'{"a":' * 2**20, b"1" * 2**20, b"[" + b"0," * 2**20 + b"0]")


def words_of(target: str) -> list[str]:
    """The lines of the fuzzer's dictionary: words of the seeds, and the short texts that formats turn on."""
    words = {word for seed in seeds_of(target) for word in _WORDS.findall(seed)}
    common = [
        b'"',
        b"{}",
        b"[]",
        b"null",
        b"true",
        b"1e999",
        b"\\ud800",
        b"\n",
        b": 0",
        b"0.000000001",
        b"GMT",
        b"Z",
    ]
    lines = ["".join(f"\\x{byte:02x}" for byte in word) for word in sorted(words) + common]
    return [f'"{line}"' for line in lines]


def _replies() -> Iterator[bytes]:
    for number, (status, body) in enumerate(_BODIES):
        yield f"{status}\n{_HEADERS[number % len(_HEADERS)]}\n\n{json.dumps(body)}".encode()
    yield b"502\ncontent-type: text/html\n\n<html><body>Bad gateway</body></html>"
    yield b"307\nlocation: https://elsewhere.example/v1\n\n"


def _verdicts() -> Iterator[bytes]:
    for number, words in enumerate(LABEL_STRINGS, start=1):
        text = json.dumps({"label": number, "label_str": words, "explanation": "It fits."})
        yield text.encode()
        yield f"```json\n{text}\n```".encode()
    yield b"I'm sorry, I cannot label this."
    yield b'{"label": 1, "label_str": "x", "explanation": "", "label": 3} '


def _headers() -> Iterator[bytes]:
    yield from (text.encode() for text in _HEADERS)


def _rows() -> Iterator[bytes]:
    rows = [_row(number) for number in range(2)]
    yield json.dumps(rows).encode()
    yield b"\xef\xbb\xbf" + json.dumps([rows[0] | {"instruction_id": "7", "safety_reason": "why"}]).encode()


def _row(number: int) -> dict[str, Any]:
    return {
        "instruction_id": number,
        "instruction": "What is this?",
        "image_path": f"imgs/{number}.png",
        "category": "Violent",
        "sub_category": "Weapons",
        "source": "made up",
        "image_description": "One colour.",
        "safety_reason": None,
    }


def _run_files() -> Iterator[bytes]:
    stamp = codec.to_json(codec.Stamp(1, 0.5, "2025-01-01T00:00:00.000+00:00"))
    completion = Completion(
        text=Untrusted("Fine."),
        origin="content",
        finish_reason=Untrusted("stop"),
        model=Untrusted("m-1"),
        usage=Usage(800, 40, 0),
        attempts=1,
        latency_s=0.5,
        request_sha256="01" * 32,
        image_sha256="ab" * 32,
        flags=("unfiltered",),
    )
    response = Response.of(Key(0, 1), completion)
    verdict = Verdict(
        sample_id=0,
        label=Label.UNSAFE,
        explanation=Untrusted("It fits."),
        usage=Usage(1, 2, None),
        response_sha256=response.response_sha256,
        image_sha256="ab" * 32,
        asks=1,
        attempts=1,
        latency_s=0.25,
        request_sha256="02" * 32,
    )
    failure = Failure(
        sample_id=0,
        stage="target",
        outcome=Outcome.TARGET_ERROR,
        fault="transient",
        code="http_500",
        status=500,
        message=Untrusted("No."),
        attempts=3,
        usage=Usage(),
        details={"a": [1]},
    )
    records = [codec.to_json(response), codec.to_json(verdict), codec.encode_failure(failure)]
    for record in records:
        line = json.dumps(record | stamp | {"judge": "j"}).encode()
        yield line + b"\n"
        yield line + b"\n" + line
    yield json.dumps(json.loads(manifest_text(_manifest()))).encode()


def _manifest() -> Manifest:
    samples = [
        Sample(n, *(Untrusted(text) for text in ("What?", f"imgs/{n}.png", "Violent", "Weapons", "made up")))
        for n in range(2)
    ]
    lane = {
        "model": "m-1",
        "address": "http://loopback/v1",
        "headers": [],
        "extra": {"seed": 7},
        "top_p": None,
    }
    dialect = {"tokens_field": "max_tokens", "unsent": ["top_p"], "structured": True}
    judge = JudgeEntry(
        name=Untrusted("j"),
        file="j.jsonl",
        simulated=False,
        is_added=False,
        settings=lane,
        decision=dialect,
        deviations=[],
    )
    return Manifest(
        version="0",
        created_at="2025-01-01T00:00:00+00:00",
        target=Untrusted("m-1"),
        simulated=False,
        epochs=1,
        settings=lane,
        judges=[judge],
        selection={"limit": None, "sample_ids": [], "seed": 0},
        data={},
        data_digest="cd" * 32,
        differences=["one difference"],
        deviations=[Untrusted("seed: 7 (added)")],
        samples=[sample_row(sample) for sample in samples],
        images={"imgs/0.png": ImageFile("ab" * 32, "image/png", 70, 1)},
        decision=dialect,
        accepts_changed_images=False,
    )


def _archives() -> Iterator[bytes]:
    for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        yield _archive(kind, "imgs/0.png", "imgs/1.jpg")
        yield _archive(kind, "imgs/" + "n" * 95 + ".png")
    yield _archive(tarfile.PAX_FORMAT, "imgs/0.png", mtime=1.5, pax={"size": "9", "path": "imgs/2.png"})
    sparse = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "imgs/3.png"}
    yield _archive(tarfile.PAX_FORMAT, "imgs/0.png", pax=sparse | {"GNU.sparse.realsize": "9"})
    yield _archive(
        tarfile.PAX_FORMAT, "imgs/0.png", pax={"GNU.sparse.map": "0,4,8,1", "GNU.sparse.size": "9"}
    )
    yield _archive(tarfile.PAX_FORMAT, "imgs/0.png", shared={"comment": "made up", "hdrcharset": "BINARY"})


def _archive(
    kind: int,
    *names: str,
    mtime: float = 0,
    pax: dict[str, str] | None = None,
    shared: dict[str, str] | None = None,
) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=kind, pax_headers=shared) as archive:
        folder = tarfile.TarInfo("imgs")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name in names:
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.pax_headers = 9, mtime, pax or {}
            archive.addfile(member, io.BytesIO(b"\x89PNG made"))
    # Two empty blocks end an archive; the rest of its last record would be ballast.
    return stream.getvalue().rstrip(b"\0").ljust(BLOCK, b"\0") + bytes(
        3 * BLOCK - len(stream.getvalue().rstrip(b"\0")) % BLOCK
    )


def _large_replies() -> Iterator[bytes]:
    for text in ("max_new_tokens " * 10**5, "\n" * 2**21, "blocked" + " " * 2**20, "9" * 2**20):
        body = {"error": {"code": text, "message": text, "type": "invalid_request_error"}}
        yield f"400\n\n{json.dumps(body)}".encode()
        yield f"200\n\n{json.dumps({'choices': [{'message': {'content': text}}]})}".encode()
    yield b"200\n\n" + b" " * 2**23
    yield b"200\n\n" + b"[" * 2**20


def _large_verdicts() -> Iterator[bytes]:
    for start in (b"```", b"```json", b"```json\n{}", b"I am", b"I'm a", b"Unfortunately,", b'{"label":'):
        yield from (start + space * 50_000 + b"x" for space in (b"\n", b" ", b"\n ", b"a"))
        yield start + b"\n" * 50_000 + b"```"


def _large_headers() -> Iterator[bytes]:
    for start in (b"Fri, ", b"2024-", b"Fri, 29 Sep 2023 ", b""):
        for filling in (b"(", b"1", b" ", b'"', b",", b"-a"):
            value = start + filling * 2**16
            yield b"\n".join([b"date: " + value, b"retry-after: " + value, b"x-ratelimit-reset: " + value])
    yield b"\n".join(b"x-ratelimit-reset-%s: 1s" % (b"a" * number) for number in range(1000))


def _large_run_files() -> Iterator[bytes]:
    yield b"\n" * 2**20
    yield next(_run_files()).rstrip(b"\n") + b" " * 2**22


def _large_archives() -> Iterator[bytes]:
    for filling in (b"1", b" ", b"1 ", b"=", b"\n", b"1 a=\n"):
        for size in (2**17, 2**20 - BLOCK):
            yield _extended(tarfile.XHDTYPE, (filling * size)[:size]) + _empty_image(0) + bytes(2 * BLOCK)
    shared = b"".join(_record(f"k{number}") for number in range(60_000))
    own = _extended(tarfile.XHDTYPE, _record("comment"))
    images = b"".join(own + _empty_image(number) for number in range(1000))
    yield _extended(tarfile.XGLTYPE, shared) + images + bytes(2 * BLOCK)


def _extended(kind: bytes, records: bytes) -> bytes:
    header = tarfile.TarInfo("pax")
    header.type, header.size = kind, len(records)
    return header.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % BLOCK)


def _empty_image(number: int) -> bytes:
    return tarfile.TarInfo(f"imgs/{number}.png").tobuf(tarfile.USTAR_FORMAT)


def _record(key: str) -> bytes:
    rest = f" {key}=\n".encode()
    return next(b"%d%b" % (size, rest) for size in range(5, 99) if len(b"%d%b" % (size, rest)) == size)


def _connections() -> Iterator[bytes]:
    sized = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n@T"
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\na\r\n@T\r\n0\r\n\r\n"
    yield b"\x1e".join([sized, chunked, sized])
    yield b"\x1e".join([sized + sized, sized, sized])
    yield b"\x1e".join([sized + b"\x1d" + sized, sized + b"\x1d\r\n", chunked])
    yield b"\x1e".join([sized[:30] + b"\x1f" + sized[30:], chunked.replace(b"a\r", b"\x1fa\r"), sized])
    yield b"\x1e".join([b"HTTP/1.1 100 Continue\r\n\r\n" + sized, b"HTTP/1.1 204 No\r\n\r\n", sized])
    yield b"\x1e".join([b"HTTP/1.1 200 OK\r\n\r\n@T\x04", b"HTTP/1.0 200 OK\r\n\r\n@T\x04", sized + b"\x04"])
    yield b"\x1e".join([b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 10\r\n\r\n@T", sized])


def _large_connections() -> Iterator[bytes]:
    head = b"HTTP/1.1 200 OK\r\n"
    for blanks in (b"x:" + b" " * 99_000 + b"y", b"x: y" + b" " * 99_000, b"x: y\r\n" + b" " * 99_000):
        yield head + blanks + b"\r\n\r\n\x04"
    yield head + b"x: y\r\n" * 15_000 + b"\r\n\x04"
    yield b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000
    yield head + b"transfer-encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n"


_LARGE = {
    "replies": _large_replies,
    "verdicts": _large_verdicts,
    "headers": _large_headers,
    "run_files": _large_run_files,
    "archives": _large_archives,
    "connections": _large_connections,
}
_SEEDS = {
    "replies": _replies,
    "verdicts": _verdicts,
    "headers": _headers,
    "rows": _rows,
    "run_files": _run_files,
    "archives": _archives,
    "connections": _connections,
}
