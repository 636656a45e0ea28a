"""What `vlsb engine list` prints: a block an engine, with the families that it serves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from vlsb.engines.install import (
    AUTO,
    Condition,
    Engine,
    InstalledEngine,
    engine_prefix,
    engine_title,
    find_engine,
    install_command,
    installed_engines,
)
from vlsb.engines.registry import Places, ServerRecord, process_age_s
from vlsb.errors import ConfigError, ServerError
from vlsb.models.profile import FAMILIES, PROFILES, EnginePin
from vlsb.records import Untrusted
from vlsb.reports.encode import for_terminal
from vlsb.reports.figures import duration


def engines_text(places: Places, environment: Mapping[str, str], *, has_gpu: bool) -> str:
    """Each engine with its state, or the one command that makes it ready, and its families' weights."""
    there = {each.prefix: each for each in installed_engines(places)}
    pins = {family.engine.name: family.engine for family in FAMILIES.values()}
    blocks = []
    for pin in pins.values():
        own = there.pop(engine_prefix(pin, places, has_gpu=has_gpu), None)
        lines = [*_heading(pin, own, places, environment, has_gpu=has_gpu), *_families(pin)]
        blocks.append("\n".join(lines))
    if there:
        blocks.append("\n".join(["Not used by this version or on this machine", *_others(there.values())]))
    return "\n\n".join(blocks) + "\n"


def servers_text(servers: Sequence[ServerRecord]) -> str:
    """The servers that run, a line each; their weights are named by strangers."""
    if not servers:
        return "\nNo server is running.\n"
    width = max(len(record.name) for record in servers)
    lines = [
        f"  {record.name:<{width}}  {record.base_url}  process {record.pid}, for "
        f"{duration(process_age_s(record.started_at))}, {record.weights}"
        for record in servers
    ]
    return "\nRunning servers\n" + "".join(f"{for_terminal(Untrusted(line), lines=True)}\n" for line in lines)


def _heading(
    pin: EnginePin,
    own: InstalledEngine | None,
    places: Places,
    environment: Mapping[str, str],
    *,
    has_gpu: bool,
) -> Iterator[str]:
    title = engine_title(pin, has_gpu=has_gpu)
    try:
        engine = find_engine(pin, AUTO, places, environment=environment, has_gpu=has_gpu)
    except (ServerError, ConfigError):
        state = "not installed" if own is None else own.condition.value
        yield f"{title}: {state}"
        if own is None or own.condition is not Condition.INSTALLING:
            yield f"  make it ready with: {install_command(pin)}"
        return
    yield f"{title}: ready{_of_the_user(engine, own)}"
    place = engine.executable if engine.prefix is None else engine.prefix
    yield _printable(f"  {place}{_size(own) if own is not None and own.engine == engine else ''}")


def _of_the_user(engine: Engine, own: InstalledEngine | None) -> str:
    """What is said of an engine that was found on PATH."""
    return "" if own is not None and own.engine == engine else f", with the vLLM {engine.version} on PATH"


def _families(pin: EnginePin) -> Iterator[str]:
    width = max(map(len, PROFILES))
    mine = (each for each in PROFILES.values() if each.engine.name == pin.name)
    return (f"  {each.name:<{width}}  {each.weights}" for each in mine)


def _others(left: Iterable[InstalledEngine]) -> Iterator[str]:
    return (_printable(f"  {each.prefix}{_size(each)}") for each in left)


def _size(each: InstalledEngine) -> str:
    return f" ({each.size_bytes / 1e9:.1f} GB)" if each.size_bytes else ""


def _printable(line: str) -> str:
    return for_terminal(Untrusted(line), lines=True)
