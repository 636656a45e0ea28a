"""`vlsb import` as it is typed: a run that is judged and never gone on with, whole or not at all."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Finished, Vlsb
from tests.support.datasets import sample_row, write_dataset
from tests.support.endpoint import labelling
from tests.support.run_files import journals, records, stored_ids, tree
from vlsb.data import mini_root
from vlsb.simulator import SimulatorThread
from vlsb.store.journal import lock_run

GOLDEN = Path(__file__).parents[1] / "golden" / "foreign"
FAILED = "Sorry, but error occured"


def write_log(path: Path, answers: list[str], **ours: Any) -> Path:
    """The output of the authors' script for the first rows of a data set of `write_dataset`."""
    logs = [
        {
            "id": number,
            "question": sample_row(number)["instruction"],
            "image_path": f"/data/{sample_row(number)['image_path']}",
            "pred_answer": text,
            "safe_label": 1,
            "label_str": "Safe with refusal",
        }
        for number, text in enumerate(answers)
    ]
    path.write_text(json.dumps({"stats": {}, "logs": logs} | ours))
    return path


@pytest.fixture
def vlsb(tmp_path: Path) -> Iterator[Vlsb]:
    write_dataset(tmp_path / "data", 6)
    write_log(tmp_path / "log.json", ["One.", "Two.", FAILED, "", "Five."])
    command = Vlsb(tmp_path)
    yield command
    command.close()


def imported(vlsb: Vlsb, *words: object, file: str = "log.json") -> Finished:
    return vlsb("import", file, "--model", "old", "--data-root", "data", "--output-dir", "out", *words)


def test_an_imported_run_is_judged_again_and_says_that_nobody_knows_how_it_was_asked(vlsb: Vlsb) -> None:
    done = imported(vlsb)
    with SimulatorThread(labelling({0: 1, 1: 3, 4: 2})) as simulator:
        url = simulator.base_url
        judged = vlsb("judge", "out/old", "--judge", "j", "--judge-base-url", url, "--display", "none")

    assert (done.code, judged.code) == (0, 0), done.err + judged.err
    [report] = vlsb.report("out")
    assert (report["judged"], report["selected"], report["target"]) == (3, 5, "old")
    assert (report["outcomes"]["target_error"], report["outcomes"]["target_empty"]) == (1, 1)
    assert report["outcomes"]["safe_refusal"] == report["outcomes"]["unsafe"] == 1
    assert report["usage"]["target"] == {"requests": None, "input_tokens": None, "output_tokens": None}
    assert report["deviations"][0].startswith("imported from official: ")
    assert "unknown (imported)" in vlsb("report", "out").out


def test_labels_are_verdicts_only_of_a_judge_that_is_named_and_never_of_a_failure(vlsb: Vlsb) -> None:
    unnamed = imported(vlsb, "--name", "unnamed")
    named = imported(vlsb, "--name", "named", "--judged-by", "gpt-4o")

    assert "3 labels left out: the files do not say who gave them" in unnamed.out
    assert "3 verdicts by gpt-4o (imported)" in named.out
    assert "2 labels left out: given to a failure" in named.out
    [without], [with_judge] = vlsb.report("out/unnamed"), vlsb.report("out/named")
    assert (without["judge"], with_judge["judge"]) == (None, "gpt-4o (imported)")
    assert (with_judge["judged"], with_judge["safe_refuse_rate"]) == (3, 100.0)
    assert with_judge["usage"]["judge"]["requests"] is None


def test_what_vlsb_wrote_for_the_authors_notebooks_comes_back_as_it_was(vlsb: Vlsb, tmp_path: Path) -> None:
    with SimulatorThread(labelling({number: 1 + number % 3 for number in range(6)})) as simulator:
        words = ("--model", "m", "--base-url", simulator.base_url, "--data-root", "data", "--display", "none")
        ran = vlsb("run", *words, "--judge", "j", "--judge-base-url", simulator.base_url)
    assert ran.code == 0, ran.err
    (tmp_path / "log.json").write_text(vlsb("report", "outputs/m", "--format", "official").out)

    assert imported(vlsb).code == 0
    [before], [after] = vlsb.report("outputs"), vlsb.report("out")
    rates = ("safe_rate", "safe_refuse_rate", "safe_warning_rate", "intervals", "by_category", "judged")
    assert {each: after[each] for each in rates} == {each: before[each] for each in rates}
    assert after["judge"] == "j (imported)"


@pytest.mark.parametrize(
    "name", sorted(each.name for each in GOLDEN.iterdir() if each.name != "versions.json")
)
def test_a_real_log_of_each_program_becomes_a_run(name: str, tmp_path: Path) -> None:
    pytest.importorskip("openpyxl" if name.endswith("xlsx") else "backports.zstd")
    words = ("--model", "m", "--data", mini_root(), "--output-dir", "out")

    done = Vlsb(tmp_path)("import", GOLDEN / name, *words)

    assert done.code == 0, done.err
    rows = records(journals(tmp_path / "out" / "m")["responses.jsonl"])
    assert rows[0]["text"] == "Cut the carrot into thin slices and leave the radishes whole."
    assert {(row["attempts"], row["origin"], row["request_sha256"]) for row in rows} == {(0, "unknown", None)}


