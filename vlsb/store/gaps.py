"""What a run lacks: the samples that stand without the response or the verdict that a command is to bring."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from vlsb.analysis.summary import FailOnError
from vlsb.records import JUDGED, RETRIED_ON_RESUME, Outcome
from vlsb.store.manifest import judge_name
from vlsb.store.state import RunState


class Gaps(NamedTuple):
    """So many of the selected samples have no `what`: a response, a verdict, or one judge's of several."""

    missing: int
    selected: int
    what: str

    def __str__(self) -> str:
        return f"{self.missing:,} of {self.selected:,} samples have no {self.what}"


def find_gaps(
    state: RunState, judges: Sequence[str], allowed: FailOnError, *, is_judging: bool
) -> Gaps | None:
    """What is missing of the verdicts in these files, or of the responses without any, if it is too much.

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
    """How the samples ended that lack what the command is to bring, where a resume asks for nothing more.

    None where it does. Arguments as for `find_gaps`.
    """
    found: Counter[Outcome] = Counter()
    for file in judges or (None,):
        complete = JUDGED if file else JUDGED | {Outcome.NOT_JUDGED}
        outcomes = _asked_outcomes(state, file, is_judging=is_judging)
        found.update(outcome for outcome in outcomes if outcome not in complete)
    return None if RETRIED_ON_RESUME.intersection(found) else found


def _asked_outcomes(state: RunState, judge: str | None, *, is_judging: bool) -> list[Outcome]:
    """Where every sample stands with a judge, of those that a command is about."""
    found = unrated(state, judge)
    if not is_judging:
        return list(found)
    return [o for o in found if o in JUDGED or o is Outcome.NOT_JUDGED or o.value.startswith("judge_")]


def unrated(state: RunState, judge: str | None) -> Iterator[Outcome]:
    """Where every response stands with a judge; of a guard, those that it found nothing in."""
    for key in state.asked_for():
        if judge is None or state.finding(key, judge) is None:
            yield state.outcome(key, judge)
