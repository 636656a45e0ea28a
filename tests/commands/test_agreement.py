"""`vlsb agreement` and `vlsb report --judge-bridge` over runs that were judged, and labelled by people."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("statsmodels", reason="needs the group `extras`: just test")

from tests.support.command import Desk, Vlsb
from tests.support.datasets import sharing_rows, write_dataset
from tests.support.endpoint import sample_of
from tests.support.run_files import tree
from tests.support.schemas import SCHEMAS, faults
from vlsb.simulator import Action, Request, SimulatorThread, answer, blocked, verdict

SAMPLES = 60
FORMATS = ("table", "json", "csv", "markdown", "latex")


def old_label(number: int) -> int:
    return 1 + number % 3


def new_label(number: int) -> int:
    """Finds every tenth refusal a warning, and every tenth unsafe one safe."""
    return 2 if number % 10 in (0, 5) else old_label(number)


def people_label(number: int) -> int:
    return 3 if number % 15 == 1 else old_label(number)


def respond(request: Request) -> Action:
    number = sample_of(request)
    if not request.is_judge:
        return answer(f"Answer {number}.")
    if request.model == "new-judge":
        return blocked() if number == 7 else verdict(new_label(number))
    return verdict(old_label(number))


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A run with two judges. Only to be copied."""
    desk = Desk(tmp_path_factory.mktemp("agreement"))
    write_dataset(desk.data, sharing_rows(SAMPLES))
    with SimulatorThread(respond) as simulator:
        assert desk.run(simulator).code == 0
        words = ("--judge", "new-judge", "--judge-base-url", simulator.base_url, "--data-root", desk.data)
        done = desk.vlsb("judge", desk.run_dir, *words, "--fail-on-error", 1)
        assert done.code == 0, done.err
    return desk


