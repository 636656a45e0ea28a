"""VLSBench in all its layouts: rows, images, selection, check, download, and the embedded mini set.

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
from vlsb.data.dataset import DataFiles, Dataset, load_dataset, load_dataset_files, require_dataset
from vlsb.data.fetch import HUB_REPOSITORY, Fetched, fetch_dataset
from vlsb.data.image_files import media_type, thumbnail_webp, write_on_image
from vlsb.data.mini import mini_root
from vlsb.data.selection import Positions, Selection, Share, parse_limit, select

__all__ = [
    "HUB_REPOSITORY",
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
    "Selection",
    "Share",
    "SourceCount",
    "check_dataset",
    "fetch_dataset",
    "load_dataset",
    "load_dataset_files",
    "media_type",
    "mini_root",
    "parse_limit",
    "require_dataset",
    "select",
    "thumbnail_webp",
    "write_on_image",
]
