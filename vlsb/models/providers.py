"""Which endpoint a hosted model's name means, what its provider does differently, and whose key goes where.

One table, PROVIDERS, says all of it; `docs/reference/providers.md` is made from that.
A key goes only to its own provider's host: an unknown host gets no key unless the user names a
variable for it, and a loopback host needs none.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from vlsb.config import SIMULATED_URL, Endpoint, Party
from vlsb.errors import ConfigError, MissingKeyError, UnknownModelError
from vlsb.models.profile import FAMILIES
from vlsb.records import Stage

AUTHORISING_HEADERS = frozenset({"authorization", "api-key", "x-api-key"})

Fields = Mapping[str, Any]
_NONE, _MEDIUM, _HIGH = ({"reasoning_effort": word} for word in ("none", "medium", "high"))
_NOT_THINKING: Fields = {"thinking": {"type": "disabled"}}
_REQUESTS_AND_TOKENS = tuple(
    f"x-ratelimit-{what}-{unit}"
    for what in ("limit", "remaining", "reset")
    for unit in ("requests", "tokens")
)


@dataclass(frozen=True, slots=True)
class Thinking:
    """The body fields that switch a model's thinking off and on; None where that cannot be asked for.

    Holds for models whose name in requests matches. `unsent` are fields that a request with `on` leaves out.
    """

    models: re.Pattern[str]
    off: Fields | None
    on: Fields | None
    unsent: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BatchApi:
    """A batch API as OpenAI's, with files and batches. One file holds so many requests and bytes at most.

    `share` is what a request costs in it, of its normal price. `sources` say so.
    """

    share: float
    sources: tuple[str, ...]
    most_requests: int = 50_000
    most_bytes: int = 200_000_000


@dataclass(frozen=True, slots=True)
class Provider:
    """A service with an OpenAI-compatible endpoint, and what it is known to do differently.

    Its models are named by `prefix` and the name that the provider wants, or by themselves where `models`
    matches, also after one of its `organisations` and a slash; `pattern` is such a name in words. Without any
    of these it is reached by --base-url. `key_variable` is None for a server on this machine. `hosts` are the
    domains that its key may go to besides that of `base_url`. `tokens_field`, `unsent` and `structured` are
    the first guess at its dialect. `thinking` is in order: the first that matches holds. `safety` is the
    default of its safety thresholds, by model, as its documentation says. `blocks` is how it withholds an
    answer, `limit_headers` where it names its limits, `notes` what else is known, `batch` its batch API where
    that is as OpenAI's, `sources` where all this was read, `remembered` what of it was read nowhere.
    """

    name: str
    base_url: str
    key_variable: str | None
    prefix: str = ""
    models: re.Pattern[str] | None = None
    pattern: str = ""
    organisations: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    tokens_field: str = "max_tokens"
    unsent: tuple[str, ...] = ()
    structured: bool = True
    thinking: tuple[Thinking, ...] = ()
    safety: tuple[tuple[re.Pattern[str], str], ...] = ()
    blocks: str = ""
    limit_headers: tuple[str, ...] = ()
    notes: str = ""
    batch: BatchApi | None = None
    sources: tuple[str, ...] = ()
    remembered: str = ""

    def serves(self, host: str) -> bool:
        """Tell whether a host that is not this machine is the provider's."""
        own = () if is_loopback(self.base_url) else (urlsplit(self.base_url).hostname,)
        return any(host == each or host.endswith(f".{each}") for each in (*own, *self.hosts) if each)


