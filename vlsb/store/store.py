"""The writing end of a run directory: one writer, held by a lock, for as long as a session lasts.

Every record is on its way to the disk before the next request is made from it; `fsync` is grouped (at
most a second or 64 records) and runs in a thread, so that it never stalls the requests.
"""

from __future__ import annotations

import asyncio
import gc
import shutil
import time as system_time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vlsb import strict_json
from vlsb._version import __version__
from vlsb.errors import ConfigError, StoreError
from vlsb.files import FileLock, sync_directory
from vlsb.models.prices import PriceTable
from vlsb.records import (
    Failure,
    Finding,
    ImageFile,
    Key,
    Outcome,
    Response,
    Untrusted,
    Verdict,
)
from vlsb.steps import Durations
from vlsb.store.codec import BatchStep, Json, Stamp, encode_failure, to_json
from vlsb.store.journal import (
    LOCK,
    Journal,
    lock_run,
    next_free,
    quarantine_torn_tail,
    reading,
    require_own_files,
)
from vlsb.store.manifest import (
    JudgeEntry,
    Manifest,
    SampleRow,
    is_run,
    is_same,
    read_manifest,
    require_comparable,
    require_match,
    require_same_data,
    write_manifest,
)
from vlsb.store.state import (
    BATCHES,
    EVENTS,
    FAILURES,
    FINDINGS,
    RESPONSES,
    RESULTS,
    VERDICTS,
    Judged,
    RunState,
    collection_paused,
    has_answers,
    load_state,
    sent_images,
)

# What a power cut may cost at most: the answers of a second, or so many of them.
SYNC_EVERY_S = 1.0
SYNC_EVERY_RECORDS = 64
# Response, verdict and events of a sample; generous, so that a full disk is found before money is spent.
_BYTES_PER_SAMPLE = 8 * 1024
# What a session that was killed before its manifest was written leaves behind.
_LEFTOVERS = (LOCK, ".run.json")


def require_free(directory: Path) -> None:
    """Raise ConfigError unless a new run may be written to `directory`.

    A run that nothing was answered in yet is in nobody's way: a mistyped address or name locks nothing in.
    """
    if is_run(directory):
        if not has_answers(directory):
            return
        raise ConfigError(f"{directory} exists. --resume continues it, --name NAME starts another beside it.")
    with reading(directory):
        is_new = not directory.exists()
        if directory.is_symlink() or not (is_new or directory.is_dir()):
            raise ConfigError(
                f"{directory} is not a directory. --name NAME or --output-dir DIR chooses another."
            )
        holds_others = not is_new and any(not p.name.startswith(_LEFTOVERS) for p in directory.iterdir())
    if holds_others:
        raise ConfigError(f"{directory} is not empty and holds no run. --name NAME chooses another.")


@dataclass(frozen=True, slots=True)
class Aim:
    """What a session is for: to ask these judges, by its names for them, and with `asks_target` the target.

    `only` are the responses to work on, None for all, and `retry` the outcomes to do again. A dry run leaves
    what there is beyond `enough` responses of the run. Only one that `is_batch` takes over what batches are
    asking, but for those in `batch_again`, which it gives up.
    """

    judges: Mapping[str, JudgeEntry]
    asks_target: bool
    retry: Collection[Outcome] = ()
    only: Collection[Key] | None = None
    enough: int | None = None
    is_batch: bool = False
    batch_again: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Pending:
    """What a session has to do: responses, each with the files of the judges that still have to label it.

    `files` are those of the judges it asks, by its names for them. `left_out` responses are pending too, and
    a dry run leaves them. `sent` is what was sent of each image: see `sent_images`.
    """

    judges: Mapping[Key, frozenset[str]]
    files: Mapping[str, str]
    left_out: int
    sent: Mapping[str, set[str]]


