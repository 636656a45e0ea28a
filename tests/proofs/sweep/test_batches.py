"""Cells by batch under one limit of money."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.proofs.sweep.test_sweep_cost import A_DOLLAR, SAMPLES, Costly
from tests.support.command import Vlsb
from tests.support.endpoint import persona
from tests.support.sweeps import tables
from vlsb.simulator import SimulatorThread

pytest.importorskip("openai", reason="needs the extra `batch`")


@pytest.mark.parametrize("most", [3.0, 8.0, 9.5])
def test_cells_by_batch_never_cost_more_than_the_sweeps_limit(
    vlsb: Vlsb, tmp_path: Path, most: float
) -> None:
    """What is left of a share may be less than one more request can cost: then nothing is asked in vain."""
    costly = Costly(vlsb, tmp_path)
    row = {"models": ["m1", "m2"], **A_DOLLAR, "batch_input": 500, "batch_output": 2500, "image_tokens": 800}
    costly.prices.write_text(json.dumps({"prices": [row]}))
    defaults = {"data-root": str(costly.data), "prices": str(costly.prices), "backoff": 0.01, "batch": True}
    with SimulatorThread(persona) as target:
        plan = costly.plan(target, ["m1", "m2"], judges=[])
        written = json.loads(plan.read_text())
        plan.write_text(json.dumps({**written, "defaults": defaults}))

        ended = vlsb("sweep", plan, "--max-cost", most)
        spent = len(target.completions) + 0.5 * len(target.batches.paid)
        again = vlsb("sweep", plan, "--max-cost", most)
        spent_again = len(target.completions) + 0.5 * len(target.batches.paid)
        finished = vlsb("sweep", plan, "--max-cost", 30)

        assert ended.code == again.code == 4, ended.err
        assert 2 <= spent <= most
        assert spent_again <= most
        assert ended.err.count("m1: started") <= 4
        assert finished.code == 0, finished.err
        assert len(target.completions) + len(target.batches.paid) == 2 * SAMPLES
        assert all(
            each["outcomes"]["not_attempted"] == 0 for each in tables(vlsb, tmp_path / "sweep").values()
        )
