"""How a failed request is stored and said: without keys, without floods of text, with what to do."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Sequence
from dataclasses import replace

from vlsb import strict_json
from vlsb.endpoints.faults import Decision
from vlsb.endpoints.parties import Party
from vlsb.endpoints.secrets import Redactor
from vlsb.errors import AccessError, QuotaError, VlsbError
from vlsb.records import Untrusted

PICTURE_CODE = "picture"
"""The code of a failure that is the picture's and not the endpoint's."""
CHANGED_CODE = "image_changed"
"""The code of a failure whose image is not the one that its earlier attempts sent."""
# Enough to recognise a problem; a hostile endpoint must not fill the disk with error messages.
_LONGEST_MESSAGE = 2000
_LARGEST_DETAILS = 4000

# What happened and what to do, by code; `{base-url}` and the like are that side's options.
_FATAL = {
    "redirect": (
        "it redirects elsewhere, and redirects are not followed",
        "Pass the address it names with {base-url}.",
    ),
    "certificate": ("its certificate cannot be verified", "Check {base-url}, or pass --ca-bundle FILE."),
    "unknown_model": ("no such model", "Check {model}."),
    "not_found": ("nothing answers at /chat/completions", "Check {base-url} and {model}."),
    "unreachable": ("no connection", "Check {base-url}."),
    "daily_quota": (
        "the day's quota is used up",
        "Resume tomorrow, raise the quota, or pass another key's variable with {api-key-env}.",
    ),
}


def redacted(decision: Decision, redactor: Redactor) -> Decision:
    """The decision as it may be stored: no key in it, and no more text than a problem needs."""
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
    """What ends the run, in words.

    `models` are the names that the endpoint lists, if it was asked; `better_url` is a base URL beside the
    one given where something answers.
    """
    what, advice = _words(decision, party)
    detail: Untrusted | None = decision.message
    if decision.code == "unreachable":
        what, detail = _connection(decision.message)
    if models:
        name = party.endpoint.model
        near = difflib.get_close_matches(name, models, n=3) or models[:3]
        detail = redactor.message(Untrusted(f"{decision.message.expose()} It lists: {', '.join(near)}"))
    if better_url is not None:
        advice = f"Did you mean {party.flag('base-url')} {better_url}?"
    return decision.error(f"{party}: {what}", detail=detail, advice=advice)


def _words(decision: Decision, party: Party) -> tuple[str, str]:
    """What happened, and what to change."""
    flags = {name: party.flag(name) for name in ("base-url", "model", "api-key-env")}
    if decision.code in _FATAL:
        what, advice = _FATAL[decision.code]
        return what, advice.format_map(flags)
    if issubclass(decision.error, QuotaError):
        advice = f"Add credit, or pass another key's variable with {flags['api-key-env']}."
        return f"quota or billing ({decision.code})", advice
    if issubclass(decision.error, AccessError):
        variable = party.endpoint.key_variable
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


def _connection(said: Untrusted) -> tuple[str, Untrusted | None]:
    """Why there is no connection, in words where they are known, else with what was said of it."""
    for pattern, words in _NO_CONNECTION:
        if pattern.search(said.expose()):
            return words, None
    return "no connection", said
