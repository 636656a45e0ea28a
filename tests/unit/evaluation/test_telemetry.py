"""Where the time of a run went: the file of `--profile`, and the line that says what limited it."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import isclose
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import PROJECT
from tests.support.command import Desk, Vlsb, run_words
from tests.support.datasets import sharing_rows, write_dataset
from tests.support.endpoint import labelling, persona
from vlsb.endpoints.timings import HeadOfLine, Moments, Timings, Wait
from vlsb.evaluation.telemetry import CAUSES, SHORTEST_S, Clocks, ModelTimings, Profile, find_limit
from vlsb.simulator import Action, Request, SimulatorThread, rate_limited
from vlsb.steps import Durations

MAIN_S = 100.0
_SECONDS = st.floats(0.0, 1e6, allow_nan=False)
DOCS = PROJECT / "docs"


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# Durations and waits.


def test_count_and_sum_are_all_that_is_kept_of_a_step() -> None:
    durations = Durations()
    durations.add(1.0)
    durations.add(2.0)

    assert durations.describe() == {"count": 2, "total_s": 3.0, "mean_s": 1.5}
    assert Durations().describe() == {"count": 0, "total_s": 0.0, "mean_s": 0.0}


@given(st.lists(st.tuples(st.sampled_from(list(Wait)), st.floats(0.0, 100.0)), max_size=30))
def test_the_waits_of_the_head_of_the_line_add_up_to_all_time(waits: list[tuple[Wait, float]]) -> None:
    clock = Clock()
    head = HeadOfLine(clock)
    for what, seconds in waits:
        head.waits_for(what)
        clock.now += seconds

    found = {what: head.waited_s(what) for what in Wait}

    for what in Wait:
        assert isclose(found[what], sum(s for each, s in waits if each is what), abs_tol=1e-6)


def test_a_pause_counts_for_everybody_in_line_only_as_long_as_they_stood_there() -> None:
    clock = Clock()
    timings = Timings(clock)
    timings.head.waits_for(Wait.RATE)
    clock.now += 10.0
    late = timings.head.pauses_s()
    clock.now += 2.0
    timings.head.waits_for(Wait.CONNECTION)
    clock.now += 1.0
    timings.head.waits_for(Wait.NOTHING)

    timings.add_queueing(3.0, late)

    steps = {name: timings.steps[name].total_s for name in ("slot", "rate", "outage")}
    assert steps == {"slot": 1.0, "rate": 2.0, "outage": 0.0}


def test_a_request_that_broke_off_counts_only_in_the_steps_it_came_to() -> None:
    timings = Timings(Clock())
    marks = Moments()
    marks.opened_at = marks.began_at + 1.0

    timings.add_exchange(marks)

    assert {name for name, step in timings.steps.items() if step.count} == {"connect", "request"}


# What limited a session.


def a_lane(blocked: Mapping[str, float] | None = None, **changes: Any) -> ModelTimings:
    """A lane for which nothing could leave for so many seconds, by cause."""
    clock = Clock()
    timings = Timings(clock)
    for name, seconds in (blocked or {}).items():
        timings.head.waits_for(CAUSES[name])
        clock.now += seconds
    timings.head.waits_for(Wait.NOTHING)
    means = {"request": 2.0, "first_byte": 1.9, "body": 0.01, "upload": 0.1, "room": 0.0}
    for name, usual in means.items():
        timings.steps[name].add(changes.pop(f"{name}_s", usual))
    lane = ModelTimings(
        timings=timings,
        requests=1000,
        rate_limited=0,
        connections=100,
        ceiling=100,
        wanted=100,
        alone_s=1.5,
        limits={},
        caps={"rpm": None, "tpm": None},
        tokens_per_request=0.0,
    )
    return replace(lane, **changes)


def a_profile(
    target: ModelTimings, judge: ModelTimings | None = None, *, cpu_s: float = 10.0, **changes: Any
) -> Profile:
    clocks = Clocks(preflight_s=3.0, main_s=MAIN_S, cpu_s=cpu_s, loop_cpu_s=0.6 * cpu_s)
    return replace(Profile(clocks, {"target": target, "judge": judge or a_lane()}, {}), **changes)


TIED_UP = {"slot": 90.0}
PACED = {"rate": 90.0}
RPM = {"limits": {"rpm": 600.0}}
CAPPED = {**RPM, "caps": {"rpm": 600.0, "tpm": None}}
BOTH = {"limits": {"rpm": 6000.0, "tpm": 300000.0}, "tokens_per_request": 500.0}

LINES: dict[str, tuple[Profile, str, str]] = {
    "connections": (
        a_profile(a_lane(TIED_UP)),
        "connections",
        "Limited by the target's latency at 100 connections: try --max-connections 200.",
    ),
    "the judge's connections": (
        a_profile(a_lane({"slot": 40.0}), a_lane(TIED_UP, connections=1, ceiling=1, wanted=1)),
        "connections",
        "Limited by the judge's latency at 1 connection: try --judge-max-connections 2.",
    ),
    "few open files": (
        a_profile(a_lane(TIED_UP, connections=20, ceiling=20)),
        "connections",
        "Limited by the target's latency at 20 connections: raise `ulimit -n`.",
    ),
    "as many connections as can be asked for": (
        a_profile(a_lane(TIED_UP, connections=4096, ceiling=4096, wanted=4096)),
        "connections",
        "Limited by the target's latency at 4096 connections.",
    ),
    "an endpoint that slows down": (
        a_profile(a_lane(TIED_UP, request_s=8.1, alone_s=0.9)),
        "endpoint",
        "Limited by the target: 8.1 s a request at 100 connections, 0.90 s alone.",
    ),
    "an endpoint that seems to slow down because this process is late": (
        a_profile(a_lane({"slot": 70.0, "loop": 20.0}, request_s=0.2, first_byte_s=0.19, alone_s=0.04)),
        "connections",
        "Limited by the target's latency at 100 connections: try --max-connections 200.",
    ),
    "a named limit": (
        a_profile(a_lane(PACED, **RPM)),
        "rate",
        "Limited by the target's rate limit, 600 requests a minute.",
    ),
    "the tighter of two": (
        a_profile(a_lane(PACED, **BOTH)),
        "rate",
        "Limited by the target's rate limit, 300000 tokens a minute.",
    ),
    "one's own limit, shared by nine replicas": (
        a_profile(a_lane(PACED, limits={"rpm": sum([10.0 / 9] * 9)}, caps={"rpm": 10.0, "tpm": None})),
        "rate",
        "Limited by --rpm 10.",
    ),
    "one's own limit": (a_profile(a_lane(PACED, **CAPPED)), "rate", "Limited by --rpm 600."),
    "one's own limit of the judge": (
        a_profile(a_lane(), a_lane(PACED, **CAPPED)),
        "rate",
        "Limited by --judge-rpm 600.",
    ),
    "an unnamed limit": (
        a_profile(a_lane(PACED, rate_limited=37)),
        "rate",
        "Limited by the target's rate limit (429 x37): try --rpm with your tier's number.",
    ),
    "a limit far below the named one": (
        a_profile(a_lane(PACED, rate_limited=37, limits={"rpm": 30000.0})),
        "rate",
        "Limited by the target's rate limit (429 x37): try --rpm with your tier's number.",
    ),
    "connections that rate limits cut": (
        a_profile(a_lane(TIED_UP, rate_limited=12, connections=13)),
        "rate",
        "Limited by the target's rate limit (429 x12): try --rpm with your tier's number.",
    ),
    "one endpoint for both": (
        a_profile(a_lane({"rate": 80.0}, **RPM), a_lane(PACED, **RPM), shares_account=True),
        "rate",
        "Limited by the endpoint's rate limit, 600 requests a minute.",
    ),
    "one endpoint with a cap of the judge's": (
        a_profile(a_lane(PACED, **RPM), a_lane(PACED, **CAPPED), shares_account=True),
        "rate",
        "Limited by --judge-rpm 600.",
    ),
    "an outage": (
        a_profile(a_lane({"outage": 61.0, "slot": 30.0})),
        "outage",
        "Limited by outages: the target was down for 61 s.",
    ),
    "the processor": (
        a_profile(a_lane(TIED_UP), cpu_s=98.0),
        "processor",
        "Limited by the processor: vlsb got 98 % of a core.",
    ),
    "a processor shared with others": (
        a_profile(a_lane({"slot": 60.0, "loop": 30.0}), cpu_s=51.0),
        "processor",
        "Limited by the processor: vlsb got 51 % of a core.",
    ),
    "bodies built too slowly": (
        a_profile(a_lane(TIED_UP, body_s=2.5), cpu_s=51.0),
        "processor",
        "Limited by the processor: vlsb got 51 % of a core.",
    ),
    "waiting for bodies to be built": (
        a_profile(a_lane(TIED_UP, body_s=0.2, room_s=2.0), cpu_s=51.0),
        "processor",
        "Limited by the processor: vlsb got 51 % of a core.",
    ),
    "a narrow line": (
        a_profile(a_lane(TIED_UP, request_s=4.0, upload_s=3.1, first_byte_s=0.9, alone_s=0.95)),
        "upload",
        "Limited by the upload: 3.1 s a request, then 0.90 s to wait.",
    ),
    "waiting for bodies to be sent": (
        a_profile(a_lane(TIED_UP, upload_s=1.0, first_byte_s=1.5, room_s=2.0)),
        "upload",
        "Limited by the upload: 3.0 s a request, then 1.5 s to wait.",
    ),
    "the other transport": (
        a_profile(a_lane(TIED_UP), cpu_s=98.0, transport="httpx"),
        "processor",
        "Limited by the processor: vlsb got 98 % of a core. Try --transport auto.",
    ),
    "latency": (
        a_profile(a_lane({"slot": 5.0}, request_s=30.0), a_lane(request_s=14.2)),
        "latency",
        "Limited by the target's latency, 30.0 s a request: hardly one had to wait.",
    ),
}


@pytest.mark.parametrize("name", LINES)
def test_the_line_says_what_limited_a_session_and_which_flag_helps(name: str) -> None:
    profile, cause, line = LINES[name]

    limit = find_limit(profile)

    assert limit is not None
    assert (limit.cause, limit.line) == (cause, line)
    assert 0 < limit.share <= 1


def test_a_rate_limit_is_named_before_a_processor_that_is_busy_too() -> None:
    limit = find_limit(a_profile(a_lane(PACED, **RPM), cpu_s=99.0))

    assert limit is not None
    assert limit.cause == "rate"


@pytest.mark.parametrize(
    "profile",
    [
        a_profile(a_lane(TIED_UP), clocks=Clocks(9.0, SHORTEST_S - 0.1, 9.0, 9.0)),
        a_profile(a_lane({"slot": 10.0, "rate": 10.0})),
        Profile(Clocks(0.0, MAIN_S, 1.0, 1.0), {}, {}),
    ],
    ids=["too short", "nothing stands out", "no lane"],
)
def test_where_nothing_can_be_told_nothing_is_said(profile: Profile) -> None:
    assert find_limit(profile) is None


# The file.

REQUEST_STEPS = (
    "slot",
    "rate",
    "outage",
    "room",
    "body",
    "connect",
    "upload",
    "first_byte",
    "reply",
    "request",
)


def profile_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text("ascii"))
    return found


def strings(value: Any) -> Iterator[str]:
    """Every string in a document that is not a key."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from strings(each)


