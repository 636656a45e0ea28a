"""What the end-to-end tests share: a data set, a persona, `vlsb` as a process, its report as JSON.

The persona's answers and labels follow from the instruction alone, so whatever order requests arrive in,
and however often a run is interrupted, there is one right summary.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tests.conftest import DEADLINE_S, wait_until, write_dataset
from tests.support import canary
from vlsb.simulator import Reply, Request, Simulator, SimulatorThread, answer, verdict

SAMPLES = 40
REQUESTS = 2 * SAMPLES
GRACE_S = 10.0
"""How long requests in flight may finish after one Ctrl-C. What is dropped ends sooner."""
RESUME = "Resume with: "

_NOT_COMPARED = ("path", "usage", "duration_s")
_MAIN = "\nfrom vlsb.cli import main\nmain()\n"


# What a run is made of.


def make_dataset(directory: Path, samples: int = SAMPLES) -> Path:
    """A data set folder in which every seventh sample has another one's picture."""
    shared = {number: number - 1 for number in range(6, samples, 7)}
    return write_dataset(directory / "data", samples, shared=shared)


def sample_id(request: Request) -> int:
    """The sample that a request of either lane is about."""
    return int(request.instruction.rpartition(" ")[2].rstrip(")"))


def persona(request: Request) -> Reply:
    """The answer or verdict for a sample: always the same one, after its own few milliseconds."""
    digest = hashlib.sha256(request.instruction.encode()).digest()
    delay_s = (5 + digest[1] % 30) / 1000
    if request.is_judge:
        return verdict(digest[0] % 3 + 1, f"Because of {digest.hex()}.", delay_s=delay_s)
    return answer(f"The colour is {digest.hex()}.", delay_s=delay_s)


# The program as a process.


class Ended(NamedTuple):
    """How a process ended; a negative code is the signal that killed it."""

    code: int
    out: str
    err: str

    @property
    def error_lines(self) -> list[str]:
        """The lines that say what went wrong."""
        return [line for line in self.err.splitlines() if line.startswith("Error: ")]

    @property
    def last_line(self) -> str:
        """The last line on the screen."""
        return self.err.splitlines()[-1] if self.err else ""

    @property
    def resume_command(self) -> list[str]:
        """The words of the command that the last line tells to type."""
        assert self.last_line.startswith(RESUME), self.err
        return shlex.split(self.last_line.removeprefix(RESUME))


