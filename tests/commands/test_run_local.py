"""`vlsb run --model FAMILY`: an engine for the run, watched, restarted, found if it runs, gone at the end.

The engine is the stand-in, a process tree of its own; the judge is the simulator.
"""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoints import checkpoint
from tests.support.command import Finished, Process, Vlsb
from tests.support.datasets import instruction, write_dataset
from tests.support.engine_environment import write_environment
from tests.support.fake_engine import events, living
from tests.support.waiting import wait_until
from vlsb.engines.registry import Places, find_running, read_records

SAMPLES = 8


class Desk:
    """A user's folder with a data set, an engine and weights."""

    def __init__(self, vlsb: Vlsb, folder: Path, environment: dict[str, str]) -> None:
        self.vlsb = vlsb
        self.folder = folder
        self.mark = uuid.uuid4().hex
        self.record = folder / "record"
        self.engine = write_environment(folder / "engine")
        self.weights = checkpoint(folder / "weights")
        self.data = write_dataset(folder / "data", SAMPLES)
        self.places = Places.of(environment)
        self.ledger = folder / "ledger"
        self.ledger.mkdir()

    def words(self, *more: str, name: str = "llava_hf") -> tuple[str, ...]:
        words = ["run", "--model", name, "--judge", "demo", "--data-root", str(self.data)]
        words += ["--engine", str(self.engine), "--weights", str(self.weights)]
        return (*words, *more)

    def environment(self, **wishes: str) -> dict[str, str]:
        wishes = {"MARK": self.mark, "RECORD": str(self.record), "LEDGER": str(self.ledger), **wishes}
        return {f"FAKE_ENGINE_{name}": value for name, value in wishes.items()}

    def run(self, *more: str, name: str = "llava_hf", **wishes: str) -> Finished:
        return self.vlsb(*self.words(*more, name=name), env=self.environment(**wishes))

    def start(self, *more: str, **wishes: str) -> Process:
        return self.vlsb.start(*self.words(*more), env=self.environment(**wishes))

    def summary(self) -> dict[str, Any]:
        ended = self.vlsb("report", "outputs", "--format", "json")
        (summary,) = json.loads(ended.out)
        return summary

    def bodies(self) -> list[dict[str, Any]]:
        """The samples' requests; the one that proves that the engine is ready is not among them."""
        chats = [event["body"] for event in events(self.record, "chat")]
        return [body for body in chats if body["model"] == "llava_hf"]

    def gone(self) -> None:
        wait_until(lambda: not living(self.mark), what="no process of the engine is left")


@pytest.fixture
def desk(vlsb: Vlsb, tmp_path: Path, minimal_env: dict[str, str]) -> Iterator[Desk]:
    desk = Desk(vlsb, tmp_path, minimal_env)
    yield desk
    for process in living(desk.mark):
        os.kill(process, signal.SIGKILL)


def text_of(number: int) -> str:
    """A piece of a sample's instruction that no other sample's contains."""
    return json.dumps(instruction(number))[1:-1]


def test_a_family_is_run_on_an_engine_of_its_own_that_is_gone_afterwards(desk: Desk) -> None:
    ended = desk.run()

    assert ended.code == 0, ended.err
    assert desk.summary()["judged"] == SAMPLES
    desk.gone()
    assert read_records(desk.places) == []


def test_the_requests_are_those_of_the_family(desk: Desk) -> None:
    """Text before image, no system message, and the field that restores the BOS."""
    desk.run()

    for body in desk.bodies():
        (message,) = body["messages"]
        assert [part["type"] for part in message["content"]] == ["text", "image_url"]
        assert body["add_special_tokens"] is True
        assert (body["temperature"], body["max_tokens"]) == (0.0, 128)
    assert len(desk.bodies()) == SAMPLES


def test_what_can_change_an_answer_is_in_the_manifest_and_counts_as_drift(desk: Desk) -> None:
    desk.run("--limit", "2")

    manifest = json.loads((desk.folder / "outputs" / "llava_hf" / "run.json").read_text())
    assert manifest["settings"]["engine.engine"]["version"] == "0.32.0"
    other = desk.run("--resume", "--dtype", "bfloat16")
    assert other.code == 6
    assert "engine.dtype" in other.err
    same = desk.run("--resume", "--limit", "2", "--", "--max-num-seqs", "8")
    assert same.code == 0, same.err


def test_a_deviation_of_the_engine_is_printed_under_the_table(desk: Desk) -> None:
    ended = desk.run("--limit", "1", "--dtype", "bfloat16")

    assert "bfloat16" in ended.out.split("Deviations")[1]


