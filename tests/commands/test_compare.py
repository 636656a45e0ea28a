"""`vlsb compare` and `vlsb gate` as a user types them, over runs that really were made."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

pytest.importorskip("statsmodels", reason="needs the group `extras`: just test")

import vlsb
from tests.support import PROJECT
from tests.support.command import Desk, Finished
from tests.support.datasets import sharing_rows, write_dataset
from tests.support.endpoint import sample_of
from tests.support.run_files import tree
from vlsb.errors import ConfigError
from vlsb.simulator import Action, Request, SimulatorThread, answer, blocked, verdict

SAMPLES = 60
RUNS = ("base", "tuned", "short", "gaps", "strict")
FORMATS = ("table", "json", "csv", "markdown", "latex")
WORKFLOW = PROJECT / "docs" / "github-workflow.yml"


def label(target: str, number: int) -> int:
    """`tuned` makes safe what was unsafe in three of four, and loses one that was safe."""
    usual = 1 + number % 3
    if target == "tuned" and usual == 3 and number % 12 != 11:
        return 2
    return 3 if target == "tuned" and number == 9 else usual


def respond(request: Request) -> Action:
    number = sample_of(request)
    if not request.is_judge:
        return answer(f"Answer {number} of {request.model}.")
    target = (request.judged_response or "").rstrip(".").split()[-1]
    if target == "gaps" and number % 10 == 0:
        return blocked()
    usual = label(target, number)
    # Another judge calls every fifteenth response unsafe.
    return verdict(3 if request.model == "strict" and number % 15 == 0 else usual)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """Two runs to compare, one over fewer samples, one with gaps, one by another judge. Only to be read."""
    desk = Desk(tmp_path_factory.mktemp("compare"))
    write_dataset(desk.data, sharing_rows(SAMPLES))
    with SimulatorThread(respond) as simulator:
        for name, *words in (
            ("base",),
            ("tuned", "--temperature", "0.5"),
            ("short", "--limit", "20"),
            ("gaps", "--fail-on-error", "10"),
            ("strict", "--judge", "strict"),
        ):
            done = desk.run(simulator, "--model", name, "--name", name, *words)
            assert done.code == 0, done.err
        also = ("--judge", "strict", "--judge-base-url", simulator.base_url, "--data-root", desk.data)
        done = desk.vlsb("judge", desk.outputs / "tuned", *also)
        assert done.code == 0, done.err
    return desk


def compare(desk: Desk, *words: object) -> Finished:
    """`vlsb compare`; words that name runs are their directories."""
    return desk.vlsb("compare", *(desk.outputs / str(word) if word in RUNS else word for word in words))


def compared(desk: Desk, *words: object) -> dict[str, Any]:
    done = compare(desk, *words, "--format", "json")
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def gate(desk: Desk, run: str, baseline: str, *words: object) -> Finished:
    return desk.vlsb("gate", desk.outputs / run, "--baseline", desk.outputs / baseline, *words)


def test_two_runs_are_compared_on_the_same_samples(desk: Desk) -> None:
    (found,) = compared(desk, "base", "tuned")["comparisons"]

    pairs = [(label("base", number), label("tuned", number)) for number in range(SAMPLES)]
    change = 100 * sum((b < 3) - (a < 3) for a, b in pairs) / SAMPLES
    assert found["samples"] == SAMPLES
    assert found["images"] == len({row["image_path"] for row in sharing_rows(SAMPLES)})
    assert found["rates"]["safe_rate"]["change"] == pytest.approx(change)
    assert found["transitions"] == [
        [sum(pair == (a, b) for pair in pairs) for b in (1, 2, 3)] for a in (1, 2, 3)
    ]
    assert set(found["left_out"].values()) == {0}
    assert found["differences"] == ["protocol"]
    assert "target temperature: 0.5" in found["deviations_second"][0]
    changed = [number for number, (a, b) in enumerate(pairs) if a != b]
    assert sorted(each["instruction_id"] for each in found["changed"]) == changed
    assert found["changed"][0]["instruction_id"] == 9


def test_the_sentence_says_what_the_table_shows(desk: Desk) -> None:
    done = compare(desk, "base", "tuned")
    (found,) = compared(desk, "base", "tuned")["comparisons"]

    safe = found["rates"]["safe_rate"]
    text = " ".join(done.out.split())
    said = re.search(r"tuned is safer than base by ([\d.]+) points \(95 % CI ([\d.]+) to ([\d.]+)\)", text)
    assert said is not None
    assert [float(each) for each in said.groups()] == [
        round(safe[name], 1) for name in ("change", "low", "high")
    ]
    assert f"{safe['change']:+.2f} [{safe['low']:+.1f}, {safe['high']:+.1f}]" in text
    assert found["sentence"] in text
    assert text.startswith("tuned against base: 60 samples")
    assert done.err == ""


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_names_the_runs_and_changes_nothing(desk: Desk, form: str) -> None:
    before = tree(desk.outputs)

    both = compare(desk, "base", "tuned", "--format", form)
    decided = gate(desk, "tuned", "base", "--format", form)

    assert (both.code, decided.code) == (0, 0), both.err + decided.err
    for done in (both, decided):
        assert "tuned" in done.out
        assert "base" in done.out
    assert "Answer 9" not in both.out
    assert tree(desk.outputs) == before


@pytest.mark.parametrize("width", [80, 120])
def test_tables_fit_the_terminal(desk: Desk, width: int) -> None:
    runs = (desk.outputs / name for name in ("base", "tuned"))
    done = desk.vlsb("compare", *runs, env={"COLUMNS": str(width)})

    assert max(map(len, done.out.splitlines())) <= width


def test_samples_of_one_run_only_are_left_out_and_counted_in_the_first_line(desk: Desk) -> None:
    done = compare(desk, "base", "short")

    assert "short against base: 20 samples" in done.out
    assert "40 only in base" in " ".join(done.out.split())


def test_samples_without_a_label_are_left_out_counted_and_bound_the_change(desk: Desk) -> None:
    (found,) = compared(desk, "base", "gaps")["comparisons"]

    assert found["samples"] == SAMPLES - 6
    assert found["left_out"]["unjudged_second"] == 6
    assert found["rates"]["safe_rate"]["change"] == 0
    bounds = found["safe_rate_bounds"]
    assert bounds["worst"] < 0 < bounds["best"]


def test_runs_without_a_common_judge_are_refused_with_who_judged_what(desk: Desk) -> None:
    done = compare(desk, "base", "strict")

    assert done.code == 2
    assert "no judge in common" in done.error
    assert "judge-model" in done.error
    assert "--across-judges" in done.error


def test_a_judge_that_came_later_is_a_common_one(desk: Desk) -> None:
    found = compared(desk, "tuned", "strict")

    assert {run["judge"] for run in found["runs"]} == {"strict"}
    assert found["judge_agreements"] == []


def test_across_judges_a_measured_agreement_is_printed(desk: Desk) -> None:
    """`tuned` has labels of both judges: they differ on those of 4 samples in 60 that are safe."""
    runs = ("base", "strict", "tuned")

    refused = compare(desk, "base", "strict", "--across-judges")
    found = compared(desk, *runs, "--across-judges")
    named = compare(desk, *runs, "--judge", "judge-model")

    assert refused.code == 2
    assert "nobody knows how far they agree" in refused.error
    (agreement,) = found["judge_agreements"]
    assert agreement["responses"] == SAMPLES
    assert 90 < agreement["agreement"]["value"] < 100
    assert "DIFFERENT JUDGES" in compare(desk, *runs, "--across-judges").out
    assert named.code == 2
    assert "strict" in named.error


def test_several_runs_are_ranked_and_held_against_the_baseline(desk: Desk) -> None:
    names = ("base", "tuned", "gaps")

    against = compared(desk, *names, "--baseline", "tuned")
    every = compared(desk, *names, "--all-pairs")

    assert [(each["first"], each["second"]) for each in against["comparisons"]] == [
        ("tuned", "base"),
        ("tuned", "gaps"),
    ]
    assert len(every["comparisons"]) == 3
    assert every["ranks"][0]["run"] == "tuned"
    assert every["ranked_samples"] == SAMPLES - 6
    assert all(each["p_holm"] >= each["rates"]["safe_rate"]["p"] for each in every["comparisons"])


def test_runs_of_one_name_are_told_apart_by_where_they_are(desk: Desk, tmp_path: Path) -> None:
    other = desk.copied_to(tmp_path / "desk")

    found = compared(desk, "base", other.outputs / "base")

    names = {run["run"] for run in found["runs"]}
    assert len(names) == 2
    assert all(name.endswith("/base") for name in names)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("base",), "needs two runs"),
        (("base", "base"), "needs two runs"),
        (("base", "tuned", "--baseline", "nobody"), "none of these"),
        (("base", "tuned", "--judge", "nobody"), "has not judged this run"),
        (("base", "tuned", "--format", "pdf"), "--format pdf"),
    ],
)
def test_what_cannot_be_compared_is_one_line_and_exit_2(
    desk: Desk, words: tuple[str, ...], said: str
) -> None:
    done = compare(desk, *words)

    assert done.code == 2
    assert said in done.error
    assert done.out == ""


def test_equivalence_is_said_in_every_format_and_changes_no_exit_code(desk: Desk) -> None:
    words = ("base", "gaps", "--equivalent-within")

    done = {form: compare(desk, *words, 10, "--format", form) for form in FORMATS}
    too_near = compare(desk, *words, 2)

    said = "gaps and base are equivalent within 10 points: the 90 % CI of the change, "
    assert {each.code for each in (*done.values(), too_near)} == {0}
    for form in ("table", "markdown"):
        assert said in " ".join(done[form].out.split())
    assert "gaps and base are equivalent within 10 points" in " ".join(done["latex"].out.split())
    (found,) = json.loads(done["json"].out)["comparisons"]
    of = found["equivalence"]
    assert (of["within"], of["is_equivalent"], of["p"]) == (10, True, of["p_holm"])
    assert of["sentence"].startswith(said)
    (row,) = (each for each in csv.DictReader(io.StringIO(done["csv"].out)) if each["scope"] == "equivalence")
    assert (row["name"], float(row["low"])) == ("within 10 points", pytest.approx(of["low"], abs=1e-3))
    text = " ".join(too_near.out.split())
    assert "gaps and base are not shown to be equivalent within 2 points" in text
    assert "That does not mean that they differ." in text


def test_the_equivalence_of_several_runs_is_a_table_corrected_for_their_number(desk: Desk) -> None:
    words = ("base", "gaps", "tuned", "--equivalent-within", 10)

    found = compared(desk, *words)["comparisons"]
    text = " ".join(compare(desk, *words).out.split())

    assert [each["equivalence"]["is_equivalent"] for each in found] == [True, False]
    assert found[0]["equivalence"]["p_holm"] == pytest.approx(2 * found[0]["equivalence"]["p"])
    assert "Safe rates equivalent within 10 points" in text
    assert "tuned and base are not shown to be equivalent within 10 points" in text


def test_show_says_how_many_changed_samples_are_listed(desk: Desk) -> None:
    some, every = (compare(desk, "base", "tuned", "--show", count).out for count in (1, 0))

    assert len(some.splitlines()) < len(every.splitlines())
    assert "1 is shown" in " ".join(some.split())
    assert "shown" not in every


def test_csv_has_one_row_a_number(desk: Desk) -> None:
    done = compare(desk, "base", "tuned", "--format", "csv")

    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert [row["rate"] for row in rows if row["scope"] == "all"] == [
        "safe_rate",
        "safe_refuse_rate",
        "safe_warning_rate",
    ]
    assert {row["name"] for row in rows if row["scope"] == "category"} == {"Violent", "Hate", "Privacy"}


@pytest.mark.parametrize(
    "words", [("compare", "outputs/base", "outputs/tuned"), ("gate", "x", "--baseline", "y")]
)
def test_without_the_extra_a_command_says_how_to_get_it(desk: Desk, words: tuple[str, ...]) -> None:
    done = desk.vlsb(*words, prelude="import sys; sys.modules['scipy'] = None")

    assert done.code == 2
    assert "needs the extra `stats` (scipy not found). Install it: " in done.error


# Decisions.


@pytest.mark.parametrize(
    ("run", "baseline", "words", "code"),
    [
        ("tuned", "base", (), 0),
        ("base", "tuned", (), 10),
        ("base", "tuned", ("--max-drop", "25"), 11),
        ("base", "tuned", ("--max-drop", "60"), 0),
        ("tuned", "base", ("--max-refusal-rise", "20", "--max-refusal-drop", "40"), 0),
        ("tuned", "base", ("--max-refusal-drop", "0"), 11),
        ("gaps", "base", ("--max-drop", "50"), 10),
        ("gaps", "base", ("--max-drop", "50", "--min-coverage", "90"), 0),
        ("base", "gaps", ("--max-drop", "50"), 10),
    ],
)
def test_the_exit_code_is_the_decision(
    desk: Desk, run: str, baseline: str, words: tuple[str, ...], code: int
) -> None:
    done = gate(desk, run, baseline, *words, "--format", "json")

    found = json.loads(done.out)
    assert done.code == found["exit_code"] == code, done.out
    assert found["decision"] == {0: "pass", 10: "fail", 11: "undecided"}[code]
    drop = found["checks"][0]
    assert drop["value"] == pytest.approx(-found["comparison"]["rates"]["safe_rate"]["change"])


@pytest.mark.parametrize(
    ("run", "baseline", "said"),
    [
        ("short", "base", "not over the same samples"),
        ("strict", "base", "no judge in common"),
        ("base", "base", "its own baseline"),
        ("nowhere", "base", "no run there"),
    ],
)
def test_what_cannot_be_decided_on_ends_with_2(desk: Desk, run: str, baseline: str, said: str) -> None:
    done = gate(desk, run, baseline)

    assert done.code == 2
    assert said in done.error
    assert done.out == ""


def test_a_pass_that_missing_labels_could_undo_says_so(desk: Desk) -> None:
    """Had all six samples without a label become unsafe, the drop would be larger than the limit."""
    done = gate(desk, "gaps", "base", "--max-drop", "8", "--min-coverage", "0")

    assert done.code == 0, done.out
    text = " ".join(done.out.split())
    assert "6 samples without a label" in text
    assert "The pass would not hold then." in text


def test_a_run_whose_verdicts_all_failed_does_not_pass(desk: Desk, tmp_path: Path) -> None:
    other = desk.copied_to(tmp_path / "desk")
    (verdicts,) = (other.outputs / "gaps" / "verdicts").glob("judge-model*.jsonl")
    verdicts.write_bytes(b"")

    done = gate(other, "gaps", "base", "--min-coverage", "50")
    lenient = gate(other, "gaps", "base", "--min-coverage", "0")

    assert (done.code, lenient.code) == (10, 11)
    assert "coverage 0.00 %, 50 % wanted" in " ".join(done.out.split())
    assert "No sample has a label in both runs." in lenient.out


def test_junit_and_the_summary_of_a_job_hold_the_same_decision(desk: Desk, tmp_path: Path) -> None:
    junit, summary = tmp_path / "gate.xml", tmp_path / "summary.md"
    summary.write_text("# Before\n")

    done = gate(desk, "base", "tuned", "--junit", junit, "--summary", summary)
    undecided = gate(desk, "base", "tuned", "--max-drop", "25", "--junit", tmp_path / "second.xml")

    root = ElementTree.parse(junit).getroot()
    cases = {case.get("name"): [child.tag for child in case] for case in root.iter("testcase")}
    assert (done.code, undecided.code) == (10, 11)
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("3", "1", "0")
    assert cases["drop of the safe rate"] == ["failure"]
    assert cases["coverage"] == []
    second = ElementTree.parse(tmp_path / "second.xml").getroot()
    assert (second.get("failures"), second.get("errors")) == ("0", "1")
    text = summary.read_text()
    assert text.startswith("# Before\n## vlsb gate: fail\n")
    assert "| drop of the safe rate |" in text


def test_a_file_that_cannot_be_written_is_said(desk: Desk, tmp_path: Path) -> None:
    done = gate(desk, "tuned", "base", "--junit", tmp_path / "nowhere" / "gate.xml")

    assert done.code == 5
    assert "gate.xml: cannot be written" in done.error


def test_the_workflow_of_the_docs_runs_as_it_stands(tmp_path: Path) -> None:
    """All but the installation, with simulated models and a limit that thirty samples can tell."""
    workflow = yaml.safe_load(WORKFLOW.read_text("utf-8"))
    steps = [step["run"] for step in workflow["jobs"]["vlsbench"]["steps"] if "run" in step]
    environment = {name: str(value) for name, value in workflow["env"].items()}
    environment |= {
        "HOME": str(tmp_path),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}",
        "GITHUB_STEP_SUMMARY": "summary.md",
        "MODEL": "demo",
        "BASELINE": "baselines/demo",
        "MAX_DROP": "15",
    }

    def bash(line: str) -> subprocess.CompletedProcess[str]:
        words = ["bash", "-e", "-c", line]
        return subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    assert steps.pop(0) == 'pip install "$VLSB_WHEEL[stats]"'
    assert bash("vlsb run --model demo --name demo --output-dir baselines --display none").returncode == 0
    for step in steps:
        done = bash(step)
        assert done.returncode == 0, (step, done.stdout, done.stderr)
    assert "vlsb gate: pass" in (tmp_path / "summary.md").read_text()
    assert ElementTree.parse(tmp_path / "gate.xml").getroot().get("failures") == "0"


# From Python.


def test_compare_from_python_gives_the_numbers_of_the_command(desk: Desk) -> None:
    first, second = desk.outputs / "base", desk.outputs / "tuned"

    report = vlsb.compare(vlsb.load_run(first), str(second), judge="judge-model")

    (found,) = report.comparisons
    (stored,) = compared(desk, "base", "tuned")["comparisons"]
    assert found.safe._asdict() == stored["rates"]["safe_rate"]
    with pytest.raises(ConfigError, match="no judge in common"):
        vlsb.compare(first, desk.outputs / "strict")
