"""The cause of an engine's end is read from what real engines, drivers and the hub's client write."""

from __future__ import annotations

import signal
import time

import pytest

from tests.support.fake_engine import CAUSES
from tests.support.waiting import DEADLINE_S
from vlsb.engines.diagnosis import diagnose

CORE_FAILED = (
    '  File "/engine/vllm/v1/engine/utils.py", line 1431, in wait_for_engine_startup\n'
    "    raise RuntimeError(\n"
    "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}\n"
)
# vLLM quotes this error at every start on a system with few open files.
OPEN_FILES_WARNING = (
    "(APIServer pid=15352) WARNING 11-24 18:05:42 [system_utils.py:255] Found ulimit of 20000 and failed to "
    "automatically increase with error current limit exceeds maximum limit. This can cause fd limit errors "
    "like `OSError: [Errno 24] Too many open files`. Consider increasing with ulimit -n\n"
)
WORKER = "(Worker pid=15544) ERROR 11-24 18:05:59 [multiproc_executor.py:953] "
CORE = "(EngineCore pid=7863) ERROR 11-24 18:00:02 [core.py:1127] "

# Log, code, and what the message has to hold.
KNOWN = {
    "vLLM 0.32, a flag it does not know": (
        "vllm: error: unrecognized arguments: --disable-log-requests --swap-space 4\n",
        "unknown_flag",
        "--disable-log-requests, --swap-space",
    ),
    "vLLM 0.32, a value it does not take": (
        "Found duplicate keys --dtype\nusage: vllm serve [model_tag] [options]\nvllm serve: error: argument "
        "--dtype: invalid choice: 'foo' (choose from 'auto', 'bfloat16')\n",
        "bad_flag_value",
        "--dtype",
    ),
    "vLLM 0.32, a port in use": (
        '  File "/engine/vllm/entrypoints/launchers/launcher.py", line 348, in create_server_socket\n'
        "    sock.bind(addr)\nOSError: [Errno 98] Address already in use\n",
        "port_taken",
        "--port",
    ),
    "the hub, gated and no token": (CAUSES["gated_weights"][0], "gated_weights", "hf auth login"),
    "transformers, gated": (
        "OSError: You are trying to access a gated repo.\nMake sure to have access to it at "
        "https://huggingface.co/meta-llama/Llama-3.2-11B-Vision-Instruct.\n403 Client Error.\nAccess to "
        "model meta-llama/Llama-3.2-11B-Vision-Instruct is restricted and you are not in the list.\n",
        "gated_weights",
        "https://huggingface.co/meta-llama/Llama-3.2-11B-Vision-Instruct,",
    ),
    "the hub's client, offline": (
        "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate cached snapshot folder "
        "for the specified revision on the local disk and outgoing traffic has been disabled. To enable repo "
        "look-ups and downloads online, pass 'local_files_only=False' as input.\n",
        "missing_weights",
        "--offline or HF_HUB_OFFLINE",
    ),
    "the hub's client, no network": (
        "httpx2.ConnectError: [Errno -2] Name or service not known\n"
        "huggingface_hub.errors.LocalEntryNotFoundError: An error happened while trying to locate the file "
        "on the Hub and we cannot find the requested files in the local cache.\n"
        "OSError: We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find them "
        "in the cached files.\n",
        "missing_weights",
        "the Hugging Face Hub cannot be reached",
    ),
    "the hub's client, a path that is not there": (
        "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or "
        "'namespace/repo_name': '/nowhere/model'. Use `repo_type` argument if needed.\n",
        "missing_weights",
        "no such folder",
    ),
    "the hub, no such repository": (
        "huggingface_hub.errors.RepositoryNotFoundError: 401 Client Error. (Request ID: "
        "Root=1-6)\n\nRepository Not Found for url: https://huggingface.co/api/models/nobody/nothing.\n",
        "missing_weights",
        "private",
    ),
    "the hub, no such revision": (
        "OSError: v9 is not a valid git identifier (branch name, tag name or commit id) that exists for this "
        "model name.\n",
        "missing_weights",
        "--revision",
    ),
    "vLLM 0.32, a folder without weights": (
        f"{WORKER}RuntimeError: Cannot find any model weights with `/weights/nw`\n{CORE_FAILED}",
        "missing_weights",
        "*.safetensors",
    ),
    "vLLM 0.32, a weight file cut off": (
        f"{WORKER}safetensors._safetensors_rust.SafetensorError: Error while deserializing header: invalid "
        f"header length\n{CORE_FAILED}",
        "damaged_weights",
        "download it again",
    ),
    "a full disk": ("OSError: [Errno 28] No space left on device\n", "disk_full", "HF_HOME"),
    "a full share of a disk": ("OSError: [Errno 122] Disk quota exceeded\n", "disk_full", "your share"),
    "full shared memory": (
        "RuntimeError: unable to write to file </torch_123_456_0>: No space left on device (28)\n",
        "disk_full",
        "--shm-size",
    ),
    "vLLM 0.32, original LLaVA weights": (
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n  Value error, "
        "Model architectures ['LlavaLlamaForCausalLM'] are not supported for now. Supported architectures: "
        "dict_keys(['AfmoeForCausalLM', 'ApertusForCausalLM'])\n",
        "wrong_architecture",
        "vlsb convert llava",
    ),
    "vLLM 0.32, mllama's misleading end": (
        "    return processor._get_num_multimodal_tokens(**sizes, **mm_processor_kwargs)\nAttributeError: "
        "'MllamaProcessor' object has no attribute '_get_num_multimodal_tokens'\n",
        "wrong_architecture",
        "vlsb engine install mllama",
    ),
    "vLLM 0.32 with --model-impl vllm, mllama": (
        "  Value error, Model architecture MllamaForConditionalGeneration was supported in vLLM until "
        "v0.10.2, and is not supported anymore. Please use an older version of vLLM\n",
        "wrong_architecture",
        "vLLM 0.10.2 was the last",
    ),
    "transformers, an architecture it does not have": (
        "ValueError: 'LlavaLlamaForCausalLM' is not a registered model in the Transformers library\n",
        "wrong_architecture",
        "LlavaLlamaForCausalLM",
    ),
    "vLLM 0.32, a context beyond the weights'": (
        "  Value error, User-specified max_model_len (1000000) is greater than the derived max_model_len "
        "(max_position_embeddings=2048.0 or model_max_length=None in model's config.json).\n",
        "context_too_long",
        "--max-model-len 2048",
    ),
    "torch, an old driver": (CAUSES["driver_mismatch"][0], "driver_mismatch", "nvidia-smi"),
    "CUDA, an old driver": (
        "RuntimeError: CUDA driver version is insufficient for CUDA runtime version\n",
        "driver_mismatch",
        "driver",
    ),
    "NVML, a driver updated under a running system": (
        "NVML: Failed to initialize NVML: Driver/library version mismatch\n",
        "driver_mismatch",
        "restart the machine",
    ),
    "vLLM, no GPU": ("RuntimeError: Failed to infer device type, please set\n", "no_gpu", "nvidia-smi"),
    "vLLM 0.32, a busy GPU": (CAUSES["gpu_busy"][0], "out_of_gpu_memory", "--gpu-memory-utilization 0.23"),
    "vLLM 0.10, a busy GPU": (
        "ValueError: Free memory on device (70.2/79.11 GiB) on startup is less than desired GPU memory "
        "utilization (0.9, 71.2 GiB). Decrease GPU memory utilization\n",
        "out_of_gpu_memory",
        "--gpu-memory-utilization 0.86",
    ),
    "vLLM, a GPU with next to nothing free": (
        "ValueError: Free memory on device cuda:0 (3.1/79.11 GiB) on startup is less than desired GPU memory "
        "utilization (0.9, 71.2 GiB).\n",
        "out_of_gpu_memory",
        "End what else uses the GPU (`nvidia-smi`).",
    ),
    "vLLM 0.32 on a CPU, too little memory": (
        "(VllmWorker-0 pid=18233) ERROR 11-24 18:08:22 [multiproc_executor.py:953] ValueError: Available "
        "memory on node 0 (10.41/12.96 GiB) on startup is less than desired CPU memory utilization (0.99, "
        f"12.83 GiB). On the CPU backend, the `--gpu-memory-utilization` flag controls\n{CORE_FAILED}",
        "out_of_memory",
        "--gpu-memory-utilization 0.78",
    ),
    "vLLM, a context that does not fit": (
        CAUSES["context_too_long"][0],
        "out_of_gpu_memory",
        "--max-model-len 7632",
    ),
    "vLLM, no context fits": (
        "ValueError: To serve at least one request with the models's max seq len (131072), (16.00 GiB KV "
        "cache is needed, which is larger than the available KV cache memory (0.01 GiB). Try increasing\n",
        "out_of_gpu_memory",
        "Pass `-- --gpu-memory-utilization 0.95`",
    ),
    "vLLM, no room for a cache": (
        CAUSES["no_cache_memory"][0],
        "out_of_gpu_memory",
        "--gpu-memory-utilization 0.95` or `--tensor-parallel-size 2`",
    ),
    "torch, weights that do not fit": (
        CAUSES["out_of_gpu_memory"][0],
        "out_of_gpu_memory",
        "while the weights were loaded. Pass `--tensor-parallel-size 2`",
    ),
    "torch, full after the weights": (
        "(EngineCore pid=7) INFO 11-24 18:00:09 [gpu_model_runner.py:5150] Model loading took 13.2 GiB "
        f"memory and 4.1 seconds\n{CAUSES['out_of_gpu_memory'][0]}",
        "out_of_gpu_memory",
        "--gpu-memory-utilization 0.8`",
    ),
    "CUDA, full in a kernel": (
        "RuntimeError: CUDA error: out of memory\n",
        "out_of_gpu_memory",
        "out of GPU memory",
    ),
    "torch, no memory on a CPU": (CAUSES["out_of_memory"][0], "out_of_memory", "VLLM_CPU_KVCACHE_SPACE"),
    "a real lack of open files": ("OSError: [Errno 24] Too many open files\n", "open_files", "ulimit -n"),
    "an environment without its metadata": (
        "importlib.metadata.PackageNotFoundError: No package metadata was found for vllm\n",
        "broken_engine",
        "lacks vllm",
    ),
    "an environment without a module": (
        "ModuleNotFoundError: No module named 'uvloop'\n",
        "broken_engine",
        "lacks uvloop",
    ),
    "an environment with a library of another build": (
        "OSError: Could not load this library: /engine/_torchaudio.abi3.so\n",
        "broken_engine",
        "its environment is incomplete",
    ),
}


