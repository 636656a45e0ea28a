"""Which models an endpoint lists: asked when a name is missing or wrong."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx

from vlsb import strict_json
from vlsb.config import Party
from vlsb.endpoints.connect import open_client
from vlsb.endpoints.credentials import Credentials, Redactor
from vlsb.endpoints.faults import classify, fatal_error
from vlsb.errors import ConfigError, UnknownModelError

_MODEL_LIST_TIMEOUT_S = 10.0


async def list_models(party: Party, credentials: Credentials, *, ca_bundle: Path | None) -> list[str]:
    """The models that an endpoint lists. Raises what a run there would end with if it lists nothing."""
    url = party.endpoint.base_url
    client = open_client(url, credentials=credentials, connections=1, ca_bundle=ca_bundle)
    try:
        reply = await _reply(client, "/models")
        is_list = isinstance(reply, httpx.Response) and reply.is_success
        if isinstance(reply, httpx.Response) and is_list and (names := _names(reply)) is not None:
            return names
        better_url = await url_with_version(client, url)
    finally:
        await client.aclose()
    decision = classify(reply, has_succeeded=False, attempt=2, now=time.time())
    if is_list or decision.error is UnknownModelError:
        advice = "Check --base-url, or pass --model NAME."
        if better_url is not None:
            advice = f"Did you mean --base-url {better_url}?"
        raise ConfigError(f"{party}: it lists no models at /models", advice=advice)
    raise fatal_error(decision, party, (), Redactor(credentials.secrets()), better_url=better_url)


async def url_with_version(client: httpx.AsyncClient, base_url: str) -> str | None:
    """The base URL with `/v1` behind it if models are listed there and it had none; else None."""
    if base_url.endswith("/v1"):
        return None
    reply = await _reply(client, "/v1/models")
    # Without a key, or with a wrong one, it is still the place.
    is_there = isinstance(reply, httpx.Response) and reply.status_code in (200, 401, 403)
    return f"{base_url}/v1" if is_there else None


async def model_names(client: httpx.AsyncClient) -> list[str]:
    """The models listed at the other end of a transport; none if it does not say."""
    reply = await _reply(client, "/models")
    return (_names(reply) or []) if isinstance(reply, httpx.Response) else []


async def _reply(client: httpx.AsyncClient, path: str) -> httpx.Response | httpx.RequestError:
    try:
        async with asyncio.timeout(_MODEL_LIST_TIMEOUT_S):
            return await client.get(path)
    except TimeoutError:
        return httpx.ReadTimeout(f"no whole reply within {_MODEL_LIST_TIMEOUT_S:g} s")
    except httpx.RequestError as error:
        return error


def _names(reply: httpx.Response) -> list[str] | None:
    """The names in a list of models; None if the reply is no such list."""
    try:
        listed = strict_json.loads(reply.content)["data"]
        return [each["id"] for each in listed if isinstance(each["id"], str)]
    except (ValueError, KeyError, TypeError):
        return None
