"""One session of a run: from a plan to a run directory that is finished, or says what is missing.

`prepare` does everything that can fail without costing anything (data, pictures, drift); `run_session`
spends money. Both leave the directory valid on every path.
"""

from __future__ import annotations

import asyncio
import random
import resource
import time as system_time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vlsb import __version__
from vlsb.analysis.summary import PUBLISHED_SAMPLES
from vlsb.config import FEWEST_CONNECTIONS, MOST_CONNECTIONS, START_CONNECTIONS, Lane, RetryPolicy
from vlsb.data import Dataset, Selection, load_dataset, select
from vlsb.endpoints.adaptive import AdaptiveLimit
from vlsb.endpoints.client import EndpointClient, Event, Traffic
from vlsb.endpoints.dialects import Dialect, first_guess, parse_dialect
from vlsb.endpoints.providers import SIMULATED_URL, is_loopback
from vlsb.endpoints.secrets import Credentials, Redactor
from vlsb.endpoints.traffic import Gate, Time
from vlsb.endpoints.transport import HttpxTransport
from vlsb.errors import ImageError, VlsbError
from vlsb.judging.prompts import JudgeTemplate
from vlsb.records import Outcome, Picture, Sample, Stage, Untrusted
from vlsb.runs.manifest import Manifest, read_manifest, sample_row
from vlsb.runs.pipeline import Pipeline, Side, Work
from vlsb.runs.progress import Progress
from vlsb.runs.protocol import DIFFERENCES, deviations, is_simulated, judge_file, settings
from vlsb.runs.stopping import Conductor
from vlsb.runs.store import RunStore, is_run, open_run, pending_ids, require_free

# Files besides sockets: run files, logs, pictures being read.
_SPARE_DESCRIPTORS = 64


