"""Which responses people label, and what their labels say of a judge.

Whole images are drawn, because responses to one image are alike: from strata of label, category and
disagreement, by the square root of their sizes, so that rare labels are seen often enough. Each image has a
number of its own from the seed, and seats go to strata by divisors: a larger draw holds every smaller one.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vlsb.analysis.rates import Interval, score_ends
from vlsb.records import Label, Untrusted


class Stratum(NamedTuple):
    """Responses that a judge takes for alike; None in a place that does not divide them.

    `label` is the judge's, or `none` where it gave none, and of several runs one for each with `+` between
    them; `disagrees` says whether another judge's differs.
    """

    label: str | None
    category: Untrusted | None
    disagrees: bool | None


class ResponseFacts(NamedTuple):
    """What the draw looks at of one response."""

    image: Untrusted
    label: str
    category: Untrusted
    disagrees: bool


class DrawnImage(NamedTuple):
    """An image whose responses are labelled, and how many images of its stratum it stands for."""

    image: Untrusted
    weight: float


def stratify(responses: Sequence[ResponseFacts], n: int) -> dict[Untrusted, Stratum]:
    """Return the stratum of each image, for a draw of about `n` responses.

    An image with several responses counts for its rarest label, for disagreement if there is any, and for the
    category of its first. Strata are made coarser until each can have two images.
    """
    times = Counter(each.label for each in responses)
    strata: dict[Untrusted, Stratum] = {}
    for each in responses:
        label, category, disagrees = strata.get(each.image, Stratum(each.label, each.category, False))
        rarest = min(str(label), each.label, key=lambda name: (times[name], name))
        strata[each.image] = Stratum(rarest, category, bool(disagrees) or each.disagrees)
    coarser = (
        strata,
        {image: Stratum(label, None, disagrees) for image, (label, _, disagrees) in strata.items()},
        {image: Stratum(label, None, None) for image, (label, _, _) in strata.items()},
        dict.fromkeys(strata, Stratum(None, None, None)),
    )
    return next((each for each in coarser if 2 * len(set(each.values())) <= n), coarser[-1])


def draw(
    strata: Mapping[Untrusted, Stratum], sizes: Mapping[Untrusted, int], n: int, *, seed: int
) -> list[DrawnImage]:
    """Draw images with `n` responses together, or a few more, since images are whole; all if there are fewer.

    `sizes` are the responses of each image. Two images of each stratum come first, then the stratum with the
    largest square root of its size over the images that it has.
    """
    waiting: dict[Stratum, list[Untrusted]] = {}
    numbers = {image: hashlib.sha256(f"{seed} {image.sha256()}".encode()).hexdigest() for image in strata}
    for image in sorted(strata, key=numbers.__getitem__, reverse=True):
        waiting.setdefault(strata[image], []).append(image)
    totals = {stratum: len(images) for stratum, images in waiting.items()}
    taken: dict[Stratum, list[Untrusted]] = {stratum: [] for stratum in waiting}
    responses = 0
    while responses < n and any(waiting.values()):
        stratum = max(
            (each for each in waiting if waiting[each]),
            key=lambda each: (
                len(taken[each]) < 2,
                math.sqrt(totals[each]) / (len(taken[each]) + 0.5),
                numbers[waiting[each][-1]],
            ),
        )
        taken[stratum].append(waiting[stratum].pop())
        responses += sizes[taken[stratum][-1]]
    return [
        DrawnImage(image, totals[stratum] / len(images))
        for stratum, images in taken.items()
        for image in images
    ]


class LabelPair(NamedTuple):
    """One response with the label that counts as true and the one that is measured against it."""

    image: Untrusted
    weight: float
    truth: Label
    found: Label


@dataclass(frozen=True, slots=True)
class WeightedShare:
    """A weighted share in percent with its 95 % interval; None where there was nothing. `n` are responses."""

    percent: float | None
    interval: Interval
    n: int


@dataclass(frozen=True, slots=True)
class LabelAgreement:
    """How often two labels agree, by the draw's weights, and how often each label is found and left alone.

    `kappa` is Cohen's on the weighted shares, None where both gave one and the same label throughout.
    `counts` are responses without weights, by (truth, found).
    """

    agreement: WeightedShare
    kappa: float | None
    sensitivity: Mapping[Label, WeightedShare]
    specificity: Mapping[Label, WeightedShare]
    counts: Mapping[tuple[Label, Label], int]


def agreement(pairs: Collection[LabelPair]) -> LabelAgreement:
    """Return how `found` compares with `truth` over these responses."""
    kappa = None
    total = math.fsum(each.weight for each in pairs)

    def part(place: str, label: Label) -> float:
        return math.fsum(each.weight for each in pairs if getattr(each, place) is label) / total

    if pairs:
        observed = math.fsum(each.weight for each in pairs if each.truth is each.found) / total
        expected = math.fsum(part("truth", label) * part("found", label) for label in Label)
        kappa = None if expected >= 1 - 1e-12 else (observed - expected) / (1 - expected)
    return LabelAgreement(
        agreement=_share((each, each.truth is each.found) for each in pairs),
        kappa=kappa,
        sensitivity={
            label: _share((each, each.found is label) for each in pairs if each.truth is label)
            for label in Label
        },
        specificity={
            label: _share((each, each.found is not label) for each in pairs if each.truth is not label)
            for label in Label
        },
        counts=Counter((each.truth, each.found) for each in pairs),
    )


def _share(rows: Iterable[tuple[LabelPair, bool]]) -> WeightedShare:
    return weighted_share((pair.image, pair.weight, counts) for pair, counts in rows)


def weighted_share(rows: Iterable[tuple[Untrusted, float, bool]]) -> WeightedShare:
    """Return a ratio of weighted sums, with Wilson's interval on the number of images that it is worth.

    A row is a response: its image, its weight, and whether it counts.

    That number follows from the spread between images, and is never more than their weights allow: few
    images that do not differ say little about their spread.
    """
    clusters: dict[Untrusted, list[float]] = {}
    n = 0
    for image, weight, counts in rows:
        sums = clusters.setdefault(image, [0.0, 0.0])
        sums[0] += weight * counts
        sums[1] += weight
        n += 1
    total = math.fsum(weight for _, weight in clusters.values())
    if n == 0:
        return WeightedShare(None, Interval(0.0, 100.0), 0)
    share = math.fsum(hits for hits, _ in clusters.values()) / total
    worth = total**2 / math.fsum(weight**2 for _, weight in clusters.values())
    spread = math.fsum((hits - share * weight) ** 2 for hits, weight in clusters.values())
    if spread > 0 and len(clusters) > 1:
        variance = spread / total**2 * len(clusters) / (len(clusters) - 1)
        worth = min(worth, share * (1 - share) / variance)
    below, above = score_ends(share, worth)
    low = min(share, max(0.0, below)) if share > 0 else 0.0
    high = max(share, min(1.0, above)) if share < 1 else 1.0
    return WeightedShare(100 * share, Interval(100 * low, 100 * high), n)
