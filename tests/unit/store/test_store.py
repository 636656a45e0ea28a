"""One writer at a time, nothing of an earlier session lost, nobody else's files touched."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import PROJECT
from tests.support.command import Vlsb
from tests.support.records import make_failure, make_judge, make_manifest, make_response, make_verdict
from tests.support.run_files import tree
from tests.support.waiting import DEADLINE_S
from vlsb.errors import ConfigError, RunLockedError, RunMismatchError, StoreError
from vlsb.records import Key, Label, Outcome, Untrusted, Usage
from vlsb.store.manifest import JudgeEntry, Manifest, is_run, read_manifest
from vlsb.store.state import load_state
from vlsb.store.store import (
    LOCK,
    SYNC_EVERY_RECORDS,
    RunStore,
    lock_run,
    open_for_judging,
    open_run,
    pending_work,
    require_free,
)


def opened(directory: Path, manifest: Manifest | None = None, *, is_resume: bool = False) -> RunStore:
    return open_run(directory, manifest or make_manifest(), is_resume=is_resume)


def judging(directory: Path, judge: JudgeEntry) -> RunStore:
    """A run opened for a judge, with the data that it was made from."""
    manifest = make_manifest()
    return open_for_judging(directory, [judge], samples=manifest.samples, images=manifest.images)


def close(store: RunStore) -> None:
    asyncio.run(store.close())


def written_run(directory: Path) -> Path:
    """A run whose samples ended in a verdict, a failure at the target, and nothing."""
    store = opened(directory)
    response = make_response(0)
    store.add_response(response)
    store.add_verdict(make_verdict(response, Label.SAFE_WARNING), *store.judges)
    store.add_failure(make_failure(1), None)
    close(store)
    return directory


def without_lock(directory: Path) -> dict[str, tuple[int, int, str]]:
    return {name: each for name, each in tree(directory).items() if name != LOCK}


# The lock.

HOLDER = """
import sys, time
from pathlib import Path
from vlsb.store.journal import lock_run

lock = lock_run(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def hold_lock() -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """Starts a process that holds a directory's lock until its standard input closes."""
    holders: list[subprocess.Popen[str]] = []

    def hold(directory: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLDER, str(directory)]
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        holders.append(holder)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        return holder

    yield hold
    for holder in holders:
        with holder:
            holder.kill()


def test_a_second_writer_is_told_who_holds_the_lock(
    tmp_path: Path, hold_lock: Callable[[Path], subprocess.Popen[str]]
) -> None:
    holder = hold_lock(tmp_path)

    with pytest.raises(RunLockedError) as caught:
        opened(tmp_path)

    assert caught.value.exit_code == 6
    assert str(tmp_path) in caught.value.message
    assert caught.value.detail is not None
    assert f"process {holder.pid} " in caught.value.detail.expose()


def test_the_lock_dies_with_a_killed_process(
    tmp_path: Path, hold_lock: Callable[[Path], subprocess.Popen[str]]
) -> None:
    holder = hold_lock(tmp_path)
    holder.kill()
    holder.wait()

    lock_run(tmp_path).close()


def test_a_store_that_cannot_be_opened_gives_its_lock_back(tmp_path: Path) -> None:
    directory = written_run(tmp_path / "run")
    with pytest.raises(RunMismatchError):
        opened(directory, make_manifest(settings={}), is_resume=True)

    lock_run(directory).close()


@pytest.mark.parametrize("turns", range(1, 7))
def test_a_store_that_is_cancelled_while_it_closes_keeps_its_rows_and_gives_its_lock_back(
    tmp_path: Path, turns: int
) -> None:
    """`turns` of the loop pass before: as many waits may be cut."""

    async def cancel_while_closing() -> None:
        store = opened(tmp_path / "run")
        store.start(lambda _: None)
        store.add_response(make_response(0))
        closing = asyncio.ensure_future(store.close())
        for _ in range(turns):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])

    asyncio.run(cancel_while_closing())

    lock_run(tmp_path / "run").close()
    assert set(load_state(tmp_path / "run").responses) == {(0, 1)}


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(precious)

    with pytest.raises(StoreError):
        opened(tmp_path / "run")

    assert precious.read_text() == "precious"


