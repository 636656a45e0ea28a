"""What must hold after a crash or a failing disk, once the run was resumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import orjson

import vlsb
from tests.simulation.small_run import JUDGES, Session, SmallRun, outcome_of
from vlsb.records import RETRIED_ON_RESUME, STOPPED
from vlsb.store.state import RESULTS

_DRAFT = ".run.json"

State: TypeAlias = Mapping[str, bytes | None]
"""What stands below a folder, by path: bytes, or None for a folder."""


class Broken(AssertionError):
    """A promise that does not hold."""


def require_lines(kept: Mapping[str, Sequence[bytes]]) -> None:
    """Each of these lines is in its file, once."""
    for path, lines in kept.items():
        there = (
            Counter(Path(path).read_bytes().splitlines(keepends=True)) if Path(path).exists() else Counter()
        )
        for line in lines:
            if there[line] != 1:
                raise Broken(f"{Path(path).name} has {there[line]} times: {line[:70]!r}")


def require_torn_kept(contents: State) -> None:
    """The bytes of a torn line are beside its file."""
    for path, content in contents.items():
        if content is None or not path.endswith(".jsonl"):
            continue
        tail = content[content.rfind(b"\n") + 1 :]
        if not tail or _is_row(tail):
            continue
        beside = [each.read_bytes() for each in Path(path).parent.glob(f"{Path(path).name}.*-*")]
        if not any(tail in each for each in beside):
            raise Broken(f"the torn end of {Path(path).name} is gone")


def require_asked_once(run: SmallRun, contents: State, session: Session) -> None:
    """Nobody is asked for what the crash has left, or twice."""
    responses = rows(contents, run.directory / "responses.jsonl")
    failures = [
        row
        for row in rows(contents, run.directory / "failures.jsonl")
        if row["fault"] != STOPPED and row["outcome"] not in RETRIED_ON_RESUME
    ]
    sent = {row["response_sha256"] for row in responses}
    done = {("t", row["sample_id"]) for row in responses}
    done |= {("t", row["sample_id"]) for row in failures if row["stage"] == "target"}
    done |= {
        (row["judge"].removesuffix(".jsonl"), row["sample_id"])
        for row in failures
        if row["stage"] == "judge" and row["response_sha256"] in sent
    }
    for judge in JUDGES:
        verdicts = rows(contents, run.directory / "verdicts" / f"{judge}.jsonl")
        done |= {(judge, row["sample_id"]) for row in verdicts if row["response_sha256"] in sent}
    if again := done & session.asked.keys():
        raise Broken(f"asked again: {sorted(again)}")
    if more := {each for each, count in session.asked.items() if count > (2 if each[0] != "t" else 1)}:
        raise Broken(f"asked more than once: {sorted(more)}")


def require_complete(run: SmallRun) -> None:
    """The run reads cleanly, and each sample is in the outcome in which it has to be, once."""
    loaded = vlsb.load_run(run.directory)
    if len(loaded.judges) != run.judges:
        raise Broken(f"the judges are {loaded.judges}")
    for judge in loaded.judges:
        ended = [(each.sample_id, each.outcome) for each in loaded.answers(judge)]
        if ended != [(sample, outcome_of(sample)) for sample in range(run.samples)]:
            raise Broken(f"{judge}: {ended}")
    if (run.directory / _DRAFT).exists():
        raise Broken(f"{_DRAFT} is left")
    # What a provider sent is kept as it came.
    for path in sorted(each for each in run.directory.rglob("*.jsonl") if each.parent.name != RESULTS):
        seen = Counter(_key(row) for row in map(orjson.loads, path.read_bytes().splitlines()))
        if twice := [key for key, count in seen.items() if key is not None and count > 1]:
            raise Broken(f"{path.name} has twice: {twice}")


def _key(row: Mapping[str, Any]) -> tuple[object, ...] | None:
    if "sample_id" not in row or row.get("outcome") in RETRIED_ON_RESUME or row.get("fault") == STOPPED:
        return None
    names = ["sample_id", "epoch", "stage", "judge"]
    # There is one response; a verdict may be about one that the crash took.
    is_response = not row.keys() & {"stage", "label"}
    return tuple(map(row.get, names if is_response else [*names, "response_sha256"]))


def rows(contents: State, path: Path) -> list[dict[str, Any]]:
    """The rows of a journal that can be read."""
    return [orjson.loads(line) for line in (contents.get(str(path)) or b"").split(b"\n") if _is_row(line)]


def _is_row(line: bytes) -> bool:
    try:
        return isinstance(orjson.loads(line), dict)
    except ValueError:
        return False
