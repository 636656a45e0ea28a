"""Programs of ours that run in an engine's own Python, where torch and transformers are.

Such a program imports nothing of ours, reads one JSON job from stdin and says JSON objects on stdout, one a
line. It ends with us: on cancellation it is killed, and a program that finds nobody listening stops.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlsb import strict_json
from vlsb.errors import ServerError
from vlsb.records import Untrusted

_LINE_BYTES = 16 * 1024 * 1024
_COMPLAINT_BYTES = 4096


@dataclass(frozen=True, slots=True)
class ScriptEnd:
    """How a program ended: the last thing it said, its exit code, the end of its stderr."""

    last: Mapping[str, Any]
    code: int
    complaints: Untrusted


async def run_script(
    python: Path,
    script: str,
    job: Mapping[str, Any],
    *,
    environment: Mapping[str, str],
    hear: Callable[[Mapping[str, Any]], None],
) -> ScriptEnd:
    """Run a program to its end; `hear` gets every object it says. ServerError if it cannot be started."""
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
            said = tasks.create_task(_listened(process, hear))
            complaints = tasks.create_task(_complaints(process))
            tasks.create_task(_told(process, strict_json.dumps(job).encode("ascii")))
        code = await process.wait()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    return ScriptEnd(said.result(), code, Untrusted(complaints.result()))


async def _told(process: asyncio.subprocess.Process, job: bytes) -> None:
    assert process.stdin is not None
    # A program that ended early says why by its exit.
    with suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(job)
        await process.stdin.drain()
    process.stdin.close()


async def _listened(
    process: asyncio.subprocess.Process, hear: Callable[[Mapping[str, Any]], None]
) -> Mapping[str, Any]:
    last: Mapping[str, Any] = {}
    assert process.stdout is not None
    async for line in process.stdout:
        # A library's own line on stdout is no news of the program's.
        with suppress(ValueError):
            said = strict_json.loads(line)
            if isinstance(said, dict):
                last = said
                hear(said)
    return last


async def _complaints(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    end = b""
    while piece := await process.stderr.read(_COMPLAINT_BYTES):
        end = (end + piece)[-_COMPLAINT_BYTES:]
    return end.decode("utf-8", "replace")
