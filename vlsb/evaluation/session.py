"""One session of a run: from a plan to a run directory that is finished, or says what is missing.

`prepare` and `prepare_judging` do everything that can fail without costing anything (data, images,
drift); `run_session` spends money. All leave the directory valid on every path.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vlsb._version import __version__
from vlsb.config import FORECAST_SAMPLES, Endpoint, ModelSettings, RetryPolicy
from vlsb.data import Dataset, Selection, fetch_dataset, load_dataset, load_named, select
from vlsb.dialect import Dialect, parse_dialect
from vlsb.endpoints.client import EndpointClient
from vlsb.endpoints.credentials import Credentials
from vlsb.endpoints.rate_limits import Accounts
from vlsb.endpoints.traffic import Event, Spending, StoppedError, Traffic
from vlsb.errors import ConfigError, ImageError, ServerError, StoreError, VlsbError
from vlsb.evaluation.arms import Arm, ArmView, require_arm
from vlsb.evaluation.batch import BatchRun, Lane
from vlsb.evaluation.clients import TARGET, ClientSetup, guess_dialect, open_clients, tell_of_engine
from vlsb.evaluation.pipeline import Pipeline, SampleWork, SentImages, Target
from vlsb.evaluation.progress import ModelView, Progress, judge_names
from vlsb.evaluation.protocol import (
    DIFFERENCES,
    is_simulated,
    judge_deviations,
    judge_file,
    judge_settings,
    target_deviations,
    target_settings,
)
from vlsb.evaluation.shutdown import Shutdown
from vlsb.evaluation.telemetry import Limit, Profile, Stopwatch, describe, find_limit, write_profile
from vlsb.judging.judge import Judge
from vlsb.judging.kinds import Answers, JudgeSetup
from vlsb.models.prices import Price, PriceTable, find_retirement, load_prices
from vlsb.models.providers import describe_provider, find_batch_api, key_mismatch
from vlsb.records import VLSBENCH, Half, ImageFile, Key, Outcome, Response, Sample, Untrusted
from vlsb.steps import OnProgress, ignore, in_thread
from vlsb.store.gate_plan import GatePlan
from vlsb.store.manifest import (
    HALF,
    JudgeEntry,
    Manifest,
    is_run,
    read_manifest,
    remember_data_root,
    require_own_responses,
    require_run,
    sample_row,
)
from vlsb.store.state import has_answers
from vlsb.store.store import Aim, Pending, RunStore, open_for_judging, open_run, own_entry, require_free

if TYPE_CHECKING:
    from vlsb.engines.lease import Leases
    from vlsb.engines.leases import EngineNeed, Leased


@dataclass(frozen=True, slots=True)
class Plan:
    """What the user asked for, checked and resolved. Holds no key.

    `dataset` is the name of the data set; without a `data_root` VLSBench comes from the Hugging Face Hub.
    Without a `target` stored responses are judged; without `judges` responses are only collected. The judges
    that are `idle`, by the names of the session, follow in another one. `only` are the responses to work on,
    None for all. `max_requests` and `max_cost` (US dollars) end the session at a checkpoint, `is_dry_run`
    when there is enough to forecast the costs from. `is_batch` sends requests through the providers' batch
    APIs, and what cannot be had of the batches in `batch_again` is asked again. `profile` is the file for
    where the session's time went. `gate` is the plan of a gate that drives the run.
    """

    directory: Path
    target: ModelSettings | None
    judges: tuple[JudgeSetup, ...]
    data_root: Path | None
    selection: Selection
    policy: RetryPolicy
    dataset: str = VLSBENCH
    epochs: int = 1
    is_resume: bool = False
    retry: tuple[Outcome, ...] = ()
    skip_bad_images: bool = False
    accept_changed_images: bool = False
    ca_bundle: Path | None = None
    transport: str = "auto"
    profile: Path | None = None
    max_requests: int | None = None
    max_cost: float | None = None
    prices: PriceTable = field(default_factory=load_prices)
    is_dry_run: bool = False
    is_batch: bool = False
    batch_again: tuple[str, ...] = ()
    idle: frozenset[str] = frozenset()
    only: frozenset[Key] | None = None
    gate: GatePlan | None = None

    @property
    def named_judges(self) -> dict[str, JudgeSetup]:
        """The judges that this session asks, by the names it gives them."""
        named = zip(judge_names(len(self.judges)), self.judges, strict=True)
        return {name: judge for name, judge in named if name not in self.idle}

    @property
    def only_collects(self) -> bool:
        """Whether the session asks no judge."""
        return not self.named_judges

    @property
    def models(self) -> dict[str, ModelSettings]:
        """The models that this session uses, by name. A list of phrases is none."""
        target = {} if self.target is None else {"target": self.target}
        judges = {
            name: judge.settings
            for name, judge in self.named_judges.items()
            if judge.kind.answers is not Answers.PHRASES
        }
        return target | judges

    def aim(self) -> Aim:
        """Return what a session of this plan wants of the run."""
        return Aim(
            judges={name: judge_entry(judge) for name, judge in self.named_judges.items()},
            asks_target=self.target is not None,
            retry=self.retry,
            only=self.only,
            enough=FORECAST_SAMPLES if self.is_dry_run else None,
            is_batch=self.is_batch,
            batch_again=self.batch_again,
        )

    def model_prices(self, day: date) -> dict[str, Price]:
        """Return what the models cost on a day, by name, without those whose price is unknown."""
        prices = {name: self.prices.find(settings.endpoint, day) for name, settings in self.models.items()}
        return {name: price for name, price in prices.items() if price is not None}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A plan with its data loaded and the header of every image checked, and how to open its directory."""

    plan: Plan
    dataset: Dataset
    samples: tuple[Sample, ...]
    images: Mapping[int, ImageFile | ImageError | None]
    open_store: Callable[[], RunStore]

    def works(
        self, judges: Mapping[Key, frozenset[str]], responses: Mapping[Key, Response]
    ) -> list[SampleWork]:
        """Return what there is to do, in the selection's order, for the judges that lack a verdict."""
        return [
            SampleWork(sample, epoch, self.images[sample.id], responses.get(key), judges[key])
            for epoch in range(1, max((key.epoch for key in judges), default=0) + 1)
            for sample in self.samples
            if (key := Key(sample.id, epoch)) in judges
        ]


