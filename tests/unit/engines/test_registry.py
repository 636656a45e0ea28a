"""State files: who may read one, when it is believed, how it goes; and ending the server it names."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.waiting import wait_until
from vlsb import strict_json
from vlsb.endpoints.credentials import Secret
from vlsb.engines import registry as state
from vlsb.engines.registry import (
    KEPT_LOGS,
    Ending,
    Places,
    ServerRecord,
    find_running,
    fresh_log,
    group_members,
    process_age_s,
    process_began_at,
    read_records,
    sole_server,
    stop_server,
    write_record,
)
from vlsb.errors import ConfigError, StoreError

KEY = "a-key-that-only-the-state-file-holds"
SLEEP = "import time; time.sleep(600)"
# An engine in small: two processes in one group, the second the first one's child.
TREE = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', sys.argv[1]]); time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); "
# A `vlsb serve` in small: it ends the group it is told of when it is told to end.
OWNER = """
import os, signal, sys, time
def end(number, frame):
    os.killpg(int(sys.argv[1]), signal.SIGKILL)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
time.sleep(600)
"""


class Processes:
    """Child processes, each a group of its own; all are gone when the test ends."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[str]] = []

    def start(self, code: str, *arguments: str, says_ready: bool = False) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            start_new_session=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        if says_ready:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        return process

    def end(self, process: subprocess.Popen[str]) -> None:
        """Kill one with its group, and reap it."""
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def end_all(self) -> None:
        for process in self._started:
            self.end(process)


@pytest.fixture
def processes() -> Iterator[Processes]:
    started = Processes()
    yield started
    started.end_all()


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "state" / "servers", tmp_path / "engines", tmp_path / "converted")


def record_of(pid: int, *, name: str = "llava_hf", owner: int | None = None, **changes: Any) -> ServerRecord:
    """A record of a living process; this one is its owner unless another is named."""
    began_at, owner_pid = process_began_at(pid), owner or os.getpid()
    owner_began_at = process_began_at(owner_pid)
    assert began_at is not None
    assert owner_began_at is not None
    record = ServerRecord(
        name=name,
        family="llava_hf",
        pid=pid,
        started_at=began_at,
        owner_pid=owner_pid,
        owner_started_at=owner_began_at,
        base_url="http://127.0.0.1:8123/v1",
        served_name=name,
        key=Secret(KEY),
        facts={"engine": "vllm 0.32.0", "pixels": [1, 2]},
        deviations=("dtype: float32 (official: float16)",),
        log=Path("/logs/one.log"),
        weights="llava-hf/llava-1.5-7b-hf",
        engine="vllm 0.32.0",
        boot=state.boot_id(),
    )
    return replace(record, **changes)


def detached(pid: int) -> ServerRecord:
    """A record of a living process that no `vlsb` keeps."""
    return record_of(pid, owner_pid=None, owner_started_at=None)


def files(places: Places) -> list[str]:
    return sorted(path.name for path in places.state.iterdir())


def heard(places: Places) -> tuple[list[ServerRecord], list[str]]:
    said: list[str] = []
    return read_records(places, say=said.append), said


# What is written.


def test_a_record_comes_back_as_it_was_written(places: Places) -> None:
    record = record_of(os.getpid())

    write_record(places, record)

    assert read_records(places) == [record]
    assert find_running(places, "llava_hf") == record
    assert find_running(places, "qwen2vl") is None


def test_the_file_and_its_folder_are_the_users_alone_whatever_the_umask(places: Places) -> None:
    before = os.umask(0)
    try:
        path = write_record(places, record_of(os.getpid()))
    finally:
        os.umask(before)

    assert path.stat().st_mode & 0o777 == 0o600
    assert places.state.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_was_open_is_closed_before_a_key_is_written(places: Places) -> None:
    places.state.mkdir(parents=True)
    places.state.chmod(0o777)

    write_record(places, record_of(os.getpid()))

    assert places.state.stat().st_mode & 0o777 == 0o700
    assert len(read_records(places)) == 1


def test_a_records_text_never_shows_the_key(places: Places) -> None:
    assert KEY not in repr(record_of(os.getpid()))


