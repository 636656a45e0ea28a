"""A run against a scripted endpoint, and what it came to: ledger, requests, exit code, files."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vlsb
from tests.support.datasets import write_dataset
from tests.support.endpoint import sample_of
from vlsb.errors import GapsError, VlsbError
from vlsb.records import Outcome
from vlsb.reports.encode import for_terminal
from vlsb.simulator import Action, Reply, Request, Responder, Simulator, answer, verdict

PATIENT = {"backoff": 0.01, "max_attempts": 3, "attempt_timeout": 30.0, "sample_timeout": 60.0}
"""Waits that nobody notices, deadlines that only a hang reaches."""


@dataclass(frozen=True)
class Ran:
    """What a run came to. `target` and `judge` count HTTP requests by sample."""

    exit_code: int
    outcomes: dict[int, Outcome]
    target: Counter[int]
    judge: Counter[int]
    directory: Path
    error: VlsbError | None
    requests: Sequence[Request]

    @property
    def run(self) -> vlsb.Run:
        """The run as its files stand."""
        return vlsb.load_run(self.directory)

    @property
    def ledger(self) -> Counter[Outcome]:
        """How many samples ended in each outcome."""
        return Counter(self.outcomes.values())

    def rows(self, file: str) -> list[dict[str, Any]]:
        """The records of one of the run's files, none where there is no such file."""
        path = self.directory / file
        return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []

    def failure(self, number: int) -> dict[str, Any]:
        """How a sample failed."""
        (found,) = [row for row in self.rows("failures.jsonl") if row["sample_id"] == number]
        return found

    def response(self, number: int) -> dict[str, Any]:
        """What a sample was answered."""
        (found,) = [row for row in self.rows("responses.jsonl") if row["sample_id"] == number]
        return found

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """The events of these kinds."""
        return [row for row in self.rows("events.jsonl") if row["kind"] in kinds]

    @property
    def words(self) -> str:
        """What ended the run, as the terminal shows it."""
        assert self.error is not None
        parts = (self.error.message, self.error.detail and for_terminal(self.error.detail), self.error.advice)
        return " ".join(part for part in parts if part)


def evaluate(
    directory: Path,
    responder: Responder,
    *,
    rows: int | Sequence[Mapping[str, Any]] = 2,
    is_refusing: bool = False,
    **options: Any,
) -> Ran:
    """A run of both lanes against one simulator that `responder` tells what to do."""

    async def whole() -> Ran:
        root = write_dataset(directory / "data", rows)
        async with Simulator(responder) as simulator:
            if is_refusing:
                simulator.refuse()
            ran = await _carry_out(simulator, root, directory / "runs", options)
            assert not simulator.errors
            return ran

    return asyncio.run(whole())


async def _carry_out(simulator: Simulator, root: Path, runs: Path, options: dict[str, Any]) -> Ran:
    lanes = {"model": "m", "judge": "j", "judge_base_url": simulator.base_url}
    error: VlsbError | None = None
    try:
        run = await vlsb.evaluate(
            base_url=simulator.base_url,
            data_root=root,
            output_dir=runs,
            name="r",
            **{**lanes, **PATIENT, **options},
        )
        code = 0 if run.is_complete else GapsError.exit_code
    except VlsbError as caught:
        error, code = caught, caught.exit_code
    run = vlsb.load_run(runs / "r")
    requests = simulator.completions
    return Ran(
        exit_code=code,
        outcomes={answer.sample_id: answer.outcome for answer in run.answers()},
        target=_by_sample(each for each in requests if not each.is_judge),
        judge=_by_sample(each for each in requests if each.is_judge),
        directory=run.path,
        error=error,
        requests=requests,
    )


def _by_sample(requests: Iterable[Request]) -> Counter[int]:
    """Requests by sample; those of a sample without an instruction cannot be told."""
    return Counter(sample_of(request) for request in requests if request.instruction)


def served(request: Request) -> Reply:
    """What an endpoint that is well answers: "Unsafe" as a judge."""
    return verdict(3) if request.is_judge else answer("A plain answer.")


def scripted(
    actions: Sequence[Action], *, sample: int | None = None, lane: str = "target", then_well: bool = False
) -> Responder:
    """One sample (every one for None) meets these actions in a lane, in turn, and the last one for ever.

    With `then_well` the requests after them are answered.
    """
    met: Counter[int] = Counter()

    def respond(request: Request) -> Action:
        number = sample_of(request)
        if request.is_judge is not (lane == "judge") or sample not in (None, number):
            return served(request)
        turn, met[number] = met[number], met[number] + 1
        if turn >= len(actions) and then_well:
            return served(request)
        return actions[min(turn, len(actions) - 1)]

    return respond
