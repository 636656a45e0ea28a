"""Why an engine ended, read from its log: one sentence with the flag that helps, and a number if it has one.

Pure. Only figures, flags and names of the log get into a message, never a line of it: a log holds whatever
an engine was given. Informative lines are skipped, since vLLM quotes errors in them that did not happen.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vlsb.records import Untrusted
from vlsb.steps import Step

PORT_TAKEN = "port_taken"
BROKEN = "broken_engine"
# vLLM's own default.
USUAL_SHARE = 0.9

_INFORMATIVE = re.compile(r"^(?:\([^)\n]{1,80}\) )?(?:DEBUG|INFO|WARNING) .*$", re.MULTILINE)
_REPOSITORY = r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}"


@dataclass(frozen=True, slots=True)
class Cause:
    """A recognised reason: `code` for programs, `message` for people, without the model's name."""

    code: str
    message: str


def diagnose(log_text: str, exit_code: int | None, *, repair: str = "") -> Cause | None:
    """Return the recognised cause of an engine's end, None for one that nobody knows.

    `exit_code` is negative for a signal; `repair` is what to do about a broken environment. The first rule
    that matches wins, so the more specific come first.
    """
    errors = _INFORMATIVE.sub("", log_text)
    for code, pattern, message in _RULES:
        if match := pattern.search(errors):
            words = message.format(*match.groups()) if isinstance(message, str) else message(match, log_text)
            return Cause(code, f"{words} {repair}" if code == BROKEN and repair else words)
    worker = re.search(r"died unexpectedly \(exit code: (-\d+)\)", errors)
    codes = {exit_code, int(worker[1]) if worker else None}
    if -signal.SIGILL in codes:
        message = "this build of the engine uses instructions that the processor does not have (SIGILL)."
        return Cause("unsupported_processor", message)
    if -signal.SIGKILL in codes:
        return Cause(
            "killed",
            "it was killed (SIGKILL), most likely by the system because memory ran out (`dmesg` tells). "
            "Free memory, or on a CPU pass a smaller --gpu-memory-utilization.",
        )
    return None


# Messages that depend on what the log says.


def _unknown_flags(match: re.Match[str], _: str) -> str:
    # Only the names: a value may be a secret.
    flags = re.findall(r"(?<!\S)--?[A-Za-z][\w.-]{0,60}", match[1])[:5]
    named = ", ".join(flags) or "one of its arguments"
    return f"this version does not know {named}. Take it out from behind `--` or from the server file."


def _memory_is_short(match: re.Match[str], _: str) -> str:
    free, total, asked = (float(match[n]) for n in (1, 2, 4))
    share = share_of(free, total)
    figures = f"memory: {free:g} of {total:g} GiB are free and it wants {asked:g}."
    if match[3] == "CPU":
        share = max(0.05, share)
        advice = f"Pass `-- --gpu-memory-utilization {share:g}`, which on a CPU is the share of its memory."
        return f"out of {figures} {advice}"
    message = f"out of GPU {figures} End what else uses the GPU (`nvidia-smi`)"
    return f"{message}, or pass `-- --gpu-memory-utilization {share:g}`." if share >= 0.1 else f"{message}."


def share_of(free: float, total: float) -> float:
    """Return what is free as a share, in hundredths and a little less, since it moves."""
    return max(0, int(100 * free / total) - 2) / 100 if total else 0.0


def _gpu_is_full(_: re.Match[str], log: str) -> str:
    if re.search(r"Loading weights took|Model loading took", log):
        return "out of GPU memory. Pass `-- --gpu-memory-utilization 0.8` or `-- --max-num-seqs 64`."
    loading = "out of GPU memory while the weights were loaded."
    return f"{loading} Pass `--tensor-parallel-size 2`, or take a larger GPU."


def _gated_weights(_: re.Match[str], log: str) -> str:
    named = re.search(
        rf"(?:huggingface\.co/(?:api/models/)?|[Aa]ccess to model |repository )({_REPOSITORY})", log
    )
    repository = named[1].rstrip(".") if named else None
    weights = f"the weights {repository}" if repository else "the weights"
    page = f"https://huggingface.co/{repository}" if repository else "their page on huggingface.co"
    return f"{weights} are gated. Ask for access at {page}, then log in with `hf auth login` or set HF_TOKEN."


def _unknown_architecture(match: re.Match[str], _: str) -> str:
    name = match[1]
    is_original = name == "LlavaLlamaForCausalLM"
    hint = " Convert the weights first: `vlsb convert llava SRC DST`." if is_original else ""
    return f"this engine does not serve the architecture {name} that the weights' config.json names.{hint}"


_Message = str | Callable[[re.Match[str], str], str]


def _rule(code: str, pattern: str, message: _Message) -> tuple[str, re.Pattern[str], _Message]:
    """Make a rule: its code, how it looks in a log, and a text for the groups of the match, or a function."""
    return code, re.compile(pattern, re.DOTALL), message


