"""Waiting for what other threads and processes do, and only as long as it takes."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

DEADLINE_S = 60.0
"""How long a test waits for something that takes milliseconds: only a hang reaches it."""


def wait_until(condition: Callable[[], object], *, what: str) -> None:
    """Return when the condition holds; fail, naming `what`, when it does not in a very long time."""
    ends_at = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < ends_at, f"waited {DEADLINE_S:g} s for {what}"
        time.sleep(0.005)


class Stopwatch:
    """The seconds that a process takes from now to its end, without those in which it waited for a CPU.

    So a busy machine makes nothing slow. On systems that do not tell, they are all counted.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._waited_s = cpu_waits_s(pid)
        self._began = time.monotonic()

    def stop(self) -> float:
        """The seconds, once it is dead. Nobody may have collected it before."""
        wait_until_dead(self._pid)
        return time.monotonic() - self._began - (cpu_waits_s(self._pid) - self._waited_s)


def cpu_waits_s(pid: int) -> float:
    """Seconds that a process's main thread was ready to run and had no CPU; 0 on systems that do not tell."""
    try:
        waited_ns = Path(f"/proc/{pid}/schedstat").read_text("ascii").split()[1]
    except OSError:
        return 0.0
    return int(waited_ns) / 1e9


def wait_until_dead(pid: int) -> None:
    """Return when a child is dead, but not yet reaped: what Linux knows of it can still be read."""
    if sys.platform == "linux":
        options = os.WEXITED | os.WNOWAIT | os.WNOHANG
        wait_until(lambda: os.waitid(os.P_PID, pid, options), what="its end")
