"""Evaluating from Python: the same runs as the commands make, in a script or a notebook's running loop.

Nothing here takes over signals or prints. Problems raise a `VlsbError`; whatever was finished is stored,
and `resume=True` goes on.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vlsb.analysis.summary import Summary
from vlsb.engines.lease import accept, decline
from vlsb.errors import ConfigError
from vlsb.evaluation.options import RunOptions
from vlsb.evaluation.progress import Progress
from vlsb.evaluation.session import Listeners, Prepared, prepare, prepare_judging, run_session
from vlsb.evaluation.settings import Resolved, open_target, resolve_judging
from vlsb.records import JUDGED, Failure, Key, Label, Outcome, Untrusted
from vlsb.reports.documents import to_object
from vlsb.steps import OnProgress, ignore, in_thread
from vlsb.store.state import RunState, load_state
from vlsb.store.summaries import summarize_state

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


async def evaluate(
    model: str | None = None,
    *,
    base_url: str | None = None,
    judge: str | None = None,
    judge_base_url: str | None = None,
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
        base_url=base_url,
        judge=judge,
        judge_base_url=judge_base_url,
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
        return await _carry_out(resolved, partial(prepare, resolved.plan), on_progress)


async def judge(
    run: str | Path | Run,
    *,
    judge: str | None = None,
    judge_base_url: str | None = None,
    data_root: str | Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> Run:
    """Judge a run's stored responses with another judge, and return the run. Nothing goes to the target.

    `options` are any other options of `vlsb judge`. Verdicts of different judges stay apart.
    """
    wishes = RunOptions(
        judge=judge,
        judge_base_url=judge_base_url,
        data_root=None if data_root is None else Path(data_root),
        **options,
    )
    directory = run.path if isinstance(run, Run) else Path(run)
    resolved = await resolve_judging(directory, wishes, os.environ)
    return await _carry_out(resolved, partial(prepare_judging, resolved.plan), on_progress)


async def _carry_out(
    resolved: Resolved,
    make: Callable[[OnProgress], Prepared],
    on_progress: Callable[[Progress], None] | None,
) -> Run:
    prepared = await in_thread(make)
    listeners = Listeners(say=lambda line: None, watch=_watcher(on_progress), owns_signals=False)
    end = await run_session(prepared, resolved.credentials, listeners, resolved.engine)
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
