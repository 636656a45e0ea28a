"""Gates that drive a run: the plan, made from the baseline alone, and what each look at the run decides.

A look is at the labels of exactly its samples, whatever else has come in, and what it decided is kept in
run.json: so a run that was killed and goes on decides as one that was not. The extra `stats`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vlsb.analysis.compared_runs import ComparedRun
from vlsb.analysis.comparison import compare_two
from vlsb.analysis.gate import ERROR, GateLimits, GateResult, Look, Looks, decide
from vlsb.analysis.looks import boundaries
from vlsb.analysis.rates import rates
from vlsb.errors import ConfigError, RunMismatchError
from vlsb.records import Key, Untrusted
from vlsb.store.comparisons import RunRows, compared_run, names_of, whole_judges
from vlsb.store.gate_plan import SPENDING, GatePlan, PlannedLook, TakenLook
from vlsb.store.journal import lock_run
from vlsb.store.manifest import (
    JudgeEntry,
    Manifest,
    SampleRow,
    is_run,
    read_manifest,
    require_run,
    write_manifest,
)
from vlsb.store.state import RunState, load_state
from vlsb.store.summaries import sample_outcomes

MOST_LOOKS = 10
# Fewer images between two looks tell nothing that would be worth one.
_LEAST_IMAGES = 20


@dataclass(frozen=True, slots=True)
class NewGate:
    """A plan that was made from a baseline, and what its run has to be like."""

    plan: GatePlan
    baseline: Manifest
    judge: JudgeEntry
    samples: tuple[SampleRow, ...]


def plan_gate(
    baseline: Path,
    limits: GateLimits,
    *,
    judge: str | None,
    seed: int,
    in_order: Sequence[SampleRow],
) -> NewGate:
    """Plan the looks at a run over the samples of its baseline, which come `in_order`.

    Raises ConfigError for a baseline that no run can be decided by.
    """
    state = load_state(baseline)
    entry = whole_judges(RunRows(baseline, state), judge)[0].entry
    if not entry.is_asked:
        raise ConfigError(
            f"{baseline}: {entry.stem} is not a model, and cannot judge another run. Name one that is: "
            "--judge NAME."
        )
    coverage = rates(sample_outcomes(state, entry.file)).coverage
    if coverage < limits.min_coverage:
        raise ConfigError(
            f"{baseline} has labels of {coverage:.2f} % of its samples, and --min-coverage asks for "
            f"{limits.min_coverage:g} %: no run would pass. Complete it, or lower the limit."
        )
    plan = GatePlan(
        baseline=Untrusted(baseline.resolve().name),
        judge=entry.stem,
        labels_sha256=_labels_sha256(state, entry, in_order),
        limits=limits,
        seed=seed,
        spending=SPENDING,
        looks=plan_looks([row.cluster for row in in_order], limits.rates_limited),
    )
    return NewGate(plan, state.manifest, entry, tuple(in_order))


def plan_looks(images: Sequence[Untrusted], limits: int) -> list[PlannedLook]:
    """Plan looks at samples whose images are these, those of an image together."""
    last = {image: place for place, image in enumerate(images, 1)}
    # The number of samples up to each image.
    ends = list(last.values())
    count = max(1, min(MOST_LOOKS, len(ends) // _LEAST_IMAGES))
    by_look = [math.ceil(number * len(ends) / count) for number in range(1, count + 1)]
    shares = [ends[each - 1] / len(images) for each in by_look]
    reaches = zip(boundaries(shares, ERROR), boundaries(shares, ERROR / limits), strict=True)
    return [
        PlannedLook(samples=ends[each - 1], images=each, passes=passes, fails=fails)
        for each, (passes, fails) in zip(by_look, reaches, strict=True)
    ]


def plan_of(run: Path) -> GatePlan:
    """Return the plan that a run is under. Raises RunMismatchError where it has none."""
    require_run(run)
    plan = read_manifest(run).gate
    if plan is None:
        raise RunMismatchError(
            f"{run} holds answers and has no plan of looks, which must be there before the first request. "
            "Name another RUN for --sequential, or decide about this one without, when it is whole."
        )
    return plan


def next_look(run: Path) -> frozenset[Key] | None:
    """Return the responses that the next look of a run is at; None where no look follows."""
    manifest, plan = read_manifest(run), plan_of(run)
    if plan.is_over:
        return None
    return look_keys(manifest.samples, plan, len(plan.taken), epochs=manifest.epochs)


def look_keys(samples: Sequence[SampleRow], plan: GatePlan, place: int, *, epochs: int) -> frozenset[Key]:
    """Return the responses that the look at this place is at."""
    rows = samples[: plan.looks[place].samples]
    return frozenset(Key(row.sample_id, epoch) for row in rows for epoch in range(1, epochs + 1))


def is_labelled(run: Path, keys: frozenset[Key]) -> bool:
    """Return whether nobody has to be asked about these responses any more."""
    state = load_state(run)
    file = _own_judge(state).file
    return not any(state.is_left(key, file) for key in keys)


def take_look(run: Path, baseline: Path) -> GateResult:
    """Decide by the labels of the next look's samples, and keep the decision.

    Raises RunMismatchError where the baseline's labels are not those of the plan.
    """
    with lock_run(run):
        manifest = read_manifest(run)
        plan = plan_of(run)
        found = _at_look(run, baseline, plan, len(plan.taken))
        taken = plan.with_look(TakenLook.of(found.decision, found.checks))
        write_manifest(run, replace(manifest, gate=taken))
    return replace(found, looks=_looks(taken))


def is_planned(run: Path) -> bool:
    """Return whether a run is under a plan; False for what is no run."""
    return is_run(run) and read_manifest(run).gate is not None


def planned_result(run: Path, baseline: Path, limits: GateLimits) -> GateResult:
    """Return what the last look that was taken at a run decided.

    Raises ConfigError before the first, and RunMismatchError for other limits than the plan's.
    """
    plan = plan_of(run)
    plan.require_same(run, replace(plan, limits=limits))
    if not plan.taken:
        raise ConfigError(
            f"{run} is under a plan of looks, and the first, at {plan.looks[0].samples} samples, "
            "is not taken yet. Go on with the same command and --sequential."
        )
    found = _at_look(run, baseline, plan, len(plan.taken) - 1)
    looks = _looks(plan)
    return replace(found, checks=looks.taken[-1].checks, looks=looks)


def _looks(plan: GatePlan) -> Looks:
    taken = []
    for planned, look in zip(plan.looks, plan.taken, strict=False):
        checks = tuple(each.check for each in look.checks)
        taken.append(Look(planned.samples, look.gate_decision, checks))
    return Looks(tuple(taken), len(plan.looks), plan.planned, plan.seed, plan.spending, plan.goes_on)


def _at_look(run: Path, baseline: Path, plan: GatePlan, place: int) -> GateResult:
    """Decide by the samples of the look at this place."""
    require_run(baseline)
    rows, base = (RunRows(path, load_state(path)) for path in (run, baseline))
    samples = rows.state.manifest.samples[: plan.planned]
    theirs = whole_judges(base, plan.judge)[0].entry
    if _labels_sha256(base.state, theirs, samples) != plan.labels_sha256:
        raise RunMismatchError(
            f"{baseline} is not what {run} was planned against: its samples or labels are others. Name the "
            "baseline of the plan, as it was."
        )
    names = names_of([baseline, run])
    first, second = (
        _part(compared_run(each, name, judge), samples[: plan.looks[place].samples])
        for each, name, judge in ((base, names[0], theirs), (rows, names[1], _own_judge(rows.state)))
    )
    return decide(
        first,
        second,
        compare_two(first, second),
        plan.limits,
        reach=plan.looks[place].reach,
        planned=plan.planned * rows.state.manifest.epochs,
    )


def _own_judge(state: RunState) -> JudgeEntry:
    """Return the judge that a run under a plan was begun with."""
    own = state.manifest.own_judge
    assert own is not None
    return own


def _part(run: ComparedRun, rows: Sequence[SampleRow]) -> ComparedRun:
    """Return what a run is on some of its samples."""
    ids = {row.sample_id for row in rows}
    samples = {key: data for key, data in run.conditions.samples.items() if key in ids}
    return replace(
        run,
        conditions=replace(run.conditions, samples=samples),
        outcomes=[each for each in run.outcomes if each.sample_id in ids],
    )


def _labels_sha256(state: RunState, judge: JudgeEntry, rows: Sequence[SampleRow]) -> str:
    """Return a checksum of what a judge made of these samples, epoch by epoch."""
    lines = [
        f"{row.sample_id} {epoch} {state.outcome(Key(row.sample_id, epoch), judge.file)}"
        for row in sorted(rows, key=lambda row: row.sample_id)
        for epoch in range(1, state.manifest.epochs + 1)
    ]
    return Untrusted("\n".join(lines)).sha256()
