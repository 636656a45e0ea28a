"""The Hugging Face Hub, through its own library and cache: the data set, weights, and what is cached of them.

`HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` are the library's, which is heavy and reads them
when it is imported: inside the functions here. A broken connection is resumed where it broke; a file whose
download was killed starts over, because the library keeps no partial file.
"""

from __future__ import annotations

import errno
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from logging import ERROR
from pathlib import Path
from typing import Any, NamedTuple

from vlsb.errors import AuthenticationError, ConfigError, StoreError, VlsbError
from vlsb.steps import OnProgress, Step, ignore

_PROBE_TIMEOUT_S = 10.0
_COMMIT = re.compile(r"[0-9a-f]{40}")


class Snapshot(NamedTuple):
    """A repository's files at one commit, whose name is the folder's; `sizes` in bytes of all its files.

    Without `sizes` the Hub was not asked, and must not be: it was switched off or did not answer.
    """

    folder: Path
    sizes: Mapping[str, int] | None


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository of the Hub at a revision. Its errors are of the class `error` and end with `advice`.

    Without `revision` it is the newest.
    """

    name: str
    revision: str | None
    advice: str
    is_dataset: bool = False
    error: type[VlsbError] = ConfigError

    def fetch(
        self,
        needed: Sequence[str],
        *,
        choose: Callable[[Mapping[str, int]], Iterable[str]] | None = None,
        offline: bool,
        on_progress: OnProgress = ignore,
    ) -> Snapshot:
        """Download the files needed and those that `choose` takes by name and size, or find them. Blocking.

        What is cached is used when the Hub cannot be reached; without `choose` also for a revision that is a
        commit. `on_progress` is called often, and not always from the calling thread.
        """
        from huggingface_hub import constants

        with _quiet():
            cached = self._cached_folder(needed)
            if offline or constants.is_offline_mode():
                if cached is None:
                    raise self.error(
                        f"{self.name}{self._at()} is not in the cache of the Hugging Face Hub "
                        f"({hub_cache()}), and the Hub is switched off (--offline or HF_HUB_OFFLINE). "
                        f"{self.advice}"
                    )
                return Snapshot(cached, None)
            if cached and choose is None and _COMMIT.fullmatch(self.revision or ""):
                return Snapshot(cached, None)
            try:
                return self._download(needed, choose or (lambda _: ()), on_progress)
            # The library lets the errors of its HTTP stack out, which only the transport may know by name.
            except Exception as error:
                if cached and is_connection_fault(error):
                    return Snapshot(cached, None)
                if fault := self._fault_of(error):
                    raise fault from error
                raise

    def _cached_folder(self, needed: Sequence[str]) -> Path | None:
        """Find the folder of its revision in the cache, if that has all the files needed."""
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            path = try_to_load_from_cache(
                self.name, needed[0], revision=self.revision, repo_type=self._kind()
            )
        except HFValidationError:
            return None
        # The library's path is .../snapshots/<commit>/<file>; the names there are links.
        folder = Path(path).parent if isinstance(path, str) else None
        return folder if folder and all((folder / each).exists() for each in needed) else None

    def _download(
        self, needed: Sequence[str], choose: Callable[[Mapping[str, int]], Iterable[str]], emit: OnProgress
    ) -> Snapshot:
        """Download the files that the cache lacks. Raises the library's own errors."""
        from huggingface_hub import HfApi, hf_hub_download

        # It fails at once where `hf_hub_download` would retry for half a minute, and with the better reason.
        api = HfApi()
        about = (api.dataset_info if self.is_dataset else api.model_info)(
            self.name, revision=self.revision, timeout=_PROBE_TIMEOUT_S, files_metadata=True
        )
        sizes = {each.rfilename: each.size or 0 for each in about.siblings or ()}
        for lacking in (each for each in needed if each not in sizes):
            raise self.error(f"{self._address()}{self._at()} has no {lacking}. {self.advice}")

        def fetch_file(file: str, revision: str | None) -> Path:
            bar = bar_class(
                lambda done, total: emit(
                    Step("downloading", file if self.is_dataset else f"{self.name}/{file}", done, total)
                )
            )
            kind = self._kind()
            return Path(hf_hub_download(self.name, file, revision=revision, repo_type=kind, tqdm_class=bar))

        # By the revision's own name, so that the cache knows later which commit it was. A branch may move
        # between two files, so the others are that commit's.
        folder = fetch_file(needed[0], self.revision).parent
        for file in dict.fromkeys((*needed[1:], *choose(sizes))):
            fetch_file(file, folder.name)
        return Snapshot(folder, sizes)

    def _fault_of(self, error: Exception) -> VlsbError | None:
        """Put what the library raised into one line; None if neither Hub, network nor disk is at fault."""
        from huggingface_hub import errors

        where, status = self._address(), getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(error, errors.GatedRepoError):
            return AuthenticationError(
                f"{where} is gated: accept its terms on that page, then set HF_TOKEN to a token of that "
                "account."
            )
        is_unknown = isinstance(error, errors.RevisionNotFoundError | errors.HFValidationError)
        if is_unknown and self.revision is not None:
            return self.error(f"{where} has no revision {self.revision!r}. Leave it out for the newest.")
        # The Hub says so too where a token may not read it; the data set's name is none of the user's.
        is_refused = status in (401, 403) and (
            self.is_dataset or not isinstance(error, errors.RepositoryNotFoundError)
        )
        if is_refused:
            return AuthenticationError(
                f"{where}: access refused (HTTP {status}). Set HF_TOKEN to a token that may read it, or "
                f"unset a wrong one. {self.advice}"
            )
        if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
            return self.error(
                f"{where} does not exist, or is private: check the name and HF_ENDPOINT, or set HF_TOKEN to "
                "a token that may read it."
            )
        if is_connection_fault(error):
            return self.error(
                f"{where} cannot be reached ({_reason(error)}), and it is not in {hub_cache()}. Try again "
                f"later. {self.advice}"
            )
        if isinstance(error, UserWarning) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return StoreError(
                f"no room for {self.name} in {hub_cache()}. Make room, or set HF_HOME to another folder."
            )
        if isinstance(error, OSError):
            return self.error(f"{where}: the download failed ({_reason(error)}). Start again.")
        return None

    def _kind(self) -> str:
        return "dataset" if self.is_dataset else "model"

    def _address(self) -> str:
        from huggingface_hub import constants

        return f"{constants.ENDPOINT}/{'datasets/' if self.is_dataset else ''}{self.name}"

    def _at(self) -> str:
        return f" at revision {self.revision!r}" if self.revision else ""