class Vlsb:
    """`vlsb` started as a user does, from a directory of its own, with next to no environment."""

    def __init__(self, cwd: Path) -> None:
        self.cwd = cwd
        least = {"HOME": str(cwd), "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
        self._environment = least | canary.ENVIRONMENT
        self._started = 0

    @contextmanager
    def start(self, *arguments: str, prelude: str | None = None) -> Iterator[Process]:
        """The running process, killed at the end if it still runs. `prelude` is Python to run before it."""
        self._started += 1
        begin = ["-m", "vlsb"] if prelude is None else ["-c", prelude + _MAIN]
        out, err = (self.cwd / f"{self._started}.{name}" for name in ("stdout", "stderr"))
        with out.open("wb") as out_file, err.open("wb") as err_file:
            running = subprocess.Popen(
                [sys.executable, *begin, *arguments],
                cwd=self.cwd,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=out_file,
                stderr=err_file,
            )
        try:
            yield Process(running, out, err)
        finally:
            running.kill()
            running.wait()

    def __call__(self, *arguments: str, prelude: str | None = None) -> Ended:
        """Run it to its end."""
        with self.start(*arguments, prelude=prelude) as process:
            return process.wait()

    def resume(self, ended: Ended) -> Ended:
        """Type the command that an interrupted run printed last, word for word."""
        program, *arguments = ended.resume_command
        assert program == "vlsb"
        return self(*arguments)

    def summary(self, output_dir: str | Path = "outputs") -> dict[str, Any]:
        """The only run under a directory as `vlsb report` tells it, without place, cost and duration."""
        ended = self("report", str(output_dir), "--format", "json")
        assert ended.code == 0, ended.err
        (summary,) = json.loads(ended.out)
        return {name: found for name, found in summary.items() if name not in _NOT_COMPARED}


@dataclass
class Process:
    """A running `vlsb`."""

    popen: subprocess.Popen[bytes]
    out: Path
    err: Path

    def wait(self) -> Ended:
        """How it ends, if it ends in time."""
        code = self.popen.wait(DEADLINE_S)
        return Ended(code, self.out.read_text("utf-8"), self.err.read_text("utf-8"))

    def signal(self, number: int) -> None:
        """Send a signal."""
        self.popen.send_signal(number)

    def stop(self) -> None:
        """Freeze it, and return when it is frozen: signals gather until SIGCONT."""
        self.popen.send_signal(signal.SIGSTOP)
        os.waitpid(self.popen.pid, os.WUNTRACED)

    def cpu_waits_s(self) -> float:
        """Seconds that its main thread was ready to run and had no CPU; 0 on systems that do not tell."""
        try:
            waited_ns = Path(f"/proc/{self.popen.pid}/schedstat").read_text("ascii").split()[1]
        except OSError:
            return 0.0
        return int(waited_ns) / 1e9

    def wait_until_dead(self) -> None:
        """Return when it is dead, but not yet reaped: what Linux knows of it can still be read."""
        if sys.platform == "linux":
            options = os.WEXITED | os.WNOWAIT | os.WNOHANG
            wait_until(lambda: os.waitid(os.P_PID, self.popen.pid, options), what="its end")

    def wait_until_said(self, words: str) -> None:
        """Return when these words are on its screen."""
        self.wait_until(lambda: words in self.err.read_text("utf-8"), what=f"{words!r} on stderr")

    def wait_until(self, condition: Callable[[], object], *, what: str) -> None:
        """Return when the condition holds; fail when it does not, or the process ended before."""

        def holds_or_ended() -> object:
            return condition() or self.popen.poll() is not None

        wait_until(holds_or_ended, what=what)
        assert condition(), f"ended before {what}: {self.wait()}"


def run_arguments(simulator: Simulator, data_root: Path, *more: str) -> tuple[str, ...]:
    """`vlsb run` with both lanes at the simulator."""
    url = simulator.base_url
    lanes = ("--model", "m", "--base-url", url, "--judge", "j", "--judge-base-url", url)
    return ("run", *lanes, "--data-root", str(data_root), *more)


def straight_summary(directory: Path) -> dict[str, Any]:
    """The summary of a run that nothing interrupts."""
    vlsb = Vlsb(directory)
    with SimulatorThread(persona) as simulator:
        ended = vlsb(*run_arguments(simulator, make_dataset(directory)))
    assert ended.code == 0, ended.err
    summary = vlsb.summary()
    assert summary["judged"] == SAMPLES
    return summary


def settle(simulator: Simulator) -> int:
    """Return when nothing of a dead client is left on its way: how many completions were asked for."""
    # What the client had sent stands before this request in the simulator's loop.
    connection = http.client.HTTPConnection(simulator.host, simulator.port, timeout=DEADLINE_S)
    connection.request("GET", "/health")
    connection.getresponse().read()
    connection.close()
    wait_until(lambda: simulator.in_flight == 0, what="nothing in flight")
    return len(simulator.completions)


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


# What a run leaves behind.


def journals(run: Path) -> dict[str, bytes]:
    """The bytes of every journal, by its place in the run directory."""
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*.jsonl"))}


def whole_lines(contents: bytes) -> bytes:
    """Everything up to the last newline."""
    return contents[: contents.rfind(b"\n") + 1]


def records(contents: bytes) -> list[dict[str, Any]]:
    """Every whole record."""
    return [json.loads(line) for line in whole_lines(contents).split(b"\n")[:-1]]


def stored_ids(run: Path) -> tuple[set[int], set[int]]:
    """The samples with a stored response, and those with a stored verdict."""
    found = journals(run)
    verdicts = [name for name in found if name.startswith("verdicts/")]
    responses = records(found.get("responses.jsonl", b""))
    return _ids(responses), _ids(each for name in verdicts for each in records(found[name]))


def _ids(rows: Iterable[dict[str, Any]]) -> set[int]:
    return {row["sample_id"] for row in rows}


def asked_ids(requests: Sequence[Request], *, of_judge: bool) -> list[int]:
    """The samples that a lane was asked about, sorted, as often as it was."""
    return sorted(sample_id(request) for request in requests if request.is_judge == of_judge)
