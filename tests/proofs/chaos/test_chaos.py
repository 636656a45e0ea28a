"""A fifth of all requests fails once or twice, in every way there is: the numbers do not move."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support import e2e
from tests.support.scripts import mixed_faults
from vlsb.simulator import SimulatorThread

SEEDS = (3, 11)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return e2e.straight_summary(tmp_path_factory.mktemp("straight"))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("connections", [3, 16])
def test_mixed_faults_change_no_number(
    tmp_path: Path, straight: dict[str, Any], connections: int, seed: int
) -> None:
    data = e2e.make_dataset(tmp_path)
    vlsb = e2e.Vlsb(tmp_path)
    lanes = ("--max-connections", str(connections), "--judge-max-connections", str(connections))
    chaos = mixed_faults(e2e.persona, share=0.2, seed=seed, most_per_request=2)

    with SimulatorThread(chaos) as simulator:
        ended = vlsb(*e2e.run_arguments(simulator, data, "--backoff", "0.01", *lanes))

    assert ended.code == 0, ended.err
    assert ended.error_lines == []
    assert vlsb.summary() == straight
    assert simulator.errors == []
    assert simulator.requests > e2e.REQUESTS


def test_a_request_that_failed_is_repeated_until_it_is_answered_and_no_other_is(
    tmp_path: Path, straight: dict[str, Any]
) -> None:
    data = e2e.make_dataset(tmp_path)
    vlsb = e2e.Vlsb(tmp_path)
    answered: list[str] = []

    def persona(request):
        answered.append(request.identity)
        return e2e.persona(request)

    with SimulatorThread(mixed_faults(persona, share=0.2, seed=7, most_per_request=2)) as simulator:
        ended = vlsb(*e2e.run_arguments(simulator, data, "--backoff", "0.01"))

    assert ended.code == 0, ended.err
    assert len(answered) == len(set(answered)) == e2e.REQUESTS
    assert vlsb.summary() == straight
