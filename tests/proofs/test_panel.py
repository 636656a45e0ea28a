"""What is shown while a run is going: the panel on a terminal, lines without one, or nothing."""

from __future__ import annotations

import asyncio
import fcntl
import io
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from tests.support.waiting import DEADLINE_S
from vlsb.cli.live import Display, chosen_display
from vlsb.cli.screen import Screen
from vlsb.cli.views import PHASES_FROM, Panel
from vlsb.endpoints.connections import Phase
from vlsb.endpoints.timings import Wait
from vlsb.errors import ConfigError
from vlsb.evaluation.progress import ModelView, Progress
from vlsb.records import Outcome, Untrusted

QUIET = ModelView(
    done=0,
    in_flight=0,
    limit=16,
    phase=Phase.SLOW_START.value,
    answered=0,
    rate_limited=0,
    closed_for_s=0.0,
    is_down=False,
    waits_for=Wait.NOTHING,
    rpm=None,
    tpm=None,
    failures={},
)
LANES = {"target": QUIET, "judge": QUIET}
ALL_FAILURES = [outcome for outcome in Outcome if outcome.value.startswith(("target_", "judge_"))]


@dataclass
class HandMade(Progress):
    """Progress whose lanes are given instead of asked."""

    views: Mapping[str, ModelView] = field(default_factory=lambda: LANES)

    def models(self) -> dict[str, ModelView]:
        return dict(self.views)


def progress(
    outcomes: Mapping[Outcome, int] | None = None,
    *,
    selected: int = 2241,
    kept: int = 0,
    target: ModelView = QUIET,
    judge: ModelView | None = QUIET,
) -> HandMade:
    views = {"target": target} if judge is None else {"target": target, "judge": judge}
    ended = Counter(outcomes or {})
    ended[Outcome.NOT_ATTEMPTED] += selected - ended.total()
    # Only their names count: whoever asks the clients themselves fails.
    clients: Any = dict.fromkeys(views)
    return HandMade(
        run=Untrusted("first-try"),
        target=Untrusted("gpt-4o"),
        judge=None if judge is None else Untrusted("gpt-4o-mini"),
        selected=selected,
        kept=kept,
        clients=clients,
        outcomes=ended,
        views=views,
    )


def drawn(panel: Panel, now: float, width: int) -> list[str]:
    """The panel's lines on a terminal of that width."""
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False, emoji=False)
    console.print(panel.draw(now, width=width))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().rstrip("\n").split("\n")]


def shown(shown_progress: HandMade, *, width: int = 80, elapsed_s: float = 10.0) -> str:
    return "\n".join(drawn(Panel(shown_progress, began=100.0), 100.0 + elapsed_s, width))


def row(text: str, lane: str) -> list[str]:
    """The cells of a lane's row, by the two blanks between them."""
    line = next(each for each in text.split("\n") if each.startswith(lane))
    return re.split(r"\s{2,}", line)


# The panel.


def after(panel: Panel, seconds: float, width: int = 80) -> str:
    """The panel at its end, when it was drawn every quarter of a second for so long."""
    lines: list[str] = []
    for frame in range(int(4 * seconds) + 1):
        lines = drawn(panel, panel.began + frame / 4, width)
    return "\n".join(lines)


def test_the_title_names_run_target_and_judge() -> None:
    lines = shown(progress()).split("\n")

    assert lines[0] == "first-try · target gpt-4o · judge gpt-4o-mini"
    assert shown(progress(judge=None)).startswith("first-try · target gpt-4o · no judge\n")


def test_a_title_that_is_too_long_is_cut_at_its_end() -> None:
    named = progress()
    named.judge = Untrusted("a-judge-with-a-name-" * 9)

    first = shown(named, width=60).split("\n")[0]

    assert first.startswith("first-try · target gpt-4o · judge a-judge")
    assert first.endswith("…")


