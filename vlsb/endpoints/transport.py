"""The hot path below httpx: HTTP/1.1 over an `asyncio.Protocol`, every reply read by llhttp and read whole.

An image of two megabytes is let go as soon as it is on its way, and a reply may come before that. What makes
an answer belong to its request is a connection with nothing unread on it: one that brought anything more than
its one whole reply, or spoke before it was asked, is dropped with its surplus and never used again.
"""

from __future__ import annotations

import asyncio
import select
import ssl
import time
import zlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from typing import cast

import httpx
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from vlsb.config import MAX_BODY_BYTES
from vlsb.endpoints.faults import ReplyTooLarge
from vlsb.endpoints.timings import Moments

# Servers close idle connections (uvicorn after 5 s); ours go first, so that none is reused too late.
KEEPALIVE_S = 4.0
CONNECT_TIMEOUT_S = 20.0
# Replies with larger heads are not HTTP that anybody means: Node reads half of this. Nor are such trailers.
# What arrives of one header in pieces is joined each time, so that single bytes cost the square of this.
MAX_HEAD_BYTES = 32 * 1024
MAX_HEADERS = 200
# What heads, chunk sizes, their extensions and trailers may take up: more is work without an answer in it.
MAX_FRAMING_BYTES = 1024 * 1024
_TLS_WAITING_BYTES = 64 * 1024
# OpenSSL encrypts what it is given into memory first: little by little it stays in the processor's cache.
_TLS_PIECE_BYTES = 256 * 1024


class Upload(httpx.AsyncByteStream):
    """A request body that is let go as it is sent, so that waiting for a reply holds no image.

    `on_sent` hears once that its memory is free. The transport sets `marks` as the exchange goes on.
    """

    def __init__(self, pieces: Iterable[bytes], on_sent: Callable[[], None] = lambda: None) -> None:
        self._pieces = list(pieces)
        self._on_sent: Callable[[], None] | None = on_sent
        self.marks = Moments()
        self.size = sum(map(len, self._pieces))

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the body in its pieces, each once; nothing afterwards."""
        pieces = self.take()
        pieces.reverse()
        while pieces:
            yield pieces.pop()
        self.release()

    def take(self) -> list[bytes]:
        """Hand over the pieces; `release` is called when the caller holds them no more."""
        pieces, self._pieces = self._pieces, []
        return pieces

    def release(self) -> None:
        """Free the memory of a body that is on its way."""
        if self._on_sent is not None:
            self._on_sent()
            self._on_sent = None


class WholeReply(httpx.Response):
    """A whole reply, its body decoded. It never leads elsewhere: httpx would read the place that it names."""

    @property
    def has_redirect_location(self) -> bool:
        """No: redirects would carry keys elsewhere."""
        return False


class CappedBody:
    """A reply's body as it arrives, decoded here and capped: a small gzip may hold gigabytes."""

    def __init__(self, headers: httpx.Headers) -> None:
        """For the body after `headers`; DecodingError for one that cannot be decoded within bounds."""
        encoding = headers.get("content-encoding", "").strip().lower() or "identity"
        if encoding not in ("identity", "gzip", "deflate"):
            raise httpx.DecodingError("the reply is encoded although identity was asked for")
        self._inflate = None if encoding == "identity" else zlib.decompressobj(wbits=47)
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, raw: bytes) -> None:
        """Take what came; raises once the decoded body is over the cap or cannot be decoded."""
        try:
            room = MAX_BODY_BYTES + 1 - self._size
            piece = raw if self._inflate is None else self._inflate.decompress(raw, room)
        except zlib.error as error:
            raise httpx.DecodingError(f"the body cannot be decoded ({error})") from error
        self._size += len(piece)
        if self._size > MAX_BODY_BYTES:
            raise ReplyTooLarge(f"the reply is larger than {MAX_BODY_BYTES} bytes")
        self._pieces.append(piece)

    def reply(self, status: int, headers: httpx.Headers) -> WholeReply:
        """Return the whole reply, without the headers that told how its body was sent."""
        framing = (b"content-encoding", b"content-length", b"transfer-encoding")
        kept = [(name, value) for name, value in headers.raw if name.lower() not in framing]
        return WholeReply(status, headers=kept, content=b"".join(self._pieces))


