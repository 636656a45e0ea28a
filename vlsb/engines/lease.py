"""The lease of a local engine: found running or started here, watched, started again, and left in order.

Entering finds out all that can be known without an engine: nothing is started before it is asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from vlsb.config import Endpoint
from vlsb.endpoints.credentials import Credentials
from vlsb.endpoints.retry import EngineGuard, Fate, InFlight
from vlsb.engines.checks import Machine, check_architecture, check_driver, check_start
from vlsb.engines.hardware import gpus, list_gpus
from vlsb.engines.install import Engine, engine_bytes, engine_title, find_engine, install_engine
from vlsb.engines.launch import RunningServer, exited_error, launch
from vlsb.engines.llava.convert import servable_folder
from vlsb.engines.placement import known_settings, with_free_gpus
from vlsb.engines.plan import ServerPlan, Wishes, plan_server, weights_revision
from vlsb.engines.prompt_check import check_own_prompt, check_parity, expected_ids
from vlsb.engines.registry import (
    Places,
    ServerRecord,
    boot_id,
    find_running,
    fresh_log,
    process_began_at,
    remove_record,
    write_record,
)
from vlsb.engines.supervisor import STOP_GRACE_S, Supervisor
from vlsb.errors import ConfigError, EngineMissingError, ServerExitedError
from vlsb.models.catalog import read_config
from vlsb.models.profile import GENERIC, PROFILES, ModelProfile
from vlsb.models.providers import ENGINE_URL, thinking_fields
from vlsb.steps import OnProgress, Step, ignore, in_thread

_NO_WISH = Wishes()


@dataclass(frozen=True, slots=True)
class InstallOffer:
    """An engine that is missing and could be installed: its name, the room it takes, what to say if not."""

    title: str
    disk_bytes: int
    error: EngineMissingError


MayInstall = Callable[[InstallOffer], Awaitable[bool]]


class ReadyEngine(NamedTuple):
    """An engine that is there, and the wishes with the GPUs that were chosen for it."""

    engine: Engine
    wishes: Wishes


async def decline(offer: InstallOffer) -> bool:
    """No engine is installed: EngineMissingError names the command that does."""
    return False


async def accept(offer: InstallOffer) -> bool:
    """A missing engine is installed."""
    return True


def _say_nothing(line: str) -> None:
    pass


@asynccontextmanager
async def engine_lease(
    model: ModelProfile,
    wishes: Wishes = _NO_WISH,
    *,
    environment: Mapping[str, str],
    may_install: MayInstall = decline,
    on_progress: OnProgress = ignore,
    say: Callable[[str], None] = _say_nothing,
    max_restarts: int = 1,
    is_kept: bool = False,
    joins: bool = True,
    hosted: ServerRecord | None = None,
    title: str = "",
) -> AsyncIterator[EngineLease]:
    """Give the engine of a local model, for as long as the block lasts.

    A server that `vlsb serve` has running and that is what is wished for is joined, and left alone, unless
    `joins` is False; so is one that is `hosted` for several runs. Else an engine is found, or installed where
    `may_install` says so, and its start is planned; weights in the original LLaVA layout are converted. With
    `is_kept` an engine that is up at the end lives on. `on_progress` may be called from other threads; its
    steps are those of `title`, or of the model's name. Raises EngineMissingError, and ServerError,
    ConfigError or StoreError for what would stop the model later.
    """

    def report(step: Step) -> None:
        on_progress(replace(step, model=title or model.name))

    running = hosted
    if running is None and joins:
        running = find_running(Places.of(environment), model.name, say=say)
    plan = None
    is_plain = replace(wishes, start_timeout_s=_NO_WISH.start_timeout_s) == _NO_WISH
    # Two folders may have one name; a name of the catalog has one meaning.
    if hosted is None and (running is None or not is_plain or model.name not in PROFILES):
        engine, wishes = await ready_engine(
            model,
            wishes,
            environment=environment,
            may_install=may_install,
            on_progress=report,
            say=say,
            is_running=running is not None,
        )
        plan = await plan_start(model, wishes, engine, environment=environment, on_progress=report)
    if running is not None and hosted is None:
        if plan is not None:
            names = {*running.facts, *plan.facts}
            if others := sorted(n for n in names if running.facts.get(n) != plan.facts.get(n)):
                raise ConfigError(
                    f"{running.name} is being served with other settings ({', '.join(others)}). Leave yours "
                    f"out to use that server, or stop it: vlsb engine stop {running.name}"
                )
        say(f"Using the server of {running.name} at {running.base_url} ({running.engine}).")
    lease = EngineLease(
        model,
        wishes,
        environment,
        joined=running,
        plan=plan,
        on_progress=report,
        say=say,
        max_restarts=max_restarts,
        is_kept=is_kept,
    )
    try:
        yield lease
    finally:
        await lease.leave()


@dataclass(slots=True, eq=False)
class EngineLease:
    """A local engine that can be had: either `joined`, which runs already, or one that `plan` describes.

    Its name, facts and deviations are known from the beginning, its address and whether the model `thinks`
    once it is up, and so is the tag with which its chat template begins a thought (`opened_by`).
    """

    model: ModelProfile
    wishes: Wishes
    environment: Mapping[str, str]
    joined: ServerRecord | None
    plan: ServerPlan | None
    on_progress: OnProgress
    say: Callable[[str], None]
    max_restarts: int
    is_kept: bool
    thinks: bool = False
    opened_by: str = ""
    _server: RunningServer | None = None
    _held: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def _source(self) -> ServerRecord | ServerPlan:
        source = self.joined or self.plan
        assert source is not None
        return source

    @property
    def served_name(self) -> str:
        """The model name to ask for."""
        return self._source.served_name

    @property
    def sets_thoughts_apart(self) -> bool:
        """Whether the engine was told to keep a thought out of the answer."""
        return self.plan is not None and self.plan.has_parser

    @property
    def facts(self) -> Mapping[str, Any]:
        """What can change an answer, as JSON."""
        return self._source.facts

    @property
    def deviations(self) -> tuple[str, ...]:
        """Where the engine leaves the paper's setting, in words."""
        return self._source.deviations

    @property
    def base_url(self) -> str:
        """The engine's /v1; without a port as long as it is not up."""
        server = self.joined or self._server
        return ENGINE_URL if server is None else server.base_url

    @property
    def credentials(self) -> Credentials:
        """The engine's key, once it is up."""
        server = self.joined or self._server
        return Credentials(None if server is None else server.key)

    async def start(self) -> RunningServer:
        """Return the engine, up and answering, ended by `leave`; nobody watches it.

        For one that is not joined.
        """
        self._server = server = await self._launch(None)
        self._held.push_async_callback(server.process.stop, STOP_GRACE_S)
        return server

    async def guard(self, observe: Callable[[int], None]) -> EngineGuard:
        """Return the engine, up and watched until `leave`.

        `observe` is called with the number of each restart.
        """
        if self.joined is not None:
            return _JoinedGuard(self.joined)
        supervisor = Supervisor(
            self._launch,
            max_restarts=self.max_restarts,
            say=self.say,
            observe=observe,
            keep=self._hand_over if self.is_kept else None,
        )
        self._server = await self._held.enter_async_context(supervisor.running())
        return supervisor

    def record(self, server: RunningServer, *, owner: int | None) -> ServerRecord:
        """Return what others need to join the server. Raises ServerExitedError if it has ended.

        `owner` is the pid of the `vlsb` that ends it, None for nobody.
        """
        return _record(server, self.plan, owner=owner)

    def publish(self, server: RunningServer, *, owner: int | None) -> Path:
        """Let others find the server until it is left; the path of the file that has its key. As `record`."""
        record = self.record(server, owner=owner)
        places = Places.of(self.environment)
        if owner is not None:
            # Before the server is stopped: nobody shall find one that is going.
            self._held.callback(remove_record, places, record)
        return write_record(places, record)

    async def leave(self) -> None:
        """End what was started here; one that was joined or handed over lives on."""
        await self._held.aclose()

    def release(self, server: RunningServer) -> None:
        """From now on the server is nobody's: it lives on when we end."""
        server.process.release()
        self._held.pop_all()

    def _hand_over(self, server: RunningServer) -> None:
        self.publish(server, owner=None)
        server.process.release()
        self.say(f"{server.name} stays, at {server.base_url}. Stop it with: vlsb engine stop {server.name}")

    async def _launch(self, last: RunningServer | None) -> RunningServer:
        """Start the engine, and compare its prompt with the authors', which is found out meanwhile.

        After one that died (`last`), on its address and with its key, so that clients just go on.
        """
        plan, server = self.plan, None
        assert plan is not None
        self.on_progress(Step("starting", plan.about))
        is_own = plan.model.prompt_source == "own"
        try:
            async with asyncio.TaskGroup() as group:
                expected = group.create_task(expected_ids(plan, environment=self.environment))
                server = await launch(
                    plan,
                    port=self.wishes.port if last is None else urlsplit(last.base_url).port,
                    key=None if last is None else last.key,
                    log=fresh_log(Places.of(self.environment), plan.model.name),
                    environment=self.environment,
                    on_progress=self.on_progress,
                    start_timeout_s=self.wishes.start_timeout_s,
                )
                if is_own:
                    self.on_progress(Step("checking", "the prompt of its own chat template"))
                    asked = plan.model
                    if (thinks := self.wishes.thinks) is not None:
                        # A template that is asked not to think opens no thought.
                        switch = thinking_fields(Endpoint(asked.name, ENGINE_URL), thinks=thinks)
                        fields = {**asked.protocol.fields, **switch}
                        asked = replace(asked, protocol=replace(asked.protocol, fields=fields))
                    prompt = await check_own_prompt(server, asked, has_parser=plan.has_parser)
                else:
                    self.on_progress(Step("checking", "the prompt against the authors' loader"))
                    await check_parity(server, plan, await expected)
        except BaseException as error:
            if server is not None:
                await server.process.stop(STOP_GRACE_S)
            if isinstance(error, BaseExceptionGroup):
                # Whichever failed first has ended the other.
                raise error.exceptions[0] from None
            raise
        if is_own and prompt.parser_takes_answer:
            self.say(
                f"{plan.model.name}: the reasoning parser takes whole answers. Starting again without it."
            )
            await server.process.stop(STOP_GRACE_S)
            self.plan = plan.without_parser()
            return await self._launch(last)
        if is_own:
            self.thinks, self.opened_by = prompt.thinks, prompt.opened_by
        return server


