"""A run of a stranger may hold links: no command reads or writes through one, and each says which it is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.command import Desk
from tests.support.endpoint import labelling
from tests.support.run_files import tree
from vlsb.simulator import SimulatorThread

TORN = b'{"sample_id": 0, "a secret of this machine'


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A run with a guard and a drawn part. Only to be copied."""
    desk = Desk(tmp_path_factory.mktemp("links"))
    with SimulatorThread(labelling({0: 1, 1: 2})) as simulator:
        assert desk.run(simulator, "--judge", "refusal_phrases", "--judge", "judge-model").code == 0
    assert desk.vlsb("audit", "sample", desk.run_dir, "--n", 2).code == 0
    return desk


@pytest.fixture
def desk(made: Desk, tmp_path: Path) -> Desk:
    """A copy of the run."""
    return made.copied_to(tmp_path / "desk")


def led_out(desk: Desk, name: str, home: Path) -> Path:
    """Move a file or folder of the run somewhere else, with a torn last line, and leave a link to it."""
    inside, outside = desk.run_dir / name, home / "elsewhere" / Path(name).name
    outside.parent.mkdir(exist_ok=True)
    shutil.move(inside, outside)
    for journal in outside.rglob("*.jsonl") if outside.is_dir() else [outside]:
        with journal.open("ab") as file:
            file.write(TORN)
    inside.symlink_to(outside)
    return outside.parent


COMMANDS = {
    "report": ["report", "outputs/r"],
    "page": ["report", "outputs/r", "--html", "page.html"],
    "show": ["show", "outputs/r"],
    "agreement": ["agreement", "outputs/r"],
    "judge": ["judge", "outputs/r", "--judge", "judge-model", "--judge-base-url", "http://127.0.0.1:9/v1"],
    "sample": ["audit", "sample", "outputs/r", "--n", "4"],
    "sheet": ["audit", "export", "outputs/r", "--annotator", "ann"],
    "labels": ["audit", "import", "outputs/r", "sheet.csv", "--annotator", "ann"],
    "repair": ["runs", "repair", "outputs/r"],
    "merge": ["runs", "merge", "outputs/r", "outputs/other", "--into", "outputs/merged"],
    "export": ["export", "outputs/r", "--to", "inspect", "--out", "log.json"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_reads_or_writes_through_a_link_in_a_run(desk: Desk, tmp_path: Path, name: str) -> None:
    if name == "agreement":
        pytest.importorskip("statsmodels", reason="needs the extra `stats`")
    shutil.copytree(desk.run_dir, desk.outputs / "other")
    (desk.home / "sheet.csv").write_text("item,response_sha256,label\n")
    outside = led_out(desk, "verdicts", tmp_path)
    before, inside = tree(outside), tree(desk.run_dir)
    done = desk.vlsb(*COMMANDS[name])

    assert done.code == 5, done.err
    assert "outputs/r/verdicts is a link" in done.error
    assert "secret" not in done.out + done.err
    assert tree(outside) == before
    assert {**tree(desk.run_dir), ".lock": None} == {**inside, ".lock": None}


@pytest.mark.parametrize(
    "name",
    [
        *("run.json", "responses.jsonl", "failures.jsonl", "events.jsonl", "audit.json"),
        *("findings", "verdicts/judge-model.jsonl"),
    ],
)
def test_a_resume_refuses_a_run_in_which_anything_is_a_link(desk: Desk, tmp_path: Path, name: str) -> None:
    outside = led_out(desk, name, tmp_path)
    before = tree(outside)
    with SimulatorThread(labelling()) as simulator:
        done = desk.run(simulator, "--resume")

    assert done.code == 5, done.err
    assert f"{name} is a link" in done.error
    assert tree(outside) == before
    assert simulator.history == []


def test_a_list_of_runs_names_the_link_and_shows_the_others(desk: Desk, tmp_path: Path) -> None:
    shutil.copytree(desk.run_dir, desk.outputs / "other")
    led_out(desk, "responses.jsonl", tmp_path)
    (desk.run_dir / "dangling.json").symlink_to(tmp_path / "nowhere")
    done = desk.vlsb("runs", "list", "outputs")

    assert done.code == 0, done.err
    assert "is a link" in done.out
    assert "other" in done.out


def test_what_is_no_file_is_refused_without_waiting(desk: Desk) -> None:
    """A pipe without a writer would keep a reader for ever."""
    (desk.run_dir / "responses.jsonl").unlink()
    os.mkfifo(desk.run_dir / "responses.jsonl")

    for words in (["report", "outputs/r"], ["runs", "list", "outputs"]):
        done = desk.vlsb(*words)
        assert "responses.jsonl is not a file" in done.out + done.err


def test_a_run_may_be_named_by_a_link(desk: Desk) -> None:
    (desk.home / "latest").symlink_to(desk.run_dir)

    assert desk.vlsb("report", "latest").code == 0
    assert desk.vlsb("audit", "sample", "latest", "--n", 4).code == 0


def test_a_run_with_links_is_removed_and_what_they_lead_to_stays(desk: Desk, tmp_path: Path) -> None:
    outside = led_out(desk, "verdicts", tmp_path)
    before = tree(outside)
    done = desk.vlsb("runs", "rm", "outputs/r", "--yes")

    assert done.code == 0, done.err
    assert not desk.run_dir.exists()
    assert tree(outside) == before


def test_a_page_is_not_written_through_a_link(desk: Desk, tmp_path: Path) -> None:
    assert desk.vlsb("report", "outputs/r", "--html", "page").code == 0
    image = next((desk.home / "page" / "images").glob("*.webp"))
    shutil.move(image, tmp_path / "precious")
    image.symlink_to(tmp_path / "precious")
    (tmp_path / "precious").write_bytes(b"precious")
    again = desk.vlsb("report", "outputs/r", "--html", "page")
    shutil.move(desk.home / "page" / "images", tmp_path / "images")
    (desk.home / "page" / "images").symlink_to(tmp_path / "images")
    before = tree(tmp_path / "images")
    led = desk.vlsb("report", "outputs/r", "--html", "page")

    assert again.code == 0, again.err
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert (led.code, "images is a link" in led.error) == (2, True)
    assert tree(tmp_path / "images") == before
