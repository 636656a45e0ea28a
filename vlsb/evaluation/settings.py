"""From options to a plan: names to endpoints, variables to keys, files to templates. Spends nothing.

The options are those of `vlsb run` and `vlsb judge`; messages name them as they are typed there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from vlsb import config, strict_json
from vlsb.config import Party
from vlsb.data import Selection, mini_root, parse_limit, require_dataset
from vlsb.endpoints.client import list_models
from vlsb.endpoints.connect import TRANSPORTS
from vlsb.endpoints.credentials import Credentials, Mask, load_credentials
from vlsb.endpoints.request import asks_to_think
from vlsb.engines.hardware import list_gpus
from vlsb.engines.identify import identify
from vlsb.engines.lease import Leases, MayInstall
from vlsb.engines.plan import GpuLease, Wishes, facts_as
from vlsb.engines.registry import ServerRecord
from vlsb.errors import (
    ConfigError,
    DatasetError,
    SeveralErrors,
    UnknownModelError,
    UnreachableError,
    VlsbError,
)
from vlsb.evaluation.leasing import (
    Lease,
    engine_wishes,
    identified,
    judge_wishes,
    lease_for,
    lease_replicas,
    wishes_of_replicas,
)
from vlsb.evaluation.options import OF_EACH_JUDGE, RunOptions, as_flag, parse_headers
from vlsb.evaluation.progress import judge_names
from vlsb.evaluation.protocol import ENGINE_FACT, judge_settings, safe_name
from vlsb.evaluation.session import Plan
from vlsb.extras import require_extra
from vlsb.judging.kinds import Answers, JudgeKind, JudgeSetup, load_judges, split_name
from vlsb.judging.prompts import load_template
from vlsb.models.catalog import find_profile, name_of_place
from vlsb.models.prices import load_prices
from vlsb.models.profile import FAMILIES, ModelProfile
from vlsb.models.providers import (
    AUTHORISING_HEADERS,
    ENGINE_URL,
    find_batch_api,
    limited_as,
    plain_name,
    resolve_endpoint,
    thinking_fields,
)
from vlsb.records import JUDGED, Outcome, Stage, Untrusted
from vlsb.steps import OnProgress, in_thread
from vlsb.store.data_root import remembered_data_root
from vlsb.store.manifest import is_run, is_same, read_manifest, require_run

_Part = TypeVar("_Part")
_DEMO = "demo"
_BOTH = "reasoning+answer"
# Fields that define the request itself: changing them would make it another program's request.
_RESERVED_FIELDS = frozenset({"model", "messages", "stream", "n", "response_format"})
# They mean something only for an engine that is started for the run.
_ENGINE_OPTIONS = (
    "weights",
    "revision",
    "dtype",
    "tensor_parallel_size",
    "gpus",
    "quantization",
    "lora",
    "replicas",
    "trust_remote_code",
    "engine_options",
    "keep_server",
)


@dataclass(frozen=True, slots=True)
class Resolved:
    """A plan, the credentials it needs, and the leases of engines where target or judges are local models.

    All are by the names that the session gives target and judges. `local_judges` are those an engine has to
    be leased for, `alone` those that have to wait until the GPU is free.
    """

    plan: Plan
    credentials: Mapping[str, Credentials]
    engines: Mapping[str, Leases] = field(default_factory=dict)
    local_judges: Mapping[str, ModelProfile] = field(default_factory=dict)
    alone: tuple[str, ...] = ()

    def on_engines(self, leases: Leases) -> Resolved:
        """The same with a local model's engines as the target."""
        assert self.plan.target is not None
        engine = leases[0]
        target = replace(
            self.plan.target,
            endpoint=config.Endpoint(engine.served_name, engine.base_url),
            engine=engine.facts,
            deviations=engine.deviations,
        )
        credentials = {**self.credentials, "target": engine.credentials}
        engines = {**self.engines, "target": leases}
        return replace(self, plan=replace(self.plan, target=target), credentials=credentials, engines=engines)

    def with_judge(self, name: str, leases: Leases, *, is_alone: bool) -> Resolved:
        """The same with a local model's engines as a judge, which works with the others or after them."""
        engine = leases[0]
        judges = list(self.plan.judges)
        number = judge_names(len(judges)).index(name)
        kind, settings = judges[number]
        endpoint = config.Endpoint(engine.served_name, engine.base_url)
        judges[number] = JudgeSetup(
            kind,
            replace(settings, endpoint=endpoint, engine=engine.facts, deviations=engine.deviations),
        )
        return replace(
            self,
            plan=replace(self.plan, judges=tuple(judges)),
            credentials={**self.credentials, name: engine.credentials},
            engines={**self.engines, name: leases},
            alone=(*self.alone, name) if is_alone else self.alone,
        )

    def turns(self) -> list[Resolved]:
        """The sessions that this takes, one after the other: who works at once, then each that is alone."""
        if not self.alone:
            return [self]
        first = replace(self.plan, idle=frozenset(self.alone))
        turns = [] if first.target is None and first.only_collects else [self._part(first, self.alone)]
        for name in self.alone:
            setup = self.plan.named_judges[name]
            later = replace(self.plan, target=None, judges=(setup,), is_resume=True)
            turns.append(Resolved(later, {"judge": self.credentials[name]}, {"judge": self.engines[name]}))
        return turns

    def _part(self, plan: Plan, others: Sequence[str]) -> Resolved:
        credentials = {name: each for name, each in self.credentials.items() if name not in others}
        engines = {name: each for name, each in self.engines.items() if name not in others}
        return Resolved(plan, credentials, engines)


