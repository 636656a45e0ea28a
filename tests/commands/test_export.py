"""`vlsb export` as it is typed: what is in it, what is left out, and that nothing is ever overwritten."""

from __future__ import annotations

import json
import signal
import stat
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.command import Desk, Finished
from tests.support.endpoint import sample_of
from tests.support.run_files import tree
from vlsb.simulator import Action, Request, SimulatorThread, answer, blocked, error, verdict

# Half of a surrogate pair, what a terminal and Markdown would act on, and a text that has a tail.
HOSTILE = "\ud83d | [a](http://b) \x1b[31m" + "and so on, step by step, " * 20
SECRET = "the last step of it"


def respond(request: Request) -> Action:
    """Samples 0 to 2 get labels 1 to 3; 1 is hostile, 3 empty, 4 blocked, 5 fails."""
    number = sample_of(request)
    if request.is_judge:
        return verdict(1 + number % 3, f"Because. {HOSTILE}{SECRET}", model="judge-1")
    if number == 4:
        return blocked()
    if number == 5:
        return error(400, code="strange", message=SECRET)
    return answer({1: HOSTILE + SECRET, 3: ""}.get(number, f"Answer {number}."), usage=(700, 20))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """Six samples run once. Not to be changed."""
    desk = Desk(tmp_path_factory.mktemp("original"), samples=6)
    with SimulatorThread(respond) as simulator:
        done = desk.run(simulator, "--fail-on-error", 3)
    assert done.code == 0, done.err
    return desk


@pytest.fixture
def desk(original: Desk, tmp_path: Path) -> Desk:
    return original.copied_to(tmp_path)


def export(desk: Desk, to: str, out: str, *words: object) -> Finished:
    return desk.vlsb("export", "outputs/r", "--to", to, "--out", out, *words)


def document(path: Path) -> dict[str, Any]:
    """An exported log of inspect, whichever form it has."""
    if path.suffix == ".json":
        return json.loads(path.read_text())  # type: ignore[no-any-return]
    with zipfile.ZipFile(path) as archive:
        names = [each for each in archive.namelist() if each.startswith("samples/")]
        header: dict[str, Any] = json.loads(archive.read("header.json"))
        assert len(json.loads(archive.read("summaries.json"))) == len(names)
        return header | {"samples": [json.loads(archive.read(each)) for each in names]}


@pytest.mark.parametrize("name", ["log.eval", "log.json"])
def test_a_log_for_inspect_holds_every_sample_with_its_scores(name: str, desk: Desk) -> None:
    done = export(desk, "inspect", name)

    assert done.code == 0, done.err
    log = document(desk.home / name)
    by_id = {each["id"]: each for each in log["samples"]}
    [score] = log["results"]["scores"]
    assert (log["version"], log["status"], log["eval"]["model"]) == (2, "success", "target-model")
    assert sorted(by_id) == [*range(6)]
    assert score["metrics"]["safe_rate"]["value"] == pytest.approx(2 / 3)
    assert by_id[2]["scores"]["judge-model"]["value"] == "unsafe"
    assert by_id[0]["input"].startswith("Question 0?")
    assert by_id[0]["output"]["choices"][0]["message"]["content"] == "Answer 0."
    assert by_id[4]["output"]["choices"][0]["stop_reason"] == "content_filter"
    assert by_id[5]["error"]["message"] == "strange"
    assert "Left out: images" in done.err


def test_a_log_for_inspect_is_imported_again_with_the_same_numbers(desk: Desk) -> None:
    export(desk, "inspect", "log.eval")

    words = ("--model", "m", "--data-root", desk.data, "--output-dir", "again")
    done = desk.vlsb("import", "log.eval", *words)

    assert done.code == 0, done.err
    [before], [after] = desk.vlsb.report("outputs"), desk.vlsb.report("again")
    same = ("safe_rate", "judged", "selected", "outcomes", "intervals")
    assert {each: after[each] for each in same} == {each: before[each] for each in same}
    assert after["judge"] == "judge-model (imported)"


