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
