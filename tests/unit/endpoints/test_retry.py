"""When a request is sent again, and when an endpoint is given up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlsb.config import RetryPolicy
from vlsb.endpoints.faults import Decision, Fault
from vlsb.endpoints.request import Checksums
from vlsb.endpoints.retry import (
    ENDED_ALIKE_LIMIT,
    Attempts,
    Ended,
    EngineGuard,
    Fate,
    InFlight,
    Rejections,
    Unfinished,
    backoff_s,
)
from vlsb.endpoints.traffic import Time
from vlsb.errors import GapsError, ImageChangedError
from vlsb.records import STOPPED, THINKING_CUT, Failure, Key, Outcome, Untrusted, Usage

POLICY = RetryPolicy(backoff_s=1.0, backoff_cap_s=30.0, outage_timeout_s=300.0)


# Backoff.


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_a_backoff_is_within_its_cap(retries, share):
    time = Time(lambda: 0.0, asyncio.sleep, lambda low, high: low + share * (high - low))

    assert 0 <= backoff_s(POLICY, retries, time) <= POLICY.backoff_cap_s


def test_a_backoff_doubles_until_its_cap():
    time = Time(lambda: 0.0, asyncio.sleep, lambda low, high: high)

    assert [backoff_s(POLICY, retries, time) for retries in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    huge = RetryPolicy(backoff_s=1.0, backoff_cap_s=1e300)
    assert [backoff_s(huge, retries, time) for retries in (30, 31, 10_000)] == [2.0**30] * 3


def test_a_backoff_may_be_nothing_at_all():
    time = Time(lambda: 0.0, asyncio.sleep, lambda low, high: low)

    assert backoff_s(POLICY, 5, time) == 0


# What one completion has used up.

KEY = Key(7, 2)
FAILED = Decision(Fault.TRANSIENT, "http_500", Untrusted("their words"), status=500)


class Clock:
    """A clock that tests set, and waits that are as long as they may be."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def time(self) -> Time:
        return Time(lambda: self.now_s, asyncio.sleep, lambda low, high: high)


def attempts(clock: Clock | None = None, **policy: float) -> Attempts:
    return Attempts(KEY, RetryPolicy(**({"backoff_s": 1.0} | policy)), (clock or Clock()).time())


def test_each_failure_waits_twice_as_long_and_the_last_attempt_is_the_last():
    used = attempts(max_attempts=4)

    assert [used.wait_after_failure_s(FAILED) for _ in range(4)] == [1, 2, 4, None]


def test_an_endpoint_that_says_how_long_is_waited_for_so_long_and_not_less_than_the_backoff():
    used = attempts()

    assert used.wait_after_failure_s(replace(FAILED, retry_after_s=9.0)) == 9
    assert used.wait_after_failure_s(replace(FAILED, retry_after_s=0.5)) == 2


def test_a_wait_may_be_nothing_where_the_endpoint_does_not_say_how_long():
    used = Attempts(KEY, POLICY, Time(lambda: 0.0, asyncio.sleep, lambda low, high: low))

    assert used.wait_after_failure_s(FAILED) == 0


@pytest.mark.parametrize(("most", "waits"), [(0, [None]), (1, [1, None]), (2, [1, 2, None])])
def test_a_fault_with_fewer_retries_has_so_many_and_others_do_not_use_them_up(most, waits):
    few = replace(FAILED, code="empty", max_retries=most)
    used, other = attempts(), attempts()
    other.wait_after_failure_s(FAILED)

    assert [used.wait_after_failure_s(few) for _ in waits] == waits
    assert (other.wait_after_failure_s(few) is None) is (most == 0)


def test_no_wait_is_begun_that_ends_at_the_deadline_or_behind_it():
    used = attempts(sample_timeout_s=10)
    used.begin()

    assert used.wait_after_failure_s(replace(FAILED, retry_after_s=10.0)) is None
    assert used.wait_after_failure_s(replace(FAILED, retry_after_s=9.5)) == 9.5


def test_a_samples_time_begins_with_its_first_attempt_and_an_outage_is_given_back():
    clock = Clock()
    used = attempts(clock, sample_timeout_s=10)
    used.extend(5)
    clock.now_s += 50
    assert used.left_s() == 10
    used.begin()
    clock.now_s += 4
    used.begin()
    assert used.left_s() == 6
    used.extend(3)
    assert used.left_s() == 9


@pytest.mark.parametrize(("thinks", "most_s"), [(False, 20), (True, 60)])
def test_an_attempt_may_take_what_is_left_and_never_more_than_its_own_limit(thinks, most_s):
    clock = Clock()
    used = attempts(clock, sample_timeout_s=100, attempt_timeout_s=20, thinking_timeout_s=60)
    used.begin()
    assert used.timeout_s(thinks=thinks) == most_s
    clock.now_s += 95
    assert used.timeout_s(thinks=thinks) == 5
    clock.now_s += 5
    assert used.timeout_s(thinks=thinks) == 0.001


def test_an_outage_that_is_over_gives_a_sample_all_its_attempts_and_time_again():
    clock = Clock()
    used = attempts(clock, sample_timeout_s=10, max_attempts=2)
    once = replace(FAILED, max_retries=1)
    used.begin()
    used.wait_after_failure_s(once)
    used.is_excused = True
    clock.now_s += 9
    used.forgive()

    assert used.left_s() == 10
    assert used.is_excused is False
    assert [used.wait_after_failure_s(once), used.wait_after_failure_s(once)] == [1, None]


