"""The full check of a data set: every picture decoded, every known oddity counted.

It reports instead of raising: all problems of the pictures are in one `DatasetReport`. Only a
`data.json` that cannot be read as rows stops it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vlsb.data.dataset import DataFiles, load_dataset
from vlsb.data.pictures import (
    OpenPicture,
    full_decode,
    has_fitting_extension,
    inspect_pictures,
    is_missing,
    is_named_after,
    quiet_decoder,
)
from vlsb.errors import ImageError
from vlsb.records import PUBLISHED_IDS, Picture, Sample, Untrusted, data_digest

# Pillow decodes outside the interpreter lock; each thread holds one decoded picture (200 MB at worst).
DECODE_THREADS = 4

Found = Mapping[Untrusted, Picture | ImageError]


@dataclass(frozen=True, slots=True)
class BadPicture:
    """A picture that cannot be used, with the samples that need it. `reason` is ours and printable."""

    image_path: Untrusted
    sample_ids: tuple[int, ...]
    reason: str
    is_missing: bool


@dataclass(frozen=True, slots=True)
class MisnamedPicture:
    """A usable picture whose extension does not say what its bytes are."""

    image_path: Untrusted
    sample_ids: tuple[int, ...]
    media_type: str


@dataclass(frozen=True, slots=True)
class NameCount:
    """A name of the data set and its rows."""

    name: Untrusted
    rows: int


@dataclass(frozen=True, slots=True)
class PairCount:
    """A (category, sub-category) pair and its rows; a sub-category alone is not unique."""

    category: Untrusted
    sub_category: Untrusted
    rows: int


@dataclass(frozen=True, slots=True)
class SourceCount:
    """A source, its rows and their distinct pictures."""

    source: Untrusted
    rows: int
    pictures: int


@dataclass(frozen=True, slots=True)
class DatasetReport:
    """What `vlsb data check` shows. Tables are sorted: largest first, then by name.

    `renamed_count` counts samples whose id is not their picture's file name. `picture_uses` maps a
    number of samples to the pictures that so many samples share. `digest` is `data_digest` over all
    samples. `is_full` says that all this equals what is known of the published VLSBench.
    """

    root: Path
    row_count: int
    picture_count: int
    instruction_count: int
    bad_pictures: tuple[BadPicture, ...]
    misnamed_pictures: tuple[MisnamedPicture, ...]
    media_types: tuple[tuple[str, int], ...]
    categories: tuple[NameCount, ...]
    pairs: tuple[PairCount, ...]
    sources: tuple[SourceCount, ...]
    empty_instruction_ids: tuple[int, ...]
    duplicate_ids: tuple[tuple[int, ...], ...]
    renamed_count: int
    picture_uses: tuple[tuple[int, int], ...]
    digest: str
    is_full: bool

    @property
    def missing_pictures(self) -> tuple[BadPicture, ...]:
        """The pictures that are not there."""
        return tuple(picture for picture in self.bad_pictures if picture.is_missing)

    @property
    def broken_pictures(self) -> tuple[BadPicture, ...]:
        """The pictures that are there and cannot be used."""
        return tuple(picture for picture in self.bad_pictures if not picture.is_missing)


@dataclass(frozen=True, slots=True)
class _Facts:
    """What two copies of one data set share, whatever ails their pictures."""

    row_count: int
    picture_count: int
    instruction_count: int
    categories: tuple[NameCount, ...]
    pairs: tuple[PairCount, ...]
    sources: tuple[SourceCount, ...]
    empty_instruction_ids: tuple[int, ...]
    duplicate_ids: tuple[tuple[int, ...], ...]
    renamed_count: int
    picture_uses: tuple[tuple[int, int], ...]


def check_dataset(root: Path | DataFiles, *, cache: Path | None = None) -> DatasetReport:
    """Look at every row and decode every picture, in any layout. Blocking, for minutes at full size."""
    dataset = load_dataset(root, cache=cache)
    samples = dataset.samples
    paths = (sample.image_path for sample in samples)
    found = inspect_pictures(dataset.open_picture, paths, known={}, hashed=True)
    decoded = _decoded(dataset.open_picture, found)
    users = _users(samples)
    facts = _facts(samples, users)
    bad = _bad_pictures(decoded, users)
    kinds = {path: picture.media_type for path, picture in decoded.items() if isinstance(picture, Picture)}
    return DatasetReport(
        root=dataset.root,
        row_count=facts.row_count,
        picture_count=facts.picture_count,
        instruction_count=facts.instruction_count,
        bad_pictures=bad,
        misnamed_pictures=_misnamed_pictures(kinds, users),
        media_types=tuple(sorted(Counter(kinds.values()).items())),
        categories=facts.categories,
        pairs=facts.pairs,
        sources=facts.sources,
        empty_instruction_ids=facts.empty_instruction_ids,
        duplicate_ids=facts.duplicate_ids,
        renamed_count=facts.renamed_count,
        picture_uses=facts.picture_uses,
        # Over what a run can see: a picture that only a full decode refuses still has its hash.
        digest=data_digest((s.id, s.digest(), _sha256(found[s.image_path])) for s in samples),
        is_full=not bad and _is_published(samples, facts),
    )


def _sha256(picture: Picture | ImageError) -> str | None:
    return picture.sha256 if isinstance(picture, Picture) else None


def _decoded(open_picture: OpenPicture, found: Found) -> Found:
    decode = partial(_decode_outcome, open_picture)
    with quiet_decoder(), ThreadPoolExecutor(DECODE_THREADS, "vlsb-decode") as pool:
        return dict(zip(found, pool.map(decode, found, found.values()), strict=True))


def _decode_outcome(
    open_picture: OpenPicture, image_path: Untrusted, picture: Picture | ImageError
) -> Picture | ImageError:
    if isinstance(picture, ImageError):
        return picture
    try:
        full_decode(open_picture, image_path)
    except ImageError as error:
        # A kept traceback would keep the frames, and with them the decoded picture.
        return error.with_traceback(None)
    return picture


def _users(samples: Iterable[Sample]) -> dict[Untrusted, tuple[int, ...]]:
    users: dict[Untrusted, tuple[int, ...]] = {}
    for sample in samples:
        users[sample.image_path] = (*users.get(sample.image_path, ()), sample.id)
    return users


def _bad_pictures(decoded: Found, users: Mapping[Untrusted, tuple[int, ...]]) -> tuple[BadPicture, ...]:
    return tuple(
        BadPicture(path, users[path], outcome.message, is_missing(outcome))
        for path, outcome in decoded.items()
        if isinstance(outcome, ImageError)
    )


def _misnamed_pictures(
    kinds: Mapping[Untrusted, str], users: Mapping[Untrusted, tuple[int, ...]]
) -> tuple[MisnamedPicture, ...]:
    return tuple(
        MisnamedPicture(path, users[path], kind)
        for path, kind in kinds.items()
        if not has_fitting_extension(path, kind)
    )


def _facts(samples: Sequence[Sample], users: Mapping[Untrusted, tuple[int, ...]]) -> _Facts:
    return _Facts(
        row_count=len(samples),
        picture_count=len(users),
        instruction_count=len({sample.instruction for sample in samples}),
        categories=_categories(samples),
        pairs=_pairs(samples),
        sources=_sources(samples),
        empty_instruction_ids=tuple(sample.id for sample in samples if not len(sample.instruction)),
        duplicate_ids=_duplicates(samples),
        renamed_count=sum(not is_named_after(sample.image_path, sample.id) for sample in samples),
        picture_uses=tuple(sorted(Counter(map(len, users.values())).items())),
    )


def _categories(samples: Iterable[Sample]) -> tuple[NameCount, ...]:
    counts = Counter(sample.category for sample in samples)
    rows = (NameCount(name, count) for name, count in counts.items())
    return tuple(sorted(rows, key=lambda row: (-row.rows, row.name)))


def _pairs(samples: Sequence[Sample]) -> tuple[PairCount, ...]:
    of_category = Counter(sample.category for sample in samples)
    counts = Counter((sample.category, sample.sub_category) for sample in samples)
    rows = (PairCount(category, sub_category, count) for (category, sub_category), count in counts.items())
    # In the order of the category table, so that the two read as one.
    return tuple(
        sorted(rows, key=lambda row: (-of_category[row.category], row.category, -row.rows, row.sub_category))
    )


def _sources(samples: Iterable[Sample]) -> tuple[SourceCount, ...]:
    paths: dict[Untrusted, list[Untrusted]] = defaultdict(list)
    for sample in samples:
        paths[sample.source].append(sample.image_path)
    rows = (SourceCount(source, len(used), len(set(used))) for source, used in paths.items())
    return tuple(sorted(rows, key=lambda row: (-row.rows, row.source)))


def _duplicates(samples: Iterable[Sample]) -> tuple[tuple[int, ...], ...]:
    ids: dict[tuple[Untrusted, Untrusted], list[int]] = defaultdict(list)
    for sample in samples:
        ids[sample.image_path, sample.instruction].append(sample.id)
    return tuple(tuple(same) for same in ids.values() if len(same) > 1)


def _is_published(samples: Sequence[Sample], facts: _Facts) -> bool:
    return facts == _published_facts() and {sample.id for sample in samples} == set(PUBLISHED_IDS)


def _published_facts() -> _Facts:
    """The counts of the published data.json of May 2025; hashes of the pictures were never published."""
    return _Facts(
        row_count=len(PUBLISHED_IDS),
        picture_count=1957,
        instruction_count=2226,
        categories=tuple(NameCount(Untrusted(name), rows) for name, rows in _PUBLISHED_CATEGORIES),
        pairs=tuple(PairCount(Untrusted(name), Untrusted(sub), rows) for name, sub, rows in _PUBLISHED_PAIRS),
        sources=tuple(SourceCount(Untrusted(name), *counts) for name, *counts in _PUBLISHED_SOURCES),
        empty_instruction_ids=(1685,),
        duplicate_ids=((1777, 1778),),
        renamed_count=1005,
        picture_uses=((1, 1734), (2, 162), (3, 61)),
    )


_PUBLISHED_CATEGORIES = (
    ("Violent", 590),
    ("Illegal Activity", 539),
    ("Self-Harm", 370),
    ("Erotic", 343),
    ("Hate", 269),
    ("Privacy", 130),
)
_PUBLISHED_PAIRS = (
    ("Violent", "Weapon-Related Violence", 244),
    ("Violent", "Public Violence and Rioting", 186),
    ("Violent", "Abuse and Physical Altercations", 160),
    ("Illegal Activity", "Cybercrime", 226),
    ("Illegal Activity", "Property Crimes", 167),
    ("Illegal Activity", "Drug-Related Offenses", 115),
    ("Illegal Activity", "Human Trafficking and Exploitation", 28),
    ("Illegal Activity", "Identity Theft and Impersonation", 3),
    ("Self-Harm", "Risky or Dangerous Behaviors", 125),
    ("Self-Harm", "Physical Self-Injury", 124),
    ("Self-Harm", "Substance Abuse and Poisoning", 91),
    ("Self-Harm", "Psychological and Disordered Harm", 30),
    ("Erotic", "Adult Content", 178),
    ("Erotic", "Erotic Visual Content", 165),
    ("Hate", "Racial and Ethnic Discrimination", 99),
    ("Hate", "Cultural Xenophobia", 62),
    ("Hate", "Religious Intolerance", 56),
    ("Hate", "Gender and Sexual Orientation Discrimination", 50),
    ("Hate", "Psychological and Disordered Harm", 2),
    ("Privacy", "Unauthorized Data Collection", 69),
    ("Privacy", "Identity Theft and Impersonation", 61),
)
_PUBLISHED_SOURCES = (
    ("generation", 1234, 1234),
    ("MultiTrust", 296, 175),
    ("MLLMGuard", 260, 178),
    ("Ch3Ef", 179, 117),
    ("Unsafebench", 142, 130),
    ("coco2017", 130, 123),
)