@pytest.mark.parametrize("name", ["mine/../../up", "a b", ".hidden", "ü", "x.9.json"])
def test_no_name_leads_out_of_the_folder(places: Places, name: str) -> None:
    record = record_of(os.getpid(), name=name)

    path = write_record(places, record)

    assert path.parent == places.state
    assert find_running(places, name) == record


def test_a_full_disk_leaves_no_half_file(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(source: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", no_room)

    with pytest.raises(StoreError, match="No space left"):
        write_record(places, record_of(os.getpid()))
    assert files(places) == []


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    places = Places(tmp_path / "file" / "servers", tmp_path, tmp_path)

    with pytest.raises(StoreError, match="cannot be made"):
        write_record(places, record_of(os.getpid()))
    assert read_records(places) == []


# What is believed.


def test_without_a_folder_there_are_no_servers(places: Places) -> None:
    assert heard(places) == ([], [])


def test_a_server_that_has_ended_is_forgotten_in_silence(places: Places, processes: Processes) -> None:
    process = processes.start(SLEEP)
    write_record(places, record_of(process.pid))
    processes.end(process)

    assert heard(places) == ([], [])
    assert files(places) == []


def test_a_server_that_nobody_has_reaped_has_ended(places: Places, processes: Processes) -> None:
    process = processes.start(SLEEP)
    write_record(places, record_of(process.pid))

    process.kill()
    wait_until(lambda: process_began_at(process.pid) is None, what="a process that is only an entry")

    assert heard(places) == ([], [])
    assert files(places) == []


def test_another_process_with_the_same_pid_is_not_the_server(places: Places) -> None:
    began_at = process_began_at(os.getpid())
    assert began_at is not None
    write_record(places, record_of(os.getpid(), started_at=began_at + 3600))

    assert heard(places) == ([], [])
    assert files(places) == []


def test_a_clock_that_was_set_back_hides_no_running_server(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system tells the wall time of its start, and with it of a process's, by the clock as it is now."""
    write_record(places, record_of(os.getpid()))
    usual_time, usual_birth = time.time, psutil.Process.create_time
    monkeypatch.setattr(time, "time", lambda: usual_time() - 3600)
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: usual_birth(process) - 3600)

    (record,) = read_records(places)

    assert record.is_running
    assert 0 <= process_age_s(record.started_at) < 3600 * 24


def test_a_record_of_before_the_systems_last_start_is_no_running_server(places: Places) -> None:
    """Its pid may be another process's that began just as long after the start."""
    write_record(places, record_of(os.getpid(), boot="another start"))

    assert heard(places) == ([], [])
    assert files(places) == []


def test_a_server_whose_vlsb_has_gone_is_listed_and_not_offered(places: Places, processes: Processes) -> None:
    owner = processes.start(SLEEP)
    record = record_of(os.getpid(), owner=owner.pid)
    write_record(places, record)
    processes.end(owner)

    assert read_records(places) == [record]
    assert find_running(places, "llava_hf") is None


def test_a_detached_server_needs_no_vlsb(places: Places) -> None:
    record = detached(os.getpid())

    write_record(places, record)

    assert find_running(places, "llava_hf") == record


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o666])
def test_a_file_that_others_may_read_or_write_is_left_and_not_used(places: Places, mode: int) -> None:
    path = write_record(places, record_of(os.getpid()))
    path.chmod(mode)

    found, said = heard(places)

    assert found == []
    assert len(said) == 1
    assert "chmod 600" in said[0]
    assert path.exists()


def test_a_file_of_another_user_is_not_used(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    path = write_record(places, record_of(os.getpid()))
    os.chown(path, 12345, 12345)

    found, said = heard(places)

    assert found == []
    assert "another user" in said[0]


def test_a_folder_of_another_user_is_neither_read_nor_written(places: Places) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    record = record_of(os.getpid())
    write_record(places, record)
    os.chown(places.state, 12345, 12345)

    assert read_records(places) == []
    with pytest.raises(StoreError, match="another user"):
        write_record(places, record)


def test_a_folder_that_others_may_write_is_not_believed(places: Places) -> None:
    write_record(places, record_of(os.getpid()))
    places.state.chmod(0o770)

    assert read_records(places) == []


def test_a_link_is_not_followed(places: Places, tmp_path: Path) -> None:
    path = write_record(places, record_of(os.getpid()))
    elsewhere = tmp_path / "elsewhere.json"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)

    found, said = heard(places)

    assert found == []
    assert len(said) == 1
    assert elsewhere.exists()


