"""What one reading, one departure and one refusal do to a rate, on a clock that moves when told."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from vlsb.endpoints.headers import NamedLimit, Unit
from vlsb.endpoints.rate_limits import (
    AIM,
    CATCH_UP_S,
    FASTEST_GROWTH,
    GROWTH,
    LONG_STEP_BACK,
    LONGEST_WAIT_S,
    MOST_TOKENS,
    PROVEN_FLOOR,
    SLOWEST_PER_S,
    STEP_BACK,
    TOKEN_SMOOTHING,
    Account,
    Accounts,
    Caps,
    Departure,
    LearnedRate,
    Meter,
    NamedRate,
    RateModel,
)
from vlsb.errors import GapsError
from vlsb.records import Untrusted, Usage

T0 = 1000.0
"""When every clock starts."""


@dataclass
class Clock:
    now: float = T0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


# One rate.


def metered(clock: Clock, per_s: float) -> Meter:
    meter = Meter(clock)
    meter.per_s = per_s
    meter.forget()
    return meter


def test_without_a_rate_nothing_waits_and_nothing_is_owed_when_one_is_set(clock: Clock) -> None:
    meter = Meter(clock)
    meter.book(100)

    assert meter.wait_s() == 0
    assert not meter.is_tight()

    meter.per_s = 10.0
    assert meter.wait_s() == 0
    meter.book(100)
    meter.per_s = None
    assert meter.wait_s() == 0


def test_what_departs_is_paid_for_with_time(clock: Clock) -> None:
    meter = metered(clock, 10.0)
    meter.book(3)
    clock.now += 0.05

    assert meter.wait_s() == pytest.approx(0.25)

    clock.now += 0.3
    assert meter.wait_s() == 0


def test_a_timer_that_fired_late_is_caught_up_with_by_a_tenth_of_a_second(clock: Clock) -> None:
    meter = metered(clock, 10.0)
    clock.now += 5

    meter.book(CATCH_UP_S * 10)
    assert meter.wait_s() == pytest.approx(0, abs=1e-9)
    meter.book(1)
    assert meter.wait_s() == pytest.approx(0.1)


def test_what_was_booked_too_much_is_given_back_in_full(clock: Clock) -> None:
    meter = metered(clock, 10.0)
    meter.book(50)
    meter.book(-30)

    assert meter.wait_s() == pytest.approx(2)


def test_a_request_as_long_as_a_book_blocks_nobody_for_longer_than_an_hour(clock: Clock) -> None:
    meter = metered(clock, 1.0)
    meter.book(1e9)

    assert meter.wait_s() == pytest.approx(LONGEST_WAIT_S)


@pytest.mark.parametrize(
    ("per_s", "idle_s", "is_tight"),
    [(10, 0.09, True), (10, 0.11, False), (0.5, 0.9, True), (0.5, 1.0, False)],
)
def test_a_rate_is_tight_while_requests_leave_as_soon_as_they_may(
    clock: Clock, per_s: float, idle_s: float, is_tight: bool
) -> None:
    meter = metered(clock, per_s)
    clock.now += idle_s

    assert meter.is_tight() is is_tight


# A limit that headers name.

BASE = 10.0
"""A second of the 600 a minute that `read` names."""


class Named:
    """A limit of 600 requests a minute, read at moments of the test's choice."""

    def __init__(self, clock: Clock) -> None:
        self.rate = NamedRate(clock)

    def read(
        self,
        left: float | None = None,
        *,
        at: float = 0.0,
        reset_s: float | None = None,
        spent: float = 0.0,
        limit: float | None = 600.0,
        period_s: float | None = None,
        cost: float = 0.0,
    ) -> float | None:
        """Requests a second after a reply to what left `at` seconds after the beginning."""
        named = NamedLimit(Unit.REQUESTS, limit, left, reset_s, period_s)
        self.rate.read(named, sent_at=T0 + at, spent=spent, cost=cost)
        return self.rate.per_s


@pytest.fixture
def named(clock: Clock) -> Named:
    return Named(clock)


def test_a_limit_alone_is_followed_from_just_below(named: Named) -> None:
    assert named.read() == pytest.approx(BASE * AIM)
    assert named.read(limit=100.0, period_s=10.0) == pytest.approx(10 * AIM)
    assert named.read(limit=100.0, period_s=60.0) == pytest.approx(100 / 60 * AIM)


def test_a_limit_is_remembered_where_a_reply_leaves_it_out(named: Named) -> None:
    assert named.rate.per_s is None
    assert named.read(limit=None) is None
    assert named.read(limit=0.9) is None
    assert named.read(limit=1.0) == pytest.approx(AIM / 60)
    assert named.read(limit=120.0) == pytest.approx(2 * AIM)
    assert named.read(limit=None) == pytest.approx(2 * AIM)
    assert named.read(limit=0.0) == pytest.approx(2 * AIM)


def test_a_reply_to_what_left_earlier_says_nothing_new(named: Named) -> None:
    named.read(at=1.0)

    assert named.read(at=0.5, limit=60.0) == pytest.approx(BASE * AIM)
    assert named.read(at=1.0, limit=60.0) == pytest.approx(AIM)


def test_a_reset_beyond_a_minute_is_of_a_longer_window_unless_the_window_is_named(named: Named) -> None:
    assert named.read(590.0, reset_s=65.0) == pytest.approx(10.4)
    assert named.read(590.0, reset_s=67.0) is None
    assert named.rate.period_s == 67.0
    assert named.read(590.0, reset_s=67.0, period_s=60.0) is not None
    assert named.read(590.0, reset_s=50.0, period_s=61.0) is None


def test_what_is_left_beyond_a_reserve_is_spent_until_the_reset_a_little_faster_than_it_comes(
    named: Named,
) -> None:
    """Two requests, or a fifth of a second's, are left alone: what was read is a latency old."""
    named.read(600.0, reset_s=1.0)

    assert named.read(5.0, reset_s=10.0, at=0.5) == pytest.approx(BASE + 3 / 10)
    assert named.read(2.2, reset_s=0.1, at=0.5) == pytest.approx(BASE + 0.2 / 1)
    assert named.read(600.0, reset_s=10.0, at=0.5) == pytest.approx(1.04 * BASE)


def test_what_is_left_of_a_limit_without_a_reset_is_spent_over_five_seconds(named: Named) -> None:
    named.read(600.0)

    assert named.read(3.0, at=0.5) == pytest.approx(BASE + 1 / 5)


