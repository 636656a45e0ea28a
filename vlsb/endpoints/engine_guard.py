"""Who looks after the engine behind an endpoint, as far as its requests are concerned.

A hosted endpoint has nobody: its outages are only waited out. A local engine that we started may die, come
back, and be killed by the very sample it was answering.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

ENGINE_KILLED = "engine_killed"
"""The code of a sample that killed the engine while nothing else was in flight."""


class Fate(Enum):
    """What a failed request says about the engine."""

    ALIVE = "alive"
    LOST = "lost"
    KILLED_BY_SAMPLE = "killed by sample"


@dataclass(frozen=True, slots=True, eq=False)
class InFlight:
    """One request over all its attempts. Another epoch of its sample is another request."""

    sample_id: int


class EngineGuard:
    """Nobody: every sample may go, and no failure is the engine's death."""

    async def admit(self, request: InFlight) -> bool:
        """Return when the request may be sent, or at once with False if it never may: its sample kills.

        Raises ServerError when the engine is gone for good.
        """
        return True

    def admits(self, request: InFlight) -> bool:
        """Tell whether the request may be sent right now."""
        return True

    def has_killed(self, request: InFlight) -> bool:
        """Tell whether its sample kills the engine, so that it is never sent again."""
        return False

    def watch(self, on_change: Callable[[], None]) -> None:
        """Call `on_change` whenever what `admits` says may have changed. It never does here."""

    def depart(self, request: InFlight) -> None:
        """Note that the request is sent."""

    def leave(self, request: InFlight) -> None:
        """Note that the attempt is over, whatever came of it."""

    async def fate(self, request: InFlight) -> Fate:
        """Tell whether an attempt that just failed, and has not left yet, did so because the engine died."""
        return Fate.ALIVE