def test_a_pipe_in_a_files_place_does_not_hang(places: Places) -> None:
    path = write_record(places, record_of(os.getpid()))
    path.unlink()
    os.mkfifo(path, 0o600)

    assert heard(places)[0] == []


def document(places: Places) -> tuple[Path, dict[str, Any]]:
    path = write_record(places, record_of(os.getpid()))
    return path, strict_json.loads(path.read_bytes())


def assert_removed_with_a_notice(places: Places, path: Path) -> None:
    found, said = heard(places)
    assert found == []
    assert len(said) == 1
    assert "removed" in said[0]
    assert KEY not in said[0]
    assert not path.exists()
    assert heard(places) == ([], [])


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 5000, b'{"schema": 1, "schema": 1}', b'{"schema": true}'],
)
def test_a_file_that_is_no_record_is_removed_with_a_notice(places: Places, content: bytes) -> None:
    path, _ = document(places)
    path.write_bytes(content)

    assert_removed_with_a_notice(places, path)


FIELDS = [name for name in ServerRecord.__slots__ if name != "facts"] + ["facts", "schema"]


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", [None, [], "\x1b[31m", True, -1], ids=repr)
def test_a_field_of_another_kind_is_never_used(places: Places, field: str, value: Any) -> None:
    path, fields = document(places)
    if type(value) is type(fields[field]) or (value is None and field.startswith("owner_")):
        pytest.skip("of that kind")
    path.write_text(strict_json.dumps(fields | {field: value}))

    assert heard(places)[0] == []


def test_deviations_are_texts(places: Places) -> None:
    path, fields = document(places)
    path.write_text(strict_json.dumps(fields | {"deviations": ["fine", 7]}))

    assert_removed_with_a_notice(places, path)


@pytest.mark.parametrize("field", FIELDS)
def test_a_missing_field_is_never_guessed(places: Places, field: str) -> None:
    path, fields = document(places)
    del fields[field]
    path.write_text(strict_json.dumps(fields))

    assert_removed_with_a_notice(places, path)


def test_a_file_of_another_version_is_left_alone_as_long_as_its_server_lives(
    places: Places, processes: Processes
) -> None:
    process = processes.start(SLEEP)
    path = write_record(places, record_of(process.pid))
    path.write_text(strict_json.dumps({"schema": 3, "anything": "else"}))

    found, said = heard(places)
    assert found == []
    assert "schema 3" in said[0]
    assert path.exists()

    processes.end(process)
    assert heard(places) == ([], [])
    assert not path.exists()


def test_a_copy_under_another_servers_name_is_not_believed(places: Places) -> None:
    path = write_record(places, record_of(os.getpid()))
    copy = path.with_name(f"qwen2vl.{os.getpid()}.json")
    path.rename(copy)

    assert_removed_with_a_notice(places, copy)


def test_a_half_written_draft_goes_when_its_server_has(places: Places, processes: Processes) -> None:
    process = processes.start(SLEEP)
    path = write_record(places, record_of(process.pid))
    draft = path.rename(path.with_name(f".{path.name}"))

    assert heard(places) == ([], [])
    assert draft.exists()
    processes.end(process)
    assert heard(places) == ([], [])
    assert not draft.exists()


def test_files_of_others_in_the_folder_are_not_touched(places: Places) -> None:
    state.open_state_folder(places)
    (places.state / "llava_hf.log").write_text("log")
    (places.state / "notes.json").write_text("{")

    assert heard(places) == ([], [])
    assert files(places) == ["llava_hf.log", "notes.json"]


def test_the_youngest_of_two_servers_of_a_name_is_found(places: Places, processes: Processes) -> None:
    older = write_record(places, record_of(os.getpid()))
    process = processes.start(SLEEP)
    younger = record_of(process.pid)
    write_record(places, younger)

    assert len(read_records(places)) == 2
    assert find_running(places, "llava_hf") == younger
    assert older.exists()


# One server of a name.


def test_a_name_is_held_by_one_at_a_time(places: Places) -> None:
    with sole_server(places, "llava_hf"):
        with sole_server(places, "qwen2vl"):
            pass
        with pytest.raises(ConfigError, match="llava_hf"), sole_server(places, "llava_hf"):
            pass
    with sole_server(places, "llava_hf"):
        pass


def test_a_file_system_that_cannot_lock_is_said(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)

    with pytest.raises(StoreError, match="No locks available"), sole_server(places, "llava_hf"):
        pass


def test_a_name_is_free_again_when_its_holder_was_killed(places: Places, processes: Processes) -> None:
    code = (
        "import sys, time; from pathlib import Path; from vlsb.engines.registry import Places\n"
        "from vlsb.engines.registry import sole_server\n"
        "with sole_server(Places(*map(Path, sys.argv[1:])), 'llava_hf'):\n"
        "    print('ready', flush=True); time.sleep(600)"
    )
    words = [str(each) for each in (places.state, places.engines, places.converted)]
    holder = processes.start(code, *words, says_ready=True)

    with pytest.raises(ConfigError), sole_server(places, "llava_hf"):
        pass
    processes.end(holder)
    with sole_server(places, "llava_hf"):
        pass


def test_old_logs_go_and_those_of_running_servers_stay(places: Places) -> None:
    folder = state.open_state_folder(places)
    logs = [folder / f"llava_hf.{number}.log" for number in range(KEPT_LOGS + 5)]
    for age, path in enumerate(reversed(logs)):
        path.touch()
        os.utime(path, (10**9 - age, 10**9 - age))
    write_record(places, record_of(os.getpid(), log=logs[0]))
    # The engine of a `vlsb run` has no record; its log is named for that `vlsb`.
    runs_own = folder / f"qwen2vl.20000101-000000.{os.getpid()}.log"
    runs_own.touch()
    os.utime(runs_own, (0, 0))

    fresh = fresh_log(places, "llava_hf")
    fresh.touch()

    left = set(folder.glob("*.log"))
    assert left == {fresh, runs_own, logs[0], *logs[-KEPT_LOGS + 1 :]}


# Stopping.


def test_a_stop_ends_the_whole_group_and_the_record(places: Places, processes: Processes) -> None:
    engine = processes.start(TREE, SLEEP)
    wait_until(lambda: len(group_members(engine.pid)) == 2, what="the engine's child")
    record = detached(engine.pid)
    write_record(places, record)

    assert stop_server(places, record, grace_s=0.5) is Ending.KILLED  # SIGTERM does not reach the child

    assert group_members(engine.pid) == []
    assert files(places) == []


def test_a_server_that_ends_when_it_is_asked_is_not_killed(places: Places, processes: Processes) -> None:
    engine = processes.start(SLEEP)
    record = detached(engine.pid)
    write_record(places, record)

    assert stop_server(places, record) is Ending.STOPPED
    assert engine.wait() == -signal.SIGTERM


def test_the_vlsb_that_owns_a_server_is_asked_first(places: Places, processes: Processes) -> None:
    engine = processes.start(STUBBORN + SLEEP, says_ready=True)
    owner = processes.start(OWNER, str(engine.pid), says_ready=True)
    record = record_of(engine.pid, owner=owner.pid)
    write_record(places, record)

    assert stop_server(places, record) is Ending.STOPPED
    assert owner.wait() == 0
    assert engine.wait() == -signal.SIGKILL


def test_a_stop_never_reaches_another_process(places: Places, processes: Processes) -> None:
    stranger = processes.start(SLEEP)
    began_at = process_began_at(stranger.pid)
    assert began_at is not None
    record = record_of(stranger.pid, started_at=began_at + 3600)
    write_record(places, record)

    assert stop_server(places, record) is Ending.WAS_GONE
    assert psutil.pid_exists(stranger.pid)
    assert stranger.poll() is None
    assert files(places) == []
