"""Whether options ask for what a run was made with, told without a key, a network or an engine.

It is the comparison of `vlsb run --resume`, for whoever wants to know before a command is started.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from vlsb.data import Selection, load_dataset, select
from vlsb.errors import StoreError, VlsbError
from vlsb.evaluation.options import RunOptions
from vlsb.evaluation.session import Plan, judge_entry, manifest_of
from vlsb.evaluation.settings import judges_to_compare, plan_to_compare
from vlsb.records import ImageFile
from vlsb.store.manifest import Manifest, SampleRow, entries_named, require_own_responses
from vlsb.store.state import RunState, has_answers
from vlsb.store.store import own_entry, require_resumable


class _Data(NamedTuple):
    """What a manifest holds of the selected part of a data set."""

    samples: Sequence[SampleRow]
    images: Mapping[str, ImageFile]


@dataclass(slots=True)
class Identities:
    """Compares options with runs. Rows and images are looked at once, so it is for one command."""

    _data: dict[tuple[Path, Selection], _Data] = field(default_factory=dict)

    def judge_files(self, options: RunOptions, run: Path, state: RunState) -> list[str] | None:
        """The files of the judges that `vlsb run --resume` would ask, where it would go on with the run.

        Raises RunMismatchError where it would refuse. None where only the command itself can tell, or would
        begin with something that the run does not have. Blocking.
        """
        if not has_answers(run):
            return None
        require_own_responses(run, state.manifest)
        if (asked := self._manifest(options, run, state.manifest)) is None:
            return None
        old = require_resumable(run, state, asked)
        entries = [own_entry(old, entry) for entry in (*asked.judges, *asked.guards)]
        there = [*state.manifest.judges, *state.manifest.guards]
        return [entry.file for entry in entries] if all(each in there for each in entries) else None

    def _manifest(self, options: RunOptions, run: Path, old: Manifest) -> Manifest | None:
        try:
            plan = plan_to_compare(options, run, old.settings)
            if plan.data_root is None:
                return self._with_its_data(plan, old)
            return replace(manifest_of(plan, (), {}), **self._found(plan.data_root, plan, old)._asdict())
        except StoreError:
            raise
        except VlsbError:
            return None

    def _with_its_data(self, plan: Plan, old: Manifest) -> Manifest | None:
        """A resume takes the revision that the run has from the Hugging Face Hub: the same data."""
        if not old.data.get("revision") or plan.selection.describe() != old.selection:
            return None
        return replace(manifest_of(plan, (), {}), samples=old.samples, images=old.images)

    def _found(self, root: Path, plan: Plan, old: Manifest) -> _Data:
        key = root, plan.selection
        if key not in self._data:
            dataset = load_dataset(root)
            samples = select(dataset.samples, plan.selection)
            found = manifest_of(plan, samples, dataset.inspect(samples, known=old.images, skip_bad=True))
            self._data[key] = _Data(found.samples, found.images)
        return self._data[key]


def judging_files(options: RunOptions, state: RunState) -> list[str] | None:
    """The files of the judges that `vlsb judge` would ask; None where one is new, or none can tell here."""

    def recorded(title: str) -> Mapping[str, Any]:
        named = entries_named(state.manifest, title)
        return named[-1].settings if named else {}

    try:
        judges = judges_to_compare(options, recorded, is_demo=state.manifest.simulated)
    except VlsbError:
        return None
    entries = [own_entry(state.manifest, judge_entry(judge)) for judge in judges]
    there = [*state.manifest.judges, *state.manifest.guards]
    return [entry.file for entry in entries] if all(each in there for each in entries) else None
