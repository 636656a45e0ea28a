"""`vlsb engine` and `vlsb convert`: engines of this machine, their servers, and weights for them."""

from __future__ import annotations

import asyncio
import difflib
import os
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from vlsb.cli import options as opt
from vlsb.cli.command import as_group, command
from vlsb.cli.live import Display
from vlsb.cli.options import run_option
from vlsb.cli.screen import Screen
from vlsb.endpoints import loops
from vlsb.engines.checks import check_driver
from vlsb.engines.hardware import gpus, list_gpus
from vlsb.engines.install import (
    AUTO,
    Condition,
    InstalledEngine,
    discard_engine,
    engine_prefix,
    engine_title,
    find_engine,
    install_engine,
    installed_engines,
)
from vlsb.engines.install import install_command as install_words
from vlsb.engines.llava.convert import convert_llava
from vlsb.engines.registry import Places, ServerRecord, process_age_s, read_records, stop_server
from vlsb.errors import ConfigError, InterruptedRunError, ServerError, UnknownModelError
from vlsb.evaluation.options import Option
from vlsb.models.profile import FAMILIES, PROFILES, EnginePin, ModelProfile
from vlsb.records import Untrusted
from vlsb.reports.encode import for_terminal
from vlsb.reports.report import duration
from vlsb.steps import Step

engine_app = typer.Typer(no_args_is_help=True, help="List, install and stop local engines.")
convert_app = typer.Typer(
    no_args_is_help=True, help="Convert original LLaVA weights for serving.", callback=as_group
)

FamilyName = Annotated[
    str, typer.Argument(metavar="FAMILY", help="A name of `vlsb models`, such as llava_next or qwen3_vl.")
]
ServerNames = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME...", help="The servers to stop, as `engine list` names them."),
]


@engine_app.command("list")
@command()
def list_command() -> int:
    """Say which engine each family needs, whether it is ready, and which servers run."""
    screen = Screen()
    places = Places.of(os.environ)
    servers = read_records(places, say=screen.notice)
    listing = list_gpus(os.environ)
    if listing.problem is not None:
        screen.notice(f"Warning: {listing.problem}. Engines for the CPU are listed.")
    screen.result(engines_text(places, os.environ, has_gpu=bool(listing.gpus)))
    screen.result(servers_text(servers))
    return 0


@engine_app.command("install")
@command()
def install_command(
    family: FamilyName,
    rebuild: Annotated[bool, Option("Build it again, even if it is already installed.")] = False,
    display: opt.Display = None,
) -> int:
    """Build the engine that a family needs, in an environment of its own. Does nothing if it is there."""
    screen = Screen(quiet=display == "none")
    steps: list[Step] = []
    try:
        pin, places, listing = known_family(family).engine, Places.of(os.environ), list_gpus(os.environ)
        check_driver(pin, None, listing.checked())
        has_gpu, began = bool(listing.gpus), time.monotonic()
        if rebuild:
            discard_engine(pin, places, has_gpu=has_gpu)
        with Display(display, screen) as live:

            def show(step: Step) -> None:
                if not steps:
                    screen.notice(f"Installing {engine_title(pin, has_gpu=has_gpu)} into {places.engines}.")
                steps.append(step)
                live.on_progress(step)

            engine = install_engine(pin, places, has_gpu=has_gpu, environment=os.environ, on_progress=show)
    except KeyboardInterrupt as stop:
        raise InterruptedRunError(
            f"Interrupted. What was downloaded stays in the cache; go on with: vlsb engine install {family}"
        ) from stop
    if steps:
        screen.notice(f"Installed in {duration(time.monotonic() - began)}.")
    screen.result(f"vLLM {engine.version} is ready in {engine.prefix}")
    return 0


