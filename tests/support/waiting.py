"""Waiting for what other threads and processes do, and only as long as it takes."""

from __future__ import annotations

import time
from collections.abc import Callable

DEADLINE_S = 60.0
"""How long a test waits for something that takes milliseconds: only a hang reaches it."""


def wait_until(condition: Callable[[], object], *, what: str) -> None:
    """Return when the condition holds; fail, naming `what`, when it does not in a very long time."""
    ends_at = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < ends_at, f"waited {DEADLINE_S:g} s for {what}"
        time.sleep(0.005)
