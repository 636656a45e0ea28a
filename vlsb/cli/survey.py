"""Looking at a machine for `vlsb doctor`: programs, disks, the Hugging Face Hub, engines, servers.

Nothing is changed. Every look is bounded in time, and one that fails is a fact as well.
"""

from __future__ import annotations

import asyncio
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from vlsb import strict_json
from vlsb.cli.checkup import (
    DatasetFacts,
    DiskFacts,
    EngineFacts,
    Facts,
    Finding,
    Group,
    HubAccess,
    HubFacts,
    ServerFacts,
    State,
    findings,
)
from vlsb.cli.serving import known_model
from vlsb.data import HUB_REPOSITORY, fetch_dataset, load_dataset
from vlsb.data.shards import shard_paths
from vlsb.endpoints.connect import open_client
from vlsb.endpoints.credentials import Credentials
from vlsb.engines.hardware import GpuListing, free_disk_bytes, list_gpus, memory_bytes
from vlsb.engines.identify import identify
from vlsb.engines.install import (
    AUTO,
    built_for_cuda,
    find_engine,
    install_command,
    installed_engines,
)
from vlsb.engines.lease import decline, ready_engine
from vlsb.engines.plan import Wishes
from vlsb.engines.registry import Places, find_running, read_records
from vlsb.errors import EngineMissingError, VlsbError
from vlsb.extras import MODULES, has_extra
from vlsb.models.profile import FAMILIES, PROFILES, EnginePin
from vlsb.models.providers import PROVIDERS, parse_base_url
from vlsb.records import Untrusted
from vlsb.reports.encode import for_terminal
from vlsb.steps import in_thread

HUB_TIMEOUT_S = 5.0
_PROGRAM_TIMEOUT_S = 10.0
# What the original LLaVA's config names for its eyes; it is converted together with them.
_TOWER = "openai/clip-vit-large-patch14-336"
_YES = {"1", "on", "yes", "true"}


@dataclass(frozen=True, slots=True)
class HubSettings:
    """The Hugging Face Hub's own variables, as its library reads them."""

    address: str
    cache: Path
    token: str | None
    is_off: bool

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> HubSettings:
        """What an environment says, with the library's defaults."""
        user_home = Path(environment.get("HOME") or Path.home())
        caches = environment.get("XDG_CACHE_HOME") or f"{user_home}/.cache"
        home = Path(environment.get("HF_HOME") or f"{caches}/huggingface").expanduser()
        cache = environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE") or home / "hub"
        switch = environment.get("HF_HUB_OFFLINE") or environment.get("TRANSFORMERS_OFFLINE") or ""
        return cls(
            (environment.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/"),
            Path(cache).expanduser(),
            _token_place(environment, home),
            switch.lower() in _YES,
        )


async def survey(
    environment: Mapping[str, str],
    *,
    data_root: Path | None,
    is_offline: bool,
    hub_timeout_s: float = HUB_TIMEOUT_S,
) -> Facts:
    """Everything that the findings are made of; seconds at most where all is well."""
    settings = HubSettings.of(environment)
    hub = await _hub(settings, is_offline=is_offline, timeout_s=hub_timeout_s)
    return await in_thread(lambda _: _look(environment, data_root, settings, hub))


def _look(
    environment: Mapping[str, str], data_root: Path | None, settings: HubSettings, hub: HubFacts
) -> Facts:
    places, listing = Places.of(environment), list_gpus(environment)
    pins = {family.engine.name: family.engine for family in FAMILIES.values()}
    return Facts(
        python=f"{platform.python_version()}, {platform.system()} {platform.machine()}",
        uv=version("uv"),
        listing=listing,
        memory_bytes=memory_bytes(),
        disks=_disks(places, settings.cache, environment),
        hub=hub,
        dataset=_dataset(data_root, environment),
        keys=keys(environment),
        engines={name: _engine(pin, places, environment, listing) for name, pin in pins.items()},
        weights=_weights(settings.cache),
        servers=tuple(
            ServerFacts(record.name, record.base_url, record.pid, record.weights)
            for record in read_records(places)
        ),
        extras={extra: has_extra(extra) for extra in MODULES},
    )


def _weights(cache: Path) -> frozenset[str]:
    """The families' repositories that are whole in the Hugging Face cache, their towers included."""
    found = set()
    for family in FAMILIES.values():
        is_converted = family.source_architecture is not None
        needed = (family.weights, _TOWER) if is_converted else (family.weights,)
        if all(is_whole(cache, each, takes_bin=is_converted) for each in needed):
            found.add(family.weights)
    return frozenset(found)


def keys(environment: Mapping[str, str]) -> dict[str, bool]:
    """Which key variables are set: for models known by name, those the user names, and others there."""
    named = (environment.get(name, "") for name in ("VLSB_API_KEY_ENV", "VLSB_JUDGE_API_KEY_ENV"))
    usual = [each.key_variable for each in PROVIDERS if each.models and not each.prefix]
    known = [each.key_variable or "" for each in PROVIDERS]
    others = [name for name in known if environment.get(name, "").strip()]
    return {name: bool(environment.get(name, "").strip()) for name in (*usual, *named, *others) if name}


def is_whole(cache: Path, repository: str, *, takes_bin: bool = False) -> bool:
    """Whether the Hugging Face cache holds a repository's newest known revision with all its weights.

    They are in one form: safetensors, or `.bin` too for what is converted before an engine sees it.

    Files there are links to blobs; a download that was cut off left no link, or no blob behind it.
    """
    folder = cache / f"models--{repository.replace('/', '--')}"
    try:
        commit = (folder / "refs" / "main").read_text("ascii").strip()
        snapshot = folder / "snapshots" / Path(commit).name
        indexed = [_indexed_parts(index) for index in snapshot.glob("*.index.json")]
        single = [{path.name} for form in ("*.safetensors", "*.bin") for path in snapshot.glob(form)]
        has_weights = any(
            all((takes_bin or part.endswith(".safetensors")) and (snapshot / part).exists() for part in parts)
            for parts in indexed or single
            if parts
        )
        return has_weights and (snapshot / "config.json").exists()
    except (OSError, ValueError):
        return False


def _indexed_parts(index: Path) -> set[str]:
    try:
        return set(strict_json.loads(index.read_bytes())["weight_map"].values())
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index.name} is not an index") from error


