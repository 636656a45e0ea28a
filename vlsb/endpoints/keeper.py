"""Who looks after the engine behind an endpoint, as far as its requests are concerned.

A hosted endpoint has nobody: it is always there, and its outages are the breaker's. A local engine that we
started may die, come back, and be killed by the very sample it was answering.
"""

from __future__ import annotations

from enum import Enum

ENGINE_KILLED = "engine_killed"
"""The code of a sample that killed the engine while nothing else was in flight."""


class Fate(Enum):
    """What a failed request says about the engine."""

    ALIVE = "alive"
    LOST = "lost"
    KILLED_BY_SAMPLE = "killed by sample"


class Keeper:
    """Nobody: every sample may go, and no failure is the engine's death."""

    async def admit(self, sample_id: int) -> None:
        """Return when the sample may be sent. Raises ServerError when the engine is gone for good."""

    def admits(self, sample_id: int) -> bool:
        """Whether the sample may be sent right now."""
        return True

    def depart(self, sample_id: int) -> None:
        """The sample's request leaves."""

    def leave(self, sample_id: int) -> None:
        """The sample's request is over, whatever came of it."""

    async def fate(self, sample_id: int) -> Fate:
        """Whether a request that just failed, and has not left yet, did so because the engine died."""
        return Fate.ALIVE
