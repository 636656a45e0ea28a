"""`vlsb engine`: the engines of this machine, and the servers that run on them."""

from __future__ import annotations

import difflib
import os
import time
from typing import Annotated

import typer

from vlsb.cli import options as opt
from vlsb.cli.command import command
from vlsb.cli.engine_text import engines_text, servers_text
from vlsb.cli.live import Display
from vlsb.cli.screen import Screen
from vlsb.engines.hardware import list_gpus
from vlsb.engines.install import discard_engine, engine_title, install_engine
from vlsb.engines.preflight import check_driver
from vlsb.engines.registry import Places, ServerRecord, read_records, stop_server
from vlsb.errors import ConfigError, InterruptedRunError, UnknownModelError
from vlsb.evaluation.options import Option
from vlsb.models.profile import PROFILES, ModelProfile
from vlsb.reports.figures import duration
from vlsb.steps import Step

engine_app = typer.Typer(no_args_is_help=True, help="List, install and stop local engines.")

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
    rebuild: Annotated[bool, Option("Build it anew, even if it is there.")] = False,
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
    chosen = _chosen_servers(names or [], read_records(places, say=screen.notice), stop_all=all_)
    for record in chosen:
        screen.result(f"{record.name} ({record.base_url}): {stop_server(places, record)}")
    if not chosen:
        screen.result("No server is running.")
    return 0


def known_family(name: str) -> ModelProfile:
    """The family of a name that has weights of its own in our table; UnknownModelError for any other."""
    if name not in PROFILES:
        near = difflib.get_close_matches(name, PROFILES, n=1)
        hint = f" Did you mean {near[0]}?" if near else f" There are: {', '.join(PROFILES)}."
        raise UnknownModelError(f"{name}: no such family.{hint}")
    return PROFILES[name]


def _chosen_servers(names: list[str], running: list[ServerRecord], *, stop_all: bool) -> list[ServerRecord]:
    """The servers to stop; ConfigError where a name is none of them."""
    if stop_all == bool(names):
        raise ConfigError("name the servers to stop, or give --all.")
    if stop_all:
        return running
    missing = [name for name in names if name not in {record.name for record in running}]
    if missing:
        there = ", ".join(sorted({record.name for record in running})) or "none"
        raise ConfigError(f"{missing[0]}: no such server is running. Running: {there}.")
    return [record for record in running if record.name in names]


@engine_app.callback()
def _engine() -> None:
    """List, install and stop local engines."""
