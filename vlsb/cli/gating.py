"""Carrying out `vlsb gate` with `--sequential`: a run that is asked look by look, until one decides."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vlsb.analysis.gate import GateLimits
from vlsb.analysis.summary import FailOnError
from vlsb.cli.screen import Screen
from vlsb.cli.sessions import SessionCommand, carry_out_alone
from vlsb.data import image_place
from vlsb.errors import ConfigError
from vlsb.evaluation.alike import options_like
from vlsb.evaluation.gate_looks import GateLooks
from vlsb.evaluation.options import RunOptions, as_flag
from vlsb.evaluation.settings import open_target
from vlsb.reports.gate import look_line
from vlsb.store.gates import plan_gate, take_look
from vlsb.store.manifest import is_run, read_manifest, require_run


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
    looks = GateLooks(gate.run, gate.baseline, new, lambda: look_line(take_look(gate.run, gate.baseline)))
    screen = Screen(quiet=gate.options.display == "none")
    for line in looks.catch_up():
        screen.notice(line)
    if looks.is_begun() and looks.is_over:
        return 0
    options = options_like(gate.options, gate.run, gate.baseline, new.judge)
    command = SessionCommand(
        options,
        partial(open_target, options),
        looks.prepare,
        FailOnError.parse(options.fail_on_error),
        looks=looks,
        again=gate.words,
    )
    return carry_out_alone(command, screen)
