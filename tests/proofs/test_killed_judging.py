"""Judging, and runs without a judge, that are killed at a request: what is stored is asked no more."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.commands.test_judging_sessions import (
    SAMPLES,
    collect,
    collect_words,
    compared,
    judge,
    judge_words,
    kill_when,
    rows,
)
from tests.support.command import Desk
from tests.support.endpoint import labelling, settle
from vlsb.simulator import Action, Request, SimulatorThread, Stall


class HangsAt:
    """`labelling`, but the k-th completion is never answered: whoever waits for it can be killed."""

    def __init__(self, count: int, labels: Mapping[int, int]) -> None:
        self._count = count
        self._seen = 0
        self._usual = labelling(labels)
        self.is_reached = threading.Event()

    def __call__(self, request: Request) -> Action:
        self._seen += 1
        if self._seen == self._count:
            self.is_reached.set()
            return Stall()
        return self._usual(request)


def test_a_collecting_run_that_was_killed_asks_only_what_it_has_not_stored(desk: Desk) -> None:
    responder = HangsAt(3, {})
    with SimulatorThread(responder) as endpoint:
        process = desk.vlsb.start(*collect_words(desk, endpoint, "--resume", "--max-connections", 1))
        kill_when(process, responder.is_reached.is_set, "the third request")
        sent = settle(endpoint)
        ended = collect(desk, endpoint, "--resume")

    assert ended.code == 0, ended.err
    assert len(endpoint.completions) - sent == SAMPLES - 2
    assert desk.outcomes() == {"not_judged": SAMPLES}


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_judging_that_is_killed_and_resumed_ends_as_if_nothing_had_happened(
    tmp_path: Path, count: int
) -> None:
    labels = {0: 1, 1: 2}
    straight, killed = Desk(tmp_path / "straight", SAMPLES), Desk(tmp_path / "killed", SAMPLES)
    responder = HangsAt(count, labels)
    with SimulatorThread(labelling(labels)) as endpoint:
        collect(straight, endpoint)
        collect(killed, endpoint)
        judge(straight, endpoint)

    with SimulatorThread(responder) as other:
        process = killed.vlsb.start(*judge_words(killed, other, "--judge-max-connections", 1))
        kill_when(process, responder.is_reached.is_set, f"judge request {count}")
        sent = settle(other)
        stored = len(rows(killed.run_dir / "verdicts" / "other-judge.jsonl"))
        ended = judge(killed, other)

    assert ended.code == 0, ended.err
    assert stored == count - 1
    assert len(other.completions) - sent == SAMPLES - stored
    assert [compared(each) for each in killed.report()] == [compared(each) for each in straight.report()]
