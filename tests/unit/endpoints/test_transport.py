"""What a server may do to a connection, over real sockets: an answer belongs to the request that asked."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ipaddress
import socket
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest

from vlsb.endpoints import transport
from vlsb.endpoints.connect import Client, open_client, proxy_of
from vlsb.endpoints.credentials import Credentials
from vlsb.endpoints.loops import new_event_loop
from vlsb.endpoints.transport import MAX_FRAMING_BYTES, MAX_HEAD_BYTES, MAX_HEADERS, ReplyReader, Upload
from vlsb.errors import ConfigError
from vlsb.simulator import Reply, Simulator, answer

NOBODY = Credentials(None)
LARGE = 8 * 1024 * 1024


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[[Awaitable[None]], None]:
    """Runs a scenario to its end; only a hang reaches the deadline."""
    factory = asyncio.new_event_loop if request.param == "asyncio" else new_event_loop

    def run_bounded(scenario: Awaitable[None]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(60):
                await scenario

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(bounded())

    return run_bounded


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def served(serve: Serve) -> AsyncIterator[Server]:
    """A server that does `serve` with each connection."""
    counted = Server()
    serving: set[asyncio.Task[object] | None] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        counted.connections += 1
        serving.add(asyncio.current_task())
        with contextlib.suppress(OSError, RuntimeError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await serve(reader, writer)
        writer.transport.abort()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=LARGE)
    counted.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield counted
    finally:
        server.close()
        for task in serving:
            assert task is not None
            task.cancel()
        await asyncio.sleep(0.001)


class Server:
    """Where a server is, and how often it was connected to."""

    url = ""
    connections = 0


@contextlib.asynccontextmanager
async def client_of(url: str) -> AsyncIterator[Client]:
    client = open_client(url, credentials=NOBODY, connections=8, ca_bundle=None)
    try:
        yield client
    finally:
        await client.aclose()


async def asked_for(reader: asyncio.StreamReader) -> bytes:
    """The body of the next request."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), 0)
    return await reader.readexactly(length)