@dataclass(frozen=True, slots=True)
class Listeners:
    """Who hears of a session.

    `say` gets lines for the user, `watch` shows progress until cancelled, `last_words` is called before
    a third interrupt ends the process. `owns_signals` is False where the caller has its own handlers.
    """

    say: Callable[[str], None]
    watch: Callable[[Progress], Coroutine[Any, Any, None]]
    last_words: Callable[[], None] = lambda: None
    owns_signals: bool = True


@dataclass(frozen=True, slots=True)
class Means:
    """What a session sends requests with, and who may stop it."""

    credentials: Mapping[str, Credentials]
    listeners: Listeners
    engines: Mapping[str, Leases]
    shutdown: Shutdown
    traffic: Traffic
    accounts: Accounts


class Turn(NamedTuple):
    """One of the sessions that a command takes: its plan, and what that is carried out with, by name."""

    plan: Plan
    credentials: Mapping[str, Credentials]
    engines: Mapping[str, Leases]


@dataclass(frozen=True, slots=True)
class Resolved:
    """A plan, the credentials it needs, and the engines that its local models want and have.

    All are by the names that the session gives target and judges; `alone` are the judges that have to wait
    until the GPU is free.
    """

    plan: Plan
    credentials: Mapping[str, Credentials]
    needs: Mapping[str, EngineNeed] = field(default_factory=dict)
    engines: Mapping[str, Leases] = field(default_factory=dict)
    alone: tuple[str, ...] = ()

    def on_engines(self, leased: Mapping[str, Leased]) -> Resolved:
        """Ask target and judges on the engines of local models; one that is alone works by itself later."""
        target, judges, credentials = self.plan.target, list(self.plan.judges), {**self.credentials}
        names = judge_names(len(judges))
        for name, (leases, _) in leased.items():
            engine = leases[0]
            endpoint = Endpoint(engine.served_name, engine.base_url)
            facts, deviations = engine.facts, engine.deviations
            credentials[name] = engine.credentials
            if name == TARGET:
                assert target is not None
                target = replace(target, endpoint=endpoint, engine=facts, deviations=deviations)
            else:
                kind, asked = judges[names.index(name)]
                asked = replace(asked, endpoint=endpoint, engine=facts, deviations=deviations)
                judges[names.index(name)] = JudgeSetup(kind, asked)
        return replace(
            self,
            plan=replace(self.plan, target=target, judges=tuple(judges)),
            credentials=credentials,
            engines={name: each.leases for name, each in leased.items()},
            alone=tuple(name for name, each in leased.items() if each.waits),
        )

    def warnings(self, day: date) -> list[str]:
        """Say what is odd about keys, and which models are shut down or will be. Blocking: reads a table."""
        warnings = []
        for name, given in self.credentials.items():
            if given.bearer is not None:
                warnings.append(key_mismatch(self.plan.models[name].endpoint, given.bearer.reveal()))
        for name, settings in self.plan.models.items():
            if (retirement := find_retirement(settings.endpoint)) is not None:
                warnings.append(retirement.warning(name, settings.endpoint.model, day))
        return [each for each in warnings if each is not None]

    def turns(self) -> list[Turn]:
        """Return the sessions that this takes: who works at once, then each that is alone."""
        if not self.alone:
            return [Turn(self.plan, self.credentials, self.engines)]
        first = replace(self.plan, idle=frozenset(self.alone))
        turns = []
        if first.target is not None or not first.only_collects:
            credentials = {name: each for name, each in self.credentials.items() if name not in self.alone}
            engines = {name: each for name, each in self.engines.items() if name not in self.alone}
            turns.append(Turn(first, credentials, engines))
        for name in self.alone:
            later = replace(self.plan, target=None, judges=(self.plan.named_judges[name],), is_resume=True)
            turns.append(Turn(later, {"judge": self.credentials[name]}, {"judge": self.engines[name]}))
        return turns


