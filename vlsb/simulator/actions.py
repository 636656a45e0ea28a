"""What the simulator does with a request: replies and misdeeds, and builders for the usual ones."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeAlias

from vlsb.simulator.requests import Request

CHUNK_BYTES = 16 * 1024
_PHRASES = {status.value: status.phrase for status in HTTPStatus}
LABEL_STRINGS = {1: "Safe with refusal", 2: "Safe with warning", 3: "Unsafe"}

Json: TypeAlias = dict[str, Any] | list[Any]
Headers: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole HTTP reply. The content type is JSON unless `headers` name another.

    `content_length` is sent as given, true or not. `unsized` sends neither a length nor chunks: the
    body ends where the connection does.
    """

    status: int = 200
    body: Json | str | bytes = b""
    headers: Headers = ()
    delay_s: float = 0.0
    chunked: bool = False
    content_length: int | None = None
    unsized: bool = False
    close: bool = False


@dataclass(frozen=True, slots=True)
class Cut:
    """Close after that many bytes of the reply, its head counted; negative counts from its end."""

    reply: Reply
    after_bytes: int


@dataclass(frozen=True, slots=True)
class Drip:
    """Send the whole reply in small pieces, with a pause between two: after the last one it is over."""

    reply: Reply
    bytes_per_chunk: int
    interval_s: float


@dataclass(frozen=True, slots=True)
class Stall:
    """Never answer: hold the connection until the client goes or the simulator closes."""


@dataclass(frozen=True, slots=True)
class Hangup:
    """Close before any header; with `reset` by RST, as a crashed or overloaded host does."""

    reset: bool = False


@dataclass(frozen=True, slots=True)
class Raw:
    """Send these bytes, whatever they are."""

    data: bytes
    close: bool = True


@dataclass(frozen=True, slots=True)
class Endless:
    """A chunked body that repeats `chunk` and never ends; at `limit` sent bytes the connection closes."""

    chunk: bytes = b" " * 65536
    limit: int = 1024 * 1024 * 1024
    headers: Headers = ()


Action: TypeAlias = Reply | Cut | Drip | Stall | Hangup | Raw | Endless
Responder: TypeAlias = Callable[[Request], Action | Awaitable[Action]]


def answer(
    text: str | None,
    *,
    finish_reason: str | None = "stop",
    refusal: str | None = None,
    usage: tuple[int, int] | None = (800, 40),
    reasoning_tokens: int = 0,
    model: str | None = None,
    delay_s: float = 0.0,
    **message_fields: Any,
) -> Reply:
    """A chat completion that says `text`; `usage` is (input, output) tokens, reasoning among the latter."""
    message = {"role": "assistant", "content": text, "refusal": refusal, "annotations": [], **message_fields}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
    body: dict[str, Any] = {
        "id": "chatcmpl-simulated",
        "object": "chat.completion",
        "created": 1735689600,
        "model": model or "simulated",
        "choices": [choice],
        "service_tier": "default",
        "system_fingerprint": "fp_simulated",
    }
    if usage is not None:
        body["usage"] = {
            "prompt_tokens": usage[0],
            "completion_tokens": usage[1],
            "total_tokens": sum(usage),
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": reasoning_tokens,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }
    return Reply(body=body, delay_s=delay_s)


def verdict(
    label: int,
    explanation: str = "The response fits this label.",
    *,
    label_str: str | None = None,
    **options: Any,
) -> Reply:
    """A judge's completion in the official schema; `label_str` may be made to disagree with `label`.

    `options` are those of `answer`.
    """
    spoken = LABEL_STRINGS[label] if label_str is None else label_str
    return answer(json.dumps({"label": label, "label_str": spoken, "explanation": explanation}), **options)


def error(
    status: int,
    *,
    code: str | int | None = None,
    type: str | None = None,
    message: str = "The simulator was told to fail.",
    param: str | None = None,
    headers: Headers = (),
    delay_s: float = 0.0,
) -> Reply:
    """An error reply in OpenAI's shape."""
    body: Json = {"error": {"message": message, "type": type, "param": param, "code": code}}
    return Reply(status, body, headers, delay_s)


def rate_limited(retry_after: float | str | None = None) -> Reply:
    """A 429 of the kind that waiting helps; `retry_after` is sent as it is written."""
    headers = () if retry_after is None else (("retry-after", str(retry_after)),)
    return error(
        429,
        code="rate_limit_exceeded",
        type="requests",
        message="Rate limit reached for simulated on requests per min (RPM).",
        headers=headers,
    )


def blocked() -> Reply:
    """A prompt filter's 400 in Azure's shape."""
    filtered = {"hate": {"filtered": True, "severity": "high"}, "jailbreak": {"detected": False}}
    body: Json = {
        "error": {
            "message": "The response was filtered due to the prompt triggering the content policy.",
            "type": None,
            "param": "prompt",
            "code": "content_filter",
            "status": 400,
            "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": filtered},
        }
    }
    return Reply(400, body)


