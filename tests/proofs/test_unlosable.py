"""What an endpoint said is stored as it is read back, and no failing write loses what another one keeps."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.command import Desk, Vlsb, run_words
from tests.support.datasets import sharing_rows, write_dataset
from tests.support.endpoint import labelling, persona, sample_of
from tests.support.journals import read_journal
from tests.support.records import make_manifest, make_response
from tests.support.run_files import records
from vlsb.errors import StoreError
from vlsb.records import Key, Untrusted
from vlsb.simulator import Reply, Request, SimulatorThread, answer, error, verdict
from vlsb.store.journal import Journal, lock_run
from vlsb.store.state import load_state
from vlsb.store.store import open_run


def test_halves_of_a_surrogate_pair_are_one_character() -> None:
    halves = Untrusted("a" + chr(0xD83D) + chr(0xDE00) + chr(0xD83D))

    assert halves == Untrusted("a\U0001f600" + chr(0xD83D))
    assert halves.sha256() == Untrusted("a\U0001f600" + chr(0xD83D)).sha256()


def document(content: object, **message: object) -> dict[str, Any]:
    return {
        "model": "m" + chr(0xDC00),
        "choices": [{"message": {"content": content, **message}, "finish_reason": "stop" + chr(0xD800)}],
        "usage": {"prompt_tokens": 2**70, "completion_tokens": 1},
        "system_fingerprint": chr(0xD83D),
    }


HOSTILE = [
    document([{"type": "text", "text": "a" + chr(0xD83D)}, {"type": "text", "text": chr(0xDE00) + "b"}]),
    document("lone " + chr(0xD83D)),
    document(None, refusal="no " + chr(0xDE00)),
    {"error": {"message": "bad " + chr(0xD83D), "code": chr(0xDE00), "status": 2**70}},
]


@pytest.mark.parametrize(
    "body", [*map(json.dumps, HOSTILE), "[" * 1000 + "]" * 1000, '{"choices": ' + "9" * 5000]
)
def test_unreadable_text_is_stored_readable_or_ends_its_sample(tmp_path: Path, body: str) -> None:
    desk = Desk(tmp_path)
    respond = labelling()

    def hostile(request: Request) -> object:
        is_well = request.is_judge or sample_of(request) != 1
        return respond(request) if is_well else Reply(200, body.encode())

    with SimulatorThread(hostile) as simulator:
        done = desk.run(simulator, "--max-attempts", "1")

    assert done.code in (0, 4), done.err
    assert "internal error" not in done.err
    (summary,) = desk.report()
    assert sum(summary["outcomes"].values()) == 4
    for shape in ("table", "csv", "markdown"):
        assert desk.vlsb("report", desk.outputs, "--format", shape).code == 0


SURROGATES = st.text(st.characters(codec=None, categories=["Cs", "L", "So"]), max_size=6)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=SURROGATES, reason=SURROGATES, model=SURROGATES)
def test_whatever_text_is_stored_is_loaded_again(
    tmp_path_factory: pytest.TempPathFactory, text: str, reason: str, model: str
) -> None:
    directory = tmp_path_factory.mktemp("run")
    response = make_response(0, text, finish_reason=Untrusted(reason), model=Untrusted(model))
    store = open_run(directory, make_manifest(), is_resume=False)
    store.add_response(response)
    asyncio.run(store.close())

    assert load_state(directory).responses == {Key(0, 1): response}


# Failing writes.


def test_a_cut_that_fails_glues_no_record_to_a_half_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "j.jsonl"
    journal = Journal(path, size=0, lacks_newline=False)
    journal.append({"n": 1})
    real, calls = os.write, [3, OSError(errno.ENOSPC, "full"), OSError(errno.ENOSPC, "full")]

    def write(descriptor: int, data: bytes) -> int:
        if descriptor != journal._descriptor or not calls:
            return real(descriptor, data)
        call = calls.pop(0)
        if isinstance(call, OSError):
            raise call
        return real(descriptor, data[:call])

    def no_cut(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(os, "ftruncate", no_cut)
    for number in (2, 3):
        with pytest.raises(StoreError):
            journal.append({"n": number})
    journal.append({"n": 4})
    assert journal.rescue() == 0
    journal.close()

    found = read_journal(path, lambda record: record["n"])
    assert sorted(found.records) == [1, 2, 3, 4]


def test_a_full_disk_at_the_lock_is_a_store_error(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(StoreError):
            lock_run(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_event_that_cannot_be_written_costs_no_answer(tmp_path: Path) -> None:
    store = open_run(tmp_path / "run", make_manifest(), is_resume=False)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, store._events._descriptor)
    store.add_event("retry")
    store.add_response(make_response(0))
    asyncio.run(store.close())
    os.close(full)

    assert list(load_state(tmp_path / "run").responses) == [Key(0, 1)]


BROKEN = """
from vlsb.judging import judge
def broken(*_):
    raise RuntimeError("a bug")
