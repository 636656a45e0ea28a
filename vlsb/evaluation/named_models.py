"""The models that options name, resolved once: what target and judges are, and how each is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from vlsb import config
from vlsb.endpoints.client import served_model
from vlsb.endpoints.credentials import load_credentials
from vlsb.endpoints.request import asks_to_think
from vlsb.engines.checkpoint import identify
from vlsb.engines.leases import EngineNeed
from vlsb.engines.plan import GpuLease, Lora, Wishes
from vlsb.errors import ConfigError, SeveralErrors, VlsbError
from vlsb.evaluation.arms import Arm
from vlsb.evaluation.clients import TARGET
from vlsb.evaluation.options import DEMO, OF_EACH_JUDGE, ONLY_ENGINES, RunOptions, as_flag, parse_headers
from vlsb.evaluation.progress import judge_names
from vlsb.evaluation.protocol import SEES_BOTH, body_fields, judge_settings
from vlsb.judging.kinds import Answers, JudgeSetup, load_judges, split_name
from vlsb.judging.prompts import load_template
from vlsb.models.catalog import find_profile, name_of_place, safe_name
from vlsb.models.profile import FAMILIES, ModelProfile
from vlsb.models.providers import (
    AUTHORISING_HEADERS,
    ENGINE_URL,
    limited_as,
    plain_name,
    resolve_endpoint,
    resolve_replicas,
    thinking_fields,
)
from vlsb.steps import threaded

_Value = TypeVar("_Value")
_Part = TypeVar("_Part")


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
        """The local model of each by its title; None for one that is asked elsewhere, or is not a model."""
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
    in_session = judge_names(len(names))
    judges = [_resolve(options, name, place) for place, name in enumerate(names)]
    _require_one_place(options, [each.setup for each in judges])
    settings = [judge_settings(each.setup) for each in judges]
    for place, each in enumerate(judges):
        if settings[place] in settings[:place]:
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


def _resolve(options: RunOptions, name: str, place: int) -> ResolvedJudge:
    """Resolve one judge, whose name in the session is not known yet."""
    url, key = _of_judge(options.judge_base_url, place), _of_judge(options.judge_api_key_env, place)
    rpm, tpm = _of_judge(options.judge_rpm, place), _of_judge(options.judge_tpm, place)
    connections = _of_judge(options.judge_max_connections, place)
    headers = parse_headers("--judge-header", options.judge_header)
    fields = body_fields("-J", options.judge_field)
    kind, model = split_name(name, load_judges(options.judges_dir))
    if kind.is_official and options.judge_template is not None:
        kind = replace(kind, template=load_template(options.judge_template))
    if kind.answers is Answers.PHRASES:
        asked = config.ModelSettings(config.Endpoint("", ""), kind.sampling)
        return ResolvedJudge("", JudgeSetup(kind, asked), None, place, is_typed=True)
    extra = {**kind.sampling.extra, **fields}
    system_prompt = kind.system_prompt
    if system_prompt is None:
        system_prompt = config.OFFICIAL_SYSTEM_PROMPT if kind.has_template else ""
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
        sees_reasoning=options.judge_sees == SEES_BOTH,
        thinks=asks_to_think(extra),
    )
    return ResolvedJudge("", JudgeSetup(kind, settings), profile, place, is_typed=bool(options.judge))


def _of_judge(values: Sequence[_Value], place: int) -> _Value | None:
    """Return an option's value for one judge: its own or everyone's; an empty text says nothing."""
    if not values:
        return None
    return (values[place] if len(values) > 1 else values[0]) or None


_ONLY_MODEL = "the only model"


@dataclass(frozen=True, slots=True)
class NamedTarget:
    """A target by name, empty for an endpoint's only model, and where it is asked: several for its replicas.

    `is_local` where an engine has to be leased, with which the port becomes known.
    """

    name: str
    profile: ModelProfile
    endpoints: tuple[config.Endpoint, ...]
    is_local: bool

    @classmethod
    def of(cls, options: RunOptions) -> NamedTarget:
        """Resolve the name as far as it tells. Blocking: reads the user's own files.

        Raises ConfigError or AccessError for a target that nobody knows, and ConfigError where an address is
        given twice or would get another's key.
        """
        name, is_served = model_name(options), bool(options.base_url)
        headers = parse_headers("--header", options.header)
        profile = find_profile(name, options.servers_dir, arch=options.arch, is_served=is_served)
        if profile.is_local and not is_served:
            return cls(name, profile, (config.Endpoint(name, ENGINE_URL),), is_local=True)
        endpoints = resolve_replicas(
            name or _ONLY_MODEL,
            base_urls=options.base_url,
            key_variable=options.api_key_env,
            headers=headers,
            allow_http=options.allow_http,
        )
        return cls(name, profile, endpoints, is_local=False)

    def settings(self, options: RunOptions) -> config.ModelSettings:
        """Return how it is asked. Raises ConfigError."""
        protocol, extra = self.profile.protocol, body_fields("-M", options.target_field)
        endpoint, *others = self.endpoints
        if options.thinking != "auto":
            switch = thinking_fields(endpoint, thinks=options.thinking == "on")
            extra = config.merged_fields(switch, extra)
        chosen: dict[str, Any] = {
            name: value
            for name in config.SAMPLING_FIELDS
            if (value := getattr(options, name, None)) is not None
        }
        extra = config.merged_fields(protocol.fields, extra)
        return config.ModelSettings(
            endpoint=endpoint,
            sampling=replace(config.OFFICIAL_TARGET_SAMPLING, **chosen, extra=extra),
            max_connections=options.max_connections,
            rpm=options.rpm,
            tpm=options.tpm,
            system_prompt=protocol.system_prompt if options.system_prompt is None else options.system_prompt,
            protocol=protocol,
            thinks=options.thinking == "on",
            thinking_tokens=config.THINKING_TOKENS if options.max_tokens is None else None,
            other_urls=tuple(each.base_url for each in others),
            arm=str(Arm.parse(options.arm)),
        )

    def hosted(self, options: RunOptions) -> config.ModelSettings | None:
        """Return how it is asked if somebody else serves it; None for a local model or the simulator."""
        return None if self.is_local or options.is_demo else self.settings(options)


async def find_target(
    options: RunOptions, environment: Mapping[str, str], say: Callable[[str], None]
) -> NamedTarget:
    """Find the target of `vlsb run`. An endpoint without a model's name is asked for its only one.

    Each of several addresses is asked whether it has the model. Raises ConfigError or AccessError.
    """
    target = await _named_target(options)
    if target.is_local or (target.name and len(target.endpoints) == 1):
        return target
    name = await served_model(
        target.endpoints,
        load_credentials(target.endpoints[0], environment),
        is_named=bool(target.name),
        ca_bundle=options.ca_bundle,
        say=say,
    )
    return replace(target, name=name, endpoints=tuple(replace(each, model=name) for each in target.endpoints))


@threaded
def _named_target(options: RunOptions) -> NamedTarget:
    """Resolve the target's name. Raises ConfigError too for options that it has no use for."""
    target, usual = NamedTarget.of(options), RunOptions()
    if target.is_local:
        if options.replicas > 1 and options.keep_server:
            raise ConfigError("--keep-server keeps one engine. Leave it out, or --replicas.")
        return target
    for name in ONLY_ENGINES:
        if getattr(options, name) != getattr(usual, name):
            typed = "What follows --" if name == "engine_options" else as_flag(name)
            raise ConfigError(
                f"{typed} is for engines that vlsb starts; target {options.model or options.base_url[0]} "
                "runs elsewhere. Leave it out, or pass --model with a local model such as llava_next."
            )
    return target