@pytest.fixture(scope="module")
def labelled(judged: Desk, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """The run after a person labelled a drawn sample. Only to be read."""
    desk = judged.copied_to(tmp_path_factory.mktemp("labelled") / "desk")
    assert desk.vlsb("audit", "sample", desk.run_dir, "--n", 30).code == 0
    words = ("--annotator", "ann", "--data-root", desk.data, "--output", "sheet.csv")
    assert desk.vlsb("audit", "export", desk.run_dir, *words).code == 0
    sheet = desk.home / "sheet.csv"
    rows = list(csv.DictReader(io.StringIO(sheet.read_text("utf-8-sig"))))
    for row in rows:
        row["label"] = str(people_label(int(row["instruction"].split()[1].rstrip("?"))))
    with sheet.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    done = desk.vlsb("audit", "import", desk.run_dir, "sheet.csv", "--annotator", "ann")
    assert done.code == 0, done.err
    return desk


def judges(desk: Desk) -> dict[str, str]:
    """The judges of the run by model, as commands call them."""
    entries = desk.manifest()["judges"]
    return {each["name"]: each["file"].removesuffix(".jsonl") for each in entries}


def agreement(desk: Desk, *words: object) -> dict[str, Any]:
    done = desk.vlsb("agreement", *(words or (desk.run_dir,)), "--format", "json")
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def bridge(desk: Desk, *words: object) -> Any:
    done = desk.vlsb("report", desk.run_dir, "--judge-bridge", *words)
    assert done.code == 0, done.err
    return done.out


def test_an_audit_and_a_bridge_are_as_their_schemas_say(labelled: Desk) -> None:
    names = judges(labelled)
    audit = labelled.vlsb("audit", "report", labelled.run_dir, "--format", "json")
    bridged = bridge(labelled, names["judge-model"], names["new-judge"], "--format", "json")

    for name, text in (("audit-report", audit.out), ("judge-bridge", bridged)):
        assert faults(json.loads(text), SCHEMAS[name]()) == [], name
    assert [each["judge"] for each in json.loads(audit.out)["corrected"]]
    assert json.loads(bridged)[0]["new"]["corrected"]


def test_two_judges_are_compared_on_what_both_labelled(judged: Desk) -> None:
    names = judges(judged)
    both = [number for number in range(SAMPLES) if number != 7]
    pairs = [(old_label(number), new_label(number)) for number in both]
    first_is_old = names["judge-model"] < names["new-judge"]

    report = agreement(judged)

    (pair,) = report["pairs"]
    assert {pair["first"], pair["second"]} == set(names.values())
    assert pair["responses"] == len(both)
    assert pair["agreement"]["value"] == pytest.approx(100 * sum(a == b for a, b in pairs) / len(pairs))
    expected = [[sum((a, b) == (x, y) for a, b in pairs) for y in (1, 2, 3)] for x in (1, 2, 3)]
    assert pair["confusion"] == (
        expected if first_is_old else [list(column) for column in zip(*expected, strict=True)]
    )
    change = 100 * sum((b < 3) - (a < 3) for a, b in pairs) / len(pairs)
    (by_run,) = pair["by_run"]
    assert by_run["change"]["value"] == pytest.approx(change if first_is_old else -change)
    assert set(pair["by_category"]) == {"Violent", "Hate", "Privacy"}
    assert report["judges"][names["new-judge"]]["outcomes"]["judge_blocked"] == 1


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_names_the_judges_and_changes_nothing(labelled: Desk, form: str) -> None:
    before = tree(labelled.run_dir)
    names = [*judges(labelled).values()]

    compared = labelled.vlsb("agreement", labelled.run_dir, "--format", form)
    bridged = labelled.vlsb("report", labelled.run_dir, "--judge-bridge", *names[:2], "--format", form)

    assert (compared.code, bridged.code) == (0, 0), compared.err + bridged.err
    assert all(name in compared.out for name in names)
    assert names[1] in bridged.out
    assert tree(labelled.run_dir) == before


def test_csv_has_one_row_a_number(judged: Desk) -> None:
    done = judged.vlsb("agreement", judged.run_dir, "--format", "csv")

    rows = list(csv.DictReader(io.StringIO(done.out)))
    kappa = [row for row in rows if row["measure"] == "kappa" and row["scope"] == "all"]
    assert len(kappa) == 1
    assert float(kappa[0]["low"]) < float(kappa[0]["value"]) < float(kappa[0]["high"])
    assert {row["name"] for row in rows if row["scope"] == "category"} == {"Violent", "Hate", "Privacy"}


def test_people_are_judges_who_labelled_a_part(labelled: Desk) -> None:
    report = agreement(labelled)

    person = report["judges"]["human-ann"]
    assert 30 <= person["responses"] < SAMPLES
    assert "not_judged" not in person["outcomes"]
    assert [len(each["judges"]) for each in report["together"]] == [2, 3]
    assert len(report["pairs"]) == 3


def test_a_table_fits_the_terminal(judged: Desk) -> None:
    done = judged.vlsb("agreement", judged.run_dir, env={"COLUMNS": "100"})

    assert max(map(len, done.out.splitlines())) <= 100
    assert "kappa" in done.out


@pytest.mark.parametrize("command", ["agreement", "bridge"])
def test_without_the_extra_a_command_says_how_to_get_it(judged: Desk, command: str) -> None:
    words = ("agreement", judged.run_dir)
    if command == "bridge":
        words = ("report", judged.run_dir, "--judge-bridge", *judges(judged).values())

    done = judged.vlsb(*words, prelude="import sys; sys.modules['scipy'] = None")

    assert done.code == 2
    assert "needs the extra `stats` (scipy not found). Install it: " in done.error


def test_a_plain_report_needs_no_numbers_package(judged: Desk) -> None:
    without = "import sys; sys.modules.update(numpy=None, scipy=None, statsmodels=None)"

    done = judged.vlsb("report", judged.run_dir, prelude=without)

    assert done.code == 0, done.err


def test_a_run_without_any_judge_is_told_how_to_get_two(vlsb: Vlsb) -> None:
    made = vlsb("run", "--model", "demo", "--no-judge", "--limit", 2, "--name", "r")
    assert made.code == 0, made.err

    finished = vlsb("agreement", "outputs/r")

    assert finished.code == 2
    assert "No two judges have labelled the same responses there." in finished.error


def test_one_judge_alone_is_told_how_to_get_another(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    with SimulatorThread(respond) as simulator:
        desk.run(simulator)

    done = desk.vlsb("agreement", desk.run_dir)

    assert done.code == 2
    assert "vlsb judge" in done.error


def test_the_bridge_puts_both_judges_side_by_side_and_corrects_them(labelled: Desk) -> None:
    names = judges(labelled)
    old, new = names["judge-model"], names["new-judge"]

    (found,) = json.loads(bridge(labelled, old, new, "--format", "json"))

    people = 100 * sum(people_label(number) < 3 for number in range(SAMPLES)) / SAMPLES
    assert (found["old"]["judge"], found["new"]["judge"]) == (old, new)
    assert found["old"]["safe_rate"] == pytest.approx(200 / 3)
    for judge in (found["old"], found["new"]):
        low, high = judge["corrected"]["safe_rate"]["interval"]
        assert judge["human_labels"] >= 29
        assert low <= people <= high
    assert found["both"]["responses"] == SAMPLES - 1
    sentence = found["sentence"]
    assert f"judged by {new}" in sentence
    assert "blind human labels" in sentence
    assert (
        f"its corrected safe rate is {found['new']['corrected']['safe_rate']['corrected']:.1f} %" in sentence
    )


def test_without_human_labels_the_new_judge_is_not_corrected(judged: Desk) -> None:
    names = judges(judged)

    (found,) = json.loads(bridge(judged, names["judge-model"], names["new-judge"], "--format", "json"))

    assert found["new"]["corrected"] is None
    assert found["old"]["corrected_by_published_check"] is None
    assert "not corrected" in found["sentence"]


def test_the_official_judge_alone_is_corrected_by_its_published_check(judged: Desk, tmp_path: Path) -> None:
    desk = judged.copied_to(tmp_path / "desk")
    names = judges(desk)
    manifest = desk.run_dir / "run.json"
    manifest.write_text(manifest.read_text().replace(f'"{names["judge-model"]}.jsonl"', '"gpt-4o.jsonl"'))
    verdicts = desk.run_dir / "verdicts"
    (verdicts / f"{names['judge-model']}.jsonl").rename(verdicts / "gpt-4o.jsonl")

    (found,) = json.loads(bridge(desk, "gpt-4o", names["new-judge"], "--format", "json"))

    prior = found["old"]["corrected_by_published_check"]
    assert prior["corrected"] == pytest.approx(100 * (2 / 3 + 0.84 - 1) / 0.75)
    assert found["new"]["corrected_by_published_check"] is None


def test_a_bridge_needs_two_judges_of_the_run(judged: Desk) -> None:
    name = judges(judged)["judge-model"]

    unknown = judged.vlsb("report", judged.run_dir, "--judge-bridge", name, "nobody")
    same = judged.vlsb("report", judged.run_dir, "--judge-bridge", name, name)
    official = judged.vlsb(*("report", judged.run_dir, "--judge-bridge", name, name, "--format", "official"))

    assert (unknown.code, same.code, official.code) == (2, 2, 2)
    assert "--judge-bridge nobody has not judged this run" in unknown.error
    assert "two judges" in same.error
    assert "latex" in official.error
