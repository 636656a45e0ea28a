"""Which sample of the data set a row of another program's file is about: exactly one, or none at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import NamedTuple

from vlsb.errors import ConfigError
from vlsb.records import Key, Sample, Untrusted
from vlsb.store.imports.rows import ForeignRow
from vlsb.wording import first_of

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
    """Each row with its sample. `image_sha256` is asked for the image's checksum where nothing else decides.

    Raises ConfigError for rows of no sample or of several, which `skip_unknown` leaves out; and always for a
    sample that has two rows of one epoch: nothing tells which of them counts.
    """
    index = _Index(samples, image_sha256)
    found: dict[Key, tuple[Sample, ForeignRow]] = {}
    refused: list[Refused] = []
    for row in rows:
        sample = index.find(row)
        if isinstance(sample, str):
            refused.append(Refused(row.where, sample))
            continue
        earlier = found.setdefault(Key(sample.id, row.epoch), (sample, row))[1]
        if earlier is not row:
            raise ConfigError(
                f"{row.where}: sample {sample.id} was already in {earlier.where}. Keep one of the two."
            )
    if refused and not skip_unknown:
        raise _refusal(refused)
    return Matched([found[key] for key in _in_order(samples, found)], refused)


def _in_order(samples: Sequence[Sample], found: Iterable[Key]) -> list[Key]:
    place = {sample.id: number for number, sample in enumerate(samples)}
    return sorted(found, key=lambda key: (place[key.sample_id], key.epoch))


def _refusal(refused: Sequence[Refused]) -> ConfigError:
    return ConfigError(
        first_of([f"{each.where}: {each.reason}" for each in refused], _SHOWN, separator="; "),
        advice="Nothing was imported. Pass the data set that was asked about with --data-root, or leave "
        "such rows out with --skip-unknown.",
    )


class _Index:
    """The samples by what a row may state of one. All that a row states has to hold."""

    def __init__(self, samples: Sequence[Sample], image_sha256: Callable[[Sample], str | None]) -> None:
        self._samples = samples
        self._image_sha256 = image_sha256
        self._by_id = {sample.id: sample for sample in samples}
        self._by_instruction = _grouped((sample.instruction, sample) for sample in samples)
        self._paths = {sample.image_path.expose(): sample.image_path for sample in samples}

    def find(self, row: ForeignRow) -> Sample | str:
        """The sample of a row, or why there is none."""
        if row.sample_id is not None:
            return self._with_id(row.sample_id, row)
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
        if len(fitting) > 1:
            fitting = [each for each in fitting if self._is_numbered(each, row.number)] or fitting
        if len(fitting) > 1:
            ids = ", ".join(str(each.id) for each in fitting[:_SHOWN])
            return f"several samples fit ({ids}), and it does not say which"
        return fitting[0]

    def _with_id(self, sample_id: int, row: ForeignRow) -> Sample | str:
        sample = self._by_id.get(sample_id)
        if sample is None:
            return f"no sample has the instruction_id {sample_id}"
        if row.instruction not in (None, sample.instruction):
            return f"its instruction is not that of sample {sample_id}"
        if self._path(row.image_path) not in (None, sample.image_path):
            return f"its image is not that of sample {sample_id}"
        return sample

    def _path(self, stated: Untrusted | None) -> Untrusted | None:
        """The `image_path` that a stated path ends in; None for one that ends in none: it says nothing."""
        if stated is None:
            return None
        parts = PurePosixPath(stated.expose().replace("\\", "/")).parts
        tails = ("/".join(parts[start:]) for start in range(max(0, len(parts) - 4), len(parts)))
        return next((self._paths[tail] for tail in tails if tail in self._paths), None)

    def _is_numbered(self, sample: Sample, number: int | None) -> bool:
        """Whether a number may be meant for this sample, as its id or as its place."""
        if number is None:
            return False
        at_place = 0 <= number < len(self._samples) and self._samples[number] is sample
        return sample.id == number or at_place


def _grouped(pairs: Iterator[tuple[Untrusted, Sample]]) -> dict[Untrusted, list[Sample]]:
    groups: dict[Untrusted, list[Sample]] = {}
    for instruction, sample in pairs:
        groups.setdefault(instruction, []).append(sample)
    return groups
