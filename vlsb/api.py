"""Evaluating from Python: the same runs as the commands make, in a script or a notebook's running loop.

Nothing here takes over signals or prints. Problems raise a `VlsbError`; whatever was finished is stored,
and `resume=True` goes on.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlsb.analysis.summary import Summary
from vlsb.engines.lease import accept, decline
from vlsb.errors import ConfigError
from vlsb.evaluation.options import RunOptions
from vlsb.evaluation.progress import Progress
from vlsb.evaluation.session import Listeners, Plan, Prepared, prepare, prepare_judging, run_turns
from vlsb.evaluation.settings import Resolved, open_judging, open_target
from vlsb.extras import lacks_extra
from vlsb.records import JUDGED, Failure, Key, Label, Outcome, Untrusted
from vlsb.reports.documents import to_object
from vlsb.steps import OnProgress, ignore
from vlsb.store.state import RunState, load_state
from vlsb.store.summaries import summarize_state

if TYPE_CHECKING:
    from vlsb.analysis.comparison import ComparisonReport

PROGRESS_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Answer:
    """One response of a run and what became of it.

    The texts are the models' own: `Untrusted.expose()` gives the raw string, escapes and all. `reasoning` is
    what the target thought before its response, where its endpoint shows that.
    """

    sample_id: int
    epoch: int
    category: Untrusted
    sub_category: Untrusted
    outcome: Outcome
    response: Untrusted | None
    label: Label | None
    explanation: Untrusted | None
    failure: Failure | None
    reasoning: Untrusted | None = None


class Run:
    """A run directory as its files stood when it was loaded. Reading takes no lock and changes nothing."""

    def __init__(self, path: Path, state: RunState) -> None:
        self.path = path
        self._state = state

    @property
    def judges(self) -> tuple[str, ...]:
        """The verdict files, without their ending; the run's own judge first."""
        return tuple(entry.file.removesuffix(".jsonl") for entry in self._state.manifest.judges)

    @property
    def is_complete(self) -> bool:
        """Whether every selected response has a label of the run's own judge."""
        file = self._file(None)
        return all(self._state.outcome(key, file) in JUDGED for key in self._state.asked_for())

    def answers(self, judge: str | None = None) -> Iterator[Answer]:
        """Every selected response, in the selection's order, as one judge saw it (the first by default)."""
        file = self._file(judge)
        rows = {row.sample_id: row for row in self._state.manifest.samples}
        for key in self._state.asked_for():
            row = rows[key.sample_id]
            yield self._answer(key, row.category, row.sub_category, file)

    def summary(self, judge: str | None = None) -> Summary:
        """Rates, intervals, bounds and the counts of outcomes, with the verdicts of one judge."""
        return summarize_state(self._state, self.path, self._file(judge))

    def _file(self, judge: str | None) -> str | None:
        if judge is None:
            return f"{self.judges[0]}.jsonl" if self.judges else None
        if judge not in self.judges:
            raise ConfigError(f"{self.path} has no verdicts of {judge!r}. It has: {', '.join(self.judges)}.")
        return f"{judge}.jsonl"

    def _answer(self, key: Key, category: Untrusted, sub_category: Untrusted, file: str | None) -> Answer:
        state = self._state
        outcome, response = state.outcome(key, file), state.responses.get(key)
        rows = state.judged.get(file or "")
        verdict = rows.verdicts.get(key) if rows is not None and outcome in JUDGED else None
        failures = state.target_failures if response is None else (rows.failures if rows is not None else {})
        failure = failures.get(key)
        return Answer(
            sample_id=key.sample_id,
            epoch=key.epoch,
            category=category,
            sub_category=sub_category,
            outcome=outcome,
            response=None if response is None else response.text,
            label=None if verdict is None else verdict.label,
            explanation=None if verdict is None else verdict.explanation,
            failure=failure if failure is not None and failure.outcome is outcome else None,
            reasoning=None if response is None else response.reasoning,
        )


def load_run(path: str | Path) -> Run:
    """Read a run directory, also while it is being written. Raises StoreError for a damaged file."""
    directory = Path(path)
    return Run(directory, load_state(directory))


def summarize(run: Run | str | Path, judge: str | None = None) -> Summary:
    """The summary of a run, with the verdicts of one judge (the run's own by default)."""
    return (run if isinstance(run, Run) else load_run(run)).summary(judge)


