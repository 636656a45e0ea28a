"""How a failed request is stored and said: without keys, without floods of text, with what to do."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Sequence
from dataclasses import replace

from vlsb import strict_json
from vlsb.endpoints.faults import Decision
from vlsb.endpoints.secrets import Redactor
from vlsb.errors import VlsbError
from vlsb.records import Untrusted

PICTURE_CODE = "picture"
"""The code of a failure that is the picture's and not the endpoint's."""
# Enough to recognise a problem; a hostile endpoint must not fill the disk with error messages.
_LONGEST_MESSAGE = 2000
_LARGEST_DETAILS = 4000

_FATAL = {
    "redirect": "the base URL redirects elsewhere; redirects are not followed. Use the address it names",
    "certificate": "its certificate cannot be verified. Check the host name, or pass --ca-bundle FILE",
    "unreachable": "cannot reach it. Check the base URL and the network",
    "unknown_model": "the endpoint has no such model. Check the name",
    "not_found": "nothing answers at /chat/completions there. Check the base URL and the model",
    "daily_quota": "the day's quota is used up. Resume tomorrow, or raise the quota",
}
_FATAL_BY_EXIT = {
    3: "the endpoint refused to serve this account ({code}). Check the key, its rights and the billing",
    2: "the endpoint rejected the run ({code})",
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


def fatal_error(decision: Decision, name: str, models: Sequence[str], redactor: Redactor) -> VlsbError:
    """What ends the run, in words; `models` are the names that the endpoint lists, if it was asked."""
    text = _FATAL.get(decision.code) or _FATAL_BY_EXIT[decision.error.exit_code].format(code=decision.code)
    detail = decision.message
    if models:
        near = difflib.get_close_matches(name, models, n=3) or models[:3]
        detail = redactor.message(Untrusted(f"{detail.expose()} It lists: {', '.join(near)}"))
    return decision.error(f"{name}: {text}", detail=detail)
