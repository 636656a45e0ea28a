"""A checkpoint before an engine sees it: where its small files lie, what it is, which content it has.

Two checkpoints with the same digest have the same settings, tokenizer, template, tensor names, types and
shapes, and the same 16 KiB in the middle of every tensor (small tensors whole). Training changes nearly all
tensors, so other weights have another digest; a single altered number may stay unseen. Hashing all of them
would read 15 GB at each start. Its kind, a family or an architecture, is known by its config.json alone:
nothing else is downloaded for that.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any

from vlsb import strict_json
from vlsb.errors import ConfigError
from vlsb.hub import Repository
from vlsb.models.profile import FAMILIES, GENERIC, NEWER, ModelProfile
from vlsb.steps import OnProgress

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# Only what `vlsb convert llava` has made has this one.
MANIFEST = "conversion.json"
# What is read here: the engine fetches the rest itself, and shows how far it is.
SMALL_FILES = (
    CONFIG,
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "chat_template.json",
    "chat_template.jinja",
    "tokenizer_config.json",
    INDEX,
)
SAMPLED_BYTES = 16 * 1024

_MAX_JSON_BYTES = 64 * 1024 * 1024
_MAX_HEADER_BYTES = 100 * 1024 * 1024
# Settings, tokenizers, templates and code; notes and licences say nothing about an answer.
_DIGESTED = frozenset({".jinja", ".json", ".model", ".py", ".txt"})
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_WHOLE_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
_OTHERWISE = "Start once with a network, or pass --weights DIR with a copy."


@dataclass(frozen=True, slots=True)
class Weights:
    """A local folder, or a hub repository at one commit with its small files in the cache.

    `argument` is what the engine is given. `folder` has the small files; `commit` is None for a local one.
    `weight_bytes` is the size of the tensors' files if it is known, `missing_bytes` what is to be downloaded.
    `must_stay_offline` says that the hub cannot be asked, so that the engine must not try either.
    """

    argument: str
    folder: Path
    commit: str | None
    must_stay_offline: bool
    weight_bytes: int | None = None
    missing_bytes: int = 0

    def settings(self, file: str) -> dict[str, Any]:
        """One of its JSON files, empty where it has none. Raises ConfigError if it is not an object."""
        return json_object(self.folder / file)

    def text(self, file: str) -> str | None:
        """One of its text files, or None."""
        path = self.folder / file
        try:
            return _small_file(path).decode("utf-8") if path.is_file() else None
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: not UTF-8 text.") from error

    def identity(self) -> dict[str, str]:
        """Return what tells it from every other one, on any machine: JSON."""
        if self.commit is not None:
            return {"hub": self.argument, "revision": self.commit}
        return {"folder": self.folder.name, "digest": content_digest(self.folder)}

    def check_weights(self) -> None:
        """Raise where weights are known to be missing: always for a folder, offline for the hub's."""
        if self.commit is not None and not self.must_stay_offline:
            return
        missing = [each for each in _weight_files(self.folder) if not (self.folder / each).is_file()]
        if not missing:
            return
        if self.commit is not None:
            raise ConfigError(
                f"{self.argument}: the weights are not, or not all, in the Hugging Face cache, and the Hub "
                f"does not answer. {_OTHERWISE}"
            )
        if any(self.folder.glob("*.bin")):
            raise ConfigError(
                f"{self.argument}: weights as .bin files, which can run code when they are read. Turn them "
                "into safetensors; only `vlsb convert llava` takes them, and reads nothing but tensors."
            )
        raise ConfigError(f"{self.argument}: {len(missing)} of its weight files are missing (*.safetensors).")


def open_weights(weights: str, *, revision: str | None, offline: bool) -> Weights:
    """Return the checkpoint that `weights` names: a folder, or a hub id. Blocking.

    Raises ConfigError for what cannot be one, AuthenticationError where the hub wants a token.
    """
    if (path := _named_folder(weights)) is not None:
        return _local(path, revision)
    snapshot = _repository(weights, revision).fetch(
        [CONFIG], choose=lambda sizes: [each for each in SMALL_FILES if each in sizes], offline=offline
    )
    folder, commit = snapshot.folder, snapshot.folder.name
    if snapshot.sizes is None:
        return Weights(weights, folder, commit, must_stay_offline=True, weight_bytes=_present_bytes(folder))
    sizes = {each: snapshot.sizes[each] for each in _tensor_files(snapshot.sizes)}
    missing = sum(size for each, size in sizes.items() if not (folder / each).exists())
    size = sum(sizes.values()) or None
    return Weights(weights, folder, commit, False, weight_bytes=size, missing_bytes=missing)


def read_config_json(weights: str, *, revision: str | None, offline: bool) -> tuple[dict[str, Any], Path]:
    """Read a checkpoint's config.json and find its folder; no other file is downloaded. Blocking.

    Raises as `open_weights`.
    """
    if (path := _named_folder(weights)) is not None:
        folder = _local(path, None).folder
    else:
        folder = _repository(weights, revision).fetch([CONFIG], offline=offline).folder
    return json_object(folder / CONFIG), folder