@asynccontextmanager
async def open_target(
    options: RunOptions,
    environment: Mapping[str, str],
    *,
    may_install: MayInstall,
    on_progress: OnProgress,
    say: Callable[[str], None],
) -> AsyncIterator[Resolved]:
    """The plan of `vlsb run`, with the lease of an engine where the target is a local model.

    Whatever else is wrong (a judge's key, a template) is found before an engine is installed or started.
    """
    model = await in_thread(lambda _: _target_profile(options))
    is_local = model.is_local and not options.base_url
    if not is_local:
        _refuse_engine_options(options)
    elif options.replicas > 1 and options.keep_server:
        raise ConfigError("--keep-server keeps one engine. Leave it out, or --replicas.")
    resolved = await resolve_run(options, environment, protocol=model.protocol, is_local=is_local)
    lease = lease_for(options, environment, may_install=may_install, on_progress=on_progress, say=say)
    async with AsyncExitStack() as held:
        if is_local:
            wishes, count = engine_wishes(options), options.replicas
            there = (await in_thread(lambda _: list_gpus(environment))).checked().gpus if count > 1 else ()
            # Only a single engine can be kept.
            kept = partial(lease, is_kept=options.keep_server)
            apart = wishes_of_replicas(model, wishes, count, there, environment) or []
            leases = await lease_replicas(kept, model, apart, held, say=say)
            resolved = resolved.on_engines(leases)
        else:
            await _require_one_model(resolved, options, say)
        yield await _lease_judges(resolved, options, environment, held, lease, say)


@asynccontextmanager
async def open_judging(
    run: Path,
    options: RunOptions,
    environment: Mapping[str, str],
    *,
    may_install: MayInstall,
    on_progress: OnProgress,
    say: Callable[[str], None],
    hosted: Sequence[ServerRecord] = (),
) -> AsyncIterator[Resolved]:
    """The plan of `vlsb judge RUN`, with leases of engines for judges that are local models.

    The engines of the only local judge may be `hosted` already, for several runs.
    """
    resolved = await resolve_judging(run, options, environment)
    if options.replicas > 1 and not resolved.local_judges:
        raise ConfigError("--replicas is for engines that vlsb starts, and no judge is a local model.")
    lease = lease_for(options, environment, may_install=may_install, on_progress=on_progress, say=say)
    async with AsyncExitStack() as held:
        yield await _lease_judges(resolved, options, environment, held, lease, say, hosted)


@asynccontextmanager
async def open_judge(
    options: RunOptions,
    environment: Mapping[str, str],
    *,
    may_install: MayInstall,
    on_progress: OnProgress,
    say: Callable[[str], None],
) -> AsyncIterator[Resolved]:
    """The judge that options name, without a run: the plan has nothing else."""
    _refuse_keys(options, environment)
    judges = _judges(options, is_demo=False)
    credentials = _credentials(_judge_models(judges), environment, problems := _Problems())
    problems.raise_if_any()
    plan = Plan(
        directory=options.output_dir,
        target=None,
        judges=judges,
        data_root=None,
        selection=Selection(),
        policy=_policy(options),
        ca_bundle=options.ca_bundle,
        transport=_choice(options, "transport", *TRANSPORTS),
    )
    resolved = Resolved(plan, credentials, local_judges=_local_judges(options, judges))
    lease = lease_for(options, environment, may_install=may_install, on_progress=on_progress, say=say)
    async with AsyncExitStack() as held:
        yield await _lease_judges(resolved, options, environment, held, lease, say)


