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
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from vlsb.cli.display import chosen_display
from vlsb.cli.installs import ready_engine
from vlsb.cli.screen import Screen
from vlsb.cli.serve_view import LiveView, StageLines, StartView
from vlsb.endpoints.connect import open_transport
from vlsb.endpoints.faults import TransportFault
from vlsb.endpoints.secrets import Credentials
from vlsb.endpoints.transport import Transport
from vlsb.errors import ConfigError, InterruptedRunError, UnknownModelError
from vlsb.serving.catalog import LocalModel, load_catalog
from vlsb.serving.engines import Engine
from vlsb.serving.launch import RunningServer
from vlsb.serving.machine import Gpu, gpus, list_gpus
from vlsb.serving.metrics import EngineLoad, parse_metrics
from vlsb.serving.places import Places
from vlsb.serving.plans import ServerPlan, Wishes
from vlsb.serving.progress import Progress
from vlsb.serving.start import STOP_GRACE_S, exited_error, record_of, start_server
from vlsb.serving.state import (
    ServerRecord,
    find_running,
    remove_record,
    sole_server,
    write_record,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

FRAME_EVERY_S = 0.25
LOOK_EVERY_S = 2.0
LINE_EVERY_S = 60.0
_LOOK_TIMEOUT_S = 5.0
_DRIVER_TIMEOUT_S = 3.0
_Result = TypeVar("_Result")
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeJob:
    """What a user asked to be served, and how."""

    name: str
    wishes: Wishes
    servers_dir: Path | None
    is_detached: bool
    yes: bool
    display: str | None


class Draw(Protocol):
    """A picture at a moment of the monotonic clock, for a terminal of that width."""

    def __call__(self, now: float, *, width: int) -> RenderableType: ...


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
            model.family,
            job.wishes.engine,
            places,
            os.environ,
            has_gpu=bool(gpus(os.environ)),
            yes=job.yes,
            display=job.display,
            screen=screen,
        )
        session = _Session(job, model, engine, places, display=display, screen=screen)
        return asyncio.run(session.run())


def about(engine: Engine, weights: str) -> str:
    """An engine and its weights as the views name them."""
    return f"vLLM {engine.version}{' (CPU)' if engine.is_cpu else ''} · {weights}"


def known_model(name: str, servers_dir: Path | None) -> LocalModel:
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
        model: LocalModel,
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
                self._model, self._job.wishes, self._engine, self._places, environment=os.environ, hear=hear
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
                group.create_task(_looks(server, environment, self._view)),
                group.create_task(_shown_live(self._view, self._display, self._screen)),
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
    heard = [number for number in _STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
    for number in heard:
        loop.add_signal_handler(number, stop.hear)
    try:
        yield
    finally:
        for number in heard:
            loop.remove_signal_handler(number)


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


# Looking at an engine.


async def _looks(server: RunningServer, environment: Mapping[str, str], view: LiveView) -> None:
    """Keep a view up to date."""
    transport = open_transport(
        server.base_url.removesuffix("/v1"),
        credentials=Credentials(server.key),
        connections=1,
        ca_bundle=None,
        kind="wire",
    )
    try:
        found = await _gpus(environment)
        while True:
            view.hear(await _load(transport), found, time.monotonic())
            await asyncio.sleep(LOOK_EVERY_S)
            if found:
                found = await _gpus(environment)
    finally:
        await transport.aclose()


async def _load(transport: Transport) -> EngineLoad | None:
    """What the engine says of its load; None if it does not."""
    try:
        async with asyncio.timeout(_LOOK_TIMEOUT_S):
            reply = await transport.get("/metrics")
    except (TransportFault, TimeoutError):
        return None
    return parse_metrics(reply.body.decode("utf-8", "replace")) if reply.status == 200 else None


async def _gpus(environment: Mapping[str, str]) -> tuple[Gpu, ...]:
    return (await asyncio.to_thread(list_gpus, environment, timeout_s=_DRIVER_TIMEOUT_S)).gpus


# Showing it.


@asynccontextmanager
async def shown_start(
    view: StartView, display: str, screen: Screen
) -> AsyncIterator[Callable[[Progress], None]]:
    """What to tell of each step of a start."""
    if display == "rich":
        frames = asyncio.create_task(_frames(view.draw, screen))
        try:
            yield lambda progress: view.hear(progress, time.monotonic())
        finally:
            frames.cancel()
            # A picture that cannot be drawn is no reason to lose the server.
            await asyncio.gather(frames, return_exceptions=True)
    else:
        lines = StageLines(view)

        def hear(progress: Progress) -> None:
            line = lines.hear(progress, time.monotonic())
            if line is not None:
                screen.notice(line)

        yield hear


async def _shown_live(view: LiveView, display: str, screen: Screen) -> None:
    """Show a server at work, until cancelled."""
    if display == "rich":
        await _frames(view.draw, screen)
    said: EngineLoad | None = None
    while True:
        await asyncio.sleep(LINE_EVERY_S)
        # A server that nobody asks says nothing for hours.
        if view.load != said:
            said = view.load
            screen.notice(view.line())


async def _frames(draw: Draw, screen: Screen) -> None:
    """Draw again and again at the foot of the terminal, until cancelled."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    with Live(console=console, transient=True, auto_refresh=False, redirect_stdout=False) as live:
        screen.above_bar = lambda line: live.console.print(Text(line), soft_wrap=True)
        try:
            while True:
                live.update(draw(time.monotonic(), width=console.width), refresh=True)
                await asyncio.sleep(FRAME_EVERY_S)
        finally:
            screen.above_bar = None
