"""One limit of money over a sweep: cells side by side, their judges, kills and starts again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.proofs.sweep.test_sweep_cost import IN_FLIGHT, MODELS, SAMPLES, Costly
from tests.support.command import Vlsb
from tests.support.endpoint import settle
from tests.support.sweeps import Held, processes_of
from tests.support.waiting import wait_until
from vlsb.simulator import SimulatorThread


@pytest.fixture
def costly(vlsb: Vlsb, tmp_path: Path) -> Costly:
    return Costly(vlsb, tmp_path)


def test_cells_side_by_side_and_their_judges_never_cost_more_than_the_sweeps_limit(
    vlsb: Vlsb, costly: Costly, target: SimulatorThread
) -> None:
    """And what was in flight when that was spent. What is stored counts at the next start, and is kept."""
    plan, most = costly.plan(target), 30

    ended = vlsb("sweep", plan, "--max-cost", most)
    sent = settle(target)
    again = vlsb("sweep", plan, "--max-cost", most)
    sent_again = len(target.completions) - sent
    shown = vlsb("sweep", plan, "--max-cost", 2 * most, "--dry-run")
    finished = vlsb("sweep", plan, "--max-cost", 3 * 2 * SAMPLES)

    assert ended.code == again.code == 4, ended.err
    assert most <= sent <= most - 1 + len(MODELS) * IN_FLIGHT
    assert f"--max-cost is reached: the runs of this plan have cost ${sent}.00 of $30.00" in ended.err
    assert ended.resume_command == ["vlsb", "sweep", str(plan), "--max-cost", "60"]
    assert sent_again == 0
    assert "started" not in again.err
    note = f"--max-cost $60.00: ${sent}.00 is spent, ${60 - sent}.00 is left."
    assert note in " ".join(shown.out.split())
    assert finished.code == 0, finished.err
    assert len(target.completions) == 3 * 2 * SAMPLES
    assert "the runs of this plan have cost $72.00 of $72.00" in finished.err


def test_a_sweep_that_is_killed_and_started_again_has_what_its_runs_have_not_spent(
    vlsb: Vlsb, costly: Costly, target: SimulatorThread
) -> None:
    plan, most = costly.plan(target), 30
    process = vlsb.start("sweep", plan, "--max-cost", most)
    process.wait_until(lambda: len(target.completions) >= 12, what="requests")
    process.kill()
    wait_until(lambda: not processes_of(costly.folder), what="no command of the sweep is left")
    killed_at = settle(target)

    ended = vlsb("sweep", plan, "--max-cost", most)

    assert ended.code == 4, ended.err
    assert len(target.completions) > killed_at
    # What was in flight at the kill is in no run; what was in flight at the end is.
    assert most <= settle(target) <= most - 1 + 2 * len(MODELS) * IN_FLIGHT


def test_a_cell_that_is_killed_goes_on_with_what_it_left(vlsb: Vlsb, costly: Costly) -> None:
    most = 16
    with Held("m1", after=4) as held, SimulatorThread(held) as target:
        plan = costly.plan(target, ["m1"])
        process = vlsb.start("sweep", plan, "--max-cost", most)
        process.wait_until(lambda: held.holds_all, what="a request that waits")
        [cell] = [
            each for each in processes_of(costly.folder) if each.cmdline()[1:4] == ["-m", "vlsb", "run"]
        ]
        cell.kill()
        held.released.set()
        ended = process.wait()

        assert ended.code == 4, ended.err
        assert "m1: killed by signal 9; it is started again" in ended.err
        assert most <= settle(target) <= most - 1 + 2 * IN_FLIGHT


def test_a_judge_that_follows_the_cells_has_what_they_left(
    vlsb: Vlsb, costly: Costly, target: SimulatorThread
) -> None:
    """It labels the runs of both one after the other, and goes on where it was stopped."""
    costly.set_prices(*MODELS, "judge-model", "second-judge")
    at = {"judge-base-url": target.base_url, "judge-api-key-env": "CANARY_KEY"}
    judges = [
        {"judge": "judge-model", **at},
        {"judge": "second-judge", **at, "judge-sees": "reasoning+answer"},
    ]
    plan, of_cells = costly.plan(target, ["m1", "m2"], judges), 2 * 2 * SAMPLES

    ended = vlsb("sweep", plan, "--max-cost", of_cells + 5)
    sent = Counter(each.model for each in target.completions)
    finished = vlsb("sweep", plan, "--max-cost", of_cells + 2 * SAMPLES)

    assert ended.code == 4, ended.err
    assert sent["judge-model"] == 2 * SAMPLES
    assert 5 <= sent["second-judge"] <= 5 - 1 + IN_FLIGHT
    assert finished.code == 0, finished.err
    assert len(target.completions) == of_cells + 2 * SAMPLES


def test_the_variable_is_the_sweeps_limit_and_stops_nothing_that_is_free(
    vlsb: Vlsb, costly: Costly, target: SimulatorThread
) -> None:
    plan = costly.plan(target, ["m1", "m2", {"model": "demo", "data-root": None}], judges=[])
    text = plan.read_text().replace('"data-root": null', '"limit": 3')
    plan.write_text(text)

    ended = vlsb("sweep", plan, env={"VLSB_MAX_COST": "8"})
    sent = len(target.completions)
    none_left = vlsb("sweep", plan, env={"VLSB_MAX_COST": "0"})

    assert ended.code == none_left.code == 4, ended.err
    assert 8 <= sent <= 8 - 1 + 2
    assert "demo: done after" in ended.err
    assert len(target.completions) == sent


def test_a_sweep_that_watches_ends_when_its_money_is_spent(
    vlsb: Vlsb, costly: Costly, target: SimulatorThread
) -> None:
    process = vlsb.start("sweep", costly.plan(target, ["m1", "m2"]), "--watch", "--max-cost", 8)

    ended = process.wait()

    assert ended.code == 4, ended.err
    assert 8 <= len(target.completions) <= 8 - 1 + 2 * IN_FLIGHT
