"""What `vlsb engine list` prints: a block an engine, with the families that it serves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from vlsb.engines.install import (
    AUTO,
    Condition,
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
    width = max(map(len, PROFILES))
    blocks = []
    for pin in pins.values():
        own = there.pop(engine_prefix(pin, places, has_gpu=has_gpu), None)
        families = (each for each in PROFILES.values() if each.engine.name == pin.name)
        lines = [
            *_heading(pin, own, places, environment, has_gpu=has_gpu),
            *(f"  {each.name:<{width}}  {each.weights}" for each in families),
        ]
        blocks.append("\n".join(lines))
    if there:
        others = (_printable(f"  {each.prefix}{_size(each)}") for each in there.values())
        blocks.append("\n".join(["Not used by this version or on this machine", *others]))
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
    place = engine.executable if engine.prefix is None else engine.prefix
    if own is not None and own.engine == engine:
        yield f"{title}: ready"
        yield _printable(f"  {place}{_size(own)}")
    else:
        yield f"{title}: ready, with the vLLM {engine.version} on PATH"
        yield _printable(f"  {place}")


def _size(each: InstalledEngine) -> str:
    return f" ({each.size_bytes / 1e9:.1f} GB)" if each.size_bytes else ""


def _printable(line: str) -> str:
    return for_terminal(Untrusted(line), lines=True)
