"""Where a run's data set lies on this machine: a hint for reading responses, not a fact of the run.

It has a file of its own: `run.json` is what people publish, and names no path of theirs.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

FILE = ".data-root"
_LONGEST_BYTES = 4096


def remember_data_root(run: Path, root: Path) -> None:
    """Keep the absolute path of the data set beside the run; a run goes on without it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    with suppress(OSError), os.fdopen(os.open(run / FILE, flags, 0o600), "wb") as file:
        file.write(os.fsencode(root.absolute()))


def remembered_data_root(run: Path) -> Path | None:
    """The folder that the run's last session read, whether or not it is still there."""
    try:
        # Opening a FIFO must not hang: the run may be a stranger's.
        descriptor = os.open(run / FILE, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            raw = file.read(_LONGEST_BYTES)
    except OSError:
        return None
    return Path(os.fsdecode(raw)) if raw.startswith(b"/") and b"\0" not in raw else None