# Read on 2026-11-25, in stored copies of the pages named or as public code quotes them.
PROVIDERS = (
    Provider(
        "OpenAI",
        "https://api.openai.com/v1",
        "OPENAI_API_KEY",
        # The weights of gpt-oss are open, and are not hosted there.
        models=re.compile(r"(?:gpt(?!-oss)|chatgpt|ft:|computer)[-:\w].*|o[1-9](?:-.*)?"),
        pattern="gpt-...",
        organisations=("openai",),
        thinking=(
            Thinking(re.compile(r"gpt-5-chat.*|gpt-[1-4].*"), None, None),
            Thinking(re.compile(r"gpt-5\.[1-9].*|gpt-[6-9].*"), _NONE, _MEDIUM),
            Thinking(re.compile(r"gpt-5.*|o[1-9].*"), None, _MEDIUM),
        ),
        blocks="`finish_reason` `content_filter`, 400 `content_policy_violation` or `invalid_prompt`; the "
        "model's own refusal may stand in `message.refusal`",
        limit_headers=_REQUESTS_AND_TOKENS,
        batch=BatchApi(
            0.5,
            (
                "https://help.openai.com/en/articles/9197833-batch-api-faq",
                "https://platform.openai.com/docs/api-reference/batch/create",
            ),
        ),
        sources=("https://platform.openai.com/docs/api-reference/chat",),
        remembered="the row as a whole; which models take `reasoning_effort` `none`",
    ),
    Provider(
        "Anthropic",
        "https://api.anthropic.com/v1",
        "ANTHROPIC_API_KEY",
        models=re.compile(r"claude-.*"),
        pattern="claude-...",
        organisations=("anthropic",),
        unsent=("top_p",),
        structured=False,
        thinking=(
            Thinking(re.compile(r"claude-3-(?!7).*"), None, None),
            Thinking(
                re.compile(r"claude-3-7-.*|claude-(?:opus|sonnet|haiku)-4(?:-[0-5])?(?:-20\d{6})?"),
                _NOT_THINKING,
                {"thinking": {"type": "enabled", "budget_tokens": 1024}},
                ("temperature", "top_p"),
            ),
            Thinking(
                re.compile(r"claude-.*"),
                _NOT_THINKING,
                {"thinking": {"type": "adaptive"}},
                ("temperature", "top_p"),
            ),
        ),
        blocks="`finish_reason` `refusal` or `content_filter`, 400 'Output blocked by content filtering "
        "policy'; `message.refusal` is always empty",
        limit_headers=(*_REQUESTS_AND_TOKENS, "retry-after"),
        notes="from Opus 4.1 and Sonnet 4.5 on `temperature` and `top_p` exclude each other, from Opus 4.7 "
        "on neither is taken; `response_format` and `reasoning_effort` are ignored",
        sources=(
            "https://platform.claude.com/docs/en/cli-sdks-libraries/libraries/openai-sdk",
            "https://github.com/SalesforceAIResearch/MCP-Universe/issues/49",
            "https://github.com/UiPath/uipath-langchain-python/pull/790",
        ),
        remembered="that thinking excludes `temperature` and `top_p`; the words for a `finish_reason`",
    ),
    Provider(
        "Gemini",
        "https://generativelanguage.googleapis.com/v1beta/openai",
        "GEMINI_API_KEY",
        models=re.compile(r"(?:models/)?gemini-.*"),
        pattern="gemini-...",
        organisations=("google", "gemini"),
        thinking=(
            Thinking(re.compile(r"(?:models/)?gemini-(?:1|2\.0).*"), None, None),
            Thinking(re.compile(r"(?:models/)?gemini-2\.5-flash.*"), _NONE, _MEDIUM),
            Thinking(re.compile(r"(?:models/)?gemini-.*"), None, _MEDIUM),
        ),
        safety=(
            (
                re.compile(r"(?:models/)?gemini-(?:2\.5|3)(?:[.-].*)?"),
                "Off for harassment, hate speech, sexually explicit and dangerous content; what protects "
                "against core harms, such as to children, cannot be switched off",
            ),
        ),
        blocks="`finish_reason` `content_filter`, `SAFETY`, `PROHIBITED_CONTENT` and the like, or no choice "
        "and `promptFeedback.blockReason`",
        notes="limits stand in the body; a field that it does not know is a 400, safety settings included",
        sources=(
            "https://ai.google.dev/gemini-api/docs/openai",
            "https://ai.google.dev/gemini-api/docs/safety-settings",
            "https://github.com/PublicAffairs/openai-gemini/issues/60",
        ),
        remembered="that no header names a limit (the wait stands in the body's `retryDelay`)",
    ),
    Provider(
        "xAI",
        "https://api.x.ai/v1",
        "XAI_API_KEY",
        models=re.compile(r"grok-.*"),
        pattern="grok-...",
        organisations=("x-ai", "xai"),
        thinking=(
            Thinking(re.compile(r"grok-4\.3.*"), _NONE, _HIGH),
            Thinking(re.compile(r"grok-4\.[4-9].*|grok-3-mini.*"), None, _HIGH),
        ),
        blocks='403 "Content violates usage guidelines"',
        limit_headers=_REQUESTS_AND_TOKENS[:4],
        sources=(
            "https://docs.x.ai/developers/rate-limits",
            "https://github.com/vercel/ai/releases/tag/@ai-sdk%2Fxai@4.0.8",
            "https://docs.rs/crate/mindfork/0.17.0/source/src/shared/api/openai/xai_tests.rs",
        ),
        remembered="the names of its limit headers",
    ),
    Provider(
        "Mistral",
        "https://api.mistral.ai/v1",
        "MISTRAL_API_KEY",
        prefix="mistral/",
        models=re.compile(r"(?:mistral|pixtral|ministral|magistral)-[a-z0-9-]*-(?:latest|2\d[01]\d)"),
        pattern="mistral-...-latest",
        thinking=(Thinking(re.compile(r"mistral-(?:small|medium)-.*"), _NONE, _HIGH),),
        blocks="none known",
        limit_headers=(
            "x-ratelimit-limit-req-minute",
            "x-ratelimit-remaining-req-minute",
            "x-ratelimit-limit-tokens-minute",
            "x-ratelimit-remaining-tokens-minute",
            "retry-after",
        ),
        notes="without a date or `latest` a name may be that of open weights, so it needs the prefix; a "
        "field that it does not know, `max_completion_tokens` too, is a 422",
        sources=(
            "https://github.com/editor-code-assistant/eca/issues/231",
            "https://github.com/mistralai/client-ts/issues/169",
            "https://docs.mistral.ai/resources/error-glossary",
            "https://socket.dev/npm/package/@ai-sdk/mistral/diff/4.0.0-beta.8",
        ),
        remembered="which models take `reasoning_effort`",
    ),
    Provider(
        "OpenRouter",
        "https://openrouter.ai/api/v1",
        "OPENROUTER_API_KEY",
        prefix="openrouter/",
        thinking=(
            Thinking(re.compile(r".*"), {"reasoning": {"enabled": False}}, {"reasoning": {"enabled": True}}),
        ),
        blocks="403 with `metadata.reasons` or `flagged_input`; an upstream's `finish_reason` "
        "`content_filter`; an upstream's 403 inside a 200",
        limit_headers=("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"),
        sources=(
            "https://openrouter.ai/docs/use-cases/reasoning-tokens",
            "https://openrouter.ai/docs/api/reference/errors-and-debugging",
        ),
        notes="its own router is `openrouter/openrouter/auto`; fields that an upstream does not take are "
        "dropped",
        remembered="its errors; that fields are dropped; how a limit of a model that costs is named",
    ),
    Provider(
        "Together",
        "https://api.together.xyz/v1",
        "TOGETHER_API_KEY",
        prefix="together/",
        hosts=("api.together.ai",),
        thinking=(
            Thinking(re.compile(r"openai/gpt-oss.*"), None, _MEDIUM),
            Thinking(re.compile(r".*"), {"reasoning": {"enabled": False}}, {"reasoning": {"enabled": True}}),
        ),
        blocks="none known",
        limit_headers=("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"),
        notes="its limits are those of a second; `x-tokenlimit-...` is not read",
        sources=(
            "https://docs.together.ai/docs/serverless/rate-limits",
            "https://docs.together.ai/docs/reasoning-overview",
        ),
    ),
    Provider(
        "Fireworks",
        "https://api.fireworks.ai/inference/v1",
        "FIREWORKS_API_KEY",
        prefix="fireworks/",
        thinking=(
            Thinking(re.compile(r".*/(?:kimi|gpt-oss).*"), None, _MEDIUM),
            Thinking(re.compile(r".*"), _NONE, _HIGH),
        ),
        blocks="none known",
        limit_headers=("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "retry-after"),
        sources=(
            "https://docs.fireworks.ai/guides/reasoning",
            "https://docs.fireworks.ai/guides/inference-error-codes",
        ),
    ),
    Provider(
        "Groq",
        "https://api.groq.com/openai/v1",
        "GROQ_API_KEY",
        prefix="groq/",
        thinking=(
            Thinking(re.compile(r"qwen/.*"), _NONE, {"reasoning_effort": "default"}),
            Thinking(re.compile(r"openai/gpt-oss.*"), None, _MEDIUM),
        ),
        blocks="none known",
        limit_headers=(*_REQUESTS_AND_TOKENS, "retry-after"),
        notes="a request above 4 MB, its image included, is a 413",
        batch=BatchApi(0.5, ("https://console.groq.com/docs/batch",)),
        sources=("https://console.groq.com/docs/vision", "https://console.groq.com/docs/reasoning"),
        remembered="that `max_tokens` is still taken beside `max_completion_tokens`",
    ),
    Provider(
        "DeepInfra",
        "https://api.deepinfra.com/v1/openai",
        "DEEPINFRA_API_KEY",
        prefix="deepinfra/",
        thinking=(Thinking(re.compile(r".*"), _NONE, _HIGH),),
        blocks="none known",
        batch=BatchApi(0.8, ("https://deepinfra.com/blog/batch-api",), most_bytes=100_000_000),
        sources=(
            "https://deepinfra.com/docs/openai_api",
            "https://docs.deepinfra.com/chat/reasoning",
            "https://github.com/truefoundry/models/pull/862",
        ),
        remembered="that no header names a limit",
    ),
    Provider(
        "Ollama",
        "http://127.0.0.1:11434/v1",
        None,
        prefix="ollama/",
        thinking=(Thinking(re.compile(r".*"), _NONE, _MEDIUM),),
        blocks="none: what its model says is the answer",
        notes="a model that can think does so unless it is told not to",
        sources=(
            "https://docs.ollama.com/api/openai-compatibility",
            "https://github.com/ollama/ollama/issues/14820",
        ),
    ),
    Provider(
        "LM Studio",
        "http://127.0.0.1:1234/v1",
        None,
        prefix="lmstudio/",
        thinking=(Thinking(re.compile(r".*"), _NONE, _MEDIUM),),
        blocks="none: what its model says is the answer",
        sources=(
            "https://lmstudio.ai/docs/developer/core/server",
            "https://lmstudio.ai/docs/advanced/structured-output",
            "https://www.ruby-toolbox.com/projects/ruby_llm-providers-lms",
        ),
    ),
    # Their addresses are an account's or a region's own.
    Provider(
        "DashScope",
        "",
        "DASHSCOPE_API_KEY",
        hosts=("dashscope.aliyuncs.com",),
        batch=BatchApi(
            0.5,
            (
                "https://help.aliyun.com/en/model-studio/batch-interfaces-compatible-with-openai/",
                "https://help.aliyun.com/zh/dashscope/developer-reference/openai-batch-interface",
            ),
            most_bytes=100_000_000,
        ),
    ),
    Provider(
        "Azure",
        "",
        "AZURE_OPENAI_API_KEY",
        hosts=("openai.azure.com", "cognitiveservices.azure.com"),
        batch=BatchApi(
            0.5, ("https://learn.microsoft.com/en-us/azure/foundry/reference/rest/batches-create-batch",)
        ),
    ),
)
_MONTH, _DAY = r"(?:0[1-9]|1[0-2])", r"(?:0[1-9]|[12]\d|3[01])"
# Day (2024-08-06, 20250929, 05-20), month and day (0613), year and month (2411), a number (001), a channel.
_DATE = rf"20\d\d-?{_MONTH}-?{_DAY}|{_MONTH}-?{_DAY}|2\d{_MONTH}|00\d"
# `ckpt-1015` is the step of a training.
_NO_STEP = "".join(f"(?<!{word})" for word in ("step", "ckpt", "checkpoint", "iter", "epoch", "update"))
_SNAPSHOT = re.compile(rf"(?:{_NO_STEP}[-@](?:{_DATE}|latest|preview|exp))+$")
DEMO = "demo"
_POPULAR = ("gpt-4o", "gpt-4o-mini", "claude-sonnet-4-5", "gemini-2.5-pro", "grok-4.3")
_PRIVATE_DOMAINS = (".local", ".internal", ".lan", ".home.arpa")
# The last two are unique local and link-local addresses.
_PRIVATE_NETWORKS = tuple(
    ipaddress.ip_network(each)
    for each in (
        *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "127.0.0.0/8"),
        *("fc00::/7", "fe80::/10"),
    )
)
_SAFETY = ("safety_settings", "safetySettings")
ENGINE_URL = "http://127.0.0.1/v1"
"""Stands for a local engine's address until it is started; any loopback address means the same answers."""