async def _require_one_model(resolved: Resolved, options: RunOptions, say: Callable[[str], None]) -> None:
    """Of several addresses, each that answers must list the target's model. Raises what a run would end with.

    One that does not answer may do so later, as long as another one does.
    """
    target = resolved.plan.target
    assert target is not None
    if not target.other_urls:
        return
    parties = [Party("target", replace(target.endpoint, base_url=url)) for url in target.base_urls]
    credentials, found = resolved.credentials["target"], 0
    for party in parties:
        try:
            names = await list_models(party, credentials, ca_bundle=options.ca_bundle)
        except UnreachableError as error:
            if party is parties[-1] and not found:
                raise
            say(f"Warning: {error.message}. The others are asked until it answers.")
            continue
        found += 1
        if target.endpoint.request_model not in names:
            raise UnknownModelError(
                f"{party}: it serves no {target.endpoint.request_model}",
                detail=Untrusted(", ".join(names[:10])),
                advice="Every --base-url must serve the same model.",
            )


async def _lease_judges(
    resolved: Resolved,
    options: RunOptions,
    environment: Mapping[str, str],
    held: AsyncExitStack,
    lease: Lease,
    say: Callable[[str], None],
    hosted: Sequence[ServerRecord] = (),
) -> Resolved:
    """Lease engines for each local judge: beside the others while there are GPUs for it, else after them.

    Those that are `hosted` are the only judge's. Nothing is started yet: whatever keeps one of them from
    starting is found before anything is spent.
    """
    if not resolved.local_judges:
        return resolved
    there = list((await in_thread(lambda _: list_gpus(environment))).checked().gpus)
    taken = [engine.wishes.gpus for leases in resolved.engines.values() for engine in leases]
    for name, profile in resolved.local_judges.items():
        model = await identified(profile)
        wishes, count = judge_wishes(options), options.replicas
        if resolved.plan.target is not None:
            # They were said of the target's engine.
            wishes, count = replace(wishes, gpus=GpuLease(), tensor_parallel_size=None), 1
        if hosted:
            joined = [await held.enter_async_context(lease(model, wishes, hosted=each)) for each in hosted]
            return resolved.with_judge(name, tuple(joined), is_alone=False)
        beside = wishes_of_replicas(model, wishes, count, there, environment, taken)
        apart = beside or wishes_of_replicas(model, wishes, count, there, environment) or []
        leases = await lease_replicas(lease, model, apart, held, say=say)
        if beside is not None:
            taken += [engine.wishes.gpus for engine in leases]
        else:
            place = "one GPU" if len(there) == 1 else "no GPU left" if there else "no GPU"
            say(f"{profile.name} judges by itself, when the others are done: there is {place} for both.")
        resolved = resolved.with_judge(name, leases, is_alone=beside is None)
    return resolved


def _target_profile(options: RunOptions) -> ModelProfile:
    """What the target's name means; a checkpoint's config.json is read for it, where it lies."""
    is_served = bool(options.base_url)
    name = model_name(options)
    model = find_profile(name, options.servers_dir, arch=options.arch, is_served=is_served)
    if is_served:
        return model
    return identify(model, weights=options.weights, revision=options.revision, offline=False)


def _refuse_engine_options(options: RunOptions) -> None:
    usual = RunOptions()
    for name in _ENGINE_OPTIONS:
        if getattr(options, name) != getattr(usual, name):
            said = "What follows --" if name == "engine_options" else as_flag(name)
            raise ConfigError(
                f"{said} is for engines that vlsb starts; target {options.model or options.base_url[0]} is "
                "none. Leave it out, or pass --model with a local model such as llava_next."
            )


async def resolve_run(
    options: RunOptions,
    environment: Mapping[str, str],
    *,
    protocol: config.TargetProtocol = config.OPENAI_PROTOCOL,
    is_local: bool = False,
) -> Resolved:
    """The plan of `vlsb run`, for a target asked by `protocol`. Raises ConfigError or AccessError.

    An endpoint without a model's name is asked for its only one.
    """
    _refuse_keys(options, environment)
    if options.retry and not options.resume:
        raise ConfigError("--retry works on an existing run: add --resume.")
    if options.no_judge and (options.judge or options.judge_base_url):
        raise ConfigError("--no-judge and --judge exclude each other. Pass one of them.")
    problems, name = _Problems(), model_name(options)
    with problems.collect():
        name = name or await _only_model(options, environment)
    # Templates and the data set's folder are read from disks that may take their time.
    return await in_thread(
        lambda _: _resolve_run(options, environment, name, protocol, problems, is_local=is_local)
    )


def _refuse_keys(options: RunOptions, environment: Mapping[str, str]) -> None:
    """ConfigError for a key in the place of a name, which is sent, stored and shown."""
    mask = Mask((), environment)
    given = [("model", options.model), ("name", options.name), *(("judge", each) for each in options.judge)]
    for name, value in given:
        if value is not None and mask.holds(value):
            raise ConfigError(
                f"{as_flag(name)}: what was given may be a key, and is not repeated. Put a key into a "
                "variable, and name the variable with --api-key-env."
            )


