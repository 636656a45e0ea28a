"""Whether an engine reads the prompt that is meant, asked of every server before its first sample.

Of the paper's families it has to read what the authors' loader would feed, token for token: a plain chat
request drops the BOS of both LLaVA families, and a checkpoint's template, tokenizer or image limits may
differ from what its family had when the paper was written. Of others, whose prompt is the checkpoint's own
chat template, the instruction stands in the prompt once, BOS is what the tokenizer asks for, the image has
tokens, and another image gives another answer. On the way it is seen whether the model thinks, and whether
the reasoning parser leaves it an answer. The probe is a benign text with an image of two colours.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import httpx

from vlsb import strict_json
from vlsb.config import OFFICIAL_TARGET_SAMPLING
from vlsb.dialect import Dialect
from vlsb.endpoints.connect import Client
from vlsb.endpoints.credentials import engine_environment
from vlsb.endpoints.request import Prompt, ReadImage, draft
from vlsb.endpoints.transport import Upload
from vlsb.engines import expected_ids as loader
from vlsb.engines.diagnosis import BROKEN, diagnose
from vlsb.engines.install import repair_advice
from vlsb.engines.launch import RunningServer, probe_image
from vlsb.engines.process import run_script
from vlsb.errors import ServerError, ServerTimeoutError
from vlsb.models.profile import ModelProfile
from vlsb.records import ImageFile, Untrusted

if TYPE_CHECKING:
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
    read_ids = await engine_ids(server, plan.model)
    if read_ids != tuple(expected):
        raise ServerError(
            f"{plan.model.name}: the engine would read another prompt than the authors' script gives its "
            f"model: {difference(read_ids, expected)}. The checkpoint's tokenizer, chat template or image "
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
    client = server.client()
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
    place = next((n for n, (mine, its) in enumerate(pairs) if mine != its), min(len(found), len(expected)))
    return (
        f"{len(found)} ids where {len(expected)} are expected, the same up to position {place}, then "
        f"{_excerpt(found, place)} where {_excerpt(expected, place)} are expected"
    )


def _excerpt(ids: Sequence[int], place: int) -> str:
    excerpt = " ".join(map(str, ids[place : place + _SHOWN_IDS])) or "nothing"
    return f"{excerpt} ..." if place + _SHOWN_IDS < len(ids) else excerpt


def _as_ids(found: object) -> tuple[int, ...] | None:
    if not isinstance(found, list) or not all(isinstance(each, int) for each in found):
        return None
    return tuple(found)


# A checkpoint's own chat template.

GREEN = (30, 160, 60)
OPENS_THOUGHT = re.compile(r"(<think>|<thinking>|◁think▷|\[THINK\]|<reasoning>)\s*$")
BEGINS_THOUGHT = re.compile(r"\s*(?:<think>|<thinking>|◁think▷|\[THINK\]|<reasoning>)")
CHECK_TIMEOUT_S = 300.0
# Enough to tell two images apart; a model that thinks is given more to come to an answer.
_FEW_TOKENS, _MORE_TOKENS = 8, 256
_TOP = 5
# Log-probabilities of one question asked twice differ in their last digits on a GPU.
_NOISE, _LEAST_DIFFERENCE = 10.0, 1e-3
_LARGEST_MESSAGE = 500


@dataclass(frozen=True, slots=True)
class OwnPrompt:
    """What the check found: whether the model thinks, and whether its parser takes the whole answer.

    `opened_by` is the tag that its chat template begins a thought with, empty for none.
    """

    thinks: bool
    parser_takes_answer: bool = False
    opened_by: str = ""


@dataclass(frozen=True, slots=True)
class _ShortAnswer:
    """A short answer: its text, what was set apart as reasoning, the log-probabilities by token."""

    text: str
    reasoning: str
    chances: tuple[dict[str, float], ...]


async def check_own_prompt(server: RunningServer, model: ModelProfile, *, has_parser: bool) -> OwnPrompt:
    """Ask a running engine about its prompt. Raises ServerError where nothing may be evaluated."""
    async with engine_client(server, "did not answer about its prompt", timeout_s=CHECK_TIMEOUT_S) as client:
        return await _PromptQuestions(client, server.served_name, model, has_parser=has_parser).run()


class _PromptQuestions:
    """The questions to one engine, in their order."""

    def __init__(self, client: Client, served: str, model: ModelProfile, *, has_parser: bool) -> None:
        self._client = client
        self._served = served
        self._model = model
        self._has_parser = has_parser

    async def run(self) -> OwnPrompt:
        blue, green = self._request(probe_image()), self._request(probe_image(GREEN))
        ids = await self._tokens(blue)
        prompt = (await self._ask("/detokenize", {"tokens": ids})).get("prompt")
        if not isinstance(prompt, str):
            raise self._unreadable("/detokenize")
        if (count := prompt.count(PROBE_TEXT)) != 1:
            times = f"{count} times" if count else "not as it was sent"
            raise self._wrong(f"its chat template writes the instruction {times}")
        await self._require_bos(ids)
        without = await self._tokens(_without_image(blue))
        if len(ids) <= len(without):
            raise self._wrong("its prompt has no tokens for the image")
        opening = OPENS_THOUGHT.search(prompt)
        first = await self._answer(blue, _FEW_TOKENS)
        other, again = await self._answer(green, _FEW_TOKENS), await self._answer(blue, _FEW_TOKENS)
        least = max(_NOISE * _distance(first, again), _LEAST_DIFFERENCE)
        is_same = (first.text, first.reasoning) == (other.text, other.reasoning)
        if is_same and _distance(first, other) <= least:
            raise self._wrong("two images of different colours get the same answer, so it does not see them")
        begins = bool(first.reasoning) or BEGINS_THOUGHT.match(first.text) is not None
        if self._has_parser and opening is None:
            # A parser takes what stands before the end of a thought: all of an answer that has none.
            answer = await self._answer(blue, _MORE_TOKENS)
            if not answer.text.strip():
                return OwnPrompt(thinks=False, parser_takes_answer=True)
        return OwnPrompt(begins or opening is not None, opened_by=opening[1] if opening else "")

    async def _require_bos(self, ids: Sequence[int]) -> None:
        """BOS once where the tokenizer puts it in front of a text, and never twice."""
        plain = await self._tokens({"prompt": "A", "add_special_tokens": False})
        special = await self._tokens({"prompt": "A", "add_special_tokens": True})
        if len(special) <= len(plain) or special[0] in plain[:1]:
            return
        bos = special[0]
        leading = next((n for n, each in enumerate(ids) if each != bos), len(ids))
        if leading != 1:
            times = "without the BOS" if not leading else f"with {leading} BOS"
            raise self._wrong(f"its prompt begins {times} where its tokenizer asks for one")

    def _wrong(self, what: str) -> ServerError:
        return ServerError(
            f"{self._model.name}: {what}. Nothing was evaluated. Its chat template and tokenizer do not fit "
            "each other or this engine: try another --revision, or serve it yourself and pass --base-url."
        )

    # What the engine says.

    def _request(self, png: bytes) -> dict[str, Any]:
        """Return the fields of the very request that a run would send of the probe."""
        fields: dict[str, Any] = strict_json.loads(b"".join(probe_request(self._served, self._model, png)))
        return fields

    async def _tokens(self, fields: dict[str, Any]) -> list[int]:
        ids = _as_ids((await self._ask("/tokenize", fields)).get("tokens"))
        if ids is None:
            raise self._unreadable("/tokenize")
        return list(ids)

    async def _answer(self, request: dict[str, Any], max_tokens: int) -> _ShortAnswer:
        short = {"max_tokens": max_tokens, "logprobs": True, "top_logprobs": _TOP}
        document = await self._ask("/v1/chat/completions", request | short)
        try:
            choice = document["choices"][0]
            message = choice["message"]
            places = (choice.get("logprobs") or {}).get("content") or ()
            return _ShortAnswer(
                text=message.get("content") or "",
                reasoning=message.get("reasoning") or message.get("reasoning_content") or "",
                chances=tuple(
                    {each["token"]: each["logprob"] for each in place["top_logprobs"]} for place in places
                ),
            )
        except (KeyError, IndexError, TypeError, AttributeError):
            raise self._unreadable("/v1/chat/completions") from None

    async def _ask(self, path: str, fields: dict[str, Any]) -> dict[str, Any]:
        body = strict_json.dumps({"model": self._served, **fields}).encode()
        reply = await self._client.ask(path, Upload([body]))
        try:
            document = strict_json.loads(reply.content) if reply.status_code == 200 else None
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise ServerError(
                f"{self._model.name}: no answer about its prompt ({path}, HTTP {reply.status_code})",
                detail=Untrusted(reply.content[:_LARGEST_MESSAGE].decode("utf-8", "replace")),
            )
        return document

    def _unreadable(self, path: str) -> ServerError:
        return ServerError(f"{self._model.name}: what the engine says of its prompt ({path}) cannot be read.")


def _without_image(request: dict[str, Any]) -> dict[str, Any]:
    turns = [
        {**turn, "content": [part for part in turn["content"] if part["type"] != "image_url"]}
        if isinstance(turn["content"], list)
        else turn
        for turn in request["messages"]
    ]
    return {**request, "messages": turns}


def _distance(one: _ShortAnswer, other: _ShortAnswer) -> float:
    """Return the largest difference between log-probabilities of the same token at the same place."""
    pairs = zip(one.chances, other.chances, strict=False)
    apart = [abs(mine[token] - its[token]) for mine, its in pairs for token in mine.keys() & its.keys()]
    return max(apart, default=0.0)
