"""Data sets: by their names, in all layouts of VLSBench, and from the Hugging Face Hub.

A data set is a function that reads a folder into a `Dataset`; an installed package names it in the
entry-point group `vlsb.datasets`, as this one names its own. What a layout adds is one function that opens an
image by its `image_path`; the rules for images are the same for all, and so is the digest of the same data.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import NamedTuple, Self

from vlsb.data.archive import ARCHIVE_FILE, scan
from vlsb.data.image_files import OpenImage, inspect_images, open_in_folder, read_image
from vlsb.data.mini import mini_root
from vlsb.data.samples import MAX_ID, ROWS_FILE, load_rows, unreadable
from vlsb.data.shards import shard_paths, unpack
from vlsb.errors import ConfigError, DatasetError, ImageError, VlsbError, first_of, machine_lack
from vlsb.hub import Repository
from vlsb.plugins import entry_points, load
from vlsb.records import DATASET_NAME, VLSBENCH, Half, ImageFile, Sample
from vlsb.steps import OnProgress, ignore

ENTRY_POINTS = "vlsb.datasets"
"""The group by which installed packages name the functions that read data sets."""
HUB_REPOSITORY = "Foreshhh/vlsbench"
MINI = "mini"
"""The 30 samples that are part of this package."""

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

    `archive` is the file that holds the images, None where each is a file below `root`. `half` is None where
    nobody says what the rows ask for.
    """

    root: Path
    samples: tuple[Sample, ...]
    open_image: OpenImage
    archive: Path | None = None
    half: Half | None = None

    @classmethod
    def in_folder(cls, root: Path, samples: Iterable[Sample], *, half: Half | None = None) -> Self:
        """Make a data set of samples whose images, if they have any, are files below `root`."""
        return cls(root.resolve(), tuple(samples), partial(open_in_folder, root.resolve()), half=half)

    def inspect(
        self, samples: Iterable[Sample], *, known: Mapping[str, ImageFile], skip_bad: bool = False
    ) -> Mapping[int, ImageFile | ImageError | None]:
        """Return each sample's image by sample id, None without one. Blocking: reads every image's header.

        `known` maps an `image_path` to what an earlier run found there. All bad images are found
        before one `ImageError` names them; with `skip_bad` each is the value of its samples instead.
        """
        chosen = tuple(samples)
        paths = {sample.id: sample.image_path for sample in chosen}
        used = (path for path in paths.values() if path is not None)
        by_path = inspect_images(self.open_image, used, known=known)
        images = {each: None if path is None else by_path[path] for each, path in paths.items()}
        bad = {sample_id: each for sample_id, each in images.items() if isinstance(each, ImageError)}
        if bad and not skip_bad:
            first, reason = next(iter(bad.items()))
            raise ImageError(
                f"The image cannot be used in {len(bad)} of {len(images)} rows, instruction_id "
                f"{first_of(list(bad), SHOWN_IDS)}. Row with instruction_id {first}: {reason.message}. "
                "Mend them, or go on without them: --skip-bad-images.",
                detail=reason.detail,
            ) from reason
        return images

    def read(self, sample: Sample) -> bytes:
        """Read the bytes of a sample's image as they are now. Blocking; raises ImageError without one."""
        if sample.image_path is None:
            raise ImageError("the sample has no image")
        return read_image(self.open_image, sample.image_path)


@dataclass(frozen=True, slots=True)
class PublishedSet:
    """A published data set, or a half of it, that an entry point names: called with a folder, it reads that.

    `rows` is how many were published, None where nobody here has counted them. `get` says what to do for a
    copy. `read` gives the samples of a folder, to which their image paths are relative.
    """

    title: str
    half: Half
    rows: int | None
    licence: str
    get: str
    read: Callable[[Path], Iterable[Sample]]

    def __call__(self, root: Path) -> Dataset:
        """Read a copy. Raises DatasetError with file and row."""
        return Dataset.in_folder(root, self.read(root), half=self.half)


def how_to_get(name: str) -> str:
    """Say how a copy of a data set is had, by its name. Raises ConfigError for one that nobody brings."""
    found = load(_entry_point(name), f"its data set {name}")
    return found.get if isinstance(found, PublishedSet) else f"DIR is a folder with a copy of {name}."


