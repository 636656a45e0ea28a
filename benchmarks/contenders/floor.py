"""The least that the job can cost in Python: one thread, epoll, plain sockets, no library.

A request here is: read the file, sha256 it (once an image, for the target's request), base64, write,
read the reply, parse it. The first argument says whose base64: `pybase64` or `binascii`. There are no
retries, no limits and no store: nothing that a run could be trusted to.
"""

from __future__ import annotations

import binascii
import hashlib
import select
import socket
import ssl
import sys
from collections import deque
from collections.abc import Callable
from functools import partial
from urllib.parse import urlsplit

import orjson

from benchmarks.contenders.jobs import JUDGE, TARGET, Job, Sample, frame, judge_text, parse_job

READ_BYTES = 64 * 1024
LARGEST_IMAGE = 8 * 1024 * 1024

Encode = Callable[[memoryview], bytes]


class Connection:
    """A socket of one lane, and what is on its way."""

    __slots__ = ("awaits_write", "lane", "out", "reply", "sample", "socket")

    def __init__(self, connected: socket.socket, lane: str) -> None:
        self.socket = connected
        self.lane = lane
        self.out: list[memoryview] = []
        self.reply = b""
        self.sample: Sample | None = None
        self.awaits_write = False


class Floor:
    """The whole job as one loop. `labels` counts what the judge said."""

    def __init__(self, job: Job, encode: Encode) -> None:
        self.labels: dict[int, int] = {}
        self._job = job
        self._encode = encode
        parts = urlsplit(job.origin)
        self._address = (parts.hostname, parts.port)
        self._host = parts.netloc
        self._tls = None
        if job.ca_bundle is not None:
            self._tls = ssl.create_default_context(cafile=str(job.ca_bundle))
        self._frames = {TARGET: frame(TARGET), JUDGE: frame(JUDGE)}
        self._waiting: dict[str, deque[tuple[Sample, str]]] = {TARGET: deque(), JUDGE: deque()}
        self._idle: dict[str, list[Connection]] = {TARGET: [], JUDGE: []}
        self._opened = {TARGET: 0, JUDGE: 0}
        self._by_descriptor: dict[int, Connection] = {}
        self._poll = select.epoll()
        self._left = len(job.samples)
        # One buffer for every image: memory that is already there costs no page faults.
        self._image = bytearray(LARGEST_IMAGE)

    def run(self) -> None:
        """Ask about every sample, then return."""
        self._waiting[TARGET].extend((sample, sample.instruction) for sample in self._job.samples)
        self._fill(TARGET)
        while self._left:
            for descriptor, events in self._poll.poll():
                connection = self._by_descriptor[descriptor]
                if events & select.EPOLLOUT:
                    self._write(connection)
                if events & ~select.EPOLLOUT:
                    self._read(connection)

    def _fill(self, lane: str) -> None:
        waiting = self._waiting[lane]
        while waiting and (connection := self._free(lane)) is not None:
            self._ask(connection, *waiting.popleft())

    def _free(self, lane: str) -> Connection | None:
        if self._idle[lane]:
            return self._idle[lane].pop()
        if self._opened[lane] == self._job.connections:
            return None
        self._opened[lane] += 1
        connected = socket.create_connection(self._address)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            connected = self._tls.wrap_socket(connected, server_hostname=self._address[0])
        connected.setblocking(False)
        connection = Connection(connected, lane)
        self._by_descriptor[connected.fileno()] = connection
        self._poll.register(connected.fileno(), select.EPOLLIN)
        return connection

    def _ask(self, connection: Connection, sample: Sample, text: str) -> None:
        with sample.image.open("rb", buffering=0) as file:
            size = file.readinto(self._image)
        image = memoryview(self._image)[:size]
        if connection.lane == TARGET:
            hashlib.sha256(image).hexdigest()
        encoded = self._encode(image)
        body = self._frames[connection.lane]
        before = body.head(text)
        head = (
            f"POST /{connection.lane}/v1/chat/completions HTTP/1.1\r\nhost: {self._host}\r\n"
            "content-type: application/json\r\n"
            f"content-length: {len(before) + len(encoded) + len(body.after)}\r\n\r\n"
        )
        connection.sample = sample
        connection.out = [memoryview(head.encode() + before), memoryview(encoded), memoryview(body.after)]
        self._write(connection)

    def _write(self, connection: Connection) -> None:
        try:
            while connection.out:
                self._write_once(connection)
        except (BlockingIOError, ssl.SSLWantWriteError):
            pass
        awaits = bool(connection.out)
        if awaits != connection.awaits_write:
            connection.awaits_write = awaits
            self._poll.modify(
                connection.socket.fileno(), select.EPOLLIN | select.EPOLLOUT if awaits else select.EPOLLIN
            )

    def _write_once(self, connection: Connection) -> None:
        pieces = connection.out
        sent = connection.socket.send(pieces[0]) if self._tls else connection.socket.sendmsg(pieces)
        while pieces and sent >= len(pieces[0]):
            sent -= len(pieces.pop(0))
        if pieces:
            pieces[0] = pieces[0][sent:]

    def _read(self, connection: Connection) -> None:
        try:
            piece = connection.socket.recv(READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        if not piece:
            raise SystemExit("The endpoint closed a connection.")
        connection.reply += piece
        head, end, body = connection.reply.partition(b"\r\n\r\n")
        if end and len(body) == _content_length(head):
            connection.reply = b""
            self._replied(connection, body)

    def _replied(self, connection: Connection, body: bytes) -> None:
        sample, connection.sample = connection.sample, None
        assert sample is not None
        content = orjson.loads(body)["choices"][0]["message"]["content"]
        self._idle[connection.lane].append(connection)
        if connection.lane == TARGET:
            self._waiting[JUDGE].append((sample, judge_text(sample.instruction, content)))
            self._fill(JUDGE)
        else:
            self.labels[sample.id] = orjson.loads(content)["label"]
            self._left -= 1
        self._fill(connection.lane)


def _content_length(head: bytes) -> int:
    at = head.index(b"content-length: ") + 16
    return int(head[at:].split(b"\r\n", 1)[0])


def encoder(name: str) -> Encode:
    """The base64 of the standard library, or the vectorized one of pybase64."""
    if name == "pybase64":
        import pybase64

        return pybase64.b64encode
    return partial(binascii.b2a_base64, newline=False)


def main() -> None:
    """Do the job and say how many verdicts there are."""
    name, *arguments = sys.argv[1:]
    floor = Floor(parse_job(arguments), encoder(name))
    floor.run()
    print(len(floor.labels))


if __name__ == "__main__":
    main()
