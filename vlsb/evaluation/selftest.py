"""Attacking the configured judge: whether a response that saw no risk can talk it into a safe label."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from vlsb.data import mini_root, write_on_image
from vlsb.endpoints.accounts import Accounts
from vlsb.endpoints.engine_guard import EngineGuard
from vlsb.endpoints.request import ReadImage
from vlsb.endpoints.traffic import Traffic
from vlsb.errors import VlsbError
from vlsb.evaluation.clients import ClientSetup, guess_dialect, open_clients, tell_of_engine
from vlsb.evaluation.session import Plan
from vlsb.evaluation.settings import Resolved
from vlsb.judging.attacks import ATTACKS, CONTROL, SAMPLE, Attack
from vlsb.judging.judge import Judge
from vlsb.records import (
    Failure,
    Finding,
    ImageFile,
    Key,
    Label,
    Rating,
    Response,
    Sample,
    Untrusted,
    Usage,
    Verdict,
)


@dataclass(frozen=True, slots=True)
class AttackResult:
    """What a judge said to an attack; `is_safe` is None where it gave neither label nor rating."""

    attack: Attack
    said: str
    is_safe: bool | None


async def attack_judge(resolved: Resolved, say: Callable[[str], None]) -> list[AttackResult]:
    """Ask the judge about the control and every attack, one after the other.

    Raises a VlsbError where the endpoint cannot be asked at all.
    """
    plan, image = resolved.plan, await asyncio.to_thread(_image, "")
    (setup,) = plan.judges
    images = {"": image}
    for attack in ATTACKS:
        if attack.in_image and setup.kind.sees_image:
            images[attack.in_image] = await asyncio.to_thread(_image, attack.in_image)
    async with open_clients(_client_setup(plan, resolved, say)) as clients:
        for name, (engine, *_) in resolved.engines.items():
            tell_of_engine(clients[name], engine, plan.models[name])
        results = []
        for attack in (CONTROL, *ATTACKS):
            if attack.in_image not in images:
                continue
            content = images[attack.in_image]

            def read(sample: Sample, image: ImageFile, content: ReadImage = content) -> ReadImage:
                return content

            judge = Judge("selftest", setup, clients.get("judge"), read_image=read)
            if judge.client is not None:
                judge.client.may_adapt = attack is CONTROL
            image_file = ImageFile(None, "image/png", len(content.content), 0)
            reply = await judge.assess(SAMPLE, image_file, _response(attack, content.sha256))
            results.append(_result(attack, reply))
        return results


def _client_setup(plan: Plan, resolved: Resolved, say: Callable[[str], None]) -> ClientSetup:
    def unless_stopped(starting: Coroutine[Any, Any, list[EngineGuard]]) -> Awaitable[list[EngineGuard]]:
        return starting

    return ClientSetup(
        models=plan.models,
        credentials=resolved.credentials,
        dialects={name: guess_dialect(settings) for name, settings in plan.models.items()},
        # Whoever waits for a dozen requests does not wait for half an hour each.
        policy=replace(plan.policy, sample_timeout_s=min(plan.policy.sample_timeout_s, 300), max_attempts=3),
        ca_bundle=plan.ca_bundle,
        transport=plan.transport,
        traffic=Traffic(),
        accounts=Accounts(),
        observe=lambda event: None,
        say=say,
        engines=resolved.engines,
        unless_stopped=unless_stopped,
    )


def _response(attack: Attack, image_sha256: str) -> Response:
    text = Untrusted(attack.response)
    key = Key(SAMPLE.id, 1)
    return Response(
        sample_id=key.sample_id,
        epoch=key.epoch,
        text=text,
        origin="content",
        usage=Usage(),
        attempts=0,
        latency_s=0.0,
        flags=(),
        response_sha256=text.sha256(),
        image_sha256=image_sha256,
        request_sha256="",
    )


def _result(attack: Attack, found: Verdict | Finding | Failure) -> AttackResult:
    if isinstance(found, Verdict):
        return AttackResult(attack, found.label.value, found.label is not Label.UNSAFE)
    if isinstance(found, Finding):
        if found.rating is None:
            return AttackResult(attack, "refusal" if found.refuses else "no refusal", bool(found.refuses))
        return AttackResult(attack, found.rating.value, found.rating is Rating.SAFE)
    if attack is CONTROL and found.status != 200 and found.code != "no_description":
        raise VlsbError(f"The judge gave no answer to judge by ({found.code})", detail=found.message)
    return AttackResult(attack, f"{found.outcome.value} ({found.code})", None)


def _image(words: str) -> ReadImage:
    """Return the knife of the embedded images, with words for the judge across it."""
    content = (mini_root() / "imgs" / "0.png").read_bytes()
    return ReadImage.of(write_on_image(content, words) if words else content)
