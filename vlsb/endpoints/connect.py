"""Opening an endpoint's client: httpx over our own transport, or over httpx's where a proxy is in the way.

The environment is read here and nowhere below, so that what is announced about a proxy is what is done.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import ssl
import time
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import certifi
import httpx

from vlsb.endpoints.credentials import Credentials
from vlsb.endpoints.faults import ReplyTooLarge
from vlsb.endpoints.timings import Moments
from vlsb.endpoints.transport import CONNECT_TIMEOUT_S, KEEPALIVE_S, CappedBody, Upload, WholeReply, Wire
from vlsb.errors import ConfigError
from vlsb.models.providers import is_loopback

if TYPE_CHECKING:
    from openai import AsyncOpenAI


class _NoCookies(httpx.Cookies):
    """Keeps nothing: what one reply sets must not reach the next request."""

    def extract_cookies(self, response: httpx.Response) -> None:
        """Leave them in the reply."""


_NO_COOKIES = _NoCookies()


class Client(httpx.AsyncClient):
    """The one way out to an endpoint. Sends keys to nobody else: no redirects, no cookies, no `.netrc`."""

    def __init__(self, **options: Any) -> None:
        """A client with the options of httpx."""
        super().__init__(**options)
        self._by_path: dict[str, tuple[httpx.URL, httpx.Headers]] = {}

    @property  # type: ignore[misc]
    def cookies(self) -> httpx.Cookies:
        """None, ever."""
        return _NO_COOKIES

    async def ask(self, path: str, upload: Upload) -> httpx.Response:
        """Post one JSON body and read the whole reply; raises httpx.RequestError."""
        if path not in self._by_path:
            # Where a path is and the headers of every request to it: merging them costs more than sending.
            prepared = self.build_request("POST", path, headers={"content-type": "application/json"})
            prepared.headers.pop("content-length", None)
            self._by_path[path] = prepared.url, prepared.headers
        url, headers = self._by_path[path]
        headers = headers.copy()
        headers["content-length"] = str(upload.size)
        request = httpx.Request(
            "POST", url, headers=headers, stream=upload, extensions={"marks": upload.marks}
        )
        reply = await self.send(request)
        # httpx lets a reply and its stream hold each other: memory that only a collection would free.
        reply.stream = _READ
        return reply


_READ = httpx.ByteStream(b"")


def open_client(
    base_url: str, *, credentials: Credentials, connections: int, ca_bundle: Path | None, kind: str = "auto"
) -> Client:
    """Make the client of an endpoint; httpx's own transport where a proxy is in the way or `kind` says so.

    Raises ConfigError for a base URL, a proxy or certificates that cannot be used.
    """
    proxy = proxy_of(base_url)
    is_general = proxy is not None or kind == "httpx"
    tls = None
    if is_general or base_url.startswith("https:"):
        tls = tls_context(ca_bundle, trust_environment=not is_loopback(base_url))
    transport = Wire(tls) if not is_general or tls is None else _General(tls, proxy, connections)
    try:
        return Client(
            base_url=base_url,
            headers=request_headers(credentials),
            transport=transport,
            # Time is bounded around the whole attempt: a timeout per read never ends a slow drip.
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
            trust_env=False,
            follow_redirects=False,
        )
    except httpx.InvalidURL as error:
        raise ConfigError(f"{base_url!r} is not an address that requests can go to: {error}") from error


@asynccontextmanager
async def open_sdk(
    base_url: str, *, credentials: Credentials, ca_bundle: Path | None
) -> AsyncIterator[AsyncOpenAI]:
    """Open the official SDK for an endpoint, over a client of ours, for as long as the block lasts.

    Proxy and certificates are as everywhere. Only our headers leave, whatever the SDK or its variables in the
    environment add, and it does not know the key. Raises as `open_client`.
    """
    for module in ("openai", "openai.resources.files", "openai.resources.batches", "aiofiles"):
        # A second of reading from the disk, which must not stall the loop.
        await asyncio.to_thread(import_module, module)
    import openai

    # OPENAI_LOG would print requests, and what is in them, to the terminal.
    logging.getLogger("openai").setLevel(logging.CRITICAL)
    proxy = proxy_of(base_url)
    tls = tls_context(ca_bundle, trust_environment=not is_loopback(base_url))
    via = None if proxy is None else httpx.Proxy(proxy, ssl_context=tls if proxy[:6] == "https:" else None)
    headers = request_headers(credentials)

    async def keep_ours(request: httpx.Request) -> None:
        kept = {name: request.headers[name] for name in _OF_THE_BODY if name in request.headers}
        request.headers = httpx.Headers({**kept, **headers})

    async with Client(
        transport=_Streaming(httpx.AsyncHTTPTransport(verify=tls, proxy=via, trust_env=False)),
        timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
        trust_env=False,
        follow_redirects=False,
        event_hooks={"request": [keep_ours]},
    ) as client:
        yield openai.AsyncOpenAI(
            # The client has the key: none of these may come from the environment.
            api_key="unused",
            admin_api_key="",
            organization="",
            project="",
            webhook_secret="",
            base_url=base_url,
            timeout=None,
            max_retries=0,
            http_client=cast(Any, client),
        )


def sdk_failure(error: Exception) -> httpx.Response | httpx.RequestError | None:
    """Return what failed in a call of the SDK, as without it; None for any other failure."""
    import openai

    match error:
        case openai.APIStatusError():
            return cast(httpx.Response, error.response)
        case openai.APIConnectionError(__cause__=httpx.RequestError() as cause):
            return cause
        case openai.APIConnectionError():
            return httpx.ReadError("no reply")
        case httpx.RequestError():
            return error
        case TimeoutError() | httpx.StreamError():
            return httpx.ReadTimeout("no whole reply in time")
        case openai.APIError() | ValueError() | TypeError() | AttributeError():
            # A reply of another shape than the SDK trusts in.
            return httpx.RemoteProtocolError(f"not a reply of that API ({type(error).__name__})")
    return None


_MOST_FILE_BYTES = 4 * 1024**3
_OF_THE_BODY = ("host", "content-type", "content-length", "transfer-encoding")


def request_headers(credentials: Credentials) -> dict[str, str]:
    """Return the headers of every request. The values are secrets."""
    # No compression: completions are small, and a bomb is only bounded by the cap on decoded bytes.
    headers = {"accept": "application/json", "accept-encoding": "identity", "user-agent": "vlsb"}
    if credentials.bearer is not None:
        headers["authorization"] = f"Bearer {credentials.bearer.reveal()}"
    return headers | {name.lower(): value.reveal() for name, value in credentials.headers}


def tls_context(ca_bundle: Path | None, *, trust_environment: bool) -> ssl.SSLContext:
    """Verification is always on; the user may add certificates or, by `SSL_CERT_FILE`, replace them."""
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


def proxy_of(url: str) -> str | None:
    """Return the proxy that the environment names for a URL, if any. Loopback never has one.

    Raises ConfigError, naming the variable, for one that cannot be used.
    """
    parts = urlsplit(url)
    if is_loopback(url) or _bypasses_proxy(parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)):
        return None
    proxies = urllib.request.getproxies()
    scheme = next((each for each in (parts.scheme, "all") if proxies.get(each)), None)
    if scheme is None:
        return None
    named = proxies[scheme]
    names = (f"{scheme}_proxy", f"{scheme}_proxy".upper())
    variable = next((name for name in names if os.environ.get(name) == named), "the system's proxy settings")
    proxy = named if "://" in named else f"http://{named}"
    try:
        if not httpx.Proxy(proxy).url.host:
            raise ValueError
    except (httpx.InvalidURL, ValueError) as error:
        # Not repeated in the message: a proxy's URL may hold its password.
        raise ConfigError(
            f"{variable}: not a proxy that can be used. Example: http://proxy.example.com:3128 "
            "(http, https, socks5 and socks5h are known)."
        ) from error
    return proxy


_PORTS = {"http": 80, "https": 443}


def _bypasses_proxy(host: str, port: int) -> bool:
    """Tell whether `NO_PROXY` has the host, with or without its port, its domain, or a network of it."""
    if any(urllib.request.proxy_bypass(each) for each in (host, f"{host}:{port}", f"[{host}]:{port}")):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    for each in urllib.request.getproxies().get("no", "").split(","):
        try:
            if address in ipaddress.ip_network(each.strip(), strict=False):
                return True
        except ValueError:
            continue
    return False


class _Pieces(httpx.AsyncByteStream):
    """A reply's body as it comes, up to a number of bytes."""

    def __init__(self, stream: httpx.AsyncByteStream, most_bytes: int) -> None:
        self._stream = stream
        self._left = most_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the pieces; raises ReplyTooLarge."""
        async for piece in self._stream:
            self._left -= len(piece)
            if self._left < 0:
                raise ReplyTooLarge("the reply is larger than anything that was asked for")
            yield piece

    async def aclose(self) -> None:
        """Let the connection go."""
        await self._stream.aclose()


class _Streaming(httpx.AsyncBaseTransport):
    """httpx's own transport, with replies that are bounded and not compressed."""

    def __init__(self, inner: httpx.AsyncHTTPTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; the reply's body is read by whoever asked."""
        response = await self._inner.handle_async_request(request)
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            await response.aclose()
            raise httpx.DecodingError("the reply is encoded although identity was asked for")
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Pieces(response.stream, _MOST_FILE_BYTES)
        return response

    async def aclose(self) -> None:
        """Close every connection."""
        await self._inner.aclose()


class _General(httpx.AsyncBaseTransport):
    """httpx's own transport, for proxies and to compare with; replies are read whole and capped here too."""

    def __init__(self, tls: ssl.SSLContext, proxy: str | None, connections: int) -> None:
        limits = httpx.Limits(
            max_connections=None, max_keepalive_connections=connections, keepalive_expiry=KEEPALIVE_S
        )
        self._via = None
        if proxy is not None:
            self._via = httpx.Proxy(proxy, ssl_context=tls if proxy.startswith("https:") else None)
        self._inner = httpx.AsyncHTTPTransport(verify=tls, proxy=self._via, limits=limits, trust_env=False)

    async def handle_async_request(self, request: httpx.Request) -> WholeReply:
        """Send one request and read the whole reply; raises a RequestError."""
        marks: Moments = request.extensions.get("marks") or Moments()

        async def trace(event: str, details: Mapping[str, Any]) -> None:
            # A tunnel's own request comes first: the real one overwrites its marks.
            if event == "http11.send_request_headers.started":
                marks.opened_at = time.monotonic()
            elif event == "http11.send_request_body.complete":
                marks.sent_at = time.monotonic()

        request.extensions = {**request.extensions, "trace": trace}
        try:
            response = await self._inner.handle_async_request(request)
            try:
                marks.first_byte_at = time.monotonic()
                body = CappedBody(response.headers)
                assert isinstance(response.stream, httpx.AsyncByteStream)
                async for piece in response.stream:
                    body.add(piece)
            finally:
                await response.aclose()
        except httpx.ConnectError as error:
            if self._via is None:
                raise
            raise httpx.ConnectError(f"through the proxy {self._via.url.host}: {error}") from error
        except (OSError, httpx.StreamError) as error:
            raise httpx.ReadError(str(error) or type(error).__name__) from error
        return body.reply(response.status_code, response.headers)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._inner.aclose()
