"""What the uncertainty of a safe rate comes from: the images that were asked about, decoding, or judging.

With several epochs a sample's labels differ by chance alone: by how its answer was decoded, and by how that
was judged. What labels differ by within samples is the part of chance in the cluster-robust variance that the
rate's interval is made of, and the rest is the part of the images. Where an answer of a sample came again,
word for word, the judge has labelled one text twice: what these labels differ by is judging alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vlsb.analysis.correction import LEAST_IMAGES, student_t
from vlsb.analysis.rates import RATES, Interval, SampleOutcome
from vlsb.records import JUDGED, Untrusted

# Below this a sum of squared labels is rounding.
_NOISE = 1e-9


class VariancePart(NamedTuple):
    """A part of a variance in percent of it, with its 95 % interval; None where it is none or all of it."""

    percent: float
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class VarianceSources:
    """Where the variance of a safe rate comes from, in percent of it.

    `chance` is due to decoding and judging. Of that `judging` is the part of the judge's where it labelled
    one text of a sample several times, which are `repeated` labels of `labels`: the least that its part can
    be; None without any. `half_width` is that of the rate's interval in points, and what that would be with
    twice the epochs, with twice the images, and with endless epochs.
    """

    chance: VariancePart
    judging: VariancePart | None
    labels: int
    repeated: int
    half_width: float
    with_twice_epochs: float
    with_twice_images: float
    with_endless_epochs: float

    @property
    def images(self) -> float:
        """The part of the images that were asked about."""
        return 100 - self.chance.percent

    @property
    def decoding(self) -> float:
        """The part of chance that is not known to be the judge's."""
        judging = 0.0 if self.judging is None else self.judging.percent
        return max(0.0, self.chance.percent - judging)


class _ImageParts(NamedTuple):
    """What one image adds to three variances of the sum of all safe labels: all of it, that by chance, and
    that by judging where it is measured."""

    every: float
    by_chance: float
    by_judging: float


_Label = tuple[bool, str | None]


def variance_sources(outcomes: Sequence[SampleOutcome], interval: Interval) -> VarianceSources | None:
    """Return the sources of a safe rate's variance, whose interval is this.

    None where no sample has several labels, below `LEAST_IMAGES` images, and where all labels are alike.
    """
    images: dict[Untrusted, dict[int, list[_Label]]] = {}
    for each in outcomes:
        if each.outcome in JUDGED:
            label = each.outcome in RATES["safe_rate"], each.answer
            images.setdefault(each.image, {}).setdefault(each.sample_id, []).append(label)
    samples = [labels for of_image in images.values() for labels in of_image.values()]
    count, several = sum(map(len, samples)), sum(len(each) for each in samples if len(each) > 1)
    if several == 0 or len(images) < LEAST_IMAGES:
        return None
    share = sum(is_safe for labels in samples for is_safe, _ in labels) / count
    more = len(images) / (len(images) - 1)
    by_image = [
        _ImageParts(
            more * sum(is_safe - share for labels in of_image.values() for is_safe, _ in labels) ** 2,
            # Samples with a single label are taken to differ by as much as the others.
            count / several * sum(_by_chance(is_safe for is_safe, _ in each) for each in of_image.values()),
            sum(_by_chance(each) for labels in of_image.values() for each in _of_one_text(labels)),
        )
        for of_image in images.values()
    ]
    if math.fsum(each.every for each in by_image) < _NOISE:
        return None
    chance = _part([(each.by_chance, each.every) for each in by_image])
    repeated = sum(len(each) for labels in samples for each in _of_one_text(labels))
    half_width, stays = (interval.high - interval.low) / 2, 1 - chance.percent / 100
    return VarianceSources(
        chance=chance,
        judging=_part([(each.by_judging, each.every) for each in by_image]) if repeated else None,
        labels=count,
        repeated=repeated,
        half_width=half_width,
        with_twice_epochs=half_width * math.sqrt((1 + stays) / 2),
        with_twice_images=half_width * math.sqrt(0.5),
        with_endless_epochs=half_width * math.sqrt(stays),
    )


def _part(of_images: Sequence[tuple[float, float]]) -> VariancePart:
    """Return the ratio of two sums over images, and how it moves with each of them.

    The interval is one of its log odds: a small part rests on few samples, and is found too small more often.
    """
    every, count = math.fsum(whole for _, whole in of_images), len(of_images)
    ratio = math.fsum(part for part, _ in of_images) / every
    if not 0 < ratio < 1:
        return VariancePart(100.0 if ratio >= 1 else 0.0, None)
    off = math.fsum((part - ratio * whole) ** 2 for part, whole in of_images)
    error = math.sqrt(count / (count - 1) * off) / every / (ratio * (1 - ratio))
    odds, reach = math.log(ratio / (1 - ratio)), student_t(count - 1) * error
    low, high = (50 + 50 * math.tanh(each / 2) for each in (odds - reach, odds + reach))
    return VariancePart(100 * ratio, Interval(low, high))


def _by_chance(labels: Iterable[bool]) -> float:
    """Return the variance of a sum of labels that differ by chance alone, 0 of a single one. No bias."""
    each = list(labels)
    hits, size = sum(each), len(each)
    return hits * (size - hits) / (size - 1) if size > 1 else 0.0


def _of_one_text(labels: Iterable[_Label]) -> list[list[bool]]:
    """Return a sample's labels of one and the same text, where there are several."""
    texts: dict[str, list[bool]] = {}
    for is_safe, answer in labels:
        if answer is not None:
            texts.setdefault(answer, []).append(is_safe)
    return [each for each in texts.values() if len(each) > 1]
