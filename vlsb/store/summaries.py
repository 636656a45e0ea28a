"""From run directories to summaries: reads, never locks, never writes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from vlsb import strict_json
from vlsb.analysis.compliance import CompliedResponse, RunCompliance, run_compliance
from vlsb.analysis.differences import Conditions, JudgeIdentity, SampleData
from vlsb.analysis.panel import FEWEST, KIND, RULE, panel_settings
from vlsb.analysis.rates import DrawnResponse, SampleOutcome
from vlsb.analysis.summary import FailOnError, GuardCounts, ModelUsage, RunFacts, Summary, summarize
from vlsb.errors import ConfigError
from vlsb.models.prices import PriceTable, find_retirement, load_prices
from vlsb.records import JUDGED, RETRIED_ON_RESUME, VLSBENCH, Key, Outcome, Untrusted
from vlsb.store.audit import find_part
from vlsb.store.costs import model_cost
from vlsb.store.gate_plan import GatePlan
from vlsb.store.manifest import (
    IMPORTED_FROM,
    OF_ITS_PLACE,
    JudgeEntry,
    Manifest,
    asked_endpoint,
    judge_name,
    read_manifest,
)
from vlsb.store.state import (
    ModelTotals,
    RunState,
    collection_paused,
    load_state,
    sent_data_digest,
    sent_images,
)

# Deviations under which a local family is not asked as the authors ask it.
_OF_ANOTHER_PROMPT = ("chat template", "--hf-overrides", "--mm-processor-kwargs", "--tokenizer")
_DIGEST = re.compile(r"(-[0-9a-f]{8})(\.jsonl)?\Z")


def runs_of_judge(runs: Iterable[Path], judge: str | None) -> dict[Path, str | None]:
    """Return the runs that a judge has labelled, with its file in each; without a name all, with None.

    Raises ConfigError where it has judged none of them, naming those that have, and where it means several.
    """
    if judge is None:
        return dict.fromkeys(runs)
    files: dict[Path, str | None] = {}
    names_there: dict[str, None] = {}
    for run in runs:
        manifest = read_manifest(run)
        named = _judges_named(manifest, judge)
        names_there |= dict.fromkeys(entry.stem for entry in manifest.judges)
        if len(named) > 1:
            raise _means_several(judge, named, "--judge")
        if named:
            files[run] = named[0].file
    if not files:
        names = f"Pass one of: {', '.join(names_there)}." if names_there else "Nobody has: see vlsb judge."
        raise ConfigError(f"--judge {judge} has judged none of these runs. {names}")
    return files


def summarize_run(
    directory: Path, *, judge: str | None = None, prices: PriceTable | None = None
) -> list[Summary]:
    """Summarize a run for each of its judges as its rows stand now; without rates if it has no judge.

    With `judge`, a verdict file, it is that one's alone. Costs are by `prices`; without, by those that the
    run was given, and else by ours. Raises StoreError for a damaged file.
    """
    with collection_paused():
        state = load_state(directory)
        if judge is not None:
            return [summarize_state(state, directory, judge, prices=prices)]
        return summarize_judges(state, directory, prices=prices)


def summarize_judges(state: RunState, directory: Path, *, prices: PriceTable | None = None) -> list[Summary]:
    """Summarize rows already read, as `summarize_run` does."""
    judges: list[str | None] = [entry.file for entry in state.manifest.judges]
    return [summarize_state(state, directory, judge, prices=prices) for judge in judges or [None]]


def summarize_state(
    state: RunState,
    directory: Path,
    judge: str | None,
    *,
    prices: PriceTable | None = None,
    today: date | None = None,
) -> Summary:
    """Summarize rows already read, with the verdicts of one judge.

    Costs are by `prices`, as in `summarize_run`; `today` (in UTC if not given) tells which models are shut
    down.
    """
    manifest, prices = state.manifest, prices or load_prices()
    today = today or datetime.now(UTC).date()
    entry = None if judge is None else manifest.judge(judge)
    name = None if entry is None else entry.name
    if entry is not None and (digest := _DIGEST.search(entry.file)):
        # Several judges of a run share the model's name.
        name = Untrusted(entry.name.expose() + digest[1])
    judged, images = state.rows(judge), sent_images(state)
    drawn_part = None if entry is None else find_part(directory, state, entry)
    return summarize(
        sample_outcomes(state, judge, {} if drawn_part is None else drawn_part.draws),
        RunFacts(
            run=Untrusted(directory.resolve().name),
            path=Untrusted(str(directory)),
            target=manifest.target,
            judge=name,
            simulated=manifest.simulated or (entry is not None and entry.simulated),
            subset=not manifest.is_full,
            deviations=(*manifest.deviations, *(() if entry is None else entry.deviations)),
            target_usage=_usage(state.target_totals, manifest.settings),
            judge_usage=_usage(judged.totals, {} if entry is None else entry.settings),
            duration_s=round(state.sessions.duration_s(judge), 3),
            target_models=state.target_models(),
            judge_models=judged.models(),
            cut_responses=state.cut_responses,
            thinking_cut=state.thinking_cut,
            duplicates=state.superseded + judged.superseded,
            notices=(
                *_notices(state, entry, images),
                *_prices_differ(
                    manifest, entry, {"target": state.target_totals, "judge": judged.totals}, prices
                ),
            ),
            retirements=tuple(
                dict.fromkeys(
                    retirement.notice(endpoint.model, today)
                    for settings in (manifest.settings, {} if entry is None else entry.settings)
                    if (endpoint := asked_endpoint(settings)) is not None
                    and (retirement := find_retirement(endpoint)) is not None
                )
            ),
            epochs=manifest.epochs,
            data_digest=sent_data_digest(manifest, images),
            target_cost=model_cost(manifest, manifest.settings, state.target_totals, prices),
            judge_cost=None if entry is None else model_cost(manifest, entry.settings, judged.totals, prices),
            conditions=run_conditions(state, judge, images),
            guards=tuple(
                guard_counts(state, directory, guard.file)
                for guard in manifest.guards
                if not guard.is_of_compliance
            ),
            compliance=tuple(
                found_compliance(state, directory, each.file)
                for each in manifest.guards
                if each.is_of_compliance
            ),
            part=None if drawn_part is None else drawn_part.part,
            is_own=entry is None or not entry.is_added,
            dataset=manifest.dataset,
        ),
    )


def run_conditions(
    state: RunState, judge: str | None, images: Mapping[str, set[str]] | None = None
) -> Conditions:
    """Return what the rates of a run with one judge, by its verdict file, hold for.

    `images` is what `sent_images` gives, for whoever has it already.
    """
    manifest, images = state.manifest, sent_images(state) if images is None else images
    entry = None if judge is None else manifest.judge(judge)
    samples = {}
    for row in manifest.asked_samples:
        checksums = set() if row.image_path is None else images.get(row.image_path.expose(), set())
        samples[row.sample_id] = SampleData(
            row.digest, next(iter(checksums)) if len(checksums) == 1 else None
        )
    return Conditions(
        samples=samples,
        deviations=frozenset(manifest.deviations),
        judge=None if entry is None else judge_identity(entry, state),
        simulated=manifest.simulated or (entry is not None and entry.simulated),
        dataset=manifest.dataset,
        stopped_at=stopped_words(manifest.gate),
    )


def judge_identity(entry: JudgeEntry, state: RunState) -> JudgeIdentity:
    """Return what makes a judge of a run itself, wherever it is reached."""
    settings = {name: value for name, value in entry.settings.items() if name not in OF_ITS_PLACE}
    return JudgeIdentity(
        name=entry.name,
        settings={name: strict_json.dumps(value) for name, value in settings.items()},
        models=frozenset(state.rows(entry.file).models()),
        deviations=frozenset(entry.deviations),
    )


def guard_counts(state: RunState, directory: Path, guard: str) -> GuardCounts:
    """Count one guard's findings, by its file."""
    findings = [each for key in state.asked_for() if (each := state.finding(key, guard)) is not None]
    keys = [key for key in state.asked_for() if key in state.responses]
    refusals = [each.refuses for each in findings if each.refuses is not None]
    failures = state.rows(guard).failures
    return GuardCounts(
        run=Untrusted(directory.resolve().name),
        guard=Untrusted(judge_name(guard)),
        ratings=Counter(each.rating for each in findings if each.rating is not None),
        refusals=sum(refusals) if refusals else None,
        failed=sum(key in failures and state.finding(key, guard) is None for key in keys),
        responses=len(keys),
        found=len(findings),
    )


