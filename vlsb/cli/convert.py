"""`vlsb convert`: original weights into the layout that engines serve."""

from __future__ import annotations

import asyncio
import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from vlsb.cli import options as opt
from vlsb.cli.command import command
from vlsb.cli.live import Display
from vlsb.cli.options import run_option
from vlsb.cli.screen import Screen
from vlsb.endpoints import loops
from vlsb.engines.hardware import gpus
from vlsb.engines.install import find_engine
from vlsb.engines.llava.convert import convert_llava
from vlsb.engines.registry import Places
from vlsb.evaluation.options import Option
from vlsb.models.profile import FAMILIES

convert_app = typer.Typer(no_args_is_help=True, help="Convert original LLaVA weights for serving.")


@convert_app.callback()
def _convert() -> None:
    """Convert original LLaVA weights for serving."""


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
    found = find_engine(
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
                found,
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
