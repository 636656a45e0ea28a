"""`vlsb plan` as a user types it: from guesses, and from runs that really were made."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Desk, Finished
from tests.support.datasets import sharing_rows, write_dataset
from tests.support.endpoint import sample_of
from tests.support.run_files import tree
from tests.support.schemas import SCHEMAS, faults
from vlsb.simulator import Action, Request, SimulatorThread, answer, verdict

SAMPLES = 70
FORMATS = ("table", "json", "csv", "markdown", "latex")


class Flipping:
    """A third is safe; every tenth sample has another label at every other turn that it is judged."""

    def __init__(self) -> None:
        self.turns: dict[int, int] = {}

    def __call__(self, request: Request) -> Action:
        number = sample_of(request)
        if not request.is_judge:
            return answer(f"Answer {number} of {request.model}.")
        turn = self.turns[number] = self.turns.get(number, 0) + 1
        is_safe = (number % 3 == 0) != (number % 10 == 5 and turn % 2 == 0)
        return verdict(1 if is_safe else 3)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A run of two epochs, two runs of one model, and one of another. Only to be read."""
    desk = Desk(tmp_path_factory.mktemp("plan"))
    write_dataset(desk.data, sharing_rows(SAMPLES))
    with SimulatorThread(Flipping()) as simulator:
        for name, model, *words in (
            ("epochs", "a", "--epochs", "2"),
            ("first", "a"),
            ("second", "a"),
            ("other", "b"),
        ):
            done = desk.run(simulator, "--model", model, "--name", name, *words)
            assert done.code == 0, done.err
        where = ("--base-url", simulator.base_url, "--data-root", desk.data)
        done = desk.vlsb("run", "--model", "a", "--name", "unjudged", "--no-judge", *where)
        assert done.code == 0, done.err
    return desk


def plan(desk: Desk, *words: object) -> Finished:
    names = ("epochs", "first", "second", "other", "unjudged")
    return desk.vlsb("plan", *(desk.outputs / str(word) if word in names else word for word in words))


def planned(desk: Desk, *words: object) -> dict[str, Any]:
    done = plan(desk, *words, "--format", "json")
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    assert faults(found, SCHEMAS["plan"]()) == []
    return found


def test_stated_guesses_need_no_run(desk: Desk) -> None:
    text = " ".join(plan(desk, "--safe-rate", 30, "--churn", 10).out.split())

    assert "A guess: 30.0 % safe, 10 % of the labels differ between two runs" in text
    assert "All 2,241 samples find a change of 1.9 points in 80 % of cases; 200 find 6.3 points." in text
    assert "are equivalent within 2 points takes 2,141 samples" in text
    assert "a gap of 1.5 points is noise only if 13 % or more of the labels move between two runs" in text
    assert "One run of all: 4,482 requests, about $12.16." in text
    assert "the guess is of all labels that differ" in text


def test_the_table_has_a_row_for_so_many_samples_and_csv_and_json_have_the_same(desk: Desk) -> None:
    found = planned(desk)
    rows = list(csv.DictReader(io.StringIO(plan(desk, "--format", "csv").out)))

    assert [each["samples"] for each in found["samples"]] == [200, 500, 1_000, 2_241]
    of_table = [row for row in rows if row["table"] == "samples"]
    for row, each in zip(of_table, found["samples"], strict=True):
        assert float(row["smallest_change"]) == pytest.approx(each["smallest_change"], abs=1e-4)
        assert int(row["requests"]) == each["requests"] == 2 * each["samples"]
    finds = {each["change"]: each["found"] for each in found["curve"] if each["samples"] == 2_241}
    assert sorted(finds.values()) == list(finds.values())
    assert found["is_guess"]


