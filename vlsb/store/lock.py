"""The exclusive right to write a run, held as long as its file is open."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from vlsb.errors import RunLockedError, StoreError
from vlsb.files import FileLock
from vlsb.records import Untrusted

LOCK = ".lock"


def lock_run(directory: Path) -> FileLock:
    """Take the exclusive right to write a run. Raises RunLockedError, naming the process that holds it."""
    path = directory / LOCK
    try:
        lock = FileLock(path)
    except OSError as error:
        raise StoreError.of(f"{path}: cannot be opened", error) from error
    try:
        if not lock.try_lock():
            holder = os.pread(lock.descriptor, 200, 0).decode("utf-8", "replace")
            raise RunLockedError(
                f"{directory} is being written by another process. Wait for it, or stop it",
                detail=Untrusted(holder or "unknown"),
            )
        os.ftruncate(lock.descriptor, 0)
        os.pwrite(lock.descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    except OSError as error:
        lock.close()
        raise StoreError.of(f"{path}: cannot be written", error) from error
    except BaseException:
        lock.close()
        raise
    return lock
