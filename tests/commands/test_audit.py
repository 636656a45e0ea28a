"""`vlsb audit`: what is drawn, labelled at a terminal, taken out and in, and reported."""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Desk
from tests.support.datasets import sharing_rows, write_dataset
from tests.support.endpoint import sample_of
from tests.support.run_files import tree
from tests.support.waiting import DEADLINE_S
from vlsb.simulator import Action, Request, SimulatorThread, answer, verdict

SAMPLES = 24
HOSTILE = "\x1b[2J\x1b]0;title\x07\x9b31m[bold]no markup[/bold]\u202e\n1  refusal   labelled by nobody"
SHEETS = {"csv": "audit-ann.csv", "label-studio": "audit-ann.json"}


def respond(request: Request) -> Action:
    """Every fourth is refused and every third warned of, to the first judge; the other finds all unsafe."""
    number = sample_of(request)
    if not request.is_judge:
        return answer(HOSTILE if number == 5 else f"=Answer({number})")
    if request.model == "other-judge":
        return verdict(3, "SECRET of the judge")
    return verdict(1 if number % 4 == 0 else 2 if number % 3 == 0 else 3, "SECRET of the judge")


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A run with two judges over images of which some have several samples. Only to be copied."""
    desk = Desk(tmp_path_factory.mktemp("audit"))
    write_dataset(desk.data, sharing_rows(SAMPLES))
    with SimulatorThread(respond) as simulator:
        assert desk.run(simulator).code == 0
        words = ("--judge", "other-judge", "--judge-base-url", simulator.base_url, "--data-root", desk.data)
        assert desk.vlsb("judge", desk.run_dir, *words).code == 0
    return desk


@pytest.fixture
def desk(judged: Desk, tmp_path: Path) -> Desk:
    """A copy of the run, with a sample drawn from it."""
    desk = judged.copied_to(tmp_path / "desk")
    done = desk.vlsb("audit", "sample", desk.run_dir, "--n", 12)
    assert done.code == 0, done.err
    return desk


def audit(desk: Desk) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((desk.run_dir / "audit.json").read_text())
    return found


def human_rows(desk: Desk, name: str = "ann") -> list[dict[str, Any]]:
    """The labels of an annotator, as they lie on the disk."""
    path = desk.run_dir / "verdicts" / f"human-{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class Person:
    """Somebody at a terminal, who presses a key when the page that asks for it is there."""

    def __init__(self, desk: Desk, name: str, *words: str, environment: dict[str, str] | None = None) -> None:
        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        self.seen = ""
        self._read = 0
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vlsb", "audit", "label", str(desk.run_dir), "--annotator", name, *words],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=desk.home,
            env={"HOME": str(desk.home), "PATH": os.environ["PATH"], "TERM": "xterm", **(environment or {})},
            start_new_session=True,
        )
        self.before = termios.tcgetattr(theirs)
        self._theirs = theirs

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Return when new words match; what came before them counts as read."""
        ends_at = time.monotonic() + DEADLINE_S
        while (found := re.compile(pattern, re.DOTALL).search(self.seen, self._read)) is None:
            assert time.monotonic() < ends_at, self.seen[self._read :]
            if select.select([self.ours], [], [], 0.2)[0]:
                self.seen += os.read(self.ours, 65536).decode()
        self._read = found.end()
        return found

    def page(self) -> re.Match[str]:
        """The next page: its `answer`, and how many have been labelled."""
        return self.wait_for(r"of \d+, (?P<labelled>\d+) labelled.*?Answer\((?P<answer>\d+)\).*?stop\r\n")

    def press(self, keys: str | bytes) -> None:
        os.write(self.ours, keys.encode() if isinstance(keys, str) else keys)

    def end(self) -> int:
        """The exit code, after the terminal has its own settings again."""
        code = self.process.wait(DEADLINE_S)
        while select.select([self.ours], [], [], 0.1)[0]:
            self.seen += os.read(self.ours, 65536).decode()
        return code


@contextmanager
def at_terminal(desk: Desk, name: str = "ann", *words: str, **how: Any) -> Iterator[Person]:
    person = Person(desk, name, *words, **how)
    try:
        yield person
    finally:
        person.process.kill()
        person.process.wait()
        os.close(person.ours)
        os.close(person._theirs)


def without_hostile(desk: Desk) -> None:
    """Leave the one response out whose page has no answer to wait for."""
    path = desk.run_dir / "audit.json"
    found = json.loads(path.read_text())
    found["items"] = [each for each in found["items"] if each[0] != 5]
    path.write_text(json.dumps(found))


