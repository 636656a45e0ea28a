"""What runs have said before: that they have ended, and what they cost. Only new ones are read.

An answer belongs to a command, to the files that it names (weights, data, templates) and to those of a run as
they were, by their sizes and times: where any of these is another, the run is read and compared again. What
cannot be read or kept is found again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import msgspec

from vlsb import strict_json
from vlsb._version import __version__
from vlsb.data.dataset import IMAGES_FOLDER
from vlsb.evaluation.identity import Identities
from vlsb.evaluation.options import RunOptions
from vlsb.store.state import FINDINGS, VERDICTS
from vlsb.store.summaries import Gaps

FILE = ".ended.jsonl"
"""Its name, beside the runs that it tells of."""
# What a sweep decides itself, or one session is told: no setting that a run is compared by.
_NO_SETTINGS = frozenset(
    {"model", "name", "output_dir", "resume", "retry", "dry_run", "display", "yes"}
    | {"max_cost", "max_requests", "profile", "api_key_env", "judge_api_key_env"}
)


class EndedRun(NamedTuple):
    """A run in which a command would find nothing to do; `gaps` is what it lacks all the same."""

    gaps: Gaps | None


class _RememberedAnswer(msgspec.Struct):
    """An answer: of a run that has ended, or what a run has cost."""

    key: str
    gaps: Gaps | None = None
    usd: float | None = None


class _FileState(NamedTuple):
    """A file as it is, without its content."""

    name: str
    size: int
    time: int
    number: int

    @classmethod
    def of(cls, name: str, status: os.stat_result) -> _FileState:
        return cls(name, status.st_size, status.st_mtime_ns, status.st_ino)


@dataclass(slots=True)
class EndedRuns:
    """The answers in a file; without one, those of this process. `environment` is that of the commands."""

    file: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    identities: Identities = field(default_factory=Identities)
    _named: dict[str, str] = field(default_factory=dict)
    _known: dict[str, _RememberedAnswer] = field(default_factory=dict)
    _is_read: bool = False

    def decided_elsewhere(self, options: RunOptions) -> list[tuple[str, str]]:
        """Return the variables that its command takes where the plan says nothing."""
        unsaid = (
            each.name
            for each in fields(RunOptions)
            if each.name not in _NO_SETTINGS and getattr(options, each.name) == each.default
        )
        names = (f"VLSB_{name.upper()}" for name in unsaid)
        return [(name, self.environment[name]) for name in names if name in self.environment]

    def recall(
        self, run: Path, question: Sequence[object], options: RunOptions, find: Callable[[], EndedRun | None]
    ) -> EndedRun | None:
        """Return what `find` says of a run, once for as long as nothing of it changes; None is not kept."""
        key = self._key(run, question, options)
        if (line := self._known.get(key)) is not None:
            return EndedRun(line.gaps)
        if (answer := find()) is not None:
            self._keep(_RememberedAnswer(key, answer.gaps))
        return answer

    def cost(self, run: Path, options: RunOptions, find: Callable[[], float]) -> float:
        """Return the dollars that a run has cost by `find`, asked once for as long as nothing changes."""
        key = self._key(run, ("cost",), options)
        if (line := self._known.get(key)) is not None and line.usd is not None:
            return line.usd
        usd = find()
        self._keep(_RememberedAnswer(key, usd=usd))
        return usd

    def _key(self, run: Path, question: Sequence[object], options: RunOptions) -> str:
        """Return what an answer belongs to: the files as they are before they are read.

        What is written meanwhile makes it another run.
        """
        if not self._is_read:
            self._is_read = True
            with suppress(OSError):
                for line in () if self.file is None else self.file.read_bytes().splitlines():
                    with suppress(msgspec.MsgspecError):
                        stored = msgspec.json.decode(line, type=_RememberedAnswer)
                        self._known[stored.key] = stored
        asked = [*question, *options.as_words(), *options.engine_options, *self.decided_elsewhere(options)]
        # A digest of each file or folder that options name, looked at once.
        named = []
        for word in (*options.as_words(), *options.engine_options):
            # An engine's option may be NAME=PATH.
            place = word.rpartition("=")[2]
            # Runs are looked at by themselves.
            if "/" in place and "://" not in place and place != str(options.output_dir):
                if place not in self._named:
                    stamps: list[_FileState] = []
                    with suppress(OSError, RuntimeError, ValueError):
                        path = Path(place).expanduser()
                        if path.is_dir():
                            # With a data set's images in it.
                            stamps += [*_files_in(path), *_files_in(path / IMAGES_FOLDER)]
                        else:
                            stamps.append(_FileState.of(path.name, path.stat()))
                    self._named[place] = _digest(stamps)
                named.append(self._named[place])
        files = [_FileState(run.name, 0, 0, 0)]
        for folder in (run, run / VERDICTS, run / FINDINGS):
            files += _files_in(folder, (".json", ".jsonl"))
        return _digest([__version__, *asked, *named, *files])

    def _keep(self, line: _RememberedAnswer) -> None:
        self._known[line.key] = line
        if self.file is not None:
            with suppress(OSError), self.file.open("ab") as stream:
                stream.write(msgspec.json.encode(line) + b"\n")


def _digest(values: Sequence[object]) -> str:
    return sha256(strict_json.dumps(values).encode("ascii")).hexdigest()


def _files_in(folder: Path, endings: tuple[str, ...] = ("",)) -> Iterator[_FileState]:
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            if entry.name.endswith(endings) and entry.is_file():
                yield _FileState.of(f"{folder.name}/{entry.name}", entry.stat())
