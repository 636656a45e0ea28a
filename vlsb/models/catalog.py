"""Which local models there are, by the name a user types: ours, and NAME.<family>.yaml of a user's folder.

Each has one engine config, a plain file for `vllm serve --config`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vlsb import strict_json, strict_yaml
from vlsb.errors import ConfigError, UnknownModelError
from vlsb.models.profile import FAMILIES, GENERIC, NEWER, OWN_TEMPLATE, PROFILES, ModelProfile
from vlsb.models.providers import find_provider, plain_name

# What is decided here, with what to do instead.
RESERVED: Mapping[str, str] = MappingProxyType(
    {
        "allowed-local-media-path": "images travel inside requests, and a server opens no files",
        "allowed-media-domains": "images travel inside requests, and a server fetches none",
        "api-key": "the key is made at the start and never stands in a command or a file",
        "config": "put NAME.<family>.yaml into a folder and pass it with --servers-dir",
        "grpc": "a server speaks HTTP on 127.0.0.1",
        "headless": "a server speaks HTTP on 127.0.0.1",
        "help": "run the engine's own `vllm serve --help`",
        "hf-token": "set HF_TOKEN, or log in with `hf auth login`",
        "host": "a server listens on 127.0.0.1 only",
        "model": "use --weights",
        "port": "use --port",
        "revision": "use --revision",
        "root-path": "a server speaks plain HTTP on 127.0.0.1",
        "served-model-name": "the served name is made at the start",
        "ssl-ca-certs": "a server speaks plain HTTP on 127.0.0.1",
        "ssl-cert-reqs": "a server speaks plain HTTP on 127.0.0.1",
        "ssl-certfile": "a server speaks plain HTTP on 127.0.0.1",
        "ssl-ciphers": "a server speaks plain HTTP on 127.0.0.1",
        "ssl-keyfile": "a server speaks plain HTTP on 127.0.0.1",
        "uds": "a server listens on 127.0.0.1 only",
    }
)

# In a file they are harmless: the command line, which is ours, wins over them.
OVERRULED_IN_FILES = frozenset({"host", "model", "port", "revision", "served-model-name"})

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_UNSAFE_IN_NAME = re.compile(r"[^A-Za-z0-9._-]+")
# A file name may have 255 bytes: room for what runs and judges put behind it.
_LONGEST_NAME = 100
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
# What people leave out of a checkpoint's name.
_KIND_OF_CHECKPOINT = re.compile(r"(?:-(?:instruct|it|chat|ov|hf|\d{4}))+$", re.IGNORECASE)


def load_catalog(servers_dir: Path | None) -> dict[str, ModelProfile]:
    """Every local model by name: those with a profile of ours, and the files of `servers_dir`.

    Raises ConfigError with the file, and its line or key, for one that cannot be used.
    """
    catalog = dict(PROFILES)
    for model in _own_models(servers_dir):
        if model.name in catalog:
            raise ConfigError(
                f"{model.config}: there is a model {model.name} already. Give the file another name."
            )
        catalog[model.name] = model
    return catalog


def find_profile(
    name: str, servers_dir: Path | None, *, arch: str | None = None, is_served: bool = False
) -> ModelProfile:
    """Return what a model's name means: a local model, or the generic profile for any other.

    A local model is a name of the catalog as people type it (`qwen3-vl`, `Qwen3-VL-8B`), an id on the
    Hugging Face Hub (`org/name`, `hf://org/name@revision`) or a folder. What kind of checkpoint the last two
    are, their config.json says. With `is_served` somebody else serves it: then only a name of the catalog
    means anything. `arch` is the authors' `--arch`: the target is asked as they ask that family.
    """
    catalog = load_catalog(servers_dir)
    model = catalog.get(name)
    if model is None and not is_served:
        model = _by_spelling(name, catalog) or _by_place(name)
    model = model or ModelProfile(name)
    family = FAMILIES.get(arch or "")
    return model if family is None else replace(model, protocol=family.protocol)


def find_local(name: str, servers_dir: Path | None) -> ModelProfile:
    """Find the local model that a name means. Raises UnknownModelError with the nearest there is."""
    model = find_profile(name, servers_dir)
    if model.is_local:
        return model
    catalog = load_catalog(servers_dir)
    near = difflib.get_close_matches(name, catalog, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(catalog)}."
    raise UnknownModelError(f"{name}: no local model of that name. {hint}")


def _by_spelling(name: str, catalog: Mapping[str, ModelProfile]) -> ModelProfile | None:
    """Return the model whose name, or whose published checkpoint's, has the same letters and digits."""
    asked = _letters(name)
    for model in catalog.values():
        if asked == _letters(model.name):
            return model
    for model in PROFILES.values():
        for each in (model.weights, *model.checkpoints):
            last = each.rpartition("/")[2]
            short = _KIND_OF_CHECKPOINT.sub("", last)
            if asked in {_letters(each), _letters(last), _letters(short)}:
                return replace(model, name=each, weights=each)
    return None


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def _by_place(name: str) -> ModelProfile | None:
    """Return the generic profile of a folder here or of an id on the Hub; None for what is neither."""
    is_path = name.startswith(("/", "./", "../", "~"))
    path = Path(name).expanduser()
    if is_path or (path / "config.json").is_file():
        folder = path.resolve()
        return ModelProfile(folder.name, protocol=OWN_TEMPLATE, weights=str(folder))
    if find_provider(name) is not None or plain_name(name.lower()) != name.lower():
        return None
    is_said = name.startswith("hf://")
    hub_id, at, revision = name.removeprefix("hf://").partition("@")
    if not _HUB_ID.fullmatch(hub_id) or (at and not revision):
        if is_said:
            raise ConfigError(f"--model {name}: write hf://org/name or hf://org/name@revision.")
        return None
    return ModelProfile(hub_id, protocol=OWN_TEMPLATE, weights=hub_id, revision=revision or None)


