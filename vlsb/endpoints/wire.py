"""HTTP/1.1 straight over asyncio streams: the transport of the hot path.

A body of two megabytes is written in pieces while the reply is already awaited, and let go as soon as it
is on its way; connections are kept and reused, the freshest first. A reply that comes before the whole
body was read ends the connection, not the reply.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from vlsb.endpoints.secrets import Credentials
from vlsb.endpoints.timings import Marks
from vlsb.endpoints.transport import (
    CONNECT_TIMEOUT_S,
    KEEPALIVE_S,
    CappedBody,
    Upload,
    plain_headers,
    request_headers,
    tls_context,
)

# Large enough that a loop turn is paid once for most of a body, small enough to notice an early reply.
PIECE_BYTES = 1024 * 1024
# Replies with larger heads are not HTTP that anybody means.
MAX_HEAD_BYTES = 100 * 1024
MAX_HEADERS = 200

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: .*)?")
# A control character in a value is not HTTP, and nothing that a log or a screen should meet.
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*?)[ \t]*")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;.*)?")
_LENGTH = re.compile(r"[0-9]{1,12}")


@dataclass(frozen=True, slots=True)
class _Head:
    """A reply's status and headers."""

    status: int
    headers: Mapping[str, str]

    @property
    def is_informational(self) -> bool:
        return self.status < 200

    @property
    def keeps_alive(self) -> bool:
        return "close" not in self.headers.get("connection", "").lower()


class WireTransport:
    """The transport over asyncio streams. The caller bounds the time of each call and their number."""

    def __init__(
        self, base_url: str, *, credentials: Credentials, ca_bundle: Path | None, trust_environment: bool
    ) -> None:
        parts = urlsplit(base_url.rstrip("/"))
        is_tls = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if is_tls else 80)
        self._path = parts.path
        self._tls = tls_context(ca_bundle, trust_environment=trust_environment) if is_tls else None
        fields = {"host": parts.netloc, **request_headers(credentials)}
        self._fields = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        # Idle connections with the moment each became idle; taken and returned at the end.
        self._idle: list[tuple[_Connection, float]] = []

    async def post(self, path: str, upload: Upload) -> httpx.Response:
        """Send one JSON body and read the whole reply."""
        fields = f"content-type: application/json\r\ncontent-length: {upload.size}\r\n"
        return await self._exchange("POST", path, fields, upload)

    async def get(self, path: str) -> httpx.Response:
        """Fetch one small document."""
        return await self._exchange("GET", path, "", None)

    async def _exchange(self, method: str, path: str, fields: str, upload: Upload | None) -> httpx.Response:
        head = f"{method} {self._path}{path} HTTP/1.1\r\n{self._fields}{fields}\r\n".encode("latin-1")
        connection = self._kept() or await self._opened()
        try:
            with _as_faults():
                reply = await connection.exchange(head, upload)
        except BaseException:
            connection.abort()
            raise
        if connection.is_reusable:
            self._idle.append((connection, time.monotonic()))
        else:
            connection.abort()
        return reply

    def _kept(self) -> _Connection | None:
        """The freshest idle connection that is still good; stale ones are closed on the way."""
        oldest = time.monotonic() - KEEPALIVE_S
        while self._idle:
            connection, since = self._idle.pop()
            if since >= oldest and connection.is_reusable:
                return connection
            connection.abort()
        return None

    async def _opened(self) -> _Connection:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                reader, writer = await asyncio.open_connection(
                    self._host, self._port, ssl=self._tls, limit=MAX_HEAD_BYTES
                )
        except ssl.SSLCertVerificationError as error:
            raise httpx.ConnectError(str(error)) from error
        except (OSError, TimeoutError, UnicodeError) as error:
            # A name that no resolver takes is a UnicodeError.
            raise httpx.ConnectError(_connect_message(error)) from error
        _set_nodelay(writer)
        return _Connection(reader, writer)

    async def aclose(self) -> None:
        """Close every idle connection; those in use are closed by whoever uses them."""
        for connection, _ in self._idle:
            connection.abort()
        self._idle.clear()
        # An aborted transport closes its socket in the loop's next turn.
        await asyncio.sleep(0)