def _token_place(environment: Mapping[str, str], home: Path) -> str | None:
    """Where a token is, not which: the library takes the first of these."""
    for name in ("HF_OIDC_RESOURCE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if environment.get(name, "").strip():
            return name
    file = Path(environment.get("HF_TOKEN_PATH") or home / "token").expanduser()
    try:
        return shown_path(file, environment) if file.read_text("utf-8").strip() else None
    except (OSError, ValueError):
        return None


def shown_path(path: Path, environment: Mapping[str, str]) -> str:
    """A path as a user writes it, with ~ for their home."""
    home = Path(environment.get("HOME") or Path.home())
    return f"~/{path.relative_to(home)}" if home != path and path.is_relative_to(home) else str(path)


def _disks(places: Places, cache: Path, environment: Mapping[str, str]) -> tuple[DiskFacts, ...]:
    """The free space where engines and weights go; one row where both are on one disk."""
    engines = _disk(places.engines, environment, holds_engines=True)
    weights = _disk(cache, environment, holds_engines=False)
    if engines and weights and engines[0] == weights[0]:
        return (replace(engines[1], holds_weights=True),)
    return tuple(found[1] for found in (engines, weights) if found)


def _disk(path: Path, environment: Mapping[str, str], *, holds_engines: bool) -> tuple[int, DiskFacts] | None:
    """The number of the disk that a folder is or will be on, with its facts; None if it cannot be asked."""
    free = free_disk_bytes(path)
    try:
        number = next(each.stat().st_dev for each in (path, *path.parents) if each.is_dir())
    except (OSError, StopIteration):
        return None
    place = shown_path(path, environment)
    return None if free is None else (number, DiskFacts(place, free, holds_engines, not holds_engines))


async def _hub(hub: HubSettings, *, is_offline: bool, timeout_s: float) -> HubFacts:
    try:
        address = parse_base_url(hub.address, allow_http=True, flag="HF_ENDPOINT")
    except VlsbError as error:
        # Not repeated: a name and a password may be in it.
        return HubFacts("HF_ENDPOINT", HubAccess.NOT_REACHED, error.message, hub.token)
    name = urlsplit(address).netloc
    if hub.is_off or is_offline:
        access = HubAccess.SWITCHED_OFF if hub.is_off else HubAccess.NOT_ASKED
        return HubFacts(name, access, token=hub.token)
    problem = await _hub_problem(address, timeout_s)
    access = HubAccess.REACHED if problem is None else HubAccess.NOT_REACHED
    return HubFacts(name, access, problem or "", hub.token)


async def _hub_problem(address: str, timeout_s: float) -> str | None:
    """Ask the Hugging Face Hub what it knows of the data set, without a token. None if it answered at all."""
    try:
        client = open_client(address, credentials=Credentials(None), connections=1, ca_bundle=None)
    except VlsbError as error:
        return error.message
    try:
        async with asyncio.timeout(timeout_s):
            reply = await client.get(f"/api/datasets/{HUB_REPOSITORY}")
        return f"HTTP {reply.status_code}" if reply.status_code >= 500 else None
    except httpx.RequestError as fault:
        return re.sub(r"^\[Errno -?[0-9]+\] ", "", for_terminal(Untrusted(str(fault))))
    except TimeoutError:
        return f"no answer within {timeout_s:g} s"
    finally:
        await client.aclose()


def _dataset(data_root: Path | None, environment: Mapping[str, str]) -> DatasetFacts:
    try:
        if data_root is not None:
            return DatasetFacts(f"{_content(data_root)} at {shown_path(data_root, environment)}")
        cached = fetch_dataset(revision=None, offline=True)
        return DatasetFacts(f"revision {cached.revision[:12]} in the Hugging Face cache")
    except VlsbError as error:
        return DatasetFacts(problem=None if data_root is None else error.message)


def _content(data_root: Path) -> str:
    """The samples of a folder; shards are only counted, because reading them unpacks them."""
    if not (data_root / "data.json").exists() and (shards := shard_paths(data_root)):
        return f"parquet shards ({len(shards)})"
    return f"{len(load_dataset(data_root).samples):,} samples"


def _engine(
    pin: EnginePin, places: Places, environment: Mapping[str, str], listing: GpuListing
) -> EngineFacts:
    has_gpu = bool(listing.gpus)
    try:
        engine = find_engine(pin, AUTO, places, environment=environment, has_gpu=has_gpu)
    except VlsbError:
        for each in installed_engines(places):
            if each.pin == pin.name and each.is_cpu != has_gpu:
                place = shown_path(each.prefix, environment)
                return EngineFacts(pin, problem=f"{each.version} is {each.condition} at {place}")
        return EngineFacts(pin)
    brought = engine.executable if engine.prefix is None else engine.prefix
    place = "" if brought.parent == places.engines else shown_path(brought, environment)
    return EngineFacts(pin, engine.version, place, engine.is_cpu, built_for_cuda(engine))


async def check_model(name: str, environment: Mapping[str, str], *, is_offline: bool) -> Finding:
    """Whether a local model could be started here: its engine, its weights and the room for both."""

    def finding(state: State, what: str, command: str | None = None) -> Finding:
        return Finding(Group.MODELS, name, state, what, command)

    if (running := find_running(Places.of(environment), name)) is not None:
        return finding(State.OK, f"running at {running.base_url}")
    wishes = Wishes(offline=is_offline)
    model = known_model(name, None)
    try:
        model = await in_thread(lambda _: identify(model, weights=None, revision=None, offline=is_offline))
        engine, _ = await ready_engine(model, wishes, environment=environment, may_install=decline)
    except EngineMissingError:
        command = install_command(model.engine, name if name in PROFILES else model.family)
        return finding(State.MISSING, "no engine; the rest is checked once there is one", command)
    except VlsbError as error:
        return finding(State.PROBLEM, error.message)
    return finding(State.OK, f"vLLM {engine.version} can start it with {model.weights}")


async def look(
    environment: Mapping[str, str], *, data_root: Path | None, model: str | None, is_offline: bool
) -> list[Finding]:
    """What is here and what is not; a model that was named has its row above the families'."""
    named = [] if model is None else [await check_model(model, environment, is_offline=is_offline)]
    found = findings(await survey(environment, data_root=data_root, is_offline=is_offline))
    place = next(number for number, each in enumerate(found) if each.group is Group.MODELS)
    others = [each for each in found[place:] if each.group is not Group.MODELS or each.name != model]
    return [*found[:place], *named, *others]