def test_the_reserve_of_a_fast_limit_is_a_fifth_of_its_second_and_of_a_small_one_a_third_of_its_most(
    named: Named,
) -> None:
    named.read(6000.0, limit=6000.0, reset_s=1.0)
    assert named.read(30.0, limit=6000.0, reset_s=10.0, at=0.5) == pytest.approx(100 + 10 / 10)

    small = Named(Clock())
    assert small.read(5.0, reset_s=10.0) == pytest.approx(BASE + (5 - 0.3 * 5) / 10)


def test_a_shortage_is_made_good_within_two_seconds(named: Named) -> None:
    named.read(600.0, reset_s=1.0)

    assert named.read(1.0, reset_s=10.0, at=0.5) == pytest.approx(BASE - 1 / 2)
    assert named.read(2.0, reset_s=10.0, at=0.5) == pytest.approx(BASE)
    assert named.read(1.0, at=0.5) == pytest.approx(BASE - 1 / 2)


def test_what_others_take_is_left_to_them(named: Named) -> None:
    """Of 20 left, 6 are gone where we took 20 in two seconds: 7 came back each second for us."""
    named.read(20.0, reset_s=60.0)

    assert named.read(14.0, reset_s=60.0, spent=20.0, at=2.0) == pytest.approx(7 + 12 / 60)


def test_how_fast_a_limit_comes_back_is_read_over_the_last_second(named: Named) -> None:
    named.read(50.0, reset_s=60.0)
    named.read(20.0, reset_s=60.0, spent=10.0, at=1.0)

    assert named.read(20.0, reset_s=60.0, spent=17.0, at=2.0) == pytest.approx(7 + 18 / 60)
    # What happened within less than a second is no measure.
    early = Named(Clock())
    early.read(50.0, reset_s=60.0)
    assert early.read(20.0, reset_s=60.0, spent=0.0, at=0.9) == pytest.approx(BASE + 18 / 60)
    exactly = Named(Clock())
    exactly.read(50.0, reset_s=60.0)
    assert exactly.read(43.0, reset_s=60.0, spent=14.0, at=1.0) == pytest.approx(7 + 41 / 60)


def test_a_limit_that_is_full_hides_what_came_back(named: Named) -> None:
    named.read(20.0, reset_s=60.0)
    assert named.read(18.0, reset_s=60.0, spent=4.0, at=2.0) == pytest.approx(BASE + 16 / 60)

    less = Named(Clock())
    less.read(20.0, reset_s=60.0)
    assert less.read(17.9, reset_s=60.0, spent=4.0, at=2.0) == pytest.approx(0.95 + 15.9 / 60)


def test_however_much_is_gone_at_once_is_not_taken_for_more_than_the_limits_own_speed(named: Named) -> None:
    named.read(500.0)
    assert named.read(100.0, at=1.0) == pytest.approx(-BASE + 98 / 5)

    gained = Named(Clock())
    gained.read(500.0, reset_s=60.0)
    assert gained.read(14.0, reset_s=60.0, spent=900.0, at=1.0) == pytest.approx(BASE + 12 / 60)


def test_of_a_window_all_but_two_is_spent_by_its_end(named: Named) -> None:
    """Nothing of it comes back before."""
    named.read(20.0, reset_s=32.0)

    assert named.read(14.0, reset_s=30.0, spent=6.0, at=2.0) == pytest.approx(12 / 30)
    assert named.read(14.0, reset_s=1.0, spent=6.0, at=2.0) == pytest.approx(12.0)
    assert named.read(14.0, reset_s=1.0, spent=6.2, at=2.0) == pytest.approx(0.1 + 12.0)
    assert named.read(5.0, reset_s=0.1, spent=15.0, at=2.0) == pytest.approx(3 / 0.3)
    assert named.read(14.0, reset_s=0.1, spent=6.0, at=2.0) == pytest.approx(1.25 * BASE)


def test_of_a_fast_window_no_more_than_two_are_left_alone(named: Named) -> None:
    named.read(200.0, limit=6000.0, reset_s=32.0)

    assert named.read(140.0, limit=6000.0, reset_s=30.0, spent=60.0, at=2.0) == pytest.approx(138 / 30)


def test_a_limit_without_a_reset_is_no_window_however_slowly_it_comes_back(named: Named) -> None:
    named.read(20.0)

    assert named.read(14.0, spent=6.0, at=2.0) == pytest.approx(12 / 5)


def test_a_limit_that_others_use_up_is_still_asked_from_time_to_time(named: Named) -> None:
    """A fiftieth of its rate, or five requests a period where it is small, at most half of it."""
    named.read(500.0)
    assert named.read(1.0, at=1.0) == pytest.approx(0.02 * BASE)

    small = Named(Clock())
    small.read(12.0, limit=12.0, cost=1.0)
    assert small.read(0.0, limit=12.0, at=1.0, cost=1.0) == pytest.approx(5 / 60)

    smaller = Named(Clock())
    smaller.read(6.0, limit=6.0, cost=1.0)
    assert smaller.read(0.0, limit=6.0, at=1.0, cost=1.0) == pytest.approx(0.05)


def test_a_limit_with_nothing_left_is_waited_for_and_no_less_because_another_reply_says_less(
    named: Named, clock: Clock
) -> None:
    named.read(0.0, reset_s=12.5)
    assert named.rate.wait_s() == pytest.approx(12.5)

    named.read(0.0, reset_s=2.0)
    clock.now += 2.5
    assert named.rate.wait_s() == pytest.approx(10)

    clock.now += 11
    assert named.rate.wait_s() == 0


def test_a_limit_with_something_left_is_not_waited_for(named: Named) -> None:
    named.read(0.5, reset_s=12.5)

    assert named.rate.wait_s() == 0


def test_an_unknown_limit_with_nothing_left_is_waited_for_until_its_reset(named: Named) -> None:
    named.read(0.0, reset_s=60.0, limit=None)

    assert named.rate.wait_s() == pytest.approx(60)


@pytest.mark.parametrize(
    ("left", "first_reset_s", "waits_s"),
    [(599.0, 1.05, 0.0), (600.0, 1.0, 0.0), (599.0, 1.2, 60.0)],
    ids=["a bucket", "a full bucket whose reset is rounded up", "a window"],
)
def test_a_window_is_told_from_a_bucket_by_a_reset_that_is_too_far(
    named: Named, left: float, first_reset_s: float, waits_s: float
) -> None:
    """A tenth of a second fills a bucket with 599 of 600; whoever rounds up says one second more."""
    named.read(left, reset_s=first_reset_s)
    named.read(0.0, reset_s=60.0, at=0.1)

    assert named.rate.wait_s() == waits_s


