"""What `vlsb doctor` makes of a machine: facts in, findings out. Nothing here looks at anything.

A finding is `ok`, `missing` (not there, and nothing is wrong) or `problem` (it will not work as it is).
Its command, where it has one, is the one to type to make it `ok`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from vlsb.engines.hardware import Gpu, GpuListing
from vlsb.models.profile import CURRENT, FAMILIES, GIB, EnginePin, ModelProfile

FETCH_DATA = "vlsb data fetch"
LOG_IN = "hf auth login"
WEIGHTS_BYTES = 16 * GIB
"""What one family's weights take on the disk, about."""

# Without a GPU an engine computes in float32: twice the weights, and a smaller cache.
_CPU_SHARE = 1.5
# Their licence has to be accepted on the Hugging Face Hub; without a token of somebody who has, it says no.
_GATED_OWNERS = ("meta-llama/",)


class State(StrEnum):
    """How a thing was found."""

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
class Finding:
    """One line of the screen. `what` may hold a stranger's words: only an encoder prints it."""

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

    `place` is said for an engine that the user brought; `cuda` is the CUDA that it was built for, if known.
    """

    pin: EnginePin
    version: str | None = None
    place: str = ""
    is_cpu: bool = False
    cuda: str | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """A server that `vlsb serve` has running: no key."""

    name: str
    base_url: str
    pid: int
    weights: str


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """What is free on one disk, where on it our folders are, and which of the large things go there."""

    place: str
    free_bytes: int
    holds_engines: bool
    holds_weights: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """What was seen. `weights` holds the repositories that lie whole on this machine."""

    python: str
    uv: str
    listing: GpuListing
    memory_bytes: int
    disks: Sequence[DiskFacts]
    hub: HubFacts
    dataset: DatasetFacts
    keys: Mapping[str, bool]
    engines: Mapping[str, EngineFacts]
    weights: frozenset[str]
    servers: Sequence[ServerFacts]
    extras: Mapping[str, bool]


def findings(facts: Facts) -> list[Finding]:
    """Everything worth a line, in the order of the screen."""
    families = [_family(family, facts) for family in FAMILIES.values()]
    return [
        *_machine(facts),
        *_hub(facts.hub),
        _dataset(facts.dataset),
        *_keys(facts.keys),
        *(_engine(engine, facts.listing) for engine in facts.engines.values()),
        *families,
        *_servers(facts.servers),
        *_ready_for(facts, families),
    ]


def size(count: int) -> str:
    """Bytes as GiB, with a digit after the point where it says something."""
    amount = count / GIB
    return f"{amount:.0f} GiB" if amount >= 100 else f"{amount:.1f} GiB"


def _machine(facts: Facts) -> Iterator[Finding]:
    yield Finding(Group.MACHINE, "Python", State.OK, facts.python)
    yield Finding(Group.MACHINE, "uv", State.OK, facts.uv)
    yield _extras(facts.extras)
    yield from _gpus(facts.listing)
    yield Finding(Group.MACHINE, "memory", State.OK, size(facts.memory_bytes))
    for disk in facts.disks:
        yield _disk(disk, facts)


def _extras(extras: Mapping[str, bool]) -> Finding:
    """No command: whoever needs one of them is told how to install it."""
    here = [name for name, is_here in extras.items() if is_here]
    missing = ", ".join(name for name, is_here in extras.items() if not is_here)
    if not missing:
        return Finding(Group.MACHINE, "extras", State.OK, ", ".join(here))
    what = f"{', '.join(here)}; without {missing}" if here else f"none of {missing}"
    return Finding(Group.MACHINE, "extras", State.MISSING, what)


def _gpus(listing: GpuListing) -> Iterator[Finding]:
    hidden = f"{listing.hidden} hidden by CUDA_VISIBLE_DEVICES" if listing.hidden else ""
    if listing.problem is not None:
        yield Finding(Group.MACHINE, "GPU", State.PROBLEM, listing.problem)
    elif not listing.gpus:
        what = f"none to use: {hidden}" if hidden else "none: engines run on the CPU, slowly"
        yield Finding(Group.MACHINE, "GPU", State.MISSING, what)
    kinds: dict[tuple[str, int], list[Gpu]] = {}
    for gpu in listing.gpus:
        kinds.setdefault((gpu.name, gpu.memory_bytes), []).append(gpu)
    for alike in kinds.values():
        yield Finding(Group.MACHINE, "GPU", State.OK, _gpu_kind(alike))
    if listing.driver is not None:
        words = [listing.driver, f"runs CUDA up to {listing.cuda}" if listing.cuda else "", hidden]
        yield Finding(Group.MACHINE, "driver", State.OK, ", ".join(filter(None, words)))


def _gpu_kind(alike: Sequence[Gpu]) -> str:
    """GPUs of one kind on one line: eight lines would push the rest off the screen."""
    fullest = min(alike, key=lambda gpu: gpu.free_bytes)
    count = f"{len(alike)} x " if len(alike) > 1 else ""
    if not fullest.memory_bytes:
        return f"{count}{fullest.name}, shares the machine's memory"
    which = f" on GPU {fullest.index}" if count else ""
    return f"{count}{fullest.name}, {size(fullest.memory_bytes)}, {size(fullest.free_bytes)} free{which}"


def _disk(disk: DiskFacts, facts: Facts) -> Finding:
    """A problem where what is still to come would not fit: the first engine, and one family's weights."""
    lacks_engine = all(engine.version is None for engine in facts.engines.values())
    build = CURRENT.gpu_disk_bytes if facts.listing.gpus else CURRENT.cpu_disk_bytes
    wanted = {
        "an engine": build if disk.holds_engines and lacks_engine else 0,
        "one family's weights": WEIGHTS_BYTES if disk.holds_weights and not facts.weights else 0,
    }
    needed = sum(wanted.values())
    what = f"{size(disk.free_bytes)} free at {disk.place}"
    if disk.free_bytes >= needed:
        return Finding(Group.MACHINE, "disk", State.OK, what)
    takers = " and ".join(name for name, count in wanted.items() if count)
    return Finding(Group.MACHINE, "disk", State.PROBLEM, f"{what}; {takers} take {size(needed)}")