def _resolve_run(
    options: RunOptions,
    environment: Mapping[str, str],
    name: str,
    protocol: config.TargetProtocol,
    problems: _Problems,
    *,
    is_local: bool,
) -> Resolved:
    is_demo = not options.base_url and model_name(options) == _DEMO
    target = problems.of(lambda: _target(options, name, protocol, is_local=is_local)) if name else None
    directory = problems.of(lambda: options.output_dir / _run_name(options, name))
    judges = () if options.no_judge else problems.of(lambda: _judges(options, is_demo=is_demo))
    goes_on_in = directory if options.resume else None
    settings = _shared_settings(options, goes_on_in, is_simulated=is_demo, problems=problems)
    selection = problems.of(lambda: selection_of(options))
    credentials = {} if target is None else _credentials({"target": target}, environment, problems)
    credentials |= _credentials(_judge_models(judges), environment, problems)
    problems.raise_if_any()
    plan = Plan(
        directory=directory,
        target=target,
        judges=judges,
        selection=selection,
        epochs=options.epochs,
        is_resume=options.resume,
        is_dry_run=options.dry_run,
        **settings,
    )
    _require_batches(plan)
    _require_prices(plan)
    return Resolved(plan, credentials, local_judges=_local_judges(options, judges))


def plan_to_compare(options: RunOptions, run: Path, recorded: Mapping[str, Any]) -> Plan:
    """The plan of `vlsb run --resume` as far as it says what is asked; it needs no key, network or engine.

    An engine is taken to be as in the `recorded` settings of the target. Judges are not local models.
    Blocking. Raises VlsbError for what is wrong, and for what only the machine with the model can tell.
    """
    name, is_demo = model_name(options), not options.base_url and model_name(options) == _DEMO
    model = find_profile(name, options.servers_dir, arch=options.arch, is_served=bool(options.base_url))
    is_local = model.is_local and not options.base_url
    if is_local:
        model = identify(model, weights=options.weights, revision=options.revision, offline=True)
    target = _target(options, name, model.protocol, is_local=is_local)
    if is_local:
        target = _on_engine_as(target, model, engine_wishes(options), recorded)
    return Plan(
        directory=run,
        target=target,
        judges=() if options.no_judge else _judges(options, is_demo=is_demo),
        data_root=_data_root(options, run, is_simulated=is_demo),
        selection=selection_of(options),
        policy=_policy(options),
        epochs=options.epochs,
        accept_changed_images=options.accept_changed_images,
    )


def judges_to_compare(
    options: RunOptions, recorded: Callable[[str], Mapping[str, Any]], *, is_demo: bool
) -> list[JudgeSetup]:
    """The judges of `vlsb judge`, as `plan_to_compare`; `recorded` has the settings of one by its title."""
    judges = list(_judges(options, is_demo=is_demo))
    local = _local_judges(options, judges)
    for number, name in enumerate(judge_names(len(judges))):
        kind, settings = judges[number]
        if (profile := local.get(name)) is not None:
            model = identify(profile, weights=None, revision=None, offline=True)
            there = recorded(judges[number].title)
            judges[number] = JudgeSetup(kind, _on_engine_as(settings, model, judge_wishes(options), there))
    return judges


def _on_engine_as(
    settings: config.ModelSettings, model: ModelProfile, wishes: Wishes, recorded: Mapping[str, Any]
) -> config.ModelSettings:
    """A local model's settings on an engine as it is in recorded ones; without any where these have none."""
    there = {
        name.removeprefix(ENGINE_FACT): value
        for name, value in recorded.items()
        if name.startswith(ENGINE_FACT)
    }
    if not there:
        return settings
    served_name, facts = facts_as(model, wishes, there)
    return replace(settings, endpoint=config.Endpoint(served_name, ENGINE_URL), engine=facts)


async def resolve_judging(run: Path, options: RunOptions, environment: Mapping[str, str]) -> Resolved:
    """The plan of `vlsb judge RUN`. Raises ConfigError or AccessError."""
    return await in_thread(lambda _: _resolve_judging(run, options, environment))


def _resolve_judging(run: Path, options: RunOptions, environment: Mapping[str, str]) -> Resolved:
    _refuse_keys(options, environment)
    require_run(run)
    is_demo = read_manifest(run).simulated
    problems = _Problems()
    judges = problems.of(lambda: _judges(options, is_demo=is_demo))
    settings = _shared_settings(options, run, is_simulated=is_demo, problems=problems)
    credentials = _credentials(_judge_models(judges), environment, problems)
    problems.raise_if_any()
    plan = Plan(directory=run, target=None, judges=judges, selection=Selection(), **settings)
    _require_batches(plan)
    _require_prices(plan)
    return Resolved(plan, credentials, local_judges=_local_judges(options, judges))


