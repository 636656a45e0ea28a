"""`vlsb demo`: the main job on the embedded mini set against the simulator. No key, no download."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

from vlsb.cli import options as opt
from vlsb.cli.command import command
from vlsb.cli.options import run_option
from vlsb.evaluation.options import RunOptions


@command()
def demo_command(
    output_dir: Annotated[
        Path | None, run_option("output_dir", help="Parent directory of the run. (default: a temporary one)")
    ] = None,
    display: opt.Display = None,
    resume: Annotated[bool, run_option("resume")] = False,
) -> int:
    """Run the main job on the embedded demo: 30 benign samples, simulated model and judge."""
    # A session brings the HTTP stack, which the help page does not wait for.
    from vlsb.cli.sessions import evaluate_targets

    parent = output_dir or Path(tempfile.mkdtemp(prefix="vlsb-demo-"))
    return evaluate_targets(RunOptions(output_dir=parent, display=display, resume=resume), ["demo"])
