"""Choosing the transport for an endpoint: our own wire, or httpx where a proxy is in the way."""

from __future__ import annotations

import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from vlsb.endpoints.providers import is_loopback
from vlsb.endpoints.secrets import Credentials
from vlsb.endpoints.transport import Transport
from vlsb.endpoints.wire import WireTransport

TRANSPORTS = ("auto", "wire", "httpx")


def open_transport(
    base_url: str, *, credentials: Credentials, connections: int, ca_bundle: Path | None, kind: str = "auto"
) -> Transport:
    """The transport for an endpoint: our own wire, or httpx where a proxy is in the way or `kind` says so."""
    trusts_environment = not is_loopback(base_url)
    if kind == "httpx" or (kind == "auto" and proxy_of(base_url) is not None):
        from vlsb.endpoints.httpx_transport import HttpxTransport

        return HttpxTransport(
            base_url,
            credentials=credentials,
            connections=connections,
            trust_environment=trusts_environment,
            ca_bundle=ca_bundle,
        )
    return WireTransport(
        base_url, credentials=credentials, ca_bundle=ca_bundle, trust_environment=trusts_environment
    )


def proxy_of(url: str) -> str | None:
    """The proxy that the environment names for a URL, None for none. Loopback never has one."""
    parts = urlsplit(url)
    if is_loopback(url) or urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")
