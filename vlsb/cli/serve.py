"""`vlsb serve`: a local model on an engine of its own, until it is told to stop."""

from __future__ import annotations

from typing import Annotated

import typer

from vlsb.cli import options as opt
from vlsb.cli.resolve import RunOptions
from vlsb.cli.screen import Screen
from vlsb.errors import VlsbError

_DEFAULTS = RunOptions()
ServedName = Annotated[
    str, typer.Argument(metavar="NAME", help="llava, llava_hf, llava_next, qwen2vl, mllama, or one of yours.")
]


def serve_command(
    name: ServedName,
    engine_options: opt.EngineOptions = None,
    port: opt.Port = None,
    detach: opt.Detach = False,
    weights: opt.Weights = None,
    revision: opt.Revision = None,
    dtype: opt.DType = None,
    tensor_parallel_size: opt.TensorParallelSize = None,
    gpus: opt.Gpus = None,
    engine: opt.EngineChoice = _DEFAULTS.engine,
    servers_dir: opt.ServersDir = None,
    start_timeout: opt.StartTimeout = _DEFAULTS.start_timeout,
    yes: opt.Yes = False,
    display: opt.Display = None,
) -> int:
    """Serve a local model on this machine, for `vlsb run --model NAME` and for any OpenAI client.

    NAME is llava, llava_hf, llava_next, qwen2vl, mllama, or one of yours.
    """
    from vlsb.cli.serve_session import ServeJob, serve
    from vlsb.engines.plan import Wishes

    screen = Screen(quiet=display == "none")
    try:
        wishes = Wishes(
            weights=weights,
            revision=revision,
            tensor_parallel_size=tensor_parallel_size,
            gpus=gpus,
            dtype=dtype,
            port=port,
            engine=engine,
            engine_options=tuple(engine_options or ()),
            start_timeout_s=start_timeout,
        )
        job = ServeJob(
            name=name, wishes=wishes, servers_dir=servers_dir, is_detached=detach, yes=yes, display=display
        )
        return serve(job, screen)
    except VlsbError as error:
        screen.error(error)
        return error.exit_code
