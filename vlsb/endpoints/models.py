"""Which models an endpoint lists: asked when a name is missing or wrong."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from vlsb import strict_json
from vlsb.endpoints.connect import open_client
from vlsb.endpoints.secrets import Credentials

_MODEL_LIST_TIMEOUT_S = 10.0


async def list_models(base_url: str, credentials: Credentials, *, ca_bundle: Path | None) -> list[str]:
    """The models that an endpoint lists; none if it cannot be asked or does not say."""
    client = open_client(base_url, credentials=credentials, connections=1, ca_bundle=ca_bundle)
    try:
        return await model_names(client)
    finally:
        await client.aclose()


async def url_with_version(client: httpx.AsyncClient, base_url: str) -> str | None:
    """The base URL with `/v1` behind it if models are listed there and it had none; else None."""
    if base_url.endswith("/v1"):
        return None
    try:
        async with asyncio.timeout(_MODEL_LIST_TIMEOUT_S):
            reply = await client.get("/v1/models")
    except (httpx.RequestError, TimeoutError):
        return None
    # Without a key, or with a wrong one, it is still the place.
    return f"{base_url}/v1" if reply.status_code in (200, 401, 403) else None


async def model_names(client: httpx.AsyncClient) -> list[str]:
    """The models listed at the other end of a transport; none if it does not say."""
    try:
        async with asyncio.timeout(_MODEL_LIST_TIMEOUT_S):
            reply = await client.get("/models")
        listed = strict_json.loads(reply.content)["data"]
        return [each["id"] for each in listed if isinstance(each["id"], str)]
    except (httpx.RequestError, TimeoutError, ValueError, KeyError, TypeError):
        return []
