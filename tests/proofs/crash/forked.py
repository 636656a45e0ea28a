"""Sessions of `vlsb` that a prepared process forks: real ones that can be killed, without a start of Python.

The prepared process has imported the program, reads from its stdin what to start, and writes how that ended.
A session counts where whoever serves the requests of batches begins and ends to wait, and sends itself a
signal at one of these awaits.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

from tests.support import canary
from tests.support.command import Finished
from tests.support.waiting import DEADLINE_S


class Session(NamedTuple):
    """A command line of `vlsb`, and at which of its awaits it sends itself which signal.

    `prelude` is Python that changes the program before.
    """

    words: list[str]
    directory: str
    environment: dict[str, str]
    at: int
    number: int
    prelude: str = ""


class Prepared:
    """The prepared process, for a block."""

    def __enter__(self) -> Self:
        words = [sys.executable, "-m", "tests.proofs.crash.forked"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(words, stdin=pipe, stdout=pipe, bufsize=0, start_new_session=True)
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def run(self, session: Session) -> tuple[Finished, int]:
        """How a session ends, and how many awaits it had, 0 if it was killed."""
        ask, answer = self._process.stdin, self._process.stdout
        assert ask is not None
        assert answer is not None
        ask.write(json.dumps(session).encode() + b"\n")
        assert select.select([answer], [], [], DEADLINE_S)[0], f"it did not end: {session.words}"
        line = answer.readline()
        assert line, "the prepared process ended"
        folder = Path(session.directory)
        out, err = ((folder / name).read_text("utf-8", "replace") for name in ("out", "err"))
        canary.assert_unseen(out, err)
        counted = folder / "awaits"
        return Finished(int(line), out, err), int(counted.read_text()) if counted.exists() else 0


class _Counted:
    """A coroutine whose awaits are counted; `act` is called at the one that has the number `at`."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], at: int, act: Callable[[], None]) -> None:
        self._coroutine = coroutine
        self._at = at
        self._act = act
        self.count = 0

    def _pass(self) -> None:
        self.count += 1
        if self.count == self._at:
            self._act()

    def __await__(self) -> Generator[Any, Any, None]:
        steps = self._coroutine.__await__()
        step: Callable[[Any], Any] = steps.send
        value: Any = None
        while True:
            try:
                waits_for = step(value)
            except StopIteration:
                return
            self._pass()
            try:
                step, value = steps.send, (yield waits_for)
            except BaseException as stopped:  # noqa: BLE001 - passed on, a cancellation too
                step, value = steps.throw, stopped
            self._pass()


def _carry_out(session: Session) -> None:
    """Become the session."""
    from vlsb.cli import main
    from vlsb.evaluation.batch import BatchRun

    os.chdir(session.directory)
    os.environ.clear()
    os.environ.update(session.environment)
    Path("awaits").unlink(missing_ok=True)
    for number, path, flags in ((0, os.devnull, os.O_RDONLY), (1, "out", _WRITE), (2, "err", _WRITE)):
        os.dup2(os.open(path, flags, 0o600), number)
    # A process that a shell starts in the foreground has this handler.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    serve: Callable[[Any, Any], Coroutine[Any, Any, None]] = BatchRun._serve

    async def serve_counted(self: Any, lanes: Any) -> None:
        counted = _Counted(serve(self, lanes), session.at, lambda: os.kill(os.getpid(), session.number))
        atexit.register(lambda: Path("awaits").write_text(str(counted.count)))
        await counted

    BatchRun._serve = serve_counted  # type: ignore[method-assign]
    exec(session.prelude, {"BatchRun": BatchRun})
    sys.argv = ["vlsb", *session.words]
    main(session.words)


_WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC


def _serve(lines: BinaryIO, ends: BinaryIO) -> None:
    for line in lines:
        if (pid := os.fork()) == 0:
            lines.close()
            ends.close()
            _carry_out(Session(*json.loads(line)))
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        ends.write(f"{code}\n".encode())


def _prepare() -> None:
    import aiofiles  # noqa: F401
    import openai.resources  # noqa: F401

    import vlsb.cli.app
    import vlsb.evaluation.session  # noqa: F401


if __name__ == "__main__":
    _prepare()
    # The streams are the session's; what is said here goes another way.
    _serve(os.fdopen(os.dup(0), "rb", buffering=0), os.fdopen(os.dup(1), "wb", buffering=0))