class Problems:
    """What is wrong with options that do not depend on each other, found in one go."""

    def __init__(self) -> None:
        self._errors: list[VlsbError] = []

    def of(self, part: Callable[[], _Part], instead: _Part) -> _Part:
        """Return what the part gives. Where it raises, go on with another value until `raise_if_any`."""
        try:
            return part()
        except VlsbError as error:
            self.add(error)
            return instead

    def add(self, error: VlsbError) -> None:
        """Keep one that was found elsewhere."""
        self._errors.append(error)

    def raise_if_any(self) -> None:
        """Raise the problem, or all of them as one error."""
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            raise SeveralErrors(self._errors)


def needed_engines(
    options: RunOptions, judges: Judges, target: NamedTarget | None = None
) -> dict[str, EngineNeed]:
    """Return what engines the local models need, by the names of the session.

    A checkpoint says here what it is, by its config.json. Raises as `identify`. Blocking.
    """
    needs: dict[str, EngineNeed] = {}
    if (target is None or not target.is_local) and not judges.local:
        return needs
    wishes, replicas = engine_wishes(options), options.replicas
    if target is not None and target.is_local:
        model = identify(target.profile, weights=wishes.weights, revision=wishes.revision)
        needs[TARGET] = EngineNeed(model, wishes, replicas, is_judge=False, is_kept=options.keep_server)
    if target is not None:
        # GPUs, settings and replicas were said of the target's engine.
        wishes, replicas = replace(wishes, gpus=GpuLease(), settings={}), 1
    for name, profile in judges.local.items():
        needs[name] = EngineNeed(identify(profile), wishes.for_judge(), replicas)
    return needs


