"""The page served on this machine while runs grow: 127.0.0.1, a token in the address, nobody else's requests.

A page of a stranger in the same browser can send requests here, and a name that it controls can mean this
machine: so Host and Origin are looked at, and without the token nothing is told, not even whether it exists.
What is shown are the runs below some paths, read again when their files change.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from vlsb.analysis.summary import Summary
from vlsb.data import media_type, thumbnail_webp
from vlsb.errors import VlsbError
from vlsb.models.prices import PriceTable
from vlsb.records import Sample, Untrusted
from vlsb.reports.encode import for_page, json_island
from vlsb.reports.html.content import board_content, page_content, page_document
from vlsb.reports.html.pages import SIDE, page_run
from vlsb.reports.html.summary import rate_figure
from vlsb.reports.report import rate_figures
from vlsb.reports.stored import StoredRun
from vlsb.store.listing import find_runs
from vlsb.store.manifest import read_head
from vlsb.store.state import FINDINGS, VERDICTS
from vlsb.store.summaries import summarize_run

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

# Thumbnails of 4 KB or so: 16 MB at most, and a run of the full set has 1,957 images.
_KEPT_IMAGES = 4096
_ENDINGS = (".json", ".jsonl")

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


class PageServer(ThreadingHTTPServer):
    """Serves a site on 127.0.0.1 until it is shut down; `port` 0 is a free one."""

    daemon_threads = True

    def __init__(self, site: RunSite, *, port: int = 0) -> None:
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
        self._answer(self._shown)

    def do_POST(self) -> None:
        """Store labels, the one thing that is ever written."""
        self._answer(self._stored, is_writing=True)

    def _answer(self, route: Callable[[_Asked], Served | None], *, is_writing: bool = False) -> None:
        try:
            parts = urlsplit(self.path)
            token, name, *rest = (*parts.path.removeprefix("/").split("/"), "")
            asked = _Asked(token, name, tuple(rest), parse_qs(parts.query))
        except ValueError:
            asked = _Asked("", "", (), {})
        try:
            if not self._is_ours(asked, is_writing=is_writing):
                raise _BadRequest(HTTPStatus.NOT_FOUND)
            served = route(asked)
        except _BadRequest as error:
            self.close_connection = True
            self._send(error.status, _NOTHING)
        except (KeyError, OSError):
            # Also a run that was moved away while it was looked at.
            self._send(HTTPStatus.NOT_FOUND, _NOTHING)
        except VlsbError as error:
            detail = "" if error.detail is None else f": {for_page(error.detail)}"
            message = for_page(Untrusted(error.message)) + detail
            self._send(HTTPStatus.CONFLICT, _json({"error": message}))
        else:
            self._send(HTTPStatus.OK if served else HTTPStatus.NO_CONTENT, served or _NOTHING)

    def _shown(self, asked: _Asked) -> Served | None:
        site, runs = self.server.site, asked.query.get("run", [])
        match asked.name:
            case "icon":
                # A browser that is not told of one asks outside the token.
                return None
            case "content" if asked.query.get("since") == [site.stamp(runs)]:
                return None
            case "content":
                return _json((site.board if "board" in asked.query else site.content)(runs))
            case "rates":
                return _json(site.rates((runs or [""])[0]))
            case "image":
                return site.image(asked.rest[0], is_full=asked.rest[1:2] == ("full",))
            case "" | "page" | "board" as name:
                content = (site.board if name == "board" else site.content)(runs)
                page = page_document(content, images="own", is_served=True)
                return Served(page.encode(), "text/html; charset=utf-8")
        raise _BadRequest(HTTPStatus.NOT_FOUND)

    def _stored(self, asked: _Asked) -> Served:
        if asked.name != "labels":
            raise _BadRequest(HTTPStatus.NOT_FOUND)
        key, annotator = (asked.query.get(name, [""])[0] for name in ("run", "annotator"))
        return _json({"said": self.server.site.label(key, annotator, self.read_body())})

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


def _json(value: object) -> Served:
    return Served(json_island(value).encode(), "application/json")


class RunSite:
    """The runs below some paths, as `PageServer` serves them. A run is known by a checksum of its place."""

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        data_root: Path | None,
        prices: PriceTable,
        store_labels: Callable[[Path, str, bytes], str],
    ) -> None:
        """`store_labels` stores in a run what an annotator of this name has put into a sheet."""
        self._paths, self._data_root, self._prices = paths, data_root, prices
        self._store_labels = store_labels
        # One thread at a time reads runs: they come from one disk and cost what the interpreter gives.
        self._lock = Lock()
        self._runs: dict[Path, StoredRun] = {}
        self._content: tuple[str, Json] | None = None
        self._summaries: dict[str, tuple[str, list[Summary]]] = {}
        self._sent: dict[str, tuple[StoredRun, Sample]] = {}
        self._small = lru_cache(_KEPT_IMAGES)(
            lambda checksum: thumbnail_webp(self._image(checksum), side=SIDE)
        )

    def runs(self) -> list[Json]:
        """Return name, target, judges and time of the last change of every run, the newest first."""
        runs: list[Json] = []
        for key, path in self._places().items():
            files = _files(path)
            changed = max((changed_ns for _, _, changed_ns in files), default=0) / 1e9
            about: Json = {
                "key": key,
                "stamp": _checksum(repr(files).encode()),
                "name": for_page(Untrusted(path.resolve().name)),
                "changed_at": datetime.fromtimestamp(changed, UTC).isoformat(timespec="seconds"),
            }
            try:
                head = read_head(path)
                about |= {
                    "target": for_page(head.target),
                    "judges": [for_page(Untrusted(each.stem)) for each in head.judges],
                    "simulated": head.simulated,
                }
            except VlsbError as error:
                about["error"] = for_page(Untrusted(error.message))
            runs.append(about)
        return sorted(runs, key=lambda each: str(each["changed_at"]), reverse=True)

    def rates(self, key: str) -> Json:
        """Return the safe rate by each judge of a run, with interval and counts."""
        rows = []
        for summary in self._summarized(key, self._places()[key]):
            rates = summary.rates
            estimated = "" if summary.part is None or rates.safe_rate is None else f", {rates.estimate}"
            rows.append(
                {
                    "judge": None if summary.judge is None else f"{for_page(summary.judge)}{estimated}",
                    "figures": list(rate_figures(rates)),
                    "figure": rate_figure(rates),
                }
            )
        return {"rates": rows}

    def board(self, keys: Sequence[str]) -> Json:
        """Return what these runs, or all, come to; one that is damaged is left out and named."""
        stamp, places = self.stamp(keys), self._places()
        chosen = {key: places[key] for key in keys} if keys else places
        summaries: list[Summary] = []
        left_out = []
        for key, path in chosen.items():
            try:
                summaries += self._summarized(key, path)
            except VlsbError as error:
                left_out.append(for_page(Untrusted(f"{path.resolve().name}: {error.message}")))
        links = {Untrusted(str(path)): f"page?run={key}" for key, path in chosen.items()}
        live: Json = {"stamp": stamp, "keys": list(keys), "board": True}
        return board_content(summaries, links, left_out=left_out, live=live)

    def _summarized(self, key: str, path: Path) -> list[Summary]:
        stamp = _checksum(repr(_files(path)).encode())
        with self._lock:
            if self._summaries.get(key, ("", []))[0] != stamp:
                self._summaries[key] = (stamp, summarize_run(path, prices=self._prices))
            return self._summaries[key][1]

    def stamp(self, keys: Sequence[str]) -> str:
        """Return a checksum over names, sizes and times of the files of these runs, or of all."""
        places = self._places()
        chosen = {key: places[key] for key in keys} if keys else places
        return sha256(
            "".join(f"{key}{_checksum(repr(_files(path)).encode())}" for key, path in chosen.items()).encode()
        ).hexdigest()

    def content(self, keys: Sequence[str]) -> Json:
        """Return the content of a page about these runs, or the list of all where none is named."""
        live: Json = {"stamp": self.stamp(keys), "keys": list(keys)}
        if not keys:
            return page_content([], images={}, live=live | {"list": self.runs()})
        places = self._places()
        name = " ".join((*keys, live["stamp"]))
        with self._lock:
            if self._content is None or self._content[0] != name:
                for path in (places[key] for key in keys):
                    # Its data set is read once, which is most of the work.
                    stored = self._runs.get(path)
                    self._runs[path] = stored.again() if stored else StoredRun.read(path, self._data_root)
                runs = [page_run(self._runs[places[key]], self._prices) for key in keys]
                sent = {checksum: each for _, images in runs for checksum, each in images.items()}
                self._sent |= sent
                urls = {checksum: f"image/{checksum}" for checksum in sent}
                self._content = (name, page_content([page for page, _ in runs], images=urls, live=live))
            return self._content[1]

    def image(self, checksum: str, *, is_full: bool) -> Served:
        """Return an image that a page shows: drawn again and small, or as the target was sent it."""
        if not is_full:
            return Served(self._small(checksum), "image/webp")
        content = self._image(checksum)
        return Served(content, media_type(content))

    def label(self, key: str, annotator: str, sheet: bytes) -> str:
        """Store a person's labels in a run."""
        return self._store_labels(self._places()[key], annotator, sheet)

    def _image(self, checksum: str) -> bytes:
        run, sample = self._sent[checksum]
        return run.read_image(sample, checksum)

    def _places(self) -> dict[str, Path]:
        """Return where each run is: looked up again, since runs begin while they are looked at."""
        return {_checksum(bytes(path.resolve())): path for path in find_runs(self._paths)}


def _checksum(content: bytes) -> str:
    return sha256(content).hexdigest()[:16]


def _files(path: Path) -> list[tuple[str, int, int]]:
    """Return name, size and time of change, in ns, of the files of a run that hold what a page shows."""
    files = []
    for folder in (path, path / VERDICTS, path / FINDINGS):
        with suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(_ENDINGS) and not entry.name.startswith("."):
                    status = entry.stat(follow_symlinks=False)
                    files.append((entry.name, status.st_size, status.st_mtime_ns))
    return sorted(files)
