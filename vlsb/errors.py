"""Everything that can go wrong, each with the exit code it ends the program with.

VlsbError                      1  a problem with one clear line, no traceback
├── ConfigError                2  the user has to change something
│   ├── UnknownModelError      2  no such model, here or at the endpoint
│   ├── UnreachableError       2  nothing answers at an address that never answered before
│   ├── SeveralErrors          2  or what all of them have
│   └── RunMismatchError       6  a resume whose settings differ; names the fields
│       └── ImageChangedError  6  an image is not the one that was sent before
├── AccessError                3  the endpoint will not serve this account
│   ├── MissingKeyError        3  names the variable, never a value
│   ├── AuthenticationError    3  401 or 403
│   └── QuotaError             3  quota, billing or spend limit: waiting does not help
├── DatasetError               2  missing or malformed data, with the row
│   └── ImageError             2  an image that cannot be used
├── GapsError                  4  the run ended with samples that lack a verdict; resumable
│   ├── LimitReachedError      4  what may be spent, of money or requests, is spent
│   └── OutageError            4  the endpoint kept failing and the run stopped waiting for it
├── StoreError                 5  a damaged run file (path and line) or a disk that takes no more
│   └── RunLockedError         6  another process writes this run
├── MachineError               5  this machine gave no more memory, files or threads
├── ServerError                7  a local server could not be started or kept running
│   ├── EngineMissingError     7  no engine to start it with; has the command that installs one
│   ├── ServerExitedError      7  it ended by itself: the cause, or the end of its log
│   └── ServerTimeoutError     7  it was not ready in time; says what it was doing
└── InterruptedRunError      130  Ctrl-C, SIGTERM or SIGHUP

Samples that fail on their own do not raise: they end as a `Failure` record (`vlsb.records`).
"""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlsb.records import Untrusted


def first_of(names: Sequence[object], most: int, *, separator: str = ", ") -> str:
    """Return the first `most` of these, and how many others there are: `a, b and 3 more`."""
    rest = len(names) - most
    last_joint = " and" if separator == ", " else f"{separator}and"
    return separator.join(map(str, names[:most])) + (f"{last_joint} {rest:,} more" if rest > 0 else "")


class VlsbError(Exception):
    """A problem the user can read and act on: one line, no traceback.

    `message` is ours and safe to print. `detail` is what a stranger said about it (an endpoint's
    error text, a row of the data set); only an encoder may print it. `advice` is what to do, said last.
    """

    exit_code = 1

    def __init__(self, message: str, *, detail: Untrusted | None = None, advice: str = "") -> None:
        super().__init__(f"{message}. {advice}" if advice else message)
        self.message = message
        self.detail = detail
        self.advice = advice


class ConfigError(VlsbError):
    """A setting, option or endpoint address that the user has to change."""

    exit_code = 2


class UnknownModelError(ConfigError):
    """No model of that name, in our table or at the endpoint."""


class UnreachableError(ConfigError):
    """Nothing answers at an endpoint's address, and nothing did before."""


class RunMismatchError(ConfigError):
    """A resume whose settings differ from those the run was started with."""

    exit_code = 6


class OtherJudgeError(RunMismatchError):
    """A resume that differs in the judge alone: `vlsb judge` adds that one beside the run's own."""


class SeveralErrors(ConfigError):
    """Independent problems that were found together; ends with the code that all have, else with 2."""

    def __init__(self, errors: Sequence[VlsbError]) -> None:
        super().__init__("\n".join(map(str, errors)))
        self.errors = tuple(errors)
        codes = {error.exit_code for error in errors}
        self.exit_code = codes.pop() if len(codes) == 1 else ConfigError.exit_code


class ImageChangedError(RunMismatchError):
    """An image is not the one that the run sent before; names sample and file."""


class AccessError(VlsbError):
    """The endpoint will not serve this account; nothing finished is lost."""

    exit_code = 3


class MissingKeyError(AccessError):
    """An API key variable that is not set; the message names the variable."""


class AuthenticationError(AccessError):
    """The endpoint refused the key (401 or 403): the other requests would fail too."""


class QuotaError(AccessError):
    """Quota, billing or spend limit reached: waiting does not help."""


