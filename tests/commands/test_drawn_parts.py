"""A judge that labelled a drawn part: its rate is weighted or corrected, with its interval, or not there."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("statsmodels", reason="needs the group `extras`: just test")

from tests.support.command import Desk
from tests.support.datasets import sharing_rows, write_dataset
from tests.support.endpoint import sample_of
from vlsb.simulator import Action, Request, SimulatorThread, answer, verdict

SAMPLES, PART, DRAWN = 120, 47, 53
FORMATS = ("table", "markdown", "latex", "csv", "json")
ANN, BOB, NEW, OWN = "human-ann", "human-bob", "new-judge", "judge-model"


def old_label(number: int) -> int:
    return 1 if number % 10 == 0 else 2 if number % 10 < 4 else 3


def new_label(number: int) -> int:
    return 2 if number % 6 == 5 else old_label(number)


def person(number: int) -> int:
    return 1 if number % 17 == 3 else old_label(number)


def respond(request: Request) -> Action:
    number = sample_of(request)
    if not request.is_judge:
        return answer(f"Answer {number}.")
    return verdict(new_label(number) if request.model == NEW else old_label(number))


def calibrate(desk: Desk, simulator: SimulatorThread, *more: object) -> str:
    where = ("--judge-base-url", simulator.base_url, "--data-root", desk.data, "--backoff", "0.01")
    done = desk.vlsb("judge", desk.run_dir, "--judge", NEW, *where, *more)
    assert done.code == 0, done.err
    return done.out + done.err


def label_by_hand(desk: Desk, name: str, most: int) -> None:
    """The first `most` of the drawn responses, labelled as `person` does."""
    sheet = desk.home / f"{name}.csv"
    words = ("--annotator", name, "--format", "csv", "--output", sheet, "--data-root", desk.data)
    assert desk.vlsb("audit", "export", desk.run_dir, *words).code == 0
    with sheet.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    for row in rows[:most]:
        row["label"] = str(person(int(row["item"].split("e")[0].removeprefix("s"))))
    with sheet.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    done = desk.vlsb("audit", "import", desk.run_dir, sheet, "--annotator", name)
    assert done.code == 0, done.err


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Desk, str]:
    """A run whose judge labelled everything, a second judge and two people parts; what `--calibrate` said."""
    desk = Desk(tmp_path_factory.mktemp("parts"))
    write_dataset(desk.data, sharing_rows(SAMPLES))
    with SimulatorThread(respond) as simulator:
        assert desk.run(simulator).code == 0
        said = calibrate(desk, simulator, "--calibrate", PART)
    assert desk.vlsb("audit", "sample", desk.run_dir, "--n", DRAWN).code == 0
    label_by_hand(desk, "ann", SAMPLES)
    label_by_hand(desk, "bob", 1)
    return desk, said


@pytest.fixture
def desk(made: tuple[Desk, str]) -> Desk:
    """Only to be read."""
    return made[0]


def by_judge(desk: Desk) -> dict[str, dict[str, Any]]:
    return {str(each["judge"]): each for each in desk.report()}


def unweighted(row: Mapping[str, Any]) -> float:
    """The share of safe labels among all that a judge gave."""
    outcomes = row["outcomes"]
    return float(100 * (row["judged"] - outcomes["unsafe"]) / row["judged"])


def corrected_by_audit(desk: Desk) -> tuple[float, list[float]]:
    report = json.loads(desk.vlsb("audit", "report", desk.run_dir, "--format", "json").out)
    (found,) = (each for each in report["corrected"] if each["judge"] == OWN)
    assert found["human_labels"] > PART
    return found["rates"]["safe_rate"]["corrected"], found["rates"]["safe_rate"]["interval"]


def expected_by_calibration(said: str) -> str:
    found = re.search(r"^safe_rate +\S+ +(\S+)", said, re.MULTILINE)
    assert found is not None, said
    return found[1]


def test_a_persons_rate_is_the_one_that_the_audit_corrects(desk: Desk) -> None:
    """Where one label by one person more would change it: bob's is left out there and has no rate here."""
    found, (rate, interval) = by_judge(desk), corrected_by_audit(desk)

    assert (found[OWN]["estimate"], found[ANN]["estimate"]) == ("all", "corrected")
    assert found[ANN]["safe_rate"] == pytest.approx(rate, abs=1e-9)
    assert found[ANN]["intervals"]["safe_rate"] == pytest.approx(interval, abs=1e-9)
    assert found[ANN]["labels"] == found[ANN]["judged"] < SAMPLES
    assert abs(found[ANN]["safe_rate"] - unweighted(found[ANN])) > 3


def test_a_calibrated_judges_rate_is_the_one_that_the_calibration_expects(made: tuple[Desk, str]) -> None:
    desk, said = made

    found = by_judge(desk)[NEW]

    assert found["estimate"] == "corrected"
    assert f"{found['safe_rate']:.2f}" == expected_by_calibration(said)
    true = 100 * sum(new_label(number) < 3 for number in range(SAMPLES)) / SAMPLES
    low, high = found["intervals"]["safe_rate"]
    assert low < true < high
    assert abs(found["safe_rate"] - unweighted(found)) > 3