def compare(
    *runs: str | Path | Run,
    judge: str | None = None,
    baseline: str | Path | None = None,
    across_judges: bool = False,
    all_pairs: bool = False,
) -> ComparisonReport:
    """Compare runs on the samples that one judge labelled in all of them, as `vlsb compare` does.

    Each run is held against the first one or the `baseline`, a path or a run's name; `all_pairs` compares
    every two. Raises a VlsbError for runs that cannot be compared, and without the extra `stats`.
    """
    try:
        # numpy, scipy and statsmodels: a second to import, and not everybody has them.
        from vlsb.store.comparisons import compare_runs
    except ModuleNotFoundError as error:
        raise lacks_extra(
            "stats", f"vlsb.compare needs the extra `stats` ({error.name} not found)"
        ) from error
    return compare_runs(
        *(run.path if isinstance(run, Run) else run for run in runs),
        judge=judge,
        baseline=baseline,
        across_judges=across_judges,
        all_pairs=all_pairs,
    )


async def evaluate(
    model: str | None = None,
    *,
    base_url: str | Sequence[str] | None = None,
    judge: str | Sequence[str] | None = None,
    judge_base_url: str | Sequence[str] | None = None,
    data_root: str | Path | None = None,
    output_dir: str | Path = "outputs",
    name: str | None = None,
    resume: bool = False,
    limit: str | None = None,
    epochs: int = 1,
    install: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> Run:
    """Evaluate a model and return the run. Keys come from the environment, as with the command.

    `options` are any other options of `vlsb run`, with underscores (`max_connections=64`). A local model
    (`llava_next`) is asked at the server that `vlsb serve` has running, or an engine is started for the run;
    one that is not on this machine is installed only with `install`. `on_progress` is called twice a second.
    Raises a VlsbError when the run stops early; samples that failed on their own do not raise (see
    `Run.is_complete`).
    """
    wishes = RunOptions(
        model=model,
        base_url=_several(base_url),
        judge=_several(judge),
        judge_base_url=_several(judge_base_url),
        data_root=None if data_root is None else Path(data_root),
        output_dir=Path(output_dir),
        name=name,
        resume=resume,
        limit=limit,
        epochs=epochs,
        **options,
    )
    async with open_target(
        wishes,
        os.environ,
        may_install=accept if install or wishes.yes else decline,
        on_progress=ignore,
        say=lambda line: None,
    ) as resolved:
        return await _carry_out(resolved, prepare, on_progress)


async def judge(
    run: str | Path | Run,
    *,
    judge: str | Sequence[str] | None = None,
    judge_base_url: str | Sequence[str] | None = None,
    data_root: str | Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> Run:
    """Judge a run's stored responses with other judges, and return the run. Nothing goes to the target.

    `options` are any other options of `vlsb judge`. Verdicts of different judges stay apart.
    """
    wishes = RunOptions(
        judge=_several(judge),
        judge_base_url=_several(judge_base_url),
        data_root=None if data_root is None else Path(data_root),
        **options,
    )
    directory = run.path if isinstance(run, Run) else Path(run)
    async with open_judging(
        directory,
        wishes,
        os.environ,
        may_install=accept if wishes.yes else decline,
        on_progress=ignore,
        say=lambda line: None,
    ) as resolved:
        return await _carry_out(resolved, prepare_judging, on_progress)


def _several(given: str | Sequence[str] | None) -> tuple[str, ...]:
    """One value or several, as options have them."""
    if given is None:
        return ()
    return (given,) if isinstance(given, str) else tuple(given)


async def _carry_out(
    resolved: Resolved,
    prepare_first: Callable[[Plan, OnProgress], Prepared],
    on_progress: Callable[[Progress], None] | None,
) -> Run:
    listeners = Listeners(say=lambda line: None, watch=_watcher(on_progress), owns_signals=False)
    turns = [(turn.plan, turn.credentials, turn.engines) for turn in resolved.turns()]
    end = await run_turns(turns, listeners, prepare_first)
    if end.reason is not None:
        raise end.reason
    return await asyncio.to_thread(load_run, resolved.plan.directory)


def _watcher(
    on_progress: Callable[[Progress], None] | None,
) -> Callable[[Progress], Coroutine[Any, Any, None]]:
    async def watch(progress: Progress) -> None:
        while on_progress is not None:
            on_progress(progress)
            await asyncio.sleep(PROGRESS_EVERY_S)

    return watch


def as_mapping(summary: Summary) -> Mapping[str, Any]:
    """The summary as `vlsb report --format json` writes it, for a data frame or a file."""
    return to_object(summary)