@pytest.mark.parametrize("transport", ["auto", "httpx"])
def test_every_request_is_in_every_step_of_its_lane(tmp_path: Path, transport: str) -> None:
    desk = Desk(tmp_path, samples=6)
    with SimulatorThread(labelling()) as target, SimulatorThread(labelling()) as judge:
        words = ("--profile", "p.json", "--transport", transport)
        done = desk.run(target, *words, judge=judge)

    assert done.code == 0, done.err
    profile = profile_of(desk.home / "p.json")
    assert set(profile["lanes"]) == {"target", "judge"}
    for lane in profile["lanes"].values():
        steps = lane["steps"]
        assert lane["requests"] == 6
        assert {name: steps[name]["count"] for name in (*REQUEST_STEPS, "total")} == dict.fromkeys(
            (*REQUEST_STEPS, "total"), 6
        )
        assert steps["retry"]["count"] == 0
        parts = sum(steps[name]["total_s"] for name in ("connect", "upload", "first_byte", "reply"))
        assert isclose(parts, steps["request"]["total_s"], rel_tol=0.01, abs_tol=0.001)
        assert steps["total"]["total_s"] >= steps["request"]["total_s"]
    # Six responses, six verdicts, and what the session says of itself.
    assert profile["store"]["write"]["count"] >= 12
    assert profile["store"]["sync"]["count"] >= 1
    assert profile["main_s"] > 0
    assert profile["preflight_s"] > 0