def resolve_endpoint(
    model: str,
    *,
    base_url: str | None,
    key_variable: str | None,
    headers: tuple[tuple[str, str], ...] = (),
    allow_http: bool = False,
    stage: Stage = "target",
) -> Endpoint:
    """Return the endpoint for a model name and whatever the user said about it.

    Raises UnknownModelError for a name that no provider is known for when there is no base URL, and
    ConfigError for an address that cannot be used. `stage` decides which options messages name.
    """
    if base_url is None and model == DEMO:
        return Endpoint(DEMO, SIMULATED_URL)
    if base_url is None:
        model = plain_name(model)
        provider = find_provider(model)
        if provider is None:
            raise _unknown(model, stage)
        return Endpoint(
            model,
            provider.base_url,
            key_variable or provider.key_variable,
            headers,
            provider.name,
            provider.prefix if model.startswith(provider.prefix) else "",
        )
    party = Party(stage, Endpoint(model, base_url))
    url = parse_base_url(base_url, allow_http=allow_http, flag=party.flag("base-url"))
    authorises_itself = any(name.lower() in AUTHORISING_HEADERS for name, _ in headers)
    host = "" if is_loopback(url) else urlsplit(url).hostname or ""
    row = next((each for each in PROVIDERS if each.serves(host)), None)
    if key_variable is None and host and not authorises_itself:
        key_variable = row.key_variable if row else None
        if key_variable is None and not is_private(url):
            raise MissingKeyError(
                f"{party}: no variable is known to hold its key",
                advice=f"Pass {party.flag('api-key-env')} NAME (keys are never sent to a host they were not "
                "meant for).",
            )
    return Endpoint(model, url, key_variable, headers, row.name if row else "")