def _named_folder(weights: str) -> Path | None:
    """Return the folder that weights name, which need not be there; None for an id on the Hub."""
    path = Path(weights).expanduser()
    return path if path.is_dir() or weights.startswith(("/", "./", "../", "~")) else None


def _repository(weights: str, revision: str | None) -> Repository:
    if not _HUB_ID.fullmatch(weights):
        raise ConfigError("the weights are neither a folder here nor a Hugging Face id such as org/name.")
    return Repository(weights, revision, _OTHERWISE)


def _local(path: Path, revision: str | None) -> Weights:
    if revision is not None:
        raise ConfigError(f"--revision is for weights of the Hugging Face Hub; {path} is a folder here.")
    if not path.is_dir():
        raise ConfigError(f"{path}: no such folder.")
    folder = path.resolve()
    if not (folder / CONFIG).is_file():
        raise ConfigError(f"{path}: no {CONFIG} in it, so not a checkpoint.")
    return Weights(str(folder), folder, None, must_stay_offline=True, weight_bytes=_present_bytes(folder))


def _weight_files(folder: Path) -> list[str]:
    named = json_object(folder / INDEX).get("weight_map")
    if not isinstance(named, dict):
        # Without an index every such file is read, whatever its name.
        return [each.name for each in folder.glob("*.safetensors")] or [SINGLE]
    files = {str(each) for each in named.values()}
    if any("/" in each or each.startswith(".") for each in files):
        raise ConfigError(f"{folder / INDEX}: names files outside its folder.")
    return sorted(files)


def _tensor_files(names: Iterable[str]) -> list[str]:
    """Which of a checkpoint's files hold its tensors: one form of them, safetensors before `.bin`."""
    top = [name for name in names if "/" not in name]
    forms = (
        [name for name in top if fnmatchcase(name, form)] for form in ("*.safetensors", "pytorch_model*.bin")
    )
    return next((each for each in forms if each), [])


def _present_bytes(folder: Path) -> int | None:
    sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
    return sum(sizes[name] for name in _tensor_files(sizes)) or None


def lacking(folder: Path) -> str | None:
    """Why a folder is not a checkpoint with all its weights, none of them cut; None for one that is."""
    try:
        _local(folder, None).check_weights()
        for name in _weight_files(folder):
            with (folder / name).open("rb") as file:
                _checked_header(file, folder / name)
    except ConfigError as error:
        return error.message
    except OSError as error:
        return f"{error.filename or folder}: {error.strerror}."
    return None


# Content.


def content_digest(folder: Path) -> str:
    """A sha256 over what the module's docstring says; the same wherever the folder lies.

    Raises ConfigError for weights that cannot be read, or not whole.
    """
    digest = hashlib.sha256()
    try:
        for path in sorted(folder.iterdir()):
            if path.name.startswith(".") or not path.is_file():
                continue
            if path.suffix == ".safetensors":
                content = _sample_digest(path)
            elif path.suffix in _DIGESTED:
                content = file_digest(path)
            else:
                continue
            digest.update(strict_json.dumps([path.name, path.stat().st_size, content]).encode() + b"\n")
    except OSError as error:
        raise ConfigError(f"{error.filename or folder}: {error.strerror}.") from error
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's whole content. Raises ConfigError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}.") from error


