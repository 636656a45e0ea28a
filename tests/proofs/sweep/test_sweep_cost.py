"""One limit of money over a sweep: cells side by side, their judges, kills and starts again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.command import Vlsb
from tests.support.datasets import sharing_rows, write_dataset
from tests.support.endpoint import persona
from tests.support.sweeps import hosted_at, write_plan
from vlsb.simulator import Action, Request, SimulatorThread

SAMPLES = 12
# With the 800 tokens in and 40 out of the simulator's answers: one dollar a request.
A_DOLLAR = {"input": 1000, "output": 5000, "source": "a made-up contract", "as_of": "2026-11-25"}
MODELS = ("m1", "m2", "m3")
# What a cell may have in flight: one request to its target, one to its judge.
IN_FLIGHT = 2


class Costly:
    """A plan whose requests cost a dollar each, one at a time for each side of a cell."""

    def __init__(self, vlsb: Vlsb, folder: Path) -> None:
        self.vlsb, self.folder = vlsb, folder
        self.data = write_dataset(folder / "data", sharing_rows(SAMPLES))
        self.prices = folder / "prices.json"
        self.set_prices(*MODELS, "judge-model")

    def set_prices(self, *models: str) -> None:
        self.prices.write_text(json.dumps({"prices": [{"models": models, **A_DOLLAR}]}))

    def plan(
        self,
        target: SimulatorThread | None,
        models: Sequence[object] = MODELS,
        judges: Sequence[object] | None = None,
        **others: object,
    ) -> Path:
        defaults = {"data-root": str(self.data), "prices": str(self.prices), "backoff": 0.01}
        defaults |= {"max-connections": 1, "judge-max-connections": [1]}
        return write_plan(
            self.folder, target, data=self.data, models=models, judges=judges, defaults=defaults, **others
        )


@pytest.fixture
def costly(vlsb: Vlsb, tmp_path: Path) -> Costly:
    return Costly(vlsb, tmp_path)


def test_a_dry_run_says_whether_the_limit_is_enough(vlsb: Vlsb, costly: Costly) -> None:
    plan = costly.plan(None, ["gpt-4o"], judges=[])
    plan.write_text(plan.read_text().replace(f'"prices": "{costly.prices}",', ""))

    few, many = (vlsb("sweep", plan, "--dry-run", "--max-cost", usd) for usd in (0.02, 20))

    assert few.code == many.code == 0, few.err
    said = [" ".join(each.out.split()) for each in (few, many)]
    assert "$0.0200 is left. The sweep will stop there: what is to come is about $0.0" in said[0]
    assert "$20.00 is left, which is enough for about $0.0" in said[1]


def test_what_a_cell_does_not_use_is_there_for_the_others(
    vlsb: Vlsb, costly: Costly, target: SimulatorThread
) -> None:
    """A small and a large one begin with half the limit each, and all of it is just enough for both."""
    models = [{**hosted_at(target, "m1"), "limit": 2}, hosted_at(target, "m2")]

    ended = vlsb("sweep", costly.plan(target, models), "--max-cost", 2 * (2 + SAMPLES))

    assert ended.code == 0, ended.err
    assert "m2: its share of --max-cost is spent; it goes on with what others leave" in ended.err
    assert len(target.completions) == 2 * (2 + SAMPLES)


def test_output_that_nobody_counts_is_spent_at_the_next_start_too(vlsb: Vlsb, costly: Costly) -> None:
    def input_alone(request: Request) -> Action:
        reply = persona(request)
        reply.body["usage"]["completion_tokens"] = None  # type: ignore[index, call-overload]
        return reply

    with SimulatorThread(input_alone) as target:
        plan = costly.plan(target, ["m1"], judges=[])
        ended = vlsb("sweep", plan, "--max-cost", 5)
        sent = len(target.completions)
        again = vlsb("sweep", plan, "--max-cost", 5)

    assert ended.code == again.code == 4, ended.err
    # The input of all of them alone costs less than ten dollars.
    assert 0 < sent < SAMPLES
    assert len(target.completions) == sent


def test_a_cell_without_a_price_is_refused_as_a_run_is_and_the_others_go_on(
    vlsb: Vlsb, costly: Costly, target: SimulatorThread
) -> None:
    costly.set_prices("m1")
    plan = costly.plan(target, ["m1", "m2"], judges=[])

    ended = vlsb("sweep", plan, "--max-cost", 100)

    assert ended.code == 2
    assert "m1: done after" in ended.err
    assert Counter(each.model for each in target.completions) == {"m1": SAMPLES}
    log = costly.folder / "sweep" / "logs" / "m2.log"
    assert "--max-cost: no price is known for m2" in log.read_text()


def test_a_run_of_which_nobody_knows_the_cost_ends_a_sweep_with_a_limit_before_it_starts(
    vlsb: Vlsb, costly: Costly, target: SimulatorThread
) -> None:
    plan = costly.plan(target, ["m1"], judges=[])
    assert vlsb("sweep", plan).code == 0
    manifest = costly.folder / "sweep" / "m1" / "run.json"
    costly.set_prices("another")
    found = json.loads(manifest.read_text())
    found["settings"]["address"], found["prices"] = "https://api.example.com/v1", []
    manifest.write_text(json.dumps(found))
    sent = len(target.completions)

    ended = vlsb("sweep", plan, "--max-cost", 100)

    assert ended.code == 2
    assert "nobody knows what" in ended.err
    assert "`prices: FILE`" in ended.err
    assert len(target.completions) == sent


def test_a_limit_of_money_is_refused_on_slurm(vlsb: Vlsb, costly: Costly, target: SimulatorThread) -> None:
    """Slurm starts a job again by itself, with the words that it had."""
    ended = vlsb("sweep", costly.plan(target), "--slurm", "--max-cost", 5)

    assert ended.code == 2
    assert "--max-cost cannot be held on Slurm" in ended.err
    assert not target.completions
