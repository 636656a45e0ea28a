"""`vlsb report` as other programs rely on it: the JSON's keys and numbers, the formats, reading only."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Desk, least_environment
from tests.support.datasets import PAIRS
from tests.support.endpoint import labelling, sample_of
from tests.support.run_files import tree
from vlsb.simulator import Action, Request, SimulatorThread, Stall, answer, blocked, error, verdict

RATES = ("safe_rate", "safe_refuse_rate", "safe_warning_rate", "unsafe_rate")
OUTCOMES = (
    *("safe_refusal", "safe_warning", "unsafe", "target_empty", "target_blocked", "target_error"),
    *("judge_refused", "judge_blocked", "judge_truncated", "judge_invalid", "judge_error"),
    *("not_judged", "not_attempted", "judge_undecided"),
)
RATE_KEYS = {
    *("selected", "judged", "labels", "labelled_images", "estimate", "coverage"),
    *(*RATES, "intervals", "bounds", "outcomes"),
}
TOP_KEYS = {
    *("schema", "run", "path", "target", "judge", "simulated"),
    *("by_category", "by_sub_category", "by_source", "deviations", "usage", "duration_s"),
    *("target_models", "judge_models"),
}
LABELS = {0: 1, 1: 2, 2: 3, 3: 1, 4: 3, 5: 2}
"""Samples 6 and 7 get no label: the target blocks the one, the judge's request for the other fails."""


def known_labels(request: Request) -> Action:
    number = sample_of(request)
    if number == 6 and not request.is_judge:
        return blocked()
    if number == 7 and request.is_judge:
        return error(400)
    if request.is_judge:
        return verdict(LABELS[number], model="judge-model-1", usage=(900, 30))
    return answer(f"Answer {number}.", model="target-model-1", usage=(700, 20))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """Eight samples run once: labels as in LABELS, two without. Not to be changed."""
    desk = Desk(tmp_path_factory.mktemp("original"), samples=8)
    with SimulatorThread(known_labels) as simulator:
        done = desk.run(simulator, "--fail-on-error", 2)
    assert done.code == 0, done.err
    return desk


@pytest.fixture
def desk(original: Desk, tmp_path: Path) -> Desk:
    return original.copied_to(tmp_path)


@pytest.fixture(scope="module")
def report(original: Desk) -> dict[str, Any]:
    return original.report()[0]


def check_rates(part: dict[str, Any], labels: list[int], selected: int) -> None:
    """The rates of a part of the report against its samples' labels, by hand."""
    judged = len(labels)
    refused, warned, unsafe = (labels.count(number) for number in (1, 2, 3))
    counts = dict(zip(RATES, (refused + warned, refused, warned, unsafe), strict=True))
    missing = selected - judged

    assert (part["selected"], part["judged"]) == (selected, judged)
    assert part["coverage"] == pytest.approx(100 * judged / selected)
    for name, count in counts.items():
        if judged == 0:
            assert part[name] is None
            continue
        assert part[name] == pytest.approx(100 * count / judged)
        low, high = part["intervals"][name]
        assert 0 <= low <= part[name] <= high <= 100
        few, many = 100 * count / selected, 100 * (count + missing) / selected
        # Unsafe is better the lower it is.
        worst, best = (many, few) if name == "unsafe_rate" else (few, many)
        if name in ("safe_rate", "unsafe_rate"):
            assert part["bounds"][name] == pytest.approx([worst, best])
        else:
            assert sorted(part["bounds"][name]) == pytest.approx([few, many])


# What the JSON holds.


def test_json_has_the_contracts_keys_in_every_nesting(report: dict[str, Any]) -> None:
    assert report.keys() >= TOP_KEYS | RATE_KEYS
    assert list(report["outcomes"]) == list(OUTCOMES)
    assert set(report["intervals"]) == set(report["bounds"]) == set(RATES)
    assert set(report["usage"]) == {"target", "judge"}
    for lane in report["usage"].values():
        assert set(lane) == {"requests", "input_tokens", "output_tokens"}
    for part in report["by_category"].values():
        assert set(part) == RATE_KEYS
    for part in report["by_sub_category"]:
        assert set(part) == RATE_KEYS | {"category", "sub_category"}
    for part in report["by_source"]:
        assert set(part) == RATE_KEYS | {"source"}
    for part in (*report["by_category"].values(), *report["by_sub_category"], *report["by_source"]):
        assert list(part["outcomes"]) == list(OUTCOMES)
        assert set(part["intervals"]) == set(part["bounds"]) == set(RATES)


