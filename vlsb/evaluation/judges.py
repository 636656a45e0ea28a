"""The judges that options ask for, resolved once: what each is, who plays it, and how that model is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from vlsb import config
from vlsb.endpoints.request import asks_to_think
from vlsb.errors import ConfigError
from vlsb.evaluation.options import OF_EACH_JUDGE, RunOptions, as_flag, parse_headers
from vlsb.evaluation.progress import judge_names
from vlsb.evaluation.protocol import SEES_BOTH, body_fields, judge_settings
from vlsb.judging.kinds import Answers, JudgeKind, JudgeSetup, load_judges, split_name
from vlsb.judging.prompts import load_template
from vlsb.models.catalog import find_profile, name_of_place
from vlsb.models.profile import ModelProfile
from vlsb.models.providers import ENGINE_URL, resolve_endpoint
from vlsb.store.manifest import is_same

_Value = TypeVar("_Value")
DEMO = "demo"
"""The model that the simulator plays, as target and as judge."""


@dataclass(frozen=True, slots=True)
class ResolvedJudge:
    """A judge of a session: its name there, what it is, and the local model that plays it, if one does.

    `place` is its number in `--judge`; one that nobody typed is the official judge, or the demo's.
    """

    name: str
    setup: JudgeSetup
    profile: ModelProfile | None
    place: int
    is_typed: bool

    @property
    def is_hosted(self) -> bool:
        """Whether somebody else serves it: no engine of ours, no simulator, no list of phrases."""
        return self.setup.settings.endpoint.base_url not in ("", ENGINE_URL, config.SIMULATED_URL)


@dataclass(frozen=True, slots=True)
class Judges:
    """All judges of a session, in the order of the review: those that label first."""

    resolved: tuple[ResolvedJudge, ...] = ()

    @property
    def setups(self) -> tuple[JudgeSetup, ...]:
        """What a plan has of them."""
        return tuple(each.setup for each in self.resolved)

    @property
    def models(self) -> dict[str, config.ModelSettings]:
        """The models that play them, by the names of the session; a list of phrases needs none."""
        return {
            each.name: each.setup.settings
            for each in self.resolved
            if each.setup.kind.answers is not Answers.PHRASES
        }

    @property
    def local(self) -> dict[str, ModelProfile]:
        """The local models among them, by the names of the session."""
        return {each.name: each.profile for each in self.resolved if each.profile is not None}

    @property
    def profiles(self) -> dict[str, ModelProfile | None]:
        """The local model of each by its title; None for one that is asked elsewhere, or is no model."""
        return {each.setup.title: each.profile for each in self.resolved}

    @property
    def hosted(self) -> dict[str, config.ModelSettings | None]:
        """How each is asked that somebody else serves, by title in the order of `--judge`; None for others.

        A judge that nobody typed is left out.
        """
        return {
            each.setup.title: each.setup.settings if each.is_hosted else None
            for each in sorted(self.resolved, key=lambda each: each.place)
            if each.is_typed
        }


def resolve_judges(options: RunOptions, *, is_demo: bool = False) -> Judges:
    """Resolve the judges that options name, or the usual one. Raises ConfigError. Blocking: reads files."""
    names = options.judge or ((DEMO,) if is_demo else (config.OFFICIAL_JUDGE_MODEL,))
    for name in OF_EACH_JUDGE[1:]:
        count = len(getattr(options, name))
        if count > 1 and count != len(names):
            raise ConfigError(
                f"{as_flag(name)} is given {count} times for {len(names)} judges. Give it once for all, or "
                "once for each in their order."
            )
    in_session, kinds = judge_names(len(names)), load_judges(options.judges_dir)
    judges = [_resolve(options, name, place, kinds) for place, name in enumerate(names)]
    _require_one_place(options, [each.setup for each in judges])
    settings = [judge_settings(each.setup) for each in judges]
    for place, each in enumerate(judges):
        if any(is_same(settings[place], earlier) for earlier in settings[:place]):
            raise ConfigError(
                f"--judge {each.setup.title} is given twice. Each judge labels a response once."
            )
    judges.sort(key=lambda each: each.setup.kind.answers is not Answers.LABELS)
    return Judges(tuple(replace(each, name=name) for name, each in zip(in_session, judges, strict=True)))


def _require_one_place(options: RunOptions, judges: Sequence[JudgeSetup]) -> None:
    """Raise ConfigError where one secret would go to several addresses."""
    asked = [each for each in judges if each.kind.answers is not Answers.PHRASES]
    if len({each.settings.endpoint.base_url for each in asked}) <= 1:
        return
    if options.judge_header:
        raise ConfigError(
            "--judge-header goes with one judge, or with several at one --judge-base-url. Judge by the "
            "others in another session: vlsb judge RUN --judge NAME."
        )
    if len(options.judge_api_key_env) == 1:
        raise ConfigError(
            "--judge-api-key-env is given once for judges at several addresses, and a key goes only where it "
            "belongs. Give it once for each, in the judges' order."
        )


def _resolve(options: RunOptions, name: str, place: int, kinds: Mapping[str, JudgeKind]) -> ResolvedJudge:
    """Resolve one judge, whose name in the session is not known yet."""
    url, key = _of_judge(options.judge_base_url, place), _of_judge(options.judge_api_key_env, place)
    rpm, tpm = _of_judge(options.judge_rpm, place), _of_judge(options.judge_tpm, place)
    connections = _of_judge(options.judge_max_connections, place)
    headers = parse_headers("--judge-header", options.judge_header)
    fields = body_fields("-J", options.judge_field)
    kind, model = split_name(name, kinds)
    if kind.is_official and options.judge_template is not None:
        kind = replace(kind, template=load_template(options.judge_template))
    if kind.answers is Answers.PHRASES:
        asked = config.ModelSettings(config.Endpoint("", ""), kind.sampling)
        return ResolvedJudge("", JudgeSetup(kind, asked), None, place, is_typed=True)
    extra = {**kind.sampling.extra, **fields}
    system_prompt = kind.system_prompt
    if system_prompt is None:
        system_prompt = config.OFFICIAL_SYSTEM_PROMPT if kind.answers is Answers.LABELS else ""
    profile = None
    if url is None and model != DEMO:
        profile = find_profile(model, options.servers_dir)
        profile = profile if profile.is_local else None
    if profile is not None:
        if kind.answers is Answers.GUARD and not kind.sees_image:
            raise ConfigError(
                f"--judge {name}: it sees no image, and engines here are started for models that do. Serve "
                "it elsewhere and pass --judge-base-url."
            )
        # Its port is known once its engine is.
        endpoint = config.Endpoint(name_of_place(model), ENGINE_URL)
    else:
        endpoint = resolve_endpoint(
            model,
            base_url=url,
            key_variable=key,
            headers=headers,
            allow_http=options.allow_http,
            stage="judge",
        )
    settings = config.ModelSettings(
        endpoint=endpoint,
        sampling=replace(kind.sampling, extra=extra),
        max_connections=connections,
        system_prompt=system_prompt,
        rpm=rpm,
        tpm=tpm,
        sees_reasoning=options.choice("judge_sees", "answer", SEES_BOTH) == SEES_BOTH,
        thinks=asks_to_think(extra),
    )
    return ResolvedJudge("", JudgeSetup(kind, settings), profile, place, is_typed=bool(options.judge))


def _of_judge(values: Sequence[_Value], place: int) -> _Value | None:
    """Return an option's value for one judge: its own or everyone's; an empty text says nothing."""
    if not values:
        return None
    return (values[place] if len(values) > 1 else values[0]) or None
