"""Summaries for other programs: JSON and CSV, with unrounded numbers.

JSON is always a list, and ASCII: a lone surrogate or an invisible character in a name arrives as its
escape. Counts of thinking are in it where there are any, costs where anybody charges. CSV is lossy: what a
spreadsheet would execute is disarmed. Parquet has the rows of the CSV with their types, and needs pyarrow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from vlsb.analysis.rates import RATES, Rates
from vlsb.analysis.summary import GuardCounts, ModelUsage, Summary
from vlsb.records import Outcome, Rating, Untrusted
from vlsb.reports.encode import (
    Encode,
    csv_document,
    for_csv,
    for_json,
    for_terminal,
    json_document,
    versioned,
)
from vlsb.reports.guards import guard_object
from vlsb.reports.marks import Marks, mark, part_words
from vlsb.reports.report import Sentence, text_of

SCHEMA = 1
"""Of the JSON report. Fields may be added at the end under the same number."""


def in_order(summaries: Iterable[Summary]) -> list[Summary]:
    """Return the summaries by run, judge and path: the order of every format."""
    return sorted(summaries, key=_place)


def to_json(summaries: Sequence[Summary]) -> str:
    """Return a JSON list with one object a summary."""
    marks = mark(in_order(summaries))
    return json_document(
        [to_object(each, _differs(marks, place)) for place, each in enumerate(marks.summaries)]
    )


def to_csv(summaries: Sequence[Summary]) -> str:
    """Return RFC 4180 rows: for each summary one of scope `all`, then one a category; last, one a guard."""
    rows = (
        ["; ".join(cell) if isinstance(cell, tuple) else cell for cell in row.values()]
        for row in _rows(summaries, for_csv)
    )
    return csv_document([_COLUMNS, *rows])


def to_parquet(summaries: Sequence[Summary]) -> bytes:
    """Return the rows of the CSV as one Parquet file, text in printable characters. Imports pyarrow."""
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    kinds = {
        bool: pyarrow.bool_(),
        int: pyarrow.int64(),
        float: pyarrow.float64(),
        str: pyarrow.string(),
        tuple: pyarrow.list_(pyarrow.string()),
    }
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in _COLUMNS.items()])
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(to_rows(summaries), schema), sink)
    written: bytes = sink.getvalue().to_pybytes()
    return written


def to_rows(summaries: Sequence[Summary]) -> list[dict[str, object]]:
    """Return the rows of the CSV as they are, text in printable characters and several words as a list."""
    return [
        {name: list(each) if isinstance(each, tuple) else each for name, each in row.items()}
        for row in _rows(summaries, for_terminal)
    ]


_Cell = str | bool | int | float | tuple[str, ...] | None
_ENDS = ("", "_low", "_high", "_worst", "_best")
_COLUMNS: Mapping[str, type] = {
    **dict.fromkeys(("run", "path", "target", "judge"), str),
    "simulated": bool,
    **dict.fromkeys(("scope", "name"), str),
    **dict.fromkeys(("selected", "judged"), int),
    "coverage": float,
    **{f"{name}{end}": float for name in RATES for end in _ENDS},
    **{outcome.value: int for outcome in Outcome},
    "subset": bool,
    "epochs": int,
    "flip_share": float,
    "flip_samples": int,
    **dict.fromkeys(("samples_digest", "data_digest", "judge_digest"), str),
    "deviations": tuple,
    "differs_from": str,
    "differs_in": tuple,
    **dict.fromkeys(("found", *(f"rated_{rating.value}" for rating in Rating), "refusals", "failed"), int),
    "estimate": str,
    **dict.fromkeys(("labels", "labelled_images"), int),
}


def _rows(summaries: Sequence[Summary], encode: Encode) -> Iterator[dict[str, _Cell]]:
    """A row for each summary, its categories and its run's guards, by the names of `_COLUMNS`."""
    marks = mark(in_order(summaries))
    for place, summary in enumerate(marks.summaries):
        groups = [("all", "", summary.rates)]
        groups += [("category", encode(name), of) for name, of in summary.by_category.items()]
        for scope, name, rates in groups:
            head = _head(summary, encode) | {"scope": scope, "name": name}
            row = head | _rate_cells(rates) | _condition_cells(marks, place, encode)
            yield {column: row.get(column) for column in _COLUMNS}
    for summary in {each.path: each for each in summaries}.values():
        for guard in summary.guards:
            row = _head(summary, encode) | _guard_cells(guard, encode)
            yield {column: row.get(column) for column in _COLUMNS}


def _head(summary: Summary, encode: Encode) -> dict[str, _Cell]:
    return {
        "run": encode(summary.run),
        "path": encode(summary.path),
        "target": encode(summary.target),
        "judge": None if summary.judge is None else encode(summary.judge),
        "simulated": summary.simulated,
    }


