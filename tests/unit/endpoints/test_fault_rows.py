"""Every reply of `tests.support.fault_rows` leads to the end that its row names."""

from __future__ import annotations

from collections import Counter

import httpx
import pytest

from tests.support import wire
from tests.support.fault_rows import ATTEMPTS, ENDINGS, FATAL, ITEMS, WAITS, Fatal, Row, Wait, named
from vlsb.config import Endpoint, Party
from vlsb.endpoints.completions import CompletionContent, read_completion
from vlsb.endpoints.credentials import Redactor
from vlsb.endpoints.faults import Decision, Fault, classify, fatal_error
from vlsb.records import Outcome
from vlsb.reports.encode import for_terminal
from vlsb.simulator import Action, Reply

NOW = 1_900_000_000.0
OUTCOMES = {
    "error": Outcome.TARGET_ERROR,
    "blocked": Outcome.TARGET_BLOCKED,
    "empty": Outcome.TARGET_EMPTY,
}


def read(action: Action) -> CompletionContent | Decision:
    """What is made of a reply, after another was answered."""
    assert isinstance(action, Reply)
    headers = [("content-type", "application/json"), *action.headers]
    reply = httpx.Response(action.status, headers=headers, content=wire.wire_body(action))
    if 200 <= action.status < 300:
        return read_completion(reply, now=NOW)
    return classify(reply, has_succeeded=True, attempt=1, now=NOW)


def decided(action: Action) -> Decision:
    found = read(action)
    assert isinstance(found, Decision)
    return found


def attempts_of(decision: Decision) -> int:
    """How often a request is sent that always fails like this."""
    if not decision.is_retryable:
        return 1
    return ATTEMPTS if decision.max_retries is None else min(ATTEMPTS, 1 + decision.max_retries)


REPLIES = [row for row in ITEMS if not row.is_about_the_wire]


@pytest.mark.parametrize("row", [row for row in REPLIES if row.outcome is not Outcome.UNSAFE], ids=named)
def test_a_reply_that_stays_ends_its_sample_after_as_many_requests_as_its_row_says(row: Row) -> None:
    (action,) = row.actions
    decision = decided(action)

    assert OUTCOMES[decision.ends_as] is row.outcome
    assert decision.code == row.code
    assert attempts_of(decision) == row.requests
    assert decision.fault is not Fault.RUN_FATAL


@pytest.mark.parametrize("row", [row for row in REPLIES if row.is_passing], ids=named)
def test_a_reply_that_passes_leaves_its_sample_an_attempt(row: Row) -> None:
    """A rate limit takes none of its attempts."""
    decisions = [decided(action) for action in row.actions]

    assert all(each.is_retryable for each in decisions)
    failed = [each for each in decisions if each.fault is not Fault.RATE_LIMITED]
    assert all(count < attempts_of(each) for each, count in Counter(failed_alike(failed)).items())
    assert len(failed) < ATTEMPTS


def failed_alike(decisions: list[Decision]) -> list[Decision]:
    """Each decision as the first one of its code: attempts are counted by it."""
    first: dict[str, Decision] = {}
    return [first.setdefault(each.code, each) for each in decisions]


@pytest.mark.parametrize("row", [row for row in REPLIES if row.is_an_answer], ids=named)
def test_an_odd_answer_is_an_answer(row: Row) -> None:
    (action,) = row.actions

    assert isinstance(read(action), CompletionContent)


def test_every_reply_is_in_one_of_the_three_tables_and_every_kind_of_ending_has_a_whole_run() -> None:
    tables = [row.outcome is not Outcome.UNSAFE or row.is_passing or row.is_an_answer for row in REPLIES]
    whole = [row for row in ITEMS if named(row) in ENDINGS.values()]

    assert all(tables)
    assert len(tables) > 70
    assert {kind(row) for row in REPLIES} == {kind(row) for row in whole}
    assert len(whole) == len(ENDINGS)


def kind(row: Row) -> tuple[Outcome, int]:
    """How a sample ends, and after how many requests if it does not pass."""
    return row.outcome, 0 if row.is_passing else row.requests


@pytest.mark.parametrize("row", FATAL, ids=named)
def test_a_reply_that_ends_the_run_says_why_and_with_which_exit_code(row: Fatal) -> None:
    decision = decided(row.action)
    error = fatal_error(decision, Party("target", Endpoint("m", "http://127.0.0.1:9/v1")), (), Redactor(()))

    assert decision.fault is Fault.RUN_FATAL
    assert error.exit_code == row.exit_code
    said = [error.message, "" if error.detail is None else for_terminal(error.detail), error.advice]
    assert row.words in " ".join(said)


@pytest.mark.parametrize("row", WAITS, ids=named)
def test_a_rate_limit_asks_for_the_wait_of_its_row_and_nonsense_for_none(row: Wait) -> None:
    decision = decided(row.reply)

    assert decision.fault is Fault.RATE_LIMITED
    assert (decision.retry_after_s or None) == row.wait_s