@dataclass(frozen=True, slots=True)
class SessionEnd:
    """How a session ended: `reason` is why it stopped early, None if it went through.

    `judges` names the files of verdicts and findings it wrote, those of verdicts first; `pending` is what it
    set out to do, `models` how they stood, `limit` what kept it from being faster.
    """

    reason: VlsbError | None
    judges: tuple[str, ...]
    pending: int
    models: Mapping[str, ModelView]
    limit: Limit | None = None

    @property
    def judge(self) -> str | None:
        """The first of the files; None where nobody judged."""
        return next(iter(self.judges), None)


def prepare(plan: Plan, on_progress: OnProgress = ignore) -> Prepared:
    """Load and check everything that costs nothing; raises before a request is sent.

    A run that holds no answer yet is started again. No image is read beyond its header, and no header of
    one that has the size and time of the first session. A resume uses the
    revision that the run has of the Hugging Face Hub. `on_progress` is called as a download goes on.
    """
    goes_on = plan.is_resume and is_run(plan.directory) and has_answers(plan.directory)
    old = read_manifest(plan.directory) if goes_on else None
    if old is None:
        require_free(plan.directory)
    else:
        require_own_responses(plan.directory, old)
    dataset, origin = _dataset(plan, old, on_progress)
    _require_fitting(plan, dataset)
    samples = select(dataset.samples, plan.selection)
    assert plan.target is not None
    require_arm(Arm.parse(plan.target.arm), samples)
    checked = {} if old is None else old.images
    images = dataset.inspect(samples, known=checked, skip_bad=plan.skip_bad_images)
    manifest = manifest_of(plan, samples, images)
    manifest = replace(manifest, data={**manifest.data, **origin})

    def open_store() -> RunStore:
        return open_run(plan.directory, manifest, is_resume=plan.is_resume, prices=plan.prices)

    return Prepared(plan, dataset, samples, images, open_store)