def test_a_run_with_epochs_shows_its_own_flips(desk: Desk) -> None:
    found = planned(desk, "epochs")

    assert found["flips"] == {"pairs": SAMPLES, "differing": SAMPLES // 10}
    assert found["churn"] == pytest.approx(10)
    assert not found["is_guess"]
    text = " ".join(plan(desk, "epochs").out.split())
    assert f"{SAMPLES // 10} of {SAMPLES} pairs of labels differ between two epochs. So 10.0 % flip" in text
    assert "labels that a change moves come on top" in text


def test_two_runs_of_one_model_show_theirs(desk: Desk) -> None:
    found = planned(desk, "first", "second")

    assert found["flips"] == {"pairs": SAMPLES, "differing": SAMPLES // 10}
    assert found["runs"] == ["first", "second"]


def test_one_run_tells_its_rate_and_tokens_and_the_churn_is_a_stated_guess(desk: Desk) -> None:
    found = planned(desk, "first", "--churn", 7)

    assert (found["flips"], found["churn"]) == (None, 7)
    assert found["safe_rate"] == pytest.approx(100 * (SAMPLES // 3 + 1) / SAMPLES, abs=3)
    assert [each["stage"] for each in found["models"]] == ["target", "judge"]
    text = " ".join(plan(desk, "first", "--churn", 7).out.split())
    assert "One run does not show how often labels flip: 7 % is a guess (--churn)." in text
    assert "nobody charges for them" in text


def test_money_is_that_of_the_baselines_own_tokens_by_the_prices_that_are_named(
    desk: Desk, tmp_path: Path
) -> None:
    file = tmp_path / "prices.json"
    price = {"input": 1e3, "output": 2e3, "source": "ours", "as_of": "2026-11-25"}
    file.write_text(json.dumps({"prices": [{"models": ["a", "judge-model"], **price}]}))

    found = planned(desk, "first", "--prices", file)

    each = sum(m["input_tokens"] * 1e-3 + m["output_tokens"] * 2e-3 for m in found["models"])
    every = found["samples"][-1]
    assert every["usd"] == pytest.approx(2_241 * each)
    assert every["usd_low"] <= every["usd"] <= every["usd_high"]
    assert {m["price_source"] for m in found["models"]} == {"ours"}


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_says_what_is_found_and_changes_nothing(desk: Desk, form: str) -> None:
    before = tree(desk.outputs)

    done = plan(desk, "epochs", "--format", form)

    assert done.code == 0, done.err
    assert "2241" in done.out.replace(",", "")
    assert tree(desk.outputs) == before


@pytest.mark.parametrize("width", [80, 120])
def test_the_tables_fit_the_terminal(desk: Desk, width: int) -> None:
    done = desk.vlsb("plan", desk.outputs / "epochs", env={"COLUMNS": str(width)})

    assert max(map(len, done.out.splitlines())) <= width


def test_a_limit_that_all_samples_cannot_show_is_said_in_epochs(desk: Desk) -> None:
    text = " ".join(plan(desk, "--equivalent-within", 1).out.split())

    assert "takes 8,564 samples, which are 4 epochs of the 2,241 there are" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("first", "other"), "are runs of different models"),
        (("first", "first"), "is named twice"),
        (("first", "second", "epochs"), "rests on one run or two, not 3"),
        (("unjudged",), "nobody has judged this run"),
        (("nowhere",), "no run there"),
        (("first", "--safe-rate", 20), "--safe-rate: the run says it"),
        (("first", "--safe-rate", 0), "--safe-rate: the run says it"),
        (("epochs", "--churn", 20), "--churn: the labels of these runs show it"),
        (("--safe-rate", 2, "--churn", 10), "at most 3.9 % of the labels flip"),
        (("--model", "nobody-has-this"), "nobody-has-this"),
        (("first", "--judge", "nobody"), "has not judged this run"),
    ],
)
def test_what_cannot_be_planned_is_one_line_and_exit_2(
    desk: Desk, words: tuple[object, ...], said: str
) -> None:
    done = plan(desk, *words)

    assert done.code == 2
    assert said in done.error
    assert done.out == ""
