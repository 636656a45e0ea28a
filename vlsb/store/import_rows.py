"""One row of another program's file as an import sees it, and how such files are opened.

Nothing in a file is trusted: sizes are bounded before anything is read, types are checked by field, and an
object that says one key twice says nothing.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import Annotated, NamedTuple, NoReturn, TypeVar

import pybase64
from msgspec import Meta, Struct

from vlsb import strict_json
from vlsb.errors import ConfigError, first_of
from vlsb.records import Key, Label, Outcome, Sample, Untrusted, Usage
from vlsb.store.codec import Decoder

MOST_DOCUMENT_BYTES = 256 * 1024 * 1024
"""Of one JSON document: the texts of VLSBench are a few megabytes, its images several thousand."""
MOST_ROW_BYTES = 64 * 1024 * 1024
"""Of one row: an image of the data set and all that was said of it are a few megabytes."""

_TokenCount = Annotated[int, Meta(ge=0, lt=2**53)]

_Kind = TypeVar("_Kind")


class Lost(NamedTuple):
    """Why a row is not a response: its outcome, a short word, and what the file says of it."""

    outcome: Outcome
    code: str
    message: Untrusted


BLOCKED = Lost(Outcome.TARGET_BLOCKED, "content_filter", Untrusted("the provider's filter"))
NO_ANSWER = Lost(Outcome.TARGET_EMPTY, "no_answer", Untrusted("the model gave none"))


class StatedLabel(NamedTuple):
    """A label that a file gives; `judge` is None where it does not say whose it is."""

    label: Label
    judge: Untrusted | None
    explanation: Untrusted = Untrusted("")


class Tokens(Struct):
    """What a file says that a response took."""

    input_tokens: _TokenCount | None = None
    output_tokens: _TokenCount | None = None
    reasoning_tokens: _TokenCount | None = None

    def usage(self) -> Usage:
        """Return that as we count it."""
        return Usage(self.input_tokens, self.output_tokens, self.reasoning_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignRow:
    """What a file says of one response. None: it does not say.

    `where` names the row in messages. `sample_id` is stated to be an `instruction_id`; `number` is whatever
    else the program counts by, a hint between samples that are alike. `text` of a lost row is what came back
    unusable, and a `simulated` one was written by the simulator.
    """

    where: str
    sample_id: int | None = None
    number: int | None = None
    instruction: Untrusted | None = None
    image_path: Untrusted | None = None
    image_sha256: str | None = None
    epoch: int = 1
    text: Untrusted
    reasoning: Untrusted | None = None
    lost: Lost | None = None
    finish_reason: Untrusted | None = None
    model: Untrusted | None = None
    usage: Usage = field(default_factory=Usage)
    latency_s: float | None = None
    labels: tuple[StatedLabel, ...] = ()
    simulated: bool = False


def empty(text: str) -> Lost | None:
    """Say that a text without words is not a response; None for one that has some."""
    if text.strip():
        return None
    return Lost(Outcome.TARGET_EMPTY, "empty", Untrusted("the file has no words for this sample"))


def refuse(where: str, problem: str, detail: Untrusted | None = None) -> NoReturn:
    """Raise ConfigError: `where` names file and row, `detail` is what may hold the file's own words."""
    raise ConfigError(f"{where}: {problem}", detail=detail, advice="Nothing was imported.")


@contextmanager
def open_file(path: Path) -> Iterator[BufferedReader]:
    """Open a regular file for reading. Raises ConfigError for anything else."""
    try:
        # Opening a FIFO must not hang.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        refuse(str(path), f"cannot be read ({error.strerror})")
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            refuse(str(path), "is not a file")
        yield file