# A directory that is taken.


def test_the_command_that_meets_an_existing_run_changes_not_even_a_date(tmp_path: Path, vlsb: Vlsb) -> None:
    directory = written_run(tmp_path / "out" / "demo")
    before = tree(directory)

    ended = vlsb("run", "--model", "demo", "--output-dir", tmp_path / "out", "--limit", "1")

    assert ended.code == 2
    assert ended.out == ""
    (line,) = ended.err.splitlines()
    assert "--resume" in line
    assert "--name" in line
    assert tree(directory) == before


def test_a_directory_with_strangers_files_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / "thesis.tex").write_text("years of work")
    before = tree(directory)

    with pytest.raises(ConfigError, match="--name"):
        require_free(directory)
    with pytest.raises(ConfigError, match="--name"):
        opened(directory)

    assert {name: each for name, each in tree(directory).items() if name not in (LOCK, ".")} == {
        name: each for name, each in before.items() if name != "."
    }


def test_a_file_or_a_link_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("something")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")

    for name in ("file", "link"):
        with pytest.raises(ConfigError, match="not a directory"):
            require_free(tmp_path / name)


def test_what_a_session_killed_before_its_manifest_left_is_no_obstacle(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / LOCK).write_text("process 1 on somewhere")
    (directory / ".run.json.x1y2z3").write_text('{"schema": 1, ')

    for is_resume in (False, True):
        close(opened(directory, is_resume=is_resume))

        assert is_run(directory)
        assert not list(directory.glob(".run.json.*"))


def test_resume_without_a_run_starts_one(tmp_path: Path) -> None:
    close(opened(tmp_path / "run", is_resume=True))

    assert read_manifest(tmp_path / "run") == make_manifest()


# Nothing is locked in before something was answered.

OTHER_SETTINGS = {"base_url": "https://right.example/v1", "model": "right"}


@pytest.mark.parametrize("is_resume", [False, True])
def test_a_run_that_stored_nothing_starts_again_with_other_settings(tmp_path: Path, is_resume: bool) -> None:
    begun = opened(tmp_path / "run")
    begun.add_event("session_started")
    close(begun)
    other = make_manifest([5, 6], settings=OTHER_SETTINGS, judges=[make_judge("other")])

    store = opened(tmp_path / "run", other, is_resume=is_resume)
    store.add_response(make_response(5))
    close(store)

    state = load_state(tmp_path / "run")
    assert state.manifest == store.manifest
    assert state.manifest.settings == OTHER_SETTINGS
    assert list(state.responses) == [Key(5, 1)]
    assert state.sessions.last == 1
    assert (tmp_path / "run" / "events.jsonl.before-1").stat().st_size


def test_requests_that_only_failed_lock_nothing_in_and_are_kept_aside(tmp_path: Path) -> None:
    """A mistyped address may answer with an error to every request."""
    begun = opened(tmp_path / "run")
    begun.add_failure(make_failure(0, usage=Usage()), None)
    close(begun)
    failures = (tmp_path / "run" / "failures.jsonl").read_bytes()

    close(opened(tmp_path / "run", make_manifest(settings=OTHER_SETTINGS)))

    assert load_state(tmp_path / "run").target_totals.requests == 0
    assert (tmp_path / "run" / "failures.jsonl.before-1").read_bytes() == failures


@pytest.mark.parametrize("outcome", [Outcome.TARGET_BLOCKED, Outcome.TARGET_EMPTY])
def test_an_answer_without_a_usable_text_locks_the_settings_in(tmp_path: Path, outcome: Outcome) -> None:
    begun = opened(tmp_path / "run")
    begun.add_failure(make_failure(0, outcome), *begun.judges)
    close(begun)
    before = without_lock(tmp_path / "run")

    with pytest.raises(ConfigError, match="exists"):
        opened(tmp_path / "run")
    with pytest.raises(RunMismatchError):
        opened(tmp_path / "run", make_manifest(settings=OTHER_SETTINGS), is_resume=True)

    assert without_lock(tmp_path / "run") == before


