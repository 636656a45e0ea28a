"""A sweep that runs on a Ray cluster as a job there, sent and followed through the cluster's Jobs server.

Only HTTP goes there (Ray's documented REST API): nothing of Ray is needed here, and no version has to match.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import httpx

from vlsb.errors import (
    AuthenticationError,
    ConfigError,
    InterruptedRunError,
    OutageError,
    UnreachableError,
)
from vlsb.records import Untrusted

_SCHEMES = ("http://", "https://")
_JOBS = "/api/jobs/"
_OVER = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
_HEADERS = "RAY_JOB_HEADERS"
# What a shell ends with that finds no such command.
_NO_COMMAND = 127
_POLL_S = 1.0
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
    async with _client(address) as client:
        server = _Server(client, address)
        name = await _started(server, job, say)
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


async def _started(server: _Server, job: Job, say: Callable[[str], None]) -> str:
    """Return the name of the job that runs: the one that is there, or a new one."""
    for number in count(1):
        name = job.name if number == 1 else f"{job.name}-{number}"
        job_there = await server.ask("GET", name)
        if job_there is None:
            await server.ask("POST", content=job.described(name))
            return name
        if job_there.get("status") not in _OVER:
            say("This sweep is running there already.")
            return name
    raise AssertionError


async def _followed(server: _Server, name: str, show: Callable[[str], None]) -> int:
    position = 0
    while True:
        # The status first: what an ended job has said is all there then.
        status = await server.ask("GET", name, patience_s=_PATIENCE_S) or {}
        is_over = status.get("status") in _OVER
        reply = await server.ask("GET", f"{name}/logs", patience_s=_PATIENCE_S) or {}
        log = str(reply.get("logs") or "")
        end = len(log) if is_over else log.rfind("\n") + 1
        for line in log[position:end].splitlines():
            show(line)
        position = max(position, end)
        if is_over:
            return _exit_code(status)
        await asyncio.sleep(_POLL_S)


def _exit_code(status: dict[str, Any]) -> int:
    """Return the sweep's own exit code. Where it never started, Ray has said why."""
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
                    return self._content(reply)
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

    def _content(self, reply: httpx.Response) -> dict[str, Any] | None:
        if reply.status_code == httpx.codes.NOT_FOUND and "does not exist" in reply.text:
            return None
        if reply.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise AuthenticationError(
                f"--ray {self.address}: it lets nobody in without the right headers. "
                f'Set {_HEADERS}: \'{{"Authorization": "Bearer ..."}}\'.'
            )
        try:
            content = reply.json()
        except ValueError:
            content = None
        if reply.is_error or not isinstance(content, dict):
            answer = Untrusted(f"HTTP {reply.status_code}, {reply.text}")
            raise ConfigError(f"--ray {self.address}: no Jobs server of Ray's", detail=answer)
        return content


def _client(address: str) -> httpx.AsyncClient:
    try:
        url = httpx.URL(address.rstrip("/"))
    except httpx.InvalidURL as error:
        raise ConfigError(f"--ray: not an address that requests can go to: {error}.") from error
    if url.userinfo:
        raise ConfigError(f"--ray: no name and no password in an address. Put the header into {_HEADERS}.")
    return httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_S, headers=_own_headers())


def _own_headers() -> dict[str, str]:
    """Return the headers that Ray's own command sends, from the same variable."""
    text = os.environ.get(_HEADERS)
    try:
        headers = json.loads(text) if text else {}
    except ValueError:
        headers = None
    if not isinstance(headers, dict):
        raise ConfigError(f"{_HEADERS} is not a JSON object of headers.")
    return {str(name): str(value) for name, value in headers.items()}
