"""The crash harness in short; `just crash` kills hundreds of times. And it notices what it is there for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.proofs.crash.harness import SCENARIOS, Harness, Scenario, complete_records
from tests.support.command import Process, Vlsb
from vlsb import strict_json

RECORDS = [b'{"a":1}', b'{"b":"}"}', b'{"c":[2]}']

# Keeps what the journals write until they are synced: a kill takes up to a second's records along.
_HELD_BACK = """
import os
held, at_once, at_last = {}, os.write, os.fsync

def hold(descriptor, data):
    if data.endswith(b"}\\n"):
        held.setdefault(descriptor, []).append(data)
        return len(data)
    return at_once(descriptor, data)

def let_go(descriptor):
    for data in held.pop(descriptor, []):
        at_once(descriptor, data)
    at_last(descriptor)

os.write, os.fsync = hold, let_go
"""


class HoldsBack(Vlsb):
    """A `vlsb` that writes its records when it syncs them."""

    def start(self, *words: object, prelude: str | None = None, **options: Any) -> Process:
        return super().start(*words, prelude=_HELD_BACK + (prelude or ""), **options)


class Forgets(Vlsb):
    """A `vlsb` that drops the first response of a run whenever it starts."""

    def start(self, *words: object, **options: Any) -> Process:
        for path in self.directory.rglob("responses.jsonl"):
            path.write_bytes(path.read_bytes().partition(b"\n")[2])
        return super().start(*words, **options)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_kills_at_any_moment_lose_no_record_and_change_no_number(tmp_path: Path, scenario: Scenario) -> None:
    harness = Harness(tmp_path, seed=len(scenario))

    harness.crash(scenario, 4)

    assert harness.figures.violations == []
    assert harness.figures.lost == 0
    assert harness.figures.kills.total() >= 2


def test_the_harness_notices_a_program_that_holds_its_records_back(tmp_path: Path) -> None:
    harness = Harness(tmp_path, seed=2)

    harness.crash("run", 3, program=HoldsBack)

    assert any("answered long before" in each for each in harness.figures.violations)


def test_the_harness_notices_a_record_that_vanishes(tmp_path: Path) -> None:
    harness = Harness(tmp_path, seed=2)

    harness.crash("run", 3, program=Forgets)

    assert harness.figures.lost >= 1
    assert any("are missing or moved" in each for each in harness.figures.violations)


@given(size=st.integers(0, len(b"\n".join(RECORDS)) + 1))
def test_a_record_is_complete_with_its_last_byte_and_needs_no_newline(size: int) -> None:
    contents = b"".join(record + b"\n" for record in RECORDS)[:size]

    found = complete_records(contents)

    assert found == [each for n, each in enumerate(RECORDS) if size >= len(b"\n".join(RECORDS[: n + 1]))]
    assert all(strict_json.loads(each) for each in found)