_GIB = r"([\d.]+)"
_MOST_MEMORY = "`-- --gpu-memory-utilization 0.95`"
_LONG_CONTEXT = "out of memory: a context of {0} tokens needs {1} GiB of cache, and {2} GiB are left."
# Those about GPUs have been read in sources of vLLM, torch and CUDA, not in the log of a GPU.
_RULES = (
    # The command line.
    _rule("unknown_flag", r"error: unrecognized arguments: ([^\n]{1,400})", _unknown_flags),
    _rule(
        "bad_flag_value",
        r"error: argument (-[\w-]{1,80})[\w/-]{0,80}[^\n:]{0,40}:",
        "it does not take the value given for {0}.",
    ),
    _rule(
        PORT_TAKEN,
        r"[Aa]ddress already in use|EADDRINUSE",
        "another process has its port. Pass another one with --port, or none to have a free one taken.",
    ),
    # Weights: gated before missing, because the hub's client tells the one in the words of the other.
    _rule(
        "gated_weights",
        r"GatedRepoError|gated repo|Access to model \S{1,200} is restricted",
        _gated_weights,
    ),
    _rule(
        "disk_full",
        r"unable to (?:write|resize|allocate)[^\n]{0,200}/?torch_|/dev/shm[^\n]{0,200}No space left",
        "the shared memory /dev/shm is full: give the container more (`docker run --shm-size 8g`).",
    ),
    _rule(
        "disk_full",
        r"No space left on device|\[Errno 28\]|ENOSPC|Disk quota exceeded|\[Errno 122\]",
        "the disk is full (or your share of it). Make room, or move the downloads with HF_HOME, and compiled "
        "kernels with VLLM_CACHE_ROOT.",
    ),
    _rule(
        "missing_weights",
        r"LocalEntryNotFoundError: Cannot find|OfflineModeIsEnabled|outgoing traffic has been disabled",
        "the weights are not on this machine and downloads are off (--offline or HF_HUB_OFFLINE). Download "
        "them once with `hf download`, or allow it.",
    ),
    _rule(
        "missing_weights",
        r"RevisionNotFoundError|is not a valid git identifier",
        "the weights have no such revision. Pass a branch, tag or commit that exists with --revision.",
    ),
    _rule(
        "missing_weights",
        r"RepositoryNotFoundError|is not a local folder (?:and is not a|or a) valid",
        "the Hugging Face Hub has no such weights, or they are private. Check --weights, and HF_TOKEN.",
    ),
    _rule(
        "missing_weights",
        r"LocalEntryNotFoundError|[Cc]ouldn't connect to 'https?://|ConnectError: \[Errno -?\d+\]",
        "the weights are not on this machine and the Hugging Face Hub cannot be reached. Check the "
        "connection, or pass a folder with --weights.",
    ),
    _rule(
        "missing_weights",
        r"HFValidationError: Repo id must|Invalid repository ID or local directory",
        "there is no such folder of weights. Check the path in --weights.",
    ),
    _rule(
        "missing_weights",
        r"Cannot find any model weights with|does not appear to have a file named|no file named model",
        "the folder of weights lacks files (config.json, *.safetensors). Copy or download it again.",
    ),
    _rule(
        "damaged_weights",
        r"SafetensorError|PytorchStreamReader failed|MetadataIncompleteBuffer|HeaderTooLarge",
        "a file of the weights is damaged or cut off. Delete it and copy or download it again.",
    ),
    # The architecture.
    _rule(
        "wrong_architecture",
        r"[Aa]rchitecture (\w{1,80}) was supported in vLLM until v?(\d[\d.]{0,10}\d)",
        "this engine no longer serves {0}: vLLM {1} was the last that did. For Llama 3.2 Vision use the "
        "model name `mllama` (`vlsb engine install mllama`).",
    ),
    _rule(
        "wrong_architecture",
        # What vLLM says of mllama since it fell back to transformers for it.
        r"'?MllamaProcessor'? object has no attribute '_get_num_multimodal_tokens'",
        "this engine no longer serves MllamaForConditionalGeneration: vLLM 0.10.2 was the last that did. Use "
        "the model name `mllama` (`vlsb engine install mllama`).",
    ),
    _rule(
        "wrong_architecture",
        r"architectures \['(\w{1,80})'[^\n]{0,200}(?:are not supported for now|failed to be inspected)",
        _unknown_architecture,
    ),
    _rule(
        "wrong_architecture",
        r"'?(\w{1,80})'? is not a registered model in the Transformers library",
        _unknown_architecture,
    ),
    _rule(
        "wrong_architecture",
        r"Transformers does not recognize this architecture|_get_num_multimodal_tokens",
        "this engine does not serve the architecture that the weights' config.json names.",
    ),
    _rule(
        "context_too_long",
        r"max_model_len \((\d{1,12})\) is greater than the derived max_model_len "
        r"\(\w{1,60}=(\d{1,12})",
        "--max-model-len {0} is more than the weights allow: pass `-- --max-model-len {1}`.",
    ),
    # GPU and driver.
    _rule(
        "driver_mismatch",
        r"driver on your system is too old|driver version is insufficient|Driver/library version mismatch",
        "the NVIDIA driver is too old for this engine's CUDA, or is another one than was loaded. Update the "
        "driver and restart the machine; `nvidia-smi` says what there is.",
    ),
    _rule(
        "no_gpu",
        r"Failed to infer device type|No CUDA GPUs are available|Found no NVIDIA driver",
        "it is built for GPUs and sees none. Check `nvidia-smi`, --gpus and CUDA_VISIBLE_DEVICES.",
    ),
    # Memory.
    _rule(
        "out_of_gpu_memory",
        rf"Free memory on device[^(\n]{{0,40}}\({_GIB}/{_GIB} GiB\) on startup is less than desired (GPU) "
        rf"memory utilization \([\d.]+, {_GIB} GiB\)",
        _memory_is_short,
    ),
    _rule(
        "out_of_memory",
        rf"Available memory on node \d{{1,4}} \({_GIB}/{_GIB} GiB\) on startup is less than desired (CPU) "
        rf"memory utilization \([\d.]+, {_GIB} GiB\)",
        _memory_is_short,
    ),
    _rule(
        "out_of_gpu_memory",
        rf"max seq len \((\d{{1,12}})\), \({_GIB} GiB KV cache is needed, which is larger than the available "
        rf"KV cache memory \({_GIB} GiB\)\. Based on the available memory, the estimated maximum model "
        r"length is (\d{1,12})",
        f"{_LONG_CONTEXT} Pass `-- --max-model-len {{3}}` or {_MOST_MEMORY}.",
    ),
    _rule(
        "out_of_gpu_memory",
        rf"max seq len \((\d{{1,12}})\), \({_GIB} GiB KV cache is needed, which is larger than the available "
        rf"KV cache memory \({_GIB} GiB\)",
        f"{_LONG_CONTEXT} Pass {_MOST_MEMORY}.",
    ),
    _rule(
        "out_of_gpu_memory",
        r"No available memory for the cache blocks",
        f"out of GPU memory: the weights leave none for the cache. Pass {_MOST_MEMORY} or "
        "`--tensor-parallel-size 2`, or take a GPU with more memory.",
    ),
    _rule(
        "out_of_gpu_memory", r"CUDA out of memory|OutOfMemoryError|CUDA error: out of memory", _gpu_is_full
    ),
    _rule(
        "out_of_memory",
        r"DefaultCPUAllocator|Cannot allocate memory|\[Errno 12\]|std::bad_alloc|(?<!\w)MemoryError",
        "out of memory. Free memory, or pass a smaller `-- --max-model-len`; on a CPU the cache's size is "
        "VLLM_CPU_KVCACHE_SPACE, in GiB.",
    ),
    # The environment.
    _rule(
        "open_files",
        r"\[Errno 24\]|Too many open files",
        "this system allows too few open files. Raise the limit with `ulimit -n 65536` and start again.",
    ),
    _rule(
        BROKEN,
        r"(?:ModuleNotFoundError: No module named '|PackageNotFoundError: No package metadata was found for )"
        r"([\w.-]{1,80})",
        "its environment lacks {0}.",
    ),
    _rule(BROKEN, r"ImportError: |OSError: Could not load this library", "its environment is incomplete."),
)


