"""Plans of sweeps against simulators, and what such a sweep comes to."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.command import NOT_COMPARED, Vlsb
from tests.support.endpoint import persona
from vlsb.simulator import Action, Request, Simulator

RAY_MARKS = [
    # Ray leaves sockets and files to the collector; none of them is ours.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
HOSTED = {"vlsb_hosted": 2}
"""What a node has for hosted cells."""


def write_plan(
    folder: Path,
    target: Simulator | None,
    *,
    data: Path,
    models: Sequence[object] = ("m1", "m2", "m3"),
    judges: Sequence[object] | None = None,
    protocols: dict[str, dict[str, object]] | None = None,
    **others: object,
) -> Path:
    """A plan whose hosted models are asked at a simulator, and judged there too unless judges are given."""
    hosted = {"judge": "judge-model"} | (
        {} if target is None else {"judge-base-url": target.base_url, "judge-api-key-env": "CANARY_KEY"}
    )
    plan: dict[str, object] = {
        "models": [hosted_at(target, each) if isinstance(each, str) else each for each in models],
        "judges": [hosted] if judges is None else list(judges),
        "defaults": {"data-root": str(data), "backoff": 0.01},
        "output-dir": str(folder / "sweep"),
        **({"protocols": protocols} if protocols else {}),
        **others,
    }
    path = folder / "plan.yaml"
    # JSON is YAML too.
    path.write_text(json.dumps(plan, indent=1))
    return path


def write_local_plan(
    folder: Path,
    data: Path,
    engine: Path,
    *,
    models: Sequence[object],
    judges: Sequence[object] = (),
    **others: object,
) -> Path:
    """A plan whose models an engine here serves, with no judge unless some are given."""
    defaults = {"data-root": str(data), "engine": str(engine)}
    return write_plan(folder, None, data=data, models=models, judges=judges, defaults=defaults, **others)


def hosted_at(target: Simulator | None, model: str) -> dict[str, object]:
    """A plan's entry for a model that is asked at a simulator, if there is one."""
    at = {} if target is None else {"base-url": target.base_url, "api-key-env": "CANARY_KEY"}
    return {"model": model, **at}


def tables(vlsb: Vlsb, outputs: Path) -> dict[str, dict[str, Any]]:
    """The summaries of a sweep's runs by their names, without place, cost and duration."""
    left_out = {*NOT_COMPARED, "differs"}  # which names another run's place
    return {
        summary["run"]: {name: value for name, value in summary.items() if name not in left_out}
        for summary in vlsb.report(outputs)
    }


def processes_of(folder: Path) -> list[psutil.Process]:
    """The commands that write below a folder, the driver's among them."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            if any(str(folder / "sweep") in word for word in words) and "-m" in words:
                found.append(process)
        except psutil.Error:
            continue
    return found


class Held:
    """`persona`, but that these models get only so many answers before it is released or ends."""

    def __init__(self, *models: str, after: int) -> None:
        self.released = threading.Event()
        self._left = dict.fromkeys(models, after)

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()

    @property
    def holds_all(self) -> bool:
        """Whether each of the models has a request that waits."""
        return all(left < 0 for left in self._left.values())

    async def __call__(self, request: Request) -> Action:
        """What is answered, when it may be."""
        if request.model in self._left:
            self._left[request.model] -= 1
            if self._left[request.model] < 0:
                await asyncio.to_thread(self.released.wait)
        return persona(request)
