"""`--dataset`: data sets of installed packages, from a run to its report."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from tests.support.command import Vlsb
from tests.support.datasets import draw_image, write_dataset
from tests.support.endpoint import persona
from tests.support.packages import EXAMPLES, leave_example, leave_package
from vlsb.simulator import Reply, Request, SimulatorThread, answer, verdict


def write_signs(root: Path, count: int = 3) -> Path:
    """Write a data set in the layout of `examples/dataset`."""
    root.mkdir()
    with (root / "signs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("question", "image", "kind"))
        for number in range(count):
            draw_image(root / f"{number}.png", number)
            writer.writerow((f"Question {number}?", f"{number}.png", "warning"))
    return root


@pytest.fixture
def signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example's data, with its package installed."""
    leave_example(tmp_path / "site", "dataset")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return write_signs(tmp_path / "signs")


def words(simulator: SimulatorThread, *more: object, model: str = "m", name: str = "r") -> list[object]:
    """`vlsb run` of one target and one judge, into `outputs/r` or another name."""
    address = simulator.base_url
    asked = ("--model", model, "--base-url", address, "--judge", "j", "--judge-base-url", address)
    return ["run", *asked, "--name", name, *more]


def test_the_example_is_run_resumed_judged_again_and_read(tmp_path: Path, signs: Path) -> None:
    vlsb, run = Vlsb(tmp_path), tmp_path / "outputs" / "r"
    with SimulatorThread(persona) as simulator:
        asked = words(simulator, "--dataset", "road-signs", "--data-root", signs)
        part = vlsb(*asked, "--max-requests", 3)
        done = vlsb.resume(part)
        judged = vlsb("judge", run, "--judge", "k", "--judge-base-url", simulator.base_url)

    assert "--dataset road-signs" in part.last
    assert (done.code, judged.code) == (0, 0), done.err + judged.err
    assert json.loads((run / "run.json").read_text())["data"] == {"dataset": "road-signs"}
    assert vlsb.report(run)[0]["judged"] == 3
    shown = vlsb("show", run, 1)
    assert "Question 1?" in shown.out
    assert str(signs / "1.png") in "".join(shown.out.split())


def test_a_report_says_that_it_is_not_about_vlsbench(tmp_path: Path, signs: Path) -> None:
    vlsb = Vlsb(tmp_path)
    with SimulatorThread(persona) as simulator:
        vlsb(*words(simulator, "--dataset", "road-signs", "--data-root", signs))

    assert "of the data set road-signs, not of VLSBench" in vlsb("report", "outputs").out
    paper = vlsb("report", "outputs", "--paper")
    assert paper.code == 2
    assert "outputs/r is of the data set road-signs: --paper is about VLSBench." in paper.error


def test_titles_name_the_data_set_of_the_runs_below_them(tmp_path: Path, signs: Path) -> None:
    """So does no badge call three road signs a part of the 2,241 samples of VLSBench."""
    vlsb, data = Vlsb(tmp_path), write_dataset(tmp_path / "data", 2)
    with SimulatorThread(persona) as simulator:
        vlsb(*words(simulator, "--dataset", "road-signs", "--data-root", signs))
        (tmp_path / "outputs" / "r").rename(tmp_path / "outputs" / "a")
        ours = vlsb(*words(simulator, "--data-root", data))
    assert ours.code == 0, ours.err

    report = vlsb("report", "outputs/a").out
    assert report.startswith("road-signs safety rates  NOT THE PUBLISHED SET (3 samples)")
    for form in ("markdown", "latex"):
        assert "road-signs safety rates" in vlsb("report", "outputs/a", "--format", form).out, form
    both = vlsb("report", "outputs").out
    assert both.startswith("road-signs and VLSBench safety rates")


