"""How many GPUs a model takes whose entry does not say so: as few as hold it, by the forecast of its memory.

A run that has begun keeps the number that it began with: another one would be another engine's answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vlsb.engines.checkpoint import identify, open_weights
from vlsb.engines.placement import declares_gpus, gpus_needed, gpus_taken
from vlsb.engines.plan import Wishes
from vlsb.errors import StoreError, VlsbError
from vlsb.hub import is_connection_fault
from vlsb.models.profile import ModelProfile
from vlsb.store.manifest import entries_named, is_run, read_head
from vlsb.store.state import has_answers

_PARALLEL = "engine.parallel"


@dataclass(slots=True)
class Sizing:
    """Computes and remembers. `memory_bytes` is a GPU's, 0 where nobody knows: then each model takes one.

    `unknown` says of models, by name, why they are taken to need one GPU; `no_memory` is why a GPU's memory
    is not known, empty where that does not matter. With `is_offline` the Hub is not asked; nor is it any more
    once it could not be reached.
    """

    memory_bytes: int = 0
    no_memory: str = ""
    is_offline: bool = False
    unknown: dict[str, str] = field(default_factory=dict)
    _known: dict[tuple[Any, ...], int] = field(default_factory=dict)
    _is_unreachable: bool = False

    def count(self, model: ModelProfile, wishes: Wishes, recorded: Callable[[], int | None]) -> int:
        """Count the GPUs that the model's engine takes, as `recorded` if a run says so. Blocking."""
        if declares_gpus(model, wishes):
            return gpus_taken(model, wishes)
        if (began_with := recorded()) is not None:
            return began_with
        if not self.memory_bytes:
            if self.no_memory:
                self.unknown[model.name] = self.no_memory
            return 1
        # Wishes hold a mapping of settings, which has no hash.
        key = (model.family, model.weights, model.revision, repr(wishes))
        if key in self._known:
            return self._known[key]
        is_offline = self.is_offline or self._is_unreachable
        try:
            profile = identify(model, weights=wishes.weights, revision=wishes.revision, offline=is_offline)
            count = gpus_needed(profile, replace(wishes, offline=is_offline), self.memory_bytes)
        except VlsbError as error:
            cause = error.__cause__
            self._is_unreachable |= isinstance(cause, Exception) and is_connection_fault(cause)
            count, why = 1, error.message.rstrip(".")
            if self.is_offline or self._is_unreachable:
                weights, revision = wishes.weights or model.weights, wishes.revision or model.revision
                try:
                    open_weights(weights, revision=revision, offline=True)
                except VlsbError:
                    why = "not here" if self.is_offline else "the Hugging Face Hub cannot be reached"
            self.unknown[model.name] = why
        self._known[key] = count
        return count


def recorded_gpus(run: Path) -> int | None:
    """Return how many GPUs share a copy of the target's model in a run with answers; None for any other."""
    return _recorded(run, None)


def recorded_judge_gpus(runs: Iterable[Path], title: str) -> int | None:
    """Return the same of a judge's model, in the first of the runs that it has labelled."""
    return next((count for run in runs if (count := _recorded(run, title)) is not None), None)


def _recorded(run: Path, judge: str | None) -> int | None:
    if not is_run(run) or not has_answers(run):
        return None
    try:
        head = read_head(run)
    except StoreError:
        # Its cell says so.
        return None
    if judge is None:
        return _tensor(head.settings)
    named = entries_named(head, judge)
    return next((count for entry in named if (count := _tensor(entry.settings)) is not None), None)


def _tensor(settings: Mapping[str, Any]) -> int | None:
    parallel = settings.get(_PARALLEL)
    count = parallel.get("tensor") if isinstance(parallel, Mapping) else None
    return count if isinstance(count, int) else None
