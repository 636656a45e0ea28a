"""The connection limit: a pure controller, driven by a clock of our own."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from vlsb.endpoints.connections import COOLDOWN_S, ConnectionLimit, Phase


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class ModelSettings:
    """A limit with its clock, and shorthands for what a busy lane tells it."""

    start: int = 16
    ceiling: int = 100
    floor: int = 4
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.limit = ConnectionLimit(
            start=self.start, ceiling=self.ceiling, floor=self.floor, clock=self.clock
        )

    def round(self, *, in_flight: int | None = None, is_retry: bool = False) -> None:
        """As many answers as the limit, the lane being full."""
        for _ in range(self.limit.limit):
            self.limit.count_success(in_flight=in_flight or self.limit.limit, is_retry=is_retry)


def test_slow_start_doubles_each_clean_round_up_to_the_ceiling() -> None:
    lane = ModelSettings()
    seen = []

    for _ in range(5):
        lane.round()
        seen.append(lane.limit.limit)

    assert seen == [32, 64, 100, 100, 100]
    assert lane.limit.phase is Phase.CEILING


def test_the_first_episode_cuts_once_and_ends_slow_start() -> None:
    lane = ModelSettings(start=50)

    lane.limit.refuse(pause_s=1.0)
    lane.clock.now = COOLDOWN_S + 1
    lane.round()

    assert lane.limit.limit == 42  # 50 x 0.8, then 5 % more
    assert lane.limit.phase is Phase.GROWING


def test_a_long_pause_extends_the_episode() -> None:
    lane = ModelSettings(start=50)

    lane.limit.refuse(pause_s=100.0)
    lane.clock.now = 99.0
    lane.limit.refuse(pause_s=1.0)

    assert lane.limit.limit == 40


def test_answers_during_an_episode_do_not_raise_the_limit() -> None:
    lane = ModelSettings(start=50)

    lane.limit.refuse(pause_s=1.0)
    lane.round()
    lane.round()

    assert lane.limit.limit == 40


def test_slow_down_starts_over_from_a_lower_limit() -> None:
    lane = ModelSettings(start=64)

    lane.limit.refuse(pause_s=1.0, too_steep=True)
    lane.clock.now = COOLDOWN_S + 1
    lane.round()

    assert lane.limit.limit == 64  # halved to 32, then doubled again


def test_server_errors_freeze_growth_and_never_cut() -> None:
    lane = ModelSettings()

    for _ in range(10):
        for _ in range(lane.limit.limit - 1):
            lane.limit.count_success(in_flight=16, is_retry=False)
        lane.limit.begin_round()

    assert lane.limit.limit == 16


def test_a_limit_that_is_not_in_the_way_does_not_grow() -> None:
    lane = ModelSettings()

    for _ in range(10):
        lane.round(in_flight=3)

    assert lane.limit.limit == 16


def test_retries_say_nothing_about_a_higher_limit() -> None:
    lane = ModelSettings()

    lane.round(is_retry=True)

    assert lane.limit.limit == 16


def test_an_explicit_number_starts_there_and_is_the_ceiling() -> None:
    lane = ModelSettings(start=7, ceiling=7)

    lane.round()
    before = lane.limit.limit
    lane.limit.refuse(pause_s=0.1)

    assert (before, lane.limit.limit) == (7, 5)


EVENTS = st.one_of(
    st.tuples(st.just("succeeded"), st.integers(1, 200), st.booleans()),
    st.tuples(st.just("limited"), st.floats(0, 120), st.booleans()),
    st.tuples(st.just("faltered"), st.none(), st.none()),
    st.tuples(st.just("wait"), st.floats(0, 60), st.none()),
)


@given(
    start=st.integers(1, 300),
    ceiling=st.integers(1, 200),
    floor=st.integers(1, 20),
    events=st.lists(EVENTS, max_size=200),
)
def test_the_limit_never_leaves_its_bounds_and_is_cut_at_most_once_an_episode(
    start: int, ceiling: int, floor: int, events: list[tuple]
) -> None:
    lane = ModelSettings(start=start, ceiling=ceiling, floor=floor)
    cuts: list[float] = []

    for kind, value, flag in events:
        before = lane.limit.limit
        if kind == "succeeded":
            lane.limit.count_success(in_flight=value, is_retry=flag)
        elif kind == "limited":
            lane.limit.refuse(pause_s=value, too_steep=flag)
        elif kind == "faltered":
            lane.limit.begin_round()
        else:
            lane.clock.now += value

        assert min(floor, ceiling) <= lane.limit.limit <= ceiling
        if lane.limit.limit < before:
            cuts.append(lane.clock.now)
    assert all(later - earlier >= COOLDOWN_S for earlier, later in itertools.pairwise(cuts))


@given(episodes=st.integers(1, 30))
def test_the_limit_recovers_after_any_number_of_episodes(episodes: int) -> None:
    lane = ModelSettings(start=64)
    for _ in range(episodes):
        lane.limit.refuse(pause_s=1.0)
        lane.clock.now += COOLDOWN_S + 1

    for _ in range(200):
        lane.round()

    assert lane.limit.limit == lane.ceiling
