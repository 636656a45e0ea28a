"""A server that `vlsb serve` keeps, used by a run: neither started again nor stopped by it."""

from __future__ import annotations

from vlsb.endpoints.keeper import Fate, Keeper, Ticket
from vlsb.errors import ServerExitedError
from vlsb.serving.state import ServerRecord


class Borrowed(Keeper):
    """Ends the run when its server has ended: waiting for an address that nobody holds helps nobody."""

    def __init__(self, record: ServerRecord) -> None:
        self._record = record

    async def fate(self, ticket: Ticket) -> Fate:
        """ALIVE as long as the server's process lives; raises ServerExitedError when it does not."""
        if self._record.is_running:
            return Fate.ALIVE
        name = self._record.name
        raise ServerExitedError(
            f"{name}: the server that this run used has ended. Start it again as before (vlsb serve {name}), "
            f"then resume. Its log: {self._record.log}"
        )
