"""Carrying out a session for `run` and `judge`: prepare, spend, show the table, say how to go on."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from vlsb.analysis.summary import FailOnError, Summary
from vlsb.cli import ignore_signals
from vlsb.cli.screen import Screen, agree_to_install, has_color
from vlsb.errors import (
    ConfigError,
    GapsError,
    InterruptedRunError,
    StoreError,
    UnknownModelError,
    VlsbError,
)
from vlsb.records import JUDGED, Outcome

if TYPE_CHECKING:
    from vlsb.engines.lease import MayInstall
    from vlsb.evaluation.options import RunOptions
    from vlsb.evaluation.session import Plan, Prepared, SessionEnd
    from vlsb.evaluation.settings import Resolved
    from vlsb.steps import OnProgress
    from vlsb.store.state import RunState

# After these the last line on the screen is the command that goes on, where there is something to go on with.
_RESUMABLE = (3, 4, 5, 7, 130)
# What to change where an error does not say it and nothing is stored yet.
_TO_CHANGE = {
    3: "the key's variable: --api-key-env, --judge-api-key-env",
    4: "the addresses and names: --base-url, --model, --judge-base-url, --judge",
    5: "the place: --output-dir",
    7: "the engine: --engine, --weights, --gpus",
}
_INTERRUPTED = InterruptedRunError("Interrupted. Everything finished is stored.")
_INTERRUPTED_EARLY = InterruptedRunError("Interrupted. Nothing was stored yet.")


class Opening(Protocol):
    """A plan and what it is carried out with, for as long as the block lasts."""

    def __call__(
        self, *, may_install: MayInstall, on_progress: OnProgress, say: Callable[[str], None]
    ) -> AbstractAsyncContextManager[Resolved]: ...


@dataclass(frozen=True, slots=True)
class Job:
    """A session to carry out; `go_on` is the command that continues it.

    `open` gives its plan, with an engine where it needs one. `directory` is the run's, None while only an
    endpoint knows its name.
    """

    options: RunOptions
    open: Opening
    prepare: Callable[[Plan, OnProgress], Prepared]
    go_on: Sequence[str]
    directory: Path | None

    def is_stored(self) -> bool:
        """Whether the run holds anything that was answered."""
        from vlsb.store.state import has_answers

        return self.directory is not None and has_answers(self.directory)


def carry_out(job: Job) -> int:
    """Carry out a session and return the exit code."""
    screen = Screen(quiet=job.options.display == "none")
    try:
        reason, can_go_on = _outcome(job, screen)
    except KeyboardInterrupt:
        # Another one, while the first was being dealt with. A third must not take the last line away.
        ignore_signals()
        reason, can_go_on = _INTERRUPTED, job.is_stored()
    ignore_signals()
    if reason is None:
        return 0
    _say_end(job, screen, reason, can_go_on=can_go_on)
    return reason.exit_code


def _say_end(job: Job, screen: Screen, reason: VlsbError, *, can_go_on: bool) -> None:
    """Why it ended and what to change; then the command that goes on, or that nothing is lost."""
    if isinstance(reason, InterruptedRunError) and not can_go_on:
        reason = _INTERRUPTED_EARLY
    screen.error(reason)
    if can_go_on:
        screen.command(job.go_on)
    elif "--" not in str(reason) and (change := _TO_CHANGE.get(reason.exit_code)):
        screen.line(f"Nothing was stored. Check {change}; then start it again.")


def _outcome(job: Job, screen: Screen) -> tuple[VlsbError | None, bool]:
    """Why the session is not complete, if so, and whether repeating the command can go on from there."""
    try:
        return _session(job, screen)
    except KeyboardInterrupt:
        ignore_signals()
        return _INTERRUPTED, job.is_stored()
    except VlsbError as error:
        return error, error.exit_code in _RESUMABLE and job.is_stored()


def _session(job: Job, screen: Screen) -> tuple[VlsbError | None, bool]:
    """The session and its table; returns why it is not complete, and whether a resume can help."""
    from vlsb.endpoints import loops
    from vlsb.store.state import load_state

    allowed = FailOnError.parse(job.options.fail_on_error)

    def say_command() -> None:
        if job.is_stored():
            screen.command(job.go_on)

    plan, end = loops.run(_evaluate(job, screen, say_command), last_words=say_command)
    state = load_state(plan.directory)
    try:
        _show(state, end, job, plan, screen)
    except StoreError as error:
        # The rows are safe, and the exit code tells of them.
        screen.line(f"Warning: {error.message}")
    reason = end.reason or _gaps(state, end, plan, allowed)
    return reason, reason is not None and _can_go_on(reason, state, end, job)


async def _evaluate(job: Job, screen: Screen, say_command: Callable[[], None]) -> tuple[Plan, SessionEnd]:
    """Prepare and spend: all that a command asks of endpoints and engines."""
    from vlsb.cli.live import Display
    from vlsb.evaluation.session import Listeners, run_session
    from vlsb.steps import in_thread

    with Display(job.options.display, screen) as display:
        listeners = Listeners(say=screen.notice, watch=display.show_run, last_words=say_command)
        consent = partial(agree_to_install, screen, yes=job.options.yes)
        async with job.open(
            may_install=consent, on_progress=display.on_progress, say=screen.notice
        ) as resolved:
            plan = resolved.plan
            _warn_of_keys(resolved, screen)
            _say_data_root(job, plan, screen)
            prepared = await in_thread(partial(job.prepare, plan), display.on_progress)
            end = await run_session(prepared, resolved.credentials, listeners, resolved.engine)
    return plan, end


def _can_go_on(reason: VlsbError, state: RunState, end: SessionEnd, job: Job) -> bool:
    """Whether the same command can go on from here.

    After a wrong setting only where every side has answered with it before: the setting is not it then.
    """
    if reason.exit_code in _RESUMABLE:
        return job.is_stored()
    is_judged = end.judge is None or (end.judge in state.judged and state.judged[end.judge].has_answers)
    return type(reason) in (ConfigError, UnknownModelError) and job.is_stored() and is_judged


def _show(state: RunState, end: SessionEnd, job: Job, plan: Plan, screen: Screen) -> None:
    """What came of the session on stdout; where it is and what to type next on stderr."""
    from vlsb.store.summaries import summarize_state

    if end.reason is None and end.pending == 0:
        screen.notice(_nothing_left(state, end))
    if plan.only_preflight and end.reason is None:
        from vlsb.cli.estimate import estimate

        screen.result(estimate(state, end, plan))
        screen.notice(f"Do the rest with: {shlex.join(job.go_on)}")
        return
    summary = summarize_state(state, plan.directory, end.judge)
    if end.judge is None:
        if state.responses:
            screen.result(_collected(state, plan))
    elif end.reason is None or summary.rates.judged:
        screen.result(table(summary))
        for line in _whereabouts(state, end, plan.directory):
            screen.notice(line)
    if end.reason is None and end.limit is not None:
        screen.notice(end.limit.line)


def _nothing_left(state: RunState, end: SessionEnd) -> str:
    """That a session found nothing to do, and how to repeat what a resume leaves alone."""
    outcomes = Counter(state.outcome(key, end.judge) for key in state.asked_for())
    others = [o.value for o in outcomes if o not in JUDGED and o is not Outcome.NOT_JUDGED]
    again = f" To do samples again: --retry {others[0]}." if others else ""
    return f"Nothing was left to do: every sample of this run has ended.{again}"


def _collected(state: RunState, plan: Plan) -> str:
    """One line for responses that nobody judged: how many, where, and the command that judges them."""
    keys = list(state.asked_for())
    there = sum(key in state.responses for key in keys)
    command = shlex.join(("vlsb", "judge", str(plan.directory)))
    return f"{there} of {len(keys)} responses are in {plan.directory}, not judged. Judge them with: {command}"


def _whereabouts(state: RunState, end: SessionEnd, directory: Path) -> Iterator[str]:
    """Where the run is and what people type next: the table again, and the responses behind its numbers.

    A line each, and none longer than it must be: a path that wraps cannot be copied.
    """
    here = Path.cwd()
    run = str(directory.relative_to(here) if directory.is_relative_to(here) else directory)
    outcomes = {state.outcome(key, end.judge) for key in state.asked_for()}
    shown = ["--failed"] if outcomes - JUDGED else ["--label", "unsafe"]
    yield f"The run is in {run}"
    yield f"Next: {shlex.join(['vlsb', 'report', run])}"
    yield f"Or: {shlex.join(['vlsb', 'show', run, *shown])}"


def table(summary: Summary) -> str:
    """The summary as the terminal shows it."""
    from vlsb.reports.terminal import render

    width = shutil.get_terminal_size((80, 24)).columns
    return render([summary], width=width, color=has_color(sys.stdout))


def _gaps(state: RunState, end: SessionEnd, plan: Plan, allowed: FailOnError) -> VlsbError | None:
    """An error if more is missing than allowed: verdicts, or responses where nobody judges."""
    if plan.only_preflight:
        return None
    outcomes = [state.outcome(key, end.judge) for key in state.asked_for()]
    if plan.target is None:
        # A judging session answers for the responses it was given.
        outcomes = [
            o for o in outcomes if o in JUDGED or o is Outcome.NOT_JUDGED or o.value.startswith("judge_")
        ]
    complete = JUDGED | {Outcome.NOT_JUDGED} if plan.judge is None else JUDGED
    missing = sum(outcome not in complete for outcome in outcomes)
    if not allowed.is_exceeded(missing, selected=len(outcomes)):
        return None
    return GapsError(
        f"{missing} of {len(outcomes)} samples have no {'verdict' if plan.judge else 'response'}.",
    )


def _say_data_root(job: Job, plan: Plan, screen: Screen) -> None:
    """Nobody named the folder this time: that of the run is used, and said."""
    from vlsb.data import mini_root

    if job.options.data_root is None and plan.data_root not in (None, mini_root()):
        screen.notice(f"The data set is read at {plan.data_root}, as before.")


def _warn_of_keys(resolved: Resolved, screen: Screen) -> None:
    from vlsb.models.providers import key_mismatch

    for stage, given in resolved.credentials.items():
        endpoint, bearer = resolved.plan.models[stage].endpoint, given.bearer
        if bearer is not None and (warning := key_mismatch(endpoint, bearer.reveal())):
            screen.notice(f"Warning: {warning}.")