def _hub(hub: HubFacts) -> Iterator[Finding]:
    state = {HubAccess.REACHED: State.OK, HubAccess.NOT_REACHED: State.PROBLEM}.get(hub.access, State.MISSING)
    reason = f" ({hub.reason})" if hub.reason else ""
    yield Finding(Group.DATA, "hub", state, f"{hub.address} {hub.access}{reason}")
    if hub.token is None:
        yield Finding(Group.DATA, "token", State.MISSING, "none; only mllama's weights need one", LOG_IN)
    else:
        yield Finding(Group.DATA, "token", State.OK, f"in {hub.token}")


def _dataset(dataset: DatasetFacts) -> Finding:
    if dataset.problem is not None:
        return Finding(Group.DATA, "VLSBench", State.PROBLEM, dataset.problem)
    if dataset.place is None:
        return Finding(Group.DATA, "VLSBench", State.MISSING, "not here (2.5 GB)", FETCH_DATA)
    return Finding(Group.DATA, "VLSBench", State.OK, dataset.place)


def _keys(keys: Mapping[str, bool]) -> Iterator[Finding]:
    for name, is_set in keys.items():
        yield Finding(Group.KEYS, name, State.OK if is_set else State.MISSING, "set" if is_set else "not set")


def _engine(engine: EngineFacts, listing: GpuListing) -> Finding:
    def finding(state: State, what: str) -> Finding:
        return Finding(Group.ENGINES, engine.pin.name, state, what)

    if engine.problem is not None:
        return finding(State.PROBLEM, engine.problem)
    if engine.version is None:
        wanted = engine.pin.gpu_version if listing.gpus else engine.pin.cpu_version
        users = ", ".join(family.name for family in FAMILIES.values() if family.engine == engine.pin)
        if _is_driver_old(engine.pin, listing):
            said = f"{wanted} needs CUDA {engine.pin.cuda}, and the driver runs CUDA up to {listing.cuda}"
            return finding(State.PROBLEM, f"{said}: update it")
        return finding(State.MISSING, f"{wanted} not installed; for {users}")
    build = "the CPU" if engine.is_cpu else f"CUDA {engine.cuda}" if engine.cuda else "the GPU"
    what = f"{engine.version} for {build}{f', {engine.place}' if engine.place else ''}"
    unfit = _unfit(engine, listing)
    return finding(State.OK, what) if unfit is None else finding(State.PROBLEM, f"{what}: {unfit}")


def _is_driver_old(pin: EnginePin, listing: GpuListing) -> bool:
    """Whether an engine that is not installed yet could not run here."""
    return bool(listing.gpus) and not listing.runs_cuda(pin.cuda)


def _unfit(engine: EngineFacts, listing: GpuListing) -> str | None:
    """Why the engine is not for this machine."""
    if engine.is_cpu and listing.gpus:
        return "it does not use the GPU"
    if not engine.is_cpu and not listing.gpus:
        return "it needs a GPU"
    if engine.cuda and not listing.runs_cuda(engine.cuda):
        return f"the driver runs CUDA up to {listing.cuda}: update the driver"
    return None


