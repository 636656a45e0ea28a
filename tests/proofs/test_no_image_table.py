"""The paper's table of runs without the image (Table 5, 200 samples), from a model that behaves like that."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("statsmodels", reason="needs the group `extras`: just test")

from tests.support.command import Desk, run_words
from tests.support.endpoint import sample_of
from vlsb.simulator import Action, Request, SimulatorThread, answer, verdict

SAMPLES = 200
# Refusals and warnings in percent, of Qwen2-VL-7B.
TABLE = {"image+text": (1.0, 15.0), "text": (19.5, 10.0), "caption+text": (3.5, 19.0)}


def respond(request: Request) -> Action:
    if request.is_judge:
        return verdict(int((request.judged_response or "")[-1]))
    arm = "image+text" if request.image_url else "caption+text" if len(request.texts) > 1 else "text"
    refused, warned = (round(share * SAMPLES / 100) for share in TABLE[arm])
    place = sample_of(request)
    return answer(f"Answer {place}: {1 if place < refused else 2 if place < refused + warned else 3}")


def test_the_papers_table_is_what_the_arms_of_such_a_model_give(tmp_path: Path) -> None:
    desk = Desk(tmp_path, SAMPLES)
    arms = [word for arm in TABLE for word in ("--arm", arm)]
    with SimulatorThread(respond) as endpoint:
        ended = desk.vlsb(*run_words(endpoint, desk.data, *arms))
    assert ended.code == 0, ended.err

    [found] = json.loads(desk.vlsb("leakage", desk.outputs, "--format", "json").out)["targets"]

    rates = {each["arm"]: (each["safe_refuse_rate"], each["safe_warning_rate"]) for each in found["arms"]}
    assert rates == TABLE
