"""What happened, and what to do about it: the one pure function that decides about retries.

`classify` reads a reply, or the exception in its place, and says which of six classes it is.
Nothing else in the program decides whether a request is sent again.
"""

from __future__ import annotations

import contextlib
import difflib
import re
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Literal

import httpx

from vlsb import strict_json
from vlsb.config import Party
from vlsb.endpoints.credentials import Redactor, safe_code
from vlsb.endpoints.headers import duration_s, retry_after_s
from vlsb.errors import (
    AccessError,
    AuthenticationError,
    ConfigError,
    QuotaError,
    UnknownModelError,
    UnreachableError,
    VlsbError,
)
from vlsb.records import Untrusted, Usage


class Fault(StrEnum):
    """The six classes of fault: who is to blame and whether another attempt can help."""

    RATE_LIMITED = "rate_limited"
    TRANSIENT = "transient"
    ITEM_PERMANENT = "item_permanent"
    PROVIDER_BLOCKED = "provider_blocked"
    RUN_FATAL = "run_fatal"
    BAD_PAYLOAD = "bad_payload"


class TransportKind(StrEnum):
    """How a request ended without a usable reply."""

    CONNECT = "connect"
    CERTIFICATE = "certificate"
    TIMEOUT = "timeout"
    CLOSED = "closed"
    PROTOCOL = "protocol"
    TOO_LARGE = "body_too_large"


# The code of an address where nothing answered, and never had.
_UNREACHABLE = "unreachable"


class ReplyTooLarge(httpx.DecodingError):
    """A reply whose decoded body is larger than any completion: reading on would fill the memory."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a failed attempt means.

    `ends_as` says what the sample becomes when no attempt is left. `max_retries` limits the retries for
    this fault below the policy's. `error` is what a run-fatal fault raises. `code` is a short word of
    ours or, made safe, the provider's; `param` the request field it complains about.
    """

    fault: Fault
    code: str
    message: Untrusted
    status: int | None = None
    retry_after_s: float | None = None
    ends_as: Literal["error", "blocked", "empty"] = "error"
    max_retries: int | None = None
    error: type[VlsbError] = ConfigError
    param: str = ""
    usage: Usage = Usage()
    text: Untrusted | None = None
    details: Mapping[str, Any] | None = None

    @property
    def is_retryable(self) -> bool:
        """Whether another attempt can help."""
        return self.fault in (Fault.RATE_LIMITED, Fault.TRANSIENT, Fault.BAD_PAYLOAD)

    @property
    def is_a_reply(self) -> bool:
        """Whether the server of the model replied, if without a text; a page or a broken body is no reply."""
        return self.fault is Fault.BAD_PAYLOAD and self.code not in _OF_NO_MODEL


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """The fields of an error body, whatever provider wrote it; absent ones are empty.

    `message` is the endpoint's own; `upstream` what a router says that another provider said.
    """

    code: str = ""
    type: str = ""
    status: str = ""
    param: str = ""
    message: str = ""
    upstream: str = ""
    inner: Mapping[str, Any] | None = None
    http_code: int | None = None

    @property
    def words(self) -> frozenset[str]:
        """The machine-readable words, lower-cased."""
        return frozenset(word.lower() for word in (self.code, self.type, self.status) if word)

    @property
    def text(self) -> str:
        """All that was said, for people and where it does not matter who said it."""
        return " | ".join(part for part in (self.message, self.upstream) if part)


