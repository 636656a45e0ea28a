"""One engine as a process: its own session and group, and nothing of it left when we end in any way.

Between us and the engine sits the reaper (`vlsb.engines.reaper`), a small process that outlives us just long
enough to clear up. It also holds an engine's children together, which outlive their parent otherwise.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import psutil

from vlsb import strict_json
from vlsb.engines import reaper
from vlsb.errors import ServerError, StoreError
from vlsb.records import Untrusted

GRACE_S = 15.0
"""How long an engine has to end by itself when we are gone and can grant it no other time."""
_POLL_S = 0.05
# Once killed, a process goes as soon as the system lets go of what it holds (a GPU's memory, a network disk).
_KILL_PATIENCE_S = 90.0
_BLOCKING_PATIENCE_S = 10.0


class EngineProcess:
    """A running engine: `pid` is its first process's, `group` the process group of all of them."""

    def __init__(self, parent: subprocess.Popen[bytes], *, pid: int, status: BinaryIO, hold: int) -> None:
        self.pid = pid
        self.group = pid
        self._reaper = parent
        self._status = status
        self._hold: int | None = hold
        self._words: list[bytes] | None = None
        self._code: int | None = None

    def exit_code(self) -> int | None:
        """How the engine ended (negative: by that signal), None while anything of it is there."""
        if self._code is None and self._reaper.poll() is not None:
            if self._words is None:
                with self._status as status:
                    self._words = status.read().split()
                if self._hold is not None:
                    os.close(self._hold)
                self._hold = None
            if self._words[:1] == [b"exit"]:
                self._code = int(self._words[1])
            elif others := list(_session(self._reaper.pid)):
                # The reaper was killed: what it has left is ours to kill.
                for pid in others:
                    with suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, signal.SIGKILL)
            else:
                self._code = -signal.SIGKILL
        return self._code

    async def wait(self) -> int:
        """Return how the engine ended, once nothing of it is left."""
        while (code := self.exit_code()) is None:
            if self._reaper.returncode is None and hasattr(os, "pidfd_open"):
                with suppress(OSError):
                    await _process_ended(self._reaper.pid)
                    continue
            # The reaper's end is past, or the system cannot tell it.
            await asyncio.sleep(_POLL_S)
        return code

    async def stop(self, grace_s: float) -> None:
        """SIGTERM, then after `grace_s` SIGKILL to the whole group; returns when nothing is left.

        A cancelled stop kills at once, and holds everything up until that is done.
        """
        try:
            if await self._is_over_within(grace_s, signal.SIGTERM):
                return
            if await self._is_over_within(_KILL_PATIENCE_S, reaper.AT_ONCE):
                return
        except asyncio.CancelledError:
            self.kill()
            raise
        raise ServerError(f"the engine (process {self.pid}) does not end, although it was killed.")

    def urge(self) -> None:
        """SIGTERM once more, for a command that drops at the second what it stores after the first."""
        # Popen signals no process that it has seen the end of.
        self._reaper.send_signal(signal.SIGTERM)

    async def _is_over_within(self, patience_s: float, number: signal.Signals) -> bool:
        # Popen signals no process that it has seen the end of.
        self._reaper.send_signal(number)
        try:
            async with asyncio.timeout(patience_s):
                await self.wait()
        except TimeoutError:
            return False
        return True

    def kill(self) -> None:
        """End it at once, and hold everything up until that is done."""
        self._reaper.send_signal(reaper.AT_ONCE)
        with suppress(subprocess.TimeoutExpired):
            self._reaper.wait(_BLOCKING_PATIENCE_S)
        self.exit_code()

    def release(self) -> None:
        """From now on the engine lives on when we end."""
        if self._hold is not None:
            # An engine that has ended listens no more.
            with suppress(OSError):
                os.write(self._hold, reaper.RELEASE)