def test_whole_images_of_every_stratum_are_drawn_and_weigh_what_the_frame_has(desk: Desk) -> None:
    found = audit(desk)
    drawn = {(item[0], item[3]) for item in found["items"]}
    manifest = {row[0]: row[2] for row in desk.manifest()["samples"]}
    images = {image for _, image in drawn}

    assert drawn == {(number, path) for number, path in manifest.items() if path in images}
    assert {stratum for image, stratum, _ in found["frame"] if image in images} == {
        stratum for _, stratum, _ in found["frame"]
    }
    weights = {item[3]: item[4] for item in found["items"]}
    assert sum(weights.values()) == pytest.approx(len(found["frame"]))
    assert 12 <= len(drawn) <= 14


def test_the_same_draw_again_changes_nothing_and_a_larger_one_keeps_it(desk: Desk) -> None:
    old = audit(desk)
    assert desk.vlsb("audit", "sample", desk.run_dir, "--n", 12).code == 0
    assert audit(desk) == old

    assert desk.vlsb("audit", "sample", desk.run_dir, "--n", 18).code == 0
    new = audit(desk)
    assert {tuple(each[:4]) for each in old["items"]} < {tuple(each[:4]) for each in new["items"]}
    assert new["frame"] == old["frame"]
    for words in (("--n", 12), ("--n", 18, "--seed", 1)):
        refused = desk.vlsb("audit", "sample", desk.run_dir, *words)
        assert refused.code == 2
        assert "a sample of 18 was drawn with seed 0" in refused.error


def test_a_key_is_a_label_on_the_disk_and_a_kill_loses_none(desk: Desk) -> None:
    without_hostile(desk)
    count = len(audit(desk)["items"])
    with at_terminal(desk) as person:
        first = int(person.page()["answer"])
        person.press("3")
        second = int(person.page()["answer"])
        person.press("1")
        person.page()
        person.process.send_signal(signal.SIGKILL)
        assert person.end() == -signal.SIGKILL
    rows = human_rows(desk)
    assert [(row["sample_id"], row["label"]) for row in rows] == [(first, "unsafe"), (second, "safe_refusal")]
    assert [row["attempts"] for row in rows] == [0, 0]

    with at_terminal(desk) as person:
        for done in range(2, count):
            page = person.page()
            assert int(page["labelled"]) == done
            assert int(page["answer"]) not in {row["sample_id"] for row in human_rows(desk)}
            person.press("2")
        person.wait_for("All are labelled")
        person.press("u")
        assert int(person.page()["labelled"]) == count - 1
        person.press("2")
        person.wait_for("All are labelled")
        person.press("q")
        assert person.end() == 0
    assert f"{count} of {count} responses are labelled by ann." in person.seen
    (summary,) = [each for each in desk.report() if each["judge"] == "human-ann"]
    assert summary["judged"] == count
    assert summary["outcomes"]["unsafe"] == 1


def test_a_label_can_be_taken_back_even_if_nothing_follows(desk: Desk) -> None:
    without_hostile(desk)
    with at_terminal(desk) as person:
        person.page()
        person.press("u")
        person.wait_for("nothing to take back")
        person.press("3")
        page = person.page()
        assert page["labelled"] == "1"
        person.press("u")
        again = person.page()
        assert again["labelled"] == "0"
        person.press("q")
        assert person.end() == 0
        assert termios.tcgetattr(person._theirs) == person.before

    assert [row["response_sha256"] == "" for row in human_rows(desk)] == [False, True]
    (summary,) = [each for each in desk.report() if each["judge"] == "human-ann"]
    assert summary["judged"] == 0


def test_what_is_skipped_comes_last_and_what_is_no_key_labels_nothing(desk: Desk) -> None:
    without_hostile(desk)
    with at_terminal(desk) as person:
        first = person.page()["answer"]
        # Home in some terminals, and a paste: both hold digits.
        person.press(b"\x1b[1~")
        person.wait_for("stop\r\n")
        person.press("123")
        person.wait_for("stop\r\n")
        person.press("s")
        for _ in range(len(audit(desk)["items"]) - 1):
            assert person.page()["answer"] != first
            person.press("2")
        assert person.page()["answer"] == first
        person.press("q")
        assert person.end() == 0

    assert {row["label"] for row in human_rows(desk)} == {"safe_warning"}


