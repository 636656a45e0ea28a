"""`vlsb serve`: what it shows, what it promises while it runs, and that nothing of it is left."""

from __future__ import annotations

import asyncio
import http.client
import io
import os
import re
import signal
import subprocess
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console, RenderableType

from tests.proofs.test_panel import in_a_terminal, lines_of
from tests.support.checkpoints import checkpoint
from tests.support.command import Finished, Process, Vlsb
from tests.support.engine_environment import write_environment
from tests.support.fake_engine import events, living
from tests.support.waiting import DEADLINE_S, wait_until
from vlsb.cli import live
from vlsb.cli.screen import Screen
from vlsb.cli.views import LOG_LINES, ServerView, StepLines, StepsView
from vlsb.engines.hardware import Gpu
from vlsb.engines.registry import Ending, Places, ServerRecord, find_running, read_records, stop_server
from vlsb.engines.supervisor import EngineLoad
from vlsb.records import Untrusted
from vlsb.steps import Step

GIB = 1024**3
LOAD = EngineLoad(
    running=16,
    waiting=240,
    prompt_tokens=5_302_000,
    generation_tokens=287_000,
    cache_share=0.4325,
    answered=2241,
    unanswered=3,
)
GPU = Gpu(0, "NVIDIA H100 80GB HBM3", 80 * GIB, 9 * GIB, "570.1")


def drawn(image: RenderableType, width: int = 80) -> list[str]:
    """The lines of an image on a terminal of that width."""
    file = io.StringIO()
    Console(file=file, width=width, highlight=False, markup=False, emoji=False).print(image)
    return [line.rstrip() for line in file.getvalue().rstrip("\n").split("\n")]


def row(lines: list[str], label: str) -> str:
    """What stands behind a label."""
    return next(line for line in lines if line.startswith(label)).removeprefix(label).strip()


# While it starts.


def start_view() -> StepsView:
    return StepsView(100.0, about="vLLM 0.32.0 · llava-hf/llava-1.5-7b-hf")


def step(stage: str, detail: str = "", **known: Any) -> Step:
    return Step(stage, detail, model="llava_hf", **known)


def log_line(text: str) -> Untrusted:
    return Untrusted(f"(EngineCore pid=7) INFO 11-24 18:00:03 [kv_cache_utils.py:2327] {text}")


@pytest.mark.parametrize("width", [80, 120])
def test_a_start_shows_its_stages_their_times_and_the_end_of_the_log(width: int) -> None:
    view = start_view()

    view.add(step("downloading", "weights"), 101.0)
    view.add(step("loading", "1 of 2 files", line=log_line("Loading weights")), 163.0)
    lines = drawn(view.draw(170.0, width=width), width)

    assert lines == [
        "llava_hf is starting · 1 min 10 s · vLLM 0.32.0 · llava-hf/llava-1.5-7b-hf",
        "downloading  1 min 02 s",
        "loading      7.0 s       1 of 2 files",
        "│ Loading weights",
    ]


def test_only_the_last_lines_of_the_log_are_shown_each_once() -> None:
    view = start_view()

    for number in [0, 1, 2, 3, 4, 5, 5, 5]:
        view.add(step("loading", line=log_line(f"line {number}")), 101.0)
    shown = [line for line in drawn(view.draw(102.0, width=80)) if line.startswith("│")]

    assert shown == [f"│ line {number}" for number in range(6 - LOG_LINES, 6)]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("(APIServer pid=1) INFO 11-24 18:00:00 [model.py:733] Resolved", "Resolved"),
        ("WARNING 11-24 18:00:00 [cpu.py:7] Careful", "WARNING Careful"),
        ("(Worker pid=9) ERROR 11-24 18:00:00 [core.py:1] Bad", "ERROR Bad"),
        ("Loading shards:  50% Completed", "Loading shards: 50% Completed"),
        ("Traceback (most recent call last):", "Traceback (most recent call last):"),
    ],
)
def test_what_every_line_of_the_log_begins_with_is_left_out(line: str, shown: str) -> None:
    view = start_view()

    view.add(step("loading", line=Untrusted(line)), 101.0)

    assert drawn(view.draw(102.0, width=80))[-1] == f"│ {shown}"


def test_an_engines_words_never_act_on_the_terminal() -> None:
    view = StepsView(0.0, about="\x1b[31mweights")

    line = Untrusted("\x1b]0;title\x07\x1b[2Jgone [bold]here[/bold]\u202e")
    view.add(step("loading", "\x1b[1mfile", line=line), 0.0)
    text = "\n".join(drawn(view.draw(1.0, width=80)))

    assert "\x1b" not in text
    assert "gone [bold]here[/bold]" in text
    assert "\u202e" not in text