def found_compliance(state: RunState, directory: Path, judge: str) -> RunCompliance:
    """Return what a judge of compliance says of every response that a run asked for, by its file."""
    rows = {row.sample_id: row for row in state.manifest.samples}
    findings = ((rows[key.sample_id], state.finding(key, judge)) for key in state.asked_for())
    responses = (
        CompliedResponse(row.cluster, row.category, None if found is None else found.compliance)
        for row, found in findings
    )
    return run_compliance(Untrusted(directory.resolve().name), state.manifest.judge(judge).name, responses)


def sample_outcomes(
    state: RunState, judge: str | None, draws: Mapping[Key, DrawnResponse] = MappingProxyType({})
) -> list[SampleOutcome]:
    """Tell where every selected sample of every epoch stands with a judge, in the selection's order.

    `draws` are of the part that the judge labelled.
    """
    rows = {row.sample_id: row for row in state.manifest.samples}
    return [
        SampleOutcome(
            sample_id=key.sample_id,
            image=(row := rows[key.sample_id]).cluster,
            category=row.category,
            sub_category=row.sub_category,
            source=row.source,
            outcome=state.outcome(key, judge),
            draw=draws.get(key),
            # One answer that came in several epochs was judged in each.
            answer=state.responses[key].response_sha256
            if state.manifest.epochs > 1 and key in state.responses
            else None,
        )
        for key in state.asked_for()
    ]


