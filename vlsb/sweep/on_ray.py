"""A sweep on Ray: each command a task on the node that Ray gives it, or the sweep itself as a job over there.

Placing and lost nodes are Ray's. The nodes have `vlsb` installed, the keys' variables set and the plan's
folders mounted: a key is never sent through Ray, whose dashboard shows what it is given. A job is sent and
followed through the cluster's Jobs server, by HTTP alone (Ray's documented REST API): nothing of Ray is
needed here for it, and no version has to match.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import httpx

from vlsb.errors import (
    AuthenticationError,
    ConfigError,
    InterruptedRunError,
    MissingKeyError,
    OutageError,
    UnreachableError,
)
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
            # Commands store what is in flight and end their engines; Ray ignores a second cancelling.
            until, pending = time.monotonic() + _STOP_PATIENCE_S, list(self._pending)
            for reference in pending:
                ray.cancel(reference, force=False)
            # A second signal does not wait for that.
            while pending and time.monotonic() < until and not stop.firmly.is_set():
                _, pending = await asyncio.to_thread(
                    ray.wait, pending, num_returns=len(pending), timeout=_STOP_POLL_S
                )
            ray.shutdown()
            self.board.stop()

    async def _carry_out(self, stop: Stop, ray: Any, head: _Head) -> None:
        self._require_resources(ray.cluster_resources())
        await self._require_keys(ray)
        submitted = ray.remote(run_task)
        while not stop.asked.is_set():
            for entry, share_usd in self.budget.to_start(self.board, self._room(ray)):
                task = task_of(entry.work, self.places, self.environment, share_usd)
                hosted = {} if entry.work.num_gpus is not None else {HOSTED: 1}
                reference = submitted.options(
                    name=entry.work.name,
                    num_gpus=entry.work.num_gpus or 0,
                    num_cpus=0,
                    resources=hosted,
                    # A second try of Ray's own would have the same share again.
                    max_retries=self.retries if share_usd is None else 0,
                ).remote(task)
                self._pending[reference] = entry
                self.board.start(entry, "Ray", Path(task.log))
            if not self._pending:
                return
            done, _ = await asyncio.to_thread(ray.wait, list(self._pending), num_returns=1, timeout=_POLL_S)
            if not done and await asyncio.to_thread(head.is_gone):
                raise ConnectionError
            for reference in done:
                entry = self._pending.pop(reference)
                await asyncio.to_thread(fetch_runs, entry.work, self.places)
                code = InterruptedRunError.exit_code
                try:
                    code = int(ray.get(reference))
                except (ray.exceptions.TaskCancelledError, ray.exceptions.WorkerCrashedError):
                    pass
                except ray.exceptions.RayError as error:
                    entry.why = f"{type(error).__name__}: the node could not run it"
                short = await asyncio.to_thread(self.budget.end, entry, code)
                await self.board.end(
                    entry, code, retries=self.retries, retried=RETRIED | LOST, is_short=short
                )

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
                    f"No node has the resource {HOSTED}, which cells of hosted models need. Start one with: "
                    f"ray start --resources '{{\"{HOSTED}\": 2}}'. Its number is how many run at once."
                )


_SCHEMES = ("http://", "https://")
_JOBS = "/api/jobs/"
_OVER = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
_HEADERS = "RAY_JOB_HEADERS"
# What a shell ends with that finds no such command.
_NO_COMMAND = 127
_TIMEOUT_S = 20.0
# A head that is started again is back within two minutes, and the job may still run.
_PATIENCE_S = 120.0
_PLAN = "SWEEP_PLAN"
# A variable has at most 128 KB on Linux.
_MOST_BYTES = 100_000


def is_jobs_address(address: str) -> bool:
    """Say whether an address is that of a cluster's Jobs server, which runs the sweep over there."""
    return address.startswith(_SCHEMES)


@dataclass(frozen=True, slots=True)
class Job:
    """A plan as a job. Its file goes along; relative paths in it are seen from the home folder over there.

    `name` is the same for the same plan and options: the command again finds the job that is there.
    """

    name: str
    entrypoint: str
    environment: Mapping[str, str]

    @classmethod
    def of(cls, plan: Path, words: Sequence[str]) -> Job:
        """Make the job of a plan's file, with more words for `vlsb sweep`."""
        text = plan.read_text(encoding="utf-8")
        if len(text.encode()) > _MOST_BYTES:
            raise ConfigError(
                f"{plan}: too long to be sent with a job ({_MOST_BYTES // 1000} KB at most). "
                "Start the sweep on the cluster, with --ray auto."
            )
        folder = f".cache/vlsb/plans/{sha256(text.encode()).hexdigest()[:12]}"
        place = f"{folder}/{plan.name}"
        command = shlex.join(["vlsb", "sweep", place, "--ray", "auto", *words])
        # Ray shows the entrypoint before all else: the plan's text is not in it.
        entrypoint = (
            f'cd && mkdir -p {folder} && printf %s "${_PLAN}" > {shlex.quote(place)} && exec {command}'
        )
        name = f"vlsb-{sha256(entrypoint.encode()).hexdigest()[:12]}"
        return cls(name, entrypoint, {_PLAN: text})

    def described(self, name: str) -> dict[str, object]:
        """Describe the job as the Jobs server takes it, under a name."""
        environment = {"env_vars": dict(self.environment)}
        return {"submission_id": name, "entrypoint": self.entrypoint, "runtime_env": environment}


