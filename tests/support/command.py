"""The command line as a user types it, in a directory that holds nothing of ours."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from tests.support import canary
from tests.support.datasets import sharing_rows, write_dataset
from tests.support.endpoint import persona
from tests.support.in_process import PipeReader, can_run_here, run_here
from tests.support.waiting import DEADLINE_S, Stopwatch, cpu_waits_s, wait_until, wait_until_dead
from vlsb.simulator import Simulator, SimulatorThread

RESUME = "Resume with: "
SAMPLES = 40
REQUESTS = 2 * SAMPLES
"""What `straight_summary` is about, and the requests that it takes."""
GRACE_S = 10.0
"""How long requests in flight may finish after one Ctrl-C. What is dropped ends sooner."""

NOT_COMPARED = ("path", "usage", "duration_s")
_MAIN = "\nfrom vlsb.cli import main\nmain()\n"


class Finished(NamedTuple):
    """How a command ended; a negative code is the signal that killed it."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The lines that say what went wrong."""
        return [line for line in self.err.split("\n") if line.startswith("Error: ")]

    @property
    def error(self) -> str:
        """The one error line; an assertion if there is not exactly one, or a traceback."""
        assert "Traceback" not in self.err + self.out
        assert len(self.errors) == 1, self.err
        return self.errors[0]

    @property
    def last(self) -> str:
        """The last line on stderr."""
        return self.err.rstrip("\n").split("\n")[-1]

    @property
    def resume_command(self) -> list[str]:
        """The words of the command that the last line tells to type."""
        assert self.last.startswith(RESUME), self.err
        return shlex.split(self.last.removeprefix(RESUME))


