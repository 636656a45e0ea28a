"""Each fault of the catalogue, with the body a provider really sends, leads to the one right decision."""

from __future__ import annotations

import json
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlsb.config import Endpoint, Party
from vlsb.endpoints.completions import CompletionContent, read_completion, read_usage
from vlsb.endpoints.credentials import REDACTED, Redactor, Secret, safe_code
from vlsb.endpoints.faults import (
    Decision,
    ErrorBody,
    Fault,
    ReplyTooLarge,
    classify,
    classify_error,
    fatal_error,
    without_secrets,
)
from vlsb.errors import (
    AuthenticationError,
    ConfigError,
    QuotaError,
    UnknownModelError,
    UnreachableError,
    VlsbError,
)
from vlsb.records import Untrusted, Usage, is_cut

NOW = 1696004797.0
JSON_TYPE = {"content-type": "application/json"}
BLOCKED, FATAL, PERMANENT = Fault.PROVIDER_BLOCKED, Fault.RUN_FATAL, Fault.ITEM_PERMANENT
LIMITED, TRANSIENT, BAD = Fault.RATE_LIMITED, Fault.TRANSIENT, Fault.BAD_PAYLOAD


def reply(status: int, body: object = b"", **headers: str) -> httpx.Response:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = JSON_TYPE | {name.replace("_", "-"): text for name, text in headers.items()}
    return httpx.Response(status, headers=fields, content=data)


def decide(
    happened: httpx.Response | httpx.RequestError, *, has_succeeded: bool = True, attempt: int = 1
) -> Decision:
    return classify(happened, has_succeeded=has_succeeded, attempt=attempt, now=NOW)


def read(body: object, status: int = 200) -> CompletionContent | Decision:
    return read_completion(reply(status, body), now=NOW)


def refused(body: object) -> Decision:
    found = read(body)
    assert isinstance(found, Decision)
    return found


def answered(body: object) -> CompletionContent:
    found = read(body)
    assert isinstance(found, CompletionContent)
    return found


# Bodies as providers write them.


def openai(code: str | None, message: str, kind: str | None = None, param: str | None = None) -> dict:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def anthropic(kind: str, message: str, **details: str) -> dict:
    error: dict[str, Any] = {"type": kind, "message": message}
    if details:
        error["details"] = details
    return {"type": "error", "error": error, "request_id": "req_011CSHoEeqs5C35K2UUqR7Fy"}


def gemini(quota_id: str, delay: str = "34s") -> list:
    kind = "type.googleapis.com/google.rpc."
    metric = "generativelanguage.googleapis.com/generate_content_free_tier_requests"
    details = [
        {"@type": f"{kind}QuotaFailure", "violations": [{"quotaMetric": metric, "quotaId": quota_id}]},
        {"@type": f"{kind}Help", "links": [{"url": "https://ai.google.dev/gemini-api/docs/rate-limits"}]},
        {"@type": f"{kind}RetryInfo", "retryDelay": delay},
    ]
    message = "You exceeded your current quota, please check your plan and billing details."
    error = {"code": 429, "message": message, "status": "RESOURCE_EXHAUSTED", "details": details}
    return [{"error": error}]


def openrouter(code: int, message: str, **metadata: object) -> dict:
    error: dict[str, Any] = {"message": message, "code": code}
    if metadata:
        error["metadata"] = metadata
    return {"error": error, "user_id": "user_2abc"}


def vllm(status: int, kind: str, message: str) -> dict:
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


def vllm_old(status: int, kind: str, message: str) -> dict:
    return {"object": "error", "message": message, "type": kind, "param": None, "code": status}


def completion(content: object = "An answer.", reason: str | None = "stop", **more: Any) -> dict:
    message = {"role": "assistant", "content": content, **more.pop("message", {})}
    choice = {"index": 0, "message": message, "finish_reason": reason, **more.pop("choice", {})}
    usage = {"prompt_tokens": 800, "completion_tokens": 40, "total_tokens": 840}
    return {"id": "chatcmpl-1", "object": "chat.completion", "model": "m-1", "choices": [choice]} | {
        "usage": usage,
        **more,
    }


AZURE_PROMPT_FILTER = {
    "error": {
        "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management "
        "policy. Please modify your prompt and retry.",
        "type": None,
        "param": "prompt",
        "code": "content_filter",
        "status": 400,
        "innererror": {
            "code": "ResponsibleAIPolicyViolation",
            "content_filter_result": {
                "hate": {"filtered": True, "severity": "high"},
                "jailbreak": {"detected": True, "filtered": True},
            },
        },
    }
}
UPSTREAM = {
    "raw": "some/model is temporarily rate-limited upstream. Please retry shortly.",
    "provider_name": "Somewhere",
}
MODERATION = {"reasons": ["violence"], "flagged_input": "how do I", "provider_name": "OpenAI"}
CREDIT = "Your credit balance is too low to access the Anthropic API."
SPEND = "You have reached your specified API usage limits: the monthly spend limit of this workspace."
QUOTA = "You exceeded your current quota, please check your plan and billing details."
CONTEXT = (
    "This model's maximum context length is 4096 tokens. However, your messages resulted in 5003 tokens."
)
DECODER = "The decoder prompt (length 5003) is longer than the maximum model length of 4096."
TOGETHER = "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4097."
TOO_SMALL = "messages: text content blocks must be non-empty"
MEDIA_TYPE = "messages.0.content.0.image.source.base64.media_type: Input should be 'image/jpeg', 'image/png'"
FORMAT = "You uploaded an unsupported image. Please make sure your image has of one the following formats."
MAX_TOKENS = "Unsupported parameter: 'max_tokens' is not supported with this model."
SLOW = "Slow down"


