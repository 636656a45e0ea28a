"""Local models for `vlsb run`: the server that `vlsb serve` has running, else an engine for this run."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlsb.cli.display import chosen_display
from vlsb.cli.resolve import RunOptions, engine_options_given, model_name, resolve_run
from vlsb.cli.screen import Screen
from vlsb.errors import ConfigError

if TYPE_CHECKING:
    from vlsb.endpoints.traffic import Event
    from vlsb.engines.launch import RunningServer
    from vlsb.engines.plan import ServerPlan, Wishes
    from vlsb.engines.registry import Places, ServerRecord
    from vlsb.evaluation.settings import LocalTarget, Resolved
    from vlsb.evaluation.sides import Hosted
    from vlsb.models.profile import ModelProfile


def resolve_target(options: RunOptions, environment: Mapping[str, str], screen: Screen) -> Resolved:
    """The plan of `vlsb run`, with a local model's engine found, or planned where none is running."""
    from vlsb.models.catalog import find_profile

    model = find_profile(model_name(options), options.servers_dir, arch=options.arch)
    if not model.is_local or options.base_url is not None:
        _refuse_engine_options(options)
        return resolve_run(options, environment, protocol=model.protocol)
    # Whatever else is wrong (a judge's key, a template) is found before an engine is installed or started.
    resolve_run(options, environment, protocol=model.protocol, local=_unstarted(model))
    local = _local_target(model, options, environment, screen)
    return resolve_run(options, environment, protocol=model.protocol, local=local)


def _refuse_engine_options(options: RunOptions) -> None:
    for name in engine_options_given(options):
        flag = "What follows --" if name == "engine_options" else "--" + name.replace("_", "-")
        raise ConfigError(
            f"{flag} is for engines that vlsb starts; target {options.model or options.base_url} is none. "
            "Leave it out, or pass --model with a local model such as llava_next."
        )


def _unstarted(model: ModelProfile) -> LocalTarget:
    from vlsb.evaluation.settings import LocalTarget

    return LocalTarget(model.name, {}, ())


def _wishes(options: RunOptions) -> Wishes:
    from vlsb.engines.plan import Wishes

    return Wishes(
        weights=options.weights,
        revision=options.revision,
        tensor_parallel_size=options.tensor_parallel_size,
        gpus=options.gpus,
        dtype=options.dtype,
        engine=options.engine,
        engine_options=options.engine_options,
        start_timeout_s=options.start_timeout,
    )


def _local_target(
    model: ModelProfile, options: RunOptions, environment: Mapping[str, str], screen: Screen
) -> LocalTarget:
    from vlsb.engines.registry import Places, find_running

    places, wishes = Places.of(environment), _wishes(options)
    running = find_running(places, model.name, say=screen.notice)
    if running is not None and wishes == _wishes(RunOptions(start_timeout=options.start_timeout)):
        return _served(running, screen)
    plan = _planned(model, wishes, options, places, environment, screen)
    if running is not None:
        _require_same(running, plan)
        return _served(running, screen)
    from vlsb.evaluation.settings import LocalTarget

    host = EngineHost(plan, wishes, options, places, environment, screen)
    return LocalTarget(model.name, plan.facts, plan.deviations, host=host)


def _served(record: ServerRecord, screen: Screen) -> LocalTarget:
    """The target that a running server is."""
    from vlsb.endpoints.credentials import Credentials
    from vlsb.evaluation.settings import LocalTarget

    screen.notice(f"Using the server of {record.name} at {record.base_url} ({record.engine}).")
    running = (record.base_url, Credentials(record.key))
    host = BorrowedHost(record)
    return LocalTarget(record.served_name, record.facts, record.deviations, running=running, host=host)