def _family(family: ModelProfile, facts: Facts) -> Finding:
    """Ready, or the first thing in the way of `vlsb serve FAMILY` with the command that removes it."""

    def finding(state: State, what: str, command: str | None = None) -> Finding:
        return Finding(Group.MODELS, family.name, state, what, command)

    engine = facts.engines[family.engine.name]
    running = next((server for server in facts.servers if server.name == family.name), None)
    if running is not None:
        return finding(State.OK, f"running at {running.base_url}")
    install = f"vlsb engine install {family.name}"
    if facts.listing.problem is not None:
        return finding(State.PROBLEM, "the GPU does not answer, see above")
    if engine.version is None and _is_driver_old(family.engine, facts.listing):
        return finding(State.PROBLEM, "the driver is too old for its engine, see above")
    if engine.problem is not None:
        return finding(State.PROBLEM, "its engine is broken", install)
    if engine.version is None:
        return finding(State.MISSING, "no engine", install)
    if _unfit(engine, facts.listing) is not None:
        command = install if engine.is_cpu == bool(facts.listing.gpus) else None
        return finding(State.PROBLEM, "its engine does not run here, see above", command)
    return _room(family, facts) or _weights(family, facts) or finding(State.OK, _ready(family, facts))


def _weights(family: ModelProfile, facts: Facts) -> Finding | None:
    """What is in the way of the family's weights."""
    if family.weights in facts.weights:
        return None
    if facts.hub.access in (HubAccess.NOT_REACHED, HubAccess.SWITCHED_OFF):
        what = f"{family.weights} is not here, and the Hugging Face Hub is {facts.hub.access}"
        command = f"vlsb serve {family.name} --weights DIR"
        return Finding(Group.MODELS, family.name, State.PROBLEM, what, command)
    if facts.hub.token is None and family.weights.startswith(_GATED_OWNERS):
        what = f"{family.weights}: accept its licence at {facts.hub.address}"
        return Finding(Group.MODELS, family.name, State.MISSING, what, LOG_IN)
    return None


def _room(family: ModelProfile, facts: Facts) -> Finding | None:
    """What is in the way of the family's weights and cache in the memory that there is."""
    if not facts.listing.gpus:
        return _cpu_room(family, facts)
    known = [gpu for gpu in facts.listing.gpus if gpu.memory_bytes]
    needed = family.gpu_memory_bytes
    if not known or max(gpu.free_bytes for gpu in known) >= needed:
        return None
    need = f"needs about {size(needed)} on a GPU"
    largest = max(known, key=lambda gpu: gpu.memory_bytes)
    if largest.memory_bytes >= needed:
        what = f"{need}; {size(max(gpu.free_bytes for gpu in known))} are free"
        stop = f"vlsb engine stop {facts.servers[0].name}" if facts.servers else None
        return Finding(Group.MODELS, family.name, State.PROBLEM, what, stop)
    what = f"{need}; the largest has {size(largest.memory_bytes)}"
    parts = next((n for n in (2, 4, 8) if n <= len(known) and n * largest.memory_bytes >= needed), None)
    spread = f"vlsb serve {family.name} --tensor-parallel-size {parts}" if parts else None
    return Finding(Group.MODELS, family.name, State.PROBLEM, what, spread)


def _cpu_room(family: ModelProfile, facts: Facts) -> Finding | None:
    if facts.memory_bytes >= family.gpu_memory_bytes * _CPU_SHARE:
        return None
    command = f"vlsb serve {family.name} --weights DIR"
    return Finding(Group.MODELS, family.name, State.MISSING, "its weights need a GPU; small ones:", command)


def _ready(family: ModelProfile, facts: Facts) -> str:
    return "ready" if family.weights in facts.weights else f"ready; downloads {family.weights} first"


def _ready_for(facts: Facts, families: Sequence[Finding]) -> Iterator[Finding]:
    """What works here as it is, and what does not with the first reason."""
    keys = [name for name, is_set in facts.keys.items() if is_set]
    local = [finding.name for finding in families if finding.state is State.OK]
    ready, missing = ["the demo"], []
    if keys:
        ready.append(f"hosted models ({', '.join(keys)})")
    else:
        missing.append("hosted models (no key is set)")
    if local:
        ready.append(f"local models ({', '.join(local)})")
    else:
        why = {finding.what for finding in families}
        missing.append(f"local models ({why.pop() if len(why) == 1 else 'see models above'})")
    if facts.extras["parquet"]:
        ready.append("parquet shards")
    else:
        missing.append("parquet shards (no extra `parquet`)")
    if facts.dataset.place is None:
        missing.append("the full data set (not here)")
    yield Finding(Group.READY, "ready for", State.OK, ", ".join(ready))
    if missing:
        yield Finding(Group.READY, "not ready for", State.MISSING, ", ".join(missing))


def _servers(servers: Sequence[ServerFacts]) -> Iterator[Finding]:
    for server in servers:
        what = f"{server.base_url}, process {server.pid}, {server.weights}"
        yield Finding(Group.SERVERS, server.name, State.OK, what)
    if not servers:
        yield Finding(Group.SERVERS, "none", State.MISSING, "`vlsb serve FAMILY` starts one")
