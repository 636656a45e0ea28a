"""The server of `vlsb view`: whatever is sent to it is answered, and nothing of it is an accident."""

from __future__ import annotations

import json
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from tests.support.command import Desk
from tests.support.endpoint import labelling
from tests.support.run_files import tree
from vlsb.cli.audit import store_sheet
from vlsb.models.prices import load_prices
from vlsb.reports.html.server import PageServer, RunSite
from vlsb.simulator import SimulatorThread

DEADLINE_S = 30
DIGITS = 5000
"""More digits than Python makes a number of."""
DEEP = b"[" * 20_000 + b"]" * 20_000


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A run of which a part is drawn. Only to be read."""
    desk = Desk(tmp_path_factory.mktemp("view"))
    with SimulatorThread(labelling({0: 1, 1: 2})) as simulator:
        assert desk.run(simulator).code == 0
    assert desk.vlsb("audit", "sample", desk.run_dir, "--n", 2).code == 0
    return desk


@contextmanager
def served(desk: Desk) -> Iterator[PageServer]:
    """The desk's runs, served from a thread of this process."""
    with PageServer(
        RunSite([desk.outputs], data_root=None, prices=load_prices(None), store_labels=store_sheet)
    ) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server(desk: Desk) -> Iterator[PageServer]:
    """The desk's runs, served."""
    with served(desk) as found:
        yield found


def send(server: PageServer, request: bytes) -> tuple[int, bytes]:
    """Status and body of what comes back for these bytes, after which nothing more is sent; 0 for nothing."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=DEADLINE_S) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        reply = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = reply.partition(b"\r\n\r\n")
    return int(head.split()[1]) if head.startswith(b"HTTP/1.1 ") else 0, body


def asked(server: PageServer, line: str, *headers: str, body: bytes = b"") -> bytes:
    """A request of the page itself; `line` is its method and what stands behind the token."""
    method, path = line.split(maxsplit=1)
    address = urlsplit(server.address)
    own = (f"Host: {address.netloc}", f"Origin: http://{address.netloc}", *headers)
    head = "\r\n".join((f"{method} {address.path}{path.strip()} HTTP/1.1", *own, "", ""))
    return head.encode("latin-1") + body


def label(server: PageServer, body: bytes) -> tuple[int, bytes]:
    """What the server says to a sheet of labels for its run."""
    (run,) = server.site.runs()
    line = f"POST labels?run={run['key']}&annotator=ann"
    return send(server, asked(server, line, f"Content-Length: {len(body)}", body=body))


@pytest.mark.parametrize(
    ("line", "headers", "status"),
    [
        ("POST labels?run=x&annotator=ann", [f"Content-Length: {'9' * DIGITS}"], 413),
        ("POST labels?run=x&annotator=ann", ["Content-Length: 99999999"], 413),
        ("POST labels?run=x&annotator=ann", ["Content-Length: -1"], 400),
        ("POST labels?run=x&annotator=ann", ["Content-Length: \xb2"], 400),
        ("POST labels?run=x&annotator=ann", ["Content-Length: 12"], 400),
        ("POST labels?run=x&annotator=ann", ["Transfer-Encoding: chunked"], 411),
        ("POST labels?run=x&annotator=ann", [], 411),
        ("POST content", ["Content-Length: 0"], 404),
        ("PUT labels", [], 405),
        ("GET page?run=%00%ff", [], 404),
        ("GET image/", [], 404),
        ("GET rates", [], 404),
        (f"GET {'a' * 70_000}", [], 414),
        ("GET page", [f"X: {'a' * 70_000}"], 431),
        ("GET page", [f"X-{each}: a" for each in range(200)], 431),
    ],
)
def test_a_malformed_request_is_refused_in_a_word(
    server: PageServer, capfd: pytest.CaptureFixture[str], line: str, headers: list[str], status: int
) -> None:
    assert send(server, asked(server, line, *headers)) == (status, b"")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[5]",
        b"{}",
        b"null",
        b"[null]",
        b'[{"annotations": [5]}]',
        b'[{"annotations": 5, "data": {}}]',
        b'[{"data": {"item": 1, "response_sha256": []}, "annotations": [{"result": [{"value": 7}]}]}]',
        b'[{"data": {"item": "a", "response_sha256": "b"}, "annotations": [{"result": 5}]}]',
        b'[{"data": {"item": "a", "response_sha256": "b"}, "annotations": ["x"]}]',
        b"[" + b"9" * DIGITS + b"]",
        DEEP,
        b"\xff\xfe",
        b"item,response_sha256,label\n\x00,1,2\n",
        b'item,response_sha256,label\n"',
        b"item,response_sha256,label\na,b,1,2,3\n",
        b"item;response_sha256;label\na\n",
    ],
)
def test_odd_labels_are_refused_with_a_sentence_and_change_nothing(
    desk: Desk, server: PageServer, capfd: pytest.CaptureFixture[str], body: bytes
) -> None:
    before = tree(desk.outputs)
    status, said = label(server, body)

    assert 400 <= status < 500 or json.loads(said)["said"].startswith("0 labels were read")
    assert tree(desk.outputs) == before
    assert capfd.readouterr() == ("", "")


def test_a_thousand_broken_requests_leave_the_server_as_it_was(
    desk: Desk, server: PageServer, capfd: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(7)
    (run,) = server.site.runs()
    key = run["key"]
    sheet = b'[{"data": {"item": "a", "response_sha256": "b"}, "annotations": []}]'
    line = f"POST labels?run={key}&annotator=ann"
    seeds = [
        asked(server, f"GET page?run={key}"),
        asked(server, f"GET content?run={key}&since=0"),
        asked(server, f"GET rates?run={key}"),
        asked(server, line, f"Content-Length: {len(sheet)}", body=sheet),
    ]
    signs = (
        b"\x00",
        b"\r\n",
        b"\n",
        b" ",
        b"9" * 40,
        b"\xff",
        b"%",
        b"&",
        b"?",
        b"/",
        b":",
        b'"',
        b"[",
        b"-",
    )
    found = set()
    for _ in range(1000):
        request = bytearray(chance.choice(seeds))
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(request))
            request[at : at + chance.randint(0, 3)] = chance.choice(signs)
        found.add(send(server, bytes(request))[0])

    assert found <= {0, 200, 204, *range(400, 500)}
    assert {400, 404} <= found
    assert send(server, asked(server, f"GET page?run={key}"))[0] == 200
    assert capfd.readouterr() == ("", "")
