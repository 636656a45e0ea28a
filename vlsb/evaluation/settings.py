"""From options to an open plan: whatever keeps a session from starting is found before anything is spent.

The options are those of `vlsb run` and `vlsb judge`; messages name them as they are typed there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from vlsb import config
from vlsb.data import MINI, Selection, how_to_get, named_root, parse_limit, require_dataset
from vlsb.endpoints.credentials import Credentials, Mask, load_credentials
from vlsb.engines.leases import EngineNeed, Surroundings, host_engines, lease_engines
from vlsb.engines.registry import ServerRecord
from vlsb.errors import ConfigError, DatasetError, RunMismatchError, VlsbError
from vlsb.evaluation.clients import TARGET
from vlsb.evaluation.named_models import (
    Judges,
    NamedTarget,
    Problems,
    find_target,
    needed_engines,
    resolve_judges,
    run_name,
)
from vlsb.evaluation.options import RunOptions, as_flag
from vlsb.evaluation.session import Plan, Resolved
from vlsb.extras import require_extra
from vlsb.models.prices import load_prices
from vlsb.models.providers import ENGINE_URL, find_batch_api
from vlsb.records import JUDGED, VLSBENCH, Outcome
from vlsb.steps import in_thread, threaded
from vlsb.store.manifest import Manifest, is_run, read_manifest, remembered_data_root, require_run

# Options that a plan has as they were typed, under the same name.
_AS_TYPED = (
    *("dataset", "epochs", "transport", "skip_bad_images", "accept_changed_images", "ca_bundle"),
    *("batch_again", "max_requests", "max_cost"),
)


@asynccontextmanager
async def open_target(options: RunOptions, surroundings: Surroundings) -> AsyncIterator[Resolved]:
    """Open the plan of `vlsb run`, with the leases of engines for local models.

    Whatever else is wrong (a judge's key, a template) is found before an engine is installed or started.
    """
    resolved = await resolve_run(options, surroundings.environment, surroundings.say)
    async with AsyncExitStack() as held:
        leased = await lease_engines(resolved.needs, surroundings, held, max_restarts=options.max_restarts)
        yield resolved.on_engines(leased)


@asynccontextmanager
async def open_judging(
    run: Path | None, options: RunOptions, surroundings: Surroundings
) -> AsyncIterator[Resolved]:
    """Open the plan of `vlsb judge RUN`, or of its judges alone without a run, with leases of engines."""
    resolved = await resolve_judging(run, options, surroundings.environment)
    if options.replicas > 1 and not resolved.needs:
        raise ConfigError("--replicas is for engines that vlsb starts, and no judge is a local model.")
    async with AsyncExitStack() as held:
        leased = await lease_engines(resolved.needs, surroundings, held, max_restarts=options.max_restarts)
        yield resolved.on_engines(leased)


@asynccontextmanager
async def judge_hosted(
    options: RunOptions, surroundings: Surroundings
) -> AsyncIterator[tuple[ServerRecord, ...]]:
    """Start the engines of the one local judge that options name, for all sessions of the block.

    Without a local judge, or with several, which may not fit beside each other, nothing is started here.
    Raises as `engine_lease`.
    """
    needs = await in_thread(lambda _: needed_engines(options, resolve_judges(options)))
    if len(needs) != 1:
        yield ()
        return
    (need,) = needs.values()
    async with host_engines(need, surroundings) as servers:
        yield servers


async def resolve_run(
    options: RunOptions, environment: Mapping[str, str], say: Callable[[str], None]
) -> Resolved:
    """Make the plan of `vlsb run`. Raises ConfigError or AccessError."""
    refuse_keys(options, environment)
    if options.retry and not options.resume:
        raise ConfigError("--retry works on an existing run: add --resume.")
    if options.no_judge and (options.judge or options.judge_base_url):
        raise ConfigError("--no-judge and --judge exclude each other. Pass one of them.")
    target, problems = None, Problems()
    try:
        target = await find_target(options, environment, say)
    except VlsbError as error:
        problems.add(error)
    return await in_thread(
        lambda _: _plan(options, environment, problems, target, is_simulated=options.is_demo)
    )


@threaded
def resolve_judging(run: Path | None, options: RunOptions, environment: Mapping[str, str]) -> Resolved:
    """Make the plan of `vlsb judge RUN`, or without a run of its judges alone.

    Raises ConfigError or AccessError.
    """
    refuse_keys(options, environment)
    if run is None:
        return _plan(options, environment, Problems(), is_simulated=False)
    require_run(run)
    old = read_manifest(run)
    options = replace(options, dataset=old.dataset)
    return _plan(options, environment, Problems(), run=run, old=old, is_simulated=old.simulated)


def _plan(
    options: RunOptions,
    environment: Mapping[str, str],
    problems: Problems,
    target: NamedTarget | None = None,
    *,
    run: Path | None = None,
    old: Manifest | None = None,
    is_simulated: bool,
) -> Resolved:
    """Make the plan of a session that asks a target, judges a run, or has judges alone. Blocking.

    `old` is the manifest of the `run` that is judged. The data set's folder, checkpoints and templates are
    read from disks that may take their time. Raises ConfigError or AccessError.
    """
    shared: dict[str, Any] = {
        "policy": policy_of(options),
        "selection": problems.of(lambda: selection_of(options), Selection()),
        "retry": problems.of(lambda: _outcomes_to_retry(options), tuple[Outcome, ...]()),
        "profile": problems.of(lambda: _profile(options), None),
        "is_resume": options.resume,
        "is_dry_run": options.dry_run,
        "is_batch": options.batch,
        **{name: getattr(options, name) for name in _AS_TYPED},
    }
    directory = run or options.output_dir
    if target is not None:
        directory = problems.of(lambda: directory / run_name(options, target.name), directory)
        run = directory if options.resume else None
    prices = problems.of(lambda: load_prices(options.prices), load_prices())
    data_root = problems.of(lambda: data_root_of(options, run, old, is_simulated=is_simulated), None)
    judges = Judges()
    if not options.no_judge:
        judges = problems.of(lambda: resolve_judges(options, is_demo=is_simulated), judges)
    needs = problems.of(lambda: needed_engines(options, judges, target), dict[str, EngineNeed]())
    settings = None
    if target is not None:
        profile = needs[TARGET].model if TARGET in needs else target.profile
        settings = problems.of(lambda: replace(target, profile=profile).settings(options), None)
    models = ({} if settings is None else {TARGET: settings}) | judges.models
    credentials = {
        name: problems.of(
            partial(load_credentials, model.endpoint, environment, "target" if name == TARGET else "judge"),
            Credentials(None),
        )
        for name, model in models.items()
    }
    problems.raise_if_any()
    plan = Plan(directory, settings, judges.setups, data_root, prices=prices, **shared)
    _require_batches(plan)
    _require_prices(plan)
    return Resolved(plan, credentials, needs)


def refuse_keys(options: RunOptions, environment: Mapping[str, str]) -> None:
    """Raise ConfigError for a key in the place of a name, which is sent, stored and shown."""
    mask = Mask((), environment)
    given = [("model", options.model), ("name", options.name), *(("judge", each) for each in options.judge)]
    for name, value in given:
        if value is not None and mask.holds(value):
            raise ConfigError(
                f"{as_flag(name)}: what was given may be a key, and is not repeated. Put a key into a "
                "variable, and name the variable with --api-key-env."
            )


def _require_prices(plan: Plan) -> None:
    """Raise ConfigError where money is limited and a price is unknown; an engine of ours is free."""
    prices = plan.model_prices(datetime.now(UTC).date())
    for name, settings in plan.models.items():
        is_free = settings.endpoint.base_url in (config.SIMULATED_URL, ENGINE_URL)
        price = prices.get(name)
        is_known = price is not None and (not plan.is_batch or price.batch_input is not None)
        if plan.max_cost is not None and not is_known and not is_free:
            what = "price of a batch" if plan.is_batch else "price"
            raise ConfigError(
                f"--max-cost: no {what} is known for {settings.endpoint.model} at "
                f"{settings.endpoint.base_url}. Pass its price with --prices FILE, or use --max-requests."
            )


def _require_batches(plan: Plan) -> None:
    """Raise ConfigError where not every model can be asked by batch."""
    if plan.is_batch:
        if plan.target is not None and plan.target.other_urls:
            raise ConfigError("--batch goes with one --base-url.")
        for settings in plan.models.values():
            find_batch_api(settings.endpoint)
        require_extra("batch", "--batch")
    elif plan.batch_again:
        raise ConfigError("--batch-again goes with --batch.")


def data_root_of(
    options: RunOptions, run: Path | None, manifest: Manifest | None = None, *, is_simulated: bool
) -> Path | None:
    """Return the data set's folder: the user's, the demo's, or that of `run`; None for the Hub's.

    The run's manifest is read where it is not given.
    """
    remembered = None if run is None else remembered_data_root(run)
    if manifest is None and run is not None and is_run(run):
        manifest = read_manifest(run)
    if manifest is not None and manifest.dataset != options.dataset:
        raise RunMismatchError(
            f"{run} was made from the data set {manifest.dataset}. Pass --dataset {manifest.dataset}, or "
            "--name for a new run."
        )
    if options.data_root is not None:
        try:
            require_dataset(options.data_root, options.dataset)
        except DatasetError as error:
            raise DatasetError(f"--data-root {error.message}", detail=error.detail) from error
        return options.data_root
    root = named_root(MINI if is_simulated and options.dataset == VLSBENCH else options.dataset)
    if root is None and manifest is not None and "repository" not in manifest.data:
        root = remembered
        try:
            if root is not None:
                require_dataset(root, options.dataset)
        except DatasetError as error:
            raise DatasetError(
                f"{run} was made from the data set at {root}, which is not there any more",
                advice="Pass its new place with --data-root.",
            ) from error
    if root is None and options.dataset != VLSBENCH:
        get = how_to_get(options.dataset)
        raise ConfigError(f"--dataset {options.dataset}: pass --data-root DIR with a copy of it. {get}")
    return root


def selection_of(options: RunOptions) -> Selection:
    """Return which samples options ask for."""
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


def policy_of(options: RunOptions) -> config.RetryPolicy:
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
    """Return where the profile goes: a path that cannot take one is found before anything is spent."""
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
