"""The looks at a run that a gate drives: which samples each needs, and when no look follows.

The extra `stats`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from vlsb.data import Selection
from vlsb.evaluation.alike import prepare_like
from vlsb.evaluation.session import Plan, Prepared
from vlsb.steps import OnProgress
from vlsb.store.gates import NewGate, is_labelled, look_keys, next_look, plan_of
from vlsb.store.manifest import is_run
from vlsb.store.state import has_answers


@dataclass(frozen=True, slots=True)
class GateLooks:
    """The looks at one run that `new` plans; `take` takes the next one and says in a line what it decided."""

    run: Path
    baseline: Path
    new: NewGate
    take: Callable[[], str]

    @property
    def is_over(self) -> bool:
        """Whether no look follows."""
        return plan_of(self.run).is_over

    def is_begun(self) -> bool:
        """Return whether anything was answered; before that the plan is not fixed."""
        return is_run(self.run) and has_answers(self.run)

    def catch_up(self) -> Iterator[str]:
        """Take the looks whose labels are all there, and say what each decided.

        Who was killed between the last label of a look and the decision has nothing to ask for it. Raises
        RunMismatchError where the run was begun by another plan.
        """
        if not self.is_begun():
            return
        plan_of(self.run).require_same(self.run, self.new.plan)
        while (keys := next_look(self.run)) is not None and is_labelled(self.run, keys):
            yield self.take()

    def part(self, plan: Plan) -> Plan:
        """Return the plan of the next look's session."""
        new = self.new
        keys = next_look(self.run) if self.is_begun() else None
        if keys is None:
            keys = look_keys(new.samples, new.plan, 0, epochs=plan.epochs)
        ids = () if new.baseline.is_full else tuple(row.sample_id for row in new.samples)
        selection = Selection(sample_ids=ids, image_order=new.plan.seed)
        return replace(plan, selection=selection, only=keys, gate=new.plan)

    def prepare(self, plan: Plan, on_progress: OnProgress) -> Prepared:
        """Prepare a session of a run that is like the baseline."""
        return prepare_like(plan, self.baseline, self.new.judge, self.new.samples, on_progress)
