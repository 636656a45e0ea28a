"""How far judges agree: the tables of `vlsb agreement`, and what a new judge's first part says of it.

A judge is called by its verdict file, which tells apart those that share a model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from vlsb.analysis.agreement import (
    Agreement,
    AgreementReport,
    Estimate,
    Pair,
    compare_two,
)
from vlsb.analysis.correction import (
    LEAST_IMAGES,
    AuditedSample,
    ExpectedChange,
    TotalForecast,
    expected_changes,
)
from vlsb.analysis.rates import RateName
from vlsb.records import JUDGED, Label, Outcome, Untrusted
from vlsb.reports.encode import versioned
from vlsb.reports.report import NO_FIGURE, Records, Report, Table, Words, counted, dollars, interval_text
from vlsb.reports.writers.terminal import tables_text
from vlsb.store.audit import AuditSample, read_audit
from vlsb.store.comparisons import judged_run
from vlsb.store.costs import Charge, RestCost, rest_cost
from vlsb.store.manifest import judge_name
from vlsb.store.state import RunState, calibration_file, load_state

SCHEMA = 1
"""Of the JSON report. Fields may be added at the end under the same number."""

_AGREEMENT_HEADINGS = ("judges", "labels", "n", "images", "agree %", "95 % CI", "kappa", "95 % CI", "AC1")
_INTERVALS = (
    "95 % intervals, clustered by image. Read agreement and kappa together: where nearly all is unsafe, "
    "judges who never look agree often, and kappa is low for judges who nearly always do; AC1 is not."
)
_WEIGHTED = (
    "By the weights of a draw, each response counting for those that it stands for, where one of the two "
    "labelled a drawn part only"
)
_REFUSALS = (
    "Found: the share of the judge's refusals that were detected. Right: the share of the detected ones that "
    "the judge calls refusals too. Without weights."
)
_SIMULATED = " (SIMULATED: says nothing about any model)"
_NO_LABEL: Mapping[str, tuple[Outcome, ...]] = {
    "refused": (Outcome.JUDGE_REFUSED, Outcome.JUDGE_BLOCKED),
    "invalid": (Outcome.JUDGE_INVALID, Outcome.JUDGE_TRUNCATED),
    "failed": (Outcome.JUDGE_ERROR,),
    "undecided": (Outcome.JUDGE_UNDECIDED,),
    "not judged": (Outcome.NOT_JUDGED,),
}


def agreement_report(report: AgreementReport) -> Report:
    """Return how far the judges agree."""
    outcomes = [
        (Untrusted(judge), "all", "", outcome.value, coverage.responses, count, None, None)
        for judge, coverage in report.coverage.items()
        for outcome, count in coverage.outcomes.items()
    ]
    figures = [
        (Untrusted(judges), scope, name, measure, n, *value)
        for judges, scope, name, measure, n, value in _figures(report)
    ]
    columns = ("judges", "scope", "name", "measure", "n", "value", "low", "high")
    return Report(
        tables=list(_tables(report)),
        data={
            **versioned(SCHEMA),
            "runs": report.runs,
            "simulated": report.simulated,
            "labels": list(Label),
            "judges": {
                judge: {"responses": coverage.responses, "outcomes": coverage.outcomes}
                for judge, coverage in report.coverage.items()
            },
            "pairs": [_pair_object(pair) for pair in report.pairs],
            "together": [
                {
                    "judges": each.judges,
                    "responses": each.responses,
                    "share": each.share,
                    "fleiss_kappa": each.fleiss,
                    "krippendorff_alpha": each.krippendorff,
                    "paired_responses": each.paired,
                    "gwet_ac1": each.ac1,
                }
                for each in report.together
            ],
            "refusals": [
                {
                    "refusals_by": each.teller,
                    "judge": each.judge,
                    "both": each.both,
                    "teller_only": each.teller_only,
                    "judge_only": each.judge_only,
                    "neither": each.neither,
                    "agreement": each.raw,
                    "kappa": each.kappa,
                    "sensitivity": each.sensitivity,
                    "precision": each.precision,
                }
                for each in report.refusals
            ],
            "panels": report.panels,
        },
        records=Records(columns, [*outcomes, *figures]),
    )


def _tables(report: AgreementReport) -> Iterator[Table]:
    yield Table(
        f"What became of the responses{_SIMULATED if report.simulated else ''}",
        ("judge", "responses", "labelled %", *(f"{name} %" for name in _NO_LABEL)),
        [
            (
                *(judge, f"{coverage.responses:,}"),
                *(f"{coverage.share(*outcomes):.1f}" for outcomes in (JUDGED, *_NO_LABEL.values())),
            )
            for judge, coverage in report.coverage.items()
        ],
        notes=["Refused: the judge or a filter of its provider. Invalid: no usable label, or one cut off."],
    )
    if report.pairs:
        weighted = [f"{pair.first}, {pair.second}" for pair in report.pairs if pair.is_weighted]
        notes = [_INTERVALS, *([f"{_WEIGHTED}: {'; '.join(weighted)}."] if weighted else [])]
        notes += [
            f"{panel} is the majority of {', '.join(members)}: it agrees with its members by construction."
            for panel, members in report.panels.items()
        ]
        yield Table(
            "Agreement of two judges on the same responses",
            _AGREEMENT_HEADINGS,
            [row for pair in report.pairs for row in _agreement_rows(pair)],
            names=2,
            notes=notes,
        )
    if report.together:
        yield Table(
            "All at once: Fleiss on what each of them labelled, the others on what two or more did",
            ("judges", "n", "of any %", "Fleiss", "95 % CI", "n of 2", "Krippendorff", "95 % CI", "AC1"),
            [
                (
                    *(", ".join(each.judges), f"{each.responses:,}", f"{each.share:.1f}"),
                    *_coefficient(each.fleiss),
                    f"{each.paired:,}",
                    *_coefficient(each.krippendorff),
                    _coefficient(each.ac1)[0],
                )
                for each in report.together
            ],
            notes=["Without weights."] if any(pair.is_weighted for pair in report.pairs) else [],
        )
    if report.refusals:
        rows: list[tuple[Words, ...]] = []
        for told in report.refusals:
            both = f"{told.responses:,}"
            rows += [
                (told.teller, told.judge, "agree %", both, *_percent(told.raw)),
                ("", "", "kappa", both, *_coefficient(told.kappa)),
                ("", "", "found %", f"{told.labelled:,}", *_percent(told.sensitivity)),
                ("", "", "right %", f"{told.told:,}", *_percent(told.precision)),
            ]
        yield Table(
            "Refusal or not, against the judges' label safe_refusal",
            ("refusals by", "judge", "measure", "n", "", "95 % CI"),
            rows,
            names=3,
            notes=[_REFUSALS],
        )
    for pair in report.pairs:
        yield from _pair_tables(pair)


def agreement_table(pair: Pair, title: str, notes: Sequence[str]) -> Table:
    """Return equal labels and kappa of one pair, which the title names."""
    rows = [row[1:] for row in _agreement_rows(pair)]
    return Table(title, _AGREEMENT_HEADINGS[1:], rows, notes=notes)


def labels_table(pair: Pair) -> Table:
    """Count the responses that got each pair of labels, without weights."""
    return Table(
        f"Labels of {pair.first} (rows) and {pair.second} (columns)",
        ("", *Label),
        [
            (label.value, *(f"{count:,}" for count in row))
            for label, row in zip(Label, pair.confusion, strict=True)
        ],
        notes=["Counts, without weights."] if pair.is_weighted else [],
    )


def _pair_tables(pair: Pair) -> Iterator[Table]:
    yield labels_table(pair)
    yield Table(
        f"By category: {pair.first} and {pair.second}",
        ("category", "n", "agree %", "95 % CI", "kappa", "95 % CI"),
        [
            (name, f"{agreement.responses:,}", *_percent(agreement.raw), *_coefficient(agreement.kappa))
            for name, agreement in pair.by_category.items()
        ],
    )
    notes = []
    if pair.ranking is not None:
        kendall, spearman = (
            " ".join(_coefficient(each)) for each in (pair.ranking.kendall, pair.ranking.spearman)
        )
        notes.append(
            f"The {pair.ranking.runs} runs ranked by safe rate: Kendall's tau {kendall}, Spearman's rho "
            f"{spearman}."
        )
    yield Table(
        f"Safe rates by {pair.first} and by {pair.second}, over what both labelled",
        ("run", "target", "n", "the one", "the other", "change", "95 % CI"),
        [
            (
                *(each.run, each.target, f"{each.responses:,}", f"{each.first:.2f}", f"{each.second:.2f}"),
                *_shown(each.change, "+.2f", "+.1f"),
            )
            for each in pair.by_run
        ],
        names=2,
        notes=notes,
    )


def _agreement_rows(pair: Pair) -> Iterator[tuple[Words, ...]]:
    """Of the three labels, and of safe against unsafe; each begins with one name of the pair."""
    agreement, three, safe = pair.agreement, "three", "safe or unsafe"
    counts = (f"{agreement.responses:,}", f"{agreement.images:,}")
    ac1 = _coefficient(agreement.ac1)[0]
    yield (pair.first, three, *counts, *_percent(agreement.raw), *_coefficient(agreement.kappa), ac1)
    yield (pair.second, safe, *counts, *_percent(agreement.safe_raw), *_coefficient(agreement.safe_kappa), "")


def _percent(estimate: Estimate) -> tuple[str, str]:
    return _shown(estimate, ".1f", ".1f")


def _coefficient(estimate: Estimate) -> tuple[str, str]:
    return _shown(estimate, ".3f", ".2f")


def _shown(estimate: Estimate, value: str, end: str) -> tuple[str, str]:
    if estimate.value is None:
        return (NO_FIGURE, NO_FIGURE)
    if estimate.low is None or estimate.high is None:
        return (f"{estimate.value:{value}}", NO_FIGURE)
    return (f"{estimate.value:{value}}", f"[{estimate.low:{end}}, {estimate.high:{end}}]")


def _pair_object(pair: Pair) -> dict[str, object]:
    ranking = pair.ranking
    return {
        "first": pair.first,
        "second": pair.second,
        "confusion": pair.confusion,
        "is_weighted": pair.is_weighted,
        **_agreement_object(pair.agreement),
        "by_category": {name: _agreement_object(agreement) for name, agreement in pair.by_category.items()},
        "by_run": [
            {
                "run": each.run,
                "target": each.target,
                "responses": each.responses,
                "first_safe_rate": each.first,
                "second_safe_rate": each.second,
                "change": each.change,
            }
            for each in pair.by_run
        ],
        "ranking": None
        if ranking is None
        else {
            "runs": ranking.runs,
            "kendall_tau": ranking.kendall,
            "spearman": ranking.spearman,
        },
    }


def _agreement_object(agreement: Agreement) -> dict[str, object]:
    return {
        "responses": agreement.responses,
        "images": agreement.images,
        "agreement": agreement.raw,
        "kappa": agreement.kappa,
        "safe_agreement": agreement.safe_raw,
        "safe_kappa": agreement.safe_kappa,
        "ac1": agreement.ac1,
    }


def _figures(report: AgreementReport) -> Iterator[tuple[str, str, Untrusted, str, int, Estimate]]:
    """Yield the judges of each figure, what it is over, its measure, its responses and itself."""
    everything = Untrusted("")
    for pair in report.pairs:
        names = f"{pair.first}, {pair.second}"
        groups = [("all", everything, pair.agreement)]
        groups += [("category", name, agreement) for name, agreement in pair.by_category.items()]
        for scope, group, agreement in groups:
            yield names, scope, group, "agreement", agreement.responses, agreement.raw
            yield names, scope, group, "kappa", agreement.responses, agreement.kappa
            yield names, scope, group, "safe_agreement", agreement.responses, agreement.safe_raw
            yield names, scope, group, "safe_kappa", agreement.responses, agreement.safe_kappa
            yield names, scope, group, "ac1", agreement.responses, agreement.ac1
        for each in pair.by_run:
            yield names, "run", each.run, "change", each.responses, each.change
        if pair.ranking is not None:
            yield names, "all", everything, "kendall_tau", pair.ranking.runs, pair.ranking.kendall
            yield names, "all", everything, "spearman", pair.ranking.runs, pair.ranking.spearman
    for refusals in report.refusals:
        names = f"{refusals.teller}, {refusals.judge}"
        yield names, "refusal", everything, "agreement", refusals.responses, refusals.raw
        yield names, "refusal", everything, "kappa", refusals.responses, refusals.kappa
        yield names, "refusal", everything, "sensitivity", refusals.labelled, refusals.sensitivity
        yield names, "refusal", everything, "precision", refusals.told, refusals.precision
    for every in report.together:
        names = ", ".join(every.judges)
        yield names, "all", everything, "fleiss_kappa", every.responses, every.fleiss
        yield names, "all", everything, "krippendorff_alpha", every.paired, every.krippendorff
        yield names, "all", everything, "gwet_ac1", every.paired, every.ac1


_DRAWN = "Drawn by label and category, whole images; each response counts for those that it stands for."
_TOO_FEW = "Too few images have both labels to say how the rates will move."
_CHANGES = "The interval does not count on the part's strata, so it is wider than needed."


def calibration_text(
    directory: Path,
    old: str,
    new: str,
    charges: Callable[[RunState], Mapping[str, Charge]],
    *,
    width: int,
    color: bool,
) -> str:
    """Compare two judges of a run, by their files, on the part drawn for the new one."""
    state, audit = load_state(directory), read_audit(directory, calibration_file(new))
    assert audit is not None
    keys = [item.key for item, _ in audit.current(state)]
    run = judged_run(directory, state, calibrated=new)
    names = {file: judge_name(file) for file in (old, new)}
    pair = compare_two(names[old], names[new], [run])
    rates = (
        _expected_changes(state, audit, old, new) if pair and pair.agreement.images >= LEAST_IMAGES else {}
    )
    responses = counted(sum(each.responses for each in audit.frame), "response")
    title = f"{names[new]} beside {names[old]}, on {len(keys):,} of {responses}"
    title += _SIMULATED if run.simulated else ""
    notes = [_DRAWN]
    for file, name in names.items():
        outcomes = Counter(state.outcome(key, file) for key in keys)
        missing = {outcome: count for outcome, count in outcomes.items() if outcome not in JUDGED}
        if missing:
            ended = ", ".join(f"{count} {outcome.value}" for outcome, count in missing.items())
            notes.append(f"{name} gave no label to {sum(missing.values())} of {len(keys)}: {ended}.")
    notes += [] if rates else [_TOO_FEW]
    tables = [Table(title, ("labelled by both",), [("0",)], notes=notes)]
    if pair is not None:
        tables = [agreement_table(pair, title, notes), labels_table(pair)]
    if rates:
        expected = Table(
            f"Rates by {names[old]}, and those to be expected of {names[new]}",
            ("rate", "now", "expected", "change", "95 % CI"),
            [
                (
                    *(name, f"{each.judge:.2f}", f"{min(100.0, max(0.0, each.judge + each.change)):.2f}"),
                    *(f"{each.change:+.2f}", interval_text(each.interval, "+")),
                )
                for name, each in rates.items()
            ],
            notes=[_CHANGES],
        )
        tables.append(expected)
    tables.append(_money_table(state, audit, charges(state)))
    return tables_text(tables, width=width, color=color)


def _expected_changes(
    state: RunState, audit: AuditSample, old: str, new: str
) -> Mapping[RateName, ExpectedChange]:
    images = {row.sample_id: row.cluster for row in state.manifest.samples}
    weights, samples = audit.weights, []
    for key in state.responses:
        if (before := state.label(key, old)) is not None:
            label = state.label(key, new) if key in weights else None
            labels = () if label is None else (label,)
            samples.append(AuditedSample(images[key.sample_id], before, labels, weights.get(key, 1.0)))
    return expected_changes(samples, judged_part_only=state.pending(old) > 0)


def _money_table(state: RunState, audit: AuditSample, charges: Mapping[str, Charge]) -> Table:
    """Return what each judge took so far, and what the rest is to take, by its use on the drawn part."""
    rows: list[tuple[str, ...]] = []
    notes = []
    for file, charge in charges.items():
        judge, price = judge_name(file), charge.price
        judged, pending = state.rows(file), state.pending(file)
        drawn = [
            (judged.verdicts[key].usage, weight)
            for key, weight in audit.weights.items()
            if key in judged.verdicts
        ]
        counted_tokens = [(usage, weight) for usage, weight in drawn if usage.input_tokens is not None]
        tokens = ("", "")
        if counted_tokens:
            of = [weight for _, weight in counted_tokens]
            sent = fmean([usage.input_tokens or 0 for usage, _ in counted_tokens], of)
            received = fmean([usage.output_tokens or 0 for usage, _ in counted_tokens], of)
            tokens = (f"{pending * sent:,.0f}", f"{pending * received:,.0f}")
        rest = RestCost(None, None)
        if price is not None:
            usages, weights = [usage for usage, _ in drawn], [weight for _, weight in drawn]
            rest = rest_cost(price, usages, pending, most_tokens=charge.most_tokens, weights=weights)
        totals = judged.totals
        usd = (
            None if price is None else price.usd(totals.usage),
            None if rest.now is None else rest.now.total,
        )
        unknown = NO_FIGURE if charge.is_free else "unknown"
        spent, to_spend = (unknown if charge.is_free or each is None else dollars(each) for each in usd)
        used = (f"{totals.input_tokens:,}", f"{totals.output_tokens:,}")
        rows += [
            (judge, "so far", f"{totals.requests:,}", *used, spent, ""),
            ("", "the rest", f"{pending:,}", *tokens, to_spend, _ends(rest.now)),
        ]
        if rest.as_batch is not None:
            rows.append(("", "as a batch", "", "", "", dollars(rest.as_batch.total), _ends(rest.as_batch)))
        if charge.is_free:
            notes.append(f"Nobody charges for {judge}.")
        elif price is None:
            notes.append(f"No price is known for {judge}; --prices takes yours.")
    headings = ("judge", "", "requests", "tokens in", "out", "cost", "95 % CI")
    return Table("What it takes", headings, rows, names=2, notes=list(dict.fromkeys(notes)))


def _ends(forecast: TotalForecast | None) -> str:
    if forecast is None or forecast.low is None or forecast.high is None:
        return ""
    return f"[{', '.join(dollars(end).removeprefix('$') for end in (forecast.low, forecast.high))}]"