@dataclass(frozen=True)
class Row:
    """What must come of a reply that is not a success."""

    reply: httpx.Response
    fault: Fault
    more: dict[str, Any]


def row(name: str, status: int, body: object, fault: Fault, **more: Any) -> Any:
    headers = more.pop("headers", {})
    return pytest.param(Row(reply(status, body, **headers), fault, more), id=name)


@pytest.mark.parametrize(
    "case",
    [
        row("A01-openai-rpm", 429, openai("rate_limit_exceeded", "RPM", "requests"), LIMITED),
        row(
            "A01-openai-tpm-with-a-wait",
            429,
            openai("rate_limit_exceeded", "TPM", "tokens"),
            LIMITED,
            headers={"retry_after": "20"},
            retry_after_s=20.0,
        ),
        row("A02-openai-slow-down", 429, openai("slow_down", SLOW, "rate_limit_error"), LIMITED),
        row(
            "A03-openai-quota",
            429,
            openai("insufficient_quota", QUOTA, "insufficient_quota"),
            FATAL,
            code="insufficient_quota",
            error=QuotaError,
        ),
        row("A03-quota-by-type-alone", 429, openai(None, "", "insufficient_quota"), FATAL, error=QuotaError),
        row("A03-never-by-the-words", 429, openai("rate_limit_exceeded", QUOTA, "requests"), LIMITED),
        row(
            "A04-gemini-per-day",
            429,
            gemini("GenerateRequestsPerDayPerProjectPerModel-FreeTier"),
            FATAL,
            error=QuotaError,
            code="daily_quota",
        ),
        row(
            "A04-gemini-per-minute",
            429,
            gemini("GenerateRequestsPerMinutePerProjectPerModel-FreeTier"),
            LIMITED,
            retry_after_s=34.0,
            code="resource_exhausted",
        ),
        row(
            "A05-anthropic-limit",
            429,
            anthropic("rate_limit_error", "Number of request tokens has exceeded your per-minute limit."),
            LIMITED,
            headers={"retry_after": "7"},
            retry_after_s=7.0,
        ),
        row(
            "A06-anthropic-monthly-spend",
            429,
            anthropic("rate_limit_error", "…", error_code="enforced_spend_limit_reached"),
            FATAL,
            error=QuotaError,
        ),
        row(
            "A07-anthropic-own-spend-limit",
            400,
            anthropic("invalid_request_error", SPEND),
            FATAL,
            error=QuotaError,
        ),
        row(
            "A07-anthropic-credit-balance",
            400,
            anthropic("invalid_request_error", CREDIT),
            FATAL,
            error=QuotaError,
        ),
        row("A08-openrouter-credit", 402, openrouter(402, "Insufficient credits"), FATAL, error=QuotaError),
        row("A08-credit-without-a-body", 402, b"", FATAL, error=QuotaError),
        row("A09-openrouter-upstream", 429, openrouter(429, "Provider returned error", **UPSTREAM), LIMITED),
        row(
            "A10-azure-limit",
            429,
            openai("429", "Requests to the ChatCompletions_Create Operation … Please retry after 7 seconds."),
            LIMITED,
            headers={"x_rate_limit_reset_tokens": "55"},
            retry_after_s=55.0,
        ),
        row("A17-limit-without-anything", 429, b"", LIMITED, retry_after_s=None),
        row(
            "A17-limit-until-a-date",
            503,
            b"",
            TRANSIENT,
            headers={"retry_after": "Fri, 29 Sep 2023 16:27:07 GMT"},
            retry_after_s=30.0,
        ),
        *(
            row(f"A18-{status}", status, b"<html>error</html>", TRANSIENT, code=f"http_{status}")
            for status in (500, 502, 503, 504, 520, 521, 522, 523, 524)
        ),
        row("A18-with-a-wait", 503, b"", TRANSIENT, headers={"retry_after": "9"}, retry_after_s=9.0),
        row("A19-anthropic-529", 529, anthropic("overloaded_error", "Overloaded"), TRANSIENT),
        row("A19-by-its-type", 429, anthropic("overloaded_error", "Overloaded"), TRANSIENT),
        row("A20-timeout", 408, b"", TRANSIENT),
        row("A20-conflict", 409, b"", TRANSIENT),
        row("A21-hint-no", 503, b"", PERMANENT, headers={"x_should_retry": "false"}),
        row("A21-hint-no-on-a-timeout", 408, b"", PERMANENT, headers={"x_should_retry": "false"}),
        row(
            "A21-hint-yes-on-a-bad-request",
            400,
            openai(None, "Bad request", "invalid_request_error"),
            PERMANENT,
            headers={"x_should_retry": "true"},
        ),
        row("A21-hint-yes", 500, b"", TRANSIENT, headers={"x_should_retry": "true"}),
        row(
            "A33-openai-key",
            401,
            openai("invalid_api_key", "Incorrect API key provided: sk-ab***yz.", "invalid_request_error"),
            FATAL,
            error=AuthenticationError,
        ),
        row(
            "A33-anthropic-key",
            401,
            anthropic("authentication_error", "invalid x-api-key"),
            FATAL,
            error=AuthenticationError,
        ),
        row("A33-without-a-body", 401, b"", FATAL, error=AuthenticationError),
        row(
            "A33-gemini-key-is-a-400",
            400,
            [
                {
                    "error": {
                        "code": 400,
                        "message": "Its credentials were turned down.",
                        "status": "INVALID_ARGUMENT",
                        "details": [{"@type": "ErrorInfo", "reason": "API_KEY_INVALID"}],
                    }
                }
            ],
            FATAL,
            error=AuthenticationError,
        ),
        row(
            "A34-forbidden",
            403,
            openai("unsupported_country_region_territory", "Country not supported", "request_forbidden"),
            FATAL,
            error=AuthenticationError,
        ),
        row(
            "A34-openrouter-moderation",
            403,
            openrouter(403, "Input was flagged", **MODERATION),
            BLOCKED,
            code="blocked_input",
            ends_as="blocked",
        ),
        row("A34-flagged", 403, openrouter(403, "No", flagged_input="how"), BLOCKED, code="blocked_input"),
        row("A34-for-reasons", 403, openrouter(403, "No", reasons=["x"]), BLOCKED, code="blocked_input"),
        row("A34-a-router", 403, openrouter(403, "No", provider_name="x"), FATAL, error=AuthenticationError),
        row(
            "A35-a-model-that-this-account-may-not-use",
            403,
            openai(
                "model_not_found", "Project `p` does not have access to model `x`", "invalid_request_error"
            ),
            FATAL,
            error=UnknownModelError,
            code="unknown_model",
        ),
        row("A35-no-such-page", 404, b"", FATAL, error=UnknownModelError, code="not_found"),
        row(
            "A35-openai-model",
            404,
            openai("model_not_found", "The model `x` does not exist", "invalid_request_error"),
            FATAL,
            error=UnknownModelError,
        ),
        row(
            "A35-anthropic-model",
            404,
            anthropic("not_found_error", "model: x"),
            FATAL,
            error=UnknownModelError,
        ),
        row(
            "A35-azure-deployment",
            404,
            openai("DeploymentNotFound", "The API deployment for this resource does not exist."),
            FATAL,
            error=UnknownModelError,
        ),
        row(
            "A35-vllm-model",
            404,
            vllm(404, "NotFoundError", "The model `x` does not exist."),
            FATAL,
            error=UnknownModelError,
        ),
        row(
            "A35-vllm-model-old",
            404,
            vllm_old(404, "NotFoundError", "The model `x` does not exist."),
            FATAL,
            error=UnknownModelError,
        ),
        row(
            "A35-openrouter-model",
            404,
            openrouter(404, "No endpoints found for some/model."),
            FATAL,
            error=UnknownModelError,
        ),
        row(
            "A36-openai-vision-policy",
            400,
            openai("content_policy_violation", "…", "invalid_request_error"),
            BLOCKED,
            code="blocked_input",
            ends_as="blocked",
        ),
        row(
            "A36-openai-reasoning-policy",
            400,
            openai("invalid_prompt", "Invalid prompt: flagged.", "invalid_request_error"),
            BLOCKED,
            code="blocked_input",
        ),
        row(
            "A36-openai-by-its-words",
            400,
            openai(None, "Your request was blocked by our safety rules.", "invalid_request_error"),
            BLOCKED,
            code="blocked_input",
        ),
        row(
            "A36-the-safety-system",
            400,
            openai(None, "Your request was rejected by our safety system.", "image_generation_user_error"),
            BLOCKED,
            code="blocked_input",
        ),
        row(
            "A37-azure-prompt-filter",
            400,
            AZURE_PROMPT_FILTER,
            BLOCKED,
            code="blocked_input",
            ends_as="blocked",
        ),
        row(
            "A37-azure-by-its-inner-code",
            400,
            {"error": {"code": "BadRequest", "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
            BLOCKED,
        ),
        row(
            "A43-anthropic-output-filter",
            400,
            anthropic("invalid_request_error", "Output blocked by content filtering policy"),
            BLOCKED,
            code="blocked_output",
            ends_as="blocked",
        ),
        row(
            "A44-openai-image-format",
            400,
            openai("invalid_image_format", FORMAT, "invalid_request_error"),
            PERMANENT,
            code="invalid_image_format",
        ),
        row(
            "A44-sanitizer-once-more",
            400,
            openai("sanitizer_server_error", "Invalid image.", "invalid_request_error"),
            TRANSIENT,
            max_retries=1,
        ),
        row(
            "A44-vllm-image",
            400,
            vllm(400, "BadRequestError", "Failed to load image: cannot identify image file"),
            PERMANENT,
        ),
        row(
            "A45-anthropic-size",
            413,
            anthropic("request_too_large", "Request exceeds the maximum size"),
            PERMANENT,
        ),
        row("A45-cdn-size", 413, b"<html>413 Request Entity Too Large</html>", PERMANENT, code="http_413"),
        row("A46-anthropic-media-type", 400, anthropic("invalid_request_error", MEDIA_TYPE), PERMANENT),
        row("A47-anthropic-empty-text", 400, anthropic("invalid_request_error", TOO_SMALL), PERMANENT),
        row(
            "A48-openai-context",
            400,
            openai("context_length_exceeded", CONTEXT, "invalid_request_error", "messages"),
            PERMANENT,
            code="context",
        ),
        row("A48-vllm-context", 400, vllm(400, "BadRequestError", CONTEXT), PERMANENT, code="context"),
        row("A48-vllm-decoder", 400, vllm_old(400, "BadRequestError", DECODER), PERMANENT, code="context"),
        row(
            "A48-anthropic-context",
            400,
            anthropic("invalid_request_error", "prompt is too long: 205000 tokens > 199999 maximum"),
            PERMANENT,
            code="context",
        ),
        row(
            "A48-together-context",
            422,
            openai(None, TOGETHER, "invalid_request_error"),
            PERMANENT,
            code="context",
        ),
        row(
            "A49-reasoning-parameter",
            400,
            openai("unsupported_parameter", MAX_TOKENS, "invalid_request_error", "max_tokens"),
            PERMANENT,
            code="unsupported_parameter",
            param="max_tokens",
        ),
        row(
            "A49-reasoning-value",
            400,
            openai("unsupported_value", "Only the default (1)", "invalid_request_error", "temperature"),
            PERMANENT,
            param="temperature",
        ),
        row(
            "A50-response-format",
            400,
            openai(None, "'response_format' is not supported", "invalid_request_error", "response_format"),
            PERMANENT,
            param="response_format",
        ),
        row("A64-vllm-new", 400, vllm(400, "BadRequestError", "no"), PERMANENT, code="badrequesterror"),
        row("A64-vllm-old", 400, vllm_old(400, "BadRequestError", "no"), PERMANENT, code="badrequesterror"),
        row("A64-vllm-500", 500, vllm(500, "InternalServerError", "no"), TRANSIENT),
        row("A64-vllm-old-500", 500, vllm_old(500, "InternalServerError", "no"), TRANSIENT),
        row("A64-vllm-501", 501, vllm(501, "NotImplementedError", "no"), PERMANENT),
        row("A64-a-status-that-does-not-exist", 600, b"", PERMANENT, code="http_600"),
        row("C32-a-choice-of-places", 300, b"", FATAL, headers={"location": "https://x/"}, code="redirect"),
        row("C32-redirect", 308, b"", FATAL, headers={"location": "https://elsewhere/"}, code="redirect"),
    ],
)
def test_a_refused_request_leads_to_the_right_decision(case):
    decision = decide(case.reply)

    assert decision.fault is case.fault
    assert decision.status == case.reply.status_code
    assert decision.is_retryable == (case.fault in (LIMITED, TRANSIENT, BAD))
    assert {name: getattr(decision, name) for name in case.more} == case.more


def test_the_hint_not_to_retry_holds_for_a_rate_limit_too():
    """A21: `x-should-retry: false` is honoured, whatever the status."""
    limit = openai("rate_limit_exceeded", "no", "requests")

    assert decide(reply(429, limit, x_should_retry="false")).fault is PERMANENT


def test_headers_are_read_from_a_plain_mapping_in_small_letters_too():
    def decide_by(status: int, headers: dict[str, str]) -> Decision:
        return classify_error(status, ErrorBody(), headers, now=NOW)

    assert decide_by(429, {"x-should-retry": "false"}).fault is PERMANENT
    assert decide_by(503, {"x-should-retry": "false"}).fault is PERMANENT
    assert decide_by(307, {"location": "https://elsewhere/"}).message.expose() == "https://elsewhere/"
    assert decide_by(429, {}).message.expose() == ""


def test_a_router_shows_what_its_upstream_said():
    message = decide(reply(429, openrouter(429, "Provider returned error", **UPSTREAM))).message.expose()

    assert UPSTREAM["raw"] in message
    assert UPSTREAM["provider_name"] in message
    assert decide(reply(429, openrouter(429, "", raw="x" * 900))).message.expose() == "x" * 500


def test_the_azure_prompt_filter_keeps_its_categories():
    details = decide(reply(400, AZURE_PROMPT_FILTER)).details

    assert details is not None
    assert details["content_filter_result"]["hate"] == {"filtered": True, "severity": "high"}


def test_a_filter_that_names_no_categories_has_no_details():
    error = {"code": "content_filter", "innererror": {"content_filter_result": "hate"}}

    assert decide(reply(400, {"error": error})).details is None


def test_a_redirect_says_where_to():
    assert decide(reply(307, location="https://elsewhere/v2")).message.expose() == "https://elsewhere/v2"


def test_a_body_without_a_message_is_quoted_by_its_start_only():
    assert decide(reply(500, b"x" * 5000)).message.expose() == "x" * 200


# No reply at all.


@pytest.mark.parametrize(
    ("kind", "has_succeeded", "attempt", "fault", "code"),
    [
        pytest.param(httpx.ConnectError, True, 5, TRANSIENT, "connect", id="A22-after-a-success"),
        pytest.param(httpx.ConnectError, False, 1, TRANSIENT, "connect", id="A22-first-attempt"),
        pytest.param(
            httpx.ConnectError, False, 2, FATAL, "unreachable", id="A22-second-attempt-without-success"
        ),
        pytest.param(httpx.ConnectTimeout, False, 2, FATAL, "unreachable", id="A22-no-connection-in-time"),
        pytest.param(httpx.ProxyError, False, 2, FATAL, "unreachable", id="A22-the-proxy-has-no-connection"),
        pytest.param(httpx.ReadTimeout, False, 9, TRANSIENT, "timeout", id="A23-timeout"),
        pytest.param(httpx.ReadError, False, 9, TRANSIENT, "closed", id="A26-closed"),
        pytest.param(httpx.WriteError, False, 9, TRANSIENT, "closed", id="A26-closed-while-sending"),
        pytest.param(httpx.RemoteProtocolError, False, 9, TRANSIENT, "protocol", id="protocol"),
        pytest.param(httpx.DecodingError, False, 9, TRANSIENT, "protocol", id="decoding"),
        pytest.param(ReplyTooLarge, False, 1, BAD, "body_too_large", id="C36-too-large"),
    ],
)
def test_a_transport_fault_leads_to_the_right_decision(kind, has_succeeded, attempt, fault, code):
    happened = kind("what the stack said")
    decision = decide(happened, has_succeeded=has_succeeded, attempt=attempt)

    assert (decision.fault, decision.code) == (fault, code)
    assert decision.message.expose() == "what the stack said"


def test_a_fault_without_a_word_has_its_kind_for_a_message():
    assert decide(httpx.ReadTimeout("")).message.expose() == "ReadTimeout"


@pytest.mark.parametrize("has_succeeded", [pytest.param(True, id="A22-after-a-success"), False])
def test_a_certificate_that_does_not_fit_ends_the_run_at_once(has_succeeded):
    happened = httpx.ConnectError("what the stack said")
    happened.__cause__ = ssl.SSLCertVerificationError("self-signed")
    decision = decide(happened, has_succeeded=has_succeeded)

    assert (decision.fault, decision.code) == (FATAL, "certificate")
    assert decision.message.expose() == "what the stack said"


def test_an_unreachable_host_is_a_matter_of_configuration():
    happened = httpx.ConnectError("refused")
    decision = decide(happened, has_succeeded=False, attempt=2)

    assert (decision.code, decision.error) == ("unreachable", ConfigError)


# What may be stored of it, and what ends a run.


KEY = "sk-" + "abcdefgh01234567" * 2
REDACTOR = Redactor([Secret(KEY)])


def test_no_key_is_in_anything_that_is_stored_of_a_decision():
    decision = Decision(
        FATAL,
        KEY,
        Untrusted(f"wrong key {KEY}"),
        status=401,
        param=KEY,
        usage=Usage(1, 2),
        text=Untrusted(f"It is {KEY}."),
        details={"given": [KEY], "count": 3},
    )

    stored = without_secrets(decision, REDACTOR)

    assert stored.message.expose() == f"wrong key {REDACTED}"
    assert (stored.code, stored.param) == ("redacted", "redacted")
    assert stored.text == Untrusted(f"It is {REDACTED}.")
    assert stored.details == {"given": [REDACTED], "count": 3}
    assert (stored.fault, stored.status, stored.usage) == (FATAL, 401, Usage(1, 2))


def test_what_holds_no_key_is_stored_as_it_came():
    decision = Decision(BAD, "no_choices", Untrusted("nothing"), param="n", details={"why": ["a", 1]})

    assert without_secrets(decision, REDACTOR) == decision
    assert without_secrets(replace(decision, details=None), REDACTOR) == replace(decision, details=None)


def test_a_hostile_endpoint_does_not_fill_the_disk():
    long = {"x": "y" * (4000 - len('{"x":""}'))}
    decision = Decision(BAD, "no_choices", Untrusted("z" * 9000), details=long)
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]

    assert without_secrets(decision, REDACTOR).message.expose() == "z" * 2000
    assert without_secrets(decision, REDACTOR).details == long
    assert without_secrets(replace(decision, details={"x": long["x"] + "y"}), REDACTOR).details is None
    assert without_secrets(replace(decision, details={"x": deep}), REDACTOR).details is None


TARGET = Party("target", Endpoint("llama-3", "http://localhost:8000/v1", "MY_KEY"))
JUDGE = Party("judge", Endpoint("gpt-4o", "https://api.example.com/v1"))
WITH_HEADER = Party("target", Endpoint("m", "https://api.example.com/v1", headers=(("x-key", "MY_HEADER"),)))


def ends(decision: Decision, party: Party = TARGET, models: Sequence[str] = (), **more: Any) -> VlsbError:
    return fatal_error(decision, party, models, REDACTOR, **more)


def fatal(code: str, error: type[VlsbError] = ConfigError, message: str = "No.") -> Decision:
    return Decision(FATAL, code, Untrusted(message), error=error)


def test_a_model_that_does_not_exist_is_told_with_the_nearest_that_do():
    listed = ["llama-3-8b", "llama-3.1", "llama-3.2", "llama-33", "phi"]
    unknown = fatal("unknown_model", UnknownModelError)

    error = ends(unknown, models=listed)

    assert type(error) is UnknownModelError
    assert str(error) == "target llama-3 at localhost:8000: no such model. Check --model."
    assert error.detail is not None
    assert error.detail.expose() == "No. It lists: llama-33, llama-3.2, llama-3.1"
    far = ends(unknown, JUDGE, ["a", "b", "c", KEY])
    assert far.detail is not None
    assert far.detail.expose() == "No. It lists: a, b, c"
    assert "Check --judge." in str(far)
    only_key = ends(unknown, JUDGE, [KEY])
    assert only_key.detail is not None
    assert KEY not in only_key.detail.expose()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[Errno 111] Connection refused", "connection refused"),
        ("[Errno -2] Name or service not known", "no such host"),
        ("timed out", "no connection in time"),
    ],
)
def test_a_place_without_a_server_is_named_in_plain_words_alone(text, words):
    error = ends(fatal("unreachable", message=text))

    assert type(error) is UnreachableError
    assert str(error) == f"target llama-3 at localhost:8000: {words}. Check --base-url."
    assert error.detail is None


