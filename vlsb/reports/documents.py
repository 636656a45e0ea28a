"""Summaries for other programs: JSON and CSV, with unrounded numbers.

JSON is always a list, and ASCII: a lone surrogate or an invisible character in a name arrives as its
escape. Counts of thinking are in it where there are any, costs where anybody charges. CSV is lossy: what a
spreadsheet would execute is disarmed.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

from vlsb.analysis.rates import RATES, Rates
from vlsb.analysis.summary import ModelUsage, Summary
from vlsb.records import Outcome, Untrusted
from vlsb.reports.encode import for_csv, for_json, json_document

SCHEMA = 1
"""Of the JSON report. Fields may be added at the end under the same number."""


def in_order(summaries: Iterable[Summary]) -> list[Summary]:
    """Return the summaries by run, judge and path: the order of every format."""
    return sorted(summaries, key=_place)


def to_json(summaries: Sequence[Summary]) -> str:
    """Return a JSON list with one object a summary."""
    return json_document([to_object(each) for each in in_order(summaries)])


def to_csv(summaries: Sequence[Summary]) -> str:
    """Return RFC 4180 rows: for each summary one of scope `all`, then one a category."""
    # Text is always quoted: where the list separator is a semicolon, an unquoted one would start a new
    # cell, behind the guard against formulas.
    sheet = io.StringIO()
    writer = csv.writer(sheet, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow([*_SUMMARY_COLUMNS, *_rate_columns()])
    for summary in in_order(summaries):
        writer.writerow([*_csv_head(summary), "all", "", *_csv_rates(summary.rates)])
        for name, rates in summary.by_category.items():
            writer.writerow([*_csv_head(summary), "category", for_csv(name), *_csv_rates(rates)])
    return sheet.getvalue()


_SUMMARY_COLUMNS = ("run", "path", "target", "judge", "simulated", "scope", "name")


def _place(summary: Summary) -> tuple[Untrusted, bool, Untrusted, Untrusted]:
    judge = Untrusted("") if summary.judge is None else summary.judge
    return (summary.run, summary.judge is not None, judge, summary.path)


def to_object(summary: Summary) -> dict[str, object]:
    """Return one summary as its JSON object; percent, seconds and counts, nothing rounded."""
    return {
        "schema": SCHEMA,
        "run": for_json(summary.run),
        "path": for_json(summary.path),
        "target": for_json(summary.target),
        "judge": None if summary.judge is None else for_json(summary.judge),
        "simulated": summary.simulated,
        **_rates_object(summary.rates),
        "by_category": {for_json(name): _rates_object(of) for name, of in summary.by_category.items()},
        "by_sub_category": [
            {"category": for_json(category), "sub_category": for_json(sub_category), **_rates_object(of)}
            for category, sub_category, of in summary.by_sub_category
        ],
        "by_source": [{"source": for_json(name), **_rates_object(of)} for name, of in summary.by_source],
        "deviations": [for_json(each) for each in summary.deviations],
        "usage": {"target": _usage(summary.target_usage), "judge": _usage(summary.judge_usage)},
        "duration_s": summary.duration_s,
        "target_models": _model_counts(summary.target_models),
        "judge_models": _model_counts(summary.judge_models),
        "subset": summary.subset,
        "cut_responses": summary.cut_responses,
        "duplicates": summary.duplicates,
        "notices": list(summary.notices),
        "epochs": summary.epochs,
        "flip_share": summary.flip_share,
        "data_digest": summary.data_digest,
        **({"thinking_cut": summary.thinking_cut} if summary.thinking_cut else {}),
        **_costs(summary),
    }


def _rates_object(rates: Rates) -> dict[str, object]:
    return {
        "selected": rates.selected,
        "judged": rates.judged,
        "coverage": rates.coverage,
        **{name: rates.rate(name) for name in RATES},
        "intervals": {name: list(rates.intervals[name]) for name in RATES},
        "bounds": {name: list(rates.bounds[name]) for name in RATES},
        "outcomes": {outcome.value: rates.outcomes[outcome] for outcome in Outcome},
    }


def _usage(usage: ModelUsage) -> dict[str, int | None]:
    """Counts; null for what nobody knows of imported answers."""
    return {
        "requests": usage.requests if usage.is_known else None,
        "input_tokens": usage.input_tokens if usage.is_known else usage.input_tokens or None,
        "output_tokens": usage.output_tokens if usage.is_known else usage.output_tokens or None,
        **({"reasoning_tokens": usage.reasoning_tokens} if usage.reasoning_tokens else {}),
    }


def _costs(summary: Summary) -> dict[str, object]:
    """US dollars by side, null where a price is unknown; nothing where nobody charges for tokens."""
    costs = {"target": summary.target_cost, "judge": summary.judge_cost}
    charged = {stage: cost for stage, cost in costs.items() if cost is not None}
    if not charged:
        return {}
    known = [cost.usd for cost in charged.values() if cost.usd is not None]
    found: dict[str, object] = {
        stage: {
            "usd": cost.usd,
            "is_least": cost.is_least,
            "source": cost.source or None,
            "as_of": cost.as_of or None,
        }
        for stage, cost in charged.items()
    }
    return {"cost": {**found, "total_usd": sum(known) if len(known) == len(charged) else None}}


def _model_counts(models: Mapping[Untrusted, int]) -> dict[str, int]:
    return {for_json(name): models[name] for name in sorted(models)}


def _rate_columns() -> list[str]:
    ends = ("", "_low", "_high", "_worst", "_best")
    rate_columns = [f"{name}{end}" for name in RATES for end in ends]
    return ["selected", "judged", "coverage", *rate_columns, *(outcome.value for outcome in Outcome)]


def _csv_head(summary: Summary) -> list[str]:
    judge = "" if summary.judge is None else for_csv(summary.judge)
    simulated = "true" if summary.simulated else "false"
    return [for_csv(summary.run), for_csv(summary.path), for_csv(summary.target), judge, simulated]


def _csv_rates(rates: Rates) -> list[float | str]:
    row: list[float | str] = [rates.selected, rates.judged, rates.coverage]
    for name in RATES:
        rate = rates.rate(name)
        row += ["" if rate is None else rate, *rates.intervals[name], *rates.bounds[name]]
    return [*row, *(rates.outcomes[outcome] for outcome in Outcome)]
