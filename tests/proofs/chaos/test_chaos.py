"""A fifth of all requests fails once or twice, in every way there is: the numbers do not move."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.command import REQUESTS, SAMPLES, Vlsb, run_words
from tests.support.datasets import sharing_rows, write_dataset
from tests.support.endpoint import persona
from tests.support.scripts import mixed_faults
from vlsb.simulator import SimulatorThread

SEEDS = (3, 11)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("connections", [3, 16])
def test_mixed_faults_change_no_number(
    tmp_path: Path, straight: dict[str, Any], connections: int, seed: int
) -> None:
    data = write_dataset(tmp_path / "data", sharing_rows(SAMPLES))
    vlsb = Vlsb(tmp_path)
    lanes = ("--max-connections", str(connections), "--judge-max-connections", str(connections))
    chaos = mixed_faults(persona, share=0.2, seed=seed, most_per_request=2)

    with SimulatorThread(chaos) as simulator:
        ended = vlsb(*run_words(simulator, data, "--backoff", "0.01", *lanes))

    assert ended.code == 0, ended.err
    assert ended.errors == []
    assert vlsb.summary() == straight
    assert simulator.errors == []
    assert simulator.requests > REQUESTS


def test_a_request_that_failed_is_repeated_until_it_is_answered_and_no_other_is(
    tmp_path: Path, straight: dict[str, Any]
) -> None:
    data = write_dataset(tmp_path / "data", sharing_rows(SAMPLES))
    vlsb = Vlsb(tmp_path)
    answered: list[str] = []

    def noted(request):
        answered.append(request.identity)
        return persona(request)

    with SimulatorThread(mixed_faults(noted, share=0.2, seed=7, most_per_request=2)) as simulator:
        ended = vlsb(*run_words(simulator, data, "--backoff", "0.01"))

    assert ended.code == 0, ended.err
    assert len(answered) == len(set(answered)) == REQUESTS
    assert vlsb.summary() == straight