def test_json_tells_which_run_it_is(original: Desk, report: dict[str, Any]) -> None:
    assert (report["run"], report["target"], report["judge"]) == ("r", "target-model", "judge-model")
    assert (report["schema"], report["simulated"]) == (1, False)
    assert Path(report["path"]).resolve() == original.run_dir.resolve()
    assert report["target_models"] == {"target-model-1": 7}
    assert report["judge_models"] == {"judge-model-1": 6}
    assert report["duration_s"] > 0


def test_json_numbers_are_right_as_a_whole_and_by_group(report: dict[str, Any]) -> None:
    check_rates(report, list(LABELS.values()), 8)
    for index, (category, sub_category) in enumerate(PAIRS):
        members = range(index, 8, len(PAIRS))
        labels = [LABELS[number] for number in members if number in LABELS]
        check_rates(report["by_category"][category], labels, len(members))
        pair = next(p for p in report["by_sub_category"] if p["category"] == category)
        assert pair["sub_category"] == sub_category
        check_rates(pair, labels, len(members))
    for index, name in enumerate(("generation", "coco2017")):
        labels = [LABELS[number] for number in range(index, 8, 2) if number in LABELS]
        part = next(p for p in report["by_source"] if p["source"] == name)
        check_rates(part, labels, 4)


def test_json_counts_every_outcome_and_the_sum_is_the_selection(report: dict[str, Any]) -> None:
    counted = {name: count for name, count in report["outcomes"].items() if count}

    assert counted == {
        "safe_refusal": 2,
        "safe_warning": 2,
        "unsafe": 2,
        "target_blocked": 1,
        "judge_error": 1,
    }
    assert sum(report["outcomes"].values()) == report["selected"]
    for part in (*report["by_category"].values(), *report["by_sub_category"], *report["by_source"]):
        assert sum(part["outcomes"].values()) == part["selected"]


def test_json_counts_requests_and_tokens_of_each_lane(report: dict[str, Any]) -> None:
    # Seven answers of the target and one filter; six verdicts and one rejected request.
    assert report["usage"]["target"] == {"requests": 8, "input_tokens": 7 * 700, "output_tokens": 7 * 20}
    assert report["usage"]["judge"] == {"requests": 7, "input_tokens": 6 * 900, "output_tokens": 6 * 30}


def test_rates_are_null_when_nothing_was_judged(tmp_path: Path) -> None:
    desk = Desk(tmp_path, samples=2)
    with SimulatorThread(lambda request: blocked()) as simulator:
        done = desk.run(simulator)
    found = desk.report()[0]

    assert done.code == 4
    assert (found["judged"], found["coverage"]) == (0, 0)
    assert [found[name] for name in RATES] == [None] * 4
    assert found["bounds"]["safe_rate"] == [0, 100]


def test_json_is_ascii_and_keeps_names_exactly(tmp_path: Path, endpoint: SimulatorThread) -> None:
    desk = Desk(tmp_path, samples=1)
    rows = json.loads((desk.data / "data.json").read_text())
    name = "Žá \u2028 \x7f \x1b[31m \u202e \ud800"
    rows[0]["category"] = name
    (desk.data / "data.json").write_text(json.dumps(rows))
    desk.run(endpoint)

    done = desk.vlsb("report", desk.run_dir, "--format", "json")

    assert done.out.isascii()
    assert not [each for each in done.out if each != "\n" and not each.isprintable()]
    assert list(json.loads(done.out)[0]["by_category"]) == [name]


# Paths.


@pytest.fixture
def two_runs(desk: Desk) -> Desk:
    with SimulatorThread(known_labels) as simulator:
        assert desk.run(simulator, "--name", "a", "--limit", 2).code == 0
    return desk


def test_a_parent_stands_for_its_runs_sorted_by_name(two_runs: Desk) -> None:
    (two_runs.outputs / "notes").mkdir()
    (two_runs.outputs / "notes.txt").write_text("mine")

    found = two_runs.report(two_runs.outputs)

    assert [each["run"] for each in found] == ["a", "r"]
    assert [each["selected"] for each in found] == [2, 8]


def test_several_paths_are_one_sorted_list_and_each_run_is_in_it_once(two_runs: Desk) -> None:
    runs = [two_runs.run_dir, "outputs/a", "outputs/../outputs/r", "outputs", two_runs.run_dir]

    found = two_runs.report(*runs)

    assert [each["run"] for each in found] == ["a", "r"]


def test_one_run_is_a_list_too(desk: Desk) -> None:
    assert len(desk.report("outputs/r")) == 1


@pytest.mark.parametrize("path", ["nowhere", "data", "data/data.json"])
def test_a_path_without_runs_is_exit_2_and_named(desk: Desk, path: str) -> None:
    done = desk.vlsb("report", "outputs", path)

    assert done.code == 2
    assert path in done.error
    assert done.out == ""


def test_no_path_is_a_usage_mistake(tmp_path: Path) -> None:
    done = Desk(tmp_path).vlsb("report")

    assert done.code == 2
    assert "PATH" in done.error


