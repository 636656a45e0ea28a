"""A run that is asked look by look: the samples of one after those of the other, until one decides."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from vlsb.errors import GapsError
from vlsb.evaluation.session import Plan, Resolved, SessionEnd
from vlsb.steps import in_thread
from vlsb.store.state import has_answers


class LookDriver(Protocol):
    """Looks at a run: the samples that the next one needs, what it decides, whether another follows."""

    @property
    def is_over(self) -> bool: ...
    def part(self, plan: Plan) -> Plan: ...
    def take(self) -> str: ...


async def run_looks(
    resolved: Resolved,
    looks: LookDriver,
    carry_out: Callable[[Resolved], Awaitable[SessionEnd]],
    say: Callable[[str], None],
) -> SessionEnd:
    """Ask for the samples of one look after the other, until one decides or a session stops early."""
    while True:
        part = await in_thread(lambda _: looks.part(resolved.plan))
        end = await carry_out(replace(resolved, plan=part))
        if end.reason is not None:
            return end
        if not await in_thread(lambda _: has_answers(resolved.plan.directory)):
            return replace(end, reason=GapsError("Nobody answered: there is nothing to look at."))
        say(await in_thread(lambda _: looks.take()))
        if await in_thread(lambda _: looks.is_over):
            return end
