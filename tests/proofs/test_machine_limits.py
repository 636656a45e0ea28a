"""Too little memory, too few files or threads: said as what it is, and never the fault of a sample."""

from __future__ import annotations

import asyncio
import errno
import resource
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.command import Desk, at_audit_event
from tests.support.endpoint import labelling
from vlsb.endpoints.client import _reply
from vlsb.errors import MachineError, StoreError, machine_lack
from vlsb.simulator import SimulatorThread

FEW_FILES = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))"
NO_MORE_FILES = (
    "import resource; free = os.dup(0); os.close(free); "
    "resource.setrlimit(resource.RLIMIT_NOFILE, (free, 1024))"
)
NO_MORE_MEMORY = "raise MemoryError"


def test_too_few_files_are_said_before_anything_is_sent(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    with SimulatorThread(labelling()) as simulator:
        done = desk.vlsb(*desk.run_words(simulator), prelude=FEW_FILES)

    assert done.code == 5
    assert "20 files and connections open at once" in done.error
    assert "`ulimit -n`" in done.error
    assert "--output-dir" not in done.err
    assert simulator.history == []


@pytest.mark.parametrize(
    ("action", "said"), [(NO_MORE_FILES, "`ulimit -n`"), (NO_MORE_MEMORY, "memory")], ids=["files", "memory"]
)
def test_what_the_machine_lacks_in_the_middle_of_a_run_is_no_outcome_and_a_resume_completes_it(
    tmp_path: Path, action: str, said: str
) -> None:
    """It is lacking when the image of sample 3 is opened, with the answers of others stored."""
    desk = Desk(tmp_path, 6)
    armed = desk.run_dir / "responses.jsonl"
    moment = at_audit_event("open", "3.png", action, armed_by=armed)
    with SimulatorThread(labelling()) as simulator:
        words = desk.run_words(simulator, "--max-connections", 1, "--judge-max-connections", 1)
        cut = desk.vlsb(*words, prelude=moment)
        outcomes = desk.outcomes()
        failures = (desk.run_dir / "failures.jsonl").read_bytes()
        resumed = desk.vlsb.resume(cut)

    assert cut.code == 5, cut.err
    assert said in cut.error
    assert "image" not in cut.error
    assert "internal error" not in cut.err
    assert failures == b""
    assert outcomes.keys() <= {"unsafe", "not_judged", "not_attempted"}
    assert outcomes["not_attempted"] > 0
    assert resumed.code == 0, resumed.err
    assert desk.outcomes() == {"unsafe": 6}


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is held as on Linux")
@pytest.mark.parametrize("mebibytes", [70, 110, 150, 190])
def test_a_limit_on_memory_is_no_internal_error(tmp_path: Path, mebibytes: int) -> None:
    """Wherever it is reached: in an import, at a thread, in a loop, or not at all."""
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({mebibytes} << 20,) * 2)"
    desk = Desk(tmp_path)
    with SimulatorThread(labelling()) as simulator:
        done = desk.vlsb(*desk.run_words(simulator), prelude=limit)

    assert done.code in (0, 5), done.err
    assert "internal error" not in done.err
    assert done.code == 0 or "`ulimit -v`" in done.error


def test_an_endpoint_has_no_part_in_a_socket_that_could_not_be_opened() -> None:
    async def asked() -> None:
        async with httpx.AsyncClient() as client:
            # All that a request needs but its socket is there before the limit is.
            assert isinstance(await _reply(client.get("http://127.0.0.1:9/"), 5), httpx.ConnectError)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            try:
                await _reply(client.get("http://127.0.0.1:9/"), 5)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    with pytest.raises(MachineError, match="ulimit -n"):
        asyncio.run(asked())


def several(*errors: Exception) -> ExceptionGroup[Exception]:
    return ExceptionGroup("tasks", errors)


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory"),
        (ImportError("x.so: failed to map segment from shared object"), "memory"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (OSError("Multiple exceptions: [Errno 24] Too many open files, [Errno 24] again"), "ulimit -n"),
        (OSError(errno.ENFILE, "Too many open files in system"), "All processes of this machine"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (several(ValueError(), several(MemoryError())), "memory"),
        (caused(StoreError("cannot be read"), OSError(errno.EMFILE, "Too many")), "ulimit -n"),
    ],
)
def test_what_lacks_is_found_wherever_it_stands_in_an_error(error: BaseException, said: str) -> None:
    assert said in str(machine_lack(error))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("24"),
        RuntimeError("no thread"),
        OSError(errno.ENOENT, "no such file"),
        ImportError("No module named numpy"),
        None,
    ],
)
def test_what_has_another_reason_is_no_limit_of_the_machine(error: BaseException | None) -> None:
    assert machine_lack(error) is None