def test_a_limit_of_one_request_is_a_limit(named: Named) -> None:
    """It is a bucket where its reset is a minute away, and a window once its reset was too far."""
    named.read(0.0, limit=1.0, reset_s=60.0)
    assert named.rate.wait_s() == 0

    named.read(1.0, limit=1.0, reset_s=30.0, at=0.1)
    named.read(0.0, limit=1.0, reset_s=60.0, at=0.2)
    assert named.rate.wait_s() == 60


@pytest.mark.parametrize(("first_reset_s", "waits_s"), [(0.15, 0.0), (0.25, 1.0)])
def test_rounding_up_a_short_window_is_a_tenth_of_it(
    named: Named, first_reset_s: float, waits_s: float
) -> None:
    named.read(9.0, limit=10.0, period_s=1.0, reset_s=first_reset_s)
    named.read(0.0, limit=10.0, period_s=1.0, reset_s=1.0, at=0.1)

    assert named.rate.wait_s() == waits_s


def test_a_window_that_was_seen_once_stays_one(named: Named) -> None:
    named.read(599.0, reset_s=30.0)
    named.read(599.0, reset_s=0.1, at=0.1)
    named.read(0.0, reset_s=60.0, at=0.2)

    assert named.rate.wait_s() == pytest.approx(60)


@pytest.mark.parametrize(("reset_s", "waits_s"), [(98.1, 0.0), (98.0, 98.0), (101.9, 0.0), (102.0, 102.0)])
def test_an_empty_bucket_resets_after_its_period_give_or_take_a_fiftieth(
    named: Named, reset_s: float, waits_s: float
) -> None:
    named.rate.limit, named.rate.period_s = 600.0, 100.0
    named.rate._hold(reset_s)

    assert named.rate.wait_s() == pytest.approx(waits_s)


# A rate that is learned.


def leave(rate: LearnedRate, clock: Clock, times: int, every_s: float, *, is_binding: bool = True) -> None:
    """Requests leave one after the other; the clock stands at the last one."""
    for number in range(times):
        clock.now += every_s if number else 0.0
        rate.count_departure(is_binding=is_binding, is_blocked=False)


def settled(clock: Clock, per_s: float = 10.0) -> LearnedRate:
    """A rate at which requests have left for a while, as the only one that was ever accepted."""
    rate = LearnedRate(clock)
    rate.per_s = per_s
    leave(rate, clock, 51, 0.1, is_binding=False)
    return rate


def test_nothing_is_learned_while_nothing_is_refused(clock: Clock) -> None:
    rate = LearnedRate(clock)
    leave(rate, clock, 100, 0.1)

    assert rate.per_s is None


def test_the_first_refusal_teaches_the_rate_that_was_accepted_and_a_start_doubles_it_each_second(
    clock: Clock,
) -> None:
    rate = LearnedRate(clock)
    leave(rate, clock, 51, 0.1)
    rate.count_refusal(clock.now)
    rate.reopen(clock.now, is_blocked=False, is_named=False)
    assert rate.per_s == pytest.approx(49 / 5)

    clock.now += 0.25
    rate.count_departure(is_binding=True, is_blocked=False)
    assert rate.per_s == pytest.approx(49 / 5 * 2**0.25)
    clock.now += 30
    rate.count_departure(is_binding=True, is_blocked=False)
    assert rate.per_s == pytest.approx(49 / 5 * 2**0.75)


def test_a_block_after_a_saturated_stretch_teaches_its_rate_and_that_one_grows_slowly(clock: Clock) -> None:
    rate = LearnedRate(clock)
    leave(rate, clock, 51, 0.1)
    rate.count_refusal(clock.now)
    rate.reopen(clock.now, is_blocked=True, is_named=False)
    assert rate.per_s == pytest.approx(49 / 5)

    clock.now += 0.25
    rate.count_departure(is_binding=True, is_blocked=False)
    assert rate.per_s == pytest.approx(49 / 5, rel=1e-3)


@pytest.mark.parametrize(("times", "every_s"), [(8, 0.2), (30, 0.03)], ids=["too few", "too short"])
def test_a_block_after_hardly_anything_is_a_start(clock: Clock, times: int, every_s: float) -> None:
    rate = LearnedRate(clock)
    leave(rate, clock, times, every_s)
    rate.count_refusal(clock.now)
    rate.reopen(clock.now, is_blocked=True, is_named=False)
    before = rate.per_s
    assert before == pytest.approx((times - 2) / (every_s * (times - 1)))

    clock.now += 0.5
    rate.count_departure(is_binding=True, is_blocked=False)
    assert rate.per_s == pytest.approx(before * 2**0.5)


def test_eight_accepted_in_a_second_are_enough_to_know_a_rate(clock: Clock) -> None:
    rate = LearnedRate(clock)
    leave(rate, clock, 9, 0.125)
    rate.count_refusal(clock.now)
    rate.reopen(clock.now, is_blocked=True, is_named=False)
    assert rate.per_s == pytest.approx(7)

    clock.now += 0.5
    rate.count_departure(is_binding=True, is_blocked=False)
    assert rate.per_s == pytest.approx(7, rel=1e-3)


def test_a_slow_provider_is_not_taken_for_one_of_a_request_a_second(clock: Clock) -> None:
    rate = LearnedRate(clock)
    leave(rate, clock, 3, 10.0)
    rate.count_refusal(clock.now)
    rate.reopen(clock.now, is_blocked=True, is_named=False)
    assert rate.per_s == pytest.approx(1 / 20)
    rate.count_refusal(clock.now)
    rate.reopen(clock.now, is_blocked=False, is_named=False)
    assert rate.per_s == pytest.approx(STEP_BACK / 20)

    other = LearnedRate(clock)
    other.per_s = 0.5
    leave(other, clock, 10, 2.0)
    other.count_refusal(clock.now)
    other.reopen(clock.now, is_blocked=True, is_named=False)
    assert other.per_s == pytest.approx(8 / 18)


def test_a_refusal_of_the_first_of_many_is_one_less_that_was_accepted(clock: Clock) -> None:
    for is_blocked in (False, True):
        rate = LearnedRate(clock)
        began = clock.now
        leave(rate, clock, 51, 0.1)
        rate.count_refusal(began)
        rate.reopen(clock.now, is_blocked=is_blocked, is_named=False)

        assert rate.per_s == pytest.approx(49 / 5)


