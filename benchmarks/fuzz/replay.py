"""What inputs cost without the fuzzer: `python replay.py TARGET FOLDER`, then the path of an input a line.

Instrumentation makes every branch of Python dear, and some dearer than others: what an input costs under the
fuzzer says nothing of what it costs a user.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path

import targets

# A busy machine and a first call only ever add to the time.
_TRIES = 3


def cpu_s(name: str, data: bytes, scratch: Path) -> float:
    """Seconds of CPU that a target's check of an input takes; what it finds is not asked here."""
    target, found = targets.TARGETS[name], float("inf")
    for _ in range(_TRIES):
        began = time.process_time()
        with suppress(Exception):
            target.check(data, scratch)
        found = min(found, time.process_time() - began)
        if found < target.most_cpu_s / 10:
            break
    return found


def main() -> None:
    """Say that all is loaded, then answer each line with seconds."""
    name, scratch = sys.argv[1], Path(sys.argv[2])
    scratch.mkdir(exist_ok=True)
    print("ready", flush=True)
    for line in sys.stdin:
        print(f"{cpu_s(name, Path(line.rstrip()).read_bytes(), scratch):.6f}", flush=True)


if __name__ == "__main__":
    main()
