"""`vlsb serve`: a local model on an engine of its own, until it is told to stop.

Whatever ends this process, the engine ends too, unless it was detached.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from vlsb.cli import options as opt
from vlsb.cli.command import command
from vlsb.cli.live import Display
from vlsb.cli.screen import Screen, agree_to_install
from vlsb.cli.views import ServerView
from vlsb.endpoints import loops
from vlsb.engines.checkpoint import identify
from vlsb.engines.hardware import list_gpus
from vlsb.engines.launch import RunningServer, exited_error
from vlsb.engines.lease import EngineLease, engine_lease
from vlsb.engines.plan import Wishes
from vlsb.engines.registry import Places, find_running, sole_server
from vlsb.engines.supervisor import read_load
from vlsb.errors import ConfigError, InterruptedRunError
from vlsb.evaluation.named_models import engine_wishes
from vlsb.evaluation.options import HelpPanel, Option, RunOptions, names_in
from vlsb.models.catalog import find_local
from vlsb.models.profile import ModelProfile

LOOK_EVERY_S = 2.0
_DRIVER_TIMEOUT_S = 3.0


ServedName = Annotated[
    str, typer.Argument(metavar="NAME", help="A name of `vlsb models`, org/name, a folder, or one of yours.")
]


@command()
@opt.takes_run_options(
    "engine_options",
    *names_in(HelpPanel.ENGINE, but=("replicas", "max_restarts", "keep_server")),
    "display",
)
def serve_command(
    name: ServedName,
    port: Annotated[
        int | None,
        Option("Port on 127.0.0.1. (default: a free one)", HelpPanel.SERVER, metavar="N", min=1, max=65535),
    ] = None,
    detach: Annotated[
        bool, Option("Return when it is ready; it runs on in the background.", HelpPanel.SERVER)
    ] = False,
    **given: Any,
) -> int:
    """Serve a local model on this machine, for `vlsb run --model NAME` and for any OpenAI client.

    NAME is one of `vlsb models`, an id on the Hugging Face Hub (org/name), a folder, or one of yours.
    """
    options = RunOptions.of(given)
    model = identify(
        find_local(name, options.servers_dir),
        weights=options.weights,
        revision=options.revision,
        offline=False,
    )
    screen = Screen(quiet=options.display == "none")
    wishes = replace(engine_wishes(options), port=port)
    serving = _Serving(model, wishes, options, screen, is_detached=detach)
    return loops.run(serving.until_stopped(), loop_factory=asyncio.new_event_loop)


class StopWish:
    """How often we were told to stop: once to end in order, twice to kill. `say` confirms the first."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.once = asyncio.Event()
        self.twice = asyncio.Event()
        self._say = say

    def add(self) -> None:
        """One more signal."""
        if self.once.is_set():
            self.twice.set()
        else:
            self.once.set()
            self._say("Stopping. Ctrl-C again kills it at once.")


@dataclass(slots=True)
class _Serving:
    """One server's time with us, from the first check to the engine's end."""

    model: ModelProfile
    wishes: Wishes
    options: RunOptions
    screen: Screen
    is_detached: bool
    _is_ready: bool = False
    _is_released: bool = False

    async def until_stopped(self) -> int:
        """Serve until told to stop, or until the server is ready and detached; the exit code.

        InterruptedRunError where the stop came too early or had to be a kill.
        """
        stop = StopWish(self.screen.notice)
        with loops.signals_in_loop(stop.add):
            serving = asyncio.create_task(self._serve())
            for wish in (stop.once, stop.twice):
                # Cancelled, it ends the engine in order; cancelled while it does so, it kills it.
                wished = asyncio.create_task(wish.wait())
                try:
                    await asyncio.wait([serving, wished], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    wished.cancel()
                if not serving.done():
                    serving.cancel()
            await asyncio.wait([serving])
        if not stop.once.is_set():
            serving.result()
            return 0
        # What it failed with on its way out is not why it ended.
        if not serving.cancelled():
            serving.exception()
        before = "" if self._is_ready else " before it was ready"
        if stop.twice.is_set():
            raise InterruptedRunError(f"{self.model.name}: killed{before}.")
        if before:
            raise InterruptedRunError(f"{self.model.name}: stopped{before}.")
        return 0

    async def _serve(self) -> None:
        name, places = self.model.name, Places.of(os.environ)
        view: ServerView | None = None
        self._refuse_second(places)
        try:
            # Whoever had the name until now may have detached its server just before.
            with sole_server(places, name), Display(self.options.display, self.screen) as live:
                self._refuse_second(places)
                async with engine_lease(
                    self.model,
                    self.wishes,
                    environment=os.environ,
                    may_install=partial(agree_to_install, self.screen, yes=self.options.yes),
                    on_progress=live.on_progress,
                    say=self.screen.notice,
                ) as lease:
                    server = await lease.start()
                    self._is_ready = True
                    live.clear()
                    self._announce(server, lease)
                    assert lease.plan is not None
                    if self.is_detached:
                        lease.release(server)
                        return
                    view = ServerView(name, lease.plan.about, time.monotonic())
                    environment = {**os.environ, **lease.plan.environment}
                    async with asyncio.TaskGroup() as group:
                        showing = [
                            group.create_task(_look(server, environment, view)),
                            group.create_task(live.show_server(view)),
                        ]
                        code = await server.process.wait()
                        for task in showing:
                            task.cancel()
                    raise exited_error(server, code)
        finally:
            if view is not None:
                self.screen.notice(view.closing(time.monotonic()))

    def _refuse_second(self, places: Places) -> None:
        name = self.model.name
        if (running := find_running(places, name, say=self.screen.notice)) is not None:
            raise ConfigError(
                f"{name} is served already, at {running.base_url} (process {running.pid}). `vlsb run --model "
                f"{name}` finds it; `vlsb engine stop {name}` ends it."
            )

    def _announce(self, server: RunningServer, lease: EngineLease) -> None:
        path = lease.publish(server, owner=None if self.is_detached else os.getpid())
        for deviation in lease.deviations:
            self.screen.notice(f"Not as in the paper: {deviation}")
        servers_dir = self.options.servers_dir
        folder = ["--servers-dir", str(servers_dir)] if servers_dir else []
        name = self.model.name
        self.screen.result(f"{name} is ready: {server.base_url}, model name {server.served_name}")
        self.screen.result("Evaluate it from another terminal:")
        self.screen.result(f"  {shlex.join(['vlsb', 'run', '--model', name, *folder])}")
        # As a user of this home writes it.
        with suppress(ValueError, RuntimeError):
            path = Path("~") / path.relative_to(Path.home())
        self.screen.notice(f'Any other client needs its key: "key" in {path}, which only you can read.')
        if self.is_detached:
            self.screen.notice(
                f"It runs in the background. Stop it with: vlsb engine stop {shlex.quote(name)}"
            )


async def _look(server: RunningServer, environment: Mapping[str, str], view: ServerView) -> None:
    """Keep a view up to date."""
    client = server.client()
    gpus = partial(list_gpus, environment, timeout_s=_DRIVER_TIMEOUT_S)
    try:
        seen = (await asyncio.to_thread(gpus)).gpus
        while True:
            view.add(await read_load(client), seen, time.monotonic())
            await asyncio.sleep(LOOK_EVERY_S)
            if seen:
                seen = (await asyncio.to_thread(gpus)).gpus
    finally:
        await client.aclose()
