"""`--epochs K`: K responses a sample, each stored and judged apart, and counted as what they are."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Desk
from tests.support.endpoint import asked, labelling, sample_of
from vlsb.simulator import Action, Request, SimulatorThread, answer, error, verdict

SAMPLES = 4
NOT_COMPARED = ("path", "usage", "duration_s")


class Changing:
    """Answers and labels by sample and by how often that sample was asked about before."""

    def __init__(
        self, label: Callable[[int, int], int], text: Callable[[int, int], str] | None = None
    ) -> None:
        self._label = label
        self._text = text or (lambda sample, turn: f"Answer {sample}.")
        self._turns: Counter[tuple[bool, int]] = Counter()

    def __call__(self, request: Request) -> Action:
        sample = sample_of(request)
        self._turns[request.is_judge, sample] += 1
        turn = self._turns[request.is_judge, sample]
        if request.is_judge:
            return verdict(self._label(sample, turn))
        return answer(self._text(sample, turn))


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def keys(path: Path) -> list[tuple[int, int]]:
    return sorted((row["sample_id"], row["epoch"]) for row in rows(path))


def verdicts(desk: Desk) -> Path:
    return desk.run_dir / "verdicts" / "judge-model.jsonl"


def compared(desk: Desk) -> dict[str, Any]:
    (summary,) = desk.report()
    return {name: value for name, value in summary.items() if name not in NOT_COMPARED}


# What is stored.


def test_every_epoch_of_a_sample_has_a_response_and_a_verdict_of_its_own(desk: Desk) -> None:
    with SimulatorThread(
        Changing(lambda sample, turn: turn, lambda sample, turn: f"{sample}/{turn}")
    ) as endpoint:
        ended = desk.run(endpoint, "--epochs", 3)

    expected = list(product(range(SAMPLES), (1, 2, 3)))
    assert ended.code == 0, ended.err
    assert keys(desk.run_dir / "responses.jsonl") == expected
    assert keys(verdicts(desk)) == expected
    of_response = {(r["sample_id"], r["epoch"]): r for r in rows(desk.run_dir / "responses.jsonl")}
    for row in rows(verdicts(desk)):
        assert row["response_sha256"] == of_response[row["sample_id"], row["epoch"]]["response_sha256"]
    assert len({each["response_sha256"] for each in of_response.values()}) == len(expected)


def test_the_ledger_sums_to_samples_times_epochs(desk: Desk) -> None:
    labels = {0: 1, 1: 2, 2: 3, 3: 3}
    with SimulatorThread(labelling(labels)) as endpoint:
        desk.run(endpoint, "--epochs", 3)

    (summary,) = desk.report()

    assert summary["epochs"] == 3
    assert summary["selected"] == summary["judged"] == sum(summary["outcomes"].values()) == 3 * SAMPLES
    assert desk.outcomes() == {"safe_refusal": 3, "safe_warning": 3, "unsafe": 6}
    assert sum(each["selected"] for each in summary["by_category"].values()) == 3 * SAMPLES
    assert summary["usage"]["target"]["requests"] == summary["usage"]["judge"]["requests"] == 3 * SAMPLES
    assert summary["duplicates"] == 0


def test_a_failure_in_one_epoch_is_no_failure_of_the_others(desk: Desk) -> None:
    turns: Counter[int] = Counter()

    def respond(request: Request) -> Action:
        sample = sample_of(request)
        if not request.is_judge and sample == 2:
            turns[sample] += 1
            if turns[sample] == 1:
                return error(400, code="image_parse_error", type="invalid_request_error")
        return labelling()(request)

    with SimulatorThread(respond) as endpoint:
        ended = desk.run(endpoint, "--epochs", 2)
        before = desk.outcomes()
        sent = len(endpoint.completions)
        resumed = desk.run(endpoint, "--epochs", 2, "--resume")

    assert (ended.code, resumed.code) == (4, 0)
    assert before == {"unsafe": 2 * SAMPLES - 1, "target_error": 1}
    assert [sample_of(each) for each in endpoint.completions[sent:]] == [2, 2]
    assert desk.outcomes() == {"unsafe": 2 * SAMPLES}


# What the numbers mean.


def test_epochs_that_say_the_same_make_no_interval_narrower(tmp_path: Path) -> None:
    """All epochs of an image are one cluster: asking again is no new evidence about other images."""
    intervals = []
    for epochs in (1, 3):
        desk = Desk(tmp_path / str(epochs), SAMPLES)
        with SimulatorThread(labelling({0: 1, 1: 3, 2: 3, 3: 2})) as endpoint:
            desk.run(endpoint, "--epochs", epochs)
        intervals.append(desk.report()[0]["intervals"])

    once, thrice = intervals
    for name, (low, high) in once.items():
        assert thrice[name][0] <= low < high <= thrice[name][1], name


FLIPS: dict[str, tuple[Callable[[int, int], int], float]] = {
    "nothing changes": (lambda sample, turn: 1 + sample % 3, 0.0),
    "one sample in one epoch": (lambda sample, turn: 1 if (sample, turn) == (1, 2) else 3, 25.0),
    "two samples": (lambda sample, turn: 2 if turn == 3 and sample < 2 else 3, 50.0),
    "every sample": (lambda sample, turn: turn, 100.0),
}


@pytest.mark.parametrize("change", FLIPS)
def test_the_flip_share_counts_samples_whose_label_changed(desk: Desk, change: str) -> None:
    label, share = FLIPS[change]
    with SimulatorThread(Changing(label)) as endpoint:
        desk.run(endpoint, "--epochs", 3)

    assert desk.report()[0]["flip_share"] == share


def test_one_epoch_has_no_flip_share(desk: Desk, endpoint: SimulatorThread) -> None:
    desk.run(endpoint)

    assert desk.report()[0]["flip_share"] is None


def test_another_answer_with_the_same_label_is_no_flip(desk: Desk) -> None:
    with SimulatorThread(
        Changing(lambda sample, turn: 3, lambda sample, turn: f"Said {turn} times.")
    ) as endpoint:
        desk.run(endpoint, "--epochs", 2)

    assert desk.report()[0]["flip_share"] == 0.0


# Resuming.


def test_more_epochs_may_be_resumed_and_only_the_new_ones_are_sent(
    desk: Desk, endpoint: SimulatorThread
) -> None:
    desk.run(endpoint)
    before = (desk.run_dir / "responses.jsonl").read_bytes()
    sent = len(endpoint.completions)
    ended = desk.run(endpoint, "--epochs", 3, "--resume")

    later = endpoint.completions[sent:]
    assert ended.code == 0, ended.err
    for is_judge in (False, True):
        samples = sorted(sample_of(each) for each in later if each.is_judge is is_judge)
        assert samples == sorted([*range(SAMPLES)] * 2)
    assert (desk.run_dir / "responses.jsonl").read_bytes().startswith(before)
    assert keys(desk.run_dir / "responses.jsonl") == list(product(range(SAMPLES), (1, 2, 3)))
    assert desk.manifest()["epochs"] == 3


@pytest.mark.parametrize("fewer", [(), ("--epochs", 1), ("--epochs", 2)])
def test_fewer_epochs_are_refused_with_the_field_named(
    desk: Desk, fewer: tuple[object, ...], endpoint: SimulatorThread
) -> None:
    desk.run(endpoint, "--epochs", 3)
    sent = endpoint.requests
    ended = desk.run(endpoint, *fewer, "--resume")

    assert ended.code == 6
    assert f"epochs: 3 -> {fewer[1] if fewer else 1}" in ended.error
    assert endpoint.requests == sent
    assert desk.manifest()["epochs"] == 3


@pytest.mark.parametrize("epochs", [0, -1, "two"])
def test_epochs_are_a_number_from_one(desk: Desk, epochs: object, endpoint: SimulatorThread) -> None:
    ended = desk.run(endpoint, "--epochs", epochs)

    assert ended.code == 2
    assert endpoint.requests == 0
    assert not desk.run_dir.exists()


# Runs of before there were epochs.


def forget_epochs(run: Path) -> None:
    """Make the run's records what an older version wrote."""
    for path in run.rglob("*.jsonl"):
        old = [{name: value for name, value in row.items() if name != "epoch"} for row in rows(path)]
        path.write_text("".join(json.dumps(row) + "\n" for row in old))


def test_records_without_an_epoch_are_read_as_the_first(desk: Desk) -> None:
    blocked = error(400, code="content_filter", type="invalid_request_error")
    usual = labelling({0: 1, 1: 2})

    def respond(request: Request) -> Action:
        return blocked if sample_of(request) == 3 and not request.is_judge else usual(request)

    with SimulatorThread(respond) as endpoint:
        desk.run(endpoint)
        before = desk.report()
        forget_epochs(desk.run_dir)
        after = desk.report()
        sent = len(endpoint.completions)
        desk.run(endpoint, "--epochs", 2, "--resume")

    assert after == before
    assert asked(endpoint.completions, judge=False)[SAMPLES:].count(0) == 1
    assert len(endpoint.completions) - sent == 2 * SAMPLES - 1
    assert desk.outcomes() == {"safe_refusal": 2, "safe_warning": 2, "unsafe": 2, "target_blocked": 2}
