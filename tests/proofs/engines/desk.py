"""A user's home whose engines are the tests', the commands typed there, and the processes that they leave."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil
import pytest

from tests.support.command import Finished, Process, Vlsb
from vlsb.data import mini_root
from vlsb.engines.registry import Places, read_records

MARK = "VLSB_TEST_MARK"
COMMAND_TIMEOUT_S = 400.0
MEMORY_LIMIT_BYTES = 12 * 10**9
SAMPLES = 30
"""In the embedded set."""

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

    def run_words(
        self, model: str | Path, name: str, *more: str | Path, data: Path | None = None
    ) -> list[str]:
        """A run of a local model, of the embedded set where no other data are given."""
        words = ["run", "--model", str(model), "--data-root", str(data or mini_root())]
        return [*words, "--judge", "demo", "--name", name, "--start-timeout", "300", *map(str, more)]

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

    def holds_every_sample(self, name: str, count: int = SAMPLES) -> None:
        """Each sample was answered once by the model, in as many tokens as it may take, and judged."""
        rows = self.responses(name)
        assert sorted(row["sample_id"] for row in rows) == list(range(count))
        for row in rows:
            assert row["text"].strip()
            assert row["finish_reason"] in ("stop", "length")
            assert 1 <= row["usage"]["output_tokens"] <= 128
        assert self.summary(name)["judged"] == count

    def await_nobody(self) -> None:
        """Return when no process with the mark is left."""
        ends_at = time.monotonic() + 60.0
        while left := marked(self.mark):
            assert time.monotonic() < ends_at, f"still there: {left}"
            time.sleep(0.2)
        assert read_records(self.places) == []


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
