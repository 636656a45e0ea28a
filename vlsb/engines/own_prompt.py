"""What can be held against a prompt that no authors' loader made: the checkpoint's own chat template, served.

Asked of every engine of a newer or unknown family before its first sample. The instruction stands in the
prompt once, BOS is what the tokenizer asks for, the image has tokens, and another image gives another answer.
On the way it is seen whether the model thinks, and whether the reasoning parser leaves it an answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlsb import strict_json
from vlsb.endpoints.connect import Client
from vlsb.endpoints.transport import Upload
from vlsb.engines.prompt_check import PROBE_TEXT, engine_client, probe_request
from vlsb.engines.readiness import probe_image
from vlsb.errors import ServerError
from vlsb.models.profile import ModelProfile
from vlsb.records import Untrusted

if TYPE_CHECKING:
    from vlsb.engines.launch import RunningServer

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
class _Reply:
    """A short answer: its text, what was set apart as reasoning, the log-probabilities by token."""

    text: str
    reasoning: str
    chances: tuple[dict[str, float], ...]


async def check_own_prompt(server: RunningServer, model: ModelProfile, *, has_parser: bool) -> OwnPrompt:
    """Ask a running engine about its prompt. Raises ServerError where nothing may be evaluated."""
    async with engine_client(server, "did not answer about its prompt", timeout_s=CHECK_TIMEOUT_S) as client:
        return await _Check(client, server.served_name, model, has_parser=has_parser).run()


class _Check:
    """The questions to one engine, in their order."""

    def __init__(self, client: Client, served: str, model: ModelProfile, *, has_parser: bool) -> None:
        self._client = client
        self._served = served
        self._model = model
        self._has_parser = has_parser

    async def run(self) -> OwnPrompt:
        blue, green = self._request(probe_image()), self._request(probe_image(GREEN))
        ids = await self._tokens(blue)
        prompt = await self._text_of(ids)
        self._require_instruction(prompt)
        await self._require_bos(ids)
        without = await self._tokens(_without_image(blue))
        if len(ids) <= len(without):
            raise self._wrong("its prompt has no tokens for the image")
        opening = OPENS_THOUGHT.search(prompt)
        first = await self._answer(blue, _FEW_TOKENS)
        other, again = await self._answer(green, _FEW_TOKENS), await self._answer(blue, _FEW_TOKENS)
        if not _differ(first, other, noise=_distance(first, again)):
            raise self._wrong("two images of other colours get the same answer, so it does not see them")
        begins = bool(first.reasoning) or BEGINS_THOUGHT.match(first.text) is not None
        if self._has_parser and opening is None:
            # A parser takes what stands before the end of a thought: all of an answer that has none.
            answer = await self._answer(blue, _MORE_TOKENS)
            if not answer.text.strip():
                return OwnPrompt(thinks=False, parser_takes_answer=True)
        return OwnPrompt(begins or opening is not None, opened_by=opening[1] if opening else "")

    def _require_instruction(self, prompt: str) -> None:
        count = prompt.count(PROBE_TEXT)
        if count != 1:
            times = "not as it was sent" if not count else f"{count} times"
            raise self._wrong(f"its chat template writes the instruction {times}")

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
        found = (await self._ask("/tokenize", fields)).get("tokens")
        if not isinstance(found, list) or not all(isinstance(each, int) for each in found):
            raise self._unreadable("/tokenize")
        return found

    async def _text_of(self, ids: Sequence[int]) -> str:
        found = (await self._ask("/detokenize", {"tokens": list(ids)})).get("prompt")
        if not isinstance(found, str):
            raise self._unreadable("/detokenize")
        return found

    async def _answer(self, request: dict[str, Any], max_tokens: int) -> _Reply:
        short = {"max_tokens": max_tokens, "logprobs": True, "top_logprobs": _TOP}
        document = await self._ask("/v1/chat/completions", request | short)
        try:
            choice = document["choices"][0]
            message = choice["message"]
            places = (choice.get("logprobs") or {}).get("content") or ()
            return _Reply(
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


def _differ(one: _Reply, other: _Reply, *, noise: float) -> bool:
    if (one.text, one.reasoning) != (other.text, other.reasoning):
        return True
    return _distance(one, other) > max(_NOISE * noise, _LEAST_DIFFERENCE)


def _distance(one: _Reply, other: _Reply) -> float:
    """Return the largest difference between log-probabilities of the same token at the same place."""
    pairs = zip(one.chances, other.chances, strict=False)
    found = [abs(left[token] - right[token]) for left, right in pairs for token in left.keys() & right.keys()]
    return max(found, default=0.0)