async def _process_ended(pid: int) -> None:
    """Return when a child has ended and not been collected. OSError where the kernel cannot tell."""
    loop, ended, descriptor = asyncio.get_running_loop(), asyncio.Event(), os.pidfd_open(pid)
    try:
        loop.add_reader(descriptor, ended.set)
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def start_process(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    log: Path,
    detached: bool = False,
    keeps: int | None = None,
) -> EngineProcess:
    """Start a program in a session and a process group of its own; its output is appended to `log` (0600).

    `environment` is all of its environment. It ends with us, however we end, unless it is `detached`.
    Until nothing of it is left, the descriptor that it `keeps` stays open. Raises StoreError for a log that
    cannot be written, else ServerError.
    """
    status, status_end = os.pipe()
    hold_end, hold = os.pipe()
    command = [sys.executable, "-I", "-S", reaper.__file__, str(status_end), str(hold_end), str(GRACE_S)]
    try:
        with open_log(log) as output:
            parent = subprocess.Popen(
                [*command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(environment),
                start_new_session=True,
                pass_fds=(status_end, hold_end, *(() if keeps is None else (keeps,))),
            )
    except (OSError, StoreError) as error:
        os.close(status)
        os.close(hold)
        if isinstance(error, StoreError):
            raise
        raise ServerError(f"{arguments[0]}: cannot be started ({error.strerror}).") from error
    finally:
        os.close(status_end)
        os.close(hold_end)
    reports = os.fdopen(status, "rb")
    words = reports.readline().split()
    if words[:1] != [b"pid"]:
        reports.close()
        os.close(hold)
        raise ServerError(f"the process that starts an engine ended with {parent.wait()}.")
    process = EngineProcess(parent, pid=int(words[1]), status=reports, hold=hold)
    if detached:
        process.release()
    return process


@contextmanager
def open_log(path: Path) -> Iterator[BinaryIO]:
    """Give the log to append to, 0600 in a folder of ours alone; an earlier start's lines stay.

    Raises StoreError where it cannot be opened.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StoreError.of(f"{path}: cannot be written", error) from error
    with os.fdopen(descriptor, "ab") as file:
        os.fchmod(descriptor, 0o600)
        yield file


def _session(leader: int) -> Iterator[int]:
    """Return the living processes of a session."""
    for pid in psutil.pids():
        with suppress(ProcessLookupError, PermissionError, psutil.Error):
            # Who has ended holds nothing any more, whenever its parent collects it.
            if os.getsid(pid) == leader and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                yield pid


_LINE_BYTES = 16 * 1024 * 1024
_COMPLAINT_BYTES = 4096


@dataclass(frozen=True, slots=True)
class ScriptEnd:
    """How a program ended: the last object that it printed, its exit code, the end of its stderr."""

    last: Mapping[str, Any]
    code: int
    complaints: Untrusted


async def run_script(
    python: Path,
    script: str,
    job: Mapping[str, Any],
    *,
    environment: Mapping[str, str],
    emit: Callable[[Mapping[str, Any]], None],
) -> ScriptEnd:
    """Run a program to its end; `emit` gets each object it prints. ServerError if it cannot be started."""
    try:
        process = await asyncio.create_subprocess_exec(
            python,
            # Isolated: neither the modules beside the program nor a user's Python settings reach it.
            "-I",
            script,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=dict(environment),
            limit=_LINE_BYTES,
        )
    except OSError as error:
        raise ServerError(f"{python} cannot be started ({error.strerror}).") from error
    try:
        async with asyncio.TaskGroup() as tasks:
            last = tasks.create_task(_last_object(process, emit))
            complaints = tasks.create_task(_stderr_end(process))
            tasks.create_task(_send(process, strict_json.dumps(job).encode("ascii")))
        code = await process.wait()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    return ScriptEnd(last.result(), code, Untrusted(complaints.result()))


async def _send(process: asyncio.subprocess.Process, job: bytes) -> None:
    assert process.stdin is not None
    # A program that ended early says why by its exit.
    with suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(job)
        await process.stdin.drain()
    process.stdin.close()


async def _last_object(
    process: asyncio.subprocess.Process, emit: Callable[[Mapping[str, Any]], None]
) -> Mapping[str, Any]:
    last: Mapping[str, Any] = {}
    assert process.stdout is not None
    async for line in process.stdout:
        # A library may print lines of its own.
        with suppress(ValueError):
            value = strict_json.loads(line)
            if isinstance(value, dict):
                last = value
                emit(value)
    return last


async def _stderr_end(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    end = b""
    while piece := await process.stderr.read(_COMPLAINT_BYTES):
        end = (end + piece)[-_COMPLAINT_BYTES:]
    return end.decode("utf-8", "replace")
