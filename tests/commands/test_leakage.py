"""`vlsb leakage`: from runs in several arms to why a model is unsafe, with models of known behaviour."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("statsmodels", reason="needs the group `extras`: just test")

from tests.support.command import Desk, run_words
from tests.support.datasets import PAIRS, sharing_rows, write_dataset
from tests.support.endpoint import sample_of
from vlsb.simulator import Action, Request, SimulatorThread, answer, verdict

SAMPLES = 30
ARMS = ("image+text", "text", "caption+text")
# By the last digit of a sample: is it answered safely with the image, by the text alone, when told?
BEHAVIOUR = {
    "given_away": (True, True, True),
    "handled": (True, False, True),
    "misled": (False, True, True),
    "unseen": (False, False, True),
    "unheeded": (False, False, False),
}
CAUSES = dict(enumerate(["given_away", *["handled"] * 2, "misled", *["unseen"] * 2, *["unheeded"] * 4]))
SHARES = {"given_away": 10.0, "handled": 20.0, "misled": 10.0, "unseen": 20.0, "unheeded": 40.0}


def arm_of(request: Request) -> str:
    """What the target was shown."""
    if request.image_url is not None:
        return "image+text"
    return "caption+text" if len(request.texts) > 1 else "text"


def model(
    flips: Callable[[str, int, int], bool] = lambda arm, sample, time: False,
) -> Callable[[Request], Action]:
    """A model of known behaviour whose answers say their own label, and a judge that reads it there."""
    asked: dict[tuple[str, int], int] = {}

    def respond(request: Request) -> Action:
        sample = sample_of(request)
        if request.is_judge:
            return verdict(int((request.judged_response or "")[-1]))
        arm = arm_of(request)
        time = asked[arm, sample] = asked.get((arm, sample), 0) + 1
        is_safe = BEHAVIOUR[CAUSES[sample % 10]][ARMS.index(arm)]
        is_safe ^= flips(arm, sample, time)
        return answer(f"Answer {sample}: {2 if is_safe else 3}")

    return respond


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    desk = Desk(tmp_path)
    write_dataset(desk.data, sharing_rows(SAMPLES))
    return desk


def run(
    desk: Desk, respond: Callable[[Request], Action], *words: object, arms: tuple[str, ...] = ARMS
) -> None:
    with SimulatorThread(respond) as endpoint:
        for arm in arms:
            ended = desk.vlsb(*run_words(endpoint, desk.data, "--arm", arm, *words))
            assert ended.code == 0, ended.err


def leakage(desk: Desk, *words: object) -> dict[str, Any]:
    ended = desk.vlsb("leakage", desk.outputs, "--format", "json", *words)
    assert ended.code == 0, ended.err
    [found] = json.loads(ended.out)["targets"]
    return dict(found)


def observed(causes: dict[str, Any]) -> dict[str, float]:
    return {
        name: round(share["observed"], 6) for name, share in causes["shares"].items() if name != "text_safe"
    }


def test_each_sample_is_told_apart_by_what_its_arms_say(desk: Desk) -> None:
    run(desk, model())

    found = leakage(desk)

    assert observed(found["causes"]) == SHARES
    assert found["causes"]["n"] == SAMPLES
    assert found["causes"]["shares"]["text_safe"]["observed"] == 20
    assert set(found["categories"]) == {category for category, _ in PAIRS}
    for share in found["causes"]["shares"].values():
        assert share["low"] <= share["observed"] <= share["high"]
        assert share["corrected"] is None
    text = desk.vlsb("leakage", desk.outputs).out
    assert "10.0 % given away, 20.0 % handled, 10.0 % misled" in text
    assert "How much of this is chance cannot be told" in text


def test_one_command_makes_a_run_of_each_arm_and_another_goes_on_with_all(desk: Desk) -> None:
    arms = [word for arm in ARMS for word in ("--arm", arm)]
    with SimulatorThread(model()) as endpoint:
        words = run_words(endpoint, desk.data, *arms)
        stopped = desk.vlsb(*words, "--max-requests", "70")
        ended = desk.vlsb(*words, "--resume")
        named = desk.vlsb(*words, "--name", "r")

    assert stopped.code == 4
    assert "Run 2 of 3: m, text" in stopped.err
    assert " ".join(arms) in stopped.err
    assert ended.code == 0, ended.err
    assert named.code == 2
    assert observed(leakage(desk)["causes"]) == SHARES
    assert sorted(each.name for each in desk.outputs.iterdir()) == ["m", "m.caption", "m.text"]


def test_with_a_second_label_of_each_the_shares_are_corrected_for_chance(desk: Desk) -> None:
    """Each arm's second epoch flips a tenth of its labels."""
    run(desk, model(lambda arm, sample, time: time == 2 and sample // 10 == ARMS.index(arm)), "--epochs", "2")

    found = leakage(desk)["causes"]

    assert set(found["flips"]) == set(ARMS)
    # A third of the pairs differ.
    assert found["flips"]["text"] == pytest.approx(100 * (1 - (1 / 3) ** 0.5) / 2)
    assert sum(
        share["observed"] for name, share in found["shares"].items() if name != "text_safe"
    ) == pytest.approx(100)
    assert observed(found) != SHARES
    assert found["shares"]["unheeded"]["corrected"] > found["shares"]["unheeded"]["observed"]
    assert "Chance: a label flips in" in desk.vlsb("leakage", desk.outputs).out


def test_a_second_run_of_one_arm_is_the_floor_of_the_others(desk: Desk) -> None:
    run(desk, model())
    run(desk, model(lambda arm, sample, time: sample == 0), "--name", "again", arms=("text",))

    found = leakage(desk)["causes"]

    assert set(found["flips"]) == {"text"}
    assert found["shares"]["given_away"]["corrected"] is not None


def test_without_a_caption_unseen_and_unheeded_are_one(desk: Desk) -> None:
    run(desk, model(), arms=ARMS[:2])

    assert observed(leakage(desk)["causes"]) == {
        "given_away": 10, "handled": 20, "misled": 10, "unseen_or_unheeded": 60
    }  # fmt: skip


def test_samples_without_a_label_in_one_arm_are_counted_apart(desk: Desk) -> None:
    run(desk, model(), arms=ARMS[:2])
    run(desk, model(), "--limit", "20", arms=ARMS[2:])

    found = leakage(desk)["causes"]

    assert (found["n"], found["unlabelled"]) == (20, 10)
    assert (
        "Left out: 10 samples without a label in one of the arms." in desk.vlsb("leakage", desk.outputs).out
    )


def test_what_was_asked_in_two_ways_is_refused(desk: Desk) -> None:
    run(desk, model(), arms=ARMS[:1])
    run(desk, model(), "--temperature", "0.5", arms=ARMS[1:])

    ended = desk.vlsb("leakage", desk.outputs)

    assert ended.code == 2
    assert "These differ in: temperature" in ended.err


def test_without_an_arm_it_says_which_run_is_missing(desk: Desk) -> None:
    run(desk, model(), arms=ARMS[:1])

    ended = desk.vlsb("leakage", desk.outputs)

    assert ended.code == 2
    assert "none of these has text" in ended.err


def test_data_sets_stand_side_by_side_and_the_csv_has_every_share(desk: Desk) -> None:
    run(desk, model())

    table = desk.vlsb("leakage", desk.outputs, "--by", "dataset").out
    rows = list(csv.DictReader(io.StringIO(desk.vlsb("leakage", desk.outputs, "--format", "csv").out)))

    assert "What the text alone gives away" in table
    assert "vlsbench" in table
    whole = {row["cause"]: float(row["observed"]) for row in rows if not row["category"]}
    assert whole == {**SHARES, "text_safe": 20.0}