# One row a provider and spelling, with its source: docs/reference/providers.md.
_QUOTA = frozenset(
    {
        "insufficient_quota",
        "exceeded_current_quota_error",
        "arrearage",
        "allocationquota.freetieronly",
        "blocked_api_access",
        "billing_hard_limit_reached",
        "billing_not_active",
        "billing_error",
        "enforced_spend_limit_reached",
        "account_deactivated",
        "insufficient_credits",
        "insufficient_balance",
    }
)
_BLOCKED = frozenset(
    {
        "content_filter",
        "content_policy_violation",
        "invalid_prompt",
        "moderation_blocked",
        "responsibleaipolicyviolation",
        "data_inspection_failed",
        "datainspectionfailed",
        "prohibited_content",
    }
)
_NO_ACCESS = frozenset(
    {
        "invalid_api_key",
        "invalidapikey",
        "authentication_error",
        "unauthenticated",
        "api_key_invalid",
        "organization_restricted",
    }
)
_NO_MODEL = frozenset(
    {
        "model_not_found",
        "not_found_error",
        "notfounderror",
        "deploymentnotfound",
        "not_found",
        "model_not_available",
    }
)
_CONTEXT = frozenset({"context_length_exceeded", "request_too_large", "string_above_max_length"})
# Where nothing but the wording tells. It is looked for at the start of what the endpoint itself says: further
# on it may quote the request, and no sample's words may end a run.
_SPENT = re.compile(
    r"(?:you have|(?:your )?(?:account|organi[sz]ation|workspace|project|team))\b"
    r".{0,200}?(?:spend(?:ing)? limit|used all available credits|run out of credits|insufficient balance)"
    r"|your credit balance is too low|(?:key|credit) limit exceeded|insufficient (?:balance|credits?)\b",
    re.IGNORECASE,
)
_CLOSED_ACCOUNT = re.compile(
    r"(?:(?:this|your|the) )?(?:organi[sz]ation|account|workspace|project|team)\b.{0,100}?"
    r"\b(?:has been|is|was) "
    r"(?:disabled|blocked|restricted|deactivated|suspended|banned|terminated|not active)\b",
    re.IGNORECASE,
)
_WRONG_KEY = re.compile(
    r"(?:incorrect|invalid|missing) api[ _-]?(?:key|token)\b"
    r"|(?:(?:the|your) )?api[ _-]?key (?:is )?(?:not valid|invalid|expired|missing)\b",
    re.IGNORECASE,
)
_ACCOUNT_STATUS = frozenset({400, 401, 403, 412, 429})
_CONTEXT_WORDS = re.compile(
    r"maximum (?:context|prompt) length|longer than the maximum model length|prompt is too long"
    r"|context window|max_new_tokens\W+must be <=|exceeds the maximum number of tokens"
    r"|(?:exceeds|than) the (?:model's |available )?context (?:length|size)|cannot truncate prompt",
    re.IGNORECASE,
)
_NO_SUCH_MODEL = re.compile(
    r"(?:the )?model\b.{0,200}?\b(?:not found|does not exist)|\S{1,200} is not a valid model id"
    r"|no endpoints found\b",
    re.IGNORECASE,
)
_FILTER_WORDS = re.compile(
    r"content filtering|content management policy|safety system|usage guidelines", re.IGNORECASE
)
_BLOCK_WORDS = re.compile(r"\bblocked\b", re.IGNORECASE)
# What gateways and broken connections leave in the place of a reply.
_OF_NO_MODEL = frozenset({"html", "empty_body", "not_json"})
# 498 is Groq's for a full tier, and Cohere's for a blocked request, which its words tell.
_TRANSIENT_STATUS = frozenset({408, 409, 425, 498})
_FILTER_STATUS = frozenset({400, 403, 498})
# The server says it will never do this; the rest of the 5xx may pass.
_PERMANENT_5XX = frozenset({501, 505})
_MESSAGE_KEYS = ("message", "detail", "msg")
# The first match wins: the exceptions of httpx overlap.
_KINDS: tuple[tuple[type[Exception], TransportKind], ...] = (
    (httpx.ConnectTimeout, TransportKind.CONNECT),
    (httpx.TimeoutException, TransportKind.TIMEOUT),
    (httpx.ConnectError, TransportKind.CONNECT),
    (httpx.ProxyError, TransportKind.CONNECT),
    (ReplyTooLarge, TransportKind.TOO_LARGE),
    (httpx.DecodingError, TransportKind.PROTOCOL),
    (httpx.ProtocolError, TransportKind.PROTOCOL),
)

NOTHING_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)
"""Errors before any byte of a request left us."""


