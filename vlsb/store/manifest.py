"""`run.json`: the facts that must match for a resume, never a key.

`settings` holds everything that can change an answer; `samples` and `images` pin the data, row by row.
What cannot change an answer (connections, timeouts, display, loopback ports) is not in here.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from vlsb import strict_json
from vlsb.analysis.panel import is_panel
from vlsb.config import MOST_EPOCHS, USUAL_ARM, Endpoint
from vlsb.dialect import USUAL_TAG, parse_decision
from vlsb.errors import ConfigError, OtherJudgeError, RunMismatchError, StoreError, first_of
from vlsb.files import replace_file
from vlsb.models.prices import Price, PriceTable
from vlsb.records import (
    DATASET_NAME,
    PUBLISHED_IDS,
    VLSBENCH,
    Half,
    ImageFile,
    Sample,
    Untrusted,
    altered_rows,
    cluster_of,
)
from vlsb.store.codec import Decoder, to_json
from vlsb.store.gate_plan import GatePlan
from vlsb.store.journal import reading, require_own_files

FILE = "run.json"
_DATA_ROOT = ".data-root"
# What a path may have on Linux.
_LONGEST_PATH_BYTES = 4096
SCHEMA = 2
# Schema 1 had the checksum of every image, taken before anything was sent.
_READ_SCHEMAS = (1, SCHEMA)
HALF = "half"
"""What says in a run's data whether its samples ask for harm, where somebody said so."""
COMPLIANCE = "compliance"
"""What a judge of compliance answers, in its settings."""
IMPORTED_FROM = "imported.from"
"""The setting that says which program's file a run's responses, or a judge's verdicts, come from."""
ARM = "arm"
"""The setting that says what a target was shown, where that is not what the paper shows."""
OF_ITS_PLACE = ("address", "headers")
"""Settings that say where a model is reached, not what it is."""
ADDRESS_SEPARATOR = ", "
"""Between the addresses of replicas in the setting that says where a model was asked."""
# With more than these a run is another one, whatever else differs.
_SHOWN_DIFFERENCES = 8
# Where the samples begin, as `manifest_text` writes it; what stands before is a few kilobytes.
_SAMPLES, _MOST_OF_A_HEAD = b'\n "samples": [', 256 * 1024
# What `catalog.safe_name` can give: nothing that leads elsewhere or that no file system takes.
_FileName = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_][A-Za-z0-9._-]{0,120}\.jsonl\Z")]
_ImageLine = tuple[str | None, str, int, int]


