"""A sweep on Slurm, through submitit: arrays of cells, one for each number of GPUs. Placing is Slurm's.

A job that is preempted or runs out of time is put into the queue again by submitit, and its command resumes.
Jobs live on when the sweep's own process ends: the next one finds them by their numbers.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from vlsb.errors import ConfigError, InterruptedRunError
from vlsb.extras import require_extra
from vlsb.files import replace_file
from vlsb.records import Untrusted
from vlsb.sweep.board import LOST, RETRIED, Board, BoardEntry, Stop
from vlsb.sweep.body import NodeTask, RunFolders, carry_out, fetch_runs, task_of
from vlsb.sweep.plan import Slurm

# Each look is a question to the controller, which all users of a cluster share and which may be busy.
_POLL_S, _SQUEUE_PATIENCE_S = 2.0, 60.0


def require_slurm() -> None:
    """Raise ConfigError where the extra `slurm` is not installed."""
    require_extra("slurm", "--slurm")


class NodeBody:
    """What submitit runs on a node, and runs again from the beginning after a requeue: `vlsb` resumes.

    Slurm warns of the end of a job's time by a signal, at which submitit puts the job into the queue again.
    Slurm then kills it at once, so the command is ended in order before.
    """

    def __init__(self, task: NodeTask) -> None:
        self.task = task

    def __call__(self) -> int:
        """Carry the task out and return the exit code of its command."""
        requeue = signal.getsignal(signal.SIGUSR2)
        code = asyncio.run(self._carried_out())
        if code is None:
            assert callable(requeue)
            requeue(signal.SIGUSR2, None)
        return InterruptedRunError.exit_code if code is None else code

    async def _carried_out(self) -> int | None:
        """Return the exit code of the command; None where a warning came, and it was ended."""
        warned = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, warned.set)
        body, warning = asyncio.create_task(carry_out(self.task)), asyncio.create_task(warned.wait())
        await asyncio.wait({body, warning}, return_when=asyncio.FIRST_COMPLETED)
        warning.cancel()
        if body.done():
            return body.result()
        body.cancel()
        with suppress(asyncio.CancelledError):
            await body
        return None

    def checkpoint(self) -> Any:
        """Return what submitit puts into the queue again when the job's time is over or it is preempted."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(NodeBody(self.task))


@dataclass(slots=True)
class SweepOnSlurm:
    """One sweep as Slurm jobs. `cluster` is submitit's word: slurm, or local for processes here."""

    hurry: ClassVar[str] = "Leaving: Slurm ends the jobs."
    board: Board
    settings: Slurm
    places: RunFolders
    environment: Mapping[str, str]
    retries: int
    cluster: str = "slurm"
    _jobs: dict[BoardEntry, Any] = field(default_factory=dict)

    async def run(self, stop: Stop) -> None:
        """Submit what is waiting, and wait for all jobs; when `stop` is asked, cancel them."""
        require_slurm()
        await asyncio.to_thread(self._adopt)
        try:
            while not stop.asked.is_set():
                try:
                    await asyncio.to_thread(self._submit, list(self.board.waiting()))
                except import_module("submitit.core.utils").FailedJobError as error:
                    reason = Untrusted(str(error))
                    raise ConfigError("--slurm: the jobs were not taken", detail=reason) from error
                if not self._jobs:
                    return
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.asked.wait(), _POLL_S)
                queued = await asyncio.to_thread(self._queued)
                for entry, job in list(self._jobs.items()):
                    # One that was put into the queue again has left a result too, and is not done.
                    if await asyncio.to_thread(job.done) if queued is None else job.job_id not in queued:
                        del self._jobs[entry]
                        await asyncio.to_thread(fetch_runs, entry.work, self.places)
                        code = InterruptedRunError.exit_code
                        if not job.paths.result_pickle.exists():
                            entry.why = f"its job is gone: see {job.paths.stderr}"
                        elif (failure := job.exception()) is not None:
                            entry.why = f"{type(failure).__name__}: see {job.paths.stderr}"
                        else:
                            code = int(job.result())
                        await self.board.end(entry, code, retries=self.retries, retried=RETRIED | LOST)
        finally:
            if stop.asked.is_set():
                # Slurm warns each, and ends it after a grace of its own.
                await asyncio.gather(*(asyncio.to_thread(job.cancel, False) for job in self._jobs.values()))
            self.board.stop()

    def _submit(self, entries: list[BoardEntry]) -> None:
        """Submit one array for the works that take the same number of GPUs."""
        import submitit

        groups: dict[int, list[BoardEntry]] = {}
        for entry in entries:
            groups.setdefault(entry.work.num_gpus or 0, []).append(entry)
        for count, group in groups.items():
            executor = submitit.AutoExecutor(folder=str(self._folder), cluster=self.cluster)
            wishes: dict[str, Any] = {
                "name": "vlsb",
                "timeout_min": self.settings.time,
                "cpus_per_task": self.settings.cpus,
            }
            if count:
                wishes["gpus_per_node"] = count
            if self.settings.memory_gb:
                wishes["mem_gb"] = self.settings.memory_gb
            if self.cluster == "slurm":
                wishes["slurm_array_parallelism"] = self.settings.at_once
                for name in ("partition", "account"):
                    if value := getattr(self.settings, name):
                        wishes[f"slurm_{name}"] = value
            executor.update_parameters(**wishes)
            with executor.batch():
                jobs = [
                    executor.submit(NodeBody(task_of(entry.work, self.places, self.environment)))
                    for entry in group
                ]
            for entry, job in zip(group, jobs, strict=True):
                self._jobs[entry] = job
                log = task_of(entry.work, self.places, {}).log
                self.board.start(entry, f"job {job.job_id}", Path(log))
        if entries:
            self._folder.mkdir(parents=True, exist_ok=True)
            jobs_by_name = {entry.work.name: job.job_id for entry, job in self._jobs.items()}
            replace_file(self._record, [msgspec.json.encode(jobs_by_name)])

    def _adopt(self) -> None:
        """Take up the jobs that an earlier sweep of this plan left in the queue."""
        import submitit

        if self.cluster != "slurm" or not self._record.exists():
            return
        numbers = msgspec.json.decode(self._record.read_bytes(), type=dict[str, str])
        queued = self._queued() or frozenset()
        for entry in list(self.board.waiting()):
            if (number := numbers.get(entry.work.name)) in queued:
                self._jobs[entry] = submitit.SlurmJob(folder=str(self._folder), job_id=number)
                self.board.start(entry, f"job {number}", None)

    def _queued(self) -> frozenset[str] | None:
        """Return the numbers of the user's jobs that wait or run; None where Slurm does not answer just now.

        submitit asks the accounting, which not every cluster has.
        """
        if self.cluster != "slurm":
            return None
        try:
            listing = subprocess.run(
                ["squeue", "--noheader", "--array", "--me", "--format=%i"],
                capture_output=True,
                text=True,
                timeout=_SQUEUE_PATIENCE_S,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return frozenset(listing.stdout.split())

    @property
    def _folder(self) -> Path:
        return self.places.local / "slurm"

    @property
    def _record(self) -> Path:
        return self._folder / "jobs.json"
