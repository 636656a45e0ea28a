"""What a run keeps when the power fails or the disk does: small sessions in virtual time, on a seed."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest

from tests.simulation.crash_states import NONE, build, pending
from tests.simulation.crash_subjects import SUBJECTS, record, require_promises
from tests.simulation.history import set_environment, write_data
from tests.simulation.io_errors import Fault, calls_of, require_read, require_survived, snapshot
from tests.simulation.laboratory import HASHES
from tests.simulation.planted import ROOT
from tests.simulation.promises import Broken
from tests.simulation.provider import HAS_SDK
from tests.simulation.small_run import SmallRun


@pytest.fixture
def run(tmp_path: Path) -> Iterator[SmallRun]:
    """A run that has not begun."""
    with patch.dict(os.environ):
        set_environment()
        begun = SmallRun(tmp_path / "home", write_data(tmp_path))
        build(begun.home, {})
        yield begun


def explore(module: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A module of the simulation in a process of its own."""
    command = [sys.executable, "-m", f"tests.simulation.{module}", *words, "--processes", "1"]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | HASHES, capture_output=True, text=True, check=False
    )


def test_what_a_crash_leaves_in_any_order_breaks_no_promise() -> None:
    ended = explore("crash_orders", "160", "--each", "20")

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert " 0 broken promises" in ended.stdout


def test_a_run_that_has_ended_is_there_after_a_power_cut(run: SmallRun) -> None:
    trace = record(run)
    end = len(trace.ops)

    require_promises(run, trace, end, dict.fromkeys(pending(trace, end), NONE))


@pytest.mark.parametrize("is_folder", [True, False], ids=["of a folder", "of a file"])
def test_a_sync_that_is_left_out_loses_what_was_promised(run: SmallRun, is_folder: bool) -> None:
    trace = record(run)
    others = [op for op in trace.ops if op.kind != "sync" or bool(op.folder) != is_folder]
    trace, end = replace(trace, ops=others), len(others)

    with pytest.raises(Broken):
        require_promises(run, trace, end, dict.fromkeys(pending(trace, end), NONE))


@pytest.mark.parametrize("name", ["a repair", "a merge", "the draws of an audit", "a run that begins again"])
def test_a_power_cut_that_keeps_nothing_but_a_rename_loses_nothing(run: SmallRun, name: str) -> None:
    trace = SUBJECTS[name].record(run, random.Random(1))
    renamed = [at for at, op in enumerate(trace.ops, start=1) if op.kind == "rename"]

    assert renamed
    for at in (*renamed, len(trace.ops)):
        others = [each for each in pending(trace, at) if trace.ops[each].kind != "rename"]
        SUBJECTS[name].require(run, trace, at, dict.fromkeys(others, NONE))


@pytest.mark.skipif(not HAS_SDK, reason="batches need the extra `batch`")
def test_no_batch_is_paid_for_twice_after_a_power_cut(run: SmallRun) -> None:
    subject = SUBJECTS["a run by batch"]
    trace = subject.record(run, random.Random(1))
    synced = [at for at, op in enumerate(trace.ops, start=1) if op.kind == "sync" and op.file]

    assert len(synced) > 8
    for at in synced:
        subject.require(run, trace, at, dict.fromkeys(pending(trace, at), NONE))


def test_a_call_of_the_disk_that_fails_breaks_no_promise() -> None:
    ended = explore("io_errors", "--seeds", "4", "--share", "0.01")

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert " 0 broken promises" in ended.stdout


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("stat", "run.json"),
        ("stat", "responses.jsonl"),
        ("scandir", "verdicts"),
        ("stat", "calibration-j.json"),
        ("close", ".lock"),
        ("close", "responses.jsonl"),
    ],
)
def test_a_disk_that_fails_is_an_error_of_ours_and_the_resume_completes_the_run(
    run: SmallRun, kind: str, file: str
) -> None:
    assert run.session(1, is_refused=True).error is not None
    before = snapshot(run.home)
    hit = [at for at, (name, path) in enumerate(calls_of(run)) if (name, Path(path).name) == (kind, file)]

    assert hit
    for at in hit:
        require_survived(run, before, Fault("EIO", errno.EIO, False), at)


def test_a_reader_whose_disk_fails_gets_an_error_of_ours(run: SmallRun) -> None:
    assert run.session(1).error is None

    assert require_read(run) > 20