def test_a_rate_grows_with_what_is_accepted_faster_the_longer_nothing_is_refused(clock: Clock) -> None:
    rate = settled(clock)
    rate.count_refusal(clock.now)
    seen = []
    for number in range(1, 1501):
        before = rate.per_s
        rate.count_departure(is_binding=True, is_blocked=False)
        if number in (1, 500, 1000, 1500):
            assert before is not None
            assert rate.per_s is not None
            seen.append(rate.per_s / before - 1)

    assert seen == pytest.approx([GROWTH * 2 ** (1 / 500), 2 * GROWTH, 4 * GROWTH, FASTEST_GROWTH])


@pytest.mark.parametrize(("is_binding", "is_blocked"), [(False, False), (True, True), (False, True)])
def test_a_rate_that_nothing_waited_for_or_that_is_blocked_does_not_grow(
    clock: Clock, is_binding: bool, is_blocked: bool
) -> None:
    rate = settled(clock)

    rate.count_departure(is_binding=is_binding, is_blocked=is_blocked)

    assert rate.per_s == 10.0


def test_a_refusal_steps_back_to_what_was_accepted_where_that_is_less(clock: Clock) -> None:
    rate = settled(clock, per_s=10.0)
    rate.count_refusal(clock.now)
    rate.reopen(clock.now, is_blocked=False, is_named=False)

    assert rate.per_s == pytest.approx(49 / 5) == pytest.approx(10 * STEP_BACK)

    slower = settled(clock, per_s=20.0)
    slower.count_refusal(clock.now)
    slower.reopen(clock.now, is_blocked=False, is_named=False)
    assert slower.per_s == pytest.approx(49 / 5)


def test_a_refusal_steps_back_a_fiftieth_where_more_was_accepted(clock: Clock) -> None:
    rate = settled(clock, per_s=9.5)
    rate.count_refusal(clock.now)
    rate.reopen(clock.now, is_blocked=False, is_named=False)

    assert rate.per_s == pytest.approx(9.5 * STEP_BACK)


@pytest.mark.parametrize(
    ("refusals", "apart", "more", "step"),
    [
        (5, 7, 1, LONG_STEP_BACK),
        (9, 5, 0, LONG_STEP_BACK),
        (5, 7, 2, STEP_BACK),
        (9, 8, 0, STEP_BACK),
    ],
)
def test_five_refusals_of_less_than_thirty_requests_step_back_further(
    clock: Clock, refusals: int, apart: int, more: int, step: float
) -> None:
    rate = settled(clock, per_s=9.9)
    for _ in range(refusals):
        leave(rate, clock, apart, 0.1, is_binding=False)
        rate.count_refusal(clock.now)
    leave(rate, clock, more, 0.1, is_binding=False)
    rate.reopen(clock.now, is_blocked=False, is_named=False)

    assert rate.per_s == pytest.approx(9.9 * step)


def test_four_refusals_in_a_row_are_no_cluster(clock: Clock) -> None:
    rate = settled(clock, per_s=9.3)
    for _ in range(4):
        rate.count_refusal(clock.now)
    rate.reopen(clock.now, is_blocked=False, is_named=False)

    assert rate.per_s == pytest.approx(9.3 * STEP_BACK)


def test_stray_refusals_do_not_go_below_nine_tenths_of_what_was_accepted_lately(clock: Clock) -> None:
    """Of five requests in 0.4 s one is refused, again and again: ten a second are accepted."""
    rate = settled(clock)
    for _ in range(30):
        rate.count_refusal(clock.now)
        rate.reopen(clock.now, is_blocked=False, is_named=False)
        leave(rate, clock, 5, 0.1, is_binding=False)

    assert rate.per_s == pytest.approx(PROVEN_FLOOR * 10)


def test_what_was_accepted_long_ago_proves_less_and_before_a_block_nothing(clock: Clock) -> None:
    """What 5,000 accepted requests at half the rate leave of the proof is its 2.7th part."""

    def after(times: int, *, is_blocked: bool) -> float:
        rate = settled(clock)
        rate.count_refusal(clock.now)
        rate.reopen(clock.now, is_blocked=False, is_named=False)
        rate.per_s = 1.0
        leave(rate, clock, times, 0.2, is_binding=False)
        rate.count_refusal(clock.now)
        rate.reopen(clock.now, is_blocked=is_blocked, is_named=False)
        assert rate.per_s is not None
        return rate.per_s

    # 9.8 a second was proven; 501 departures at 5 a second and one refused make 4.99 the estimate.
    assert after(501, is_blocked=False) == pytest.approx(0.9 * 9.8 * 2.718281828 ** (-501 / 5000), rel=1e-6)
    assert after(5001, is_blocked=False) == pytest.approx(0.9 * 5, rel=0.01)
    # A window holds both stretches: 551 departures in 105.2 s, two of which were refused.
    assert after(501, is_blocked=True) == pytest.approx(0.9 * 549 / 105, rel=0.01)


def test_a_block_teaches_the_rate_of_the_whole_window_with_its_pauses(clock: Clock) -> None:
    """The stretch since the last pause alone was faster than what a window allows."""
    rate = LearnedRate(clock)
    leave(rate, clock, 51, 0.1)
    clock.now += 15
    leave(rate, clock, 51, 0.1)
    rate.count_refusal(clock.now)
    rate.reopen(clock.now, is_blocked=True, is_named=False)

    assert rate.per_s == pytest.approx((102 - 1 - 1) / 25)

    # The next window begins where this one ended, with the request that came through.
    before = clock.now - 1
    leave(rate, clock, 25, 0.5, is_binding=False)
    rate.count_refusal(clock.now)
    rate.count_refusal(before)
    rate.reopen(clock.now, is_blocked=True, is_named=False)
    assert rate.per_s == pytest.approx((26 - 1 - 1) / 12)


def test_a_refusal_of_what_left_before_is_not_taken_from_what_left_since(clock: Clock) -> None:
    rate = LearnedRate(clock)
    leave(rate, clock, 10, 0.1)
    before = clock.now
    clock.now += 15
    leave(rate, clock, 51, 0.1)
    rate.count_refusal(before)
    rate.reopen(clock.now, is_blocked=False, is_named=False)

    assert rate.per_s == pytest.approx((51 - 1) / 5)


