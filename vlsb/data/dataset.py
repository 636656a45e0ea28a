"""A data set in any of its layouts: a folder of images, a tar archive of them, or parquet shards.

What a layout adds is one function that opens an image by its `image_path`; rows, digests and the rules
for images are the same for all, and so is the digest of the same data.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from vlsb.data.archive import ARCHIVE_FILE, scan
from vlsb.data.folder import open_in_folder
from vlsb.data.image_files import OpenImage, inspect_images, read_image
from vlsb.data.rows import ROWS_FILE, load_rows, unreadable
from vlsb.data.shards import shard_paths, unpack
from vlsb.errors import DatasetError, ImageError
from vlsb.records import ImageFile, Sample
from vlsb.wording import first_of

IMAGES_FOLDER = "imgs"
LAYOUTS = "a folder with data.json and imgs/, with data.json and imgs.tar, or with its *.parquet files"
SHOWN_IDS = 10


class DataFiles(NamedTuple):
    """Rows and images that need not lie in one folder, as in the Hugging Face cache."""

    rows: Path
    archive: Path


@dataclass(frozen=True, slots=True)
class Dataset:
    """The samples of one data set, in its order, and how their images are opened.

    `archive` is the file that holds the images, None where each is a file below `root`.
    """

    root: Path
    samples: tuple[Sample, ...]
    open_image: OpenImage
    archive: Path | None = None

    def inspect(
        self, samples: Iterable[Sample], *, known: Mapping[str, ImageFile], skip_bad: bool = False
    ) -> Mapping[int, ImageFile | ImageError]:
        """Each sample's image by sample id. Blocking: reads the header of every distinct image.

        `known` maps an `image_path` to what an earlier run found there. All bad images are found
        before one `ImageError` names them; with `skip_bad` each is the value of its samples instead.
        """
        chosen = tuple(samples)
        found = inspect_images(self.open_image, (sample.image_path for sample in chosen), known=known)
        images = {sample.id: found[sample.image_path] for sample in chosen}
        if not skip_bad:
            _refuse_bad(images)
        return images

    def read(self, sample: Sample) -> bytes:
        """The bytes of a sample's image as they are now. Blocking."""
        return read_image(self.open_image, sample.image_path)


def load_dataset(root: Path | DataFiles, *, cache: Path | None = None) -> Dataset:
    """The samples of `root`; raises `DatasetError` with one line that names file and row.

    Images are not looked at yet: that is `Dataset.inspect`, for the samples that were selected. The
    images of parquet shards are unpacked below `cache` (default: the user's cache folder) the first
    time, which takes about as long as copying them.
    """
    if isinstance(root, DataFiles):
        return load_dataset_files(rows=root.rows, archive=root.archive)
    require_dataset(root)
    rows, archive, folder = root / ROWS_FILE, root / ARCHIVE_FILE, root / IMAGES_FOLDER
    try:
        if rows.exists() and archive.exists() and not folder.exists():
            return load_dataset_files(rows=rows, archive=archive)
        if not (rows.exists() and folder.exists()) and (shards := shard_paths(root)):
            found = load_dataset_files(**unpack(shards, cache or user_cache())._asdict())
            return replace(found, root=root.resolve())
        return Dataset(root.resolve(), load_rows(rows), partial(open_in_folder, root.resolve()))
    except OSError as error:
        raise unreadable(root, error) from error


def load_dataset_files(*, rows: Path, archive: Path) -> Dataset:
    """The samples of a `data.json` and an archive, wherever the two lie; either may be a link."""
    return Dataset(archive.resolve().parent, load_rows(rows), scan(archive).open_image, archive.absolute())


def user_cache() -> Path:
    """Where unpacked images are kept: `vlsb` below XDG_CACHE_HOME or ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    # As the specification has it, a relative value counts as none.
    return (Path(home) if home.startswith("/") else Path.home() / ".cache") / "vlsb"


def require_dataset(root: Path) -> None:
    """Raise DatasetError where `root` has none of the layouts, without opening a file."""
    try:
        if not root.is_dir():
            problem = "is not a folder" if root.exists() else "does not exist"
            raise DatasetError(f"{root} {problem}. Pass {LAYOUTS}.")
        if not (root / ROWS_FILE).exists() and not shard_paths(root):
            only = f", only {ARCHIVE_FILE}" if (root / ARCHIVE_FILE).exists() else ""
            raise DatasetError(f"{root} has no {ROWS_FILE}{only}. Pass {LAYOUTS}.")
    except OSError as error:
        raise unreadable(root, error) from error


def _refuse_bad(images: Mapping[int, ImageFile | ImageError]) -> None:
    bad = {sample_id: found for sample_id, found in images.items() if isinstance(found, ImageError)}
    if not bad:
        return
    first, reason = next(iter(bad.items()))
    raise ImageError(
        f"The image cannot be used in {len(bad)} of {len(images)} rows, instruction_id "
        f"{first_of(list(bad), SHOWN_IDS)}. Row with instruction_id {first}: {reason.message}. "
        "Mend them, or go on without them: --skip-bad-images.",
        detail=reason.detail,
    ) from reason