class RunStore:
    """A run directory opened for writing. Close it with `await close()`.

    `judges` are the verdict files that this session may write to, in the order in which they were asked for.
    """

    def __init__(self, directory: Path, lock: FileLock, state: RunState, judges: Sequence[str]) -> None:
        self.directory = directory
        self.state = state
        self.manifest = state.manifest
        self.judges = tuple(judges)
        self.torn: list[Path] = []
        self.failed: StoreError | None = None
        self.writes, self.syncs = Durations(), Durations()
        self._lock = lock
        self._session = state.sessions.last + 1
        self._began = system_time.monotonic()
        self._syncer: asyncio.Task[None] | None = None
        self._is_closing = False
        self._written = asyncio.Event()
        self._many = asyncio.Event()
        _make_private(directory / VERDICTS)
        self._responses = self._open(directory / RESPONSES)
        self._failures = self._open(directory / FAILURES)
        self._events = self._open(directory / EVENTS)
        guards = {entry.file for entry in self.manifest.guards}.intersection(judges)
        if guards:
            _make_private(directory / FINDINGS)
        folders = {judge: FINDINGS if judge in guards else VERDICTS for judge in judges}
        self._verdicts = {judge: self._open(directory / folders[judge] / judge) for judge in judges}
        self._journals = [self._responses, *self._verdicts.values(), self._failures, self._events]
        # Most runs have no batch, and no such file.
        self._batches: Journal | None = None
        if (directory / BATCHES).exists():
            self._batches = self._open_batches()
        # The folder of the run too: whoever made the run may have been killed before it was synced.
        folders_of_rows = (directory / each for each in (VERDICTS, *folders.values()))
        for folder in {directory.parent, directory, *folders_of_rows}:
            sync_directory(folder)
        # What was read stays while the session lasts: a collection that walks it frees nothing, and stalls
        # the requests for as long as that takes.
        gc.freeze()

    def _open(self, path: Path) -> Journal:
        contents = self.state.ends.get(path)
        if contents is not None and contents.torn_at is not None:
            self.torn.append(quarantine_torn_tail(path, contents.torn_at))
        size = path.stat().st_size if path.exists() else 0
        return Journal(path, size=size, lacks_newline=contents is not None and contents.lacks_newline)

    def _open_batches(self) -> Journal:
        journal = self._open(self.directory / BATCHES)
        self._journals.append(journal)
        return journal

    def begin(self, aim: Aim, on_failure: Callable[[StoreError], None]) -> Pending:
        """Begin a session and return what it has to do.

        Raises ConfigError where it would ask at once what a batch under way may answer.
        """
        pending = _pending(self, aim)
        self.start(on_failure)
        self.add_event(
            "session_started",
            pending=len(pending.judges),
            vlsb=__version__,
            # Of several each needed the whole session.
            judge=self.judges[0] if len(self.judges) == 1 else None,
            only_judge=not aim.asks_target,
        )
        return pending

    async def end(self, reason: str, **fields: Any) -> None:
        """Write why the session ends, and close. Raises as `close`."""
        try:
            self.add_event("session_ended", reason=reason, **fields)
        finally:
            await self.close()

    def start(self, on_failure: Callable[[StoreError], None]) -> None:
        """Begin grouped syncing on the running loop; `on_failure` hears of a disk that fails to keep."""
        self._syncer = asyncio.create_task(self._sync_forever(on_failure))

    def outcome(self, key: Key, judge: str | None) -> Outcome:
        """Tell where a response stands with a judge; None for one that is only collected."""
        return self.state.outcome(key, judge)

    def add_response(self, response: Response) -> None:
        """Write a response; only then may it be judged."""
        self._append(self._responses, to_json(response))
        self.state.add_response(response)

    def add_verdict(self, verdict: Verdict, judge: str) -> None:
        """Write a verdict of one of this session's judges."""
        self._append(self._verdicts[judge], to_json(verdict))
        self.state.judged.setdefault(judge, Judged()).add_verdict(verdict)

    def add_finding(self, finding: Finding, guard: str) -> None:
        """Write a finding of one of this session's guards."""
        self._append(self._verdicts[guard], to_json(finding))
        self.state.judged.setdefault(guard, Judged()).add_finding(finding)

    def add_failure(self, failure: Failure, judge: str | None) -> None:
        """Write how a sample ended without a response, or without a verdict of `judge`."""
        self._append(self._failures, encode_failure(failure) | {"judge": judge})
        self.state.add_failure(failure, judge)

    async def add_batch(self, step: BatchStep) -> None:
        """Write what happens to a batch; it is on the disk when this returns."""
        if self._batches is None:
            self._batches = await asyncio.to_thread(self._open_batches)
            await asyncio.to_thread(sync_directory, self.directory)
        fields = {name: value for name, value in to_json(step).items() if value}
        self._append(self._batches, fields)
        self.state.add_batch(step)
        await asyncio.to_thread(self._batches.sync)

    def results_path(self, batch: str) -> Path:
        """Return the path of what a batch brought."""
        return self.directory / RESULTS / f"{batch}.jsonl"

    def new_results_path(self, batch: str) -> Path:
        """Make the folder of that file, and return its path."""
        folder = self.directory / RESULTS
        if folder.is_symlink():
            raise StoreError(f"{folder} is a link, and a run is kept in its own folder. Remove it.")
        _make_private(folder)
        return self.results_path(batch)

    def add_event(self, kind: str, **fields: Any) -> None:
        """Write an event: names and numbers, no content.

        Never raises for a disk that does not take it: no answer may be lost for its story.
        """
        with suppress(StoreError):
            self._append(self._events, {"kind": kind, **fields})

    def _append(self, journal: Journal, record: Json) -> None:
        began = system_time.monotonic()
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        stamp = to_json(Stamp(self._session, began - self._began, at))
        try:
            journal.append({**record, **stamp})
        except StoreError as error:
            if journal is not self._events:
                self.failed = self.failed or error
            raise
        self.writes.add(system_time.monotonic() - began)
        self._written.set()
        if sum(each.unsynced for each in self._journals) >= SYNC_EVERY_RECORDS:
            self._many.set()

    async def _sync_forever(self, on_failure: Callable[[StoreError], None]) -> None:
        try:
            while not self._is_closing:
                await self._written.wait()
                self._written.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(SYNC_EVERY_S):
                        await self._many.wait()
                self._many.clear()
                await asyncio.to_thread(self.sync)
        except StoreError as error:
            self.failed = error
            on_failure(error)

    def sync(self) -> None:
        """Force what was written to the disk. Blocks."""
        began = system_time.monotonic()
        for journal in self._journals:
            with suppress(StoreError) if journal is self._events else nullcontext():
                journal.sync()
        self.syncs.add(system_time.monotonic() - began)

    async def update_manifest(self, manifest: Manifest) -> None:
        """Replace run.json, for what the preflight decided or a larger selection."""
        await asyncio.to_thread(write_manifest, self.directory, manifest)
        self.manifest = manifest

    async def close(self) -> None:
        """Write what is still unwritten, sync, close, unlock, also where this is cancelled.

        Raises the session's first StoreError.
        """
        self._is_closing = True
        try:
            if self._syncer is not None:
                self._written.set()
                self._many.set()
                await self._syncer
        finally:
            await self._close_files()
        if self.failed is not None:
            raise self.failed

    async def _close_files(self) -> None:
        try:
            self._events.rescue()
            unwritten = sum(journal.rescue() for journal in self._journals if journal is not self._events)
            if self.failed is None or unwritten == 0:
                await asyncio.to_thread(self.sync)
        except StoreError as error:
            self.failed = self.failed or error
        finally:
            for journal in self._journals:
                journal.close()
            self._lock.close()
            gc.unfreeze()


