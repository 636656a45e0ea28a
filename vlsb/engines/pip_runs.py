"""Pip as a child process: what it does is told, its log is kept, its failure is put in words.

Whoever dies, no pip goes on writing: the kernel kills it with us, and until it has gone it holds the lock.
"""

from __future__ import annotations

import ast
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlsb.endpoints.credentials import engine_environment, index_secrets
from vlsb.errors import ServerError
from vlsb.records import Untrusted

# Asks the kernel to be killed with its parent, makes sure that this is still there, and becomes the program.
# As `preexec_fn` it would run in the fork of a process that may have threads.
_FOLLOW = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); "
    "os.getppid() == int(sys.argv[1]) or os._exit(1); os.execv(sys.argv[2], sys.argv[2:])"
)
_LINES_KEPT = 400
_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
_DOWNLOAD = re.compile(r"\s*(?:Downloading|Using cached|Processing) (\S+)(?: \(.*)?")
_WHEEL = re.compile(r"(?:.*/)?([^/-]+)-([^/-]+)-[^/]+\.whl")
_COLLECTING = re.compile(r"\s*Collecting (\S+).*")
_INSTALLING = re.compile(r"Installing collected packages: (.*)")
_SETTING = re.compile(r"(?P<section>global|install|:env:)\.(?P<name>[a-z-]+)=(?P<value>'.*'|\".*\")")
# Where packages come from, and how the way there is. Others (user, target, prefix, dry-run ...) are meant for
# the user's own installs: in an environment of ours they install elsewhere, nothing, or fail.
_KEPT_SETTINGS = frozenset(
    {
        "cache-dir",
        "cert",
        "client-cert",
        "constraint",
        "default-timeout",
        "extra-index-url",
        "find-links",
        "index-url",
        "keyring-provider",
        "no-cache-dir",
        "no-index",
        "proxy",
        "resume-retries",
        "retries",
        "timeout",
        "trusted-host",
        "use-deprecated",
        "use-feature",
    }
)
_SETTINGS_PATIENCE_S = 60.0
_LONGEST_SAID = 400


@dataclass(frozen=True, slots=True)
class News:
    """What pip is doing, in words that hold a package's or a file's name; bytes while it downloads."""

    doing: str
    done_bytes: int | None = None
    total_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended (negative: by that signal), and the end of what it said."""

    code: int
    lines: tuple[str, ...]


class Bench:
    """Runs the commands of one install, one after the other, all into one log.

    `lock` is a file descriptor that each of them inherits.
    """

    def __init__(self, log: Path, environment: Mapping[str, str], lock: int) -> None:
        self.log = log
        self._users = environment
        self._environment = install_environment(environment)
        self._lock = lock

    def run(
        self,
        arguments: Sequence[str],
        *,
        hear: Callable[[str], None] = lambda line: None,
        timeout_s: float = 24 * 3600.0,
        variables: Mapping[str, str] | None = None,
    ) -> Ended:
        """Run one command to its end, with `variables` added to its environment; `hear` gets each line.

        It is killed when its time is over, and gone whichever way this is left.
        """
        kept: deque[str] = deque(maxlen=_LINES_KEPT)
        with self.log.open("a", encoding="utf-8") as log, self._start(arguments, variables or {}) as process:
            log.write(f"$ {' '.join(arguments)}\n")
            late = threading.Timer(timeout_s, _kill, [process.pid])
            late.start()
            try:
                assert process.stdout is not None
                for raw in process.stdout:
                    line = raw.decode("utf-8", "replace").rstrip()
                    hear(line)
                    if not _PROGRESS.fullmatch(line):
                        kept.append(line)
                        log.write(f"{line}\n")
                # Without collecting it: as long as it is there, its number is nobody else's.
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            finally:
                late.cancel()
                late.join()
                _kill(process.pid)
        return Ended(process.returncode, tuple(kept))

    def pip_settings(self, python: Path) -> dict[str, str]:
        """The user's settings for the pip of an environment; see `pip_settings`."""
        return pip_settings(python, self._users)

    def _start(self, arguments: Sequence[str], variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _FOLLOW, str(os.getpid()), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**self._environment, **variables},
            cwd=self.log.parent,
            # Ctrl-C on the terminal is ours to hear.
            start_new_session=True,
            pass_fds=(self._lock,),
        )


def install_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The user's environment without secrets and without Python's and pip's own settings."""
    kept = engine_environment(environment, asks_hub=False)
    return {name: value for name, value in kept.items() if not name.startswith(("PYTHON", "PIP_"))}


