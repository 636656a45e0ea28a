"""What a run lacks: the samples that stand without the response or the verdict that a command is to bring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from vlsb.analysis.summary import FailOnError
from vlsb.records import JUDGED, Outcome
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
        keys = list(state.asked_for())
        outcomes = list(unrated(state, file))
        if is_judging:
            keys = [key for key in keys if key in state.responses]
            outcomes = [
                o for o in outcomes if o in JUDGED or o is Outcome.NOT_JUDGED or o.value.startswith("judge_")
            ]
        complete = JUDGED if file else JUDGED | {Outcome.NOT_JUDGED}
        missing = sum(outcome not in complete for outcome in outcomes)
        if allowed.is_exceeded(missing, selected=len(keys)):
            of = f" of {file.removesuffix('.jsonl')}" if file and len(judges) > 1 else ""
            return Gaps(missing, len(keys), f"verdict{of}" if file else "response")
    return None


def unrated(state: RunState, judge: str | None) -> Iterator[Outcome]:
    """Where every response stands with a judge; of a guard, those that it found nothing in."""
    for key in state.asked_for():
        if judge is None or state.finding(key, judge) is None:
            yield state.outcome(key, judge)
