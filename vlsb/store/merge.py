"""Parts of one evaluation, made apart, as one run: each line is kept as it was written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from vlsb import strict_json
from vlsb.errors import ConfigError, StoreError
from vlsb.files import new_file, sync_directory
from vlsb.store.codec import Json
from vlsb.store.journal import lock_run, scan_journal
from vlsb.store.manifest import Manifest, require_run, setting_differences, write_manifest
from vlsb.store.state import (
    BATCHES,
    EVENTS,
    FAILURES,
    FINDINGS,
    RESPONSES,
    RESULTS,
    VERDICTS,
    RunState,
    load_state,
)
from vlsb.store.store import own_entry


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
        _require_own_batches(parts, states)
        manifest = _joined(parts, [state.manifest for state in states])
        try:
            draft.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            raise StoreError(f"{draft}: is left over from an earlier merge. Remove it.") from None
        write_manifest(draft, manifest)
        _write_rows(parts, states, manifest, draft)
        draft.rename(into)
        sync_directory(into.parent)
    return len(manifest.samples)


def _joined(parts: Sequence[Path], manifests: Sequence[Manifest]) -> Manifest:
    first, *others = manifests
    joined = first
    for part, other in zip(parts[1:], others, strict=True):
        _require_parts(parts[0], first, part, other)
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


def _require_parts(place: Path, first: Manifest, other_place: Path, other: Manifest) -> None:
    """Raise ConfigError unless both asked the same target in the same way over the same data."""
    differing = list(setting_differences(first.settings, other.settings))
    if first.epochs != other.epochs:
        differing.append(f"epochs: {first.epochs} and {other.epochs}")
    if dict(first.data) != dict(other.data):
        differing.append("another copy of the data set")
    if first.decision is not None and other.decision is not None:
        differing += setting_differences(first.decision, other.decision)
    if differing:
        raise ConfigError(f"{other_place} is not a part of what {place} is one of: {'; '.join(differing)}.")


def _require_own_batches(parts: Sequence[Path], states: Sequence[RunState]) -> None:
    """Raise ConfigError where two parts tell of one batch: its answers would be read for both."""
    seen: set[str] = set()
    for part, state in zip(parts, states, strict=True):
        if shared := seen.intersection(state.batches):
            raise ConfigError(f"{part}: the batch {min(shared)} is in an earlier part too. Parts share none.")
        seen.update(state.batches)


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
        _copy_results(part, state, draft)
    for name, records in files.items():
        # Most runs have no batch, and no such file.
        if name == BATCHES and not records:
            continue
        path = draft / name
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with new_file(path) as file:
            file.writelines(strict_json.dumps(record).encode() + b"\n" for record in records)
        sync_directory(path.parent)


def _copy_results(part: Path, state: RunState, draft: Path) -> None:
    """Copy the results that batches of a part brought: what they answer may not be stored yet."""
    for batch in state.batches.values():
        source, copy = (folder / RESULTS / f"{batch.name}.jsonl" for folder in (part, draft))
        if source.is_file():
            copy.parent.mkdir(mode=0o700, exist_ok=True)
            with source.open("rb") as results, new_file(copy) as file:
                shutil.copyfileobj(results, file)
            sync_directory(copy.parent)


def _records(path: Path) -> Iterator[Json]:
    records: list[Json] = []
    scan_journal(path, records.append)
    yield from records


def _renamed(record: Json, names: Mapping[str, str], offset: int) -> Json:
    """Return a record with the numbers of the merged run's sessions, and its judges' files."""
    changed = dict(record)
    if isinstance(session := record.get("session"), int):
        changed["session"] = session + offset
    if isinstance(judge := record.get("judge"), str):
        changed["judge"] = names.get(judge, judge)
    return changed
