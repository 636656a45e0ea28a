"""An imported run: matched rows as a run directory, there as a whole or not at all.

It is built beside its place, read back as any run is, and renamed. The same import again finds itself.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vlsb import strict_json
from vlsb._version import __version__
from vlsb.errors import ConfigError, StoreError
from vlsb.files import new_file, sync_directory
from vlsb.records import IMPORTED, Failure, ImageFile, Outcome, Response, Sample, Untrusted, Usage, Verdict
from vlsb.store.codec import Json, Stamp, encode_failure, to_json
from vlsb.store.import_logs import read_deepsafe, read_inspect, read_lmms_eval, read_official
from vlsb.store.import_rows import (
    ForeignRow,
    Matched,
    file_sha256,
    read_document,
    read_lines,
    refuse,
)
from vlsb.store.import_sheets import read_vlmevalkit
from vlsb.store.journal import lock_run
from vlsb.store.manifest import (
    IMPORTED_FROM,
    JudgeEntry,
    Manifest,
    is_run,
    read_manifest,
    remember_data_root,
    sample_row,
    write_manifest,
)
from vlsb.store.state import EVENTS, FAILURES, RESPONSES, VERDICTS, load_state
from vlsb.store.store import own_entry

READERS: Mapping[str, Callable[[Path], Iterator[ForeignRow]]] = {
    "official": read_official,
    "deepsafe": read_deepsafe,
    "lmms_eval": read_lmms_eval,
    "inspect": read_inspect,
    "vlmevalkit": read_vlmevalkit,
}
"""How each format is read."""

_IMPORTED = " (imported)"
_BY_SUFFIX = {".eval": "inspect", ".xlsx": "vlmevalkit", ".tsv": "vlmevalkit"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSource:
    """Files of one format, the target's name, and who gave their labels where they do not say."""

    form: str
    files: Sequence[Path]
    target: str
    judged_by: str | None = None

    def rows(self) -> Iterator[ForeignRow]:
        """Read every row of the files."""
        for path in self.files:
            yield from READERS[self.form](path)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedData:
    """The data set of an import: images by sample id, where on the Hub it came from, or its folder."""

    images: Mapping[int, ImageFile]
    origin: Mapping[str, str]
    root: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What an import gave; `was_there`: an earlier call did it all.

    Left out are labels whose judge nobody names (`unattributed`), and those that a failure was given.
    """

    responses: int
    failures: Mapping[Outcome, int]
    verdicts: Mapping[Untrusted, int]
    unattributed: int
    of_failures: int
    was_there: bool


def find_format(path: Path) -> str:
    """Tell which program wrote a file, by its suffix or first row. Raises ConfigError where neither says."""
    if path.suffix in _BY_SUFFIX:
        return _BY_SUFFIX[path.suffix]
    is_document = path.suffix == ".json"
    first = read_document(path) if is_document else next((value for _, value in read_lines(path)), None)
    if isinstance(first, list):
        return "vlmevalkit"
    keys = set(first) if isinstance(first, dict) else set()
    for form, typical in (
        ("official", {"logs", "stats"}),
        ("inspect", {"eval", "version"}),
        ("lmms_eval", {"doc_id", "filtered_resps"}),
        ("deepsafe", {"id", "prediction"}),
    ):
        if typical <= keys:
            return form
    refuse(
        str(path),
        f"does not show which program wrote it. Name it with --format: {', '.join(READERS)}",
    )


def import_run(
    directory: Path,
    source: ImportSource,
    matched: Matched,
    data: ImportedData,
    *,
    judge_file: Callable[[str], str],
) -> Imported:
    """Make a run of matched rows. `judge_file` gives the verdict file of a judge's name.

    Raises ConfigError for a directory that holds anything else or rows without a response, RunLockedError or
    StoreError.
    """
    verdicts = _verdicts(source, matched)
    manifest = _manifest(source, matched, data, verdicts, judge_file)
    lost = Counter(row.lost.outcome for _, row in matched.rows if row.lost is not None)
    counted = [label for _, row in matched.rows if row.lost is None for label in row.labels]
    imported = Imported(
        responses=len(matched.rows) - lost.total(),
        failures=lost,
        verdicts={judge: len(given) for judge, given in verdicts.items()},
        unattributed=0 if source.judged_by is not None else sum(each.judge is None for each in counted),
        of_failures=sum(len(row.labels) for _, row in matched.rows if row.lost is not None),
        was_there=_is_there(directory, manifest),
    )
    if imported.responses == 0:
        raise ConfigError("The files hold no response that could be imported.")
    if imported.was_there:
        # What one left that was killed in its very last step.
        shutil.rmtree(_workshop(directory), ignore_errors=True)
    else:
        _build(directory, manifest, matched, verdicts, data.root)
    return imported


def _verdicts(source: ImportSource, matched: Matched) -> dict[Untrusted, list[Verdict]]:
    """Return the verdicts of each named judge; a failure has none, whatever the file says of it."""
    given: dict[Untrusted, list[Verdict]] = {}
    for sample, row in matched.rows:
        for stated in row.labels if row.lost is None else ():
            judge = stated.judge or (None if source.judged_by is None else Untrusted(source.judged_by))
            if judge is not None:
                verdict = Verdict(
                    sample_id=sample.id,
                    epoch=row.epoch,
                    label=stated.label,
                    explanation=stated.explanation,
                    usage=Usage(),
                    asks=0,
                    attempts=0,
                    latency_s=None,
                    response_sha256=row.text.sha256(),
                    image_sha256=None,
                    request_sha256=None,
                )
                given.setdefault(judge, []).append(verdict)
    return given


def _manifest(
    source: ImportSource,
    matched: Matched,
    data: ImportedData,
    judges: Iterable[Untrusted],
    judge_file: Callable[[str], str],
) -> Manifest:
    samples = {sample.id: sample for sample, _ in matched.rows}
    files = [{"name": path.name, "sha256": file_sha256(path)} for path in source.files]
    manifest = Manifest(
        version=__version__,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        target=Untrusted(source.target),
        simulated=any(row.simulated for _, row in matched.rows),
        epochs=max((row.epoch for _, row in matched.rows), default=1),
        settings={
            "model": source.target,
            IMPORTED_FROM: source.form,
            "imported.files": files,
            "imported.left_out": len(matched.left_out),
        },
        decision=None,
        differences=[],
        deviations=[
            Untrusted(f"imported from {source.form}: how the target was asked (prompt, sampling) is unknown")
        ],
        judges=[],
        selection={},
        data=data.origin,
        data_digest=None,
        accepts_changed_images=False,
        samples=[sample_row(sample) for sample in samples.values()],
        images={
            path.expose(): image
            for each, image in data.images.items()
            if (path := samples[each].image_path) is not None
        },
    )
    for judge in judges:
        manifest = manifest.with_judge(own_entry(manifest, _judge_entry(source, judge, judge_file)))
    return manifest


def _judge_entry(source: ImportSource, judge: Untrusted, judge_file: Callable[[str], str]) -> JudgeEntry:
    # Exported from an imported run, it has that already.
    name = judge.expose().removesuffix(_IMPORTED)
    file = judge_file(f"imported-{name}")
    return JudgeEntry(
        name=Untrusted(name + _IMPORTED),
        file=file,
        simulated=False,
        is_added=True,
        settings={"model": name, IMPORTED_FROM: source.form},
        decision=None,
        deviations=[Untrusted(f"verdicts imported from {source.form}: how the judge was asked is unknown")],
    )


def _is_there(directory: Path, manifest: Manifest) -> bool:
    """Say whether the place holds this very import. Raises ConfigError if it holds anything else."""
    if is_run(directory):
        old = read_manifest(directory)
        imported = [entry for entry in old.judges if IMPORTED_FROM in entry.settings]
        same = (old.settings, old.samples, old.epochs, imported) == (
            *(manifest.settings, manifest.samples, manifest.epochs),
            list(manifest.judges),
        )
        if same:
            return True
        raise ConfigError(f"{directory} holds another run. --name NAME imports beside it.")
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise ConfigError(f"{directory} is not a directory. --name NAME chooses another.")
    if directory.exists() and any(directory.iterdir()):
        raise ConfigError(f"{directory} is not empty and holds no run. --name NAME chooses another.")
    return False


def _workshop(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.import")


def _build(
    directory: Path,
    manifest: Manifest,
    matched: Matched,
    verdicts: Mapping[Untrusted, Sequence[Verdict]],
    data_root: Path | None,
) -> None:
    """Write the run beside its place and put it there. What a killed import left is written again."""
    home = _workshop(directory)
    draft = home / directory.name
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with lock_run(home):
            shutil.rmtree(draft, ignore_errors=True)
            _write(draft, manifest, matched, verdicts)
            if data_root is not None:
                remember_data_root(draft, data_root)
            load_state(draft)
            draft.rename(directory)
            sync_directory(directory.parent)
            shutil.rmtree(home, ignore_errors=True)
    except OSError as error:
        raise StoreError.of(f"{directory}: cannot be written", error) from error


def _write(
    draft: Path,
    manifest: Manifest,
    matched: Matched,
    verdicts: Mapping[Untrusted, Sequence[Verdict]],
) -> None:
    (draft / VERDICTS).mkdir(mode=0o700, parents=True)
    rows = matched.rows
    records = [_target_record(sample, row) for sample, row in rows]
    failed = (each for each in records if isinstance(each, Failure))
    _write_journal(draft / RESPONSES, (to_json(each) for each in records if isinstance(each, Response)))
    _write_journal(draft / FAILURES, (encode_failure(each) | {"judge": None} for each in failed))
    for entry, given in zip(manifest.judges, verdicts.values(), strict=True):
        _write_journal(draft / VERDICTS / entry.file, map(to_json, given))
    begun = {"kind": "session_started", "pending": 0, "vlsb": __version__, "judge": None, "only_judge": False}
    done = {"kind": "imported", "rows": len(rows), "left_out": len(matched.left_out)}
    _write_journal(draft / EVENTS, [begun, done, {"kind": "session_ended", "reason": "complete"}])
    write_manifest(draft, manifest)
    sync_directory(draft / VERDICTS)
    sync_directory(draft)


def _write_journal(path: Path, records: Iterable[Json]) -> None:
    stamp = to_json(Stamp(1, 0.0, datetime.now(UTC).isoformat(timespec="milliseconds")))
    with new_file(path) as file:
        file.writelines(strict_json.dumps(record | stamp).encode("ascii") + b"\n" for record in records)


def _target_record(sample: Sample, row: ForeignRow) -> Response | Failure:
    if row.lost is not None:
        return Failure(
            sample_id=sample.id,
            epoch=row.epoch,
            stage="target",
            outcome=row.lost.outcome,
            fault=IMPORTED,
            code=row.lost.code,
            message=row.lost.message,
            attempts=0,
            usage=row.usage,
            text=row.text if len(row.text) else None,
            image_sha256=row.image_sha256,
            details={},
        )
    return Response(
        sample_id=sample.id,
        epoch=row.epoch,
        text=row.text,
        reasoning=row.reasoning,
        origin="unknown",
        finish_reason=row.finish_reason,
        model=row.model,
        usage=row.usage,
        attempts=0,
        latency_s=row.latency_s,
        flags=(),
        response_sha256=row.text.sha256(),
        image_sha256=row.image_sha256,
        request_sha256=None,
    )
