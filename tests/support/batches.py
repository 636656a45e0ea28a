"""Runs by batch in this process, and what they made the simulated provider do."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import vlsb
from tests.support.command import Desk
from tests.support.endpoint import labelling, sample_of
from tests.support.waiting import wait_until
from vlsb.errors import VlsbError
from vlsb.simulator import Request, SimulatorThread

SAMPLES = 8

respond = labelling({number: number % 3 + 1 for number in range(SAMPLES)})
"""Answers follow from the sample alone."""


def evaluate(desk: Desk, endpoint: SimulatorThread, **options: Any) -> VlsbError | None:
    """A run by batch; why it stopped early."""
    try:
        asyncio.run(_evaluation(desk, endpoint, options))
    except VlsbError as error:
        return error
    return None


def evaluate_until(
    desk: Desk, endpoint: SimulatorThread, happens: Callable[[Request], bool], **options: Any
) -> None:
    """A run by batch that is cancelled once something like this was asked of the provider."""

    async def cancelled() -> None:
        task = asyncio.ensure_future(_evaluation(desk, endpoint, options))
        condition = partial(_has_happened, endpoint, happens, task)
        await asyncio.to_thread(wait_until, condition, what="what the run is cancelled at")
        assert not task.done(), "it ended before"
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())


def _has_happened(
    endpoint: SimulatorThread, happens: Callable[[Request], bool], task: asyncio.Future[Any]
) -> bool:
    return any(map(happens, endpoint.history)) or task.done()


def _evaluation(desk: Desk, endpoint: SimulatorThread, options: dict[str, Any]) -> Coroutine[Any, Any, Any]:
    usual = {"model": "target-model", "judge": "judge-model", "name": "r", "backoff": 0.01, "batch": True}
    where = {"base_url": endpoint.base_url, "judge_base_url": endpoint.base_url}
    if options.get("no_judge"):
        del usual["judge"], where["judge_base_url"]
    given: dict[str, Any] = {**usual, **where, **options}
    return vlsb.evaluate(data_root=desk.data, output_dir=desk.outputs, **given)


def outcomes(desk: Desk) -> Counter[str]:
    """How often each outcome occurs in the run."""
    return Counter(each.outcome.value for each in vlsb.load_run(desk.run_dir).answers())


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The records of a journal."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def batch_name(desk: Desk, number: int = 0) -> str:
    """What the run calls one of its batches, in the order in which they were planned."""
    names: list[str] = [each["name"] for each in lines_of(desk.run_dir / "batches.jsonl")]
    return list(dict.fromkeys(names))[number]


def paid(endpoint: SimulatorThread) -> Counter[tuple[str | None, int]]:
    """How often each sample was answered for money, by model: at once or in a batch."""
    at_once = [each for each in endpoint.completions if each.number in endpoint.answered_at]
    return Counter((each.model, sample_of(each)) for each in (*at_once, *endpoint.batches.paid))


def assert_paid_once(endpoint: SimulatorThread, models: int = 2) -> None:
    """Everything was answered, and nothing twice."""
    assert set(paid(endpoint).values()) == {1}
    assert len(paid(endpoint)) == models * SAMPLES


def submitted(endpoint: SimulatorThread) -> list[int]:
    """The sizes of all batches that were made, in order."""
    return [len(lines) for lines in endpoint.batches.submitted]


def write_prices(desk: Desk, *models: str, **fields: object) -> Path:
    """A file of prices for the models, by default one that makes what the simulator answers a dollar."""
    usual = {"input": 1000, "output": 5000, "batch_input": 500, "batch_output": 2500}
    row = {"models": models or ["target-model", "judge-model"], "source": "a contract", "as_of": "2026-11-25"}
    file = desk.home / "prices.json"
    file.write_text(json.dumps({"prices": [row | (fields or usual)]}))
    return file


def is_upload(request: Request) -> bool:
    """Whether a batch's requests are uploaded."""
    return request.method == "POST" and request.path.endswith("/files")


def is_creation(request: Request) -> bool:
    """Whether a batch is made."""
    return request.method == "POST" and request.path.endswith("/batches")


def is_look_at_list(request: Request) -> bool:
    """Whether the list of batches is read."""
    return request.method == "GET" and request.path.endswith("/batches")


def is_poll(request: Request) -> bool:
    """Whether it is asked how a batch stands."""
    return request.method == "GET" and "/batches/" in request.path


def is_download(request: Request) -> bool:
    """Whether results are fetched."""
    return request.path.endswith("/content")