def test_an_idle_time_begins_a_new_stretch_unless_it_was_a_block(clock: Clock) -> None:
    def after(idle_s: float, *, is_blocked: bool) -> float | None:
        rate = LearnedRate(clock)
        leave(rate, clock, 51, 0.1)
        clock.now += idle_s
        rate.count_departure(is_binding=False, is_blocked=is_blocked)
        clock.now += 0.1
        leave(rate, clock, 50, 0.1)
        rate.reopen(clock.now, is_blocked=False, is_named=False)
        return rate.per_s

    assert after(0.6, is_blocked=False) == pytest.approx(50 / 5)
    assert after(0.5, is_blocked=False) == pytest.approx(101 / 10.5)
    assert after(0.6, is_blocked=True) == pytest.approx(101 / 10.6)


def test_a_rate_that_was_settled_is_measured_from_then_on(clock: Clock) -> None:
    rate = settled(clock, per_s=100.0)
    rate.count_refusal(clock.now)
    rate.reopen(clock.now, is_blocked=False, is_named=False)
    clock.now += 0.2
    leave(rate, clock, 26, 0.2, is_binding=False)
    rate.per_s = 100.0
    rate.count_refusal(clock.now)
    rate._proven = 0.0
    rate.reopen(clock.now, is_blocked=False, is_named=False)

    assert rate.per_s == pytest.approx((27 - 1 - 1) / 5.2)


def test_a_stretch_that_is_too_short_to_know_goes_on(clock: Clock) -> None:
    rate = settled(clock, per_s=100.0)
    rate.count_refusal(clock.now)
    rate.reopen(clock.now, is_blocked=False, is_named=False)
    clock.now += 0.2
    leave(rate, clock, 4, 0.2, is_binding=False)
    before = rate.per_s
    rate.reopen(clock.now, is_blocked=False, is_named=False)
    assert before is not None
    assert rate.per_s == pytest.approx(STEP_BACK * before)

    clock.now += 0.2
    leave(rate, clock, 22, 0.2, is_binding=False)
    rate.per_s = 100.0
    rate._proven = 0.0
    rate.reopen(clock.now, is_blocked=False, is_named=False)
    assert rate.per_s == pytest.approx((27 - 1) / 5.2)


def test_what_is_accepted_while_a_rate_is_looked_for_proves_nothing(clock: Clock) -> None:
    rate = LearnedRate(clock)
    leave(rate, clock, 51, 0.1)
    rate.reopen(clock.now, is_blocked=False, is_named=False)
    before = rate.per_s
    assert before is not None
    leave(rate, clock, 11, 0.5, is_binding=False)
    rate.reopen(clock.now, is_blocked=False, is_named=False)

    assert rate.per_s == pytest.approx(before * STEP_BACK)


def test_where_headers_name_a_limit_a_stray_refusal_teaches_nothing(clock: Clock) -> None:
    rate = LearnedRate(clock)
    leave(rate, clock, 51, 0.1)
    rate.count_refusal(clock.now)
    rate.reopen(clock.now, is_blocked=False, is_named=True)
    assert rate.per_s is None

    for _ in range(4):
        rate.count_refusal(clock.now)
    rate.reopen(clock.now, is_blocked=False, is_named=True)
    assert rate.per_s is not None


def test_where_headers_name_a_limit_a_block_teaches_a_rate_that_passes(clock: Clock) -> None:
    rate = LearnedRate(clock)
    leave(rate, clock, 51, 0.1)
    rate.count_refusal(clock.now)
    rate.reopen(clock.now, is_blocked=True, is_named=True)
    assert rate.per_s == pytest.approx(49 / 5)

    clock.now += 0.5
    rate.count_departure(is_binding=True, is_blocked=False)
    assert rate.per_s == pytest.approx(49 / 5 * 2**0.5)


def test_a_learned_rate_is_never_slower_than_two_requests_a_minute(clock: Clock) -> None:
    rate = LearnedRate(clock)
    leave(rate, clock, 2, 300.0)
    rate.count_refusal(clock.now)
    rate.reopen(clock.now, is_blocked=True, is_named=False)

    assert rate.per_s == SLOWEST_PER_S == 1 / 30


def test_a_refusal_of_the_very_first_request_teaches_a_thousand_a_second_and_not_an_infinity(
    clock: Clock,
) -> None:
    rate = LearnedRate(clock)
    rate.count_departure(is_binding=False, is_blocked=False)
    rate.count_refusal(clock.now)
    rate.reopen(clock.now, is_blocked=False, is_named=False)

    assert rate.per_s == pytest.approx(1 / 1e-3)


# All of them together: pauses, blocks and who comes through first.


@pytest.fixture
def model(clock: Clock) -> RateModel:
    return RateModel(Caps(), clock)


def test_the_lowest_cap_of_all_who_use_an_account_holds() -> None:
    caps = [Caps(rpm=5), Caps(rpm=3, tpm=9), Caps(tpm=8)]

    assert Caps.lowest(caps) == Caps(rpm=3, tpm=8)
    assert Caps.lowest([Caps(), Caps()]) == Caps.lowest([]) == Caps()


def test_a_first_refusal_pauses_a_tenth_of_a_second_and_each_one_after_it_twice_as_long(
    model: RateModel, clock: Clock
) -> None:
    """Until they are a second long, in a block that is young."""
    pauses = []
    for _ in range(6):
        pauses.append(model.refuse(model.depart()))
        clock.now += model.wait_s() + 0.001

    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


def test_a_pause_grows_with_a_block_to_a_twentieth_of_it_and_to_half_a_minute_when_that_is_old(
    model: RateModel, clock: Clock
) -> None:
    seen: list[tuple[float, float]] = []
    began = clock.now
    while clock.now - began < 200:
        pause = model.refuse(model.depart())
        assert pause is not None
        seen.append((clock.now - began, pause))
        clock.now += model.wait_s() + 0.001

    assert all(pause == pytest.approx(max(1.0, 0.05 * at)) for at, pause in seen if 10 < at < 90)
    assert [pause for at, pause in seen if at >= 90] == [30.0] * 4


def test_where_requests_are_far_apart_a_pause_is_half_of_that_at_first_and_ten_of_it_at_most(
    model: RateModel, clock: Clock
) -> None:
    model._learned.per_s = 0.5
    pauses = []
    for _ in range(7):
        pauses.append(model.refuse(model.depart()))
        clock.now += model.paused_s() + 0.001

    assert pauses == pytest.approx([1, 2, 4, 8, 16, 20, 20])