def test_no_name_of_a_stranger_acts_on_the_terminal() -> None:
    named = progress()
    named.target = Untrusted("\x1b[2Jevil\nsafe so far 99 %")

    assert "target evil safe so far 99 % ·" in shown(named)
    assert "\x1b" not in shown(named)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_panel_shows_what_target_and_judge_do(width: int) -> None:
    target = replace(QUIET, done=1500, in_flight=64, limit=100, phase=Phase.CEILING.value, answered=1600)
    judge = replace(QUIET, done=1400, in_flight=9, limit=32, phase=Phase.SLOW_START.value, answered=1450)

    text = shown(progress(target=target, judge=judge), width=width)

    phases = (", cap", ", slow start") if width >= PHASES_FROM else ("", "")
    assert row(text, "target") == ["target", "1,500", f"64 of 100{phases[0]}", "-", "-"]
    assert row(text, "judge") == ["judge", "1,400", f"9 of 32{phases[1]}", "-", "-"]
    assert re.search(r"done +in flight +per min +waiting for", text)


@pytest.mark.parametrize("phase", Phase)
def test_a_wide_panel_says_why_the_number_of_connections_is_what_it_is(phase: Phase) -> None:
    text = shown(progress(target=replace(QUIET, limit=77, phase=phase.value)), width=PHASES_FROM)

    assert f"0 of 77, {phase.value}" in row(text, "target")


def test_requests_a_minute_are_the_answers_of_the_last_half_minute() -> None:
    panel = Panel(progress(target=QUIET), began=0.0)

    drawn(panel, 0.0, 80)
    panel.progress = progress(target=replace(QUIET, answered=600))
    drawn(panel, 30.0, 80)
    panel.progress = progress(target=replace(QUIET, answered=650))
    lines = drawn(panel, 60.0, 80)

    assert row("\n".join(lines), "target")[3] == "100"


def test_a_side_without_answers_for_a_while_has_a_rate_of_zero() -> None:
    panel = Panel(progress(target=replace(QUIET, answered=9, in_flight=16)), began=0.0)

    drawn(panel, 0.0, 80)
    lines = drawn(panel, 9.0, 80)

    assert row("\n".join(lines), "target")[3] == "0"


@pytest.mark.parametrize(
    ("changes", "waiting"),
    [
        ({}, "-"),
        ({"rate_limited": 3}, "-"),
        ({"closed_for_s": 12.4}, "rate-limit pause 12 s"),
        ({"closed_for_s": 0.2}, "-"),
        ({"waits_for": Wait.CONNECTION}, "connections"),
        ({"waits_for": Wait.LOOP}, "-"),
        ({"waits_for": Wait.RATE, "rpm": 500.0}, "requests per minute"),
        ({"waits_for": Wait.RATE, "rpm": 500.0, "tpm": 9000.0}, "requests per minute"),
        ({"waits_for": Wait.RATE, "tpm": 9000.0}, "tokens per minute"),
        ({"waits_for": Wait.OUTAGE, "is_down": True}, "outage detected"),
        ({"is_down": True, "rate_limited": 3, "closed_for_s": 12.0}, "outage detected"),
    ],
)
@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_side_says_what_it_waits_for(changes: dict[str, Any], waiting: str, width: int) -> None:
    text = shown(progress(judge=replace(QUIET, **changes)), width=width)

    assert row(text, "judge")[4] == waiting
    assert row(text, "target")[4] == "-"


def test_a_side_that_stalls_says_for_how_long_nothing_was_answered() -> None:
    stalled = Panel(progress(judge=replace(QUIET, in_flight=9, waits_for=Wait.CONNECTION)), began=50.0)

    assert row(after(stalled, 9.75), "judge")[4] == "connections"
    assert row(after(stalled, 12), "judge")[4] == "no answer for 12 s"


@pytest.mark.parametrize(
    "reply", [{"answered": 1}, {"rate_limited": 1}, {"failures": {Outcome.JUDGE_BLOCKED: 1}}], ids=str
)
def test_whatever_comes_back_ends_a_silence(reply: dict[str, Any]) -> None:
    busy = replace(QUIET, in_flight=9)
    panel = Panel(progress(judge=busy), began=0.0)

    assert row(after(panel, 30), "judge")[4] == "no answer for 30 s"
    panel.progress = progress(judge=replace(busy, **reply))
    assert row("\n".join(drawn(panel, 30.25, 80)), "judge")[4] == "-"