def _dataset(plan: Plan, old: Manifest | None, on_progress: OnProgress) -> tuple[Dataset, dict[str, str]]:
    """Load the data set, and say which half it is, or where on the Hugging Face Hub it came from."""
    if plan.data_root is not None:
        dataset = load_named(plan.dataset, plan.data_root)
        return dataset, {} if dataset.half is None else {HALF: dataset.half.value}
    revision = None if old is None else old.data.get("revision")
    fetched = fetch_dataset(
        revision=revision if isinstance(revision, str) else None, offline=False, on_progress=on_progress
    )
    origin = {"repository": fetched.repository, "revision": fetched.revision}
    return load_dataset(fetched.files), origin


def _require_fitting(plan: Plan, dataset: Dataset) -> None:
    """Raise ConfigError where a judge of safety would label answers to harmless questions."""
    for judge in plan.judges if dataset.half is Half.BENIGN else ():
        if judge.kind.answers is Answers.LABELS:
            raise ConfigError(
                f"--dataset {plan.dataset} asks harmless questions, and {judge.title} would call every plain "
                f"answer unsafe. Pass --judge compliance:{judge.settings.endpoint.model}."
            )


def prepare_judging(plan: Plan, on_progress: OnProgress = ignore) -> Prepared:
    """Load and check, as `prepare`, what judging the responses of an existing run needs."""
    assert plan.judges
    require_run(plan.directory)
    old = read_manifest(plan.directory)
    dataset, _ = _dataset(plan, old, on_progress)
    _require_fitting(plan, dataset)
    sample_ids = [row.sample_id for row in old.samples]
    by_id = {sample.id: sample for sample in dataset.samples}
    # In the run's order: where that is shuffled, what a judge has labelled when it stops is a fair part.
    samples = tuple(by_id[sample_id] for sample_id in sample_ids if sample_id in by_id)
    if len(samples) < len(sample_ids):
        raise ConfigError(
            f"{plan.data_root or 'The data set'} lacks {len(sample_ids) - len(samples)} of the run's "
            f"{len(sample_ids)} samples. "
            "Pass the --data-root it was made from."
        )
    images = dataset.inspect(samples, known=old.images, skip_bad=plan.skip_bad_images)
    entries = [judge_entry(judge) for judge in plan.judges]

    def open_store() -> RunStore:
        return open_for_judging(
            plan.directory,
            entries,
            samples=[sample_row(sample) for sample in samples],
            images=_by_path(samples, images),
            accepts_changed_images=plan.accept_changed_images,
            prices=plan.prices,
        )

    return Prepared(plan, dataset, samples, images, open_store)


def manifest_of(
    plan: Plan, samples: tuple[Sample, ...], images: Mapping[int, ImageFile | ImageError | None]
) -> Manifest:
    """Make the manifest of a new run, before anything was asked."""
    assert plan.target is not None
    manifest = Manifest(
        version=__version__,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        target=Untrusted(plan.target.endpoint.model),
        simulated=is_simulated(plan.target),
        epochs=plan.epochs,
        settings=target_settings(plan.target),
        decision=None,
        judges=[],
        selection=plan.selection.describe(),
        data={} if plan.dataset == VLSBENCH else {"dataset": plan.dataset},
        data_digest=None,
        differences=DIFFERENCES,
        deviations=target_deviations(plan.target, guess_dialect(plan.target)),
        samples=[sample_row(sample) for sample in samples],
        images=_by_path(samples, images),
        accepts_changed_images=plan.accept_changed_images,
        provider=describe_provider(plan.target.endpoint, plan.target.sampling.extra),
        gate=plan.gate,
    )
    for judge in plan.judges:
        # The first that gives labels is the run's own: a resume must ask it again.
        entry = own_entry(manifest, judge_entry(judge))
        is_added = entry.is_guard or bool(manifest.judges)
        manifest = manifest.with_judge(replace(entry, is_added=is_added))
    return manifest


