"""Every spelling of `tests.support.provider_errors` becomes what its row says, and a page shows the rows."""

from __future__ import annotations

import re
from collections.abc import Sequence

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.provider_errors import ROWS, Becomes, Row, error, stopped
from vlsb.endpoints.completions import CompletionContent, read_completion
from vlsb.endpoints.faults import Decision, Fault, classify
from vlsb.errors import AuthenticationError, QuotaError, UnknownModelError

EVERY = pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.provider}-{row.status}-{row.spelling}")
NOW = 1696004797.0
ACCOUNT_WORDS = (
    "Incorrect API key provided",
    "API key expired",
    "This organization has been disabled.",
    "Your account is suspended due to insufficient balance",
    "You have run out of credits",
    "monthly spending limit",
    "Key limit exceeded",
    "usage guidelines",
    "blocked",
)


FATAL = {Becomes.QUOTA: 3, Becomes.ACCESS: 3, Becomes.NO_MODEL: 2}


def read(status: int, body: object, headers: Sequence[tuple[str, str]] = ()) -> CompletionContent | Decision:
    reply = httpx.Response(status, json=body, headers=list(headers))
    if 200 <= status < 300:
        return read_completion(reply, now=NOW)
    return classify(reply, has_succeeded=True, attempt=1, now=NOW)


def becomes(found: CompletionContent | Decision) -> Becomes | None:
    if isinstance(found, CompletionContent):
        return Becomes.ANSWER
    if found.fault is Fault.RUN_FATAL:
        return {
            QuotaError: Becomes.QUOTA,
            AuthenticationError: Becomes.ACCESS,
            UnknownModelError: Becomes.NO_MODEL,
        }.get(found.error)
    if found.fault is Fault.ITEM_PERMANENT and found.code == "context":
        return Becomes.CONTEXT
    return {
        Fault.PROVIDER_BLOCKED: Becomes.BLOCKED,
        Fault.RATE_LIMITED: Becomes.LIMITED,
        Fault.TRANSIENT: Becomes.RETRIED,
        Fault.BAD_PAYLOAD: Becomes.RETRIED,
    }.get(found.fault)


@EVERY
def test_every_spelling_of_a_provider_becomes_what_its_row_says(row: Row) -> None:
    """Blocked is no error, another attempt is made where it may help, and the run ends where none can."""
    found = read(row.status, row.body, row.headers)

    assert becomes(found) is row.becomes
    if isinstance(found, Decision):
        assert found.is_retryable is (row.becomes in (Becomes.LIMITED, Becomes.RETRIED))
        assert (found.fault is Fault.RUN_FATAL) is (row.becomes in FATAL)
        assert found.ends_as == ("blocked" if row.becomes is Becomes.BLOCKED else found.ends_as)
        assert row.becomes is not Becomes.CONTEXT or found.ends_as == "error"
        assert row.becomes not in FATAL or found.error.exit_code == FATAL[row.becomes]


def test_every_row_names_a_source_and_no_spelling_stands_twice() -> None:
    assert all(row.source for row in ROWS)
    assert len({(row.provider, row.status, row.spelling) for row in ROWS}) == len(ROWS)


def test_a_refusal_in_a_content_part_is_the_response_of_the_target() -> None:
    parts = [{"type": "refusal", "refusal": "I can't help "}, {"type": "refusal", "refusal": "with that."}]
    found = read(200, stopped("stop", parts))

    assert isinstance(found, CompletionContent)
    assert (found.origin, found.text.expose()) == ("refusal", "I can't help with that.")


def test_text_beside_a_refusal_part_is_the_answer() -> None:
    parts = [{"type": "text", "text": "No."}, {"type": "refusal", "refusal": "I can't."}]
    found = read(200, stopped("stop", parts))

    assert isinstance(found, CompletionContent)
    assert (found.origin, found.text.expose()) == ("content", "No.")


# Marks of a thought, and of chat templates, are taken off an answer.
MARKUP = re.compile(r"think|<\||</s>", re.IGNORECASE)


@given(
    text=st.text(min_size=1).filter(lambda text: text.strip() and not MARKUP.search(text))
    | st.sampled_from(ACCOUNT_WORDS),
    reason=st.sampled_from(["stop", "length", "eos", "COMPLETE", "end_turn", "STOP", "tool_calls"]),
)
def test_no_text_of_a_target_is_ever_blocked_or_ends_a_run(text: str, reason: str) -> None:
    found = read(200, stopped(reason, text))

    assert isinstance(found, CompletionContent)
    assert found.text.expose() == text


@pytest.mark.parametrize("words", ACCOUNT_WORDS)
@pytest.mark.parametrize(
    "body",
    [
        {"code": "content_filter", "message": "{}"},
        {"code": "data_inspection_failed", "message": "{}"},
        {"code": "content_policy_violation", "message": "{}", "type": "invalid_request_error"},
        {"message": "Output blocked by content filtering policy: {}", "type": "invalid_request_error"},
    ],
    ids=lambda body: body.get("code", "words"),
)
def test_a_content_error_that_quotes_words_about_keys_or_credit_ends_no_run(
    words: str, body: dict[str, str]
) -> None:
    quoted = {name: text.format(words) for name, text in body.items()}

    assert becomes(read(400, error(**quoted))) is Becomes.BLOCKED


@pytest.mark.parametrize("words", ACCOUNT_WORDS)
@pytest.mark.parametrize("start", ["Invalid value in messages[0]", "Your request cannot be read", "You sent"])
def test_a_bad_request_that_quotes_words_about_keys_or_credit_ends_no_run(words: str, start: str) -> None:
    found = read(400, error(message=f"{start}: '{words}'", type="bad_request"))

    assert isinstance(found, Decision)
    assert found.fault is not Fault.RUN_FATAL


def test_what_an_upstream_says_of_its_own_account_ends_no_run() -> None:
    body = error(code=403, message="Provider returned error", metadata={"raw": "Your account is suspended"})

    assert becomes(read(200, body)) is Becomes.BLOCKED