def _require_same(record: ServerRecord, plan: ServerPlan) -> None:
    """ConfigError where a running server is not what this run asks for."""
    facts = {**record.facts}, {**plan.facts}
    differing = sorted(name for name in {*facts[0], *facts[1]} if facts[0].get(name) != facts[1].get(name))
    if differing:
        raise ConfigError(
            f"{record.name} is being served with other settings ({', '.join(differing)}). Leave yours out to "
            f"use that server, or stop it: vlsb engine stop {record.name}"
        )


def _planned(
    model: ModelProfile,
    wishes: Wishes,
    options: RunOptions,
    places: Places,
    environment: Mapping[str, str],
    screen: Screen,
) -> ServerPlan:
    """The plan of an engine; installs it and converts weights first where that is needed and wanted."""
    import asyncio

    from vlsb.cli.engine_screen import about, shown_start
    from vlsb.cli.installs import ready_engine
    from vlsb.cli.serve_view import StartView
    from vlsb.endpoints import loops
    from vlsb.engines.start import plan_start

    engine = ready_engine(
        model,
        wishes,
        places,
        environment,
        yes=options.yes,
        display=options.display,
        screen=screen,
    )

    async def plan() -> ServerPlan:
        view = StartView(model.name, about(engine, wishes.weights or model.weights), time.monotonic())
        async with shown_start(view, chosen_display(options.display), screen) as hear:
            return await plan_start(model, wishes, engine, places, environment=environment, on_progress=hear)

    return loops.run(plan(), loop_factory=asyncio.new_event_loop)


@dataclass(frozen=True, slots=True)
class BorrowedHost:
    """Lends a run the server that is up, and leaves it as it is."""

    record: ServerRecord

    @asynccontextmanager
    async def open(self, observe: Callable[[Event], None]) -> AsyncIterator[Hosted]:
        """The server, as long as it lives."""
        from vlsb.endpoints.credentials import Credentials
        from vlsb.engines.supervisor import Borrowed
        from vlsb.evaluation.sides import Hosted

        yield Hosted(self.record.base_url, Credentials(self.record.key), Borrowed(self.record))


@dataclass(frozen=True, slots=True)
class EngineHost:
    """Brings up the engine of one run, looks after it, and ends it unless it is to be kept."""

    plan: ServerPlan
    wishes: Wishes
    options: RunOptions
    places: Places
    environment: Mapping[str, str]
    screen: Screen

    @asynccontextmanager
    async def open(self, observe: Callable[[Event], None]) -> AsyncIterator[Hosted]:
        """The engine, up and answering; raises ServerError."""
        from vlsb.endpoints.credentials import Credentials
        from vlsb.endpoints.traffic import Event
        from vlsb.engines.supervisor import Supervisor
        from vlsb.evaluation.sides import Hosted

        supervisor = Supervisor(
            self._start,
            max_restarts=self.options.max_restarts,
            say=self.screen.notice,
            observe=lambda number: observe(Event("engine_restart", "target", attempt=number)),
            keep=self._keep if self.options.keep_server else None,
        )
        async with supervisor.running() as server:
            yield Hosted(server.base_url, Credentials(server.key), supervisor)

    async def _start(self, last: RunningServer | None) -> RunningServer:
        from vlsb.cli.engine_screen import about, shown_start
        from vlsb.cli.serve_view import StartView
        from vlsb.engines.start import start_planned

        view = StartView(self.plan.model.name, about(self.plan.engine, self.plan.weights), time.monotonic())
        # At a restart the run's own panel has the terminal.
        display = chosen_display(self.options.display) if last is None else "plain"
        async with shown_start(view, display, self.screen) as hear:
            return await start_planned(
                self.plan, self.wishes, self.places, environment=self.environment, on_progress=hear, last=last
            )

    def _keep(self, server: RunningServer) -> None:
        from vlsb.engines.registry import write_record
        from vlsb.engines.start import record_of

        write_record(self.places, record_of(server, self.plan, owner=None))
        server.process.release()
        self.screen.notice(
            f"{server.name} stays, at {server.base_url}. Stop it with: vlsb engine stop {server.name}"
        )
