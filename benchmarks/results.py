"""What every result carries, where results lie, and the two forms they are shown in."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import ssl
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.processes import ROOT

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("vlsb", "httpx", "httpx2", "openai", "orjson", "pybase64", "uvloop", "typer", "rich", "ray")
# Taken when a program starts: what else the machine was doing, not what the program itself did.
LOAD_AT_START = round(os.getloadavg()[0], 1)


@dataclass(frozen=True, slots=True)
class Target:
    """A claim of the project with the number that was measured; `is_met` is None where it was not."""

    claim: str
    measured: str
    is_met: bool | None


def facts() -> dict[str, Any]:
    """When, from which commit, on what machine and with which versions."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        "machine": _machine(),
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION.split(" ", 2)[1],
        "versions": {name: found for name in PACKAGES if (found := _version(name)) is not None},
        "load": LOAD_AT_START,
    }


def _commit() -> str:
    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    commit = git("rev-parse", "--short", "HEAD") or "unknown"
    return f"{commit} with changes" if git("status", "--porcelain", "--", "vlsb", "benchmarks") else commit


def _machine() -> str:
    cores = len(os.sched_getaffinity(0))
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{_processor()}, {cores} cores, {memory_gb:.0f} GiB, {platform.system()} {platform.machine()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "unknown processor")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def save(name: str, result: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Write a program's result, with the facts, to `<name>.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"facts": facts(), **result}, indent=1) + "\n")
    return path


def load(name: str, folder: Path = RESULTS) -> dict[str, Any] | None:
    """A program's last result, None if there is none."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def as_fields(targets: Iterable[Target]) -> list[dict[str, Any]]:
    """Targets as they lie in a result."""
    return [asdict(target) for target in targets]


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table: the first column is text, the others are numbers."""
    lines = [list(header), ["---", *("---:" for _ in header[1:])]]
    lines += [[str(value) for value in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def target_table(targets: Iterable[Mapping[str, Any]]) -> str:
    """The targets, each met or not."""
    words = {True: "met", False: "**not met**", None: "not measured"}
    rows = [(each["claim"], each["measured"], words[each["is_met"]]) for each in targets]
    return table(("target", "measured", ""), rows)
