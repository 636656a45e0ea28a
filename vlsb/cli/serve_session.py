"""One `vlsb serve` from its first check to the engine's end: what starts, what is shown, what stops it.

Whatever ends this process, the engine ends too, unless it was detached.
"""

from __future__ import annotations

import asyncio
import difflib
import os
import shlex
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vlsb.cli.display import chosen_display
from vlsb.cli.engine_screen import about, looks, shown_live, shown_start
from vlsb.cli.installs import ready_engine
from vlsb.cli.screen import Screen
from vlsb.cli.serve_view import LiveView, StartView
from vlsb.endpoints import loops
from vlsb.endpoints.loops import STOPPING_SIGNALS
from vlsb.engines.install import Engine
from vlsb.engines.launch import RunningServer
from vlsb.engines.plan import ServerPlan, Wishes
from vlsb.engines.registry import (
    Places,
    ServerRecord,
    find_running,
    remove_record,
    sole_server,
    write_record,
)
from vlsb.engines.start import STOP_GRACE_S, exited_error, record_of, start_server
from vlsb.errors import ConfigError, InterruptedRunError, UnknownModelError
from vlsb.models.catalog import load_catalog
from vlsb.models.profile import ModelProfile

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeJob:
    """What a user asked to be served, and how."""

    name: str
    wishes: Wishes
    servers_dir: Path | None
    is_detached: bool
    yes: bool
    display: str | None


class StopWish:
    """How often we were told to stop: once to end in order, twice to kill. `say` confirms the first."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.once = asyncio.Event()
        self.twice = asyncio.Event()
        self._say = say

    def hear(self) -> None:
        """One more signal."""
        if self.once.is_set():
            self.twice.set()
        else:
            self.once.set()
            self._say("Stopping. Ctrl-C again kills it at once.")


def serve(job: ServeJob, screen: Screen) -> int:
    """Serve until told to stop, or return once the server is ready and detached; the exit code."""
    places, display = Places.of(os.environ), chosen_display(job.display)
    model = known_model(job.name, job.servers_dir)
    _refuse_second(places, model.name, screen)
    with sole_server(places, model.name):
        # Whoever had the name until now may have detached its server just before.
        _refuse_second(places, model.name, screen)
        engine = ready_engine(
            model,
            job.wishes,
            places,
            os.environ,
            yes=job.yes,
            display=job.display,
            screen=screen,
        )
        session = _Session(job, model, engine, places, display=display, screen=screen)
        return loops.run(session.run(), loop_factory=asyncio.new_event_loop)


def known_model(name: str, servers_dir: Path | None) -> ModelProfile:
    """The local model of that name; UnknownModelError with the nearest there is."""
    catalog = load_catalog(servers_dir)
    if name not in catalog:
        near = difflib.get_close_matches(name, catalog, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(catalog)}."
        raise UnknownModelError(f"{name}: no local model of that name. {hint}")
    return catalog[name]


def _refuse_second(places: Places, name: str, screen: Screen) -> None:
    running = find_running(places, name, say=screen.notice)
    if running is not None:
        raise ConfigError(
            f"{name} is served already, at {running.base_url} (process {running.pid}). `vlsb run --model "
            f"{name}` finds it; `vlsb engine stop {name}` ends it."
        )


class _Session:
    """A server's time with us."""

    def __init__(
        self,
        job: ServeJob,
        model: ModelProfile,
        engine: Engine,
        places: Places,
        *,
        display: str,
        screen: Screen,
    ) -> None:
        self._job = job
        self._model = model
        self._engine = engine
        self._places = places
        self._display = display
        self._screen = screen
        self._stop = StopWish(screen.notice)
        self._view = LiveView(model.name, self._about(), time.monotonic())

    async def run(self) -> int:
        """Start, serve, stop. InterruptedRunError where the stop came too early or had to be a kill."""
        with _heard_signals(self._stop):
            started = await _unless_stopped(self._started(), self._stop)
            if started is None:
                how = "killed" if self._stop.twice.is_set() else "stopped"
                raise InterruptedRunError(f"{self._model.name}: {how} before it was ready.")
            is_released = await self._kept(*started)
            if self._stop.twice.is_set():
                raise InterruptedRunError(f"{self._model.name}: killed.")
            if self._job.is_detached and not is_released:
                raise InterruptedRunError(f"{self._model.name}: stopped before it was detached.")
            return 0

    async def _started(self) -> tuple[RunningServer, ServerPlan]:
        view = StartView(self._model.name, self._about(), time.monotonic())
        async with shown_start(view, self._display, self._screen) as hear:
            return await start_server(
                self._model,
                self._job.wishes,
                self._engine,
                self._places,
                environment=os.environ,
                on_progress=hear,
            )

    def _about(self) -> str:
        return about(self._engine, self._job.wishes.weights or self._model.weights)

    async def _kept(self, server: RunningServer, plan: ServerPlan) -> bool:
        """A server that is ready, until it ends, we are told to stop, or it is released (true)."""
        record: ServerRecord | None = None
        is_released = False
        try:
            record = record_of(server, plan, owner=None if self._job.is_detached else os.getpid())
            self._announce(server, plan, write_record(self._places, record))
            if not self._job.is_detached:
                await self._watched(server, plan)
            elif not self._stop.once.is_set():
                server.process.release()
                is_released = True
        finally:
            if not is_released:
                await self._end(server, record)
        return is_released

    def _announce(self, server: RunningServer, plan: ServerPlan, path: Path) -> None:
        name, say = server.name, self._screen.result
        for deviation in plan.deviations:
            self._screen.notice(f"Not as in the paper: {deviation}")
        say(f"{name} is ready: {server.base_url}, model name {server.served_name}")
        say("Evaluate it from another terminal:")
        say(f"  {shlex.join(self._run_command())}")
        self._screen.notice(
            f'Any other client needs its key: "key" in {_short(path)}, which only you can read.'
        )
        if self._job.is_detached:
            self._screen.notice(
                f"It runs in the background. Stop it with: vlsb engine stop {shlex.quote(name)}"
            )

    def _run_command(self) -> list[str]:
        folder = self._job.servers_dir
        return [
            "vlsb",
            "run",
            "--model",
            self._model.name,
            *(["--servers-dir", str(folder)] if folder else []),
        ]

    async def _watched(self, server: RunningServer, plan: ServerPlan) -> None:
        """Show a server at work until we are told to stop; ServerExitedError if it ends before."""
        self._view.began = time.monotonic()
        code = await _unless_stopped(self._shown(server, plan), self._stop)
        if code is not None and not self._stop.once.is_set():
            raise exited_error(server, code)

    async def _shown(self, server: RunningServer, plan: ServerPlan) -> int:
        """Look at the engine and show it until it ends by itself; how it ended."""
        environment = {**os.environ, **plan.environment}
        async with asyncio.TaskGroup() as group:
            watching = [
                group.create_task(looks(server, environment, self._view)),
                group.create_task(shown_live(self._view, self._display, self._screen)),
            ]
            code = await server.process.wait()
            for task in watching:
                task.cancel()
        return code

    async def _end(self, server: RunningServer, record: ServerRecord | None) -> None:
        """Take the record away first: nobody shall find a server that is going."""
        if record is not None:
            remove_record(self._places, record)
        if server.process.exit_code() is None:
            await _stopped(server, self._stop)
        self._screen.notice(self._view.closing(time.monotonic()))