def hub_cache() -> Path:
    """Return the folder in which the Hub's library keeps its downloads."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def bar_class(report: Callable[[int, int | None], None]) -> Any:
    """Make a class that the library takes for one of `tqdm` bars: it reports bytes and draws nothing."""

    class Bar:
        def __init__(self, *, total: int | None = None, initial: int = 0, **_: object) -> None:
            self.n = initial
            self.total = total
            self.update(0)

        def update(self, count: float) -> None:
            self.n += int(count)
            report(self.n, self.total)

        def __getattr__(self, name: str) -> Callable[..., None]:
            """Accept any other method of a bar, and do nothing."""
            if name.startswith("__"):
                raise AttributeError(name)
            return lambda *_, **__: None

        # With these two the library keeps one bar a file, not one more for what is still compressed.
        def update_transfer(self, count: float) -> None:
            """Ignore bytes on the wire: those that are written are counted."""

        def set_transfer_postfix_str(self, *_: object, **__: object) -> None:
            """Ignore the rate on the wire: no bar is drawn."""

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None:
            """Do nothing: no bar is drawn."""

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


def is_connection_fault(error: Exception) -> bool:
    """Tell whether the Hub could not be reached or is not well, so that the cache may be used instead."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500 or error.response.status_code == 429
    is_of_http_stack = type(error).__module__.split(".")[0] in ("httpx", "httpcore")
    return is_of_http_stack or isinstance(error, LocalEntryNotFoundError | ConnectionError | TimeoutError)


def _reason(error: BaseException) -> str:
    """Say what went wrong in our words or the system's, never in the server's."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if isinstance(error, LocalEntryNotFoundError) and error.__cause__:
        return _reason(error.__cause__)
    if isinstance(error, HfHubHTTPError):
        return f"HTTP {error.response.status_code}"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return type(error).__name__
