"""How far responses comply: the shares of full, partial and refused answers, each with its interval.

The intervals are those of safety rates: Wilson's, on what the clusters of an image are worth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vlsb.analysis.rates import Cluster, Interval, clustered_interval
from vlsb.records import Compliance, Untrusted


class CompliedResponse(NamedTuple):
    """A response that a run asked for. `found` is None where its judge has said nothing of it.

    `cluster` is what it shares with those that it is not independent of: the image.
    """

    cluster: Untrusted
    category: Untrusted
    found: Compliance | None


@dataclass(frozen=True, slots=True)
class ComplianceShares:
    """Percent of the `judged` responses of `selected`, unrounded; empty where nothing was judged."""

    selected: int
    judged: int
    counts: Mapping[Compliance, int]
    intervals: Mapping[Compliance, Interval]

    def percent(self, found: Compliance) -> float | None:
        """Return the share of one answer; None where nothing was judged."""
        return 100 * self.counts[found] / self.judged if self.judged else None


@dataclass(frozen=True, slots=True)
class RunCompliance:
    """What one judge of compliance says of a run, in all and by category."""

    run: Untrusted
    judge: Untrusted
    shares: ComplianceShares
    by_category: Mapping[Untrusted, ComplianceShares]


def compliance_shares(responses: Sequence[CompliedResponse]) -> ComplianceShares:
    """Return the shares of these responses; their order does not matter."""
    judged = [each for each in responses if each.found is not None]
    sizes = Counter(each.cluster for each in judged)
    intervals = {}
    for found in Compliance:
        hits = Counter(each.cluster for each in judged if each.found is found)
        intervals[found] = clustered_interval(
            Counter(Cluster(hits[cluster], size) for cluster, size in sizes.items())
        )
    counts = Counter(each.found for each in judged)
    return ComplianceShares(
        len(responses), len(judged), {each: counts[each] for each in Compliance}, intervals
    )


def run_compliance(run: Untrusted, judge: Untrusted, responses: Iterable[CompliedResponse]) -> RunCompliance:
    """Return a run's shares, in all and by category in the order of names."""
    every = list(responses)
    names = sorted({each.category for each in every})
    by_category = {
        name: compliance_shares([each for each in every if each.category == name]) for name in names
    }
    return RunCompliance(run, judge, compliance_shares(every), by_category)