def _short(path: Path) -> str:
    """A path as a user of this home writes it."""
    try:
        return f"~/{path.relative_to(Path.home())}"
    except (ValueError, RuntimeError):
        return str(path)


@contextmanager
def _heard_signals(stop: StopWish) -> Iterator[None]:
    """Every way of telling us to stop is heard by `stop`; what the caller ignores stays ignored."""
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in STOPPING_SIGNALS}
    heard = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in heard:
        loop.add_signal_handler(number, stop.hear)
    try:
        yield
    finally:
        for number in heard:
            loop.remove_signal_handler(number)
            signal.signal(number, before[number])


async def _unless_stopped(work: Coroutine[Any, Any, _Result], stop: StopWish) -> _Result | None:
    """The result of `work`; None if it was told to stop: it is cancelled then, at the second wish again."""
    task = asyncio.create_task(work)
    for wish in (stop.once, stop.twice):
        await _first(task, wish)
        if not task.done():
            task.cancel()
    await asyncio.wait([task])
    # What it failed with on its way out is not why it ended.
    if task.cancelled() or (stop.once.is_set() and task.exception() is not None):
        return None
    return task.result()


async def _stopped(server: RunningServer, stop: StopWish) -> None:
    """End a server in order, or at once at the second wish; returns when nothing of it is left."""
    stopping = asyncio.create_task(server.process.stop(STOP_GRACE_S))
    await _first(stopping, stop.twice)
    if not stopping.done():
        stopping.cancel()
        await asyncio.wait([stopping])
        await server.process.wait()
    else:
        stopping.result()


async def _first(task: asyncio.Task[Any], wish: asyncio.Event) -> None:
    """Return when the task is done or the wish is there."""
    wished = asyncio.create_task(wish.wait())
    try:
        await asyncio.wait([task, wished], return_when=asyncio.FIRST_COMPLETED)
    finally:
        wished.cancel()