def test_a_banner_of_blocks_is_no_news() -> None:
    view = start_view()

    view.add(step("loading", line=log_line("   █▄█▀ █     █     version 0.32.0")), 101.0)

    assert not any(line.startswith("│") for line in drawn(view.draw(102.0, width=80)))


@pytest.mark.parametrize("width", [80, 120])
def test_a_download_has_a_bar_where_its_size_is_known(width: int) -> None:
    known, unknown = start_view(), start_view()

    known.add(step("downloading", "a.bin", done_bytes=3_300_000_000, total_bytes=13_200_000_000), 101.0)
    unknown.add(step("downloading", "weights", done_bytes=3_300_000_000), 101.0)

    assert drawn(known.draw(102.0, width=width), width)[-1].endswith(" 3.30 of 13.20 GB")
    assert drawn(unknown.draw(102.0, width=width), width)[-1].endswith("weights, 3.30 GB so far")


def test_without_a_terminal_a_start_says_new_stages_and_every_gigabyte() -> None:
    lines = StepLines()
    steps = [
        step("downloading", "weights", done_bytes=10),
        step("downloading", "weights", done_bytes=20),
        step("downloading", "weights", done_bytes=1_000_000_001),
        step("loading", "1 of 2 files", line=log_line("one")),
        step("loading", "2 of 2 files", line=log_line("two")),
        step("warming up"),
    ]

    said = [lines.next(step) for step in steps]

    assert said == [
        "llava_hf: downloading, weights, 0.00 GB so far",
        None,
        "llava_hf: downloading, weights, 1.00 GB so far",
        "llava_hf: loading, 1 of 2 files",
        None,
        "llava_hf: warming up",
    ]


# While it serves.


def live_view() -> ServerView:
    return ServerView("llava_hf", "vLLM 0.32.0 · llava-hf/llava-1.5-7b-hf", began=100.0)


@pytest.mark.parametrize("width", [80, 120])
def test_a_server_at_work_shows_its_load(width: int) -> None:
    view = live_view()
    before = replace(LOAD, prompt_tokens=5_300_000, generation_tokens=286_000)

    view.add(before, (GPU,), 110.0)
    view.add(LOAD, (GPU,), 120.0)
    lines = drawn(view.draw(851.0, width=width), width)

    assert lines[1] == "llava_hf is up · 12 min 31 s · vLLM 0.32.0 · llava-hf/llava-1.5-7b-hf"
    assert row(lines, "requests") == "16 running · 240 waiting · 2,241 answered · 3 without an answer"
    assert row(lines, "tokens") == "100/s out · 200/s in · 287,000 written"
    assert row(lines, "cache").endswith(" 43.2 % full")
    assert row(lines, "GPU 0").endswith(" 71.0 of 80.0 GiB")
    assert lines[-1] == "Ctrl-C stops it."


def test_figures_that_an_engine_does_not_tell_are_not_made_up() -> None:
    view = live_view()

    view.add(EngineLoad(running=1), (), 110.0)
    lines = drawn(view.draw(111.0, width=80))

    assert row(lines, "requests") == "1 running"
    assert row(lines, "tokens") == "-"
    assert not any(line.startswith(("cache", "GPU")) for line in lines)


def test_a_gpu_that_does_not_tell_its_memory_is_not_drawn() -> None:
    view = live_view()

    view.add(LOAD, (replace(GPU, memory_bytes=0, free_bytes=0),), 110.0)

    assert not any(line.startswith("GPU") for line in drawn(view.draw(111.0, width=80)))


def test_an_engine_that_gives_no_answer_is_said_with_its_last_figures() -> None:
    view = live_view()

    view.add(LOAD, (), 110.0)
    view.add(None, (), 112.0)
    view.add(None, (), 114.0)
    lines = drawn(view.draw(124.0, width=80))

    assert row(lines, "engine") == "no answer for 12.0 s"
    assert row(lines, "requests").startswith("16 running")
    view.add(LOAD, (), 125.0)
    assert not any(line.startswith("engine") for line in drawn(view.draw(126.0, width=80)))


