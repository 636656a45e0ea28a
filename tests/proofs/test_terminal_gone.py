"""A run whose terminal is gone can be stopped, loses nothing, and ends with the code it would have had."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support import canary
from tests.support.command import GRACE_S, Vlsb, at_audit_event, run_words
from tests.support.datasets import sharing_rows, write_dataset
from tests.support.endpoint import persona
from tests.support.run_files import records, stored_ids
from tests.support.waiting import DEADLINE_S, Stopwatch, wait_until
from vlsb.simulator import Action, Request, SimulatorThread, Stall

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAMPLES = 6
PROMPT_S = 0.8 * GRACE_S

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


class Held:
    """The persona, but every request from the `first` on gets no answer until `release`."""

    def __init__(self, *, first: int) -> None:
        self._first = first
        self.is_released = threading.Event()

    def __call__(self, request: Request) -> Action:
        is_held = request.number >= self._first and not self.is_released.is_set()
        return Stall() if is_held else persona(request)


@pytest.fixture(autouse=True)
def dataset(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", sharing_rows(SAMPLES))


@contextmanager
def started(
    cwd: Path, simulator: SimulatorThread, *more: str, out: int, err: int, **how: object
) -> Iterator[subprocess.Popen[bytes]]:
    """`vlsb run` with these two descriptors."""
    words = run_words(simulator, Path("data"), "--max-connections", "2", *more)
    least = {"HOME": str(cwd), "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-m", "vlsb", *words],
        cwd=cwd,
        env=least | canary.ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=err,
        **how,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def in_flight(simulator: SimulatorThread, count: int) -> None:
    wait_until(lambda: simulator.in_flight == count, what=f"{count} requests in flight")


def stopped_twice(process: subprocess.Popen[bytes], number: int) -> int:
    """The exit code after the signal came twice; it must not wait for answers or for the grace period."""
    watch = Stopwatch(process.pid)
    process.send_signal(number)
    wait_until(lambda: not is_pending(process.pid, number), what="the first signal taken")
    process.send_signal(number)
    assert watch.stop() < PROMPT_S
    return process.wait(DEADLINE_S)


def is_pending(pid: int, number: int) -> bool:
    """Whether a process has not taken a signal yet: a second one would be lost in it."""
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    masks = re.findall(r"(?:SigPnd|ShdPnd):\s+([0-9a-f]+)", status)
    return any(int(mask, 16) >> (number - 1) & 1 for mask in masks)


def pipe() -> tuple[int, Callable[[], None]]:
    """Our end of a pipe, and what closes the other."""
    reader, writer = os.pipe()
    return writer, lambda: os.close(reader)


def terminal() -> tuple[int, Callable[[], None]]:
    """A terminal, and what closes its window."""
    master, slave = pty.openpty()
    return slave, lambda: os.close(master)


def stuck_pipe() -> tuple[int, Callable[[], None]]:
    """A pipe whose reader stays but does not read, and what fills it."""
    _, writer = os.pipe()

    def fill() -> None:
        # Through a description of its own: O_NONBLOCK would be the command's too.
        with suppress(BlockingIOError):
            descriptor = os.open(f"/proc/self/fd/{writer}", os.O_WRONLY | os.O_NONBLOCK)
            while True:
                os.write(descriptor, b"x" * 512)

    return writer, fill


WAYS = {"pipe": pipe, "terminal": terminal, "stuck": stuck_pipe}


@pytest.mark.parametrize("display", ["rich", "plain"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("number", SIGNALS)
def test_two_signals_stop_a_run_whose_terminal_is_gone(
    tmp_path: Path, number: int, way: str, display: str
) -> None:
    held = Held(first=3)
    err, leave = WAYS[way]()
    with (
        SimulatorThread(held) as simulator,
        started(tmp_path, simulator, "--display", display, out=subprocess.DEVNULL, err=err) as process,
    ):
        in_flight(simulator, 2)
        leave()
        code = stopped_twice(process, number)
        held.is_released.set()
        resumed = Vlsb(tmp_path)(*run_words(simulator, Path("data"), "--resume"))

    os.close(err)
    assert code == 130
    assert records((tmp_path / "outputs/m/events.jsonl").read_bytes())
    assert resumed.code == 0, resumed.err


@pytest.mark.parametrize("number", SIGNALS)
def test_one_signal_lets_answers_arrive_though_the_terminal_is_gone(tmp_path: Path, number: int) -> None:
    released = threading.Event()

    def respond(request: Request) -> Action:
        if request.number >= 3:
            assert released.wait(DEADLINE_S)
        return persona(request)

    err, leave = terminal()
    with (
        SimulatorThread(lambda request: respond(request)) as simulator,
        started(tmp_path, simulator, out=subprocess.DEVNULL, err=err) as process,
    ):
        wait_until(lambda: simulator.requests >= 3, what="a request in flight")
        leave()
        process.send_signal(number)
        released.set()
        code = process.wait(DEADLINE_S)

    os.close(err)
    responded, _ = stored_ids(tmp_path / "outputs" / "m")
    assert code in (0, 130)
    assert len(responded) >= 2


@pytest.mark.parametrize("way", ["pipe", "terminal"])
@pytest.mark.parametrize("display", ["rich", "plain", "none"])
def test_a_run_without_a_reader_goes_on_to_its_end(tmp_path: Path, way: str, display: str) -> None:
    """Neither notices nor the panel nor the table at the end may end a run."""
    output, leave = WAYS[way]()
    leave()
    with (
        SimulatorThread(persona) as simulator,
        started(tmp_path, simulator, "--display", display, out=output, err=output) as process,
    ):
        code = process.wait(DEADLINE_S)

    os.close(output)
    assert code == 0
    assert Vlsb(tmp_path).summary()["judged"] == SAMPLES


@pytest.mark.parametrize("closed", [(0, 1, 2), (1,), (2,)])
def test_a_run_with_closed_streams_goes_on_and_writes_into_no_file_of_its_own(
    tmp_path: Path, closed: tuple[int, ...]
) -> None:
    """A journal opened as descriptor 2 would get every notice as a line."""
    shell = " ".join(f"{number}>&-" for number in closed)
    with SimulatorThread(persona) as simulator:
        words = run_words(simulator, Path("data"), "--display", "plain")
        process = subprocess.run(
            ["sh", "-c", f'exec "$@" {shell}', "sh", sys.executable, "-m", "vlsb", *words],
            cwd=tmp_path,
            env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]} | canary.ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=DEADLINE_S,
            check=False,
        )

    assert process.returncode == 0
    assert Vlsb(tmp_path).summary()["judged"] == SAMPLES


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_table_that_finds_no_room_is_said_and_does_not_change_the_code(tmp_path: Path) -> None:
    with (
        SimulatorThread(persona) as simulator,
        Path("/dev/full").open("wb") as full,
        (tmp_path / "err").open("wb") as err,
        started(tmp_path, simulator, out=full.fileno(), err=err.fileno()) as process,
    ):
        code = process.wait(DEADLINE_S)

    said = (tmp_path / "err").read_text()
    assert code == 0
    assert "No space left" in said
    assert "Traceback" not in said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_report_that_cannot_be_written_is_exit_5(tmp_path: Path) -> None:
    with SimulatorThread(persona) as simulator:
        Vlsb(tmp_path)(*run_words(simulator, Path("data")))
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "vlsb", "report", "outputs"],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=DEADLINE_S,
            check=False,
        )

    assert done.returncode == 5
    assert b"Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("words", [("report", "outputs", "--format", "json"), ("--help",), ("doctor",)])
def test_a_reader_that_has_had_enough_is_no_error_of_any_command(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    with SimulatorThread(persona) as simulator:
        Vlsb(tmp_path)(*run_words(simulator, Path("data")))
    out, leave = pipe()
    leave()
    done = subprocess.run(
        [sys.executable, "-m", "vlsb", *words],
        cwd=tmp_path,
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "1"},
        stdout=out,
        stderr=subprocess.PIPE,
        timeout=DEADLINE_S,
        check=False,
    )

    os.close(out)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""


# Every moment.

CLOSING = """
import asyncio, os, signal, threading, time
from vlsb.endpoints import loops