Leases = tuple[EngineLease, ...]
"""The engines of one model, its replicas."""


class _JoinedGuard(EngineGuard):
    """Ends the run when its server has ended: waiting for an address that nobody holds helps nobody."""

    def __init__(self, record: ServerRecord) -> None:
        self._record = record

    async def fate(self, request: InFlight) -> Fate:
        """ALIVE as long as the server's process lives; raises ServerExitedError when it does not."""
        if self._record.is_running:
            return Fate.ALIVE
        name = self._record.name
        raise ServerExitedError(
            f"{name}: the server that this run used has ended. Start it again as before (vlsb serve {name}), "
            f"then resume. Its log: {self._record.log}"
        )


async def ready_engine(
    model: ModelProfile,
    wishes: Wishes,
    *,
    environment: Mapping[str, str],
    may_install: MayInstall,
    on_progress: OnProgress = ignore,
    say: Callable[[str], None] = _say_nothing,
    is_running: bool = False,
) -> ReadyEngine:
    """Return the engine that `--engine` says, installed first if it is missing and `may_install` agrees.

    What would stop the model later is found before; of one that `is_running`, that has its memory already,
    nothing. EngineMissingError names the command that installs.
    """
    pin, places = model.engine, Places.of(environment)
    listing = (await in_thread(lambda _: list_gpus(environment))).checked()
    has_gpu = bool(listing.gpus)
    engine: Engine | None = None
    try:
        engine = await in_thread(
            lambda _: find_engine(
                pin,
                wishes.engine,
                places,
                environment=environment,
                has_gpu=has_gpu,
                family=None if model.family == GENERIC else model.family,
            )
        )
    except EngineMissingError as error:
        check_driver(pin, None, listing)
        check_architecture(model, known_settings(model, wishes), None)
        size = engine_bytes(pin, has_gpu=has_gpu)
        if not await may_install(InstallOffer(engine_title(pin, has_gpu=has_gpu), size, error)):
            raise
    if not is_running:
        wishes = with_free_gpus(model, wishes, listing.gpus, environment.get("CUDA_VISIBLE_DEVICES"))
        machine = await in_thread(lambda _: Machine.of(environment, listing, places))
        await in_thread(lambda _: check_start(model, wishes, engine, machine))
    if engine is not None:
        return ReadyEngine(engine, wishes)
    say(f"Installing {engine_title(pin, has_gpu=has_gpu)} into {places.engines}.")
    built = await in_thread(
        lambda report: install_engine(
            pin, places, has_gpu=has_gpu, environment=environment, on_progress=report
        ),
        on_progress,
    )
    return ReadyEngine(built, wishes)


