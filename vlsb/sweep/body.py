"""What runs on a node: one command as a child that ends with it, its run synced to where all can read it."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from vlsb.engines.process import open_log, start_process
from vlsb.errors import ConfigError, OutageError, RunLockedError, VlsbError
from vlsb.records import Untrusted
from vlsb.sweep.cells import SweepWork

STOP_GRACE_S = 60.0
"""Seconds that a command has to store what is in flight and to end its engine."""
_HUB = "hf://"
# What a node that is lost may cost: answers of half a minute are asked for again.
_SYNC_EVERY_S = 30.0
# There each file is a commit, of which a repository takes this many an hour.
_SYNC_RARELY_S = 600.0
_PUSH_PATIENCE_S = 30.0
_PUSH_AGAIN_S = 2.0
_LOOK_EVERY_S = 0.2
# A verdict whose response is not there counts for nothing, and without the manifest there is no run.
_RANKS = {"run.json": 0, "responses.jsonl": 2}
# A node that was lost may still be ending its command: its lock goes with it.
_LOCK_PATIENCE_S = 90.0


@dataclass(frozen=True, slots=True)
class NodeTask:
    """A command for a node: the words after `vlsb`, its log, and what of the environment is its own.

    `remote` is the address that its runs are synced with (`s3://...`), by the names of their folders in
    `local`; empty where `local` is a folder that all nodes share.
    """

    words: Sequence[str]
    log: str
    environment: Mapping[str, str]
    local: str
    runs: Sequence[str]
    remote: str = ""


@dataclass(frozen=True, slots=True)
class RunFolders:
    """Where runs are on each node: in `local`, which all nodes share or sync with the address `remote`."""

    local: Path
    remote: str = ""


def task_of(
    work: SweepWork, places: RunFolders, environment: Mapping[str, str], share_usd: float | None = None
) -> NodeTask:
    """Make the task of a work, which may cost so much where money is limited."""
    return NodeTask(
        words=work.command(replace(work.options, max_cost=share_usd)),
        log=str(places.local / "logs" / work.log_name),
        environment=dict(environment),
        local=str(places.local),
        runs=[run.name for run in work.runs],
        remote=places.remote,
    )


def unset_variables(names: Sequence[str]) -> list[str]:
    """Return the variables that a command on this node finds neither in its environment nor in `.env`."""
    variables = {**dotenv_values(Path.cwd() / ".env"), **os.environ}
    return [name for name in names if not variables.get(name)]


def run_task(task: NodeTask) -> int:
    """Carry a task out where a node has given it to us, with CUDA_VISIBLE_DEVICES set if there are GPUs."""
    return asyncio.run(carry_out(task))


async def carry_out(task: NodeTask) -> int:
    """Run the command to its end and return its exit code. Cancelled, it is ended in order.

    What is wrong with the address that runs are synced with is in the task's log.
    """
    mirrors = [Mirror(f"{task.remote}/{run}", Path(task.local) / run) for run in task.runs if task.remote]
    try:
        for mirror in mirrors:
            await asyncio.to_thread(mirror.pull)
        until = time.monotonic() + _LOCK_PATIENCE_S
        while (code := await _run_once(task, mirrors)) == RunLockedError.exit_code:
            if time.monotonic() > until:
                break
            await asyncio.sleep(_LOOK_EVERY_S)
        return code
    except VlsbError as error:
        with open_log(Path(task.log)) as log:
            log.write(f"Error: {error.message}\n".encode())
        return error.exit_code


async def _run_once(task: NodeTask, mirrors: Sequence[Mirror]) -> int:
    child = start_process(
        [sys.executable, "-m", "vlsb", *task.words],
        environment={**os.environ, **task.environment},
        log=Path(task.log),
    )
    ending = asyncio.create_task(child.wait())
    try:
        every_s = min((mirror.every_s for mirror in mirrors), default=None)
        while not (await asyncio.wait([ending], timeout=every_s))[0]:
            for mirror in mirrors:
                # The next time brings what this one did not.
                with suppress(OutageError):
                    await asyncio.to_thread(mirror.push)
        return ending.result()
    finally:
        if not ending.done():
            ending.cancel()
            await child.stop(STOP_GRACE_S)
        for mirror in mirrors:
            await asyncio.to_thread(mirror.push_all)


@dataclass(slots=True)
class Mirror:
    """A run directory and its copy at an address that fsspec knows (`s3://`, `gs://`, `hf://`, `memory://`).

    Whole files are copied: the manifest first, and verdicts before responses.
    """

    address: str
    local: Path
    _pushed: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def every_s(self) -> float:
        """Seconds between two copies."""
        return _SYNC_RARELY_S if self.address.startswith(_HUB) else _SYNC_EVERY_S

    def pull(self) -> None:
        """Bring the files of the copy here that are longer there: run files only grow. Blocking."""
        with self._opened("read") as (system, root):
            if not system.exists(root):
                return
            for path in system.find(root):
                target = self.local / path.removeprefix(root).lstrip("/")
                if not target.resolve().is_relative_to(self.local.resolve()):
                    raise ConfigError(f"{self.address}: {path} lies outside the run.")
                if not target.exists() or target.stat().st_size < system.size(path):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    draft = target.with_name(f".{target.name}.part")
                    draft.unlink(missing_ok=True)
                    system.get_file(path, str(draft))
                    draft.replace(target)

    def push(self) -> None:
        """Copy the files that are new or have grown. Blocking. Raises OutageError where that fails."""
        with self._opened("written") as (system, root):
            for path in sorted(self.local.rglob("*"), key=lambda path: (_RANKS.get(path.name, 1), str(path))):
                if not path.is_file() or path.is_symlink() or path.name.startswith("."):
                    continue
                name = path.relative_to(self.local).as_posix()
                stat = path.stat()
                seen = (stat.st_size, stat.st_mtime_ns)
                if self._pushed.get(name) != seen:
                    system.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
                    system.put_file(str(path), f"{root}/{name}")
                    self._pushed[name] = seen

    def push_all(self) -> None:
        """Copy what is left, with patience: nobody comes after. Blocking."""
        until = time.monotonic() + _PUSH_PATIENCE_S
        while True:
            try:
                return self.push()
            except OutageError:
                if time.monotonic() > until:
                    raise
                time.sleep(_PUSH_AGAIN_S)

    @contextmanager
    def _opened(self, done: str) -> Iterator[tuple[Any, str]]:
        # As the Hugging Face Hub's library needs it too, it is there.
        import fsspec

        try:
            system, root = fsspec.url_to_fs(self.address)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"{self.address}: {error}.") from error
        try:
            yield system, str(root).rstrip("/")
        except VlsbError:
            raise
        except Exception as error:
            # Each of fsspec's libraries has errors of its own.
            what = f"{self.address} cannot be {done} ({type(error).__name__})"
            raise OutageError(what, detail=Untrusted(str(error))) from error


def fetch_runs(work: SweepWork, places: RunFolders) -> None:
    """Bring a work's runs here from the address that nodes sync with, if there is one. Blocking."""
    for run in work.runs if places.remote else ():
        Mirror(f"{places.remote}/{run.name}", run).pull()