def load_named(name: str, root: Path | DataFiles) -> Dataset:
    """Load the data set of this name from a copy of it. Raises ConfigError for a name that nobody brings."""
    read: Callable[[Path | DataFiles], Dataset] = load(_entry_point(name), f"its data set {name}")
    try:
        dataset = read(root)
        ids = {each.id for each in dataset.samples if type(each.id) is int and 0 <= each.id <= MAX_ID}
    except VlsbError:
        raise
    except Exception as error:
        if lack := machine_lack(error):
            raise lack from error
        reason = f" {error.filename}: {error.strerror}" if isinstance(error, OSError) else ""
        raise DatasetError(
            f"{root} cannot be read as the data set {name}: {type(error).__name__}{reason}. "
            "Is it a whole copy?"
        ) from error
    if not ids or len(ids) < len(dataset.samples):
        raise DatasetError(
            f"The data set {name} in {root} needs samples, each with an id of its own: a whole number from 0."
        )
    return dataset


def _entry_point(name: str) -> EntryPoint:
    points = {each.name: each for each in reversed(entry_points(ENTRY_POINTS))}
    if name not in points or not DATASET_NAME.fullmatch(name):
        raise ConfigError(f"--dataset {name}: no such data set. Installed are {', '.join(sorted(points))}.")
    return points[name]


def named_root(name: str) -> Path | None:
    """Return where a data set lies that is part of this package, None for any other.

    Raises ConfigError for a name that nobody brings.
    """
    if name != VLSBENCH:
        _entry_point(name)
    return mini_root() if name == MINI else None


def load_dataset(root: Path | DataFiles, *, cache: Path | None = None) -> Dataset:
    """Load the samples of `root`; raises `DatasetError` with one line that names file and row.

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
            dataset = load_dataset_files(**unpack(shards, cache or user_cache())._asdict())
            return replace(dataset, root=root.resolve())
        return Dataset.in_folder(root, load_rows(rows))
    except OSError as error:
        raise unreadable(root, error) from error


def load_dataset_files(*, rows: Path, archive: Path) -> Dataset:
    """Load the samples of a `data.json` and an archive, wherever the two lie; either may be a link."""
    return Dataset(archive.resolve().parent, load_rows(rows), scan(archive).open_image, archive.absolute())


def user_cache() -> Path:
    """Return where unpacked images are kept: `vlsb` below XDG_CACHE_HOME or ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    # As the specification has it, a relative value counts as none.
    return (Path(home) if home.startswith("/") else Path.home() / ".cache") / "vlsb"


def require_dataset(root: Path, name: str = VLSBENCH) -> None:
    """Raise DatasetError where `root` cannot hold the data set of this name, without opening a file."""
    try:
        if not root.is_dir():
            problem = "is not a folder" if root.exists() else "does not exist"
            what = LAYOUTS if name in (VLSBENCH, MINI) else f"a folder with a copy of {name}"
            raise DatasetError(f"{root} {problem}. Pass {what}.")
        if name not in (VLSBENCH, MINI):
            return
        if not (root / ROWS_FILE).exists() and not shard_paths(root):
            only = f", only {ARCHIVE_FILE}" if (root / ARCHIVE_FILE).exists() else ""
            raise DatasetError(f"{root} has no {ROWS_FILE}{only}. Pass {LAYOUTS}.")
    except OSError as error:
        raise unreadable(root, error) from error


class Fetched(NamedTuple):
    """The data set in the Hub's cache. `files` is what `load_dataset` takes; `revision` is a commit."""

    files: DataFiles
    revision: str
    repository: str


def fetch_dataset(*, revision: str | None, offline: bool, on_progress: OnProgress = ignore) -> Fetched:
    """Download `data.json` and `imgs.tar` of a revision (2.5 GB), or find them in the cache. Blocking.

    Without `revision` the newest is taken. Raises DatasetError, AuthenticationError or StoreError. What is
    cached is used when the Hub cannot be reached. `on_progress` is not always called from this thread.
    """
    command = f"vlsb data fetch --revision {revision}" if revision else "vlsb data fetch"
    advice = f"With a network, run: {command}. Or pass --data-root DIR with a copy."
    repository = Repository(HUB_REPOSITORY, revision, advice, is_dataset=True, error=DatasetError)
    needed = (ROWS_FILE, ARCHIVE_FILE)
    folder = repository.fetch(needed, offline=offline, on_progress=on_progress).folder
    # The names in a snapshot are links; what they lead to is what is read.
    files = DataFiles((folder / ROWS_FILE).resolve(), (folder / ARCHIVE_FILE).resolve())
    return Fetched(files, folder.name, HUB_REPOSITORY)
