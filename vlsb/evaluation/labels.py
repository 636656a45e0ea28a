"""Labels that people give: stored in a run as a judge's verdicts, in a session of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from vlsb._version import __version__
from vlsb.judging.human import human_judge, human_settings, human_verdict
from vlsb.records import Label, Response, Untrusted
from vlsb.store.manifest import JudgeEntry
from vlsb.store.store import RunStore, open_for_labels

_DEVIATION = (
    "a person judged, and only a part of the responses: `vlsb audit report` weighs what they stand for"
)


class StoredLabels(NamedTuple):
    """What became of a person's labels: some are new, some replace others, the rest was stored before."""

    new: int
    changed: int
    unchanged: int


def store_labels(
    run: Path,
    annotator: str,
    labels: Sequence[tuple[Response, Label, Untrusted]],
    *,
    in_sheet: Callable[[Untrusted], str],
) -> StoredLabels:
    """Store a person's labels for responses, each with a note, which may be empty.

    Notes are compared as they stand `in_sheet`: one that went out with a sheet and came back is the same.
    """
    with open_labels(run, annotator, pending=len(labels)) as store:
        (file,) = store.judges
        new = changed = 0
        for response, label, note in labels:
            stored = store.state.label(response.key, file)
            if stored is label:
                before = store.state.judged[file].verdicts[response.key].explanation
                if not len(note) or in_sheet(note) == in_sheet(before):
                    continue
            store.add_verdict(human_verdict(response, label, note=note), file)
            new, changed = new + (stored is None), changed + (stored is not None)
        store.sync()
    return StoredLabels(new, changed, len(labels) - new - changed)


@contextmanager
def open_labels(run: Path, annotator: str, *, pending: int) -> Iterator[RunStore]:
    """Open the run for a person's labels: a session like that of any judge."""
    judge = human_judge(annotator)
    store = open_for_labels(
        run,
        JudgeEntry(
            name=Untrusted(judge),
            file=f"{judge}.jsonl",
            simulated=False,
            is_added=True,
            settings=human_settings(annotator),
            decision=None,
            deviations=[Untrusted(_DEVIATION)],
        ),
    )
    ended = "complete"
    try:
        store.add_event(
            "session_started", pending=pending, vlsb=__version__, judge=store.judges[0], only_judge=True
        )
        yield store
    except BaseException as error:
        ended = type(error).__name__
        raise
    finally:
        asyncio.run(store.end(ended))
