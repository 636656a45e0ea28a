"""Several addresses or engines of one model behind one run: who is asked, and what a dead one costs."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.commands.test_run_local import SAMPLES as LOCAL_SAMPLES
from tests.commands.test_run_local import Desk as LocalDesk
from tests.commands.test_run_local import desk as local_desk
from tests.commands.test_run_local import text_of
from tests.support.command import Desk
from tests.support.endpoint import asked, labelling, sample_of
from tests.support.fake_engine import events
from tests.support.waiting import DEADLINE_S
from vlsb.endpoints.retry import ENDED_ALIKE_LIMIT
from vlsb.simulator import Action, Hangup, Request, SimulatorThread, error

SAMPLES = 24
NAMES = ("target-model", "judge-model")
__all__ = ["local_desk"]


def together(*targets: SimulatorThread | str) -> list[object]:
    """The addresses as a run's words."""
    return [
        word
        for target in targets
        for word in ("--base-url", target if isinstance(target, str) else target.base_url)
    ]


def stored(run: Path) -> Counter[int]:
    """How often each sample has a response."""
    lines = (run / "responses.jsonl").read_text().splitlines()
    return Counter(json.loads(line)["sample_id"] for line in lines)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path, SAMPLES)


def test_two_addresses_share_the_samples_and_each_is_answered_once(desk: Desk) -> None:
    with (
        SimulatorThread(labelling(), model_names=NAMES) as one,
        SimulatorThread(labelling(), model_names=NAMES) as two,
    ):
        ended = desk.run(one, *together(one, two), "--max-connections", "4", judge=one)

    assert ended.code == 0, ended.err
    shares = asked(one.completions, judge=False), asked(two.completions, judge=False)
    assert sorted(shares[0] + shares[1]) == list(range(SAMPLES))
    assert min(len(shares[0]), len(shares[1])) >= SAMPLES // 4
    assert desk.report()[0]["judged"] == SAMPLES


def test_the_one_with_fewest_requests_in_flight_is_asked_next(desk: Desk) -> None:
    """One address keeps its first sample until all others have been answered: it gets no second one."""
    others_done = threading.Event()
    held: list[int] = []
    label = labelling()

    async def slow(request: Request) -> Action:
        held.append(sample_of(request))
        assert await asyncio.to_thread(others_done.wait, DEADLINE_S)
        return label(request)

    def quick(request: Request) -> Action:
        if len(asked(two.completions, judge=False)) == SAMPLES - 1:
            others_done.set()
        return label(request)

    with (
        SimulatorThread(slow, model_names=NAMES) as one,
        SimulatorThread(quick, model_names=NAMES) as two,
        SimulatorThread(label, model_names=NAMES) as judge,
    ):
        ended = desk.run(two, *together(two, one), "--max-connections", "2", judge=judge)

    assert ended.code == 0, ended.err
    assert len(held) == 1
    assert set(stored(desk.run_dir).values()) == {1}


def test_one_that_dies_in_the_middle_is_left_out_and_its_samples_go_to_the_other(desk: Desk) -> None:
    label = labelling()

    def dying(request: Request) -> Action:
        if len(one.completions) > 3:
            return Hangup(reset=True)
        return label(request)

    with SimulatorThread(dying, model_names=NAMES) as one, SimulatorThread(label, model_names=NAMES) as two:
        ended = desk.run(one, *together(one, two), "--max-connections", "8", judge=two)

    assert ended.code == 0, ended.err
    assert "Replica 1 (" in ended.err
    assert "the others take over" in ended.err
    assert stored(desk.run_dir) == Counter(range(SAMPLES))
    assert desk.report()[0]["judged"] == SAMPLES


def test_one_that_rejects_whatever_it_is_asked_does_not_get_the_whole_run(tmp_path: Path) -> None:
    """It answers at once, so that it always has the fewest requests in flight."""
    desk, label = Desk(tmp_path, 80), labelling()

    def rejecting(request: Request) -> Action:
        return error(400, code="context_length_exceeded") if len(one.completions) > 2 else label(request)

    with (
        SimulatorThread(rejecting, model_names=NAMES) as one,
        SimulatorThread(label, model_names=NAMES) as two,
    ):
        ended = desk.run(one, *together(one, two), "--max-connections", "4", judge=two)
        again = desk.run(two, *together(two), "--resume", judge=two)

    assert ended.code == 4, ended.err
    assert "its samples go to the others: " in ended.err
    assert "20 samples in a row ended for the same reason" in ended.err
    assert "samples have no verdict" in ended.errors[0]
    assert (again.code, desk.report()[0]["judged"]) == (0, 80), again.err
    assert len(asked(one.completions, judge=False)) <= 2 + ENDED_ALIKE_LIMIT + 4


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        (error(401, code="invalid_api_key"), "authentication failed"),
        (error(404, code="model_not_found"), "no such model"),
    ],
)
def test_one_that_refuses_to_serve_is_left_out_and_the_other_ends_the_run(
    desk: Desk, refused: Action, said: str
) -> None:
    label = labelling()
    with (
        SimulatorThread(lambda _: refused, model_names=NAMES) as one,
        SimulatorThread(label, model_names=NAMES) as two,
    ):
        ended = desk.run(one, *together(one, two), judge=two)

    assert ended.code == 0, ended.err
    assert "its samples go to the others: " in ended.err
    assert said in ended.err
    assert stored(desk.run_dir) == Counter(range(SAMPLES))