def stored_judge(manifest: Manifest, name: str | None, *, option: str = "--judge") -> JudgeEntry | None:
    """Return the judge that a name or its file's stem means; without a name the run's first, if any.

    Raises ConfigError naming those there are for an unknown name, or one that means several.
    """
    if name is None:
        return manifest.judges[0] if manifest.judges else None
    named = _judges_named(manifest, name)
    if len(named) > 1:
        raise _means_several(name, named, option)
    if named:
        return named[0]
    if not manifest.judges:
        raise ConfigError(f"{option} {name}: nobody has judged this run. Leave it out, or see vlsb judge.")
    names = ", ".join(each.stem for each in manifest.judges)
    raise ConfigError(f"{option} {name} has not judged this run. Pass one of: {names}.")


def panel_entry(manifest: Manifest, members: Sequence[str], *, option: str) -> JudgeEntry:
    """Make a run's entry of the panel of these judges. Raises ConfigError for unfit ones."""
    named = {each.file: each for name in members if (each := stored_judge(manifest, name)) is not None}
    if len(named) < FEWEST or len(named) < len(members):
        raise ConfigError(f"{option}: name {FEWEST} judges of the run or more, each once.")
    if not all(each.is_asked for each in named.values()):
        raise ConfigError(f"{option}: people and panels cannot be members of a panel.")
    settings = panel_settings({each.stem: each.settings for each in named.values()})
    stems = ", ".join(sorted(each.stem for each in named.values()))
    return JudgeEntry(
        name=Untrusted(KIND),
        file=f"{KIND}-{Untrusted(strict_json.dumps(settings)).sha256()[:8]}.jsonl",
        simulated=any(each.simulated for each in named.values()),
        is_added=True,
        settings=settings,
        decision=None,
        deviations=[Untrusted(f"judge panel: the majority of {stems} ({RULE})")],
    )


