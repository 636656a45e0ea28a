"""`vlsb plot` as a user types it: a file for each kind, and what cannot be drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from tests.support.command import Desk
from tests.support.endpoint import labelling
from tests.support.run_files import tree
from vlsb.simulator import SimulatorThread


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """Two runs; the second is over a part, another judge labelled the first too. Not to be changed."""
    desk = Desk(tmp_path_factory.mktemp("plot"), samples=6)
    with SimulatorThread(labelling({0: 1, 1: 2})) as simulator:
        assert desk.run(simulator, "--name", "whole").code == 0
    with SimulatorThread(labelling({0: 3, 1: 2, 2: 2})) as simulator:
        assert desk.run(simulator, "--name", "part", "--limit", "4").code == 0
        other = ("--judge", "other-judge", "--judge-base-url", simulator.base_url)
        assert desk.vlsb("judge", desk.outputs / "whole", *other, "--data-root", desk.data).code == 0
    return desk


@pytest.mark.parametrize("kind", ["labels", "agreement"])
def test_a_figure_is_written_and_the_runs_stay_as_they_are(desk: Desk, tmp_path: Path, kind: str) -> None:
    if kind == "agreement":
        pytest.importorskip("statsmodels")
    before, path = tree(desk.outputs), tmp_path / "figure.pdf"

    done = desk.vlsb("plot", desk.outputs / "whole", "--kind", kind, "--out", path)

    assert (done.code, done.out) == (0, "")
    assert path.read_bytes().startswith(b"%PDF")
    assert f"{kind} in {path}, 3.3 inches wide." in done.err
    assert tree(desk.outputs) == before


def test_transitions_count_the_labels_that_both_runs_have_by_one_judge(desk: Desk, tmp_path: Path) -> None:
    """Four samples: one became unsafe, one safe, two stayed."""
    path = tmp_path / "figure.svg"

    done = desk.vlsb(
        "plot", desk.outputs / "whole", desk.outputs / "part", "--kind", "transitions", "--out", path
    )

    assert done.code == 0
    assert "part (n = 4 responses)" in path.read_text()
    assert path.read_text().count("▼ 1<") == path.read_text().count("▲ 1<") == 1
    assert "only 4 of the 6 samples" in done.err


def test_what_the_daggers_of_a_figure_mean_is_said_in_full(desk: Desk, tmp_path: Path) -> None:
    done = desk.vlsb(
        "plot", desk.outputs, "--judge", "judge-model", "--out", tmp_path / "x.png", "--width", "double"
    )

    assert done.code == 0
    assert "† part: only 4 of the 6 samples" in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--out", "x.gif"), "name a file that ends in .svg, .pdf, .png"),
        (("--out", "x.pdf", "--kind", "pie"), "--kind pie: not one of"),
        (("--out", "x.pdf", "--width", "7"), "--width 7: not one of single, double"),
        (("--out", "x.pdf", "--kind", "transitions"), "name two, not 1"),
        (("--out", "x.pdf", "--judge", "nobody"), "--judge nobody"),
    ],
)
def test_what_cannot_be_drawn_is_said(desk: Desk, words: tuple[str, ...], said: str) -> None:
    done = desk.vlsb("plot", desk.outputs / "whole", *words)

    assert done.code == 2
    assert said in done.error


def test_labels_of_different_judges_are_not_held_against_each_other(desk: Desk, tmp_path: Path) -> None:
    with SimulatorThread(labelling()) as simulator:
        other = desk.copied_to(tmp_path)
        assert other.run(simulator, "--name", "strange", "--judge", "another-judge").code == 0

    done = other.vlsb(
        *("plot", other.outputs / "part", other.outputs / "strange", "--kind", "transitions"),
        *("--out", tmp_path / "x.pdf"),
    )

    assert done.code == 2
    assert "The two runs have other judges" in done.error
    assert not (tmp_path / "x.pdf").exists()
