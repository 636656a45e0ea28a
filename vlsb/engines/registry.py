"""The state files: which servers `vlsb serve` has running on this machine, and how to reach them.

One file a server, 0600 in a 0700 folder, because the engine's key is in it and nowhere else. A file is
believed only if it is this user's alone, and only as long as its process lives.
"""

from __future__ import annotations

import os
import re
import signal
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import msgspec

from vlsb import strict_json
from vlsb.endpoints.credentials import Secret
from vlsb.errors import ConfigError, StoreError
from vlsb.files import FileLock, replace_file

if TYPE_CHECKING:
    import psutil


@dataclass(frozen=True, slots=True)
class Places:
    """The folders of this user; none is created here."""

    state: Path
    engines: Path
    converted: Path

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Places:
        """Return the folders that an environment names, by XDG's variables and defaults."""
        home = Path(environment.get("HOME") or Path.home())

        def below(variable: str, usual: str) -> Path:
            named = environment.get(variable, "")
            # XDG: a relative path is to be ignored.
            return (Path(named) if named.startswith("/") else home / usual) / "vlsb"

        return cls(
            state=below("XDG_STATE_HOME", ".local/state") / "servers",
            engines=below("XDG_DATA_HOME", ".local/share") / "engines",
            converted=below("XDG_CACHE_HOME", ".cache") / "converted",
        )


SCHEMA = 2
MOST_BYTES = 1024 * 1024

KEPT_LOGS = 20
"""How many logs of servers that have ended are kept, all models together."""

_LOG = re.compile(r".+\.[0-9]{8}-[0-9]{6}\.(?P<vlsb>[0-9]{1,10})\.log")
_FILE = re.compile(r"(?P<draft>\.)?(?P<name>.+)\.(?P<pid>[0-9]{1,10})\.json")

Say = Callable[[str], None]
SinceBoot = Annotated[float, msgspec.Meta(ge=0)]


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """A running server: `pid` is the engine's API server, also its process group; `owner_pid` the `vlsb`.

    Either process is known by its pid and when it began (`started_at`, `owner_started_at`: seconds since
    `boot`, the system's start), so that another one with a reused pid is noticed, whatever is done to the
    clock on the wall. A detached server has no owner.
    """

    name: str
    family: str
    pid: int
    started_at: SinceBoot
    owner_pid: int | None
    owner_started_at: SinceBoot | None
    base_url: str
    served_name: str
    key: Secret
    facts: Mapping[str, Any]
    deviations: tuple[str, ...]
    log: Path
    weights: str
    engine: str
    boot: str

    @property
    def is_running(self) -> bool:
        """Whether the engine's process is the one that was recorded, and lives."""
        return self.boot == boot_id() and is_process(self.pid, self.started_at)

    @property
    def living_owner(self) -> int | None:
        """The pid of the `vlsb` that keeps it, if there is one and it lives."""
        if self.owner_pid is None or self.owner_started_at is None:
            return None
        return self.owner_pid if is_process(self.owner_pid, self.owner_started_at) else None

    @property
    def is_ending(self) -> bool:
        """Whether its `vlsb` has gone without it: an engine that is not detached follows at once."""
        return self.owner_pid is not None and self.living_owner is None


def is_process(pid: int, began_at: float) -> bool:
    """Tell whether a process with this pid lives and is the one that began then."""
    return process_began_at(pid) == began_at


def process_began_at(pid: int) -> float | None:
    """When a living process began, in seconds since the system did; None for one that is not there.

    The same number however often it is asked for. Where there is no /proc it is seconds since 1970.
    """
    try:
        # The second field is the program's name in parentheses, whatever it holds.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError):
        if Path("/proc/self/stat").exists():
            return None
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except (psutil.Error, ValueError, OverflowError):
        return None


def process_age_s(began_at: float) -> float:
    """How long ago that was, for a number of `process_began_at`."""
    if not Path("/proc/self/stat").exists():
        return max(0.0, time.time() - began_at)
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - began_at)


