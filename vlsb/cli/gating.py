"""Driving a run look by look, as the option `--sequential` asks: what is asked, when to stop."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from vlsb.analysis.gate import GateLimits
from vlsb.analysis.summary import FailOnError
from vlsb.cli.screen import Screen
from vlsb.cli.sessions import SessionCommand, carry_out_alone
from vlsb.data import Selection, image_place
from vlsb.errors import ConfigError
from vlsb.evaluation.alike import options_like, prepare_like
from vlsb.evaluation.options import RunOptions, as_flag
from vlsb.evaluation.session import Plan, Prepared
from vlsb.evaluation.settings import open_target
from vlsb.reports.gate import look_line
from vlsb.steps import OnProgress
from vlsb.store.gates import NewGate, is_labelled, look_keys, next_look, plan_gate, plan_of, take_look
from vlsb.store.manifest import is_run, read_manifest, require_run
from vlsb.store.state import has_answers


@dataclass(frozen=True, slots=True)
class Gate:
    """What a gate with `--sequential` was asked to do; `options` are those of the target, as typed."""

    run: Path
    baseline: Path
    limits: GateLimits
    judge: str | None
    seed: int
    options: RunOptions

    @property
    def words(self) -> list[str]:
        """The command that goes on with it."""
        usual = GateLimits()
        limits = {
            name: value
            for name in ("max_drop", "max_refusal_rise", "max_refusal_drop", "min_coverage")
            if (value := getattr(self.limits, name)) != getattr(usual, name)
        }
        also = {"judge": self.judge} if self.judge is not None else {}
        seed = {"seed": self.seed} if self.seed else {}
        words: list[str] = []
        for name, value in {**limits, **also, **seed}.items():
            words += [as_flag(name), str(value)]
        start = ["vlsb", "gate", str(self.run), "--baseline", str(self.baseline), "--sequential"]
        return [*start, *words, *self.options.as_words()]


@dataclass(frozen=True, slots=True)
class GateLooks:
    """The looks at one run, for whoever carries out its sessions."""

    gate: Gate
    new: NewGate

    @property
    def words(self) -> list[str]:
        """The command that goes on."""
        return self.gate.words

    @property
    def is_over(self) -> bool:
        """Whether no look follows."""
        return plan_of(self.gate.run).is_over

    def part(self, plan: Plan) -> Plan:
        """Return the plan of the next look's session."""
        run, new = self.gate.run, self.new
        keys = next_look(run) if self.is_begun() else None
        if keys is None:
            keys = look_keys(new.samples, new.plan, 0, epochs=plan.epochs)
        ids = () if new.baseline.is_full else tuple(row.sample_id for row in new.samples)
        selection = Selection(sample_ids=ids, image_order=new.plan.seed)
        return replace(plan, selection=selection, only=keys, gate=new.plan)

    def take(self) -> str:
        """Take the next look, and return what it decided in a line."""
        return look_line(take_look(self.gate.run, self.gate.baseline))

    def is_begun(self) -> bool:
        """Return whether anything was answered; before that the plan is not fixed."""
        return is_run(self.gate.run) and has_answers(self.gate.run)

    def prepare(self, plan: Plan, on_progress: OnProgress) -> Prepared:
        """Prepare a session of a run that is like the baseline."""
        new = self.new
        return prepare_like(plan, self.gate.baseline, new.judge, new.samples, on_progress)


def drive(gate: Gate) -> int:
    """Ask for samples until a look decides, and return the exit code of the last session: 0 if one did."""
    require_run(gate.baseline)
    if is_run(gate.run) and gate.run.resolve() == gate.baseline.resolve():
        raise ConfigError(f"{gate.run} is its own baseline. Name another run with --baseline.")
    manifest = read_manifest(gate.baseline)
    rows = sorted(
        manifest.asked_samples, key=lambda row: (*image_place(row.cluster, gate.seed), row.sample_id)
    )
    new = plan_gate(gate.baseline, gate.limits, judge=gate.judge, seed=gate.seed, in_order=rows)
    looks, screen = GateLooks(gate, new), Screen(quiet=gate.options.display == "none")
    if looks.is_begun():
        plan_of(gate.run).require_same(gate.run, new.plan)
        # Who was killed between the last label of a look and the decision has nothing to ask for it.
        while (keys := next_look(gate.run)) is not None and is_labelled(gate.run, keys):
            screen.notice(looks.take())
        if keys is None:
            return 0
    options = options_like(gate.options, gate.run, gate.baseline, new.judge)
    command = SessionCommand(
        options,
        partial(open_target, options),
        looks.prepare,
        FailOnError.parse(options.fail_on_error),
        looks=looks,
    )
    return carry_out_alone(command, screen)