@dataclass(frozen=True, slots=True)
class Plan:
    """What the user asked for, checked and resolved. Holds no key."""

    directory: Path
    target: Lane
    judge: Lane
    template: JudgeTemplate
    data_root: Path
    selection: Selection
    policy: RetryPolicy
    is_resume: bool = False
    retry: tuple[Outcome, ...] = ()
    skip_bad_pictures: bool = False
    ca_bundle: Path | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A plan with its data loaded and every picture looked at."""

    plan: Plan
    dataset: Dataset
    samples: tuple[Sample, ...]
    pictures: Mapping[int, Picture | ImageError]
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Listeners:
    """Who hears of a session: `say` gets lines for the user, `watch` shows progress until cancelled."""

    say: Callable[[str], None]
    watch: Callable[[Progress], Coroutine[Any, Any, None]]
    last_words: Callable[[], None]


def prepare(plan: Plan) -> Prepared:
    """Load and check everything that costs nothing; raises before a request is sent.

    A resume reuses the picture digests of the first session where size and time of the file agree.
    """
    is_continued = plan.is_resume and is_run(plan.directory)
    if not is_continued:
        require_free(plan.directory)
    dataset = load_dataset(plan.data_root)
    samples = select(dataset.samples, plan.selection)
    old = read_manifest(plan.directory) if is_continued else None
    known = {} if old is None else old.pictures
    dialects = _guesses(plan) | _decided({} if old is None else old.decisions)
    pictures = dataset.inspect(samples, known=known, skip_bad=plan.skip_bad_pictures)
    return Prepared(plan, dataset, samples, pictures, _manifest(plan, dataset, samples, pictures, dialects))


def _manifest(
    plan: Plan,
    dataset: Dataset,
    samples: tuple[Sample, ...],
    pictures: Mapping[int, Picture | ImageError],
    dialects: Mapping[str, Dialect],
) -> Manifest:
    good = {
        sample.image_path: picture
        for sample in samples
        if not isinstance(picture := pictures[sample.id], ImageError)
    }
    return Manifest(
        version=__version__,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        target=Untrusted(plan.target.endpoint.model),
        judge=Untrusted(plan.judge.endpoint.model),
        judge_file=judge_file(plan.judge, plan.template),
        simulated=is_simulated(plan.target, plan.judge),
        settings=settings(plan.target, plan.judge, plan.template),
        selection=plan.selection.describe(),
        data_digest=replace(dataset, samples=samples).digest(pictures),
        is_full=len(samples) == PUBLISHED_SAMPLES,
        differences=DIFFERENCES,
        deviations=deviations(plan.target, plan.judge, plan.template, dialects),
        samples=[sample_row(sample) for sample in samples],
        pictures={path.expose(): picture for path, picture in good.items()},
    )


def _decided(decisions: Mapping[str, Mapping[str, Any]]) -> dict[str, Dialect]:
    return {lane: parse_dialect(found) for lane, found in decisions.items()}


def _guesses(plan: Plan) -> dict[str, Dialect]:
    return {
        "target": first_guess(plan.target.endpoint.model),
        "judge": first_guess(plan.judge.endpoint.model),
    }


async def run_session(
    prepared: Prepared, credentials: Mapping[Stage, Credentials], listeners: Listeners
) -> VlsbError | None:
    """Evaluate what is pending. Returns why the session stopped early, None if it went through.

    Raises StoreError, RunLockedError or RunMismatchError when the directory cannot be written.
    """
    plan = prepared.plan
    store = open_run(plan.directory, prepared.manifest, is_resume=plan.is_resume)
    traffic = Traffic()
    conductor = Conductor(traffic, say=listeners.say, last_words=listeners.last_words)
    with conductor.listening():
        try:
            _announce(store, listeners.say)
            works = _works(prepared, store)
            store.start(conductor.stop)
            store.add_event("session_started", pending=len(works), vlsb=__version__)
            if works:
                await _evaluate(prepared, store, works, credentials, listeners, conductor, traffic)
        finally:
            await _finish(store, conductor)
    return conductor.reason


async def _finish(store: RunStore, conductor: Conductor) -> None:
    try:
        if store.failed is None:
            reason = conductor.reason
            store.add_event("session_ended", reason="complete" if reason is None else type(reason).__name__)
    finally:
        await store.close()


def _announce(store: RunStore, say: Callable[[str], None]) -> None:
    for torn in store.torn:
        say(f"A record torn by an earlier interruption was set aside in {torn}; its sample is done again.")


def _works(prepared: Prepared, store: RunStore) -> list[Work]:
    pending = pending_ids(store.state, prepared.plan.retry)
    return [
        Work(sample, prepared.pictures[sample.id], store.state.responses.get(sample.id))
        for sample in prepared.samples
        if sample.id in pending
    ]


async def _evaluate(
    prepared: Prepared,
    store: RunStore,
    works: list[Work],
    credentials: Mapping[Stage, Credentials],
    listeners: Listeners,
    conductor: Conductor,
    traffic: Traffic,
) -> None:
    plan = prepared.plan
    decided = {lane: parse_dialect(found) for lane, found in store.manifest.decisions.items()}
    dialects = _guesses(plan) | decided
    async with _lanes(plan, credentials, dialects, store, traffic, listeners.say) as (target, judge):
        progress = Progress.of(store.state, len(works), target.client, judge.client)
        pipeline = Pipeline(
            target=target,
            judge=judge,
            template=plan.template,
            store=store,
            read_picture=prepared.dataset.read,
            conductor=conductor,
            policy=plan.policy,
            time=_real_time(),
            on_outcome=progress.update,
            on_dialects=lambda found: _record(plan, store, found),
        )
        watcher = asyncio.create_task(listeners.watch(progress))
        try:
            await pipeline.run(works, decided=decided)
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)


def _record(plan: Plan, store: RunStore, dialects: Mapping[str, Dialect]) -> None:
    """Put what the preflight settled into the manifest: later sessions ask in the same way."""
    decisions = dict(store.manifest.decisions) | {lane: found.describe() for lane, found in dialects.items()}
    if decisions != dict(store.manifest.decisions):
        in_force = {lane: parse_dialect(found) for lane, found in decisions.items()}
        said = deviations(plan.target, plan.judge, plan.template, in_force)
        store.update_manifest(replace(store.manifest, decisions=decisions, deviations=said))


def _real_time() -> Time:
    return Time(system_time.monotonic, asyncio.sleep, random.uniform)


@asynccontextmanager
async def _lanes(
    plan: Plan,
    credentials: Mapping[Stage, Credentials],
    dialects: Mapping[str, Dialect],
    store: RunStore,
    traffic: Traffic,
    say: Callable[[str], None],
) -> AsyncIterator[tuple[Side, Side]]:
    """Both lanes with their transports open. Twins (same URL, model and key) share one gate."""
    time = _real_time()
    redactor = Redactor(secret for each in credentials.values() for secret in each.secrets())
    limits = _connection_limits(plan, say)
    gates = {"target": Gate(plan.policy, time)}
    is_twin = plan.target.endpoint == plan.judge.endpoint
    gates["judge"] = gates["target"] if is_twin else Gate(plan.policy, time)
    async with _addresses(plan) as addresses:
        transports: dict[str, HttpxTransport] = {}
        try:
            sides: dict[str, Side] = {}
            for lane, config in (("target", plan.target), ("judge", plan.judge)):
                stage: Stage = "target" if lane == "target" else "judge"
                transports[lane] = HttpxTransport(
                    addresses[lane],
                    credentials=credentials[stage],
                    connections=limits[lane].ceiling,
                    trust_environment=not is_loopback(addresses[lane]),
                    ca_bundle=plan.ca_bundle,
                )
                client = EndpointClient(
                    stage,
                    transports[lane],
                    name=config.endpoint.model,
                    dialect=dialects[lane],
                    policy=plan.policy,
                    limit=limits[lane],
                    gate=gates[lane],
                    redactor=redactor,
                    traffic=traffic,
                    time=time,
                    observe=lambda event: _observe(event, store, say),
                )
                sides[lane] = Side(config, client)
            yield sides["target"], sides["judge"]
        finally:
            for transport in transports.values():
                await transport.aclose()


@asynccontextmanager
async def _addresses(plan: Plan) -> AsyncIterator[dict[str, str]]:
    """The lanes' base URLs, with the simulator served for a lane that wants it."""
    wanted = {"target": plan.target.endpoint.base_url, "judge": plan.judge.endpoint.base_url}
    if SIMULATED_URL not in wanted.values():
        yield wanted
        return
    from vlsb.endpoints.demo import demo_responder
    from vlsb.endpoints.simulator import Simulator

    async with Simulator(demo_responder(), keep_bodies=False) as simulator:
        yield {lane: simulator.base_url if url == SIMULATED_URL else url for lane, url in wanted.items()}


