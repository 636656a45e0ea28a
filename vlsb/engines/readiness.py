"""Whether an engine answers, and is ours: its health, a name that only we know, one token for an image."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Callable
from typing import Any

import httpx
from tenacity import AsyncRetrying, retry_if_exception_type, wait_fixed

from vlsb import strict_json
from vlsb.endpoints.connect import Client, open_client
from vlsb.endpoints.credentials import Credentials, Redactor, Secret
from vlsb.endpoints.transport import Upload
from vlsb.errors import ServerError
from vlsb.records import Untrusted

_POLL_S = 0.25
# Health and the model list take milliseconds; a loaded machine may need seconds for them.
_PROBE_TIMEOUT_S = 20.0
# An engine that has just come up may still fail the first requests; one that is not well fails them all, and
# one that is about to end does so within a second, which says more than its reply.
_CHECKS = 3
_CHECK_WAIT_S = 1.0
PROBE_SIZE = (240, 150)
BLUE = (40, 80, 200)
_LARGEST_MESSAGE = 500


class NotYet(Exception):
    """The engine does not answer as it will: ask again."""


async def await_ready(root: str, *, name: str, own_name: str, key: Secret, check: Callable[[], None]) -> None:
    """Return once the engine at `root` has described an image in one token. `own_name` only it can know.

    Polls without end: the caller bounds the time, and sees whether the engine lives. `check` is called when
    it is up. Raises ServerError when it is up and refuses.
    """
    client = open_client(root, credentials=Credentials(key), connections=1, ca_bundle=None)
    polling = AsyncRetrying(retry=retry_if_exception_type(NotYet), wait=wait_fixed(_POLL_S))
    refusals = 0
    try:
        async for attempt in polling:
            with attempt:
                if (await _reply(client, "/health")).status_code != 200:
                    raise NotYet
                # Another server on our port has the health, too, and lists other names or wants another key.
                models = _object(await _reply(client, "/v1/models")).get("data")
                listed = models if isinstance(models, list) else []
                if own_name not in [each.get("id") for each in listed if isinstance(each, dict)]:
                    raise NotYet
        check()
        async for attempt in polling.copy(wait=wait_fixed(_CHECK_WAIT_S)):
            with attempt:
                if refusal := await _refusal(client, own_name):
                    refusals += 1
                    if refusals < _CHECKS:
                        raise NotYet
                    words = refusal.content[:_LARGEST_MESSAGE].decode("utf-8", "replace")
                    detail = Untrusted(f"status {refusal.status_code}, {words}")
                    raise ServerError(
                        f"{name}: the engine is up but does not describe an image",
                        detail=Redactor([key]).message(detail),
                    )
    finally:
        await client.aclose()


async def _refusal(client: Client, own_name: str) -> httpx.Response | None:
    """Return what the engine replied to an image if it was no answer: an aborted one is none."""
    reply = await _reply(client, "/v1/chat/completions", Upload([image_question(own_name)]))
    choices = _object(reply).get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    is_answer = isinstance(first, dict) and first.get("finish_reason") in ("stop", "length")
    return None if is_answer else reply


async def _reply(client: Client, path: str, upload: Upload | None = None) -> httpx.Response:
    """Return what the engine says; NotYet if it does not.

    Its first image may take it as long as its start may.
    """
    try:
        async with asyncio.timeout(_PROBE_TIMEOUT_S if upload is None else None):
            return await (client.get(path) if upload is None else client.ask(path, upload))
    except (TimeoutError, httpx.RequestError) as error:
        raise NotYet from error


def _object(reply: httpx.Response) -> dict[str, Any]:
    try:
        value = strict_json.loads(reply.content) if reply.status_code == 200 else None
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def image_question(model: str) -> bytes:
    """Return the body of a chat about the probe image that is to be answered in one token."""
    url = f"data:image/png;base64,{base64.b64encode(probe_image()).decode()}"
    content = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "Describe the image."},
    ]
    body = {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 1,
        "temperature": 0,
    }
    return strict_json.dumps(body).encode()


def probe_image(color: tuple[int, int, int] = BLUE) -> bytes:
    """A PNG of red and another colour, wider than high, that every family takes."""
    from PIL import Image

    width, height = PROBE_SIZE
    image = Image.new("RGB", PROBE_SIZE, color)
    image.paste((200, 40, 40), (0, 0, width // 2, height))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