def test_what_nobody_has_words_for_is_told_as_the_system_says_it():
    error = ends(fatal("unreachable", message="the moon is full"), JUDGE)

    assert str(error) == "judge gpt-4o at api.example.com: no connection. Check --judge-base-url."
    assert error.detail == Untrusted("the moon is full")


def test_only_what_cannot_be_reached_has_its_reason_in_our_words():
    error = ends(fatal("http_400", message="connection refused by policy"))

    assert type(error) is ConfigError
    assert str(error) == "target llama-3 at localhost:8000: request failed (http_400). Check --base-url."
    assert error.detail == Untrusted("connection refused by policy")


def test_a_base_url_that_answers_beside_the_given_one_is_proposed():
    found = ends(fatal("not_found", UnknownModelError), JUDGE, better_url="https://api.example.com/api/v1")

    assert found.advice == "Did you mean --judge-base-url https://api.example.com/api/v1?"


@pytest.mark.parametrize(
    ("party", "what", "advice"),
    [
        (
            TARGET,
            "authentication failed (http_401)",
            "Check the key in MY_KEY and its rights, or name another variable with --api-key-env.",
        ),
        (
            JUDGE,
            "authentication failed, and no key was sent (http_401)",
            "Name the variable that holds its key with --judge-api-key-env.",
        ),
        (
            WITH_HEADER,
            "authentication failed (http_401)",
            "Check the key and its rights, or name another variable with --api-key-env.",
        ),
    ],
)
def test_a_key_that_does_not_open_is_named_by_its_variable(party, what, advice):
    error = ends(fatal("http_401", AuthenticationError), party)

    assert error.message == f"{party}: {what}"
    assert error.advice == advice


