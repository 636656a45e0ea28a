"""stdout and stderr as a command writes to them: no write to stderr ever raises or waits for long.

A run outlives its terminal. What cannot be shown is dropped, and so is what a reader that is there but
has stopped reading does not take: a write that waits for it would keep Ctrl-C from being heard.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import TextIO

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