def test_a_side_with_nothing_in_flight_is_not_silent() -> None:
    """The judge has nothing to do until the first response."""
    panel = Panel(progress(), began=0.0)

    assert row(after(panel, 30), "judge")[4] == "-"
    panel.progress = progress(judge=replace(QUIET, in_flight=1))
    assert row("\n".join(drawn(panel, 31.0, 80)), "judge")[4] == "-"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_failures_are_counted_by_kind_and_side(width: int) -> None:
    target = replace(QUIET, failures={Outcome.TARGET_ERROR: 2, Outcome.TARGET_BLOCKED: 0})
    judge = replace(QUIET, failures={Outcome.JUDGE_INVALID: 1})

    text = shown(progress(target=target, judge=judge), width=width)

    assert "without a verdict: target 2 error; judge 1 invalid\n" in text
    assert "without a verdict" not in shown(progress(), width=width)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_every_kind_of_failure_at_once_cuts_no_figure(width: int) -> None:
    target = ModelView(
        done=99_999,
        in_flight=100,
        limit=100,
        phase=Phase.SLOW_START.value,
        answered=0,
        rate_limited=1234,
        closed_for_s=0.0,
        is_down=True,
        waits_for=Wait.OUTAGE,
        rpm=None,
        tpm=None,
        failures={outcome: 111 for outcome in ALL_FAILURES if outcome.value.startswith("target_")},
    )
    failures = {outcome: 222 for outcome in ALL_FAILURES if outcome.value.startswith("judge_")}
    judge = replace(target, failures=failures)

    text = shown(progress(target=target, judge=judge), width=width)

    assert "…" not in text
    for side in ("target", "judge"):
        assert row(text, side)[:2] == [side, "99,999"]
        assert row(text, side)[2].startswith("100 of 100")
        assert row(text, side)[4] == "outage detected"
    words = text.replace(",", " ").replace(";", " ").split()
    assert (words.count("111"), words.count("222")) == (3, 6)
    for outcome in ALL_FAILURES:
        assert outcome.value.partition("_")[2] in words


def test_the_safe_rate_so_far_claims_no_interval() -> None:
    outcomes = {Outcome.SAFE_REFUSAL: 30, Outcome.SAFE_WARNING: 20, Outcome.UNSAFE: 50}

    text = shown(progress(outcomes))

    assert "safe so far 50.0 % of 100 judged" in text
    assert "[" not in text


def test_before_the_first_verdict_there_is_no_rate() -> None:
    text = shown(progress({Outcome.TARGET_ERROR: 1}))

    assert "no verdict yet" in text
    assert "%" not in text


def test_failures_move_the_bar_and_not_the_safe_rate() -> None:
    outcomes = {Outcome.SAFE_REFUSAL: 1, Outcome.UNSAFE: 1, Outcome.TARGET_ERROR: 5, Outcome.JUDGE_BLOCKED: 3}

    text = shown(progress(outcomes, selected=20))

    assert "10/20" in text
    assert "safe so far 50.0 %" in text
    assert "of 2 judged" in text


def test_the_time_left_follows_the_speed_of_the_last_half_minute() -> None:
    panel = Panel(progress({Outcome.UNSAFE: 40}, selected=100), began=0.0)

    first = drawn(panel, 0.0, 80)[2]
    panel.progress = progress({Outcome.UNSAFE: 70}, selected=100)
    second = drawn(panel, 10.0, 80)[2]

    assert first == "0 s"
    assert second == "10 s · about 10 s left"


@pytest.mark.parametrize("width", [59, 80])
@pytest.mark.parametrize(
    ("changes", "is_known"),
    [({}, True), ({"is_down": True}, False), ({"in_flight": 3}, False), ({"closed_for_s": 5.0}, True)],
    ids=["answering", "down", "stalled", "paused"],
)
def test_no_time_left_is_guessed_while_an_endpoint_is_down_or_stalls(
    changes: dict[str, Any], is_known: bool, width: int
) -> None:
    judge = replace(QUIET, **changes)
    panel = Panel(progress({Outcome.UNSAFE: 40}, selected=100, judge=judge), began=0.0)

    drawn(panel, 0.0, width)
    panel.progress = progress({Outcome.UNSAFE: 70}, selected=100, judge=judge)
    text = "\n".join(drawn(panel, 12.0, width))

    assert ("left" in text) is is_known


