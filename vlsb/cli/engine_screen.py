"""Local engines before the user's eyes: a start as it goes on, and an engine at work.

`serve_view` has the pictures; what is here asks the engine, keeps time and draws.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

import httpx

from vlsb.cli.screen import Screen
from vlsb.cli.serve_view import LiveView, StageLines, StartView
from vlsb.endpoints.connect import open_client
from vlsb.endpoints.credentials import Credentials
from vlsb.engines.hardware import Gpu, list_gpus
from vlsb.engines.install import Engine
from vlsb.engines.launch import RunningServer
from vlsb.engines.supervisor import EngineLoad, parse_metrics
from vlsb.steps import Step

if TYPE_CHECKING:
    from rich.console import RenderableType

FRAME_EVERY_S = 0.25
LOOK_EVERY_S = 2.0
LINE_EVERY_S = 60.0
_LOOK_TIMEOUT_S = 5.0
_DRIVER_TIMEOUT_S = 3.0


class Draw(Protocol):
    """A picture at a moment of the monotonic clock, for a terminal of that width."""

    def __call__(self, now: float, *, width: int) -> RenderableType: ...


def about(engine: Engine, weights: str) -> str:
    """An engine and its weights as the views name them."""
    return f"vLLM {engine.version}{' (CPU)' if engine.is_cpu else ''} · {weights}"


@asynccontextmanager
async def shown_start(view: StartView, display: str, screen: Screen) -> AsyncIterator[Callable[[Step], None]]:
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

        def hear(progress: Step) -> None:
            line = lines.hear(progress, time.monotonic())
            if line is not None:
                screen.notice(line)

        yield hear


async def shown_live(view: LiveView, display: str, screen: Screen) -> None:
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


async def looks(server: RunningServer, environment: Mapping[str, str], view: LiveView) -> None:
    """Keep a view up to date."""
    client = open_client(
        server.base_url.removesuffix("/v1"),
        credentials=Credentials(server.key),
        connections=1,
        ca_bundle=None,
    )
    try:
        found = await _gpus(environment)
        while True:
            view.hear(await _load(client), found, time.monotonic())
            await asyncio.sleep(LOOK_EVERY_S)
            if found:
                found = await _gpus(environment)
    finally:
        await client.aclose()


async def _load(client: httpx.AsyncClient) -> EngineLoad | None:
    """What the engine says of its load; None if it does not."""
    try:
        async with asyncio.timeout(_LOOK_TIMEOUT_S):
            reply = await client.get("/metrics")
    except (httpx.RequestError, TimeoutError):
        return None
    return parse_metrics(reply.content.decode("utf-8", "replace")) if reply.status_code == 200 else None


async def _gpus(environment: Mapping[str, str]) -> tuple[Gpu, ...]:
    return (await asyncio.to_thread(list_gpus, environment, timeout_s=_DRIVER_TIMEOUT_S)).gpus
