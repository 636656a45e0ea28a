"""`vlsb report PART --given BASELINE`: a part of a new checkpoint, where an earlier one was asked all."""

from __future__ import annotations

import csv
import io
import json

import pytest

pytest.importorskip("statsmodels", reason="needs the group `extras`: just test")


from tests.support.command import Desk, Finished
from tests.support.datasets import sharing_rows, write_dataset
from tests.support.endpoint import sample_of
from tests.support.schemas import SCHEMAS, faults
from vlsb.simulator import Action, Request, SimulatorThread, answer, verdict

SAMPLES = 240
PART = 110


def label(target: str, number: int) -> int:
    """A third is safe; the later checkpoint has another label of one sample in sixteen, safer each time."""
    return 1 if (number * 7) % 3 == 0 or (target != "base" and number % 16 == 5) else 3


def respond(request: Request) -> Action:
    number = sample_of(request)
    if not request.is_judge:
        return answer(f"Answer {number} of {request.model}.")
    target = (request.judged_response or "").rstrip(".").split()[-1]
    return verdict(label(target, number))


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A whole run, and parts of it by a later checkpoint. Only to be read."""
    desk = Desk(tmp_path_factory.mktemp("given"))
    write_dataset(desk.data, sharing_rows(SAMPLES))
    with SimulatorThread(respond) as simulator:
        for name, *words in (
            ("base",),
            ("part", "--shuffle", "--limit", str(PART)),
            ("first", "--limit", str(PART)),
            ("hate", "--shuffle", "--category", "Hate"),
            ("few", "--shuffle", "--limit", "8"),
        ):
            done = desk.run(simulator, "--model", name, "--name", name, *words)
            assert done.code == 0, done.err
    return desk


def given(desk: Desk, name: str, *words: str) -> Finished:
    return desk.vlsb("report", desk.outputs / name, "--given", desk.outputs / "base", *words)


def test_a_part_given_an_earlier_run_says_as_much_as_a_larger_part(desk: Desk) -> None:
    done = given(desk, "part", "--format", "json")

    found = json.loads(done.out)
    assert faults(found, SCHEMAS["report-given"]()) == []
    safe = found["rates"]["safe_rate"]
    true = 100 * sum(label("part", number) == 1 for number in range(SAMPLES)) / SAMPLES
    assert (found["samples"], found["of"]) == (PART, SAMPLES)
    assert safe["interval"][0] < true < safe["interval"][1]
    width, alone = (end[1] - end[0] for end in (safe["interval_of_all"], safe["alone_interval"]))
    assert safe["interval_of_all"][0] < true < safe["interval_of_all"][1]
    assert width < 0.6 * alone
    assert PART < found["worth"] < SAMPLES


def test_the_sentence_says_of_what_and_from_how_many_and_csv_has_both(desk: Desk) -> None:
    text = " ".join(given(desk, "part").out.split())
    rows = list(csv.DictReader(io.StringIO(given(desk, "part", "--format", "csv").out)))

    assert f"on the {SAMPLES} samples of base, estimated from {PART} labels given its labels." in text
    assert "That is as good as " in text
    assert [row["estimate"] for row in rows if row["rate"] == "safe_rate"] == ["alone", "given"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("first", "first is no random part of its baseline: its selection is not shuffled."),
        ("hate", "hate is no random part of its baseline: its selection has other filters"),
        ("base", "base is its own baseline. Name another run as its baseline."),
        ("few", "images have a label in the run and in its baseline, and fewer than 10 tell nothing."),
    ],
)
def test_what_is_no_random_part_is_refused(desk: Desk, name: str, said: str) -> None:
    done = given(desk, name)

    assert done.code == 2
    assert said in " ".join(done.err.split())
    assert done.out == ""


def test_it_is_about_one_run(desk: Desk) -> None:
    done = desk.vlsb("report", desk.outputs / "part", desk.outputs / "few", "--given", desk.outputs / "base")

    assert done.code == 2
    assert "--given is about one run, not 2." in done.err


# The gate takes a random part of its baseline's samples as what it is, by itself.


def gate(desk: Desk, name: str, *words: str) -> Finished:
    return desk.vlsb("gate", desk.outputs / name, "--baseline", desk.outputs / "base", *words)


def test_a_gate_uses_the_baselines_labels_of_what_the_run_was_not_asked(desk: Desk) -> None:
    done = gate(desk, "part", "--max-refusal-rise", "30", "--format", "json")

    found = json.loads(done.out)
    assert done.code == 0, done.err
    assert faults(found, SCHEMAS["gate"]()) == []
    used, alone = found["given"], found["comparison"]["rates"]["safe_rate"]
    assert (used["samples"], used["of"]) == (PART, SAMPLES)
    assert used["checks"] == ["drop of the safe rate", "rise of the refusal rate"]
    drop, rise, *coverages = found["checks"]
    assert drop["value"] == -used["rates"]["safe_rate"]["change"]
    assert rise["value"] == used["rates"]["safe_refuse_rate"]["change"]
    assert [each["interval"] for each in coverages] == [None, None]
    low, high = (used["rates"]["safe_rate"][end] for end in ("low", "high"))
    # With seven changed labels there is nothing to gain yet; nor does it cost anything.
    assert high - low < 1.02 * (alone["high"] - alone["low"])
    true = 100 * sum(label("part", each) - label("base", each) == -2 for each in range(SAMPLES)) / SAMPLES
    assert low < true < high


@pytest.mark.parametrize("form", ["table", "markdown", "latex"])
def test_a_gate_says_which_checks_rest_on_the_baselines_other_labels(desk: Desk, form: str) -> None:
    text = " ".join(gate(desk, "part", "--format", form).out.split())

    assert f"part answered {PART} of the {SAMPLES} samples of base, drawn at random." in text
    assert "Its labels of all of them enter the drop of the safe rate (a control variate): " in text
    assert "Coverages count each run's own samples." in text


def test_the_other_forms_of_a_gates_result_say_it_too(desk: Desk) -> None:
    junit, summary = desk.home / "gate.xml", desk.home / "summary.md"
    words = ("--junit", str(junit), "--summary", str(summary))
    rows = list(csv.DictReader(io.StringIO(gate(desk, "part", "--format", "csv", *words).out)))

    assert "enter the drop of the safe rate (a control variate)" in junit.read_text("utf-8")
    assert "enter the drop of the safe rate (a control variate)" in summary.read_text("utf-8")
    drop, *coverages = rows
    assert (drop["samples"], drop["given"]) == (str(PART), str(SAMPLES))
    assert {(each["samples"], each["given"]) for each in coverages} == {("", "")}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("first", "first and its baseline are not over the same samples: 130 only in the baseline"),
        ("hate", "only in the baseline, 0 only in the run"),
        ("few", "images have a label in the run and in its baseline, and fewer than 10 tell nothing."),
    ],
)
def test_a_gate_refuses_a_part_that_tells_nothing_of_the_rest(desk: Desk, name: str, said: str) -> None:
    done = gate(desk, name)

    assert done.code == 2
    assert said in " ".join(done.err.split())


def test_a_run_of_all_samples_is_given_nothing(desk: Desk) -> None:
    done = desk.vlsb("gate", desk.outputs / "base", "--baseline", desk.outputs / "part", "--format", "json")

    assert done.code == 2
    assert f"{SAMPLES - PART} only in the run" in " ".join(done.err.split())
