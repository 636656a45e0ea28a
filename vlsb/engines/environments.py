"""Building an engine's environment: a fresh venv, pip under the user's own settings, then repairs.

Neither build is what a plain `pip install` gives. The CPU wheels ask for versions that no index serves and
for packages that break the engine; their requirements are corrected before pip sees them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import Distribution
from pathlib import Path

from vlsb.engines.pip_runs import Bench, Ended, News, is_unmatched, pip_fault, pip_news
from vlsb.errors import ServerError
from vlsb.models.profile import EnginePin
from vlsb.records import Untrusted
from vlsb.steps import OnProgress, Step

# Tried in this order after the Python that runs us, as far as the engine has wheels for them.
_OTHER_MINORS = (12, 11, 13, 10)
# Such wheels need no compiler, and no code of theirs runs while they are installed.
_INSTALL = ("install", "--no-input", "--disable-pip-version-check", "--only-binary", ":all:")
# Imports torch and the whole engine, from a disk that has just been written.
_CHECK_PATIENCE_S = 600.0
_PROBE_PATIENCE_S = 20.0
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_VERSION = re.compile(r"[0-9]+\.[0-9]+\S*")


def build_environment(
    prefix: Path, pin: EnginePin, *, is_cpu: bool, bench: Bench, search: str, on_progress: OnProgress
) -> str:
    """Make the environment `prefix` anew; returns the version that the engine in it says it has.

    `search` is the PATH to look for Pythons on. Raises ServerError, with the log's path.
    """
    builder = _Builder(prefix, pin, bench, on_progress, is_cpu=is_cpu)
    pythons = find_pythons(search, pin, is_cpu=is_cpu)
    python = next(pythons, None) or builder.managed_python(search)
    if python is None:
        raise ServerError(no_python(pin, is_cpu=is_cpu))
    while True:
        ended = builder.build(python)
        if ended.code == 0:
            return builder.check()
        # Only here: a Python that cannot be replaced keeps its own reason.
        other = next(pythons, None) if is_unmatched(ended) else None
        if other is None:
            raise builder.failure(pip_fault(ended), ended)
        python = other


def find_pythons(search: str, pin: EnginePin, *, is_cpu: bool) -> Iterator[Path]:
    """The Python that runs us, then others on PATH, of the versions that the engine has wheels for."""
    minors = _fitting_minors(pin, is_cpu=is_cpu)
    own = sys.version_info[1]
    if own in minors:
        yield Path(sys.executable)
    for minor in minors:
        found = shutil.which(f"python3.{minor}", path=search)
        if found and minor != own and _version_of(found) == (3, minor):
            yield Path(found)


def no_python(pin: EnginePin, *, is_cpu: bool) -> str:
    """What to do on a machine that has none of the Pythons that an engine needs."""
    oldest, newest = _python_bounds(pin, is_cpu=is_cpu)
    version = pin.cpu_version if is_cpu else pin.gpu_version
    return (
        f"vLLM {version} needs Python 3.{oldest} to 3.{newest}, and none that can make environments is "
        f"on PATH (this is {sys.version_info[0]}.{sys.version_info[1]}). Install one as python3.{newest}, or "
        f"with `uv python install 3.{newest}` (pip install uv), then run it again."
    )


def _python_bounds(pin: EnginePin, *, is_cpu: bool) -> tuple[int, int]:
    return pin.cpu_pythons if is_cpu else pin.gpu_pythons


def _fitting_minors(pin: EnginePin, *, is_cpu: bool) -> list[int]:
    oldest, newest = _python_bounds(pin, is_cpu=is_cpu)
    return [minor for minor in _OTHER_MINORS if oldest <= minor <= newest]


def _version_of(python: str) -> tuple[int, int] | None:
    """The version of a Python that has what a venv needs; None for any other program."""
    probe = "import ensurepip, sys, venv; print(*sys.version_info[:2])"
    try:
        said = subprocess.run(
            [python, "-I", "-c", probe], capture_output=True, text=True, timeout=_PROBE_PATIENCE_S, check=True
        ).stdout.split()
        return int(said[0]), int(said[1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


class _Builder:
    """One environment being built; a step after the other, each told before it begins."""

    def __init__(
        self, prefix: Path, pin: EnginePin, bench: Bench, on_progress: OnProgress, *, is_cpu: bool
    ) -> None:
        self._prefix = prefix
        self._pin = pin
        self._bench = bench
        self._on_progress = on_progress
        self._is_cpu = is_cpu
        self._steps = 4 if is_cpu else 3
        self._step = Step("", count=self._steps)
        self._news = News("")
        self._settings: Mapping[str, str] = {}

    def build(self, python: Path) -> Ended:
        """Everything but the check, with this Python. Returns how the last command ended."""
        ended = self._make_venv(python)
        if ended.code != 0:
            return ended
        if not self._is_cpu:
            self._begin(2, "engine and its packages")
            return self._install(*self._pin.gpu)
        self._begin(2, "engine")
        ended = self._install("--no-deps", *self._pin.cpu)
        if ended.code != 0:
            return ended
        self._begin(3, "its packages")
        engine = _distribution(self._prefix, requirement_name(self._pin.cpu[0]))
        listed = self._prefix / "requirements.txt"
        wanted = corrected(engine.requires or (), self._pin.overrides, self._pin.unwanted)
        listed.write_text("\n".join(wanted) + "\n", "utf-8")
        ended = self._install("-r", str(listed))
        name_it_vllm(self._prefix, engine)
        return ended

    def managed_python(self, search: str) -> Path | None:
        """A Python of uv's, downloaded where it has none yet; None without a uv that can."""
        uv = shutil.which("uv", path=search)
        if uv is None:
            return None
        minors = _fitting_minors(self._pin, is_cpu=self._is_cpu)
        if found := next(filter(None, (self._uvs_own(uv, minor) for minor in minors)), None):
            return found
        self._begin(1, f"Python 3.{minors[0]}, downloaded by uv")
        self._bench.run([uv, "python", "install", "--no-config", f"3.{minors[0]}"], hear=self._read_line)
        return self._uvs_own(uv, minors[0])

    def _uvs_own(self, uv: str, minor: int) -> Path | None:
        only = ("--no-config", "--no-project", "--system", "--managed-python", "--no-python-downloads")
        ended = self._bench.run([uv, "python", "find", *only, f"3.{minor}"], timeout_s=_PROBE_PATIENCE_S)
        is_found = ended.code == 0 and bool(ended.lines) and _version_of(ended.lines[-1]) == (3, minor)
        return Path(ended.lines[-1]) if is_found else None

    def check(self) -> str:
        """The version that the engine says it has; ServerError if it does not start."""
        self._begin(self._steps, "starting the engine once")
        program = str(self._prefix / "bin" / "vllm")
        quiet = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
        ended = self._bench.run([program, "--version"], timeout_s=_CHECK_PATIENCE_S, variables=quiet)
        said = _VERSION.fullmatch(ended.lines[-1].split()[-1]) if ended.lines and ended.lines[-1] else None
        if ended.code != 0 or said is None:
            raise self.failure("the engine was installed and does not start.", ended)
        return said[0]

    def failure(self, words: str, ended: Ended) -> ServerError:
        """The error that this install ends with: its step, the reason, the log, pip's own last words."""
        message = f"{self._prefix.name}, {self._step.stage}: {words} The whole log: {self._bench.log}"
        errors = [line for line in ended.lines if line.startswith(("ERROR:", "Error:"))] or ended.lines
        return ServerError(message, detail=Untrusted(errors[-1]) if errors else None)

    def _make_venv(self, python: Path) -> Ended:
        self._begin(1, "Python environment")
        shutil.rmtree(self._prefix, ignore_errors=True)
        ended = self._bench.run([str(python), "-I", "-m", "venv", str(self._prefix)])
        if ended.code != 0:
            if any("ensurepip" in line for line in ended.lines):
                words = f"{python} cannot make environments. Install its venv package (python3-venv)."
                raise self.failure(words, ended)
            return ended
        self._settings = self._bench.pip_settings(self._prefix / "bin" / "python")
        # An old pip neither knows all wheels nor says how far a download is.
        return self._install("--upgrade", "pip")

    def _install(self, *what: str) -> Ended:
        return self._pip(*_INSTALL, *self._progress_bar(), *what)

    def _progress_bar(self) -> tuple[str, str]:
        pip = _distribution(self._prefix, "pip").version
        return ("--progress-bar", "raw" if release(pip) >= (24, 1) else "off")

    def _pip(self, *arguments: str) -> Ended:
        python = str(self._prefix / "bin" / "python")
        command = [python, "-I", "-X", "utf8", "-m", "pip", *arguments]
        return self._bench.run(command, hear=self._read_line, variables=self._settings)

    def _begin(self, number: int, title: str) -> None:
        self._step, self._news = Step(title, number=number, count=self._steps), News("")
        self._on_progress(self._step)

    def _read_line(self, line: str) -> None:
        news = pip_news(line, self._news)
        if news != self._news:
            self._news = news
            self._on_progress(
                replace(
                    self._step,
                    detail=news.doing,
                    done_bytes=news.done_bytes,
                    total_bytes=news.total_bytes,
                )
            )