@pytest.mark.parametrize("case", KNOWN)
def test_a_known_cause_is_named_with_what_helps(case: str) -> None:
    log, code, said = KNOWN[case]

    cause = diagnose(OPEN_FILES_WARNING + log, 1)

    assert cause is not None
    assert cause.code == code
    assert said in cause.message
    assert cause.message.endswith(".")


def test_an_error_that_is_only_quoted_in_a_warning_is_no_cause() -> None:
    retried = "(EngineCore pid=7) WARNING 11-24 18:00:09 [parallel.py:746] Address already in use. Retrying\n"

    assert diagnose(OPEN_FILES_WARNING + retried, 1) is None


@pytest.mark.parametrize("log", ["", "Traceback\nZeroDivisionError: division by zero\n", CORE_FAILED])
def test_what_nobody_knows_has_no_cause(log: str) -> None:
    assert diagnose(log, 1) is None


@pytest.mark.parametrize("log", ["", "ERROR Worker proc VllmWorker-0 died unexpectedly (exit code: -9)\n"])
def test_a_killed_engine_or_worker_is_said_to_be_killed(log: str) -> None:
    cause = diagnose(log, 1 if log else -signal.SIGKILL)

    assert cause is not None
    assert cause.code == "killed"


def test_what_the_log_says_is_more_than_how_the_engine_was_killed() -> None:
    cause = diagnose("OSError: [Errno 28] No space left on device\n", -signal.SIGKILL)

    assert cause is not None
    assert cause.code == "disk_full"


