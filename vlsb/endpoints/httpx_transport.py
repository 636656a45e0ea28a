"""The transport over httpx: for endpoints behind a proxy, and to compare with. Imports the HTTP stack."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from vlsb.endpoints.secrets import Credentials
from vlsb.endpoints.timings import Marks
from vlsb.endpoints.transport import (
    CONNECT_TIMEOUT_S,
    KEEPALIVE_S,
    CappedBody,
    Upload,
    plain_headers,
    request_headers,
    tls_context,
)


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
            headers=request_headers(credentials),
            follow_redirects=False,
            trust_env=trust_environment,
            verify=tls_context(ca_bundle, trust_environment=trust_environment),
            # Time is bounded around the whole attempt: a timeout per read never ends a slow drip.
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
            limits=httpx.Limits(
                max_connections=None, max_keepalive_connections=connections, keepalive_expiry=KEEPALIVE_S
            ),
        )

    async def post(self, path: str, upload: Upload) -> httpx.Response:
        """Send one JSON body and read the whole reply."""
        headers = {"content-type": "application/json"}
        return await self._request("POST", path, b"".join(upload.take()), headers, upload.marks)

    async def get(self, path: str) -> httpx.Response:
        """Fetch one small document."""
        return await self._request("GET", path, None, {}, Marks())

    async def _request(
        self, method: str, path: str, content: bytes | None, headers: Mapping[str, str], marks: Marks
    ) -> httpx.Response:
        with _ours():
            async with self._client.stream(
                method,
                self._base_url + path,
                content=content,
                headers=headers,
                extensions={"trace": _marking(marks)},
            ) as response:
                marks.first_byte_at = time.monotonic()
                body = CappedBody(response.headers.get("content-encoding", ""))
                async for piece in response.aiter_raw():
                    body.add(piece)
                return httpx.Response(
                    response.status_code, headers=plain_headers(response.headers), content=body.content()
                )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()


def _marking(marks: Marks) -> Callable[[str, Mapping[str, Any]], Awaitable[None]]:
    """A trace of the HTTP stack that sets marks; a tunnel's own request is overwritten by the real one."""

    async def trace(event: str, details: Mapping[str, Any]) -> None:
        if event == "http11.send_request_headers.started":
            marks.opened_at = time.monotonic()
        elif event == "http11.send_request_body.complete":
            marks.sent_at = time.monotonic()

    return trace


@contextmanager
def _ours() -> Iterator[None]:
    """Turn what else the HTTP stack may raise into its own kind of exception."""
    try:
        yield
    except (OSError, httpx.StreamError) as error:
        raise httpx.ReadError(str(error) or type(error).__name__) from error