def corrected(required: Sequence[str], overrides: Sequence[str], unwanted: Sequence[str]) -> list[str]:
    """A wheel's requirements without those that are unwanted or overridden, then the overrides."""
    left_out = {requirement_name(each) for each in (*overrides, *unwanted)}
    # An extra's are for whoever asks for the extra.
    plain = [each for each in required if not re.search(r";.*\bextra\s*==", each)]
    return [each for each in plain if requirement_name(each) not in left_out] + list(overrides)


def requirement_name(requirement: str) -> str:
    """The name of what is required, in the form in which names are compared."""
    found = _NAME.match(requirement)
    return re.sub(r"[-_.]+", "-", found[0]).lower() if found else ""


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version's release: (0, 9, 2) for 0.9.2.post2+cpu."""
    found = re.match(r"v?([0-9]+(?:\.[0-9]+)*)", version)
    return tuple(int(each) for each in found[1].split(".")) if found else ()


def name_it_vllm(prefix: Path, engine: Distribution) -> None:
    """Add the metadata of a package `vllm`, which the engine asks for its version and its platform.

    The CPU wheels go by another name and would not find themselves.
    """
    if find_distribution(prefix, "vllm") is not None:
        return
    version = f"{engine.version}+cpu"
    folder = site_packages(prefix) / f"vllm-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n", "utf-8")
    (folder / "INSTALLER").write_text("vlsb\n", "utf-8")
    files = "".join(f"{folder.name}/{name},,\n" for name in ("METADATA", "INSTALLER", "RECORD"))
    (folder / "RECORD").write_text(files, "utf-8")


def site_packages(prefix: Path) -> Path:
    """Where an environment's packages are. Raises ServerError for a folder that is none."""
    found = sorted(prefix.glob("lib/python3.*/site-packages"))
    if not found:
        raise ServerError(f"{prefix}: not an environment of Python 3.")
    return found[0]


def find_distribution(prefix: Path, name: str) -> Distribution | None:
    """A package of an environment by what lies there: nothing of it is imported."""
    return next(iter(Distribution.discover(name=name, path=[str(site_packages(prefix))])), None)


def _distribution(prefix: Path, name: str) -> Distribution:
    found = find_distribution(prefix, name)
    if found is None:
        raise ServerError(f"{prefix}: pip has not installed {name}.")
    return found
