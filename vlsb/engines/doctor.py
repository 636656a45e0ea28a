"""What `vlsb doctor` finds: it looks at programs, disks, the Hugging Face Hub, engines and servers.

Nothing is changed. Every look is bounded in time, and one that fails is a fact as well. Whether a model can
be started is for `checks` to judge, as at a start.
"""

from __future__ import annotations

import asyncio
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from vlsb.endpoints.connect import open_client
from vlsb.endpoints.credentials import Credentials
from vlsb.engines.checkpoint import Weights, identify
from vlsb.engines.checks import Machine, driver_obstacle, gib, room_obstacle
from vlsb.engines.hardware import Gpu, GpuListing, list_gpus
from vlsb.engines.install import AUTO, Engine, find_engine, install_command, installed_engines, pinned_version
from vlsb.engines.lease import decline, ready_engine
from vlsb.engines.llava.layout import weight_files
from vlsb.engines.placement import weights_to_load, with_free_gpus
from vlsb.engines.plan import Wishes
from vlsb.engines.registry import Places, ServerRecord, find_running, read_records
from vlsb.errors import EngineMissingError, VlsbError
from vlsb.extras import MODULES, has_extra
from vlsb.models.catalog import find_local
from vlsb.models.profile import FAMILIES, PROFILES, EnginePin, ModelProfile
from vlsb.models.providers import PROVIDERS, parse_base_url
from vlsb.steps import OnProgress, in_thread

FETCH_DATA = "vlsb data fetch"
LOG_IN = "hf auth login"
# Far away and busy it still answers within one; whoever waits longer wants to know of it.
HUB_TIMEOUT_S = 5.0
# Their licence has to be accepted on the Hugging Face Hub; without a token of somebody who has, it says no.
_GATED_OWNERS = ("meta-llama/",)
_YES = {"1", "on", "yes", "true"}


class State(StrEnum):
    """How a thing was found: `missing` where it is not there and nothing is wrong."""

    OK = "ok"
    MISSING = "missing"
    PROBLEM = "problem"


class Group(StrEnum):
    """The parts of the screen, in their order."""

    MACHINE = "machine"
    DATA = "data"
    KEYS = "keys"
    ENGINES = "engines"
    MODELS = "models"
    SERVERS = "servers"
    READY = "ready"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One line of the screen; its command is the one to type to make it `ok`.

    `what` may hold a stranger's words: only an encoder prints it.
    """

    group: Group
    name: str
    state: State
    what: str
    command: str | None = None


class HubAccess(StrEnum):
    """Whether the Hugging Face Hub answered, or why it was not asked."""

    REACHED = "reached"
    NOT_REACHED = "not reached"
    NOT_ASKED = "not asked"
    SWITCHED_OFF = "switched off by HF_HUB_OFFLINE"


@dataclass(frozen=True, slots=True)
class HubFacts:
    """The Hugging Face Hub as this user has it. `token` says where a token was found, never what it is."""

    address: str
    access: HubAccess
    reason: str = ""
    token: str | None = None


@dataclass(frozen=True, slots=True)
class DatasetFacts:
    """Where the data set is; or what is wrong with the folder that was named for it."""

    place: str | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What the families of a pin would be started with, or why there is nothing.

    `place` is where the user's own engine is, empty for one of ours.
    """

    pin: EnginePin
    engine: Engine | None = None
    place: str = ""
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What was seen. `weights` holds what a start would load of each family whose weights are whole here."""

    python: str
    uv: str
    machine: Machine
    hub: HubFacts
    dataset: DatasetFacts
    keys: Mapping[str, bool]
    engines: Mapping[str, EngineFacts]
    weights: Mapping[str, Sequence[Weights]]
    servers: Sequence[ServerRecord]
    extras: Mapping[str, bool]
    visible_devices: str | None = None
    home: Path = Path("/")


# Looking.


async def examine(
    environment: Mapping[str, str],
    dataset: DatasetFacts,
    *,
    model: str | None,
    is_offline: bool,
    hub_path: str,
) -> list[CheckResult]:
    """Find what is here and what is not; a model that was named has its row above the families'."""
    named = [] if model is None else [await check_model(model, environment, is_offline=is_offline)]
    rows = findings(await survey(environment, dataset, is_offline=is_offline, hub_path=hub_path))
    place = next(number for number, each in enumerate(rows) if each.group is Group.MODELS)
    others = [each for each in rows[place:] if each.group is not Group.MODELS or each.name != model]
    return [*rows[:place], *named, *others]