def test_ctrl_c_ends_as_anywhere_and_keeps_what_was_labelled(desk: Desk) -> None:
    without_hostile(desk)
    with at_terminal(desk) as person:
        person.page()
        person.press("1")
        person.page()
        person.process.send_signal(signal.SIGINT)
        assert person.end() == 130
        assert termios.tcgetattr(person._theirs) == person.before

    assert len(human_rows(desk)) == 1


def test_a_terminal_that_is_gone_ends_the_session_and_nothing_is_lost(desk: Desk) -> None:
    without_hostile(desk)
    with at_terminal(desk) as person:
        person.page()
        person.press("1")
        person.page()
        os.close(person._theirs)
        os.close(person.ours)
        assert person.process.wait(DEADLINE_S) in (0, 5)
        person.ours, person._theirs = os.pipe()

    assert len(human_rows(desk)) == 1
    assert desk.vlsb("report", desk.run_dir).code == 0


def test_nobody_sees_a_label_a_model_or_an_escape(desk: Desk) -> None:
    """Two annotators are apart, too: each begins with nothing and in an order of their own."""
    orders = []
    for name in ("ann", "bob"):
        with at_terminal(desk, name) as person:
            order = []
            for _ in audit(desk)["items"]:
                found = person.wait_for(r"of \d+, \d+ labelled.*?stop\r\n")[0]
                order += re.findall(r"Question (\d+)", found)
                person.press("3")
            person.wait_for("All are labelled")
            person.press("q")
            assert person.end() == 0
        orders.append(order)
        for word in ("SECRET", "safe_refusal", "judge-model", "target-model", "weight"):
            assert word not in person.seen
        assert "\x1b[2J" not in person.seen
        assert "\x1b]0;" not in person.seen
        assert "\x9b" not in person.seen
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]


def test_an_image_is_opened_only_when_asked_for(desk: Desk, tmp_path: Path) -> None:
    without_hostile(desk)
    viewers = tmp_path / "viewers"
    viewers.mkdir()
    viewer = viewers / ("open" if sys.platform == "darwin" else "xdg-open")
    viewer.write_text(f'#!/bin/sh\ncp "$1" {tmp_path}/shown\nmv {tmp_path}/shown {tmp_path}/done\n')
    viewer.chmod(0o700)
    path = f"{viewers}:{os.environ['PATH']}"
    with at_terminal(desk, "ann", environment={"PATH": path}) as person:
        person.page()
        person.press("d")
        person.wait_for("One colour")
        assert list(tmp_path.glob("shown")) + list(tmp_path.glob("done")) == []
        person.press("i")
        person.wait_for("opened with (xdg-)?open; the image is ")
        ends_at = time.monotonic() + DEADLINE_S
        while not (tmp_path / "done").exists():
            assert time.monotonic() < ends_at
            time.sleep(0.01)
    assert (tmp_path / "done").read_bytes().startswith(b"\x89PNG")


def test_another_image_than_the_targets_is_not_shown(desk: Desk) -> None:
    without_hostile(desk)
    shown = {item[3] for item in audit(desk)["items"]}
    for name in shown:
        path = desk.data / name
        path.write_bytes(path.read_bytes() + b"changed")
    words = ("--data-root", str(desk.data))
    with at_terminal(desk, "ann", *words) as person:
        person.page()
        person.press("i")
        person.wait_for("image is not the one that the target was sent")
    assert "opened with" not in person.seen


def test_labelling_needs_a_terminal_a_sample_and_the_runs_data(desk: Desk, judged: Desk) -> None:
    no_terminal = desk.vlsb("audit", "label", desk.run_dir, "--annotator", "ann")
    assert no_terminal.code == 2
    assert "vlsb audit label needs a terminal" in no_terminal.error
    undrawn = desk.vlsb("audit", "export", judged.run_dir, "--annotator", "ann")
    assert undrawn.code == 2
    assert "vlsb audit sample" in undrawn.error
    write_dataset(desk.data, 3)
    words = ("--annotator", "ann", "--data-root", desk.data)
    other = desk.vlsb("audit", "export", desk.run_dir, *words)
    assert other.code == 6
    assert "another row" in other.error
    named = desk.vlsb("audit", "export", desk.run_dir, "--annotator", "../x")
    assert named.code == 2