@engine_app.command("stop")
@command()
def stop_command(
    names: ServerNames = None,
    all_: Annotated[bool, Option("Stop every server.", variable="VLSB_STOP_ALL")] = False,
) -> int:
    """Stop servers that `vlsb serve` has running, and wait until nothing of them is left."""
    screen = Screen()
    places = Places.of(os.environ)
    running = read_records(places, say=screen.notice)
    if all_ == bool(names):
        raise ConfigError("name the servers to stop, or give --all.")
    names_now = {record.name for record in running}
    for name in names or []:
        if name not in names_now:
            now = ", ".join(sorted(names_now)) or "none"
            raise ConfigError(f"{name}: no such server is running. Running: {now}.")
    for record in running:
        if all_ or record.name in (names or []):
            screen.result(f"{record.name} ({record.base_url}): {stop_server(places, record)}")
    if not running:
        screen.result("No server is running.")
    return 0


def known_family(name: str) -> ModelProfile:
    """Return the family of a name that has weights of its own in our table.

    UnknownModelError for any other.
    """
    if name not in PROFILES:
        near = difflib.get_close_matches(name, PROFILES, n=1)
        hint = f" Did you mean {near[0]}?" if near else f" There are: {', '.join(PROFILES)}."
        raise UnknownModelError(f"{name}: no such family.{hint}")
    return PROFILES[name]


# What is listed.


def engines_text(places: Places, environment: Mapping[str, str], *, has_gpu: bool) -> str:
    """Each engine with its state, or the one command that makes it ready, and its families' weights."""
    unused = {each.prefix: each for each in installed_engines(places)}
    pins = {family.engine.name: family.engine for family in FAMILIES.values()}
    width = max(map(len, PROFILES))
    blocks = []
    for pin in pins.values():
        own = unused.pop(engine_prefix(pin, places, has_gpu=has_gpu), None)
        families = (each for each in PROFILES.values() if each.engine.name == pin.name)
        lines = [
            *_heading(pin, own, places, environment, has_gpu=has_gpu),
            *(f"  {each.name:<{width}}  {each.weights}" for each in families),
        ]
        blocks.append("\n".join(lines))
    if unused:
        others = (_printable(f"  {each.prefix}{_size(each)}") for each in unused.values())
        blocks.append("\n".join(["Not used by this version or on this machine", *others]))
    return "\n\n".join(blocks) + "\n"


def servers_text(servers: Sequence[ServerRecord]) -> str:
    """Return the servers that run, a line each; their weights are named by strangers."""
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
            yield f"  make it ready with: {install_words(pin)}"
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


@convert_app.command("llava")
@command()
def llava_command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="Original LLaVA v1.5 weights: a folder or an id on the Hugging Face Hub."
        ),
    ],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="Folder to make; it must not exist.")],
    vision_tower: Annotated[
        str | None,
        Option(
            "CLIP tower: a folder or an id on the Hugging Face Hub. (default: as SRC says)", metavar="TOWER"
        ),
    ] = None,
    revision: Annotated[str | None, run_option("revision")] = None,
    engine: Annotated[str, run_option("engine")] = "auto",
    offline: opt.Offline = False,
    display: opt.Display = None,
) -> int:
    """Convert original LLaVA v1.5 weights, with their CLIP tower, into the Hugging Face layout."""
    screen = Screen(quiet=display == "none")
    converter = find_engine(
        FAMILIES["llava"].engine,
        engine,
        Places.of(os.environ),
        environment=os.environ,
        has_gpu=bool(gpus(os.environ)),
        family="llava",
    )
    with Display(display, screen) as live:
        count = loops.run(
            convert_llava(
                source,
                destination,
                converter,
                environment=os.environ,
                revision=revision,
                vision_tower=vision_tower,
                offline=offline,
                on_progress=live.on_progress,
            ),
            loop_factory=asyncio.new_event_loop,
        )
    screen.answer(f"{destination}: {count} tensors, each read back and compared.")
    screen.notice(f"Serve it with: {shlex.join(['vlsb', 'serve', 'llava', '--weights', str(destination)])}")
    return 0
