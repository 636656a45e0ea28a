"""A sweep on Ray: each command a task on the node that Ray gives it. Placing and lost nodes are Ray's.

The nodes have `vlsb` installed, the keys' variables set and the plan's folders mounted: a key is never sent
through Ray, whose dashboard shows what it is given.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from vlsb.errors import ConfigError, InterruptedRunError, MissingKeyError, OutageError, UnreachableError
from vlsb.extras import require_extra
from vlsb.records import Untrusted
from vlsb.sweep.board import LOST, RETRIED, Board, BoardEntry, Stop
from vlsb.sweep.body import RunFolders, fetch_runs, run_task, task_of, unset_variables
from vlsb.sweep.money import Budget

HOSTED = "vlsb_hosted"
"""The custom resource that works of hosted models take, so that an account is not stormed."""
_CLIENT = "ray://"
# Longer than a host far away takes to answer, and much shorter than Ray alone would try.
_CONNECT_S = 10.0
_LOOK_S = 3.0
# A head that is started again is waited for, but not as long as Ray does, which ends us then.
_HEAD_PATIENCE_S = 45.0
_POLL_S = 1.0
# All may have answered long before; a busy node may take long to start a worker.
_KEYS_PATIENCE_S = 60.0
# A command has a minute to store what is in flight and to end its engine.
_STOP_PATIENCE_S = 90.0
_STOP_POLL_S = 0.2


def require_ray(address: str) -> None:
    """Raise ConfigError where what an address needs is not installed."""
    require_extra("ray", "--ray")
    if address.startswith(_CLIENT) and find_spec("grpc") is None:
        raise ConfigError(f"--ray {address} needs Ray's client: install ray[client].")


@dataclass(slots=True)
class _Head:
    """Whether a cluster's head still answers. Without it Ray ends our process after a minute."""

    host: str
    port: int
    _silent_since: float | None = None

    def is_gone(self) -> bool:
        """Say whether nobody has answered for too long. Blocking, for some seconds at most."""
        try:
            socket.create_connection((self.host, self.port), _LOOK_S).close()
        except OSError:
            now = time.monotonic()
            if self._silent_since is None:
                self._silent_since = now
            return now - self._silent_since > _HEAD_PATIENCE_S
        self._silent_since = None
        return False


def _join(ray: Any, address: str) -> _Head:
    """Connect with a cluster. Raises UnreachableError, and soon: Ray alone would try for minutes."""
    place = address.removeprefix(_CLIENT)
    try:
        if place.rpartition(":")[2].isdecimal():
            socket.create_connection(_split(place), _CONNECT_S).close()
        ray.init(address=address, log_to_driver=False, configure_logging=False, ignore_reinit_error=True)
    except (OSError, RuntimeError, ValueError) as error:
        reason = Untrusted(str(error).partition("\n")[0])
        raise UnreachableError(
            f"--ray {address}: no Ray cluster can be joined there", detail=reason
        ) from error
    # A client reaches the head only through the address that it was given.
    return _Head(*_split(place if address.startswith(_CLIENT) else ray.get_runtime_context().gcs_address))


def _split(place: str) -> tuple[str, int]:
    host, _, port = place.rpartition(":")
    return host.strip("[]"), int(port)