def test_an_attempt_that_is_sent_is_counted_where_it_went_and_suspects_no_earlier_engine():
    used = attempts()
    assert (used.sent, used.replica, used.suspected_at, used.is_excused) == (0, None, None, False)
    used.suspected_at = "first"
    used.sent_to("first")
    used.sent_to("second")

    assert (used.sent, used.replica, used.suspected_at) == (2, "second", None)
    assert (used.key, used.sample_id) == (KEY, 7)


def test_what_is_left_of_a_request_without_an_answer_is_all_of_it():
    used = attempts()
    assert used.end(FAILED) == Ended(FAILED, 0)
    used.sent_to("somewhere")
    used.usage = Usage(input_tokens=5, output_tokens=1)
    used.checksums = Checksums(request="r", image="i")
    changed = ImageChangedError("changed")

    assert used.end(FAILED, changed) == Ended(FAILED, 1, used.usage, "i", changed)


@pytest.mark.parametrize(
    ("outcome", "stage"), [(Outcome.TARGET_ERROR, "target"), (Outcome.JUDGE_ERROR, "judge")]
)
def test_a_failure_row_says_what_happened_at_which_stage(outcome, stage):
    decision = replace(FAILED, text=Untrusted("cut"), details={"a": 1})
    usage = Usage(input_tokens=5, output_tokens=1)

    assert Ended(decision, 3, usage, "i").failure(KEY, outcome) == Failure(
        sample_id=7,
        epoch=2,
        stage=stage,
        outcome=outcome,
        fault="transient",
        code="http_500",
        status=500,
        message=Untrusted("their words"),
        attempts=3,
        usage=usage,
        text=Untrusted("cut"),
        image_sha256="i",
        details={"a": 1},
    )
    assert Ended(FAILED, 3).failure(KEY, outcome).details == {}


def test_what_a_stopped_response_had_spent_is_added_up_over_sessions():
    first = Unfinished(2, Usage(input_tokens=5, output_tokens=1), "i")
    second = Unfinished(1, Usage(input_tokens=7, output_tokens=2))

    both = Unfinished(3, Usage(input_tokens=12, output_tokens=3), "i")
    assert first.after(None) == first
    assert second.after(first) == both
    assert Unfinished(1, Usage(), "j").after(first).image_sha256 == "j"


@pytest.mark.parametrize(
    ("stage", "outcome"), [("target", Outcome.TARGET_ERROR), ("judge", Outcome.JUDGE_ERROR)]
)
def test_a_stopped_response_is_an_error_of_its_stage_with_what_it_had_spent(stage, outcome):
    usage = Usage(input_tokens=5, output_tokens=1)

    assert Unfinished(2, usage, "i").failure(KEY, stage, "r") == Failure(
        sample_id=7,
        epoch=2,
        stage=stage,
        outcome=outcome,
        fault=STOPPED,
        code=STOPPED,
        message=Untrusted("the run was stopped before this was done"),
        attempts=2,
        usage=usage,
        response_sha256="r",
        image_sha256="i",
        details={},
    )


def test_where_no_engine_is_ours_every_sample_may_go_and_none_kills():
    guard, request = EngineGuard(), InFlight(7)

    assert asyncio.run(guard.admit(request)) is True
    assert guard.admits(request) is True
    assert guard.has_killed(request) is False
    assert asyncio.run(guard.fate(request)) is Fate.ALIVE


# Rejections.


def reject(found: Rejections, samples: Iterable[int], code: str = "context") -> None:
    for sample_id in samples:
        found.count(sample_id, Fault.ITEM_PERMANENT, code, Untrusted("their words"))


def test_twenty_distinct_samples_rejected_alike_end_the_run():
    found = Rejections("target model-1")
    reject(found, [7] * 50)
    reject(found, range(100, 100 + ENDED_ALIKE_LIMIT - 2))

    with pytest.raises(GapsError) as caught:
        reject(found, [200])

    assert caught.value.exit_code == 4
    assert "target model-1" in caught.value.message
    assert "context" in caught.value.message
    assert caught.value.detail == Untrusted("their words")


@pytest.mark.parametrize("what", ["success", "another reason", "a failure that may pass"])
def test_anything_else_in_between_starts_the_count_of_rejections_again(what: str):
    found = Rejections("judge")
    reject(found, range(ENDED_ALIKE_LIMIT - 1))
    if what == "success":
        found.reset()
    elif what == "another reason":
        reject(found, [50], "too_large")
    else:
        found.count(50, Fault.TRANSIENT, "http_500", Untrusted(""))

    reject(found, range(100, 100 + ENDED_ALIKE_LIMIT - 1))


@pytest.mark.parametrize(
    ("code", "words", "option"),
    [
        (THINKING_CUT, "cut inside their thinking", "--max-tokens"),
        ("empty_content", "answered without any text", "--retry target_empty"),
        ("empty_choices", "answered without any text", "--retry target_empty"),
    ],
)
def test_what_would_cost_money_in_vain_is_stopped_with_advice(code, words, option):
    with pytest.raises(GapsError, match=words) as caught:
        reject(Rejections("target"), range(ENDED_ALIKE_LIMIT), code)

    assert option in (caught.value.advice or "")


def test_replies_that_are_broken_alike_count_too():
    found = Rejections("target")
    for sample_id in range(1, ENDED_ALIKE_LIMIT):
        found.count(sample_id, Fault.BAD_PAYLOAD, "", Untrusted("their words"))

    with pytest.raises(GapsError):
        found.count(ENDED_ALIKE_LIMIT, Fault.BAD_PAYLOAD, "", Untrusted("their words"))
