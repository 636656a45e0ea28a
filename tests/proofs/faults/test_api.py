"""Every way in which an endpoint fails: the outcome in the ledger, the requests it cost, the exit code.

Sample 0 is answered and judged; sample 1 meets the fault. Where the fault ends the run it comes first,
and no sample was attempted.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.proofs.faults import wire
from tests.proofs.faults.runs import evaluate, scripted, served
from tests.support.datasets import sample_row
from tests.support.endpoint import sample_of
from vlsb.records import Outcome
from vlsb.simulator import Action, Drip, Hangup, Reply, Request, Stall, answer, error

UNSAFE, BLOCKED, EMPTY, ERROR = (
    Outcome.UNSAFE,
    Outcome.TARGET_BLOCKED,
    Outcome.TARGET_EMPTY,
    Outcome.TARGET_ERROR,
)
GAPS, ACCESS, USAGE = 4, 3, 2


@dataclass(frozen=True)
class Row:
    """A fault, what sample 1 meets, and how it must end. `code` is the failure's."""

    fault: str
    name: str
    actions: tuple[Action, ...]
    outcome: Outcome
    requests: int
    code: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        return 0 if self.outcome is UNSAFE else GAPS


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


def _id(row: Any) -> str:
    return f"{row.fault}-{row.name}"


@pytest.mark.parametrize("row", ITEMS, ids=_id)
def test_a_fault_of_one_sample_costs_what_it_may_and_ends_as_it_must(row: Row, tmp_path: Path) -> None:
    responder = scripted(row.actions, sample=1, then_well=row.outcome is UNSAFE)

    ran = evaluate(tmp_path, responder, **row.options)

    assert ran.outcomes == {0: UNSAFE, 1: row.outcome}
    assert ran.target == Counter({0: 1, 1: row.requests})
    assert ran.judge == Counter({0: 1, 1: 1} if row.outcome is UNSAFE else {0: 1})
    assert ran.exit_code == row.exit_code
    if row.outcome is UNSAFE:
        assert ran.response(1)["attempts"] == row.requests
        assert ran.rows("failures.jsonl") == []
    else:
        failure = ran.failure(1)
        assert (failure["code"], failure["attempts"]) == (row.code, row.requests)
        assert [each["sample_id"] for each in ran.rows("responses.jsonl")] == [0]


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


@pytest.mark.parametrize("row", FATAL, ids=_id)
def test_a_fault_of_the_whole_run_costs_one_request(row: Fatal, tmp_path: Path) -> None:
    ran = evaluate(tmp_path, scripted([row.action]), rows=3)

    assert ran.ledger == {Outcome.NOT_ATTEMPTED: 3}
    assert (ran.target.total(), ran.judge.total()) == (1, 0)
    assert ran.exit_code == row.exit_code
    assert row.words in ran.words


@pytest.mark.parametrize("row", FATAL[:1] + FATAL[6:7], ids=_id)
def test_a_fault_of_the_whole_run_in_the_middle_keeps_what_is_finished(row: Fatal, tmp_path: Path) -> None:
    ran = evaluate(tmp_path, scripted([row.action], sample=1))

    assert ran.outcomes == {0: UNSAFE, 1: Outcome.NOT_ATTEMPTED}
    assert ran.target == Counter({0: 1, 1: 1})
    assert ran.exit_code == row.exit_code


def test_a33_a_masked_key_in_the_refusal_is_not_repeated(tmp_path: Path) -> None:
    ran = evaluate(tmp_path, scripted([FATAL[6].action]), rows=1)

    assert "sk-proj" not in ran.words
    assert (ran.ledger, ran.target.total(), ran.exit_code) == ({Outcome.NOT_ATTEMPTED: 1}, 1, ACCESS)


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


