"""Opening the clients of a session: transports, accounts, limits and the simulator where it plays one."""

from __future__ import annotations

import asyncio
import random
import resource
import time as system_time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from vlsb.config import (
    FEWEST_CONNECTIONS,
    MOST_CONNECTIONS,
    SIMULATED_URL,
    START_CONNECTIONS,
    ModelSettings,
    Party,
    RetryPolicy,
)
from vlsb.endpoints.admission import Accounts, Admission, ConnectionLimit
from vlsb.endpoints.batch import BatchedClient, open_batches
from vlsb.endpoints.client import EndpointClient
from vlsb.endpoints.connect import open_client, proxy_of
from vlsb.endpoints.credentials import Credentials, Redactor
from vlsb.endpoints.engine_guard import EngineGuard
from vlsb.endpoints.rates import Caps
from vlsb.endpoints.request import Dialect
from vlsb.endpoints.traffic import Event, RunContext, Time, Traffic
from vlsb.models.prices import Price
from vlsb.records import Stage

if TYPE_CHECKING:
    from vlsb.engines.lease import EngineLease

TARGET = "target"
"""The name of a session's target among its clients."""
# Files besides sockets: run files, logs, pictures being read.
_SPARE_DESCRIPTORS = 64


@dataclass(frozen=True, slots=True)
class ClientSetup:
    """What a session's clients are opened with, by name: TARGET, any other is a judge's.

    `accounts` may outlive it. `prices` has those that are known. With `is_batch` requests can wait for one.
    """

    models: Mapping[str, ModelSettings]
    credentials: Mapping[str, Credentials]
    dialects: Mapping[str, Dialect]
    policy: RetryPolicy
    ca_bundle: Path | None
    transport: str
    traffic: Traffic
    accounts: Accounts
    observe: Callable[[Event], None]
    say: Callable[[str], None]
    engines: Mapping[str, EngineLease]
    unless_stopped: Callable[[Coroutine[Any, Any, EngineGuard]], Awaitable[EngineGuard]]
    prices: Mapping[str, Price] = field(default_factory=dict)
    is_batch: bool = False


def real_time() -> Time:
    """The clock, sleep and random numbers of a real run."""
    return Time(system_time.monotonic, asyncio.sleep, random.uniform)


@asynccontextmanager
async def open_clients(setup: ClientSetup) -> AsyncIterator[dict[str, EndpointClient]]:
    """The clients of a session, by the name of who is asked, with their transports open."""
    context = RunContext(setup.policy, real_time(), setup.traffic, setup.observe)
    limits = _connection_limits(setup.models, setup.say)
    async with AsyncExitStack() as held:
        addresses = await held.enter_async_context(_addresses(setup.models))
        credentials, guards = dict(setup.credentials), dict[str, EngineGuard]()
        for name, engine in setup.engines.items():
            held.push_async_callback(engine.leave)
            guards[name] = await setup.unless_stopped(
                engine.guard(partial(_observe_restart, setup.observe, _stage(name)))
            )
            addresses[name], credentials[name] = engine.base_url, engine.credentials
        redactor = Redactor(secret for each in credentials.values() for secret in each.secrets())
        clients: dict[str, EndpointClient] = {}
        for name, settings in setup.models.items():
            stage = _stage(name)
            url = addresses[name]
            _say_proxy(url, setup.say)
            http = open_client(
                url,
                credentials=credentials[name],
                connections=limits[name].ceiling,
                ca_bundle=setup.ca_bundle,
                kind=setup.transport,
            )
            held.push_async_callback(http.aclose)
            account = setup.accounts.find(url, credentials[name].secrets(), settings.endpoint.request_model)
            held.enter_context(account.limit_to(Caps(settings.rpm, settings.tpm)))
            admission = Admission(
                Party(stage, settings.endpoint),
                context,
                account=account,
                connections=limits[name],
                guard=guards.get(name),
                price=setup.prices.get(name),
            )
            party = Party(stage, replace(settings.endpoint, base_url=url))
            make = BatchedClient if setup.is_batch else EndpointClient
            client = clients[name] = make(
                party,
                http,
                admission=admission,
                dialect=setup.dialects[name],
                redactor=redactor,
                thinking_tokens=settings.thinking_tokens,
            )
            if isinstance(client, BatchedClient):
                client.service = await held.enter_async_context(
                    open_batches(
                        party,
                        credentials[name],
                        redactor,
                        ca_bundle=setup.ca_bundle,
                        patience_s=setup.policy.outage_timeout_s,
                    )
                )
        yield clients


def _stage(name: str) -> Stage:
    return "target" if name == TARGET else "judge"


def _observe_restart(observe: Callable[[Event], None], stage: Stage, number: int) -> None:
    observe(Event("engine_restart", stage, attempt=number))


@asynccontextmanager
async def _addresses(models: Mapping[str, ModelSettings]) -> AsyncIterator[dict[str, str]]:
    """The models' base URLs, with the simulator served for one that wants it."""
    wanted = {name: settings.endpoint.base_url for name, settings in models.items()}
    if SIMULATED_URL not in wanted.values():
        yield wanted
        return
    from vlsb.simulator import Simulator
    from vlsb.simulator.demo import demo_responder

    async with Simulator(demo_responder(), keep_bodies=False) as simulator:
        yield {name: simulator.base_url if url == SIMULATED_URL else url for name, url in wanted.items()}


def _say_proxy(url: str, say: Callable[[str], None]) -> None:
    """Name the proxy that requests go through, without its credentials."""
    if (proxy := proxy_of(url)) is not None:
        said = urlsplit(proxy).hostname or "of the environment"
        say(f"Requests to {urlsplit(url).hostname} go through the proxy {said}.")


def _connection_limits(
    models: Mapping[str, ModelSettings], say: Callable[[str], None]
) -> dict[str, ConnectionLimit]:
    """The models' limits, their ceilings lowered to what the process may open."""
    ceilings = {stage: settings.max_connections or MOST_CONNECTIONS for stage, settings in models.items()}
    allowed = _allowed_connections(sum(ceilings.values()))
    if allowed < sum(ceilings.values()):
        share = max(1, allowed // len(ceilings))
        say(f"This system allows few open files: at most {share} connections an endpoint (see `ulimit -n`).")
        ceilings = {stage: min(ceiling, share) for stage, ceiling in ceilings.items()}
    return {
        stage: ConnectionLimit(
            start=settings.max_connections or START_CONNECTIONS,
            ceiling=ceilings[stage],
            floor=FEWEST_CONNECTIONS,
            clock=system_time.monotonic,
        )
        for stage, settings in models.items()
    }


def _allowed_connections(wanted: int) -> int:
    """How many of the wanted sockets the process may open, after raising the soft limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _SPARE_DESCRIPTORS
    if soft < needed:
        raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
        soft = raised
    return soft - _SPARE_DESCRIPTORS
