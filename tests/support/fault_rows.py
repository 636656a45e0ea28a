"""What endpoints send when they do not answer, and what must come of it: one row a fault and its spelling.

How a reply is read is tested row by row. Whole runs are made of the rows that are about the wire, and of one
for each kind of ending: sample 0 is answered and judged, and sample 1 meets the fault.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.support import wire
from vlsb.records import Outcome
from vlsb.simulator import Action, Hangup, Reply, answer, error

UNSAFE, BLOCKED, EMPTY, ERROR = (
    Outcome.UNSAFE,
    Outcome.TARGET_BLOCKED,
    Outcome.TARGET_EMPTY,
    Outcome.TARGET_ERROR,
)
GAPS, ACCESS, USAGE = 4, 3, 2
ATTEMPTS = 3
"""How often a request may be sent that another attempt may help."""


@dataclass(frozen=True)
class Row:
    """A fault, what sample 1 meets, and how it must end. `code` is the failure's."""

    fault: str
    name: str
    actions: tuple[Action, ...]
    outcome: Outcome
    requests: int
    code: str | None = None

    @property
    def exit_code(self) -> int:
        return 0 if self.outcome is UNSAFE else GAPS

    @property
    def is_about_the_wire(self) -> bool:
        """Whether it is about how bytes arrive: what stands in them says nothing of that."""
        return not all(isinstance(each, Reply) and not _is_framed_oddly(each) for each in self.actions)

    @property
    def is_passing(self) -> bool:
        """Whether another attempt is answered."""
        return self.outcome is UNSAFE and self.requests == len(self.actions) + 1

    @property
    def is_an_answer(self) -> bool:
        """Whether it is judged as it is."""
        return self.outcome is UNSAFE and self.requests == len(self.actions)


def _is_framed_oddly(reply: Reply) -> bool:
    return reply.unsized or reply.content_length is not None


def passes(fault: str, name: str, *actions: Action) -> Row:
    """A fault that another attempt helps: every action costs a request, and then it is answered."""
    return Row(fault, name, actions, UNSAFE, len(actions) + 1)


def stays(fault: str, name: str, outcome: Outcome, requests: int, action: Action, code: str | None) -> Row:
    """A fault that stays whatever is tried."""
    return Row(fault, name, (action,), outcome, requests, code)


def lasts(fault: str, name: str, action: Action, code: str) -> Row:
    """A fault that attempts may help, and do not."""
    return stays(fault, name, ERROR, 3, action, code)


def refused(fault: str, name: str, action: Action, code: str) -> Row:
    """A request that is wrong: sent once, an error of this sample."""
    return stays(fault, name, ERROR, 1, action, code)


def blocked(fault: str, name: str, action: Action, code: str = "blocked_input") -> Row:
    """A sample that the provider does not serve: sent once, never judged."""
    return stays(fault, name, BLOCKED, 1, action, code)


RPM = wire.openai(429, "rate_limit_exceeded", "Limit reached on requests per min (RPM).", type="requests")