async def run_job(
    address: str, job: Job, stop: asyncio.Event, *, show: Callable[[str], None], say: Callable[[str], None]
) -> int:
    """Run a job, or follow the one that is there already, and return the sweep's exit code.

    `show` gets the lines of its log. When `stop` is set we only leave: the job goes on.
    """
    try:
        url = httpx.URL(address.rstrip("/"))
    except httpx.InvalidURL as error:
        raise ConfigError(f"--ray: not an address that requests can go to: {error}.") from error
    if url.userinfo:
        raise ConfigError(f"--ray: no name and no password in an address. Put the header into {_HEADERS}.")
    # The headers that Ray's own command sends, from the same variable.
    try:
        headers = json.loads(os.environ.get(_HEADERS) or "{}")
    except ValueError:
        headers = None
    if not isinstance(headers, dict):
        raise ConfigError(f"{_HEADERS} is not a JSON object of headers.")
    headers = {str(name): str(value) for name, value in headers.items()}
    async with httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_S, headers=headers) as client:
        server = _Server(client, address)
        # The job that is there, or a new one.
        for number in count(1):
            name = job.name if number == 1 else f"{job.name}-{number}"
            status = await server.ask("GET", name)
            if status is None:
                await server.ask("POST", content=job.described(name))
                break
            if status.get("status") not in _OVER:
                say("This sweep is running there already.")
                break
        say(f"It runs as the job {name}. Ctrl-C leaves it running; the same command follows it again.")
        following = asyncio.create_task(_followed(server, name, show))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({following, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if following.done():
            return following.result()
        following.cancel()
        say(f"The sweep goes on over there. To end it: ray job stop --address {address} {name}")
        return InterruptedRunError.exit_code


async def _followed(server: _Server, name: str, show: Callable[[str], None]) -> int:
    """Show the job's log until it is over, and return the sweep's own exit code."""
    position = 0
    while True:
        # The status first: the log of a job that has ended is whole.
        status = await server.ask("GET", name, patience_s=_PATIENCE_S) or {}
        is_over = status.get("status") in _OVER
        reply = await server.ask("GET", f"{name}/logs", patience_s=_PATIENCE_S) or {}
        log = str(reply.get("logs") or "")
        end = len(log) if is_over else log.rfind("\n") + 1
        for line in log[position:end].splitlines():
            show(line)
        position = max(position, end)
        if is_over:
            break
        await asyncio.sleep(_POLL_S)
    # Where the sweep never started, Ray's message says why.
    code = status.get("driver_exit_code")
    if status["status"] == "STOPPED":
        return InterruptedRunError.exit_code
    if code == _NO_COMMAND:
        raise ConfigError("There is no vlsb on the cluster: install it where the head runs, as on the nodes.")
    if not isinstance(code, int):
        raise ConfigError(
            "The job did not run", detail=Untrusted(str(status.get("message") or "no reason given"))
        )
    return code


@dataclass(frozen=True, slots=True)
class _Server:
    """The Jobs server at an address."""

    client: httpx.AsyncClient
    address: str

    async def ask(
        self, method: str, path: str = "", *, content: object = None, patience_s: float = 0
    ) -> dict[str, Any] | None:
        """Return what it says, tried again for so long; None for a job that does not exist."""
        loop = asyncio.get_running_loop()
        until = loop.time() + patience_s
        while True:
            try:
                reply = await self.client.request(method, f"{_JOBS}{path}", json=content)
                if not (reply.is_server_error and loop.time() < until):
                    break
            except httpx.HTTPError as error:
                if loop.time() >= until:
                    reason = Untrusted(str(error) or type(error).__name__)
                    if patience_s:
                        advice = "The sweep may still run there: the same command follows it, or goes on."
                        lost = f"--ray {self.address} answers no more"
                        raise OutageError(lost, detail=reason, advice=advice) from error
                    what = f"--ray {self.address}: nothing answers there"
                    raise UnreachableError(what, detail=reason) from error
            await asyncio.sleep(_POLL_S)
        if reply.status_code == httpx.codes.NOT_FOUND and "does not exist" in reply.text:
            return None
        if reply.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise AuthenticationError(
                f"--ray {self.address}: it refuses requests without the right headers. "
                f'Set {_HEADERS}: \'{{"Authorization": "Bearer ..."}}\'.'
            )
        try:
            document = reply.json()
        except ValueError:
            document = None
        if reply.is_error or not isinstance(document, dict):
            answer = Untrusted(f"HTTP {reply.status_code}, {reply.text}")
            raise ConfigError(f"--ray {self.address}: no Jobs server of Ray's", detail=answer)
        return document