def resolve_replicas(
    model: str,
    *,
    base_urls: Sequence[str],
    key_variable: str | None,
    headers: tuple[tuple[str, str], ...],
    allow_http: bool,
) -> tuple[Endpoint, ...]:
    """Return a target's endpoint at each address; without one, its provider's. Raises as `resolve_endpoint`.

    ConfigError too for an address that is given twice, or that would get the key of another.
    """
    first, *others = (
        resolve_endpoint(
            model, base_url=url, key_variable=key_variable, headers=headers, allow_http=allow_http
        )
        for url in base_urls or (None,)
    )
    urls = [first.base_url, *(each.base_url for each in others)]
    if repeated := [url for url in urls if urls.count(url) > 1]:
        raise ConfigError(f"--base-url {repeated[0]} is given twice.")
    for other in others:
        if other.key_variable != first.key_variable:
            raise ConfigError(
                f"--base-url: {first.base_url} and {other.base_url} take different keys. Several "
                "addresses are replicas of one model: pass --api-key-env with the variable that holds "
                "the key of all."
            )
    return (first, *others)


def plain_name(model: str) -> str:
    """A hosted model's name without its organisation: `gpt-4o` of `openai/gpt-4o`.

    Any other name is as it was: `openai/gpt-oss-20b` and `google/gemma-3-4b-it` are open weights.
    """
    organisation, _, rest = model.partition("/")
    for provider in PROVIDERS:
        if organisation in provider.organisations and provider.models and provider.models.fullmatch(rest):
            return rest
    return model