ITEMS = [
    passes("A01", "too-many-requests", RPM),
    passes("A01", "does-not-use-up-attempts", *[RPM] * 4),
    passes("A02", "slow-down", wire.openai(429, "slow_down", "Slow down.", type="rate_limit_error")),
    passes("A04", "a-minutes-quota", wire.gemini("GenerateRequestsPerMinutePerProjectPerModel", "0.05s")),
    passes("A05", "anthropic", wire.anthropic(
        429, "rate_limit_error", "Too many requests", headers=(("retry-after", "0.05"),)
    )),
    passes("A09", "upstream-limit", wire.openrouter(
        429, 429, "Provider returned error", raw="m is temporarily rate-limited upstream", provider_name="P"
    )),
    passes("A09", "upstream-limit-inside-a-200", wire.openrouter(
        200, 429, "Provider returned error", raw="m is temporarily rate-limited upstream", provider_name="P"
    )),
    passes("A17", "nothing-but-the-status", wire.raw("HTTP/1.1 429 Too Many Requests\ncontent-length: 0")),
    passes("A18", "500-and-502", error(500), Reply(502, wire.HTML, wire.AS_HTML)),
    passes("A18", "503-and-504", Reply(503), error(504)),
    passes("A18", "520-and-524", Reply(520, "error code: 520"), Reply(524, "error code: 524")),
    lasts("A18", "500-for-ever", error(500, type="server_error"), "server_error"),
    passes("A19", "529", wire.anthropic(529, "overloaded_error", "Overloaded")),
    passes("A19", "told-by-its-type-alone", wire.anthropic(400, "overloaded_error", "Overloaded")),
    passes("A19", "inside-a-200", wire.anthropic(200, "overloaded_error", "Overloaded")),
    passes("A20", "408-and-409", error(408), error(409)),
    refused("A21", "do-not-retry", error(500, code="odd", headers=(("x-should-retry", "false"),)), "odd"),
    refused("A21", "do-retry-a-400", error(400, code="odd", headers=(("x-should-retry", "true"),)), "odd"),
    passes("A25", "hangs-up", Hangup(), Hangup(reset=True)),
    lasts("A25", "hangs-up-for-ever", Hangup(), "closed"),
    passes("A26", "cut-with-a-length", wire.cut()),
    passes("A26", "cut-between-chunks", wire.cut(chunked=True)),
    passes("A26", "a-length-that-lies", Reply(body=answer("Short.").body, content_length=5000, close=True)),
    lasts("A26", "cut-for-ever", wire.cut(), "closed"),
    passes("A27", "cut-without-a-length", wire.cut(unsized=True)),
    lasts("A27", "cut-for-ever", wire.cut(unsized=True), "not_json"),
    Row("A27", "whole-without-a-length", (Reply(body=answer("Whole.").body, unsized=True),), UNSAFE, 1),
    passes("A27", "http-1.0", wire.raw("HTTP/1.0 200 OK\ncontent-type: text/json", b'{"choices": [{"m')),
    passes("A28", "html", Reply(body=wire.HTML, headers=wire.AS_HTML)),
    lasts("A28", "html-for-ever", Reply(body=wire.HTML, headers=wire.AS_HTML), "html"),
    lasts("A28", "html-called-json", Reply(body=wire.HTML), "html"),
    lasts("A28", "nothing", Reply(), "empty_body"),
    passes("A29", "a-string", Reply(body='"overloaded"')),
    lasts("A29", "a-string-for-ever", Reply(body='"overloaded"'), "not_an_object"),
    lasts("A29", "an-empty-array", Reply(body=[]), "not_an_object"),
    blocked("A34", "openrouters-moderation", wire.openrouter(
        403, 403, "Your input was flagged", reasons=["violence"], flagged_input="...", provider_name="P"
    )),
    blocked("A36", "vision", wire.openai(400, "content_policy_violation", "Your image may contain ...")),
    blocked("A36", "reasoning-models", wire.openai(400, "invalid_prompt", "Invalid prompt: flagged.")),
    blocked("A36", "in-words", wire.openai(400, None, "This request has been blocked by our filters.")),
    blocked("A37", "azure-prompt-filter", wire.azure_prompt_filter()),
    blocked("A38", "azure-output-filter", wire.choice(
        message={"role": "assistant"},
        finish_reason="content_filter",
        content_filter_results={"violence": {"filtered": True, "severity": "high"}},
    ), "blocked_output"),
    Row("A40", "annotations", (wire.completion(
        prompt_filter_results=[{"prompt_index": 0, "content_filter_results": {"hate": {"filtered": False}}}],
        surprise={"deep": [1]},
    ),), UNSAFE, 1),
    stays("A41", "no-choices", EMPTY, 3, wire.completion(choices=[]), "empty_choices"),
    blocked("A41", "no-choices-with-a-reason", wire.completion(
        choices=[], prompt_feedback={"block_reason": "PROHIBITED_CONTENT"}
    )),
    blocked("A41", "safety", wire.choice(message=None, finish_reason="SAFETY"), "blocked_output"),
    blocked("A41", "prohibited", wire.choice(message=None, finish_reason="PROHIBITED_CONTENT"),
            "blocked_output"),
    blocked("A41", "filter", wire.choice(message=None, finish_reason="content_filter"), "blocked_output"),
    stays("A41", "null-with-stop", EMPTY, 2, wire.choice(message=None), "empty_content"),
    passes("A41", "null-with-stop-once", wire.choice(message=None)),
    blocked("A42", "refusal-stop", answer("", finish_reason="refusal"), "blocked_output"),
    Row("A42", "a-reason-nobody-knows", (answer("Text.", finish_reason="end_turn"),), UNSAFE, 1),
    blocked("A43", "output-filter", wire.anthropic(
        400, "invalid_request_error", "Output blocked by content filtering policy"
    ), "blocked_output"),
    refused("A44", "format", wire.openai(
        400, "invalid_image_format", "You uploaded an unsupported image."
    ), "invalid_image_format"),
    refused("A44", "vllm", wire.vllm(
        400, "BadRequestError", "Failed to load image: cannot identify image file", flat=False
    ), "badrequesterror"),
    stays("A44", "sanitizer", ERROR, 2, wire.openai(400, "sanitizer_server_error", "Invalid image."),
          "sanitizer_server_error"),
    passes("A44", "sanitizer-once", wire.openai(400, "sanitizer_server_error", "Invalid image.")),
    refused("A45", "anthropic", wire.anthropic(413, "request_too_large", "Request exceeds 32 MB"), "context"),
    refused("A45", "cdn", Reply(413, wire.HTML, wire.AS_HTML), "http_413"),
    refused("A46", "media-type", wire.anthropic(
        400, "invalid_request_error", "messages.0.content.0.image.source.base64.media_type: Input should be"
    ), "invalid_request_error"),
    refused("A48", "openai", wire.openai(400, "context_length_exceeded", "Too long."), "context"),
    refused("A48", "vllm", wire.vllm(
        400, "BadRequestError", "This model's maximum context length is 4096 tokens.", flat=False
    ), "context"),
    refused("A48", "vllm-decoder", wire.vllm(
        400, "BadRequestError",
        "The decoder prompt (length 9) is longer than the maximum model length of 8.", flat=True
    ), "context"),
    refused("A48", "anthropic", wire.anthropic(
        400, "invalid_request_error", "prompt is too long: 9 tokens > 8 maximum"
    ), "context"),
    refused("A48", "together", wire.openai(400, None, "`inputs` tokens + `max_new_tokens` must be <= 4097"),
            "context"),
    refused("A49", "in-the-middle-of-a-run", wire.openai(
        400, "unsupported_parameter", "Unsupported parameter: 'max_tokens'.", param="max_tokens"
    ), "unsupported_parameter"),
    passes("A52", "500", wire.openrouter(200, 500, "Internal Server Error")),
    passes("A52", "408-and-502", wire.openrouter(200, 408, "Late"), wire.openrouter(200, 502, "Bad")),
    passes("A52", "of-the-choice", wire.choice(error={"code": 502, "message": "Provider disconnected"})),
    passes("A52", "without-a-code", Reply(body={"error": {"message": "Something went wrong"}})),
    blocked("A52", "403", wire.openrouter(200, 403, "Flagged by the provider")),
    passes("A53", "warming-up", Reply(body={"id": "x", "object": "chat.completion", "model": "m"})),
    lasts("A53", "for-ever", Reply(body={"id": "x", "model": "m"}), "no_choices"),
    lasts("A53", "null", wire.completion(choices=None), "no_choices"),
    stays("A54", "null", EMPTY, 2, answer(None), "empty_content"),
    stays("A54", "nothing", EMPTY, 2, answer(""), "empty_content"),
    stays("A54", "blank", EMPTY, 2, answer(" \n\t\u00a0"), "empty_content"),
    Row("A55", "refusal-field", (answer(None, refusal="I can't help with that."),), UNSAFE, 1),
    Row("A56", "plain-words", (answer("I'm sorry, but I can't help with that."),), UNSAFE, 1),
    Row("A57", "length", (answer("Half an answ", finish_reason="length"),), UNSAFE, 1),
    stays("A58", "nothing-left", EMPTY, 1, wire.reasoned(None), "thinking_cut"),
    stays("A58", "empty-text", EMPTY, 1, wire.reasoned(""), "thinking_cut"),
    passes("A61", "error", answer("I'm sorry, but I can", finish_reason="error")),
    lasts("A61", "for-ever", answer("I'm sorry, but I can", finish_reason="error"), "finish_error"),
    refused("A64", "new", wire.vllm(400, "BadRequestError", "No.", flat=False), "badrequesterror"),
    refused("A64", "old", wire.vllm(400, "BadRequestError", "No.", flat=True), "badrequesterror"),
    passes("A64", "new-500", wire.vllm(500, "InternalServerError", "Oh.", flat=False)),
    passes("A64", "old-500", wire.vllm(500, "InternalServerError", "Oh.", flat=True)),
    passes("A64", "inside-a-200", Reply(body=wire.vllm(500, "InternalServerError", "Oh.", flat=False).body)),
    refused("A64", "not-implemented", wire.vllm(501, "NotImplementedError", "No.", flat=False),
            "notimplementederror"),
]  # fmt: skip