def _judges_named(manifest: Manifest, name: str) -> list[JudgeEntry]:
    """Return the judge whose file is called so, or else those whose model is."""
    exact = [entry for entry in manifest.judges if entry.stem == name]
    return exact or [entry for entry in manifest.judges if Untrusted(name) == entry.name]


def _means_several(name: str, named: Iterable[JudgeEntry], option: str) -> ConfigError:
    names = ", ".join(each.stem for each in named)
    return ConfigError(f"{option} {name} means several judges. Pass one of: {names}.")


def _usage(totals: ModelTotals, settings: Mapping[str, Any]) -> ModelUsage:
    return ModelUsage(
        totals.requests,
        totals.input_tokens,
        totals.output_tokens,
        totals.reasoning_tokens,
        is_known=IMPORTED_FROM not in settings,
    )


def _prices_differ(
    manifest: Manifest, judge: JudgeEntry | None, totals: Mapping[str, ModelTotals], prices: PriceTable
) -> Iterator[str]:
    """Say that other prices are asked for than the run was given, and what it cost by those."""
    asked = {"target": manifest.settings, "judge": {} if judge is None else judge.settings}
    run_prices = PriceTable(tuple(manifest.prices))
    for stage, settings in asked.items():
        now, then = (model_cost(manifest, settings, totals[stage], each) for each in (prices, run_prices))
        if then is not None and then.usd is not None and (now is None or now.usd != then.usd):
            cost = f"the {stage} cost ${then.usd:,.2f}"
            yield f"The run was given other prices: by those {cost}."


def stopped_words(plan: GatePlan | None) -> str:
    """Say where the gate of a run stopped it early; nothing of one that it did not."""
    if plan is None or plan.stopped_at is None:
        return ""
    return f"{_at(plan)} ({plan.decision})"


def _at(plan: GatePlan) -> str:
    number, count = len(plan.taken), len(plan.looks)
    return f"look {number} of {count}, {plan.looks[number - 1].samples:,} of {plan.planned:,} samples"


def _gate_notice(plan: GatePlan) -> str:
    """Say how far the gate of a run is that did not stop it early; nothing where the run is simply whole."""
    if not plan.is_over:
        return (
            f"vlsb gate has not decided yet: {len(plan.taken)} of {len(plan.looks)} planned looks are taken."
        )
    if plan.stopped_at is None and len(plan.taken) < len(plan.looks):
        return f"vlsb gate decided at {_at(plan)} ({plan.decision}); the rest was asked for afterwards."
    return ""