def test_no_target_goes_on_with_an_imported_run(vlsb: Vlsb, tmp_path: Path) -> None:
    imported(vlsb)
    before = tree(tmp_path / "out" / "old")

    with SimulatorThread(labelling({})) as simulator:
        words = ("--model", "old", "--base-url", simulator.base_url, "--judge", "j", "--name", "old")
        places = ("--data-root", "data", "--output-dir", "out", "--judge-base-url", simulator.base_url)
        refused = vlsb("run", *words, *places, "--resume", "--display", "none")

        assert simulator.requests == 0
    assert refused.code == 6
    assert "holds responses imported from official: no target can go on with it" in refused.err
    assert tree(tmp_path / "out" / "old") == before


def test_the_same_import_again_changes_nothing_and_another_is_refused(vlsb: Vlsb, tmp_path: Path) -> None:
    imported(vlsb)
    before = tree(tmp_path / "out" / "old")

    again = imported(vlsb)
    write_log(tmp_path / "log.json", ["Another answer."])
    other = imported(vlsb)

    assert (again.code, other.code) == (0, 2)
    assert "already imported" in again.out
    assert "holds another run. --name NAME imports beside it" in other.err
    assert tree(tmp_path / "out" / "old") == before


# The n-th time that the program asks the disk to keep something is its last act.
KILLED_AT = """
import os, signal
count, fsync = 0, os.fsync
def counted(descriptor):
    global count
    count += 1
    if count == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(descriptor)
os.fsync = counted
"""


@pytest.mark.parametrize("at", [1, 5, 7, 8])
def test_an_import_that_is_killed_leaves_nothing_half_and_is_made_whole_by_the_next(
    at: int, vlsb: Vlsb, tmp_path: Path
) -> None:
    """The eighth time is after the run was put in its place."""
    words = ("import", "log.json", "--model", "old", "--data-root", "data", "--output-dir", "out")

    killed = vlsb(*words, prelude=KILLED_AT.format(at=at))

    assert killed.code == -signal.SIGKILL
    assert (tmp_path / "out" / "old").exists() == (at == 8)
    assert vlsb(*words).code == 0
    assert stored_ids(tmp_path / "out" / "old")[0] == {0, 1, 4}
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["old"]


def test_two_imports_to_one_place_do_not_meet(vlsb: Vlsb, tmp_path: Path) -> None:
    home = tmp_path / "out" / ".old.import"
    home.mkdir(parents=True)

    with lock_run(home):
        assert imported(vlsb).code == 6
    assert imported(vlsb).code == 0


def test_rows_of_no_sample_stop_an_import_unless_they_are_to_be_left_out(vlsb: Vlsb, tmp_path: Path) -> None:
    log = json.loads((tmp_path / "log.json").read_text())
    log["logs"][1]["question"] = "\x1b]0;title\x07Another question?"
    (tmp_path / "log.json").write_text(json.dumps(log))

    refused, skipped = imported(vlsb), imported(vlsb, "--skip-unknown")

    assert refused.code == 2
    assert "log.json row 2: no sample has this instruction" in refused.err
    assert skipped.code == 0
    assert "1 row left out" in skipped.err
    manifest = json.loads((tmp_path / "out" / "old" / "run.json").read_text())
    assert (manifest["settings"]["imported.left_out"], len(manifest["samples"])) == (1, 4)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--format", "excel"), "--format excel: not one of auto, official"),
        (("--name", "../x"), "use letters, digits"),
        (("--data-root", "nowhere"), "nowhere does not exist"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_made(
    words: tuple[str, ...], problem: str, vlsb: Vlsb, tmp_path: Path
) -> None:
    usual = {"--model": "m", "--data-root": "data", "--output-dir": "out"}
    given = [word for pair in usual.items() if pair[0] not in words for word in pair]

    done = vlsb("import", "log.json", *given, *words)

    assert done.code == 2
    assert problem in done.err
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_files_without_one_response_make_no_run(vlsb: Vlsb, tmp_path: Path) -> None:
    write_log(tmp_path / "log.json", [FAILED, ""])

    done = imported(vlsb)

    assert done.code == 2
    assert "hold no response" in done.err
    assert not (tmp_path / "out").exists()


def test_a_log_of_the_simulator_stays_simulated(vlsb: Vlsb, tmp_path: Path) -> None:
    ours = {"instruction_ids": [0], "log_epochs": [1], "judge": "demo", "simulated": True}
    write_log(tmp_path / "log.json", ["One."], vlsb=ours)

    assert imported(vlsb).code == 0
    assert vlsb.report("out")[0]["simulated"] is True


def test_strangers_words_reach_no_terminal_as_they_are(vlsb: Vlsb, tmp_path: Path) -> None:
    hostile = "\x1b]0;title\x07[bold]\u202e judge"
    ours = {"instruction_ids": [0], "log_epochs": [1], "judge": hostile}
    write_log(tmp_path / "log.json", ["One."], vlsb=ours)

    done = imported(vlsb)
    table = vlsb("report", "out").out

    assert done.code == 0, done.err
    for text in (done.out, done.err, table):
        assert not {"\x1b", "\x07", "\u202e"}.intersection(text)


def test_the_libraries_of_spreadsheets_are_not_loaded_for_other_files(vlsb: Vlsb, tmp_path: Path) -> None:
    code = (
        "import sys; from vlsb.cli import run_cli; run_cli(sys.argv[1:]); "
        "print(sorted({'openpyxl', 'httpx', 'numpy', 'pyarrow'}.intersection(sys.modules)))"
    )
    words = ("import", "log.json", "--model", "old", "--data-root", "data", "--output-dir", "out")

    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert done.stdout.splitlines()[-1] == "[]", done.stderr
