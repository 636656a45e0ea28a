"""What providers really send, to the byte where it matters."""

from __future__ import annotations

import gzip
from typing import Any

from vlsb.simulator import Cut, Headers, Json, Raw, Reply, answer, wire

HTML = "<!DOCTYPE html><html><body>Checking your browser</body></html>"
AS_HTML: Headers = (("content-type", "text/html; charset=utf-8"),)


def openai(status: int, code: str | None, message: str, **fields: Any) -> Reply:
    """An error as OpenAI writes it."""
    body = {"message": message, "type": "invalid_request_error", "param": None, "code": code, **fields}
    return Reply(status, {"error": body})


def anthropic(status: int, kind: str, message: str, *, headers: Headers = (), **fields: Any) -> Reply:
    """An error as Anthropic writes it."""
    error = {"type": kind, "message": message, **fields}
    return Reply(status, {"type": "error", "error": error, "request_id": "req_011"}, headers)


def openrouter(status: int, code: int, message: str, **metadata: Any) -> Reply:
    """An error as OpenRouter writes it; with status 200 it stands where a completion should."""
    error: dict[str, Any] = {"message": message, "code": code}
    return Reply(status, {"error": error | ({"metadata": metadata} if metadata else {}), "user_id": "user_1"})


def gemini(quota: str, delay: str) -> Reply:
    """Gemini's 429: the body is an array."""
    google = "type.googleapis.com/google.rpc."
    violation = {"quotaMetric": "generativelanguage.googleapis.com/requests", "quotaId": quota}
    details = [
        {"@type": f"{google}QuotaFailure", "violations": [violation]},
        {"@type": f"{google}RetryInfo", "retryDelay": delay},
    ]
    error = {"code": 429, "message": "Quota exceeded.", "status": "RESOURCE_EXHAUSTED", "details": details}
    return Reply(429, [{"error": error}])


def azure_prompt_filter() -> Reply:
    """Azure's 400 for a prompt that its filter does not let through."""
    filtered = {
        "hate": {"filtered": True, "severity": "high"},
        "jailbreak": {"detected": True, "filtered": True},
    }
    error = {
        "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management"
        " policy. Please modify your prompt and retry.",
        "type": None,
        "param": "prompt",
        "code": "content_filter",
        "status": 400,
        "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": filtered},
    }
    return Reply(400, {"error": error})


def completion(**changes: Any) -> Reply:
    """A completion with fields of the document replaced or added."""
    body = answer("A plain answer.").body
    assert isinstance(body, dict)
    return Reply(body=body | changes)


def choice(**changes: Any) -> Reply:
    """A completion with fields of its one choice replaced or added."""
    body = answer("A plain answer.").body
    assert isinstance(body, dict)
    return Reply(body=body | {"choices": [body["choices"][0] | changes]})


def reasoned(text: str | None, *, tokens: int = 128) -> Reply:
    """A reasoning model that ended on its token limit while it thought."""
    usage: Json = {
        "prompt_tokens": 800,
        "completion_tokens": tokens,
        "completion_tokens_details": {"reasoning_tokens": tokens},
    }
    message = {"role": "assistant", "content": text}
    return completion(usage=usage, choices=[{"index": 0, "message": message, "finish_reason": "length"}])


def vllm(status: int, kind: str, message: str, *, flat: bool) -> Reply:
    """vLLM's error, in the old flat shape or the new one; its code is a number."""
    error: dict[str, Any] = {"message": message, "type": kind, "param": None, "code": status}
    return Reply(status, {"object": "error", **error} if flat else {"error": error})


def limited(*headers: tuple[str, str], body: Json | str = "") -> Reply:
    """A 429 that says nothing but these headers."""
    return Reply(429, body, headers)


def cut(**how: Any) -> Cut:
    """A good completion that loses its last forty bytes."""
    whole = answer("Half of an answer that never arrives whole.")
    return Cut(Reply(body=whole.body, **how), -40)


def raw(head: str, body: bytes = b"", *, close: bool = True) -> Raw:
    """Bytes as they stand, lines of the head separated by newlines."""
    return Raw(head.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n" + body, close)


def bomb() -> Reply:
    """A small gzip that inflates to thirty megabytes of spaces."""
    return Reply(body=gzip.compress(b" " * 30_000_000, 6), headers=(("content-encoding", "gzip"),))


def wire_body(reply: Reply) -> bytes:
    """The bytes of a reply's body."""
    return wire(reply).partition(b"\r\n\r\n")[2]
