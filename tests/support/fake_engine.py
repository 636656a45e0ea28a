"""A stand-in for the `vllm` executable: its argv, its endpoints, its log, and its ways to fail.

`install(folder)` writes `folder/bin/vllm`, an executable that runs this file; give it to whatever wants an
engine. It takes `vllm serve WEIGHTS ...` with vLLM's long options (an option that does not look like one
ends it as argparse does) and `vllm --version`, reads the key from VLLM_API_KEY as vLLM 0.32 does, and
answers /health, /version, /v1/models, /v1/chat/completions, /tokenize, /detokenize and /metrics with
vLLM's bodies. An answer is `answer_to(INSTRUCTION)`, so it does not depend on order or restarts.

It misbehaves as environment variables say (`ServerPlan.environment` reaches it):

FAKE_ENGINE_RECORD     file that gets one JSON line an event: {"event": "start", "pid", "argv", "environment"
                       (names only)}, {"event": "chat", "pid", "body"}, {"event": "stop", "signal"};
                       see `events`
FAKE_ENGINE_START_S    seconds between binding the port and answering (default 0)
FAKE_ENGINE_HOLD       file; the engine waits in the stage FAKE_ENGINE_HOLD_AT until that file exists
FAKE_ENGINE_HOLD_AT    one of STAGES (default loading)
FAKE_ENGINE_DIE_AT     one of STAGES: it ends there, with the log text of FAKE_ENGINE_CAUSE
FAKE_ENGINE_CAUSE      a key of CAUSES (default: it is killed and says nothing, exit -9)
FAKE_ENGINE_TERM       "ignore": SIGTERM and SIGINT do nothing
FAKE_ENGINE_CHILDREN   "plain": VLLM::EngineCore and VLLM::Worker stand-ins that outlive a SIGKILL of their
                       parents; "stubborn": they ignore SIGTERM too; "own group": they leave the process group
                       and session as well
FAKE_ENGINE_MARK       any text; every process of the tree has it in its environment (`living(mark)`)
FAKE_ENGINE_KILLER     text; a chat whose body contains it kills the engine (SIGKILL, after the log of a dead
                       EngineCore), as often as FAKE_ENGINE_KILLS says (default: always)
FAKE_ENGINE_HANG       text; a chat whose body contains it is never answered
FAKE_ENGINE_ABORT      text; a chat whose body contains it ends with finish_reason "abort"
FAKE_ENGINE_500        text; a chat whose body contains it gets a 500, and the next request on that
                       connection meets a reset
FAKE_ENGINE_DIE_AFTER  number of chats after which the engine kills itself before it answers the next one
FAKE_ENGINE_BUSY       number of first chats that get 503 without Retry-After
FAKE_ENGINE_DEAD_CORE  text; a chat whose body contains it gets "EngineCore encountered an issue" and the
                       engine exits with 1
FAKE_ENGINE_LEDGER     folder in which the counts of KILLS, DIE_AFTER and BUSY survive a restart; without
                       it each process counts for itself
FAKE_ENGINE_ANSWER     text of every answer
FAKE_ENGINE_MODELS     comma-separated ids that /v1/models lists instead of its own (somebody else's server)
FAKE_ENGINE_PROMPT_IDS JSON list that /tokenize reports (default: 16 ids for an image, see `_prompt_ids`)
FAKE_ENGINE_BOS        how many BOS a chat's prompt begins with (default 1, as its tokenizer has it)
FAKE_ENGINE_TEMPLATE   what its chat template makes of the instruction (default "{}", e.g. "{} {}")
FAKE_ENGINE_BLIND      any text: images have no part in log-probabilities ("tokens": they have no ids either)
FAKE_ENGINE_THINK      text that a prompt ends with, such as <think>; the thought after it is never closed;
                       with --reasoning-parser everything else is taken for a thought as well
FAKE_ENGINE_VERSION    what /version, --version and the log say (default 0.32.0)
FAKE_ENGINE_NO_DOWNLOAD any text: nothing is downloaded into HF_HUB_CACHE (else: weights that are a hub id)
FAKE_ENGINE_DELAY_S    seconds a chat takes (default 0)
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn

STAGES = ("start", "downloading", "loading", "compiling", "warming_up", "listening", "chat")
VARIABLE = "FAKE_ENGINE_"
IMAGE_TOKENS = 16
BOS, IMAGE = "\u2402", "\u2580"
DOWNLOADED_BYTES = 3_000_000
"""How much of WEIGHTS (a hub id, with HF_HUB_CACHE set) an engine that is held at `downloading` has got."""
_CHILD = "import signal, time\nif {stubborn}: signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"

_TRACE = 'Traceback (most recent call last):\n  File "/engine/bin/vllm", line 6, in <module>\n'
_CORE_FAILED = (
    "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. "
    "Failed core proc(s): {'EngineCore': 1}\n"
)
# What real engines write, by cause: the text and the exit code.
CAUSES: dict[str, tuple[str, int]] = {
    "unknown_flag": (
        "usage: vllm [-h] [-v]\n            {chat,complete,serve,launch,bench}\n            ...\n"
        "vllm: error: unrecognized arguments: --disable-log-requests\n",
        2,
    ),
    "out_of_gpu_memory": (
        "(EngineCore pid=7) torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.96 GiB. GPU 0 "
        "has a total capacity of 23.64 GiB of which 1.11 GiB is free. Including non-PyTorch memory, this "
        "process has 22.52 GiB memory in use.\n" + _CORE_FAILED,
        1,
    ),
    "gpu_busy": (
        "(EngineCore pid=7) ValueError: Free memory on device cuda:0 (20.31/79.11 GiB) on startup is less "
        "than desired GPU memory utilization (0.9, 71.2 GiB). Decrease GPU memory utilization or reduce GPU "
        "memory used by other processes.\n" + _CORE_FAILED,
        1,
    ),
    "no_cache_memory": (
        "(EngineCore pid=7) ValueError: No available memory for the cache blocks. Try increasing "
        "`gpu_memory_utilization` when initializing the engine (this flag also controls CPU memory "
        "reservation on the CPU backend, despite its name).\n" + _CORE_FAILED,
        1,
    ),
    "context_too_long": (
        "(EngineCore pid=7) ValueError: To serve at least one request with the model's max seq len (17408), "
        "(0.93 GiB KV cache is needed, which is larger than the available KV cache memory (0.41 GiB). Based "
        "on the available memory, the estimated maximum model length is 7632. Try increasing "
        "`gpu_memory_utilization` (which also controls CPU memory on the CPU backend) or decreasing "
        "`max_model_len` when initializing the engine.\n" + _CORE_FAILED,
        1,
    ),
    "gated_weights": (
        _TRACE + "huggingface_hub.errors.GatedRepoError: 401 Client Error. (Request ID: Root=1-6-a;b)\n\n"
        "Cannot access gated repo for url "
        "https://huggingface.co/meta-llama/Llama-3.2-11B-Vision-Instruct/resolve/main/config.json.\n"
        "Access to model meta-llama/Llama-3.2-11B-Vision-Instruct is restricted. You must have access to "
        "it and be authenticated to access it. Please log in.\n",
        1,
    ),
    "missing_weights": (
        _TRACE + "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate cached snapshot "
        "folder for the specified revision on the local disk and outgoing traffic has been disabled. To "
        "enable repo look-ups and downloads online, set 'HF_HUB_OFFLINE=0' as environment variable.\n",
        1,
    ),
    "disk_full": (_TRACE + "OSError: [Errno 28] No space left on device\n", 1),
    "port_taken": (_TRACE + "OSError: [Errno 98] Address already in use\n", 1),
    "wrong_architecture": (
        "(APIServer pid=1)   Value error, Model architectures ['LlavaLlamaForCausalLM'] are not supported "
        "for now. Supported architectures: dict_keys(['AfmoeForCausalLM'])\n",
        1,
    ),
    "driver_mismatch": (
        "(EngineCore pid=7) RuntimeError: The NVIDIA driver on your system is too old (found version 12020). "
        "Please update your GPU driver\n" + _CORE_FAILED,
        1,
    ),
    "out_of_memory": (
        "(EngineCore pid=7) RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: "
        "can't allocate memory: you tried to allocate 137438953472 bytes. Error code 12 (Cannot allocate "
        "memory)\n" + _CORE_FAILED,
        1,
    ),
    "unknown": (_TRACE + "ZeroDivisionError: nobody knows this one \x1b]0;title\x07\x1b[31mred\x1b[0m\n", 3),
}


def install(folder: Path) -> Path:
    """Write `folder/bin/vllm`, an executable that runs this file, and return its path."""
    executable = folder / "bin" / "vllm"
    executable.parent.mkdir(parents=True, exist_ok=True)
    executable.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{Path(__file__).resolve()}" "$@"\n')
    executable.chmod(0o755)
    return executable


def answer_to(instruction: str) -> str:
    """The answer to an instruction, whenever and by whatever process it is given."""
    return f"A made-up answer {hashlib.sha256(instruction.encode()).hexdigest()[:12]}."


def events(record: Path, name: str | None = None) -> list[dict[str, Any]]:
    """What an engine with FAKE_ENGINE_RECORD has done so far, only `name`'s events if given."""
    lines = record.read_text().splitlines() if record.exists() else []
    return [each for each in map(json.loads, lines) if name in (None, each["event"])]