def filled(desk: Desk, form: str, labels: Sequence[str]) -> Path:
    """The exported sheet with these labels in it, in turn."""
    assert desk.vlsb("audit", "export", desk.run_dir, "--annotator", "ann", "--format", form).code == 0
    path = desk.run_dir / SHEETS[form]
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(path.read_text("utf-8"))))
        for number, row in enumerate(rows):
            row["label"] = labels[number % len(labels)]
        text = io.StringIO()
        writer = csv.DictWriter(text, rows[0].keys(), delimiter=";")
        writer.writeheader()
        writer.writerows(rows)
        path.write_text("\ufeff" + text.getvalue(), "utf-8")
        return path
    names = {"1": "safe_refusal", "2": "safe_warning", "3": "unsafe"}
    tasks = json.loads(path.read_text())
    for number, task in enumerate(tasks):
        choice = {"choices": [names[labels[number % len(labels)]]]}
        result = [{"from_name": "label", "to_name": "response", "type": "choices", "value": choice}]
        cancelled = {"result": [], "was_cancelled": True, "completed_by": 8}
        task["annotations"] = [cancelled, {"result": result, "was_cancelled": False, "completed_by": 7}]
    path.write_text(json.dumps(tasks))
    return path


@pytest.mark.parametrize("form", ["csv", "label-studio"])
def test_a_sheet_goes_out_without_labels_and_comes_back_once(desk: Desk, form: str) -> None:
    sheet = filled(desk, form, "1233")
    text = sheet.read_text()
    assert "SECRET" not in text
    assert "judge-model" not in text
    assert sheet.stat().st_mode & 0o077 == 0
    words = ("audit", "import", desk.run_dir, sheet, "--annotator", "ann")
    count = len(audit(desk)["items"])

    assert f"{count} labels were read: {count} new, 0 changed, 0 as they were." in desk.vlsb(*words).out
    assert f"0 new, 0 changed, {count} as they were." in desk.vlsb(*words).out
    assert len(human_rows(desk)) == count
    assert desk.vlsb("audit", "export", desk.run_dir, "--annotator", "ann", "--format", form).code == 2


def test_a_cell_of_the_sheet_is_never_a_formula(desk: Desk) -> None:
    filled(desk, "csv", "1")
    rows = csv.DictReader(io.StringIO((desk.run_dir / SHEETS["csv"]).read_text("utf-8-sig")), delimiter=";")

    assert {row["response"][:2] for row in rows if "Answer" in row["response"]} == {"'="}


def test_one_wrong_row_and_nothing_is_imported(desk: Desk) -> None:
    sheet = filled(desk, "csv", "1")
    before = tree(desk.run_dir)
    good = sheet.read_text("utf-8-sig")
    first = good.splitlines()[1]
    item, sha = first.split(";")[0], audit(desk)["items"][0][2]
    cases = {
        good.replace(";1;", ";4;", 1): "line 2: its label is not 1, 2, 3",
        good.replace(item, "s999e1-00000000", 1): "is not an item of this run",
        good + first + "\n": f"{item} has two labels",
        good.replace(sha, "0" * 64): "is not an item of this run",
        good.replace("label", "labels", 1): "no column label",
        "[{}]": "task 1: not a task",
        '[{"annotations": [5]}]': "task 1: not a task",
        '[{"data": {"item": "a", "response_sha256": "b"}, "annotations": [{"result": [7]}]}]': "task 1: not",
        "[": "The sheet is not JSON",
    }
    for text, problem in cases.items():
        sheet.write_text(text)
        refused = desk.vlsb("audit", "import", desk.run_dir, sheet, "--annotator", "ann")
        assert refused.code == 2
        assert problem in refused.error
    after = tree(desk.run_dir)
    del before[SHEETS["csv"]], after[SHEETS["csv"]]
    assert after == before


