"""Every family on its real engine, by the command alone: run, killed, resumed, used as a judge.

The weights are tiny and random, so texts mean nothing: what counts is that each sample has one, and the same
one however often the run was interrupted.
"""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil
import pytest

from tests.proofs.engines.conftest import VARIABLE, engine_of
from tests.support.command import Finished, Process, Vlsb
from vlsb.data import mini_root
from vlsb.engines.registry import Places, find_running, read_records
from vlsb.judging.prompts import RESPONSE_FORMAT
from vlsb.models.profile import FAMILIES

SAMPLES = 30
STORED_AT_KILL = 5
# At this pace the rest of the run takes longer than any machine needs to see that some is stored.
RPM_UNTIL_KILL = 60
MARK = "VLSB_TEST_MARK"
COMMAND_TIMEOUT_S = 400.0
MEMORY_LIMIT_BYTES = 12 * 10**9
# The old CPU engine answers differently each time, even alone and at temperature 0.
UNSTEADY = frozenset({"mllama"})

Tell = Callable[[str, object], None]


def marked(mark: str) -> list[psutil.Process]:
    """The living processes that have the mark in their environment: `vlsb` and all that it started."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


class Memory(Thread):
    """The most memory that the marked processes had together, shared pages counted once."""

    def __init__(self, mark: str) -> None:
        super().__init__(daemon=True)
        self.peak_bytes = 0
        self.is_over = Event()
        self._mark = mark

    def run(self) -> None:
        while not self.is_over.wait(1.0):
            total = 0
            for process in marked(self._mark):
                with suppress(psutil.Error):
                    total += process.memory_full_info().pss
            self.peak_bytes = max(self.peak_bytes, total)


class Desk:
    """A user's home whose engines are the tests', and commands typed there."""

    def __init__(self, vlsb: Vlsb, folder: Path, data_home: Path, environment: Mapping[str, str]) -> None:
        self.vlsb = vlsb
        self.folder = folder
        self.mark = uuid.uuid4().hex
        self.variables = {
            MARK: self.mark,
            "XDG_DATA_HOME": str(data_home),
            "HF_HUB_OFFLINE": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            # An engine that renames its processes overwrites the environment that others see, the mark too.
            "SPT_NOENV": "1",
        }
        self.places = Places.of({**environment, **self.variables})

    def __call__(self, *words: str | Path, env: Mapping[str, str] | None = None) -> Finished:
        """Run a command to its end."""
        return self.vlsb(*words, env={**self.variables, **(env or {})}, timeout_s=COMMAND_TIMEOUT_S)

    def start(self, *words: str | Path) -> Process:
        return self.vlsb.start(*words, env=self.variables)

    def run_words(self, family: str, weights: Path, name: str, *more: str) -> list[str]:
        words = ["run", "--model", family, "--weights", str(weights), "--data-root", str(mini_root())]
        return [*words, "--judge", "demo", "--name", name, "--start-timeout", "300", *more]

    def responses(self, name: str) -> list[dict[str, Any]]:
        """What is stored of a run; a last line without its end is not stored."""
        return self._rows(name, "responses.jsonl")

    def failures(self, name: str) -> list[dict[str, Any]]:
        return self._rows(name, "failures.jsonl")

    def texts(self, name: str) -> dict[int, str]:
        return {row["sample_id"]: row["text"] for row in self.responses(name)}

    def summary(self, name: str) -> dict[str, Any]:
        (summary,) = self.vlsb.report(self.folder / "outputs" / name)
        return summary

    def _rows(self, name: str, file: str) -> list[dict[str, Any]]:
        path = self.folder / "outputs" / name / file
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        return [json.loads(line) for line in lines]

    def await_responses(self, process: Process, name: str, count: int) -> None:
        """Return when so many are stored, as the run goes on."""
        ends_at = time.monotonic() + COMMAND_TIMEOUT_S
        while len(self.responses(name)) < count:
            if not process.is_running:
                pytest.fail(f"the run ended before: {process.wait()}")
            assert time.monotonic() < ends_at, "the engine does not answer"
            time.sleep(0.05)

    def await_nobody(self) -> None:
        """Return when no process with the mark is left."""
        ends_at = time.monotonic() + 60.0
        while left := marked(self.mark):
            assert time.monotonic() < ends_at, f"still there: {left}"
            time.sleep(0.2)
        assert read_records(self.places) == []


@pytest.fixture
def desk(vlsb: Vlsb, tmp_path: Path, minimal_env: dict[str, str]) -> Iterator[Desk]:
    engines = Path(os.environ[VARIABLE]).resolve()
    desk = Desk(vlsb, tmp_path, engines.parents[1], minimal_env)
    assert desk.places.engines == engines, f"{VARIABLE} must end in vlsb/engines"
    yield desk
    for process in marked(desk.mark):
        with suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)


@contextmanager
def memory_told(desk: Desk, tell: Tell) -> Iterator[None]:
    """Holds that the memory stays below the limit, and tells the peak."""
    memory = Memory(desk.mark)
    memory.start()
    try:
        yield
    finally:
        memory.is_over.set()
        memory.join()
        tell("memory_gb", round(memory.peak_bytes / 10**9, 2))
    assert 0 < memory.peak_bytes < MEMORY_LIMIT_BYTES


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
        resumed = desk(*desk.run_words(family, weights, "killed", "--resume"))

    assert resumed.code == 0, resumed.err
    assert desk.responses("killed")[: len(before)] == before
    _holds_every_sample(desk, "killed")
    record_property("resumed", "yes")
    desk.await_nobody()
    record_property("nobody_left", "yes")
    same = sum(desk.texts("straight")[each] == text for each, text in desk.texts("killed").items())
    record_property("same_texts", same)
    assert family in UNSTEADY or same == SAMPLES


def _run_straight(desk: Desk, family: str, weights: Path, tell: Tell) -> None:
    """The run that nothing happens to."""
    began_at = time.monotonic()
    process = desk.start(*desk.run_words(family, weights, "straight"))
    desk.await_responses(process, "straight", 1)
    tell("start_s", round(time.monotonic() - began_at, 1))
    ended = process.wait(COMMAND_TIMEOUT_S)
    assert ended.code == 0, ended.err
    _holds_every_sample(desk, "straight")
    tell("samples", desk.summary("straight")["judged"])
    desk.await_nobody()


def _kill(desk: Desk, family: str, weights: Path, tell: Tell) -> None:
    """SIGKILL for `vlsb` in the middle of a run: the engine goes with it."""
    process = desk.start(*desk.run_words(family, weights, "killed", "--rpm", str(RPM_UNTIL_KILL)))
    desk.await_responses(process, "killed", STORED_AT_KILL)
    engine = FAMILIES[family].engine
    prefix = str(engine_of(engine).prefix)
    assert any(
        prefix in " ".join(each.environ().values()) for each in marked(desk.mark) if each.pid != process.pid
    )

    process.kill()

    desk.await_nobody()
    stored = len(desk.responses("killed"))
    assert STORED_AT_KILL <= stored < SAMPLES
    tell("stored_at_kill", stored)


def _holds_every_sample(desk: Desk, name: str) -> None:
    """Each sample was answered once by the model, in as many tokens as it may take, and judged."""
    rows = desk.responses(name)
    assert sorted(row["sample_id"] for row in rows) == list(range(SAMPLES))
    for row in rows:
        assert row["text"].strip()
        assert row["finish_reason"] in ("stop", "length")
        assert 1 <= row["usage"]["output_tokens"] <= 128
    assert desk.summary(name)["judged"] == SAMPLES


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
    _holds_every_sample(desk, "used")
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