async def survey(
    environment: Mapping[str, str],
    dataset: DatasetFacts,
    *,
    is_offline: bool,
    hub_path: str,
    hub_timeout_s: float = HUB_TIMEOUT_S,
) -> Facts:
    """Look at everything that the findings are made of; seconds at most where all is well.

    Whether the Hub can be reached is seen by what it answers to `hub_path`.
    """
    hub = await _hub(environment, hub_path, is_offline=is_offline, timeout_s=hub_timeout_s)

    def look(_: OnProgress) -> Facts:
        places, listing = Places.of(environment), list_gpus(environment)
        pins = {family.engine.name: family.engine for family in FAMILIES.values()}
        weights = {name: whole_weights(family) for name, family in FAMILIES.items()}
        return Facts(
            python=f"{platform.python_version()}, {platform.system()} {platform.machine()}",
            uv=version("uv"),
            machine=Machine.of(environment, listing, places),
            hub=hub,
            dataset=dataset,
            keys=keys(environment),
            engines={name: _engine_facts(pin, places, environment, listing) for name, pin in pins.items()},
            weights={name: each for name, each in weights.items() if each},
            servers=read_records(places),
            extras={extra: has_extra(extra) for extra in MODULES},
            visible_devices=environment.get("CUDA_VISIBLE_DEVICES"),
            home=_home(environment),
        )

    return await in_thread(look)


def whole_weights(family: ModelProfile) -> Sequence[Weights]:
    """Return what a start of a family would load, with an original LLaVA's tower; nothing if not whole."""
    try:
        weights = weights_to_load(family, Wishes(offline=True))
        for each in weights:
            if family.source_architecture is None:
                each.check_weights()
            else:
                weight_files(each.folder)
        # Without its tower an original is not whole.
        is_whole = family.source_architecture is None or len(weights) > 1
    except VlsbError:
        return ()
    return weights if is_whole else ()


def keys(environment: Mapping[str, str]) -> dict[str, bool]:
    """Tell which key variables are set: for models known by name, those the user names, and others there."""
    named = (environment.get(name, "") for name in ("VLSB_API_KEY_ENV", "VLSB_JUDGE_API_KEY_ENV"))
    usual = [each.key_variable for each in PROVIDERS if each.models and not each.prefix]
    variables = [each.key_variable or "" for each in PROVIDERS]
    others = [name for name in variables if environment.get(name, "").strip()]
    return {name: bool(environment.get(name, "").strip()) for name in (*usual, *named, *others) if name}


def shown_path(path: Path, home: Path) -> str:
    """Write a path as a user does, with ~ for their home."""
    return f"~/{path.relative_to(home)}" if home != path and path.is_relative_to(home) else str(path)


def _home(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("HOME") or Path.home())