def living(mark: str) -> list[int]:
    """The processes (zombies excepted) whose environment has FAKE_ENGINE_MARK=`mark`."""
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(VARIABLE + "MARK") == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def _wish(name: str, default: str = "") -> str:
    return os.environ.get(VARIABLE + name, default)


def _is_hit(name: str, body: bytes) -> bool:
    text = _wish(name)
    return bool(text) and text.encode() in body


def _log(text: str) -> None:
    sys.stderr.write(text if text.endswith("\n") else text + "\n")
    sys.stderr.flush()


def _record(event: str, **facts: Any) -> None:
    if path := _wish("RECORD"):
        with Path(path).open("a") as file:
            file.write(json.dumps({"event": event, **facts}) + "\n")


class Counter:
    """Counts that survive a restart where there is a ledger folder."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}

    def next(self, name: str) -> int:
        """Count one more and return how many there have been, this one included."""
        with self._lock:
            folder = _wish("LEDGER")
            path = Path(folder) / name if folder else None
            if path is None:
                count = self._counts.get(name, 0) + 1
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                count = int(path.read_text() or 0) + 1 if path.exists() else 1
                path.write_text(str(count))
            self._counts[name] = count
            return count


def _die() -> NoReturn:
    """End as an engine that something killed: at once, with nothing cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise SystemExit(137)


