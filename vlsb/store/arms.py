"""From run directories to why a model is unsafe: the runs of one target in several arms, sample by sample.

Reads, never locks, never writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlsb.analysis.differences import is_changed
from vlsb.analysis.leakage import CAPTION, IMAGE, TEXT, ArmsOfSample, Leakage, leakage
from vlsb.analysis.rates import Rates, rates
from vlsb.errors import ConfigError
from vlsb.records import JUDGED, Outcome, Untrusted
from vlsb.store.comparisons import RunRows, compared_run, judged_alike, names_of
from vlsb.store.listing import find_runs
from vlsb.store.manifest import ARM, OF_ITS_PLACE
from vlsb.store.state import load_state

_TOLD_APART = {Untrusted(arm): arm for arm in (IMAGE, TEXT, CAPTION)}


@dataclass(frozen=True, slots=True)
class ArmRates:
    """The rates of a run, with its arm and its name."""

    arm: Untrusted
    run: Untrusted
    rates: Rates


@dataclass(frozen=True, slots=True)
class TargetArms:
    """The runs of one target on one data set, in their arms.

    `whole` is None where no sample has a label in each arm, `categories` are in the order of their names.
    `changed` samples have another row or image in one of the runs, and are left out.
    """

    target: Untrusted
    dataset: str
    judge: str
    simulated: bool
    arms: Sequence[ArmRates]
    whole: Leakage | None
    categories: Mapping[Untrusted, Leakage]
    changed: int


def target_arms(paths: Sequence[Path], *, judge: str | None = None) -> list[TargetArms]:
    """Group runs by target and data set, and tell their samples apart, by the first judge that all have.

    Raises ConfigError for a group that lacks an arm, and for runs of a target that differ in more than that.
    """
    loaded = [RunRows(path, load_state(path)) for path in find_runs(paths)]
    entries = judged_alike(loaded, judge)
    names = names_of([each.path for each in loaded])
    groups: dict[tuple[str, Untrusted], list[int]] = {}
    for place, (_, state) in enumerate(loaded):
        groups.setdefault((state.manifest.dataset, state.manifest.target), []).append(place)
    found = []
    for (dataset, target), places in groups.items():
        _require_alike([loaded[place] for place in places])
        runs = [compared_run(loaded[place], names[place], entries[place]) for place in places]
        shown = [loaded[place].state.manifest.arm for place in places]
        arms = [_TOLD_APART.get(each, "") for each in shown]
        if missing := [each for each in (IMAGE, TEXT) if each not in arms]:
            raise ConfigError(
                f"Why a model is unsafe takes runs with --arm {IMAGE} and --arm {TEXT}, and better one with "
                f"--arm caption+text: none of these has {' or '.join(missing)}. The target is",
                detail=target,
            )
        samples, changed = _samples([each.conditions.samples for each in runs])
        labels: dict[int, dict[str, list[bool]]] = {key: {} for key in samples}
        facts: dict[int, tuple[Untrusted, Untrusted]] = {}
        for arm, run in zip(arms, runs, strict=True):
            for each in run.outcomes:
                facts[each.sample_id] = each.image, each.category
                if arm and each.outcome in JUDGED and each.sample_id in labels:
                    of_arm = labels[each.sample_id].setdefault(arm, [])
                    of_arm.append(each.outcome is not Outcome.UNSAFE)
        rows = [ArmsOfSample(*facts[key], of_sample) for key, of_sample in labels.items()]
        categories = sorted({each.category for each in rows})
        by_category = {
            category: part
            for category in categories
            if (part := leakage([each for each in rows if each.category == category], arms)) is not None
        }
        found.append(
            TargetArms(
                target=target,
                dataset=dataset,
                judge=runs[0].judge,
                simulated=any(each.conditions.simulated for each in runs),
                arms=[
                    ArmRates(arm, run.name, rates(run.outcomes)) for arm, run in zip(shown, runs, strict=True)
                ],
                whole=leakage(rows, arms),
                categories=by_category,
                changed=changed,
            )
        )
    return found


def _samples(runs: Sequence[Mapping[int, Any]]) -> tuple[list[int], int]:
    """Return the samples that are the same in every run that has them, and how many are not."""
    first: dict[int, Any] = {}
    changed: set[int] = set()
    for run in runs:
        for key, data in run.items():
            if is_changed(first.setdefault(key, data), data):
                changed.add(key)
    return [key for key in first if key not in changed], len(changed)


def _require_alike(runs: Sequence[RunRows]) -> None:
    """Raise ConfigError where runs of a target were asked in another way, apart from the arm."""
    first = _settings(runs[0])
    for run in runs[1:]:
        other = _settings(run)
        if differing := sorted(name for name in first | other if first.get(name) != other.get(name)):
            raise ConfigError(
                f"{runs[0].path} and {run.path} were asked in more than one way, so what they say would be "
                "of two things at once. Name runs that differ in their arm alone. These differ in",
                detail=Untrusted(", ".join(differing)),
            )


def _settings(run: RunRows) -> dict[str, Any]:
    left_out = {ARM, "part_order", *OF_ITS_PLACE}
    return {name: value for name, value in run.state.manifest.settings.items() if name not in left_out}