def _require_prices(plan: Plan) -> None:
    """ConfigError where money is limited and nobody knows what a model costs; an engine of ours is free."""
    known = plan.model_prices(datetime.now(UTC).date())
    for name, settings in plan.models.items():
        is_free = settings.endpoint.base_url in (config.SIMULATED_URL, ENGINE_URL)
        price = known.get(name)
        is_known = price is not None and (not plan.is_batch or price.batch_input is not None)
        if plan.max_cost is not None and not is_known and not is_free:
            what = "price of a batch" if plan.is_batch else "price"
            raise ConfigError(
                f"--max-cost: no {what} is known for {settings.endpoint.model} at "
                f"{settings.endpoint.base_url}. Pass its price with --prices FILE, or use --max-requests."
            )


def _require_batches(plan: Plan) -> None:
    """ConfigError where not every model can be asked by batch."""
    if plan.is_batch:
        if plan.target is not None and plan.target.other_urls:
            raise ConfigError("--batch goes with one --base-url.")
        for settings in plan.models.values():
            find_batch_api(settings.endpoint)
        require_extra("batch", "--batch")
    elif plan.batch_again:
        raise ConfigError("--batch-again goes with --batch.")


class _Problems:
    """What is wrong with options that do not depend on each other, found in one go."""

    def __init__(self) -> None:
        self._found: list[VlsbError] = []

    def of(self, part: Callable[[], _Part]) -> _Part:
        """What the part gives; nothing to be used before `raise_if_any` where it raised."""
        found: Any = None
        with self.collect():
            found = part()
        return cast("_Part", found)

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Keep what the block raises for `raise_if_any`."""
        try:
            yield
        except VlsbError as error:
            self._found.append(error)

    def raise_if_any(self) -> None:
        """Raise the problem, or all of them as one error."""
        if len(self._found) == 1:
            raise self._found[0]
        if self._found:
            raise SeveralErrors(self._found)


def _shared_settings(
    options: RunOptions, run: Path | None, *, is_simulated: bool, problems: _Problems
) -> dict[str, Any]:
    """The fields of a plan that `vlsb run` and `vlsb judge` have alike; `run` is one that may go on."""
    return {
        "data_root": problems.of(lambda: _data_root(options, run, is_simulated=is_simulated)),
        "policy": _policy(options),
        "retry": problems.of(lambda: _outcomes_to_retry(options)),
        "skip_bad_images": options.skip_bad_images,
        "accept_changed_images": options.accept_changed_images,
        "ca_bundle": options.ca_bundle,
        "transport": problems.of(lambda: _choice(options, "transport", *TRANSPORTS)),
        "profile": problems.of(lambda: _profile(options)),
        "is_batch": options.batch,
        "batch_again": options.batch_again,
        "max_requests": options.max_requests,
        "max_cost": options.max_cost,
        "prices": problems.of(lambda: load_prices(options.prices)),
    }


def _judge_models(judges: Sequence[JudgeSetup] | None) -> dict[str, config.ModelSettings]:
    """The models that play the judges, by the names of the session; a list of phrases needs none."""
    named = zip(judge_names(len(judges or ())), judges or (), strict=True)
    return {name: each.settings for name, each in named if each.kind.answers is not Answers.PHRASES}


def _credentials(
    models: Mapping[str, config.ModelSettings], environment: Mapping[str, str], problems: _Problems
) -> dict[str, Credentials]:
    stages: dict[str, Stage] = {name: "target" if name == "target" else "judge" for name in models}
    return {
        name: problems.of(partial(load_credentials, model.endpoint, environment, stages[name]))
        for name, model in models.items()
    }


def _target(
    options: RunOptions, name: str, protocol: config.TargetProtocol, *, is_local: bool
) -> config.ModelSettings:
    sampling = config.OFFICIAL_TARGET_SAMPLING
    if options.max_tokens is not None:
        sampling = replace(sampling, max_tokens=options.max_tokens)
    if options.temperature is not None:
        sampling = replace(sampling, temperature=options.temperature)
    system_prompt = options.system_prompt
    # A local model's port is known once its engine is.
    endpoint = config.Endpoint(name, ENGINE_URL) if is_local else _hosted_endpoint(options, name)
    fields = protocol.fields
    if _choice(options, "thinking", "auto", "off", "on") != "auto":
        fields = _union(fields, thinking_fields(endpoint, thinks=options.thinking == "on"))
    return config.ModelSettings(
        endpoint=endpoint,
        sampling=replace(sampling, extra=_union(fields, _extra("-M", options.target_field))),
        max_connections=options.max_connections,
        rpm=options.rpm,
        tpm=options.tpm,
        system_prompt=protocol.system_prompt if system_prompt is None else system_prompt,
        protocol=protocol,
        thinks=options.thinking == "on",
        thinking_tokens=config.THINKING_TOKENS if options.max_tokens is None else None,
        other_urls=() if is_local else _other_urls(options, endpoint),
    )


def _union(fields: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Both, the others first in rank; what is an object in both holds the keys of both."""
    return dict(fields) | {
        name: {**fields[name], **value}
        if isinstance(value, Mapping) and isinstance(fields.get(name), Mapping)
        else value
        for name, value in others.items()
    }


