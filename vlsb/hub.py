"""What the data set and checkpoints alike need of the hub's library: silence, progress, faults in our words.

The library is heavy and reads its variables when it is imported: inside the functions here.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging import ERROR
from typing import Any


def bar_class(report: Callable[[int, int | None], None]) -> Any:
    """What the library takes for a class of `tqdm` bars: it reports bytes and draws nothing."""

    class Bar:
        def __init__(self, *, total: int | None = None, initial: int = 0, **_: object) -> None:
            self.n = initial
            self.total = total
            self.update(0)

        def update(self, count: float) -> None:
            self.n += int(count)
            report(self.n, self.total)

        def __getattr__(self, name: str) -> Callable[..., None]:
            """Everything else is for a drawn bar."""
            if name.startswith("__"):
                raise AttributeError(name)
            return lambda *_, **__: None

        # With these two the library keeps one bar a file, not one more for what is still compressed.
        def update_transfer(self, count: float) -> None:
            """Bytes on the wire; those written are what is shown."""

        def set_transfer_postfix_str(self, *_: object, **__: object) -> None:
            """The rate on the wire, for a drawn bar."""

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None:
            """For a drawn bar."""

    return Bar


@contextmanager
def quiet() -> Iterator[None]:
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
    """Whether the hub could not be reached, or is not well: what is cached may be used then."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500 or error.response.status_code == 429
    is_of_http_stack = type(error).__module__.split(".")[0] in ("httpx", "httpcore")
    return is_of_http_stack or isinstance(error, LocalEntryNotFoundError | ConnectionError | TimeoutError)


def reason(error: BaseException) -> str:
    """What went wrong in words of ours or the system's, never the server's."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if isinstance(error, LocalEntryNotFoundError) and error.__cause__:
        return reason(error.__cause__)
    if isinstance(error, HfHubHTTPError):
        return f"HTTP {error.response.status_code}"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return type(error).__name__
