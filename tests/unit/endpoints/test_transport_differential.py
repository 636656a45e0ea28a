"""Two readers of one reply, ours on llhttp and h11 in plain Python, agree, or one refuses it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import h11
import httpx
from hypothesis import example, given
from hypothesis import strategies as st

from vlsb.endpoints.transport import ReplyReader

FRAMING = ("content-encoding", "content-length", "transfer-encoding")


@dataclass(frozen=True)
class Read:
    """What came of some bytes and the end of the connection behind them."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    # Nothing else came, and the connection could carry another exchange.
    is_clean: bool


def by_us(data: bytes, *, step: int, ends: bool = True) -> Read | None:
    """As our transport reads it, `step` bytes at a time; None where it refuses or waits for more."""
    reading, surplus = ReplyReader(), False
    try:
        for at in range(0, len(data), step):
            surplus = surplus or reading.reply is not None
            if reading.reply is None:
                reading.feed(data[at : at + step])
        if reading.reply is None and ends:
            reading.end()
    except httpx.RequestError:
        return None
    if reading.reply is None:
        return None
    reply = reading.reply
    fields = ((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in reply.headers.raw)
    kept = tuple(sorted(each for each in fields if each[0] not in FRAMING))
    return Read(reply.status_code, kept, reply.content, not (surplus or reading.is_last))


def by_h11(data: bytes) -> Read | None:
    """As h11 reads it as the client of one POST; None where it refuses."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=100 * 1024)
    connection.send(h11.Request(method="POST", target="/x", headers=[("host", "h"), ("content-length", "0")]))
    connection.send(h11.EndOfMessage())
    head, body, is_ended = None, b"", False
    try:
        connection.receive_data(data)
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                if is_ended:
                    return None
                is_ended = True
                connection.receive_data(b"")
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                break
            elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
                return None
    except h11.RemoteProtocolError:
        return None
    assert head is not None
    fields = ((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in head.headers)
    kept = tuple(sorted(each for each in fields if each[0] not in FRAMING))
    is_clean = not is_ended and not connection.trailing_data[0] and connection.their_state is h11.DONE
    return Read(head.status_code, kept, body, is_clean)


NAMES = st.sampled_from(["x-a", "X-A", "set-cookie", "retry-after", "x-ratelimit-limit-requests", "warning"])
VALUES = st.sampled_from([b"", b"1", b"a b", b"a,b", b"\xc3\xa9", b"\xe9", b"y" * 300])
BLANKS = st.sampled_from([b"", b" ", b"\t", b"   "])
BODIES = st.sampled_from(
    [b"", b"x", b'{"choices": []}', b"\r\n\r\n", b"0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"]
)
CONNECTIONS = st.sampled_from([b"", b"connection: close\r\n", b"Connection: keep-alive\r\n"])
SURPLUS = st.sampled_from(
    [b"", b"", b"", b"\r\n", b"x", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno", b"\n\n", b"0\r\n\r\n"]
)


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    fields = draw(st.lists(st.tuples(NAMES, BLANKS, VALUES, BLANKS), max_size=4))
    lines = [name.encode() + b":" + before + value + after for name, before, value, after in fields]
    return b"".join(line + b"\r\n" for line in lines) + draw(CONNECTIONS)


@st.composite
def chunked(draw: st.DrawFn, body: bytes) -> bytes:
    pieces, rest = [], body
    while rest:
        size = draw(st.integers(1, len(rest)))
        extension = draw(st.sampled_from([b"", b";x", b";x=y", b';x="y"']))
        number = draw(st.sampled_from(["%x", "%X", "0%x", "0000%x"])) % size
        pieces.append(number.encode() + extension + b"\r\n" + rest[:size] + b"\r\n")
        rest = rest[size:]
    trailers = draw(st.sampled_from([b"", b"x-t: y\r\n"]))
    return b"".join(pieces) + b"0\r\n" + trailers + b"\r\n"


@st.composite
def whole_replies(draw: st.DrawFn) -> tuple[bytes, int, bytes]:
    """A reply as servers write it, its status and its body."""
    informational = b"".join(
        b"HTTP/1.1 %d Soon\r\n%b\r\n" % (status, b"x: y\r\n" if status == 103 else b"")
        for status in draw(st.lists(st.sampled_from([100, 102, 103]), max_size=2))
    )
    status = draw(st.sampled_from([200, 200, 201, 204, 304, 400, 429, 500, 503]))
    reason = draw(st.sampled_from([b" OK", b" Too Many Requests", b" "]))
    body = b"" if status in (204, 304) else draw(BODIES)
    way = "none" if status in (204, 304) else draw(st.sampled_from(["length", "chunks"]))
    head = b"HTTP/1.1 %d%b\r\n%b" % (status, reason, draw(heads()))
    if way == "length":
        data = head + b"content-length: %d\r\n\r\n%b" % (len(body), body)
    elif way == "chunks":
        data = head + b"Transfer-Encoding: chunked\r\n\r\n" + draw(chunked(body))
    else:
        data = head + b"\r\n"
    return informational + data, status, body


@st.composite
def odd_replies(draw: st.DrawFn) -> bytes:
    """A reply with something wrong, or seldom, in it; the connection ends behind it."""
    data = draw(whole_replies())[0]
    change = draw(st.integers(0, 12))
    if change == 0:
        return data[: draw(st.integers(0, len(data)))]
    if change == 1:
        at = draw(st.integers(0, len(data) - 1))
        return data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
    if change == 2:
        at = draw(st.integers(0, len(data)))
        return (
            data[:at]
            + draw(st.sampled_from([b"\r", b"\n", b"\r\n", b" ", b"\x00", b":", b";", b"0"]))
            + data[at:]
        )
    swaps = (
        (b"content-length: ", b"content-length: 0"),
        (b"content-length: ", b"content-length: +"),
        (b"content-length: ", b"content-length: 1, "),
        (b"content-length: ", b"content-length: 3\r\ncontent-length: "),
        (b"content-length: ", b"x-no: "),
        (b"chunked", b"gzip, chunked"),
        (b"chunked", b"identity"),
        (b"chunked", b"chunked\r\ncontent-length: 3"),
        (b"HTTP/1.1", draw(st.sampled_from([b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b"ICY"]))),
        (b"\r\n", draw(st.sampled_from([b"\n", b"\r\n ", b"\r\nx y: z\r\n", b"\r\n:\r\n"]))),
    )
    old, new = swaps[change - 3]
    return data.replace(old, new, draw(st.sampled_from([1, 1, -1])))


@given(reply=whole_replies(), surplus=SURPLUS)
def test_a_whole_reply_is_read_alike_and_its_surplus_is_seen(
    reply: tuple[bytes, int, bytes], surplus: bytes
) -> None:
    data, status, body = reply
    ours, theirs = by_us(data + surplus, step=10**9, ends=False), by_h11(data + surplus)

    assert ours is not None
    assert theirs is not None
    assert ours == theirs
    assert (ours.status, ours.body) == (status, body)
    assert ours.is_clean == (not surplus and b"connection: close" not in data)


@given(reply=whole_replies(), surplus=SURPLUS, step=st.sampled_from([1, 2, 3, 7]))
def test_a_reply_is_the_same_wherever_it_is_split(
    reply: tuple[bytes, int, bytes], surplus: bytes, step: int
) -> None:
    data = reply[0] + surplus

    assert by_us(data, step=step) == by_us(data, step=10**9)


def assert_read_alike(data: bytes) -> None:
    """Both read these bytes alike, or one refuses them; and we read them alike wherever they are split."""
    ours, theirs = by_us(data, step=10**9), by_h11(data)

    assert by_us(data, step=1) == ours
    if ours is not None and theirs is not None:
        # A 1.0 server that keeps its connections says so, which h11 does not believe.
        is_old = b"HTTP/1.0" in data
        assert replace(ours, is_clean=ours.is_clean and not is_old) == theirs


@given(data=odd_replies())
@example(data=b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab")
def test_an_odd_reply_is_read_alike_or_refused_and_is_the_same_at_every_split(data: bytes) -> None:
    assert_read_alike(data)
