"""Everything that is decided before an engine starts: its command, its environment, and what a run records.

The family's file comes first, then the wishes, then options after `--`; later ones win, as on the engine's
own command line. The facts are whatever can change an answer. They hold no path of this machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vlsb.config import NOTHING, OFFICIAL_TARGET_TOKENS, START_TIMEOUT_S, THINKING_TOKENS
from vlsb.engines.checkpoint import (
    CONFIG,
    MANIFEST,
    SMALL_FILES,
    Weights,
    architectures_of,
    chat_template,
    code_files,
    family_of,
    json_object,
    open_weights,
)
from vlsb.engines.facts import (
    context_limit,
    is_inline,
    normal,
    option_words,
    parse_options,
    require_whole_name,
    server_facts,
    setting_deviations,
)
from vlsb.engines.hardware import Gpu, visible_gpus
from vlsb.engines.install import Engine, install_command, release, version_problem
from vlsb.errors import ConfigError
from vlsb.models.catalog import OVERRULED_IN_FILES, read_config
from vlsb.models.profile import CODE_ARCHITECTURES, GENERIC, ModelProfile, shipped_config

# One full context of the largest cache a token of the families takes: LLaVA-1.5 in float32, 4,096 x 1 MiB.
CPU_CACHE_GIB = 4
ADAPTER_CONFIG = "adapter_config.json"
# For the question and the chat template around it: VLSBench's longest instruction has 67 words.
QUESTION_TOKENS = 896
# A judge reads the template, a question and a response besides what it writes.
JUDGE_CONTEXT_TOKENS = 2048
# The engine takes an empty list for "any"; this name can never exist.
NO_DOMAIN = "none.invalid"
# With these an engine reads pickles, at the latest where it finds no safetensors.
_UNPICKLING = ("auto", "hf", "npcache", "pt")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_ADAPTER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_GPU = re.compile(r"\d+|(?:GPU|MIG)-[0-9A-Za-z-]+")
_THOUGHT = re.compile("think", re.IGNORECASE)
_PARSER = "reasoning-parser"
_PARSER_OPTION = f"--{_PARSER}"
# For a checkpoint of no known family that writes <think> and </think>.
_USUAL_PARSER = "qwen3"
_ARCHITECTURE = re.compile(r"[A-Za-z0-9_]{1,80}")


@dataclass(frozen=True, slots=True)
class GpuLease:
    """The GPUs that an engine may take: entries of CUDA_VISIBLE_DEVICES, or None for all that are inherited.

    Where a machine is shared out, each engine has a lease of its own.
    """

    entries: tuple[str, ...] | None = None

    @classmethod
    def parse(cls, text: str | None) -> GpuLease:
        """Return the lease that `--gpus` names; ConfigError for what names no GPUs."""
        if text is None:
            return cls()
        entries = tuple(text.split(","))
        if len(set(entries)) != len(entries) or not all(_GPU.fullmatch(each) for each in entries):
            raise ConfigError("--gpus takes numbers or ids with commas between them, such as 0,1.")
        return cls(entries)

    @property
    def variable(self) -> str | None:
        """The value of CUDA_VISIBLE_DEVICES; None to leave the inherited one."""
        return None if self.entries is None else ",".join(self.entries)

    def require_inherited(self, there: Sequence[Gpu]) -> None:
        """ConfigError where an entry is not among the GPUs that this process itself may use."""
        for entry in self.entries or ():
            # A MIG slice has no row of its own.
            if not entry.startswith("MIG-") and not visible_gpus(there, entry):
                usable = ", ".join(str(gpu.index) for gpu in there) or "none"
                raise ConfigError(f"--gpus {entry}: not among the GPUs that may be used here ({usable}).")


@dataclass(frozen=True, slots=True)
class Lora:
    """An adapter on top of the weights: the name that is asked for, and its folder or hub id."""

    name: str
    weights: str

    @classmethod
    def parse(cls, text: str | None) -> Lora | None:
        """Return the adapter that `--lora NAME=PATH` names; ConfigError for anything else."""
        if text is None:
            return None
        name, _, weights = text.partition("=")
        if not _ADAPTER.fullmatch(name) or not weights:
            raise ConfigError("--lora takes NAME=PATH: a name of your own and the adapter's folder.")
        path = Path(weights).expanduser()
        if not (path / ADAPTER_CONFIG).is_file():
            raise ConfigError(f"--lora {name}: no {ADAPTER_CONFIG} in {weights}, so not an adapter.")
        return cls(name, str(path.resolve()))

    def settings(self) -> dict[str, Any]:
        """Return the engine's options for it."""
        rank = json_object(Path(self.weights) / ADAPTER_CONFIG).get("r")
        settings = {"enable-lora": True, "lora-modules": [f"{self.name}={self.weights}"]}
        if not isinstance(rank, int):
            return settings
        # The least of the ranks that the engine takes which holds it.
        ranks = (8, 16, 32, 64, 128, 256, 320, 512)
        return settings | {"max-lora-rank": next((each for each in ranks if each >= rank), rank)}


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a user wants of a server. None: as the model's file has it.

    `engine` is `auto`, a program or an environment's folder; `settings` are options of `vllm serve` by their
    long names, and `engine_options` the words after `--`.
    `thinks` says whether the model shall think (None: as its template has it) and `max_tokens` how long an
    answer may be: the context must hold it.
    """

    weights: str | None = None
    revision: str | None = None
    gpus: GpuLease = GpuLease()
    settings: Mapping[str, Any] = field(default_factory=lambda: NOTHING, hash=False)
    port: int | None = None
    engine: str = "auto"
    engine_options: tuple[str, ...] = ()
    lora: Lora | None = None
    thinks: bool | None = None
    max_tokens: int | None = None
    offline: bool = False
    start_timeout_s: float = START_TIMEOUT_S

    def for_judge(self) -> Wishes:
        """Return what a judge's engine takes of them: all that does not belong to the target's model."""
        return Wishes(
            settings=self.settings,
            gpus=self.gpus,
            engine=self.engine,
            max_tokens=JUDGE_CONTEXT_TOKENS,
            start_timeout_s=self.start_timeout_s,
        )


@dataclass(frozen=True, slots=True)
class ServerPlan:
    """A server that can be started as it stands here, but for its address, its names and its key.

    `weights` is the folder or hub id that the engine is given; `arguments` follow the executable;
    `environment` is added to the engine's. `facts` are JSON that is equal wherever the same answers are to
    be expected. `deviations` say in words where this leaves the paper's setting.
    """

    model: ModelProfile
    engine: Engine
    weights: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    facts: Mapping[str, Any]
    deviations: tuple[str, ...]
    adapter: str | None = None

    @property
    def served_name(self) -> str:
        """The model name to ask for: the adapter's where there is one."""
        return self.adapter or self.model.name

    @property
    def has_parser(self) -> bool:
        """Whether the engine is told to set reasoning apart."""
        return _PARSER_OPTION in self.arguments

    def without_parser(self) -> ServerPlan:
        """Return the same without the profile's reasoning parser."""
        place = self.arguments.index(_PARSER_OPTION)
        return replace(self, arguments=(*self.arguments[:place], *self.arguments[place + 2 :]))

    @property
    def about(self) -> str:
        """The engine and its weights in words."""
        return f"vLLM {self.engine.version}{' (CPU)' if self.engine.is_cpu else ''} · {self.weights}"

    @property
    def asks_hub(self) -> bool:
        """Whether the engine fetches its weights itself, or may."""
        return not self.weights.startswith("/") and self.environment.get("HF_HUB_OFFLINE") != "1"