class _Connection:
    """One connection, one exchange at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._is_sending = False
        self._is_spent = False

    @property
    def is_reusable(self) -> bool:
        """Whether another request may be sent: the last reply ended where it said, and the peer is there."""
        return not (self._is_spent or self._reader.at_eof() or self._writer.transport.is_closing())

    def abort(self) -> None:
        """Close at once."""
        self._writer.transport.abort()

    async def exchange(self, head: bytes, upload: Upload | None) -> httpx.Response:
        """Send a request and read its reply, which may come before all of it is sent."""
        self._is_sending = True
        marks = Marks() if upload is None else upload.marks
        marks.opened_at = time.monotonic()
        reading = asyncio.ensure_future(self._read(marks))
        try:
            await self._send(head, upload, reading)
            self._is_sending = False
            marks.sent_at = time.monotonic()
            return await reading
        finally:
            if not reading.done():
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)

    async def _send(
        self, head: bytes, upload: Upload | None, reading: asyncio.Future[httpx.Response]
    ) -> None:
        self._writer.write(head)
        for piece in () if upload is None else _cut(upload.take()):
            if reading.done():
                self._is_spent = True
                return
            self._writer.write(piece)
            try:
                await self._writer.drain()
            except ConnectionError:
                # The peer reads no more; what it had to say is for `_read` to find.
                self._is_spent = True
                return
        if upload is not None:
            upload.sent()

    async def _read(self, marks: Marks) -> httpx.Response:
        head = await self._head()
        while head.is_informational:
            head = await self._head()
        marks.first_byte_at = time.monotonic()
        body = CappedBody(head.headers.get("content-encoding", ""))
        await self._body(head, body)
        if not head.keeps_alive:
            self._is_spent = True
        if self._is_sending:
            # Nobody reads the rest of the request; this wakes the sender.
            self._is_spent = True
            self._writer.transport.abort()
        return httpx.Response(head.status, headers=plain_headers(head.headers), content=body.content())

    async def _head(self) -> _Head:
        try:
            block = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            said = "the reply's head broke off" if error.partial else "the server closed without a reply"
            raise httpx.ReadError(said) from error
        except asyncio.LimitOverrunError as error:
            raise httpx.RemoteProtocolError("the reply's head is too large") from error
        first, *lines = block[:-4].split(b"\r\n")
        status = _STATUS_LINE.fullmatch(first)
        if status is None or len(lines) > MAX_HEADERS:
            raise httpx.RemoteProtocolError("the reply is not HTTP/1.1")
        return _Head(int(status[1]), _headers(lines))

    async def _body(self, head: _Head, body: CappedBody) -> None:
        if head.status in (204, 304):
            return
        if "transfer-encoding" in head.headers:
            await self._chunks(head.headers["transfer-encoding"], body)
        elif "content-length" in head.headers:
            await self._sized(head.headers["content-length"], body)
        else:
            self._is_spent = True
            while piece := await self._reader.read(PIECE_BYTES):
                body.add(piece)

    async def _sized(self, length: str, body: CappedBody) -> None:
        if not _LENGTH.fullmatch(length):
            raise httpx.RemoteProtocolError("the reply's length is not a number")
        await self._exactly(int(length), body)

    async def _exactly(self, size: int, body: CappedBody) -> None:
        left = size
        while left:
            piece = await self._reader.read(min(left, PIECE_BYTES))
            if not piece:
                raise httpx.ReadError(f"the body broke off ({size - left} of {size} bytes)")
            left -= len(piece)
            body.add(piece)

    async def _chunks(self, encoding: str, body: CappedBody) -> None:
        if encoding.strip().lower() != "chunked":
            raise httpx.RemoteProtocolError("the reply's transfer encoding is unknown")
        while size := await self._chunk_size():
            await self._exactly(size, body)
            if await self._line() != b"":
                raise httpx.RemoteProtocolError("a chunk does not end where it says")
        while await self._line():
            pass  # trailers say nothing that is used here

    async def _chunk_size(self) -> int:
        match = _CHUNK_SIZE.fullmatch(await self._line())
        if match is None:
            raise httpx.RemoteProtocolError("a chunk has no size")
        return int(match[1], 16)

    async def _line(self) -> bytes:
        try:
            return (await self._reader.readuntil(b"\r\n"))[:-2]
        except asyncio.IncompleteReadError as error:
            raise httpx.ReadError("the body broke off between chunks") from error
        except asyncio.LimitOverrunError as error:
            raise httpx.RemoteProtocolError("a line of the body is too long") from error


def _cut(pieces: Iterable[bytes]) -> Iterator[memoryview]:
    """The pieces, none longer than is written at once."""
    for piece in pieces:
        whole = memoryview(piece)
        for start in range(0, len(whole), PIECE_BYTES):
            yield whole[start : start + PIECE_BYTES]


def _headers(lines: list[bytes]) -> dict[str, str]:
    """Lower-cased names; repeated ones joined. Lengths that disagree are not HTTP."""
    headers: dict[str, str] = {}
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            raise httpx.RemoteProtocolError("a header of the reply is not one")
        name, value = field[1].decode("ascii").lower(), field[2].decode("latin-1")
        if name == "content-length" and headers.get(name, value) != value:
            raise httpx.RemoteProtocolError("the reply has two lengths")
        if name != "content-length" and name in headers:
            value = f"{headers[name]}, {value}"
        headers[name] = value
    return headers


@contextmanager
def _as_faults() -> Iterator[None]:
    """Turn what a broken connection raises into a httpx.RequestError."""
    try:
        yield
    except (OSError, EOFError) as error:
        raise httpx.ReadError(str(error) or type(error).__name__) from error


def _connect_message(error: Exception) -> str:
    return "no connection in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__


def _set_nodelay(writer: asyncio.StreamWriter) -> None:
    connected = writer.get_extra_info("socket")
    if connected is not None and connected.family in (socket.AF_INET, socket.AF_INET6):
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