def find_provider(model: str) -> Provider | None:
    """Find the provider of a name without an address: by its part before the first slash, or by itself."""
    model = plain_name(model)
    for provider in PROVIDERS:
        rest = model.removeprefix(provider.prefix)
        is_prefixed = rest != model and rest.isprintable() and rest == rest.strip() != ""
        if is_prefixed or (provider.models is not None and provider.models.fullmatch(model)):
            return provider
    return None


def provider_of(endpoint: Endpoint) -> Provider | None:
    """Return the provider of an endpoint, None for one that is in no table."""
    return next((each for each in PROVIDERS if each.name == endpoint.provider), None)


def find_batch_api(endpoint: Endpoint) -> BatchApi:
    """Return the batch API of an endpoint.

    Raises ConfigError where none is known; any server here may have one.
    """
    provider = provider_of(endpoint)
    if provider is not None and provider.batch is not None:
        return provider.batch
    is_here = endpoint.base_url == SIMULATED_URL or is_loopback(endpoint.base_url)
    if provider is None and endpoint.base_url != ENGINE_URL and is_here:
        return BatchApi(1.0, ())
    who = provider.name if provider is not None else "that address"
    who = "an engine here" if endpoint.base_url == ENGINE_URL else who
    with_batches = ", ".join(each.name for each in PROVIDERS if each.batch is not None)
    raise ConfigError(
        f"--batch: {endpoint.model} is asked at {who}, and no batch API is known there. Those with one: "
        f"{with_batches}. Leave --batch out."
    )