def classify(
    happened: httpx.Response | httpx.RequestError, *, has_succeeded: bool, attempt: int, now: float
) -> Decision:
    """Say what a failed attempt means: a reply that is not a success, or none at all. `now` is Unix time.

    `has_succeeded`: whether this endpoint has answered anything in this session; before that, a host
    that cannot be reached twice is taken to be wrong rather than down.
    """
    if isinstance(happened, httpx.RequestError):
        kind, message = transport_kind(happened), Untrusted(str(happened) or type(happened).__name__)
        if kind is TransportKind.CERTIFICATE:
            return Decision(Fault.RUN_FATAL, "certificate", message)
        if kind is TransportKind.CONNECT and not has_succeeded and attempt >= 2:
            return Decision(Fault.RUN_FATAL, _UNREACHABLE, message)
        if kind is TransportKind.TOO_LARGE:
            return Decision(Fault.BAD_PAYLOAD, kind.value, message)
        return Decision(Fault.TRANSIENT, kind.value, message)
    error = parse_error(happened.content)
    return classify_error(happened.status_code, error, happened.headers, now=now, body=happened.content)


def transport_kind(error: httpx.RequestError) -> TransportKind:
    """Tell how a request ended that raised this."""
    causes = list(_causes(error))
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return TransportKind.CERTIFICATE
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return TransportKind.CONNECT
    return next((kind for theirs, kind in _KINDS if isinstance(error, theirs)), TransportKind.CLOSED)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def classify_error(
    status: int, error: ErrorBody, headers: Mapping[str, str], *, now: float, body: bytes = b""
) -> Decision:
    """Classify an error by its status and body. Also used for an error inside a 200, by its inner code.

    Codes decide; message text only where a provider gives nothing else.
    """
    words = error.words
    # The start of a body that carries no message is for the log.
    message = Untrusted(error.text or body[:200].decode("utf-8", "replace"))
    code = safe_code(error.code or error.type or error.status) or f"http_{status}"

    def decide(fault: Fault, code: str = code, **more: Any) -> Decision:
        return Decision(fault, code, message, status=status, param=error.param, **more)

    if 300 <= status < 400:
        where = Untrusted(headers.get("location", "an unnamed place"))
        return Decision(Fault.RUN_FATAL, "redirect", where, status=status)
    if status == 402:
        return decide(Fault.RUN_FATAL, error=QuotaError)
    if _daily_quota(error):
        return decide(Fault.RUN_FATAL, "daily_quota", error=QuotaError)
    innererror = (error.inner or {}).get("innererror")
    azure = innererror if isinstance(innererror, dict) else {}
    block = _block_by_code(status, error, _word(azure.get("code")).lower())
    if not block and (account := account_error(status, error)):
        return decide(Fault.RUN_FATAL, error=account)
    if block := block or _block_by_words(status, error):
        filters = azure.get("content_filter_result")
        details = {"content_filter_result": filters} if isinstance(filters, dict) else None
        return decide(Fault.PROVIDER_BLOCKED, block, ends_as="blocked", details=details)
    is_no_model = words & _NO_MODEL or _NO_SUCH_MODEL.match(error.message)
    if is_no_model and status in (400, 403, 404):
        return decide(Fault.RUN_FATAL, "unknown_model", error=UnknownModelError)
    if status in (401, 403):
        return decide(Fault.RUN_FATAL, error=AuthenticationError)
    if status == 404:
        return decide(Fault.RUN_FATAL, "not_found", error=UnknownModelError)
    is_final = headers.get("x-should-retry", "").strip().lower() == "false"
    wait = retry_after_s(headers, now=now)
    if (status == 429 and "overloaded_error" not in words) or "servicequotaexceededexception" in words:
        if is_final:
            return decide(Fault.ITEM_PERMANENT)
        return decide(Fault.RATE_LIMITED, retry_after_s=wait or _retry_delay(error))
    if "overloaded_error" in words or status in _TRANSIENT_STATUS or 500 <= status < 600:
        is_final = is_final or status in _PERMANENT_5XX
        return decide(Fault.ITEM_PERMANENT if is_final else Fault.TRANSIENT, retry_after_s=wait)
    if words & _CONTEXT or _CONTEXT_WORDS.search(error.text):
        return decide(Fault.ITEM_PERMANENT, "context")
    if "sanitizer_server_error" in words:
        return decide(Fault.TRANSIENT, max_retries=1)
    return decide(Fault.ITEM_PERMANENT)