@dataclass(frozen=True)
class Fatal:
    """A reply that ends the run, and words of the one line it ends with."""

    fault: str
    name: str
    action: Action
    exit_code: int
    words: str


FATAL = [
    Fatal("A03", "quota", wire.openai(
        429, "insufficient_quota", "You exceeded your current quota", type="insufficient_quota"
    ), ACCESS, "billing"),
    Fatal("A03", "quota-told-by-type", wire.openai(
        429, None, "Too many requests", type="insufficient_quota"
    ), ACCESS, "billing"),
    Fatal("A04", "a-days-quota", wire.gemini("GenerateRequestsPerDayPerProjectPerModel-FreeTier", "34s"),
          ACCESS, "day's quota"),
    Fatal("A06", "spend-limit", wire.anthropic(
        429, "rate_limit_error", "Limit reached.", details={"error_code": "enforced_spend_limit_reached"}
    ), ACCESS, "billing"),
    Fatal("A07", "own-spend-limit", wire.anthropic(
        400, "invalid_request_error", "You have reached your specified API spend limit."
    ), ACCESS, "billing"),
    Fatal("A08", "out-of-credit", wire.openrouter(402, 402, "Insufficient credits"), ACCESS, "billing"),
    Fatal("A33", "openai", wire.openai(401, "invalid_api_key", "Incorrect key: sk-proj-****abcd."),
          ACCESS, "no key was sent"),
    Fatal("A33", "anthropic", wire.anthropic(401, "authentication_error", "invalid x-api-key"), ACCESS,
          "no key was sent"),
    Fatal("A34", "forbidden", wire.openai(403, "unsupported_country_region_territory", "Not here."), ACCESS,
          "no key was sent"),
    Fatal("A35", "openai", wire.openai(404, "model_not_found", "No model `m`"), USAGE, "no such model"),
    Fatal("A35", "anthropic", wire.anthropic(404, "not_found_error", "model: m"), USAGE, "no such model"),
    Fatal("A35", "azure", Reply(404, {"error": {"code": "DeploymentNotFound", "message": "No deployment."}}),
          USAGE, "no such model"),
    Fatal("A35", "vllm", wire.vllm(404, "NotFoundError", "The model `m` does not exist.", flat=True), USAGE,
          "no such model"),
    Fatal("A35", "openrouter", wire.openrouter(404, 404, "No endpoints found for m."), USAGE,
          "No endpoints found"),
    Fatal("A52", "402-inside-a-200", wire.openrouter(200, 402, "Insufficient credits"), ACCESS, "billing"),
    Fatal("A64", "old-404", wire.vllm(404, "NotFoundError", "No.", flat=True), USAGE, "no such model"),
]  # fmt: skip


