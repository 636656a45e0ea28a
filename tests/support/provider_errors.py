"""What providers really send when they do not answer: one row a provider and spelling, with its source.

`docs/reference/providers.json` shows them, and `test_provider_errors.py` holds the program to them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Becomes(StrEnum):
    """What comes of a reply, in the words of the page."""

    BLOCKED = "blocked"
    QUOTA = "quota, exit 3"
    ACCESS = "access, exit 3"
    LIMITED = "rate-limit pause"
    RETRIED = "retried"
    ANSWER = "an answer"
    CONTEXT = "error: context"
    NO_MODEL = "no such model, exit 2"


BLOCKED, QUOTA, ACCESS = Becomes.BLOCKED, Becomes.QUOTA, Becomes.ACCESS
LIMITED, RETRIED, ANSWER = Becomes.LIMITED, Becomes.RETRIED, Becomes.ANSWER
CONTEXT, NO_MODEL = Becomes.CONTEXT, Becomes.NO_MODEL


@dataclass(frozen=True)
class Row:
    """A reply, and the part of it (`spelling`) that decides."""

    provider: str
    status: int
    spelling: str
    becomes: Becomes
    body: Any
    source: str
    """Where it was read; `*` where the page is the provider's and its exact wording was not read again."""
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def content(self) -> bytes:
        return json.dumps(self.body).encode()


def error(**fields: object) -> dict[str, Any]:
    return {"error": fields}


def stopped(reason: str, content: object = "The beginning", **message: object) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": reason, "message": {"content": content, **message}}
    return {"id": "1", "object": "chat.completion", "model": "m", "choices": [choice]}


def by_reason(provider: str, reason: str, becomes: Becomes, source: str) -> Row:
    return Row(provider, 200, f"finish_reason {reason}", becomes, stopped(reason), source)


def none_left(limit: str, *, reset: str = "") -> tuple[tuple[str, str], ...]:
    """The headers of a limit of requests that is used up; the waits are shorter than a provider's."""
    wait = ("x-ratelimit-reset-requests", reset) if reset else ("retry-after", "0.1")
    return (("x-ratelimit-limit-requests", limit), ("x-ratelimit-remaining-requests", "0"), wait)


OPENAI = "https://platform.openai.com/docs/guides/error-codes *"
CHAT = "https://platform.openai.com/docs/api-reference/chat *"
AZURE = "https://github.com/openai/openai-agents-python/issues/806"
ANTHROPIC = "https://docs.claude.com/en/api/errors *"
GEMINI = "https://hexdocs.pm/gemini_ex/Gemini.Types.Enums.FinishReason.html"
DASHSCOPE = "https://help.aliyun.com/en/model-studio/error-code-start"
BEDROCK = "https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html *"
COHERE = "https://github.com/cohere-ai/cohere-developer-experience/pull/189"
OPENROUTER = "https://openrouter.ai/docs/api/reference/errors-and-debugging *"
DEEPSEEK = "https://api-docs.deepseek.com/quick_start/error_codes"
GROQ = "https://console.groq.com/docs/spend-limits"
MISTRAL = "https://docs.mistral.ai/api *"
COPIES = "quoted in the tests of several public clients"

GOOGLE_KEY = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
DAILY = {
    "@type": "type.googleapis.com/google.rpc.QuotaFailure",
    "violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}],
}

