"""Histories of the simulation: a seed is one history, and nothing that must hold is violated in any."""

from __future__ import annotations

import subprocess
import sys
from typing import Literal

import pytest

from tests.simulation.limits import ON_ITS_WAY_S, Enforced, LimitPlan
from tests.simulation.planted import PLANTED, ROOT, Planted


def simulate(*words: str) -> subprocess.CompletedProcess[str]:
    """`python -m tests.simulation` in a process of its own."""
    command = [sys.executable, "-m", "tests.simulation", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_seed_gives_the_same_history_to_the_byte_in_every_process() -> None:
    first, second = simulate("--seed", "6"), simulate("--seed", "6")

    assert first.returncode == 0, first.stdout + first.stderr
    assert "checksum " in first.stdout
    assert first.stdout == second.stdout


def test_nothing_that_must_hold_is_violated_in_twenty_histories() -> None:
    ended = simulate("20", "--processes", "1")

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "20 histories" in ended.stdout


def keeps_to(limit: LimitPlan, *, apart_s: float, requests: int = 20, are_told: bool = True) -> bool:
    """Whether requests so far apart are within what the simulation allows of a limit."""
    enforced, account = Enforced(limit, 1), ("t", "model.example")
    for number in range(requests):
        ruling = enforced.rule(account, number * apart_s)
        if are_told:
            is_refusal = ruling.refused_until is not None
            enforced.tell(account, number * apart_s, is_refusal=is_refusal)
    return enforced.problem() is None


@pytest.mark.parametrize("kind", ["fixed windows", "sliding window", "bucket"])
def test_who_sends_at_twice_the_rate_of_a_limit_that_was_named_is_found(
    kind: Literal["fixed windows", "sliding window", "bucket"],
) -> None:
    limit = LimitPlan(kind, requests=6, period_s=60.0, burst=1, in_tokens=False)

    assert keeps_to(limit, apart_s=10.0)
    assert not keeps_to(limit, apart_s=5.0)


def test_nobody_can_keep_to_a_limit_that_was_not_named_yet() -> None:
    limit = LimitPlan("fixed windows", requests=2, period_s=60.0, burst=1, in_tokens=False)

    assert keeps_to(limit, apart_s=ON_ITS_WAY_S / 20)
    assert keeps_to(limit, apart_s=5.0, are_told=False)


@pytest.mark.parametrize("defect", PLANTED.values(), ids=PLANTED)
def test_every_planted_defect_still_has_its_place_in_the_program(defect: Planted) -> None:
    assert (ROOT / "vlsb" / defect.file).read_text("utf-8").count(defect.old) == 1