def _observe(event: Event, store: RunStore, say: Callable[[str], None]) -> None:
    """Record what a lane did, and tell the user what they would wonder about."""
    store.add_event(
        event.kind,
        lane=event.lane,
        sample_id=event.sample_id,
        code=event.code,
        wait_s=None if event.wait_s is None else round(event.wait_s, 3),
        attempt=event.attempt,
        status=event.status,
        limit=event.limit,
    )
    if event.kind == "long_wait":
        say(f"The {event.lane}'s provider asks for a pause of {event.wait_s or 0:.0f} s.")
    elif event.kind == "outage":
        say(f"The {event.lane} fails every sample ({event.code}): waiting for it, one probe at a time.")
    elif event.kind == "dialect":
        say(f"The {event.lane} does not take {event.code}: asking without it, and recording that.")


def _connection_limits(plan: Plan, say: Callable[[str], None]) -> dict[str, AdaptiveLimit]:
    """The lanes' limits, their ceilings lowered to what the process may open."""
    wanted = {"target": plan.target.max_connections, "judge": plan.judge.max_connections}
    ceilings = {lane: asked or MOST_CONNECTIONS for lane, asked in wanted.items()}
    allowed = _allowed_connections(sum(ceilings.values()))
    if allowed < sum(ceilings.values()):
        share = max(1, allowed // 2)
        say(f"This system allows few open files: at most {share} connections a lane (see `ulimit -n`).")
        ceilings = {lane: min(ceiling, share) for lane, ceiling in ceilings.items()}
    return {
        lane: AdaptiveLimit(
            start=wanted[lane] or START_CONNECTIONS,
            ceiling=ceiling,
            floor=FEWEST_CONNECTIONS,
            clock=system_time.monotonic,
        )
        for lane, ceiling in ceilings.items()
    }


def _allowed_connections(wanted: int) -> int:
    """How many of the wanted sockets the process may open, after raising the soft limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _SPARE_DESCRIPTORS
    if soft < needed:
        raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
        soft = raised
    return soft - _SPARE_DESCRIPTORS