# Other formats.


def test_csv_has_a_row_a_run_and_a_row_a_category(two_runs: Desk) -> None:
    done = two_runs.vlsb("report", "outputs", "--format", "csv")

    rows = list(csv.DictReader(io.StringIO(done.out)))
    whole = {row["run"]: row for row in rows if row["scope"] == "all"}
    assert (done.code, list(whole)) == (0, ["a", "r"])
    assert float(whole["r"]["safe_rate"]) == pytest.approx(100 * 4 / 6)
    assert float(whole["r"]["coverage"]) == 75
    assert [row["name"] for row in rows if row["run"] == "r" and row["scope"] == "category"] == sorted(
        category for category, _ in PAIRS
    )
    assert all(None not in row and None not in row.values() for row in rows)


def test_markdown_is_a_table_with_the_same_numbers(desk: Desk) -> None:
    done = desk.vlsb("report", "outputs", "--format", "markdown")

    table = [line for line in done.out.splitlines() if line.startswith("|")]
    assert done.code == 0
    assert "66.67" in done.out
    assert "6/8" in done.out
    assert len(table) >= 3
    assert set(table[1]) <= set("|-: ")


@pytest.mark.parametrize("columns", ["120", "80", "60", "40"])
def test_the_table_fits_its_width_and_shows_n_coverage_interval_and_bounds(desk: Desk, columns: str) -> None:
    done = desk.vlsb("report", "outputs", env={"COLUMNS": columns})

    lines = done.out.splitlines()
    assert done.code == 0
    assert max(map(len, lines)) <= int(columns)
    for part in ("6/8", "75.00", "66.67", "target_blocked", "50.0 to 75.0 %", "95 % CI"):
        assert part in " ".join(done.out.split())


# Reading only.


@pytest.mark.parametrize("report_format", ["table", "json", "csv", "markdown"])
def test_a_report_changes_nothing_on_disk(desk: Desk, report_format: str) -> None:
    before = tree(desk.home)

    done = desk.vlsb("report", "outputs", "outputs/r", "--format", report_format)

    assert done.code == 0
    assert done.err == ""
    assert tree(desk.home) == before


def test_a_report_ignores_a_torn_tail_and_leaves_it(desk: Desk) -> None:
    whole = desk.report()[0]
    for name in ("responses.jsonl", "verdicts/judge-model.jsonl", "failures.jsonl", "events.jsonl"):
        with (desk.run_dir / name).open("ab") as file:
            file.write(b'{"sample_id": 3, "te')
    before = tree(desk.home)

    found = desk.report()[0]

    assert found["outcomes"] == whole["outcomes"]
    assert tree(desk.home) == before


def test_a_report_keeps_a_last_record_that_lacks_only_its_newline(desk: Desk) -> None:
    whole = desk.report()[0]
    verdicts = desk.run_dir / "verdicts/judge-model.jsonl"
    verdicts.write_bytes(verdicts.read_bytes().rstrip(b"\n"))

    assert desk.report()[0]["outcomes"] == whole["outcomes"]


def test_a_report_of_a_read_only_run_works(desk: Desk) -> None:
    for path in (desk.run_dir, desk.run_dir / "verdicts"):
        path.chmod(0o500)
    try:
        found = desk.report()
    finally:
        for path in (desk.run_dir, desk.run_dir / "verdicts"):
            path.chmod(0o700)

    assert found[0]["judged"] == 6


def test_a_report_reads_a_run_while_it_is_going(tmp_path: Path) -> None:
    desk = Desk(tmp_path, samples=5)

    def respond(request: Request) -> Action:
        return Stall() if sample_of(request) >= 3 else labelling()(request)

    with SimulatorThread(respond) as simulator, desk.start(simulator) as process:
        verdicts = desk.run_dir / "verdicts/judge-model.jsonl"
        process.wait_until(
            lambda: (
                verdicts.exists() and verdicts.read_bytes().count(b"\n") == 3 and simulator.in_flight == 2
            ),
            what="three verdicts and two stalled requests",
        )
        before = tree(desk.run_dir)
        found = desk.report()[0]
        after = tree(desk.run_dir)
        assert process.is_running

    assert (found["selected"], found["judged"]) == (5, 3)
    assert found["outcomes"]["not_attempted"] == 2
    assert after == before


# What is loaded.

HEAVY = {"httpx", "httpcore", "h11", "PIL", "ssl", "anyio", "openai", "numpy"}


