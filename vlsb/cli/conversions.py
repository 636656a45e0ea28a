"""The progress of a conversion: bytes of the file at hand in a bar on a terminal, a line a step elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vlsb.cli.screen import Screen

if TYPE_CHECKING:
    from vlsb.steps import Step

_WORTH_QUARTERS_BYTES = 100_000_000

Hear = Callable[["Step"], None]


@contextmanager
def converting(display: str, screen: Screen) -> Iterator[Hear]:
    """What to tell of each step of a conversion. Nothing is shown before there is one."""
    if display == "rich":
        with _bar() as hear:
            yield hear
    else:
        yield _lines(screen)


def _lines(screen: Screen) -> Hear:
    said: set[tuple[str, str, int]] = set()

    def hear(progress: Step) -> None:
        total = progress.total_bytes or 0
        quarter = 4 * (progress.done_bytes or 0) // total if total >= _WORTH_QUARTERS_BYTES else 0
        if (step := (progress.stage, progress.detail, quarter)) in said:
            return
        said.add(step)
        done = f": {(progress.done_bytes or 0) / 1e9:.1f} of {total / 1e9:.1f} GB" if quarter else ""
        screen.notice(f"{progress.stage} {progress.detail}{done}")

    return hear


@contextmanager
def _bar() -> Iterator[Hear]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

    from vlsb.records import Untrusted
    from vlsb.reports.encode import for_terminal

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def hear(progress: Step) -> None:
            step = for_terminal(Untrusted(f"{progress.stage} {progress.detail}"))
            if step not in tasks:
                # One bar at a time: the file at hand.
                for done in tasks.values():
                    bars.update(done, visible=False)
                tasks[step] = bars.add_task(step, total=progress.total_bytes)
            bars.update(tasks[step], completed=(progress.done_bytes or 0), total=progress.total_bytes)

        yield hear