def account_error(status: int, error: ErrorBody) -> type[VlsbError] | None:
    """Say what is wrong with the account, as far as the error does; its status alone says nothing here."""
    is_said = status in _ACCOUNT_STATUS
    if error.words & _QUOTA or (is_said and _SPENT.match(error.message)):
        return QuotaError
    reason = next((each["reason"] for each in _google_details(error) if "reason" in each), "")
    if error.words & _NO_ACCESS or reason == "API_KEY_INVALID":
        return AuthenticationError
    if is_said and (_CLOSED_ACCOUNT.match(error.message) or _WRONG_KEY.match(error.message)):
        return AuthenticationError
    return None


def _block_by_code(status: int, error: ErrorBody, inner_code: str) -> str:
    """`blocked_input` if the provider's code says that it does not serve this content, else empty."""
    if error.words & _BLOCKED or inner_code in _BLOCKED:
        return "blocked_input"
    metadata = (error.inner or {}).get("metadata")
    names_reasons = isinstance(metadata, dict) and ("reasons" in metadata or "flagged_input" in metadata)
    return "blocked_input" if status == 403 and names_reasons else ""


def _block_by_words(status: int, error: ErrorBody) -> str:
    """`blocked_input` or `blocked_output` if only the wording says so, else empty."""
    if status in _FILTER_STATUS and _FILTER_WORDS.search(error.text):
        return "blocked_output" if "output" in error.text.lower() else "blocked_input"
    is_blocked = "invalid_request_error" in error.words and _BLOCK_WORDS.search(error.text)
    return "blocked_input" if status == 400 and is_blocked else ""


def _google_details(error: ErrorBody) -> list[dict[str, Any]]:
    details = (error.inner or {}).get("details")
    return [each for each in details if isinstance(each, dict)] if isinstance(details, list) else []


def _daily_quota(error: ErrorBody) -> bool:
    """Gemini names a day's window in the quota's id, OpenRouter in words; it outlasts any delay they send."""
    if error.message.lower().startswith("rate limit exceeded: free-models-per-day"):
        return True
    lists = [each.get("violations") for each in _google_details(error)]
    violations = [v for listed in lists if isinstance(listed, list) for v in listed if isinstance(v, dict)]
    return any("perday" in _word(v.get("quotaId")).lower() for v in violations)


def _retry_delay(error: ErrorBody) -> float | None:
    delays = [
        each["retryDelay"] for each in _google_details(error) if isinstance(each.get("retryDelay"), str)
    ]
    return duration_s(delays[0], now=0.0) if delays else None


def parse_error(body: bytes) -> ErrorBody:
    """Read an error body of any provider: OpenAI, Azure, Gemini (an array), Anthropic, vLLM old and new."""
    try:
        return error_fields(strict_json.loads(body))
    except ValueError:
        return ErrorBody()


def error_fields(parsed: object) -> ErrorBody:
    """Read the fields of a parsed error document; an empty ErrorBody for anything else."""
    if isinstance(parsed, list) and len(parsed) == 1:
        parsed = parsed[0]
    if not isinstance(parsed, dict):
        return ErrorBody()
    inner = parsed.get("error", parsed)
    if isinstance(inner, str):
        return replace(_fields(parsed), message=inner)
    if not isinstance(inner, dict):
        return ErrorBody()
    return _fields(inner)


def _fields(inner: Mapping[str, Any]) -> ErrorBody:
    code = inner.get("code")
    details = inner.get("details")
    nested = details.get("error_code") if isinstance(details, dict) else None
    metadata = inner.get("metadata")
    routed = metadata if isinstance(metadata, dict) else {}
    # What an upstream said where the router (OpenRouter) hides it.
    upstream = [routed[key][:500] for key in ("provider_name", "raw") if isinstance(routed.get(key), str)]
    return ErrorBody(
        code=_word(nested) or _word(code),
        type=_word(inner.get("type")),
        status=_word(inner.get("status")),
        param=_word(inner.get("param")),
        message=next((inner[key] for key in _MESSAGE_KEYS if isinstance(inner.get(key), str)), ""),
        upstream=" | ".join(upstream),
        inner=inner,
        http_code=code if isinstance(code, int) and not isinstance(code, bool) else None,
    )


def _word(value: object) -> str:
    return value if isinstance(value, str) else ""


IMAGE_CODE = "picture"
"""The code of a failure that is the image's and not the endpoint's."""
CHANGED_CODE = "image_changed"
"""The code of a failure whose image is not the one that its earlier attempts sent."""
# Enough to recognise a problem; a hostile endpoint must not fill the disk with error messages.
_LONGEST_MESSAGE = 2000
_LARGEST_DETAILS = 4000

