"""A server that does what an input says to our transport's connections, over real sockets of one loop.

An input is a script: records parted by RECORD, one a request; within each, bytes to send parted by PAUSE.
Where TOKEN stands, the token of the request that was read last is sent. LATER parts what is sent when the
reply is long over and nobody has asked again; CLOSE ends the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import time

import httpx

from vlsb.endpoints.connect import Client, open_client
from vlsb.endpoints.secrets import Credentials
from vlsb.endpoints.transport import Reading, Upload

RECORD, PAUSE, LATER, CLOSE, TOKEN = b"\x1e", b"\x1f", b"\x1d", b"\x04", b"@T"
MOST_REQUESTS = 5
MOST_CPU_S = 0.1
# A request that never ends is a finding, with its input.
MOST_S = 4.0
_TOKEN = re.compile(rb"t-[0-9a-f]{8}")
# Turns of the loop in which whatever is on its way between two sockets of it arrives.
_TURNS = 12


class Peer:
    """The server, with the script that is being played."""

    def __init__(self) -> None:
        self.script: list[bytes] = []
        # The tokens whose records were played to their ends, and a notice of each.
        self.over: set[bytes] = set()
        self.change = asyncio.Event()
        self._tasks: set[asyncio.Task[object] | None] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Play a record a request until there is none, or one closes."""
        self._tasks.add(asyncio.current_task())
        token = b""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
                token = await reader.readexactly(length)
                record = self.script.pop(0) if self.script else b""
                is_closing = CLOSE in record
                at_once, *later = record.replace(CLOSE, b"").replace(TOKEN, token).split(LATER)
                await self._send(writer, at_once)
                for each in later:
                    await turns()
                    await self._send(writer, each)
                if is_closing:
                    break
                self._end(token)
        writer.transport.abort()
        self._end(token)

    def _end(self, token: bytes) -> None:
        self.over.add(token)
        self.change.set()

    async def played(self, token: bytes) -> None:
        """Return when the record for a request was played to its end."""
        while token not in self.over:
            self.change.clear()
            await self.change.wait()

    async def _send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        for piece in data.split(PAUSE):
            writer.write(piece)
            await asyncio.sleep(0)

    def stop(self) -> None:
        """End what is still being played."""
        for task in self._tasks:
            if task is not None:
                task.cancel()
        self._tasks.clear()
        self.over.clear()


async def turns() -> None:
    """Let what was sent arrive."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)


class World:
    """One loop with one server, kept from input to input."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.peer = self.loop.run_until_complete(self._made())
        server = self.loop.run_until_complete(asyncio.start_server(self.peer.serve, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _made(self) -> Peer:
        return Peer()

    def play(self, script: bytes) -> None:
        """Ask as often as the script has records; fails on an answer of somebody else's."""
        self.peer.script = script.split(RECORD)[:MOST_REQUESTS]
        self.loop.run_until_complete(asyncio.wait_for(self._asked(len(self.peer.script)), MOST_S))

    async def _asked(self, count: int) -> None:
        client = open_client(self.url, credentials=Credentials(None), connections=1, ca_bundle=None)
        try:
            for _ in range(count):
                await self._asked_once(client)
        finally:
            await client.aclose()
            self.peer.stop()
            await turns()

    async def _asked_once(self, client: Client) -> None:
        token = b"t-" + secrets.token_hex(4).encode()
        asking = asyncio.ensure_future(client.ask("/x", Upload([token])))
        played = asyncio.ensure_future(self.peer.played(token))
        await asyncio.wait([played, asking], return_when=asyncio.FIRST_COMPLETED)
        with contextlib.suppress(TimeoutError):
            # What is sent later must be there before the next request; one that never left plays nothing.
            async with asyncio.timeout(0.05 if asking.done() else 1):
                await played
        await turns()
        if not asking.done():
            asking.cancel()
        reply = (await asyncio.gather(asking, return_exceptions=True))[0]
        if isinstance(reply, httpx.Response):
            owners = set(_TOKEN.findall(reply.content))
            assert owners <= {token}, f"the answer to {owners} was given to {token!r}"
        else:
            assert isinstance(reply, httpx.RequestError | asyncio.CancelledError), f"raised {reply!r}"


_worlds: list[World] = []


def check_connections(data: bytes) -> None:
    """Nobody's answer is given to another, nothing costs more than its bytes, and splits change nothing."""
    if not _worlds:
        _worlds.append(World())
    began = time.process_time()
    _worlds[0].play(data)
    spent = time.process_time() - began
    assert spent < MOST_CPU_S, f"{spent:.3f} s of CPU"
    for record in data.split(RECORD)[:MOST_REQUESTS]:
        plain = record.replace(PAUSE, b"").replace(LATER, b"").replace(CLOSE, b"")
        assert _read(plain, len(plain) or 1) == _read(plain, 1 + len(plain) // 4096), (
            "read otherwise when split"
        )


def _read(data: bytes, step: int) -> tuple[int, bytes, bool] | None:
    reading, surplus = Reading(), False
    began = time.process_time()
    try:
        for at in range(0, len(data), step):
            surplus = surplus or reading.reply is not None
            if reading.reply is None:
                reading.feed(data[at : at + step])
        if reading.reply is None:
            reading.end()
    except httpx.RequestError:
        return None
    finally:
        spent = time.process_time() - began
        assert spent < MOST_CPU_S, f"{spent:.3f} s of CPU"
    assert reading.reply is not None
    return reading.reply.status_code, reading.reply.content, surplus or reading.is_last
