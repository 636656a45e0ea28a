"""What was found in runs that have ended, kept so that a sweep of many reads only those that are new.

An answer belongs to a question and to the files of a run as they were, by their sizes and times: a run of
which any file is another is read again. What cannot be read or kept is found anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import msgspec

from vlsb import strict_json
from vlsb._version import __version__
from vlsb.store.gaps import Gaps
from vlsb.store.state import FINDINGS, VERDICTS

FILE = ".ended.jsonl"
"""Its name, beside the runs that it tells of."""


class Ended(NamedTuple):
    """A run in which a command would find nothing to do; `gaps` is what it lacks all the same."""

    gaps: Gaps | None


class _Line(msgspec.Struct):
    key: str
    gaps: Gaps | None


@dataclass(slots=True)
class EndedRuns:
    """The answers in a file; without one, those of this process."""

    file: Path | None = None
    _known: dict[str, Ended] = field(default_factory=dict)
    _is_read: bool = False

    def recall(self, run: Path, question: Sequence[object], find: Callable[[], Ended | None]) -> Ended | None:
        """What `find` says of a run, or has said as long as nothing of it has changed; None is not kept."""
        if not self._is_read:
            self._known |= dict(self._read())
            self._is_read = True
        # Of the files as they are before they are read: what is written meanwhile makes it another run.
        key = sha256(strict_json.dumps([__version__, *question, *_files(run)]).encode("ascii")).hexdigest()
        if (known := self._known.get(key)) is not None:
            return known
        if (found := find()) is not None:
            self._keep(key, found)
        return found

    def _read(self) -> Iterator[tuple[str, Ended]]:
        with suppress(OSError):
            for line in () if self.file is None else self.file.read_bytes().splitlines():
                with suppress(msgspec.MsgspecError):
                    found = msgspec.json.decode(line, type=_Line)
                    yield found.key, Ended(found.gaps)

    def _keep(self, key: str, found: Ended) -> None:
        self._known[key] = found
        if self.file is not None:
            with suppress(OSError), self.file.open("ab") as stream:
                stream.write(msgspec.json.encode(_Line(key, found.gaps)) + b"\n")


def _files(run: Path) -> Iterator[tuple[str, int, int, int]]:
    """What a run's answer depends on: the files of its rows, with the size, time and number of each."""
    yield run.name, 0, 0, 0
    for folder in (run, run / VERDICTS, run / FINDINGS):
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda each: each.name):
                if entry.name.endswith((".json", ".jsonl")):
                    found = entry.stat()
                    yield f"{folder.name}/{entry.name}", found.st_size, found.st_mtime_ns, found.st_ino
