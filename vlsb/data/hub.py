"""VLSBench from the Hugging Face hub, through the hub's own library and cache.

`HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` are the library's, which reads them when it is
imported: inside the functions here. A broken connection is resumed where it broke; a
file whose download was killed starts anew, because the library keeps no partial file.
"""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import NamedTuple, NoReturn

from vlsb.data.archive import ARCHIVE_FILE
from vlsb.data.dataset import DataFiles
from vlsb.data.rows import ROWS_FILE
from vlsb.errors import AuthenticationError, DatasetError, StoreError, VlsbError
from vlsb.hub import bar_class, is_connection_fault, quiet, reason
from vlsb.steps import OnProgress, Step, ignore

HUB_REPOSITORY = "Foreshhh/vlsbench"
DEFAULT_REVISION = "main"
FETCH_COMMAND = "vlsb data fetch"
PROBE_TIMEOUT_S = 10.0

_COMMIT = re.compile(r"[0-9a-f]{40}")
_OTHERWISE = "Or pass --data-root DIR with a copy."


class Fetched(NamedTuple):
    """The data set in the hub's cache. `files` is what `load_dataset` takes; `revision` is a commit."""

    files: DataFiles
    revision: str
    repository: str


def fetch_dataset(*, revision: str | None, offline: bool, on_progress: OnProgress = ignore) -> Fetched:
    """Download `data.json` and `imgs.tar` of a revision, or find them in the cache. Blocking.

    Without `revision` the newest is taken. What is cached is used when the hub cannot be reached.
    `on_progress` is called often, and not always from the calling thread.
    """
    asked = revision or DEFAULT_REVISION
    with quiet():
        if offline or _is_switched_off():
            return _cached(asked) or _refuse_offline(asked)
        if _COMMIT.fullmatch(asked) and (cached := _cached(asked)):
            return cached
        try:
            return _downloaded(asked, on_progress)
        # The library lets the errors of its HTTP stack out, which only the transport room may know by name.
        except Exception as error:
            if is_connection_fault(error) and (cached := _cached(asked)):
                return cached
            if known := _translated(error, asked):
                raise known from error
            raise


def _is_switched_off() -> bool:
    from huggingface_hub import constants

    return constants.is_offline_mode()


def _cached(revision: str) -> Fetched | None:
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return _fetched(revision, offline=True, on_progress=ignore)
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def _refuse_offline(revision: str) -> NoReturn:
    from huggingface_hub import constants

    pinned = "" if revision == DEFAULT_REVISION else f" --revision {revision}"
    raise DatasetError(
        f"VLSBench at revision {revision!r} is not in the cache of the Hugging Face Hub "
        f"({constants.HF_HUB_CACHE}). With a network, run: {FETCH_COMMAND}{pinned}. {_OTHERWISE}"
    )


def _downloaded(revision: str, on_progress: OnProgress) -> Fetched:
    from huggingface_hub import HfApi

    # It fails at once where `hf_hub_download` would retry for half a minute, and with the better reason.
    HfApi().dataset_info(HUB_REPOSITORY, revision=revision, timeout=PROBE_TIMEOUT_S)
    return _fetched(revision, offline=False, on_progress=on_progress)


def _fetched(revision: str, *, offline: bool, on_progress: OnProgress) -> Fetched:
    rows = _file(ROWS_FILE, revision, offline, on_progress)
    # The library's path is .../snapshots/<commit>/<file>. A branch may move between the two files.
    commit = rows.parent.name
    archive = _file(ARCHIVE_FILE, commit, offline, on_progress)
    # The names in a snapshot are links; what they lead to is what is read.
    return Fetched(DataFiles(rows.resolve(), archive.resolve()), commit, HUB_REPOSITORY)


def _file(name: str, revision: str, offline: bool, on_progress: OnProgress) -> Path:
    from huggingface_hub import hf_hub_download

    path = hf_hub_download(
        HUB_REPOSITORY,
        name,
        repo_type="dataset",
        revision=revision,
        local_files_only=offline,
        tqdm_class=bar_class(lambda done, total: on_progress(Step("downloading", name, done, total))),
    )
    return Path(path)


def _translated(error: Exception, revision: str) -> VlsbError | None:
    """The one line for what the library raised, or None for what is no fault of hub, network or disk."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    where = f"{constants.ENDPOINT}/datasets/{HUB_REPOSITORY}"
    if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
        return AuthenticationError(
            f"{where}: access refused ({reason(error)}). Set HF_TOKEN to a token that may read it, or "
            f"unset a wrong one. {_OTHERWISE}"
        )
    if is_connection_fault(error):
        return DatasetError(
            f"{where} cannot be reached ({reason(error)}), and VLSBench is not in {constants.HF_HUB_CACHE}. "
            f"Try again later: {FETCH_COMMAND}. {_OTHERWISE}"
        )
    if isinstance(error, UserWarning) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(
            f"no room for VLSBench (2.5 GB) in {constants.HF_HUB_CACHE}. Make room, or set HF_HOME to "
            "another folder."
        )
    if lacking := _lacking(error, revision):
        return DatasetError(f"{where} {lacking} {_OTHERWISE}")
    if isinstance(error, OSError):
        return DatasetError(f"{where}: the download failed ({reason(error)}). Start again: {FETCH_COMMAND}.")
    return None


def _lacking(error: Exception, revision: str) -> str | None:
    """What the hub says is not there, most specific first."""
    from huggingface_hub import errors

    if isinstance(error, errors.RevisionNotFoundError | errors.HFValidationError):
        return f"has no revision {revision!r}. Leave it out for the newest."
    if isinstance(error, errors.EntryNotFoundError):
        return f"has no {ROWS_FILE} or no {ARCHIVE_FILE} at revision {revision!r}."
    if isinstance(error, errors.RepositoryNotFoundError):
        return "does not exist. Check HF_ENDPOINT."
    return None
