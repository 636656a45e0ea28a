"""What a starting engine is doing, from its log and from its downloads in the hub's cache.

vLLM shows no progress of a download, so the cache's growth is what there is to tell.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from vlsb.records import Untrusted

Stage = Literal["installing", "downloading", "converting", "loading", "compiling", "warming up", "checking"]
# A start writes about 30 kB; a traceback from every process of a large engine stays below this.
_MOST_BYTES = 512 * 1024
_END_CHARACTERS = 560


@dataclass(frozen=True, slots=True)
class Progress:
    """A word on the way to a server. `detail` is ours, `line` the last one of the engine's log."""

    stage: Stage
    detail: str = ""
    done_bytes: int | None = None
    total_bytes: int | None = None
    line: Untrusted | None = None


class Step(NamedTuple):
    """The stage that a line of the log speaks of."""

    stage: Stage
    detail: str


# The first that is found decides. Texts: vLLM 0.9 to 0.32, GPU and CPU.
_STEPS: tuple[tuple[re.Pattern[str], Stage, str], ...] = (
    # The longest of all lines: it quotes settings in which the others' words may stand.
    (re.compile(r"Initializing an? (?:V\d )?LLM engine"), "loading", "the engine"),
    (re.compile(r"checkpoint shards: .*\| (\d+)/(\d+) "), "loading", "{0} of {1} files"),
    (re.compile(r"Starting to load model|Loading model from scratch"), "loading", "the weights"),
    (re.compile(r"Capturing CUDA graph.*?(\d+)%"), "warming up", "CUDA graphs, {0} %"),
    (re.compile(r"KV cache size:|Available KV cache memory|Graph capturing finished"), "warming up", ""),
    (re.compile(r"init engine \(|Starting vLLM (?:API )?server"), "warming up", "the server"),
    (
        re.compile(r"Warming up model for the compilation|torch\.compile|Dynamo bytecode|Compiling a graph"),
        "compiling",
        "",
    ),
    (re.compile(r"JIT kernel warmup"), "compiling", "kernels"),
)


def step_of(line: str) -> Step | None:
    """What a line says the engine does now, None for a line that says nothing of it."""
    # This one quotes every setting, "torch.compile" among them.
    if "non-default args:" in line or " WARNING " in line:
        return None
    for pattern, stage, detail in _STEPS:
        if match := pattern.search(line):
            return Step(stage, detail.format(*match.groups()))
    return None


class EngineLog:
    """The lines that one start adds to a log file that may have earlier ones."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._start = path.stat().st_size if path.exists() else 0
        self._offset = self._start
        self._rest = b""

    def new_lines(self) -> list[str]:
        """The whole lines since the last call, blank ones left out. A progress bar's states are lines too."""
        with self.path.open("rb") as file:
            file.seek(self._offset)
            read = file.read()
        self._offset += len(read)
        *whole, self._rest = re.split(rb"[\r\n]+", self._rest + read)
        return [line.decode("utf-8", "replace") for line in whole if line.strip()]

    def text(self) -> str:
        """All of this start, or its last half megabyte."""
        with self.path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(self._start, size - _MOST_BYTES))
            return file.read().decode("utf-8", "replace")


def log_end(text: str) -> Untrusted:
    """The last whole lines of a log, as many as one can read on a screen."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip(" \t~^")]
    kept: list[str] = []
    for line in reversed(lines):
        if kept and sum(map(len, kept)) + len(kept) + len(line) > _END_CHARACTERS:
            break
        kept.insert(0, line[-_END_CHARACTERS:])
    return Untrusted("\n".join(kept))


def download_folder(weights: str, environment: Mapping[str, str]) -> Path | None:
    """Where the hub's client of an engine puts the files of these weights; None for weights on the disk."""
    if weights.startswith(("/", ".")) or weights.count("/") != 1:
        return None
    return _hub_cache(environment) / f"models--{weights.replace('/', '--')}" / "blobs"


def _hub_cache(environment: Mapping[str, str]) -> Path:
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if environment.get(variable):
            return Path(environment[variable]).expanduser()
    home = environment.get("HF_HOME")
    if not home:
        cache = environment.get("XDG_CACHE_HOME") or "~/.cache"
        home = str(Path(cache) / "huggingface")
    return Path(home).expanduser() / "hub"


def downloading_bytes(folder: Path | None) -> int:
    """How much of a download is there that is not complete yet; 0 when none is under way."""
    if folder is None or not folder.is_dir():
        return 0
    sizes: dict[str, int] = {}
    for path in folder.iterdir():
        # A finished file is renamed: it may be gone between the two calls.
        with contextlib.suppress(OSError):
            sizes[path.name] = path.stat().st_size
    return sum(sizes.values()) if any(name.endswith(".incomplete") for name in sizes) else 0