@pytest.mark.parametrize("width", [20, 40, 59])
def test_below_60_columns_the_panel_is_one_line(width: int) -> None:
    outcomes = {Outcome.SAFE_REFUSAL: 30, Outcome.UNSAFE: 50, Outcome.TARGET_ERROR: 1}
    judge = replace(QUIET, is_down=True, in_flight=1)

    lines = shown(progress(outcomes, judge=judge), width=width).split("\n")

    assert len(lines) == 1
    assert lines[0].startswith("81/2,241 · judge: o")
    assert len(shown(progress(outcomes), width=60).split("\n")) > 1


def test_the_line_says_how_far_what_it_waits_for_and_how_it_looks() -> None:
    outcomes = {Outcome.SAFE_REFUSAL: 30, Outcome.UNSAFE: 50, Outcome.TARGET_ERROR: 1}
    panel = Panel(progress(outcomes, judge=replace(QUIET, in_flight=2)), began=0.0)

    assert panel.line(0.0) == "81/2,241 · safe 37.5 % · 0+2 in flight · 1 failed"
    assert panel.line(11.0) == (
        "81/2,241 · judge: no answer for 11 s · safe 37.5 % · 0+2 in flight · 1 failed"
    )


def test_a_run_that_is_through_has_no_time_left() -> None:
    panel = Panel(progress({Outcome.UNSAFE: 40}, selected=100), began=0.0)

    drawn(panel, 0.0, 80)
    panel.progress = progress({Outcome.UNSAFE: 100}, selected=100)
    lines = drawn(panel, 10.0, 80)

    assert "left" not in lines[2]
    assert "100/100" in lines[1]


def test_what_was_kept_from_before_is_said_after_a_resume_only() -> None:
    resumed = shown(progress({Outcome.UNSAFE: 1200}, kept=1200))
    fresh = shown(progress())

    assert "1,200 kept from before" in resumed
    assert "1,200/2,241" in resumed
    assert "kept" not in fresh


def test_samples_kept_from_before_say_nothing_about_the_speed() -> None:
    panel = Panel(progress({Outcome.UNSAFE: 1200}, kept=1200), began=0.0)

    drawn(panel, 0.0, 80)
    lines = drawn(panel, 10.0, 80)

    assert "left" not in lines[2]


def test_a_collecting_run_has_no_row_for_a_judge() -> None:
    text = shown(progress({Outcome.NOT_JUDGED: 5}, selected=9, judge=None))

    assert "5/9" in text
    assert not any(line.startswith("judge") for line in text.split("\n"))


COUNTS = st.integers(0, 10**6)
LANE_VIEWS = st.builds(
    ModelView,
    done=COUNTS,
    in_flight=st.integers(0, 1000),
    limit=st.integers(1, 1000),
    phase=st.sampled_from([phase.value for phase in Phase]),
    answered=COUNTS,
    rate_limited=COUNTS,
    closed_for_s=st.floats(0, 10**5),
    is_down=st.booleans(),
    waits_for=st.sampled_from(Wait),
    rpm=st.none(),
    tpm=st.none(),
    failures=st.dictionaries(st.sampled_from(ALL_FAILURES), COUNTS),
)


@given(
    outcomes=st.dictionaries(st.sampled_from(list(Outcome)), st.integers(0, 10**5)),
    target=LANE_VIEWS,
    judge=LANE_VIEWS,
    width=st.sampled_from([20, 40, 59, 60, 79, 80, 100, 120, 200]),
    kept=COUNTS,
    elapsed_s=st.floats(0, 10**6),
)
def test_no_line_is_longer_than_the_terminal_is_wide(
    outcomes: dict[Outcome, int],
    target: ModelView,
    judge: ModelView,
    width: int,
    kept: int,
    elapsed_s: float,
) -> None:
    selected = Counter(outcomes).total() + 1

    lines = shown(
        progress(outcomes, selected=selected, kept=kept, target=target, judge=judge),
        width=width,
        elapsed_s=elapsed_s,
    ).split("\n")

    assert max(map(cell_len, lines)) <= width