@pytest.mark.parametrize("row", WAITS, ids=_id)
def test_a_rate_limit_is_waited_out_as_asked_and_nonsense_is_not(row: Wait, tmp_path: Path) -> None:
    is_beyond = (row.wait_s or 0) >= PATIENCE_S

    ran = evaluate(tmp_path, scripted([row.reply], sample=1, then_well=True), sample_timeout=PATIENCE_S)

    (event,) = ran.events("rate_limit", "long_wait")
    assert event["wait_s"] == row.wait_s if row.wait_s is not None else 0 < event["wait_s"] <= OWN_WAIT_S
    assert ran.outcomes == {0: UNSAFE, 1: Outcome.NOT_ATTEMPTED if is_beyond else UNSAFE}
    assert ran.target == Counter({0: 1, 1: 1 if is_beyond else 2})
    assert ran.exit_code == (GAPS if is_beyond else 0)


def test_a11_a_wait_is_kept_in_full(tmp_path: Path) -> None:
    limit = wire.limited(("retry-after", "0.3"))

    ran = evaluate(tmp_path, scripted([limit], sample=1, then_well=True))

    first, second = [each.received_at for each in ran.requests if not each.is_judge and sample_of(each) == 1]
    assert second - first >= 0.3
    assert (ran.ledger, ran.exit_code) == ({UNSAFE: 2}, 0)


def test_a15_a_very_long_wait_is_said(tmp_path: Path) -> None:
    ran = evaluate(tmp_path, scripted([wire.limited(("retry-after", "7200"))], sample=1))

    assert [event["wait_s"] for event in ran.events("long_wait")] == [7200]
    assert "asks for a pause of 7200 s, longer than --sample-timeout" in ran.words
    assert (ran.outcomes[1], ran.target[1], ran.exit_code) == (Outcome.NOT_ATTEMPTED, 1, GAPS)


def test_a02_a_ramp_too_steep_lowers_the_limit(tmp_path: Path) -> None:
    too_steep = wire.openai(429, "slow_down", "Slow down.", type="rate_limit_error")

    ran = evaluate(tmp_path, scripted([too_steep], sample=1, then_well=True))

    lowered = [event["limit"] for event in ran.events("limit") if event["code"] == "slow_down"]
    assert lowered
    assert max(lowered) < 16
    assert (ran.ledger, ran.target[1], ran.exit_code) == ({UNSAFE: 2}, 2, 0)


def test_a09_what_the_upstream_said_is_shown(tmp_path: Path) -> None:
    metadata = {"raw": "m is temporarily rate-limited upstream", "provider_name": "Far Provider"}
    reply = wire.openrouter(429, 429, "Provider returned error", **metadata)
    limit = Reply(429, reply.body, (("retry-after", "90"),))

    ran = evaluate(tmp_path, scripted([limit], sample=1), sample_timeout=PATIENCE_S)

    assert all(words in ran.words for words in metadata.values())
    assert (ran.outcomes[1], ran.target[1], ran.exit_code) == (Outcome.NOT_ATTEMPTED, 1, GAPS)


def test_a22_a_host_that_refuses_from_the_start_ends_the_run(tmp_path: Path) -> None:
    ran = evaluate(tmp_path, served, is_refusing=True)

    assert ran.ledger == {Outcome.NOT_ATTEMPTED: 2}
    assert (ran.target.total(), ran.exit_code) == (0, USAGE)
    assert "connection refused" in ran.words


LATE = {
    "A23-nothing": Stall(),
    "A24-a-slow-drip": Drip(answer("A plain answer."), bytes_per_chunk=1, interval_s=0.1),
    "A24-a-slow-head": Drip(Reply(headers=(("x-padding", "." * 500),)), bytes_per_chunk=1, interval_s=0.1),
}


@pytest.mark.parametrize("action", LATE.values(), ids=LATE.keys())
def test_an_attempt_ends_at_its_deadline_whatever_drips(action: Action, tmp_path: Path) -> None:
    # Alone, so that no good request has to be fast: a preflight that fails for good is exit 4 too.
    ran = evaluate(tmp_path, scripted([action]), rows=1, attempt_timeout=0.5, max_attempts=2)

    assert (ran.outcomes, ran.exit_code) == ({0: ERROR}, GAPS)
    assert ran.target.total() == 2
    assert ran.failure(0)["code"] == "timeout"


def test_a23_a_samples_deadline_bounds_all_its_attempts(tmp_path: Path) -> None:
    ran = evaluate(tmp_path, scripted([Stall()]), rows=1, attempt_timeout=0.5, sample_timeout=0.7)

    assert (ran.outcomes, ran.exit_code) == ({0: ERROR}, GAPS)
    assert 1 <= ran.target.total() <= 2


