"""The benchmarks run to their end on a handful of samples. What they measure is nobody's business here."""

from __future__ import annotations

import json
import select
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import rate_limits, report, results, scaling, startup, throughput, wall_time
from benchmarks.rate_limits import Timing, figures, recovery

# The stub is written for Linux, and its certificate comes from the openssl command.
pytestmark = pytest.mark.skipif(
    not hasattr(select, "epoll") or shutil.which("openssl") is None, reason="needs epoll and openssl"
)

SMALL: dict[str, tuple[Callable[[list[str]], None], tuple[str, ...]]] = {
    throughput.NAME: (throughput.main, ("--plan", "smoke")),
    wall_time.NAME: (
        wall_time.main,
        (
            *("--samples", "8", "--connections", "4", "--median", "0.01"),
            *("--rounds", "1", "--picture-bytes", "1000"),
        ),
    ),
    startup.NAME: (startup.main, ("--rounds", "1", "--samples", "20")),
    scaling.NAME: (scaling.main, ("--rounds", "1", "--sizes", "10,20")),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_runs_stores_its_result_and_is_shown(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main, words = SMALL[name]

    main([*words, "--data", str(tmp_path / "data"), "--results", str(tmp_path / "results")])

    stored = json.loads((tmp_path / "results" / f"{name}.json").read_text())
    assert set(stored["facts"]) >= {"date", "commit", "machine", "python", "versions"}
    assert all(set(target) == {"claim", "measured", "is_met"} for target in stored["targets"])
    assert stored["targets"]
    shown = report.written(report.README.read_text(), {name: stored})
    assert report.RENDER[name](stored) in capsys.readouterr().out
    assert report.RENDER[name](stored) in shown


def test_the_rate_limit_scenarios_run_with_shortened_minutes(tmp_path: Path) -> None:
    words = ["--window", "2", "--minutes", "2", "--rpm", "40", "--tpm", "40000", "--scenarios", "rpm,tpm"]

    rate_limits.main([*words, "--results", str(tmp_path)])

    stored = results.load(rate_limits.NAME, tmp_path)
    assert stored is not None
    assert set(stored["scenarios"]) == {"rpm", "tpm"}
    assert all(0 < found["used_share"] <= 1 for found in stored["scenarios"].values())


def test_shares_of_a_limit_leave_the_warm_up_out() -> None:
    served = [(float(second), 10) for second in range(180)]

    found = figures(served, [30.0, 100.0], permitted=1000, minutes=3, window_s=60.0)

    assert found["used_share"] == pytest.approx(0.6)
    assert found["first_minute_refused"] == 1
    assert found["refused_share"] == pytest.approx(1 / 121)


def test_recovery_is_the_first_moment_from_which_the_limit_is_served() -> None:
    slow = [float(second) for second in range(0, 20, 4)]
    fast = [20 + step / 10 for step in range(500)]

    found = recovery([*slow, *fast], rpm=600, timing=Timing())

    assert found["first_answer_s"] == 0
    assert found["recovered_after_s"] == 20
    assert found["share_after_recovery_time"] == pytest.approx(1)


def test_every_place_of_the_readme_belongs_to_a_program() -> None:
    readme = report.README.read_text()

    for name in (*report.RENDER, report.TARGETS):
        assert readme.count(f"<!-- {name} -->") == readme.count(f"<!-- /{name} -->") == 1
