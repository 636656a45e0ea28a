"""Runs that are put in order as a whole: a damaged one is repaired, and parts of one are merged.

A run with damage in the middle of a file is refused everywhere else, because a guess could bend a label. Here
the user decides to go on without the damaged lines: they are set aside, and their samples are evaluated again
on resume. A merge keeps each line as it was written. Neither throws anything away.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from vlsb import strict_json
from vlsb.errors import ConfigError, StoreError
from vlsb.files import new_file, replace_file, sync_directory
from vlsb.store.codec import BatchStep, Decoder, Json
from vlsb.store.journal import lock_run, scan_journal, set_aside
from vlsb.store.manifest import Manifest, read_manifest, require_run, setting_differences, write_manifest
from vlsb.store.state import (
    BATCHES,
    EVENTS,
    FAILURES,
    FINDINGS,
    RESPONSES,
    RESULTS,
    VERDICTS,
    RunState,
    judge_of,
    load_state,
    session_of,
)
from vlsb.store.store import own_entry

_Parse = Callable[[Json], object]


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
        parsers: dict[str, _Parse] = {
            RESPONSES: decoder.response,
            FAILURES: lambda record: (decoder.failure(record), judge_of(record)),
            EVENTS: session_of,
            BATCHES: lambda record: decoder.parse(record, BatchStep),
        }
        parsers |= {f"{VERDICTS}/{entry.file}": decoder.verdict for entry in manifest.judges}
        parsers |= {f"{FINDINGS}/{entry.file}": decoder.finding for entry in manifest.guards}
        done = [_repair(directory / name, parse) for name, parse in parsers.items()]
        return [each for each in done if each is not None]


def _repair(path: Path, parse: _Parse) -> Repaired | None:
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
    try:
        quarantine = set_aside(path, "damaged", b"".join(line + b"\n" for line in bad))
        replace_file(path, (line + b"\n" for line in good))
    except OSError as error:
        raise StoreError.of(f"{path}: cannot be repaired", error) from error
    return Repaired(path, len(good), len(bad), quarantine)


def _is_record(line: bytes, parse: _Parse) -> bool:
    try:
        record = strict_json.loads(line)
        if not isinstance(record, dict):
            return False
        parse(record)
        Decoder().stamp(record)
    except ValueError:
        return False
    return True


def merge_runs(parts: Sequence[Path], into: Path) -> int:
    """Write the parts as the run `into`, and return how many samples it has. The parts stay as they are.

    They must have asked the same target in the same way, over the same data set, and share no sample. The
    result appears as a whole. Raises ConfigError for parts that are no parts of one evaluation, StoreError,
    or RunLockedError for one that is being written.
    """
    if len(parts) < 2:
        raise ConfigError("Name two runs or more, and the new one with --into.")
    if len({part.resolve() for part in parts}) < len(parts):
        raise ConfigError("A run is named twice. Parts share no sample.")
    if into.exists():
        raise ConfigError(f"{into}: exists already. Name a new directory.")
    draft = into.with_name(f".{into.name}.merging")
    with ExitStack() as held:
        for part in parts:
            require_run(part)
            held.enter_context(lock_run(part))
        states = [load_state(part) for part in parts]
        batches: set[str] = set()
        for part, state in zip(parts, states, strict=True):
            # The answers of a batch that two parts tell of would be read for both.
            if shared := batches.intersection(state.batches):
                raise ConfigError(
                    f"{part}: the batch {min(shared)} is in an earlier part too. Parts share none."
                )
            batches.update(state.batches)
        manifest = _joined(parts, [state.manifest for state in states])
        try:
            draft.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            raise StoreError(f"{draft}: is left over from an earlier merge. Remove it.") from None
        write_manifest(draft, manifest)
        _write_rows(parts, states, manifest, draft)
        sync_directory(draft)
        draft.rename(into)
        sync_directory(into.parent)
    return len(manifest.samples)


def _joined(parts: Sequence[Path], manifests: Sequence[Manifest]) -> Manifest:
    """Join them. Raises ConfigError unless all asked the same target in the same way over the same data."""
    for part, manifest in zip(parts, manifests, strict=True):
        if manifest.gate is not None:
            raise ConfigError(f"{part} is driven by vlsb gate, and cannot be a part of another run.")
    first, *others = manifests
    joined = first
    for part, other in zip(parts[1:], others, strict=True):
        differing = list(setting_differences(first.settings, other.settings))
        if first.epochs != other.epochs:
            differing.append(f"epochs: {first.epochs} and {other.epochs}")
        if dict(first.data) != dict(other.data):
            differing.append("another copy of the data set")
        if first.decision is not None and other.decision is not None:
            differing += setting_differences(first.decision, other.decision)
        if differing:
            raise ConfigError(f"{part} is not a part of what {parts[0]} is one of: {'; '.join(differing)}.")
        ids = {row.sample_id for row in joined.samples}
        if shared := sorted(ids & {row.sample_id for row in other.samples}):
            raise ConfigError(
                f"{part}: sample {shared[0]} is in an earlier part too ({len(shared)} are). Parts share none."
            )
        for entry in (*other.judges, *other.guards):
            joined = joined.with_judge(own_entry(joined, entry))
        joined = replace(
            joined,
            samples=[*joined.samples, *other.samples],
            images={**joined.images, **other.images},
            accepts_changed_images=joined.accepts_changed_images or other.accepts_changed_images,
        )
    return replace(
        joined,
        samples=sorted(joined.samples, key=lambda row: row.sample_id),
        selection={"merged": [part.resolve().name for part in parts]},
        data_digest=None,
    )


def _write_rows(parts: Sequence[Path], states: Sequence[RunState], manifest: Manifest, draft: Path) -> None:
    """Write every record of the parts, in their order; a part's sessions come after those before."""
    offset = 0
    files: dict[str, list[Json]] = {RESPONSES: [], FAILURES: [], EVENTS: [], BATCHES: []}
    for part, state in zip(parts, states, strict=True):
        judges = (*state.manifest.judges, *state.manifest.guards)
        names = {entry.file: own_entry(manifest, entry).file for entry in judges}
        for name in (RESPONSES, FAILURES, EVENTS, BATCHES):
            files[name] += (_renamed(record, names, offset) for record in _records(part / name))
        for entry in judges:
            folder = FINDINGS if entry.is_guard else VERDICTS
            target = files.setdefault(f"{folder}/{names[entry.file]}", [])
            target += (_renamed(record, names, offset) for record in _records(part / folder / entry.file))
        offset += state.sessions.last
        # The results that batches of a part brought: what they answer may not be stored yet.
        for name in (f"{RESULTS}/{batch}.jsonl" for batch in state.batches):
            if (part / name).is_file():
                (draft / RESULTS).mkdir(mode=0o700, exist_ok=True)
                with (part / name).open("rb") as results, new_file(draft / name) as copy:
                    shutil.copyfileobj(results, copy)
                sync_directory(draft / RESULTS)
    for name, records in files.items():
        # Most runs have no batch, and no such file.
        if name == BATCHES and not records:
            continue
        path = draft / name
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with new_file(path) as file:
            file.writelines(strict_json.dumps(record).encode() + b"\n" for record in records)
        sync_directory(path.parent)


def _records(path: Path) -> list[Json]:
    records: list[Json] = []
    scan_journal(path, records.append)
    return records


def _renamed(record: Json, names: Mapping[str, str], offset: int) -> Json:
    """Return a record with the numbers of the merged run's sessions, and its judges' files."""
    changed = dict(record)
    if isinstance(session := record.get("session"), int):
        changed["session"] = session + offset
    if isinstance(judge := record.get("judge"), str):
        changed["judge"] = names.get(judge, judge)
    return changed