judge._ending = broken
"""


def test_a_session_that_ended_with_an_internal_error_is_never_called_complete(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", sharing_rows(3))
    with SimulatorThread(persona) as simulator:
        ended = Vlsb(tmp_path)(*run_words(simulator, Path("data")), prelude=BROKEN)

    events = records((tmp_path / "outputs/m/events.jsonl").read_bytes())
    assert ended.code == 1
    assert events[-1]["kind"] == "session_ended"
    assert events[-1]["reason"] not in ("complete", None)


def test_a_dialect_of_a_preflight_that_failed_is_not_recorded(tmp_path: Path) -> None:
    """The judge takes the request only without a schema, and then never gives a verdict."""
    desk = Desk(tmp_path)
    respond = labelling()

    def judge(request: Request) -> object:
        return (
            Reply(200, json.dumps(document("no verdict")).encode()) if request.is_judge else respond(request)
        )

    with SimulatorThread(judge) as simulator:
        desk.run(simulator)

    assert desk.manifest()["decision"] is not None
    assert [entry["decision"] for entry in desk.manifest()["judges"]] == [None]


def test_a_dialect_is_recorded_once_a_sample_got_through_after_the_preflight(tmp_path: Path) -> None:
    """The judge takes the request only without a schema, and gives the first samples no verdict."""
    desk = Desk(tmp_path, samples=6)
    respond = labelling()

    def judge(request: Request) -> object:
        if not request.is_judge:
            return respond(request)
        if b"response_format" in request.body:
            return error(400, message="response_format is not supported", param="response_format")
        return verdict(3) if sample_of(request) > 2 else answer("no verdict")

    with SimulatorThread(judge) as simulator:
        desk.run(simulator)

    (entry,) = desk.manifest()["judges"]
    assert entry["decision"]["structured"] is False
    assert entry["deviations"]


def test_samples_that_a_living_endpoint_replies_to_without_a_text_end_and_are_no_outage(
    tmp_path: Path,
) -> None:
    desk = Desk(tmp_path)
    respond = labelling()

    def without_text(request: Request) -> object:
        is_well = request.is_judge or sample_of(request) == 0
        return respond(request) if is_well else answer("half", finish_reason="abort")

    with SimulatorThread(without_text) as simulator:
        done = desk.run(simulator, "--max-attempts", "2")

    assert done.code == 4
    assert desk.outcomes() == {"unsafe": 1, "target_error": 3}
    assert simulator.requests == 1 + 1 + 3 * 2


def test_an_endpoint_that_never_replies_with_a_text_ends_the_run_after_twenty_samples(tmp_path: Path) -> None:
    desk = Desk(tmp_path, samples=30)
    respond = labelling()

    def without_text(request: Request) -> object:
        is_well = request.is_judge or sample_of(request) == 0
        return respond(request) if is_well else answer("half", finish_reason="abort")

    with SimulatorThread(without_text) as simulator:
        done = desk.run(simulator, "--max-attempts", "1", "--max-connections", "1")

    assert done.code == 4
    assert "20 samples in a row ended for the same reason (finish_abort)" in done.error
    assert desk.outcomes() == {"unsafe": 1, "target_error": 20, "not_attempted": 9}