@dataclass(slots=True)
class SweepOnRay:
    """One sweep on a Ray cluster. `environment` is what commands are told beside their node's own."""

    hurry: ClassVar[str] = "Leaving: the commands on the nodes end by themselves."
    board: Board
    address: str
    places: RunFolders
    environment: Mapping[str, str]
    retries: int
    budget: Budget
    _pending: dict[Any, BoardEntry] = field(default_factory=dict)

    async def run(self, stop: Stop) -> None:
        """Submit everything, and wait; when `stop` is asked, cancel what runs and return."""
        # A driver that `uv run` started would send its folder to the nodes, `.env` included, and start their
        # workers by a uv that need not be there. They have a vlsb of their own.
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        ray: Any = import_module("ray")
        head = _join(ray, self.address)
        try:
            await self._carry_out(stop, ray, head)
        except ConnectionError as error:
            # Nobody can be told to stop: tasks end with their nodes.
            self._pending.clear()
            raise OutageError(
                f"--ray {self.address}: the cluster's head is gone; what was stored is kept. "
                "Repeat the command when there is a cluster."
            ) from error
        finally:
            await self._cancel_all(stop, ray)
            ray.shutdown()
            self.board.stop()

    async def _cancel_all(self, stop: Stop, ray: Any) -> None:
        """Cancel what is pending: commands store what is in flight and end their engines.

        Ray ignores a second cancelling. Whoever is in a hurry does not wait for that.
        """
        until, pending = time.monotonic() + _STOP_PATIENCE_S, list(self._pending)
        for reference in pending:
            ray.cancel(reference, force=False)
        while pending and time.monotonic() < until and not stop.firmly.is_set():
            _, pending = await asyncio.to_thread(
                ray.wait, pending, num_returns=len(pending), timeout=_STOP_POLL_S
            )

    async def _carry_out(self, stop: Stop, ray: Any, head: _Head) -> None:
        self._require_resources(ray.cluster_resources())
        await self._require_keys(ray)
        submitted = ray.remote(run_task)
        while not stop.asked.is_set():
            for entry, share_usd in self.budget.to_start(self.board, self._room(ray)):
                self._submit(submitted, entry, share_usd)
            if not self._pending:
                return
            done, _ = await asyncio.to_thread(ray.wait, list(self._pending), num_returns=1, timeout=_POLL_S)
            if not done and await asyncio.to_thread(head.is_gone):
                raise ConnectionError
            for reference in done:
                await asyncio.to_thread(fetch_runs, self._pending[reference].work, self.places)
                await self._end(reference, ray)

    def _room(self, ray: Any) -> Callable[[BoardEntry], bool]:
        """Return what says of works, one after the other, whether they may be submitted.

        All may, and wait in Ray's queue. Where money is limited those that run now share it, so those that
        could not run at once wait here.
        """
        if self.budget.most_usd is None:
            return lambda entry: True
        resources, works = ray.cluster_resources(), [entry.work for entry in self._pending.values()]

        def fits(entry: BoardEntry) -> bool:
            beside = [*works, entry.work]
            if entry.work.num_gpus is None:
                is_within = sum(each.num_gpus is None for each in beside) <= resources.get(HOSTED, 0)
            else:
                is_within = sum(each.num_gpus or 0 for each in beside) <= resources.get("GPU", 0)
            # Without any, Ray waits for a node that comes back.
            if is_within or not works:
                works.append(entry.work)
                return True
            return False

        return fits

    def _submit(self, submitted: Any, entry: BoardEntry, share_usd: float | None) -> None:
        work = entry.work
        task = task_of(work, self.places, self.environment, share_usd)
        hosted = {} if work.num_gpus is not None else {HOSTED: 1}
        reference = submitted.options(
            name=work.name,
            num_gpus=work.num_gpus or 0,
            num_cpus=0,
            resources=hosted,
            # A second try of Ray's own would have the same share again: we give what the first one left.
            max_retries=self.retries if share_usd is None else 0,
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
        is_short = await asyncio.to_thread(self.budget.end, entry, code)
        await self.board.end(entry, code, retries=self.retries, retried=RETRIED | LOST, is_short=is_short)

    async def _require_keys(self, ray: Any) -> None:
        """Raise MissingKeyError where a node that takes commands lacks the variable of a key."""
        accounts = (account for entry in self.board.waiting() for account in entry.work.accounts)
        names = sorted({name for account in accounts for name in account.variables})
        if not names:
            return
        placed = import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
        look = ray.remote(unset_variables)
        nodes = [node for node in ray.nodes() if node["Alive"] and {HOSTED, "GPU"} & set(node["Resources"])]
        asked = {
            look.options(num_cpus=0, scheduling_strategy=placed(each["NodeID"], soft=False)).remote(
                names
            ): each
            for each in nodes
        }
        done, _ = await asyncio.to_thread(
            ray.wait, list(asked), num_returns=len(asked), timeout=_KEYS_PATIENCE_S
        )
        lacking: dict[str, set[str]] = {}
        for reference in done:
            # A node that has gone meanwhile takes no command.
            with suppress(ray.exceptions.RayError):
                for name in ray.get(reference):
                    lacking.setdefault(name, set()).add(asked[reference]["NodeManagerAddress"])
        if lacking:
            told = "; ".join(f"{name} on {', '.join(sorted(where))}" for name, where in lacking.items())
            raise MissingKeyError(
                f"Nodes of the cluster lack variables of keys that cells need: {told}. Set them where "
                "`ray start` is run on these nodes; a key is never sent through Ray."
            )

    def _require_resources(self, resources: Mapping[str, float]) -> None:
        """Raise ConfigError where a task would wait for ever: for GPUs or the resource that no node has."""
        for entry in self.board.waiting():
            needed = entry.work.num_gpus
            if needed and needed > (gpus := resources.get("GPU", 0)):
                raise ConfigError(f"{entry.work.name} needs {needed} GPUs, and the cluster has {gpus:.0f}.")
            if needed is None and not resources.get(HOSTED):
                raise ConfigError(
                    f"No node has the resource {HOSTED}, which works of hosted models take. Start one with: "
                    f"ray start --resources '{{\"{HOSTED}\": 2}}'. Its number is how many run at once."
                )