def models(names: Iterable[str]) -> Reply:
    """Return the list of models that `GET /v1/models` gives."""
    data = [{"id": name, "object": "model", "created": 1735689600, "owned_by": "simulator"} for name in names]
    return Reply(body={"object": "list", "data": data})


def wire(reply: Reply) -> bytes:
    """Return the bytes of a reply, head and body, as `Reply` sends them."""
    body = body_bytes(reply.body)
    names = {name.lower() for name, _ in reply.headers}
    lines = [f"HTTP/1.1 {reply.status} {_PHRASES.get(reply.status, 'Unassigned')}"]
    if "content-type" not in names:
        lines.append("content-type: application/json")
    if reply.chunked:
        lines.append("transfer-encoding: chunked")
    elif not reply.unsized:
        lines.append(f"content-length: {len(body) if reply.content_length is None else reply.content_length}")
    if reply.close or reply.unsized:
        lines.append("connection: close")
    lines += [f"{name}: {text}" for name, text in reply.headers]
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    if not reply.chunked:
        return head + body
    pieces = [body[start : start + CHUNK_BYTES] for start in range(0, len(body), CHUNK_BYTES)]
    return head + b"".join(_chunk(piece) for piece in [*pieces, b""])


def body_bytes(body: Json | str | bytes) -> bytes:
    """A body as it is sent."""
    if isinstance(body, bytes):
        return body
    # The standard library's JSON is ASCII and lets lone surrogates through, which orjson refuses to write.
    return (body if isinstance(body, str) else json.dumps(body, separators=(",", ":"))).encode()


def _chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


async def _pieces(action: Action) -> AsyncGenerator[bytes, None]:
    match action:
        case Reply():
            await asyncio.sleep(action.delay_s)
            yield wire(action)
        case Cut():
            await asyncio.sleep(action.reply.delay_s)
            yield wire(action.reply)[: action.after_bytes]
        case Drip():
            await asyncio.sleep(action.reply.delay_s)
            data = wire(action.reply)
            for start in range(0, len(data), action.bytes_per_chunk):
                if start:
                    await asyncio.sleep(action.interval_s)
                yield data[start : start + action.bytes_per_chunk]
        case Raw():
            yield action.data
        case Endless():
            yield wire(Reply(body=action.chunk, headers=action.headers, chunked=True)).removesuffix(
                _chunk(b"")
            )
            for _ in range(len(action.chunk), action.limit, len(action.chunk)):
                yield _chunk(action.chunk)
        case Stall():
            await asyncio.Event().wait()
        case Hangup():
            return


async def play(action: Action, writer: asyncio.StreamWriter) -> None:
    async with contextlib.aclosing(_pieces(action)) as pieces:
        async for piece in pieces:
            writer.write(piece)
            await writer.drain()
    if isinstance(action, Hangup) and action.reset:
        no_linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_linger)


def is_whole(action: Action) -> bool:
    return isinstance(action, Reply | Drip | Raw)


def keeps_open(action: Action) -> bool:
    match action:
        case Reply():
            return not (action.close or action.unsized)
        case Drip():
            return keeps_open(action.reply)
        case Raw():
            return not action.close
        case _:
            return False
