"""From run directories to summaries: reads, never locks, never writes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vlsb.analysis.rates import SampleOutcome
from vlsb.analysis.summary import ModelUsage, Summary, summarize
from vlsb.errors import ConfigError
from vlsb.records import Rating, Untrusted
from vlsb.store.manifest import JudgeEntry, Manifest, is_run, read_manifest
from vlsb.store.state import (
    Judged,
    ModelTotals,
    RunState,
    collection_paused,
    load_state,
    sent_data_digest,
    sent_images,
)

# Deviations under which a local family is asked otherwise than the authors do.
_OF_ANOTHER_PROMPT = ("chat template", "--hf-overrides", "--mm-processor-kwargs", "--tokenizer")
_DIGEST = re.compile(r"(-[0-9a-f]{8})(\.jsonl)?\Z")


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """The runs at or directly below the paths, each once. ConfigError for a path without any."""
    found = [run for path in paths for run in _runs_at(path)]
    return list({run.resolve(): run for run in found}.values())


def _runs_at(path: Path) -> Iterator[Path]:
    if is_run(path):
        yield path
        return
    try:
        runs = sorted(child for child in path.iterdir() if is_run(child))
    except OSError as error:
        raise ConfigError(f"{path}: no run there, and not a directory of runs ({error.strerror}).") from error
    if not runs:
        raise ConfigError(f"{path}: no run in it. A run is a directory with a run.json.")
    yield from runs


def summarize_run(directory: Path) -> list[Summary]:
    """A summary for each judge of a run as its rows stand now; one without rates if it has no judge.

    Raises StoreError for a damaged file.
    """
    with collection_paused():
        state = load_state(directory)
        judges: list[str | None] = [entry.file for entry in state.manifest.judges]
        return [summarize_state(state, directory, judge) for judge in judges or [None]]


def summarize_state(state: RunState, directory: Path, judge: str | None) -> Summary:
    """The summary of rows already read, with the verdicts of one judge."""
    manifest = state.manifest
    entry = None if judge is None else manifest.judge(judge)
    name = None if entry is None else entry.name
    if entry is not None and (digest := _DIGEST.search(entry.file)):
        # Several judges of a run share the model's name.
        name = Untrusted(entry.name.expose() + digest[1])
    judged = Judged() if judge is None else state.judged.get(judge, Judged())
    return summarize(
        sample_outcomes(state, judge),
        run=Untrusted(directory.resolve().name),
        path=Untrusted(str(directory)),
        target=manifest.target,
        judge=name,
        simulated=manifest.simulated or (entry is not None and entry.simulated),
        subset=not manifest.is_full,
        deviations=(*manifest.deviations, *(() if entry is None else entry.deviations)),
        target_usage=_usage(state.target_totals),
        judge_usage=_usage(judged.totals),
        duration_s=round(state.sessions.duration_s(judge), 3),
        target_models=state.target_models(),
        judge_models=judged.models(),
        cut_responses=state.cut_responses,
        thinking_cut=state.thinking_cut,
        duplicates=state.superseded + judged.superseded,
        notices=tuple(_notices(state, entry)),
        epochs=manifest.epochs,
        data_digest=sent_data_digest(state),
    )


@dataclass(frozen=True, slots=True)
class GuardCounts:
    """What one guard, or list of phrases, found in a run's responses. No rate of the benchmark.

    `refusals` counts what it says refuses, None for one that does not tell; `failed` ended without a finding,
    and `responses` are those there are.
    """

    run: Untrusted
    guard: Untrusted
    ratings: Mapping[Rating, int]
    refusals: int | None
    failed: int
    responses: int


def guard_counts(state: RunState, directory: Path, guard: str) -> GuardCounts:
    """The counts of one guard's findings, by its file."""
    found = [each for key in state.asked_for() if (each := state.finding(key, guard)) is not None]
    there = [key for key in state.asked_for() if key in state.responses]
    told = [each.refuses for each in found if each.refuses is not None]
    failures = state.judged.get(guard, Judged()).failures
    return GuardCounts(
        run=Untrusted(directory.resolve().name),
        guard=Untrusted(guard.removesuffix(".jsonl")),
        ratings=Counter(each.rating for each in found if each.rating is not None),
        refusals=sum(told) if told else None,
        failed=sum(key in failures and state.finding(key, guard) is None for key in there),
        responses=len(there),
    )