# A start writes about 30 kB; a traceback from every process of a large engine stays below this.
_MOST_BYTES = 512 * 1024
_END_CHARACTERS = 560


# The first that is found decides. Texts: vLLM 0.9 to 0.32, GPU and CPU.
_STEPS: tuple[tuple[re.Pattern[str], str, str], ...] = (
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
    """Return what a line says the engine does now, None for a line that says nothing of it."""
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
        """Return the whole lines since the last call, blank ones left out.

        A progress bar's states are lines too.
        """
        with self.path.open("rb") as file:
            file.seek(self._offset)
            read = file.read()
        self._offset += len(read)
        *whole, self._rest = re.split(rb"[\r\n]+", self._rest + read)
        return [line.decode("utf-8", "replace") for line in whole if line.strip()]

    def text(self) -> str:
        """All of this start, or its last half megabyte."""
        return log_text(self.path, self._start)


def log_text(path: Path, start: int = 0, *, most_bytes: int = _MOST_BYTES) -> str:
    """Return what a log has from a position on, at most its last bytes; nothing if it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(start, file.seek(0, os.SEEK_END) - most_bytes))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def log_end(text: str) -> Untrusted:
    """Return the last whole lines of a log, as many as one can read on a screen."""
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
    named = environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE")
    home = environment.get("HF_HOME") or Path(environment.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    cache = Path(named or Path(home) / "hub").expanduser()
    return cache / f"models--{weights.replace('/', '--')}" / "blobs"


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