@pytest.mark.parametrize("is_resume", [False, True])
def test_a_run_that_stored_nothing_is_not_started_again_under_a_process_that_runs_it(
    tmp_path: Path, hold_lock: Callable[[Path], subprocess.Popen[str]], is_resume: bool
) -> None:
    close(opened(tmp_path / "run"))
    hold_lock(tmp_path / "run")
    before = without_lock(tmp_path / "run")

    with pytest.raises(RunLockedError):
        opened(tmp_path / "run", make_manifest(settings=OTHER_SETTINGS), is_resume=is_resume)

    assert without_lock(tmp_path / "run") == before


@pytest.mark.parametrize(("is_resume", "error"), [(False, ConfigError), (True, RunMismatchError)])
def test_what_another_process_stored_meanwhile_is_not_written_over(
    tmp_path: Path, is_resume: bool, error: type[Exception]
) -> None:
    """The look before the lock is only a courtesy: it counts again under the lock."""
    close(opened(tmp_path / "run"))
    require_free(tmp_path / "run")
    other = opened(tmp_path / "run", is_resume=True)
    other.add_response(make_response(0))
    close(other)

    with pytest.raises(error):
        opened(tmp_path / "run", make_manifest(settings=OTHER_SETTINGS), is_resume=is_resume)

    assert list(load_state(tmp_path / "run").responses) == [Key(0, 1)]


BOTH = {"model": "m", "address": "https://a.example/v1, https://b.example/v1"}


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_resume_may_leave_out_addresses_of_a_target_and_the_run_keeps_them(
    tmp_path: Path, epochs: int
) -> None:
    store = opened(tmp_path / "run", make_manifest(settings=BOTH))
    store.add_response(make_response(0))
    close(store)
    one_left = make_manifest(settings=BOTH | {"address": "https://b.example/v1"}, epochs=epochs)

    close(opened(tmp_path / "run", one_left, is_resume=True))

    assert read_manifest(tmp_path / "run").settings == BOTH


def test_a_resume_at_an_address_that_the_run_did_not_name_is_refused(tmp_path: Path) -> None:
    store = opened(tmp_path / "run", make_manifest(settings=BOTH))
    store.add_response(make_response(0))
    close(store)
    another = make_manifest(settings=BOTH | {"address": "https://a.example/v1, https://c.example/v1"})

    with pytest.raises(RunMismatchError):
        opened(tmp_path / "run", another, is_resume=True)


@pytest.mark.parametrize(("old", "new"), [(1, True), (1, 1.0), ({"a": [0]}, {"a": [False]})])
def test_a_judge_asked_with_true_is_not_the_one_asked_with_1(
    tmp_path: Path, old: object, new: object
) -> None:
    store = opened(tmp_path / "run", make_manifest(judges=[make_judge("j", settings={"extra": {"x": old}})]))
    response = make_response(0)
    store.add_response(response)
    store.add_verdict(make_verdict(response, Label.UNSAFE), *store.judges)
    close(store)
    other = make_judge("j", settings={"extra": {"x": new}})

    added = judging(tmp_path / "run", other)
    close(added)
    with pytest.raises(RunMismatchError, match="another judge"):
        opened(tmp_path / "run", make_manifest(judges=[other]), is_resume=True)

    assert added.judges != store.judges
    assert len({entry.file for entry in read_manifest(tmp_path / "run").judges}) == 2


def test_a_run_larger_than_the_disk_is_refused_before_anything_is_spent(tmp_path: Path) -> None:
    rows = make_manifest([0]).samples
    manifest = make_manifest(samples=_Endless(rows))

    with pytest.raises(StoreError, match="MiB needed"):
        opened(tmp_path / "run", manifest)

    assert not is_run(tmp_path / "run")


class _Endless(list):  # type: ignore[type-arg]
    """A list that says it is far longer than any disk can take."""

    def __len__(self) -> int:
        return 2**50


# Opening again.


def test_a_resume_finds_what_was_written(tmp_path: Path) -> None:
    directory = written_run(tmp_path / "run")

    store = opened(directory, is_resume=True)
    close(store)

    assert store.outcome(Key(0, 1), *store.judges) is Outcome.SAFE_WARNING
    assert store.outcome(Key(1, 1), *store.judges) is Outcome.TARGET_ERROR
    assert set(pending_work(store, ())) == {(1, 1), (2, 1)}
    assert store.torn == []


