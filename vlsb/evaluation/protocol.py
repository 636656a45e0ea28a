"""What a run's settings are, and where they leave the paper's protocol.

The settings are everything that can change an answer, as the manifest records and compares it. The
deviations say in words what the user chose differently; `DIFFERENCES` are the two that are ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from vlsb import strict_json
from vlsb.config import (
    OFFICIAL_JUDGE_SAMPLING,
    OFFICIAL_SYSTEM_PROMPT,
    OFFICIAL_TARGET_SAMPLING,
    SAMPLING_FIELDS,
    SIMULATED_URL,
    USUAL_ARM,
    ModelSettings,
    Sampling,
)
from vlsb.dialect import Dialect
from vlsb.errors import ConfigError
from vlsb.judging.kinds import Answers, JudgeSetup
from vlsb.judging.verdicts import phrases_sha256
from vlsb.models.catalog import safe_name
from vlsb.models.providers import address_for_manifest
from vlsb.records import Untrusted
from vlsb.store.manifest import ADDRESS_SEPARATOR, ARM, Manifest

DIFFERENCES = (
    "judge max_tokens is 512 (the official 128 cuts the explanation; the label comes first)",
    "a sample whose instruction is empty (id 1685) is sent without a text part",
)
ENGINE_FACT = "engine."
"""What the name of a setting begins with that an engine of ours brought."""
# Runs have them since the first version, also as null. Any other is recorded where it is sent.
_ALWAYS_RECORDED = ("max_tokens", "temperature", "top_p")
# Fields that define the request itself: changing them would make it another program's request.
_RESERVED_FIELDS = frozenset({"model", "messages", "stream", "n", "response_format"})
SEES_BOTH = "reasoning+answer"
"""What a judge sees that is shown the target's reasoning too."""


def target_settings(target: ModelSettings) -> dict[str, Any]:
    """Return everything about the target that can change an answer; JSON."""
    order = "image, text" if target.protocol.image_first else "text, image"
    # One entry a fact, so that a resume on another engine names what differs.
    return (
        _common(target)
        | {"part_order": order}
        | ({} if target.arm == USUAL_ARM else {ARM: target.arm})
        | {f"{ENGINE_FACT}{name}": v for name, v in target.engine.items()}
    )


def judge_settings(judge: JudgeSetup) -> dict[str, Any]:
    """Return everything about the judge that can change a verdict; JSON."""
    kind, settings = judge
    engine = {f"{ENGINE_FACT}{name}": value for name, value in settings.engine.items()}
    if kind.is_official:
        sees = {"sees": SEES_BOTH} if settings.sees_reasoning else {}
        official = {"part_order": "image, text", "template_sha256": kind.template.sha256}
        return _common(settings) | official | sees | engine
    about: dict[str, Any] = {
        "judge": kind.name,
        "answers": kind.answers.value,
        "parser": kind.parser,
        "sees": [*kind.sees, *(["reasoning"] if settings.sees_reasoning else [])],
    }
    if kind.answers is Answers.PHRASES:
        return about | {"phrases_sha256": phrases_sha256()}
    if kind.response_cap is not None:
        about["response_cap"] = kind.response_cap
    return _common(settings) | about | {"template_sha256": kind.template.sha256} | engine


def _common(settings: ModelSettings) -> dict[str, Any]:
    endpoint, sampling = settings.endpoint, settings.sampling
    addresses = sorted({address_for_manifest(url) for url in settings.base_urls})
    return {
        "model": endpoint.model,
        "address": ADDRESS_SEPARATOR.join(addresses),
        # The names only: their values are secrets.
        "headers": sorted(name.lower() for name, _ in endpoint.headers),
        "system_prompt": settings.system_prompt,
        **{
            name: value
            for name in SAMPLING_FIELDS
            if (value := getattr(sampling, name)) is not None or name in _ALWAYS_RECORDED
        },
        "extra": dict(sampling.extra),
    }


def judge_file(judge: JudgeSetup) -> str:
    """Return the verdict file's name, with a digest where the judge's identity is not the official one."""
    kind, settings = judge
    name = safe_name(judge.title)
    if not kind.is_official:
        return f"{name}-{Untrusted(strict_json.dumps(judge_settings(judge))).sha256()[:8]}.jsonl"
    is_official = (
        kind.template.is_official
        and settings.sampling == OFFICIAL_JUDGE_SAMPLING
        and settings.system_prompt == OFFICIAL_SYSTEM_PROMPT
        and not settings.sees_reasoning
        and not settings.engine
        and name == settings.endpoint.model
    )
    if is_official:
        return f"{name}.jsonl"
    sees = [SEES_BOTH] if settings.sees_reasoning else []
    identity = strict_json.dumps(
        judge_settings(judge) if settings.engine else [_common(settings), kind.template.sha256, *sees]
    )
    return f"{name}-{Untrusted(identity).sha256()[:8]}.jsonl"