def test_without_a_terminal_the_load_is_one_line() -> None:
    view = live_view()

    view.add(replace(LOAD, generation_tokens=286_000), (), 110.0)
    view.add(LOAD, (), 120.0)

    assert view.line() == (
        "llava_hf: 16 running · 240 waiting · 2,241 answered · 3 without an answer"
        " · 100/s out · 0/s in · 287,000 written"
    )
    view.add(None, (), 240.0)
    assert view.line() == "llava_hf: no answer from the engine"


def test_without_a_terminal_an_idle_server_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "SERVER_LINE_EVERY_S", 0.001)
    view, err = live_view(), io.StringIO()

    async def watched() -> None:
        showing = asyncio.create_task(live.Display("plain", Screen(err=err)).show_server(view))
        for answered in (7, 7, 8):
            view.load = replace(LOAD, answered=answered)
            await asyncio.to_thread(wait_until, partial(is_said, answered), what="a line")
        showing.cancel()
        await asyncio.wait([showing])

    def is_said(answered: int) -> bool:
        return f"{answered} answered" in err.getvalue()

    asyncio.run(watched())

    assert re.findall(r"\d+ answered", err.getvalue()) == ["7 answered", "8 answered"]


def test_the_last_words_say_what_was_done() -> None:
    view = live_view()
    assert view.closing(110.0) == "llava_hf has ended, after 10.0 s."

    view.add(LOAD, (), 110.0)
    assert view.closing(110.0) == "llava_hf has ended, after 10.0 s and 2,241 answers."


COUNTS = st.none() | st.integers(0, 10**12)
LOADS = st.builds(EngineLoad, COUNTS, COUNTS, COUNTS, COUNTS, st.none() | st.floats(0, 1), COUNTS, COUNTS)
GPUS = st.builds(
    Gpu,
    st.integers(0, 15),
    st.text(max_size=30),
    st.integers(0, 10**12),
    st.integers(0, 10**12),
    st.just("1"),
)
WIDTHS = st.sampled_from([20, 39, 40, 79, 80, 100, 120, 200])


@given(
    loads=st.lists(st.none() | LOADS, max_size=4),
    gpus=st.lists(GPUS, max_size=8),
    about=st.text(),
    width=WIDTHS,
)
def test_no_line_of_a_server_at_work_is_longer_than_the_terminal(
    loads: list[EngineLoad | None], gpus: list[Gpu], about: str, width: int
) -> None:
    view = ServerView("llava_hf", about, began=0.0)

    for moment, load in enumerate(loads):
        view.add(load, tuple(gpus), 10.0 * moment)

    assert max(map(cell_len, drawn(view.draw(100.0, width=width), width))) <= width


STEPS = st.builds(
    Step,
    st.sampled_from(["installing", "downloading", "loading", "compiling", "warming up", "checking"]),
    st.text(),
    COUNTS,
    COUNTS,
    line=st.none() | st.text().map(Untrusted),
)


@given(steps=st.lists(STEPS, max_size=8), width=WIDTHS)
def test_no_line_of_a_start_is_longer_than_the_terminal(steps: list[Step], width: int) -> None:
    view = start_view()

    for moment, step in enumerate(steps):
        view.add(step, 100.0 + moment)

    assert max(map(cell_len, drawn(view.draw(200.0, width=width), width))) <= width


# The command.


class Bench:
    """`vlsb serve` on a stand-in engine, whose every process carries a mark."""

    def __init__(self, folder: Path, vlsb: Vlsb, environment: Mapping[str, str]) -> None:
        self._vlsb = vlsb
        self.mark = uuid.uuid4().hex
        self.places = Places.of(environment)
        self.record = folder / "record"
        self.engine = write_environment(folder / "engine")
        self.weights = checkpoint(folder / "weights")
        self.variables = {"FAKE_ENGINE_MARK": self.mark, "FAKE_ENGINE_RECORD": str(self.record)}

    def words(self, *more: str, name: str = "llava_hf") -> tuple[str, ...]:
        return ("serve", name, "--engine", str(self.engine), "--weights", str(self.weights), *more)

    def start(self, *more: str, **wishes: str) -> Process:
        return self._vlsb.start(*self.words(*more), env=self.environment(**wishes))

    def run(self, *more: str, **wishes: str) -> Finished:
        return self._vlsb(*self.words(*more), env=self.environment(**wishes))

    def environment(self, **wishes: str) -> dict[str, str]:
        return self.variables | {f"FAKE_ENGINE_{name}": value for name, value in wishes.items()}

    def ready(self, process: Process, name: str = "llava_hf") -> ServerRecord:
        """The record of a server that is on its way, once it is there."""
        found: list[ServerRecord] = []

        def is_there() -> bool:
            assert process.is_running, process.wait()
            found[:] = [each for each in read_records(self.places) if each.name == name]
            return bool(found)

        wait_until(is_there, what="a state file")
        return found[0]

    def started(self) -> None:
        """Return once an engine has been started."""
        wait_until(lambda: events(self.record, "start"), what="an engine")

    @property
    def state_files(self) -> list[str]:
        return [path.name for path in self.places.state.iterdir() if path.suffix == ".json"]

    @property
    def logs(self) -> str:
        return "".join(path.read_text("utf-8", "replace") for path in self.places.state.glob("*.log"))

    def assert_nothing_left(self) -> None:
        wait_until(lambda: not living(self.mark), what="the end of every process of the engine")
        assert self.state_files == []

    def end(self) -> None:
        """Whatever a failed test has left."""
        for pid in living(self.mark):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def bench(tmp_path: Path, vlsb: Vlsb, minimal_env: dict[str, str]) -> Iterator[Bench]:
    made = Bench(tmp_path, vlsb, minimal_env)
    yield made
    made.end()


