"""The wire: one POST in, one whole reply or one TransportFault out.

Redirects are never followed (they would carry keys elsewhere), loopback never goes through a proxy,
and a body is read up to a cap on its decoded size. This is the only module that imports the HTTP stack.
"""

from __future__ import annotations

import socket
import ssl
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import httpx

from vlsb.config import MAX_BODY_BYTES
from vlsb.endpoints.faults import Reply, TransportFault, TransportKind
from vlsb.endpoints.secrets import Credentials
from vlsb.errors import ConfigError

# Servers close idle connections (uvicorn after 5 s); ours go first, so that none is reused too late.
KEEPALIVE_S = 4.0
CONNECT_TIMEOUT_S = 20.0


class Transport(Protocol):
    """What the rest of the room needs from the wire."""

    async def post(self, path: str, body: bytes) -> Reply:
        """Send one JSON body; raises TransportFault."""

    async def get(self, path: str) -> Reply:
        """Fetch one small document; raises TransportFault."""

    async def aclose(self) -> None:
        """Close every connection."""


class HttpxTransport:
    """The transport over httpx. The caller bounds the time of each call."""

    def __init__(
        self,
        base_url: str,
        *,
        credentials: Credentials,
        connections: int,
        trust_environment: bool,
        ca_bundle: Path | None = None,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._client = httpx.AsyncClient(
            headers=_headers(credentials),
            follow_redirects=False,
            trust_env=trust_environment,
            verify=_tls_context(ca_bundle, trust_environment=trust_environment),
            # Time is bounded around the whole attempt: a timeout per read never ends a slow drip.
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
            limits=httpx.Limits(
                max_connections=None, max_keepalive_connections=connections, keepalive_expiry=KEEPALIVE_S
            ),
        )

    async def post(self, path: str, body: bytes) -> Reply:
        """Send one JSON body and read the whole reply."""
        return await self._request("POST", path, body, {"content-type": "application/json"})

    async def get(self, path: str) -> Reply:
        """Fetch one small document."""
        return await self._request("GET", path, None, {})

    async def _request(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Reply:
        with _ours():
            async with self._client.stream(
                method, self._base_url + path, content=body, headers=headers
            ) as response:
                content = await _read_capped(response)
                return Reply(response.status_code, dict(response.headers.items()), content)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()


async def _read_capped(response: httpx.Response) -> bytes:
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "deflate"):
        raise TransportFault(TransportKind.PROTOCOL, "the reply is encoded although identity was asked for")
    # Decoded here and not by the stack: it would inflate one read of the socket a thousandfold at once.
    inflate = None if encoding == "identity" else zlib.decompressobj(wbits=47)
    pieces: list[bytes] = []
    size = 0
    async for raw in response.aiter_raw():
        piece = raw if inflate is None else inflate.decompress(raw, MAX_BODY_BYTES + 1 - size)
        size += len(piece)
        if size > MAX_BODY_BYTES:
            raise TransportFault(TransportKind.TOO_LARGE, f"the reply is larger than {MAX_BODY_BYTES} bytes")
        pieces.append(piece)
    return b"".join(pieces)


def _headers(credentials: Credentials) -> dict[str, str]:
    # No compression: completions are small, and a bomb is only bounded by the cap on decoded bytes.
    headers = {"accept": "application/json", "accept-encoding": "identity", "user-agent": "vlsb"}
    if credentials.bearer is not None:
        headers["authorization"] = f"Bearer {credentials.bearer.reveal()}"
    return headers | {name.lower(): value.reveal() for name, value in credentials.headers}


def _tls_context(ca_bundle: Path | None, *, trust_environment: bool) -> ssl.SSLContext:
    context = httpx.create_ssl_context(trust_env=trust_environment)
    if ca_bundle is not None:
        try:
            context.load_verify_locations(cafile=str(ca_bundle))
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"--ca-bundle {ca_bundle}: not a readable file of certificates.") from error
    return context


_KINDS: tuple[tuple[type[Exception], TransportKind], ...] = (
    (httpx.TimeoutException, TransportKind.TIMEOUT),
    (httpx.ConnectError, TransportKind.CONNECT),
    (httpx.ProxyError, TransportKind.CONNECT),
    (zlib.error, TransportKind.PROTOCOL),
    (httpx.DecodingError, TransportKind.PROTOCOL),
    (httpx.LocalProtocolError, TransportKind.PROTOCOL),
    (httpx.TransportError, TransportKind.CLOSED),
    (httpx.StreamError, TransportKind.CLOSED),
    (OSError, TransportKind.CLOSED),
)


@contextmanager
def _ours() -> Iterator[None]:
    """Turn the HTTP stack's exceptions into TransportFault; the first match in the table wins."""
    try:
        yield
    except TransportFault:
        raise
    except Exception as error:
        raise (_fault(error) or error) from error


def _fault(error: Exception) -> TransportFault | None:
    message = str(error) or type(error).__name__
    causes = list(_causes(error))
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return TransportFault(TransportKind.CERTIFICATE, message)
    if isinstance(error, httpx.ConnectTimeout) or any(isinstance(cause, socket.gaierror) for cause in causes):
        return TransportFault(TransportKind.CONNECT, message)
    kind = next((kind for theirs, kind in _KINDS if isinstance(error, theirs)), None)
    return None if kind is None else TransportFault(kind, message)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
