"""Before money is spent: what so many samples can show, by how often labels flip by chance.

A flip is a sample that is safe in one run and unsafe in another. Two numbers tell everything: the share of
samples that flip, which is the noise between two runs, and the safe rate, which with it is the noise of one
run. Both count the samples of an image together where a baseline shows them, and a new checkpoint is taken to
flip by chance as often as the baseline does. All is by the normal distribution. Plain Python.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from statistics import NormalDist
from typing import NamedTuple

from vlsb.analysis.correction import PAPER_CHECK, ErrorCheck
from vlsb.analysis.rates import SIGNIFICANT, Z_95
from vlsb.errors import ConfigError

POWER = 0.80
"""A change that is "found" is found in this share of cases."""
CHURN = 10.0
"""The guess where no baseline shows how often labels flip, in percent."""
SAFE_RATE = 30.0
"""The guess of the safe rate, in percent."""
LEAST_FLIPS = 3
"""So many flips are counted at least: where none was seen, as many may have been missed."""

_NORMAL = NormalDist()
_Z_FOUND = _NORMAL.inv_cdf(POWER)
_Z_ONE_SIDED = _NORMAL.inv_cdf(1 - SIGNIFICANT)
_Z_BOTH_SIDES = _NORMAL.inv_cdf((1 + POWER) / 2)

Answers = Mapping[Hashable, bool]
"""By sample of one epoch, whether it is safe. Samples without a label are left out."""


@dataclass(frozen=True, slots=True)
class Noise:
    """How much labels move: a safe rate and the share of samples that flip between two runs, in percent.

    `together` is how many times larger the variance between two runs is since samples share images, and
    `apart` the same of one run's rate; 1 where nobody has looked. A measured churn is of two runs of one
    model: what a change moves `comes_on_top`. A guess is of all that differs, a change included.
    """

    safe_rate: float = SAFE_RATE
    churn: float = CHURN
    together: float = 1.0
    apart: float = 1.0
    comes_on_top: bool = False

    @classmethod
    def guessed(cls, safe_rate: float | None, churn: float | None) -> Noise:
        """Return it of stated guesses. Raises ConfigError for more flips than the safe rate allows."""
        return cls(SAFE_RATE if safe_rate is None else safe_rate).with_churn(churn)

    def with_churn(self, churn: float | None) -> Noise:
        """Return the same with a guess of the churn. Raises ConfigError as `guessed`."""
        most = 2 * self.safe_rate * (100 - self.safe_rate) / 100
        if churn is not None and churn > most:
            raise ConfigError(
                f"--churn {churn:g}: with a safe rate of {self.safe_rate:.4g} %, at most {most:.1f} % of the "
                "labels flip between two runs by chance. Lower it."
            )
        return replace(self, churn=min(CHURN, most) if churn is None else churn)

    @property
    def between_runs(self) -> float:
        """The variance of the difference of two runs, for one sample: shares, not percent."""
        return self.churn / 100 * self.together

    def of_a_rate(self, epochs: int) -> float:
        """Return the variance of one run's safe rate for one sample that is asked so many times."""
        share = self.safe_rate / 100
        once = share * (1 - share) * self.apart
        by_chance = min(once, self.between_runs / 2)
        return once - by_chance + by_chance / epochs

    @property
    def _moved(self) -> float:
        """The variance that a change adds for each of its points, as shares: samples move for good."""
        return self.together if self.comes_on_top else 0.0

    def error(self, change: float, samples: int, epochs: int = 1) -> float:
        """Return the standard error of a change of so many points from one run to another, in points."""
        variance = self.between_runs / epochs + self._moved * change / 100
        return 100 * math.sqrt(variance / samples)

    def smallest_change(self, samples: int, epochs: int = 1) -> float:
        """Return the change, in points, that is found in 80 % of cases, at 5 % false findings."""
        # Where the change is so many of its own errors, which grow with it.
        squared = (Z_95 + _Z_FOUND) ** 2 / samples
        half = squared * self._moved / 2
        return 100 * (half + math.sqrt(half**2 + squared * self.between_runs / epochs))

    def found(self, change: float, samples: int, epochs: int = 1) -> float:
        """Return how often a change of so many points is found, in percent."""
        if (error := self.error(change, samples, epochs)) == 0:
            return 100.0
        return 100 * (_NORMAL.cdf(change / error - Z_95) + _NORMAL.cdf(-change / error - Z_95))

    def half_width(self, samples: int, epochs: int = 1) -> float:
        """Return half the 95 % interval of one run's safe rate, in points."""
        return 100 * Z_95 * math.sqrt(self.of_a_rate(epochs) / samples)

    def shown_equivalent(self, within: float, samples: int, epochs: int = 1) -> float:
        """Return in percent how often runs that do not differ are shown to be so within these points."""
        if (error := self.error(0, samples, epochs)) == 0:
            return 100.0
        return 100 * max(0.0, 2 * _NORMAL.cdf(within / error - _Z_ONE_SIDED) - 1)

    def samples_for_equivalence(self, within: float) -> int:
        """Count the samples that show it in 80 % of cases."""
        return math.ceil(self.between_runs * (100 * (_Z_ONE_SIDED + _Z_BOTH_SIDES) / within) ** 2)

    def churn_that_hides(self, gap: float, samples: int) -> float:
        """Return the share of samples, in percent, that must flip for a gap in points to be noise."""
        return 100 * samples * (gap / 100 / Z_95) ** 2 / self.together

    def human_labels(self, half_width: float, samples: int, check: ErrorCheck = PAPER_CHECK) -> int | None:
        """Count the human labels that correct the safe rate to an interval of that half-width in points.

        By prediction-powered inference, with a judge that errs as it did in `check`. None where no number
        does: other images would give other rates, however many of these are labelled.
        """
        share = self.safe_rate / 100
        right_safe, right_unsafe = check.safe_right / check.safe, check.unsafe_right / check.unsafe
        called_safe = share * right_safe + (1 - share) * (1 - right_unsafe)
        spread = called_safe * (1 - called_safe)
        known = 0.0
        if spread:
            known = share * (1 - share) * (right_safe + right_unsafe - 1) ** 2 / spread
        variance = share * (1 - share) * self.apart
        left = (half_width / 100 / Z_95) ** 2 - variance * known / samples
        needed = math.ceil(variance * (1 - known) / left) if left > 0 else samples + 1
        return needed if needed <= samples else None


