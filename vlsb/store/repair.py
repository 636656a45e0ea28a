"""Salvage of a damaged run: good lines are kept, bad ones set aside, and nothing is thrown away.

A run with damage in the middle of a file is refused everywhere else, because a guess could bend a label.
Here the user decides to go on without the damaged lines; their samples are evaluated again on resume.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vlsb import strict_json
from vlsb.errors import StoreError
from vlsb.files import new_file, replace_file
from vlsb.store.codec import BatchStep, Decoder, Json
from vlsb.store.journal import lock_run, next_free
from vlsb.store.manifest import read_manifest, require_run
from vlsb.store.state import BATCHES, EVENTS, FAILURES, FINDINGS, RESPONSES, VERDICTS, judge_of, session_of

Parse = Callable[[Json], object]


@dataclass(frozen=True, slots=True)
class Repaired:
    """What was done to one file: lines kept, lines set aside, and where they are now."""

    path: Path
    kept: int
    set_aside: int
    quarantine: Path


def repair_run(directory: Path) -> list[Repaired]:
    """Repair every file of a run that needs it. Raises RunLockedError while the run is being written.

    `run.json` cannot be repaired: without it no line can be told to belong to the run.
    """
    require_run(directory)
    with lock_run(directory):
        manifest, decoder = read_manifest(directory), Decoder()
        parsers: dict[str, Parse] = {
            RESPONSES: decoder.response,
            FAILURES: lambda record: (decoder.failure(record), judge_of(record)),
            EVENTS: session_of,
            BATCHES: lambda record: decoder.parse(record, BatchStep),
        }
        parsers |= {f"{VERDICTS}/{entry.file}": decoder.verdict for entry in manifest.judges}
        parsers |= {f"{FINDINGS}/{entry.file}": decoder.finding for entry in manifest.guards}
        done = [_repair(directory / name, parse) for name, parse in parsers.items()]
        return [each for each in done if each is not None]


def _repair(path: Path, parse: Parse) -> Repaired | None:
    """Rewrite one file without its bad lines; None if it has none."""
    try:
        *lines, last = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError.of(f"{path}: cannot be read", error) from error
    lines += [last] if last else []
    good = [line for line in lines if _is_record(line, parse)]
    if len(good) == len(lines):
        return None
    bad = [line for line in lines if not _is_record(line, parse)]
    quarantine = next_free(path, "damaged")
    try:
        with new_file(quarantine) as file:
            file.writelines(line + b"\n" for line in bad)
        replace_file(path, (line + b"\n" for line in good))
    except OSError as error:
        raise StoreError.of(f"{path}: cannot be repaired", error) from error
    return Repaired(path, len(good), len(bad), quarantine)


def _is_record(line: bytes, parse: Parse) -> bool:
    try:
        record = strict_json.loads(line)
        if not isinstance(record, dict):
            return False
        parse(record)
        Decoder().stamp(record)
    except ValueError:
        return False
    return True
