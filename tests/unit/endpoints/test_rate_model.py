"""What rate is found, on a clock of its own, against every way in which providers count."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.limiters import (
    FixedWindow,
    LeakyBucket,
    Limiter,
    SlidingWindow,
    TokenBucket,
    WithStranger,
)
from vlsb.endpoints.headers import NamedLimit, Unit
from vlsb.endpoints.rate_limits import AIM, CATCH_UP_S, MINUTE_S, Caps, RateModel
from vlsb.records import Usage

REQUESTS = 4482
BURST = 50


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Seen:
    """What came of sending all requests: of the permitted used, of the sent refused, the busiest second."""

    used: float
    refused: float
    departures: tuple[float, ...]
    refusals: tuple[float, ...]

    def most_in_a_second(self, since: float, seconds: float) -> int:
        times = [moment for moment in self.departures if since <= moment < since + seconds]
        first, most = 0, 0
        for last, moment in enumerate(times):
            while moment - times[first] >= 1.0:
                first += 1
            most = max(most, last - first + 1)
        return most


def send_all(
    limiter: Limiter,
    *,
    says: bool,
    connections: int = 100,
    tokens: tuple[int, int] | None = None,
    share: float = 1.0,
    refused_at_random: float = 0.0,
    requests: int = REQUESTS,
) -> Seen:
    """Send everything through the model; the latency is lognormal, a refusal comes at once."""
    draws, clock, order = random.Random(3), Clock(), itertools.count()
    model = RateModel(Caps(), clock)
    arrivals: list[tuple[float, int, bool, object, object, int]] = []
    left, in_flight, served, departures, refusals = requests, 0, 0.0, [], []
    most = 1  # the preflight goes alone
    while left or in_flight:
        if left and in_flight < most and model.wait_s() <= 0:
            departure = model.depart()
            departures.append(clock.now)
            left, in_flight = left - 1, in_flight + 1
            units = 1 if tokens is None else draws.randint(*tokens)
            held_s = limiter.admit(clock.now, units)
            if draws.random() < refused_at_random:
                held_s = None
            unit = Unit.REQUESTS if tokens is None else Unit.TOKENS
            remaining, reset_s = math.floor(limiter.remaining(clock.now)), limiter.reset_s(clock.now)
            limits = [NamedLimit(unit, limiter.limit, remaining, reset_s)] if says else []
            delay_s = 0.01 if held_s is None else held_s + 0.5 * math.exp(0.4 * draws.gauss(0, 1))
            if held_s is not None:
                served += units
            due = (clock.now + delay_s, next(order), held_s is None, departure, limits, units)
            heapq.heappush(arrivals, due)  # type: ignore[misc]
            continue
        next_at = arrivals[0][0] if arrivals else math.inf
        if left and in_flight < most:
            next_at = min(next_at, clock.now + model.wait_s() + 0.0005)
        clock.now = max(clock.now, next_at)
        while arrivals and arrivals[0][0] <= clock.now:
            _, _, is_refused, departure, limits, units = heapq.heappop(arrivals)
            in_flight -= 1
            model.read_headers(departure, limits)  # type: ignore[arg-type]
            if is_refused:
                left += 1
                refusals.append(clock.now)
                model.refuse(departure)  # type: ignore[arg-type]
            else:
                model.settle(departure, None if tokens is None else Usage(units, 0))  # type: ignore[arg-type]
            most = connections if requests - left >= 2 else 1
    span_s = departures[-1] - departures[0]
    per_s = share * limiter.limit / limiter.period_s
    return Seen(
        served / (per_s * span_s), len(refusals) / len(departures), tuple(departures), tuple(refusals)
    )


def bucket() -> Limiter:
    return TokenBucket(3000, burst=BURST)


def nginx() -> Limiter:
    return TokenBucket(3600, burst=21)


@pytest.mark.parametrize(
    "limiter",
    [bucket, lambda: TokenBucket(3000), lambda: FixedWindow(3000), lambda: SlidingWindow(3000)],
    ids=["bucket", "bucket of a minute", "fixed windows", "sliding window"],
)
def test_a_limit_that_headers_name_is_used_by_97_percent_and_hardly_ever_met(
    limiter: Callable[[], Limiter],
) -> None:
    seen = send_all(limiter(), says=True)

    assert seen.used >= 0.97
    assert seen.refused <= 0.005


def test_a_limit_of_tokens_is_used_as_well_as_one_of_requests() -> None:
    seen = send_all(TokenBucket(3_000_000, burst=50_000), says=True, tokens=(400, 1600))

    assert seen.used >= 0.97
    assert seen.refused <= 0.005


@pytest.mark.parametrize("kind", [TokenBucket, FixedWindow, SlidingWindow])
@pytest.mark.parametrize("rpm", [3, 10])
def test_a_limit_of_a_few_requests_a_minute_is_used_by_60_percent(kind: type[Limiter], rpm: int) -> None:
    seen = send_all(kind(rpm), says=True, connections=16, requests=100)

    assert seen.used >= 0.6
    assert seen.refused <= 0.05


@pytest.mark.parametrize("limiter", [bucket, lambda: FixedWindow(3000)], ids=["bucket", "fixed windows"])
def test_what_a_stranger_takes_is_left_to_them(limiter: Callable[[], Limiter]) -> None:
    seen = send_all(WithStranger(limiter(), 1000 / 60), says=True, share=2 / 3)

    assert seen.used >= 0.97
    assert seen.refused <= 0.02


@pytest.mark.parametrize(
    "limiter",
    [
        bucket,
        nginx,
        lambda: LeakyBucket(3600, burst=21),
        lambda: FixedWindow(3000),
        lambda: SlidingWindow(3000),
        lambda: FixedWindow(500, 10.0),
    ],
    ids=["bucket", "nginx nodelay", "nginx", "fixed windows", "sliding window", "short windows"],
)
@pytest.mark.parametrize("connections", [64, 100])
def test_the_rate_of_a_silent_limiter_is_learned(limiter: Callable[[], Limiter], connections: int) -> None:
    seen = send_all(limiter(), says=False, connections=connections)

    assert seen.used >= 0.90
    assert seen.refused <= 0.03


def test_a_silent_limit_shared_with_a_stranger_is_learned_too() -> None:
    seen = send_all(WithStranger(bucket(), 1000 / 60), says=False, share=2 / 3)

    assert seen.used >= 0.90
    assert seen.refused <= 0.03


def test_after_a_pause_no_second_holds_more_than_the_rate_that_was_accepted() -> None:
    seen = send_all(FixedWindow(3000), says=False)
    reopened = max(seen.refusals)

    assert seen.most_in_a_second(reopened, 5.0) <= 1.2 * 3000 / 60


def test_refusals_at_random_do_not_slow_a_run_to_a_crawl() -> None:
    """A provider that refuses one of twenty, whatever the rate is."""
    seen = send_all(TokenBucket(1e9), says=False, refused_at_random=0.05, requests=2241)

    assert seen.departures[-1] - seen.departures[0] < 600


def test_a_steady_limiter_is_met_by_one_small_step_back_and_not_by_a_halving() -> None:
    clock = Clock()
    model = RateModel(Caps(), clock)
    model._learned.per_s = 50.0
    model._set_rates()
    assert model.rpm is not None
    for _ in range(200):
        clock.now += max(model.wait_s(), 0.001)
        departure = model.depart()
    before = model.rpm
    model.refuse(departure)
    for _ in range(3):
        clock.now += model.wait_s() + 0.001
        model.settle(model.depart())

    assert 0.9 * before <= model.rpm < before


# What the user allows.


def departures(model: RateModel, clock: Clock, *, seconds: float, late_s: float = 0.0) -> list[float]:
    """When requests leave if somebody always wants to; every wait ends `late_s` too late."""
    left: list[float] = []
    end = clock.now + seconds
    while clock.now < end:
        wait_s = model.wait_s()
        if wait_s > 0:
            clock.now += wait_s + late_s
        else:
            model.depart()
            left.append(clock.now)
    return left


def most_in_a_window(times: list[float], seconds: float) -> int:
    first, most = 0, 0
    for last, moment in enumerate(times):
        while moment - times[first] >= seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


@given(rpm=st.integers(10, 3000), late_s=st.floats(0.0, 0.05))
def test_no_minute_holds_more_than_the_cap_and_little_is_wasted(rpm: int, late_s: float) -> None:
    clock = Clock()
    model = RateModel(Caps(rpm=rpm), clock)

    times = departures(model, clock, seconds=5 * MINUTE_S, late_s=late_s)

    assert most_in_a_window(times, MINUTE_S) <= rpm + 1
    assert len(times) >= 0.95 * 5 * rpm - 2


def test_an_idle_minute_is_not_saved_up() -> None:
    clock = Clock()
    model = RateModel(Caps(rpm=600), clock)
    model.depart()

    clock.now += 10 * MINUTE_S
    burst = departures(model, clock, seconds=1.0)

    assert len(burst) <= 10 + 10 * CATCH_UP_S + 1


def test_a_cap_of_the_user_wins_where_it_is_lower_and_a_header_where_that_is() -> None:
    clock = Clock()
    model = RateModel(Caps(rpm=50), clock)
    assert model.rpm == pytest.approx(50 * AIM)

    model.read_headers(model.depart(), [NamedLimit(Unit.REQUESTS, 1200.0, 1199.0, 60.0)])
    assert model.rpm == pytest.approx(50 * AIM)

    model.read_headers(model.depart(), [NamedLimit(Unit.REQUESTS, 20.0, 18.0, 50.0)])
    assert model.rpm is not None
    assert model.rpm <= 25


def test_nothing_leaves_before_the_reset_when_nothing_is_left() -> None:
    clock = Clock()
    model = RateModel(Caps(), clock)

    model.read_headers(model.depart(), [NamedLimit(Unit.REQUESTS, 600.0, 0.0, 12.5)])

    assert model.wait_s() == pytest.approx(12.5)


def test_a_window_that_is_used_up_as_soon_as_it_begins_is_waited_for() -> None:
    clock = Clock()
    model = RateModel(Caps(), clock)
    model.read_headers(model.depart(), [NamedLimit(Unit.REQUESTS, 2.0, 1.0, 60.0)])

    clock.now += 0.1
    model.read_headers(model.depart(), [NamedLimit(Unit.REQUESTS, 2.0, 0.0, 59.9)])

    assert model.wait_s() == pytest.approx(59.9)


def test_a_bucket_that_is_used_up_is_not_waited_for_until_it_is_full() -> None:
    clock = Clock()
    model = RateModel(Caps(), clock)
    model.read_headers(model.depart(), [NamedLimit(Unit.REQUESTS, 600.0, 599.0, 0.1)])

    clock.now += 0.1
    model.read_headers(model.depart(), [NamedLimit(Unit.REQUESTS, 600.0, 0.0, 59.9)])

    assert model.wait_s() < 6


def test_a_limit_of_a_day_is_no_pace() -> None:
    clock = Clock()
    model = RateModel(Caps(), clock)

    model.read_headers(model.depart(), [NamedLimit(Unit.REQUESTS, 14400.0, 14399.0, 86000.0, 86400.0)])
    model.read_headers(model.depart(), [NamedLimit(Unit.REQUESTS, 14400.0, 14370.0, 179.5)])

    assert model.rpm is None
    assert model.wait_s() == 0


NAMED = st.builds(
    NamedLimit,
    st.sampled_from(list(Unit)),
    st.none() | st.floats(0, 1e12),
    st.none() | st.floats(0, 1e12),
    st.none() | st.floats(1e-3, 1e5),
    st.none() | st.sampled_from([1.0, 10.0, 60.0, 86400.0]),
)
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("depart"), st.none()),
        st.tuples(st.just("arrive"), st.integers(0, 10**8)),
        st.tuples(st.just("refuse"), st.none() | st.floats(0.01, 100)),
        st.tuples(st.just("hear"), NAMED),
        st.tuples(st.just("wait"), st.floats(0, 100)),
    ),
    max_size=80,
)


@given(EVENTS)
def test_whatever_happens_a_request_may_leave_some_time(events: list[tuple[str, object]]) -> None:
    clock = Clock()
    model = RateModel(Caps(), clock)
    out = []
    for kind, value in events:
        if kind == "depart" and model.wait_s() == 0:
            out.append(model.depart())
        elif kind == "wait":
            clock.now += float(value)  # type: ignore[arg-type]
        elif out and kind == "arrive":
            model.settle(out.pop(), Usage(int(value), 0))  # type: ignore[call-overload]
        elif out and kind == "refuse":
            model.refuse(out.pop(), value)  # type: ignore[arg-type]
        elif out and kind == "hear":
            model.read_headers(out[-1], [value])  # type: ignore[list-item]
        assert model.wait_s() >= 0

    for _ in range(1000):
        if (wait_s := model.wait_s()) == 0:
            break
        clock.now += wait_s + 1e-6
    assert model.wait_s() == 0
