"""From a work to the task of a node: where its run is written there, and what its command is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from vlsb.sweep.body import Mirror, Task
from vlsb.sweep.cells import Work


@dataclass(frozen=True, slots=True)
class Places:
    """Where runs are on each node: in `local`, which all nodes share or sync with the address `remote`."""

    local: Path
    remote: str = ""


def task_of(
    work: Work, places: Places, environment: Mapping[str, str], share_usd: float | None = None
) -> Task:
    """The task of a work, which may cost so much where money is limited."""
    return Task(
        words=work.command(replace(work.options, max_cost=share_usd)),
        log=str(places.local / "logs" / work.log_name),
        environment=dict(environment),
        local=str(places.local),
        runs=[run.name for run in work.runs],
        remote=places.remote,
    )


def fetch_runs(work: Work, places: Places) -> None:
    """Bring a work's runs here from the address that nodes sync with, if there is one. Blocking."""
    for run in work.runs if places.remote else ():
        Mirror(f"{places.remote}/{run.name}", run).pull()