def busy():
    while not any("_do_shutdown" in each.name for each in threading.enumerate()):
        time.sleep(0.001)
    for number in {numbers}:
        os.kill(os.getpid(), number)
    ends_at = time.monotonic() + 0.5
    while time.monotonic() < ends_at and not loop.is_closed():
        time.sleep(0.001)

async def main():
    global loop
    loop = asyncio.get_running_loop()
    loop.run_in_executor(None, busy)

try:
    loops.run(main())
except KeyboardInterrupt:
    raise SystemExit(130)
"""


@pytest.mark.parametrize("numbers", [(signal.SIGINT,), (signal.SIGINT, signal.SIGTERM), SIGNALS])
def test_a_loop_that_is_interrupted_while_it_closes_leaves_no_thread_behind(numbers: tuple[int, ...]) -> None:
    """The thread that ends the executor speaks to the loop when it is done: the loop must still be there."""
    done = subprocess.run(
        [sys.executable, "-c", CLOSING.format(numbers=[int(number) for number in numbers])],
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
    )

    assert done.stderr == b""
    assert done.returncode == 130


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(
    ("event", "path"), [("open", "data.json"), ("import", "uvloop"), ("open", "m/run.json")]
)
def test_a_signal_at_any_moment_ends_with_130_and_no_traceback_with_stdout_closed_too(
    tmp_path: Path, event: str, path: str, number: int, times: int
) -> None:
    again = "; ".join([f"os.kill(os.getpid(), {int(number)})"] * times)
    prelude = at_audit_event(event, path, again) + "\nos.close(1)"
    with SimulatorThread(persona) as simulator:
        ended = Vlsb(tmp_path)(*run_words(simulator, Path("data")), prelude=prelude)

    assert ended.code == 130, ended
    assert "Traceback" not in ended.err


def test_a_run_in_a_background_process_group_is_stopped_by_two_signals(tmp_path: Path) -> None:
    """It has a terminal but is not the one in front; its first group leader may have gone."""
    held = Held(first=3)
    master, slave = pty.openpty()
    with (
        SimulatorThread(held) as simulator,
        started(tmp_path, simulator, "--display", "rich", out=slave, err=slave, process_group=0) as process,
    ):
        in_flight(simulator, 2)
        code = stopped_twice(process, signal.SIGTERM)

    os.close(slave)
    os.close(master)
    assert code == 130


def test_a_run_whose_caller_ignores_hangups_goes_on(tmp_path: Path) -> None:
    """`nohup` means it."""
    with SimulatorThread(persona) as simulator:
        prelude = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)" + at_audit_event(
            "open", "m/responses.jsonl", "os.kill(os.getpid(), signal.SIGHUP)"
        )
        ended = Vlsb(tmp_path)(*run_words(simulator, Path("data")), prelude=prelude)

    assert ended.code == 0, ended
