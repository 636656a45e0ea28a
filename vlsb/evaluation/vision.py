"""Whether images reach a target whole: it is asked about images that were drawn a moment ago.

A gateway that drops images, or a model that answers from the text, guesses, and guesses wrong. One that makes
images smaller loses the fine print first. On VLSBench a blind model only looks unsafe.
"""

from __future__ import annotations

import asyncio
import random
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from vlsb.config import ModelSettings
from vlsb.data import canaries as drawn
from vlsb.data.canaries import QUESTIONS, Trait
from vlsb.dialect import Dialect
from vlsb.endpoints.client import EndpointClient
from vlsb.endpoints.request import Draft, Prompt, ReadImage, draft
from vlsb.endpoints.retry import Ended
from vlsb.errors import VlsbError
from vlsb.evaluation.attacks import selftest_clients
from vlsb.evaluation.clients import TARGET
from vlsb.evaluation.session import Resolved
from vlsb.records import ImageFile, Key, Untrusted

_PLAIN = (Trait.COLOUR, Trait.SHAPE, Trait.WORD)


@dataclass(frozen=True, slots=True)
class Canary:
    """An image that was drawn for one question, and its answer. `reply` is what the target said."""

    trait: Trait
    expected: str
    reply: Untrusted

    @property
    def is_seen(self) -> bool:
        """Whether the reply names the answer, and no other that could have been."""
        words = set(re.findall(r"[a-z]+|[0-9]+", self.reply.expose().lower()))
        _, answers = QUESTIONS[self.trait]
        named = {each for each in answers if each in words or drawn.DIGITS.get(each) in words}
        return named == {self.expected}


class Sight(StrEnum):
    """What the canaries say of the way from a request to the model."""

    WHOLE = "whole"
    COARSE = "coarse"
    NONE = "none"
    UNCLEAR = "unclear"


def sight(canaries: list[Canary]) -> Sight:
    """Tell what reaches the model from what it saw."""
    seen = {each.trait for each in canaries if each.is_seen}
    if not seen.intersection(_PLAIN):
        return Sight.NONE
    if not seen.issuperset(_PLAIN):
        return Sight.UNCLEAR
    return Sight.WHOLE if Trait.FINE_PRINT in seen else Sight.COARSE


async def check_vision(resolved: Resolved, say: Callable[[str], None]) -> list[Canary]:
    """Ask the target about a canary of each trait, one after the other.

    Raises a VlsbError where the endpoint cannot be asked at all.
    """
    settings, dice = resolved.plan.models[TARGET], random.Random(secrets.token_bytes(16))
    canaries = []
    async with selftest_clients(resolved, say) as clients:
        for number, trait in enumerate(Trait):
            clients[TARGET].may_adapt = number == 0
            canaries.append(await _ask(clients[TARGET], settings, trait, dice, key=Key(number, 1)))
    return canaries


async def _ask(
    client: EndpointClient, settings: ModelSettings, trait: Trait, dice: random.Random, *, key: Key
) -> Canary:
    question, answers = QUESTIONS[trait]
    expected = dice.choice(answers)
    image = ReadImage.of(await asyncio.to_thread(drawn.draw, trait, expected, dice))
    prompt = Prompt(
        settings.system_prompt,
        Untrusted(question),
        settings.protocol.image_first,
        ImageFile(None, "image/png", len(image.content), 0),
        lambda: image,
    )

    def compose(dialect: Dialect) -> Draft:
        model = settings.endpoint.request_model
        return draft(prompt, model=model, sampling=settings.sampling, dialect=dialect)

    reply = await client.complete(compose, key=key)
    if isinstance(reply, Ended):
        failure = reply.decision
        raise VlsbError(f"The target gave no answer ({failure.code})", detail=failure.message)
    return Canary(trait, expected, reply.text)