def describe_provider(endpoint: Endpoint, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the manifest says of an endpoint's provider, empty for an unknown one; JSON.

    `fields` are the body fields that the user added.
    """
    provider = provider_of(endpoint)
    if provider is None:
        return {}
    model = endpoint.request_model
    row: dict[str, Any] = {"name": provider.name, "model": model}
    if not provider.safety:
        return row
    default = next((words for models, words in provider.safety if models.fullmatch(model)), "not documented")
    asked = [fields, fields.get("extra_body")]
    asked += [each.get("google") for each in asked if isinstance(each, Mapping)]
    sent = [each[name] for each in asked if isinstance(each, Mapping) for name in _SAFETY if name in each]
    row["safety_settings"] = sent[0] if sent else f"provider default, which for {model} is: {default}"
    return row


def find_thinking(endpoint: Endpoint) -> Thinking:
    """How an endpoint's model is told to reason before it answers, or not to.

    A server that is no known provider's is asked through its chat template, as vLLM and others take it.
    """
    provider, every = provider_of(endpoint), re.compile(".*")
    if provider is None:
        off, on = ({"chat_template_kwargs": {"enable_thinking": thinks}} for thinks in (False, True))
        return Thinking(every, off, on)
    rows = (each for each in provider.thinking if each.models.fullmatch(endpoint.request_model))
    return next(rows, Thinking(every, None, None))


def thinking_fields(endpoint: Endpoint, *, thinks: bool) -> Fields:
    """Return the body fields that ask an endpoint's model to think, or not to.

    ConfigError where nothing does.
    """
    row = find_thinking(endpoint)
    fields = row.on if thinks else row.off
    if fields is None:
        raise ConfigError(
            f"--thinking {'on' if thinks else 'off'}: {endpoint.provider} has no such switch for "
            f"{endpoint.model}. Leave it out, or pass the provider's fields with -M."
        )
    return fields


def is_hosted(endpoint: Endpoint) -> bool:
    """Tell whether this is the service of a provider's own models, which never think in their text."""
    provider = provider_of(endpoint)
    return provider is not None and provider.models is not None


def parse_base_url(text: str, *, allow_http: bool, flag: str) -> str:
    """A usable base URL without its trailing slash; ConfigError says what is wrong with any other."""
    # Reports know providers too, and need no HTTP stack.
    import httpx

    if any(mark in text for mark in "@?#"):
        # Not repeated in the message: this is where keys end up by mistake.
        raise ConfigError(f"{flag}: leave user names, keys, queries and fragments out of the URL.")
    try:
        parts = urlsplit(text.strip())
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"{flag}: {text!r} is not a URL. Example: http://127.0.0.1:8000/v1") from error
    if parts.scheme not in ("http", "https") or not host or not text.strip().isprintable():
        raise ConfigError(f"{flag}: {text!r} is not an http(s) URL. Example: http://127.0.0.1:8000/v1")
    url = urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
    try:
        sent = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"{flag}: {text!r} is not a URL ({error}).") from error
    if not url.isascii():
        # As it is sent and stored: the host in IDNA, the path in percents.
        url = f"{sent.scheme}://{sent.netloc.decode()}{sent.raw_path.decode().rstrip('/')}"
    if url.endswith("/chat/completions"):
        url = url.removesuffix("/chat/completions")
    if parts.scheme == "http" and not is_loopback(url) and not allow_http:
        raise ConfigError(
            f"{flag} {url}: plain http would send keys and images in clear. Use https, or --allow-http."
        )
    return url