def plan_server(
    model: ModelProfile,
    wishes: Wishes,
    engine: Engine,
    *,
    environment: Mapping[str, str],
    has_gpu: bool,
) -> ServerPlan:
    """Decide all of it, from the files of the weights. Blocking; asks the hub where the weights are there.

    Raises ConfigError for wishes that do not fit each other, the weights or the engine.
    """
    _check_engine(model, engine)
    passed = parse_options(wishes.engine_options)
    own_settings = read_config(model.config)
    weights = open_weights(
        wishes.weights or model.weights,
        revision=weights_revision(model, wishes, own_settings),
        offline=wishes.offline,
    )
    check_layout(weights, model)
    on_cpu = engine.is_cpu or not has_gpu
    settings = _settings(model, own_settings, wishes, weights, on_cpu=on_cpu)
    settings = {name: value for name, value in settings.items() if name not in passed}
    effective = {name: normal(value) for name, value in (settings | passed).items()}
    _check_code(model, weights, effective, weights_revision(model, wishes, own_settings))
    if effective["load-format"] == "safetensors":
        weights.check_weights()
    _check_gpus(wishes, effective, has_gpu=has_gpu)
    pinned = () if weights.commit is None else ("--revision", weights.commit)
    facts = server_facts(model, engine, weights, effective, environment, on_cpu=on_cpu)
    return ServerPlan(
        model=model,
        engine=engine,
        weights=weights.argument,
        arguments=("serve", weights.argument, *pinned, *option_words(settings), *wishes.engine_options),
        environment=_additions(wishes, weights, environment, on_cpu=on_cpu),
        facts=facts,
        deviations=tuple(setting_deviations(model, weights, effective, facts)),
        adapter=None if wishes.lora is None else wishes.lora.name,
    )