def test_an_account_without_money_is_told_to_add_some():
    error = ends(fatal("insufficient_quota", QuotaError), JUDGE)

    assert type(error) is QuotaError
    assert error.message.endswith("quota or billing (insufficient_quota)")
    assert error.advice == "Add credit, or pass another key's variable with --judge-api-key-env."


# A success that is none.


@pytest.mark.parametrize(
    ("body", "fault", "more"),
    [
        pytest.param(b'{"id":"chatcmpl-1","choices":[{"index"', BAD, {"code": "not_json"}, id="A27-cut-json"),
        pytest.param(b"<!DOCTYPE html><html></html>", BAD, {"code": "html"}, id="A28-html"),
        pytest.param(b"", BAD, {"code": "empty_body"}, id="A28-empty"),
        pytest.param(b" \r\n ", BAD, {"code": "empty_body"}, id="A28-blank"),
        pytest.param("overloaded", BAD, {"code": "not_an_object"}, id="A29-string"),
        pytest.param([], BAD, {"code": "not_an_object"}, id="A29-array"),
        pytest.param(None, BAD, {"code": "not_an_object"}, id="A29-null"),
        pytest.param(
            completion("The begin", "content_filter"),
            BLOCKED,
            {"code": "blocked_output", "ends_as": "blocked"},
            id="A38-azure-output-filter",
        ),
        pytest.param(
            completion(None, "content_filter"),
            BLOCKED,
            {"code": "blocked_output", "text": None},
            id="A38-without-text",
        ),
        pytest.param(completion(choices=[]), BAD, {"ends_as": "empty"}, id="A41-no-choice"),
        pytest.param(
            {"choices": [], "prompt_feedback": {"block_reason": "SAFETY"}},
            BLOCKED,
            {"code": "blocked_input", "ends_as": "blocked"},
            id="A41-no-choice-with-a-reason",
        ),
        pytest.param(
            {"choices": [], "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}},
            BLOCKED,
            {"code": "blocked_input"},
            id="A41-no-choice-with-a-reason-in-camel-case",
        ),
        pytest.param(
            {
                "choices": [],
                "prompt_filter_results": [
                    {"prompt_index": 0, "content_filter_results": {"violence": {"filtered": True}}}
                ],
            },
            BLOCKED,
            {"code": "blocked_input"},
            id="A40-azure-prompt-annotation",
        ),
        pytest.param(
            completion(choice={"message": None}),
            BAD,
            {"ends_as": "empty", "max_retries": 1},
            id="A41-null-message",
        ),
        pytest.param(completion(None, "SAFETY"), BLOCKED, {"ends_as": "blocked"}, id="A41-gemini-safety"),
        pytest.param(
            completion(None, "PROHIBITED_CONTENT"),
            BLOCKED,
            {"ends_as": "blocked"},
            id="A41-gemini-prohibited",
        ),
        pytest.param(
            completion("I", "refusal"), BLOCKED, {"code": "blocked_output"}, id="A42-anthropic-classifier"
        ),
        pytest.param(
            openrouter(402, "Insufficient credits"), FATAL, {"error": QuotaError}, id="A52-inner-402"
        ),
        pytest.param(
            openrouter(403, "Input was flagged", **MODERATION),
            BLOCKED,
            {"ends_as": "blocked"},
            id="A52-inner-403",
        ),
        pytest.param(openrouter(408, "Timed out"), TRANSIENT, {}, id="A52-inner-408"),
        pytest.param(openrouter(429, "Provider returned error", **UPSTREAM), LIMITED, {}, id="A52-inner-429"),
        pytest.param(openrouter(500, "Internal Server Error"), TRANSIENT, {}, id="A52-inner-500"),
        pytest.param(openrouter(502, "Bad gateway"), TRANSIENT, {}, id="A52-inner-502"),
        pytest.param(
            {"error": {"message": "no", "code": "503"}}, TRANSIENT, {}, id="A52-inner-code-is-a-string"
        ),
        pytest.param(
            {"error": {"message": "Something went wrong"}}, BAD, {}, id="A52-inner-error-without-a-code"
        ),
        pytest.param({"error": "Something went wrong"}, BAD, {}, id="A52-inner-error-is-a-string"),
        pytest.param(
            completion(choice={"error": {"message": "Upstream died", "code": 502}}),
            TRANSIENT,
            {},
            id="A52-error-inside-the-choice",
        ),
        pytest.param(
            openai("insufficient_quota", QUOTA, "insufficient_quota"),
            FATAL,
            {"error": QuotaError},
            id="A03-quota-inside-a-200",
        ),
        pytest.param(
            anthropic("overloaded_error", "Overloaded"), TRANSIENT, {}, id="A19-overload-inside-a-200"
        ),
        pytest.param(
            {"id": "x", "object": "chat.completion"}, BAD, {"code": "no_choices"}, id="A53-warming-up"
        ),
        pytest.param(completion(choices=None), BAD, {"code": "no_choices"}, id="A53-null-choices"),
        *(
            pytest.param(
                completion(content),
                BAD,
                {"code": "empty_content", "ends_as": "empty", "max_retries": 1},
                id=f"A54-{name}",
            )
            for name, content in (
                ("null", None),
                ("empty", ""),
                ("blank", " \n\t"),
                ("no-parts", []),
                ("picture-only", [{"type": "image_url", "image_url": {"url": "data:"}}]),
            )
        ),
        pytest.param(
            completion(None, "tool_calls", message={"tool_calls": [{"id": "1"}]}),
            BAD,
            {"ends_as": "empty"},
            id="A54-tool-call-is-no-text",
        ),
        pytest.param(
            completion("", "length", message={"reasoning_content": "Let me think"}),
            BAD,
            {"code": "thinking_cut", "ends_as": "empty", "max_retries": 0},
            id="A58-vllm-reasoning",
        ),
        pytest.param(
            completion(
                "",
                "length",
                usage={
                    "prompt_tokens": 1,
                    "completion_tokens": 128,
                    "completion_tokens_details": {"reasoning_tokens": 128},
                },
            ),
            BAD,
            {"code": "thinking_cut", "usage": Usage(1, 128, 128)},
            id="A58-openai-reasoning",
        ),
        pytest.param(completion("I'm sorry, but I can", "error"), BAD, {"ends_as": "error"}, id="A61-error"),
        pytest.param(completion("I'm sorry", "abort"), BAD, {"ends_as": "error"}, id="A61-abort"),
        pytest.param(completion(7), BAD, {"code": "malformed_content"}, id="content-is-a-number"),
        pytest.param(completion(reason=7), BAD, {"code": "malformed_choice"}, id="reason-is-a-number"),
        pytest.param(completion(choices=["text"]), BAD, {"code": "no_choices"}, id="choice-is-a-string"),
    ],
)
def test_a_success_without_an_answer_leads_to_the_right_decision(body, fault, more):
    decision = refused(body)

    assert decision.fault is fault
    assert {name: getattr(decision, name) for name in more} == more


def test_text_before_the_output_filter_is_kept_for_audit_with_its_categories():
    filters = {"violence": {"filtered": True, "severity": "medium"}}
    decision = refused(completion("The begin", "content_filter", choice={"content_filter_results": filters}))

    assert decision.text is not None
    assert decision.text.expose() == "The begin"
    assert decision.details == {"content_filter_results": filters}


# Answers.


UNFILTERED = {"error": {"code": "content_filter_error", "message": "The contents are not filtered"}}
ANNOTATION = {"prompt_index": 0, "content_filter_results": {"hate": {"filtered": False}}}
PARTS = [{"type": "text", "text": "One. "}, {"type": "thinking", "text": "hm"}, {"text": "Two."}]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(
            completion("  An answer.\n"),
            {
                "text": Untrusted("  An answer.\n"),
                "origin": "content",
                "flags": (),
                "usage": Usage(800, 40, None),
            },
            id="as-it-stands",
        ),
        pytest.param(
            completion(choice={"content_filter_results": UNFILTERED}),
            {"flags": ("unfiltered",)},
            id="A39-azure-could-not-filter",
        ),
        pytest.param(
            completion(prompt_filter_results=[ANNOTATION], something_new={"deep": [1]}),
            {"text": Untrusted("An answer.")},
            id="A40-annotations-and-unknown-fields",
        ),
        pytest.param(
            completion(reason="Because_I-said so"),
            {"finish_reason": Untrusted("Because_I-said so")},
            id="A42-a-reason-nobody-knows",
        ),
        pytest.param(
            completion(None, message={"refusal": "I can't help with that."}),
            {"origin": "refusal", "text": Untrusted("I can't help with that.")},
            id="A55-the-refusal-field",
        ),
        pytest.param(
            completion("I'm sorry, but I can't help with that."),
            {"origin": "content", "flags": ()},
            id="A56-a-refusal-in-plain-text",
        ),
        pytest.param(
            completion(model="gpt-4o-2024-08-06"),
            {"model": Untrusted("gpt-4o-2024-08-06")},
            id="A63-the-model",
        ),
        pytest.param(completion(PARTS), {"text": Untrusted("One. Two.")}, id="parts-are-joined"),
        pytest.param(
            b'{"choices":[{"message":{"content":"a\\ud83d"}}]}',
            {"text": Untrusted("a\ud83d")},
            id="a-lone-surrogate",
        ),
    ],
)
def test_an_answer_is_read_with_what_came_with_it(body, expected):
    found = answered(body)

    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("reason", "expected"), [("length", True), ("MAX_TOKENS", True), ("stop", False), (None, False)]
)
def test_an_answer_that_ended_on_its_limit_says_so(reason, expected):
    """A57"""
    assert is_cut(answered(completion(reason=reason)).finish_reason) is expected