def token_place(environment: Mapping[str, str]) -> str | None:
    """Find where a token is, not which: the Hub's library takes the first of these."""
    for name in ("HF_OIDC_RESOURCE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if environment.get(name, "").strip():
            return name
    home = _home(environment)
    caches = environment.get("XDG_CACHE_HOME") or f"{home}/.cache"
    hub_home = Path(environment.get("HF_HOME") or f"{caches}/huggingface").expanduser()
    file = Path(environment.get("HF_TOKEN_PATH") or hub_home / "token").expanduser()
    with suppress(OSError, ValueError):
        if file.read_text("utf-8").strip():
            return shown_path(file, home)
    return None


async def _hub(environment: Mapping[str, str], path: str, *, is_offline: bool, timeout_s: float) -> HubFacts:
    token = token_place(environment)
    given = (environment.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    try:
        address = parse_base_url(given, allow_http=True, flag="HF_ENDPOINT")
    except VlsbError as error:
        # Not repeated: a name and a password may be in it.
        return HubFacts("HF_ENDPOINT", HubAccess.NOT_REACHED, error.message, token)
    name = urlsplit(address).netloc
    switch = environment.get("HF_HUB_OFFLINE") or environment.get("TRANSFORMERS_OFFLINE") or ""
    if switch.lower() in _YES:
        return HubFacts(name, HubAccess.SWITCHED_OFF, token=token)
    if is_offline:
        return HubFacts(name, HubAccess.NOT_ASKED, token=token)
    problem = await _hub_problem(address, path, timeout_s)
    access = HubAccess.REACHED if problem is None else HubAccess.NOT_REACHED
    return HubFacts(name, access, problem or "", token)


async def _hub_problem(address: str, path: str, timeout_s: float) -> str | None:
    """Ask the Hugging Face Hub, without a token, for something that it has. None if it answered at all."""
    try:
        client = open_client(address, credentials=Credentials(None), connections=1, ca_bundle=None)
    except VlsbError as error:
        return error.message
    try:
        async with asyncio.timeout(timeout_s):
            reply = await client.get(path)
        return f"HTTP {reply.status_code}" if reply.status_code >= 500 else None
    except httpx.RequestError as fault:
        return re.sub(r"^\[Errno -?[0-9]+\] ", "", str(fault))
    except TimeoutError:
        return f"no answer within {timeout_s:g} s"
    finally:
        await client.aclose()


def _engine_facts(
    pin: EnginePin, places: Places, environment: Mapping[str, str], listing: GpuListing
) -> EngineFacts:
    has_gpu, home = bool(listing.gpus), _home(environment)
    try:
        engine = find_engine(pin, AUTO, places, environment=environment, has_gpu=has_gpu)
    except VlsbError:
        for each in installed_engines(places):
            if each.pin == pin.name and each.is_cpu != has_gpu:
                place = shown_path(each.prefix, home)
                return EngineFacts(pin, problem=f"{each.version} is {each.condition} at {place}")
        return EngineFacts(pin)
    brought = engine.executable if engine.prefix is None else engine.prefix
    return EngineFacts(pin, engine, "" if brought.parent == places.engines else shown_path(brought, home))


async def check_model(name: str, environment: Mapping[str, str], *, is_offline: bool) -> CheckResult:
    """Find whether a local model could be started here, by all that a start checks but the start itself."""

    def finding(state: State, what: str, command: str | None = None) -> CheckResult:
        return CheckResult(Group.MODELS, name, state, what, command)

    if (running := find_running(Places.of(environment), name)) is not None:
        return finding(State.OK, f"running at {running.base_url}")
    model = find_local(name, None)
    try:
        model = await in_thread(lambda _: identify(model, weights=None, revision=None, offline=is_offline))
        wishes = Wishes(offline=is_offline)
        engine, _ = await ready_engine(model, wishes, environment=environment, may_install=decline)
    except EngineMissingError:
        command = install_command(model.engine, name if name in PROFILES else model.family)
        return finding(State.MISSING, "no engine; the rest is checked once there is one", command)
    except VlsbError as error:
        return finding(State.PROBLEM, error.message)
    return finding(State.OK, f"vLLM {engine.version} can start it with {model.weights}")


# What is found.

_NO_SERVER = CheckResult(Group.SERVERS, "none", State.MISSING, "`vlsb serve FAMILY` starts one")


def findings(facts: Facts) -> list[CheckResult]:
    """Make a line of everything that is worth one, in the order of the screen."""
    families = [_family(family, facts) for family in FAMILIES.values()]
    return [
        *_machine(facts),
        *_data(facts),
        *(
            CheckResult(
                Group.KEYS, name, State.OK if is_set else State.MISSING, "set" if is_set else "not set"
            )
            for name, is_set in facts.keys.items()
        ),
        *(_engine(engine, facts.machine.listing) for engine in facts.engines.values()),
        *families,
        *(
            CheckResult(
                Group.SERVERS,
                server.name,
                State.OK,
                f"{server.base_url}, process {server.pid}, {server.weights}",
            )
            for server in facts.servers
        ),
        *([] if facts.servers else [_NO_SERVER]),
        *_ready_for(facts, families),
    ]


def _machine(facts: Facts) -> Iterator[CheckResult]:
    machine = facts.machine
    yield CheckResult(Group.MACHINE, "Python", State.OK, facts.python)
    yield CheckResult(Group.MACHINE, "uv", State.OK, facts.uv)
    present = [name for name, is_here in facts.extras.items() if is_here]
    missing = ", ".join(name for name, is_here in facts.extras.items() if not is_here)
    what = ", ".join(present)
    if missing:
        what = f"{what}; without {missing}" if present else f"none of {missing}"
    # No command: whoever needs one of them is told how to install it.
    yield CheckResult(Group.MACHINE, "extras", State.MISSING if missing else State.OK, what)
    yield from _gpus(machine.listing)
    yield CheckResult(Group.MACHINE, "memory", State.OK, _size(machine.memory_bytes))
    disks = {disk.device: disk for disk in (machine.weights, machine.engines) if disk is not None}
    for disk in reversed(disks.values()):
        what = f"{_size(disk.free_bytes)} free at {shown_path(disk.folder, facts.home)}"
        yield CheckResult(Group.MACHINE, "disk", State.OK, what)


def _gpus(listing: GpuListing) -> Iterator[CheckResult]:
    hidden = f"{listing.hidden} hidden by CUDA_VISIBLE_DEVICES" if listing.hidden else ""
    if listing.problem is not None:
        yield CheckResult(Group.MACHINE, "GPU", State.PROBLEM, listing.problem)
    elif not listing.gpus:
        what = f"none to use: {hidden}" if hidden else "none: engines run on the CPU, slowly"
        yield CheckResult(Group.MACHINE, "GPU", State.MISSING, what)
    kinds: dict[tuple[str, int], list[Gpu]] = {}
    for gpu in listing.gpus:
        kinds.setdefault((gpu.name, gpu.memory_bytes), []).append(gpu)
    # Those of one kind on one line: eight lines would push the rest off the screen.
    for alike in kinds.values():
        fullest = min(alike, key=lambda gpu: gpu.free_bytes)
        count = f"{len(alike)} x " if len(alike) > 1 else ""
        memory = "shares the machine's memory"
        if fullest.memory_bytes:
            which = f" on GPU {fullest.index}" if count else ""
            memory = f"{_size(fullest.memory_bytes)}, {_size(fullest.free_bytes)} free{which}"
        yield CheckResult(Group.MACHINE, "GPU", State.OK, f"{count}{fullest.name}, {memory}")
    if listing.driver is not None:
        words = [listing.driver, f"runs CUDA up to {listing.cuda}" if listing.cuda else "", hidden]
        yield CheckResult(Group.MACHINE, "driver", State.OK, ", ".join(filter(None, words)))


def _size(count: int) -> str:
    """Write bytes as GiB, with a digit after the point where it says something."""
    amount = gib(count)
    return f"{amount.partition('.')[0]} GiB" if len(amount) > len("99.9 GiB") else amount


def _data(facts: Facts) -> Iterator[CheckResult]:
    hub, dataset = facts.hub, facts.dataset
    state = {HubAccess.REACHED: State.OK, HubAccess.NOT_REACHED: State.PROBLEM}.get(hub.access, State.MISSING)
    reason = f" ({hub.reason})" if hub.reason else ""
    yield CheckResult(Group.DATA, "hub", state, f"{hub.address} {hub.access}{reason}")
    if hub.token is None:
        yield CheckResult(Group.DATA, "token", State.MISSING, "none; only mllama's weights need one", LOG_IN)
    else:
        yield CheckResult(Group.DATA, "token", State.OK, f"in {hub.token}")
    if dataset.problem is not None:
        yield CheckResult(Group.DATA, "VLSBench", State.PROBLEM, dataset.problem)
    elif dataset.place is None:
        yield CheckResult(Group.DATA, "VLSBench", State.MISSING, "not here (2.5 GB)", FETCH_DATA)
    else:
        yield CheckResult(Group.DATA, "VLSBench", State.OK, dataset.place)


def _engine(facts: EngineFacts, listing: GpuListing) -> CheckResult:
    engine, pin = facts.engine, facts.pin
    obstacle = driver_obstacle(pin, engine, listing)
    if facts.problem is not None:
        state, what = State.PROBLEM, facts.problem
    elif engine is None:
        pinned = pinned_version(pin, has_gpu=bool(listing.gpus))
        users = ", ".join(family.name for family in FAMILIES.values() if family.engine == pin)
        state, what = State.MISSING, f"{pinned} not installed; for {users}"
        if obstacle is not None:
            state, what = State.PROBLEM, f"{pinned} {obstacle.brief}"
    else:
        build = "the CPU" if engine.is_cpu else f"CUDA {engine.cuda}" if engine.cuda else "the GPU"
        what = f"{engine.version} for {build}{f', {facts.place}' if facts.place else ''}"
        state = State.OK if obstacle is None else State.PROBLEM
        what += "" if obstacle is None else f": it {obstacle.brief}"
    return CheckResult(Group.ENGINES, pin.name, state, what)


def _family(family: ModelProfile, facts: Facts) -> CheckResult:
    """Ready, or the first thing in the way of `vlsb serve FAMILY` with the command that removes it."""

    def finding(state: State, what: str, command: str | None = None) -> CheckResult:
        return CheckResult(Group.MODELS, family.name, state, what, command)

    machine, hub = facts.machine, facts.hub
    about, weights = facts.engines[family.engine.name], facts.weights.get(family.name, ())
    running = next((server for server in facts.servers if server.name == family.name), None)
    if running is not None:
        return finding(State.OK, f"running at {running.base_url}")
    if machine.listing.problem is not None:
        return finding(State.PROBLEM, "the GPU does not answer, see above")
    install = install_command(family.engine, family.name)
    if about.problem is not None:
        return finding(State.PROBLEM, "its engine is broken", install)
    if driver_obstacle(family.engine, about.engine, machine.listing) is not None:
        return finding(State.PROBLEM, "the driver is too old for its engine, see above")
    wishes = with_free_gpus(family, Wishes(), machine.listing.gpus, facts.visible_devices)
    obstacle = room_obstacle(family, wishes, about.engine, weights, machine)
    if obstacle is not None:
        # Without a GPU the weights of a family are too large for most machines: nothing is wrong with those.
        state = State.PROBLEM if machine.listing.gpus or obstacle.command is None else State.MISSING
        return finding(state, obstacle.brief, obstacle.command)
    if about.engine is None:
        return finding(State.MISSING, "no engine", install)
    if weights:
        return finding(State.OK, "ready")
    if hub.access in (HubAccess.NOT_REACHED, HubAccess.SWITCHED_OFF):
        what = f"{family.weights} is not here, and the Hugging Face Hub is {hub.access}"
        return finding(State.PROBLEM, what, f"vlsb serve {family.name} --weights DIR")
    if hub.token is None and family.weights.startswith(_GATED_OWNERS):
        return finding(State.MISSING, f"{family.weights}: accept its licence at {hub.address}", LOG_IN)
    return finding(State.OK, f"ready; downloads {family.weights} first")


def _ready_for(facts: Facts, families: Sequence[CheckResult]) -> Iterator[CheckResult]:
    """Give what works here as it is, and what does not with the first reason."""
    set_keys = [name for name, is_set in facts.keys.items() if is_set]
    local = [finding.name for finding in families if finding.state is State.OK]
    ready, missing = ["the demo"], []
    if set_keys:
        ready.append(f"hosted models ({', '.join(set_keys)})")
    else:
        missing.append("hosted models (no key is set)")
    if local:
        ready.append(f"local models ({', '.join(local)})")
    else:
        why = {finding.what.partition(";")[0] for finding in families}
        missing.append(f"local models ({why.pop() if len(why) == 1 else 'see models above'})")
    if facts.extras["parquet"]:
        ready.append("parquet shards")
    else:
        missing.append("parquet shards (no extra `parquet`)")
    if facts.dataset.place is None:
        missing.append("the full data set (not here)")
    yield CheckResult(Group.READY, "ready for", State.OK, ", ".join(ready))
    if missing:
        yield CheckResult(Group.READY, "not ready for", State.MISSING, ", ".join(missing))
