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
from vlsb.dialect import THOUGHT_TAGS, USUAL_TAG, Dialect
from vlsb.endpoints.admission import Admission
from vlsb.endpoints.batch_api import BatchService
from vlsb.endpoints.client import EndpointClient
from vlsb.endpoints.connect import open_client, open_sdk, proxy_of
from vlsb.endpoints.connections import ConnectionLimit
from vlsb.endpoints.credentials import Credentials, Redactor
from vlsb.endpoints.rate_limits import Accounts, Caps
from vlsb.endpoints.replica import Replica, place_of
from vlsb.endpoints.request import asks_for_structure, first_guess
from vlsb.endpoints.retry import EngineGuard
from vlsb.endpoints.traffic import Event, RunContext, Time, Traffic
from vlsb.models.prices import Price
from vlsb.models.providers import find_thinking, is_hosted, limited_as
from vlsb.records import Stage

if TYPE_CHECKING:
    from vlsb.engines.lease import EngineLease, Leases

TARGET = "target"
"""The name of a session's target among its clients."""
# Files besides sockets: run files, logs, images being read.
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
    engines: Mapping[str, Leases]
    unless_stopped: Callable[[Coroutine[Any, Any, list[EngineGuard]]], Awaitable[list[EngineGuard]]]
    prices: Mapping[str, Price] = field(default_factory=dict)
    is_batch: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model can be asked: an address, what opens it, and who looks after an engine of ours there."""

    url: str
    credentials: Credentials
    guard: EngineGuard | None = None


def guess_dialect(settings: ModelSettings) -> Dialect:
    """Guess how a model is asked before its first answer, from its name and the user's options."""
    guess, endpoint = first_guess(settings.endpoint), settings.endpoint
    if not settings.thinks:
        return guess
    is_apart = is_hosted(endpoint)
    return replace(
        guess,
        unsent=tuple(dict.fromkeys((*guess.unsent, *find_thinking(endpoint).unsent))),
        thinks=True,
        thinks_apart=is_apart,
        max_tokens=settings.thinking_tokens,
        opened_by="" if is_apart else USUAL_TAG,
    )


def tell_of_engine(client: EndpointClient, engine: EngineLease, settings: ModelSettings) -> None:
    """Let the client of a local model know what its engine's prompt check saw of thoughts."""
    if engine.thinks:
        client.dialect = replace(
            client.dialect,
            thinks=True,
            thinks_apart=engine.sets_thoughts_apart,
            max_tokens=settings.thinking_tokens,
            opened_by=engine.opened_by if engine.opened_by in THOUGHT_TAGS else "",
        )


def real_time() -> Time:
    """Return the clock, sleep and random numbers of a real run."""
    return Time(system_time.monotonic, asyncio.sleep, random.uniform)


@asynccontextmanager
async def open_clients(setup: ClientSetup) -> AsyncIterator[dict[str, EndpointClient]]:
    """Open the clients of a session, by the name of who is asked, with their transports."""
    context = RunContext(setup.policy, real_time(), setup.traffic, setup.observe)
    async with AsyncExitStack() as held:
        places = await held.enter_async_context(_places(setup))
        limits = _connection_limits(
            setup.models, {name: len(each) for name, each in places.items()}, setup.say
        )
        redactor = Redactor(
            secret for each in places.values() for place in each for secret in place.credentials.secrets()
        )
        clients: dict[str, EndpointClient] = {}
        for name, settings in setup.models.items():
            stage, count = _stage(name), len(places[name])
            replicas = []
            for place, connections in zip(places[name], limits[name], strict=True):
                if (proxy := proxy_of(place.url)) is not None:
                    # Without the credentials that its address may hold.
                    through = urlsplit(proxy).hostname or "of the environment"
                    setup.say(f"Requests to {urlsplit(place.url).hostname} go through the proxy {through}.")
                http = open_client(
                    place.url,
                    credentials=place.credentials,
                    connections=connections.ceiling,
                    ca_bundle=setup.ca_bundle,
                    kind=setup.transport,
                )
                held.push_async_callback(http.aclose)
                account = setup.accounts.find(
                    place.url, place.credentials.secrets(), limited_as(settings.endpoint)
                )
                # Replicas share the user's own limits evenly.
                caps = Caps(*(None if cap is None else cap / count for cap in (settings.rpm, settings.tpm)))
                held.enter_context(account.limit_to(caps))
                party = Party(stage, replace(settings.endpoint, base_url=place.url))
                replicas.append(
                    Replica(party, http, context, account=account, connections=connections, guard=place.guard)
                )
            admission = Admission(
                Party(stage, settings.endpoint), context, replicas, price=setup.prices.get(name)
            )
            client = clients[name] = EndpointClient(
                replicas[0].party,
                admission=admission,
                dialect=setup.dialects[name],
                redactor=redactor,
                thinking_tokens=settings.thinking_tokens,
                splits_thoughts=stage == "target" and not asks_for_structure(settings.sampling.extra),
            )
            if setup.is_batch:
                place, patience_s = places[name][0], setup.policy.outage_timeout_s
                sdk = await held.enter_async_context(
                    open_sdk(place.url, credentials=place.credentials, ca_bundle=setup.ca_bundle)
                )
                client.service = BatchService(client.party, sdk, redactor, patience_s)
        yield clients


