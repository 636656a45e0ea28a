"""Whether an engine reads the prompt that the authors' loader would feed, token for token.

Asked of every server before its first sample: a plain chat request drops the BOS of both LLaVA families, and
a checkpoint's template, tokenizer or image limits may differ from what its family had when the paper was
written. The probe is a benign text with an image of two colours.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from itertools import pairwise
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx

from vlsb import strict_json
from vlsb.config import OFFICIAL_TARGET_SAMPLING
from vlsb.dialect import Dialect
from vlsb.endpoints.connect import Client, open_client
from vlsb.endpoints.credentials import Credentials, engine_environment
from vlsb.endpoints.request import Prompt, ReadImage, draft
from vlsb.endpoints.transport import Upload
from vlsb.engines import expected_ids as loader
from vlsb.engines.diagnosis import BROKEN, diagnose
from vlsb.engines.install import repair_advice
from vlsb.engines.process import run_script
from vlsb.engines.readiness import probe_image
from vlsb.errors import ServerError, ServerTimeoutError
from vlsb.models.profile import ModelProfile
from vlsb.records import ImageFile, Untrusted

if TYPE_CHECKING:
    from vlsb.engines.launch import RunningServer
    from vlsb.engines.plan import ServerPlan

# Two blanks and a line break: where tokenizers that look alike part, and templates that trim or join show.
PROBE_TEXT = "What is shown here?  Name its two colours.\nAnswer in one sentence."
LOADER_TIMEOUT_S = 600.0
ENGINE_TIMEOUT_S = 120.0
# With these set by the user the prompt is meant to be another one, which the run records.
_OTHER_PROMPT = (
    "target chat template:",
    "target engine option --chat-template",
    "target engine option --hf-overrides",
    "target engine option --mm-processor-kwargs",
    "target engine option --tokenizer",
    "target engine option --trust-remote-code",
)
_SHOWN_IDS = 5


def is_comparable(plan: ServerPlan) -> bool:
    """Tell whether a plan means the authors' prompt at all: no deviation of the user's touches it."""
    return plan.model.prompt_source != "own" and not any(
        each.startswith(_OTHER_PROMPT) for each in plan.deviations
    )


async def expected_ids(plan: ServerPlan, *, environment: Mapping[str, str]) -> tuple[int, ...] | None:
    """Return what the authors' loader feeds for the probe; None for a plan that is not comparable.

    Takes some seconds and needs no running engine: it can be asked while one starts. ServerError if the
    engine's own Python cannot say.
    """
    if not is_comparable(plan):
        return None
    name = plan.model.name
    if plan.engine.python is None:
        raise ServerError(
            f"{name}: the Python of {plan.engine.executable} is not known, so its prompts cannot be compared "
            "with those of the authors' loader. Name its environment's folder: --engine DIR."
        )
    # None for a local folder.
    revision = next((value for option, value in pairwise(plan.arguments) if option == "--revision"), None)
    job = loader.PromptJob(
        source=plan.model.prompt_source,
        image_first=plan.model.protocol.image_first,
        template_has_bos=plan.model.template_has_bos,
        weights=plan.weights,
        revision=revision,
        text=PROBE_TEXT,
        image=base64.b64encode(probe_image()).decode("ascii"),
    )
    own = {**engine_environment(environment, asks_hub=plan.asks_hub), **plan.environment}
    try:
        async with asyncio.timeout(LOADER_TIMEOUT_S):
            end = await run_script(
                plan.engine.python, loader.__file__, asdict(job), environment=own, emit=lambda _: None
            )
    except TimeoutError:
        raise ServerTimeoutError(
            f"{name}: the checkpoint's own processor gave no prompt within {LOADER_TIMEOUT_S:g} s."
        ) from None
    ids = _as_ids(end.last.get("ids"))
    if end.code != 0 or ids is None:
        repair = repair_advice(plan.engine, plan.model.family)
        cause = diagnose(end.complaints.expose(), end.code, repair=repair)
        if cause is not None and cause.code == BROKEN:
            raise ServerError(f"{name}: {cause.message}")
        raise ServerError(
            f"{name}: the checkpoint's own processor gives no prompt to compare with", detail=end.complaints
        )
    return ids


async def check_parity(server: RunningServer, plan: ServerPlan, expected: Sequence[int] | None) -> None:
    """Stop with a ServerError unless the engine reads exactly the expected ids; None compares nothing."""
    if expected is None:
        return
    found = await engine_ids(server, plan.model)
    if found != tuple(expected):
        raise ServerError(
            f"{plan.model.name}: the engine would read another prompt than the authors' script gives its "
            f"model: {difference(found, expected)}. The checkpoint's tokenizer, chat template or image "
            f"settings are not those of {plan.model.family}; nothing was evaluated."
        )


async def engine_ids(server: RunningServer, model: ModelProfile) -> tuple[int, ...]:
    """Ask a running engine for the ids of the very request that a run would send of the probe."""
    async with engine_client(server, "did not say its prompt", timeout_s=ENGINE_TIMEOUT_S) as client:
        reply = await client.ask("/tokenize", Upload(probe_request(server.served_name, model)))
    try:
        ids = _as_ids(strict_json.loads(reply.content)["tokens"])
    except (ValueError, KeyError, TypeError):
        ids = None
    if reply.status_code != 200 or ids is None:
        raise ServerError(
            f"{server.name}: the engine did not say its prompt (HTTP {reply.status_code})",
            detail=Untrusted(reply.content[:1000].decode("utf-8", "replace")),
        )
    return ids


@asynccontextmanager
async def engine_client(server: RunningServer, failure: str, *, timeout_s: float) -> AsyncIterator[Client]:
    """A client of a running engine; what goes wrong in the block is a ServerError: the engine `failure`."""
    address = urlsplit(server.base_url)
    client = open_client(
        f"{address.scheme}://{address.netloc}",
        credentials=Credentials(server.key),
        connections=1,
        ca_bundle=None,
    )
    message = f"{server.name}: the engine {failure}"
    try:
        async with asyncio.timeout(timeout_s):
            yield client
    except TimeoutError:
        raise ServerTimeoutError(f"{message} within {timeout_s:g} s.") from None
    except httpx.RequestError as fault:
        raise ServerError(message, detail=Untrusted(str(fault))) from fault
    finally:
        await client.aclose()


def probe_request(name: str, model: ModelProfile, png: bytes | None = None) -> tuple[bytes, ...]:
    """Return the request of the probe, built as a run's requests are; `/tokenize` leaves aside what it lacks.

    `png` is another image than the usual one.
    """
    png = png or probe_image()
    protocol = model.protocol
    prompt = Prompt(
        protocol.system_prompt,
        Untrusted(PROBE_TEXT),
        image_first=protocol.image_first,
        image=ImageFile(None, "image/png", len(png), 0),
        read_image=lambda: ReadImage.of(png),
    )
    sampling = replace(OFFICIAL_TARGET_SAMPLING, extra=protocol.fields)
    return draft(prompt, model=name, sampling=sampling, dialect=Dialect()).pieces()[0]


def difference(found: Sequence[int], expected: Sequence[int]) -> str:
    """Where two prompts part, in words."""
    pairs = zip(found, expected, strict=False)
    place = next(
        (n for n, (left, right) in enumerate(pairs) if left != right), min(len(found), len(expected))
    )
    return (
        f"{len(found)} ids where {len(expected)} are expected, the same up to position {place}, then "
        f"{_excerpt(found, place)} where {_excerpt(expected, place)} are expected"
    )


def _excerpt(ids: Sequence[int], place: int) -> str:
    shown = " ".join(map(str, ids[place : place + _SHOWN_IDS])) or "nothing"
    return f"{shown} ..." if place + _SHOWN_IDS < len(ids) else shown


def _as_ids(found: object) -> tuple[int, ...] | None:
    if not isinstance(found, list) or not all(isinstance(each, int) for each in found):
        return None
    return tuple(found)
