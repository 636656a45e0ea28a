"""A successful status is not yet an answer: reading a chat completion out of a 2xx body.

An error inside the 200, HTML, a missing choice or a filtered answer each become a `Decision`; only text
that the model meant as its answer becomes a `CompletionContent`. Text is never invented, cut or stripped;
a thought that stands in front of an answer is taken apart from it where a tag at the beginning says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import httpx

from vlsb import strict_json
from vlsb.config import MAX_BODY_BYTES
from vlsb.dialect import holds_thought_end, split_thought
from vlsb.endpoints.credentials import safe_code
from vlsb.endpoints.faults import Decision, Fault, account_error, classify, classify_error, error_fields
from vlsb.records import THINKING_CUT, Untrusted, Usage, is_cut


@dataclass(frozen=True, slots=True)
class CompletionContent:
    """The text of a completion and what the endpoint said about it; `reasoning` is no part of the text."""

    text: Untrusted
    reasoning: Untrusted | None
    origin: Literal["content", "refusal"]
    finish_reason: Untrusted | None
    model: Untrusted | None
    usage: Usage
    flags: tuple[str, ...]


Reply: TypeAlias = httpx.Response | Decision
"""What came of one request of a batch: its reply, or why it has none."""

# Reasons that mean the provider withheld the answer; `refusal` is Anthropic's classifier stop. One row a
# provider and spelling, with its source: docs/reference/providers.md.
_BLOCKING_REASONS = frozenset(
    {
        "content_filter",
        "content_filtered",
        "guardrail_intervened",
        "safety",
        "prohibited_content",
        "blocklist",
        "spii",
        "recitation",
        "image_safety",
        "image_prohibited_content",
        "image_recitation",
        "error_toxic",
        "refusal",
        "sensitive",
    }
)
_FAILED_REASONS = frozenset(
    {"error", "abort", "insufficient_system_resource", "malformed_model_output", "timeout"}
)
THOUGHT_SPLIT = "thought_split"
"""The flag of a response whose thought came in its text, in front of the answer."""
THOUGHT_END = "thought_end"
"""The flag of a response that was left whole although it holds the tag that ends thoughts."""
_LEAKED_MARKERS = ("<|im_end|>", "<|im_start|>", "<|eot_id|>", "</s>", "<|endoftext|>")


def read_completion(
    reply: httpx.Response, *, now: float, splits_thoughts: bool = True, opened_by: str = ""
) -> CompletionContent | Decision:
    """Return the answer in a 2xx reply, or what its absence means.

    `opened_by` is the tag with which a model's chat template begins a thought, which then comes as its text:
    one that was cut before a tag ended the thought holds no answer. Without `splits_thoughts` the text stays
    whole, whatever it holds.
    """
    try:
        document = strict_json.loads(reply.content)
    except ValueError:
        head = reply.content[:512].lstrip().lower()
        is_page = head.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<body"))
        code = "html" if is_page else "not_json" if head else "empty_body"
        return _bad(code, reply, _start(reply.content))
    if isinstance(document, list) and len(document) == 1:
        document = document[0]
    if not isinstance(document, dict):
        return _bad("not_an_object", reply, _start(reply.content))
    if document.get("error"):
        return _inner_error(document, reply, now=now)
    choices = document.get("choices")
    if choices == []:
        return _no_choices(document, reply)
    if not isinstance(choices, list) or not isinstance(choices[0], dict):
        if error_fields(document).message:
            return _inner_error(document, reply, now=now)
        return _bad("no_choices", reply, _start(reply.content))
    if choices[0].get("error"):
        return _inner_error(choices[0], reply, now=now)
    return _read_choice(choices[0], document, reply, splits_thoughts=splits_thoughts, opened_by=opened_by)


def _read_choice(
    choice: Mapping[str, Any],
    document: Mapping[str, Any],
    reply: httpx.Response,
    *,
    splits_thoughts: bool,
    opened_by: str,
) -> CompletionContent | Decision:
    message, reason = choice.get("message"), choice.get("finish_reason")
    usage = read_usage(document.get("usage"))
    if not isinstance(message, dict | None) or not isinstance(reason, str | None):
        return _bad("malformed_choice", reply, _start(reply.content), usage=usage)
    message = message or {}
    text, refusal = _text(message.get("content")), _text(message.get("refusal"))
    if refusal == "":
        refusal = _text(message.get("content"), kind="refusal")
    if text is None or refusal is None:
        return _bad("malformed_content", reply, _start(reply.content), usage=usage)
    word = (reason or "").lower().replace("-", "_")
    if word in _FAILED_REASONS:
        return _bad(f"finish_{word}", reply, Untrusted(text[:200]), usage=usage)
    if word in _BLOCKING_REASONS:
        return _block_decision(safe_code(word), choice, reply, usage=usage, text=text)
    apart, is_cut_short = _reasoning(message), is_cut(Untrusted(word))
    # An endpoint that takes thoughts apart has done so: what its text holds is the answer.
    splits = splits_thoughts and not apart
    thought, answer = split_thought(text, opened_by) if splits else (None, text)
    if splits and opened_by and is_cut_short and thought is None and not usage.reasoning_tokens:
        thought, answer = text, ""
    thinking = apart or thought or ""
    reasoning = Untrusted(thinking) if thinking.strip() else None
    if not answer.strip() and not refusal.strip():
        has_thought = reasoning or usage.reasoning_tokens or usage.thought_tokens
        code = THINKING_CUT if is_cut_short and has_thought else "empty_content"
        return _empty_decision(code, reasoning, reply, usage, is_cut_short=is_cut_short)
    is_content = bool(answer.strip())
    flags = _flags(choice, answer, reason)
    if thought is not None:
        flags += (THOUGHT_SPLIT,)
    elif splits and holds_thought_end(text):
        flags += (THOUGHT_END,)
    return CompletionContent(
        text=Untrusted(answer if is_content else refusal),
        reasoning=reasoning,
        origin="content" if is_content else "refusal",
        finish_reason=None if reason is None else Untrusted(reason),
        model=Untrusted(document["model"]) if isinstance(document.get("model"), str) else None,
        usage=usage,
        flags=flags,
    )


def _reasoning(message: Mapping[str, Any]) -> str:
    """Return what a model thought, where the endpoint gives that apart from its answer; else empty.

    vLLM and OpenRouter have `reasoning`, DeepSeek `reasoning_content`, Mistral parts of type `thinking`.
    """
    for field in ("reasoning", "reasoning_content"):
        if isinstance(text := message.get(field), str) and text.strip():
            return text
    content = message.get("content")
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    return "".join(_text(part.get("thinking")) or "" for part in parts if part.get("type") == "thinking")


def read_usage(usage: object) -> Usage:
    """Token counts where they are counts; anything else is absent."""
    if not isinstance(usage, dict):
        return Usage()
    input_tokens, output_tokens, total = (
        read_count(usage.get(f"{each}_tokens")) for each in ("prompt", "completion", "total")
    )
    thought = (total or 0) - (input_tokens or 0) - (output_tokens or 0)
    return Usage(
        input_tokens,
        output_tokens,
        _detail(usage.get("completion_tokens_details"), "reasoning_tokens"),
        _detail(usage.get("prompt_tokens_details"), "cached_tokens") or None,
        thought if thought > 0 and input_tokens else None,
    )


def _detail(details: object, name: str) -> int | None:
    return read_count(details.get(name)) if isinstance(details, dict) else None


def read_count(value: object) -> int | None:
    """A count as an endpoint gives it; None for what is none."""
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53
    return value if is_count and isinstance(value, int) else None


def _text(content: object, *, kind: str = "text") -> str | None:
    """Return the text of a content field: a string, parts of that kind, or nothing (''); else None."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content if kind == "text" else ""
    if not isinstance(content, list):
        return None
    parts = [
        part.get(kind) for part in content if isinstance(part, dict) and part.get("type", "text") == kind
    ]
    return "".join(part for part in parts if isinstance(part, str))