class SampleRow(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """What the manifest keeps of a sample: enough for the report, and a digest of the whole row.

    A line of the file is an array of it. Its fields are in no cycle: nothing for a garbage collection.
    `image_path` is None for a sample without an image.
    """

    sample_id: int
    digest: str
    image_path: Untrusted | None
    category: Untrusted
    sub_category: Untrusted
    source: Untrusted

    @property
    def cluster(self) -> Untrusted:
        """What it shares with the samples that it is not independent of: the image, or itself without one."""
        return cluster_of(self.sample_id, self.image_path)


def sample_row(sample: Sample) -> SampleRow:
    """Return the manifest's row for a sample."""
    return SampleRow(
        sample.id, sample.digest(), sample.image_path, sample.category, sample.sub_category, sample.source
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeEntry:
    """A judge of a run: its verdict file and everything that can change its verdicts.

    `is_added` says that `vlsb judge` brought it: the run itself goes on without it. `decision` is the
    dialect that its first session settled on, None before that. `provider` is as the run's.
    """

    name: Untrusted
    file: _FileName
    simulated: bool
    is_added: bool
    settings: Mapping[str, Any]
    decision: Mapping[str, Any] | None
    deviations: Sequence[Untrusted]
    provider: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        """What tells it apart from others of its model in every run: its file's name, without the ending."""
        return judge_name(self.file)

    @property
    def is_guard(self) -> bool:
        """Whether it gives no label of safety: it has a file of findings, and a place apart."""
        return self.settings.get("answers") in ("guard", "phrases", COMPLIANCE)

    @property
    def is_of_compliance(self) -> bool:
        """Whether it says how far a response does what it was asked for."""
        return self.settings.get("answers") == COMPLIANCE

    @property
    def is_human(self) -> bool:
        """Whether it is a person, who labels a part of the responses."""
        return self.settings.get("kind") == "human"

    @property
    def is_asked(self) -> bool:
        """Whether it is asked itself: a person labels a part, and a panel follows from its members."""
        return not self.is_human and not is_panel(self.settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A run's facts, in the order of the file. `version` is of the `vlsb` that wrote it. `decision` is the
    target's dialect, as the preflight settled it, None before that. `provider` is what is known of the
    target's provider, for people: nothing compares it, and earlier versions did not write it.

    `images` is what was known before anything was sent: which image was sent is in the rows, and so is
    `data_digest`. Only runs of schema 1 have checksums and the digest here.

    One of `judges` at most is the run's own; others are added. A run that only collects has none of its own.
    `guards` are those that give no label; a run without any has no such entry in its file. `prices` are those
    of a user's file (`--prices`) that its models were given, for reports to tell the same money; a run
    without any has no such entry either. `gate` is the plan of a gate that drives the run, where one does.
    """

    version: str
    created_at: str
    target: Untrusted
    simulated: bool
    epochs: Annotated[int, Meta(ge=1, le=MOST_EPOCHS)]
    settings: Mapping[str, Any]
    decision: Mapping[str, Any] | None
    differences: Sequence[str]
    deviations: Sequence[Untrusted]
    judges: Sequence[JudgeEntry]
    selection: Mapping[str, Any]
    data: Mapping[str, Any]
    data_digest: str | None
    accepts_changed_images: bool
    samples: Sequence[SampleRow]
    images: Mapping[str, ImageFile]
    guards: Sequence[JudgeEntry] = field(default_factory=list)
    provider: Mapping[str, Any] = field(default_factory=dict)
    prices: Sequence[Price] = field(default_factory=list)
    gate: GatePlan | None = None

    @property
    def asked_samples(self) -> Sequence[SampleRow]:
        """The samples that the run is about: all, or those before its gate stopped it."""
        stopped_at = None if self.gate is None else self.gate.stopped_at
        return self.samples if stopped_at is None else self.samples[:stopped_at]

    @property
    def dataset(self) -> str:
        """The name of the data set. A file says it where it is not VLSBench."""
        return str(self.data.get("dataset", VLSBENCH))

    @property
    def arm(self) -> Untrusted:
        """What the target was shown of each sample."""
        arm = self.settings.get(ARM, USUAL_ARM)
        return Untrusted(arm if isinstance(arm, str) else USUAL_ARM)

    @property
    def half(self) -> Half | None:
        """Whether the samples ask for harm; None where nobody said so. VLSBench's all do."""
        said = Half.HARMFUL if self.dataset == VLSBENCH else self.data.get(HALF)
        return next((half for half in Half if half == said), None)

    @property
    def is_full(self) -> bool:
        """Whether the samples are the published rows, all of them; what a file says of that is not read."""
        return self.has_published_ids and not self.altered_ids

    @property
    def has_published_ids(self) -> bool:
        """Whether the samples have the ids of the published set, whatever their rows say."""
        is_ours = self.dataset == VLSBENCH
        return is_ours and {row.sample_id for row in self.asked_samples} == set(PUBLISHED_IDS)

    @property
    def altered_ids(self) -> list[int]:
        """Samples with an id of the published set and another row than that has."""
        return altered_rows((row.sample_id, row.digest) for row in self.samples)

    @property
    def imported_from(self) -> str | None:
        """The program whose file the responses come from; None for a run that asked for them itself."""
        program = self.settings.get(IMPORTED_FROM)
        return program if isinstance(program, str) else None

    @property
    def priced_on(self) -> date:
        """The day whose prices hold: that on which the run began. The last of all where it says none."""
        try:
            return datetime.fromisoformat(self.created_at).date()
        except ValueError:
            return date.max

    @property
    def own_judge(self) -> JudgeEntry | None:
        """The judge that the run was started with."""
        return next((entry for entry in self.judges if not entry.is_added), None)

    def judge(self, file: str) -> JudgeEntry:
        """Return the judge whose verdicts are in `file`, or the guard whose findings."""
        return next(entry for entry in (*self.judges, *self.guards) if entry.file == file)

    def with_judge(self, entry: JudgeEntry) -> Manifest:
        """Return this manifest with `entry` added, or put in the place of the one with its file."""
        entries = self.guards if entry.is_guard else self.judges
        if entry.file in [each.file for each in entries]:
            changed = [entry if each.file == entry.file else each for each in entries]
        else:
            changed = [*entries, entry]
        return replace(self, guards=changed) if entry.is_guard else replace(self, judges=changed)

    def with_addresses_of(self, old: Manifest) -> Manifest:
        """Return this manifest with the old one's addresses of the target, if its own are some of those."""
        asked, before = _addresses(self.settings), _addresses(old.settings)
        if not asked or not set(asked) <= set(before):
            return self
        return replace(self, settings={**self.settings, "address": old.settings["address"]})

    def with_prices(self, given: PriceTable | None) -> Manifest:
        """Return this manifest with what a user's prices say of its models, in the place of what it had."""
        if given is None or given.is_ours:
            return self
        asked = (self.settings, *(entry.settings for entry in (*self.judges, *self.guards)))
        prices: dict[Endpoint, Price] = {}
        for endpoint in filter(None, map(asked_endpoint, asked)):
            price = given.find(endpoint, self.priced_on) or PriceTable(tuple(self.prices)).find(
                endpoint, self.priced_on
            )
            if price is not None:
                prices[endpoint] = price.of_run(endpoint)
        return replace(self, prices=list(dict.fromkeys(prices.values())))


def judge_name(file: str) -> str:
    """Return what a judge is called by its verdict file's name."""
    return file.removesuffix(".jsonl")


def asked_endpoint(settings: Mapping[str, Any]) -> Endpoint | None:
    """Return the endpoint that stored settings name; None for a judge that has no endpoint.

    Of several addresses it is the first.
    """
    model, addresses = settings.get("model"), _addresses(settings)
    return Endpoint(model, addresses[0]) if isinstance(model, str) and addresses else None


def _addresses(settings: Mapping[str, Any]) -> list[str]:
    """Return where a model was asked: one address, or those of its replicas."""
    addresses = settings.get("address")
    return addresses.split(ADDRESS_SEPARATOR) if isinstance(addresses, str) else []


def manifest_text(manifest: Manifest) -> str:
    """Write the file's text: readable JSON, with one line a sample and an image."""
    fields = to_json(manifest)
    samples, images, accepts_changed_images = (
        fields.pop(name) for name in ("samples", "images", "accepts_changed_images")
    )
    for name in ("guards", "prices", "gate"):
        if not fields[name]:
            del fields[name]
    head = {"schema": SCHEMA, "vlsb": fields.pop("version"), **fields, "is_full": manifest.is_full}
    opened = strict_json.dumps(head | {"accepts_changed_images": accepts_changed_images}, indent=1)
    sample_lines = ",\n".join(map(strict_json.dumps, samples))
    image_lines = ",\n".join(
        f"{strict_json.dumps(path)}:{strict_json.dumps([*image.values()])}" for path, image in images.items()
    )
    return (
        opened.removesuffix("\n}")
        + f',\n "samples": [\n{sample_lines}\n],\n "pictures": {{\n{image_lines}\n}}\n}}\n'
    )


def require_comparable(manifest: Manifest) -> None:
    """Raise ConfigError for settings that could not be read again as they are.

    Parsers give up on deep nesting, each at a depth of its own, and make floats of integers beyond 64 bits.
    """
    if not _is_comparable(manifest):
        raise ConfigError(
            "The settings hold a number beyond 64 bits or lists and objects nested too deeply: "
            "no resume could compare them. Leave that out."
        )


def _is_comparable(manifest: Manifest) -> bool:
    judges = (entry.settings for entry in (*manifest.judges, *manifest.guards))
    free = (manifest.settings, *judges, manifest.selection, manifest.data)
    return all(strict_json.is_shallow(each) and _numbers_fit(each) for each in free)


def _numbers_fit(value: object) -> bool:
    if isinstance(value, int):
        return -(2**63) <= value < 2**64
    if isinstance(value, float):
        # A longer integer, to some parser.
        return abs(value) < 2**63
    return all(_numbers_fit(each) for each in strict_json.inner_values(value))


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Put the manifest in place as a whole: a reader sees the old one or the new one.

    Raises StoreError, or ConfigError for settings that could not be read again.
    """
    require_comparable(manifest)
    try:
        replace_file(directory / FILE, [manifest_text(manifest).encode("ascii")])
    except OSError as error:
        raise StoreError.of(f"{directory / FILE}: cannot be written", error) from error


def is_run(directory: Path) -> bool:
    """Say whether a directory holds a run. Raises StoreError where the system does not say."""
    with reading(directory):
        return (directory / FILE).is_file()


def require_run(directory: Path) -> None:
    """Raise ConfigError for a directory that holds no run."""
    if not is_run(directory):
        raise no_run(directory)


def no_run(directory: Path) -> ConfigError:
    """Say that a directory is not a run, and what may be meant: a run in it, or a similar name beside it."""
    what, runs = f"{directory}: no run there. A run is a directory with a run.json", list[Path]()
    with suppress(StoreError):
        runs = sorted(each for each in _children(directory) if is_run(each))
    if runs:
        return ConfigError(f"{what}, such as {runs[0]}.")
    return ConfigError(f"{what}.", advice=near_name(directory))


def near_name(path: Path) -> str:
    """Ask whether a path that does not exist means one beside it; empty where nothing is similar."""
    names = [] if path.exists() else [each.name for each in _children(path.parent)]
    return "".join(f"Did you mean {path.parent / each}?" for each in get_close_matches(path.name, names, n=1))


def _children(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []


def read_manifest(directory: Path) -> Manifest:
    """Read the manifest of a run; StoreError if it is damaged or newer than us, or the run has a link."""
    require_own_files(directory)
    path = directory / FILE
    try:
        document = strict_json.loads(path.read_bytes())
        schema = document["schema"]
        if schema in _READ_SCHEMAS:
            return _parse(document)
    except OSError as error:
        raise StoreError.of(f"{path}: cannot be read", error) from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is damaged. Restore it from a copy, or start the run again.") from error
    raise StoreError(f"{path} has a schema that this version does not read. Update vlsb.")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHead:
    """What a list of runs says of one: the fields of the manifest that stand before its samples."""

    created_at: str
    target: Untrusted
    simulated: bool
    settings: Mapping[str, Any]
    judges: Sequence[JudgeEntry]
    guards: Sequence[JudgeEntry] = field(default_factory=list)
    epochs: int = 1


def selected_count(directory: Path) -> int:
    """Count the samples of a run's manifest by its lines. Raises StoreError."""
    path = directory / FILE
    try:
        _, _, lines = path.read_bytes().partition(_SAMPLES)
    except OSError as error:
        raise StoreError.of(f"{path}: cannot be read", error) from error
    return lines.partition(b"\n ]")[0].count(b"\n[")


def read_head(directory: Path) -> RunHead:
    """Read the head of a run's manifest, without the thousands of lines below it. Raises StoreError."""
    require_own_files(directory)
    path = directory / FILE
    try:
        with path.open("rb") as file:
            head, separator, _ = file.read(_MOST_OF_A_HEAD).partition(_SAMPLES)
        document = strict_json.loads(head.rstrip(b",") + b"}" if separator else path.read_bytes())
        return Decoder().parse(document, RunHead)
    except OSError as error:
        raise StoreError.of(f"{path}: cannot be read", error) from error
    except (ValueError, TypeError) as error:
        raise StoreError(f"{path} is damaged. Restore it from a copy, or start the run again.") from error


def entries_named(run: Manifest | RunHead, title: str) -> list[JudgeEntry]:
    """Return the judges and guards of a run that reports call so, in the order in which they came."""
    return [entry for entry in (*run.judges, *run.guards) if entry.name == Untrusted(title)]


def _parse(document: Mapping[str, Any]) -> Manifest:
    decoder = Decoder()
    lines = decoder.parse(document["pictures"], dict[str, _ImageLine])
    fields = {**document, "version": document["vlsb"], "images": {}}
    if document["schema"] == 1:
        fields["accepts_changed_images"] = False
    manifest = decoder.parse(fields, Manifest)
    if not DATASET_NAME.fullmatch(manifest.dataset):
        raise ValueError("no name of a data set")
    if not _is_comparable(manifest):
        raise ValueError("nested too deeply, or a number is beyond 64 bits")
    decision = manifest.decision
    if decision is not None and not decision.get("thinks_apart"):
        # Earlier versions ended a thought at its tag wherever it stood: such a run goes on as it began.
        decision = {"opened_by": USUAL_TAG, **decision}
    return replace(
        manifest,
        decision=parse_decision(decision),
        judges=[replace(entry, decision=parse_decision(entry.decision)) for entry in manifest.judges],
        guards=[replace(entry, decision=parse_decision(entry.decision)) for entry in manifest.guards],
        # Each response and verdict names the same checksum, and most images have one type.
        images={
            path: ImageFile(line[0] and sys.intern(line[0]), sys.intern(line[1]), *line[2:])
            for path, line in lines.items()
        },
    )


def require_vlsbench(directory: Path, manifest: Manifest, what: str) -> None:
    """Raise ConfigError where something that is about VLSBench is asked of a run of another data set."""
    if manifest.dataset != VLSBENCH:
        raise ConfigError(f"{directory} is of the data set {manifest.dataset}: {what} is about VLSBench.")


def require_own_responses(directory: Path, manifest: Manifest) -> None:
    """Raise RunMismatchError for a run whose responses were imported: nobody knows how to ask for more."""
    if (source := manifest.imported_from) is not None:
        raise RunMismatchError(
            f"{directory} holds responses imported from {source}: no target can go on with it",
            advice=f"vlsb judge {shlex.quote(str(directory))} judges them; --name starts another run.",
        )


def require_match(directory: Path, old: Manifest, new: Manifest, *, sent: Collection[str]) -> None:
    """Raise RunMismatchError naming every difference that could change an answer of a resumed run.

    `sent` are the paths of images that were sent and must not change: see `_changed_images`.
    """
    before, now, judges = old.own_judge, new.own_judge, list[str]()
    if before and now:
        judges = list(setting_differences(before.settings, now.settings, "judge."))
    elif before or now:
        was, becomes = ("a judge", "none (--no-judge)") if before else ("none (--no-judge)", "a judge")
        judges = [f"judge: {was} -> {becomes}"]
    others = [] if old.dataset == new.dataset else [f"dataset: {old.dataset} -> {new.dataset}"]
    others += setting_differences(old.settings, new.settings, "target.")
    rows = {row.sample_id for row in new.samples}
    if missing := [row.sample_id for row in old.samples if row.sample_id not in rows]:
        others.append(
            f"selection: {len(old.samples)} samples -> {len(new.samples)}, without {len(missing)} of the old "
            f"(the first is {missing[0]})"
        )
    if new.epochs < old.epochs:
        others.append(f"epochs: {old.epochs} -> {new.epochs}")
    others += [
        *_row_differences(old, new.samples),
        *_changed_images(old, new.samples, new.images, sent),
    ]
    if judges and not others and now is not None:
        raise OtherJudgeError(
            f"{directory} was started with another judge. Resume it with its own; vlsb judge "
            f"{shlex.quote(str(directory))} adds this one beside it",
            detail=_in_short(judges),
        )
    _refuse(directory, [*judges, *others], "Use the old ones, or --name for a new run")


def require_same_data(
    directory: Path,
    old: Manifest,
    samples: Sequence[SampleRow],
    images: Mapping[str, ImageFile],
    *,
    sent: Collection[str],
) -> None:
    """Raise RunMismatchError if a run's samples are not the ones it was answered for."""
    differences = [*_row_differences(old, samples), *_changed_images(old, samples, images, sent)]
    _refuse(directory, differences, "Pass the --data-root it was made from")


def _refuse(directory: Path, differences: Sequence[str], advice: str) -> None:
    if differences:
        raise RunMismatchError(
            f"{directory} was started with other settings. {advice}", detail=_in_short(differences)
        )


def _in_short(differences: Sequence[str]) -> Untrusted:
    return Untrusted(first_of(differences, _SHOWN_DIFFERENCES, separator="; "))


def setting_differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name in sorted(old.keys() | new.keys()):
        # As JSON: to Python True is 1, and null is what an absent key gives.
        before = _json(old[name]) if name in old else "unset"
        now = _json(new[name]) if name in new else "unset"
        if isinstance(old.get(name), Mapping) and isinstance(new.get(name), Mapping):
            yield from setting_differences(old[name], new[name], f"{prefix}{name}.")
        elif before != now:
            yield f"{prefix}{name}: {_shown(before)} -> {_shown(now)}"


def is_same(settings: Mapping[str, Any], others: Mapping[str, Any]) -> bool:
    """Say whether two settings ask for the same; to Python, `true` would be 1 and 1.0 too."""
    return not any(setting_differences(settings, others))


def _json(value: object) -> str:
    return strict_json.dumps(dict(value) if isinstance(value, Mapping) else value)


def _shown(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _row_differences(old: Manifest, samples: Sequence[SampleRow]) -> Iterator[str]:
    rows = {row.sample_id: row for row in samples}
    for row in old.samples:
        if row.sample_id in rows and rows[row.sample_id].digest != row.digest:
            yield f"sample {row.sample_id}: its row in data.json changed"


def _changed_images(
    old: Manifest, samples: Sequence[SampleRow], images: Mapping[str, ImageFile], sent: Collection[str]
) -> Iterator[str]:
    """Name the images among `sent` whose change shows before they are read.

    Another size tells, another time does not. What keeps its size is found when it is about to be sent.
    """
    used = {row.image_path.expose() for row in samples if row.image_path is not None}
    for path, image in old.images.items():
        now = images.get(path)
        if path in used and path in sent and (now is None or now.size_bytes != image.size_bytes):
            users = [row.sample_id for row in old.samples if row.image_path == Untrusted(path)]
            yield f"image {path} changed (sample {', '.join(map(str, users))})"


# Where the data set lies on this machine: a hint for reading responses, not a fact of the run. It has a file
# of its own, as `run.json` is what people publish, and names no path of theirs.


def remember_data_root(run: Path, root: Path) -> None:
    """Keep the absolute path of the data set beside the run; a run goes on without it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    with suppress(OSError), os.fdopen(os.open(run / _DATA_ROOT, flags, 0o600), "wb") as file:
        file.write(os.fsencode(root.absolute()))


def remembered_data_root(run: Path) -> Path | None:
    """Return the folder that the run's last session read, whether or not it still exists."""
    try:
        # Opening a FIFO must not hang: the run may be a stranger's.
        descriptor = os.open(run / _DATA_ROOT, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            raw = file.read(_LONGEST_PATH_BYTES)
    except OSError:
        return None
    return Path(os.fsdecode(raw)) if raw.startswith(b"/") and b"\0" not in raw else None
