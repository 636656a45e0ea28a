"""`vlsb report` for a paper: --paper, --methods, --bibtex, --output, and how they go together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.command import Desk
from tests.support.endpoint import labelling
from tests.support.run_files import tree
from tests.support.schemas import SCHEMAS, faults
from vlsb.simulator import SimulatorThread


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """Two runs of a published model's name: eight samples, and the first four of them. Not to be changed."""
    desk = Desk(tmp_path_factory.mktemp("paper"), samples=8)
    with SimulatorThread(labelling({0: 1, 1: 2})) as simulator:
        for more in (("--name", "whole"), ("--name", "part", "--limit", "4")):
            assert desk.run(simulator, "--model", "gpt-4o", *more).code == 0
    return desk


def test_a_part_beside_the_whole_is_marked_and_explained(desk: Desk) -> None:
    done = desk.vlsb("report", desk.outputs)

    assert "part †" in done.out
    assert "whole †" not in done.out
    assert "† Not measured as whole was" in done.out
    assert "part: only 4 of the 8 samples" in done.out


def test_the_published_row_stands_beside_a_run_of_that_name(desk: Desk) -> None:
    done = desk.vlsb("report", desk.outputs / "whole", "--paper", "--format", "json")

    [found] = json.loads(done.out)
    assert faults([found], SCHEMAS["paper"]()) == []
    [row] = found["published"]
    assert (row["model"], row["safe_rate"], row["samples"]) == ("GPT-4o", 21.43, 2244)
    assert row["gaps"]["safe_rate"]["difference"] == pytest.approx(25.0 - 21.43)
    assert row["gaps"]["safe_rate"]["exceeds_noise"] is False


def test_methods_and_citations_are_of_the_run(desk: Desk) -> None:
    methods = desk.vlsb("report", desk.outputs / "part", "--methods").out
    latex = desk.vlsb("report", desk.outputs / "part", "--methods", "--format", "latex").out

    assert "4 of the 2,241 of VLSBench by their ids" in methods
    assert "at most 128 tokens" in methods
    assert r"(100.00 \%)" in latex
    assert "@software{vlsb," in desk.vlsb("report", desk.outputs, "--bibtex").out


def test_a_report_goes_to_the_file_that_is_named(desk: Desk, tmp_path: Path) -> None:
    before = tree(desk.outputs)
    path = tmp_path / "report.tex"

    done = desk.vlsb("report", desk.outputs, "--format", "latex", "--output", path)

    assert (done.code, done.out, done.err) == (0, "", "")
    assert path.read_text() == desk.vlsb("report", desk.outputs, "--format", "latex").out
    assert tree(desk.outputs) == before


def test_parquet_is_written_to_a_file_and_never_to_the_screen(desk: Desk, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "report.parquet"

    assert desk.vlsb("report", desk.outputs, "--format", "parquet", "--output", path).code == 0
    bare = desk.vlsb("report", desk.outputs, "--format", "parquet")

    assert path.read_bytes().startswith(b"PAR1")
    assert (bare.code, bare.out) == (2, "")
    assert "--output report.parquet" in bare.error


def test_a_file_that_cannot_be_written_is_one_line(desk: Desk, tmp_path: Path) -> None:
    done = desk.vlsb("report", desk.outputs, "--output", tmp_path / "missing" / "report.txt")

    assert done.code == 5
    assert "cannot be written" in done.error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--paper", "--methods"), "--paper and --methods are reports of their own"),
        (("--paper", "--format", "official"), "--paper with --format official: not one of"),
        (("--methods", "--format", "csv"), "--methods with --format csv: not one of"),
        (("--format", "docx"), "--format docx: not one of"),
    ],
)
def test_what_does_not_go_together_is_said(desk: Desk, words: tuple[str, ...], said: str) -> None:
    done = desk.vlsb("report", desk.outputs, *words)

    assert done.code == 2
    assert said in done.error