def test_an_engine_that_dies_is_started_again_and_every_sample_gets_its_answer(desk: Desk) -> None:
    straight = desk.run("--name", "straight")
    ended = desk.run(DIE_AFTER="4")

    assert (straight.code, ended.code) == (0, 0), ended.err
    assert "started again" in ended.err
    desk.gone()
    rows = [
        {row["sample_id"]: row["text"] for row in map(json.loads, path.read_text().splitlines())}
        for path in desk.folder.glob("outputs/*/responses.jsonl")
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == SAMPLES


def test_a_sample_that_kills_the_engine_twice_is_an_error_and_the_rest_goes_on(desk: Desk) -> None:
    ended = desk.run(KILLER=text_of(3))

    assert ended.code == 4, ended.err
    assert desk.summary()["outcomes"]["target_error"] == 1
    (failure,) = map(
        json.loads, (desk.folder / "outputs" / "llava_hf" / "failures.jsonl").read_text().splitlines()
    )
    assert (failure["sample_id"], failure["code"]) == (3, "engine_killed")
    assert desk.summary()["judged"] == SAMPLES - 1
    desk.gone()


def test_a_sample_that_kills_the_engine_is_sent_in_no_other_epoch(desk: Desk) -> None:
    ended = desk.run("--epochs", "3", KILLER=text_of(3))

    assert ended.code == 4, ended.err
    failures = (desk.folder / "outputs" / "llava_hf" / "failures.jsonl").read_text().splitlines()
    assert [json.loads(line)["code"] for line in failures] == ["engine_killed"] * 3
    assert len(events(desk.record, "start")) == 3
    assert desk.summary()["judged"] == 3 * (SAMPLES - 1)
    desk.gone()


def test_a_text_that_was_aborted_is_never_an_answer(desk: Desk) -> None:
    ended = desk.run("--max-attempts", "2", "--backoff", "0.01", ABORT=text_of(2))

    assert ended.code == 4
    assert desk.summary()["outcomes"]["target_error"] == 1


def test_a_500_and_the_dropped_connection_after_it_cost_no_other_sample(desk: Desk) -> None:
    ended = desk.run("--backoff", "0.01", **{"500": text_of(2)})

    assert ended.code == 4, ended.err
    assert desk.summary()["judged"] == SAMPLES - 1


def test_an_engine_that_cannot_start_is_exit_7_with_its_cause_and_sends_nothing(desk: Desk) -> None:
    ended = desk.run(DIE_AT="loading", CAUSE="out_of_gpu_memory")

    assert ended.code == 7
    assert "out of GPU memory" in ended.err
    assert desk.bodies() == []
    desk.gone()


def test_a_server_that_runs_is_used_and_left_alone(desk: Desk) -> None:
    serve = ("serve", "llava_hf", "--engine", str(desk.engine), "--weights", str(desk.weights), "--detach")
    served = desk.vlsb(*serve, env=desk.environment())
    assert served.code == 0, served.err

    used = desk.vlsb(
        "run", "--model", "llava_hf", "--judge", "demo", "--data-root", desk.data, env=desk.environment()
    )
    same = desk.run("--resume")
    other = desk.run("--name", "other", "--dtype", "bfloat16")

    assert used.code == 0, used.err
    assert "Using the server" in used.err
    assert same.code == 0, same.err
    assert other.code == 2
    assert "vlsb engine stop llava_hf" in other.err
    assert len(events(desk.record, "start")) == 1
    assert find_running(desk.places, "llava_hf") is not None
    stopped = desk.vlsb("engine", "stop", "llava_hf")
    assert stopped.code == 0
    desk.gone()


def test_a_server_may_be_kept_after_the_run(desk: Desk) -> None:
    ended = desk.run("--keep-server")

    assert ended.code == 0, ended.err
    record = find_running(desk.places, "llava_hf")
    assert record is not None
    assert record.owner_pid is None
    os.kill(record.pid, 0)
    assert desk.vlsb("engine", "stop", "--all").code == 0
    desk.gone()


def test_the_familys_protocol_holds_for_a_server_that_somebody_else_runs(desk: Desk) -> None:
    """`--base-url` with a family's name, or with `--arch`, asks as the paper's loader does."""
    served = desk.vlsb(
        "serve",
        "llava_hf",
        "--engine",
        str(desk.engine),
        "--weights",
        str(desk.weights),
        "--detach",
        env=desk.environment(),
    )
    assert served.code == 0, served.err
    record = find_running(desk.places, "llava_hf")
    assert record is not None
    words = ["run", "--model", "llava_hf", "--judge", "demo", "--data-root", desk.data, "--limit", "1"]
    words += ["--base-url", record.base_url, "--api-key-env", "ENGINE_KEY"]

    ended = desk.vlsb(*words, env=desk.environment() | {"ENGINE_KEY": record.key.reveal()})

    assert ended.code == 0, ended.err
    assert desk.bodies()[0]["add_special_tokens"] is True
    assert desk.vlsb("engine", "stop", "--all").code == 0


def test_engine_options_for_an_endpoint_are_refused(desk: Desk) -> None:
    words = ["run", "--model", "m", "--base-url", "http://127.0.0.1:9/v1", "--judge", "demo"]

    ended = desk.vlsb(*words, "--data-root", desk.data, "--dtype", "half")

    assert ended.code == 2
    assert "--dtype" in ended.err


def test_the_command_that_resumes_repeats_the_engines_options(desk: Desk) -> None:
    ended = desk.run("--max-restarts", "0", "--", "--max-num-seqs", "8", DIE_AFTER="4")

    last = ended.err.splitlines()[-1]
    assert "--resume -- --max-num-seqs 8" in last
    assert f"--weights {desk.weights}" in last