@pytest.mark.parametrize("name", ["responses.jsonl", "verdicts/judge-model.jsonl", "failures.jsonl"])
def test_a_torn_tail_is_set_aside_on_open(tmp_path: Path, name: str) -> None:
    directory = written_run(tmp_path / "run")
    whole = (directory / name).read_bytes()
    torn = b'{"sample_id":2,"text":"half an ans'
    (directory / name).write_bytes(whole + torn)

    store = opened(directory, is_resume=True)
    close(store)

    (aside,) = store.torn
    assert aside.read_bytes() == torn
    assert aside.parent == (directory / name).parent
    assert (directory / name).read_bytes() == whole


def test_a_last_record_that_lacks_only_its_newline_is_kept(tmp_path: Path) -> None:
    directory = written_run(tmp_path / "run")
    path = directory / "responses.jsonl"
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))

    store = opened(directory, is_resume=True)
    store.add_response(make_response(2))
    close(store)

    assert store.torn == []
    assert load_state(directory).responses.keys() == {(0, 1), (2, 1)}


def test_damage_in_the_middle_refuses_the_resume_and_changes_nothing(tmp_path: Path) -> None:
    directory = written_run(tmp_path / "run")
    path = directory / "responses.jsonl"
    path.write_bytes(b"garbage\n" + path.read_bytes())
    before = without_lock(directory)

    with pytest.raises(StoreError, match="line 1"):
        opened(directory, is_resume=True)

    assert without_lock(directory) == before


def test_settings_that_no_resume_could_compare_are_refused_before_anything_is_there(tmp_path: Path) -> None:
    directory, settings = tmp_path / "run", {"extra": 2**64}

    with pytest.raises(ConfigError, match="64 bits"):
        opened(directory, make_manifest(settings=settings))
    assert not directory.exists()

    before = without_lock(written_run(directory))
    with pytest.raises(ConfigError, match="64 bits"):
        opened(directory, make_manifest(settings=settings), is_resume=True)
    with pytest.raises(ConfigError, match="64 bits"):
        judging(directory, make_judge("other", settings=settings))
    assert without_lock(directory) == before


def test_garbage_collection_spares_the_rows_of_a_run_while_it_is_open(
    tmp_path: Path,
) -> None:
    close(opened(tmp_path / "run"))
    frozen = gc.get_freeze_count()

    store = opened(tmp_path / "run", is_resume=True)
    assert gc.isenabled()
    assert gc.get_freeze_count() > frozen

    close(store)
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_garbage_collection_goes_on_after_a_run_that_could_not_be_read(tmp_path: Path) -> None:
    directory = written_run(tmp_path / "run")
    with (directory / "responses.jsonl").open("a") as file:
        file.write("damage\n")

    with pytest.raises(StoreError):
        opened(directory, is_resume=True)

    assert gc.isenabled()


def test_a_larger_selection_is_taken_over_and_keeps_what_was_decided(tmp_path: Path) -> None:
    dialect = {"tokens_field": "max_tokens", "unsent": [], "structured": False}
    judge = make_judge(decision=dialect, deviations=[Untrusted("asked in words")])
    first = make_manifest([0, 1], decision=dialect, judges=[judge])
    begun = opened(tmp_path / "run", first)
    response = make_response(0)
    begun.add_response(response)
    begun.add_verdict(make_verdict(response, Label.UNSAFE), *begun.judges)
    close(begun)
    larger = make_manifest([0, 1, 2], created_at="2026-06-06T00:00:00+00:00")

    store = opened(tmp_path / "run", larger, is_resume=True)
    close(store)

    found = read_manifest(tmp_path / "run")
    assert [row.sample_id for row in found.samples] == [0, 1, 2]
    assert found.created_at == first.created_at
    assert found.decision == dialect
    assert found.judges == [judge]
    assert found.deviations == first.deviations
    assert store.manifest == found


def test_each_session_has_its_own_number(tmp_path: Path) -> None:
    for session in (1, 2, 3):
        store = opened(tmp_path / "run", is_resume=True)
        store.add_response(make_response(session))
        close(store)

        assert load_state(tmp_path / "run").sessions.last == session