def test_no_computed_pause_is_longer_than_half_a_minute(model: RateModel, clock: Clock) -> None:
    model._learned.per_s = SLOWEST_PER_S
    pauses = []
    for _ in range(3):
        pauses.append(model.refuse(model.depart()))
        clock.now += model.paused_s() + 0.001

    assert pauses == pytest.approx([15, 30, 30])


def test_what_a_provider_asks_for_is_what_is_paused(model: RateModel, clock: Clock) -> None:
    assert model.refuse(model.depart(), 42.0) == 42.0
    assert model.paused_s() == model.closed_s() == model.wait_s() == pytest.approx(42)

    clock.now += 50
    assert model.paused_s() == model.closed_s() == model.wait_s() == 0


def test_requests_that_left_before_a_pause_began_begin_none(model: RateModel, clock: Clock) -> None:
    burst = [model.depart() for _ in range(4)]
    clock.now += 0.3
    assert model.refuse(burst[0], 5.0) == 5.0

    clock.now += 0.2
    assert model.refuse(burst[1]) is None
    assert model.refuse(burst[2], 2.0) is None
    assert model.paused_s() == pytest.approx(4.8)
    assert model.refuse(burst[3], 9.0) is None
    assert model.paused_s() == pytest.approx(9)

    clock.now += 8.5
    assert model.refuse(burst[3]) is None
    assert model.paused_s() == pytest.approx(0.5)


def test_what_left_in_the_moment_of_a_refusal_begins_no_pause_of_its_own(model: RateModel) -> None:
    first, second = model.depart(), model.depart()

    assert model.refuse(first, 5.0) == 5.0
    assert model.refuse(second, 5.0) is None


def test_a_shorter_pause_does_not_end_a_longer_one(model: RateModel, clock: Clock) -> None:
    model.refuse(model.depart(), 20.0)
    clock.now += 1

    assert model.refuse(model.depart(), 5.0) == 5.0
    assert model.paused_s() == pytest.approx(19)


def test_after_a_pause_one_request_goes_alone_until_it_is_known_to_have_come_through(
    model: RateModel, clock: Clock
) -> None:
    model.refuse(model.depart(), 1.0)
    clock.now += 1.5
    assert model.wait_s() == 0

    scout = model.depart()
    clock.now += 0.01
    assert model.wait_s() > 0

    model.settle(scout)
    assert model.wait_s() == 0


def test_a_request_alone_that_comes_through_opens_nothing_before_its_rate_does(clock: Clock) -> None:
    model = RateModel(Caps(rpm=120 / AIM), clock)
    model.refuse(model.depart(), 1.0)
    clock.now += 1.5
    model.depart()

    assert model.wait_s() == pytest.approx(0.5 - CATCH_UP_S)


def refused_after(model: RateModel, clock: Clock, seconds: float) -> None:
    """A request is refused so long after it left, and its pause is over."""
    departure = model.depart()
    clock.now += seconds
    model.refuse(departure, 1.0)
    clock.now += 1.5


@pytest.mark.parametrize(
    ("refusal_s", "hold_s"), [(0.01, 0.1), (0.4, 0.8), (5.0, 3.0)], ids=["at least", "twice", "at most"]
)
def test_the_one_that_goes_alone_is_waited_for_twice_as_long_as_a_refusal_takes(
    model: RateModel, clock: Clock, refusal_s: float, hold_s: float
) -> None:
    refused_after(model, clock, refusal_s)
    model.depart()
    asked = []
    began = clock.now
    while (wait_s := model.wait_s()) > 1e-9:
        asked.append(wait_s)
        clock.now += wait_s

    assert clock.now - began == pytest.approx(hold_s)
    # An answer may come earlier than that: who waits looks again twenty times a second.
    assert max(asked) == pytest.approx(0.05)


def test_one_that_nobody_refused_while_it_was_waited_for_came_through(model: RateModel, clock: Clock) -> None:
    refused_after(model, clock, 0.01)
    model.depart()
    clock.now += 0.2
    model.depart()

    assert model._block is None
    assert model.rpm is not None


def test_how_long_a_refusal_takes_is_forgotten_slowly(model: RateModel, clock: Clock) -> None:
    refused_after(model, clock, 1.0)
    refused_after(model, clock, 0.01)

    model.depart()
    clock.now += 1.75
    assert model.wait_s() > 0
    clock.now += 0.1
    assert model.wait_s() == 0


def test_another_request_that_arrives_during_a_block_does_not_end_it(model: RateModel, clock: Clock) -> None:
    early = model.depart()
    refused_after(model, clock, 0.01)
    scout = model.depart()
    model.settle(early)
    assert model._block is not None

    clock.now += 0.01
    model.settle(scout)
    assert model._block is None


def test_the_one_that_went_alone_and_was_refused_makes_room_for_the_next_one(
    model: RateModel, clock: Clock
) -> None:
    refused_after(model, clock, 0.01)
    refused_after(model, clock, 0.01)

    scout = model.depart()
    assert model.wait_s() > 0
    model.settle(scout)
    assert model._block is None


def steady(model: RateModel, clock: Clock) -> Departure:
    """51 requests, ten a second; the last one."""
    for number in range(51):
        clock.now += 0.1 if number else 0.0
        departure = model.depart()
    return departure


def test_requests_come_through_again_at_the_rate_that_was_accepted(model: RateModel, clock: Clock) -> None:
    model.refuse(steady(model, clock), 0.5)
    clock.now += 0.5
    model.settle(scout := model.depart())

    # The 51 and the one that came through, less the one that was refused, over five and a half seconds.
    assert scout.at - T0 == pytest.approx(5.5)
    assert model.rpm == pytest.approx(60 * 50 / 5.5)


@pytest.mark.parametrize(
    ("pauses_s", "grows_by"),
    [([0.3, 0.3], 2**0.09), ([0.3, 0.3, 0.3], 1.001), ([1.0], 1.001)],
    ids=["two refusals are a start", "three are a block", "a second is a block"],
)
def test_a_block_is_three_refusals_or_a_second(
    model: RateModel, clock: Clock, pauses_s: list[float], grows_by: float
) -> None:
    departure = steady(model, clock)
    for pause_s in pauses_s:
        model.refuse(departure, pause_s)
        clock.now += pause_s
        departure = model.depart()
    model.settle(departure)
    before = model.rpm
    clock.now += 0.09
    model.depart()

    assert before is not None
    assert model.rpm == pytest.approx(before * grows_by, rel=2e-3)