def _flags(choice: Mapping[str, Any], text: str, reason: str | None) -> tuple[str, ...]:
    filters = choice.get("content_filter_results")
    filter_error = filters.get("error") if isinstance(filters, dict) else None
    flags = {
        # Azure's filter was down: the system under test was a different one for this sample.
        "unfiltered": isinstance(filter_error, dict) and filter_error.get("code") == "content_filter_error",
        "no_finish_reason": reason is None,
        "replacement_character": "\ufffd" in text,
        "leaked_special_token": any(marker in text for marker in _LEAKED_MARKERS),
    }
    return tuple(name for name, is_set in flags.items() if is_set)


def _bad(code: str, reply: httpx.Response, message: Untrusted, *, usage: Usage = Usage()) -> Decision:
    return Decision(Fault.BAD_PAYLOAD, code, message, status=reply.status_code, usage=usage)


def _start(body: bytes) -> Untrusted:
    return Untrusted(body[:200].decode("utf-8", "replace"))


def _inner_error(holder: Mapping[str, Any], reply: httpx.Response, *, now: float) -> Decision:
    """An error under a 200: classified by the code inside, a bad payload if there is none to go by."""
    error = error_fields(holder)
    status = error.http_code
    if status is None and re.fullmatch(r"[0-9]{3}", error.code):
        status = int(error.code)
    if status == 403 and account_error(status, error) is None:
        # A router passes on that an upstream refused this one input; our own key was good for the 200.
        message = Untrusted(error.text or "refused upstream")
        return Decision(
            Fault.PROVIDER_BLOCKED, "blocked_input", message, status=reply.status_code, ends_as="blocked"
        )
    if status is not None and 300 < status < 600:
        return classify_error(status, error, reply.headers, now=now)
    decision = classify_error(400, error, reply.headers, now=now)
    if decision.fault is not Fault.ITEM_PERMANENT or decision.code == "context":
        return decision
    return _bad(decision.code if decision.code != "http_400" else "error_in_success", reply, decision.message)


