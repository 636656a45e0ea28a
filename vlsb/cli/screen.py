"""What the user sees: results on stdout, everything else on stderr, one unwrapped line each.

Lines go through the terminal's encoder where a stranger's words are in them. A bar that is on the screen
is told to stay below the lines. No write to stderr ever raises or waits for long: a run outlives its
terminal. What cannot be shown is dropped, and so is what a reader that is there but has stopped reading does
not take: a write that waits for it would keep Ctrl-C from being heard.
"""

from __future__ import annotations

import errno
import io
import os
import select
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from vlsb.errors import SeveralErrors, StoreError, VlsbError, machine_lack
from vlsb.records import Untrusted
from vlsb.reports.encode import for_terminal

if TYPE_CHECKING:
    from vlsb.engines.lease import InstallOffer


# The words of the command that is carried out: where a key stands by mistake, no line repeats it.
_TYPED: ContextVar[Sequence[str]] = ContextVar("typed", default=())


def is_typed(arguments: Sequence[str]) -> None:
    """Keep the words of the command that is carried out from here on."""
    _TYPED.set(tuple(arguments))


def without_keys(line: str) -> str:
    """Return a line of ours without keys: of the environment, typed by mistake, or what looks like one."""
    from vlsb.endpoints.credentials import Mask

    # What is there under that name is not a key.
    words = [word for word in _TYPED.get() if not os.path.exists(word)]  # noqa: PTH110 - a word may be no path
    return Mask(words, os.environ)(line)


def from_here(path: Path) -> str:
    """Return a path as it is typed in this folder: a long one wraps, and cannot be copied."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


class Screen:
    """The two streams of a command. With `quiet`, notices are dropped and errors are not."""

    def __init__(self, *, quiet: bool = False, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.quiet = quiet
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self.above_bar: Callable[[str], None] | None = None

    @property
    def width(self) -> int:
        """The columns of the terminal."""
        return shutil.get_terminal_size((80, 24)).columns

    @property
    def has_color(self) -> bool:
        """Whether results take styles and links."""
        return has_color(self._out)

    def result(self, text: str) -> None:
        """Write a command's result to stdout. Raises StoreError where it cannot be written."""
        if self.quiet:
            return
        try:
            self._out.write(text if text.endswith("\n") else text + "\n")
            self._out.flush()
        except OSError as error:
            raise StoreError(f"The result cannot be written to stdout ({error.strerror}).") from error

    def answer(self, *lines: str) -> None:
        """Write a command's result in lines of our own words, whatever the names and paths in them hold."""
        clean = (for_terminal(Untrusted(each), lines=True).replace("\n", " ") for each in lines)
        self.result("\n".join(clean))

    def notice(self, line: str) -> None:
        """Say something worth knowing, on stderr."""
        if not self.quiet:
            self.line(line)

    def error(self, error: VlsbError) -> None:
        """Say what went wrong, to what, and what to do: one line on stderr for each problem."""
        for each in error.errors if isinstance(error, SeveralErrors) else (machine_lack(error) or error,):
            self.line(f"Error: {error_line(each)}")

    def line(self, line: str) -> None:
        """One line on stderr, whatever the display."""
        clean = for_terminal(Untrusted(without_keys(line)))
        if self.above_bar is not None:
            self.above_bar(clean)
            return
        self._err.write(clean + "\n")
        self._err.flush()

    def command(self, arguments: Sequence[str]) -> None:
        """A command to type, as one line that a shell reads back exactly."""
        words = []
        for word in arguments:
            # What a terminal would act on stands there as bash's escapes.
            plain = frozenset(range(32, 127)) - frozenset(b"'\\")
            escaped = (chr(byte) if byte in plain else f"\\x{byte:02x}" for byte in os.fsencode(word))
            words.append(shlex.quote(word) if word.isprintable() else f"$'{''.join(escaped)}'")
        self._err.write(f"Resume with: {without_keys(' '.join(words))}\n")
        self._err.flush()


async def agree_to_install(screen: Screen, offer: InstallOffer, *, yes: bool) -> bool:
    """Ask whether a missing engine is to be installed now; with `--yes` it is."""
    if not yes and is_at_terminal():
        screen.line(offer.error.message)
    return await agrees(screen, f"Install {offer.title} now, up to {offer.disk_bytes / 1e9:.0f} GB?", yes=yes)


def is_at_terminal() -> bool:
    """Tell whether somebody is there to be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


async def agrees(screen: Screen, question: str, *, yes: bool) -> bool:
    """Ask the user, and tell whether the answer is yes, as it is with `--yes`. Nobody there says no."""
    import asyncio

    if yes or not is_at_terminal():
        return yes
    screen.line(f"{question} [y/N]")
    # A read that waits in the loop's own thread would keep Ctrl-C from being heard.
    loop, typed = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sys.stdin, typed.set)
    try:
        await typed.wait()
    finally:
        loop.remove_reader(sys.stdin)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def has_color(stream: TextIO) -> bool:
    """Tell whether a stream takes styles and links, as a terminal does that is not a simple one."""
    return stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def list_width() -> int:
    """Return the columns of the terminal for lists; other programs read lines as they are."""
    return shutil.get_terminal_size((10_000, 24)).columns


def error_line(error: VlsbError) -> str:
    """Return an error as one line, with what a stranger said of it encoded and cut to a readable length."""
    words = "" if error.detail is None else for_terminal(error.detail)[:600]
    line = f"{error.message}: {words}" if words else error.message
    return f"{line.rstrip(' .')}. {error.advice}" if error.advice else line


# The streams themselves.

# A reader that is slow for a moment is waited for; Ctrl-C is heard within this time.
_PATIENCE_S = 1.0
# A pipe that is ready takes this much at once.
_PIECE_BYTES = select.PIPE_BUF
_READER_IS_GONE = (errno.EPIPE, errno.EIO)


def use_safe_streams() -> None:
    """Put streams that survive their readers in the place of `sys.stdout` and `sys.stderr`."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The caller closed it. The next file to be opened would get the number, and our words with it.
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = _text_stream(_Stdout(1, "wb", closefd=False), sys.stdout, line_buffering=False)
    sys.stderr = _text_stream(_Stderr(2, "wb", closefd=False), sys.stderr, line_buffering=True)


def _text_stream(raw: io.FileIO, before: TextIO | None, *, line_buffering: bool) -> io.TextIOWrapper:
    encoding = "utf-8" if before is None else before.encoding
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=line_buffering or raw.isatty(),
    )


class _Stdout(io.FileIO):
    """Results: a reader that has gone has had enough, any other failure is one, and is raised once."""

    _is_over = False

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        if self._is_over:
            return len(data)
        try:
            return super().write(data)
        except OSError as error:
            self._is_over = True
            if error.errno in _READER_IS_GONE:
                return len(data)
            raise


class _Stderr(io.FileIO):
    """Notices: dropped where they cannot be written now."""

    _is_stuck = False

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        poll = select.poll()
        poll.register(self.fileno(), select.POLLOUT)
        self._is_stuck = not poll.poll(0 if self._is_stuck else 1000 * _PATIENCE_S)
        if self._is_stuck:
            return len(data)
        try:
            count: int | None = super().write(data[:_PIECE_BYTES])
        except OSError:
            return len(data)
        return len(data) if count is None else count