@dataclass(frozen=True)
class Wait:
    """A rate limit and the pause it asks for; None for one of our own, below `OWN_WAIT_S`."""

    fault: str
    name: str
    reply: Reply
    wait_s: float | None


DATE = ("date", "Fri, 29 Sep 2023 16:26:57 GMT")
OWN_WAIT_S = 0.1
PATIENCE_S = 60.0

WAITS = [
    Wait("A05", "retry-after", wire.anthropic(
        429, "rate_limit_error", "Too many requests", headers=(("retry-after", "90"),)
    ), 90),
    Wait("A04", "retry-delay", wire.gemini("GenerateRequestsPerMinutePerProjectPerModel", "90s"), 90),
    Wait("A10", "bare-reset", wire.limited(("x-ratelimit-reset-tokens", "90")), 90),
    Wait("A10", "misspelt-reset", wire.limited(("x-rate-limit-reset-tokens", "90")), 90),
    Wait("A10", "milliseconds", wire.limited(("retry-after-ms", "90000"), ("retry-after", "5")), 90),
    Wait("A10", "minus-one", wire.limited(
        ("retry-after", "-1"), ("x-ratelimit-reset-tokens", "0"), ("x-ratelimit-reset-requests", "-1")
    ), None),
    Wait("A11", "whole", wire.limited(("retry-after", "90")), 90),
    Wait("A11", "fraction", wire.limited(("Retry-After", "0.05")), 0.05),
    Wait("A12", "against-the-servers-clock", wire.limited(
        DATE, ("retry-after", "Fri, 29 Sep 2023 16:28:27 GMT")
    ), 90),
    Wait("A12", "past", wire.limited(("retry-after", "Fri, 29 Sep 2023 16:26:57 GMT")), None),
    Wait("A13", "beats-seconds", wire.limited(("retry-after-ms", "50"), ("retry-after", "90")), 0.05),
    *[Wait("A14", name, wire.limited(("retry-after", text)), None) for name, text in {
        "zero": "0",
        "negative": "-5",
        "nan": "nan",
        "inf": "inf",
        "35-digits": "9" * 35,
        "bad-weekday": "Xyz, 29 Sep 2023 16:26:57 GMT",
        "year-100000": "Fri, 29 Sep 100000 16:26:57 GMT",
        "empty": "",
        "words": "soon",
        "exponent": "1e9",
    }.items()],
    Wait("A15", "hours", wire.limited(("retry-after", "7200")), 7200),
    Wait("A15", "absurd", wire.limited(("retry-after", "31536000")), None),
    Wait("A16", "go-duration", wire.limited(
        ("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "1m30s")
    ), 90),
    Wait("A16", "milliseconds", wire.limited(
        ("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "50ms")
    ), 0.05),
    Wait("A16", "the-largest", wire.limited(
        ("x-ratelimit-reset-requests", "2s"), ("x-ratelimit-reset-tokens_usage_based", "1m30s")
    ), 90),
    Wait("A16", "anthropic", wire.limited(
        DATE,
        ("anthropic-ratelimit-input-tokens-remaining", "0"),
        ("anthropic-ratelimit-input-tokens-reset", "2023-09-29T16:28:27Z"),
    ), 90),
    Wait("A16", "retry-after-wins", wire.limited(
        ("retry-after", "0.05"), ("x-ratelimit-reset-tokens", "6m0s")
    ), 0.05),
]  # fmt: skip

ENDINGS = {
    "an answer after rate limits": "A01-does-not-use-up-attempts",
    "an answer after errors": "A18-500-and-502",
    "an answer after one more attempt": "A44-sanitizer-once",
    "an answer after an error inside a 200": "A52-500",
    "an answer that is odd": "A42-a-reason-nobody-knows",
    "an answer that is a refusal": "A55-refusal-field",
    "an error after all attempts": "A18-500-for-ever",
    "an error after one more": "A44-sanitizer",
    "an error at once": "A44-format",
    "an error because of its length": "A48-openai",
    "an error with a body that is no reply": "A28-html-for-ever",
    "blocked before": "A37-azure-prompt-filter",
    "blocked behind": "A38-azure-output-filter",
    "empty after all attempts": "A41-no-choices",
    "empty after one more": "A54-null",
    "empty at once": "A58-nothing-left",
}
"""The ways in which a sample ends, and the row that a whole run of each is made of."""
FATAL_ENDINGS = {
    "quota": "A03-quota",
    "the day's quota": "A04-a-days-quota",
    "a wrong key": "A33-openai",
    "no such model": "A35-openai",
    "no such model, in words": "A35-openrouter",
}
WAIT_ENDINGS = {
    "waited out": "A16-milliseconds",
    "longer than a sample may take": "A11-whole",
    "by the server's clock": "A12-against-the-servers-clock",
    "nonsense": "A14-zero",
    "absurd": "A15-absurd",
}


def named(row: Row | Fatal | Wait) -> str:
    """A row's fault and spelling, as tests are named for it."""
    return f"{row.fault}-{row.name}"
