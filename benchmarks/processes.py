"""Starting what is measured and what it is measured against, each on a core of its own.

A client's CPU time and peak memory are the kernel's own account of the finished process. The stub's
clock is the machine's monotonic one, so "first request" minus "started" is the client's start-up.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[1]
LONGEST_S = 900.0


@dataclass(frozen=True, slots=True)
class Cores:
    """Where the client runs, and where everything else does; one and the same on a machine with one."""

    client: int
    others: int

    @classmethod
    def available(cls) -> Cores:
        """The first and the last core that this process may use."""
        usable = sorted(os.sched_getaffinity(0))
        return cls(usable[0], usable[-1])


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Processes started in here are born on this core and stay there."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True, slots=True)
class Finished:
    """A process that has ended: what it cost and when it was born (monotonic)."""

    code: int
    user_s: float
    system_s: float
    peak_mb: float
    wall_s: float
    born_at: float
    out: str

    @property
    def cpu_s(self) -> float:
        """User and system time."""
        return self.user_s + self.system_s


class FailedError(Exception):
    """A measured process failed; what it said last is in the message."""


def clean_environment(home: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The least that a process needs; nobody's settings, keys or proxies."""
    base = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(home), "LANG": "C.UTF-8"}
    return base | {"PYTHONPATH": str(ROOT)} | dict(more or {})


def run_on(
    core: int, words: Sequence[str], *, home: Path, environment: Mapping[str, str] | None = None
) -> Finished:
    """Run a command on one core to its end. Raises FailedError unless it exits with 0."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        with on_core(core):
            born_at = time.monotonic()
            process = subprocess.Popen(
                list(words),
                cwd=home,
                env=clean_environment(home, environment),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=errors,
            )
        killer = threading.Timer(LONGEST_S, process.kill)
        killer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            killer.cancel()
        process.returncode = code = os.waitstatus_to_exitcode(status)
        wall_s = time.monotonic() - born_at
        if code != 0:
            raise FailedError(f"exit code {code}: {' '.join(words)}\n{_tail(errors)}")
        peak_mb = usage.ru_maxrss / 1024
        return Finished(code, usage.ru_utime, usage.ru_stime, peak_mb, wall_s, born_at, _tail(out))


def _tail(file: Any) -> str:
    file.seek(0, os.SEEK_END)
    file.seek(max(0, file.tell() - 4000))
    return str(file.read().decode("utf-8", "replace"))


@dataclass(frozen=True, slots=True)
class Certificate:
    """A self-signed certificate for 127.0.0.1 and its key."""

    certificate: Path
    key: Path


def make_certificate(folder: Path) -> Certificate:
    """A new one, by the openssl command."""
    made = Certificate(folder / "stub.crt", folder / "stub.key")
    words = [
        *("openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=stub"),
        *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
        *("-addext", "subjectAltName=IP:127.0.0.1"),
        *("-keyout", str(made.key), "-out", str(made.certificate)),
    ]
    subprocess.run(words, check=True, capture_output=True)
    return made


class Stub:
    """The stub in a process of its own, from `with` until its end; `served` is known after that."""

    def __init__(
        self,
        core: int,
        *,
        median_s: float = 0.0,
        sigma: float = 0.4,
        at_once: int = 0,
        certificate: Certificate | None = None,
    ) -> None:
        self.served: dict[str, Any] = {}
        words = [sys.executable, "-m", "benchmarks.stub", "--median", str(median_s), "--sigma", str(sigma)]
        words += ["--at-once", str(at_once)]
        if certificate is not None:
            words += ["--certificate", str(certificate.certificate), "--key", str(certificate.key)]
        with on_core(core):
            self._process = subprocess.Popen(
                words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        assert self._process.stdout is not None
        port = self._process.stdout.readline().strip()
        self.origin = f"{'http' if certificate is None else 'https'}://127.0.0.1:{port}"

    def __enter__(self) -> Self:
        return self

    def kill(self) -> None:
        """SIGKILL: nobody will know what it served."""
        self._process.kill()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        out, _ = self._process.communicate()
        self.served = json.loads(out) if out else {}
