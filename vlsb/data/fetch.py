"""VLSBench from the Hugging Face Hub: its two files at one commit, in the Hub's own cache."""

from __future__ import annotations

from typing import NamedTuple

from vlsb.data.archive import ARCHIVE_FILE
from vlsb.data.dataset import DataFiles
from vlsb.data.rows import ROWS_FILE
from vlsb.errors import DatasetError
from vlsb.hub import Repository
from vlsb.steps import OnProgress, ignore

HUB_REPOSITORY = "Foreshhh/vlsbench"


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
