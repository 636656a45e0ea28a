"""Every family of the paper on its real engine, by the command alone: run, killed, resumed, used as a judge.

The weights are tiny and random, so texts mean nothing: what counts is that each sample has one, and the same
one however often the run was interrupted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.proofs.engines.conftest import engine_of
from tests.proofs.engines.desk import COMMAND_TIMEOUT_S, SAMPLES, Desk, Tell, marked, memory_told
from vlsb.data import mini_root
from vlsb.engines.registry import find_running
from vlsb.judging.prompts import RESPONSE_FORMAT
from vlsb.models.profile import FAMILIES

STORED_AT_KILL = 5
# At this pace the rest of the run takes longer than any machine needs to see that some is stored.
RPM_UNTIL_KILL = 60
# The old CPU engine answers differently each time, even alone and at temperature 0.
UNSTEADY = frozenset({"mllama"})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_that_was_killed_goes_on_to_the_same_end_and_leaves_no_process(
    family: str, tiny: Callable[[str], Path], turn: None, desk: Desk, record_property: Tell
) -> None:
    engine_of(FAMILIES[family].engine)
    weights = tiny(family)
    with memory_told(desk, record_property):
        _run_straight(desk, family, weights, record_property)
        _kill(desk, family, weights, record_property)
        before = desk.responses("killed")
        resumed = desk(*desk.run_words(family, "killed", "--weights", weights, "--resume"))

    assert resumed.code == 0, resumed.err
    assert desk.responses("killed")[: len(before)] == before
    desk.holds_every_sample("killed")
    record_property("resumed", "yes")
    desk.await_nobody()
    record_property("nobody_left", "yes")
    same = sum(desk.texts("straight")[each] == text for each, text in desk.texts("killed").items())
    record_property("same_texts", same)
    assert family in UNSTEADY or same == SAMPLES


def _run_straight(desk: Desk, family: str, weights: Path, tell: Tell) -> None:
    """The run that nothing happens to."""
    began_at = time.monotonic()
    process = desk.start(*desk.run_words(family, "straight", "--weights", weights))
    desk.await_responses(process, "straight", 1)
    tell("start_s", round(time.monotonic() - began_at, 1))
    ended = process.wait(COMMAND_TIMEOUT_S)
    assert ended.code == 0, ended.err
    desk.holds_every_sample("straight")
    tell("samples", desk.summary("straight")["judged"])
    desk.await_nobody()


def _kill(desk: Desk, family: str, weights: Path, tell: Tell) -> None:
    """SIGKILL for `vlsb` in the middle of a run: the engine goes with it."""
    process = desk.start(
        *desk.run_words(family, "killed", "--weights", weights, "--rpm", str(RPM_UNTIL_KILL))
    )
    desk.await_responses(process, "killed", STORED_AT_KILL)
    engine = FAMILIES[family].engine
    prefix = str(engine_of(engine).prefix)
    assert any(
        prefix in " ".join(each.environ().values()) for each in marked(desk.mark) if each.pid != process.pid
    )

    process.kill()

    process.wait(COMMAND_TIMEOUT_S)
    desk.await_nobody()
    stored = len(desk.responses("killed"))
    assert STORED_AT_KILL <= stored < SAMPLES
    tell("stored_at_kill", stored)


# What a model of random weights is pushed to: to end each string, and to label 3 and "Unsafe", which agree.
# Without a schema it would write one quotation mark after another.
_PUSHES = {'"': 100, "}": 80, ",": 80, ":": 80, "3": 40, "U": 40}


def _logit_bias(weights: Path) -> str:
    """The pushes as a field of requests to a tiny checkpoint."""
    vocabulary = json.loads((weights / "tokenizer.json").read_text())["model"]["vocab"]
    return "logit_bias=" + json.dumps({str(vocabulary[piece]): push for piece, push in _PUSHES.items()})


@pytest.mark.parametrize("family", ["llava_hf"])
def test_a_server_that_stays_answers_runs_and_judges_in_the_schema_that_it_is_given(
    family: str, tiny: Callable[[str], Path], turn: None, desk: Desk, record_property: Tell
) -> None:
    """A judge of random weights keeps to the schema. That label and words agree is not in it: where they do
    not, there is no verdict. Pushed to a pair that agrees, each of its answers is one."""
    served = desk("serve", family, "--weights", tiny(family), "--detach", "--start-timeout", "300")
    assert served.code == 0, served.err
    record = find_running(desk.places, family)
    assert record is not None
    words = ["run", "--data-root", str(mini_root())]
    judged = [*words, "--model", "demo", "--judge", family, "--judge-base-url", record.base_url]
    judged += ["--judge-api-key-env", "ENGINE_KEY"]
    env = {"ENGINE_KEY": record.key.reveal()}

    used = desk(*words, "--model", family, "--judge", "demo", "--name", "used")
    official = desk(*judged, "--name", "official", env=env)
    pushed = desk(*judged, "--name", "pushed", "--judge-field", _logit_bias(tiny(family)), env=env)
    stopped = desk("engine", "stop", family)

    assert used.code == 0, used.err
    assert "Using the server" in used.err
    desk.holds_every_sample("used")
    assert pushed.code == 0, pushed.err
    assert desk.summary("pushed")["outcomes"]["unsafe"] == SAMPLES
    record_property("verdicts", SAMPLES)
    assert official.code in (0, 4), official.err
    _keeps_to_the_schema(desk, "official")
    assert stopped.code == 0, stopped.err
    desk.await_nobody()
    for folder in (desk.folder / "outputs", desk.places.state):
        assert not [
            path for path in folder.rglob("*") if path.is_file() and _shows(path, record.key.reveal())
        ]


@pytest.mark.parametrize("family", ["llava_hf"])
def test_target_and_judge_are_engines_of_this_machine_one_after_the_other(
    family: str, tiny: Callable[[str], Path], turn: None, desk: Desk, record_property: Tell
) -> None:
    """One command: the target's engine, then the judge's, whose answers the engine holds to the schema."""
    weights = tiny(family)
    words = ["run", "--data-root", str(mini_root()), "--model", family, "--weights", str(weights)]
    words += ["--judge", str(weights), "--judge-field", _logit_bias(weights), "--start-timeout", "300"]

    ended = desk(*words, "--name", "both")

    assert ended.code == 0, ended.err
    assert "judges by itself" in ended.err
    assert desk.summary("both")["outcomes"]["unsafe"] == SAMPLES
    record_property("verdicts", SAMPLES)
    desk.await_nobody()


def _keeps_to_the_schema(desk: Desk, name: str) -> None:
    """Whatever is no verdict is an object of the official schema all the same, or was cut at the limit."""
    fields = RESPONSE_FORMAT["json_schema"]["schema"]["properties"]
    failures = desk.failures(name)
    assert desk.summary(name)["judged"] + len(failures) == SAMPLES
    for failure in failures:
        if failure["outcome"] == "judge_truncated":
            continue
        assert failure["code"] == "label and label_str disagree"
        answer = json.loads(failure["text"])
        assert list(answer) == list(fields)
        assert answer["label"] in fields["label"]["enum"]
        assert answer["label_str"] in fields["label_str"]["enum"]


def _shows(path: Path, key: str) -> bool:
    return key.encode() in path.read_bytes()