@pytest.mark.parametrize("pause_s", [4.0, 1.0])
def test_a_long_block_ended_between_its_last_refusal_and_the_one_that_came_through(
    model: RateModel, clock: Clock, pause_s: float
) -> None:
    model.refuse(steady(model, clock), pause_s)
    clock.now += pause_s
    model.settle(model.depart())

    # 50 accepted, and the one that came through, in five seconds and half of the pause.
    assert model.rpm == pytest.approx(60 * 50 / (5 + pause_s / 2))


def test_a_stray_refusal_slows_nothing_where_headers_name_a_rate_and_a_days_limit_is_none(
    model: RateModel, clock: Clock
) -> None:
    departure = steady(model, clock)
    model.read_headers(departure, [NamedLimit(Unit.REQUESTS, 10**5, period_s=86400.0)])
    model.read_headers(departure, [NamedLimit(Unit.REQUESTS, 6000.0)])
    model.refuse(departure, 0.5)
    clock.now += 0.5
    model.settle(model.depart())
    assert model.rpm == pytest.approx(6000 * AIM)

    other = RateModel(Caps(), clock)
    departure = steady(other, clock)
    other.read_headers(departure, [NamedLimit(Unit.REQUESTS, 10**5, period_s=86400.0)])
    other.refuse(departure, 0.5)
    clock.now += 0.5
    other.settle(other.depart())
    assert other.rpm == pytest.approx(60 * 50 / 5.5)


def test_a_changed_cap_forgives_nothing_that_is_owed(clock: Clock) -> None:
    model = RateModel(Caps(rpm=60 / AIM), clock)
    model.depart()

    model.set_caps(Caps(rpm=120 / AIM))
    assert model.wait_s() == pytest.approx(1)


def test_what_is_learned_holds_beside_what_the_user_allows_and_the_lower_one_counts(
    model: RateModel, clock: Clock
) -> None:
    model._learned.per_s = 10.0
    model.set_caps(Caps(rpm=1200))
    assert model.rpm == pytest.approx(600)

    model.set_caps(Caps(rpm=60, tpm=500))
    assert (model.rpm, model.tpm) == (pytest.approx(60 * AIM), pytest.approx(500 * AIM))
    model.set_caps(Caps())
    assert (model.rpm, model.tpm) == (pytest.approx(600), None)


def test_only_a_learned_rate_that_requests_wait_for_grows(clock: Clock) -> None:
    seen = []
    for cap in (None, 300):
        model = RateModel(Caps(rpm=cap), clock)
        model._learned.per_s = 10.0
        model._set_rates()
        for _ in range(20):
            clock.now += model.wait_s()
            model.depart()
        seen.append(model._learned.per_s)
    idle = RateModel(Caps(), clock)
    idle._learned.per_s = 10.0
    idle._set_rates()
    for _ in range(20):
        clock.now += 0.4
        idle.depart()

    assert seen[0] == pytest.approx(10 * (1 + GROWTH) ** 20, rel=1e-4)
    assert seen[0] > 10.01
    assert (seen[1], idle._learned.per_s) == (10.0, 10.0)


# Tokens.


def test_a_requests_tokens_are_what_was_reported_first_and_follow_what_is_reported_later(
    model: RateModel,
) -> None:
    assert model.tokens_per_request == 0

    model.settle(model.depart(), Usage(800, 200))
    assert model.tokens_per_request == 1000
    model.settle(model.depart(), Usage(1800, 200))
    assert model.tokens_per_request == pytest.approx(1000 + TOKEN_SMOOTHING * 1000)


def test_a_usage_that_says_nothing_or_what_cannot_be_teaches_nothing(model: RateModel) -> None:
    model.settle(model.depart(), Usage())
    model.settle(model.depart(), None)
    model.settle(model.depart(), Usage(MOST_TOKENS, 1))
    assert model.tokens_per_request == 0

    model.settle(model.depart(), Usage(MOST_TOKENS - 1, 1))
    assert model.tokens_per_request == MOST_TOKENS


@pytest.mark.parametrize(("usage", "tokens"), [(Usage(7, None), 7), (Usage(None, 9), 9)])
def test_half_a_usage_is_counted(model: RateModel, usage: Usage, tokens: int) -> None:
    model.settle(model.depart(), usage)

    assert model.tokens_per_request == tokens


def test_requests_wait_for_the_tokens_of_those_before_them(clock: Clock) -> None:
    """A request is booked as what one takes, and settled as what it took."""
    model = RateModel(Caps(tpm=60_000 / AIM), clock)
    model.settle(model.depart(), Usage(500, 500))
    assert model.wait_s() == pytest.approx(1)

    clock.now += 10
    second = model.depart()
    assert model.wait_s() == pytest.approx(1 - CATCH_UP_S)
    model.settle(second, Usage(1500, 500))
    assert model.wait_s() == pytest.approx(2 - CATCH_UP_S)


def test_input_and_output_have_limits_of_their_own(model: RateModel, clock: Clock) -> None:
    first = model.depart()
    limits = [NamedLimit(Unit.INPUT, 6000.0), NamedLimit(Unit.OUTPUT, 600.0)]
    model.read_headers(first, limits)
    assert model.rpm is model.tpm is None

    model.settle(first, Usage(100, 100))
    assert model.wait_s() == pytest.approx(100 / (10 * AIM))


def test_a_new_limit_owes_nothing_for_what_left_before_it_was_named(model: RateModel, clock: Clock) -> None:
    departures = [model.depart() for _ in range(50)]
    model.read_headers(departures[-1], [NamedLimit(Unit.REQUESTS, 60.0)])

    assert model.wait_s() == 0
    model.depart()
    assert model.wait_s() > 0


def test_a_reading_is_of_what_had_left_by_then(model: RateModel, clock: Clock) -> None:
    """What left since is not in it: a stranger's share would seem as large."""

    def share_of_a_stranger(*, later: int) -> float | None:
        model = RateModel(Caps(), clock)
        first = model.depart()
        model.read_headers(first, [NamedLimit(Unit.REQUESTS, 600.0, 20.0, 60.0)])
        clock.now += 2
        for _ in range(19):
            model.depart()
        second = model.depart()
        for _ in range(later):
            model.depart()
        model.read_headers(second, [NamedLimit(Unit.REQUESTS, 600.0, 14.0, 60.0)])
        return model.rpm

    assert share_of_a_stranger(later=0) == pytest.approx(60 * 7.2)
    assert share_of_a_stranger(later=9) == pytest.approx(60 * 7.2)


