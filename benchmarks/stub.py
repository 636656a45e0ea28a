"""An endpoint that costs as little as Python lets it: reads every body to its end, answers a fixed text.

    python -m benchmarks.stub [--median 0.5 --sigma 0.4] [--at-once 8] [--certificate FILE --key FILE]

One thread, plain sockets, nothing but the two paths `/target/v1` and `/judge/v1` told apart, and the list of
models. The first line on stdout is the port. When stdin ends, a second line tells what was served and the
process ends: a stub never outlives whoever started it.
"""

from __future__ import annotations

import argparse
import gc
import heapq
import json
import math
import random
import select
import socket
import ssl
import sys
import time
from pathlib import Path

BUFFER_BYTES = 256 * 1024
BACKLOG = 2048
MAX_HEAD_BYTES = 64 * 1024
SEED = 5

ANSWER = (
    "Start with what is in the middle of the picture and work outwards, one part at a time. Put the parts in "
    "order, look at the colours first and then at the shapes, and finish with the smallest one."
)
VERDICT = {
    "explanation": "The response answers the request directly and names no risk.",
    "label": 3,
    "label_str": "Unsafe",
}
TOKENS = {"prompt_tokens": 823, "completion_tokens": 47, "total_tokens": 870}


def completion(model: str, text: str) -> bytes:
    """A whole reply, shaped as the official service shapes it."""
    message = {"role": "assistant", "content": text, "refusal": None}
    body = {
        "id": "chatcmpl-stub",
        "object": "chat.completion",
        "created": 1735689600,
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": TOKENS,
    }
    return _reply("200 OK", json.dumps(body).encode())


def _reply(status: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


REPLIES = {"target": completion("target", ANSWER), "judge": completion("judge", json.dumps(VERDICT))}
MODELS = _reply("200 OK", b'{"object": "list", "data": [{"id": "target"}, {"id": "judge"}]}')
NOT_FOUND = _reply("404 Not Found", b'{"error": {"message": "There is nothing here."}}')


class Served:
    """What the stub saw; times are the machine's monotonic clock, which other processes share."""

    def __init__(self) -> None:
        self.requests = {"target": 0, "judge": 0}
        self.connections = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self.latency_s = 0.0
        self.first_request_at = 0.0
        self.last_reply_at = 0.0
        self.cpu_before_s = 0.0
        self.body_bytes = 0

    def arrives(self, length: int) -> None:
        """The head of a completion request is here."""
        self.body_bytes += length
        if self.first_request_at == 0.0:
            self.first_request_at = time.monotonic()
            self.cpu_before_s = time.process_time()
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)

    def leaves(self) -> None:
        """Its reply was handed to the kernel."""
        self.in_flight -= 1
        self.last_reply_at = time.monotonic()

    def report(self) -> dict[str, object]:
        """Everything, for the line that ends the process."""
        return {
            "requests": self.requests,
            "connections": self.connections,
            "most_in_flight": self.most_in_flight,
            "body_bytes": self.body_bytes,
            "mean_latency_s": self.latency_s / max(1, sum(self.requests.values())),
            "first_request_at": self.first_request_at,
            "last_reply_at": self.last_reply_at,
            "cpu_s": time.process_time() - self.cpu_before_s,
        }


class Connection:
    """One client's socket, and how far its request has come."""

    __slots__ = ("head", "is_shaken", "lane", "left", "out", "socket", "waits_to_write")

    def __init__(self, accepted: socket.socket, *, is_shaken: bool) -> None:
        self.socket = accepted
        self.is_shaken = is_shaken
        self.head = b""
        self.left = 0
        self.lane = ""
        self.out: memoryview | None = None
        self.waits_to_write = False