def noted(sheet: Path, form: str, note: str) -> None:
    """Write a note beside the first label of a sheet."""
    if form == "csv":
        text = sheet.read_text("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text), delimiter=";"))
        rows[0]["note"] = note
        out = io.StringIO()
        writer = csv.DictWriter(out, rows[0].keys(), delimiter=";")
        writer.writeheader()
        writer.writerows(rows)
        sheet.write_text(out.getvalue())
        return
    tasks = json.loads(sheet.read_text())
    value = {"text": [note]}
    result = tasks[0]["annotations"][-1]["result"]
    result.append({"from_name": "note", "to_name": "response", "type": "textarea", "value": value})
    sheet.write_text(json.dumps(tasks))


@pytest.mark.parametrize("form", ["csv", "label-studio"])
def test_a_note_that_is_added_later_is_stored_and_survives_the_next_sheet(desk: Desk, form: str) -> None:
    sheet = filled(desk, form, "1")
    words = ("audit", "import", desk.run_dir, sheet, "--annotator", "ann")
    assert desk.vlsb(*words).code == 0
    count = len(human_rows(desk))
    noted(sheet, form, "looks at; =the knife")

    assert "0 new, 1 changed" in desk.vlsb(*words).out
    assert [row["explanation"] for row in human_rows(desk)[count:]] == ["looks at; =the knife"]
    sheet.unlink()
    assert desk.vlsb("audit", "export", desk.run_dir, "--annotator", "ann", "--format", form).code == 0
    assert "looks at;" in sheet.read_text()
    assert "0 new, 0 changed" in desk.vlsb(*words).out
    assert len(human_rows(desk)) == count + 1


def test_of_several_annotators_in_label_studio_one_is_chosen(desk: Desk) -> None:
    sheet = filled(desk, "label-studio", "1")
    tasks = json.loads(sheet.read_text())
    choice = {"choices": ["unsafe"]}
    other = {"from_name": "label", "to_name": "response", "type": "choices", "value": choice}
    tasks[0]["annotations"].append({"result": [other], "completed_by": {"id": 9, "email": "bob@example.com"}})
    sheet.write_text(json.dumps(tasks))
    words = ("audit", "import", desk.run_dir, sheet, "--annotator")

    assert "choose whose with --completed-by" in desk.vlsb(*words, "ann").error
    assert desk.vlsb(*words, "ann", "--completed-by", "7").code == 0
    assert desk.vlsb(*words, "bob", "--completed-by", "bob@example.com").code == 0
    assert {row["label"] for row in human_rows(desk, "ann")} == {"safe_refusal"}
    assert [row["label"] for row in human_rows(desk, "bob")] == ["unsafe"]


def test_the_report_compares_people_and_judges_in_every_format(desk: Desk) -> None:
    assert "nobody has labelled yet" in desk.vlsb("audit", "report", desk.run_dir).error
    sheet = filled(desk, "csv", "123")
    for name in ("ann", "bob"):
        assert desk.vlsb("audit", "import", desk.run_dir, sheet, "--annotator", name).code == 0

    done = desk.vlsb("audit", "report", desk.run_dir, "--format", "json")
    found = json.loads(done.out)
    assert found["annotators"] == {"human-ann": found["drawn"], "human-bob": found["drawn"]}
    pairs = {(each["truth"], each["found"]) for each in found["compared"]}
    judges = ("judge-model", "other-judge")
    people = ("human-ann", "human-bob")
    assert pairs == {people, *((person, judge) for person in people for judge in judges)}
    between = found["compared"][0]
    assert (between["is_between_people"], between["agreement"]["percent"], between["kappa"]) == (True, 100, 1)
    always = next(each for each in found["compared"] if each["found"] == "other-judge")
    assert always["sensitivity"]["unsafe"]["percent"] == 100
    assert always["specificity"]["unsafe"]["percent"] == 0
    assert always["sensitivity"]["safe_refusal"]["percent"] == 0
    # Without the extra the report says where corrected rates come from.
    assert bool(found["corrected"]) is not bool(found["notes"])
    for form, begins in {
        "table": "Human labels: ",
        "csv": '"run","labels","measured_by"',
        "markdown": "### Human labels",
        "latex": "% \\usepackage{booktabs}\n",
    }.items():
        done = desk.vlsb("audit", "report", desk.run_dir, "--format", form)
        assert done.code == 0, done.err
        assert done.out.startswith(begins)
    assert "not one of" in desk.vlsb("audit", "report", desk.run_dir, "--format", "xml").error


def test_a_response_that_was_replaced_since_the_draw_is_nobodys_item(desk: Desk) -> None:
    path = desk.run_dir / "responses.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    drawn = audit(desk)["items"][0]
    (row,) = [each for each in rows if each["sample_id"] == drawn[0]]
    text = "Another answer."
    changed = {**row, "text": text, "response_sha256": hashlib.sha256(text.encode()).hexdigest()}
    with path.open("a") as file:
        file.write(json.dumps(changed) + "\n")
    sheet = filled(desk, "csv", "3")

    assert drawn[2] not in sheet.read_text()
    assert desk.vlsb("audit", "import", desk.run_dir, sheet, "--annotator", "ann").code == 0
    assert "1 drawn response" in desk.vlsb("audit", "report", desk.run_dir).out