def judge_entry(judge: JudgeSetup) -> JudgeEntry:
    """Make a run's entry of a new judge."""
    return JudgeEntry(
        name=Untrusted(judge.title),
        file=judge_file(judge),
        simulated=is_simulated(judge.settings),
        is_added=False,
        settings=judge_settings(judge),
        decision=None,
        deviations=judge_deviations(judge, guess_dialect(judge.settings)),
        provider=describe_provider(judge.settings.endpoint, judge.settings.sampling.extra),
    )


def _by_path(
    samples: Iterable[Sample], images: Mapping[int, ImageFile | ImageError | None]
) -> dict[str, ImageFile]:
    paths = ((sample.image_path, images[sample.id]) for sample in samples)
    found = ((path, image) for path, image in paths if path is not None)
    return {path.expose(): image for path, image in found if isinstance(image, ImageFile)}


async def run_session(
    prepared: Prepared,
    credentials: Mapping[str, Credentials],
    listeners: Listeners,
    engines: Mapping[str, Leases] | None = None,
    accounts: Accounts | None = None,
    spending: Spending | None = None,
) -> SessionEnd:
    """Evaluate what is pending, each model on its engine if it has a lease of one.

    Runs of one process that are given the same `accounts` share the rate limits of what both send to, and
    with the same `spending` the limits of their plans' `max_cost` and `max_requests`.
    Raises StoreError, RunLockedError or RunMismatchError when the directory cannot be written.
    """
    plan = prepared.plan
    spending = Spending() if spending is None else spending
    before_usd = spending.estimated_usd
    spending.most_usd, spending.most_requests = plan.max_cost, plan.max_requests
    traffic = Traffic(spending=spending)
    shutdown = Shutdown(traffic, say=listeners.say, last_words=listeners.last_words)
    models: dict[str, ModelView] = {}
    profile: Profile | None = None
    with shutdown.listening() if listeners.owns_signals else nullcontext():
        store = await _open_store(prepared)
        pending, ended = 0, "complete"
        try:
            for torn in store.torn:
                listeners.say(
                    f"A record torn by an earlier interruption was set aside in {torn}; its sample is done "
                    "again."
                )
            begun = store.begin(plan.aim(), shutdown.stop)
            works = prepared.works(begun.judges, store.state.responses)
            pending = len(works) + begun.left_out
            if works:
                accounts = Accounts() if accounts is None else accounts
                means = Means(credentials, listeners, engines or {}, shutdown, traffic, accounts)
                models, profile = await _evaluate(prepared, store, begun, works, means)
        except StoppedError:
            pass  # while an engine was starting; the shutdown knows why
        except ServerError as error:
            shutdown.stop(error)
        except asyncio.CancelledError:
            shutdown.reason = shutdown.reason or VlsbError("cancelled")
            raise
        except BaseException as error:
            ended = type(error).__name__
            raise
        finally:
            reason = shutdown.reason or store.failed
            usd = round(spending.estimated_usd - before_usd, 8)
            await store.end(ended if reason is None else type(reason).__name__, estimated_usd=usd)
        limit = None if profile is None or plan.is_batch else find_limit(profile)
        unwritten = await _write_profile(plan, profile, limit)
    judges = tuple(file for file in store.judges if file in begun.files.values())
    return SessionEnd(shutdown.reason or unwritten, judges, pending, models, limit)


async def _write_profile(plan: Plan, profile: Profile | None, limit: Limit | None) -> StoreError | None:
    """Write the profile if one was asked for; returns why it could not be."""
    if plan.profile is not None and profile is not None:
        document = describe(profile, None if limit is None else limit.describe())
        try:
            await asyncio.to_thread(write_profile, plan.profile, document)
        except StoreError as error:
            return error
    return None


