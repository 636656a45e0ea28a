"""How the session of a command ended: complete or not, why, and whether the same command can go on."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from vlsb.errors import (
    ConfigError,
    GapsError,
    InterruptedRunError,
    StoreError,
    UnknownModelError,
    VlsbError,
    machine_lack,
)
from vlsb.evaluation.session import SessionEnd
from vlsb.records import JUDGED, Outcome
from vlsb.store.state import RunState
from vlsb.store.summaries import Gaps, ended_without_verdict, unrated

# After these the same command goes on, where there is something to go on with.
_RESUMABLE = (3, 4, 5, 7, 130)
INTERRUPTED = InterruptedRunError("Interrupted. Everything finished is stored.")
INTERRUPTED_EARLY = InterruptedRunError("Interrupted. Nothing was stored yet.")


class SessionResult(NamedTuple):
    """The exit code of a session, and whether the same command can go on from there."""

    code: int
    can_go_on: bool


class SessionEnding(NamedTuple):
    """Why a session is not complete, if so, and whether the same command can go on from there.

    Where it cannot, `ended` counts the samples that only `--retry` asks for again.
    """

    reason: VlsbError | None
    can_go_on: bool = False
    ended: Counter[Outcome] | None = None

    @property
    def result(self) -> SessionResult:
        """The exit code that it comes to, and whether the command can go on."""
        return SessionResult(0 if self.reason is None else self.reason.exit_code, self.can_go_on)

    @property
    def asked_again(self) -> dict[Outcome, int]:
        """How many samples of each outcome `--retry` would ask about again, in the order of `Outcome`."""
        ended = self.ended or Counter()
        # A panel is asked nothing: it follows from its members.
        return {each: ended[each] for each in Outcome if ended[each] and each is not Outcome.JUDGE_UNDECIDED}


def ending_of(
    state: RunState, end: SessionEnd, gaps: Gaps | None, *, is_judging: bool, is_stored: Callable[[], bool]
) -> SessionEnding:
    """Tell how a session ended that went through or stopped early, by what is stored and what is missing."""
    if end.reason is not None:
        return _stopped(end.reason, can_go_on=_may_go_on(end.reason, state, end) and is_stored())
    if gaps is None:
        return SessionEnding(None)
    if (ended := ended_without_verdict(state, end.judges, is_judging=is_judging)) is not None:
        left = GapsError(f"{gaps}. They have ended, and a resume leaves them alone.")
        return SessionEnding(left, ended=ended)
    return SessionEnding(GapsError(f"{gaps}."), is_stored())


def _may_go_on(reason: VlsbError, state: RunState, end: SessionEnd) -> bool:
    """Return whether the same command may go on after this.

    After a wrong setting only where every model has answered with it before: the setting is not it then.
    """
    if reason.exit_code in _RESUMABLE:
        return True
    is_judged = end.judge is None or (end.judge in state.judged and state.judged[end.judge].has_answers)
    return type(reason) in (ConfigError, UnknownModelError) and is_judged


def ending_of_error(error: BaseException, is_stored: Callable[[], bool]) -> SessionEnding | None:
    """Tell how a session ended that raised this; None for a defect of the program."""
    if isinstance(error, asyncio.CancelledError):
        return _stopped(INTERRUPTED, can_go_on=is_stored())
    if isinstance(error, VlsbError):
        return _stopped(error, can_go_on=error.exit_code in _RESUMABLE and is_stored())
    # Whatever was being done when memory, files or threads ran out.
    lack = machine_lack(error)
    return None if lack is None else SessionEnding(lack, is_stored())


def _stopped(reason: VlsbError, *, can_go_on: bool) -> SessionEnding:
    is_early = isinstance(reason, InterruptedRunError) and not can_go_on
    return SessionEnding(INTERRUPTED_EARLY if is_early else reason, can_go_on)


def left_alone(state: RunState, judges: Sequence[str]) -> Iterator[Outcome]:
    """Yield the outcomes without a verdict that a resume leaves as they are, the first seen first."""
    outcomes = Counter(each for file in judges or (None,) for each in unrated(state, file))
    for each in outcomes:
        if each not in JUDGED and each is not Outcome.NOT_JUDGED:
            yield each


# Sessions one after the other.


def ends_all(result: SessionResult) -> bool:
    """Tell whether the sessions that follow are not begun: nothing can be stored, or the user stops."""
    return result.code in (StoreError.exit_code, InterruptedRunError.exit_code)


def code_of_all(results: Sequence[SessionResult]) -> int:
    """Return the exit code of all of them: the first that is not 0."""
    return next((each.code for each in results if each.code), 0)


def can_all_go_on(results: Sequence[SessionResult], planned: int) -> bool:
    """Tell whether the command goes on with so many planned sessions, if any of them stored something."""
    is_open = any(each.can_go_on for each in results) or len(results) < planned
    return code_of_all(results) in _RESUMABLE and is_open
