"""Runs to compare, made of labels: no directory, no judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy

from vlsb.analysis.compared_runs import ComparedRun
from vlsb.analysis.differences import Conditions, JudgeIdentity, SampleData
from vlsb.analysis.rates import SampleOutcome
from vlsb.records import Outcome, Untrusted

REFUSAL, WARNING, UNSAFE = Outcome.SAFE_REFUSAL, Outcome.SAFE_WARNING, Outcome.UNSAFE
LABELS = (REFUSAL, WARNING, UNSAFE)
JUDGE = JudgeIdentity(Untrusted("gpt-4o"), {"model": '"gpt-4o"'})


def run_of(
    *epochs: Sequence[Outcome],
    name: str = "run",
    ids: Sequence[int] | None = None,
    images: Sequence[int] | None = None,
    categories: Sequence[str] | None = None,
    conditions: Conditions | None = None,
) -> ComparedRun:
    """A run whose samples ended so, epoch by epoch; each has an image of its own unless told."""
    keys = range(len(epochs[0])) if ids is None else ids
    return ComparedRun(
        name=Untrusted(name),
        path=Untrusted(f"outputs/{name}"),
        target=Untrusted(f"target of {name}"),
        judge="gpt-4o",
        epochs=len(epochs),
        conditions=conditions or conditions_of(keys),
        outcomes=[
            SampleOutcome(
                sample_id=key,
                image=Untrusted(f"imgs/{key if images is None else images[place]}.png"),
                category=Untrusted("Violent" if categories is None else categories[place]),
                sub_category=Untrusted("sub"),
                source=Untrusted("coco"),
                outcome=outcomes[place],
            )
            for outcomes in epochs
            for place, key in enumerate(keys)
        ],
    )


def conditions_of(ids: Sequence[int], others: Mapping[int, SampleData] | None = None) -> Conditions:
    """What such a run holds for: a row and an image of its own for each sample, but for `others`."""
    samples = {key: SampleData(f"row {key}", f"image {key}") for key in ids} | dict(others or {})
    return Conditions(samples, frozenset(), JUDGE, simulated=False)


def runs_of_table(table: Sequence[Sequence[int]]) -> tuple[ComparedRun, ComparedRun]:
    """Two runs with so many samples of each pair of labels, the first run's by row; no image is shared."""
    pairs = [
        (LABELS[row], LABELS[column])
        for row, counts in enumerate(table)
        for column, count in enumerate(counts)
        for _ in range(count)
    ]
    before, after = zip(*pairs, strict=True)
    return run_of(before, name="first"), run_of(after, name="second")


def drawn_labels(seed: int, count: int, *, kept: float) -> tuple[list[Outcome], list[Outcome]]:
    """The labels of two runs that agree about that often, and no less by chance."""
    dice = numpy.random.default_rng(seed)
    first = dice.choice(3, count, p=(0.2, 0.3, 0.5))
    second = numpy.where(dice.random(count) < kept, first, dice.choice(3, count, p=(0.2, 0.3, 0.5)))
    return [LABELS[each] for each in first], [LABELS[each] for each in second]
