"""`vlsb demo`: the main job on the embedded mini set against the simulator. No key, no download."""

from __future__ import annotations

import tempfile
from pathlib import Path

from vlsb.cli import options as opt
from vlsb.cli.run import run
from vlsb.evaluation.options import RunOptions


def demo_command(
    output_dir: opt.DemoOutputDir = None,
    display: opt.Display = None,
    resume: opt.Resume = False,
) -> int:
    """Run the main job on the embedded demo: 30 benign samples, simulated model and judge."""
    parent = output_dir or Path(tempfile.mkdtemp(prefix="vlsb-demo-"))
    return run(RunOptions(model="demo", output_dir=parent, display=display, resume=resume))