class ReplyReader:
    """One reply as it arrives. Whole, it is in `reply`; `is_last` says that nothing may follow it.

    `has_surplus` says that something did follow it all the same.

    The parser knows no end of its input, and swallows line ends between two messages. Whether a reply is
    whole, and whether it is all that came, is known from when the parser says so: at the last byte or before.
    """

    def __init__(self) -> None:
        self.reply: WholeReply | None = None
        self.is_last = False
        self.has_surplus = False
        self.is_begun = False
        self.first_byte_at = 0.0
        self._parser = HttpResponseParser(self)
        self._fields: list[tuple[bytes, bytes]] = []
        self._field_count = 0
        self._head = httpx.Headers()
        self._body: CappedBody | None = None
        self._ends_with_connection = False
        self._raw_bytes = self._body_bytes = 0
        # How much of what came was not body, until the newest piece of body.
        self._framing_before = 0
        self._failure: httpx.RequestError | None = None

    def feed(self, data: bytes) -> None:
        """Take what came; raises a RequestError when it is no reply that can be used."""
        self.is_begun = True
        self._raw_bytes += len(data)
        body_before = self._body_bytes
        # All but the last byte first: a reply that is whole before it has something behind it.
        if len(data) > 1:
            self._parse(data[:-1])
        if self.reply is None:
            self._parse(data[-1:])
        else:
            self.is_last = self.has_surplus = True
        framing = self._raw_bytes - self._body_bytes
        if self._body_bytes > body_before:
            self._framing_before = framing
        is_long = framing - self._framing_before > MAX_HEAD_BYTES or framing > MAX_FRAMING_BYTES
        if self.reply is None and is_long:
            what = "head" if self._body is None else "framing"
            raise httpx.RemoteProtocolError(f"the reply's {what} is too large")

    def end(self) -> None:
        """Take the end of the connection for that of the reply, if it has no other, else raise ReadError."""
        if self._ends_with_connection and self.reply is None:
            self._complete()
        if self.reply is None:
            raise httpx.ReadError(
                f"the body broke off after {self._body_bytes} bytes"
                if self._body is not None
                else "the reply's head broke off"
                if self.is_begun
                else "the server closed without a reply"
            )

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as error:
            raise httpx.RemoteProtocolError("the server speaks something else from here on") from error
        except HttpParserError as error:
            if self.reply is None and self._failure is None:
                raise httpx.RemoteProtocolError(f"the reply is not HTTP/1.1 ({error})") from error
        if self._failure is not None:
            raise self._failure

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser for a header, and for a trailer, which says nothing that is used here."""
        self._field_count += 1
        if self._body is None and self._field_count <= MAX_HEADERS:
            self._fields.append((name, value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        """Called by the parser at the end of a head; whatever is wrong with it is raised after the call."""
        if self._failure is None and self._body is None and self._parser.get_status_code() >= 200:
            try:
                self._begin_body()
            except httpx.RequestError as error:
                self._failure = error
        self._fields = []

    def _begin_body(self) -> None:
        if self._field_count > MAX_HEADERS:
            raise httpx.RemoteProtocolError(f"the reply has more than {MAX_HEADERS} headers")
        if self._parser.get_http_version() not in ("1.0", "1.1"):
            raise httpx.RemoteProtocolError("the reply is not HTTP/1.1")
        self.first_byte_at = time.monotonic()
        self._head = httpx.Headers(self._fields)
        coding = self._head.get("transfer-encoding")
        if coding is not None and coding.lower() != "chunked":
            raise httpx.RemoteProtocolError("the reply's transfer encoding is unknown")
        is_empty = self._parser.get_status_code() in (204, 304)
        self._ends_with_connection = coding is None and "content-length" not in self._head and not is_empty
        self.is_last = self._ends_with_connection or not self._parser.should_keep_alive()
        self._body = CappedBody(self._head)

    def on_body(self, piece: bytes) -> None:
        """Called by the parser for a piece of the body."""
        self._body_bytes += len(piece)
        if self._failure is None and self._body is not None:
            try:
                self._body.add(piece)
            except httpx.RequestError as error:
                self._failure = error

    def on_message_complete(self) -> None:
        """Called by the parser at the end of a message, informational ones included."""
        if self._body is not None and self._failure is None and self.reply is None:
            self._complete()

    def _complete(self) -> None:
        assert self._body is not None
        self.reply = self._body.reply(self._parser.get_status_code(), self._head)


class _Connection(asyncio.Protocol):
    """One connection, one exchange at a time. `on_surplus` hears of what nobody asked for."""

    def __init__(self, on_surplus: Callable[[], None]) -> None:
        self._on_surplus = on_surplus
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._descriptor = -1
        self._is_tls = False
        self._is_spent = False
        self._is_paused = False
        self._is_handed_over = True
        self._reading = ReplyReader()
        self._outcome: asyncio.Future[WholeReply] | None = None
        # What an exchange waits for before its reply: room to write.
        self._room: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is none by inheritance.
        self._transport = transport = cast(asyncio.Transport, transport)
        self._descriptor = transport.get_extra_info("socket").fileno()
        self._is_tls = transport.get_extra_info("ssl_object") is not None
        if self._is_tls:
            # What is encrypted counts as sent: by default that could be half a megabyte a connection.
            transport.set_write_buffer_limits(high=_TLS_WAITING_BYTES)

    def data_received(self, data: bytes) -> None:
        if not self._is_asked:
            self._on_surplus()
            self.abort()
            return
        try:
            self._reading.feed(data)
        except httpx.RequestError as error:
            self._fail(error)
        else:
            self._settle()

    def eof_received(self) -> None:
        self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc)

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self._wake()

    def abort(self) -> None:
        """Close at once."""
        self._is_spent = True
        self._transport.abort()

    @property
    def is_reusable(self) -> bool:
        """Whether another request may be sent: the last reply ended where it said, and nothing followed."""
        return not (self._is_spent or self._transport.is_closing())

    def has_unread(self) -> bool:
        """Tell whether anything came that nobody asked for, even if the loop has not seen it yet."""
        watch = select.poll()
        watch.register(self._descriptor, select.POLLIN)
        return bool(watch.poll(0))

    def require_silence(self) -> None:
        """Raise ReadError if a fresh connection's peer did not wait to be asked, or is gone."""
        # What TLS has to read at first may be its tickets.
        if not self.is_reusable or (not self._is_tls and self.has_unread()):
            self.abort()
            raise httpx.ReadError("the server spoke or closed before it was asked")

    async def exchange(self, head: bytes, stream: httpx.AsyncByteStream, marks: Moments) -> WholeReply:
        """Send a request and read its reply, which may come before all of it is sent."""
        self._reading = ReplyReader()
        outcome: asyncio.Future[WholeReply] = self._loop.create_future()
        self._outcome = outcome
        marks.opened_at = time.monotonic()
        try:
            await self._send(head, stream)
            marks.sent_at = time.monotonic()
            return await outcome
        finally:
            marks.first_byte_at = self._reading.first_byte_at
            if not outcome.cancel() and not outcome.cancelled():
                outcome.exception()  # raised above, unless something else was
            self._outcome = None

    async def _send(self, head: bytes, stream: httpx.AsyncByteStream) -> None:
        pieces = stream.take() if isinstance(stream, Upload) else [piece async for piece in stream]
        pieces.insert(0, head)
        if not self.is_reusable:
            raise httpx.ReadError("the server spoke or closed before it was asked")
        if self._is_tls:
            await self._encrypt(pieces)
        else:
            # All at once is one call of the system; the kernel takes what it has room for.
            self._transport.writelines(pieces)
        pieces.clear()
        await self._room_to_write()
        if isinstance(stream, Upload):
            stream.release()

    async def _encrypt(self, pieces: Iterable[bytes]) -> None:
        self._is_handed_over = False
        for piece in pieces:
            whole = memoryview(piece)
            for start in range(0, len(whole), _TLS_PIECE_BYTES):
                await self._room_to_write()
                if not self._is_asked:
                    return
                self._transport.write(whole[start : start + _TLS_PIECE_BYTES])
        self._is_handed_over = True

    async def _room_to_write(self) -> None:
        """Return when most of what was written is on its way, or need not be any more."""
        while self._is_paused and self._is_asked:
            self._room = self._loop.create_future()
            await self._room

    @property
    def _is_asked(self) -> bool:
        """Whether somebody waits for a reply."""
        return self._outcome is not None and not self._outcome.done()

    def _wake(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _end(self, exc: Exception | None) -> None:
        """Take it that the peer is gone: the end of a reply that has no other."""
        self._is_spent = True
        if not self._is_asked:
            return
        if exc is not None:
            self._fail(httpx.ReadError(str(exc) or type(exc).__name__))
            return
        try:
            self._reading.end()
        except httpx.ReadError as error:
            self._fail(error)
        else:
            self._settle()

    def _settle(self) -> None:
        """Give the reply out, if it is whole."""
        if (reply := self._reading.reply) is None:
            return
        is_early = not self._is_handed_over or self._transport.get_write_buffer_size() > 0
        if is_early and reply.is_success:
            self._fail(httpx.RemoteProtocolError("an answer came before the question was sent"))
            return
        if self._reading.has_surplus:
            self._on_surplus()
        if is_early or self._reading.is_last:
            self.abort()
        assert self._outcome is not None
        self._outcome.set_result(reply)
        self._wake()

    def _fail(self, error: httpx.RequestError) -> None:
        self.abort()
        if self._outcome is not None and self._is_asked:
            self._outcome.set_exception(error)
        self._wake()


class Wire(httpx.AsyncBaseTransport):
    """The transport to one endpoint. The caller bounds the time of each request and their number."""

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self._tls = tls
        # Idle connections with the moment each became idle, the freshest at the right.
        self._idle: deque[tuple[_Connection, float]] = deque()
        self._keeps_connections = True

    def _distrust(self) -> None:
        """This server says more than it is asked: from now on each request has a connection of its own.

        Surplus that comes when the next request has just left cannot be told from its answer.
        """
        self._keeps_connections = False
        while self._idle:
            self._idle.pop()[0].abort()

    async def handle_async_request(self, request: httpx.Request) -> WholeReply:
        """Send one request and read the whole reply; raises a RequestError."""
        assert isinstance(request.stream, httpx.AsyncByteStream)
        marks: Moments = request.extensions.get("marks") or Moments()
        connection = self._idle_connection()
        if connection is None:
            connection = await self._connect(request.url)
            connection.require_silence()
        try:
            reply = await connection.exchange(_head(request), request.stream, marks)
        except BaseException:
            connection.abort()
            raise
        # A server that has just failed often drops the next request on the same connection, unanswered.
        if not self._keeps_connections or reply.is_server_error:
            connection.abort()
        elif connection.is_reusable:
            self._idle.append((connection, time.monotonic()))
        return reply

    def _idle_connection(self) -> _Connection | None:
        """Return the freshest idle connection that is still good; stale ones are closed."""
        oldest = time.monotonic() - KEEPALIVE_S
        while self._idle and self._idle[0][1] < oldest:
            self._idle.popleft()[0].abort()
        while self._idle:
            connection, _ = self._idle.pop()
            if connection.is_reusable and not connection.has_unread():
                return connection
            connection.abort()
        return None

    async def _connect(self, url: httpx.URL) -> _Connection:
        is_tls = url.scheme == "https"
        host, port = url.raw_host.decode("ascii"), url.port or (443 if is_tls else 80)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, connection = await asyncio.get_running_loop().create_connection(
                    partial(_Connection, self._distrust), host, port, ssl=self._tls if is_tls else None
                )
        except TimeoutError as error:
            raise httpx.ConnectTimeout("no connection in time") from error
        except (OSError, UnicodeError) as error:
            # A name that no resolver takes is a UnicodeError.
            raise httpx.ConnectError(str(error) or type(error).__name__) from error
        return connection

    async def aclose(self) -> None:
        """Close every idle connection; those in use are closed by whoever uses them."""
        while self._idle:
            self._idle.pop()[0].abort()
        # An aborted transport closes its socket in the loop's next turn.
        await asyncio.sleep(0)


def _head(request: httpx.Request) -> bytes:
    lines = [b"%b %b HTTP/1.1" % (request.method.encode("ascii"), request.url.raw_path)]
    lines += [b"%b: %b" % field for field in request.headers.raw]
    return b"\r\n".join([*lines, b"", b""])
