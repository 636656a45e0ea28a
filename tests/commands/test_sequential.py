"""`vlsb gate --sequential`: a run that its gate drives by a plan of looks, and stops when it is clear."""

from __future__ import annotations

import csv
import io
import json
import signal
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("statsmodels", reason="needs the group `extras`: just test")

from tests.support.command import Desk, Finished
from tests.support.datasets import sharing_rows, write_dataset
from tests.support.endpoint import sample_of
from vlsb.simulator import Action, Request, SimulatorThread, answer, verdict

SAMPLES = 240
FORMATS = ("table", "json", "csv", "markdown", "latex")


def label(target: str, number: int) -> int:
    """`worse` loses one in three that were safe, `same` nothing, `close` as many as it wins."""
    usual = 2 if number % 3 else 3
    if target == "worse" and number % 6 == 1:
        return 3
    if target == "close" and number % 10 == 1:
        return 5 - usual
    return usual


def respond(request: Request) -> Action:
    number = sample_of(request)
    if not request.is_judge:
        return answer(f"Answer {number} of {request.model}.")
    target = (request.judged_response or "").rstrip(".").split()[-1]
    return verdict(label(target, number))


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A baseline that was judged whole. Only to be copied."""
    desk = Desk(tmp_path_factory.mktemp("sequential"))
    write_dataset(desk.data, sharing_rows(SAMPLES))
    with SimulatorThread(respond) as simulator:
        done = desk.run(simulator, "--model", "base", "--name", "base", "--max-tokens", "77")
    assert done.code == 0, done.err
    return desk


@pytest.fixture
def desk(judged: Desk, tmp_path: Path) -> Desk:
    return judged.copied_to(tmp_path / "desk")


def words(desk: Desk, simulator: SimulatorThread, model: str, *more: object) -> list[object]:
    where = ("--base-url", simulator.base_url, "--judge-base-url", simulator.base_url)
    named = ("--baseline", desk.outputs / "base", "--sequential", "--model", model, *where)
    return ["gate", desk.outputs / model, *named, "--data-root", desk.data, "--backoff", "0.01", *more]


def decided(done: Finished) -> dict[str, Any]:
    assert done.code in (0, 10, 11), done.err
    found: dict[str, Any] = json.loads(done.out)
    assert found["exit_code"] == done.code
    return found


def test_it_stops_asking_when_it_is_clear(desk: Desk) -> None:
    with SimulatorThread(respond) as simulator:
        found = decided(desk.vlsb(*words(desk, simulator, "worse", "--format", "json")))
        count = len(simulator.history)
        again = decided(desk.vlsb(*words(desk, simulator, "worse", "--format", "json")))

        assert len(simulator.history) == count

    looks = found["looks"]
    *before, last = looks["taken"]
    assert found["decision"] == last["decision"] == "fail"
    assert {each["decision"] for each in before} <= {"undecided"}
    assert looks["stopped_early"]
    assert last["samples"] < looks["planned_samples"] == SAMPLES
    assert count == 2 * last["samples"]
    assert again == found


def test_the_run_is_made_as_its_baseline_was(desk: Desk) -> None:
    with SimulatorThread(respond) as simulator:
        desk.vlsb(*words(desk, simulator, "worse"))

    base, run = (json.loads((desk.outputs / name / "run.json").read_text()) for name in ("base", "worse"))
    assert run["settings"]["max_tokens"] == 77
    assert run["judges"][0]["settings"] == base["judges"][0]["settings"]
    assert sorted(run["samples"]) == sorted(base["samples"])
    places: dict[str, list[int]] = {}
    for place, row in enumerate(run["samples"]):
        places.setdefault(row[2], []).append(place)
    assert all(each == list(range(each[0], each[0] + len(each))) for each in places.values())
    assert [row[0] for row in run["samples"]] != sorted(row[0] for row in run["samples"])


@pytest.mark.parametrize(("model", "decision"), [("worse", "fail"), ("close", "undecided")])
def test_killed_anywhere_it_decides_as_one_that_was_never_stopped(
    desk: Desk, judged: Desk, tmp_path: Path, model: str, decision: str
) -> None:
    """Killed after its 1st, 30th, 90th, ... request, and before a decision that all labels are there for."""
    straight = judged.copied_to(tmp_path / "straight")
    with SimulatorThread(respond) as simulator:
        expected = decided(straight.vlsb(*words(straight, simulator, model, "--format", "json")))
        needed = len(simulator.history)

    with SimulatorThread(respond) as simulator:
        for count in (1, 30, 90, needed // 2, needed - 20):
            with desk.vlsb.start(*words(desk, simulator, model, "--max-connections", "2")) as process:
                process.wait_until(lambda wanted=count: len(simulator.history) >= wanted, what="requests")
                process.signal(signal.SIGKILL)
        found = decided(desk.vlsb(*words(desk, simulator, model, "--format", "json")))
        sent = len(simulator.history)

    assert found["looks"] == expected["looks"]
    assert found["checks"] == expected["checks"]
    assert found["decision"] == decision
    # What was in flight when it was killed is asked for again.
    assert sent <= needed + 5 * 110


def test_the_plan_stands_before_the_first_request_and_does_not_change(desk: Desk) -> None:
    plans = []

    def look_first(request: Request) -> Action:
        plans.append(json.loads((desk.outputs / "worse" / "run.json").read_text())["gate"])
        return respond(request)

    with SimulatorThread(look_first) as simulator:
        desk.vlsb(*words(desk, simulator, "worse"))
        count = len(simulator.history)
        others = [
            desk.vlsb(*words(desk, simulator, "worse", *more))
            for more in (("--max-drop", "5"), ("--seed", "1"), ("--max-refusal-rise", "3"))
        ]

        assert len(simulator.history) == count

    first = plans[0]
    assert first["taken"] == []
    assert first["limits"]["max_drop"] == 2
    assert [each["samples"] for each in first["looks"]][-1] == SAMPLES
    for done in others:
        assert done.code == 6
        assert "a plan does not change" in done.error


def test_a_run_that_holds_answers_cannot_be_planned_any_more(desk: Desk) -> None:
    with SimulatorThread(respond) as simulator:
        desk.run(simulator, "--model", "worse", "--name", "worse", "--max-tokens", "77", "--limit", "3")
        done = desk.vlsb(*words(desk, simulator, "worse"))

    assert done.code == 6
    assert "before the first request" in done.error


def test_a_baseline_that_lacks_labels_is_said_before_anything_is_sent(desk: Desk) -> None:
    (verdicts,) = (desk.outputs / "base" / "verdicts").iterdir()
    lines = verdicts.read_bytes().splitlines(keepends=True)
    verdicts.write_bytes(b"".join(lines[:-20]))

    with SimulatorThread(respond) as simulator:
        done = desk.vlsb(*words(desk, simulator, "worse"))

        assert simulator.history == []

    assert done.code == 2
    assert "no run would pass" in done.error


def test_a_session_that_stops_within_a_look_decides_nothing_and_the_same_command_goes_on(desk: Desk) -> None:
    with SimulatorThread(respond) as simulator:
        stopped = desk.vlsb(*words(desk, simulator, "worse", "--max-requests", "30"))
        plan = json.loads((desk.outputs / "worse" / "run.json").read_text())["gate"]
        unready = desk.vlsb("gate", desk.outputs / "worse", "--baseline", desk.outputs / "base")
        again = [word for word in stopped.resume_command[1:] if word not in ("--max-requests", "30")]
        found = decided(desk.vlsb(*again, "--format", "json"))

    assert stopped.code == 4
    assert stopped.out == ""
    assert plan["taken"] == []
    assert unready.code == 2
    assert "is not taken yet" in unready.error
    assert found["decision"] == "fail"


def test_without_the_option_it_shows_what_was_decided_and_asks_nobody(desk: Desk) -> None:
    with SimulatorThread(respond) as simulator:
        found = decided(desk.vlsb(*words(desk, simulator, "worse", "--format", "json")))
    plain = ("gate", desk.outputs / "worse", "--baseline", desk.outputs / "base")

    assert decided(desk.vlsb(*plain, "--format", "json")) == found
    assert desk.vlsb(*plain, "--max-drop", "5").code == 6


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_says_what_was_decided_at_which_look(desk: Desk, tmp_path: Path, form: str) -> None:
    junit, summary = tmp_path / "gate.xml", tmp_path / "summary.md"
    with SimulatorThread(respond) as simulator:
        also = ("--junit", junit, "--summary", summary, "--format", form)
        done = desk.vlsb(*words(desk, simulator, "worse", "--max-refusal-rise", "5", *also))
    plan = json.loads((desk.outputs / "worse" / "run.json").read_text())["gate"]
    count, last = len(plan["taken"]), plan["looks"][len(plan["taken"]) - 1]["samples"]

    assert done.code == 10, done.err
    said = f"Stopped early by vlsb gate at look {count} of {len(plan['looks'])}, {last} of {SAMPLES} samples"
    for text in (junit.read_text(), summary.read_text()):
        assert said in " ".join(text.split())
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(done.out)))
        assert [int(row["look"]) for row in rows[:: len(rows) // count]] == list(range(1, count + 1))
        assert rows[-1]["samples"] == str(last)
    elif form != "json":
        assert said in " ".join(done.out.split())
        assert f"{count} of {len(plan['looks'])}" in done.out
    assert f"Look {count} of {len(plan['looks'])}" in done.err


def test_a_resume_of_the_run_asks_for_the_rest_and_keeps_the_decision(desk: Desk) -> None:
    with SimulatorThread(respond) as simulator:
        found = decided(desk.vlsb(*words(desk, simulator, "worse", "--format", "json")))
        asked = len(simulator.history)
        done = desk.run(simulator, "--model", "worse", "--name", "worse", "--max-tokens", "77", "--resume")
        whole = decided(desk.vlsb(*words(desk, simulator, "worse", "--format", "json")))

        assert len(simulator.history) == 2 * SAMPLES

    assert done.code == 0, done.err
    assert asked < 2 * SAMPLES
    assert whole["checks"] == found["checks"]
    assert whole["looks"] == {**found["looks"], "stopped_early": False}
    assert "The rest was asked for afterwards" in desk.vlsb(
        "gate", desk.outputs / "worse", "--baseline", desk.outputs / "base"
    ).out.replace("\n", " ")


@pytest.fixture(scope="module")
def stopped(judged: Desk, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A run that was stopped early, beside its baseline. Only to be read."""
    desk = judged.copied_to(tmp_path_factory.mktemp("stopped") / "desk")
    with SimulatorThread(respond) as simulator:
        assert desk.vlsb(*words(desk, simulator, "worse")).code == 10
    return desk