def _die_if(stage: str) -> None:
    if _wish("HOLD") and _wish("HOLD_AT", "loading") == stage:
        while not Path(_wish("HOLD")).exists():
            time.sleep(0.005)
    if _wish("DIE_AT") != stage:
        return
    if not _wish("CAUSE"):
        _die()
    text, code = CAUSES[_wish("CAUSE")]
    _log(text)
    sys.stderr.flush()
    os._exit(code)


def _parse(arguments: list[str]) -> dict[str, list[str]]:
    """vLLM's options by name; a bare flag has no values. `--name=value` works as well."""
    options: dict[str, list[str]] = {}
    name = ""
    for argument in arguments:
        if re.fullmatch(r"--?[a-z][a-z0-9-]*(=.*)?", argument, re.DOTALL):
            name, has_value, value = argument.lstrip("-").partition("=")
            options[name] = [value] if has_value else []
        elif name:
            options[name].append(argument)
        else:
            options.setdefault("model", []).append(argument)
    return options


def _refuse_unknown(options: dict[str, list[str]]) -> None:
    for name in options:
        if name in {"disable-log-requests"} or name.startswith("no-such"):
            _log(f"usage: vllm serve [model_tag] [options]\nvllm: error: unrecognized arguments: --{name}")
            raise SystemExit(2)


def _start_children(kind: str) -> None:
    """An EngineCore stand-in with a Worker below it, neither of which ends with its parent."""
    code = _CHILD.format(stubborn=kind != "plain")
    worker = code + "while True: time.sleep(60)\n"
    core = (
        code + "import subprocess, sys\n"
        f"subprocess.Popen([sys.executable, '-I', '-S', '-c', {worker!r}, 'VLLM::Worker'])\n"
        "while True: time.sleep(60)\n"
    )
    subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", core, "VLLM::EngineCore"], start_new_session=kind == "own group"
    )


