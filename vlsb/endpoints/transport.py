"""The seam to the wire: one POST in, one whole reply or one httpx.RequestError out.

Redirects are never followed (they would carry keys elsewhere), loopback never goes through a proxy, and a
body is read up to a cap on its decoded size.
"""

from __future__ import annotations

import os
import ssl
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import httpx

from vlsb.config import MAX_BODY_BYTES
from vlsb.endpoints.faults import ReplyTooLarge
from vlsb.endpoints.secrets import Credentials
from vlsb.endpoints.timings import Marks
from vlsb.errors import ConfigError

# Servers close idle connections (uvicorn after 5 s); ours go first, so that none is reused too late.
KEEPALIVE_S = 4.0
CONNECT_TIMEOUT_S = 20.0


class Upload:
    """A request body that is let go when it is taken, so that waiting for a reply holds no picture.

    Who takes it says `sent` when it holds nothing of it any more; `on_sent` hears of it once. `marks` are
    for the transport to set as the exchange goes on.
    """

    def __init__(self, pieces: Iterable[bytes], on_sent: Callable[[], None] = lambda: None) -> None:
        self._pieces = list(pieces)
        self._on_sent: Callable[[], None] | None = on_sent
        self.marks = Marks()
        self.size = sum(map(len, self._pieces))

    def take(self) -> Iterator[bytes]:
        """The body in its pieces, each once; nothing afterwards."""
        self._pieces.reverse()
        while self._pieces:
            yield self._pieces.pop()

    def sent(self) -> None:
        """The body is on its way or given up: its memory is free."""
        self._pieces.clear()
        if self._on_sent is not None:
            self._on_sent()
            self._on_sent = None


class Transport(Protocol):
    """What the rest of the room needs from the wire."""

    async def post(self, path: str, upload: Upload) -> httpx.Response:
        """Send one JSON body; raises httpx.RequestError."""

    async def get(self, path: str) -> httpx.Response:
        """Fetch one small document; raises httpx.RequestError."""

    async def aclose(self) -> None:
        """Close every connection."""


def request_headers(credentials: Credentials) -> dict[str, str]:
    """The headers of every request. The values are secrets."""
    # No compression: completions are small, and a bomb is only bounded by the cap on decoded bytes.
    headers = {"accept": "application/json", "accept-encoding": "identity", "user-agent": "vlsb"}
    if credentials.bearer is not None:
        headers["authorization"] = f"Bearer {credentials.bearer.reveal()}"
    return headers | {name.lower(): value.reveal() for name, value in credentials.headers}


def tls_context(ca_bundle: Path | None, *, trust_environment: bool) -> ssl.SSLContext:
    """Verification is always on; the user may add certificates or, by `SSL_CERT_FILE`, replace them."""
    import certifi

    named = os.environ.get("SSL_CERT_FILE") if trust_environment else None
    try:
        context = ssl.create_default_context(cafile=named or certifi.where())
        if ca_bundle is not None:
            context.load_verify_locations(cafile=str(ca_bundle))
    except (OSError, ssl.SSLError) as error:
        what = f"--ca-bundle {ca_bundle}" if ca_bundle is not None else f"SSL_CERT_FILE {named}"
        raise ConfigError(f"{what}: not a readable file of certificates.") from error
    context.set_alpn_protocols(["http/1.1"])
    return context


def plain_headers(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """A reply's headers without those of its framing: the body beside them is whole and decoded."""
    framing = ("content-encoding", "content-length", "transfer-encoding")
    return [
        (name.encode("latin-1"), value.encode("latin-1"))
        for name, value in headers.items()
        if name.lower() not in framing
    ]


class CappedBody:
    """A reply's body as it arrives, decoded here and capped: a small gzip may hold gigabytes."""

    def __init__(self, encoding: str) -> None:
        """For a body in `encoding`; httpx.RequestError for one that cannot be decoded within bounds."""
        encoding = encoding.strip().lower() or "identity"
        if encoding not in ("identity", "gzip", "deflate"):
            raise httpx.RemoteProtocolError("the reply is encoded although identity was asked for")
        self._inflate = None if encoding == "identity" else zlib.decompressobj(wbits=47)
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, raw: bytes) -> None:
        """Take what came; httpx.RequestError once the decoded body is over the cap or cannot be decoded."""
        try:
            room = MAX_BODY_BYTES + 1 - self._size
            piece = raw if self._inflate is None else self._inflate.decompress(raw, room)
        except zlib.error as error:
            raise httpx.RemoteProtocolError(f"the body cannot be decoded ({error})") from error
        self._size += len(piece)
        if self._size > MAX_BODY_BYTES:
            raise ReplyTooLarge(f"the reply is larger than {MAX_BODY_BYTES} bytes")
        self._pieces.append(piece)

    def content(self) -> bytes:
        """The decoded body so far."""
        return b"".join(self._pieces)