def test_a_label_or_two_are_no_rate(desk: Desk) -> None:
    found = by_judge(desk)[BOB]

    assert (found["estimate"], found["labels"], found["labelled_images"]) == ("none", 1, 1)
    assert found["safe_rate"] is found["unsafe_rate"] is None
    assert all(each["safe_rate"] is None for each in found["by_category"].values())
    assert any("no rates from 1 label to 1 image" in each for each in found["notices"])


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("view", [(), ("--leaderboard",), ("--paper",)])
def test_no_format_has_the_plain_share_of_a_drawn_part(desk: Desk, form: str, view: Sequence[str]) -> None:
    found = by_judge(desk)
    plain = {f"{unweighted(found[judge]):.2f}" for judge in (ANN, BOB, NEW)}
    # Bob's only label; no rate of the others is 0 or 100.
    assert plain & {"0.00", "100.00"}

    done = desk.vlsb("report", desk.run_dir, "--format", form, *view)

    assert done.code == 0, done.err
    # Intervals for people have one decimal, and might be equal by chance.
    pattern = r"\b\d+\.\d+\b" if form in ("csv", "json") else r"\b\d+\.\d{2}\b"
    numbers = {f"{float(each):.2f}" for each in re.findall(pattern, done.out)}
    assert not numbers & (plain - {"0.00", "100.00"}), (numbers & plain, found)
    if view != ("--paper",):
        assert {f"{found[judge]['safe_rate']:.2f}" for judge in (OWN, ANN, NEW)} <= numbers


def test_every_text_format_marks_the_rows_and_says_what_they_rest_on(desk: Desk) -> None:
    table, markdown, latex = (
        " ".join(desk.vlsb("report", desk.run_dir, "--format", form).out.split()) for form in FORMATS[:3]
    )

    assert f"r †‡ {PART}" in table.replace("target target-model judge", "")
    for text, sign in ((table, "‡"), (markdown, "‡"), (latex, r"\textsuperscript{\ddag}")):
        assert f"{sign} Of a drawn part, in which rare labels come more often than in the run:" in text
        assert f"r, judge {ANN}: corrected, that is what {OWN} says of all {SAMPLES} responses" in text
        assert f"r, judge {BOB}: no rates from 1 label to 1 image" in text
        assert not any(f"r, judge {OWN}: {what}" in text for what in ("corrected", "no rates"))


def test_rows_of_a_csv_say_what_their_rates_rest_on(desk: Desk) -> None:
    rows = list(csv.DictReader(io.StringIO(desk.vlsb("report", desk.run_dir, "--format", "csv").out)))

    found = {row["judge"]: row["estimate"] for row in rows if row["scope"] == "all"}
    assert found == {OWN: "all", ANN: "corrected", BOB: "none", NEW: "corrected"}
    board = list(
        csv.DictReader(io.StringIO(desk.vlsb("report", desk.run_dir, "--leaderboard", "--format", "csv").out))
    )
    assert {row["judge"]: row["estimate"] for row in board} == {
        OWN: "all",
        ANN: "corrected",
        NEW: "corrected",
    }


def test_ranks_are_by_a_judge_that_labelled_everything(desk: Desk) -> None:
    (row,) = json.loads(desk.vlsb("report", desk.run_dir, "--leaderboard", "--format", "json").out)

    assert row["ranked_by"] == OWN


def test_the_methods_say_that_a_part_was_drawn_and_how_its_rates_are_made(desk: Desk) -> None:
    said = desk.vlsb("report", desk.run_dir, "--methods").out
    *_, text = (each for each in said.split("\n") if f"by {NEW}" in each)

    assert "of a drawn part, in which rare ones come more often, and rates are corrected" in text
    assert "and rates are over those" not in text


def test_the_authors_file_has_no_stats_of_a_drawn_part(desk: Desk) -> None:
    done = desk.vlsb("report", desk.run_dir, "--format", "official", "--judge", NEW)

    found = json.loads(done.out)
    assert set(found["stats"].values()) == {None}
    assert "The labels are of a drawn part" in found["vlsb"]["note"]