def count_guards(directory: Path) -> list[GuardCounts]:
    """The counts of every guard of a run."""
    if not read_manifest(directory).guards:
        return []
    state = load_state(directory)
    return [guard_counts(state, directory, entry.file) for entry in state.manifest.guards]


def sample_outcomes(state: RunState, judge: str | None) -> list[SampleOutcome]:
    """Where every selected sample of every epoch stands with a judge, in the selection's order."""
    rows = {row.sample_id: row for row in state.manifest.samples}
    return [
        SampleOutcome(
            sample_id=key.sample_id,
            image=(row := rows[key.sample_id]).image_path,
            category=row.category,
            sub_category=row.sub_category,
            source=row.source,
            outcome=state.outcome(key, judge),
        )
        for key in state.asked_for()
    ]


def stored_judge(manifest: Manifest, name: str | None, *, option: str = "--judge") -> JudgeEntry | None:
    """The judge that a name or its file's stem means; without one the run's first, None if it has none.

    Raises ConfigError naming those there are for an unknown name, or one that means several.
    """
    if name is None:
        return manifest.judges[0] if manifest.judges else None
    for entry in manifest.judges:
        if _stem(entry) == name:
            return entry
    named = [entry for entry in manifest.judges if Untrusted(name) == entry.name]
    if len(named) == 1:
        return named[0]
    if not manifest.judges:
        raise ConfigError(f"{option} {name}: nobody has judged this run. Leave it out, or see vlsb judge.")
    what = "means several judges" if named else "has not judged this run"
    there = ", ".join(_stem(entry) for entry in named or manifest.judges)
    raise ConfigError(f"{option} {name} {what}. Pass one of: {there}.")


def _stem(entry: JudgeEntry) -> str:
    return entry.file.removesuffix(".jsonl")


def _usage(totals: ModelTotals) -> ModelUsage:
    return ModelUsage(totals.requests, totals.input_tokens, totals.output_tokens, totals.reasoning_tokens)


def _notices(state: RunState, judge: JudgeEntry | None) -> Iterator[str]:
    manifest = state.manifest
    is_same_model = judge is not None and manifest.target == Untrusted(str(judge.settings.get("model")))
    if is_same_model and not manifest.simulated:
        yield "Target and judge are the same model: it judges itself."
    unfiltered = sum("unfiltered" in r.flags for r in state.responses.values())
    if unfiltered:
        yield f"{unfiltered} responses were given while the provider's own content filter was down."
    thinking = sum(r.reasoning is not None for r in state.responses.values())
    if thinking and not (manifest.decision or {}).get("thinks"):
        yield (
            f"{thinking} responses show reasoning, and the first sample did not: others may have been cut "
            "inside theirs. --thinking on gives all of them room for it, in a new run."
        )
    if manifest.accepts_changed_images:
        changed = sum(len(checksums) > 1 for checksums in sent_images(state).values())
        images = "1 image was" if changed == 1 else f"{changed or 'no'} images were"
        yield f"Changed images were accepted (--accept-changed-images): {images} sent in several versions."
    if "engine.prompt" in manifest.settings:
        yield f"The target was asked with its {manifest.settings['engine.prompt']}, on a local engine."
    elif "engine.family" in manifest.settings and not any(
        word in each.expose() for each in manifest.deviations for word in _OF_ANOTHER_PROMPT
    ):
        yield "The target was asked with the authors' prompt, on a local engine."
