"""`vlsb runs repair`: good lines stay, bad ones are set aside, and a resume completes the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.run_files import tree
from vlsb.errors import ConfigError, RunLockedError
from vlsb.store.journal import lock_run
from vlsb.store.upkeep import repair_run

DEMO = ("run", "--model", "demo", "--output-dir", "outputs", "--name", "r")


@pytest.fixture
def run(vlsb: Any, tmp_path: Path) -> Path:
    done = vlsb(*DEMO)
    assert done.code == 0, done.err
    return next(tmp_path.rglob("run.json")).parent


def damage(path: Path, number: int, line: bytes) -> bytes:
    """Put `line` in the place of a line of the file; returns what was there."""
    lines = path.read_bytes().split(b"\n")
    before, lines[number] = lines[number], line
    path.write_bytes(b"\n".join(lines))
    return before


@pytest.mark.parametrize("name", ["responses.jsonl", "verdicts/demo.jsonl", "events.jsonl"])
@pytest.mark.parametrize(
    "line", [b"garbage", b'{"sample_id": 3}', b"[]", b"\xff\xfe"], ids=["text", "fields", "list", "bytes"]
)
def test_a_damaged_line_is_set_aside_and_every_other_line_stays(run: Path, name: str, line: bytes) -> None:
    path = run / name
    whole = [each for each in path.read_bytes().split(b"\n") if each]
    lost = damage(path, 1, line)

    done = repair_run(run)

    assert [(each.path, each.kept, each.set_aside) for each in done] == [(path, len(whole) - 1, 1)]
    assert done[0].quarantine.read_bytes() == line + b"\n"
    assert [each for each in path.read_bytes().split(b"\n") if each] == [e for e in whole if e != lost]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_repaired_run_resumes_to_the_summary_it_had(run: Path, vlsb: Any) -> None:
    def rates() -> Any:
        document = json.loads(vlsb("report", str(run), "--format", "json").out)[0]
        return {name: document[name] for name in ("outcomes", "safe_rate", "intervals", "by_category")}

    before = rates()
    damage(run / "responses.jsonl", 4, b"{")
    damage(run / "verdicts" / "demo.jsonl", 7, b"{")

    refused = vlsb("report", str(run))
    repaired = vlsb("runs", "repair", str(run))
    resumed = vlsb(*DEMO, "--resume")

    assert refused.code == 5
    assert "vlsb runs repair" in refused.err
    assert repaired.code == 0
    assert repaired.out.count("1 set aside") == 2
    assert resumed.code == 0, resumed.err
    assert rates() == before


def test_a_run_without_damage_is_left_as_it_is(run: Path, vlsb: Any) -> None:
    before = {name: value for name, value in tree(run).items() if ".lock" not in str(name)}

    done = vlsb("runs", "repair", str(run))

    assert done.out.strip().endswith("nothing to repair")
    assert {name: value for name, value in tree(run).items() if ".lock" not in str(name)} == before


def test_a_run_that_is_being_written_is_not_touched(run: Path) -> None:
    lock = lock_run(run)

    with pytest.raises(RunLockedError):
        repair_run(run)
    lock.close()


def test_a_directory_that_is_no_run_is_refused_and_not_touched(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run there"):
        repair_run(tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_a_repair_that_was_cut_off_before_its_end_sets_the_lines_aside_once(run: Path) -> None:
    """The bad lines were beside the file, and it still had them."""
    path = run / "responses.jsonl"
    damage(path, 1, b"garbage")
    damaged = path.read_bytes()
    [first] = repair_run(run)
    path.write_bytes(damaged)

    [again] = repair_run(run)

    assert again == first
    assert list(run.glob("*.damaged-*")) == [first.quarantine]
    damage(path, 2, b"other garbage")
    [other] = repair_run(run)
    assert other.quarantine.name == "responses.jsonl.damaged-2"
    assert first.quarantine.read_bytes() == b"garbage\n"
    assert other.quarantine.read_bytes() == b"other garbage\n"