def _sample_digest(path: Path) -> str:
    """Hash the header and the middle of each tensor. Raises as `_checked_header`."""
    with path.open("rb") as file:
        header, spans = _checked_header(file, path)
        start = file.tell()
        digest = hashlib.sha256(header)
        for begin, end in spans:
            length = min(SAMPLED_BYTES, end - begin)
            file.seek(start + begin + (end - begin - length) // 2)
            digest.update(file.read(length))
    return digest.hexdigest()


def _checked_header(file: IO[bytes], path: Path) -> tuple[bytes, list[tuple[int, int]]]:
    """Return the header and where the tensors lie behind it.

    Raises ConfigError for a file that is cut off, or is not one of safetensors.
    """
    length = int.from_bytes(file.read(8), "little")
    header = file.read(length) if length <= _MAX_HEADER_BYTES else b""
    if not header or len(header) != length:
        raise ConfigError(f"{path}: not a safetensors file.")
    spans = []
    try:
        for name, tensor in strict_json.loads(header).items():
            if name != "__metadata__":
                begin, end = (int(each) for each in tensor["data_offsets"])
                if not 0 <= begin <= end:
                    raise ValueError("a tensor ends before it begins")
                spans.append((begin, end))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: not a safetensors file.") from error
    if file.tell() + max((end for _, end in spans), default=0) != path.stat().st_size:
        raise ConfigError(f"{path}: its size does not fit its header. Was it copied whole?")
    return header, sorted(spans)


def json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, empty without one. Raises ConfigError for anything else in it."""
    if not path.is_file():
        return {}
    try:
        content = strict_json.loads(_small_file(path))
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON.") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: not a JSON object.")
    return content


def _small_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_JSON_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}.") from error
    if len(content) > _MAX_JSON_BYTES:
        raise ConfigError(f"{path}: too large for what its name says.")
    return content


# The Hub.


def fetch_checkpoint(
    name: str, revision: str | None, on_progress: OnProgress, *, offline: bool = False
) -> Path:
    """Download a whole checkpoint, or find it in the cache, and return its folder. Blocking.

    Only for what is converted here: any other is the engine's to download. What reads the folder names
    the parts that are missing. `on_progress` is not always called from this thread.
    """
    repository = Repository(name, revision, "Start once with a network, or pass a folder with a copy.")
    return repository.fetch([CONFIG], choose=wanted_files, offline=offline, on_progress=on_progress).folder


def wanted_files(names: Iterable[str]) -> list[str]:
    """Which files of a repository make a checkpoint: configs, tokenizer and one form of the weights."""
    top = [name for name in names if "/" not in name]
    # Safetensors win: they need no unpickling. What is in `mm_projector.bin` is in the whole weights too.
    forms = ([name for name in top if fnmatchcase(name, form)] for form in _WHOLE_WEIGHTS)
    small = [name for name in top if name.endswith(".json") or name == "tokenizer.model"]
    return small + next((each for each in forms if each), [])


def fetch_for_engine(name: str, revision: str | None, on_progress: OnProgress) -> Path:
    """Download all that an engine would, into the Hugging Face cache, and return its folder. Blocking.

    `on_progress` is not always called from this thread.
    """
    repository = Repository(name, revision, "Or pass a folder with a copy.")

    def served_files(names: Iterable[str]) -> list[str]:
        # No weights in a second form, no images, nothing of other programs.
        kinds = (".json", ".txt", ".model", ".jinja", ".py", ".safetensors")
        return [name for name in names if "/" not in name and name.endswith(kinds)]

    return repository.fetch([CONFIG], choose=served_files, offline=False, on_progress=on_progress).folder


# What kind it is.


def identify(
    model: ModelProfile, *, weights: str | None = None, revision: str | None = None, offline: bool = False
) -> ModelProfile:
    """Find the profile of a model that is named by its checkpoint: its family's or the generic one. Blocking.

    A model with a family is what it is. `weights` and `revision` replace the model's own. Raises ConfigError
    for what is not a checkpoint, AuthenticationError where the Hub wants a token.
    """
    if model.family != GENERIC or not model.is_local:
        return model
    config, folder = read_config_json(
        weights or model.weights, revision=revision or model.revision, offline=offline
    )
    architectures = architectures_of(config)
    if not architectures:
        raise ConfigError(f"{model.name}: its config.json names no architecture, so no engine can serve it.")
    family = family_of(config, is_converted=(folder / MANIFEST).is_file())
    if family is None:
        return replace(model, architecture=architectures[0])
    return replace(
        family,
        name=model.name,
        weights=model.weights,
        revision=model.revision,
        own_config=model.own_config,
    )


def family_of(config: Mapping[str, Any], *, is_converted: bool) -> ModelProfile | None:
    """Return the family that serves what a config.json describes; `is_converted` is what we converted."""
    architectures, vision = architectures_of(config), config.get("vision_config")
    kind = vision.get("model_type") if isinstance(vision, Mapping) else None
    vision_type = kind if isinstance(kind, str) else None
    for family in (*FAMILIES.values(), *NEWER.values()):
        if family.source_architecture is not None:
            if family.source_architecture in architectures:
                return family
            if is_converted and family.architecture in architectures:
                return family
        elif not is_converted and family.serves(architectures, vision_type):
            return family
    return None


def architectures_of(config: Mapping[str, Any]) -> list[str]:
    """Return the architectures that a config.json names."""
    named = config.get("architectures")
    return [str(each) for each in named] if isinstance(named, list) else []


def code_files(config: Mapping[str, Any]) -> list[str]:
    """Return the Python files of its own repository that a config file wants to be run."""
    named = config.get("auto_map")
    if not isinstance(named, Mapping):
        return []
    places = [each for value in named.values() for each in (value if isinstance(value, list) else [value])]
    modules = {str(each).rpartition("--")[2].partition(".")[0] for each in places if each}
    return sorted(f"{module}.py" for module in modules)


# What it says.


def chat_template(weights: Weights) -> str | None:
    """Return the checkpoint's own chat template, from the first place where the engine looks.

    None without one.
    """
    for template in (
        weights.settings("processor_config.json").get("chat_template"),
        weights.settings("chat_template.json").get("chat_template"),
        weights.text("chat_template.jinja"),
        weights.settings("tokenizer_config.json").get("chat_template"),
    ):
        if isinstance(template, list):
            named = (each for each in template if isinstance(each, Mapping) and each.get("name") == "default")
            template = next(named, {}).get("template")
        if isinstance(template, str):
            return template
    return None
