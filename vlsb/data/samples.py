"""The samples of a data set: read from its rows, and selected for a run.

Rows come from `data.json` or the text columns of the shards. A row that breaks a rule stops the load, because
an evaluation that silently drops rows is not comparable. An empty instruction breaks none (VLSBench has one).

A selection is filters, then a seeded shuffle, then a limit. The shuffle is stratified, so that every prefix
of it (what `--limit` keeps) has nearly the whole's mix of (category, sub-category), and rests on sha256, so
that no Python release can change it.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from fractions import Fraction
from pathlib import Path
from typing import Any

from vlsb import strict_json
from vlsb.errors import ConfigError, DatasetError, MachineError, first_of, machine_lack
from vlsb.records import Sample, Untrusted, cluster_of

ROWS_FILE = "data.json"
MAX_ROWS_BYTES = 64 * 1024 * 1024
MAX_ID = 2**63 - 1
SHOWN_NAMES = 8
_POSITIONS = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", re.ASCII)
_SHARE = re.compile(r"[0-9]?\.[0-9]{1,9}", re.ASCII)


def load_rows(path: Path) -> tuple[Sample, ...]:
    """Load the samples of a `data.json`; raises `DatasetError` with one line that names file and row."""
    try:
        # Opening a FIFO must not hang. A link is the user's own way to place this one file.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise DatasetError(f"{path} is not a regular file. Put the real file there.")
            # The descriptor stays ours: `fdopen` would not close it if it failed.
            with os.fdopen(descriptor, "rb", closefd=False) as stream:
                content = stream.read(MAX_ROWS_BYTES + 1)
        finally:
            os.close(descriptor)
        if len(content) > MAX_ROWS_BYTES:
            raise DatasetError(
                f"{path} is larger than {MAX_ROWS_BYTES // 1024**2} MiB, far more than VLSBench. "
                "Is it the right file?"
            )
        rows = strict_json.loads(content.removeprefix(b"\xef\xbb\xbf"))
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:
        raise DatasetError(f"{ROWS_FILE} is not JSON ({error}). Download it again.") from error
    return parse_rows(rows, named=ROWS_FILE)


def parse_rows(rows: object, *, named: str) -> tuple[Sample, ...]:
    """Make the samples of a list of rows, in its order; `named` is what the lines of errors call the list."""
    if not isinstance(rows, list):
        raise DatasetError(f"{named} holds {_kind(rows)}, not a list of rows. Is it the right file?")
    if not rows:
        raise DatasetError(f"{named} holds no rows. Download it again.")
    samples = tuple(_sample(row, f"{named} row {position}") for position, row in enumerate(rows, start=1))
    first_row: dict[int, int] = {}
    for position, sample in enumerate(samples, start=1):
        earlier = first_row.setdefault(sample.id, position)
        if earlier != position:
            raise DatasetError(
                f"{named} row {position} (instruction_id {sample.id}): row {earlier} has the same id. "
                "Keep one of the two."
            )
    return samples


def unreadable(path: Path, error: OSError) -> DatasetError | MachineError:
    """Return the one line for a file or folder that the system does not let us read."""
    if lack := machine_lack(error):
        return lack
    reason = os.strerror(error.errno) if error.errno else "no reason given"
    return DatasetError(f"{path} cannot be read: {reason}. Check its permissions.")


def _sample(row: object, where: str) -> Sample:
    if not isinstance(row, dict):
        raise DatasetError(f"{where}: {_kind(row)}, not an object with fields.")
    sample_id = row.get("instruction_id")
    # The first data set card declared the id a string.
    if isinstance(sample_id, str) and re.fullmatch(r"[0-9]{1,19}", sample_id):
        sample_id = int(sample_id)
    if not isinstance(sample_id, int) or isinstance(sample_id, bool) or not 0 <= sample_id <= MAX_ID:
        kind = _kind(sample_id) if "instruction_id" in row else "nothing"
        raise DatasetError(f"{where}: instruction_id must be a whole number, 0 or more, found {kind}.")
    where = f"{where} (instruction_id {sample_id})"
    description, reason = row.get("image_description"), row.get("safety_reason")
    sample = Sample(
        id=sample_id,
        instruction=_text(row, "instruction", where),
        image_path=_text(row, "image_path", where),
        category=_text(row, "category", where),
        sub_category=_text(row, "sub_category", where),
        source=_text(row, "source", where),
        image_description=None if description is None else _text(row, "image_description", where),
        safety_reason=None if reason is None else _text(row, "safety_reason", where),
    )
    if not row["category"].strip():
        raise DatasetError(f"{where}: category is empty. Give the row the category it belongs to.")
    return sample


def _text(row: Mapping[str, object], name: str, where: str) -> Untrusted:
    value = row.get(name)
    if not isinstance(value, str):
        kind = _kind(value) if name in row else "nothing"
        raise DatasetError(f"{where}: {name} must be text, found {kind}. Correct the row.")
    return Untrusted(value)


def _kind(value: object) -> str:
    """Name the kind of a value in words that do not show it; shards hold more kinds than JSON."""
    names = {bool: "true or false", int: "a number", float: "a fraction", str: "text"}
    names |= {list: "a list", dict: "an object", type(None): "null"}
    return names.get(type(value), "something else")


@dataclass(frozen=True, slots=True)
class Positions:
    """Samples by place, 1-based and inclusive."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Share:
    """A share of the samples, above 0 and at most 1."""

    value: Fraction