def test_the_file_holds_numbers_only_and_is_its_owners(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    with SimulatorThread(labelling()) as simulator:
        done = desk.run(simulator, "--profile", "p.json")

    assert done.code == 0, done.err
    path = desk.home / "p.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    profile = profile_of(path)
    assert set(strings(profile)) == {profile["vlsb"]}
    # Four samples take no time: nothing can be told, and nothing is said.
    assert profile["limited_by"] is None
    assert "Limited by" not in done.err


def test_retries_and_rate_limits_are_counted(tmp_path: Path) -> None:
    desk = Desk(tmp_path, samples=3)
    refused: set[str] = set()

    def once_refused(request: Request) -> Action:
        if not request.is_judge and request.identity not in refused:
            refused.add(request.identity)
            return rate_limited(0.01)
        return labelling()(request)

    with SimulatorThread(once_refused) as simulator:
        done = desk.run(simulator, "--profile", "p.json", "--max-connections", "1")

    assert done.code == 0, done.err
    target = profile_of(desk.home / "p.json")["lanes"]["target"]
    assert (target["requests"], target["rate_limited"], target["steps"]["retry"]["count"]) == (6, 3, 3)
    assert (target["steps"]["request"]["count"], target["steps"]["total"]["count"]) == (6, 3)
    assert target["blocked_s"]["rate"] > 0


def test_a_session_that_was_stopped_writes_its_profile_too_and_the_next_one_writes_it_anew(
    tmp_path: Path,
) -> None:
    desk = Desk(tmp_path, samples=4)
    with SimulatorThread(labelling()) as simulator:
        stopped = desk.run(simulator, "--profile", "p.json", "--max-requests", "3")
        first = profile_of(desk.home / "p.json")
        ended = desk.run(simulator, "--profile", "p.json", "--resume")
        second = profile_of(desk.home / "p.json")

    assert (stopped.code, ended.code) == (4, 0)
    sent = [sum(lane["requests"] for lane in each["lanes"].values()) for each in (first, second)]
    assert sent == [3, 5]


def test_judging_has_a_profile_of_the_judges_lane_alone(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    with SimulatorThread(labelling()) as simulator:
        assert desk.run(simulator).code == 0
        words = ("--judge", "another", "--judge-base-url", simulator.base_url, "--data-root", desk.data)
        done = desk.vlsb("judge", desk.run_dir, *words, "--profile", "p.json")

    assert done.code == 0, done.err
    profile = profile_of(desk.home / "p.json")
    assert {lane: found["requests"] for lane, found in profile["lanes"].items()} == {"judge": 4}


@pytest.mark.parametrize("place", ["missing/p.json", "."])
def test_a_place_that_takes_no_file_is_found_before_anything_is_sent(tmp_path: Path, place: str) -> None:
    desk = Desk(tmp_path)
    with SimulatorThread(labelling()) as simulator:
        done = desk.run(simulator, "--profile", place)
        sent = simulator.requests

    assert (done.code, sent) == (2, 0)
    assert done.error.startswith(f"Error: --profile {place}: ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_profile_that_cannot_be_written_costs_no_result(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    with SimulatorThread(labelling()) as simulator:
        done = desk.run(simulator, "--profile", "/dev/full")

    assert done.code == 5
    assert "the profile cannot be written" in done.error
    assert "unsafe" in done.out
    assert desk.outcomes() == {"unsafe": 4}


def test_the_line_is_the_last_one_and_not_part_of_the_result(tmp_path: Path) -> None:
    """No run here is long enough to tell: this one takes the shortest for long, whatever the machine does."""
    vlsb = Vlsb(tmp_path)
    prelude = (
        "from vlsb.evaluation import telemetry as limiting\n"
        "limiting.SHORTEST_S = limiting.WORTH_SAYING = 0.0\n"
        "limiting._is_busy = lambda clocks: True\n"
    )
    with SimulatorThread(persona) as simulator:
        words = run_words(simulator, write_dataset(tmp_path / "data", sharing_rows(8)), "--judge-rpm", "6000")
        ended = vlsb(*words, "--max-connections", "1", prelude=prelude)

    assert ended.code == 0, ended.err
    assert ended.last.startswith("Limited by ")
    assert "Limited" not in ended.out


# The documentation.


def test_every_field_step_and_cause_of_a_profile_is_documented() -> None:
    schema = (DOCS / "reference" / "schemas" / "profile.json").read_text("utf-8")
    durations = Durations()
    durations.add(1.0)

    fields = {*a_lane().describe(), *CAUSES, *Timings.STEPS, *durations.describe()}
    causes = {cause for _, cause, _ in LINES.values()}

    assert [name for name in fields if f'"{name}": {{' not in schema] == []
    assert [cause for cause in causes if f"`{cause}`" not in schema] == []