def test_what_was_exported_without_its_texts_is_no_response(desk: Desk) -> None:
    export(desk, "inspect", "log.json", "--redact", "tails")

    words = ("--model", "m", "--data-root", desk.data, "--output-dir", "again")
    done = desk.vlsb("import", "log.json", *words)

    assert done.code == 2
    assert "its response is not whole" in done.err


@pytest.mark.parametrize(
    ("words", "is_begun", "is_whole"),
    [((), False, False), (("--redact", "tails"), True, False), (("--redact", "none"), True, True)],
)
def test_a_folder_for_the_hub_holds_the_texts_that_were_asked_for(
    words: tuple[str, ...], is_begun: bool, is_whole: bool, desk: Desk
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")

    done = export(desk, "hub", "hub", *words)

    assert done.code == 0, done.err
    folder = desk.home / "hub"
    table = parquet.read_table(folder / "data" / "responses.parquet").to_pylist()
    assert [row["instruction_id"] for row in table] == [*range(6)]
    assert [row["outcome"] for row in table[:5]] == [
        *("safe_refusal", "safe_warning", "unsafe", "target_empty", "target_blocked")
    ]
    texts = "".join(str(row[name]) for row in table for name in ("response", "explanation", "reasoning"))
    assert ("step by step" in texts, SECRET in texts) == (is_begun, is_whole)
    assert (SECRET in (folder / "README.md").read_text()) is False
    assert table[1]["response_characters"] == len(HOSTILE + SECRET)
    assert "Nothing was uploaded" in done.err
    assert {stat.S_IMODE(each.stat().st_mode) for each in [folder, *folder.rglob("*")]} == {0o700, 0o600}


def test_the_card_is_yaml_and_tables_that_no_name_breaks_out_of(desk: Desk) -> None:
    pytest.importorskip("pyarrow")
    manifest = desk.home / "outputs" / "r" / "run.json"
    name = '"]\n---\n# Mine: <script>\x1b[31m'
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"target": name}))

    done = export(desk, "hub", "hub")

    assert done.code == 0, done.err
    _, front, card = (desk.home / "hub" / "README.md").read_text().split("---\n", 2)
    about = yaml.safe_load(front)
    assert about["license"] == "unknown"
    assert about["configs"][0]["data_files"] == "data/responses.parquet"
    assert "\n# Mine" not in card
    assert "<script>" not in card
    assert "\x1b" not in card


@pytest.mark.parametrize(("to", "out"), [("inspect", "log.eval"), ("inspect", "log.json"), ("hub", "hub")])
def test_nothing_is_overwritten(to: str, out: str, desk: Desk) -> None:
    pytest.importorskip("pyarrow")
    (desk.home / out).mkdir()
    before = tree(desk.home)

    done = export(desk, to, out)

    assert done.code == 2
    assert "exists. Name another: nothing is overwritten" in done.err
    assert tree(desk.home) == before


@pytest.mark.parametrize(
    ("to", "out", "words", "problem"),
    [
        ("excel", "x", (), "--to excel: not one of inspect, hub"),
        ("inspect", "log.zip", (), "ends in .eval or .json"),
        ("inspect", "no/log.eval", (), "there is no folder"),
        ("hub", "hub", ("--redact", "some"), "--redact some: not one of none, tails, responses"),
    ],
)
def test_a_mistake_is_one_line(to: str, out: str, words: tuple[str, ...], problem: str, desk: Desk) -> None:
    done = export(desk, to, out, *words)

    assert done.code == 2
    assert problem in done.err
    assert len(done.err.splitlines()) == 1


KILLED = "import os, signal\nos.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"


@pytest.mark.parametrize(("to", "out"), [("inspect", "log.eval"), ("hub", "hub")])
def test_an_export_that_is_killed_is_not_there_and_the_next_is_whole(to: str, out: str, desk: Desk) -> None:
    pytest.importorskip("pyarrow")
    words = ("export", "outputs/r", "--to", to, "--out", out)

    killed = desk.vlsb(*words, prelude=KILLED)

    assert killed.code == -signal.SIGKILL
    assert not (desk.home / out).exists()
    assert desk.vlsb(*words).code == 0
    assert [each.name for each in desk.home.iterdir() if out in each.name] == [out]
