"""`vlsb judge` with `--calibrate`: a new judge labels a drawn part first, is compared, and the user decides.

numpy, scipy and statsmodels: a second to import.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from statistics import fmean

from vlsb.analysis.agreement import compare_two
from vlsb.analysis.correction import LEAST_IMAGES, AuditedSample, ExpectedChange, expected_changes
from vlsb.analysis.panel import is_panel
from vlsb.analysis.rates import RateName
from vlsb.cli.screen import has_color
from vlsb.errors import ConfigError
from vlsb.evaluation.session import Plan, judge_files
from vlsb.judging.kinds import Answers
from vlsb.models.prices import may_charge
from vlsb.records import Usage
from vlsb.reports.agreement import CalibrationReport, JudgeMoney, calibration_text
from vlsb.store.audit import AuditSample, draw_calibration, read_audit
from vlsb.store.comparisons import judged_run
from vlsb.store.costs import RestCost, decided_tokens, rest_cost
from vlsb.store.manifest import Manifest, judge_name, read_manifest
from vlsb.store.state import RunState, calibration_file, load_state


@dataclass(frozen=True, slots=True)
class Calibration:
    """About `n` responses that a judge labels before the rest, to be held against the run's first judge.

    With two judges in the plan the first is the old one, and is asked where it has not labelled.
    """

    n: int

    def part_of(self, plan: Plan) -> Plan:
        """Draw the part, and return the plan for it alone.

        Raises ConfigError where there is nothing to compare.
        """
        manifest = read_manifest(plan.directory)
        old, new = _judges(plan, manifest)
        audit = draw_calibration(
            plan.directory, new, n=self.n, against=old, is_against_asked=len(plan.judges) > 1
        )
        return replace(plan, only=frozenset(item.key for item in audit.items))

    def text(self, plan: Plan) -> str:
        """Return what the part says, of a plan that `part_of` gave."""
        report = _report(plan, load_state(plan.directory))
        width = shutil.get_terminal_size((80, 24)).columns
        return calibration_text(report, width=width, color=has_color(sys.stdout))

    def left(self, plan: Plan) -> int:
        """Count the responses that are left to judge, over the plan's judges."""
        state = load_state(plan.directory)
        return sum(state.pending(file) for file in judge_files(plan, state.manifest).values())


def _judges(plan: Plan, manifest: Manifest) -> tuple[str, str]:
    """Return the files of the old judge and the new one."""
    if any(judge.kind.answers is not Answers.LABELS for judge in plan.judges) or len(plan.judges) > 2:
        raise ConfigError(
            "--calibrate takes one judge that gives the three labels, or the old one and the new."
        )
    files = list(judge_files(plan, manifest).values())
    if len(files) == 2:
        return files[0], files[1]
    state = load_state(plan.directory)
    others = [
        each.file
        for each in manifest.judges
        if each.file != files[0] and not each.is_human and not is_panel(each.settings)
    ]
    labelled = [file for file in others if state.rows(file).verdicts]
    if not labelled:
        raise ConfigError(
            f"--calibrate: no other judge has labelled {plan.directory}. Name the old judge before the new "
            "one: --judge OLD --judge NEW."
        )
    return labelled[0], files[0]


def _report(plan: Plan, state: RunState) -> CalibrationReport:
    old, new = _judges(plan, state.manifest)
    audit = read_audit(plan.directory, calibration_file(new))
    assert audit is not None
    keys = [item.key for item, _ in audit.current(state)]
    run = judged_run(plan.directory, state, calibrated=new)
    pair = compare_two(judge_name(old), judge_name(new), [run])
    enough = pair is not None and pair.agreement.images >= LEAST_IMAGES
    return CalibrationReport(
        old=judge_name(old),
        new=judge_name(new),
        simulated=run.simulated,
        drawn=len(keys),
        of=sum(each.responses for each in audit.frame),
        outcomes={
            judge_name(file): dict(Counter(state.outcome(key, file) for key in keys)) for file in (old, new)
        },
        pair=pair,
        rates=_rates(state, audit, old, new) if enough else {},
        money=list(_money(plan, state, audit)),
    )


def _rates(state: RunState, audit: AuditSample, old: str, new: str) -> Mapping[RateName, ExpectedChange]:
    images = {row.sample_id: row.image_path for row in state.manifest.samples}
    weights, samples = audit.weights, []
    for key in state.responses:
        if (before := state.label(key, old)) is not None:
            label = state.label(key, new) if key in weights else None
            found = () if label is None else (label,)
            samples.append(AuditedSample(images[key.sample_id], before, found, weights.get(key, 1.0)))
    return expected_changes(samples, judged_part_only=state.pending(old) > 0)


def _money(plan: Plan, state: RunState, audit: AuditSample) -> Iterator[JudgeMoney]:
    prices, files = plan.model_prices(datetime.now(UTC).date()), judge_files(plan, state.manifest)
    for name, file in files.items():
        rows, left = state.rows(file), state.pending(file)
        drawn = [
            (rows.verdicts[key].usage, each) for key, each in audit.weights.items() if key in rows.verdicts
        ]
        usages, weights = [usage for usage, _ in drawn], [weight for _, weight in drawn]
        price, endpoint = prices.get(name), plan.models[name].endpoint
        most_tokens = decided_tokens(state, file) or plan.models[name].sampling.max_tokens
        rest = (
            RestCost(None, None)
            if price is None
            else rest_cost(price, usages, left, most_tokens=most_tokens, weights=weights)
        )
        yield JudgeMoney(
            judge=judge_name(file),
            requests=rows.totals.requests,
            tokens=(rows.totals.input_tokens, rows.totals.output_tokens),
            usd=None if price is None else price.usd(rows.totals.usage),
            left=left,
            left_tokens=_tokens(usages, weights, left),
            rest=rest.now,
            as_batch=rest.as_batch,
            is_free=price is None and not may_charge(endpoint),
        )


def _tokens(usages: Sequence[Usage], weights: Sequence[float], left: int) -> tuple[float, float] | None:
    """Estimate how many tokens the rest takes, in and out; None where nobody counted them."""
    counted = [
        (usage.input_tokens, usage.output_tokens or 0, weight)
        for usage, weight in zip(usages, weights, strict=True)
        if usage.input_tokens is not None
    ]
    if not counted:
        return None
    sent, came, of = zip(*counted, strict=True)
    return left * fmean(sent, of), left * fmean(came, of)
