"""What differs between runs that stand side by side: their samples, data, protocol, judge and snapshot.

Nothing is claimed that is not known: an image that was not sent yet, or a judge that named no model, makes
no difference.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from vlsb.records import VLSBENCH, Untrusted


class Aspect(StrEnum):
    """In what two runs differ, the weightiest first."""

    SIMULATED = "simulated"
    JUDGE = "judge"
    SAMPLES = "samples"
    DATA = "data"
    PROTOCOL = "protocol"
    SNAPSHOT = "snapshot"


class SampleData(NamedTuple):
    """A sample as a run had it: the digest of its row, and its image's sha256, None where none is known."""

    row: str
    image: str | None


@dataclass(frozen=True, slots=True)
class JudgeIdentity:
    """A judge: its name, and what can change its verdicts, each setting as JSON text.

    Where the model is reached is no part of it; `models` are the names that it answered as, `deviations`
    say where its requests leave the paper's.
    """

    name: Untrusted
    settings: Mapping[str, str]
    models: frozenset[Untrusted] = frozenset()
    deviations: frozenset[Untrusted] = frozenset()

    @property
    def digest(self) -> str:
        """Hex sha256 over the settings."""
        return _sha256(f"{name} {self.settings[name]}" for name in sorted(self.settings))


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a run's rates hold for. `deviations` are the target's; `judge` is None where nobody judges.

    `dataset` is the name of the data set. `stopped_at` says where a gate stopped the run early, if one did.
    """

    samples: Mapping[int, SampleData]
    deviations: frozenset[Untrusted]
    judge: JudgeIdentity | None
    simulated: bool
    dataset: str = VLSBENCH
    stopped_at: str = ""

    @property
    def samples_digest(self) -> str:
        """Hex sha256 over the selected samples in order of id: `ID ROW` lines, images left out."""
        return _sha256(f"{key} {self.samples[key].row}" for key in sorted(self.samples))


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """How a second run differs from a first; true if it does.

    `shared` samples are in both runs, and of these `changed` have another row or image. Deviations are those
    that only one of both has. `judges` and `snapshots` are None where they are alike.
    """

    shared: int
    only_first: int = 0
    only_second: int = 0
    changed: int = 0
    deviations_first: tuple[Untrusted, ...] = ()
    deviations_second: tuple[Untrusted, ...] = ()
    judges: tuple[JudgeIdentity, JudgeIdentity] | None = None
    snapshots: tuple[frozenset[Untrusted], frozenset[Untrusted]] | None = None
    simulated: bool = False

    @property
    def aspects(self) -> tuple[Aspect, ...]:
        """In what they differ, in the order of `Aspect`."""
        differing = {
            Aspect.SIMULATED: self.simulated,
            Aspect.JUDGE: self.judges is not None,
            Aspect.SAMPLES: bool(self.only_first or self.only_second),
            Aspect.DATA: bool(self.changed),
            Aspect.PROTOCOL: bool(self.deviations_first or self.deviations_second),
            Aspect.SNAPSHOT: self.snapshots is not None,
        }
        return tuple(aspect for aspect, differs in differing.items() if differs)

    def __bool__(self) -> bool:
        return bool(self.aspects)


def differences(first: Conditions, second: Conditions) -> Differences:
    """Return how `second` differs from `first`."""
    judges, snapshots = _judges(first.judge, second.judge)
    # Another judge says itself what else it does.
    before, after = (
        each.deviations | each.judge.deviations if judges is None and each.judge else each.deviations
        for each in (first, second)
    )
    return Differences(
        **_samples(first.samples, second.samples),
        deviations_first=tuple(sorted(before - after)),
        deviations_second=tuple(sorted(after - before)),
        judges=judges,
        snapshots=snapshots,
        simulated=first.simulated != second.simulated,
    )


def typical(runs: Sequence[Conditions]) -> int:
    """Return the place of the run that differs from the fewest others; `runs` is not empty.

    Of several it is the one over the most samples, and the first of those.
    """

    def unlike(place: int) -> tuple[int, int]:
        run = runs[place]
        return sum(bool(differences(run, each)) for each in runs), -len(run.samples)

    return min(range(len(runs)), key=unlike)


def _samples(first: Mapping[int, SampleData], second: Mapping[int, SampleData]) -> dict[str, int]:
    # Nearly all runs that are put side by side have the same samples, and comparing two dicts is fast.
    if first == second:
        return {"shared": len(first)}
    shared = first.keys() & second.keys()
    return {
        "shared": len(shared),
        "only_first": len(first) - len(shared),
        "only_second": len(second) - len(shared),
        "changed": sum(is_changed(first[key], second[key]) for key in shared),
    }


def is_changed(first: SampleData, second: SampleData) -> bool:
    """Tell whether a sample has another row or image in a second run. An unknown image does not count."""
    is_other_image = None not in (first.image, second.image) and first.image != second.image
    return first.row != second.row or is_other_image


_Judges = tuple[JudgeIdentity, JudgeIdentity]
_Snapshots = tuple[frozenset[Untrusted], frozenset[Untrusted]]


def _judges(
    first: JudgeIdentity | None, second: JudgeIdentity | None
) -> tuple[_Judges | None, _Snapshots | None]:
    """Return the judges, or the snapshots of one judge, where they are not alike."""
    if first is None or second is None:
        return None, None
    if first.settings != second.settings:
        return (first, second), None
    are_known = first.models and second.models
    return None, (first.models, second.models) if are_known and first.models != second.models else None


def _sha256(lines: Iterable[str]) -> str:
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()
