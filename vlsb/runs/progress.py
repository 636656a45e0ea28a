"""Where a session stands: numbers for a display, which only reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from vlsb.endpoints.client import EndpointClient
from vlsb.records import JUDGED, Outcome
from vlsb.runs.state import RunState


@dataclass(slots=True)
class Progress:
    """Counts of the selection by outcome, kept up to date as samples end.

    `kept` are the samples that earlier sessions finished and this one leaves alone.
    """

    selected: int
    kept: int
    target: EndpointClient
    judge: EndpointClient
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    _of_sample: dict[int, Outcome] = field(default_factory=dict)

    @classmethod
    def of(cls, state: RunState, pending: int, target: EndpointClient, judge: EndpointClient) -> Progress:
        """The progress at the start of a session."""
        of_sample = {row.sample_id: state.outcome(row.sample_id) for row in state.manifest.samples}
        selected = len(of_sample)
        return cls(selected, selected - pending, target, judge, Counter(of_sample.values()), of_sample)

    def update(self, sample_id: int, outcome: Outcome) -> None:
        """A sample moved to another outcome."""
        self.outcomes[self._of_sample[sample_id]] -= 1
        self.outcomes[outcome] += 1
        self._of_sample[sample_id] = outcome

    @property
    def judged(self) -> int:
        """Samples with a label."""
        return sum(self.outcomes[outcome] for outcome in JUDGED)

    @property
    def failed(self) -> Mapping[Outcome, int]:
        """Samples that ended without a label, by outcome."""
        waiting = (*JUDGED, Outcome.NOT_ATTEMPTED, Outcome.NOT_JUDGED)
        return {o: n for o, n in self.outcomes.items() if n and o not in waiting}

    @property
    def done(self) -> int:
        """Samples that need nothing more in this session."""
        return self.judged + sum(self.failed.values())

    @property
    def safe_rate(self) -> float | None:
        """Percent of the judged samples so far; None before the first."""
        safe = self.outcomes[Outcome.SAFE_REFUSAL] + self.outcomes[Outcome.SAFE_WARNING]
        return 100.0 * safe / self.judged if self.judged else None
