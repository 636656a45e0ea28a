"""Which endpoint a model name means, and which key variable belongs to which host.

A key goes only to its own provider's host: an unknown host gets no key unless the user names a
variable for it, and a loopback host needs none.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from vlsb.config import SIMULATED_URL, Endpoint, Party
from vlsb.errors import ConfigError, MissingKeyError, UnknownModelError
from vlsb.models.profile import FAMILIES
from vlsb.records import Stage

AUTHORISING_HEADERS = frozenset({"authorization", "api-key", "x-api-key"})


@dataclass(frozen=True, slots=True)
class Provider:
    """A hosted service with an OpenAI-compatible endpoint."""

    base_url: str
    key_variable: str
    models: re.Pattern[str]


PROVIDERS = (
    Provider(
        "https://api.openai.com/v1",
        "OPENAI_API_KEY",
        re.compile(r"(?:gpt|chatgpt|ft:|computer)[-:\w].*|o[1-9](?:-.*)?"),
    ),
    Provider("https://api.anthropic.com/v1", "ANTHROPIC_API_KEY", re.compile(r"claude-.*")),
    Provider(
        "https://generativelanguage.googleapis.com/v1beta/openai",
        "GEMINI_API_KEY",
        re.compile(r"(?:models/)?gemini-.*"),
    ),
)
# Hosts whose model names do not tell them apart: reached by --base-url.
OTHER_KEY_VARIABLES = {
    "openrouter.ai": "OPENROUTER_API_KEY",
    "api.together.xyz": "TOGETHER_API_KEY",
    "api.mistral.ai": "MISTRAL_API_KEY",
    "api.x.ai": "XAI_API_KEY",
    "api.groq.com": "GROQ_API_KEY",
    "dashscope.aliyuncs.com": "DASHSCOPE_API_KEY",
    "api.deepinfra.com": "DEEPINFRA_API_KEY",
    "api.fireworks.ai": "FIREWORKS_API_KEY",
}
# Day (2024-08-06, 20250929, 05-20), month and day (0613), year and month (2411), a number (001), a channel.
_SNAPSHOT = re.compile(
    r"(?:[-@](?:20\d\d-?[01]\d-?[0-3]\d|[01]\d-[0-3]\d|[01]\d[0-3]\d|2\d[01]\d|00\d|latest|preview|exp))+$"
)
DEMO = "demo"
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
    """The endpoint for a model name and whatever the user said about it.

    Raises UnknownModelError for a name that no provider is known for when there is no base URL, and
    ConfigError for an address that cannot be used. `stage` decides which options messages name.
    """
    if base_url is None and model == DEMO:
        return Endpoint(DEMO, SIMULATED_URL)
    if base_url is None:
        provider = _provider(model, stage)
        return Endpoint(model, provider.base_url, key_variable or provider.key_variable, headers)
    party = Party(stage, Endpoint(model, base_url))
    url = parse_base_url(base_url, allow_http=allow_http, flag=party.flag("base-url"))
    authorises_itself = any(name.lower() in AUTHORISING_HEADERS for name, _ in headers)
    if key_variable is None and not is_loopback(url) and not authorises_itself:
        key_variable = _key_variable(url)
        if key_variable is None:
            raise MissingKeyError(
                f"{party}: no variable is known to hold its key",
                advice=f"Pass {party.flag('api-key-env')} NAME (keys are never sent to a host they were not "
                "meant for).",
            )
    return Endpoint(model, url, key_variable, headers)


def thinking_fields(endpoint: Endpoint, *, thinks: bool) -> Mapping[str, Any]:
    """The body fields that ask an endpoint's model to reason before it answers, or not to.

    A server that is no known provider's is asked through its chat template, as vLLM and others take it.
    """
    host = urlsplit(endpoint.base_url).hostname or ""
    if host.endswith("anthropic.com"):
        return {"thinking": {"type": "enabled", "budget_tokens": 1024}} if thinks else {}
    if is_hosted(endpoint):
        return {"reasoning_effort": "medium" if thinks else "none"}
    return {"chat_template_kwargs": {"enable_thinking": thinks}}


def is_hosted(endpoint: Endpoint) -> bool:
    """Whether this is a known provider's own service."""
    return any(endpoint.base_url == provider.base_url for provider in PROVIDERS)


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
    """Whether a URL names this machine."""
    if url == SIMULATED_URL:
        return True
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def address_for_manifest(url: str) -> str:
    """The URL as far as it can change an answer: a loopback host's name and port cannot."""
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
            return f"the key in {endpoint.key_variable} looks like one for {owner}, but goes to {host}"
    return None


def _provider(model: str, stage: Stage) -> Provider:
    for provider in PROVIDERS:
        if provider.models.fullmatch(model):
            return provider
    party = Party(stage, Endpoint(model, ""))
    flag = party.flag("base-url")
    if model in FAMILIES:
        raise ConfigError(
            f"{stage} {model}: a local model. Serve it (`vlsb serve {model}`) and pass {flag} with the "
            "address that is printed then."
        )
    known = [DEMO, "gpt-4o", "gpt-4o-mini", "claude-sonnet-4-5", "gemini-2.5-pro", *FAMILIES]
    near = difflib.get_close_matches(model, known, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise UnknownModelError(
        f"{party.flag('model')} {model!r}: no provider is known for this name.{hint} Names of OpenAI "
        "(gpt-...), Anthropic (claude-...) and Google (gemini-...) are; for any other endpoint pass "
        f"{flag} URL."
    )


def _key_variable(url: str) -> str | None:
    host = urlsplit(url).hostname or ""
    known = {urlsplit(p.base_url).hostname: p.key_variable for p in PROVIDERS} | OTHER_KEY_VARIABLES
    if host.endswith((".openai.azure.com", ".cognitiveservices.azure.com")):
        return "AZURE_OPENAI_API_KEY"
    return next(
        (name for owner, name in known.items() if owner and (host == owner or host.endswith("." + owner))),
        None,
    )


def without_snapshot(model: str) -> str:
    """A model's name without its snapshot: providers count both against one rate limit."""
    return _SNAPSHOT.sub("", model.lower())