def test_only_the_failures_that_may_pass_are_pending(tmp_path: Path) -> None:
    outcomes = [outcome for outcome in Outcome if outcome.value.startswith(("target_", "judge_"))]
    manifest = make_manifest(range(len(outcomes) + 1))
    store = opened(tmp_path / "run", manifest)
    for sample_id, outcome in enumerate(outcomes):
        response = None
        if outcome.value.startswith("judge_"):
            response = make_response(sample_id)
            store.add_response(response)
        store.add_failure(make_failure(sample_id, outcome, response), *store.judges)
    close(store)

    def pending(*retry: Outcome) -> set[str]:
        return {store.outcome(key, *store.judges).value for key in pending_work(store, retry)}

    assert pending() == {"target_error", "judge_error", "not_attempted"}
    assert pending(Outcome.JUDGE_REFUSED) == {"target_error", "judge_error", "not_attempted", "judge_refused"}


def test_every_epoch_of_a_sample_is_pending_on_its_own(tmp_path: Path) -> None:
    store = opened(tmp_path / "run", make_manifest([0, 1], epochs=2))
    response = make_response(0, epoch=2)
    store.add_response(response)
    store.add_verdict(make_verdict(response), *store.judges)
    store.add_response(make_response(1, epoch=1))
    close(store)

    assert set(pending_work(store, ())) == {(0, 1), (1, 1), (1, 2)}


def test_without_a_judge_a_response_is_enough(tmp_path: Path) -> None:
    store = opened(tmp_path / "run", make_manifest([0, 1], judges=[]))
    store.add_response(make_response(0))
    close(store)

    assert store.judges == ()
    assert set(pending_work(store, ())) == set(pending_work(store, [Outcome.NOT_JUDGED])) == {(1, 1)}


# Several judges.


def test_a_judge_that_the_run_knows_goes_on_in_its_file(tmp_path: Path) -> None:
    directory = written_run(tmp_path / "run")
    before = (directory / "run.json").read_bytes()

    store = judging(directory, make_judge(file="under-another-name.jsonl"))
    close(store)

    assert store.judges == ("judge-model.jsonl",)
    assert store.outcome(Key(0, 1), *store.judges) is Outcome.SAFE_WARNING
    assert (directory / "run.json").read_bytes() == before


# Who may read it.


# What is written.

READER = """
import sys
from pathlib import Path
from vlsb.store.state import load_state

state = load_state(Path(sys.argv[1]))
print(*(state.outcome(key, "judge-model.jsonl").value for key in state.asked_for()))
"""


def test_a_record_can_be_read_by_another_process_as_soon_as_it_is_written(tmp_path: Path) -> None:
    store = opened(tmp_path / "run")
    response = make_response(0)
    store.add_response(response)
    store.add_verdict(make_verdict(response, Label.SAFE_REFUSAL), *store.judges)
    store.add_response(make_response(1))
    store.add_failure(make_failure(2, Outcome.TARGET_EMPTY), None)

    command = [sys.executable, "-c", READER, str(tmp_path / "run")]
    read = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=True)

    close(store)
    assert read.stdout.split() == ["safe_refusal", "not_judged", "target_empty"]


def test_many_records_are_synced_together_in_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path / "run")
    synced: list[tuple[int, int]] = []

    async def write_many() -> None:
        loop, has_synced = asyncio.get_running_loop(), asyncio.Event()

        def fsync(descriptor: int) -> None:
            synced.append((threading.get_ident(), os.fstat(descriptor).st_size))
            loop.call_soon_threadsafe(has_synced.set)

        monkeypatch.setattr(os, "fsync", fsync)
        store.start(lambda error: None)
        for _ in range(SYNC_EVERY_RECORDS):
            store.add_response(make_response(0))
        async with asyncio.timeout(DEADLINE_S):
            await has_synced.wait()
        await store.close()

    asyncio.run(write_many())

    ((thread, size),) = synced
    assert thread != threading.get_ident()
    assert size == (tmp_path / "run" / "responses.jsonl").stat().st_size


def test_closing_syncs_what_was_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(tmp_path / "run")
    store.add_response(make_response(0))
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)

    close(store)

    assert len(synced) == 1