def boot_id() -> str:
    """Which start of the system this is; empty where it does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def state_file(folder: Path, name: str, pid: int) -> Path:
    """Where a server's record lies. The pid keeps a stale file's removal from hitting a newer one."""
    return folder / f"{file_name(name)}.{pid}.json"


def file_name(name: str) -> str:
    """A server's name as the beginning of a file's: no separator and no leading dot."""
    quoted = quote(name, safe="")
    return f"%2E{quoted[1:]}" if quoted.startswith(".") else quoted


def open_state_folder(places: Places) -> Path:
    """Return the folder for state files and logs, made if missing, this user's alone. Raises StoreError."""
    folder = places.state
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.stat()
        if status.st_uid != os.geteuid():
            raise StoreError(
                f"{folder}: belongs to another user. Set XDG_STATE_HOME to a folder of your own."
            )
        if status.st_mode & 0o077:
            folder.chmod(0o700)
    except OSError as error:
        raise StoreError(f"{folder}: cannot be made or written ({error.strerror}).") from error
    return folder


def write_record(places: Places, record: ServerRecord) -> Path:
    """Store a server's record whole or not at all; its path. Raises StoreError."""
    folder = open_state_folder(places)
    path = state_file(folder, record.name, record.pid)
    fields = {"schema": SCHEMA, **msgspec.to_builtins(record, enc_hook=str), "key": record.key.reveal()}
    text = strict_json.dumps(fields, indent=1) + "\n"
    try:
        replace_file(path, [text.encode("ascii")])
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror}).") from error
    return path


def remove_record(places: Places, record: ServerRecord) -> None:
    """Remove a server's record, and the key with it. One that is gone already is fine."""
    with suppress(OSError):
        state_file(places.state, record.name, record.pid).unlink()


def read_records(places: Places, *, say: Say | None = None) -> list[ServerRecord]:
    """Return the servers that run, by name.

    Stale and broken files are removed; `say` gets a line for each file that is not used.
    """
    try:
        status = places.state.stat()
        # The folder must be this user's alone to write.
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            return []
        paths = sorted(path for path in places.state.iterdir() if _FILE.fullmatch(path.name))
    except OSError:
        return []
    notice = say or (lambda _: None)
    return [record for path in paths if (record := _read(path, notice)) is not None]


def find_running(places: Places, name: str, *, say: Say | None = None) -> ServerRecord | None:
    """Return the server of that name that runs here, if any; the youngest, should there be several.

    One that is about to end is not counted.
    """
    records = read_records(places, say=say)
    named = [record for record in records if record.name == name and not record.is_ending]
    return max(named, key=lambda record: record.started_at, default=None)


def fresh_log(places: Places, name: str) -> Path:
    """Where a new server's log goes, in the state folder; the oldest of many earlier ones are removed."""
    folder = open_state_folder(places)
    in_use = {record.log for record in read_records(places)}
    ended = []
    for path in folder.glob("*.log"):
        # A run's own engine has no record; its log is named for the `vlsb` that started it.
        named = _LOG.fullmatch(path.name)
        is_owned = named is not None and process_began_at(int(named["vlsb"])) is not None
        with suppress(OSError):
            if path not in in_use and not is_owned:
                ended.append((path.stat().st_mtime, path))
    for _, path in sorted(ended, reverse=True)[KEPT_LOGS - 1 :]:
        with suppress(OSError):
            path.unlink()
    now = datetime.now().astimezone()
    while True:
        path = folder / f"{file_name(name)}.{now:%Y%m%d-%H%M%S}.{os.getpid()}.log"
        if not path.exists():
            return path
        # Two starts in one second, or a clock that was set back.
        now += timedelta(seconds=1)


@contextmanager
def sole_server(places: Places, name: str) -> Iterator[None]:
    """Hold a name from before the engine starts until it has ended. ConfigError if another `vlsb` does."""
    path = open_state_folder(places) / f"{file_name(name)}.lock"
    with ExitStack() as held:
        try:
            is_ours = held.enter_context(FileLock(path)).try_lock()
        except OSError as error:
            raise StoreError(f"{path}: cannot be opened or locked ({error.strerror}).") from error
        if not is_ours:
            raise ConfigError(
                f"{name}: another vlsb serve is starting or stopping it. Wait for it, or end that one."
            )
        yield