# What happened and what to do, by code; `{base-url}` and the like are the options of the target or the judge.
_FATAL = {
    "redirect": (
        "it redirects elsewhere, and redirects are not followed",
        "Pass the address it names with {base-url}.",
    ),
    "certificate": ("its certificate cannot be verified", "Check {base-url}, or pass --ca-bundle FILE."),
    "unknown_model": ("no such model", "Check {model}."),
    "not_found": ("nothing answers at /chat/completions", "Check {base-url} and {model}."),
    _UNREACHABLE: ("no connection", "Check {base-url}."),
    "daily_quota": (
        "the day's quota is used up",
        "Resume tomorrow, raise the quota, or pass another key's variable with {api-key-env}.",
    ),
}


def without_secrets(decision: Decision, redactor: Redactor) -> Decision:
    """Return the decision as it may be stored: no key in it, and no more text than a problem needs."""
    details = None
    if decision.details is not None:
        with contextlib.suppress(ValueError):  # nested without end: no details worth keeping
            document = redactor.answer(Untrusted(strict_json.dumps(decision.details))).expose()
            details = strict_json.loads(document) if len(document) <= _LARGEST_DETAILS else None
    return replace(
        decision,
        message=redactor.message(Untrusted(decision.message.expose()[:_LONGEST_MESSAGE])),
        code=redactor.word(decision.code),
        param=redactor.word(decision.param),
        text=None if decision.text is None else redactor.answer(decision.text),
        details=details,
    )


def fatal_error(
    decision: Decision,
    party: Party,
    models: Sequence[str],
    redactor: Redactor,
    *,
    better_url: str | None = None,
) -> VlsbError:
    """Say in words what ends the run.

    `models` are the names that the endpoint lists, if it was asked; `better_url` is a base URL beside the
    one given where something answers.
    """
    what, advice = _words(decision, party)
    detail: Untrusted | None = decision.message
    if decision.code == _UNREACHABLE:
        text = decision.message.expose()
        if known := next((words for pattern, words in _NO_CONNECTION if pattern.search(text)), None):
            what, detail = known, None
    if models:
        name = party.endpoint.request_model
        near = difflib.get_close_matches(name, models, n=3) or models[:3]
        detail = redactor.message(Untrusted(f"{decision.message.expose()} It lists: {', '.join(near)}"))
    if better_url is not None:
        advice = f"Did you mean {party.flag('base-url')} {better_url}?"
    error = UnreachableError if decision.code == _UNREACHABLE else decision.error
    return error(f"{party}: {what}", detail=detail, advice=advice)


def _words(decision: Decision, party: Party) -> tuple[str, str]:
    """Say what happened, and what to change."""
    flags = {name: party.flag(name) for name in ("base-url", "model", "api-key-env")}
    if decision.code in _FATAL:
        what, advice = _FATAL[decision.code]
        return what, advice.format_map(flags)
    if issubclass(decision.error, QuotaError):
        advice = f"Add credit, or pass another key's variable with {flags['api-key-env']}."
        return f"quota or billing ({decision.code})", advice
    if issubclass(decision.error, AccessError):
        variable = party.endpoint.key_variable
        if variable is None and not party.endpoint.headers:
            advice = f"Name the variable that holds its key with {flags['api-key-env']}."
            return f"authentication failed, and no key was sent ({decision.code})", advice
        held = "the key" if variable is None else f"the key in {variable}"
        advice = f"Check {held} and its rights, or name another variable with {flags['api-key-env']}."
        return f"authentication failed ({decision.code})", advice
    return f"request failed ({decision.code})", f"Check {flags['base-url']}."


# As operating systems and HTTP libraries say it.
_NO_CONNECTION = (
    (re.compile(r"refused|errno (?:111|61)\b", re.IGNORECASE), "connection refused"),
    (
        re.compile(
            r"getaddrinfo|name resolution|not known|no address|idna|label|errno -[235]\b", re.IGNORECASE
        ),
        "no such host",
    ),
    (re.compile(r"timed out|in time", re.IGNORECASE), "no connection in time"),
)
