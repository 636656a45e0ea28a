"""What part of a run a judge labelled: all of it, or what was drawn for people or for a calibration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from vlsb.analysis.drawn import DrawnPart
from vlsb.analysis.panel import is_panel, members_of
from vlsb.analysis.rates import Draw
from vlsb.errors import ConfigError
from vlsb.records import Key, Outcome, Untrusted
from vlsb.store.audit import FILE, Audit, read_audit
from vlsb.store.manifest import JudgeEntry
from vlsb.store.state import RunState, calibration_file

_NO_DRAW = "the draw of these labels is not there (audit.json), so nobody knows what they stand for"
_DRAWS_DIFFER = "the members of the panel labelled different parts, so nobody knows what it stands for"
_STOPPED = "what --calibrate drew is not labelled whole; the same command goes on with it"


class FoundPart(NamedTuple):
    """A drawn part, and what an estimate needs of each response that it stands for."""

    part: DrawnPart
    draws: Mapping[Key, Draw]


def draws_of(directory: Path, state: RunState, entry: JudgeEntry) -> tuple[str, ...]:
    """The files of the draws that a judge has labelled alone; none for one that labels everything.

    People label what was drawn, and so does a calibrated judge until it has been asked about the rest. A
    panel has the draws of its members. The file of people's draw need not be there.
    """
    if members := members_of(entry.settings):
        entries = (state.manifest.judge(f"{name}.jsonl") for name in members)
        return tuple(dict.fromkeys(file for each in entries for file in draws_of(directory, state, each)))
    waiting = [key for key in state.responses if state.outcome(key, entry.file) is Outcome.NOT_JUDGED]
    if entry.is_human:
        return (FILE,) if waiting else ()
    file = calibration_file(entry.file)
    if not waiting or (audit := read_audit(directory, file)) is None:
        return ()
    # Responses that came after the draw are no part's: as any other judge, it has not come to them yet.
    frame = _frame(audit, state)
    return (file,) if any(key in frame for key in waiting) else ()


def require_whole(directory: Path, state: RunState, entry: JudgeEntry) -> None:
    """Raise ConfigError for a judge that labelled a drawn part: its labels do not compare one by one."""
    if draws_of(directory, state, entry):
        raise ConfigError(
            f"{directory}: {entry.stem} has labelled a drawn part of this run, in "
            "which rare labels come more often than in the run. Name a judge that labelled all of it with "
            "--judge."
        )


def find_part(directory: Path, state: RunState, entry: JudgeEntry) -> FoundPart | None:
    """The drawn part that a judge labelled, None for one that is to label everything."""
    draws = draws_of(directory, state, entry)
    if not draws:
        return None
    if len(draws) > 1:
        return FoundPart(DrawnPart(why_no_rates=_DRAWS_DIFFER), {})
    if (audit := read_audit(directory, draws[0])) is None:
        return FoundPart(DrawnPart(why_no_rates=_NO_DRAW), {})
    weights = {item.key: item.weight for item, _ in audit.current(state)}
    is_stopped = not entry.is_human and any(
        state.outcome(key, entry.file) is Outcome.NOT_JUDGED for key in weights
    )
    frame, reference = _frame(audit, state), _reference(directory, state, entry)
    return FoundPart(
        DrawnPart(
            drawn=len(weights),
            responses=len(frame),
            reference=None if reference is None else Untrusted(reference.stem),
            # As the calibration itself: the old judge's rates, and the change that is to be expected.
            slope=None if entry.is_human else 1.0,
            why_no_rates=_STOPPED if is_stopped else "",
        ),
        {
            key: Draw(weights.get(key, 0.0), None if reference is None else state.label(key, reference.file))
            for key in frame
        },
    )


def _frame(audit: Audit, state: RunState) -> set[Key]:
    """The responses that could be drawn, as far as they are there."""
    drawn_from = {each.image_path for each in audit.frame}
    images = {row.sample_id: row.image_path for row in state.manifest.samples}
    return {key for key in state.responses if images.get(key.sample_id) in drawn_from}


def _reference(directory: Path, state: RunState, entry: JudgeEntry) -> JudgeEntry | None:
    """The first judge of the run that labelled everything, and asked nobody about this one's part."""
    for each in state.manifest.judges:
        is_other = each.file != entry.file and not each.is_human and not is_panel(each.settings)
        has_labels = any(state.label(key, each.file) for key in state.responses)
        if is_other and has_labels and not draws_of(directory, state, each):
            return each
    return None