def facts_as(
    model: ModelProfile, wishes: Wishes, recorded: Mapping[str, Any]
) -> tuple[str, Mapping[str, Any]]:
    """Return name and facts of a server on an engine as in `recorded` facts, with their variables.

    What a machine has is taken to be as it was: only what was wished for, and the weights, are looked at.
    Blocking; asks no Hub. Raises as `plan_server`, also for a checkpoint that is not here.
    """
    engine_facts = recorded["engine"]
    engine = Engine(
        Path(), str(engine_facts["version"]), None, is_cpu=engine_facts["device"] == "cpu", prefix=None
    )
    if model.source_architecture is not None:
        raise ConfigError(f"{model.name}: what it is converted to is known where it was converted.")
    plan = plan_server(
        model, replace(wishes, offline=True), engine, environment={}, has_gpu=not engine.is_cpu
    )
    same = {name: recorded[name] for name in ("engine", "variables") if name in recorded}
    return plan.served_name, {**plan.facts, **same}


def weights_revision(model: ModelProfile, wishes: Wishes, written: Mapping[str, Any]) -> str | None:
    """Return the hub's revision to take: the one that is wished for, else that of the model's own weights."""
    if wishes.revision is not None or wishes.weights is not None:
        return wishes.revision
    return model.revision or (str(written["revision"]) if "revision" in written else None)


# Settings.


def _settings(
    model: ModelProfile, written: Mapping[str, Any], wishes: Wishes, weights: Weights, *, on_cpu: bool
) -> dict[str, Any]:
    """Return the file's settings under the machine's and the wishes."""
    settings = {name: value for name, value in written.items() if name not in OVERRULED_IN_FILES}
    template = settings.get("chat-template")
    if template is None and model.chat_template:
        settings["chat-template"] = str(shipped_config(model.chat_template))
    elif template is not None and not is_inline(str(template)):
        # As seen from the file's own folder.
        settings["chat-template"] = str((model.config.parent / Path(str(template)).expanduser()).resolve())
    # A model that is asked as wished may think where its template speaks of thoughts.
    own_template = chat_template(weights) or ""
    may_think = wishes.thinks is not False and _THOUGHT.search(own_template) is not None
    if isinstance(context := settings.get("max-model-len"), int):
        if model.own_config is None and model.image_tokens:
            # It has to hold any image, the question and the answer.
            usual = THINKING_TOKENS if may_think else OFFICIAL_TARGET_TOKENS
            answer = wishes.max_tokens or usual
            context = max(context, model.image_tokens + QUESTION_TOKENS + answer)
        settings["max-model-len"] = min(context, context_limit(weights) or context)
    if on_cpu:
        settings |= {"dtype": model.cpu_dtype, "enforce-eager": True}
    if not model.is_of_the_paper and may_think:
        # Whether it leaves an answer is seen once the engine is up.
        usual_parser = _USUAL_PARSER if "<think>" in own_template else None
        if parser := model.reasoning_parser or usual_parser:
            settings[_PARSER] = parser
    settings |= wishes.settings
    if wishes.lora is not None:
        settings |= wishes.lora.settings()
    settings.setdefault("load-format", "safetensors")
    if model.engine.newest is None:
        # The last engine of a family that was dropped does not know the option.
        settings["allowed-media-domains"] = [NO_DOMAIN]
    return settings