class Process:
    """A running command. Whoever leaves its block kills it if it still runs."""

    def __init__(self, words: list[str], *, directory: Path, environment: Mapping[str, str]) -> None:
        self._popen = subprocess.Popen(
            words,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._popen.stdout is not None
        assert self._popen.stderr is not None
        self._out, self._err = PipeReader(self._popen.stdout), PipeReader(self._popen.stderr)

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """Its number."""
        return self._popen.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._popen.poll() is None

    @property
    def err(self) -> str:
        """What is on its stderr so far."""
        return self._err.text

    @property
    def out(self) -> str:
        """What is on its stdout so far."""
        return self._out.text

    def wait(self, timeout_s: float = DEADLINE_S) -> Finished:
        """How it ends, if it ends in time and nobody whom it leaves behind holds its output."""
        try:
            code = self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the command did not end; stderr: {self.err}") from None
        return _finished(code, self._out.all_text(), self._err.all_text())

    def timed_wait(self) -> tuple[Finished, float]:
        """How it ends, and the seconds until then, without those in which it waited for a CPU."""
        took_s = Stopwatch(self.pid).stop()
        return self.wait(), took_s

    def signal(self, number: int) -> None:
        """Send a signal."""
        self._popen.send_signal(number)

    def kill(self) -> Finished:
        """Kill it, if it still runs, and return when it is dead."""
        self._popen.kill()
        return self.wait()

    def stop(self) -> None:
        """Freeze it, and return when it is frozen: signals gather until SIGCONT."""
        self.signal(signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def cpu_waits_s(self) -> float:
        """Seconds that its main thread was ready to run and had no CPU; 0 on systems that do not tell."""
        return cpu_waits_s(self.pid)

    def wait_until_dead(self) -> None:
        """Return when it is dead, but not yet reaped: what Linux knows of it can still be read."""
        wait_until_dead(self.pid)

    def wait_until_said(self, words: str) -> None:
        """Return when these words are on its stderr."""
        self.wait_until(lambda: words in self.err, what=f"{words!r} on stderr")

    def wait_until(self, condition: Callable[[], object], *, what: str) -> None:
        """Return when the condition holds; fail when it does not, or the process ended before."""
        wait_until(lambda: condition() or not self.is_running, what=what)
        assert condition(), f"ended before {what}: {self.wait()}"


def _finished(code: int, out: str, err: str) -> Finished:
    canary.assert_unseen(out, err)
    return Finished(code, out, err)


def least_environment(home: Path) -> dict[str, str]:
    """What a process needs at least, with the canary key; no proxy, nobody's settings."""
    least = {"HOME": str(home), "PATH": os.defpath, "LANG": "C.UTF-8", "COLUMNS": "80", "LINES": "24"}
    return least | canary.ENVIRONMENT


def printed(folder: Path, *words: object, env: Mapping[str, str] | None = None) -> str:
    """What a command that goes well prints, in a process of its own that begins in a folder."""
    ended = Vlsb(folder).apart(*words, env=env)
    assert ended.code == 0, ended.err
    return ended.out


def run_words(
    target: Simulator | str, data_root: Path, *words: object, judge: Simulator | str | None = None
) -> list[object]:
    """`vlsb run` against endpoints; `words` replace what is usual."""
    usual = {
        "--model": "m",
        "--base-url": _url(target),
        "--judge": "j",
        "--judge-base-url": _url(target if judge is None else judge),
        "--data-root": data_root,
    }
    given = {str(word).partition("=")[0] for word in words}
    left = [(flag, value) for flag, value in usual.items() if flag not in given]
    return ["run", *(word for pair in left for word in pair), *words]


def _url(endpoint: Simulator | str) -> str:
    return endpoint if isinstance(endpoint, str) else endpoint.base_url


class Vlsb:
    """`vlsb` as a user types it, in a directory and with next to no environment.

    Called, it runs in this process. What is about processes, signals, streams or imports is started in one of
    its own: `apart` runs that to its end, `start` returns at once.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self.environment = least_environment(directory) if environment is None else environment
        self._started: list[Process] = []

    def __call__(
        self,
        *words: object,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        prelude: str | None = None,
        timeout_s: float = DEADLINE_S,
    ) -> Finished:
        """Run to the end: in this process where that is possible, and with a prelude in one of its own."""
        environment, typed = {**self.environment, **(env or {})}, [str(word) for word in words]
        if prelude is not None or not can_run_here(typed, environment):
            return self.apart(*words, env=env, cwd=cwd, prelude=prelude, timeout_s=timeout_s)
        directory = cwd or self.directory
        return _finished(*run_here(typed, directory=directory, environment=environment, timeout_s=timeout_s))

    def apart(
        self,
        *words: object,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        prelude: str | None = None,
        timeout_s: float = DEADLINE_S,
    ) -> Finished:
        """Run to the end in a process of its own."""
        with self.start(*words, env=env, cwd=cwd, prelude=prelude) as process:
            return process.wait(timeout_s)

    def start(
        self,
        *words: object,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        prelude: str | None = None,
    ) -> Process:
        """Start and return at once. `env` adds to the environment, `prelude` is Python to run before."""
        begin = ["-m", "vlsb"] if prelude is None else ["-c", prelude + _MAIN]
        process = Process(
            [sys.executable, *begin, *map(str, words)],
            directory=cwd or self.directory,
            environment={**self.environment, **(env or {})},
        )
        self._started.append(process)
        return process

    def close(self) -> None:
        """End every process that this started."""
        for process in self._started:
            process.kill()

    def resume(self, finished: Finished) -> Finished:
        """Type the command that an interrupted run printed last, word for word."""
        program, *words = finished.resume_command
        assert program == "vlsb"
        return self(*words)

    def report(self, *paths: object) -> list[dict[str, Any]]:
        """The JSON report of runs."""
        finished = self("report", *paths, "--format", "json")
        assert finished.code == 0, finished.err
        found: list[dict[str, Any]] = json.loads(finished.out)
        return found

    def summary(self, output_dir: str | Path = "outputs") -> dict[str, Any]:
        """The only run under a directory as `vlsb report` tells it, without place, cost and duration."""
        (summary,) = self.report(output_dir)
        return {name: found for name, found in summary.items() if name not in NOT_COMPARED}


class Desk:
    """A working directory with a data set and one run, and the commands typed in it."""

    def __init__(self, home: Path, samples: int = 4) -> None:
        self._open(home)
        write_dataset(self.data, samples)

    def _open(self, home: Path) -> None:
        self.home, self.data, self.outputs = home, home / "data", home / "outputs"
        self.vlsb = Vlsb(home)

    def copied_to(self, home: Path) -> Desk:
        """The same directory somewhere else, runs and file times included."""
        shutil.copytree(self.home, home, dirs_exist_ok=True)
        copy = object.__new__(Desk)
        copy._open(home)
        return copy

    @property
    def run_dir(self) -> Path:
        """Where `run` writes."""
        return self.outputs / "r"

    def run_words(
        self, target: Simulator | str, *words: object, judge: Simulator | str | None = None
    ) -> list[object]:
        """`vlsb run` on the data set against endpoints, into `run_dir`; `words` replace what is usual."""
        usual = {"--model": "target-model", "--judge": "judge-model", "--name": "r", "--backoff": "0.01"}
        given = {str(word).partition("=")[0] for word in words}
        left = [word for flag, value in usual.items() if flag not in given for word in (flag, value)]
        return run_words(target, self.data, *left, *words, judge=judge)

    def run(
        self,
        target: Simulator | str,
        *words: object,
        judge: Simulator | str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Finished:
        """`vlsb run` with `run_words`, to its end."""
        return self.vlsb(*self.run_words(target, *words, judge=judge), env=env)

    def start(self, target: Simulator | str, *words: object, env: Mapping[str, str] | None = None) -> Process:
        """`vlsb run` with `run_words`; returns at once."""
        return self.vlsb.start(*self.run_words(target, *words), env=env)

    def report(self, *paths: object) -> list[dict[str, Any]]:
        """The JSON report of runs; of `run_dir` when no path is given."""
        return self.vlsb.report(*(paths or (self.run_dir,)))

    def outcomes(self) -> dict[str, int]:
        """The outcomes of `run_dir` that occurred."""
        return {name: count for name, count in self.report()[0]["outcomes"].items() if count}

    def manifest(self) -> dict[str, Any]:
        """run.json of `run_dir`."""
        found: dict[str, Any] = json.loads((self.run_dir / "run.json").read_text())
        return found


def straight_summary(directory: Path) -> dict[str, Any]:
    """The summary of a run over `SAMPLES` that nothing interrupts."""
    vlsb = Vlsb(directory)
    with SimulatorThread(persona) as simulator:
        finished = vlsb(*run_words(simulator, write_dataset(directory / "data", sharing_rows(SAMPLES))))
    assert finished.code == 0, finished.err
    summary = vlsb.summary()
    assert summary["judged"] == SAMPLES
    return summary


def at_audit_event(event: str, suffix: str, action: str, *, armed_by: Path | None = None) -> str:
    """A prelude that does `action` when the interpreter is about to do something to a path.

    An exact moment inside the program without changing it: events are those of `sys.addaudithook`, and
    `suffix` is how one of their arguments ends. It happens once, and only after `armed_by` exists.
    """
    is_armed = "True" if armed_by is None else f"os.path.exists({str(armed_by)!r})"
    return f"""
import os, signal, sys
waiting = [True]
def hook(event, arguments):
    if waiting and event == {event!r} and {is_armed}:
        paths = [os.fsdecode(a) for a in arguments if isinstance(a, (str, bytes, os.PathLike))]
        if any(path.endswith({suffix!r}) for path in paths):
            waiting.clear()
            {action}
sys.addaudithook(hook)
"""