def _no_choices(document: Mapping[str, Any], reply: httpx.Response) -> Decision:
    """`choices: []`: blocked where a reason is given, else asked again and in the end an empty answer."""
    usage = read_usage(document.get("usage"))
    feedback = document.get("prompt_feedback") or document.get("promptFeedback")
    reason = (
        feedback.get("block_reason") or feedback.get("blockReason") if isinstance(feedback, dict) else None
    )
    if reason or _is_filtered(document.get("prompt_filter_results")):
        return Decision(
            Fault.PROVIDER_BLOCKED,
            "blocked_input",
            Untrusted(reason if isinstance(reason, str) else "prompt filter"),
            status=reply.status_code,
            ends_as="blocked",
            usage=usage,
        )
    return Decision(
        Fault.BAD_PAYLOAD,
        "empty_choices",
        Untrusted("choices is empty"),
        status=reply.status_code,
        ends_as="empty",
        usage=usage,
    )


def _is_filtered(results: object) -> bool:
    """Tell whether any category of Azure's prompt annotations says it filtered."""
    if not isinstance(results, list):
        return False
    tables = [each.get("content_filter_results") for each in results if isinstance(each, dict)]
    categories = [category for table in tables if isinstance(table, dict) for category in table.values()]
    return any(isinstance(category, dict) and category.get("filtered") is True for category in categories)


def _block_decision(
    reason: str, choice: Mapping[str, Any], reply: httpx.Response, *, usage: Usage, text: str
) -> Decision:
    filters = choice.get("content_filter_results")
    return Decision(
        Fault.PROVIDER_BLOCKED,
        "blocked_output",
        Untrusted(reason),
        status=reply.status_code,
        ends_as="blocked",
        usage=usage,
        text=Untrusted(text) if text else None,
        details={"content_filter_results": filters} if isinstance(filters, dict) else None,
    )


def _empty_decision(
    code: str, reasoning: Untrusted | None, reply: httpx.Response, usage: Usage, *, is_cut_short: bool
) -> Decision:
    """No answer at all. A cut one would be cut again; any other empty turn is asked for once more."""
    return Decision(
        Fault.BAD_PAYLOAD,
        code,
        Untrusted("cut inside its thinking" if code == THINKING_CUT else "the answer has no text"),
        status=reply.status_code,
        ends_as="empty",
        max_retries=0 if is_cut_short else 1,
        usage=usage,
        text=reasoning,
    )


def read_batch_line(line: bytes) -> tuple[str, Reply]:
    """A line of a batch's results: its custom id, and the reply that the request would have had alone.

    Raises ValueError, KeyError or TypeError for a line that is none.
    """
    if len(line) > MAX_BODY_BYTES:
        raise ValueError("too large")
    row = strict_json.loads(line)
    name, response, error = row["custom_id"], row.get("response"), row.get("error")
    if not isinstance(name, str):
        raise TypeError("not a text")
    if isinstance(response, dict):
        status, body = response["status_code"], response.get("body")
        if isinstance(status, int) and 200 <= status < 600 and isinstance(body, dict | str):
            content = body if isinstance(body, str) else strict_json.dumps(body)
            return name, httpx.Response(status, content=content.encode("utf-8", "surrogatepass"))
    if isinstance(error, dict):
        code = safe_code(str(error.get("code") or "")) or "batch_error"
        return name, unanswered(code, str(error.get("message") or ""))
    raise ValueError("neither a reply nor an error")


def unanswered(code: str, message: str) -> Decision:
    """A request of a batch that was not answered: it is asked again."""
    return Decision(Fault.TRANSIENT, code, Untrusted(message))


def is_success(reply: Reply | None) -> bool:
    """Tell whether somebody answered."""
    return isinstance(reply, httpx.Response) and reply.is_success


def ends_run(reply: Reply) -> bool:
    """Tell whether a reply refuses all that could be asked, as a rejected key or a spent quota does."""
    if not isinstance(reply, httpx.Response) or reply.is_success:
        return False
    return classify(reply, has_succeeded=True, attempt=2, now=0.0).fault is Fault.RUN_FATAL
