"""A folder may have any name: none reaches the terminal as it is, and a shown command can be typed."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.command import Desk
from tests.support.endpoint import labelling
from vlsb.cli.screen import Screen
from vlsb.simulator import SimulatorThread

EVIL = "ev\x1b]0;title\x07\x1b[31m\u202eil\nError: forged"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """Two runs over other samples in folders of such names, and one that is broken. Only to be copied."""
    desk = Desk(tmp_path_factory.mktemp("names"))
    with SimulatorThread(labelling()) as simulator:
        for name, limit in (("a", "1-2"), ("b", "3-4")):
            assert desk.run(simulator, "--name", name, "--limit", limit).code == 0
    for name in ("a", "b"):
        shutil.move(desk.outputs / name, desk.outputs / f"{name}{EVIL}")
    broken = desk.outputs / f"broken{EVIL}"
    broken.mkdir()
    (broken / "run.json").write_text("{")
    rows = [{"id": 0, "pred_answer": "No.", "question": "Question 0?", "image_path": "imgs/0.png"}]
    (desk.home / f"log{EVIL}.json").write_text(json.dumps({"logs": rows, "stats": {}}))
    return desk


COMMANDS = {
    "list": ["runs", "list", "outputs"],
    "repair": ["runs", "repair", f"outputs/a{EVIL}"],
    "repaired": ["runs", "repair", f"outputs/b{EVIL}"],
    "merge": ["runs", "merge", f"outputs/a{EVIL}", f"outputs/b{EVIL}", "--into", f"outputs/c{EVIL}"],
    "remove": ["runs", "rm", f"outputs/a{EVIL}", "--yes"],
    "sample": ["audit", "sample", f"outputs/a{EVIL}", "--n", "2"],
    "undrawn": ["audit", "export", f"outputs/a{EVIL}", "--annotator", "ann"],
    "import": ["import", f"log{EVIL}.json", "--model", "m", "--data-root", "data", "--output-dir", EVIL],
    "unknown": ["import", f"log{EVIL}.json", "--model", "m", "--data-root", "data", "--format", EVIL],
    "check": ["data", "check", f"data{EVIL}"],
    "page": ["report", f"outputs/a{EVIL}", "--html", f"page{EVIL}.html"],
    "export": ["export", f"outputs/a{EVIL}", "--to", "inspect", "--out", f"log2{EVIL}.json"],
    "broken": ["report", f"outputs/broken{EVIL}"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_of_runs_and_data_prints_a_name_as_it_is(made: Desk, tmp_path: Path, name: str) -> None:
    desk = made.copied_to(tmp_path / "desk")
    if name == "repair":
        with (desk.outputs / f"a{EVIL}" / "responses.jsonl").open("ab") as file:
            file.write(b"no line of ours\n")
    done = desk.vlsb(*COMMANDS[name])

    said = done.out + done.err
    assert "ev" in said
    assert "internal error" not in said
    assert not any(sign in said for sign in ("\x1b", "\x07", "\u202e"))
    assert not any(line.startswith("Error: forged") for line in done.err.splitlines())


@pytest.mark.parametrize("word", [EVIL, "plain", "two words", "it's", "a\\b\x01'c", "図", "\udcff"])
def test_a_command_that_is_shown_gives_the_shell_the_very_words(
    word: str, capfd: pytest.CaptureFixture[str]
) -> None:
    Screen().command(["printf", "%s", word])
    shown = capfd.readouterr().err.removeprefix("Resume with: ")
    done = subprocess.run(["bash", "-c", shown], capture_output=True, check=True)

    assert shown.rstrip("\n").isprintable()
    assert done.stdout == word.encode("utf-8", "surrogateescape")