def test_what_the_whole_set_would_show_is_said_of_runs_of_vlsbench_only(tmp_path: Path, signs: Path) -> None:
    """Neither a comparison nor a gate speaks of 2,241 samples that no run of 24 road signs can have."""
    pytest.importorskip("statsmodels", reason="needs the group `extras`: just test")
    vlsb, outputs = Vlsb(tmp_path), tmp_path / "outputs"

    def respond(request: Request) -> Reply:
        if not request.is_judge:
            return answer(request.model)
        is_even = int(request.instruction.removeprefix("Question ").removesuffix("?")) % 2 == 0
        return verdict(3 if is_even == (request.judged_response == "before") else 1)

    with SimulatorThread(respond) as simulator:
        for name in ("before", "after"):
            data = ("--dataset", "road-signs", "--data-root", write_signs(tmp_path / name, 24))
            done = vlsb(*words(simulator, *data, model=name, name=name))
            assert done.code == 0, done.err
    compared = " ".join(vlsb("compare", outputs / "before", outputs / "after").out.split())
    gated = " ".join(vlsb("gate", outputs / "after", "--baseline", outputs / "before").out.split())
    as_json = json.loads(vlsb("compare", outputs / "before", outputs / "after", "--format", "json").out)

    assert re.search(r"With 24 samples, a change of [\d.]+ points is found in 80 % of cases\.", compared)
    assert re.search(r"in 80 % of cases if it is [\d.]+ points away from it\.", gated)
    assert as_json["comparisons"][0]["detectable_in_all"] is None


def test_a_run_of_vlsbench_names_no_data_set_and_its_command_neither(tmp_path: Path) -> None:
    vlsb, data = Vlsb(tmp_path), write_dataset(tmp_path / "data", 2)
    with SimulatorThread(persona) as simulator:
        part = vlsb(*words(simulator, "--dataset", "vlsbench", "--data-root", data, "--max-requests", 1))

    assert "--dataset" not in part.last
    assert json.loads((tmp_path / "outputs" / "r" / "run.json").read_text())["data"] == {}


def test_a_run_goes_on_with_its_own_data_set_only(tmp_path: Path, signs: Path) -> None:
    vlsb, data = Vlsb(tmp_path), write_dataset(tmp_path / "data", 2)
    with SimulatorThread(persona) as simulator:
        vlsb(*words(simulator, "--dataset", "road-signs", "--data-root", signs, "--max-requests", 1))

        other = vlsb(*words(simulator, "--data-root", data, "--resume"))

    assert other.code == 6
    assert "outputs/r was made from the data set road-signs. Pass --dataset road-signs" in other.error


def test_the_mini_set_has_a_name(tmp_path: Path) -> None:
    with SimulatorThread(persona) as simulator:
        done = Vlsb(tmp_path)(*words(simulator, "--dataset", "mini", "--limit", 2))

    assert done.code == 0, done.err
    assert len(json.loads((tmp_path / "outputs" / "r" / "run.json").read_text())["samples"]) == 2


def test_a_data_set_that_nobody_brings_is_refused_with_those_that_are_there(tmp_path: Path) -> None:
    done = Vlsb(tmp_path)("run", "--model", "demo", "--dataset", "nope")

    assert done.code == 2
    assert "--dataset nope: no such data set. Installed are figstep, " in done.error
    assert "vlsbench" in done.error


def test_a_data_set_of_others_needs_its_folder(tmp_path: Path, signs: Path) -> None:
    done = Vlsb(tmp_path)("run", "--model", "demo", "--dataset", "road-signs")

    assert done.code == 2
    assert "--dataset road-signs: pass --data-root DIR with a copy of it." in done.error


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "def read(root): return {}['no']",
            "cannot be read as the data set strange: KeyError. Is it a whole",
        ),
        ("def read(root): open(root / 'gone')", "FileNotFoundError"),
        (
            "import gone",
            "The package strange says that its data set strange is strange:read, which cannot be",
        ),
        (
            "from vlsb.data import Dataset\ndef read(root): return Dataset.in_folder(root, [])",
            "The data set strange in data needs samples",
        ),
    ],
)
def test_a_reader_that_fails_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, said: str
) -> None:
    monkeypatch.delitem(__import__("sys").modules, "strange", raising=False)
    leave_package(tmp_path, "strange", {"vlsb.datasets": {"strange": "strange:read"}}, code=code)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "data").mkdir()

    done = Vlsb(tmp_path)("run", "--model", "demo", "--dataset", "strange", "--data-root", "data")

    assert done.code in (2, 4)
    assert said in done.error
    assert not (tmp_path / "outputs").exists()


def test_an_example_is_short() -> None:
    files = [each for each in (EXAMPLES / "dataset").rglob("*") if each.suffix in (".py", ".toml")]

    assert sum(len(each.read_text().splitlines()) for each in files) <= 40
