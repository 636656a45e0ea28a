"""Carrying out a session for `run` and `judge`: prepare, spend, show the table, say how to go on."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

from vlsb.analysis.summary import FailOnError, Summary
from vlsb.cli.resolve import Resolved, RunOptions
from vlsb.cli.screen import Screen, has_color
from vlsb.errors import GapsError, InterruptedRunError, VlsbError
from vlsb.records import JUDGED, Outcome

if TYPE_CHECKING:
    from vlsb.runs.session import Fetching, Plan, Prepared, SessionEnd
    from vlsb.runs.state import RunState

# After these the last line on the screen is the command that goes on.
_RESUMABLE = (3, 4, 5, 7, 130)
_INTERRUPTED = InterruptedRunError("Interrupted. Everything finished is stored.")


@dataclass(frozen=True, slots=True)
class Job:
    """A session to carry out; `go_on` is the command that continues it."""

    options: RunOptions
    resolve: Callable[[Screen], Resolved]
    prepare: Callable[[Plan, Fetching], Prepared]
    go_on: Sequence[str]


def carry_out(job: Job) -> int:
    """Carry out a session and return the exit code."""
    screen = Screen(quiet=job.options.display == "none")
    try:
        reason, is_started = _outcome(job, screen)
    except KeyboardInterrupt:
        # Another one, while the first was being dealt with.
        reason, is_started = _INTERRUPTED, True
    ignore_signals()
    if reason is None:
        return 0
    screen.error(reason)
    if is_started:
        screen.command(job.go_on)
    return reason.exit_code


def _outcome(job: Job, screen: Screen) -> tuple[VlsbError | None, bool]:
    """Why the session is not complete, if so, and whether there is something to go on with."""
    try:
        with _signals_as_interrupts():
            return _session(job, screen), True
    except KeyboardInterrupt:
        return _INTERRUPTED, True
    except VlsbError as error:
        return error, error.exit_code in _RESUMABLE


def _session(job: Job, screen: Screen) -> VlsbError | None:
    """The session and its table; returns why it is not complete."""
    from vlsb.cli.display import chosen_display, watcher
    from vlsb.cli.downloads import fetching
    from vlsb.endpoints.loops import run
    from vlsb.runs.session import Listeners, run_session
    from vlsb.runs.state import load_state

    display = chosen_display(job.options.display)
    allowed = FailOnError.parse(job.options.fail_on_error)
    resolved = job.resolve(screen)
    _warn_of_keys(resolved, screen)
    with fetching(display, screen) as hear:
        prepared = job.prepare(resolved.plan, hear)
    listeners = Listeners(
        say=screen.notice,
        watch=watcher(display, screen),
        last_words=lambda: screen.command(job.go_on),
    )
    end = run(run_session(prepared, resolved.credentials, listeners, resolved.host))
    state = load_state(resolved.plan.directory)
    _show(state, end, resolved.plan, screen)
    if end.reason is None and end.limit is not None:
        screen.notice(end.limit.line)
    return end.reason or _gaps(state, end, resolved.plan, allowed)


def _show(state: RunState, end: SessionEnd, plan: Plan, screen: Screen) -> None:
    from vlsb.runs.summaries import summarize_state

    if plan.only_preflight and end.reason is None:
        from vlsb.cli.estimate import estimate

        screen.result(estimate(state, end, plan))
        return
    summary = summarize_state(state, plan.directory, end.judge)
    if end.reason is None or summary.rates.judged or summary.target_usage.requests:
        screen.result(table(summary))


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
        f"{missing} of {len(outcomes)} samples have no {'verdict' if plan.judge else 'response'}."
    )


@contextmanager
def _signals_as_interrupts() -> Iterator[None]:
    """SIGTERM and SIGHUP act as Ctrl-C outside the session, which has handlers of its own."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        # What the caller ignores stays ignored: `nohup` means it.
        if handler is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_signals() -> None:
    """The outcome is settled and the process about to end: one more Ctrl-C must not change its code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _warn_of_keys(resolved: Resolved, screen: Screen) -> None:
    from vlsb.endpoints.providers import key_mismatch

    for stage, lane in resolved.plan.lanes.items():
        bearer = resolved.credentials[stage].bearer
        if bearer is not None and (warning := key_mismatch(lane.endpoint, bearer.reveal())):
            screen.notice(f"Warning: {warning}.")
