"""The simulator itself: HTTP/1.1 by hand, because most actions are what no HTTP server would let us do.

A client that closes its side, even half of it, is gone: what was under way for it is cancelled and leaves
the in-flight count.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import NamedTuple, Self

from vlsb.simulator.actions import Action, Reply, Responder, error, is_whole, keeps_open, models, play, wire
from vlsb.simulator.batches import UNKNOWN, Batches
from vlsb.simulator.requests import Request

MAX_REQUEST_BYTES = 64 * 1024 * 1024
MAX_HEAD_BYTES = 1024 * 1024
BACKLOG = 1024


class _UnreadableError(Exception):
    """Not a request that HTTP/1.1 allows, or one above our limits."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class _Message(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    keeps_open: bool


async def _read_message(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> _Message:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        request_line, *lines = head[:-4].decode("latin-1").split("\r\n")
        method, path, version = request_line.split(" ")
        fields = [line.partition(":") for line in lines]
        headers = {name.strip().lower(): text.strip() for name, _, text in fields}
        length = int(headers.get("content-length", "0"))
        if length > MAX_REQUEST_BYTES:
            raise _UnreadableError(413)
        if headers.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        is_chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        body = await (_read_chunks(reader) if is_chunked else reader.readexactly(length))
    except asyncio.LimitOverrunError:
        raise _UnreadableError(431) from None
    except ValueError:
        raise _UnreadableError(400) from None
    keeps_open = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
    return _Message(method, path, headers, body, keeps_open)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        if len(body) + size > MAX_REQUEST_BYTES:
            raise _UnreadableError(413)
        body += (await reader.readexactly(size + 2))[:-2]
    while await reader.readuntil(b"\r\n") != b"\r\n":
        continue
    return bytes(body)


class _ServedConnection(asyncio.StreamReaderProtocol):
    """A connection that cancels its own task when the client goes."""

    def __init__(
        self, start: Callable[[_ServedConnection, asyncio.StreamReader, asyncio.StreamWriter], None]
    ) -> None:
        super().__init__(asyncio.StreamReader(limit=MAX_HEAD_BYTES), partial(start, self))
        self.serving: asyncio.Task[None] | None = None
        self.is_busy = False

    def eof_received(self) -> bool:
        super().eof_received()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.serving is not None:
            self.serving.cancel()


class Simulator:
    """An endpoint on a free loopback port, for as long as the `async with` lasts.

    Every `POST .../chat/completions` goes to `responder`; what it raises is kept in `errors` and
    answered with a 500. `batches` is its batch API, which asks the responder too. `routes` ("GET /health" ->
    action) holds what else is answered and may be changed; any other path is a 404. `on_request` and
    `on_answered` are called at once, on the loop.

    `history`, `errors` and `answered_at` are copies of what is known now, safe to read from any thread.
    """

    def __init__(
        self,
        responder: Responder,
        *,
        host: str = "127.0.0.1",
        model_names: Sequence[str] = ("demo",),
        keep_bodies: bool = True,
        on_request: Callable[[Request], None] | None = None,
        on_answered: Callable[[Request], None] | None = None,
    ) -> None:
        self.responder = responder
        self.on_request = on_request
        self.on_answered = on_answered
        self.routes: dict[str, Action] = {"GET /health": Reply(), "GET /v1/models": models(model_names)}
        self.batches = Batches(self._respond)
        self.host = host
        self.port = 0
        self.answered = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self._keep_bodies = keep_bodies
        self._history: list[Request] = []
        self._answered_at: dict[int, float] = {}
        self._errors: list[Exception] = []
        # Changed by `_start` and by each connection's own end, nowhere else.
        self._connections: dict[_ServedConnection, asyncio.StreamWriter] = {}
        self._group = asyncio.TaskGroup()
        self._is_refusing = False
        self._is_closed = False

    @property
    def base_url(self) -> str:
        """The URL to give as `--base-url`; known once the simulator was entered."""
        return f"http://{self.host}:{self.port}/v1"

    @property
    def history(self) -> list[Request]:
        """Every request so far, by number; those of `routes` and 404s too."""
        return self._history.copy()

    @property
    def completions(self) -> list[Request]:
        """The part of the history that went to the responder."""
        return [each for each in self.history if _is_completion(each)]

    @property
    def errors(self) -> list[Exception]:
        """What the responder raised."""
        return self._errors.copy()

    @property
    def requests(self) -> int:
        """How many requests arrived whole."""
        return len(self._history)

    @property
    def answered_at(self) -> dict[int, float]:
        """Monotonic time at which each reply was fully handed to the kernel, by request number."""
        return self._answered_at.copy()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._socket = _bound_socket(self.host, 0)
        self.port = self._socket.getsockname()[1]
        await self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_closed = True
        self._server.close()
        self._socket.close()
        for connection, writer in list(self._connections.items()):
            writer.transport.abort()
            if connection.serving is not None:
                connection.serving.cancel()
        # A task group wraps what its body raised; only the cancellation that it may have caused is its own.
        if isinstance(exc, asyncio.CancelledError):
            await self._group.__aexit__(kind, exc, trace)
        else:
            await self._group.__aexit__(None, None, None)
        # An aborted transport closes its socket in the loop's next turn.
        await asyncio.sleep(0)

    def refuse(self, *, reset: bool = False) -> None:
        """Refuse new connections and close idle ones; with `reset` also those in flight."""
        self._is_refusing = True
        self._server.close()
        self._socket.close()
        # Bound but not listening: connecting is refused, and nobody else can take the port meanwhile.
        self._socket = _bound_socket(self.host, self.port)
        for connection, writer in list(self._connections.items()):
            if reset or not connection.is_busy:
                writer.transport.abort()

    def accept(self) -> None:
        """Accept connections again, on the same port, from the moment this returns."""
        if not self._is_refusing:
            return
        self._is_refusing = False
        self._socket.listen(BACKLOG)
        self._group.create_task(self._listen())

    async def _listen(self) -> None:
        if self._is_refusing:
            return
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _ServedConnection(self._start), sock=self._socket, backlog=BACKLOG
        )

    def _start(
        self, connection: _ServedConnection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if self._is_closed:
            writer.transport.abort()
            return
        # With no buffer of ours, `drain` returns when the kernel has it all: answered means handed over.
        writer.transport.set_write_buffer_limits(high=0)
        self._connections[connection] = writer
        connection.serving = self._group.create_task(self._serve(connection, reader, writer))
        connection.serving.add_done_callback(lambda _: self._connections.pop(connection))

    async def _serve(
        self, connection: _ServedConnection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while await self._exchange(connection, reader, writer):
                continue
        except _UnreadableError as fault:
            writer.write(wire(replace(error(fault.status), close=True)))
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    async def _exchange(
        self, connection: _ServedConnection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one request, and tell whether the connection is kept."""
        message = await _read_message(reader, writer)
        number, path = len(self._history) + 1, message.path.partition("?")[0]
        request = Request(number, message.method, path, message.headers, message.body, time.monotonic())
        self._history.append(request)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        connection.is_busy = True
        try:
            action = await self._action(request)
            await play(action, writer)
            if is_whole(action):
                self.answered += 1
                self._answered_at[number] = time.monotonic()
                if self.on_answered is not None:
                    self.on_answered(request)
        finally:
            connection.is_busy = False
            self.in_flight -= 1
            if not self._keep_bodies:
                self._history[number - 1] = request.without_body()
        return message.keeps_open and keeps_open(action) and not self._is_refusing

    async def _action(self, request: Request) -> Action:
        try:
            if self.on_request is not None:
                self.on_request(request)
            if _is_completion(request):
                return await self._respond(request)
            if (route := self.routes.get(f"{request.method} {request.path}")) is not None:
                return route
            return await self.batches.answer(request) or UNKNOWN
        except Exception as failure:  # noqa: BLE001 - the responder is the caller's code: its failure is theirs to see
            self._errors.append(failure)
            return error(500, message="The simulator's responder failed.")

    async def _respond(self, request: Request) -> Action:
        action = self.responder(request)
        return await action if isinstance(action, Awaitable) else action


def _is_completion(request: Request) -> bool:
    return request.method == "POST" and request.path.endswith("/chat/completions")


def _bound_socket(host: str, port: int) -> socket.socket:
    bound = socket.socket()
    # Connections of before may linger on the port; without this a reopened one could not be bound.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((host, port))
    return bound


class SimulatorThread(Simulator):
    """The simulator on a loop and thread of its own, for as long as the `with` lasts.

    The responder and the callbacks run in that thread; everything else may be used from any.
    """

    def __enter__(self) -> Self:
        self._stop, ready = asyncio.Event(), concurrent.futures.Future[None]()

        async def serve() -> None:
            self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
            async with self:
                ready.set_result(None)
                await self._stop.wait()

        self._executor = concurrent.futures.ThreadPoolExecutor(1, "simulator")
        self._done = self._executor.submit(lambda: asyncio.run(serve()))
        first = concurrent.futures.FIRST_COMPLETED
        concurrent.futures.wait((ready, self._done), return_when=first)
        if self._done.done():
            self._done.result()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._done.done():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._executor.shutdown()
        self._done.result()

    def refuse(self, *, reset: bool = False) -> None:
        self._on_loop(partial(super().refuse, reset=reset))

    def accept(self) -> None:
        self._on_loop(super().accept)

    def _on_loop(self, act: Callable[[], None]) -> None:
        if threading.get_ident() == self._thread:
            act()
            return

        async def call() -> None:
            act()

        asyncio.run_coroutine_threadsafe(call(), self._loop).result()