def file_sha256(path: Path) -> str:
    """Return the checksum of a file's bytes, in hex."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_document(path: Path) -> object:
    """Read a JSON document. Raises ConfigError for one that is not JSON, too large, or says a key twice."""
    with open_file(path) as file:
        raw = file.read(MOST_DOCUMENT_BYTES + 1)
    if len(raw) > MOST_DOCUMENT_BYTES:
        refuse(str(path), f"larger than {MOST_DOCUMENT_BYTES // 2**20} MiB, far more than its texts need")
    return parse_json(raw, str(path))


def read_lines(path: Path) -> Iterator[tuple[str, object]]:
    """Read the JSON values of a file that has one a line, each with what names it: `FILE row N`."""
    with open_file(path) as file:
        number = 0
        while line := file.readline(MOST_ROW_BYTES + 1):
            number += 1
            where = f"{path} row {number}"
            if len(line) > MOST_ROW_BYTES:
                refuse(where, f"larger than {MOST_ROW_BYTES // 2**20} MiB")
            if line.strip():
                yield where, parse_json(line, where)


def parse_json(raw: bytes, where: str) -> object:
    """Parse some JSON. Raises ConfigError where it is not JSON, NaN and a repeated key included."""
    try:
        return strict_json.loads_unambiguous(raw.decode("utf-8-sig"))
    except UnicodeDecodeError:
        refuse(where, "is not UTF-8")
    except ValueError as error:
        # The parser's words name a place and never show the text.
        refuse(where, f"is not JSON that can be read without doubt ({error})")


def parse_fields(value: object, kind: type[_Kind], where: str) -> _Kind:
    """Read the fields of `kind`, and leave the others out. Raises ConfigError for a bad one."""
    try:
        return Decoder().parse(value, kind)
    except ValueError as error:
        # It may quote a key of the file.
        refuse(where, "has another form than expected", Untrusted(str(error)))


def image_sha256(url: str | None, where: str) -> str | None:
    """Return the checksum of the image that a data URL holds; None for any other address."""
    if url is None or not url.startswith("data:"):
        return None
    head, _, encoded = url.partition(",")
    if not head.endswith(";base64"):
        refuse(where, "holds an image that is not base64")
    try:
        return hashlib.sha256(pybase64.b64decode(encoded, validate=True)).hexdigest()
    except ValueError:
        refuse(where, "holds an image that is not base64")


def image_address(url: str | None) -> Untrusted | None:
    """Return the path or address of an image; None for one that is given as its bytes."""
    return None if url is None or url.startswith("data:") else Untrusted(url)


# Which sample of the data set a row is about: exactly one, or none at all.


_SHOWN = 5


class Refused(NamedTuple):
    """A row that belongs to no sample, or to more than one, and why."""

    where: str
    reason: str


@dataclass(frozen=True, slots=True)
class Matched:
    """Rows with their samples, in the order of the data set; and the rows that were left out."""

    rows: list[tuple[Sample, ForeignRow]]
    left_out: list[Refused] = field(default_factory=list)


def match_rows(
    rows: Iterable[ForeignRow],
    samples: Sequence[Sample],
    *,
    image_sha256: Callable[[Sample], str | None],
    skip_unknown: bool,
) -> Matched:
    """Find the sample of each row. `image_sha256` gives the image's checksum where nothing else decides.

    Raises ConfigError for rows of no sample or of several, which `skip_unknown` leaves out; and always for a
    sample that has two rows of one epoch: nothing tells which of them counts.
    """
    index = _Index(samples, image_sha256)
    matched: dict[Key, tuple[Sample, ForeignRow]] = {}
    refused: list[Refused] = []
    for row in rows:
        sample = index.find(row)
        if isinstance(sample, str):
            refused.append(Refused(row.where, sample))
            continue
        earlier = matched.setdefault(Key(sample.id, row.epoch), (sample, row))[1]
        if earlier is not row:
            raise ConfigError(
                f"{row.where}: sample {sample.id} was already in {earlier.where}. Keep one of the two."
            )
    if refused and not skip_unknown:
        raise ConfigError(
            first_of([f"{each.where}: {each.reason}" for each in refused], _SHOWN, separator="; "),
            advice="Nothing was imported. Pass the data set that was asked about with --data-root, or leave "
            "such rows out with --skip-unknown.",
        )
    place = {sample.id: number for number, sample in enumerate(samples)}
    in_order = sorted(matched, key=lambda key: (place[key.sample_id], key.epoch))
    return Matched([matched[key] for key in in_order], refused)


class _Index:
    """The samples by what a row may state of one. All that a row states has to hold."""

    def __init__(self, samples: Sequence[Sample], image_sha256: Callable[[Sample], str | None]) -> None:
        self._samples = samples
        self._image_sha256 = image_sha256
        self._by_id = {sample.id: sample for sample in samples}
        self._by_instruction: dict[Untrusted, list[Sample]] = {}
        for sample in samples:
            self._by_instruction.setdefault(sample.instruction, []).append(sample)
        paths = (sample.image_path for sample in samples)
        self._paths = {path.expose(): path for path in paths if path is not None}

    def find(self, row: ForeignRow) -> Sample | str:
        """Return the sample of a row, or say why it has none."""
        if row.sample_id is not None:
            sample, number = self._by_id.get(row.sample_id), row.sample_id
            if sample is None:
                return f"no sample has the instruction_id {number}"
            if row.instruction not in (None, sample.instruction):
                return f"its instruction is not that of sample {number}"
            is_other = self._path(row.image_path) not in (None, sample.image_path)
            return f"its image is not that of sample {number}" if is_other else sample
        if row.instruction is None:
            return "names neither an instruction_id nor an instruction"
        alike = self._by_instruction.get(row.instruction, [])
        if not alike:
            return "no sample has this instruction"
        path = self._path(row.image_path)
        fitting = [each for each in alike if path is None or each.image_path == path]
        if not fitting:
            return "no sample has this instruction with this image"
        if len(fitting) > 1 and row.image_sha256 is not None:
            fitting = [each for each in fitting if self._image_sha256(each) == row.image_sha256] or fitting
        if len(fitting) > 1 and row.number is not None:
            # A number may be meant as an id or as a place.
            at_place = self._samples[row.number : row.number + 1] if row.number >= 0 else ()
            fitting = [each for each in fitting if each.id == row.number or each in at_place] or fitting
        if len(fitting) > 1:
            ids = ", ".join(str(each.id) for each in fitting[:_SHOWN])
            return f"several samples fit ({ids}), and it does not say which"
        return fitting[0]

    def _path(self, stated: Untrusted | None) -> Untrusted | None:
        """Return the `image_path` that a stated path ends in; None for any other path: it says nothing."""
        if stated is None:
            return None
        parts = PurePosixPath(stated.expose().replace("\\", "/")).parts
        tails = ("/".join(parts[start:]) for start in range(max(0, len(parts) - 4), len(parts)))
        return next((self._paths[tail] for tail in tails if tail in self._paths), None)
