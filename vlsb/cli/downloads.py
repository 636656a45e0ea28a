"""The progress of a download from the hub: bytes in a bar on a terminal, a line a file elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vlsb.cli.screen import Screen

if TYPE_CHECKING:
    from vlsb.steps import Step

Hear = Callable[["Step"], None]


@contextmanager
def fetching(display: str, screen: Screen) -> Iterator[Hear]:
    """What to tell of each step of a download. Nothing is shown before there is one."""
    if display == "rich":
        with _bars() as hear:
            yield hear
    else:
        yield _lines(screen)


def _lines(screen: Screen) -> Hear:
    said: set[tuple[str, int]] = set()

    def hear(progress: Step) -> None:
        total = progress.total_bytes
        tenth = 0 if not total else 10 * (progress.done_bytes or 0) // total
        if total and (progress.detail, tenth) not in said:
            said.add((progress.detail, tenth))
            screen.notice(
                f"{progress.detail}: {(progress.done_bytes or 0) / 1e6:,.0f} of {total / 1e6:,.0f} MB"
            )

    return hear


@contextmanager
def _bars() -> Iterator[Hear]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    tasks = {}
    with Progress(*columns, console=console, transient=True) as bars:

        def hear(progress: Step) -> None:
            if progress.detail not in tasks:
                tasks[progress.detail] = bars.add_task(progress.detail, total=progress.total_bytes)
            bars.update(
                tasks[progress.detail], completed=(progress.done_bytes or 0), total=progress.total_bytes
            )

        yield hear