@dataclass(frozen=True, slots=True)
class Selection:
    """What the user asked for. Empty tuples select everything; names match in any case.

    `limit` is `N` (the first N), `A-B` (positions, 1-based and inclusive) or a share with a decimal
    point such as `0.1`. Values of one filter are alternatives; different filters must all hold.
    """

    limit: str | None = None
    sample_ids: tuple[int, ...] = ()
    categories: tuple[str, ...] = ()
    sub_categories: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    shuffle: bool = False
    seed: int = 0
    image_order: int | None = None

    def describe(self) -> dict[str, Any]:
        """Every field as plain JSON, for the manifest; the order of images only where one was asked for."""
        found = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}
        if self.image_order is None:
            del found["image_order"]
        return found


def parse_limit(text: str) -> Positions | Share:
    """`N`, `A-B` or a share; anything else raises `ConfigError` with the three forms."""
    if match := _POSITIONS.fullmatch(text):
        first, last = match.groups()
        positions = Positions(int(first), int(last)) if last else Positions(1, int(first))
        if 1 <= positions.first <= positions.last:
            return positions
    elif _SHARE.fullmatch(text) and 0 < (share := Fraction(text)) <= 1:
        return Share(share)
    raise ConfigError(
        f"--limit {text!r} is not a limit. Use N (the first N samples), A-B (positions from 1, both "
        "included) or a share between 0 and 1 such as 0.1."
    )


def select(samples: Sequence[Sample], selection: Selection) -> tuple[Sample, ...]:
    """Select samples: in the data set's order, or shuffled if asked to."""
    limit = parse_limit(selection.limit) if selection.limit is not None else None
    chosen: Sequence[Sample] = _matching(samples, selection)
    if selection.shuffle:
        chosen = _stratified_order(chosen, seed=selection.seed)
    if isinstance(limit, Positions):
        chosen = chosen[limit.first - 1 : limit.last]
    elif isinstance(limit, Share):
        chosen = chosen[: math.ceil(limit.value * len(chosen))]
    if selection.image_order is not None:
        seed = selection.image_order
        clusters = {each.id: cluster_of(each.id, each.image_path) for each in chosen}
        chosen = sorted(chosen, key=lambda each: (*image_place(clusters[each.id], seed), each.id))
    if not chosen:
        raise ConfigError("The selection is empty: no sample passes all filters and the limit. Loosen one.")
    return tuple(chosen)


def _matching(samples: Sequence[Sample], selection: Selection) -> list[Sample]:
    wanted_ids = frozenset(selection.sample_ids)
    if unknown := sorted(wanted_ids - {sample.id for sample in samples}):
        ids = first_of(unknown, SHOWN_NAMES)
        raise ConfigError(f"--sample-id {ids}: no such instruction_id in the data set.")
    chosen = [sample for sample in samples if not wanted_ids or sample.id in wanted_ids]
    filters: list[tuple[str, tuple[str, ...], Callable[[Sample], Untrusted]]] = [
        ("--category", selection.categories, lambda sample: sample.category),
        ("--sub-category", selection.sub_categories, lambda sample: sample.sub_category),
        ("--source", selection.sources, lambda sample: sample.source),
    ]
    for option, names, field in filters:
        if names:
            # Names are known by the whole data set, not by what other filters left of it.
            spelled = {_folded_name(each.expose()): each for each in sorted({field(row) for row in samples})}
            keys = {_folded_name(name) for name in names}
            for name in (each for each in names if _folded_name(each) not in spelled):
                near = get_close_matches(_folded_name(name), spelled, n=3, cutoff=0.5)
                near = near or [*spelled][:SHOWN_NAMES]
                raise ConfigError(
                    f"{option} {name!r} is not in the data set. Nearest names there",
                    detail=Untrusted(", ".join(spelled[key].expose() for key in near)),
                )
            chosen = [sample for sample in chosen if _folded_name(field(sample).expose()) in keys]
    return chosen


def _folded_name(name: str) -> str:
    return name.strip().casefold()


def _stratified_order(samples: Iterable[Sample], *, seed: int) -> list[Sample]:
    strata: dict[tuple[Untrusted, Untrusted], list[Sample]] = defaultdict(list)
    for sample in samples:
        strata[sample.category, sample.sub_category].append(sample)
    places: list[tuple[int, int, Sample]] = []
    for (category, sub_category), members in strata.items():
        # A random start for each stratum gives every sample the same chance to be in a prefix.
        start = _draw(seed, "start", category.sha256(), sub_category.sha256())
        drawn = sorted((_draw(seed, "sample", str(sample.id)), sample.id, sample) for sample in members)
        places += [
            (((rank << 64) + start) // len(members), draw, sample)
            for rank, (draw, _, sample) in enumerate(drawn)
        ]
    return [sample for _, _, sample in sorted(places, key=lambda place: (place[0], place[1], place[2].id))]


def image_place(image: Untrusted, seed: int) -> tuple[int, str]:
    """Return an image's place in a random order, which is the same wherever the image is."""
    return _draw(seed, "image", image.sha256()), image.sha256()


def _draw(seed: int, *parts: str) -> int:
    """A number below 2**64 that depends on nothing but its arguments."""
    return int.from_bytes(hashlib.sha256("\x00".join([str(seed), *parts]).encode()).digest()[:8])