@asynccontextmanager
async def _places(setup: ClientSetup) -> AsyncIterator[dict[str, list[Place]]]:
    """Open where each model can be asked: its addresses, its engines, or the simulator served here."""
    async with AsyncExitStack() as held:
        simulator_url = ""
        if any(each.endpoint.base_url == SIMULATED_URL for each in setup.models.values()):
            from vlsb.simulator import Simulator
            from vlsb.simulator.demo import demo_responder

            simulator = await held.enter_async_context(Simulator(demo_responder(), keep_bodies=False))
            simulator_url = simulator.base_url
        places = {
            name: [
                Place(simulator_url if url == SIMULATED_URL else url, setup.credentials[name])
                for url in settings.base_urls
            ]
            for name, settings in setup.models.items()
            if name not in setup.engines
        }
        for name, leases in setup.engines.items():
            for lease in leases:
                held.push_async_callback(lease.leave)
            guards = await setup.unless_stopped(_start(leases, setup.observe, _stage(name)))
            places[name] = [
                Place(lease.base_url, lease.credentials, guard)
                for lease, guard in zip(leases, guards, strict=True)
            ]
        yield places


async def _start(leases: Leases, observe: Callable[[Event], None], stage: Stage) -> list[EngineGuard]:
    """Bring up all engines of a model. The first that does not start ends the others."""

    def observe_restart(number: int, restarts: int) -> None:
        place = place_of(leases[number].base_url, number + 1 if len(leases) > 1 else None)
        observe(Event("engine_restart", stage, attempt=restarts, **place))

    if len(leases) == 1:
        return [await leases[0].guard(partial(observe_restart, 0))]
    try:
        async with asyncio.TaskGroup() as group:
            starting = [
                group.create_task(lease.guard(partial(observe_restart, number)))
                for number, lease in enumerate(leases)
            ]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [each.result() for each in starting]


def _stage(name: str) -> Stage:
    return "target" if name == TARGET else "judge"


def _connection_limits(
    models: Mapping[str, ModelSettings], counts: Mapping[str, int], say: Callable[[str], None]
) -> dict[str, list[ConnectionLimit]]:
    """Make the limits of the models' replicas, which share what the user allows.

    Their ceilings are lowered to what the process may open.
    """
    shares_of: dict[str, list[int | None]] = {}
    for name, settings in models.items():
        total, count = settings.max_connections, counts[name]
        # At least one connection for each.
        shares_of[name] = [
            None if total is None else max(1, total // count + (number < total % count))
            for number in range(count)
        ]
    ceilings = [each or MOST_CONNECTIONS for shares in shares_of.values() for each in shares]
    most = max(ceilings, default=MOST_CONNECTIONS)
    needed = sum(ceilings) + _SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if (allowed := soft - _SPARE_DESCRIPTORS) < sum(ceilings):
        most = max(1, allowed // len(ceilings))
        say(f"This system allows few open files: at most {most} connections an endpoint (see `ulimit -n`).")
    return {
        name: [
            ConnectionLimit(
                start=each or START_CONNECTIONS,
                ceiling=min(each or MOST_CONNECTIONS, most),
                floor=FEWEST_CONNECTIONS,
                clock=system_time.monotonic,
            )
            for each in shares
        ]
        for name, shares in shares_of.items()
    }