def _rate_cells(rates: Rates) -> dict[str, _Cell]:
    row: dict[str, _Cell] = {
        "selected": rates.selected,
        "judged": rates.judged,
        "coverage": rates.coverage,
        **{outcome.value: rates.outcomes[outcome] for outcome in Outcome},
        **_estimate(rates),
    }
    for name in RATES:
        values = (rates.rate(name), *rates.intervals[name], *rates.bounds[name])
        row |= {f"{name}{end}": value for end, value in zip(_ENDS, values, strict=True)}
    return row


def _guard_cells(guard: GuardCounts, encode: Encode) -> dict[str, _Cell]:
    return {
        "judge": encode(guard.guard),
        "scope": "guard",
        "name": "",
        "selected": guard.responses,
        "found": guard.found,
        **{
            f"rated_{rating.value}": guard.ratings.get(rating, 0) if guard.rates_harm else None
            for rating in Rating
        },
        "refusals": guard.refusals,
        "failed": guard.failed,
    }


def _condition_cells(marks: Marks, place: int, encode: Encode) -> dict[str, _Cell]:
    summary, found = marks.summaries[place], marks.differing.get(place)
    against = None if found is None or marks.reference is None else marks.summaries[marks.reference]
    return {
        "subset": summary.subset,
        "epochs": summary.epochs,
        "flip_share": summary.flip_share,
        "flip_samples": summary.flip_samples,
        **_digests(summary),
        "deviations": tuple(map(encode, summary.deviations)),
        "differs_from": None if against is None else encode(against.run),
        "differs_in": () if found is None else tuple(aspect.value for aspect in found.aspects),
    }


def _place(summary: Summary) -> tuple[Untrusted, bool, Untrusted, Untrusted]:
    judge = Untrusted("") if summary.judge is None else summary.judge
    return (summary.run, summary.judge is not None, judge, summary.path)


def to_object(summary: Summary, differs: Mapping[str, object] | None = None) -> dict[str, object]:
    """Return one summary as its JSON object; percent, seconds and counts, nothing rounded.

    `differs` says what it has otherwise than the row that it is reported beside.
    """
    return {
        **versioned(SCHEMA),
        "run": for_json(summary.run),
        "path": for_json(summary.path),
        "target": for_json(summary.target),
        "judge": None if summary.judge is None else for_json(summary.judge),
        "simulated": summary.simulated,
        **_rates_object(summary.rates),
        "by_category": {for_json(name): _group(of) for name, of in summary.by_category.items()},
        "by_sub_category": [
            {"category": for_json(category), "sub_category": for_json(sub_category), **_group(of)}
            for category, sub_category, of in summary.by_sub_category
        ],
        "by_source": [{"source": for_json(name), **_group(of)} for name, of in summary.by_source],
        "deviations": [for_json(each) for each in summary.deviations],
        "usage": {"target": _usage(summary.target_usage), "judge": _usage(summary.judge_usage)},
        "duration_s": summary.duration_s,
        "target_models": _model_counts(summary.target_models),
        "judge_models": _model_counts(summary.judge_models),
        "subset": summary.subset,
        "cut_responses": summary.cut_responses,
        "duplicates": summary.duplicates,
        "notices": [*_part_notice(summary), *summary.notices, *summary.retirements],
        "epochs": summary.epochs,
        "flip_share": summary.flip_share,
        "data_digest": summary.data_digest,
        **({"thinking_cut": summary.thinking_cut} if summary.thinking_cut else {}),
        **_costs(summary),
        **({"guards": [guard_object(each) for each in summary.guards]} if summary.guards else {}),
        "flip_samples": summary.flip_samples,
        "samples_digest": _digests(summary)["samples_digest"],
        "judge_digest": _digests(summary)["judge_digest"],
        "differs": differs,
        **_estimate(summary.rates),
    }


def _group(rates: Rates) -> dict[str, object]:
    return {**_rates_object(rates), **_estimate(rates)}


def _differs(marks: Marks, place: int) -> dict[str, object] | None:
    found = marks.differing.get(place)
    if found is None or marks.reference is None:
        return None
    reference = marks.summaries[marks.reference]
    return {
        "from": for_json(reference.path),
        "judge": None if reference.judge is None else for_json(reference.judge),
        "in": [aspect.value for aspect in found.aspects],
        "reasons": [text_of(each, for_json) for each in marks.reasons(place)],
    }


def _digests(summary: Summary) -> dict[str, str | None]:
    conditions = summary.conditions
    judge = None if conditions is None else conditions.judge
    return {
        "samples_digest": None if conditions is None else conditions.samples_digest,
        "data_digest": summary.data_digest,
        "judge_digest": None if judge is None else judge.digest,
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


def _estimate(rates: Rates) -> dict[str, str | int]:
    """What the rates rest on."""
    return {"estimate": rates.estimate, "labels": rates.labels, "labelled_images": rates.images}


def _part_notice(summary: Summary) -> Iterator[str]:
    """What the text formats say of a drawn part beside its sign."""
    if (words := part_words(summary)) is not None:
        yield Sentence("Of a drawn part: ", words, ".").text(for_json)


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
