"""Installing an engine before the user's eyes, when they asked for it or said yes to it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from vlsb.cli.display import chosen_display
from vlsb.cli.engine_text import engine_title
from vlsb.cli.screen import Screen
from vlsb.engines.hardware import list_gpus
from vlsb.engines.install import Engine, find_engine, install_command, install_engine
from vlsb.engines.plan import Wishes
from vlsb.engines.preflight import check_driver, check_start
from vlsb.engines.registry import Places
from vlsb.errors import EngineMissingError, InterruptedRunError
from vlsb.models.profile import EnginePin, ModelProfile
from vlsb.records import Untrusted
from vlsb.reports.encode import for_terminal
from vlsb.reports.figures import duration
from vlsb.steps import Step

# A file of this size takes long enough to be named where there is no live line.
_NAMED_BYTES = 20_000_000
_WIDEST_DETAIL = 48

Hear = Callable[[Step], None]


def ready_engine(
    model: ModelProfile,
    wishes: Wishes,
    places: Places,
    environment: Mapping[str, str],
    *,
    yes: bool,
    display: str | None,
    screen: Screen,
) -> Engine:
    """The engine that `--engine` says, installed first if it is missing and the user wants that.

    With `yes` it is installed without asking. On a terminal the user is asked; anywhere else
    EngineMissingError names the command to type. What would stop the model later is found before.
    """
    pin = model.engine
    listing = list_gpus(environment).checked()
    has_gpu = bool(listing.gpus)
    engine: Engine | None = None
    try:
        engine = find_engine(
            pin, wishes.engine, places, environment=environment, has_gpu=has_gpu, family=model.family
        )
    except EngineMissingError as error:
        check_driver(pin, None, listing)
        if not yes and not _agrees(pin, error, has_gpu=has_gpu, screen=screen):
            raise
    check_start(model, wishes, engine, places, listing, environment)
    if engine is not None:
        return engine
    return install_with_progress(pin, places, environment, has_gpu=has_gpu, display=display, screen=screen)


def install_with_progress(
    pin: EnginePin,
    places: Places,
    environment: Mapping[str, str],
    *,
    has_gpu: bool,
    display: str | None,
    screen: Screen,
) -> Engine:
    """Install a pinned engine and show each step; InterruptedRunError on Ctrl-C."""
    began: list[float] = []
    try:
        with _installing(chosen_display(display), screen) as show:

            def hear(step: Step) -> None:
                if not began:
                    began.append(time.monotonic())
                    screen.notice(f"Installing {engine_title(pin, has_gpu=has_gpu)} into {places.engines}.")
                show(step)

            engine = install_engine(pin, places, has_gpu=has_gpu, environment=environment, on_progress=hear)
    except KeyboardInterrupt as error:
        raise InterruptedRunError(
            f"Interrupted. What uv has downloaded stays in its cache; go on with: {install_command(pin)}"
        ) from error
    if began:
        screen.notice(f"Installed in {duration(time.monotonic() - began[0])}.")
    return engine


def _agrees(pin: EnginePin, error: EngineMissingError, *, has_gpu: bool, screen: Screen) -> bool:
    """Whether the user, if there is one at a terminal, wants the engine installed now."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    room = (pin.gpu_disk_bytes if has_gpu else pin.cpu_disk_bytes) / 1e9
    screen.line(error.message)
    screen.line(f"Install {engine_title(pin, has_gpu=has_gpu)} now, up to {room:.0f} GB? [y/N]")
    try:
        return input().strip().lower() in ("y", "yes")
    except EOFError:
        return False


@contextmanager
def _installing(display: str, screen: Screen) -> Iterator[Hear]:
    """What to tell of each step: a live line on a terminal, a line a step and a large file elsewhere."""
    if display == "rich":
        with _live_line(screen) as hear:
            yield hear
    else:
        yield _lines(screen)


def _lines(screen: Screen) -> Hear:
    said: set[tuple[int, str]] = set()

    def hear(step: Step) -> None:
        heading = (step.number, step.stage)
        if heading not in said:
            said.add(heading)
            screen.notice(_title(step))
        detail = _detail(step)
        if (step.total_bytes or 0) >= _NAMED_BYTES and (step.number, detail) not in said:
            said.add((step.number, detail))
            screen.notice(f"downloading {detail}, {(step.total_bytes or 0) / 1e6:,.0f} MB")

    return hear


@contextmanager
def _live_line(screen: Screen) -> Iterator[Hear]:
    """One line that says what is going on and for how long; a step that is over leaves a line behind."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.text import Text

    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        screen.above_bar = lambda line: bars.console.print(Text(line), soft_wrap=True)
        task = bars.add_task("")
        now: list[Step] = []

        def hear(step: Step) -> None:
            if not now or now[-1].stage != step.stage:
                if now:
                    screen.notice(f"{_title(now[-1])}: done")
                bars.reset(task)
            now[:] = [step]
            bars.update(task, description=_live_text(step))

        try:
            yield hear
        finally:
            screen.above_bar = None


def _live_text(step: Step) -> str:
    detail = _detail(step)[:_WIDEST_DETAIL]
    parts = [_title(step), *([detail] if detail else [])]
    if step.total_bytes:
        parts.append(f"{(step.done_bytes or 0) / 1e6:,.0f} of {step.total_bytes / 1e6:,.0f} MB")
    return " · ".join(parts)


def _title(step: Step) -> str:
    return f"[{step.number}/{step.count}] {step.stage}" if step.count else step.stage


def _detail(step: Step) -> str:
    return for_terminal(Untrusted(step.detail))
