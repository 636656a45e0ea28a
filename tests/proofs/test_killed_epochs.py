"""Runs of several epochs that are killed at a request."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from tests.commands.test_epochs import SAMPLES, compared, keys
from tests.proofs.test_killed_judging import HangsAt
from tests.support.command import Desk
from tests.support.endpoint import labelling, settle
from vlsb.simulator import SimulatorThread


@pytest.mark.parametrize("count", [1, 2, 5, 9, 15])
def test_a_run_killed_and_resumed_ends_with_the_summary_of_an_uninterrupted_one(
    tmp_path: Path, count: int
) -> None:
    straight, killed = Desk(tmp_path / "straight", SAMPLES), Desk(tmp_path / "killed", SAMPLES)
    responder = HangsAt(count, {0: 1, 1: 2})
    with SimulatorThread(labelling({0: 1, 1: 2})) as endpoint:
        straight.run(endpoint, "--epochs", 2)

    with SimulatorThread(responder) as endpoint:
        with killed.start(endpoint, "--epochs", 2, "--resume") as process:
            process.wait_until(responder.is_reached.is_set, what=f"request {count}")
        sent = settle(endpoint)
        stored = keys(killed.run_dir / "responses.jsonl")
        ended = killed.run(endpoint, "--epochs", 2, "--resume")

    again = [each for each in endpoint.completions[sent:] if not each.is_judge]
    assert ended.code == 0, ended.err
    assert compared(killed) == compared(straight)
    assert len(again) == 2 * SAMPLES - len(stored)
    assert keys(killed.run_dir / "responses.jsonl") == list(product(range(SAMPLES), (1, 2)))