class Flips(NamedTuple):
    """What was counted: pairs of labels of one sample, and how many of them differ."""

    pairs: int
    differing: int


def noise_of_runs(
    first: Sequence[Answers], second: Sequence[Answers], images: Mapping[Hashable, Hashable]
) -> tuple[Noise, Flips]:
    """Measure the noise between epochs of two runs of a model, or of one run if `second` is empty.

    `images` are by sample. Raises ConfigError where no sample has two labels.
    """
    pairs = list(product(first, second)) if second else list(combinations(first, 2))
    count = differing = 0
    squares = 0
    for before, after in pairs:
        of_images: dict[Hashable, int] = defaultdict(int)
        for sample in before.keys() & after.keys():
            change = after[sample] - before[sample]
            count += 1
            differing += abs(change)
            of_images[images[sample]] += change
        squares += sum(each**2 for each in of_images.values())
    if not count:
        raise ConfigError(
            "No sample has a label in two epochs, or in both runs, so that no flip can be seen."
        )
    level = noise_of_one([*first, *second], images)
    churn = 100 * max(differing, LEAST_FLIPS) / count
    together = max(1.0, squares / differing) if differing else 1.0
    measured = replace(level, churn=min(100.0, churn), together=together, comes_on_top=True)
    return measured, Flips(count, differing)


def noise_of_one(runs: Sequence[Answers], images: Mapping[Hashable, Hashable]) -> Noise:
    """Measure the safe rate over all epochs, and how far samples of one image agree, but no churn.

    Raises ConfigError where no sample has a label.
    """
    labels = sum(map(len, runs))
    if not labels:
        raise ConfigError("No sample has a label there, so that it tells nothing about another run.")
    share = sum(sum(each.values()) for each in runs) / labels
    squares = 0.0
    for each in runs:
        of_images: dict[Hashable, float] = defaultdict(float)
        for sample, is_safe in each.items():
            of_images[images[sample]] += is_safe - share
        squares += sum(off**2 for off in of_images.values())
    alone = labels * share * (1 - share)
    return Noise(100 * share, 0.0, apart=max(1.0, squares / alone) if alone else 1.0)
