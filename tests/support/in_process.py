"""A command in this process: as `main` runs it in one of its own, and nothing of it stays here.

Its streams are the real ones, file descriptors 0, 1 and 2, so what it starts writes to them too. Environment,
working directory, signal handlers, limits, loggers, warnings and context variables are put back when it ends.
"""

from __future__ import annotations

import asyncio
import contextvars
import faulthandler
import gc
import logging
import os
import resource
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import IO, Any

import pytest

from tests.support.waiting import DEADLINE_S
from vlsb.cli import main

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_OUTLIVING = {"--detach", "--keep-server", "VLSB_KEEP_SERVER", "--ray"}
_READ_AT_START = ("PYTHON", "LC_", "LD_", "MALLOC_")
_READ_WHEN_IMPORTED = ("huggingface_hub",)


class PipeReader(threading.Thread):
    """Reads a pipe to its end, so that nobody has to for the command to go on."""

    def __init__(self, pipe: IO[bytes]) -> None:
        super().__init__(daemon=True)
        self._pipe = pipe
        self._contents = b""
        self.start()

    def run(self) -> None:
        with self._pipe:
            while chunk := os.read(self._pipe.fileno(), 65536):
                self._contents += chunk

    @property
    def text(self) -> str:
        """What was written so far."""
        return self._contents.decode("utf-8", "replace").replace("\r\n", "\n")

    def all_text(self) -> str:
        """Everything that was written, when nobody is left who could write more."""
        self.join(DEADLINE_S)
        assert not self.is_alive(), "the command ended, and another process holds its output"
        return self.text


def can_run_here(words: Iterable[str], environment: Mapping[str, str]) -> bool:
    """Whether this command may run in this process.

    Signals reach the main thread only, and a loop cannot run within another. An engine that is left running
    has a parent that ended, Ray ends with its process, and an interpreter reads some variables as it starts.
    """
    is_alone = threading.current_thread() is threading.main_thread() and asyncio._get_running_loop() is None
    leaves_something = not _OUTLIVING.isdisjoint((*words, *environment))
    return is_alone and not leaves_something and not any(map(_is_read_at_start, environment))


def _is_read_at_start(variable: str) -> bool:
    return variable.startswith(_READ_AT_START)


def run_here(
    words: Sequence[str], *, directory: Path, environment: Mapping[str, str], timeout_s: float
) -> tuple[int, str, str]:
    """Run a command line to its end: its exit code, stdout and stderr. One that hangs fails where it is."""
    call = partial(main, words)
    return call_here(
        call, ["vlsb", *words], directory=directory, environment=environment, timeout_s=timeout_s
    )


def call_here(
    call: Callable[[], object],
    arguments: Sequence[str],
    *,
    directory: Path,
    environment: Mapping[str, str],
    timeout_s: float,
) -> tuple[int, str, str]:
    """Call what a process with these arguments would: its exit code, stdout and stderr."""
    with ExitStack() as stack:
        enter = stack.enter_context
        out, err = enter(_streams())
        enter(_restored(_signal_handlers))
        enter(_restored(_limits))
        enter(_restored(_temporary_folder))
        enter(_restored(_loggers))
        enter(_restored(_garbage_collection))
        enter(_fresh_modules())
        enter(warnings.catch_warnings())
        enter(_environment(environment))
        enter(_working_directory(directory))
        enter(_deadline(timeout_s))
        code = contextvars.copy_context().run(_exit_code, call, arguments)
    return code, out.all_text(), err.all_text()


def _exit_code(call: Callable[[], object], arguments: Sequence[str]) -> int:
    before, sys.argv = sys.argv, list(arguments)
    try:
        call()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        sys.argv = before
    return 0


@contextmanager
def _deadline(timeout_s: float) -> Iterator[None]:
    """Interrupt a command that takes too long, and fail with where it was.

    An exception of another kind would not get out of uvloop. Who does not end even so ends this process.
    """
    places: list[str] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        places.append("".join(traceback.format_stack(frame)))
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    faulthandler.dump_traceback_later(timeout_s + DEADLINE_S, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if places:
            pytest.fail(f"the command did not end within {timeout_s:g} s:\n{places[0]}")


@contextmanager
def _streams() -> Iterator[tuple[PipeReader, PipeReader]]:
    """Put an empty stdin and two pipes in the place of this process's streams."""
    before = sys.stdin, sys.stdout, sys.stderr
    for stream in before[1:]:
        stream.flush()
    kept = [os.dup(number) for number in range(3)]
    pipes = [os.pipe(), os.pipe()]
    try:
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        for number, (_, write) in enumerate(pipes, start=1):
            os.dup2(write, number)
            os.close(write)
        readers = [PipeReader(os.fdopen(read, "rb", buffering=0)) for read, _ in pipes]
        sys.stdin, sys.stdout, sys.stderr = (
            os.fdopen(number, mode, encoding="utf-8", closefd=False)
            for number, mode in enumerate(("r", "w", "w"))
        )
        try:
            yield readers[0], readers[1]
        finally:
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:
                    stream.flush()
    finally:
        sys.stdin, sys.stdout, sys.stderr = before
        for number, copy in enumerate(kept):
            os.dup2(copy, number)
            os.close(copy)


@contextmanager
def _restored(state: Callable[[], Callable[[], object]]) -> Iterator[None]:
    """Whatever the block changes of a state is put back: `state` remembers it, and returns what does that."""
    restore = state()
    try:
        yield
    finally:
        restore()


def _signal_handlers() -> Callable[[], object]:
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    # A process that a shell starts has these; what pytest does with them is not the command's.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return lambda: [signal.signal(number, handler) for number, handler in before.items()]


def _limits() -> Callable[[], object]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, before)


def _temporary_folder() -> Callable[[], object]:
    before, tempfile.tempdir = tempfile.tempdir, None
    return lambda: setattr(tempfile, "tempdir", before)


def _garbage_collection() -> Callable[[], object]:
    enabled, thresholds = gc.isenabled(), gc.get_threshold()

    def restore() -> None:
        gc.set_threshold(*thresholds)
        (gc.enable if enabled else gc.disable)()

    return restore


def _loggers() -> Callable[[], object]:
    named = [each for each in logging.root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    before = [
        (logger, logger.level, list(logger.handlers), logger.propagate, logger.disabled)
        for logger in (logging.root, *named)
    ]

    def restore() -> None:
        for logger, level, handlers, propagate, disabled in before:
            logger.setLevel(level)
            logger.handlers[:] = handlers
            logger.propagate, logger.disabled = propagate, disabled

    return restore


@contextmanager
def _fresh_modules() -> Iterator[None]:
    """Have modules that read the environment when they are imported imported anew."""
    before = _taken_out()
    try:
        yield
    finally:
        _taken_out()
        sys.modules.update(before)


def _taken_out() -> dict[str, Any]:
    names = [name for name in sys.modules if name.split(".")[0] in _READ_WHEN_IMPORTED]
    return {name: sys.modules.pop(name) for name in names}


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    try:
        _set_environment(variables)
        yield
    finally:
        _set_environment(before)


def _set_environment(variables: Mapping[str, str]) -> None:
    for name in set(os.environ) - set(variables):
        del os.environ[name]
    for name, text in variables.items():
        if os.environ.get(name) != text:
            os.environ[name] = text


@contextmanager
def _working_directory(directory: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)