def name_of_place(name: str) -> str:
    """A model's name without where it lies: `org/name` of `hf://org/name@revision`, a folder's last part.

    Of a hosted model it is the name without its organisation.
    """
    if name.startswith("hf://"):
        return name.removeprefix("hf://").partition("@")[0]
    is_path = name.startswith(("/", "./", "../", "~"))
    return Path(name).expanduser().resolve().name if is_path else plain_name(name)


def _own_models(folder: Path | None) -> Iterator[ModelProfile]:
    if folder is None:
        return
    families = {**FAMILIES, **NEWER, GENERIC: ModelProfile(GENERIC, protocol=OWN_TEMPLATE)}
    try:
        files = sorted(each for each in folder.iterdir() if each.suffix in (".yaml", ".yml"))
    except OSError as error:
        raise ConfigError(f"--servers-dir {folder}: {error.strerror}.") from error
    for file in files:
        name, _, family = file.stem.rpartition(".")
        if file.suffix != ".yaml" or not _NAME.fullmatch(name) or family not in families:
            raise ConfigError(
                f"{file}: the file's name must be NAME.<family>.yaml, with a family of {', '.join(families)}."
            )
        # An absolute path: the engine is started from wherever the user is.
        config = file.absolute()
        weights = read_config(config).get("model", families[family].weights)
        if not isinstance(weights, str):
            raise ConfigError(f"{config}: model must be a Hugging Face id or a path.")
        if weights.startswith(("/", "./", "../", "~")):
            # A path in a file is seen from the file's folder.
            weights = str((config.parent / Path(weights).expanduser()).resolve())
        own = replace(families[family], name=name, weights=weights, own_config=config)
        if not own.weights:
            raise ConfigError(
                f"{file}: a generic model needs a line `model:` with a Hugging Face id or a path."
            )
        yield own


def read_config(path: Path) -> dict[str, Any]:
    """Return what an engine config sets, by long option name with dashes.

    Raises ConfigError with the file, and its line or key, where the engine would not read it or would take
    from it what is decided here.
    """
    settings: dict[str, Any] = {}
    document = strict_yaml.load(path, "an engine config")
    for key, line in document.key_lines():
        name, value = key.replace("_", "-"), document.values.get(key)
        if name in settings:
            raise ConfigError(f"{path}, line {line}: {key} is set twice.")
        if name in RESERVED and name not in OVERRULED_IN_FILES:
            raise ConfigError(f"{path}, line {line}: {key} cannot be set: {RESERVED[name]}.")
        try:
            # What the engine could not be told as JSON.
            is_plain = value is not None and bool(strict_json.dumps(value))
        except (TypeError, ValueError):
            is_plain = False
        if not is_plain:
            raise ConfigError(f"{path}, line {line}: {key} has no value that can be passed on.")
        settings[name] = value
    return settings


def safe_name(text: str) -> str:
    """Return a model's name as a file name: letters, digits, `.`, `_`, `-`, and never hidden or empty."""
    name = _UNSAFE_IN_NAME.sub("_", text).lstrip(".-")[:_LONGEST_NAME]
    return name or "model"