def _choice(options: RunOptions, name: str, *choices: str) -> str:
    """The value of an option with a closed list; ConfigError for any other."""
    value: str = getattr(options, name)
    if value not in choices:
        raise ConfigError(f"{as_flag(name)} {value}: not one of {', '.join(choices)}.")
    return value


def _hosted_endpoint(options: RunOptions, name: str, number: int = 0) -> config.Endpoint:
    return resolve_endpoint(
        name,
        base_url=options.base_url[number] if options.base_url else None,
        key_variable=options.api_key_env,
        headers=parse_headers("--header", options.header),
        allow_http=options.allow_http,
    )


def _other_urls(options: RunOptions, first: config.Endpoint) -> tuple[str, ...]:
    """The addresses beside the first. ConfigError where one is given twice, or would get another's key."""
    others = [_hosted_endpoint(options, first.model, n) for n in range(1, len(options.base_url))]
    urls = [first.base_url, *(each.base_url for each in others)]
    if twice := [url for url in urls if urls.count(url) > 1]:
        raise ConfigError(f"--base-url {twice[0]} is given twice.")
    for other in others:
        if other.key_variable != first.key_variable:
            raise ConfigError(
                f"--base-url: {first.base_url} and {other.base_url} take different keys. Several addresses "
                "are replicas of one model: pass --api-key-env with the variable that holds the key of all."
            )
    return tuple(urls[1:])


def _judges(options: RunOptions, *, is_demo: bool) -> tuple[JudgeSetup, ...]:
    """The judges that options ask for, those that label first."""
    kinds = load_judges(options.judges_dir)
    names = options.judge or ((_DEMO,) if is_demo else (config.OFFICIAL_JUDGE_MODEL,))
    for name in OF_EACH_JUDGE[1:]:
        given = len(getattr(options, name))
        if given > 1 and given != len(names):
            raise ConfigError(
                f"{as_flag(name)} is given {given} times for {len(names)} judges. Give it once for all, or "
                "once for each in their order."
            )
    judges = [_judge(options, name, number, kinds) for number, name in enumerate(names)]
    _require_one_place(options, [each for each in judges if each.kind.answers is not Answers.PHRASES])
    settings = [judge_settings(judge) for judge in judges]
    for number, judge in enumerate(judges):
        if any(is_same(settings[number], each) for each in settings[:number]):
            raise ConfigError(f"--judge {judge.title} is given twice. Each judge labels a response once.")
    return tuple(sorted(judges, key=lambda judge: judge.kind.answers is not Answers.LABELS))


def _require_one_place(options: RunOptions, judges: Sequence[JudgeSetup]) -> None:
    """ConfigError where one secret would go to several addresses."""
    if len({judge.settings.endpoint.base_url for judge in judges}) <= 1:
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


def _judge(options: RunOptions, name: str, number: int, kinds: Mapping[str, JudgeKind]) -> JudgeSetup:
    kind, model = split_name(name, kinds)
    if kind.is_official and options.judge_template is not None:
        kind = replace(kind, template=load_template(options.judge_template))
    if kind.answers is Answers.PHRASES:
        return JudgeSetup(kind, config.ModelSettings(config.Endpoint("", ""), kind.sampling))
    extra = {**kind.sampling.extra, **_extra("-J", options.judge_field)}
    system_prompt = kind.system_prompt
    if system_prompt is None:
        system_prompt = config.OFFICIAL_SYSTEM_PROMPT if kind.answers is Answers.LABELS else ""
    url = _of_judge(options.judge_base_url, number)
    if url is None and _judge_profile(options, model) is not None:
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
            key_variable=_of_judge(options.judge_api_key_env, number),
            headers=parse_headers("--judge-header", options.judge_header),
            allow_http=options.allow_http,
            stage="judge",
        )
    settings = config.ModelSettings(
        endpoint=endpoint,
        sampling=replace(kind.sampling, extra=extra),
        max_connections=_of_judge(options.judge_max_connections, number),
        system_prompt=system_prompt,
        rpm=_of_judge(options.judge_rpm, number),
        tpm=_of_judge(options.judge_tpm, number),
        sees_reasoning=_choice(options, "judge_sees", "answer", _BOTH) == _BOTH,
        thinks=asks_to_think(extra),
    )
    return JudgeSetup(kind, settings)