def is_loopback(url: str) -> bool:
    """Tell whether a URL names this machine."""
    if url == SIMULATED_URL:
        return True
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
        # 0.0.0.0 is where servers say that they listen; who asks there asks this machine.
        return address.is_loopback or address.is_unspecified
    except ValueError:
        return False


def is_private(url: str) -> bool:
    """Tell whether a URL names this machine or a private network, so that no provider's key is missing."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    if is_loopback(url) or host.endswith(_PRIVATE_DOMAINS):
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        # A number alone is an address in disguise, and may be anybody's.
        return "." not in host and re.fullmatch(r"0x[0-9a-f]*|\d*", host) is None
    address = getattr(address, "ipv4_mapped", None) or address
    return any(address in network for network in _PRIVATE_NETWORKS)


def address_for_manifest(url: str) -> str:
    """Return the URL as far as it can change an answer: a loopback host's name and port cannot."""
    if url == SIMULATED_URL or not is_loopback(url):
        return url
    parts = urlsplit(url)
    return f"{parts.scheme}://loopback{parts.path}"


def key_mismatch(endpoint: Endpoint, key: str) -> str | None:
    """A warning if the key looks like another provider's, else None. Never contains the key."""
    shapes = (
        ("sk-ant-", "anthropic.com"),
        ("sk-or-", "openrouter.ai"),
        ("AIza", "googleapis.com"),
        ("gsk_", "groq.com"),
    )
    host = urlsplit(endpoint.base_url).hostname or ""
    for prefix, owner in shapes:
        if key.startswith(prefix) and not host.endswith(owner) and not is_loopback(endpoint.base_url):
            return f"the key in {endpoint.key_variable} looks like one for {owner}, but goes to {host}."
    return None


def _unknown(model: str, stage: Stage) -> ConfigError:
    party = Party(stage, Endpoint(model, ""))
    flag = party.flag("base-url")
    if model in FAMILIES:
        return ConfigError(
            f"{stage} {model}: a local model. Serve it (`vlsb serve {model}`) and pass {flag} with the "
            "address that is printed then."
        )
    # A hosted name in other capitals; what follows a prefix keeps its own.
    organisation, slash, rest = model.partition("/")
    spellings = (organisation.lower() + slash + rest, model.lower())
    near = [each for each in spellings if each != model and find_provider(each) is not None]
    near += difflib.get_close_matches(model.lower(), [DEMO, *_POPULAR, *FAMILIES], n=1)
    problem = f"{party.flag('model')} {model!r}: no provider is known for this name."
    if near:
        return UnknownModelError(f"{problem} Did you mean {near[0]}? For any other endpoint pass {flag} URL.")
    names = ", ".join(f"{each.name} ({each.pattern})" for each in PROVIDERS if each.models)
    prefixes = ", ".join(each.prefix for each in PROVIDERS if each.prefix)
    return UnknownModelError(
        f"{problem} Hosted models have a name of {names}, or begin with {prefixes}. For any other endpoint "
        f"pass {flag} URL."
    )


def limited_as(endpoint: Endpoint) -> str:
    """Return the name by which a model's rate limit is counted: a dated snapshot shares the model's.

    Where no provider is known, each name is a model of its own: a server may have checkpoints side by side.
    """
    model = endpoint.request_model.lower()
    return _SNAPSHOT.sub("", model) if endpoint.provider else model
