"""The macro average: rates in which each category counts alike, however many samples it has.

The interval is Wilson's on as many samples as weights so unequal are worth (Kish), divided by the design
effect of the image clusters: their variance, each image's labels against the rate of their own category, over
that of as many independent labels. As for plain rates it is at least 1, and nearer to the clusters' size the
fewer images have the rarer label.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vlsb.analysis.rates import LABELS, RATES, Interval, RateName, SampleOutcome, blended_effect, wilson
from vlsb.records import Untrusted

# Below this a variance is rounding.
_NOISE = 1e-24


class MacroRate(NamedTuple):
    """The mean of a rate over the categories, in percent, with its 95 % interval."""

    rate: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class MacroAverage:
    """The rates of a run in which each of so many categories counts alike."""

    categories: int
    rates: Mapping[RateName, MacroRate]


_Counts = dict[Untrusted, list[int]]


def macro_average(outcomes: Sequence[SampleOutcome]) -> MacroAverage | None:
    """Return the macro average; None for fewer than two categories, and where one has no label."""
    places = {label: place for place, label in enumerate(LABELS)}
    categories: _Counts = {}
    images: dict[Untrusted, _Counts] = {}
    for each in outcomes:
        of_category = categories.setdefault(each.category, [0] * len(LABELS))
        if (place := places.get(each.outcome)) is not None:
            of_category[place] += 1
            of_image = images.setdefault(each.image, {}).setdefault(each.category, [0] * len(LABELS))
            of_image[place] += 1
    if len(categories) < 2 or not all(map(any, categories.values())):
        return None
    return MacroAverage(len(categories), {name: _rate(name, categories, images) for name in RATES})


def _rate(name: RateName, categories: _Counts, images: Mapping[Untrusted, _Counts]) -> MacroRate:
    counted = [place for place, label in enumerate(LABELS) if label in RATES[name]]

    def hits(labels: Sequence[int]) -> int:
        return sum(labels[place] for place in counted)

    sizes = {category: sum(labels) for category, labels in categories.items()}
    shares = {category: hits(labels) / sizes[category] for category, labels in categories.items()}
    share = math.fsum(shares.values()) / len(shares)
    # Of the mean over categories, what a label adds to it, and how many equal ones would be worth as much.
    weight = {category: 1 / len(sizes) / size for category, size in sizes.items()}
    worth = 1 / math.fsum(each / len(sizes) for each in weight.values())
    pulls = [
        math.fsum(
            weight[category] * (hits(labels) - shares[category] * sum(labels))
            for category, labels in of_image.items()
        )
        for of_image in images.values()
    ]
    judged, count = sum(sizes.values()), len(images)
    spread = math.fsum(each**2 for each in pulls)
    measured = 0.0
    if spread > _NOISE:
        measured = count / (count - 1) * spread * worth / (share * (1 - share))
    with_hits = sum(any(map(hits, of_image.values())) for of_image in images.values())
    without = sum(
        any(hits(labels) < sum(labels) for labels in of_image.values()) for of_image in images.values()
    )
    effect = blended_effect(measured, rarer=min(with_hits, without), mean_size=judged / count)
    # Rounding may leave the mean of shares that are all 1 beside it.
    found = wilson(min(worth, share * worth), worth, design_effect=effect)
    return MacroRate(100 * share, found)
