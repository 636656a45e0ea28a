"""The runner of commands in this process: it sees what a process would show, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support import in_process
from tests.support.command import Desk, Vlsb
from tests.support.waiting import DEADLINE_S
from vlsb.endpoints.loops import run
from vlsb.simulator import SimulatorThread

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)


def everything() -> dict[str, Any]:
    """What a command could change of the process that it runs in."""
    root = logging.getLogger()
    return {
        "environment": dict(os.environ),
        "directory": Path.cwd(),
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "files": [Path(f"/dev/fd/{number}").readlink() for number in range(3)],
        "signals": [signal.getsignal(number) for number in SIGNALS],
        "limits": resource.getrlimit(resource.RLIMIT_NOFILE),
        "collection": (gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()),
        "loggers": (root.level, list(root.handlers), logging.getLogger("openai").level),
        "warnings": list(warnings.filters),
        "arguments": list(sys.argv),
        "temporary": tempfile.tempdir,
        "context": dict(contextvars.copy_context()),
        "threads": {each for each in threading.enumerate() if not each.daemon},
    }


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["report", "outputs"],
        ["report", "nowhere"],
        ["run", "--nonsense"],
        ["data", "check", "data"],
    ],
    ids=" ".join,
)
def test_a_command_shows_here_what_its_own_process_shows(
    desk: Desk, endpoint: SimulatorThread, words: list[str]
) -> None:
    assert desk.run(endpoint).code == 0

    assert desk.vlsb(*words) == desk.vlsb.apart(*words)


def test_nothing_of_a_command_stays(desk: Desk, endpoint: SimulatorThread) -> None:
    before = everything()

    assert desk.run(endpoint, env={"ONLY_FOR_THIS": "1"}).code == 0

    assert everything() == before


def test_nothing_stays_of_what_a_command_changed_on_purpose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = contextvars.ContextVar[int]("variable")

    def change_everything(words: list[str]) -> None:
        os.environ.clear()
        os.chdir("/")
        variable.set(1)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
        gc.set_threshold(1, 2, 3)
        logging.getLogger().setLevel(logging.CRITICAL)
        logging.getLogger().addHandler(logging.NullHandler())
        warnings.simplefilter("ignore")
        tempfile.tempdir = "/nowhere"
        sys.argv.append("more")
        sys.stdout = None  # type: ignore[assignment]
        os.close(1)
        sys.exit(11)

    monkeypatch.setattr(in_process, "main", change_everything)
    before = everything()

    ended = Vlsb(tmp_path)("any")

    assert ended.code == 11
    assert everything() == before


def test_what_a_command_starts_writes_to_its_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start_another(words: list[str]) -> None:
        sys.stdout.write("ours\n")
        sys.stdout.flush()
        subprocess.run(["sh", "-c", "echo out; echo err >&2; cat"], check=True)
        sys.exit(0)

    monkeypatch.setattr(in_process, "main", start_another)

    assert Vlsb(tmp_path)("any") == (0, "ours\nout\n", "err\n")


def test_a_variable_that_an_interpreter_reads_when_it_starts_makes_a_process(tmp_path: Path) -> None:
    """The encoding of the streams is one."""
    plain = {"PYTHONIOENCODING": "ascii"}

    assert "n\\xf6" in Vlsb(tmp_path)("report", "nö", env=plain).error
    assert "nö" in Vlsb(tmp_path)("report", "nö").error


def test_commands_from_other_threads_are_processes(tmp_path: Path) -> None:
    """There is one working directory and one environment here, and only the main thread gets signals."""
    with ThreadPoolExecutor(1) as other:
        asked: Callable[[], bool] = lambda: in_process.can_run_here([], {})  # noqa: E731

        assert other.submit(asked).result() is False
    assert in_process.can_run_here([], {})


@pytest.mark.parametrize("loops", [False, True])
def test_a_command_that_hangs_fails_where_it_is_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loops: bool
) -> None:
    def hang(words: list[str]) -> None:
        if loops:
            run(asyncio.sleep(DEADLINE_S))
        threading.Event().wait()

    monkeypatch.setattr(in_process, "main", hang)
    before = everything()

    with pytest.raises(pytest.fail.Exception, match=r"did not end within 0\.2 s(?s:.*)in hang"):
        Vlsb(tmp_path)("any", timeout_s=0.2)

    assert everything() == before