def reply(body: bytes, status: str = "200 OK", more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\n{more}content-length: {len(body)}\r\n\r\n".encode() + body


async def ask(client: Client, token: bytes) -> bytes:
    return (await client.ask("/chat/completions", Upload([token]))).content


# Surplus.

STRAY = reply(b"the answer to another question")
SURPLUS = {
    "second-reply": STRAY,
    "stray-body": b"the rest of a body",
    "line-end": b"\r\n",
    "one-byte": b"x",
    "half-a-reply": STRAY[:30],
}


@pytest.mark.parametrize("surplus", SURPLUS.values(), ids=SURPLUS)
@pytest.mark.parametrize("way", ["at once", "afterwards"])
def test_surplus_never_becomes_the_answer_to_the_next_request(run, surplus: bytes, way: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            whole = reply(await asked_for(reader))
            writer.write(whole + (surplus if way == "at once" else b""))
            await writer.drain()
            if way == "afterwards":
                await asyncio.sleep(0)
                writer.write(surplus)

    async def scenario() -> None:
        async with served(serve) as server, client_of(server.url) as client:
            for number in range(6):
                assert await ask(client, b"question %d" % number) == b"question %d" % number
                await asyncio.sleep(0.01 if way == "afterwards" else 0)
            assert server.connections == 6

    run(scenario())


def test_a_server_that_once_said_too_much_gets_every_request_on_a_connection_of_its_own(run) -> None:
    """Surplus that comes when the next request has just left cannot be told from its answer."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_first = server.connections == 1
        while True:
            whole = reply(await asked_for(reader))
            writer.write(whole + (STRAY if is_first else b""))
            await writer.drain()

    async def scenario() -> None:
        nonlocal server
        async with served(serve) as server, client_of(server.url) as client:
            for number in range(4):
                assert await ask(client, b"question %d" % number) == b"question %d" % number
            assert server.connections == 4

    server = Server()
    run(scenario())


def test_a_reply_on_an_idle_connection_that_the_loop_has_not_seen_yet_is_nobodys_answer(run) -> None:
    """The stray reply lies in the kernel when the next request leaves: only a look at the socket finds it."""

    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            async with client_of(f"http://127.0.0.1:{listener.getsockname()[1]}/v1") as client:
                first = asyncio.create_task(ask(client, b"one"))
                while not first.done():
                    await asyncio.sleep(0.001)
                    with contextlib.suppress(BlockingIOError):
                        listener.setblocking(False)
                        accepted, _ = listener.accept()
                        accepted.setblocking(True)
                        assert await asyncio.to_thread(until, accepted, b"one")
                        accepted.sendall(reply(b"one"))
                accepted.sendall(STRAY)
                second = asyncio.create_task(ask(client, b"two"))
                while not second.done():
                    await asyncio.sleep(0.001)
                    with contextlib.suppress(BlockingIOError):
                        other, _ = listener.accept()
                        other.setblocking(True)
                        assert await asyncio.to_thread(until, other, b"two")
                        other.sendall(reply(b"two"))
                accepted.close()
                other.close()

                assert (await first, await second) == (b"one", b"two")

    run(scenario())


def until(connected: socket.socket, end: bytes) -> bool:
    got = b""
    while not got.endswith(end):
        got += connected.recv(65536)
    return True


def test_a_server_that_speaks_before_it_is_asked_is_not_heard(run) -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            async with client_of(f"http://127.0.0.1:{listener.getsockname()[1]}/v1") as client:
                held: list[socket.socket] = []

                def speak() -> None:
                    connected, _ = listener.accept()
                    connected.sendall(STRAY)
                    held.append(connected)

                opened = client._transport._connect  # type: ignore[attr-defined]

                async def opened_late(url: httpx.URL) -> object:
                    """The connection, once the server has spoken."""
                    connecting = asyncio.create_task(opened(url))
                    await asyncio.to_thread(speak)
                    return await connecting

                client._transport._connect = opened_late  # type: ignore[attr-defined]
                with pytest.raises(httpx.RequestError):
                    await ask(client, b"one")
                held[0].close()

    run(scenario())


def test_an_answer_before_the_question_was_sent_is_none(run) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(STRAY)
        await writer.drain()
        await asyncio.sleep(60)

    async def scenario() -> None:
        async with served(serve) as server, client_of(server.url) as client:
            with pytest.raises(httpx.RemoteProtocolError, match="before the question"):
                await client.ask("/chat/completions", Upload([b"{", bytes(8 * LARGE), b"}"]))

    run(scenario())


def test_a_refusal_while_the_body_is_still_being_sent_is_the_reply_and_ends_the_connection(run) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply(b"too large", "413 Too Large"))
        await writer.drain()
        await asyncio.sleep(60)

    async def scenario() -> None:
        async with served(serve) as server, client_of(server.url) as client:
            for number in range(1, 3):
                refused = await client.ask("/chat/completions", Upload([b"{", bytes(8 * LARGE), b"}"]))
                assert (refused.status_code, refused.content) == (413, b"too large")
                assert server.connections == number

    run(scenario())


def test_a_connection_whose_reply_was_whole_is_used_again(run) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in range(30):
            body = await asked_for(reader)
            chunks = f"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{len(body):x}\r\n".encode()
            writer.write(reply(body) if number % 2 else chunks + body + b"\r\n0\r\nx: y\r\n\r\n")

    async def scenario() -> None:
        async with served(serve) as server, client_of(server.url) as client:
            for number in range(30):
                assert await ask(client, b"%d" % number) == b"%d" % number
            assert server.connections == 1

    run(scenario())


def test_a_connection_on_which_the_server_failed_is_not_used_again(run) -> None:
    """It may be closed as soon as the next request is on it: that would cost another sample an attempt."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked_for(reader)
        writer.write(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n")
        await reader.read()
        writer.close()

    async def scenario() -> None:
        async with served(serve) as server, client_of(server.url) as client:
            for _ in range(3):
                assert await ask(client, b"x") == b""
            assert server.connections == 3

    run(scenario())


def test_a_connection_idle_for_too_long_is_closed_and_not_used_again(run, monkeypatch) -> None:
    monkeypatch.setattr(transport, "KEEPALIVE_S", 0.0)
    ended: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(await asked_for(reader)))
        ended.append(await reader.read())

    async def scenario() -> None:
        async with served(serve) as server, client_of(server.url) as client:
            for number in range(3):
                assert await ask(client, b"%d" % number) == b"%d" % number
                await asyncio.sleep(0.001)
            assert server.connections == 3
            assert len(ended) >= 1

    run(scenario())


def test_what_is_sent_arrives_whole_whatever_its_size(run) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(reply(hashlib.sha256(await asked_for(reader)).hexdigest().encode()))

    async def scenario() -> None:
        async with served(serve) as server, client_of(server.url) as client:
            for size in (0, 1, 65535, 65536, 65537, 3_000_000, 12_000_001):
                pieces = [b"head", bytes(range(256)) * (size // 256) + b"x" * (size % 256), b"", b"tail"]
                expected = hashlib.sha256(b"".join(pieces)).hexdigest().encode()
                assert (await client.ask("/x", Upload(pieces))).content == expected
            assert server.connections == 1

    run(scenario())


def test_a_body_is_let_go_once_it_is_sent(run) -> None:
    size = 4 * LARGE
    let_go: list[int] = []

    async def scenario() -> None:
        arrived = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            left = size + 2
            while left:
                left -= len(await reader.read(65536))
            arrived.set()
            await asyncio.sleep(60)

        async with served(serve) as server, client_of(server.url) as client:
            tracemalloc.start()
            try:
                told = asyncio.Event()
                asking = asyncio.create_task(
                    client.ask("/x", Upload([b"{", bytes(size), b"}"], lambda: told.set()))
                )
                await arrived.wait()
                await told.wait()
                let_go.append(tracemalloc.get_traced_memory()[0])
                asking.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await asking
            finally:
                tracemalloc.stop()

    run(scenario())

    assert let_go[0] < size / 4


# What a reply may be.


def read(data: bytes) -> ReplyReader:
    reading = ReplyReader()
    reading.feed(data)
    return reading


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(b"x:" + b" " * 100_000 + b"y", id="before"),
        pytest.param(b"x: y" + b" " * 100_000, id="behind"),
        pytest.param(b"x: " + b"y " * 50_000, id="between"),
        pytest.param(b"x" + b" " * 100_000 + b": y", id="in-the-name"),
        pytest.param(b"x: y\r\n" + b" " * 100_000, id="folded"),
    ],
)
@pytest.mark.parametrize("is_split", [False, True])
def test_a_header_of_many_blanks_costs_no_more_than_its_bytes(header: bytes, is_split: bool) -> None:
    """The time of this process, with room for a slow machine: the old way took hours."""
    data = b"HTTP/1.1 200 OK\r\n" + header + b"\r\ncontent-length: 0\r\n\r\n"
    pieces = [data[at : at + 100] for at in range(0, len(data), 100)] if is_split else [data]
    began, reading = time.process_time(), ReplyReader()
    with contextlib.suppress(httpx.RequestError):
        for piece in pieces:
            reading.feed(piece)

    assert time.process_time() - began < 2.0


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * (MAX_HEADERS + 1) + b"\r\n", id="headers"),
        pytest.param(b"HTTP/1.1 200 OK\r\nx: " + b"y" * MAX_HEAD_BYTES + b"\r\n", id="head"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000, id="informational"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"1;x\r\na\r\n" * MAX_FRAMING_BYTES,
            id="chunks",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n" + b"x: y\r\n" * MAX_FRAMING_BYTES,
            id="trailers",
        ),
        pytest.param(b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", id="upgrade"),
        pytest.param(b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n", id="version"),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", id="lengths"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            id="length-and-chunks",
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n", id="coding"),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-encoding: br\r\ncontent-length: 1\r\n\r\nx", id="encoding"),
        pytest.param(b"HTTP/1.1 200 OK\r\nx: \x1b]52;c;AAAA\x07\r\n\r\n", id="control-characters"),
    ],
)
def test_a_reply_beyond_what_anybody_means_is_refused(data: bytes) -> None:
    reading = ReplyReader()

    def feed_all() -> None:
        for at in range(0, len(data), 65536):
            reading.feed(data[at : at + 65536])

    with pytest.raises(httpx.RequestError):
        feed_all()


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nx: ", id="header"),
        pytest.param(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: ", id="trailer"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\ny\r\n0\r\nx: ", id="after-a-body"
        ),
    ],
)
def test_a_header_or_trailer_that_comes_byte_by_byte_is_refused_before_joining_it_costs(start: bytes) -> None:
    reading = ReplyReader()
    reading.feed(start)

    def feed_in_bytes() -> None:
        for _ in range(MAX_HEAD_BYTES + 1):
            reading.feed(b"y")

    with pytest.raises(httpx.RemoteProtocolError, match="too large"):
        feed_in_bytes()
    assert MAX_HEAD_BYTES <= 32 * 1024


