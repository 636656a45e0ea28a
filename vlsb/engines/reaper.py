"""A process of its own between us and an engine: whatever dies, nothing of the engine's tree stays.

Run as a script, on the standard library alone: `python -I -S reaper.py STATUS HOLD GRACE_S PROGRAM ...`.
STATUS is a pipe that gets "pid N" once the engine runs and "exit CODE" (negative: a signal) once nothing is
left of it. HOLD is a pipe whose end means that our owner is gone, unless the letter "r" came before: then
the engine is released and lives on. SIGTERM is passed on to the engine, each time that it comes; when our
owner is gone, the engine has GRACE_S from then on. SIGUSR1 ends it at once.

What guards against what:
- our owner dies in any way: HOLD ends; SIGTERM to the engine, SIGKILL to the rest after GRACE_S
- the engine's first process dies: what it leaves behind (vLLM's EngineCore and Worker outlive it) is killed,
  its group first, then by descent, since a subreaper inherits orphans that changed their group
- this process dies: the kernel kills the engine's first process (parent-death signal) and hangs up on its
  group, which is the foreground of a terminal that only we hold
Where the system has no subreaper or parent-death signal (macOS), the group and the terminal remain.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import sys
import termios
import time
from collections.abc import Callable

RELEASE = b"r"
AT_ONCE = signal.SIGUSR1
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PATIENCE_S = 60.0
_NOT_STARTED = 127


class Reaper:
    """One engine and what is known of its end."""

    def __init__(self, status: int, hold: int, grace_s: float) -> None:
        self._status = status
        self._hold: int | None = hold
        self._grace_s = grace_s
        self._kill_at: float | None = None
        self._engine = 0
        self._code: int | None = None

    def run(self, program: list[str]) -> None:
        """Start the engine, watch it, and return when nothing is left of it."""

        def end_now(*_: object) -> None:
            self._kill_at = time.monotonic()

        waker, wake = os.pipe()
        for end in (waker, wake):
            os.set_blocking(end, False)
        # Until there is an engine to end, who wants it ended waits.
        signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGTERM, AT_ONCE})
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGTERM, lambda *_: self._end_gently())
        signal.signal(AT_ONCE, end_now)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        # Slurm warns all processes of a job before its time is over (SIGUSR2). Only our owner answers that;
        # the engine inherits that it is ignored.
        for ignored in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR2):
            signal.signal(ignored, signal.SIG_IGN)
        self._engine = _start(program)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self._report(f"pid {self._engine}")
        self._watch(waker)
        # The group first, then whoever has become our child, until there is nobody.
        ends_at = time.monotonic() + _PATIENCE_S
        while time.monotonic() < ends_at:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._engine, signal.SIGKILL)
            for pid in children():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            if not self._reap() and not _is_group_alive(self._engine):
                break
            time.sleep(0.01)
        self._report(f"exit {-signal.SIGKILL if self._code is None else self._code}")

    def _watch(self, waker: int) -> None:
        # Not `select`, which knows no descriptor from 1024 on: these have the numbers that our owner had.
        poll = select.poll()
        for each in (waker, self._hold):
            if each is not None:
                poll.register(each, select.POLLIN)
        while self._code is None and (wait_s := self._wait_s()) != 0:
            ready = [end for end, _ in poll.poll(None if wait_s is None else 1000 * wait_s)]
            if self._hold is not None and self._hold in ready:
                poll.unregister(self._hold)
                is_released = os.read(self._hold, 1) == RELEASE
                self._hold = None
                if not is_released:
                    self._end_gently()
            if waker in ready:
                os.read(waker, 4096)
            self._reap()

    def _wait_s(self) -> float | None:
        return None if self._kill_at is None else max(0.0, self._kill_at - time.monotonic())

    def _end_gently(self) -> None:
        """SIGTERM to the engine, which ends its own children; a living owner decides when its time is up."""
        if self._code is None:
            # It may have been collected in this very moment.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._engine, signal.SIGTERM)
        if self._hold is None and self._kill_at is None:
            self._kill_at = time.monotonic() + self._grace_s

    def _reap(self) -> bool:
        """Collect whoever has ended; whether anybody is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._engine:
                self._code = os.waitstatus_to_exitcode(status)

    def _report(self, line: str) -> None:
        # A released engine outlives whoever listened.
        with contextlib.suppress(OSError):
            os.write(self._status, f"{line}\n".encode())


def children() -> list[int]:
    """Our children, ended ones included; none where there is no /proc."""
    own = str(os.getpid()).encode()
    try:
        # Not pathlib, whose import takes a third of this process's start.
        names = [each for each in os.listdir("/proc") if each.isdecimal()]  # noqa: PTH208
    except OSError:
        return []
    pids = []
    for name in names:
        with contextlib.suppress(OSError, IndexError), open(f"/proc/{name}/stat", "rb") as stat:  # noqa: PTH123
            # The second field is the program's name in parentheses, whatever it holds.
            if stat.read().rpartition(b")")[2].split()[1] == own:
                pids.append(int(name))
    return pids


def _is_group_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        # macOS says so of a group of zombies.
        return False
    return True


def _start(program: list[str]) -> int:
    """Fork the engine as the foreground group of our terminal; single-threaded, so any code may run there."""
    control = process_control()
    control(_PR_SET_CHILD_SUBREAPER, 1)
    terminal = _terminal()
    own = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become(program, own, control)
    with contextlib.suppress(OSError):
        os.setpgid(pid, pid)
    if terminal is not None:
        with contextlib.suppress(OSError):
            os.tcsetpgrp(terminal, pid)
    return pid


def _become(program: list[str], parent: int, control: Callable[[int, int], None]) -> None:
    try:
        os.setpgid(0, 0)
        control(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for each in (
            signal.SIGHUP,
            signal.SIGINT,
            signal.SIGQUIT,
            signal.SIGTERM,
            signal.SIGCHLD,
            signal.SIGPIPE,
        ):
            signal.signal(each, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if os.getppid() == parent:
            os.execvp(program[0], program)
    except OSError as error:
        os.write(2, f"{program[0]}: cannot be run: {error.strerror}\n".encode())
    finally:
        os._exit(_NOT_STARTED)


def _terminal() -> int | None:
    """A terminal of our own: when its session's leader (we) dies, the kernel hangs up on the engine's group.

    None where there is none to be had.
    """
    try:
        # The other end stays open as long as we live: its closing is a hang-up too.
        _, terminal = os.openpty()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    except OSError:
        return None
    return terminal


def process_control() -> Callable[[int, int], None]:
    """Linux's prctl, or a function that does nothing."""
    try:
        import ctypes

        prctl = ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        return lambda option, value: None
    return lambda option, value: prctl(option, value, 0, 0, 0)


def main() -> None:
    """Take the two pipes, close them to the engine, and hold it."""
    status, hold = int(sys.argv[1]), int(sys.argv[2])
    for end in (status, hold):
        os.set_inheritable(end, False)
    Reaper(status, hold, float(sys.argv[3])).run(sys.argv[4:])


if __name__ == "__main__":
    main()