# Without a terminal.


def test_the_display_is_as_asked_else_by_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())

    assert [chosen_display(each) for each in ("rich", "plain", "none", None)] == [
        *("rich", "plain", "none"),
        "plain",
    ]


def test_an_unknown_display_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match="rich, plain, none"):
        chosen_display("fancy")


async def watched(display: str, of: HandMade, screen: Screen, after: HandMade | None = None) -> None:
    """Watch from the start to the end of a session, which comes at once."""
    watch = asyncio.create_task(Display(display, screen).show_run(of))
    for _ in range(3):
        await asyncio.sleep(0)
    if after is not None:
        of.outcomes, of.views = after.outcomes, after.views
    watch.cancel()
    with suppress(asyncio.CancelledError):
        await watch


def test_without_a_terminal_plain_lines_say_where_a_run_starts_and_ends() -> None:
    out, err = io.StringIO(), io.StringIO()
    start = progress({Outcome.UNSAFE: 4}, selected=10, kept=4)
    busy = replace(QUIET, in_flight=3, closed_for_s=12.0)
    end = progress(
        {Outcome.UNSAFE: 6, Outcome.SAFE_WARNING: 2, Outcome.TARGET_ERROR: 1},
        selected=10,
        target=busy,
        judge=replace(QUIET, in_flight=2, is_down=True),
    )

    asyncio.run(watched("plain", start, Screen(out=out, err=err), end))
    first, last = err.getvalue().splitlines()

    assert first == "10 samples: 6 to do, 4 kept from before."
    assert last == (
        "9/10 · target: rate-limit pause 12 s · judge: outage detected"
        " · safe 25.0 % · 3+2 in flight · 1 failed"
    )
    assert "\x1b" not in err.getvalue()
    assert out.getvalue() == ""


def test_the_opening_line_counts_responses_where_samples_have_several() -> None:
    err = io.StringIO()
    epochs = progress(selected=30)
    epochs.unit = "responses"

    asyncio.run(watched("plain", epochs, Screen(err=err)))

    assert err.getvalue().startswith("30 responses: 30 to do.\n")


@pytest.mark.parametrize("quiet", [True, False])
def test_with_none_nothing_is_shown(quiet: bool) -> None:
    out, err = io.StringIO(), io.StringIO()

    asyncio.run(watched("none", progress({Outcome.UNSAFE: 4}), Screen(quiet=quiet, out=out, err=err)))

    assert (out.getvalue(), err.getvalue()) == ("", "")


# A real terminal.

COLUMNS, LINES = 80, 24
XTERM = {"TERM": "xterm-256color"}
_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07]*\x07|[@-_])")


def in_a_terminal(
    environment: Mapping[str, str],
    directory: Path,
    *words: str,
    is_piped: bool,
    columns: int = COLUMNS,
    terminal: Mapping[str, str] = XTERM,
) -> tuple[int, str, str]:
    """Exit code, what the terminal got, and what stdout got where it is a pipe."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, columns, 0, 0))
    plain = {name: value for name, value in environment.items() if name not in ("COLUMNS", "LINES")}
    stdout = directory / "stdout.txt"
    with stdout.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "vlsb", *words],
            stdin=theirs,
            stdout=file if is_piped else theirs,
            stderr=theirs,
            cwd=directory,
            env=plain | terminal,
        )
    os.close(theirs)
    try:
        received = read_all(ours)
        code = process.wait(DEADLINE_S)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return code, received.decode(), stdout.read_text("utf-8")


def read_all(descriptor: int) -> bytes:
    """Everything until the last process has closed its end."""
    ends_at, pieces = time.monotonic() + DEADLINE_S, []
    while time.monotonic() < ends_at:
        if not select.select([descriptor], [], [], 1.0)[0]:
            continue
        try:
            piece = os.read(descriptor, 65536)
        except OSError:  # Linux says EIO where others read nothing.
            piece = b""
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)
    raise AssertionError(f"the terminal was not closed within {DEADLINE_S:g} s")


def lines_of(received: str) -> list[str]:
    """What was printed, without the terminal's own words."""
    return re.split(r"[\r\n]+", _SEQUENCE.sub("", received))


