"""A program in virtual time: what it waits for takes no time, and nothing depends on how fast a machine is.

Loop, clock, sockets and threads are those of the simulation. Endpoints are `Simulator`s within the program.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from tests.simulation.world import World, quietly

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