class DatasetError(VlsbError):
    """Missing or malformed data; the message names the row."""

    exit_code = 2


class ImageError(DatasetError):
    """An image that cannot be used: missing, broken, too large or of an unknown kind."""


class GapsError(VlsbError):
    """More samples lack a verdict than `--fail-on-error` allows; the run can be resumed."""

    exit_code = 4


class LimitReachedError(GapsError):
    """What may be spent, of money or of requests, is spent."""


class OutageError(GapsError):
    """The endpoint kept failing, and the run stopped waiting for it."""


# What helps against a system call that failed on a file.
_DISK_ADVICE = {
    errno.ENOSPC: "Free some space there.",
    errno.EDQUOT: "Free some space there, or raise your quota.",
    errno.EFBIG: "Raise the limit on the size of a file (`ulimit -f`).",
    errno.EIO: "Check the disk.",
    errno.EROFS: "Make the disk writable.",
    errno.EACCES: "Check the permissions.",
    errno.EPERM: "Check the permissions.",
}


class StoreError(VlsbError):
    """A damaged run file or a disk that takes no more."""

    exit_code = 5

    @classmethod
    def of(cls, what: str, error: OSError) -> StoreError:
        """`what` could not be done to a file, with what helps against the reason."""
        advice = _DISK_ADVICE.get(error.errno or 0, "Check the disk and the permissions.")
        return cls(f"{what} ({error.strerror})", advice=advice)


class RunLockedError(StoreError):
    """Another process is writing this run."""

    exit_code = 6


class MachineError(VlsbError):
    """This machine gave no more memory, open files or threads: no model, image or run has a part in it."""

    exit_code = 5


# Several addresses that failed alike are one error without a number of its own.
_NUMBER = re.compile(r"\[Errno (\d+)\]")
_NO_MEMORY = ("can't allocate", "cannot allocate memory", "failed to map segment", "out of memory")


def machine_lack(error: BaseException | None) -> MachineError | None:
    """Name what this machine had too little of, if that is at the bottom of an error; else None."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, MachineError):
            return each
        if lack := _lack(each):
            return lack
        inner = each.exceptions if isinstance(each, BaseExceptionGroup) else ()
        waiting += [*inner, each.__context__, each.__cause__]
    return None


def _lack(error: BaseException) -> MachineError | None:
    number = None
    if isinstance(error, OSError):
        match = _NUMBER.search(str(error)) if error.errno is None else None
        number = int(match[1]) if match else error.errno
    text = str(error).lower() if isinstance(error, ImportError) else ""
    if isinstance(error, MemoryError) or number == errno.ENOMEM or any(each in text for each in _NO_MEMORY):
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit == resource.RLIM_INFINITY:
            return MachineError(
                "This machine has no more memory to give", advice="Close other programs on it."
            )
        return MachineError(
            f"This process may take {limit // 2**20:,} MiB of memory and got no more",
            advice="Raise the limit (`ulimit -v`).",
        )
    if number == errno.EMFILE:
        return too_few_files("no more could be opened")
    if number == errno.ENFILE:
        return MachineError("All processes of this machine have as many files open as it allows together")
    if isinstance(error, RuntimeError) and str(error) == "can't start new thread":
        return MachineError(
            "This machine started no more threads",
            advice="Raise the limits on memory and processes (`ulimit -v`, `ulimit -u`), or the container's.",
        )
    return None


def too_few_files(what: str) -> MachineError:
    """Make the error for `what` the limit on open files makes impossible."""
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MachineError(
        f"This process may have {limit:,} files and connections open at once, and {what}",
        advice="Raise the limit (`ulimit -n`).",
    )


class ServerError(VlsbError):
    """A local server could not be installed, started or kept running."""

    exit_code = 7


class EngineMissingError(ServerError):
    """No engine for a family here; the message has the one command that makes it ready."""


class ServerExitedError(ServerError):
    """The server ended by itself; says the recognised cause, or shows the end of the log."""


class ServerTimeoutError(ServerError):
    """The server was not ready in time; says what it was doing."""


class InterruptedRunError(VlsbError):
    """The user (or the system) asked the run to stop."""

    exit_code = 130
