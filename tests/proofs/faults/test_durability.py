"""What a run keeps when the machine under it misbehaves; most of it is proved beside the store."""

from __future__ import annotations

from pathlib import Path

from tests.support.command import Vlsb, run_words
from tests.support.datasets import sharing_rows, write_dataset
from tests.support.endpoint import persona
from tests.support.run_files import records
from vlsb.simulator import SimulatorThread

BACKWARDS = """
import itertools, time
years = itertools.count(2_000_000_000, -50_000_000)
time.time = lambda: float(max(0, next(years)))
"""


def test_b10_a_clock_that_runs_backwards_changes_neither_order_nor_durations(tmp_path: Path) -> None:
    vlsb = Vlsb(tmp_path)
    with SimulatorThread(persona) as simulator:
        data = write_dataset(tmp_path / "data", sharing_rows(8))
        steady = vlsb(*run_words(simulator, data, "--output-dir", "steady"))
        expected = vlsb.summary("steady")

        jumping = vlsb(*run_words(simulator, data, "--output-dir", "jumping"), prelude=BACKWARDS)
        requests = len(simulator.completions)

    assert (steady.code, jumping.code, requests) == (0, 0, 32), jumping.err
    assert vlsb.summary("jumping") == expected
    rows = records((tmp_path / "jumping" / "m" / "responses.jsonl").read_bytes())
    assert all(row["latency_s"] >= 0 and row["elapsed_s"] >= 0 for row in rows)
    assert [row["elapsed_s"] for row in rows] == sorted(row["elapsed_s"] for row in rows)