class Engine(ThreadingHTTPServer):
    """The server's state: names, key, counts."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, options: dict[str, list[str]]) -> None:
        host, port = options.get("host", ["127.0.0.1"])[0], int(options.get("port", ["8000"])[0])
        try:
            super().__init__((host, port), Handler, bind_and_activate=False)
            self.server_bind()
        except OSError as error:
            _log(f"{_TRACE}{type(error).__name__}: [Errno {error.errno}] {error.strerror}")
            raise SystemExit(1) from error
        self.weights = (options.get("model") or ["unnamed"])[0]
        self.names = options.get("served-model-name") or [self.weights]
        self.names += [each.partition("=")[0] for each in options.get("lora-modules", ())]
        self.has_parser = "reasoning-parser" in options
        self.max_model_len = int((options.get("max-model-len") or ["4096"])[0])
        self.key = os.environ.get("VLLM_API_KEY")
        self.counter = Counter()
        self.running = 0
        self.done = 0

    def server_bind(self) -> None:
        """Bind without the reverse look-up of http.server."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no event."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Engine
    disable_nagle_algorithm = True
    wbufsize = -1
    is_broken = False

    def log_message(self, format: str, *arguments: object) -> None:
        """Like uvicorn's access log: on stdout, which is the log file too."""
        _log(f'INFO:     {self.client_address[0]}:{self.client_address[1]} - "{format % arguments}"')

    def do_GET(self) -> None:
        """The small documents."""
        self._reset_if_broken()
        if self.path == "/health":
            self._send(200, b"")
        elif self.path == "/version":
            self._json(200, {"version": _wish("VERSION", "0.32.0")})
        elif self.path == "/metrics":
            self._send(200, _metrics(self.server).encode(), "text/plain; version=0.0.4; charset=utf-8")
        elif self.path == "/v1/models" and self._is_authorised():
            ids = [each for each in _wish("MODELS").split(",") if each] or self.server.names
            self._json(200, {"object": "list", "data": [_model_card(name, self.server) for name in ids]})
        elif not self.path.startswith("/v1/"):
            self._json(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        """Chats and tokenisation."""
        self._reset_if_broken()
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path == "/tokenize":
            self._tokenize(json.loads(body))
        elif self.path == "/detokenize":
            self._json(200, {"prompt": "".join(map(chr, json.loads(body)["tokens"]))})
        elif self.path == "/v1/chat/completions" and self._is_authorised():
            self.server.running += 1
            try:
                self._chat(body)
            finally:
                self.server.running -= 1
                self.server.done += 1
        elif not self.path.startswith("/v1/"):
            self._json(404, {"detail": "Not Found"})

    def _reset_if_broken(self) -> None:
        if self.is_broken:
            # Closing with a linger of 0 is a reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            raise ConnectionAbortedError

    def _is_authorised(self) -> bool:
        wanted = self.server.key
        if wanted is None or self.headers.get("authorization") == f"Bearer {wanted}":
            return True
        self._json(401, {"error": "Unauthorized"})
        return False

    def _tokenize(self, request: dict[str, Any]) -> None:
        ids = json.loads(_wish("PROMPT_IDS", "null")) or _prompt_ids(request)
        answer = {"count": len(ids), "max_model_len": self.server.max_model_len, "tokens": ids}
        self._json(200, answer | {"token_strs": None})

    def _chat(self, body: bytes) -> None:
        request = json.loads(body)
        _record("chat", pid=os.getpid(), body=request)
        if self._misbehave(body):
            return
        if request.get("model") not in self.server.names:
            aliases = ", ".join(self.server.names)
            text = f"The model `{request.get('model')}` does not exist. Valid aliases: {aliases}."
            self._error(404, text, "NotFoundError")
            return
        time.sleep(float(_wish("DELAY_S", "0")))
        is_aborted = _is_hit("ABORT", body)
        text = _wish("ANSWER") or answer_to(_instruction(request))
        limit = request.get("max_completion_tokens") or request.get("max_tokens") or 128
        self._json(200, _completion(self.server, request, text, limit, is_aborted=is_aborted))

    def _misbehave(self, body: bytes) -> bool:
        """Do what the environment asks for; whether the chat is answered by that."""
        _die_if("chat")
        count = self.server.counter.next
        if (after := _wish("DIE_AFTER")) and count("chats") == int(after) + 1:
            _die()
        if _is_hit("KILLER", body) and count("kills") <= int(_wish("KILLS") or sys.maxsize):
            _log("(APIServer pid=1) ERROR 11-24 18:00:00 [async_llm.py:702] AsyncLLM output_handler failed.")
            _die()
        if _is_hit("DEAD_CORE", body):
            self._error(500, "EngineCore encountered an issue. See stack trace (above) for the root cause.")
            self.wfile.flush()
            os._exit(1)
        while _is_hit("HANG", body):
            time.sleep(60)
        if (busy := _wish("BUSY")) and count("busy") <= int(busy):
            text = "The engine is currently busy and cannot accept new requests. Please try again later"
            self._error(503, f"{text} or on a different instance.", "Service Unavailable")
            return True
        if _is_hit("500", body):
            self._error(500, "[Errno 2] No such file or directory: '<path>'")
            self.is_broken = True
            return True
        return False

    def _error(self, status: int, message: str, kind: str = "InternalServerError") -> None:
        body = {"message": message, "type": kind, "param": None, "code": status}
        self._json(status, {"error": body})

    def _json(self, status: int, value: object) -> None:
        self._send(status, json.dumps(value).encode(), "application/json")

    def _send(self, status: int, body: bytes, kind: str | None = None) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        if kind is not None:
            self.send_header("content-type", kind)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


def _model_card(name: str, server: Engine) -> dict[str, Any]:
    card = {"id": name, "object": "model", "created": 1, "owned_by": "vllm", "root": server.weights}
    return card | {"parent": None, "max_model_len": server.max_model_len, "permission": []}


def _parts(request: dict[str, Any]) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for message in request.get("messages", ()):
        content = message.get("content")
        parts += content if isinstance(content, list) else [{"type": "text", "text": content or ""}]
    return parts


def _instruction(request: dict[str, Any]) -> str:
    texts = [part.get("text", "") for part in _parts(request) if part.get("type") == "text"]
    return texts[-1] if texts else ""


def _prompt_ids(request: dict[str, Any]) -> list[int]:
    """An id a character, so that a prompt can be read back; an id a word for the paper's families."""
    if "messages" in request and request.get("add_special_tokens") is not False:
        return list(range(1, 1 + _prompt_tokens(request)))
    if "messages" not in request:
        return [ord(BOS)] * bool(request.get("add_special_tokens", True)) + list(map(ord, request["prompt"]))
    ids = [ord(BOS)] * int(_wish("BOS", "1"))
    for part in _parts(request):
        if part.get("type") == "text":
            ids += map(ord, _wish("TEMPLATE", "{}").replace("{}", part["text"]))
        elif _wish("BLIND") != "tokens":
            ids += [ord(IMAGE)] * IMAGE_TOKENS
    return ids + list(map(ord, _wish("THINK")))


def _logprobs(request: dict[str, Any]) -> dict[str, Any] | None:
    """One place, whose chances depend on the image."""
    if not request.get("logprobs"):
        return None
    images = [part for part in _parts(request) if part.get("type") == "image_url"]
    seen = b"" if _wish("BLIND") else json.dumps(images).encode()
    chance = -int(hashlib.sha256(seen).hexdigest()[:4], 16) / 65536
    return {
        "content": [{"token": "A", "logprob": chance, "top_logprobs": [{"token": "A", "logprob": chance}]}]
    }


def _prompt_tokens(request: dict[str, Any]) -> int:
    parts = (
        _parts(request) if "messages" in request else [{"type": "text", "text": request.get("prompt", "")}]
    )
    return sum(len(part["text"].split()) if part.get("type") == "text" else IMAGE_TOKENS for part in parts)


def _completion(
    server: Engine, request: dict[str, Any], text: str, limit: int, *, is_aborted: bool
) -> dict[str, Any]:
    words = text.split(" ")
    reason = "abort" if is_aborted else "length" if len(words) > limit else "stop"
    prompt, produced = _prompt_tokens(request), min(len(words), limit)
    said = " ".join(words[:limit])
    thought = None
    if server.has_parser:
        said, thought = None, said
    message = {"role": "assistant", "content": said, "reasoning": thought, "refusal": None, "tool_calls": []}
    return {
        "id": "chatcmpl-fake",
        "object": "chat.completion",
        "created": 1,
        "model": server.names[0],
        "choices": [
            {"index": 0, "message": message, "logprobs": _logprobs(request), "finish_reason": reason}
        ],
        "usage": {
            "prompt_tokens": prompt,
            "total_tokens": prompt + produced,
            "completion_tokens": produced,
            "prompt_tokens_details": None,
        },
    }


def _metrics(server: Engine) -> str:
    labels = f'engine="0",model_name="{server.names[0]}"'
    values = {
        "num_requests_running": server.running,
        "num_requests_waiting": 0,
        "kv_cache_usage_perc": 0.125,
        "prompt_tokens_total": 40 * server.done,
        "generation_tokens_total": 16 * server.done,
    }
    kinds = {True: "counter", False: "gauge"}
    return "".join(
        f"# HELP vllm:{name} Made up.\n# TYPE vllm:{name} {kinds[name.endswith('_total')]}\n"
        f"vllm:{name}{{{labels}}} {float(value)}\n"
        for name, value in values.items()
    )


def _announce(server: Engine, arguments: list[str]) -> None:
    version = _wish("VERSION", "0.32.0")
    own = os.getpid()
    _log(f"(APIServer pid={own}) INFO 11-24 18:00:00 [api_utils.py:347]   █▄█▀ █     █     version {version}")
    _log(f"(APIServer pid={own}) INFO 11-24 18:00:00 [api_utils.py:286] non-default args: {arguments}")
    _log(f"(APIServer pid={own}) INFO 11-24 18:00:00 [model.py:733] Resolved architecture: Fake")


def _download(weights: str) -> None:
    """Download as the hub's client does: vLLM shows no progress, only the cache grows."""
    if not _wish("NO_DOWNLOAD") and "HF_HUB_CACHE" in os.environ and weights.count("/") == 1:
        blobs = Path(os.environ["HF_HUB_CACHE"]) / f"models--{weights.replace('/', '--')}" / "blobs"
        blobs.mkdir(parents=True, exist_ok=True)
        part = blobs / f"{'ab' * 32}.incomplete"
        part.write_bytes(bytes(DOWNLOADED_BYTES))
        _die_if("downloading")
        part.rename(part.with_suffix(""))
    else:
        _die_if("downloading")


def _load(weights: str) -> None:
    """The stages of a start, as vLLM's log shows them."""
    _log(f"(Worker pid=7) INFO 11-24 18:00:01 [gpu_model_runner.py:4800] Starting to load model {weights}...")
    _download(weights)
    _log("Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:00<00:00, 187.04it/s]")
    _die_if("loading")
    _log("(Worker pid=7) INFO 11-24 18:00:02 [backends.py:981] Dynamo bytecode transform time: 4.20 s")
    _die_if("compiling")
    _log(
        "(EngineCore pid=7) INFO 11-24 18:00:03 [kv_cache_utils.py:2327] GPU KV cache size: 1,048,576 tokens"
    )
    _log(
        "Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  50%|█████     | 1/2 [00:00<00:00, 9.1it/s]"
    )
    _die_if("warming_up")
    time.sleep(float(_wish("START_S", "0")))


def _obey_signals(server: Engine) -> None:
    """Wait for SIGTERM or SIGINT in the main thread, while other threads serve."""
    wanted = {signal.SIGTERM, signal.SIGINT}
    while True:
        received = signal.sigwait(wanted)
        _record("stop", signal=int(received))
        if _wish("TERM") != "ignore":
            _log("INFO:     Shutting down")
            server.server_close()
            os._exit(0)


def main(arguments: list[str]) -> None:
    """`vllm serve ...` and `vllm --version`."""
    if arguments == ["--version"]:
        sys.stdout.write(_wish("VERSION", "0.32.0") + "\n")
        return
    names = [key for key in os.environ if not key.startswith(VARIABLE)]
    _record("start", pid=os.getpid(), argv=sys.argv, environment=sorted(names))
    if _wish("TERM") == "ignore":
        # From the first moment on: a start that hangs may be stopped too.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if arguments[:1] != ["serve"]:
        _log("usage: vllm [-h] {chat,complete,serve,bench} ...")
        raise SystemExit(2)
    options = _parse(arguments[1:])
    _refuse_unknown(options)
    _die_if("start")
    server = Engine(options)
    _announce(server, arguments)
    if kind := _wish("CHILDREN"):
        _start_children(kind)
    _load(server.weights)
    if _wish("TERM") != "ignore":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    server.server_activate()
    _die_if("listening")
    _log("INFO:     Application startup complete.")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    if _wish("TERM") == "ignore":
        while True:
            time.sleep(60)
    _obey_signals(server)


if __name__ == "__main__":
    main(sys.argv[1:])
