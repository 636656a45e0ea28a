"""The benchmarks run to their end on a handful of samples. What they measure is nobody's business here."""

from __future__ import annotations

import importlib
import json
import re
import select
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import (
    memory,
    page,
    rate_limits,
    report,
    results,
    scaling,
    startup,
    sweeps,
    throughput,
    wall_time,
)
from benchmarks.rate_limits import CELLS, figures
from benchmarks.simulations import Simulation

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
            *("--rounds", "1", "--image-bytes", "1000"),
        ),
    ),
    startup.NAME: (startup.main, ("--rounds", "1", "--samples", "20", "--image-bytes", "1000")),
    scaling.NAME: (scaling.main, ("--rounds", "1", "--sizes", "10,20")),
    sweeps.NAME: (sweeps.main, ("--plan", "smoke")),
    page.NAME: (page.main, ("--rounds", "1", "--sizes", "10,20")),
}


# Ray leaves sockets and files to the collector; none of them is ours.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_runs_stores_its_result_and_is_shown(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == page.NAME and page.browser_path() is None:
        pytest.skip("needs Chromium and playwright")
    if name == sweeps.NAME:
        pytest.importorskip("ray", reason="needs the extra `ray`")
    main, words = SMALL[name]

    main([*words, "--data", str(tmp_path / "data"), "--results", str(tmp_path / "results")])

    stored = json.loads((tmp_path / "results" / f"{name}.json").read_text())
    assert set(stored["facts"]) >= {"date", "commit", "machine", "python", "versions"}
    assert all(set(target) == {"claim", "measured", "is_met"} for target in stored["targets"])
    assert stored["targets"]
    shown = report.written(report.README.read_text(), {name: stored})
    assert report.RENDER[name](stored) in capsys.readouterr().out
    assert report.RENDER[name](stored) in shown


@pytest.mark.parametrize(
    "name", ["calibration", "correction", "comparison", "inference", "leakage", "looks", "plans"]
)
def test_a_simulation_stores_its_cells_and_is_shown_on_a_page(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("scipy", reason="needs the group `extras`")
    simulation: Simulation = importlib.import_module(f"benchmarks.{name}").SIMULATION
    page = tmp_path / "page.md"
    page.write_text(f"before <!-- {simulation.mark} --> old <!-- /{simulation.mark} --> after")
    words = ("--replicates", "2", "--processes", "2", "--results", str(tmp_path), "--page", str(page))

    simulation.main("What it is.", words)

    stored = results.load(name, tmp_path)
    assert stored is not None
    assert {tuple(cell["setting"]) for cell in stored["cells"]} == set(simulation.settings())
    assert simulation.render(stored) in capsys.readouterr().out
    assert page.read_text() == simulation.shown(page.read_text(), stored)
    assert "old" not in page.read_text()


@pytest.mark.parametrize("name", ["calibration", "correction", "comparison", "inference", "leakage", "plans"])
def test_a_page_shows_the_simulation_that_is_stored(name: str) -> None:
    pytest.importorskip("scipy", reason="needs the group `extras`")
    simulation: Simulation = importlib.import_module(f"benchmarks.{name}").SIMULATION
    stored = results.load(name)
    page = simulation.page.read_text()

    assert stored is not None
    assert page == simulation.shown(page, stored)
    assert stored["replicates"] >= 1000


def test_a_cell_of_the_rate_limits_is_a_run_of_the_public_command(tmp_path: Path) -> None:
    rate_limits.main(["--cells", "bucket", "--rows", "6", "--results", str(tmp_path)])

    stored = results.load(rate_limits.NAME, tmp_path)
    assert stored is not None
    assert stored["cells"]["bucket"]["refused"] == 0
    assert len(stored["targets"]) == 2


def test_used_is_what_was_accepted_of_what_the_limit_gave_in_that_time() -> None:
    served = [(float(second), 1.0) for second in range(101)]

    found = figures(CELLS["bucket"], served, refused=101)

    assert found["used_share"] == pytest.approx(101 / (50 * 100 + 50))
    assert found["refused_share"] == 0.5


def test_every_place_of_the_readme_belongs_to_a_program() -> None:
    readme = report.README.read_text()

    for name in (*report.RENDER, report.TARGETS):
        assert readme.count(f"<!-- {name} -->") == readme.count(f"<!-- /{name} -->") == 1


def test_the_readme_shows_the_memory_forecasts_as_they_are_now() -> None:
    readme = report.README.read_text()

    assert memory.shown(readme) == readme


def test_forecasts_are_near_what_engines_took_and_a_reason_is_given_for_every_other_one() -> None:
    cards = json.loads(memory.CARDS.read_text())
    found = list(memory.rows(cards))

    assert len(cards["cards"]) >= 10
    assert memory.target(found).is_met
    assert [row for row in found if (abs(row.off) > memory.MOST_OFF) != ("why" in row.said)] == []


def test_what_the_script_for_a_gpu_imports_is_there() -> None:
    """No test runs it: what it needs of the program must not drift away."""
    script = (Path(results.__file__).parent / "gpu.sh").read_text("utf-8")
    lines = re.findall(r"^from vlsb\S* import .+$", script, re.MULTILINE)

    for line in lines:
        exec(line, {})

    assert len(lines) >= 6