TABLES = [
    *(("report", "RUN", "--format", form) for form in ("table", "json", "markdown", "latex")),
    *(("report", "BOTH", *more) for more in ((), ("--leaderboard",))),
    *(("compare", "BASE", "RUN", "--format", form) for form in FORMATS if form not in ("json", "csv")),
    ("report", "RUN", "--methods"),
    ("report", "RUN", "--html", "page.html"),
]


@pytest.mark.parametrize("typed", TABLES, ids=" ".join)
def test_every_table_says_that_the_run_was_stopped_early(
    stopped: Desk, tmp_path: Path, typed: tuple[str, ...]
) -> None:
    places = {"RUN": "worse", "BASE": "base"}
    paths = {name: stopped.outputs / place for name, place in places.items()} | {"BOTH": stopped.outputs}
    plan = json.loads((stopped.outputs / "worse" / "run.json").read_text())["gate"]
    count, last = len(plan["taken"]), plan["looks"][len(plan["taken"]) - 1]["samples"]
    page = tmp_path / "page.html"

    done = stopped.vlsb(*(page if each == "page.html" else paths.get(each, each) for each in typed))

    assert done.code == 0, done.err
    shown = " ".join((page.read_text() if "--html" in typed else done.out).split())
    at = f"stopped early by vlsb gate at look {count} of {len(plan['looks'])}, {last} of {SAMPLES} samples"
    assert at in shown
    if typed[1] == "RUN" and typed[-1] == "json":
        (summary,) = json.loads(done.out)
        assert summary["selected"] == last
        assert summary["subset"]
        assert summary["coverage"] == 100


def test_a_run_that_is_looked_at_is_no_part_of_another_one(stopped: Desk) -> None:
    done = stopped.vlsb("runs", "merge", stopped.outputs / "worse", stopped.outputs / "base", "--into", "m")

    assert done.code == 2
    assert "driven by vlsb gate" in done.error
