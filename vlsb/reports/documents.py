"""Summaries as a report, with unrounded numbers for other programs, and as Markdown and LaTeX for a paper.

JSON is always a list, and ASCII: a lone surrogate or an invisible character in a name arrives as its
escape. Counts of thinking are in it where there are any, costs where anybody charges. CSV is lossy: what a
spreadsheet would execute is disarmed. Parquet has the rows of the CSV with their types, and needs pyarrow.
LaTeX tables have the rules of `booktabs`, captions and notes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from vlsb.analysis.macro import MacroAverage
from vlsb.analysis.rates import RATES, Rates
from vlsb.analysis.summary import ModelUsage, Summary
from vlsb.analysis.variance import VarianceSources
from vlsb.records import Outcome, Rating, Untrusted
from vlsb.reports.compliance import COLUMNS as COMPLIANCE_COLUMNS
from vlsb.reports.compliance import (
    compliance_object,
    compliance_of,
    compliance_rows,
    compliance_table,
)
from vlsb.reports.encode import (
    for_csv,
    for_json,
    for_latex,
    for_markdown,
    for_terminal,
    latex_row,
    versioned,
)
from vlsb.reports.notes import (
    DAGGER,
    DOUBLE_DAGGER,
    SECTION,
    STOPPED,
    RowMarks,
    badges,
    by_category,
    dataset_title,
    guard_object,
    mark,
    note_lines,
    outcome_counts,
    part_words,
    remarks,
    row_name,
    said_once,
    shared_badges,
    stopped_words,
)
from vlsb.reports.report import (
    NO_FIGURE,
    RATE_HEADINGS,
    Records,
    Report,
    Sentence,
    Table,
    Words,
    percent,
    rate_figures,
    safe_interval,
    text_of,
)
from vlsb.reports.writers.data import plain
from vlsb.reports.writers.latex import (
    PACKAGES,
    LatexRow,
    LatexTable,
    latex,
    latex_floats,
    table_floats,
)
from vlsb.reports.writers.markdown import markdown_table

SCHEMA = 1
"""Of the JSON report. Fields may be added at the end under the same number."""
_UNITS = "Rates are percent of the judged samples (n), with 95 % intervals clustered by image."


def in_order(summaries: Iterable[Summary]) -> list[Summary]:
    """Return the summaries by run, judge and path: the order of every format."""

    def place(summary: Summary) -> tuple[Untrusted, bool, Untrusted, Untrusted]:
        return (summary.run, summary.judge is not None, summary.judge or Untrusted(""), summary.path)

    return sorted(summaries, key=place)


def rates_report(summaries: Sequence[Summary]) -> Report:
    """Return a row for each summary and category, and what qualifies the numbers.

    Records are for each summary one of scope `all`, then one a category; last, one a guard.
    """
    marks = mark(in_order(summaries))
    notes: list[Words] = [_UNITS, *(line for note in marks.notes() for line in note_lines(note))]
    for summary in said_once(marks.summaries):
        row = Sentence(summary.run, ", judge ", _judge(summary), ": ") if len(marks.summaries) > 1 else ""
        counts = (f"{outcome}: {count:,} ({why})" for outcome, count, why in outcome_counts(summary))
        remarked = (each.text for each in remarks(summary))
        notes += [Sentence(row, each) for each in (*counts, *remarked, *_deviations(summary))]
    runs, *categories = _tables(marks)
    cells = (
        [
            Sentence.join("; ", cell).text(for_csv) if isinstance(cell, tuple) else cell
            for cell in row.values()
        ]
        for row in _rows(marks)
    )
    return Report(
        tables=[replace(runs, notes=notes), *categories],
        # Of many runs either takes longer than the tables, and no format has both.
        data=(_object(each, _differs(marks, place)) for place, each in enumerate(marks.summaries)),
        records=Records(tuple(_COLUMNS), cells),
    )


def to_markdown(summaries: Sequence[Summary]) -> str:
    """Return a table with one row a run, one by category, and what qualifies the numbers of each run."""
    marks = mark(in_order(summaries))
    several = len(marks.summaries) > 1
    runs, *categories = _tables(marks)
    blocks = [f"## {runs.title}", markdown_table(runs), _UNITS]
    for note in marks.notes():
        lines = (Sentence("- ", names, ": ", why).text(for_markdown) for names, why in note.lines)
        blocks += [f"{note.sign} {text_of(note.heading, for_markdown)}", "\n".join(lines)]
    for table in categories:
        blocks += [f"### {table.title}"] if several or table.notes else []
        blocks += [markdown_table(table), *(text_of(note, for_markdown) for note in table.notes)]
    for summary in said_once(marks.summaries):
        words = [f"`{outcome}`: {count:,} ({why})" for outcome, count, why in outcome_counts(summary)]
        for remark in remarks(summary):
            text = text_of(remark.text, for_markdown)
            words.append(f"**Warning:** {text}" if remark.is_warning else text)
        words += [each.text(for_markdown) for each in _deviations(summary)]
        if words:
            title = Sentence("### ", summary.run, ", judge ", _judge(summary)).text(for_markdown)
            blocks += [title] if several else []
            blocks.append("\n".join(f"- {each}" for each in words))
    return "\n\n".join(blocks) + "\n"


def _tables(marks: RowMarks) -> Iterator[Table]:
    """Return a row a run, and the categories, each with its runs below each other, if there are any."""
    several, has_judges = len(marks.summaries) > 1, len({each.judge for each in marks.summaries}) > 1
    names = [
        Sentence(each.run, f" {sign}" if (sign := marks.sign(place)) else "")
        for place, each in enumerate(marks.summaries)
    ]
    yield Table(
        f"{dataset_title(marks.summaries)} safety rates",
        ("run", "target", "judge", "samples", *RATE_HEADINGS),
        [
            (name, each.target, _judge(each), ", ".join(badges(each)), *rate_figures(each.rates))
            for name, each in zip(names, marks.summaries, strict=True)
        ],
        names=4,
    )
    rows = [
        (
            category,
            *([names[place]] if several else []),
            *([_judge(marks.summaries[place])] if has_judges else []),
            *rate_figures(rates),
        )
        for category, place, rates in by_category(marks.summaries)
    ]
    if rows:
        words = ("category", *(["run"] if several else []), *(["judge"] if has_judges else []))
        yield Table("By category", (*words, *RATE_HEADINGS), rows, names=len(words))
    if found := compliance_of(marks.summaries):
        yield compliance_table(found)


def _deviations(summary: Summary) -> list[Sentence]:
    return [Sentence("Deviation from the paper's protocol: ", each) for each in summary.deviations]


def _judge(summary: Summary) -> Words:
    return NO_FIGURE if summary.judge is None else summary.judge


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
    content: bytes = sink.getvalue().to_pybytes()
    return content


def to_rows(summaries: Sequence[Summary]) -> list[dict[str, object]]:
    """Return the rows of the CSV as they are, text in printable characters and several words as a list."""
    rows = []
    for row in _rows(mark(in_order(summaries))):
        printable: dict[str, object] = dict(row)
        for name, cell in row.items():
            if isinstance(cell, tuple):
                printable[name] = [text_of(each, for_terminal) for each in cell]
            elif isinstance(cell, Untrusted):
                printable[name] = for_terminal(cell)
        rows.append(printable)
    return rows


_Cell = str | Untrusted | bool | int | float | tuple[Words, ...] | None
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
    **{f"macro_{name}{end}": float for name in RATES for end in ("", "_low", "_high")},
    **dict.fromkeys(("variance_images", "variance_decoding", "variance_judging"), float),
    **dict.fromkeys(COMPLIANCE_COLUMNS, float),
}


def _rows(marks: RowMarks) -> Iterator[dict[str, _Cell]]:
    """Return a row for each summary, its categories and its run's guards, by the names of `_COLUMNS`."""
    for place, summary in enumerate(marks.summaries):
        differs = marks.differing.get(place)
        against = None if differs is None or marks.reference is None else marks.summaries[marks.reference]
        conditions: dict[str, _Cell] = {
            "subset": summary.subset,
            "epochs": summary.epochs,
            "flip_share": summary.flip_share,
            "flip_samples": summary.flip_samples,
            **_digests(summary),
            "deviations": tuple(summary.deviations),
            "differs_from": None if against is None else against.run,
            "differs_in": () if differs is None else tuple(aspect.value for aspect in differs.aspects),
        }
        groups: list[tuple[str, str | Untrusted, Rates]] = [("all", "", summary.rates)]
        groups += [("category", name, of) for name, of in summary.by_category.items()]
        for scope, name, rates in groups:
            head = summary_head(summary) | {"scope": scope, "name": name}
            row = head | _rate_cells(rates) | conditions
            if scope == "all":
                row |= _macro_cells(summary.macro) | _variance_cells(summary.variance)
            yield {column: row.get(column) for column in _COLUMNS}
    for summary in {each.path: each for each in marks.summaries}.values():
        for found in summary.compliance:
            for scope, name, cells in compliance_rows(found):
                row = summary_head(summary) | {"judge": found.judge, "scope": scope, "name": name} | cells
                yield {column: row.get(column) for column in _COLUMNS}
        for guard in summary.guards:
            rated = {rating: guard.ratings.get(rating, 0) if guard.rates_harm else None for rating in Rating}
            row = summary_head(summary) | {
                "judge": guard.guard,
                "scope": "guard",
                "name": "",
                "selected": guard.responses,
                "found": guard.found,
                **{f"rated_{rating.value}": count for rating, count in rated.items()},
                "refusals": guard.refusals,
                "failed": guard.failed,
            }
            yield {column: row.get(column) for column in _COLUMNS}


