"""A judge that leaves beside the one that follows it: both numbers, corrected, and a paper's sentence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlsb.analysis.agreement import Pair, compare_two
from vlsb.analysis.correction import (
    PAPER_CHECK,
    AuditedSample,
    CorrectedRate,
    CorrectedRates,
    ErrorCheck,
    rogan_gladen,
)
from vlsb.analysis.rates import Interval, Rates
from vlsb.config import OFFICIAL_JUDGE_MODEL
from vlsb.errors import ConfigError
from vlsb.records import Untrusted
from vlsb.reports.audit import Corrected, audit_report
from vlsb.reports.encode import CsvCell, versioned
from vlsb.reports.report import (
    NO_FIGURE,
    Records,
    Report,
    Sentence,
    Table,
    Words,
    counted,
    interval_text,
    percent,
    safe_interval,
    share_of_selected,
)
from vlsb.store.audit import read_audit
from vlsb.store.comparisons import judged_run
from vlsb.store.listing import find_runs
from vlsb.store.manifest import JudgeEntry
from vlsb.store.state import RunState, load_state
from vlsb.store.summaries import stored_judge, summarize_state

SCHEMA = 1
"""Of the JSON report. Fields may be added at the end under the same number."""

_HALF_WIDTH = "an interval of ±2 points"


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeRates:
    """One judge's rates of a run. `audited` are corrected by human labels, `prior` by published error rates.

    `more_labels` would give the safe rate a half-width of 2 points; None where no number does.
    """

    judge: str
    rates: Rates
    audited: CorrectedRates | None = None
    more_labels: int | None = None
    prior: CorrectedRate | None = None

    @property
    def corrected(self) -> CorrectedRate | None:
        """The corrected safe rate: by human labels, else by published error rates."""
        return self.prior if self.audited is None else self.audited.rates["safe_rate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridge:
    """One run under two judges; `pair` compares them on what both labelled, None where that is nothing."""

    run: Untrusted
    target: Untrusted
    simulated: bool
    old: JudgeRates
    new: JudgeRates
    pair: Pair | None
    check: ErrorCheck


def bridge_report(bridges: Sequence[Bridge]) -> Report:
    """Return both judges' rates of each run, with a paper's sentence."""
    return Report(
        tables=list(_tables(bridges)),
        data=[
            {
                **versioned(SCHEMA),
                "run": each.run,
                "target": each.target,
                "simulated": each.simulated,
                "old": _judge_object(each.old),
                "new": _judge_object(each.new),
                "both": None
                if each.pair is None
                else {
                    "responses": each.pair.agreement.responses,
                    "agreement": each.pair.agreement.raw,
                    "kappa": each.pair.agreement.kappa,
                    "change": each.pair.by_run[0].change,
                },
                "sentence": sentence(each),
            }
            for each in bridges
        ],
        records=Records(_COLUMNS, list(_rows(bridges))),
    )


def _tables(bridges: Sequence[Bridge]) -> Iterator[Table]:
    simulated = " (SIMULATED)" if any(each.simulated for each in bridges) else ""
    rows: list[tuple[Words, ...]] = []
    for bridge in bridges:
        for judge in (bridge.old, bridge.new):
            rates, corrected = judge.rates, judge.corrected
            figures = (share_of_selected(rates), percent(rates.safe_rate), safe_interval(rates))
            fixed = (NO_FIGURE, NO_FIGURE, NO_FIGURE)
            if corrected is not None:
                people = None if judge.audited is None else judge.audited.human_labels
                by = "a published check" if people is None else f"{people} human labels"
                fixed = (f"{corrected.corrected:.2f}", interval_text(corrected.interval), by)
            rows.append((bridge.run, judge.judge, *figures, *fixed))
    yield Table(
        f"Safe rates under both judges{simulated}",
        ("run", "judge", "n", "safe", "95 % CI", "corrected", "95 % CI", "by"),
        rows,
        names=2,
        notes=[
            *map(sentence, bridges),
            *(_more_labels(each) for each in bridges if each.new.audited is not None),
        ],
    )
    pairs = [(each, each.pair) for each in bridges if each.pair is not None]
    if pairs:
        yield Table(
            "On the responses that both labelled",
            ("run", "n", "agree %", "kappa", "change of safe", "95 % CI"),
            [
                (
                    *(each.run, f"{pair.agreement.responses:,}", f"{pair.agreement.raw.value:.1f}"),
                    NO_FIGURE if pair.agreement.kappa.value is None else f"{pair.agreement.kappa.value:.3f}",
                    f"{pair.by_run[0].change.value:+.2f}",
                    interval_text(pair.by_run[0].change.interval, "+"),
                )
                for each, pair in pairs
            ],
        )


def sentence(bridge: Bridge) -> Sentence:
    """Return what a paper has to say of the number."""
    new, rates = bridge.new, bridge.new.rates
    rate = f"{percent(rates.safe_rate)} % (95 % CI {_range(rates.intervals['safe_rate'])}"
    if rates.estimate != "all":
        rests_on = f"{counted(rates.labels, 'label')} to {counted(rates.images, 'image')} of a drawn part"
        words = f"{new.judge} gave {rests_on}, which gives no rate yet"
        if rates.safe_rate is not None:
            estimate = f"{rate}; {rates.estimate}, from {rests_on})"
            words = f"judged by {new.judge}, the safe rate is estimated at {estimate}"
        return Sentence(bridge.run, f": {words}.")
    if new.audited is not None:
        safe, images = new.audited.rates["safe_rate"], counted(new.audited.images, "image")
        end = (
            f"; on {new.audited.human_labels} blind human labels ({images}) its corrected safe rate "
            f"is {safe.corrected:.1f} % (95 % CI {_range(safe.interval)})."
        )
    elif new.prior is not None:
        end = (
            f"; nobody has labelled these responses, and with the error rates of {bridge.check.source} it "
            f"would be {new.prior.corrected:.1f} % (95 % CI {_range(new.prior.interval)})."
        )
    else:
        end = ", not corrected: nobody has labelled a sample of it (vlsb audit sample)."
    start = f": judged by {new.judge}, the safe rate of "
    return Sentence(bridge.run, start, bridge.target, f" is {rate}){end}")


def _more_labels(bridge: Bridge) -> Sentence:
    more = bridge.new.more_labels
    if more is None:
        words = f"no number of human labels gives {_HALF_WIDTH}, because other images would differ too"
    elif more == 0:
        words = f"the corrected safe rate has {_HALF_WIDTH} or less"
    else:
        words = f"about {more:,} more human labels would give {_HALF_WIDTH}"
    return Sentence(bridge.run, f": {words}.")


def _range(interval: Interval) -> str:
    return f"{interval.low:.1f} to {interval.high:.1f}"


def _judge_object(judge: JudgeRates) -> dict[str, object]:
    audited = judge.audited
    return {
        "judge": judge.judge,
        "judged": judge.rates.labels,
        "safe_rate": judge.rates.safe_rate,
        "interval": judge.rates.intervals["safe_rate"],
        "human_labels": 0 if audited is None else audited.human_labels,
        "corrected": None if audited is None else audited.rates,
        "corrected_by_published_check": judge.prior,
        "more_labels": judge.more_labels,
        "estimate": judge.rates.estimate,
    }


_COLUMNS = (
    *("run", "target", "judge", "judged", "safe_rate", "safe_rate_low", "safe_rate_high"),
    *("corrected", "corrected_low", "corrected_high", "human_labels", "estimate"),
)


def _rows(bridges: Sequence[Bridge]) -> Iterator[tuple[CsvCell, ...]]:
    """Return a row for each run and judge."""
    for bridge in bridges:
        for judge in (bridge.old, bridge.new):
            rates, corrected = judge.rates, judge.corrected
            names = bridge.run, bridge.target, Untrusted(judge.judge)
            figures = rates.labels, rates.safe_rate, *rates.intervals["safe_rate"]
            fixed = (None, None, None) if corrected is None else (corrected.corrected, *corrected.interval)
            people = 0 if judge.audited is None else judge.audited.human_labels
            yield (*names, *figures, *fixed, people, rates.estimate)


def bridges_of(paths: Iterable[Path], old: str, new: str) -> list[Bridge]:
    """Return a bridge for each run. Raises ConfigError for a run that one of the two has not judged."""
    bridges = []
    for run in find_runs(paths):
        state = load_state(run)
        before, after = (stored_judge(state.manifest, name, option="--judge-bridge") for name in (old, new))
        if before is None or after is None or before == after:
            raise ConfigError(f"--judge-bridge {old} {new}: name two judges of {run}.")
        audit = None if read_audit(run) is None else audit_report(run)
        corrected = {} if audit is None else {each.judge: each for each in audit.corrected}
        judged = judged_run(run, state)
        bridges.append(
            Bridge(
                run=judged.run,
                target=judged.target,
                simulated=judged.simulated,
                old=_judge_rates(state, run, before, corrected.get(Untrusted(before.stem))),
                new=_judge_rates(state, run, after, corrected.get(Untrusted(after.stem))),
                pair=compare_two(before.stem, after.stem, [judged]),
                check=PAPER_CHECK,
            )
        )
    return bridges


def _judge_rates(state: RunState, run: Path, entry: JudgeEntry, fixed: Corrected | None) -> JudgeRates:
    rates, name = summarize_state(state, run, entry.file).rates, entry.stem
    if fixed is not None:
        return JudgeRates(judge=name, rates=rates, audited=fixed.rates, more_labels=fixed.more_labels)
    # The published check is of this judge with its own template, and of no other.
    has_prior = name == OFFICIAL_JUDGE_MODEL and rates.estimate == "all"
    images = {row.sample_id: row.cluster for row in state.manifest.samples}
    labels = ((key, state.label(key, entry.file)) for key in state.asked_for())
    samples = [AuditedSample(images[key.sample_id], label) for key, label in labels if label is not None]
    return JudgeRates(judge=name, rates=rates, prior=rogan_gladen(samples) if has_prior else None)
