"""A network in memory: connections whose bytes arrive in order, in drawn pieces, at drawn moments.

A transport here is what asyncio's protocols expect of one. Nothing of the system is touched.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections import deque
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.simulation.loop import SimulatedLoop

LATENCY_S = (0.0001, 0.05)
MOST_PIECES = 3
_TICK_S = 1e-6


class FakeSocket:
    """An address of the network; `setsockopt` and the like change nothing."""

    family = socket.AF_INET

    def __init__(self, host: str, port: int) -> None:
        self._name = (host, port)

    def getsockname(self) -> tuple[str, int]:
        """Host and port."""
        return self._name

    getpeername = getsockname

    def fileno(self) -> int:
        """A descriptor on which nothing ever comes."""
        return _silent_descriptor()

    def setsockopt(self, *_: object) -> None:
        """Nothing to set."""

    def listen(self, *_: object) -> None:
        """The network asks its servers."""

    def close(self) -> None:
        """Nothing is open."""


@cache
def _silent_descriptor() -> int:
    return os.eventfd(0)


class SimulatedServer:
    """Who listens at a port, until it is closed."""

    def __init__(self, network: Network, port: int, factory: Callable[[], asyncio.Protocol]) -> None:
        self.factory = factory
        self._network = network
        self._port = port

    def close(self) -> None:
        """Stop listening."""
        if self._network.servers.get(self._port) is self:
            del self._network.servers[self._port]


class Network:
    """All servers and connections of one history."""

    def __init__(self, loop: SimulatedLoop, draw: random.Random) -> None:
        self.loop = loop
        self.draw = draw
        self.servers: dict[int, SimulatedServer] = {}
        self.is_down = False
        self._next_port = 1024

    def socket(self, host: str, port: int) -> FakeSocket:
        """A socket that is bound to a port, or to the next free one."""
        if not port:
            self._next_port += 1
            port = self._next_port
        return FakeSocket(host, port)

    def listen(self, factory: Callable[[], asyncio.Protocol], sock: FakeSocket) -> SimulatedServer:
        """Accept connections at a socket's port."""
        port = sock.getsockname()[1]
        server = self.servers[port] = SimulatedServer(self, port, factory)
        return server

    async def connect(self, factory: Callable[[], Any], host: str, port: int) -> tuple[Any, Any]:
        """Open a connection; ConnectionRefusedError where nobody listens."""
        await asyncio.sleep(self.draw.uniform(*LATENCY_S))
        server = self.servers.get(port)
        if server is None or self.is_down:
            raise ConnectionRefusedError(111, "Connection refused")
        near, far = factory(), server.factory()
        here = SimulatedTransport(self, near, FakeSocket(host, port))
        there = SimulatedTransport(self, far, FakeSocket(host, port))
        here.peer, there.peer = there, here
        far.connection_made(there)
        near.connection_made(here)
        return here, near


class SimulatedTransport(asyncio.Transport):
    """One end of a connection."""

    def __init__(self, network: Network, protocol: Any, sock: FakeSocket) -> None:
        super().__init__({"socket": sock, "peername": sock.getsockname()})
        self.peer: SimulatedTransport
        self._network = network
        self._loop = network.loop
        self._protocol = protocol
        self._is_closing = False
        self._is_lost = False
        self._arrives_at = 0.0
        # What is on its way to this end: bytes, or None for the peer's end.
        self._arriving: deque[bytes | None] = deque()
        self._is_paused = False

    def write(self, data: Any) -> None:
        """Send bytes in one to three pieces, each at its own moment, in order."""
        if self._is_closing or not data:
            return
        data, draw = bytes(data), self._network.draw
        cuts = sorted(draw.randrange(len(data) + 1) for _ in range(draw.randrange(MOST_PIECES)))
        for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            if start < end:
                self.peer._arrive(data[start:end])

    def writelines(self, list_of_data: Any) -> None:
        """Send them as one."""
        self.write(b"".join(map(bytes, list_of_data)))

    def write_eof(self) -> None:
        """Say that no more comes."""
        self.peer._arrive(None)

    def can_write_eof(self) -> bool:
        """As TCP."""
        return True

    def close(self) -> None:
        """Close when all is sent."""
        if not self._is_closing:
            self._is_closing = True
            self.peer._arrive(None)
            self._loop.call_soon(self._lose, None)

    def abort(self) -> None:
        """Close at once; the peer sees a reset."""
        if not self._is_closing:
            self._is_closing = True
            self._loop.call_soon(self._lose, None)
            self._loop.call_later(self._network.draw.uniform(*LATENCY_S), self.peer._reset)

    def is_closing(self) -> bool:
        """Whether this end is closed."""
        return self._is_closing

    def is_reading(self) -> bool:
        """Whether bytes are handed on."""
        return not self._is_paused

    def pause_reading(self) -> None:
        """Keep what comes."""
        self._is_paused = True

    def resume_reading(self) -> None:
        """Hand on what came."""
        self._is_paused = False
        while self._arriving and not self._is_paused:
            self._deliver()

    def get_write_buffer_size(self) -> int:
        """The network takes everything at once."""
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is no buffer."""

    def set_protocol(self, protocol: Any) -> None:
        """Hand what comes to another protocol."""
        self._protocol = protocol

    def get_protocol(self) -> Any:
        """Who hears what comes."""
        return self._protocol

    def _arrive(self, data: bytes | None) -> None:
        latency_s = self._network.draw.uniform(*LATENCY_S)
        # Timers of one moment have no order, and bytes have one.
        self._arrives_at = max(self._arrives_at + _TICK_S, self._loop.time() + latency_s)
        self._loop.call_at(self._arrives_at, self._take, data)

    def _take(self, data: bytes | None) -> None:
        self._arriving.append(data)
        if not self._is_paused:
            self._deliver()

    def _deliver(self) -> None:
        data = self._arriving.popleft()
        if self._is_lost or self._is_closing:
            return
        if data is not None:
            self._protocol.data_received(data)
        elif not self._protocol.eof_received():
            self.close()

    def _reset(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._lose(ConnectionResetError(104, "Connection reset by peer"))

    def _lose(self, error: Exception | None) -> None:
        if not self._is_lost:
            self._is_lost = True
            self._protocol.connection_lost(error)
