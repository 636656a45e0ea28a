"""A server that does what an input says to our transport's connections, over real sockets of one loop.

An input is a script: records parted by RECORD, one a request; within each, bytes to send parted by PAUSE.
Where TOKEN stands, the token of the request that was read last is sent. LATER parts what is sent when the
reply is long over and nobody has asked again; CLOSE ends the connection.

No clock decides anything. The sockets are pairs of one machine's, on which what was written is there; and a
loop that would wait has nothing that could ever wake it, which is how a request that never ends is found.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import selectors
import socket
from typing import Any

import httpx

from vlsb.endpoints.connect import Client, open_client
from vlsb.endpoints.credentials import Credentials
from vlsb.endpoints.transport import ReplyReader, Upload

RECORD, PAUSE, LATER, CLOSE, TOKEN = b"\x1e", b"\x1f", b"\x1d", b"\x04", b"@T"
MOST_REQUESTS = 5
# However finely a server cuts what it sends, no script is read in more pieces.
MOST_PIECES = 4096
_TOKEN = re.compile(rb"t-[0-9a-f]{8}")
# Turns of the loop in which what was written is read, and what follows from that has happened.
_TURNS = 12


class Stuck(Exception):
    """Somebody waits for what cannot come any more."""


class _Selector(selectors.DefaultSelector):
    """Never waits: when nothing is ready and nothing is due, nothing ever will be."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events and (timeout is None or timeout > 0):
            raise Stuck("a request never ends")
        return events


class _Loop(asyncio.SelectorEventLoop):
    """A loop whose connections all lead to one peer in it."""

    def __init__(self, peer: Peer) -> None:
        super().__init__(_Selector())
        self._peer = peer

    async def create_connection(self, protocol_factory: Any, *_: Any, **options: Any) -> Any:
        if options.get("sock") is not None:
            return await super().create_connection(protocol_factory, sock=options["sock"])
        ours, theirs = socket.socketpair()
        self._peer.begin(*await asyncio.open_connection(sock=theirs))
        return await super().create_connection(protocol_factory, sock=ours)


class Peer:
    """The server, with the script that is being played."""

    def __init__(self) -> None:
        self.script: list[bytes] = []
        # Done when the record of the newest request was played to its end: whether the connection ends too.
        self.played: asyncio.Future[bool] | None = None
        self.silent = asyncio.Event()
        self.silent.set()
        self._playing = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    def begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        writer.transport.set_write_buffer_limits(0)
        self._writers.append(writer)
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Play a record a request until there is none, or one closes."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
                token = await reader.readexactly(length)
                self._playing += 1
                self.silent.clear()
                is_closing = True
                try:
                    is_closing = await self._play(writer, self.script.pop(0) if self.script else b"", token)
                finally:
                    self._playing -= 1
                    if not self._playing:
                        self.silent.set()
                    if self.played is not None and not self.played.done():
                        self.played.set_result(is_closing)
                if is_closing:
                    break
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _play(self, writer: asyncio.StreamWriter, record: bytes, token: bytes) -> bool:
        is_closing = CLOSE in record
        at_once, *later = record.replace(CLOSE, b"").replace(TOKEN, token).split(LATER)
        await self._send(writer, at_once)
        for each in later:
            await turns()
            await self._send(writer, each)
        return is_closing

    async def _send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        for piece in data.split(PAUSE, MOST_PIECES):
            writer.write(piece)
            await asyncio.sleep(0)
        # A piece that still waits for room would arrive after the next question, as a reply to it.
        await writer.drain()

    async def stop(self) -> None:
        """End what is still being played."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def turns() -> None:
    """Let what was sent arrive."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)


class World:
    """One loop with one server, kept from input to input."""

    def __init__(self) -> None:
        self._peer = Peer()
        self._loop = _Loop(self._peer)
        # What a callback raised: asyncio would only log it, and end the connection.
        self._raised: list[BaseException] = []
        self._loop.set_exception_handler(self._note)

    def _note(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._raised.append(context.get("exception") or AssertionError(context["message"]))

    def play(self, script: bytes) -> None:
        """Ask as often as the script has records; fails on an answer of somebody else's."""
        self._peer.script = script.split(RECORD)[:MOST_REQUESTS]
        self._loop.run_until_complete(self._asked(len(self._peer.script)))
        if self._raised:
            raise self._raised.pop()

    def close(self) -> None:
        """End whatever has not ended."""
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.wait(left) if left else turns())
        self._loop.close()

    async def _asked(self, count: int) -> None:
        client = open_client(
            "http://127.0.0.1:9", credentials=Credentials(None), connections=1, ca_bundle=None
        )
        given: set[bytes] = set()
        try:
            for _ in range(count):
                await self._asked_once(client, given)
        finally:
            await client.aclose()
            await self._peer.stop()
            await turns()

    async def _asked_once(self, client: Client, given: set[bytes]) -> None:
        token = b"t-" + secrets.token_hex(4).encode()
        given.add(token)
        played = self._peer.played = self._loop.create_future()
        asking = asyncio.ensure_future(client.ask("/x", Upload([token])))
        await asyncio.wait([asking, played], return_when=asyncio.FIRST_COMPLETED)
        # What the peer sends must be there before the next request: later it would be a reply to that.
        await turns()
        await self._peer.silent.wait()
        await turns()
        is_closed = played.done() and played.result()
        assert asking.done() or not is_closed, "a request outlived its connection"
        # The script had no more for it, unless it has ended.
        asking.cancel()
        reply = (await asyncio.gather(asking, return_exceptions=True))[0]
        if isinstance(reply, httpx.Response):
            # What only looks like a token is nobody's.
            owners = set(_TOKEN.findall(reply.content)) & given
            assert owners <= {token}, f"the answer to {owners} was given to {token!r}"
        else:
            assert isinstance(reply, httpx.RequestError | asyncio.CancelledError), f"raised {reply!r}"


_worlds: list[World] = []


def close() -> None:
    """Close what is kept from input to input."""
    while _worlds:
        _worlds.pop().close()


def check(data: bytes) -> None:
    """Nobody's answer is given to another, every request ends, and splits change nothing."""
    world = _worlds.pop() if _worlds else World()
    try:
        world.play(data)
    except BaseException:
        # What is left of this input must not meet the next one.
        world.close()
        raise
    _worlds.append(world)
    for record in data.split(RECORD)[:MOST_REQUESTS]:
        plain = record.replace(PAUSE, b"").replace(LATER, b"").replace(CLOSE, b"")
        finely = 1 + len(plain) // MOST_PIECES
        assert _read(plain, len(plain) or 1) == _read(plain, finely), "read otherwise when split"


def _read(data: bytes, step: int) -> tuple[int, bytes, bool] | None:
    reading, surplus = ReplyReader(), False
    try:
        for at in range(0, len(data), step):
            surplus = surplus or reading.reply is not None
            if reading.reply is None:
                reading.feed(data[at : at + step])
        if reading.reply is None:
            reading.end()
    except httpx.RequestError:
        return None
    assert reading.reply is not None
    return reading.reply.status_code, reading.reply.content, surplus or reading.is_last
