"""Rates and changes over all samples of a baseline, from a run that answered a random part of them.

The baseline's labels are a control variate. The extra `stats`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy

from vlsb.analysis.compared_runs import ComparedRun, image_numbers, sample_shares, shared_samples
from vlsb.analysis.correction import LEAST_IMAGES, AuditedShares, CorrectedRates, corrected_rates_of_shares
from vlsb.analysis.paired import (
    COMPARED,
    NOISE,
    RESAMPLES,
    Difference,
    Floats,
    Integers,
    PairedShares,
    ends,
    sums_by_image,
)
from vlsb.analysis.rates import LABELS, RATES, Z_95, Interval, RateName, Rates, p_of, rates
from vlsb.errors import ConfigError


@dataclass(frozen=True, slots=True)
class GivenBaseline:
    """The rates of a run that answered a random part of the samples that its baseline answered whole.

    `alone` are the part's own. `given` are over all samples of the baseline, whose labels stand for the
    judge's in a `CorrectedRate`; `worth` is how many samples of its own would say as much of the safe rate.
    """

    run: ComparedRun
    baseline: ComparedRun
    samples: int
    of: int
    alone: Rates
    given: CorrectedRates
    worth: int

    @property
    def simulated(self) -> bool:
        """Whether a target or judge was the simulator."""
        return self.run.conditions.simulated or self.baseline.conditions.simulated


def rates_given(run: ComparedRun, baseline: ComparedRun) -> GivenBaseline:
    """Estimate the rates over the baseline's samples from a random part of them that the run answered.

    The baseline's labels are a control variate: whatever both share is known of all samples. Raises
    ConfigError below `LEAST_IMAGES` images with labels in both.
    """
    before, after = sample_shares(baseline), sample_shares(run)
    shared = {key for key in shared_samples(baseline, run, before, after) if after[key].shares}
    samples = [
        AuditedShares(row.about.image, row.shares, after[key].shares if key in shared else None)
        for key, row in before.items()
        if row.shares is not None
    ]
    _require_images(len({each.image for each in samples if each.human is not None}))
    given = corrected_rates_of_shares(samples)
    alone = rates(run.outcomes)
    own, safe = alone.intervals["safe_rate"], given.rates["safe_rate"]
    count, every = given.human_labels, len(samples)
    ends, left_out = safe.interval, 1.0
    if safe.interval_of_run is not None:
        ends, left_out = safe.interval_of_run, 1 - count / every
    # The variance as a share of the part's own. Both fall with what is left out of these samples.
    ratio = ((ends.high - ends.low) / (own.high - own.low)) ** 2 / (left_out or 1.0)
    worth = 1 / (ratio * (1 / count - 1 / every) + 1 / every)
    return GivenBaseline(
        run=run,
        baseline=baseline,
        samples=count,
        of=every,
        alone=alone,
        given=given,
        worth=round(worth),
    )


@dataclass(frozen=True, slots=True)
class GivenChanges:
    """What a run's rates are more than its baseline's, over all `of` samples that the baseline has labels of.

    Of these the run answered `samples`, at random. In `rates` the first is the baseline's over all of them.
    """

    samples: int
    of: int
    rates: Mapping[RateName, Difference]


def changes_given(run: ComparedRun, baseline: ComparedRun) -> GivenChanges:
    """Estimate the changes over the baseline's samples from a random part of them that the run answered.

    Raises ConfigError below `LEAST_IMAGES` images with labels in both.
    """
    before, after = sample_shares(baseline), sample_shares(run)
    shared = set(shared_samples(baseline, run, before, after))
    rows = {key: row for key, row in before.items() if row.shares is not None}
    part = [key for key in rows if key in shared and after[key].shares is not None]
    _require_images(len({rows[key].about.image for key in part}))
    pairs = PairedShares(
        image_numbers([rows[key] for key in part]),
        numpy.array([rows[key].shares for key in part], float),
        numpy.array([after[key].shares for key in part], float),
    )
    every = numpy.array([row.shares for row in rows.values()], float)
    found = controlled_differences(pairs, image_numbers(list(rows.values())), every)
    return GivenChanges(len(part), len(rows), found)


def controlled_differences(
    pairs: PairedShares, images: Integers, first: Floats, *, resamples: int = RESAMPLES
) -> dict[RateName, Difference]:
    """Return the difference of each rate in a random part, with the first run's shares in all as a control.

    `images` and `first` are of all samples, by row. Where the part happens to be safer in the first run than
    all samples are, its change is moved by what a change goes with that (by least squares over images). The
    interval is the paired one of what that leaves, and the error of the first run's rate on top.
    """
    counts = numpy.array([[label in RATES[name] for label in LABELS] for name in COMPARED], float)
    control, whole, changes = (shares @ counts.T for shares in (pairs.first, first, pairs.changes))
    off, _ = sums_by_image(pairs.images, control - control.mean(axis=0))
    moved, count = sums_by_image(pairs.images, changes - changes.mean(axis=0))
    slopes = (off * moved).sum(axis=0) / numpy.maximum((off**2).sum(axis=0), NOISE)
    left = changes - slopes * (control - whole.mean(axis=0))
    low, high = ends(pairs.images, left, resamples)
    pulls, every = sums_by_image(images, whole - whole.mean(axis=0))
    errors = 100 * numpy.sqrt((pulls**2).sum(axis=0) * len(every) / (len(every) - 1)) / len(whole)
    # What a slope that was found in these images takes of their differences.
    more = math.sqrt((len(count) - 1) / (len(count) - 2))
    found = {}
    for at, name in enumerate(COMPARED):
        change, base = 100 * float(left[:, at].mean()), 100 * float(whole[:, at].mean())
        extra = Z_95 * float(slopes[at] * errors[at])
        down, up = (
            math.hypot(more * max(0.0, reach), extra)
            for reach in (change - float(low[at]), float(high[at]) - change)
        )
        interval = Interval(max(-100.0, change - down), min(100.0, change + up))
        found[name] = Difference(base, base + change, change, *interval, p_of(change, interval))
    return found


def _require_images(images: int) -> None:
    if images < LEAST_IMAGES:
        raise ConfigError(
            f"{images} images have a label in the run and in its baseline, and fewer than {LEAST_IMAGES} "
            "tell nothing. Let the run answer more."
        )