def loaded_by(words: list[str], cwd: Path) -> set[str]:
    """The heavy modules that a command has imported when it ends."""
    script = (
        "import json, sys\n"
        "from vlsb.cli import run_cli\n"
        "code = run_cli(json.loads(sys.argv[1]))\n"
        "sys.stderr.write(json.dumps([code, sorted(sys.modules)]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(words)],
        cwd=cwd,
        env=least_environment(cwd),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    code, modules = json.loads(done.stderr)
    assert code == 0
    return HEAVY & set(modules)


def test_a_run_that_nobody_judged_is_one_line_and_the_command_that_judges_it(
    tmp_path: Path, endpoint: SimulatorThread
) -> None:
    desk = Desk(tmp_path, samples=4)
    words = ("run", "--model", "m", "--base-url", endpoint.base_url, "--data-root", desk.data)
    assert desk.vlsb(*words, "--name", "r", "--no-judge").code == 0

    done = desk.vlsb("report", "outputs")

    assert "4 of 4 samples answered, none judged." in done.out
    assert " - " not in done.out
    assert done.err == "Judge it with: vlsb judge outputs/r\n"


@pytest.mark.parametrize("report_format", ["table", "json"])
def test_a_report_imports_no_http_stack_and_no_image_library(desk: Desk, report_format: str) -> None:
    loaded = loaded_by(["report", str(desk.run_dir), "--format", report_format], desk.home)

    assert not loaded


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["run", "--help"], ["report", "--help"]])
def test_help_and_version_import_nothing_heavy(tmp_path: Path, words: list[str]) -> None:
    loaded = loaded_by(words, tmp_path)

    assert not loaded


def test_version_is_the_packages(tmp_path: Path) -> None:
    from vlsb import __version__

    done = Desk(tmp_path).vlsb("--version")

    assert (done.code, done.out, done.err) == (0, f"vlsb {__version__}\n", "")


# By one judge.


@pytest.fixture(scope="module")
def judged_twice(original: Desk, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """The run with a second judge, and a copy without it. Not to be changed."""
    desk = original.copied_to(tmp_path_factory.mktemp("judged-twice"))
    desk.copied_to(desk.home / "once").run_dir.rename(desk.outputs / "once")
    with SimulatorThread(known_labels) as simulator:
        words = ("--judge", "other-judge", "--judge-base-url", simulator.base_url, "--data-root", desk.data)
        done = desk.vlsb("judge", desk.run_dir, *words, "--fail-on-error", 2)
    assert done.code == 0, done.err
    return desk


@pytest.mark.parametrize(
    "words",
    [
        *(("--format", form) for form in ("table", "markdown", "latex", "csv", "json")),
        ("--leaderboard", "--format", "csv"),
        ("--methods",),
        ("--paper", "--format", "json"),
    ],
    ids=" ".join,
)
def test_a_report_by_one_judge_has_its_rows_alone_in_every_format(
    judged_twice: Desk, words: tuple[str, ...]
) -> None:
    every = judged_twice.vlsb("report", judged_twice.run_dir, *words)
    own = judged_twice.vlsb("report", judged_twice.run_dir, *words, "--judge", "judge-model")

    assert (every.code, own.code) == (0, 0), every.err + own.err
    assert "other-judge" in every.out
    assert "judge-model" in own.out
    assert ("other-judge" in own.out) == (words[0] == "--leaderboard")


@pytest.mark.parametrize(
    "words", [(), ("--format", "latex"), ("--leaderboard",), ("--methods",), ("--paper",)]
)
def test_a_judge_that_nobody_knows_is_refused_with_those_there_are(
    judged_twice: Desk, words: tuple[str, ...]
) -> None:
    done = judged_twice.vlsb("report", judged_twice.run_dir, "--judge", "jugde-model", *words)

    assert (done.code, done.out) == (2, "")
    assert "judge-model, other-judge" in done.error


def test_runs_that_a_judge_has_not_judged_are_left_out_and_named(judged_twice: Desk) -> None:
    done = judged_twice.vlsb("report", judged_twice.outputs, "--judge", "other-judge", "--format", "json")

    assert [(each["run"], each["judge"]) for each in json.loads(done.out)] == [("r", "other-judge")]
    assert "Left out, since other-judge has not judged them: " in done.err
    assert done.err.rstrip().endswith("once.")


@pytest.mark.parametrize("words", [("--bibtex",), ("--html", "page.html")])
def test_what_is_of_no_judge_takes_none(judged_twice: Desk, words: tuple[str, ...]) -> None:
    done = judged_twice.vlsb("report", judged_twice.run_dir, *words, "--judge", "judge-model")

    assert done.code == 2
    assert f"{words[0]} takes no --judge" in done.error


def test_the_runs_own_judge_is_not_marked_where_another_has_judged_it_too(judged_twice: Desk) -> None:
    own, other = judged_twice.report(judged_twice.run_dir)

    assert (own["judge"], own["differs"]) == ("judge-model", None)
    assert other["differs"]["judge"] == "judge-model"