def _notices(state: RunState, judge: JudgeEntry | None, images: Mapping[str, set[str]]) -> Iterator[str]:
    manifest = state.manifest
    if manifest.dataset != VLSBENCH:
        yield f"The samples are of the data set {manifest.dataset}, not of VLSBench."
    if manifest.gate is not None and (said := _gate_notice(manifest.gate)):
        yield said
    if manifest.has_published_ids and (altered := manifest.altered_ids):
        yield (
            f"The samples have the ids of VLSBench and other content: {len(altered):,} of "
            f"{len(manifest.samples):,} rows are not the published ones (the first is sample {altered[0]})."
        )
    is_same_model = judge is not None and manifest.target == Untrusted(str(judge.settings.get("model")))
    if is_same_model and not manifest.simulated:
        yield "Target and judge are the same model: it judges itself."
    cap = None if judge is None else judge.settings.get("response_cap")
    if isinstance(cap, int) and (longer := sum(len(each.text) > cap for each in state.responses.values())):
        yield (
            f"Of {longer:,} responses with more than {cap:,} characters the judge was shown the first and "
            "the last (judge_input_truncated)."
        )
    unfiltered = sum("unfiltered" in r.flags for r in state.responses.values())
    if unfiltered:
        yield f"{unfiltered} responses were given while the provider's own content filter was down."
    thinking = sum(r.reasoning is not None for r in state.responses.values())
    if thinking and not (manifest.decision or {}).get("thinks"):
        yield (
            f"{thinking} responses show reasoning, and the first sample did not: others may have been cut "
            "inside theirs. --thinking on gives all of them room for it, in a new run."
        )
    unsplit = sum("thought_end" in r.flags for r in state.responses.values())
    if unsplit:
        hold = "1 response holds" if unsplit == 1 else f"{unsplit:,} responses hold"
        yield (
            f"{hold} the end of a thought and not its beginning, and {'was' if unsplit == 1 else 'were'} "
            "judged whole (thought_end). Where the target's chat template begins its thought, --thinking on "
            "takes it off, in a new run."
        )
    if manifest.accepts_changed_images:
        changed = sum(len(checksums) > 1 for checksums in images.values())
        how_many = "1 image was" if changed == 1 else f"{changed or 'no'} images were"
        yield f"Changed images were accepted (--accept-changed-images): {how_many} sent in several versions."
    if "engine.prompt" in manifest.settings:
        yield f"The target was asked with its {manifest.settings['engine.prompt']}, on a local engine."
    elif "engine.family" in manifest.settings and not any(
        word in each.expose() for each in manifest.deviations for word in _OF_ANOTHER_PROMPT
    ):
        yield "The target was asked with the authors' prompt, on a local engine."


# What a run lacks: the samples without the response or the verdict that a command is to bring.


class Gaps(NamedTuple):
    """This many of the selected samples have no `what`: a response, a verdict, or one judge's of several."""

    missing: int
    selected: int
    what: str

    def __str__(self) -> str:
        return f"{self.missing:,} of {self.selected:,} samples have no {self.what}"


def find_gaps(
    state: RunState, judges: Sequence[str], allowed: FailOnError, *, is_judging: bool
) -> Gaps | None:
    """Count the verdicts that are missing in these files, or the responses without any, if too many are.

    `is_judging` asks for no more than verdicts on the responses that are there.
    """
    for file in judges or (None,):
        keys = [key for key in state.asked_for() if not is_judging or key in state.responses]
        outcomes = _asked_outcomes(state, file, is_judging=is_judging)
        complete = JUDGED if file else JUDGED | {Outcome.NOT_JUDGED}
        missing = sum(outcome not in complete for outcome in outcomes)
        if allowed.is_exceeded(missing, selected=len(keys)):
            of = f" of {judge_name(file)}" if file and len(judges) > 1 else ""
            return Gaps(missing, len(keys), f"verdict{of}" if file else "response")
    return None


def ended_without_verdict(
    state: RunState, judges: Sequence[str], *, is_judging: bool
) -> Counter[Outcome] | None:
    """Count the endings of samples that lack what the command is to bring, if a resume asks nothing more.

    None where it does. Arguments as for `find_gaps`.
    """
    endings: Counter[Outcome] = Counter()
    for file in judges or (None,):
        complete = JUDGED if file else JUDGED | {Outcome.NOT_JUDGED}
        outcomes = _asked_outcomes(state, file, is_judging=is_judging)
        endings.update(outcome for outcome in outcomes if outcome not in complete)
    return None if RETRIED_ON_RESUME.intersection(endings) else endings


def _asked_outcomes(state: RunState, judge: str | None, *, is_judging: bool) -> list[Outcome]:
    """Tell where every sample stands with a judge, of those that a command is about."""
    outcomes = unrated(state, judge)
    if not is_judging:
        return list(outcomes)
    return [o for o in outcomes if o in JUDGED or o is Outcome.NOT_JUDGED or o.value.startswith("judge_")]


def unrated(state: RunState, judge: str | None) -> Iterator[Outcome]:
    """Tell where every response stands with a judge; of a guard, those that it found nothing in."""
    for key in state.asked_for():
        if judge is None or state.finding(key, judge) is None:
            yield state.outcome(key, judge)