def test_a_log_for_inspect_has_metrics_of_whole_judges_only(desk: Desk, tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    assert desk.vlsb("export", desk.run_dir, "--to", "inspect", "--out", log).code == 0

    scores = {each["name"]: each for each in json.loads(log.read_text())["results"]["scores"]}
    assert scores[OWN]["metrics"]["safe_rate"]["value"] == pytest.approx(0.4)
    assert scores[NEW]["metrics"] == {}
    assert scores[NEW]["scored_samples"] >= PART


def test_runs_are_not_compared_by_the_labels_of_drawn_parts(desk: Desk, tmp_path: Path) -> None:
    other = desk.copied_to(tmp_path / "other").run_dir
    for words in (
        ("compare", desk.run_dir, other, "--judge", ANN),
        ("gate", other, "--baseline", desk.run_dir, "--judge", NEW),
        ("plot", desk.run_dir, other, "--kind", "transitions", "--judge", NEW, "--out", tmp_path / "t.svg"),
    ):
        done = desk.vlsb(*words)
        assert done.code == 2, done.out
        assert "has labelled a drawn part of this run" in done.error

    whole = desk.vlsb("compare", desk.run_dir, other)
    assert whole.code == 0, whole.err
    assert "120 samples" in whole.out


def test_a_judge_of_a_part_has_no_rate_for_people_to_correct(desk: Desk) -> None:
    report = json.loads(desk.vlsb("audit", "report", desk.run_dir, "--format", "json").out)

    assert [each["judge"] for each in report["corrected"]] == [OWN]
    assert f"{NEW} has labelled a drawn part: there is no rate to correct." in report["notes"]


def test_a_figure_has_estimates_with_their_sign_and_leaves_out_what_has_no_rate(
    desk: Desk, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    figure = tmp_path / "labels.svg"

    done = desk.vlsb("plot", desk.run_dir, "--out", figure)

    assert done.code == 0, done.err
    drawn = figure.read_text("utf-8")
    # The footnote is folded to the figure's width.
    texts = " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", drawn))
    assert "estimated from a drawn part" in texts
    assert BOB not in drawn
    assert f"‡ r, judge {ANN}: corrected" in " ".join(done.err.split())


def test_a_page_has_the_estimates_and_marks_the_judge(desk: Desk, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    found = by_judge(desk)

    assert desk.vlsb("report", desk.run_dir, "--html", page, "--data-root", desk.data).code == 0

    text = page.read_text("utf-8")
    assert f"{found[ANN]['safe_rate']:.2f}" in text
    assert f"{unweighted(found[ANN]):.2f}" not in text
    assert "Of a drawn part, in which rare labels come more often than in the run:" in text
    assert f'"name":"{NEW}","part":true' in re.sub(r"\s", "", text)


def test_while_a_part_is_judged_no_rate_is_shown(made: tuple[Desk, str]) -> None:
    _, said = made

    assert re.search(rf"{PART}\d?/{PART}", said) or f"{PART}/" in said
    assert "safe " not in "".join(re.findall(r"^.*in flight.*$", said, re.MULTILINE))


def test_a_part_that_was_stopped_gives_no_rate(made: tuple[Desk, str], tmp_path: Path) -> None:
    desk = made[0].copied_to(tmp_path / "desk")
    calls = {"judge": "other-judge"}
    with SimulatorThread(respond) as simulator:
        where = ("--judge-base-url", simulator.base_url, "--data-root", desk.data, "--max-requests", 20)
        stopped = desk.vlsb("judge", desk.run_dir, "--judge", calls["judge"], "--calibrate", PART, *where)
    assert stopped.code == 4, stopped.err

    found = by_judge(desk)[calls["judge"]]

    assert (found["estimate"], found["safe_rate"]) == ("none", None)
    assert found["labels"] >= 12
    assert any("is not labelled whole" in each for each in found["notices"])


def test_when_the_rest_is_judged_every_label_counts(made: tuple[Desk, str], tmp_path: Path) -> None:
    desk = made[0].copied_to(tmp_path / "desk")
    with SimulatorThread(respond) as simulator:
        calibrate(desk, simulator)

    found = by_judge(desk)[NEW]

    assert (found["estimate"], found["labels"]) == ("all", SAMPLES)
    assert found["safe_rate"] == pytest.approx(unweighted(found))


def test_people_alone_give_a_weighted_rate(made: tuple[Desk, str], tmp_path: Path) -> None:
    """Nobody else has judged: the mean of their labels by the weights of the draw."""
    desk = Desk(tmp_path)
    write_dataset(desk.data, sharing_rows(SAMPLES))
    with SimulatorThread(respond) as simulator:
        where = ("--base-url", simulator.base_url, "--data-root", desk.data, "--name", "r")
        assert desk.vlsb("run", "--model", "m", *where, "--no-judge").code == 0
    assert desk.vlsb("audit", "sample", desk.run_dir, "--n", DRAWN).code == 0
    label_by_hand(desk, "ann", SAMPLES)

    (found,) = desk.report()

    items = json.loads((desk.run_dir / "audit.json").read_text())["items"]
    weights = {number: weight for number, _, _, _, weight in items}
    total = sum(weights.values())
    safe = sum(weight for number, weight in weights.items() if person(number) < 3)
    assert found["estimate"] == "weighted"
    assert found["safe_rate"] == pytest.approx(100 * safe / total)


def test_a_draw_that_is_gone_leaves_labels_without_a_rate(made: tuple[Desk, str], tmp_path: Path) -> None:
    desk = made[0].copied_to(tmp_path / "desk")
    (desk.run_dir / "audit.json").unlink()

    found = by_judge(desk)[ANN]

    assert (found["estimate"], found["safe_rate"]) == ("none", None)
    assert any("the draw of these labels is not there" in each for each in found["notices"])


def test_a_report_of_drawn_parts_needs_no_numbers_library(desk: Desk) -> None:
    without = "import sys; sys.modules.update(numpy=None, scipy=None, statsmodels=None)"

    done = desk.vlsb("report", desk.run_dir, prelude=without)

    assert done.code == 0, done.err
    assert "corrected, that is what" in done.out
