"""Evaluating from Python: the same runs as the commands make, in a script or a notebook's running loop.

Nothing here takes over signals or prints. Problems raise a `VlsbError`; whatever was finished is stored,
and `resume=True` goes on.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlsb.analysis.summary import Summary
from vlsb.engines.lease import accept, decline
from vlsb.engines.leases import Surroundings
from vlsb.errors import ConfigError
from vlsb.evaluation.progress import Progress
from vlsb.evaluation.python_options import options_of, path_of, text_of
from vlsb.evaluation.session import (
    Listeners,
    Plan,
    Prepared,
    Resolved,
    prepare,
    prepare_judging,
    run_turns,
)
from vlsb.evaluation.settings import open_judging, open_target
from vlsb.extras import lacks_extra
from vlsb.records import JUDGED, Failure, Label, Outcome, Untrusted
from vlsb.reports.documents import to_object, to_rows
from vlsb.reports.encode import for_terminal
from vlsb.steps import OnProgress
from vlsb.store.manifest import judge_name, require_run
from vlsb.store.state import RunState, load_state
from vlsb.store.summaries import stored_judge, summarize_judges, summarize_state

if TYPE_CHECKING:
    from vlsb.analysis.several_runs import ComparisonReport

PROGRESS_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Answer:
    """One response of a run and how it ended.

    The texts are the models' own: `Untrusted.expose()` gives the raw string, escapes and all. `reasoning` is
    the target's thinking before its response, where its endpoint shows that.
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
        """The names of the verdict files without their ending; the run's own judge comes first."""
        return tuple(entry.stem for entry in self._state.manifest.judges)

    @property
    def is_complete(self) -> bool:
        """Whether every selected response has a label of the run's own judge."""
        file = self._file(None)
        return all(self._state.outcome(key, file) in JUDGED for key in self._state.asked_for())

    def answers(self, judge: str | None = None) -> Iterator[Answer]:
        """Give every selected response in order, as one judge saw it (by default the first)."""
        file = self._file(judge)
        rows = {row.sample_id: row for row in self._state.manifest.samples}
        for key in self._state.asked_for():
            row = rows[key.sample_id]
            outcome, response = self._state.outcome(key, file), self._state.responses.get(key)
            judged = self._state.rows(file)
            verdict = judged.verdicts.get(key) if outcome in JUDGED else None
            failure = (self._state.target_failures if response is None else judged.failures).get(key)
            yield Answer(
                sample_id=key.sample_id,
                epoch=key.epoch,
                category=row.category,
                sub_category=row.sub_category,
                outcome=outcome,
                response=None if response is None else response.text,
                label=None if verdict is None else verdict.label,
                explanation=None if verdict is None else verdict.explanation,
                failure=failure if failure is not None and failure.outcome is outcome else None,
                reasoning=None if response is None else response.reasoning,
            )

    def summary(self, judge: str | None = None) -> Summary:
        """Compute rates, intervals, bounds and the counts of outcomes, with the verdicts of one judge."""
        return summarize_state(self._state, self.path, self._file(judge))

    def rows(self, judge: str | None = None) -> list[dict[str, Any]]:
        """Return the rows of `vlsb report --format csv` for a data frame: rates by each judge and category.

        With `judge` they are by that one. No text of a model is in them.
        """
        if judge is None:
            return to_rows(summarize_judges(self._state, self.path))
        return to_rows([self.summary(judge)])

    def answer_rows(self, judge: str | None = None, *, texts: bool = False) -> list[dict[str, Any]]:
        """Return a row for each selected response, for a data frame: how it ended with one judge.

        With `texts` they also hold the words of target and judge, in printable characters: mostly harmful.
        """
        name = self._file(judge)
        return [
            {
                "sample_id": each.sample_id,
                "epoch": each.epoch,
                "category": for_terminal(each.category),
                "sub_category": for_terminal(each.sub_category),
                "judge": None if name is None else judge_name(name),
                "outcome": each.outcome.value,
                "label": None if each.label is None else each.label.value,
                "failure": None if each.failure is None else each.failure.code,
                **{
                    field: None if (text := getattr(each, field)) is None else for_terminal(text, lines=True)
                    for field in (("response", "reasoning", "explanation") if texts else ())
                },
            }
            for each in self.answers(judge)
        ]

    def _file(self, judge: str | None) -> str | None:
        entry = stored_judge(self._state.manifest, text_of("judge", judge), option="judge")
        return None if entry is None else entry.file


def load_run(path: str | PathLike[str]) -> Run:
    """Read a run directory, also while it is being written.

    Raises ConfigError where there is no run, StoreError for a damaged file.
    """
    directory = path_of("path", path)
    require_run(directory)
    return Run(directory, load_state(directory))


def summarize(run: Run | str | PathLike[str], judge: str | None = None) -> Summary:
    """Summarize a run, with the verdicts of one judge (the run's own by default)."""
    return (run if isinstance(run, Run) else load_run(run)).summary(judge)


