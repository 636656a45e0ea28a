"""From run directories to summaries: reads, never locks, never writes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from vlsb.analysis.rates import SampleOutcome
from vlsb.analysis.summary import LaneUsage, Summary, summarize
from vlsb.errors import ConfigError
from vlsb.records import Untrusted
from vlsb.runs.state import LaneTotals, RunState, load_state
from vlsb.runs.store import is_run


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


def summarize_run(directory: Path) -> Summary:
    """The summary of a run as its rows stand now. Raises StoreError for a damaged file."""
    return summarize_state(load_state(directory), directory)


def summarize_state(state: RunState, directory: Path) -> Summary:
    """The summary of rows already read."""
    manifest = state.manifest
    outcomes = [
        SampleOutcome(
            sample_id=row.sample_id,
            picture=row.image_path,
            category=row.category,
            sub_category=row.sub_category,
            source=row.source,
            outcome=state.outcome(row.sample_id),
        )
        for row in manifest.samples
    ]
    return summarize(
        outcomes,
        run=Untrusted(directory.resolve().name),
        path=Untrusted(str(directory)),
        target=manifest.target,
        judge=manifest.judge,
        simulated=manifest.simulated,
        subset=not manifest.is_full,
        deviations=tuple(manifest.deviations),
        target_usage=_usage(state.target_totals),
        judge_usage=_usage(state.judge_totals),
        duration_s=round(state.duration_s, 3),
        target_models=state.target_models(),
        judge_models=state.judge_models(),
        cut_responses=state.cut_responses,
        duplicates=state.superseded,
        notices=tuple(_notices(state)),
    )


def _usage(totals: LaneTotals) -> LaneUsage:
    return LaneUsage(totals.requests, totals.input_tokens, totals.output_tokens)


def _notices(state: RunState) -> Iterator[str]:
    manifest = state.manifest
    if manifest.target == manifest.judge and not manifest.simulated:
        yield "Target and judge are the same model: it judges itself."
    unfiltered = sum("unfiltered" in r.completion.flags for r in state.responses.values())
    if unfiltered:
        yield f"{unfiltered} responses were given while the provider's own content filter was down."
