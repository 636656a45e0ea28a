"""Whether options ask for what a run was made with, told without a key, a network or an engine.

It is the comparison of `vlsb run --resume`, for whoever wants to know before a command is started.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from vlsb import config
from vlsb.data import Selection, load_named, select
from vlsb.engines.checkpoint import identify
from vlsb.engines.plan import Wishes, facts_as
from vlsb.errors import StoreError, VlsbError
from vlsb.evaluation.named_models import Judges, NamedTarget, engine_wishes, resolve_judges
from vlsb.evaluation.options import RunOptions
from vlsb.evaluation.protocol import ENGINE_FACT
from vlsb.evaluation.session import Plan, judge_entry, manifest_of
from vlsb.evaluation.settings import data_root_of, policy_of, selection_of
from vlsb.judging.kinds import JudgeSetup
from vlsb.models.profile import ModelProfile
from vlsb.models.providers import ENGINE_URL
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

    _data: dict[tuple[str, Path, Selection], _Data] = field(default_factory=dict)

    def judge_files(self, options: RunOptions, run: Path, state: RunState) -> list[str] | None:
        """Return the files of the judges that `vlsb run --resume` would ask, if it would go on.

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
        stored = [*state.manifest.judges, *state.manifest.guards]
        return [entry.file for entry in entries] if all(each in stored for each in entries) else None

    def _manifest(self, options: RunOptions, run: Path, old: Manifest) -> Manifest | None:
        try:
            plan = _plan(options, run, old)
            if plan.data_root is not None:
                key = plan.dataset, plan.data_root, plan.selection
                if key not in self._data:
                    dataset = load_named(plan.dataset, plan.data_root)
                    samples = select(dataset.samples, plan.selection)
                    images = dataset.inspect(samples, known=old.images, skip_bad=True)
                    manifest = manifest_of(plan, samples, images)
                    self._data[key] = _Data(manifest.samples, manifest.images)
                data = self._data[key]
            # A resume takes the revision that the run has from the Hugging Face Hub: the same data.
            elif old.data.get("revision") and plan.selection.describe() == old.selection:
                data = _Data(old.samples, old.images)
            else:
                return None
            return replace(manifest_of(plan, (), {}), samples=data.samples, images=data.images)
        except StoreError:
            raise
        except VlsbError:
            return None


def judging_files(options: RunOptions, state: RunState) -> list[str] | None:
    """Return the files of the judges that `vlsb judge` would ask; None where one is new or cannot be told."""
    judges = []
    try:
        for each in resolve_judges(options, is_demo=state.manifest.simulated).resolved:
            kind, settings = each.setup
            if each.profile is not None:
                named = entries_named(state.manifest, each.setup.title)
                model = identify(each.profile, offline=True)
                facts = named[-1].settings if named else {}
                settings = _on_engine_as(settings, model, engine_wishes(options).for_judge(), facts)
            judges.append(JudgeSetup(kind, settings))
    except VlsbError:
        return None
    entries = [own_entry(state.manifest, judge_entry(judge)) for judge in judges]
    stored = [*state.manifest.judges, *state.manifest.guards]
    return [entry.file for entry in entries] if all(each in stored for each in entries) else None


def _plan(options: RunOptions, run: Path, old: Manifest) -> Plan:
    """Make the plan of `vlsb run --resume` as far as it says what is asked, without key, network or engine.

    An engine is taken to be as in the `old` settings of the target. Judges are not local models.
    Blocking. Raises VlsbError for what is wrong, and for what only the machine with the model can tell.
    """
    target, wishes = NamedTarget.of(options), engine_wishes(options)
    if target.is_local:
        profile = identify(target.profile, weights=wishes.weights, revision=wishes.revision, offline=True)
        target = replace(target, profile=profile)
    settings = target.settings(options)
    if target.is_local:
        settings = _on_engine_as(settings, target.profile, wishes, old.settings)
    judges = Judges() if options.no_judge else resolve_judges(options, is_demo=options.is_demo)
    return Plan(
        directory=run,
        target=settings,
        judges=judges.setups,
        data_root=data_root_of(options, run, old, is_simulated=options.is_demo),
        dataset=options.dataset,
        selection=selection_of(options),
        policy=policy_of(options),
        epochs=options.epochs,
        accept_changed_images=options.accept_changed_images,
    )


def _on_engine_as(
    settings: config.ModelSettings, model: ModelProfile, wishes: Wishes, recorded: Mapping[str, Any]
) -> config.ModelSettings:
    """Put a local model on an engine as it is in recorded settings; nothing changes where these have none."""
    facts = {
        name.removeprefix(ENGINE_FACT): value
        for name, value in recorded.items()
        if name.startswith(ENGINE_FACT)
    }
    if not facts:
        return settings
    served_name, facts_here = facts_as(model, wishes, facts)
    return replace(settings, endpoint=config.Endpoint(served_name, ENGINE_URL), engine=facts_here)