async def _open_store(prepared: Prepared) -> RunStore:
    """Open the store in a thread; a caller that gives up meanwhile leaves no lock behind."""
    plan = prepared.plan

    def open_now() -> RunStore:
        store = prepared.open_store()
        if plan.data_root is not None:
            remember_data_root(plan.directory, plan.data_root)
        return store

    opening = asyncio.ensure_future(asyncio.to_thread(open_now))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        await (await opening).close()
        raise


async def _evaluate(
    prepared: Prepared, store: RunStore, begun: Pending, works: list[SampleWork], means: Means
) -> tuple[dict[str, ModelView], Profile]:
    plan, listeners, shutdown, files = prepared.plan, means.listeners, means.shutdown, begun.files
    decisions = {"target": store.manifest.decision}
    decisions |= {name: store.manifest.judge(file).decision for name, file in files.items()}
    # Later sessions ask as earlier ones settled on.
    settled = {name: parse_dialect(each) for name, each in decisions.items() if each is not None}
    setup = ClientSetup(
        models=plan.models,
        credentials=dict(means.credentials.items()),
        dialects={name: settled.get(name, guess_dialect(settings)) for name, settings in plan.models.items()},
        prices=plan.model_prices(datetime.now(UTC).date()),
        policy=plan.policy,
        ca_bundle=plan.ca_bundle,
        transport=plan.transport,
        traffic=means.traffic,
        accounts=means.accounts,
        observe=lambda event: _observe(event, store, listeners.say),
        say=listeners.say,
        engines=means.engines,
        unless_stopped=shutdown.unless_stopped,
        is_batch=plan.is_batch and not plan.is_dry_run,
    )
    images = SentImages(prepared.dataset.read, begun.sent, accepts_changed=plan.accept_changed_images)
    async with open_clients(setup) as clients:
        target: Target | None = None
        if plan.target is not None:
            arm = Arm.parse(plan.target.arm)
            view = ArmView(arm, prepared.samples, prepared.images, images.read)
            target = Target(plan.target, clients["target"], view=view)
        for name, (engine, *_) in means.engines.items():
            if name not in settled:
                tell_of_engine(clients[name], engine, plan.models[name])
        judges = {
            name: Judge(files[name], judge, clients.get(name), read_image=images.read)
            for name, judge in plan.named_judges.items()
        }
        stopwatch = Stopwatch(clients, plan.models, store)

        async def on_dialects(found: Mapping[str, Dialect]) -> None:
            await _record_dialects(plan, store, files, found)
            stopwatch.preflight_ended()

        progress = Progress.of(store, len(works), clients, files, plan.only, left_out=begun.left_out)
        pipeline = Pipeline(
            target=target,
            judges=judges,
            store=store,
            shutdown=shutdown,
            on_outcome=progress.update,
            on_dialects=on_dialects,
        )
        stages = _batch_run(plan, store, clients, files, means) if setup.is_batch else None
        watcher = asyncio.create_task(listeners.watch(progress))
        try:
            await pipeline.run(works, settled=settled, stages=stages)
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
        return progress.models(), stopwatch.stop(plan.transport)


def _batch_run(
    plan: Plan,
    store: RunStore,
    clients: Mapping[str, EndpointClient],
    files: Mapping[str, str],
    means: Means,
) -> BatchRun:
    """Return the stages of a session by batch, with a lane for each model."""
    models = plan.models
    lanes = {
        name: Lane(
            name,
            client,
            client.service,
            files.get(name),
            find_batch_api(models[name].endpoint),
            forgets=is_simulated(models[name]),
        )
        for name, client in clients.items()
        if client.service is not None
    }
    say, unit_s = means.listeners.say, plan.policy.backoff_s
    return BatchRun(lanes, store, means.shutdown, means.traffic, say, unit_s, plan.batch_again)


