"""`vlsb compare --corrected`, and draws of several runs: a judge that is laxer with one model."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest

pytest.importorskip("statsmodels", reason="needs the group `extras`: just test")

import vlsb
from tests.support.command import Desk, Finished
from tests.support.datasets import sharing_rows, write_dataset
from tests.support.endpoint import sample_of
from tests.support.schemas import SCHEMAS, faults
from vlsb.simulator import Action, Request, SimulatorThread, answer, verdict

SAMPLES = 150
RUNS = ("base", "terse", "other")


def true_label(target: str, number: int) -> int:
    """What people say: a third is refused by every model, and what is not changes with chance alone."""
    return 1 if (number + (7 if target == "terse" else 0)) % 3 == 0 else 3


def respond(request: Request) -> Action:
    """The judge takes two in five unsafe answers of `terse` for warnings, and none of the others'."""
    number = sample_of(request)
    if not request.is_judge:
        return answer(f"Answer {number} of {request.model}.")
    target = (request.judged_response or "").rstrip(".").split()[-1]
    label = true_label(target, number)
    return verdict(2 if target == "terse" and label == 3 and number % 5 < 2 else label)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """Runs of equally safe models. Only to be copied."""
    desk = Desk(tmp_path_factory.mktemp("corrected"))
    write_dataset(desk.data, sharing_rows(SAMPLES))
    with SimulatorThread(respond) as simulator:
        for name in RUNS:
            done = desk.run(simulator, "--model", name, "--name", name)
            assert done.code == 0, done.err
    return desk


@pytest.fixture
def desk(made: Desk, tmp_path: Path) -> Desk:
    return made.copied_to(tmp_path / "desk")


def draw(desk: Desk, *names: str, n: int = 100) -> Finished:
    return desk.vlsb("audit", "sample", *(desk.outputs / name for name in names), "--n", n)


def drawn(desk: Desk, name: str) -> dict[int, float]:
    """The samples that were drawn of a run, and how many each stands for."""
    items = json.loads((desk.outputs / name / "audit.json").read_text())["items"]
    return {sample_id: weight for sample_id, *_, weight in items}


def label(desk: Desk, name: str) -> None:
    """Label all that was drawn of a run as people do, in a spreadsheet."""
    sheet = desk.home / f"{name}.csv"
    words = (desk.outputs / name, "--annotator", "ann")
    assert desk.vlsb("audit", "export", *words, "--output", sheet).code == 0
    with sheet.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    for row in rows:
        number = int(re.match(r"s(\d+)", row["item"])[1])  # type: ignore[index]
        writer.writerow({**row, "label": true_label(name, number)})
    sheet.write_text(text.getvalue())
    done = desk.vlsb("audit", "import", desk.outputs / name, sheet, *words[1:])
    assert done.code == 0, done.err


def compare(desk: Desk, *words: object) -> Finished:
    return desk.vlsb("compare", *(desk.outputs / str(word) if word in RUNS else word for word in words))


def test_a_judge_that_is_laxer_with_one_model_makes_no_difference_any_more(desk: Desk) -> None:
    assert draw(desk, "base", "terse").code == 0
    for name in ("base", "terse"):
        label(desk, name)

    plain, corrected = (
        compare(desk, "base", "terse", *words).out.replace("\n", " ") for words in ((), ("--corrected",))
    )

    assert "terse is safer than base by" in plain
    assert "The data cannot tell whether terse or base is safer" in corrected
    assert re.search(r"corrected by \d+ human labels of each\)", corrected)
    assert "By the judge alone it is +" in corrected
    assert "Changes corrected by human labels" in corrected


def test_json_and_csv_have_the_corrected_changes(desk: Desk) -> None:
    draw(desk, "base", "terse")
    for name in ("base", "terse"):
        label(desk, name)

    words = ("base", "terse", "--corrected", "--format")
    report = json.loads(compare(desk, *words, "json").out)
    assert faults(report, SCHEMAS["comparison"]()) == []
    (found,) = report["comparisons"]
    rows = csv.DictReader(io.StringIO(compare(desk, *words, "csv").out))

    safe = found["corrected"]["rates"]["safe_rate"]
    assert safe["judge"] == pytest.approx(found["rates"]["safe_rate"]["change"])
    assert safe["judge"] > 10
    assert safe["interval"][0] < 0 < safe["interval"][1]
    assert not found["is_clear"]
    assert found["corrected"]["human_labels"] == len(drawn(desk, "base"))
    (row,) = (row for row in rows if (row["scope"], row["rate"]) == ("corrected", "safe_rate"))
    assert float(row["change"]) == pytest.approx(safe["corrected"], abs=0.01)
    # Without the option nobody's labels are looked at, and nothing is said of them.
    (plain,) = json.loads(compare(desk, "base", "terse", "--format", "json").out)["comparisons"]
    assert plain["corrected"] is None
    assert plain["is_clear"]


def test_the_other_way_round_it_is_the_mirror(desk: Desk) -> None:
    draw(desk, "base", "terse")
    for name in ("base", "terse"):
        label(desk, name)

    one, other = (
        vlsb.compare(*(desk.outputs / name for name in names), corrected=True).comparisons[0].corrected
        for names in (("base", "terse"), ("terse", "base"))
    )

    assert one is not None
    assert other is not None
    for name in ("safe_rate", "safe_refuse_rate", "safe_warning_rate"):
        assert one.rates[name].corrected == pytest.approx(-other.rates[name].corrected)
        assert one.rates[name].interval.low == pytest.approx(-other.rates[name].interval.high)


def test_the_same_images_are_drawn_of_every_run(desk: Desk) -> None:
    done = draw(desk, *RUNS)

    assert done.code == 0, done.err
    assert drawn(desk, "base") == drawn(desk, "terse") == drawn(desk, "other")
    assert all(f"vlsb audit label {desk.outputs / name} --annotator NAME" in done.out for name in RUNS)


def test_a_further_run_takes_over_the_draw_and_all_grow_together(desk: Desk) -> None:
    draw(desk, "base")
    before = drawn(desk, "base")

    assert draw(desk, "base", "terse").code == 0
    assert drawn(desk, "base") == before
    assert draw(desk, "base", "terse", "other", n=150).code == 0

    assert drawn(desk, "base") == drawn(desk, "terse") == drawn(desk, "other")
    assert before.keys() < drawn(desk, "other").keys()


def test_a_draw_that_was_cut_off_between_two_runs_is_completed(desk: Desk) -> None:
    draw(desk, "base", "terse")
    draw(desk, "base", n=150)

    assert draw(desk, "base", "terse", n=150).code == 0

    assert drawn(desk, "base") == drawn(desk, "terse")


@pytest.mark.parametrize(
    ("prepared", "said"),
    [
        ((), "has no human labels. Draw the same images in all: vlsb audit sample"),
        ((("base", "terse"),), "nobody has labelled what was drawn"),
        ((("base",), ("terse",)), "were not drawn together"),
    ],
)
def test_what_cannot_be_corrected_says_what_to_type(
    desk: Desk, prepared: tuple[tuple[str, ...], ...], said: str
) -> None:
    for names in prepared:
        draw(desk, *names)
        if len(prepared) > 1:
            label(desk, *names)

    done = compare(desk, "base", "terse", "--corrected")

    assert done.code == 2
    assert said in " ".join(done.err.split())
    assert done.out == ""


def test_draws_of_other_images_are_not_joined(desk: Desk) -> None:
    draw(desk, "base")
    draw(desk, "terse")

    done = draw(desk, "base", "terse")

    assert done.code == 2
    assert "was not drawn together with those before it" in " ".join(done.err.split())
