"""The page served on this machine while runs grow: 127.0.0.1, a token in the address, nobody else's requests.

A page of a stranger in the same browser can send requests here, and a name that it controls can mean this
machine: so Host and Origin are looked at, and without the token nothing is told, not even whether it exists.
What is shown and stored is up to a `Site`.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qs, urlsplit

from vlsb.errors import VlsbError
from vlsb.records import Untrusted
from vlsb.reports.encode import for_page, json_island
from vlsb.reports.html.content import page_document

_MOST_BYTES = 4 * 1024 * 1024
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex",
}

Json = dict[str, Any]


class Served(NamedTuple):
    """The body of a reply and its media type."""

    body: bytes
    kind: str


_NOTHING = Served(b"", "text/plain")
# What the library answers to what it does not know at all, as the fault of whoever asked.
_REFUSALS = {
    HTTPStatus.NOT_IMPLEMENTED: HTTPStatus.METHOD_NOT_ALLOWED,
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED: HTTPStatus.BAD_REQUEST,
}
_LONGEST_LENGTH = 10
"""Digits of a Content-Length: more are no size of anything."""


class _BadRequest(Exception):
    """A request that cannot be read; nothing more is read from its connection."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


class Site(Protocol):
    """What is served. Runs are named by keys of the site's own; every method may be called by many threads.

    Each raises VlsbError for what cannot be shown or stored, and KeyError for a key that it never gave.
    """

    def runs(self) -> list[Json]:
        """Every run in a few words: quick, whatever their number."""

    def rates(self, key: str) -> Json:
        """Return the rates of one run as they stand."""

    def stamp(self, keys: Sequence[str]) -> str:
        """Return a text that changes whenever these runs change."""

    def content(self, keys: Sequence[str]) -> Json:
        """Return the content of a page about these runs; the list of runs where there are none."""

    def board(self, keys: Sequence[str]) -> Json:
        """Return the content of a page about what these runs come to; all runs where none is named."""

    def image(self, checksum: str, *, is_full: bool) -> Served:
        """An image that was sent: small, or as it is."""

    def label(self, key: str, annotator: str, sheet: bytes) -> str:
        """Take the labels of a sheet over into a run, and say how many."""