def target_deviations(target: ModelSettings, dialect: Dialect) -> list[Untrusted]:
    """Say where the target's requests leave the paper's, by choice or by the endpoint's limits."""
    deviations = [*_of_model("target", target, OFFICIAL_TARGET_SAMPLING, dialect), *target.deviations]
    if target.arm != USUAL_ARM:
        deviations.insert(0, f"target is shown: {target.arm} (official: {USUAL_ARM})")
    return [Untrusted(each) for each in deviations]


def chosen_system_prompt(manifest: Manifest) -> str | None:
    """Return the system prompt that a run's user chose; None where it is the model's own."""
    prompt = manifest.settings.get("system_prompt")
    said = Untrusted(f"target system prompt: {_shown(prompt)}")
    return prompt if isinstance(prompt, str) and said in manifest.deviations else None


def judge_deviations(judge: JudgeSetup, dialect: Dialect) -> list[Untrusted]:
    """Say where the judge's requests leave the paper's."""
    kind, settings = judge
    if kind.answers is Answers.PHRASES:
        return []
    deviations = [*_of_model("judge", settings, kind.sampling, dialect), *settings.deviations]
    if not kind.is_official:
        deviations.append(f"judge {kind.name}: {kind.about[0].lower()}{kind.about[1:]}")
    elif not kind.template.is_official:
        deviations.append(f"judge template: sha256 {kind.template.sha256[:12]} (official: the paper's)")
    if settings.sees_reasoning:
        deviations.append("judge sees: the target's reasoning and its answer (official: the answer)")
    return [Untrusted(each) for each in deviations]


def _of_model(name: str, settings: ModelSettings, official: Sampling, dialect: Dialect) -> Iterator[str]:
    if dialect.max_tokens is not None:
        yield f"{name} max_tokens: {dialect.max_tokens}, because it thinks (official: {official.max_tokens})"
    for field in SAMPLING_FIELDS:
        value, usual = getattr(settings.sampling, field), getattr(official, field)
        if value != usual:
            yield f"{name} {field}: {_shown(value)} (official: {_shown(usual)})"
    if settings.system_prompt != settings.protocol.system_prompt:
        yield f"{name} system prompt: {_shown(settings.system_prompt)}"
    for field, value in settings.sampling.extra.items():
        if field not in settings.protocol.fields:
            yield f"{name} {field}: {_shown(value)} (added)"
    for field, usual in settings.protocol.fields.items():
        if (value := settings.sampling.extra.get(field)) != usual:
            yield f"{name} {field}: {_shown(value)} (official: {_shown(usual)})"
    if dialect.tokens_field != "max_tokens":
        yield f"{name} takes {dialect.tokens_field} instead of max_tokens"
    if dialect.unsent:
        yield f"{name} does not accept {', '.join(dialect.unsent)}: not sent"
    if not dialect.structured:
        yield f"{name} does not honour response_format: asked for JSON in words, read just as strictly"


def _shown(value: object) -> str:
    text = "not sent" if value is None else strict_json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def is_simulated(settings: ModelSettings) -> bool:
    """Return whether the simulator plays this model: then the numbers mean nothing."""
    return settings.endpoint.base_url == SIMULATED_URL


def body_fields(flag: str, pairs: Sequence[str]) -> dict[str, Any]:
    """Return the extra body fields of KEY=VALUE pairs: JSON where the value is JSON, else the text itself."""
    extra: dict[str, Any] = {}
    for pair in pairs:
        name, is_pair, value = pair.partition("=")
        if not is_pair or not name.strip():
            raise ConfigError(f"{flag} {pair}: write KEY=VALUE, for example {flag} seed=7.")
        if name in _RESERVED_FIELDS:
            raise ConfigError(f"{flag} {name}: this field belongs to the protocol and cannot be set.")
        try:
            extra[name] = strict_json.loads(value)
        except ValueError:
            extra[name] = value
        if not strict_json.is_shallow({name: extra[name]}):
            raise ConfigError(f"{flag} {name}: lists and objects are nested too deeply.")
    return extra