ROWS = (
    # OpenAI
    Row(
        "OpenAI",
        429,
        "insufficient_quota",
        QUOTA,
        error(
            message="You exceeded your current quota, please check your plan and billing details.",
            type="insufficient_quota",
            code="insufficient_quota",
        ),
        OPENAI,
    ),
    Row(
        "OpenAI",
        429,
        "billing_not_active",
        QUOTA,
        error(
            message="Your account is not active, please check your billing details on our website.",
            type="billing_not_active",
            code="billing_not_active",
        ),
        "https://github.com/BerriAI/litellm/issues/2743",
    ),
    Row(
        "OpenAI",
        400,
        "billing_hard_limit_reached",
        QUOTA,
        error(message="Billing hard limit has been reached", code="billing_hard_limit_reached"),
        "https://github.com/bajrangCoder/acode-plugin-chatgpt/issues/19",
    ),
    Row(
        "OpenAI",
        401,
        "invalid_api_key",
        ACCESS,
        error(message="Incorrect API key provided: sk-ab***yz.", code="invalid_api_key"),
        OPENAI,
    ),
    by_reason("OpenAI", "content_filter", BLOCKED, CHAT),
    Row(
        "OpenAI",
        200,
        'content part of type "refusal"',
        ANSWER,
        stopped("stop", [{"type": "refusal", "refusal": "I can't help with that."}]),
        CHAT,
    ),
    Row(
        "OpenAI",
        200,
        "message.refusal",
        ANSWER,
        stopped("stop", None, refusal="I can't help with that."),
        CHAT,
    ),
    Row(
        "OpenAI",
        429,
        "rate_limit_exceeded",
        LIMITED,
        error(message="Rate limit reached for gpt-4o.", type="requests", code="rate_limit_exceeded"),
        OPENAI,
        none_left("500", reset="120ms"),
    ),
    Row(
        "OpenAI",
        400,
        "context_length_exceeded",
        CONTEXT,
        error(
            message="Your input exceeds the context window of this model.",
            type="invalid_request_error",
            param="messages",
            code="context_length_exceeded",
        ),
        OPENAI,
    ),
    Row(
        "OpenAI",
        404,
        "model_not_found",
        NO_MODEL,
        error(
            message="The model `gpt-9` does not exist.",
            code="model_not_found",
        ),
        OPENAI,
    ),
    # Azure
    Row(
        "Azure",
        400,
        "content_filter",
        BLOCKED,
        error(
            message="The response was filtered due to the prompt triggering the content management policy.",
            code="content_filter",
            innererror={"code": "ResponsibleAIPolicyViolation"},
        ),
        AZURE,
    ),
    Row(
        "Azure",
        429,
        "insufficient_quota",
        QUOTA,
        error(message="You exceeded your current quota.", code="insufficient_quota"),
        "https://learn.microsoft.com/en-us/azure/ai-services/openai/how-to/quota *",
    ),
    by_reason(
        "Azure", "content_filter", BLOCKED, "https://learn.microsoft.com/en-us/azure/ai-services/openai/ *"
    ),
    # Anthropic
    Row(
        "Anthropic",
        400,
        "Your credit balance is too low",
        QUOTA,
        error(
            type="invalid_request_error",
            message="Your credit balance is too low to access the Anthropic API.",
        ),
        ANTHROPIC,
    ),
    Row(
        "Anthropic",
        402,
        "billing_error",
        QUOTA,
        error(type="billing_error", message="There is an issue with your billing."),
        ANTHROPIC,
    ),
    Row(
        "Anthropic",
        400,
        "This organization has been disabled",
        ACCESS,
        error(type="invalid_request_error", message="This organization has been disabled."),
        "https://github.com/anthropics/claude-code/issues/19028",
    ),
    Row(
        "Anthropic",
        400,
        "Your organization has been blocked",
        ACCESS,
        error(
            type="invalid_request_error", message="Your organization has been blocked from using this API."
        ),
        "no report found: the wording of the one before",
    ),
    Row(
        "Anthropic",
        401,
        "authentication_error",
        ACCESS,
        error(type="authentication_error", message="invalid x-api-key"),
        ANTHROPIC,
    ),
    Row(
        "Anthropic",
        400,
        "blocked by content filtering policy",
        BLOCKED,
        error(type="invalid_request_error", message="Output blocked by content filtering policy"),
        ANTHROPIC,
    ),
    by_reason("Anthropic", "refusal", BLOCKED, "https://docs.claude.com/en/api/handling-stop-reasons *"),
    Row(
        "Anthropic",
        429,
        "rate_limit_error",
        LIMITED,
        error(type="rate_limit_error", message="This request would exceed your organization's rate limit."),
        "https://platform.claude.com/docs/en/cli-sdks-libraries/libraries/openai-sdk *",
        (
            ("x-ratelimit-limit-requests", "50"),
            ("x-ratelimit-remaining-requests", "0"),
            ("retry-after", "0.1"),
        ),
    ),
    Row(
        "Anthropic",
        400,
        "prompt is too long",
        CONTEXT,
        error(type="invalid_request_error", message="prompt is too long: 210000 tokens > 200000 maximum"),
        COPIES,
    ),
    Row(
        "Anthropic",
        404,
        "not_found_error",
        NO_MODEL,
        error(type="not_found_error", message="model: claude-9"),
        ANTHROPIC,
    ),
    # Gemini
    *(
        by_reason("Gemini", reason, BLOCKED, GEMINI)
        for reason in ("SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "RECITATION", "IMAGE_SAFETY")
    ),
    *(
        by_reason("Gemini", reason, BLOCKED, "https://ai.google.dev/gemini-api/docs/safety-settings *")
        for reason in ("IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION")
    ),
    Row(
        "Gemini",
        200,
        "promptFeedback.blockReason",
        BLOCKED,
        {"choices": [], "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}},
        "https://github.com/vercel/ai/issues/4235",
    ),
    Row(
        "Gemini",
        400,
        "API_KEY_INVALID",
        ACCESS,
        [error(code=400, message="API key expired.", status="INVALID_ARGUMENT", details=[GOOGLE_KEY])],
        "https://github.com/continuedev/continue/issues/11336",
    ),
    Row(
        "Gemini",
        400,
        "API key not valid",
        ACCESS,
        [
            error(
                code=400, message="API key not valid. Please pass a valid API key.", status="INVALID_ARGUMENT"
            )
        ],
        "https://github.com/google-gemini/gemini-cli/issues/4690",
    ),
    Row(
        "Gemini",
        429,
        "quotaId …PerDay…",
        QUOTA,
        [
            error(
                code=429,
                message="You exceeded your current quota",
                status="RESOURCE_EXHAUSTED",
                details=[DAILY],
            )
        ],
        "https://ai.google.dev/gemini-api/docs/rate-limits *",
    ),
    Row(
        "Gemini",
        429,
        "RESOURCE_EXHAUSTED",
        LIMITED,
        [error(code=429, message="You exceeded your current quota", status="RESOURCE_EXHAUSTED")],
        "https://ai.google.dev/gemini-api/docs/rate-limits *",
    ),
    Row(
        "Gemini",
        400,
        "The input token count exceeds the maximum",
        CONTEXT,
        [
            error(
                code=400,
                message="The input token count (1200293) exceeds the maximum number of tokens allowed.",
                status="INVALID_ARGUMENT",
            )
        ],
        "https://github.com/google-gemini/gemini-cli/issues/6678",
    ),
    Row(
        "Gemini",
        404,
        "NOT_FOUND",
        NO_MODEL,
        [error(code=404, message="models/gemini-9 is not found for API version v1main", status="NOT_FOUND")],
        "https://ai.google.dev/gemini-api/docs/openai *",
    ),
    # Mistral
    Row(
        "Mistral",
        429,
        "rate_limited",
        LIMITED,
        {
            "object": "error",
            "message": "Rate limit exceeded",
            "type": "rate_limited",
            "param": None,
            "code": "1300",
            "raw_status_code": 429,
        },
        "https://github.com/earendil-works/pi/issues/9815",
        (
            ("x-ratelimit-limit-req-minute", "720"),
            ("x-ratelimit-remaining-req-minute", "0"),
            ("retry-after", "0.1"),
        ),
    ),
    Row(
        "Mistral",
        400,
        "too large for model with … maximum context length",
        CONTEXT,
        {
            "object": "error",
            "message": "Prompt contains 40960 tokens, too large for model with 32768 maximum context length",
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        },
        COPIES,
    ),
    Row(
        "Mistral",
        200,
        'content part of type "thinking"',
        ANSWER,
        stopped(
            "stop",
            [
                {"type": "thinking", "thinking": [{"type": "text", "text": "They want"}]},
                {"type": "text", "text": "I can't help with that."},
            ],
        ),
        "https://socket.dev/npm/package/@ai-sdk/mistral/diff/3.0.52",
    ),
    Row("Mistral", 402, "status 402", QUOTA, {"detail": "Payment required"}, MISTRAL),
    Row(
        "Mistral",
        401,
        "status 401",
        ACCESS,
        {"detail": "Unauthorized"},
        "https://github.com/diegosouzapw/OmniRoute/issues/7638 (a used-up plan looks the same)",
    ),
    # DashScope
    Row(
        "DashScope",
        400,
        "Arrearage",
        QUOTA,
        error(
            code="Arrearage",
            type="Arrearage",
            message="Access denied, please make sure your account is in good standing.",
        ),
        "https://github.com/hsliuping/TradingAgents-CN/issues/170",
    ),
    Row(
        "DashScope",
        403,
        "AllocationQuota.FreeTierOnly",
        QUOTA,
        error(
            code="AllocationQuota.FreeTierOnly",
            type="AllocationQuota.FreeTierOnly",
            message="The free tier of the model has been exhausted.",
        ),
        "https://github.com/666ghj/BettaFish/issues/609",
    ),
    Row(
        "DashScope",
        429,
        "Throttling.AllocationQuota",
        LIMITED,
        error(
            code="Throttling.AllocationQuota",
            message="Allocated quota exceeded, please increase your quota limit.",
        ),
        DASHSCOPE,
    ),
    Row(
        "DashScope",
        400,
        "data_inspection_failed",
        BLOCKED,
        error(code="data_inspection_failed", message="Input data may contain inappropriate content."),
        f"{DASHSCOPE} *",
    ),
    Row(
        "DashScope",
        401,
        "InvalidApiKey",
        ACCESS,
        {"code": "InvalidApiKey", "message": "Invalid API-key provided.", "request_id": "1"},
        DASHSCOPE,
    ),
    Row(
        "DashScope",
        200,
        "Arrearage in a 200",
        QUOTA,
        {"code": "Arrearage", "message": "Access denied, please make sure your account is in good standing."},
        "https://github.com/alibaba/spring-ai-alibaba/issues/1146",
    ),
    # Moonshot
    *(
        Row(
            "Moonshot",
            status,
            "exceeded_current_quota_error",
            QUOTA,
            error(type="exceeded_current_quota_error", message=message),
            source,
        )
        for status, message, source in (
            (
                429,
                "Your account org-1 <ak-1> is suspended due to insufficient balance, please recharge",
                "https://github.com/MoonshotAI/kimi-code/pull/1857",
            ),
            (
                403,
                "Your account org-1<ak-1> is not active, organization <org-1> exceeded current quota",
                "https://github.com/MoonshotAI/Kimi-K2/issues/5",
            ),
        )
    ),
    Row(
        "Moonshot",
        429,
        "rate_limit_reached_error",
        LIMITED,
        error(type="rate_limit_reached_error", message="We're receiving too many requests at the moment."),
        "https://github.com/MoonshotAI/kimi-cli/issues/901",
    ),
    # OpenRouter
    Row(
        "OpenRouter",
        402,
        "status 402",
        QUOTA,
        error(code=402, message="This request requires more credits, or fewer max_tokens."),
        OPENROUTER,
    ),
    Row(
        "OpenRouter",
        403,
        "Key limit exceeded",
        QUOTA,
        error(
            code=403,
            message="Key limit exceeded (total limit). Manage it using https://openrouter.ai/settings/keys",
        ),
        "https://github.com/RooCodeInc/Roo-Code/issues/515",
    ),
    Row(
        "OpenRouter",
        200,
        "Key limit exceeded in a 200",
        QUOTA,
        error(
            code=403,
            message="Key limit exceeded (total limit). Manage it using https://openrouter.ai/settings/keys",
        ),
        "https://github.com/MCPJam/inspector/issues/1287",
    ),
    Row(
        "OpenRouter",
        403,
        "metadata.flagged_input",
        BLOCKED,
        error(
            code=403, message="Input was flagged", metadata={"reasons": ["violence"], "flagged_input": "how"}
        ),
        OPENROUTER,
    ),
    Row(
        "OpenRouter",
        429,
        "an upstream's empty account (metadata.raw)",
        LIMITED,
        error(
            code=429,
            message="Provider returned error",
            metadata={
                "provider_name": "Moonshot",
                "raw": '{"error":{"message":"Your account is suspended due to insufficient balance"}}',
            },
        ),
        "https://github.com/anomalyco/opencode/issues/24462",
    ),
    Row(
        "OpenRouter",
        200,
        "error 502 in a 200",
        RETRIED,
        error(code=502, message="Internal Server Error"),
        OPENROUTER,
    ),
    by_reason("OpenRouter", "error", RETRIED, OPENROUTER),
    Row(
        "OpenRouter",
        401,
        "status 401",
        ACCESS,
        error(message="No auth credentials found", code=401),
        COPIES,
    ),
    Row(
        "OpenRouter",
        429,
        "free-models-per-day",
        QUOTA,
        error(
            code=429,
            message="Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 requests",
        ),
        COPIES,
    ),
    Row(
        "OpenRouter",
        404,
        "No endpoints found",
        NO_MODEL,
        error(code=404, message="No endpoints found that support image input"),
        "https://github.com/NousResearch/hermes-agent/pull/23411",
    ),
    Row(
        "OpenRouter",
        400,
        "maximum context length",
        CONTEXT,
        error(code=400, message="This endpoint's maximum context length is 8192 tokens."),
        COPIES,
    ),
    # Together
    Row(
        "Together",
        402,
        "credit_limit",
        QUOTA,
        error(
            type="credit_limit", message="Credit limit exceeded. Please navigate to https://api.together.xyz"
        ),
        "https://github.com/expectedparrot/edsl/issues/2098",
    ),
    Row(
        "Together",
        429,
        "credit_limit",
        LIMITED,
        error(
            type="credit_limit",
            message="You have been rate limited. Your rate limit is 60 queries per minute.",
        ),
        "https://github.com/togethercomputer/MoA/issues/27",
    ),
    Row(
        "Together",
        401,
        "invalid_api_key",
        ACCESS,
        error(
            message="Invalid API key provided. You can find your API key at https://api.together.ai",
            type="invalid_request_error",
            code="invalid_api_key",
        ),
        COPIES,
    ),
    Row(
        "Together",
        503,
        "status 503",
        RETRIED,
        error(message="The server is overloaded or not ready yet.", type="server_error"),
        "https://docs.together.ai/docs/serverless/rate-limits *",
    ),
    Row(
        "Together",
        422,
        "max_new_tokens must be <=",
        CONTEXT,
        error(
            message="Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048.",
            type="invalid_request_error",
        ),
        "https://github.com/stanford-crfm/helm/pull/2079",
    ),
    # Fireworks
    Row(
        "Fireworks",
        401,
        "UNAUTHORIZED",
        ACCESS,
        error(message="The API key you provided is invalid.", code="UNAUTHORIZED", type="error"),
        COPIES,
    ),
    Row(
        "Fireworks",
        403,
        "UNAUTHORIZED",
        ACCESS,
        error(message="The API key you provided is invalid.", code="UNAUTHORIZED", type="error"),
        COPIES,
    ),
    Row(
        "Fireworks",
        429,
        "status 429",
        LIMITED,
        error(message="Rate limit exceeded, please try again later", type="error"),
        "https://docs.fireworks.ai/guides/inference-error-codes *",
        (
            ("x-ratelimit-limit-requests", "60"),
            ("x-ratelimit-remaining-requests", "0"),
            ("retry-after", "0.1"),
        ),
    ),
    Row(
        "Fireworks",
        400,
        "The prompt is too long",
        CONTEXT,
        error(message="The prompt is too long: 203557, model maximum context length: 196607", type="error"),
        COPIES,
    ),
    Row(
        "Fireworks",
        412,
        "monthly spending limit",
        QUOTA,
        error(
            code="PRECONDITION_FAILED",
            type="error",
            message="Account a is suspended, possibly due to reaching the monthly spending limit.",
        ),
        "https://github.com/pollinations/pollinations/issues/12136",
    ),
    # Groq
    Row(
        "Groq",
        400,
        "blocked_api_access",
        QUOTA,
        error(type="invalid_request_error", code="blocked_api_access", message="API access is blocked."),
        GROQ,
    ),
    Row(
        "Groq",
        400,
        "organization_restricted",
        ACCESS,
        error(
            type="invalid_request_error",
            code="organization_restricted",
            message="Organization has been restricted.",
        ),
        "https://github.com/songquanpeng/one-api/issues/1764",
    ),
    Row(
        "Groq",
        498,
        "status 498",
        RETRIED,
        error(type="invalid_request_error", message="Flex tier capacity exceeded."),
        "https://console.groq.com/docs/errors *",
    ),
    Row(
        "Groq",
        401,
        "invalid_api_key",
        ACCESS,
        error(message="Invalid API Key", type="invalid_request_error", code="invalid_api_key"),
        "https://console.groq.com/docs/errors *",
    ),
    Row(
        "Groq",
        429,
        "rate_limit_exceeded",
        LIMITED,
        error(
            message="Rate limit reached for model `m` on requests per minute (RPM): Limit 30, Used 30. "
            "Please try again in 399ms.",
            type="requests",
            code="rate_limit_exceeded",
        ),
        "https://github.com/continuedev/continue/issues/2343",
        none_left("14400", reset="100ms"),
    ),
    Row(
        "Groq",
        400,
        "context_length_exceeded",
        CONTEXT,
        error(
            message="Please reduce the length of the messages or completion.",
            type="invalid_request_error",
            code="context_length_exceeded",
        ),
        COPIES,
    ),
    # DeepInfra
    Row(
        "DeepInfra",
        401,
        "status 401",
        ACCESS,
        error(message="Not authenticated", type="invalid_request_error", param=None, code=None),
        "https://github.com/xtekky/gpt4free/issues/3453 (the status is remembered)",
    ),
    Row(
        "DeepInfra",
        429,
        "Model busy, retry later",
        LIMITED,
        error(message="Model busy, retry later"),
        "https://github.com/truefoundry/models/pull/862",
    ),
    Row(
        "DeepInfra",
        400,
        "maximum context length",
        CONTEXT,
        error(message="This model's maximum context length is 8192 tokens.", type="invalid_request_error"),
        "remembered: the words of the engine that serves it",
    ),
    # Ollama
    Row(
        "Ollama",
        404,
        "model … not found, try pulling it first",
        NO_MODEL,
        error(message='model "x" not found, try pulling it first', type="api_error", param=None, code=None),
        COPIES,
    ),
    Row(
        "Ollama",
        503,
        "server busy",
        RETRIED,
        error(message="server busy, please try again.  maximum pending requests exceeded", type="api_error"),
        "https://github.com/ollama/ollama *",
    ),
    Row(
        "Ollama",
        400,
        "exceeds the context length",
        CONTEXT,
        error(message="the input length exceeds the context length", type="api_error"),
        COPIES,
    ),
    # LM Studio
    Row(
        "LM Studio",
        400,
        "greater than the context length",
        CONTEXT,
        {
            "error": "The number of tokens to keep from the initial prompt is greater than the context "
            "length (n_keep: 13055>= n_ctx: 4096). Try to load the model with a larger context length."
        },
        "https://github.com/Gitlawb/openclaude/issues/353",
    ),
    # xAI
    Row(
        "xAI",
        429,
        "Too many tokens for team",
        LIMITED,
        {
            "code": "Some resource has been exhausted",
            "error": "Too many tokens for team 1 and model grok-4. Your team's rate limit is - Tokens per "
            "Minute (actual/limit): 65605/16000.",
        },
        "https://github.com/cline/cline/issues/4826",
    ),
    Row(
        "xAI",
        400,
        "maximum prompt length",
        CONTEXT,
        {
            "code": "invalid-argument",
            "error": "This model's maximum prompt length is 131072 but the request contains 136973 tokens.",
        },
        "https://github.com/cline/cline/issues/3120",
    ),
    Row(
        "xAI",
        400,
        "Model not found",
        NO_MODEL,
        {"code": "invalid-argument", "error": "Model not found: grok-2-latest"},
        COPIES,
    ),
    Row(
        "xAI",
        429,
        "used all available credits",
        QUOTA,
        {
            "code": "resource-exhausted",
            "error": "Your team 1 has either used all available credits or reached its monthly spending "
            "limit. To continue making API requests, please purchase more credits.",
        },
        "https://github.com/continuedev/continue/issues/10373",
    ),
    Row(
        "xAI",
        403,
        "You have run out of credits",
        QUOTA,
        {"code": "permission-denied", "error": "You have run out of credits or need a Grok subscription."},
        "https://github.com/Wei-Shaw/sub2api/issues/4069",
    ),
    Row(
        "xAI",
        400,
        "Incorrect API key provided",
        ACCESS,
        {"code": "invalid-argument", "error": "Incorrect API key provided: na***ys."},
        "https://github.com/continuedev/continue/issues/10778",
    ),
    Row(
        "xAI",
        403,
        "Content violates usage guidelines",
        BLOCKED,
        {
            "code": "permission-denied",
            "error": "Content violates usage guidelines. API key ID: 2, Failed check: SAFETY_CHECK_TYPE_BIO",
        },
        "changelog of the npm package @gullabs/xai, 0.9.1",
    ),
    # DeepSeek
    Row(
        "DeepSeek",
        402,
        "Insufficient Balance",
        QUOTA,
        error(message="Insufficient Balance", type="unknown_error", code="invalid_request_error"),
        DEEPSEEK,
    ),
    by_reason(
        "DeepSeek",
        "insufficient_system_resource",
        RETRIED,
        "https://docs.rs/crate/ds-api/latest/source/src/raw/response/non_streaming/finish_reason.rs",
    ),
    by_reason(
        "DeepSeek",
        "content_filter",
        BLOCKED,
        "https://docs.rs/crate/ds-api/latest/source/src/raw/response/non_streaming/finish_reason.rs",
    ),
    # Cohere
    Row("Cohere", 402, "status 402", QUOTA, {"message": "Please add or update your payment method."}, COHERE),
    Row("Cohere", 401, "status 401", ACCESS, {"message": "invalid api token"}, COHERE),
    Row(
        "Cohere",
        498,
        "Usage Guidelines",
        BLOCKED,
        {"message": "This request was blocked as it may violate the Usage Guidelines."},
        COHERE,
    ),
    by_reason("Cohere", "ERROR_TOXIC", BLOCKED, "https://docs.cohere.com/reference/chat *"),
    by_reason("Cohere", "ERROR", RETRIED, "https://docs.cohere.com/reference/chat *"),
    # Bedrock
    by_reason("Bedrock", "content_filtered", BLOCKED, BEDROCK),
    by_reason("Bedrock", "guardrail_intervened", BLOCKED, BEDROCK),
    by_reason("Bedrock", "malformed_model_output", RETRIED, BEDROCK),
    Row(
        "Bedrock",
        403,
        "AccessDeniedException",
        ACCESS,
        error(type="AccessDeniedException", message="You don't have access to the model."),
        "https://docs.aws.amazon.com/bedrock/latest/userguide/troubleshooting-api-error-codes.html",
    ),
    Row(
        "Bedrock",
        400,
        "ServiceQuotaExceededException",
        LIMITED,
        error(type="ServiceQuotaExceededException", message="Your request exceeds the service quota."),
        "https://docs.aws.amazon.com/botocore/latest/reference/services/bedrock-runtime/client/exceptions/"
        "ServiceQuotaExceededException.html",
    ),
    # Zhipu
    by_reason("Zhipu", "sensitive", BLOCKED, "https://docs.bigmodel.cn/api-reference *"),
)