def _judge_profile(options: RunOptions, model: str) -> ModelProfile | None:
    """The local model that plays a judge; None for one that is asked somewhere else."""
    if model == _DEMO:
        return None
    profile = find_profile(model, options.servers_dir)
    return profile if profile.is_local else None


def _local_judges(options: RunOptions, judges: Sequence[JudgeSetup]) -> dict[str, ModelProfile]:
    """The local models among a plan's judges, by the names of the session."""
    kinds = load_judges(options.judges_dir)
    typed = {}
    for number, name in enumerate(options.judge):
        _, model = split_name(name, kinds)
        if _of_judge(options.judge_base_url, number) is None and model:
            profile = _judge_profile(options, model)
            if profile is not None:
                typed[name_of_place(model)] = profile
    named = zip(judge_names(len(judges)), judges, strict=True)
    return {
        name: typed[judge.settings.endpoint.model]
        for name, judge in named
        if judge.settings.endpoint.base_url == ENGINE_URL
    }


def judge_models(options: RunOptions) -> dict[str, ModelProfile | None]:
    """The judges that options ask for, by the names that reports give them.

    With each the local model that plays it; None for one that is asked somewhere else, or is no model.
    """
    is_demo = not options.base_url and (options.model or "").strip() == _DEMO
    judges = _judges(options, is_demo=is_demo)
    local = _local_judges(options, judges)
    return {
        judge.title: local.get(name) for name, judge in zip(judge_names(len(judges)), judges, strict=True)
    }


def target_profile(options: RunOptions) -> ModelProfile | None:
    """The local model that options ask for, as far as its name tells; None for a target asked elsewhere."""
    profile = find_profile(
        model_name(options), options.servers_dir, arch=options.arch, is_served=bool(options.base_url)
    )
    return profile if profile.is_local and not options.base_url else None


def hosted_target(options: RunOptions) -> config.ModelSettings | None:
    """How a target is asked that somebody else serves; None for a local model or the simulator.

    Raises ConfigError or AccessError for a target that nobody knows.
    """
    name = model_name(options)
    if (not options.base_url and name == _DEMO) or target_profile(options) is not None:
        return None
    return _target(options, name or "the only model", config.OPENAI_PROTOCOL, is_local=False)


def hosted_judges(options: RunOptions) -> dict[str, config.ModelSettings | None]:
    """By title and in the order of `--judge`, how each judge is asked that somebody else serves.

    None for a local model, the simulator, or a judge that is no model.
    """
    kinds, found = load_judges(options.judges_dir), {}
    for number, name in enumerate(options.judge):
        judge = _judge(options, name, number, kinds)
        is_asked = judge.settings.endpoint.base_url not in ("", ENGINE_URL, config.SIMULATED_URL)
        found[judge.title] = judge.settings if is_asked else None
    return found


class RateAccount(NamedTuple):
    """Whose rate limits requests use: an address, the variables that hold the key, and the model."""

    base_url: str
    variables: tuple[str, ...]
    model: str


def rate_accounts(settings: config.ModelSettings) -> tuple[RateAccount, ...]:
    """The accounts of a model, one for each address."""
    endpoint = settings.endpoint
    variables = [variable for _, variable in endpoint.headers]
    is_authorised = any(name.lower() in AUTHORISING_HEADERS for name, _ in endpoint.headers)
    if endpoint.key_variable and not is_authorised:
        variables.append(endpoint.key_variable)
    model = limited_as(endpoint)
    return tuple(
        RateAccount(url.rstrip("/").lower(), tuple(sorted(variables)), model) for url in settings.base_urls
    )


def _of_judge(given: Sequence[_Part], number: int) -> _Part | None:
    """What an option says of one judge: its own value or everyone's; an empty text says nothing."""
    if not given:
        return None
    return (given[number] if len(given) > 1 else given[0]) or None


def model_name(options: RunOptions) -> str:
    """The target's name from `--model` and the authors' `--arch`; empty for the endpoint's only one."""
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