async def plan_start(
    model: ModelProfile,
    wishes: Wishes,
    engine: Engine,
    *,
    environment: Mapping[str, str],
    on_progress: OnProgress = ignore,
) -> ServerPlan:
    """Return the plan of a server; weights in the original LLaVA layout are converted first."""
    if model.source_architecture is not None:
        folder = await servable_folder(
            wishes.weights or model.weights,
            weights_revision(model, wishes, read_config(model.config)),
            Places.of(environment),
            engine,
            on_progress=on_progress,
            environment=environment,
            offline=wishes.offline,
        )
        wishes = replace(wishes, weights=str(folder), revision=None)
    on_progress(Step("loading", "the weights' settings"))
    # It reads files, asks the driver, and may ask the hub.
    return await in_thread(
        lambda _: plan_server(model, wishes, engine, environment=environment, has_gpu=bool(gpus(environment)))
    )


def _record(server: RunningServer, plan: ServerPlan | None, *, owner: int | None) -> ServerRecord:
    """Return what others may know of a server. Raises ServerExitedError if it has ended."""
    began_at = process_began_at(server.pid)
    if began_at is None:
        raise exited_error(server, server.process.exit_code() or 0)
    assert plan is not None
    return ServerRecord(
        name=server.name,
        family=plan.model.family,
        pid=server.pid,
        started_at=began_at,
        owner_pid=owner,
        owner_started_at=None if owner is None else process_began_at(owner),
        base_url=server.base_url,
        served_name=server.served_name,
        key=server.key,
        facts=plan.facts,
        deviations=plan.deviations,
        log=server.log,
        weights=plan.weights,
        engine=f"vLLM {plan.engine.version}",
        boot=boot_id(),
    )