def test_a_reading_of_tokens_counts_what_they_are_expected_to_be(clock: Clock) -> None:
    def named(*, later: int) -> float | None:
        model = RateModel(Caps(), clock)
        first = model.depart()
        model.settle(first, Usage(900, 100))
        model.read_headers(first, [NamedLimit(Unit.TOKENS, 600_000.0, 20_000.0, 60.0)])
        clock.now += 2
        for _ in range(19):
            model.depart()
        second = model.depart()
        for _ in range(later):
            model.depart()
        model.read_headers(second, [NamedLimit(Unit.TOKENS, 600_000.0, 14_000.0, 60.0)])
        return model.tpm

    assert named(later=0) == named(later=9) == pytest.approx(60 * (7000 + 12_000 / 60))


def test_a_reading_of_tokens_counts_what_requests_took_and_not_what_was_booked(
    model: RateModel, clock: Clock
) -> None:
    """Of 20,000 left, 14,000 are there after two seconds and a request of 20,000."""
    first = model.depart()
    model.settle(first, Usage(900, 100))
    model.read_headers(first, [NamedLimit(Unit.TOKENS, 600_000.0, 20_000.0, 60.0)])
    clock.now += 2
    second = model.depart()
    model.settle(second, Usage(15_000, 5_000))
    model.read_headers(second, [NamedLimit(Unit.TOKENS, 600_000.0, 14_000.0, 60.0)])

    assert model.tpm == pytest.approx(60 * (7000 + 12_000 / 60))


def test_a_small_limit_of_tokens_of_which_nobody_knows_what_a_request_takes_is_asked_at_a_fiftieth(
    model: RateModel, clock: Clock
) -> None:
    model.read_headers(model.depart(), [NamedLimit(Unit.TOKENS, 60.0, 60.0)])
    clock.now += 1
    model.read_headers(model.depart(), [NamedLimit(Unit.TOKENS, 60.0, 0.0)])

    assert model.tpm == pytest.approx(60 * 0.02)


def test_limits_of_other_windows_are_kept_apart_and_the_lowest_counts(model: RateModel) -> None:
    second = NamedLimit(Unit.REQUESTS, 5.0, period_s=1.0)
    minute = NamedLimit(Unit.REQUESTS, 60.0, period_s=60.0)
    model.read_headers(model.depart(), [second])
    assert model.rpm == pytest.approx(300 * AIM)

    model.read_headers(model.depart(), [minute])
    assert model.rpm == pytest.approx(60 * AIM)
    model.read_headers(model.depart(), [])
    assert model.rpm == pytest.approx(60 * AIM)


def test_what_headers_say_is_used_up_closes_the_account(model: RateModel, clock: Clock) -> None:
    model.read_headers(model.depart(), [NamedLimit(Unit.TOKENS, 600.0, 0.0, 12.0)])

    assert model.closed_s() == pytest.approx(12)
    assert model.paused_s() == 0


# An account.


def test_pauses_add_up_without_what_overlaps_and_without_what_is_to_come(clock: Clock) -> None:
    account = Account(clock)
    first, second, third = (account.rates.depart() for _ in range(3))
    account.refuse(first, 10.0)
    account.refuse(third, 10.0)
    assert account.total_pause_s() == 0

    clock.now += 4
    assert account.total_pause_s() == pytest.approx(4)
    account.refuse(second, 10.0)
    clock.now += 20
    assert account.total_pause_s() == pytest.approx(14)

    account.refuse(account.rates.depart(), 5.0)
    clock.now += 9
    assert account.total_pause_s() == pytest.approx(19)


def test_a_pause_as_long_as_a_sample_may_take_is_waited_for_and_a_longer_one_is_not(clock: Clock) -> None:
    account = Account(clock)
    account.rates.read_headers(account.rates.depart(), [NamedLimit(Unit.REQUESTS, 9.0, 0.0, 600.0, 60.0)])
    account.require_patience("target m", 600)

    with pytest.raises(
        GapsError, match="target m asks for a pause of 600 s, longer than --sample-timeout 599"
    ):
        account.require_patience("target m", 599, Untrusted("Slow down."))


def test_an_account_that_accepted_nothing_for_as_long_as_a_sample_may_take_ends_the_run(clock: Clock) -> None:
    account = Account(clock)
    early = account.rates.depart()
    clock.now += 3
    account.refuse(account.rates.depart(), 1.0)
    account.refuse(early, 1.0)
    clock.now += 96
    account.require_patience("target m", 100)

    clock.now += 1
    with pytest.raises(GapsError, match="accepted no request for 100 s because of its rate limit") as raised:
        account.require_patience("target m", 100, Untrusted("Slow down."))
    assert raised.value.detail is not None
    assert raised.value.detail.expose() == "Slow down."


def test_a_pause_that_outlasts_patience_is_not_waited_for(clock: Clock) -> None:
    account = Account(clock)
    account.refuse(account.rates.depart(), 1.0)
    clock.now += 50
    account.refuse(account.rates.depart(), 49.9)
    account.require_patience("target m", 100)

    account.refuse(account.rates.depart(), 50.0)
    with pytest.raises(GapsError, match="accepted no request for 50 s"):
        account.require_patience("target m", 100)


def test_an_accepted_request_renews_an_accounts_patience(clock: Clock) -> None:
    account = Account(clock)
    account.refuse(account.rates.depart(), 1.0)
    clock.now += 200
    account.accept(account.rates.depart(), Usage(600, 400))

    account.require_patience("target m", 100)
    assert account.rates.tokens_per_request == 1000


def test_patience_goes_on_while_another_run_joins(clock: Clock) -> None:
    account = Account(clock)
    with account.limit_to(Caps()):
        account.refuse(account.rates.depart(), 1.0)
        clock.now += 200
        with account.limit_to(Caps()), pytest.raises(GapsError):
            account.require_patience("target m", 100)


def test_a_name_is_one_account_however_its_address_is_written() -> None:
    accounts = Accounts()
    spellings = ["https://API.example.org/v1", "https://api.example.org/v1/", "https://api.example.org/v1"]

    assert len({id(accounts.find(each, [], "m")) for each in spellings}) == 1
    assert accounts.find(spellings[0] + "/X", [], "m") is not accounts.find(spellings[0], [], "m")