def summary_head(summary: Summary) -> dict[str, _Cell]:
    """Return which run and judge a summary is of, as every format names them first."""
    return {
        "run": summary.run,
        "path": summary.path,
        "target": summary.target,
        "judge": summary.judge,
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


def _macro_cells(macro: MacroAverage | None) -> dict[str, _Cell]:
    cells: dict[str, _Cell] = {}
    for name, found in {} if macro is None else macro.rates.items():
        values = (found.rate, *found.interval)
        cells |= {
            f"macro_{name}{end}": value for end, value in zip(("", "_low", "_high"), values, strict=True)
        }
    return cells


def _variance_cells(found: VarianceSources | None) -> dict[str, _Cell]:
    if found is None:
        return {}
    parts = {
        "images": found.images,
        "decoding": found.decoding,
        "judging": None if found.judging is None else found.judging.percent,
    }
    return {f"variance_{name}": part for name, part in parts.items()}


def to_object(summary: Summary) -> dict[str, object]:
    """Return one summary as its JSON object; percent, seconds and counts, nothing rounded."""
    return {name: plain(value) for name, value in _object(summary).items()}


def _object(summary: Summary, differs: Mapping[str, object] | None = None) -> dict[str, object]:
    """Return what JSON has of a summary; `differs` is from the row that it is reported beside."""
    # What the text formats say of a drawn part beside its sign.
    part = [] if (words := part_words(summary)) is None else [Sentence("Of a drawn part: ", words, ".")]
    if (stopped := stopped_words(summary.conditions)) is not None:
        part.append(Sentence(f"{STOPPED} ", stopped, "."))
    return {
        **versioned(SCHEMA),
        **summary_head(summary),
        **_rates_object(summary.rates),
        "by_category": {name: _group(of) for name, of in summary.by_category.items()},
        "by_sub_category": [
            {"category": category, "sub_category": sub_category, **_group(of)}
            for category, sub_category, of in summary.by_sub_category
        ],
        "by_source": [{"source": name, **_group(of)} for name, of in summary.by_source],
        "deviations": summary.deviations,
        "usage": {"target": _usage(summary.target_usage), "judge": _usage(summary.judge_usage)},
        "duration_s": summary.duration_s,
        "target_models": dict(sorted(summary.target_models.items())),
        "judge_models": dict(sorted(summary.judge_models.items())),
        "subset": summary.subset,
        "cut_responses": summary.cut_responses,
        "duplicates": summary.duplicates,
        "notices": [*part, *summary.notices, *summary.retirements],
        "epochs": summary.epochs,
        "flip_share": summary.flip_share,
        "data_digest": summary.data_digest,
        **({"thinking_cut": summary.thinking_cut} if summary.thinking_cut else {}),
        **_costs(summary),
        **({"guards": [guard_object(each) for each in summary.guards]} if summary.guards else {}),
        **_complied(summary),
        "flip_samples": summary.flip_samples,
        "samples_digest": _digests(summary)["samples_digest"],
        "judge_digest": _digests(summary)["judge_digest"],
        "differs": differs,
        **_estimate(summary.rates),
        "macro_average": _macro_object(summary.macro),
        **({} if summary.variance is None else {"variance": _variance_object(summary.variance)}),
    }


def _macro_object(macro: MacroAverage | None) -> dict[str, object] | None:
    if macro is None:
        return None
    return {
        "categories": macro.categories,
        **{name: found.rate for name, found in macro.rates.items()},
        "intervals": {name: found.interval for name, found in macro.rates.items()},
    }


def _variance_object(found: VarianceSources) -> dict[str, object]:
    return {
        "images": found.images,
        "decoding": found.decoding,
        "judging": None if found.judging is None else found.judging.percent,
        "chance_interval": found.chance.interval,
        "judging_interval": None if found.judging is None else found.judging.interval,
        "repeated_labels": found.repeated,
        "half_width": found.half_width,
        "half_width_twice_epochs": found.with_twice_epochs,
        "half_width_twice_images": found.with_twice_images,
        "half_width_endless_epochs": found.with_endless_epochs,
    }


def _complied(summary: Summary) -> dict[str, object]:
    found = [compliance_object(each) for each in summary.compliance]
    return {"compliance": found} if found else {}


def _group(rates: Rates) -> dict[str, object]:
    return {**_rates_object(rates), **_estimate(rates)}


def _differs(marks: RowMarks, place: int) -> dict[str, object] | None:
    differs = marks.differing.get(place)
    if differs is None or marks.reference is None:
        return None
    reference = marks.summaries[marks.reference]
    return {
        "from": reference.path,
        "judge": reference.judge,
        "in": differs.aspects,
        "reasons": marks.reasons(place),
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
        "intervals": {name: rates.intervals[name] for name in RATES},
        "bounds": {name: list(rates.bounds[name]) for name in RATES},
        "outcomes": {outcome.value: rates.outcomes[outcome] for outcome in Outcome},
    }


def _estimate(rates: Rates) -> dict[str, str | int]:
    return {"estimate": rates.estimate, "labels": rates.labels, "labelled_images": rates.images}


def _usage(usage: ModelUsage) -> dict[str, int | None]:
    """Return counts; null for what nobody knows of imported answers."""
    return {
        "requests": usage.requests if usage.is_known else None,
        "input_tokens": usage.input_tokens if usage.is_known else usage.input_tokens or None,
        "output_tokens": usage.output_tokens if usage.is_known else usage.output_tokens or None,
        **({"reasoning_tokens": usage.reasoning_tokens} if usage.reasoning_tokens else {}),
    }


def _costs(summary: Summary) -> dict[str, object]:
    """Return US dollars by side, null where a price is unknown; nothing where nobody charges for tokens."""
    costs = {"target": summary.target_cost, "judge": summary.judge_cost}
    charged = {stage: cost for stage, cost in costs.items() if cost is not None}
    if not charged:
        return {}
    amounts = [cost.usd for cost in charged.values() if cost.usd is not None]
    by_stage: dict[str, object] = {
        stage: {
            "usd": cost.usd,
            "is_least": cost.is_least,
            "source": cost.source or None,
            "as_of": cost.as_of or None,
        }
        for stage, cost in charged.items()
    }
    return {"cost": {**by_stage, "total_usd": sum(amounts) if len(amounts) == len(charged) else None}}


_SIGNS = {
    DAGGER: r"\textsuperscript{\dag}",
    DOUBLE_DAGGER: r"\textsuperscript{\ddag}",
    SECTION: r"\textsuperscript{\S}",
}
_NONE = "--"
_LATEX_UNITS = (
    r"Rates are percent of the judged samples ($n$), with 95\,\% intervals clustered by image; "
    r"what is neither refusal nor warning is unsafe."
)
_INTERVAL = r"95\,\% CI"
_HEADINGS = ("$n$", "Coverage", "Safe", _INTERVAL, "Refusal", "Warning")
_COVERAGE = " Coverage is the percent of the selected samples that were judged."


class _RatesRow(NamedTuple):
    """A row's words, encoded, and the rates whose figures follow."""

    words: Sequence[str]
    rates: Rates
    begins_group: bool = False


def to_latex(summaries: Sequence[Summary]) -> str:
    """Return a table with a row a run, and one by category, each a float with caption, label and notes."""
    marks = mark(in_order(summaries))
    blocks = [PACKAGES]
    if marks.summaries:
        blocks.append(_runs(marks))
    several, has_judges = len(marks.summaries) > 1, _has_judges(marks)
    rows: list[_RatesRow] = []
    before: Untrusted | None = None
    for name, place, rates in by_category(marks.summaries):
        is_new = name != before
        words = [for_latex(name) if is_new else "", *([_marked(marks, place)] if several else [])]
        words += [_latex_judge(marks.summaries[place])] if has_judges else []
        rows.append(_RatesRow(words, rates, begins_group=several and is_new and before is not None))
        before = name
    if rows:
        names = ["Category", *(["Run"] if several else []), *(["Judge"] if has_judges else [])]
        signs = "".join(_SIGNS[each.sign] for each in marks.notes())
        notes = [f"{signs} See Table~\\ref{{tab:vlsbench}}."] if signs else []
        blocks.append(_float(marks, " by category", "tab:vlsbench-categories", names, rows, notes))
    if found := compliance_of(marks.summaries):
        blocks.append(table_floats(compliance_table(found)))
    return "\n\n".join(blocks) + "\n"


def _runs(marks: RowMarks) -> str:
    has_targets, has_judges = any(each.target != each.run for each in marks.summaries), _has_judges(marks)
    names = ["Run", *(["Model"] if has_targets else []), *(["Judge"] if has_judges else [])]
    rows = []
    for place, each in enumerate(marks.summaries):
        words = [_marked(marks, place)]
        words += [for_latex(each.target)] if has_targets else []
        words += [_latex_judge(each)] if has_judges else []
        rows.append(_RatesRow(words, each.rates))
    notes = []
    for note in marks.notes():
        lines = (latex(Sentence(of, ": ", why, ".")) for of, why in note.lines)
        notes += [f"{_SIGNS[note.sign]} {latex(note.heading)}", *lines]
    # What limits the numbers of rows is said once for all rows that it is true of.
    limits: dict[Sentence, list[Words]] = {}
    for place, each in enumerate(marks.summaries):
        parts = [remark.text for remark in remarks(replace(each, retirements=()))]
        if each.deviations:
            deviations = Sentence.join("; ", each.deviations).text(for_json).rstrip(".")
            parts.append(Untrusted(f"Deviations from the paper's protocol: {deviations}."))
        if parts:
            limits.setdefault(Sentence.join(" ", parts), []).append(row_name(marks.summaries, place))
    notes += [latex(Sentence(Sentence.join("; ", of), ": ", limit)) for limit, of in limits.items()]
    notes += map(latex, dict.fromkeys(model for each in marks.summaries for model in each.retirements))
    return _float(marks, "", "tab:vlsbench", names, rows, notes)


def _float(
    marks: RowMarks,
    by: str,
    label: str,
    names: Sequence[str],
    rows: Sequence[_RatesRow],
    notes: Sequence[str],
) -> str:
    """Write rows with their figures; the caption says what all runs have in common."""
    has_gaps = any(row.rates.missing for row in rows)
    headings = [name for name in _HEADINGS if name != "Coverage" or has_gaps]
    kinds = ["c" if heading == _INTERVAL else "r" for heading in headings]
    body = []
    for row in rows:
        rates = row.rates
        percents = (rates.coverage, rates.safe_rate, rates.safe_refuse_rate, rates.safe_warning_rate)
        coverage, safe, *parts = (_NONE if each is None else percent(each) for each in percents)
        interval = _NONE if rates.safe_rate is None else safe_interval(rates)
        figures = dict(zip(_HEADINGS, (f"{rates.labels:,}", coverage, safe, interval, *parts), strict=True))
        cells = [*row.words, *(figures[heading] for heading in headings)]
        body.append(LatexRow(latex_row(cells), row.begins_group))
    shared = [*map(latex, shared_badges(marks.summaries))]
    if not _has_judges(marks) and marks.summaries[0].judge is not None:
        shared.append(f"judge {_latex_judge(marks.summaries[0])}")
    about = f" ({'; '.join(shared)})" if shared else ""
    title = f"{latex(dataset_title(marks.summaries))} safety rates{by}{about}"
    caption = f"{title}. {_LATEX_UNITS}{_COVERAGE if has_gaps else ''}"
    head = latex_row([*names, *headings])
    return latex_floats(
        caption, label, LatexTable(f"{'l' * len(names)} {' '.join(kinds)}", head, body), notes
    )


def _has_judges(marks: RowMarks) -> bool:
    return len({each.judge for each in marks.summaries}) > 1


def _marked(marks: RowMarks, place: int) -> str:
    return for_latex(marks.summaries[place].run) + "".join(_SIGNS[each] for each in marks.sign(place))


def _latex_judge(summary: Summary) -> str:
    return "none" if summary.judge is None else for_latex(summary.judge)