def _read(path: Path, notice: Say) -> ServerRecord | None:
    """Return the record of a file whose process lives; None for any other."""
    named = _FILE.fullmatch(path.name)
    assert named is not None
    if process_began_at(int(named["pid"])) is None:
        _discard(path)
        return None
    if named["draft"]:
        return None
    try:
        fields = strict_json.loads_unambiguous(_trusted_text(path))
        if not isinstance(fields, dict) or type(schema := fields.get("schema")) is not int:
            raise ValueError("no record")
        if schema != SCHEMA:
            raise _UnusedError(f"another version of vlsb wrote it (schema {schema})")
        key, log = fields.get("key"), fields.get("log")
        if not isinstance(key, str) or not isinstance(log, str):
            raise ValueError("key or log is not text")
        record = msgspec.convert({**fields, "key": Secret(key), "log": Path(log)}, ServerRecord)
        if path.name != state_file(path.parent, record.name, record.pid).name:
            raise ValueError("not the server that the file is named for")
    except _UnusedError as error:
        notice(f"{path}: not used, {error}.")
        return None
    except ValueError:
        _discard(path)
        notice(f"{path}: a broken state file, removed. If its server still runs, it goes on unseen.")
        return None
    if not record.is_running:
        _discard(path)
        return None
    return record


def _discard(path: Path) -> None:
    # A folder that cannot be written keeps its stale files; they are as little believed the next time.
    with suppress(OSError):
        path.unlink()


class _UnusedError(Exception):
    """Why a file is left alone and not believed."""


def _trusted_text(path: Path) -> str:
    """A file's text, if nobody else can have written or read it; _UnusedError, or ValueError for no text."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _UnusedError("it is a link or cannot be opened") from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_BYTES:
            raise _UnusedError("it is not a small regular file")
        if status.st_uid != os.geteuid():
            raise _UnusedError("it belongs to another user")
        if status.st_mode & 0o077:
            raise _UnusedError("others may read or write it (chmod 600 makes it usable)")
        return file.read(MOST_BYTES).decode("utf-8")


STOP_GRACE_S = 30.0
"""How long a server may take to end by itself: requests in flight are dropped, memory is given back."""
KILL_WAIT_S = 10.0
POLL_S = 0.1


class Ending(StrEnum):
    """How a server came to its end."""

    STOPPED = "stopped"
    KILLED = "killed"
    WAS_GONE = "was gone"


def stop_server(places: Places, record: ServerRecord, *, grace_s: float = STOP_GRACE_S) -> Ending:
    """End a server, its `vlsb` first, and remove its record. Returns when no process of it is left.

    Blocks up to `grace_s` and a little more; the group is killed when that is over.
    """
    if not record.is_running:
        remove_record(places, record)
        return Ending.WAS_GONE
    # An owner ends its engine itself and says so on its screen.
    with suppress(ProcessLookupError):
        os.kill(record.living_owner or record.pid, signal.SIGTERM)
    remaining = _left_after(grace_s, record.pid, group_members(record.pid))
    if remaining:
        with suppress(ProcessLookupError):
            if any(_is_alive(each) and os.getpgid(each.pid) == record.pid for each in remaining):
                os.killpg(record.pid, signal.SIGKILL)
        _left_after(KILL_WAIT_S, record.pid, remaining)
    remove_record(places, record)
    ends_at = time.monotonic() + KILL_WAIT_S
    while record.living_owner is not None and time.monotonic() < ends_at:
        time.sleep(POLL_S)
    return Ending.KILLED if remaining else Ending.STOPPED


def group_members(group: int) -> list[psutil.Process]:
    """Every living process of a process group."""
    import psutil

    processes = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                processes.append(process)
    return processes


def _left_after(seconds: float, group: int, members: list[psutil.Process]) -> list[psutil.Process]:
    """Return what lives of a group when the time is over; returns as soon as nothing does."""
    ends_at = time.monotonic() + seconds
    while living := [each for each in members if _is_alive(each)]:
        # Processes that joined since, too. Once all are gone, the group's number may be another's.
        members = list({*living, *group_members(group)})
        if time.monotonic() >= ends_at:
            return members
        time.sleep(POLL_S)
    return []


def _is_alive(process: psutil.Process) -> bool:
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