async def _only_model(options: RunOptions, environment: Mapping[str, str]) -> str:
    """The one model that the endpoint at `--base-url` lists; ConfigError if it lists none or several.

    Of several addresses the first that answers is asked.
    """
    names: list[str] = []
    for number in range(len(options.base_url)):
        endpoint = _hosted_endpoint(options, "the only model", number)
        credentials = load_credentials(endpoint, environment)
        party = Party("target", replace(endpoint, model=""))
        try:
            names = await list_models(party, credentials, ca_bundle=options.ca_bundle)
        except UnreachableError:
            if number + 1 < len(options.base_url):
                continue
            raise
        break
    if len(names) != 1:
        raise ConfigError(
            f"{endpoint.base_url} lists {len(names)} models. Pass --model NAME",
            detail=Untrusted(", ".join(names[:10])) if names else None,
        )
    return names[0]


def run_directory(options: RunOptions) -> Path | None:
    """Where a run with these options is; None where only the endpoint knows the model's name."""
    try:
        model = model_name(options)
        return options.output_dir / _run_name(options, model) if model or options.name else None
    except ConfigError:
        return None


def _run_name(options: RunOptions, model: str) -> str:
    if options.name is None:
        # With an address it is whatever the endpoint calls its model.
        return safe_name(model if options.base_url else name_of_place(model))
    if options.name != safe_name(options.name):
        raise ConfigError(f"--name {options.name!r}: use letters, digits, '.', '_' and '-' (at most 100).")
    return options.name


def _data_root(options: RunOptions, run: Path | None, *, is_simulated: bool) -> Path | None:
    """The user's copy, the demo's mini set, or what `run` was made from; None for the Hugging Face Hub's."""
    if options.data_root is not None:
        try:
            require_dataset(options.data_root)
        except DatasetError as error:
            raise DatasetError(f"--data-root {error.message}", detail=error.detail) from error
        return options.data_root
    if is_simulated:
        return mini_root()
    return None if run is None else _copy_read_by(run)


def _copy_read_by(run: Path) -> Path | None:
    """The user's copy of the data set that a run was made from; None if it came from the Hugging Face Hub."""
    root = remembered_data_root(run) if is_run(run) and not read_manifest(run).data else None
    if root is not None:
        try:
            require_dataset(root)
        except DatasetError as error:
            raise DatasetError(
                f"{run} was made from the data set at {root}, which is not there any more",
                advice="Pass its new place with --data-root.",
            ) from error
    return root


def selection_of(options: RunOptions) -> Selection:
    """The samples that options ask for."""
    if options.limit is not None:
        parse_limit(options.limit)
    return Selection(
        limit=options.limit,
        sample_ids=options.sample_id,
        categories=options.category,
        sub_categories=options.sub_category,
        sources=options.source,
        shuffle=options.shuffle,
        seed=options.seed,
    )


def _policy(options: RunOptions) -> config.RetryPolicy:
    usual, attempt_s = config.RetryPolicy(), options.attempt_timeout
    return config.RetryPolicy(
        max_attempts=options.max_attempts,
        attempt_timeout_s=attempt_s,
        # A timeout that the user chose is kept.
        thinking_timeout_s=usual.thinking_timeout_s if attempt_s == usual.attempt_timeout_s else attempt_s,
        sample_timeout_s=options.sample_timeout,
        outage_timeout_s=options.outage_timeout,
        backoff_s=options.backoff,
    )


def _profile(options: RunOptions) -> Path | None:
    """Where the profile goes; a path that cannot take one is found before anything is spent."""
    path = options.profile
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise ConfigError(f"--profile {path}: name a file in a directory that exists.")
    return path


def _outcomes_to_retry(options: RunOptions) -> tuple[Outcome, ...]:
    choices = [outcome.value for outcome in Outcome if outcome not in JUDGED]
    for name in options.retry:
        if name not in choices:
            raise ConfigError(f"--retry {name!r}: not one of {', '.join(choices)}. Labels are never retried.")
    return tuple(Outcome(name) for name in options.retry)


def _extra(flag: str, pairs: Sequence[str]) -> dict[str, Any]:
    """Extra body fields: JSON where the value is JSON, else the text itself."""
    fields_: dict[str, Any] = {}
    for pair in pairs:
        name, is_pair, value = pair.partition("=")
        if not is_pair or not name.strip():
            raise ConfigError(f"{flag} {pair}: write KEY=VALUE, for example {flag} seed=7.")
        if name in _RESERVED_FIELDS:
            raise ConfigError(f"{flag} {name}: this field belongs to the protocol and cannot be set.")
        try:
            fields_[name] = strict_json.loads(value)
        except ValueError:
            fields_[name] = value
        if not strict_json.is_shallow({name: fields_[name]}):
            raise ConfigError(f"{flag} {name}: lists and objects are nested too deeply.")
    return fields_
