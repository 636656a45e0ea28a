"""VLSBench from the Hugging Face hub, through the hub's own library and cache.

`HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` are the library's, which reads them when it is
imported: inside the functions here, and nowhere else. A broken connection is resumed where it broke; a
file whose download was killed starts anew, because the library keeps no partial file.
"""

from __future__ import annotations

import errno
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from logging import ERROR
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from vlsb.data.archive import ARCHIVE_FILE
from vlsb.data.dataset import DataFiles
from vlsb.data.rows import ROWS_FILE
from vlsb.errors import AuthenticationError, DatasetError, StoreError, VlsbError

HUB_REPOSITORY = "Foreshhh/vlsbench"
DEFAULT_REVISION = "main"
FETCH_COMMAND = "vlsb data fetch"
PROBE_TIMEOUT_S = 10.0

_COMMIT = re.compile(r"[0-9a-f]{40}")
_OTHERWISE = "Or pass --data-root DIR with a copy."


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """How far one file is; `total_bytes` is None until the hub has said it."""

    file: str
    done_bytes: int
    total_bytes: int | None


class Fetched(NamedTuple):
    """The data set in the hub's cache. `files` is what `load_dataset` takes; `revision` is a commit."""

    files: DataFiles
    revision: str
    repository: str


def fetch_dataset(
    *, revision: str | None, offline: bool, progress: Callable[[FetchProgress], None]
) -> Fetched:
    """Download `data.json` and `imgs.tar` of a revision, or find them in the cache. Blocking.

    Without `revision` the newest is taken. What is cached is used when the hub cannot be reached. `progress`
    is called often, and not always from the calling thread.
    """
    asked = revision or DEFAULT_REVISION
    with _quiet():
        if offline or _is_switched_off():
            return _cached(asked) or _refuse_offline(asked)
        if _COMMIT.fullmatch(asked) and (cached := _cached(asked)):
            return cached
        try:
            return _downloaded(asked, progress)
        # The library lets the errors of its HTTP stack out, which only the transport room may know by name.
        except Exception as error:
            if _is_connection_fault(error) and (cached := _cached(asked)):
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
        return _fetched(revision, offline=True, progress=lambda _: None)
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def _refuse_offline(revision: str) -> NoReturn:
    from huggingface_hub import constants

    pinned = "" if revision == DEFAULT_REVISION else f" --revision {revision}"
    raise DatasetError(
        f"VLSBench at revision {revision!r} is not in the hub's cache ({constants.HF_HUB_CACHE}), and the "
        f"hub is switched off. With a network, run: {FETCH_COMMAND}{pinned}. {_OTHERWISE}"
    )


def _downloaded(revision: str, progress: Callable[[FetchProgress], None]) -> Fetched:
    from huggingface_hub import HfApi

    # It fails at once where `hf_hub_download` would retry for half a minute, and with the better reason.
    HfApi().dataset_info(HUB_REPOSITORY, revision=revision, timeout=PROBE_TIMEOUT_S)
    return _fetched(revision, offline=False, progress=progress)


def _fetched(revision: str, *, offline: bool, progress: Callable[[FetchProgress], None]) -> Fetched:
    rows = _file(ROWS_FILE, revision, offline, progress)
    # The library's path is .../snapshots/<commit>/<file>. A branch may move between the two files.
    commit = rows.parent.name
    archive = _file(ARCHIVE_FILE, commit, offline, progress)
    # The names in a snapshot are links; what they lead to is what is read.
    return Fetched(DataFiles(rows.resolve(), archive.resolve()), commit, HUB_REPOSITORY)


def _file(name: str, revision: str, offline: bool, progress: Callable[[FetchProgress], None]) -> Path:
    from huggingface_hub import hf_hub_download

    path = hf_hub_download(
        HUB_REPOSITORY,
        name,
        repo_type="dataset",
        revision=revision,
        local_files_only=offline,
        tqdm_class=_bar_class(name, progress),
    )
    return Path(path)


def _bar_class(file: str, progress: Callable[[FetchProgress], None]) -> Any:
    """What the library takes for a class of `tqdm` bars: it reports, and draws nothing."""

    class Bar:
        def __init__(self, *, total: int | None = None, initial: int = 0, **_: object) -> None:
            self.n = initial
            self.total = total
            self.update(0)

        def update(self, count: float) -> None:
            self.n += int(count)
            progress(FetchProgress(file, self.n, self.total))

        # With these two the library keeps one bar a file, not one more for what is still compressed.
        def update_transfer(self, count: float) -> None:
            """Bytes on the wire; those written are what is shown."""

        def set_transfer_postfix_str(self, *_: object, **__: object) -> None:
            """The rate on the wire, for a drawn bar."""

        def set_postfix_str(self, *_: object, **__: object) -> None:
            """The rate, for a drawn bar."""

        def refresh(self, *_: object, **__: object) -> None:
            """For a drawn bar."""

        def close(self) -> None:
            """For a drawn bar."""

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None:
            """For a drawn bar."""

    return Bar


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's own lines off the screen, and make its warning of a full disk an error."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity(ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", message="Not enough free disk space")
            yield
    finally:
        logging.set_verbosity(before)


def _is_connection_fault(error: Exception) -> bool:
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500 or error.response.status_code == 429
    is_of_http_stack = type(error).__module__.split(".")[0] in ("httpx", "httpcore")
    return is_of_http_stack or isinstance(error, LocalEntryNotFoundError | ConnectionError | TimeoutError)


def _translated(error: Exception, revision: str) -> VlsbError | None:
    """The one line for what the library raised, or None for what is no fault of hub, network or disk."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    where = f"{constants.ENDPOINT}/datasets/{HUB_REPOSITORY}"
    if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
        return AuthenticationError(
            f"{where}: access refused ({_reason(error)}). Set HF_TOKEN to a token that may read it, or "
            f"unset a wrong one. {_OTHERWISE}"
        )
    if _is_connection_fault(error):
        return DatasetError(
            f"{where} cannot be reached ({_reason(error)}), and VLSBench is not in {constants.HF_HUB_CACHE}. "
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
        return DatasetError(f"{where}: the download failed ({_reason(error)}). Start again: {FETCH_COMMAND}.")
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


def _reason(error: BaseException) -> str:
    """What went wrong in words of ours or the system's, never the server's."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if isinstance(error, LocalEntryNotFoundError) and error.__cause__:
        return _reason(error.__cause__)
    if isinstance(error, HfHubHTTPError):
        return f"HTTP {error.response.status_code}"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return type(error).__name__