def engine_wishes(options: RunOptions) -> Wishes:
    """Return what options ask of a target's engine."""
    return Wishes(
        weights=options.weights,
        revision=options.revision,
        settings=options.engine_settings,
        gpus=GpuLease.parse(options.gpus),
        lora=Lora.parse(options.lora),
        thinks={"on": True, "off": False}.get(options.thinking),
        max_tokens=options.max_tokens,
        engine=options.engine,
        engine_options=options.engine_options,
        start_timeout_s=options.start_timeout,
    )


def model_name(options: RunOptions) -> str:
    """Return the name that `--model` and the authors' `--arch` give; empty for an endpoint's only model."""
    model, arch = (options.model or "").strip(), options.arch
    if arch is not None and arch not in (*FAMILIES, "openai"):
        raise ConfigError(f"--arch {arch}: not one of {', '.join(FAMILIES)} or openai.")
    if arch == "openai" and not model:
        raise ConfigError("--arch openai needs --model, for example --model gpt-4o.")
    if arch not in (None, "openai"):
        if model and model != arch and not options.base_url:
            raise ConfigError(
                f"--arch {arch} and --model {model} name two targets. Pass one of them, --weights for other "
                "weights of the family, or --base-url for a server that has them."
            )
        model = model or arch or ""
    if not model and not options.base_url:
        raise ConfigError("Which model? Pass --model NAME, for example --model gpt-4o or --model demo.")
    return model if options.base_url else plain_name(model)


def run_directory(options: RunOptions) -> Path | None:
    """Return where a run with these options is; None where only the endpoint knows the model's name."""
    try:
        model = model_name(options)
        return options.output_dir / run_name(options, model) if model or options.name else None
    except ConfigError:
        return None


def run_name(options: RunOptions, model: str) -> str:
    """Return the name of a run's directory. Raises ConfigError for one that no directory should have."""
    if options.name is None:
        # With an address it is whatever the endpoint calls its model.
        return safe_name(model if options.base_url else name_of_place(model)) + Arm.parse(options.arm).suffix
    if options.name != safe_name(options.name):
        raise ConfigError(f"--name {options.name!r}: use letters, digits, '.', '_' and '-' (at most 100).")
    return options.name


class RateAccount(NamedTuple):
    """Whose rate limits requests use: an address, the variables that hold the key, and the model."""

    base_url: str
    variables: tuple[str, ...]
    model: str


def rate_accounts(settings: config.ModelSettings) -> tuple[RateAccount, ...]:
    """Return the accounts of a model, one for each address."""
    endpoint = settings.endpoint
    variables = [variable for _, variable in endpoint.headers]
    is_authorised = any(name.lower() in AUTHORISING_HEADERS for name, _ in endpoint.headers)
    if endpoint.key_variable and not is_authorised:
        variables.append(endpoint.key_variable)
    model = limited_as(endpoint)
    return tuple(
        RateAccount(url.rstrip("/").lower(), tuple(sorted(variables)), model) for url in settings.base_urls
    )