@pytest.mark.parametrize("step", [1, 65536])
def test_small_chunks_are_no_head_however_many(step: int) -> None:
    data = (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        + b"1\r\ny\r\n" * MAX_HEAD_BYTES
        + b"0\r\n\r\n"
    )
    reading = ReplyReader()
    for at in range(0, len(data), step):
        reading.feed(data[at : at + step])

    assert reading.reply is not None
    assert len(reading.reply.content) == MAX_HEAD_BYTES


@pytest.mark.parametrize(
    ("data", "body"),
    [
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", b"hello", id="length"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            b"hello",
            id="chunks",
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\nhello", b"hello", id="to-the-end"),
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", b"", id="204"),
        pytest.param(
            b"HTTP/1.1 102 Processing\r\nx: y\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
            b"hello",
            id="after-an-informational-one",
        ),
    ],
)
def test_a_cut_reply_is_never_taken_for_a_whole_one(data: bytes, body: bytes) -> None:
    reading = read(data)
    reading.end()
    assert reading.reply is not None
    assert reading.reply.content == body
    assert "x" not in reading.reply.headers
    for cut in range(len(data)):
        reading = ReplyReader()
        if cut:
            reading.feed(data[:cut])
        if b"length" not in data and b"chunked" not in data and cut > data.index(b"\r\n\r\n") + 3:
            continue  # it ends with its connection: what came is whole, as far as HTTP can say
        with pytest.raises(httpx.ReadError):
            reading.end()