def test_a_processor_that_the_build_does_not_fit_is_named() -> None:
    cause = diagnose("", -signal.SIGILL)

    assert cause is not None
    assert cause.code == "unsupported_processor"


def test_no_value_of_an_unknown_flag_is_repeated() -> None:
    cause = diagnose("vllm: error: unrecognized arguments: --my-token hunter2-hunter2 --other=hunter2\n", 2)

    assert cause is not None
    assert "--my-token, --other" in cause.message
    assert "hunter2" not in cause.message


def test_no_text_of_a_log_gets_into_a_message_with_what_a_terminal_acts_on() -> None:
    hostile = "\x1b]0;gone\x07\x1b[31m"
    logs = (
        f"error: unrecognized arguments: --a{hostile}b\n",
        f"Access to model a/{hostile}b is restricted\n",
        f"architectures ['A{hostile}'] are not supported for now\n",
        f"ModuleNotFoundError: No module named '{hostile}'\n",
    )

    messages = [cause.message for log in logs if (cause := diagnose(log, 1)) is not None]

    assert messages
    assert all(message.isprintable() for message in messages)


def test_a_large_log_is_read_in_no_time() -> None:
    pieces = (
        "a" * 500_000,
        "architectures ['A" * 30_000,
        "Free memory on device (1/" * 20_000,
        "/dev/shm " * 50_000,
    )
    began = time.monotonic()

    assert [diagnose(piece, 1) for piece in pieces] == [None] * len(pieces)

    assert time.monotonic() - began < DEADLINE_S