class PageServer(ThreadingHTTPServer):
    """Serves a site on 127.0.0.1 until it is shut down; `port` 0 is a free one."""

    daemon_threads = True

    def __init__(self, site: Site, *, port: int = 0) -> None:
        self.site = site
        self.token = secrets.token_urlsafe(24)
        super().__init__(("127.0.0.1", port), _Handler)
        self.hosts = {f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what broke; a browser that left in the middle of a reply broke nothing."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @property
    def address(self) -> str:
        """Where a browser finds the list of runs."""
        return f"http://127.0.0.1:{self.server_port}/{self.token}/"


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "vlsb", ""
    # A connection that says nothing keeps a thread no longer than this.
    timeout = 60

    def do_GET(self) -> None:
        """Answer what a page asks for."""
        self._answer(
            {
                "": _page,
                "page": _page,
                "board": _board,
                "content": _content,
                "rates": _rates,
                "image": _image,
                "icon": _icon,
            }
        )

    def do_POST(self) -> None:
        """Store labels, the one thing that is ever written."""
        self._answer({"labels": _label}, is_writing=True)

    def _answer(
        self, routes: dict[str, Callable[[_Handler, _Asked], Served | None]], *, is_writing: bool = False
    ) -> None:
        try:
            asked = _parse(self.path)
        except ValueError:
            asked = _Asked("", "", (), {})
        if not self._is_ours(asked, is_writing=is_writing) or (route := routes.get(asked.name)) is None:
            self.close_connection = True
            return self._send(HTTPStatus.NOT_FOUND, _NOTHING)
        try:
            served = route(self, asked)
        except _BadRequest as error:
            self.close_connection = True
            self._send(error.status, _NOTHING)
        except (KeyError, OSError):
            # Also a run that was moved away while it was looked at.
            self._send(HTTPStatus.NOT_FOUND, _NOTHING)
        except VlsbError as error:
            detail = "" if error.detail is None else f": {for_page(error.detail)}"
            said = for_page(Untrusted(error.message)) + detail
            self._send(HTTPStatus.CONFLICT, _json({"error": said}))
        else:
            self._send(HTTPStatus.OK if served else HTTPStatus.NO_CONTENT, served or _NOTHING)

    def _is_ours(self, asked: _Asked, *, is_writing: bool) -> bool:
        origin = self.headers.get("Origin")
        origins = {f"http://{host}" for host in self.server.hosts}
        return (
            self.headers.get("Host") in self.server.hosts
            and (origin in origins or (origin is None and not is_writing))
            and self.headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin")
            and secrets.compare_digest(asked.token.encode(), self.server.token.encode())
        )

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what the library cannot read, with our own headers and not a word of the request."""
        self.close_connection = True
        self._send(_REFUSALS.get(HTTPStatus(code), HTTPStatus(code)), _NOTHING)

    def _send(self, status: HTTPStatus, served: Served) -> None:
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        if status != HTTPStatus.NO_CONTENT:
            self.send_header("Content-Type", served.kind)
            self.send_header("Content-Length", str(len(served.body)))
        self.end_headers()
        self.wfile.write(served.body)

    def read_body(self) -> bytes:
        """Read what was sent, of a sheet's size at most."""
        length = self.headers.get("Content-Length")
        if length is None:
            raise _BadRequest(HTTPStatus.LENGTH_REQUIRED)
        if not length.isascii() or not length.isdigit():
            raise _BadRequest(HTTPStatus.BAD_REQUEST)
        if len(length) > _LONGEST_LENGTH or int(length) > _MOST_BYTES:
            raise _BadRequest(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise _BadRequest(HTTPStatus.BAD_REQUEST)
        return body

    def log_message(self, format: str, *_: object) -> None:
        """Nothing: an address holds the token, and what was looked at is nobody's business."""


class _Asked(NamedTuple):
    """A request's path in parts, and the values of its query."""

    token: str
    name: str
    rest: tuple[str, ...]
    query: dict[str, list[str]]

    @property
    def runs(self) -> list[str]:
        return self.query.get("run", [])


def _parse(path: str) -> _Asked:
    parts = urlsplit(path)
    token, name, *rest = (*parts.path.removeprefix("/").split("/"), "")
    return _Asked(token, name, tuple(rest), parse_qs(parts.query))


def _page(handler: _Handler, asked: _Asked) -> Served:
    return _document(handler.server.site.content(asked.runs))


def _board(handler: _Handler, asked: _Asked) -> Served:
    return _document(handler.server.site.board(asked.runs))


def _document(content: Json) -> Served:
    return Served(page_document(content, images="own", is_served=True).encode(), "text/html; charset=utf-8")


def _content(handler: _Handler, asked: _Asked) -> Served | None:
    site = handler.server.site
    if asked.query.get("since") == [site.stamp(asked.runs)]:
        return None
    return _json((site.board if "board" in asked.query else site.content)(asked.runs))


def _rates(handler: _Handler, asked: _Asked) -> Served:
    return _json(handler.server.site.rates(asked.query.get("run", [""])[0]))


def _image(handler: _Handler, asked: _Asked) -> Served:
    return handler.server.site.image(asked.rest[0], is_full=asked.rest[1:2] == ("full",))


def _icon(_: _Handler, __: _Asked) -> None:
    """None: a browser that is not told of one asks outside the token."""


def _label(handler: _Handler, asked: _Asked) -> Served:
    key, annotator = (asked.query.get(name, [""])[0] for name in ("run", "annotator"))
    return _json({"said": handler.server.site.label(key, annotator, handler.read_body())})


def _json(value: object) -> Served:
    return Served(json_island(value).encode(), "application/json")