def open_run(
    directory: Path, manifest: Manifest, *, is_resume: bool, prices: PriceTable | None = None
) -> RunStore:
    """Open a run for writing: a new one, or an existing one whose manifest agrees with `manifest`.

    One that holds no answer yet is started again, whatever its settings were. The run keeps what a user's
    `prices` say of its models.

    Raises RunLockedError, RunMismatchError, StoreError, or ConfigError for a directory that is taken.
    """
    require_comparable(manifest)
    _make_private(directory)
    with _lock_while_opening(directory) as lock, collection_paused():
        if is_resume and is_run(directory) and has_answers(directory):
            state = load_state(directory)
            merged = _merge_manifest(directory, state, manifest).with_prices(prices)
            if merged != state.manifest:
                write_manifest(directory, merged)
                state.manifest = read_manifest(directory)
        else:
            require_free(directory)
            free = shutil.disk_usage(directory).free
            needed = len(manifest.samples) * manifest.epochs * _BYTES_PER_SAMPLE
            if free < needed:
                mib = f"{free // 2**20} MiB free, about {needed // 2**20 + 1} MiB needed"
                raise StoreError(f"{directory}: {mib}. Free some.")
            # A run starts with empty files: those of one that nothing was answered in get another name.
            for path in (directory / FAILURES, directory / EVENTS):
                if path.exists() and path.stat().st_size:
                    path.rename(next_free(path, "before"))
            write_manifest(directory, manifest.with_prices(prices))
            state = load_state(directory)
        asked = [own_entry(state.manifest, entry).file for entry in (*manifest.judges, *manifest.guards)]
        return RunStore(directory, lock, state, asked)


