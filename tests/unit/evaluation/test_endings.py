"""How a session ended, and whether the same command goes on from there."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from vlsb.errors import (
    AccessError,
    ConfigError,
    GapsError,
    InterruptedRunError,
    ServerError,
    StoreError,
    VlsbError,
)
from vlsb.evaluation.endings import (
    INTERRUPTED,
    INTERRUPTED_EARLY,
    SessionEnding,
    SessionResult,
    can_all_go_on,
    code_of_all,
    ending_of_error,
    ends_all,
)
from vlsb.records import Outcome

DONE, OPEN, OVER = SessionResult(0, False), SessionResult(4, True), SessionResult(4, False)


@pytest.mark.parametrize("is_stored", [True, False])
@pytest.mark.parametrize(
    "error", [AccessError("no"), GapsError("some"), StoreError("full"), ServerError("died")]
)
def test_a_command_goes_on_after_what_time_or_the_user_mends_and_only_where_something_is_stored(
    error: VlsbError, is_stored: bool
) -> None:
    assert ending_of_error(error, lambda: is_stored) == SessionEnding(error, is_stored)


def test_a_wrong_option_is_not_resumed_and_nobody_looks_for_what_is_stored() -> None:
    error = ConfigError("wrong")

    assert ending_of_error(error, lambda: pytest.fail("looked")) == SessionEnding(error, False)


@pytest.mark.parametrize("error", [asyncio.CancelledError(), InterruptedRunError("by a signal")])
def test_an_interruption_says_whether_anything_was_stored(error: BaseException) -> None:
    late, early = ending_of_error(error, lambda: True), ending_of_error(error, lambda: False)

    assert late is not None
    assert early is not None
    assert late.can_go_on
    assert late.reason is (INTERRUPTED if isinstance(error, asyncio.CancelledError) else error)
    assert early == SessionEnding(INTERRUPTED_EARLY, False)


def test_a_defect_of_the_program_is_no_ending() -> None:
    assert ending_of_error(ZeroDivisionError(), lambda: True) is None


def test_what_retry_asks_again_is_in_the_order_of_outcomes_and_leaves_a_panel_out() -> None:
    ended = Counter({Outcome.JUDGE_UNDECIDED: 3, Outcome.JUDGE_REFUSED: 2, Outcome.TARGET_BLOCKED: 1})

    asked = SessionEnding(GapsError("some"), ended=ended).asked_again

    assert list(asked.items()) == [(Outcome.TARGET_BLOCKED, 1), (Outcome.JUDGE_REFUSED, 2)]


def test_a_failed_session_keeps_others_from_beginning_only_where_storage_fails_or_the_user_stops() -> None:
    codes = {code for code in range(131) if ends_all(SessionResult(code, True))}

    assert codes == {StoreError.exit_code, InterruptedRunError.exit_code}


@pytest.mark.parametrize(
    ("results", "planned", "code", "can_go_on"),
    [
        ([DONE, DONE], 2, 0, False),
        ([DONE, OPEN], 2, 4, True),
        ([OVER, DONE], 2, 4, False),
        ([OVER], 2, 4, True),
        ([SessionResult(2, False), OPEN], 2, 2, False),
    ],
)
def test_several_sessions_end_with_the_first_code_that_is_not_0_and_go_on_where_one_does_or_is_not_begun(
    results: list[SessionResult], planned: int, code: int, can_go_on: bool
) -> None:
    assert code_of_all(results) == code
    assert can_all_go_on(results, planned) == can_go_on
