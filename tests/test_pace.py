"""Departures a minute: a fake clock, a fake provider window, and the limit that both keep."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlsb.endpoints.pace import CATCH_UP_S, MINUTE_S, Caps, Pace


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def departures(pace: Pace, clock: Clock, *, seconds: float, late_s: float = 0.0) -> list[float]:
    """When requests leave if somebody always wants to; every wait ends `late_s` too late."""
    left: list[float] = []
    end = clock.now + seconds
    while clock.now < end:
        wait_s = pace.wait_s()
        if wait_s > 0:
            clock.now += wait_s + late_s
        else:
            pace.depart()
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
    pace = Pace(Caps(rpm=rpm), clock)

    times = departures(pace, clock, seconds=5 * MINUTE_S, late_s=late_s)

    assert most_in_a_window(times, MINUTE_S) <= rpm
    assert len(times) >= 0.95 * 5 * rpm - 2


def test_without_a_limit_nothing_waits() -> None:
    pace = Pace(Caps(), Clock())

    for _ in range(1000):
        pace.depart()

    assert pace.wait_s() == 0.0
    assert (pace.rpm, pace.tpm) == (None, None)


def test_an_idle_minute_is_not_saved_up() -> None:
    clock = Clock()
    pace = Pace(Caps(rpm=60), clock)
    pace.depart()

    clock.now += 10 * MINUTE_S
    burst = departures(pace, clock, seconds=1.0)

    assert len(burst) <= 2 + CATCH_UP_S


def test_tokens_are_learned_from_usage_and_keep_their_cap() -> None:
    clock = Clock()
    pace = Pace(Caps(tpm=60_000), clock)
    spent: list[tuple[float, int]] = []

    end = clock.now + 5 * MINUTE_S
    while clock.now < end:
        if wait_s := pace.wait_s():
            clock.now += wait_s
        booked = pace.depart()
        spent.append((clock.now, 1000))
        pace.arrived(booked=booked, tokens=1000)

    total = sum(tokens for _, tokens in spent)
    assert pace.tokens_per_request == pytest.approx(1000)
    assert 0.9 * 300_000 <= total <= 300_000 + 2000


def test_what_was_booked_too_much_is_given_back() -> None:
    clock = Clock()
    pace = Pace(Caps(tpm=6000), clock)
    pace.arrived(booked=pace.depart(), tokens=1000)
    clock.now += MINUTE_S

    booked = pace.depart()
    waits_before = pace.wait_s()
    pace.arrived(booked=booked, tokens=10)

    assert pace.wait_s() < waits_before


def test_a_limit_is_learned_from_headers_and_the_lower_cap_wins() -> None:
    clock = Clock()
    pace, capped = Pace(Caps(), clock), Pace(Caps(rpm=50), clock)
    headers = {"x-ratelimit-limit-requests": "1200", "x-ratelimit-limit-tokens": "90000"}

    pace.heard(headers, now=0.0)
    capped.heard(headers, now=0.0)

    assert (pace.rpm, pace.tpm) == (1200.0, 90000.0)
    assert capped.rpm == 50.0


def test_nothing_leaves_before_the_reset_when_nothing_remains() -> None:
    clock = Clock()
    pace = Pace(Caps(), clock)

    pace.heard(
        {
            "x-ratelimit-limit-requests": "600",
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": "12.5s",
        },
        now=0.0,
    )

    assert pace.wait_s() == pytest.approx(12.5)


@given(st.dictionaries(st.sampled_from(["limit", "remaining", "reset"]), st.text(max_size=12)))
def test_nonsense_in_headers_neither_raises_nor_blocks(values: dict[str, str]) -> None:
    pace = Pace(Caps(), Clock())

    pace.heard({f"x-ratelimit-{what}-requests": text for what, text in values.items()}, now=0.0)

    assert 0.0 <= pace.wait_s() <= MINUTE_S