def open_for_judging(
    directory: Path,
    entries: Sequence[JudgeEntry],
    *,
    samples: Sequence[SampleRow],
    images: Mapping[str, ImageFile],
    accepts_changed_images: bool = False,
    prices: PriceTable | None = None,
) -> RunStore:
    """Open an existing run to add the verdicts of judges, its first or other ones; `prices` as `open_run`.

    Raises RunLockedError, StoreError, or RunMismatchError for other data than the run's. A judge that the
    run knows goes on where it stopped.
    """
    with _lock_while_opening(directory) as lock, collection_paused():
        state = load_state(directory)
        manifest = state.manifest
        sent = () if accepts_changed_images else sent_images(state)
        require_same_data(directory, manifest, samples, images, sent=sent)
        changed, files = _with_judges(manifest, entries)
        if accepts_changed_images:
            changed = replace(changed, accepts_changed_images=True, data_digest=None)
        return RunStore(directory, lock, _kept(directory, state, changed.with_prices(prices)), files)


def open_for_labels(directory: Path, entry: JudgeEntry) -> RunStore:
    """Open an existing run to add a person's labels; what they are shown, the caller checks.

    Raises RunLockedError or StoreError.
    """
    with _lock_while_opening(directory) as lock, collection_paused():
        state = load_state(directory)
        changed, files = _with_judges(state.manifest, [entry])
        return RunStore(directory, lock, _kept(directory, state, changed), files)


def _kept(directory: Path, state: RunState, manifest: Manifest) -> RunState:
    """Write a manifest that has changed, and return the state that goes with it."""
    if manifest == state.manifest:
        return state
    write_manifest(directory, manifest)
    return load_state(directory)


def add_judge(directory: Path, entry: JudgeEntry) -> str:
    """Add a judge that asks nobody to a run, and return its file. Raises RunLockedError or StoreError."""
    with lock_run(directory):
        old = read_manifest(directory)
        changed, (file,) = _with_judges(old, [entry])
        if changed != old:
            write_manifest(directory, changed)
        return file


def _with_judges(manifest: Manifest, entries: Sequence[JudgeEntry]) -> tuple[Manifest, list[str]]:
    """Add the judges that the manifest does not know, and return it with the file of each."""
    files = []
    for entry in entries:
        own = own_entry(manifest, replace(entry, is_added=True))
        manifest = manifest if own in manifest.judges else manifest.with_judge(own)
        files.append(own.file)
    return manifest, files


def own_entry(manifest: Manifest, entry: JudgeEntry) -> JudgeEntry:
    """Return the judge as the run knows it, or `entry` with a file that no other judge of the run has."""
    entries = (*manifest.judges, *manifest.guards)
    for other in entries:
        if is_same(other.settings, entry.settings):
            return other
    if all(other.file != entry.file for other in entries):
        return entry
    identity = Untrusted(strict_json.dumps(entry.settings)).sha256()[:8]
    return replace(entry, file=f"{entry.stem}-{identity}.jsonl")


@contextmanager
def _lock_while_opening(directory: Path) -> Iterator[FileLock]:
    """Lock the run, and unlock it only if opening fails: else the store keeps the lock."""
    lock = lock_run(directory)
    try:
        require_own_files(directory)
        for leftover in directory.glob(f"{_LEFTOVERS[1]}*"):
            leftover.unlink()
        yield lock
    except OSError as error:
        lock.close()
        raise StoreError.of(f"{error.filename or directory}: cannot be written", error) from error
    except BaseException:
        lock.close()
        raise


def require_resumable(directory: Path, state: RunState, manifest: Manifest) -> Manifest:
    """Raise RunMismatchError unless a resume with `manifest` asks for the same thing as the run did.

    A judge that has answered nothing yet gives way to another one, and of several addresses of one target
    some may be left out. Returns what the run was then made from.
    """
    asked = manifest.with_addresses_of(state.manifest)
    old = replace(state.manifest, judges=list(_judges(state, asked.own_judge)))
    require_match(directory, old, asked, sent=() if asked.accepts_changed_images else sent_images(state))
    return old


def _merge_manifest(directory: Path, state: RunState, manifest: Manifest) -> Manifest:
    """Check that a resume asks for the same thing, and take over a larger selection or more epochs."""
    stored = state.manifest
    old = require_resumable(directory, state, manifest)
    manifest = manifest.with_addresses_of(stored)
    accepts = manifest.accepts_changed_images
    sent = () if accepts else sent_images(state)
    if manifest.gate is not None and old.gate is not None:
        old.gate.require_same(directory, manifest.gate)
    old_ids = {row.sample_id for row in old.samples}
    if manifest.epochs <= old.epochs and all(row.sample_id in old_ids for row in manifest.samples):
        kept = old
    else:
        kept = replace(
            manifest,
            created_at=old.created_at,
            decision=old.decision,
            judges=old.judges,
            guards=old.guards,
            deviations=old.deviations,
            prices=old.prices,
            gate=old.gate,
        )
        if old.gate is not None:
            # Its looks are at the first samples of the run: these stay the first.
            more = [row for row in manifest.samples if row.sample_id not in old_ids]
            kept = replace(kept, samples=[*old.samples, *more])
    if manifest.gate is None and kept.gate is not None:
        # Nobody looks any more: the run is about all of its samples again.
        kept = replace(kept, gate=replace(kept.gate, goes_on=True))
    for entry in (*(each for each in manifest.judges if each.is_added), *manifest.guards):
        if (own := own_entry(kept, entry)) not in (*kept.judges, *kept.guards):
            kept = kept.with_judge(own)
    pinned = {path: image for path, image in old.images.items() if path in sent}
    kept = replace(
        kept,
        images={**manifest.images, **pinned},
        accepts_changed_images=accepts or old.accepts_changed_images,
        data_digest=None if accepts else kept.data_digest,
    )
    return kept


