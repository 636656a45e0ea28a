"""A panel of a run's judges: it asks nobody, and its labels follow from those of its members."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vlsb.analysis.summary import FailOnError
from vlsb.errors import GapsError
from vlsb.records import JUDGED, Outcome
from vlsb.store.manifest import read_manifest, require_run
from vlsb.store.state import RunState
from vlsb.store.store import add_judge
from vlsb.store.summaries import panel_entry


def add_panels(runs: Sequence[Path], members: Sequence[str], *, option: str) -> list[str]:
    """Add the panel of these judges to each run, and return its file in each.

    Raises ConfigError for a directory that is no run before any other is changed, and for unfit members.
    """
    for run in runs:
        require_run(run)
    return [add_judge(run, panel_entry(read_manifest(run), members, option=option)) for run in runs]


def require_labels(state: RunState, run: Path, panel: str, allowed: FailOnError) -> None:
    """Raise GapsError where more responses than allowed have no label of the panel, by its file."""
    outcomes = [state.outcome(key, panel) for key in state.responses]
    missing = sum(outcome not in JUDGED for outcome in outcomes)
    if allowed.is_exceeded(missing, selected=len(outcomes)):
        undecided = outcomes.count(Outcome.JUDGE_UNDECIDED)
        raise GapsError(
            f"{run}: {missing} of {len(outcomes)} responses have no label of the panel: {undecided} "
            f"undecided, {missing - undecided} wait for a member that has not judged them."
        )