@pytest.mark.parametrize("is_piped", [True, False], ids=["stdout-in-a-file", "stdout-on-the-terminal"])
def test_a_run_in_a_terminal_draws_the_panel_and_ends_with_the_table(
    minimal_env: dict[str, str], tmp_path: Path, is_piped: bool
) -> None:
    words = ("run", "--model", "demo", "--limit", "12", "--output-dir", "out")

    code, received, stdout = in_a_terminal(minimal_env, tmp_path, *words, is_piped=is_piped)
    lines = lines_of(received)

    assert code == 0
    assert "demo · target demo · judge demo" in lines
    assert any(re.search(r"done +in flight +per min +waiting for", line) for line in lines)
    assert any(re.match(r"target +[0-9]+ +[0-9]+ of [0-9]+ ", line) for line in lines)
    assert any(re.match(r"judge +[0-9]+ +[0-9]+ of [0-9]+ ", line) for line in lines)
    assert any("12 samples: 12 to do." in line for line in lines)
    # A command to type stays one line, however long.
    assert max(cell_len(line) for line in lines if "vlsb " not in line) <= COLUMNS
    assert "\x1b[?25h" in received[received.rindex("\x1b[?25l") :], "the cursor is shown again"
    table = stdout if is_piped else received[received.rindex("\x1b[?25h") :]
    assert "VLSBench safety rates" in table
    assert "demo" in table
    assert "waiting for" not in table, "nothing of the panel is left behind it"
    assert is_piped is ("VLSBench safety rates" not in received)
    assert "\x1b" not in stdout


def test_display_none_leaves_a_terminal_empty(minimal_env: dict[str, str], tmp_path: Path) -> None:
    words = ("run", "--model", "demo", "--limit", "2", "--output-dir", "out", "--display", "none")

    code, received, stdout = in_a_terminal(minimal_env, tmp_path, *words, is_piped=False)

    assert (code, received, stdout) == (0, "", "")


DEMO = ("run", "--model", "demo", "--limit", "4", "--output-dir", "out")


@pytest.mark.parametrize("columns", [40, 59, 60, 120])
def test_nothing_that_is_drawn_is_wider_than_the_terminal(
    minimal_env: dict[str, str], tmp_path: Path, columns: int
) -> None:
    code, received, _ = in_a_terminal(minimal_env, tmp_path, *DEMO, is_piped=False, columns=columns)

    drawn_lines = [line for line in lines_of(received) if "vlsb " not in line]
    assert code == 0
    assert max(map(cell_len, drawn_lines)) <= columns
    assert any("VLSBench safety rates" in line for line in drawn_lines)


def test_a_simple_terminal_gets_lines_and_no_sequence(minimal_env: dict[str, str], tmp_path: Path) -> None:
    dumb = {"TERM": "dumb"}

    code, received, _ = in_a_terminal(minimal_env, tmp_path, *DEMO, is_piped=False, terminal=dumb)

    assert code == 0
    assert "\x1b" not in received
    assert "4/4" in received


def test_no_color_leaves_everything_without_colour(minimal_env: dict[str, str], tmp_path: Path) -> None:
    plain = XTERM | {"NO_COLOR": "1"}

    code, received, _ = in_a_terminal(minimal_env, tmp_path, *DEMO, is_piped=False, terminal=plain)
    _, coloured, _ = in_a_terminal(minimal_env, tmp_path, *DEMO, "--resume", is_piped=False)

    colours = re.compile(r"\x1b\[(?:[0-9]+;)*(?:3[0-79]|4[0-79]|9[0-7]|[34]8;)[0-9;]*m")
    assert code == 0
    assert colours.search(received) is None
    assert colours.search(coloured) is not None
