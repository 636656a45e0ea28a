"""Rates over all samples of a baseline, from a run that answered a random part of them.

The baseline's labels are a control variate. The extra `stats`.
"""

from __future__ import annotations

from dataclasses import dataclass

from vlsb.analysis.compared_runs import ComparedRun, sample_shares, shared_samples
from vlsb.analysis.correction import LEAST_IMAGES, AuditedShares, CorrectedRates, corrected_rates_of_shares
from vlsb.analysis.rates import Rates, rates
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
    images = len({each.image for each in samples if each.human is not None})
    if images < LEAST_IMAGES:
        raise ConfigError(
            f"{images} images have a label in the run and in its baseline, and fewer than {LEAST_IMAGES} "
            "tell nothing. Let the run answer more."
        )
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