def judge_files(plan: Plan, manifest: Manifest) -> dict[str, str]:
    """Return the judges' files in a run by their names in the session; the store has guards last."""
    return {name: own_entry(manifest, judge_entry(judge)).file for name, judge in plan.named_judges.items()}


async def _record_dialects(
    plan: Plan, store: RunStore, files: Mapping[str, str], dialects: Mapping[str, Dialect]
) -> None:
    """Put what the preflight settled into the manifest: later sessions ask in the same way."""
    manifest, target = store.manifest, dialects.get("target")
    if target is not None and plan.target is not None:
        deviations = target_deviations(plan.target, target)
        manifest = replace(manifest, decision=target.describe(), deviations=deviations)
    for name, file in files.items():
        if (dialect := dialects.get(name)) is not None:
            deviations = judge_deviations(plan.named_judges[name], dialect)
            entry = replace(manifest.judge(file), decision=dialect.describe(), deviations=deviations)
            manifest = manifest.with_judge(entry)
    if manifest != store.manifest:
        await store.update_manifest(manifest)


def _observe(event: Event, store: RunStore, say: Callable[[str], None]) -> None:
    """Record what happened to target or judge, and tell the user what they would wonder about."""
    store.add_event(
        event.kind,
        lane=event.stage,
        sample_id=event.sample_id,
        code=event.code,
        wait_s=None if event.wait_s is None else round(event.wait_s, 3),
        attempt=event.attempt,
        status=event.status,
        limit=event.limit,
        image_sha256=event.image_sha256,
        **({} if event.replica is None else {"replica": event.replica, "address": event.address}),
    )
    who = f"The {event.stage}" if event.replica is None else f"Replica {event.replica} ({event.address})"
    if event.kind == "long_wait":
        say(f"{who} has to pause for {event.wait_s or 0:.0f} s: its provider asks for that.")
    elif event.kind == "outage":
        say(
            f"{who} does not answer ({event.code}): outage detected. No sample is given up; "
            + ("waiting for it, one probe at a time." if event.replica is None else "the others take over.")
        )
    elif event.kind == "replica_lost":
        say(f"{who} is not asked any more, its samples go to the others: {event.reason.rstrip('.')}.")
    elif event.kind == "recovered":
        say(f"{who} answers again, after {event.wait_s or 0:.0f} s.")
    elif event.kind == "alone":
        say(
            f"Sample {event.sample_id} failed at the {event.stage} ({event.code}) with no other in hand to "
            "tell an outage by: counted as its own failure."
        )
    elif event.kind == "thinks":
        room = "" if event.limit is None else f" It may write {event.limit:,} tokens, which is recorded."
        say(f"The {event.stage} thinks before it answers.{room}")
    elif event.kind == "dialect":
        say(f"The {event.stage} does not take {event.code}: asking without it, and recording that.")


async def run_turns(
    resolved: Resolved,
    listeners: Listeners,
    prepare_first: Callable[[Plan, OnProgress], Prepared],
    on_progress: OnProgress = ignore,
    spending: Spending | None = None,
) -> SessionEnd:
    """Session after session, each with its own engines, until one stops early: the end of all of them.

    They share `spending`, also with those of other calls.
    """
    ends: list[SessionEnd] = []
    spending = Spending() if spending is None else spending
    for plan, credentials, engines in resolved.turns():
        prepare_it = prepare_judging if ends else prepare_first
        prepared = await in_thread(partial(prepare_it, plan), on_progress)
        ends.append(await run_session(prepared, credentials, listeners, engines, spending=spending))
        if ends[-1].reason is not None:
            break
    judges = tuple(dict.fromkeys(file for end in ends for file in end.judges))
    models = {name: view for end in reversed(ends) for name, view in end.models.items()}
    pending = sum(end.pending for end in ends)
    return SessionEnd(ends[-1].reason, judges, pending, models, ends[-1].limit)