def _judges(state: RunState, wanted: JudgeEntry | None) -> Iterator[JudgeEntry]:
    """Return the run's judges, with `wanted` in the place of its own one if that has answered nothing."""
    own = state.manifest.own_judge
    is_free = own is not None and not state.rows(own.file).has_answers
    if wanted is None or own is None or not is_free or is_same(own.settings, wanted.settings):
        yield from state.manifest.judges
        return
    others = [entry for entry in state.manifest.judges if entry is not own]
    chosen = own_entry(replace(state.manifest, judges=others), wanted)
    yield replace(chosen, is_added=False)
    yield from (entry for entry in others if entry is not chosen)


def _make_private(directory: Path) -> None:
    try:
        for missing in reversed([p for p in (directory, *directory.parents) if not p.exists()]):
            missing.mkdir(mode=0o700, exist_ok=True)
            sync_directory(missing.parent)
    except OSError as error:
        raise StoreError.of(f"{directory}: cannot be created", error) from error


def _pending(store: RunStore, aim: Aim) -> Pending:
    state, is_batch = store.state, aim.is_batch and aim.enough is None
    if lost := set(state.batches_without_plan()).difference(aim.batch_again if aim.is_batch else ()):
        name = min(lost)
        raise ConfigError(
            f"{store.directory / BATCHES}: nobody knows what the batch {name} asks, as the line that said so "
            "is missing, and it may be under way",
            advice="Restore the file from a copy. To give that batch up, and pay for its answers again: "
            f"--batch --batch-again {name}.",
        )
    files = {name: own_entry(store.manifest, entry).file for name, entry in aim.judges.items()}
    judges: Mapping[Key, frozenset[str]] = {
        key: pending
        for key, pending in pending_work(store, aim.retry).items()
        # What has no response is the target's, and what only idle judges lack is theirs.
        if (pending.intersection(files.values()) if key in state.responses else aim.asks_target)
        and (aim.only is None or key in aim.only)
    }
    asked = {*files.values(), *([None] if aim.asks_target else [])}
    if not is_batch and (batched := state.keys_in_batches(asked).intersection(judges)):
        raise ConfigError(
            f"{len(batched):,} of these samples are in batches under way: asked again, they would be paid "
            "for twice. Collect them with --batch (or cancel them at the provider, and then collect)."
        )
    chosen = judges
    if aim.enough is not None:
        done = sum(key not in judges for key in state.asked_for())
        chosen = _spread(store.manifest, judges, aim.enough - done)
    return Pending(chosen, files, len(judges) - len(chosen), sent_images(state))


def _spread(
    manifest: Manifest, judges: Mapping[Key, frozenset[str]], count: int
) -> Mapping[Key, frozenset[str]]:
    """Choose this many responses, evenly over categories and sub-categories."""
    if count >= len(judges):
        return judges
    rows = {row.sample_id: (row.category, row.sub_category) for row in manifest.samples}
    strata = sorted(judges, key=lambda key: (rows[key.sample_id], key))
    chosen = {strata[(2 * place + 1) * len(strata) // (2 * count)] for place in range(count)}
    return {key: pending for key, pending in judges.items() if key in chosen}


def pending_work(store: RunStore, retry: Iterable[Outcome]) -> dict[Key, frozenset[str]]:
    """Return the responses that a session works on, each with the judges that still have to label it.

    A set difference, whatever order earlier sessions ran in.
    """
    state, also = store.state, frozenset(retry)
    keys = state.asked_for()
    if not store.judges:
        return {key: frozenset() for key in keys if state.is_left(key, None, also)}
    by_key = {
        key: frozenset(judge for judge in store.judges if state.is_left(key, judge, also)) for key in keys
    }
    return {key: judges for key, judges in by_key.items() if judges}
