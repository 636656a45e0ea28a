"""`vlsb serve`: a local model on an engine of its own, until it is told to stop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlsb.cli import options as opt
from vlsb.cli.options import _option
from vlsb.cli.screen import Screen
from vlsb.errors import VlsbError

_MODEL, _ENGINE, _SERVER = "Model", "Engine", "Server"

ServedName = Annotated[
    str, typer.Argument(metavar="NAME", help="llava, llava_hf, llava_next, qwen2vl, mllama, or one of yours.")
]
EngineOptions = Annotated[
    list[str] | None,
    typer.Argument(metavar="-- ENGINE OPTIONS", help="Options for `vllm serve`, as its own help has them."),
]
ServersDir = Annotated[
    Path | None,
    _option(
        "--servers-dir",
        metavar="DIR",
        help="Folder with models of yours, each a NAME.<family>.yaml.",
        panel=_MODEL,
    ),
]
Weights = Annotated[
    str | None,
    _option("--weights", metavar="WEIGHTS", help="A folder or a hub id. (default: NAME's)", panel=_MODEL),
]
Revision = Annotated[
    str | None,
    _option("--revision", metavar="SHA", help="Commit or branch of the weights on the hub.", panel=_MODEL),
]
DType = Annotated[
    str | None,
    _option(
        "--dtype", metavar="DTYPE", help="Type of the weights in memory, such as bfloat16.", panel=_MODEL
    ),
]
EngineChoice = Annotated[
    str,
    _option(
        "--engine",
        metavar="auto|PATH|ENV",
        help="The engine: one built here or on PATH, a program, or an environment's folder.",
        panel=_ENGINE,
    ),
]
TensorParallelSize = Annotated[
    int | None,
    _option(
        "--tensor-parallel-size",
        metavar="N",
        min=1,
        help="GPUs that share one copy of the model.",
        panel=_ENGINE,
    ),
]
Gpus = Annotated[
    str | None, _option("--gpus", metavar="0,1", help="Which GPUs to use. (default: all)", panel=_ENGINE)
]
Yes = Annotated[bool, _option("--yes", "-y", help="Install a missing engine without asking.", panel=_ENGINE)]
Port = Annotated[
    int | None,
    _option(
        "--port",
        metavar="N",
        min=1,
        max=65535,
        help="Port on 127.0.0.1. (default: a free one)",
        panel=_SERVER,
    ),
]
StartTimeout = Annotated[
    float,
    _option(
        "--start-timeout",
        metavar="SECONDS",
        min=1.0,
        help="Seconds until it must be ready; a download does not count.",
        panel=_SERVER,
    ),
]
Detach = Annotated[
    bool, _option("--detach", help="Return when it is ready; it runs on in the background.", panel=_SERVER)
]


def serve_command(
    name: ServedName,
    engine_options: EngineOptions = None,
    servers_dir: ServersDir = None,
    weights: Weights = None,
    revision: Revision = None,
    dtype: DType = None,
    engine: EngineChoice = "auto",
    tensor_parallel_size: TensorParallelSize = None,
    gpus: Gpus = None,
    yes: Yes = False,
    port: Port = None,
    start_timeout: StartTimeout = 1800.0,
    detach: Detach = False,
    display: opt.Display = None,
) -> int:
    """Serve a local model on this machine, for `vlsb run --model NAME` and for any OpenAI client."""
    from vlsb.cli.serve_session import ServeJob, serve
    from vlsb.serving.plans import Wishes

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
