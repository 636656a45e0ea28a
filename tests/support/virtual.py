"""A program in virtual time: what it waits for takes no time, and nothing depends on how fast a machine is.

Loop, clock, sockets and threads are those of the simulation. Endpoints are `Simulator`s within the program.
"""

from __future__ import annotations

from collections.abc import Coroutine
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tests.simulation.world import World, quietly
from vlsb.analysis.summary import FailOnError
from vlsb.cli.screen import Screen
from vlsb.cli.sessions import SessionCommand, carry_out
from vlsb.evaluation.options import RunOptions
from vlsb.evaluation.session import prepare
from vlsb.evaluation.settings import open_target
from vlsb.simulator import Request, Simulator
from vlsb.simulator.actions import Responder

_Result = TypeVar("_Result")


def run_virtually(program: Coroutine[Any, Any, _Result]) -> _Result:
    """Run a program to its end; one that waits for what can never come fails with `Deadlock`."""
    world = World("a test")
    with world.entered(), quietly():
        try:
            return world.run(program)
        finally:
            world.loop.forget()
            world.loop.close()


class CommandEnd(NamedTuple):
    """How a command ended in virtual time: its exit code, what it wrote, and what its endpoint was asked."""

    code: int
    out: str
    err: str
    completions: list[Request]


def evaluate_virtually(respond: Responder, data_root: Path, output_dir: Path, **options: Any) -> CommandEnd:
    """Carry out `vlsb run` in virtual time, against an endpoint within the program that responds so."""
    out, err = StringIO(), StringIO()

    async def program() -> tuple[int, list[Request]]:
        async with Simulator(respond) as endpoint:
            usual: dict[str, Any] = {
                "model": "target-model",
                "base_url": endpoint.base_url,
                "judge": ("judge-model",),
                "judge_base_url": (endpoint.base_url,),
                "name": "r",
            }
            asked = RunOptions(data_root=data_root, output_dir=output_dir, **(usual | options))
            command = SessionCommand(asked, partial(open_target, asked), prepare, FailOnError.parse("0"))
            ended = await carry_out(command, Screen(out=out, err=err), is_last=False)
            return ended.code, endpoint.completions

    code, completions = run_virtually(program())
    return CommandEnd(code, out.getvalue(), err.getvalue(), completions)