# A disk that fails.


class FullDisk:
    """Stands for `os.write` while the disk is full."""

    def __init__(self) -> None:
        self.is_full = True
        self._write = os.write

    def __call__(self, descriptor: int, data: bytes) -> int:
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._write(descriptor, data)


def test_a_full_disk_surfaces_when_writing_and_when_closing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path / "run")
    store.add_response(make_response(0))
    monkeypatch.setattr(os, "write", FullDisk())

    with pytest.raises(StoreError) as while_writing:
        store.add_response(make_response(1))
    with pytest.raises(StoreError) as while_closing:
        close(store)

    assert while_closing.value is while_writing.value
    assert load_state(tmp_path / "run").responses.keys() == {(0, 1)}
    lock_run(tmp_path / "run").close()


def test_what_the_disk_refused_is_written_when_closing_if_there_is_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path / "run")
    disk = FullDisk()
    monkeypatch.setattr(os, "write", disk)
    with pytest.raises(StoreError):
        store.add_response(make_response(1))
    disk.is_full = False

    with pytest.raises(StoreError, match="takes no more"):
        close(store)

    assert load_state(tmp_path / "run").responses.keys() == {(1, 1)}


class FailingDisk:
    """Stands for `os.fsync` of one file: EIO once, and success ever after, as Linux reports it."""

    def __init__(self, path: Path) -> None:
        self._inode = path.stat().st_ino
        self.calls = 0

    def __call__(self, descriptor: int) -> None:
        if os.fstat(descriptor).st_ino != self._inode:
            return
        self.calls += 1
        if self.calls == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_failed_sync_is_reported_at_once_and_when_closing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path / "run")
    disk = FailingDisk(tmp_path / "run" / "responses.jsonl")
    monkeypatch.setattr(os, "fsync", disk)
    heard: list[StoreError] = []

    async def write_many() -> None:
        has_heard = asyncio.Event()

        def hear(error: StoreError) -> None:
            heard.append(error)
            has_heard.set()

        store.start(hear)
        for _ in range(SYNC_EVERY_RECORDS):
            store.add_response(make_response(0))
        async with asyncio.timeout(DEADLINE_S):
            await has_heard.wait()
        await store.close()

    with pytest.raises(StoreError) as caught:
        asyncio.run(write_many())

    assert heard == [caught.value]
    assert "responses.jsonl" in caught.value.message
    assert disk.calls == 1, "a failed fsync was tried again"


def test_a_sync_that_fails_when_closing_is_raised_and_unlocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path / "run")
    store.add_response(make_response(0))
    disk = FailingDisk(tmp_path / "run" / "responses.jsonl")
    monkeypatch.setattr(os, "fsync", disk)

    with pytest.raises(StoreError, match="failed to keep"):
        close(store)

    assert disk.calls == 1
    lock_run(tmp_path / "run").close()


def test_a_manifest_may_be_replaced_while_the_run_is_open(tmp_path: Path) -> None:
    store = opened(tmp_path / "run")
    dialect = {"tokens_field": "max_completion_tokens", "unsent": ["top_p"], "structured": True}
    decided = replace(store.manifest, decision=dialect, judges=[make_judge(decision=dialect)])

    asyncio.run(store.update_manifest(decided))

    close(store)
    assert read_manifest(tmp_path / "run") == decided


def test_a_killed_writer_leaves_everything_that_it_wrote(tmp_path: Path) -> None:
    """Nothing is buffered in the process: SIGKILL right after a write loses nothing of it."""
    code = (
        "import asyncio, os, sys\n"
        "from pathlib import Path\n"
        "from tests.support.records import make_manifest, make_response\n"
        "from vlsb.store.store import open_run\n"
        "store = open_run(Path(sys.argv[1]), make_manifest(range(50)), is_resume=False)\n"
        "for sample_id in range(50):\n"
        "    store.add_response(make_response(sample_id))\n"
        "print('written', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    root = PROJECT
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "written\n"
        writer.kill()

    store = opened(tmp_path / "run", make_manifest(range(50)), is_resume=True)
    close(store)
    assert store.state.responses.keys() == {(sample_id, 1) for sample_id in range(50)}
    assert store.torn == []