def fails_after_the_first(action: Action, request: Request) -> Action:
    """Sample 0 is served and no other."""
    is_well = request.is_judge or sample_of(request) == 0
    return served(request) if is_well else action


def test_a32_an_outage_ends_the_run_and_blames_no_sample(tmp_path: Path) -> None:
    ran = evaluate(
        tmp_path,
        lambda request: fails_after_the_first(error(503), request),
        rows=26,
        max_connections=1,
        max_attempts=1,
        outage_timeout=0.05,
    )

    assert ran.ledger == {UNSAFE: 1, Outcome.NOT_ATTEMPTED: 25}
    assert 4 <= ran.target.total() <= 40
    assert ran.exit_code == GAPS
    assert len(ran.events("outage")) == 1


def test_a32_an_endpoint_that_rejects_everything_alike_ends_the_run(tmp_path: Path) -> None:
    rejection = wire.openai(400, "policy_changed", "Everything is refused.")

    ran = evaluate(
        tmp_path, lambda request: fails_after_the_first(rejection, request), rows=26, max_connections=1
    )

    assert ran.ledger == {UNSAFE: 1, ERROR: 20, Outcome.NOT_ATTEMPTED: 5}
    assert (ran.target.total(), ran.exit_code) == (21, GAPS)
    assert "policy_changed" in ran.words


def test_a37_the_filters_categories_are_kept(tmp_path: Path) -> None:
    ran = evaluate(tmp_path, scripted([wire.azure_prompt_filter()], sample=1))

    assert ran.failure(1)["details"]["content_filter_result"]["hate"]["severity"] == "high"
    assert (ran.outcomes[1], ran.target[1], ran.exit_code) == (BLOCKED, 1, GAPS)


def test_a38_a_partial_text_is_kept_and_not_judged(tmp_path: Path) -> None:
    partial = answer("First, you take", finish_reason="content_filter")

    ran = evaluate(tmp_path, scripted([partial], sample=1))

    assert ran.failure(1)["text"] == "First, you take"
    assert (ran.outcomes[1], ran.target[1], ran.judge[1], ran.exit_code) == (BLOCKED, 1, 0, GAPS)


def test_a39_an_answer_that_was_not_filtered_is_judged_and_flagged(tmp_path: Path) -> None:
    down = {"error": {"code": "content_filter_error", "message": "The contents are not filtered"}}

    ran = evaluate(tmp_path, scripted([wire.choice(content_filter_results=down)], sample=1))

    assert ran.response(1)["flags"] == ["unfiltered"]
    assert any("filter was down" in notice for notice in ran.run.summary().notices)
    assert (ran.outcomes[1], ran.target[1], ran.exit_code) == (UNSAFE, 1, 0)


def test_a42_a_finish_reason_is_stored_as_it_was_said(tmp_path: Path) -> None:
    ran = evaluate(tmp_path, scripted([answer("Text.", finish_reason="end_turn")], sample=1))

    assert ran.response(1)["finish_reason"] == "end_turn"
    assert (ran.outcomes[1], ran.target[1], ran.exit_code) == (UNSAFE, 1, 0)


def test_a47_an_empty_instruction_is_sent_as_a_picture_alone(tmp_path: Path) -> None:
    seen: list[Request] = []

    def respond(request: Request) -> Action:
        seen.append(request)
        if not request.is_judge and any(not text.strip() for text in request.texts):
            return wire.anthropic(400, "invalid_request_error", "text content blocks must be non-empty")
        return served(request)

    ran = evaluate(tmp_path, respond, rows=[sample_row(0, instruction="")])

    assert [each.texts for each in seen if not each.is_judge] == [()]
    assert ran.response(0)["flags"] == ["empty_text_omitted"]
    assert (ran.outcomes, ran.exit_code) == ({0: UNSAFE}, 0)


LEARNED = {
    "A49-tokens": ("max_tokens", "Use 'max_completion_tokens' instead.", "max_completion_tokens"),
    "A49-temperature": ("temperature", "Only the default (1) value is supported.", None),
    "A49-top-p": ("top_p", "Unsupported value.", None),
}