def test_leaked_markers_and_replacement_characters_are_flagged():
    assert set(answered(completion("ok\ufffd<|im_end|>")).flags) == {
        "replacement_character",
        "leaked_special_token",
    }


@pytest.mark.parametrize("count", [-1, 1.5, True, "12", None, 2**53, [], float("inf")])
def test_a_token_count_that_is_none_is_unknown(count):
    usage = {"prompt_tokens": count, "completion_tokens": count, "completion_tokens_details": count}

    assert read_usage(usage) == Usage()


# Anything at all.


@given(st.binary(), st.integers(100, 999))
def test_no_bytes_make_reading_fail(data, status):
    assert isinstance(read_completion(reply(status, data), now=NOW), Decision)
    assert isinstance(decide(reply(status, data)), Decision)


@pytest.mark.parametrize("code", ["²", "9" * 5000, "-1", "", "1e3", "٣"])
def test_a_strange_code_inside_a_200_is_read_without_failing(code):
    assert refused({"error": {"message": "no", "code": code}}).is_retryable


@pytest.mark.parametrize("violations", [5, True, 1.5, "PerDay", {"quotaId": 1}, [None]])
def test_strange_quota_violations_are_read_without_failing(violations):
    body = {"error": {"code": 429, "details": [{"violations": violations}]}}

    assert decide(reply(429, body)).fault is LIMITED


@pytest.mark.parametrize("depth", [900, 1000, 1020, 100_000])
@pytest.mark.parametrize(
    "template",
    [
        pytest.param(b'{"choices":[],"promptFeedback":{"blockReason":%b}}', id="block-reason"),
        pytest.param(b'{"error":{"details":[{"reason":%b}]}}', id="error-reason"),
        pytest.param(b'{"error":{"details":[{"violations":[{"quotaId":%b}]}]}}', id="quota-id"),
        pytest.param(b'{"error":{"innererror":{"code":%b}}}', id="inner-code"),
        pytest.param(b'{"choices":[{"message":{"content":%b}}]}', id="content"),
        pytest.param(b"%b", id="whole-body"),
    ],
)
def test_endless_nesting_is_read_without_failing(template, depth):
    body = template % (b"[" * depth + b"]" * depth)

    assert isinstance(read(body), Decision)
    assert isinstance(decide(reply(400, body)), Decision)


@given(st.text())
def test_a_code_of_theirs_becomes_a_short_harmless_word(text):
    code = safe_code(text)

    assert len(code) <= 48
    assert set(code) <= set("abcdefghijklmnopqrstuvwxyz0123456789_.-")