def _additions(
    wishes: Wishes, weights: Weights, environment: Mapping[str, str], *, on_cpu: bool
) -> dict[str, str]:
    """Variables that the engine gets besides the user's own, which win where safety has no say."""
    additions = {"VLLM_NO_USAGE_STATS": "1"}
    if on_cpu:
        # Without it the engine wants nearly all memory of the machine.
        additions["VLLM_CPU_KVCACHE_SPACE"] = str(CPU_CACHE_GIB)
    if weights.must_stay_offline:
        additions["HF_HUB_OFFLINE"] = "1"
    if wishes.gpus.entries is not None:
        # The order in which `nvidia-smi` counts them.
        additions["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    additions = {name: value for name, value in additions.items() if name not in environment}
    additions["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] = "0"
    if wishes.offline:
        additions["HF_HUB_OFFLINE"] = "1"
    if (visible := wishes.gpus.variable) is not None:
        additions["CUDA_VISIBLE_DEVICES"] = visible
    return additions


# Checks.


def _check_engine(model: ModelProfile, engine: Engine) -> None:
    pin = model.engine
    problem = version_problem(pin, engine.version, None)
    if (
        problem is None
        and pin.newest
        and engine.is_cpu
        and release(engine.version) > release(pin.cpu_version)
    ):
        problem = f"is vLLM {engine.version} for the CPU, which lost support for it after {pin.cpu_version}"
    if problem is not None:
        raise ConfigError(
            f"{model.family}: this engine {problem}. Leave --engine out, and install the right one with: "
            f"{install_command(model.engine, model.family)}"
        )


def _check_code(
    model: ModelProfile, weights: Weights, effective: Mapping[str, Any], revision: str | None
) -> None:
    """Nobody else's code unless it was asked for, at a commit that can have been read."""
    for option in ("load-format", "trust-remote-code"):
        require_whole_name(option, effective)
    if effective["load-format"] in _UNPICKLING:
        raise ConfigError(
            f"--load-format {effective['load-format']} may unpickle weights, which can run code. "
            "Leave it out: safetensors are read."
        )
    if not effective.get("trust-remote-code"):
        require_no_code(model, weights)
        return
    if model.engine.newest is not None:
        raise ConfigError(
            f"--trust-remote-code is not given to the old engine of {model.family}: no checkpoint of that "
            "family needs it."
        )
    if weights.commit is not None and not (revision and _COMMIT.fullmatch(revision)):
        raise ConfigError(
            "--trust-remote-code runs code of the weights' repository. Name the commit that you have read: "
            "--revision with all 40 digits."
        )


def _check_gpus(wishes: Wishes, effective: Mapping[str, Any], *, has_gpu: bool) -> None:
    size = effective.get("tensor-parallel-size", 1)
    if not isinstance(size, int) or size < 1:
        raise ConfigError("--tensor-parallel-size must be a whole number from 1 on.")
    named = wishes.gpus.entries
    if named is None:
        return
    if not has_gpu:
        raise ConfigError("--gpus: this machine has no GPU that can be used.")
    if size > len(named):
        raise ConfigError(f"--tensor-parallel-size {size} needs {size} GPUs; --gpus names {len(named)}.")


def require_no_code(model: ModelProfile, weights: Weights) -> None:
    """ConfigError with what would be run, where a checkpoint needs code of its repository to be served."""
    config = weights.settings(CONFIG)
    if not model.needs_code and not CODE_ARCHITECTURES.intersection(architectures_of(config)):
        return
    # A processor's or a tokenizer's code is named in their own files.
    settings = [weights.settings(each) for each in SMALL_FILES if each.endswith("_config.json")]
    named = {file for each in (config, *settings) for file in code_files(each)}
    files = ", ".join(sorted(named)) or "its processor"
    at = "" if weights.commit is None else f" --revision {weights.commit}"
    where = weights.argument if weights.commit is None else f"{weights.argument} at {weights.commit}"
    raise ConfigError(
        f"{model.name} runs Python code of its own repository ({files}), which nobody here has read: read it "
        f"in {where}, then add --trust-remote-code{at}"
    )


def check_layout(weights: Weights, model: ModelProfile) -> None:
    """Compare a checkpoint with its family before the engine does, whose message would mislead."""
    config = weights.settings(CONFIG)
    named = architectures_of(config)
    if not named:
        raise ConfigError(f"{weights.argument}: {CONFIG} names no architecture, so no engine can serve it.")
    right = family_of(config, is_converted=(weights.folder / MANIFEST).is_file())
    if right is not None and right.family == model.family and right.source_architecture not in named:
        return
    if right is not None and right.source_architecture in named:
        raise ConfigError(
            f"{weights.argument} has the original LLaVA layout, which no engine reads. Use {right.name}, "
            "which converts it first, or do so yourself: vlsb convert llava SRC DST"
        )
    if model.family == GENERIC:
        return
    if right is None:
        kind = named[0] if _ARCHITECTURE.fullmatch(named[0]) else "of an unknown architecture"
        raise ConfigError(
            f"{weights.argument} is {kind}, which no family here serves. {model.family} is for "
            f"{model.architecture}; any other checkpoint goes with --model ORG/NAME or --model FOLDER."
        )
    raise ConfigError(
        f"{weights.argument} is a checkpoint of {right.name}, not of {model.family}. Use {right.name}."
    )