def ended(process: Process) -> Finished:
    finished = process.wait()
    assert "Traceback" not in finished.out + finished.err
    return finished


def status_of(record: ServerRecord, path: str, *, key: str | None = None) -> int:
    connection = http.client.HTTPConnection(urlsplit(record.base_url).netloc, timeout=DEADLINE_S)
    try:
        connection.request("GET", path, headers={"authorization": f"Bearer {key}"} if key else {})
        return connection.getresponse().status
    finally:
        connection.close()


def test_the_key_is_in_the_state_file_alone_and_goes_with_it(bench: Bench, tmp_path: Path) -> None:
    process = bench.start()
    record = bench.ready(process)
    key = record.key.reveal()
    holders = [
        path for path in tmp_path.rglob("*") if path.is_file() and key in path.read_text("utf-8", "replace")
    ]
    modes = [path.stat().st_mode & 0o777 for path in holders]
    arguments = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout

    process.signal(signal.SIGINT)
    finished = ended(process)

    assert modes == [0o600]
    assert holders[0].parent == bench.places.state
    assert "VLLM_API_KEY" in events(bench.record, "start")[0]["environment"]
    assert key not in arguments + bench.logs + finished.out + finished.err + bench.record.read_text()
    assert f'"key" in ~/.local/state/vlsb/servers/{holders[0].name}' in finished.err
    assert not holders[0].exists()


def test_a_record_says_what_a_run_has_to_know(bench: Bench) -> None:
    process = bench.start("--", "--max-num-seqs", "7")
    record = bench.ready(process)

    assert (record.family, record.served_name, record.weights) == ("llava_hf", "llava_hf", str(bench.weights))
    assert record.facts["engine"]["version"] == "0.32.0"
    assert record.owner_pid == process.pid
    assert record.log.exists()
    arguments = events(bench.record, "start")[0]["argv"]
    assert arguments[arguments.index("--max-num-seqs") + 1] == "7"
    assert find_running(bench.places, "llava_hf") == record


def test_an_engine_that_does_not_start_is_told_with_its_cause(bench: Bench) -> None:
    finished = bench.run(DIE_AT="loading", CAUSE="out_of_gpu_memory")

    assert finished.code == 7
    assert "memory" in finished.err.splitlines()[-1]
    assert finished.out == ""
    bench.assert_nothing_left()


def test_an_engine_that_reads_another_prompt_is_not_served(bench: Bench) -> None:
    finished = bench.run(PROMPT_IDS="[1, 2, 3]")

    assert finished.code == 7
    assert "another prompt" in finished.err
    assert finished.out == ""
    bench.assert_nothing_left()


def test_a_name_is_served_once(bench: Bench) -> None:
    process = bench.start()
    record = bench.ready(process)

    second = bench.run()

    assert second.code == 2
    assert record.base_url in second.err
    assert "vlsb engine stop llava_hf" in second.err
    assert status_of(record, "/health") == 200


def test_a_name_is_started_once(bench: Bench, tmp_path: Path) -> None:
    process = bench.start(HOLD=str(tmp_path / "go"))
    bench.started()

    second = bench.run()

    assert second.code == 2
    assert "starting or stopping" in second.err
    assert len(events(bench.record, "start")) == 1
    (tmp_path / "go").touch()
    bench.ready(process)


