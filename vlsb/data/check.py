"""The full check of a data set: every image decoded, every known oddity counted.

It reports instead of raising: all problems of the images are in one `DatasetReport`. Only a
`data.json` that cannot be read as rows stops it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from vlsb.data.dataset import DataFiles, load_dataset
from vlsb.data.image_files import (
    full_decode,
    has_fitting_extension,
    inspect_images,
    is_missing,
    is_named_after,
    quiet_decoder,
)
from vlsb.errors import ImageError
from vlsb.records import PUBLISHED_IDS, ImageFile, Sample, Untrusted, altered_rows, data_digest

# Pillow decodes outside the interpreter lock; each thread holds one decoded image (200 MB at worst).
DECODE_THREADS = 4


@dataclass(frozen=True, slots=True)
class BadImage:
    """An image that cannot be used, with the samples that need it. `reason` is ours and printable."""

    image_path: Untrusted
    sample_ids: tuple[int, ...]
    reason: str
    is_missing: bool


@dataclass(frozen=True, slots=True)
class MisnamedImage:
    """A usable image whose extension does not say what its bytes are."""

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
    """A source, its rows and their distinct images."""

    source: Untrusted
    rows: int
    images: int


@dataclass(frozen=True, slots=True)
class DatasetCounts:
    """What two copies of one data set share, whatever ails their images.

    Tables are sorted: largest first, then by name. `renamed_count` counts samples whose id is not their
    image's file name. `image_uses` maps a number of samples to the images that so many samples share.
    """

    row_count: int
    image_count: int
    instruction_count: int
    categories: tuple[NameCount, ...]
    pairs: tuple[PairCount, ...]
    sources: tuple[SourceCount, ...]
    empty_instruction_ids: tuple[int, ...]
    duplicate_ids: tuple[tuple[int, ...], ...]
    renamed_count: int
    image_uses: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class DatasetReport:
    """What `vlsb data check` shows. `digest` is `data_digest` over all samples.

    `altered_ids` are samples with an id of VLSBench whose row is not the published one, `published_rows`
    counts those whose row is; `has_published_ids` says that all of its ids are there and no others. Nothing
    was published to compare its images with; `distinct_images` counts those that differ in their bytes.
    """

    root: Path
    counts: DatasetCounts
    bad_images: tuple[BadImage, ...]
    misnamed_images: tuple[MisnamedImage, ...]
    media_types: tuple[tuple[str, int], ...]
    digest: str
    altered_ids: tuple[int, ...]
    published_rows: int
    has_published_ids: bool
    distinct_images: int

    @property
    def is_full(self) -> bool:
        """Tell whether these are the rows of VLSBench as published, each with an image that can be used."""
        return self.has_published_ids and not self.altered_ids and not self.bad_images


def check_dataset(root: Path | DataFiles, *, cache: Path | None = None) -> DatasetReport:
    """Look at every row and decode every image, in any layout. Blocking, for minutes at full size."""
    dataset = load_dataset(root, cache=cache)
    samples = dataset.samples
    ids: dict[Untrusted, tuple[int, ...]] = {}
    for sample in samples:
        ids[_path(sample)] = (*ids.get(_path(sample), ()), sample.id)
    images = inspect_images(dataset.open_image, ids, known={}, hashed=True)

    def find_problem(image_path: Untrusted) -> ImageError | None:
        """Say why an image cannot be used, by its header or else by a full decode."""
        if isinstance(image := images[image_path], ImageError):
            return image
        try:
            full_decode(dataset.open_image, image_path)
        except ImageError as error:
            # A kept traceback would keep the frames, and with them the decoded image.
            return error.with_traceback(None)
        return None

    with quiet_decoder(), ThreadPoolExecutor(DECODE_THREADS, "vlsb-decode") as pool:
        problems = dict(zip(images, pool.map(find_problem, images), strict=True))
    bad = {path: problem for path, problem in problems.items() if problem is not None}
    types = {
        path: image.media_type
        for path, image in images.items()
        if isinstance(image, ImageFile) and path not in bad
    }
    counts = _counts(samples, ids)
    altered = altered_rows((sample.id, sample.digest()) for sample in samples)
    return DatasetReport(
        root=dataset.root,
        counts=counts,
        bad_images=tuple(
            BadImage(path, ids[path], problem.message, is_missing(problem)) for path, problem in bad.items()
        ),
        misnamed_images=tuple(
            MisnamedImage(path, ids[path], kind)
            for path, kind in types.items()
            if not has_fitting_extension(path, kind)
        ),
        media_types=tuple(sorted(Counter(types.values()).items())),
        # Over what a run can see: an image that only a full decode refuses still has its hash.
        digest=data_digest(
            (each.id, each.digest(), image.sha256 if isinstance(image, ImageFile) else None)
            for each in samples
            for image in [images[_path(each)]]
        ),
        altered_ids=tuple(altered),
        published_rows=sum(sample.id in PUBLISHED_IDS for sample in samples) - len(altered),
        has_published_ids={sample.id for sample in samples} == set(PUBLISHED_IDS),
        distinct_images=len({each.sha256 for each in images.values() if isinstance(each, ImageFile)}),
    )


def _path(sample: Sample) -> Untrusted:
    # VLSBench has an image in every row.
    assert sample.image_path is not None
    return sample.image_path


def _counts(samples: Sequence[Sample], ids: Mapping[Untrusted, tuple[int, ...]]) -> DatasetCounts:
    of_category = Counter(sample.category for sample in samples)
    categories = (NameCount(name, rows) for name, rows in of_category.items())
    of_pair = Counter((sample.category, sample.sub_category) for sample in samples)
    pairs = (PairCount(category, sub_category, rows) for (category, sub_category), rows in of_pair.items())
    paths: dict[Untrusted, list[Untrusted]] = defaultdict(list)
    same: dict[tuple[Untrusted, Untrusted], list[int]] = defaultdict(list)
    for sample in samples:
        paths[sample.source].append(_path(sample))
        same[_path(sample), sample.instruction].append(sample.id)
    sources = (SourceCount(source, len(used), len(set(used))) for source, used in paths.items())
    return DatasetCounts(
        row_count=len(samples),
        image_count=len(ids),
        instruction_count=len({sample.instruction for sample in samples}),
        categories=tuple(sorted(categories, key=lambda row: (-row.rows, row.name))),
        # In the order of the category table, so that the two read as one.
        pairs=tuple(
            sorted(
                pairs, key=lambda row: (-of_category[row.category], row.category, -row.rows, row.sub_category)
            )
        ),
        sources=tuple(sorted(sources, key=lambda row: (-row.rows, row.source))),
        empty_instruction_ids=tuple(sample.id for sample in samples if not len(sample.instruction)),
        duplicate_ids=tuple(tuple(group) for group in same.values() if len(group) > 1),
        renamed_count=sum(not is_named_after(_path(sample), sample.id) for sample in samples),
        image_uses=tuple(sorted(Counter(map(len, ids.values())).items())),
    )