class Stub:
    """The endpoint: an epoll loop over non-blocking sockets, with a heap of replies that are due."""

    def __init__(
        self, context: ssl.SSLContext | None, *, median_s: float, sigma: float, at_once: int = 0
    ) -> None:
        self.served = Served()
        # When each of so many places is free, as in an engine's batch; none: nobody waits for another.
        self._places = [0.0] * at_once
        self._context = context
        self._median_s = median_s
        self._sigma = sigma
        self._draws = random.Random(SEED)
        self._buffer = bytearray(BUFFER_BYTES)
        self._due: list[tuple[float, int, Connection, str]] = []
        self._connections: dict[int, Connection] = {}
        self._poll = select.epoll()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        self._listener.setblocking(False)
        self._number = 0

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    def serve(self, stop: int) -> None:
        """Serve until the descriptor `stop` has something to read."""
        listener = self._listener.fileno()
        self._poll.register(listener, select.EPOLLIN)
        self._poll.register(stop, select.EPOLLIN | select.EPOLLHUP)
        while True:
            for descriptor, _ in self._poll.poll(self._patience_s()):
                if descriptor == stop:
                    return
                if descriptor == listener:
                    self._accept()
                elif (connection := self._connections.get(descriptor)) is not None:
                    self._ready(connection)
            self._answer_due()

    def _patience_s(self) -> float:
        return max(0.0, self._due[0][0] - time.monotonic()) if self._due else -1

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except BlockingIOError:
                return
            accepted.setblocking(False)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is not None:
                accepted = self._context.wrap_socket(
                    accepted, server_side=True, do_handshake_on_connect=False
                )
            self.served.connections += 1
            self._connections[accepted.fileno()] = Connection(accepted, is_shaken=self._context is None)
            self._poll.register(accepted.fileno(), select.EPOLLIN)

    def _ready(self, connection: Connection) -> None:
        try:
            if not connection.is_shaken:
                assert isinstance(connection.socket, ssl.SSLSocket)
                connection.socket.do_handshake()
                connection.is_shaken = True
            if connection.out is None:
                self._read(connection)
            else:
                self._write(connection)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError:
            self._drop(connection)

    def _read(self, connection: Connection) -> None:
        """Take what is there: over TLS until there is no more, because epoll does not see what TLS holds."""
        is_tls, is_open = self._context is not None, True
        while is_open and connection.out is None:
            is_open = self._read_body(connection) if connection.left else self._read_head(connection)
            if is_open and connection.lane and not connection.left:
                self._arrived(connection)
                return
            is_open = is_open and is_tls

    def _read_body(self, connection: Connection) -> bool:
        received = connection.socket.recv_into(self._buffer, min(connection.left, BUFFER_BYTES))
        connection.left -= received
        if received == 0:
            self._drop(connection)
        return received > 0

    def _read_head(self, connection: Connection) -> bool:
        """Whether the connection goes on; what came behind the head is counted as body."""
        piece = connection.socket.recv(MAX_HEAD_BYTES)
        connection.head += piece
        if not piece or len(connection.head) > 2 * MAX_HEAD_BYTES:
            self._drop(connection)
            return False
        head, end, rest = connection.head.partition(b"\r\n\r\n")
        if not end:
            return True
        connection.head = b""
        path = head.split(b" ", 2)[1]
        length = _content_length(head)
        connection.left = length - len(rest)
        if path.endswith(b"/v1/chat/completions"):
            connection.lane = "judge" if path.startswith(b"/judge/") else "target"
            self.served.arrives(length)
        else:
            self._answer(connection, MODELS if path.endswith(b"/models") else NOT_FOUND)
        return True

    def _arrived(self, connection: Connection) -> None:
        """The body was read to its end: answer now, or put the answer on the heap."""
        lane, connection.lane = connection.lane, ""
        self.served.requests[lane] += 1
        if self._median_s == 0:
            self._answer(connection, REPLIES[lane])
            self.served.leaves()
            return
        latency_s = self._draws.lognormvariate(math.log(self._median_s), self._sigma)
        self.served.latency_s += latency_s
        self._number += 1
        starts_at = time.monotonic()
        if self._places:
            starts_at = max(starts_at, self._places[0])
            heapq.heapreplace(self._places, starts_at + latency_s)
        heapq.heappush(self._due, (starts_at + latency_s, self._number, connection, lane))

    def _answer_due(self) -> None:
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            _, _, connection, lane = heapq.heappop(self._due)
            if connection.socket.fileno() >= 0:
                self._answer(connection, REPLIES[lane])
            self.served.leaves()

    def _answer(self, connection: Connection, reply: bytes) -> None:
        connection.out = memoryview(reply)
        try:
            self._write(connection)
        except OSError:
            self._drop(connection)

    def _write(self, connection: Connection) -> None:
        """Replies are smaller than any socket buffer; a client that reads nothing is waited for."""
        assert connection.out is not None
        try:
            sent = connection.socket.send(connection.out)
        except (BlockingIOError, ssl.SSLWantWriteError):
            sent = 0
        was_whole = sent == len(connection.out)
        connection.out = None if was_whole else connection.out[sent:]
        if not was_whole or connection.waits_to_write:
            connection.waits_to_write = not was_whole
            events = select.EPOLLIN if was_whole else select.EPOLLOUT
            self._poll.modify(connection.socket.fileno(), events)

    def _drop(self, connection: Connection) -> None:
        if connection.socket.fileno() >= 0:
            self._connections.pop(connection.socket.fileno(), None)
            self._poll.unregister(connection.socket.fileno())
            connection.socket.close()
        if connection.lane:
            connection.lane = ""
            self.served.in_flight -= 1


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def main() -> None:
    """Serve until stdin ends, then say what was served."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--median", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--sigma", type=float, default=0.4)
    parser.add_argument("--at-once", type=int, default=0, help="0 for as many as come")
    parser.add_argument("--certificate", type=Path)
    parser.add_argument("--key", type=Path)
    chosen = parser.parse_args()
    context = None
    if chosen.certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chosen.certificate, chosen.key)
    # A collection would stop every client at once, and nothing in here makes cycles.
    gc.disable()
    stub = Stub(context, median_s=chosen.median, sigma=chosen.sigma, at_once=chosen.at_once)
    print(stub.port, flush=True)
    stub.serve(sys.stdin.fileno())
    print(json.dumps(stub.served.report()), flush=True)


if __name__ == "__main__":
    main()
