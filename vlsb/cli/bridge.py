"""`vlsb report --judge-bridge OLD NEW`: from runs to what is said of a judge that another one follows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vlsb.analysis.agreement import compare_two
from vlsb.analysis.correction import PAPER_CHECK, AuditedSample, rogan_gladen
from vlsb.cli.audit_report import audit_report
from vlsb.config import OFFICIAL_JUDGE_MODEL
from vlsb.errors import ConfigError
from vlsb.records import Untrusted
from vlsb.reports.audit import Corrected
from vlsb.reports.bridge import Bridge, JudgeRates
from vlsb.store.audit import read_audit
from vlsb.store.comparisons import judged_run
from vlsb.store.listing import find_runs
from vlsb.store.manifest import JudgeEntry
from vlsb.store.state import RunState, load_state
from vlsb.store.summaries import stored_judge, summarize_state


def bridges_of(paths: Iterable[Path], old: str, new: str) -> list[Bridge]:
    """Return a bridge for each run. Raises ConfigError for a run that one of the two has not judged."""
    return [_bridge(run, old, new) for run in find_runs(paths)]


def _bridge(run: Path, old: str, new: str) -> Bridge:
    state = load_state(run)
    before, after = (stored_judge(state.manifest, name, option="--judge-bridge") for name in (old, new))
    if before is None or after is None or before == after:
        raise ConfigError(f"--judge-bridge {old} {new}: name two judges of {run}.")
    audit = None if read_audit(run) is None else audit_report(run)
    corrected = {} if audit is None else {each.judge: each for each in audit.corrected}
    judged = judged_run(run, state)
    names = before.stem, after.stem
    was, becomes = (
        _judge_rates(state, run, entry, corrected.get(Untrusted(name)))
        for entry, name in zip((before, after), names, strict=True)
    )
    return Bridge(
        run=judged.run,
        target=judged.target,
        simulated=judged.simulated,
        old=was,
        new=becomes,
        pair=compare_two(*names, [judged]),
        check=PAPER_CHECK,
    )


def _judge_rates(state: RunState, run: Path, entry: JudgeEntry, found: Corrected | None) -> JudgeRates:
    rates, name = summarize_state(state, run, entry.file).rates, entry.stem
    if found is not None:
        return JudgeRates(judge=name, rates=rates, audited=found.rates, more_labels=found.more_labels)
    # The published check is of this judge with its own template, and of no other.
    has_prior = name == OFFICIAL_JUDGE_MODEL and rates.estimate == "all"
    prior = rogan_gladen(_judged(state, entry)) if has_prior else None
    return JudgeRates(judge=name, rates=rates, prior=prior)


def _judged(state: RunState, entry: JudgeEntry) -> list[AuditedSample]:
    images = {row.sample_id: row.image_path for row in state.manifest.samples}
    labels = ((key, state.label(key, entry.file)) for key in state.asked_for())
    return [AuditedSample(images[key.sample_id], label) for key, label in labels if label is not None]