def test_an_address_that_does_not_answer_at_the_start_is_said_and_does_without(desk: Desk) -> None:
    with SimulatorThread(labelling(), model_names=NAMES) as gone:
        nobody = gone.base_url
    with SimulatorThread(labelling(), model_names=NAMES) as one:
        ended = desk.run(nobody, *together(nobody, one), judge=one)

    assert ended.code == 0, ended.err
    assert "connection refused. The others are asked until it answers." in ended.err
    assert desk.report()[0]["judged"] == SAMPLES


def test_where_nobody_answers_the_run_ends_before_anything_is_sent(desk: Desk) -> None:
    with (
        SimulatorThread(labelling(), model_names=NAMES) as judge,
        SimulatorThread(labelling(), model_names=NAMES) as gone,
    ):
        nobody = gone.base_url
        other = f"{nobody}/v1"
    ended = desk.run(nobody, *together(nobody, other), judge=judge.base_url)

    assert ended.code == 2
    assert "connection refused" in ended.errors[0]


def test_an_address_that_serves_another_model_is_refused_before_anything_is_sent(desk: Desk) -> None:
    with (
        SimulatorThread(labelling(), model_names=NAMES) as one,
        SimulatorThread(labelling(), model_names=["another"]) as two,
    ):
        ended = desk.run(one, *together(one, two), judge=one)
        sent = len(one.completions) + len(two.completions)

    assert ended.code == 2
    assert "it serves no target-model" in ended.error
    assert sent == 0


def test_a_resume_may_name_the_addresses_in_another_order_or_leave_a_dead_one_to_be_found(desk: Desk) -> None:
    with (
        SimulatorThread(labelling(), model_names=NAMES) as one,
        SimulatorThread(labelling(), model_names=NAMES) as two,
    ):
        first = desk.run(one, *together(one, two), "--max-requests", "10", judge=one)
        again = desk.run(two, *together(two, one), "--resume", judge=one)

    assert (first.code, again.code) == (4, 0), again.err
    assert stored(desk.run_dir) == Counter(range(SAMPLES))


@pytest.mark.parametrize(
    ("other", "said"),
    [("http://127.0.0.1:9/v1", "is given twice"), ("https://api.openai.com/v1", "take different keys")],
)
def test_addresses_that_cannot_be_replicas_are_refused(desk: Desk, other: str, said: str) -> None:
    words = ["run", "--model", "m", "--judge", "demo", *together("http://127.0.0.1:9/v1", other)]
    ended = desk.vlsb(*words, env={"OPENAI_API_KEY": "key", "VLSB_API_KEY_ENV": ""})

    assert ended.code == 2
    assert said in ended.err


def test_several_engines_answer_one_run(local_desk: LocalDesk) -> None:
    ended = local_desk.run("--replicas", "2")

    assert ended.code == 0, ended.err
    pids = pids_asked(local_desk)
    assert len(pids) == 2
    assert sum(pids.values()) == LOCAL_SAMPLES
    assert local_desk.summary()["judged"] == LOCAL_SAMPLES
    local_desk.gone()


def test_a_sample_that_kills_engines_kills_one_of_them_only(local_desk: LocalDesk) -> None:
    """It goes back to where it killed, alone: the other engine never sees it."""
    ended = local_desk.run("--replicas", "2", KILLER=text_of(3))

    assert ended.code == 4, ended.err
    assert local_desk.summary()["outcomes"]["target_error"] == 1
    assert local_desk.summary()["judged"] == LOCAL_SAMPLES - 1
    # A restarted engine has another process and the same port.
    ports = {
        each["pid"]: each["argv"][each["argv"].index("--port") + 1]
        for each in events(local_desk.record, "start")
    }
    chats = events(local_desk.record, "chat")
    killed = [ports[each["pid"]] for each in chats if text_of(3) in json.dumps(each["body"])]
    assert len(killed) == 2
    assert len(set(killed)) == 1
    lines = (local_desk.folder / "outputs" / "llava_hf" / "events.jsonl").read_text().splitlines()
    restarts = [each for each in map(json.loads, lines) if each["kind"] == "engine_restart"]
    assert len({(each["replica"], each["address"]) for each in restarts}) == 1
    local_desk.gone()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--keep-server"], "--keep-server keeps one engine"),
        (["--base-url", "http://127.0.0.1:9/v1"], "--replicas is for engines that vlsb starts"),
    ],
)
def test_replicas_go_with_engines_of_ones_own(local_desk: LocalDesk, words: list[str], said: str) -> None:
    ended = local_desk.vlsb("run", "--model", "llava_hf", "--judge", "demo", "--replicas", "2", *words)

    assert ended.code == 2
    assert said in ended.err


def pids_asked(desk: LocalDesk) -> Counter[int]:
    """How many samples each engine was asked, by its process."""
    chats = events(desk.record, "chat")
    return Counter(event["pid"] for event in chats if event["body"]["model"] == "llava_hf")
