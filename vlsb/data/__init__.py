"""VLSBench as a folder on disk: rows, pictures, selection, the check, and the embedded mini set.

The room owns what a sample is and which pictures may be read. It never opens a network connection,
never writes, and knows nothing of runs; the picture decoder is imported only where it is used.
"""

from vlsb.data.check import (
    BadPicture,
    DatasetReport,
    MisnamedPicture,
    NameCount,
    PairCount,
    SourceCount,
    check_dataset,
)
from vlsb.data.folder import Dataset, load_dataset
from vlsb.data.mini import mini_root
from vlsb.data.pictures import media_type
from vlsb.data.selection import Positions, Selection, Share, parse_limit, select

__all__ = [
    "BadPicture",
    "Dataset",
    "DatasetReport",
    "MisnamedPicture",
    "NameCount",
    "PairCount",
    "Positions",
    "Selection",
    "Share",
    "SourceCount",
    "check_dataset",
    "load_dataset",
    "media_type",
    "mini_root",
    "parse_limit",
    "select",
]