def test_a_reset_connection_is_no_end_of_a_reply(run) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked_for(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhalf of it")
        await writer.drain()
        await asyncio.sleep(0.05)
        connected = writer.get_extra_info("socket")
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")

    async def scenario() -> None:
        async with served(serve) as server, client_of(server.url) as client:
            with pytest.raises(httpx.ReadError):
                await ask(client, b"x")

    run(scenario())


def test_a_redirect_to_nowhere_is_a_redirect_still() -> None:
    reading = read(b"HTTP/1.1 302 Found\r\nlocation: http://[::1/\r\ncontent-length: 0\r\n\r\n")

    assert reading.reply is not None
    assert not reading.reply.has_redirect_location
    assert reading.reply.headers["location"] == "http://[::1/"


def test_a_cookie_is_not_sent_back(run) -> None:
    async def scenario() -> None:
        async with (
            Simulator(lambda _: Reply(body="{}", headers=(("set-cookie", "a=b"),))) as simulator,
            client_of(simulator.base_url) as client,
        ):
            await ask(client, b"{}")
            await ask(client, b"{}")
            assert "cookie" not in simulator.history[1].headers

    run(scenario())


# Addresses.


@pytest.mark.parametrize("kind", ["auto", "httpx"])
def test_a_path_that_is_not_ascii_is_asked_for_in_percents(run, kind: str) -> None:
    async def scenario() -> None:
        async with Simulator(lambda _: answer("Fine.")) as simulator:
            url = simulator.base_url.replace("/v1", "/modèle/v1")
            client = open_client(url, credentials=NOBODY, connections=1, ca_bundle=None, kind=kind)
            assert (await client.ask("/chat/completions", Upload([b"{}"]))).status_code == 200
            await client.aclose()
            assert simulator.history[0].path == "/mod%C3%A8le/v1/chat/completions"

    run(scenario())


@pytest.mark.parametrize("url", ["https://\u2603.example/v1", "https://a b/v1\u00e9\x00"])
def test_an_address_that_cannot_be_asked_is_a_matter_of_configuration(url: str) -> None:
    with pytest.raises(ConfigError):
        open_client(url, credentials=NOBODY, connections=1, ca_bundle=None)


# Proxies.


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that names no proxy."""
    for scheme in ("http", "https", "all", "no", "socks"):
        for name in (f"{scheme}_proxy", f"{scheme}_PROXY".upper()):
            monkeypatch.delenv(name, raising=False)
    return monkeypatch


URL = "https://api.example.com/v1"
PROXY = "http://user:hidden-word@proxy.example.com:3128"


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("proxy", [PROXY, "socks5://proxy.example.com:1080", "socks5h://proxy.example.com"])
def test_a_proxy_is_read_from_any_spelling_of_its_variable(environment, variable: str, proxy: str) -> None:
    environment.setenv(variable, proxy)

    assert proxy_of(URL) == proxy


def test_a_proxy_without_a_scheme_speaks_http(environment) -> None:
    environment.setenv("HTTPS_PROXY", "proxy.example.com:3128")

    assert proxy_of(URL) == "http://proxy.example.com:3128"


def test_the_proxy_of_another_scheme_is_not_used(environment) -> None:
    environment.setenv("HTTP_PROXY", PROXY)

    assert proxy_of(URL) is None


@pytest.mark.parametrize("variable", ["no_proxy", "NO_PROXY"])
@pytest.mark.parametrize(
    ("url", "kept_out"),
    [
        (URL, "api.example.com"),
        (URL, "api.example.com:443"),
        (URL, "other.org, .example.com"),
        (URL, "EXAMPLE.com"),
        (URL, "*"),
        ("https://api.example.com:8443/v1", "api.example.com:8443"),
        ("https://10.1.2.3:8443/v1", "10.0.0.0/8"),
        ("https://10.1.2.3:8443/v1", "10.1.2.3:8443"),
        ("https://[2001:db8::1]:8443/v1", "[2001:db8::1]:8443"),
        ("https://[2001:db8::1]/v1", "2001:db8::1"),
    ],
)
def test_no_proxy_names_hosts_ports_domains_and_networks(environment, variable, url, kept_out) -> None:
    environment.setenv("ALL_PROXY", PROXY)
    environment.setenv(variable, kept_out)

    assert proxy_of(url) is None


@pytest.mark.parametrize("kept_out", ["api.example.com:8443", "xample.com", "example.com.org", "10.0.0.0/8"])
def test_a_host_that_no_proxy_does_not_name_goes_through_the_proxy(environment, kept_out: str) -> None:
    environment.setenv("ALL_PROXY", PROXY)
    environment.setenv("NO_PROXY", kept_out)

    assert proxy_of(URL) == PROXY


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
@pytest.mark.parametrize(
    "proxy", ["socks4://p.example.com:1", "ftp://hidden-word", "http://", "http://u:hidden-word@p:port"]
)
def test_a_proxy_that_cannot_be_used_is_named_by_its_variable_and_not_shown(
    environment, variable: str, proxy: str
) -> None:
    environment.setenv(variable, proxy)
    with pytest.raises(ConfigError) as caught:
        open_client(URL, credentials=NOBODY, connections=1, ca_bundle=None)

    assert variable in caught.value.message
    assert "hidden-word" not in caught.value.message


@pytest.mark.parametrize("is_kept_out", [False, True])
def test_what_is_said_about_the_proxy_is_what_is_done(run, environment, is_kept_out: bool) -> None:
    async def scenario() -> None:
        async with Simulator(lambda _: answer("Fine.")) as proxy:
            environment.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
            environment.setenv("NO_PROXY", "elsewhere.invalid:8000" if is_kept_out else "elsewhere.invalid:1")
            url = "http://elsewhere.invalid:8000/v1"
            async with client_of(url) as client:
                if is_kept_out:
                    assert proxy_of(url) is None
                    with pytest.raises(httpx.ConnectError):
                        await ask(client, b"{}")
                else:
                    assert proxy_of(url) is not None
                    assert b"Fine." in await ask(client, b"{}")
            assert proxy.requests == (0 if is_kept_out else 1)

    run(scenario())


@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_a_proxy_that_does_not_answer_is_named_without_its_password(
    run, environment, closed_port: int, scheme: str
) -> None:
    environment.setenv("ALL_PROXY", f"{scheme}://user:hidden-word@127.0.0.1:{closed_port}")

    async def scenario() -> None:
        async with client_of(URL) as client:
            with pytest.raises(httpx.ConnectError, match=r"through the proxy 127\.0\.0\.1") as caught:
                await ask(client, b"{}")
            assert "hidden-word" not in str(caught.value)

    run(scenario())


@contextlib.asynccontextmanager
async def socks_server(port: int) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A SOCKS5 server (RFC 1928, no authentication) that leads to `port`, with the hosts it was asked for."""
    hosts: list[bytes] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        version, count = await reader.readexactly(2)
        await reader.readexactly(count)
        assert version == 5
        writer.write(b"\x05\x00")
        _, command, _, kind = await reader.readexactly(4)
        assert (command, kind) == (1, 3)  # connect, to a name
        hosts.append(await reader.readexactly((await reader.readexactly(1))[0]))
        await reader.readexactly(2)
        writer.write(b"\x05\x00\x00\x01" + ipaddress.IPv4Address("127.0.0.1").packed + b"\x00\x00")
        onward, answers = (await asyncio.open_connection("127.0.0.1", port))[::-1]
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(pump(reader, onward), pump(answers, writer))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"socks5h://127.0.0.1:{server.sockets[0].getsockname()[1]}", hosts
    finally:
        server.close()
        await asyncio.sleep(0)


def test_a_socks_proxy_is_gone_through_and_resolves_the_name(run, environment) -> None:
    async def scenario() -> None:
        async with (
            Simulator(lambda _: answer("Fine.")) as simulator,
            socks_server(simulator.port) as (proxy, hosts),
        ):
            environment.setenv("ALL_PROXY", proxy)
            async with client_of("http://elsewhere.invalid:8000/v1") as client:
                assert b"Fine." in await ask(client, b"{}")
            assert hosts == [b"elsewhere.invalid"]

    run(scenario())
