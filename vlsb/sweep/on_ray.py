"""A sweep on Ray: each command a task on the node that Ray gives it. Placing and lost nodes are Ray's.

The nodes have `vlsb` installed, the keys' variables set and the plan's folders mounted: a key is never sent
through Ray, whose dashboard shows what it is given.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vlsb.errors import ConfigError, InterruptedRunError
from vlsb.sweep.board import LOST, RETRIED, Board, Entry
from vlsb.sweep.body import run_task
from vlsb.sweep.tasks import Places, fetch_runs, task_of

HOSTED = "vlsb_hosted"
"""The custom resource that works of hosted models take, so that an account is not stormed."""
_JOBS = ("http://", "https://")
_POLL_S = 1.0
_STOP_PATIENCE_S = 90.0


def require_ray() -> None:
    """Raise ConfigError where the extra `ray` is not installed."""
    if find_spec("ray") is None:
        raise ConfigError(
            "--ray needs the extra `ray`. In a clone: uv sync --extra ray. Elsewhere: install vlsb[ray]."
        )


def is_jobs_address(address: str) -> bool:
    """Whether an address is that of a cluster's Jobs server, which runs the sweep over there."""
    return address.startswith(_JOBS)


@dataclass(slots=True)
class SweepOnRay:
    """One sweep on a Ray cluster. `environment` is what commands are told beside their node's own."""

    board: Board
    address: str
    places: Places
    environment: Mapping[str, str]
    retries: int
    _pending: dict[Any, Entry] = field(default_factory=dict)

    async def run(self, stop: asyncio.Event) -> None:
        """Submit everything, and wait; when `stop` is set, cancel what runs and return."""
        require_ray()
        ray: Any = import_module("ray")
        ray.init(
            address=self.address,
            log_to_driver=False,
            configure_logging=False,
            ignore_reinit_error=True,
        )
        try:
            self._require_resources(ray.cluster_resources())
            submitted = ray.remote(run_task)
            while not stop.is_set():
                for entry in list(self.board.waiting()):
                    self._submit(submitted, entry)
                if not self._pending:
                    return
                done, _ = await asyncio.to_thread(
                    ray.wait, list(self._pending), num_returns=1, timeout=_POLL_S
                )
                for reference in done:
                    await asyncio.to_thread(fetch_runs, self._pending[reference].work, self.places)
                    await self._end(reference, ray)
        finally:
            for reference in self._pending:
                ray.cancel(reference, force=False)
            if self._pending:
                # They store what is in flight and end their engines.
                await asyncio.to_thread(
                    ray.wait, list(self._pending), num_returns=len(self._pending), timeout=_STOP_PATIENCE_S
                )
            ray.shutdown()
            self.board.stop()

    def _submit(self, submitted: Any, entry: Entry) -> None:
        work = entry.work
        task = task_of(work, self.places, self.environment)
        hosted = {} if work.num_gpus is not None else {HOSTED: 1}
        reference = submitted.options(
            name=work.name,
            num_gpus=work.num_gpus or 0,
            num_cpus=0,
            resources=hosted,
            max_retries=self.retries,
        ).remote(task)
        self._pending[reference] = entry
        self.board.start(entry, "Ray", Path(task.log))

    async def _end(self, reference: Any, ray: Any) -> None:
        entry = self._pending.pop(reference)
        try:
            code = int(ray.get(reference))
        except (ray.exceptions.TaskCancelledError, ray.exceptions.WorkerCrashedError):
            code = InterruptedRunError.exit_code
        except ray.exceptions.RayError as error:
            entry.why = f"{type(error).__name__}: the node could not run it"
            code = InterruptedRunError.exit_code
        await self.board.end(entry, code, retries=self.retries, retried=RETRIED | LOST)

    def _require_resources(self, there: Mapping[str, float]) -> None:
        """ConfigError where a task would wait for ever: for GPUs or the resource that no node has."""
        for entry in self.board.waiting():
            needed = entry.work.num_gpus
            if needed and needed > there.get("GPU", 0):
                raise ConfigError(
                    f"{entry.work.name} needs {needed} GPUs, and the cluster has {there.get('GPU', 0):.0f}."
                )
            if needed is None and not there.get(HOSTED):
                raise ConfigError(
                    f"No node has the resource {HOSTED}, which works of hosted models take. Start one with: "
                    f"ray start --resources '{{\"{HOSTED}\": 2}}'. Its number is how many run at once."
                )


def submit_job(address: str, plan: Path, words: list[str]) -> int:
    """Run the sweep over there, through the cluster's Jobs server; its log is printed here.

    The plan's file goes along; what it names (data, folders of weights) must be there. Returns the job's
    exit code as far as Ray tells: 0 or 1.
    """
    require_ray()
    import tempfile

    jobs: Any = import_module("ray.job_submission")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "plan.yaml").write_bytes(plan.read_bytes())
        client = jobs.JobSubmissionClient(address)
        job = client.submit_job(
            entrypoint=" ".join(["vlsb", "sweep", "plan.yaml", "--ray", "auto", *words]),
            runtime_env={"working_dir": folder},
        )

    async def follow() -> int:
        async for lines in client.tail_job_logs(job):
            print(lines, end="", flush=True)  # noqa: T201
        return 0 if client.get_job_status(job) == jobs.JobStatus.SUCCEEDED else 1

    return asyncio.run(follow())
