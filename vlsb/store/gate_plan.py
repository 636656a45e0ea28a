"""The plan of a run that its gate drives, as run.json holds it: when it looks, and what each look decided.

It is written before the first request and does not change; only looks that were taken are added.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from vlsb.analysis.gate import Check, GateDecision, GateLimits, Reach
from vlsb.analysis.rates import Interval
from vlsb.errors import RunMismatchError
from vlsb.records import Untrusted
from vlsb.store.codec import to_json

SPENDING = "O'Brien-Fleming (Lan and DeMets)"
_Word = Literal["pass", "fail", "undecided"]
_WORDS: dict[GateDecision, _Word] = {
    GateDecision.PASS: "pass",
    GateDecision.FAIL: "fail",
    GateDecision.UNDECIDED: "undecided",
}
_DECISIONS = {word: decision for decision, word in _WORDS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedLook:
    """A look at the first so many samples of the run, and how far its intervals reach, in standard errors."""

    samples: int
    images: int
    passes: float
    fails: float

    @property
    def reach(self) -> Reach:
        """The same for the gate."""
        return Reach(self.passes, self.fails)


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenCheck:
    """A check as it was found at a look."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    limit: float
    decision: _Word

    @classmethod
    def of(cls, check: Check) -> TakenCheck:
        """Take down what was found."""
        low, high = check.interval or (None, None)
        return cls(
            name=check.name,
            value=check.value,
            low=low,
            high=high,
            limit=check.limit,
            decision=_WORDS[check.decision],
        )

    @property
    def check(self) -> Check:
        """What was found."""
        interval = None if self.low is None or self.high is None else Interval(self.low, self.high)
        return Check(self.name, self.value, interval, self.limit, _DECISIONS[self.decision])


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenLook:
    """What a look found and decided, for good."""

    decision: _Word
    checks: Sequence[TakenCheck]

    @property
    def gate_decision(self) -> GateDecision:
        """The decision as the gate has it."""
        return _DECISIONS[self.decision]

    @classmethod
    def of(cls, decision: GateDecision, checks: Iterable[Check]) -> TakenLook:
        """Take down what was found."""
        return cls(decision=_WORDS[decision], checks=[TakenCheck.of(each) for each in checks])


@dataclass(frozen=True, slots=True, kw_only=True)
class GatePlan:
    """When a run is looked at, and by what it is decided about.

    The samples of a look are the first of the run's, whose images come in random order by the `seed`.
    `baseline` is the name of the run that it is compared with, and `labels_sha256` a checksum of what the
    `judge` with this verdict file said of that. `taken` are the looks so far; with `goes_on` the rest was
    asked for after the gate had stopped, or before it was clear.
    """

    baseline: Untrusted
    judge: str
    labels_sha256: str
    limits: GateLimits
    seed: int
    spending: str
    looks: Sequence[PlannedLook]
    taken: Sequence[TakenLook] = ()
    goes_on: bool = False

    @property
    def planned(self) -> int:
        """How many samples it may take."""
        return self.looks[-1].samples

    @property
    def decision(self) -> _Word:
        """What the last look decided."""
        return self.taken[-1].decision if self.taken else "undecided"

    @property
    def is_over(self) -> bool:
        """Whether no look follows."""
        return self.decision != "undecided" or len(self.taken) == len(self.looks)

    @property
    def stopped_at(self) -> int | None:
        """How many samples were asked for where it stopped before the last look, if the rest was not."""
        is_early = self.is_over and len(self.taken) < len(self.looks) and not self.goes_on
        return self.looks[len(self.taken) - 1].samples if is_early else None

    def with_look(self, look: TakenLook) -> GatePlan:
        """Return it with one more look."""
        return replace(self, taken=[*self.taken, look])

    def require_same(self, run: object, asked: GatePlan) -> None:
        """Raise RunMismatchError where another plan is asked for than a run was begun with."""
        old, new = (each.describe() for each in (self, asked))
        differing = [f"{name}: {old[name]} -> {new[name]}" for name in old if old[name] != new[name]]
        if differing:
            raise RunMismatchError(
                f"{run} was begun with another plan of looks, and a plan does not change. Use the old one, "
                "or another RUN",
                detail=Untrusted("; ".join(differing)),
            )

    def describe(self) -> dict[str, Any]:
        """Return what may not change, as JSON; the baseline may get another name."""
        fields = to_json(self)
        limits = fields.pop("limits")
        for name in ("baseline", "taken", "goes_on"):
            del fields[name]
        fields["looks"] = [each.samples for each in self.looks]
        return {**fields, **limits}