@pytest.mark.parametrize(("param", "message", "instead"), LEARNED.values(), ids=LEARNED.keys())
def test_a_parameter_is_given_up_once_before_the_run(
    param: str, message: str, instead: str | None, tmp_path: Path
) -> None:
    refusal = wire.openai(400, "unsupported_parameter", message, param=param)

    def respond(request: Request) -> Action:
        return refusal if not request.is_judge and param in request.json else served(request)

    ran = evaluate(tmp_path, respond, rows=3)

    bodies = [each.json for each in ran.requests if not each.is_judge]
    assert [param in body for body in bodies] == [True, False, False, False]
    assert instead is None or all(instead in body for body in bodies[1:])
    assert (ran.ledger, ran.exit_code) == ({UNSAFE: 3}, 0)
    assert ran.target == Counter({0: 2, 1: 1, 2: 1})


def test_a51_a_record_tells_which_request_it_answers(tmp_path: Path) -> None:
    first, again, other = (
        evaluate(tmp_path / name, served, **options)
        for name, options in {"1": {}, "2": {}, "3": {"target_field": ("seed=7",)}}.items()
    )

    digests = [ran.response(1)["request_sha256"] for ran in (first, again, other)]
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)


def test_a55_a_refusal_field_is_judged_and_its_origin_kept(tmp_path: Path) -> None:
    ran = evaluate(tmp_path, scripted([answer(None, refusal="I can't help with that.")], sample=1))

    row = ran.response(1)
    assert (row["origin"], row["text"]) == ("refusal", "I can't help with that.")
    assert (ran.outcomes[1], ran.target[1], ran.judge[1], ran.exit_code) == (UNSAFE, 1, 1, 0)


def test_a57_cut_answers_are_counted(tmp_path: Path) -> None:
    ran = evaluate(tmp_path, scripted([answer("Half an answ", finish_reason="length")], sample=1))

    assert ran.response(1)["finish_reason"] == "length"
    assert ran.run.summary().cut_responses == 1
    assert (ran.outcomes[1], ran.target[1], ran.exit_code) == (UNSAFE, 1, 0)


def test_a63_another_models_name_is_kept_and_counted(tmp_path: Path) -> None:
    ran = evaluate(tmp_path, scripted([answer("Text.", model="m-2024-01-01")], sample=1))

    names = {name.expose(): count for name, count in ran.run.summary().target_models.items()}
    assert names == {"simulated": 1, "m-2024-01-01": 1}
    assert (ran.outcomes[1], ran.target[1], ran.exit_code) == (UNSAFE, 1, 0)


JUDGE = [
    Row("A18", "judge-503", (error(503),), Outcome.JUDGE_ERROR, 3, "http_503"),
    Row("A27", "judge-cut", (wire.cut(unsized=True),), Outcome.JUDGE_ERROR, 3, "not_json"),
    Row("A28", "judge-html", (Reply(body=wire.HTML, headers=wire.AS_HTML),), Outcome.JUDGE_ERROR, 3, "html"),
    Row("A37", "judge-filter", (wire.azure_prompt_filter(),), Outcome.JUDGE_BLOCKED, 1, "blocked_input"),
    Row("A48", "judge-context", (wire.openai(400, "context_length_exceeded", "Too long."),),
        Outcome.JUDGE_ERROR, 1, "context"),
]  # fmt: skip


@pytest.mark.parametrize("row", JUDGE, ids=_id)
def test_a_fault_of_the_judge_keeps_the_response(row: Row, tmp_path: Path) -> None:
    ran = evaluate(tmp_path, scripted(row.actions, sample=1, lane="judge"))

    assert ran.outcomes == {0: UNSAFE, 1: row.outcome}
    assert ran.target == Counter({0: 1, 1: 1})
    assert ran.judge == Counter({0: 1, 1: row.requests})
    assert ran.exit_code == GAPS
    assert ran.failure(1)["code"] == row.code
    assert [each["sample_id"] for each in ran.rows("responses.jsonl")] == [0, 1]
