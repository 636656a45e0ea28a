"""An engine's whole process tree goes, whoever dies first and whatever it ignores."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.fake_engine import events, install, living
from tests.support.waiting import DEADLINE_S, wait_until
from vlsb.endpoints import loops
from vlsb.engines.process import EngineProcess, start_process
from vlsb.errors import StoreError

TREE_SIZE = 3
"""The engine, its EngineCore and its Worker."""

# A program that starts an engine as `vlsb` does and then does nothing: what is killed in these tests.
OWNER = """
import json, os, sys, time
from pathlib import Path
from vlsb.engines import process as processes
from vlsb.engines.process import start_process
processes.GRACE_S = 0.5
words = json.loads(sys.argv[1])
process = start_process(
    words["arguments"], environment=dict(os.environ), log=Path(words["log"]), detached=words["detached"]
)
print(process.pid, process._reaper.pid, flush=True)
time.sleep(600)
"""


class Bench:
    """A folder, an engine executable, and a mark that every process started here carries."""

    def __init__(self, folder: Path) -> None:
        self.mark = uuid.uuid4().hex
        self.log = folder / "state" / "engine.log"
        self.record = folder / "record"
        self._executable = install(folder)
        self._environment = {
            "PATH": os.defpath,
            "FAKE_ENGINE_MARK": self.mark,
            "FAKE_ENGINE_RECORD": str(self.record),
        }

    def arguments(self) -> list[str]:
        """The words of a command that serves something on a port nobody needs."""
        return [str(self._executable), "serve", "some/weights", "--host", "127.0.0.1", "--port", "0"]

    def environment(self, **wishes: str) -> dict[str, str]:
        """All of an engine's environment."""
        return self._environment | {f"FAKE_ENGINE_{name}": value for name, value in wishes.items()}

    def start(self, *, detached: bool = False, **wishes: str) -> EngineProcess:
        """An engine that is ours."""
        environment = self.environment(**wishes)
        return start_process(self.arguments(), environment=environment, log=self.log, detached=detached)

    def text(self) -> str:
        """The log so far."""
        return self.log.read_text() if self.log.exists() else ""

    def await_ready(self, children: str = "") -> None:
        """Return once the engine listens, with its children there."""
        wait_until(lambda: "startup complete" in self.text(), what="the engine's start")
        if children:
            wait_until(lambda: len(living(self.mark)) == TREE_SIZE + 1, what="the tree and its reaper")

    def await_nobody(self) -> None:
        """Return once no process carries the mark."""
        wait_until(lambda: not living(self.mark), what="the end of every process")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Whatever a test leaves behind is killed."""
    bench = Bench(tmp_path)
    yield bench
    for pid in living(bench.mark):
        os.kill(pid, signal.SIGKILL)


class Owner:
    """A process that owns an engine, for killing."""

    def __init__(self, bench: Bench, *, detached: bool = False, **wishes: str) -> None:
        import json

        words = {"arguments": bench.arguments(), "log": str(bench.log), "detached": detached}
        environment = bench.environment(**wishes)
        # The owner itself carries no mark: it is not of the tree.
        code = f"import os; os.environ.update({environment!r})\n{OWNER}"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, json.dumps(words)], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        with self._process.stdout as out:
            self.engine, self.reaper = map(int, out.readline().split())

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait(DEADLINE_S)


# Starting and ending.


def test_an_engine_leads_a_session_and_a_group_that_are_not_ours(bench: Bench) -> None:
    engine = bench.start()

    assert os.getpgid(engine.pid) == engine.pid == engine.group
    assert os.getsid(engine.pid) != os.getsid(0)
    asyncio.run(engine.stop(DEADLINE_S))


def test_the_log_is_readable_by_its_owner_alone_and_keeps_what_an_earlier_start_wrote(bench: Bench) -> None:
    for _ in range(2):
        engine = bench.start(DIE_AT="start", CAUSE="disk_full")
        assert asyncio.run(engine.wait()) == 1

    assert bench.text().count("No space left on device") == 2
    assert bench.log.stat().st_mode & 0o777 == 0o600
    assert bench.log.parent.stat().st_mode & 0o777 == 0o700


def test_an_engine_that_writes_more_than_a_pipe_holds_is_never_blocked(bench: Bench) -> None:
    """Its output goes to the file; nobody has to read it."""
    code = "import sys\nfor _ in range(64): sys.stdout.write('x' * 65536); sys.stderr.write('y' * 65536)"

    engine = start_process([sys.executable, "-c", code], environment=bench.environment(), log=bench.log)

    async def end() -> int:
        async with asyncio.timeout(DEADLINE_S):
            return await engine.wait()

    assert asyncio.run(end()) == 0
    assert bench.log.stat().st_size == 2 * 64 * 65536


def test_a_log_that_is_a_link_is_not_written_through(bench: Bench, tmp_path: Path) -> None:
    bench.log.parent.mkdir()
    bench.log.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(StoreError, match=r"engine\.log"):
        bench.start()

    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(("cause", "code"), [("unknown_flag", 2), ("unknown", 3), ("", -signal.SIGKILL)])
def test_how_an_engine_ended_is_reported(bench: Bench, cause: str, code: int) -> None:
    engine = bench.start(DIE_AT="loading", CAUSE=cause)

    assert asyncio.run(engine.wait()) == code == engine.exit_code()


def test_a_program_that_cannot_be_run_says_so_in_the_log(bench: Bench, tmp_path: Path) -> None:
    engine = start_process([str(tmp_path / "nowhere")], environment=bench.environment(), log=bench.log)

    assert asyncio.run(engine.wait()) == 127
    assert "nowhere: cannot be run: No such file or directory" in bench.text()


def test_an_engine_is_asked_before_it_is_killed(bench: Bench) -> None:
    engine = bench.start(CHILDREN="plain")
    bench.await_ready("plain")

    asyncio.run(engine.stop(DEADLINE_S))

    assert engine.exit_code() == 0
    assert [each["signal"] for each in events(bench.record, "stop")] == [signal.SIGTERM]
    assert living(bench.mark) == []


@pytest.mark.parametrize("children", ["plain", "stubborn", "own group"])
def test_an_engine_that_ignores_sigterm_is_killed_with_its_children_after_its_grace(
    bench: Bench, children: str
) -> None:
    engine = bench.start(CHILDREN=children, TERM="ignore")
    bench.await_ready(children)

    asyncio.run(engine.stop(0.2))

    assert engine.exit_code() == -signal.SIGKILL
    assert living(bench.mark) == []


def test_a_cancelled_stop_does_not_wait_for_the_grace(bench: Bench) -> None:
    engine = bench.start(TERM="ignore")
    bench.await_ready()

    async def cancel_a_stop() -> None:
        stopping = asyncio.create_task(engine.stop(10 * DEADLINE_S))
        await asyncio.sleep(0)
        stopping.cancel()
        await asyncio.wait([stopping])

    asyncio.run(cancel_a_stop())

    assert asyncio.run(engine.wait()) == -signal.SIGKILL


def test_stopping_an_engine_that_has_ended_is_no_error(bench: Bench) -> None:
    engine = bench.start(DIE_AT="start")
    assert asyncio.run(engine.wait()) == -signal.SIGKILL

    asyncio.run(engine.stop(DEADLINE_S))


@pytest.mark.parametrize("is_told", [True, False], ids=["told by the kernel", "not told"])
def test_everybody_who_waits_hears_of_an_engines_end_and_holds_nothing_open(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, is_told: bool
) -> None:
    def refuse(pid: int) -> int:
        raise PermissionError(pid)

    async def end(engine: EngineProcess) -> list[int]:
        waiting = [asyncio.create_task(engine.wait()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting.pop().cancel()
        await engine.stop(DEADLINE_S)
        return await asyncio.gather(*waiting)

    if not is_told:
        monkeypatch.setattr(os, "pidfd_open", refuse)
    open_after = []
    # The first loop of a process opens what all loops share.
    for _ in range(2):
        engine = bench.start()
        assert loops.run(end(engine)) == [engine.exit_code()] * 2
        open_after.append(psutil.Process().num_fds())

    assert open_after[0] == open_after[1]


# Deaths.


@pytest.mark.parametrize("children", ["plain", "stubborn", "own group"])
def test_children_that_outlive_a_killed_engine_are_killed(bench: Bench, children: str) -> None:
    """As when the system runs out of memory and takes the API server: EngineCore and Worker stay."""
    engine = bench.start(CHILDREN=children)
    bench.await_ready(children)

    os.kill(engine.pid, signal.SIGKILL)

    assert asyncio.run(engine.wait()) == -signal.SIGKILL
    assert living(bench.mark) == []


@pytest.mark.parametrize("children", ["plain", "stubborn", "own group"])
def test_when_the_owner_of_a_deaf_engine_is_killed_nothing_stays(bench: Bench, children: str) -> None:
    owner = Owner(bench, CHILDREN=children, TERM="ignore")
    bench.await_ready(children)

    owner.kill()

    bench.await_nobody()


@pytest.mark.parametrize("children", ["plain", "stubborn", "own group"])
def test_when_owner_and_engine_are_killed_together_nothing_stays(bench: Bench, children: str) -> None:
    owner = Owner(bench, CHILDREN=children)
    bench.await_ready(children)

    os.kill(owner.engine, signal.SIGKILL)
    owner.kill()

    bench.await_nobody()


linux = pytest.mark.skipif(sys.platform != "linux", reason="needs a parent-death signal")


@linux
@pytest.mark.parametrize("term", ["", "ignore"])
@pytest.mark.parametrize("children", ["plain", "stubborn"])
def test_when_owner_reaper_and_engine_are_killed_together_the_kernel_ends_the_rest(
    bench: Bench, children: str, term: str
) -> None:
    """As `pkill -9 -f vlsb` does where the engine lives in a folder of ours."""
    owner = Owner(bench, CHILDREN=children, TERM=term)
    bench.await_ready(children)

    for pid in (owner.reaper, owner.engine):
        os.kill(pid, signal.SIGKILL)
    owner.kill()

    bench.await_nobody()


@linux
@pytest.mark.parametrize("children", ["plain", "stubborn", "own group"])
def test_when_only_the_reaper_is_killed_the_engine_is_ended_and_reported(bench: Bench, children: str) -> None:
    """Not before it is gone: it holds the port that the next one needs."""
    engine = bench.start(CHILDREN=children, TERM="ignore")
    bench.await_ready(children)

    engine._reaper.kill()

    assert asyncio.run(engine.wait()) == -signal.SIGKILL
    if children != "own group":
        assert not living(bench.mark)


# Engines that stay.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("children", ["plain", "stubborn", "own group"])
def test_a_detached_engine_outlives_its_owner_and_a_signal_to_it_ends_its_whole_tree(
    bench: Bench, children: str, number: signal.Signals
) -> None:
    owner = Owner(bench, detached=True, CHILDREN=children)
    bench.await_ready(children)
    owner.kill()
    # Nothing is to happen: there is no event to wait for.
    time.sleep(0.3)
    assert len(living(bench.mark)) == TREE_SIZE + 1

    os.kill(owner.engine, number)

    bench.await_nobody()


def test_an_engine_that_is_released_later_outlives_its_owner(bench: Bench) -> None:
    engine = bench.start()
    bench.await_ready()

    engine.release()
    assert engine._hold is not None
    os.close(engine._hold)
    engine._hold = None
    time.sleep(0.3)

    assert engine.exit_code() is None
    asyncio.run(engine.stop(DEADLINE_S))
    assert engine.exit_code() == 0


def test_a_released_engine_that_ignores_sigterm_is_killed_when_its_stop_says_so(bench: Bench) -> None:
    engine = bench.start(detached=True, TERM="ignore")
    bench.await_ready()

    asyncio.run(engine.stop(0.2))

    assert engine.exit_code() == -signal.SIGKILL


def test_the_callers_signal_settings_do_not_reach_the_engine(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program started with nohup ignores SIGHUP and its children would: the hang-up would be lost."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        engine = bench.start()
    finally:
        signal.signal(signal.SIGHUP, before)
    bench.await_ready()

    os.kill(engine.pid, signal.SIGHUP)

    assert asyncio.run(engine.wait()) == -signal.SIGHUP


def test_an_engine_of_a_process_with_more_than_1024_open_files_is_watched_and_ended(bench: Bench) -> None:
    """The pipes to the engine's keeper have numbers beyond what `select` takes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        process = bench.start(CHILDREN="plain")
        bench.await_ready("plain")
        asyncio.run(process.stop(DEADLINE_S))
    finally:
        for each in held:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert "Traceback" not in bench.text()
    assert process.exit_code() is not None
    bench.await_nobody()


def test_an_engine_started_from_a_thread_that_ends_lives_on(bench: Bench) -> None:
    """A parent-death signal fires when the thread ends that forked; ours is the reaper's main thread's."""

    async def start_in_a_thread() -> EngineProcess:
        return await asyncio.to_thread(bench.start)

    engine = asyncio.run(start_in_a_thread())
    bench.await_ready()

    assert engine.exit_code() is None
    asyncio.run(engine.stop(DEADLINE_S))
