"""Ending a recorded server from another process: asked first, then killed with all it started.

Every signal goes to a process that is known to be the recorded one: a pid alone may have been reused.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING

from vlsb.serving.places import Places
from vlsb.serving.state import ServerRecord, remove_record

if TYPE_CHECKING:
    import psutil

STOP_GRACE_S = 30.0
"""How long a server may take to end by itself: requests in flight are dropped, memory is given back."""
KILL_WAIT_S = 10.0
POLL_S = 0.1


class Ending(StrEnum):
    """How a server came to its end."""

    STOPPED = "stopped"
    KILLED = "killed"
    WAS_GONE = "was gone"


def stop_server(places: Places, record: ServerRecord, *, grace_s: float = STOP_GRACE_S) -> Ending:
    """End a server, its `vlsb` first, and remove its record. Returns when no process of it is left.

    Blocks up to `grace_s` and a little more; the group is killed when that is over.
    """
    if not record.is_running:
        remove_record(places, record)
        return Ending.WAS_GONE
    # An owner ends its engine itself and says so on its screen.
    _signal(record.living_owner or record.pid, signal.SIGTERM)
    left = _left_after(grace_s, record.pid, group_members(record.pid))
    if left:
        _kill_group(record.pid, left)
    remove_record(places, record)
    _wait_for_owner(record)
    return Ending.KILLED if left else Ending.STOPPED


def group_members(group: int) -> list[psutil.Process]:
    """Every living process of a process group."""
    import psutil

    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _left_after(seconds: float, group: int, members: list[psutil.Process]) -> list[psutil.Process]:
    """What lives of a group when the time is over; returns as soon as nothing does."""
    ends_at = time.monotonic() + seconds
    while (members := _survivors(group, members)) and time.monotonic() < ends_at:
        time.sleep(POLL_S)
    return members


def _survivors(group: int, members: list[psutil.Process]) -> list[psutil.Process]:
    """The members that live, and who joined them. With nobody left the group's number may be another's."""
    living = [each for each in members if _lives(each)]
    return list({*living, *group_members(group)}) if living else []


def _lives(process: psutil.Process) -> bool:
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _kill_group(group: int, members: list[psutil.Process]) -> None:
    with suppress(ProcessLookupError):
        if any(_lives(each) and os.getpgid(each.pid) == group for each in members):
            os.killpg(group, signal.SIGKILL)
    _left_after(KILL_WAIT_S, group, members)


def _wait_for_owner(record: ServerRecord) -> None:
    ends_at = time.monotonic() + KILL_WAIT_S
    while record.living_owner is not None and time.monotonic() < ends_at:
        time.sleep(POLL_S)