def test_a_detached_server_lives_on_until_it_is_stopped(bench: Bench) -> None:
    finished = bench.run("--detach", CHILDREN="plain")

    assert finished.code == 0, finished
    (record,) = read_records(bench.places)
    assert record.owner_pid is None
    assert f"llava_hf is ready: {record.base_url}" in finished.out
    assert "vlsb engine stop llava_hf" in finished.err
    assert status_of(record, "/v1/models", key=record.key.reveal()) == 200
    second = bench.run("--detach")
    assert second.code == 2
    assert stop_server(bench.places, record) is Ending.STOPPED
    bench.assert_nothing_left()


def test_a_stop_before_it_is_detached_leaves_nothing(bench: Bench, tmp_path: Path) -> None:
    process = bench.start("--detach", HOLD=str(tmp_path / "never"), CHILDREN="plain")
    bench.started()

    process.signal(signal.SIGTERM)

    assert ended(process).code == 130
    bench.assert_nothing_left()


def test_a_taken_port_is_said_before_an_engine_starts(bench: Bench) -> None:
    process = bench.start()
    port = urlsplit(bench.ready(process).base_url).port
    count = len(events(bench.record, "start"))
    own = bench.weights.parent / "own"
    own.mkdir()
    (own / "mine.llava_hf.yaml").write_text(f"model: {bench.weights}\n")

    words = ("serve", "mine", "--servers-dir", str(own), "--engine", str(bench.engine), "--port", str(port))
    second = bench._vlsb(*words, env=bench.environment())

    assert second.code == 7
    assert f"port {port} is taken" in second.err
    assert len(events(bench.record, "start")) == count


def test_an_unknown_name_gets_the_nearest_one(vlsb: Vlsb) -> None:
    finished = vlsb("serve", "llava_hff")

    assert finished.code == 2
    assert finished.err == "Error: llava_hff: no local model of that name. Did you mean llava_hf?\n"


def test_a_missing_engine_is_told_with_the_one_command(vlsb: Vlsb, bench: Bench) -> None:
    finished = vlsb("serve", "llava_hf", "--weights", bench.weights)

    assert finished.code == 7
    assert "vlsb engine install llava_hf" in finished.err


def test_what_is_ours_to_decide_is_refused_behind_the_dashes(bench: Bench) -> None:
    finished = bench.run("--", "--api-key", "a-key-for-everybody-to-see")

    assert finished.code == 2
    assert "api-key" in finished.err
    assert "everybody" not in finished.err
    assert events(bench.record) == []


def test_a_quiet_server_says_nothing(bench: Bench) -> None:
    process = bench.start("--display", "none")
    bench.ready(process)

    process.signal(signal.SIGINT)

    assert ended(process) == Finished(0, "", "")


def test_on_a_terminal_the_start_is_drawn_and_the_address_stays(
    bench: Bench, minimal_env: dict[str, str], tmp_path: Path
) -> None:
    environment = minimal_env | bench.environment()

    code, received, _ = in_a_terminal(environment, tmp_path, *bench.words("--detach"), is_piped=False)

    shown = lines_of(received)
    (record,) = read_records(bench.places)
    stop_server(bench.places, record)
    assert code == 0
    assert any(line.startswith("llava_hf is starting · ") for line in shown)
    assert any(re.match(r"loading +[\d.]+ s", line) for line in shown)
    assert any(line.startswith(f"llava_hf is ready: {record.base_url}") for line in shown)


def test_on_a_terminal_a_server_at_work_is_drawn_until_it_ends(
    bench: Bench, minimal_env: dict[str, str], tmp_path: Path
) -> None:
    environment = minimal_env | bench.environment()
    heard = threading.Thread(target=stop_when_asked_for_its_load, args=(bench,))
    heard.start()

    code, received, _ = in_a_terminal(environment, tmp_path, *bench.words(), is_piped=False)

    heard.join()
    shown = lines_of(received)
    assert code == 0
    assert any(line.startswith("llava_hf is up · ") for line in shown)
    assert any(line.startswith("requests  0 running · 0 waiting") for line in shown)
    assert shown[-2].startswith("llava_hf has ended, after ")


def stop_when_asked_for_its_load(bench: Bench) -> None:
    """Wait until the engine's log has a look at its load, a frame has had time, and stop the server."""
    wait_until(lambda: bench.logs.count("GET /metrics") >= 2, what="two looks at the load")
    (record,) = read_records(bench.places)
    stop_server(bench.places, record)