def compare(
    *runs: str | PathLike[str] | Run,
    judge: str | None = None,
    baseline: str | PathLike[str] | None = None,
    across_judges: bool = False,
    all_pairs: bool = False,
    corrected: bool = False,
    equivalent_within: float | None = None,
) -> ComparisonReport:
    """Compare runs on the samples that one judge labelled in all of them, as `vlsb compare` does.

    Each run is compared with the first one or the `baseline`, a path or a run's name; `all_pairs` compares
    every two, and `corrected` corrects the changes by human labels. `equivalent_within` asks
    whether the change is known to be smaller than so many points. Raises a VlsbError for runs that cannot
    be compared, and without the extra `stats`.
    """
    try:
        # numpy, scipy and statsmodels: a second to import, and not everybody has them.
        from vlsb.store.comparisons import compare_runs
    except ModuleNotFoundError as error:
        raise lacks_extra(
            "stats", f"vlsb.compare needs the extra `stats` ({error.name} not found)"
        ) from error
    return compare_runs(
        *(run.path if isinstance(run, Run) else path_of("run", run) for run in runs),
        judge=text_of("judge", judge),
        baseline=None if baseline is None else path_of("baseline", baseline),
        across_judges=across_judges,
        all_pairs=all_pairs,
        corrected=corrected,
        equivalent_within=equivalent_within,
    )


async def evaluate(
    model: str | PathLike[str] | None = None,
    *,
    base_url: str | Sequence[str] | None = None,
    judge: str | Sequence[str] | None = None,
    judge_base_url: str | Sequence[str] | None = None,
    data_root: str | PathLike[str] | None = None,
    output_dir: str | PathLike[str] = "outputs",
    name: str | None = None,
    resume: bool = False,
    limit: int | float | str | None = None,
    epochs: int = 1,
    install: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> Run:
    """Evaluate a model and return the run. Keys come from the environment, as with the command.

    `options` are any other options of `vlsb run`, with underscores (`max_connections=64`); one that may be
    given several times takes one value or a list (`category="Privacy"`). A local model
    (`llava_next`) is asked at the server that `vlsb serve` has running, or an engine is started for the run;
    one that is not on this machine is installed only with `install`. `on_progress` is called twice a second.
    Raises a VlsbError when the run stops early; samples that failed on their own do not raise (see
    `Run.is_complete`).
    """
    asked: dict[str, object] = {"model": model, "base_url": base_url, "judge": judge}
    asked |= {"judge_base_url": judge_base_url, "data_root": data_root, "output_dir": output_dir}
    asked |= {"name": name, "resume": resume, "limit": limit, "epochs": epochs}
    _require_callable(on_progress)
    wishes = options_of(asked | options, also=("install", "on_progress"))
    surroundings = Surroundings(os.environ, accept if install or wishes.yes else decline)
    async with open_target(wishes, surroundings) as resolved:
        return await _carry_out(resolved, prepare, on_progress)


async def judge(
    run: str | PathLike[str] | Run,
    *,
    judge: str | Sequence[str] | None = None,
    judge_base_url: str | Sequence[str] | None = None,
    data_root: str | PathLike[str] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> Run:
    """Judge a run's stored responses with other judges, and return the run. Nothing goes to the target.

    `options` are any other options of `vlsb judge`. Verdicts of different judges stay apart.
    """
    asked: dict[str, object] = {"judge": judge, "judge_base_url": judge_base_url, "data_root": data_root}
    _require_callable(on_progress)
    wishes = options_of(asked | options, also=("on_progress",))
    directory = run.path if isinstance(run, Run) else path_of("run", run)
    surroundings = Surroundings(os.environ, accept if wishes.yes else decline)
    async with open_judging(directory, wishes, surroundings) as resolved:
        return await _carry_out(resolved, prepare_judging, on_progress)


def _require_callable(on_progress: object) -> None:
    if on_progress is not None and not callable(on_progress):
        raise ConfigError("on_progress: a function is needed, which is called with the progress.")


async def _carry_out(
    resolved: Resolved,
    prepare_first: Callable[[Plan, OnProgress], Prepared],
    on_progress: Callable[[Progress], None] | None,
) -> Run:
    async def watch(progress: Progress) -> None:
        while on_progress is not None:
            on_progress(progress)
            await asyncio.sleep(PROGRESS_EVERY_S)

    listeners = Listeners(say=lambda line: None, watch=watch, owns_signals=False)
    end = await run_turns(resolved, listeners, prepare_first)
    if end.reason is not None:
        raise end.reason
    return await asyncio.to_thread(load_run, resolved.plan.directory)


def as_mapping(summary: Summary) -> Mapping[str, Any]:
    """Return what `vlsb report --format json` writes of a summary; `Run.rows` is for a data frame."""
    if not isinstance(summary, Summary):
        raise ConfigError("as_mapping: a Summary is needed, as `vlsb.summarize` gives it.")
    return to_object(summary)
