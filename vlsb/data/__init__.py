"""Data sets, VLSBench first: rows, images, selection, check, download, and the embedded mini set.

The room owns what a sample is and which images may be read. It writes nowhere but in caches, reaches
no network but through the Hugging Face library, and knows nothing of runs; the image decoder, pyarrow
and that library are imported only where they are used.
"""

from vlsb.data.check import (
    BadImage,
    DatasetCounts,
    DatasetReport,
    MisnamedImage,
    NameCount,
    PairCount,
    SourceCount,
    check_dataset,
)
from vlsb.data.dataset import (
    HUB_REPOSITORY,
    MINI,
    DataFiles,
    Dataset,
    Fetched,
    PublishedSet,
    fetch_dataset,
    how_to_get,
    load_dataset,
    load_dataset_files,
    load_named,
    named_root,
    require_dataset,
)
from vlsb.data.image_files import media_type, thumbnail_webp, write_on_image
from vlsb.data.mini import mini_root
from vlsb.data.samples import Positions, Selection, Share, image_place, parse_limit, select

__all__ = [
    "HUB_REPOSITORY",
    "MINI",
    "BadImage",
    "DataFiles",
    "Dataset",
    "DatasetCounts",
    "DatasetReport",
    "Fetched",
    "MisnamedImage",
    "NameCount",
    "PairCount",
    "Positions",
    "PublishedSet",
    "Selection",
    "Share",
    "SourceCount",
    "check_dataset",
    "fetch_dataset",
    "how_to_get",
    "image_place",
    "load_dataset",
    "load_dataset_files",
    "load_named",
    "media_type",
    "mini_root",
    "named_root",
    "parse_limit",
    "require_dataset",
    "select",
    "thumbnail_webp",
    "write_on_image",
]