def pip_settings(python: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables for pip: what we keep of the user's settings in files and environment, and index secrets.

    They may hold passwords: they are neither shown nor logged. Raises ServerError where pip cannot read them.
    """
    # `user`, `global` and `site` make it list one file of several, `quiet` none, and `python` another's.
    plain = dict.fromkeys(("PIP_USER", "PIP_GLOBAL", "PIP_SITE", "PIP_QUIET", "PIP_VERBOSE"), "0")
    own = {**environment, **plain, "PIP_PYTHON": ""}
    command = [str(python), "-I", "-X", "utf8", "-m", "pip", "--python=", "config", "list"]
    try:
        asked = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, env=own, timeout=_SETTINGS_PATIENCE_S
        )
        asked.check_returncode()
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerError(f"{python}: its pip does not say its settings.") from error
    except subprocess.CalledProcessError as error:
        said = Untrusted(error.stderr.decode("utf-8", "replace").strip()[-_LONGEST_SAID:])
        raise ServerError(
            "pip cannot read its settings (`pip config debug` lists them)", detail=said
        ) from None
    found = [_SETTING.fullmatch(line) for line in asked.stdout.decode("utf-8", "replace").splitlines()]
    kept = [each for each in found if each and each["name"] in _KEPT_SETTINGS]
    # Later ones win.
    settings = {**index_secrets(environment), "PIP_CONFIG_FILE": os.devnull}
    for section in ("global", "install", ":env:"):
        settings |= {
            f"PIP_{each['name'].upper().replace('-', '_')}": str(ast.literal_eval(each["value"]))
            for each in kept
            if each["section"] == section
        }
    return settings


def pip_news(line: str, before: News) -> News:
    """What pip is doing after this line of its output."""
    if found := _PROGRESS.fullmatch(line):
        return News(before.doing, int(found[1]), int(found[2]))
    if found := _DOWNLOAD.fullmatch(line):
        # Metadata are small and many: the package's name stays.
        wheel = _WHEEL.fullmatch(found[1])
        return News(f"{wheel[1]} {wheel[2]}") if wheel else before
    if found := _COLLECTING.fullmatch(line):
        return News(f"resolving {found[1]}")
    if found := _INSTALLING.fullmatch(line):
        count = found[1].count(",") + 1
        return News(f"unpacking {count} package{'s' if count > 1 else ''}")
    return before


def is_unmatched(ended: Ended) -> bool:
    """Whether pip found no fitting version: another Python may have one."""
    said = "\n".join(ended.lines)
    return bool(_UNMATCHED.search(said)) and not any(each.search(said) for each, _ in _FAULTS)


def pip_fault(ended: Ended) -> str:
    """Why pip failed and what to do, in words of ours."""
    said = "\n".join(ended.lines)
    for pattern, words in _FAULTS:
        if pattern.search(said):
            return words
    if found := _UNMATCHED.search(said):
        wanted = found[1] or found[2] or "what the engine requires"
        hint = _LOCAL_BUILD if "+" in wanted else "It may have been withdrawn, or pip's settings hide it."
        return f"pip finds no version of {wanted[:80]} that fits. {hint}"
    if ended.code == -signal.SIGKILL:
        return "pip was killed; this machine may be short of memory."
    return f"pip failed (exit code {ended.code})."


_UNMATCHED = re.compile(
    r"No matching distribution found for ([^\s;]+)|Cannot install ([^\s;,]+)|ResolutionImpossible"
    r"|requires a different Python"
)
_LOCAL_BUILD = (
    "Builds for the CPU are kept beside the usual package index: name the folder (find-links) or the index "
    "(extra-index-url) that has them in pip's settings."
)
_FAULTS = (
    (
        re.compile(r"No space left on device|Disk quota exceeded|\[Errno (?:28|122)\]"),
        "the disk is full. Make room where the engines, pip's cache (PIP_CACHE_DIR) and temporary files "
        "(TMPDIR) are.",
    ),
    (
        re.compile(r"CERTIFICATE_VERIFY_FAILED|SSLError|SSL: "),
        "the package index's certificate is not trusted here. Give pip the right one (PIP_CERT).",
    ),
    (
        re.compile(r"\b(?:401|403|407) (?:Client )?Error|Unauthorized|Proxy Authentication Required"),
        "the package index or a proxy refuses access. Check pip's settings.",
    ),
    (
        re.compile(
            r"Retry\(total=0|Max retries exceeded|Read timed out|NewConnectionError|ConnectTimeoutError"
            r"|Temporary failure in name resolution|Connection (?:reset|aborted|refused)|IncompleteRead"
        ),
        "the package index cannot be reached. Check the network and pip's settings (index, proxy).",
    ),
    (
        re.compile(
            r"DO NOT MATCH THE HASHES|BadZipFile|is not a (?:supported|valid) wheel|has an invalid wheel"
        ),
        "a download is damaged. Empty pip's cache (pip cache purge).",
    ),
    (
        re.compile(r"Permission denied|\[Errno 13\]|Read-only file system"),
        "a folder cannot be written.",
    ),
)


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
