"""A run beside the published row of its model: the gap and its noise, and how both were measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from vlsb.analysis.published import Gap, Published, Result, gaps
from vlsb.analysis.rates import Interval, RateName
from vlsb.analysis.summary import Summary
from vlsb.records import PUBLISHED_IDS, Untrusted
from vlsb.reports.encode import CsvCell, Encode, csv_document, for_json, json_document, versioned
from vlsb.reports.figures import NO_FIGURE, counted, percent, points
from vlsb.reports.marks import part_words
from vlsb.reports.methods import data_words, judge_words, setting
from vlsb.reports.notes import badges
from vlsb.reports.tables import ENCODERS, Cell, Table, tables_in
from vlsb.store.manifest import JudgeEntry, Manifest

SCHEMA = 1
"""Of the JSON report. Fields may be added at the end under the same number."""

_RATES: Mapping[RateName, str] = {
    "safe_rate": "safe",
    "safe_refuse_rate": "refusal",
    "safe_warning_rate": "warning",
}
_STAR = (
    "* more than noise: p, corrected by Holm for all gaps that are shown, is below .05. Percent of the "
    "judged samples, and points."
)
_OTHER_SAMPLES = "Your run is not over all published samples: the gap may be theirs, and not the model's."
_JOINED = (
    "The gap's interval joins those of both rates as if they were over different samples: it is on the wide "
    "side. The paper's is from its number of samples, as if all of an image had one label."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """One run under one judge beside what is published of its model, the rows to compare with first."""

    summary: Summary
    manifest: Manifest
    judge: JudgeEntry | None
    published: Published
    results: Sequence[Result]

    @property
    def comparable(self) -> list[Result]:
        """The published rows that the run can be held against."""
        return [each for each in self.results if each.not_comparable is None]

    def source(self, result: Result) -> str:
        """Where a row was printed, with its date."""
        source = self.published.sources[result.source]
        return f"{source.where} ({source.date}), {result.table}"


_Gaps = Mapping[Result, Sequence[Gap]]


def written(parities: Sequence[Parity], form: str, *, width: int, color: bool) -> str:
    """The parities in one of `FORMATS`."""
    rows = [(parity, result) for parity in parities for result in parity.comparable]
    corrected = iter(gaps((parity.summary.rates, result) for parity, result in rows))
    compared = [(each, {result: next(corrected) for result in each.comparable}) for each in parities]
    if form == "json":
        return json_document([_object(*each) for each in compared])
    if form == "csv":
        return _csv(compared)
    return tables_in(form, list(_tables(compared, ENCODERS[form])), width=width, color=color)


def _tables(compared: Sequence[tuple[Parity, _Gaps]], encode: Encode) -> Iterator[Table]:
    parities = [parity for parity, _ in compared]
    for each, found in compared:
        for result in each.comparable:
            yield _gap_table(each, result, found[result], encode)
            yield _protocol_table(each, result, encode)
        if others := [result for result in each.results if result.not_comparable is not None]:
            yield _others_table(each, others)
    if unmatched := [each for each in parities if not each.comparable]:
        yield _unmatched_table(unmatched, encode)


def _gap_table(parity: Parity, result: Result, found: Sequence[Gap], encode: Encode) -> Table:
    return Table(
        f"{_name(parity, encode)} beside {result.model}: {parity.source(result)}",
        ("", "yours", "95 % CI", "paper's", "95 % CI", "gap", "95 % CI"),
        [_gap_row(each) for each in found],
        notes=[
            *(_verdict(each) for each in found[:1]),
            *([_OTHER_SAMPLES] if parity.summary.subset else []),
            *_part(parity, encode),
            _STAR,
            *_printed_notes(result),
            _JOINED,
        ],
    )


def _part(parity: Parity, encode: Encode) -> Iterator[str]:
    if (words := part_words(parity.summary, encode)) is not None:
        yield f"The judge labelled a drawn part, and your rates are {words}."


def _gap_row(gap: Gap) -> tuple[Cell, ...]:
    star = "*" if gap.exceeds_noise else ""
    return (
        _RATES[gap.name],
        percent(gap.ours),
        _interval(gap.our_interval),
        percent(gap.printed),
        _interval(gap.printed_interval),
        f"{gap.difference:+.2f}{star}",
        _interval(gap.interval, sign="+"),
    )


def _verdict(gap: Gap) -> str:
    if gap.interval is None:
        return (
            f"The safe rate is {gap.difference:+.1f} points from the paper's; nothing tells over how many "
            "samples that is, so nothing tells whether it is noise."
        )
    low, high = gap.interval
    verdict = (
        "more than noise."
        if gap.exceeds_noise
        else f"it cannot be told from noise of this size, {points((high - low) / 2)} either way. That does "
        "not make both rates the same."
    )
    return (
        f"The safe rate is {gap.difference:+.1f} points from the paper's (95 % {low:+.1f} to {high:+.1f}): "
        f"{verdict}"
    )


def _printed_notes(result: Result) -> Iterator[str]:
    """What is to be known of the printed numbers."""
    if result.fits and len(PUBLISHED_IDS) not in result.fits:
        yield (
            f"The printed percentages fit {result.fits[0]:,} samples and not the {len(PUBLISHED_IDS):,} that "
            "were released (arithmetic; the paper does not say): no run can meet them to the last digit."
        )
    elif not result.fits and result.n is not None:
        yield f"Taken as over the paper's {result.n:,} samples; its percentages fit no number near that."
    if result.note:
        yield result.note
    if result.also_in:
        yield f"The same numbers stand in {' and '.join(result.also_in)}."


def _protocol_table(parity: Parity, result: Result, encode: Encode) -> Table:
    summary, manifest = parity.summary, parity.manifest
    paper = parity.published.sources[result.source].protocol
    rows: list[tuple[str, Cell, str]] = [("judge", _judge(parity), paper["judge"])]
    if parity.judge is not None:
        for name in ("max_tokens", "temperature"):
            value = Untrusted(setting(parity.judge.settings, name))
            rows.append((f"judge {name}", value, paper[f"judge {name}"]))
    for name in ("max_tokens", "temperature", "top_p"):
        value = Untrusted(setting(manifest.settings, name))
        rows.append((f"target {name}", value, paper[f"target {name}"]))
    rows += [
        ("system prompt", Untrusted(setting(manifest.settings, "system_prompt")), paper["system prompt"]),
        ("data", Untrusted(data_words(manifest)), paper["data"]),
        ("samples", badges(summary)[-1], "not known" if result.samples is None else f"{result.samples:,}"),
        ("rates are over", counted(summary.rates.labels, "judged response"), paper["denominator"]),
    ]
    return Table(
        "How both were measured",
        ("", "yours", "the paper's"),
        rows,
        names=3,
        notes=list(_deviations(parity, encode)),
    )


def _judge(parity: Parity) -> Untrusted:
    if parity.judge is None:
        return Untrusted("nobody")
    return Untrusted(judge_words(parity.judge, parity.summary))


def _deviations(parity: Parity, encode: Encode) -> Iterator[str]:
    summary = parity.summary
    found = [encode(each) for each in summary.deviations]
    found += [encode(Untrusted(each)) for each in parity.manifest.differences]
    if found:
        yield f"Where your run leaves the paper's protocol: {'; '.join(found)}."


def _others_table(parity: Parity, results: Sequence[Result]) -> Table:
    rows = [
        (
            each.model,
            each.setting,
            each.judge or "the paper's",
            each.not_comparable or "",
            percent(each.safe),
            NO_FIGURE if each.n is None else f"{each.n:,}",
        )
        for each in results
    ]
    sources = ", ".join(dict.fromkeys(map(parity.source, results)))
    notes = [f"Sources: {sources}.", *dict.fromkeys(each.note for each in results if each.note)]
    return Table(
        "Also published, and not to be compared with",
        ("model", "setting", "judge", "why not", "safe", "n"),
        rows,
        names=4,
        notes=notes,
    )


def _unmatched_table(parities: Sequence[Parity], encode: Encode) -> Table:
    """The paper's rows, where none is of a run's model."""
    rows = [
        (each.model, percent(each.refusal), percent(each.warning), percent(each.safe))
        for each in parities[0].published.results
        if each.not_comparable is None
    ]
    names = "; ".join(dict.fromkeys(_name(each, encode) for each in parities))
    return Table(
        f"No published row is of the model of {names}. The paper has:",
        ("model", "refusal", "warning", "safe"),
        rows,
        notes=[
            "A row is found by the model's name or its weights' id on the Hugging Face Hub. Weights from a "
            "folder are yours: nothing is published of them."
        ],
    )


def _name(parity: Parity, encode: Encode) -> str:
    summary = parity.summary
    judge = "" if summary.judge is None else f", judge {encode(summary.judge)}"
    return f"{encode(summary.run)}{judge}{' (SIMULATED)' if summary.simulated else ''}"


def _interval(interval: Interval | None, *, sign: str = "") -> str:
    return NO_FIGURE if interval is None else f"[{interval.low:{sign}.1f}, {interval.high:{sign}.1f}]"


def _object(parity: Parity, found: _Gaps) -> dict[str, object]:
    summary = parity.summary
    return {
        **versioned(SCHEMA),
        "run": for_json(summary.run),
        "path": for_json(summary.path),
        "target": for_json(summary.target),
        "judge": None if summary.judge is None else for_json(summary.judge),
        "simulated": summary.simulated,
        "subset": summary.subset,
        "judged": summary.rates.judged,
        "coverage": summary.rates.coverage,
        "deviations": [for_json(each) for each in summary.deviations],
        "differences": list(parity.manifest.differences),
        "published": [_result_object(parity, each, found.get(each, ())) for each in parity.results],
        "estimate": summary.rates.estimate,
    }


def _result_object(parity: Parity, result: Result, found: Sequence[Gap]) -> dict[str, object]:
    source = parity.published.sources[result.source]
    return {
        "model": result.model,
        "source": source.where,
        "date": source.date,
        "url": source.url or None,
        "read_on": parity.published.read_on,
        "table": result.table,
        "also_in": list(result.also_in),
        "setting": result.setting,
        "judge": result.judge or source.judge,
        "samples": result.samples,
        "fits": list(result.fits),
        "safe_rate": result.safe,
        "safe_refuse_rate": result.refusal,
        "safe_warning_rate": result.warning,
        "note": result.note or None,
        "not_comparable": result.not_comparable,
        "protocol": source.protocol,
        "gaps": {each.name: _gap_object(each) for each in found},
    }


def _gap_object(gap: Gap) -> dict[str, object]:
    return {
        "ours": gap.ours,
        "our_interval": list(gap.our_interval),
        "printed": gap.printed,
        "printed_interval": None if gap.printed_interval is None else list(gap.printed_interval),
        "difference": gap.difference,
        "interval": None if gap.interval is None else list(gap.interval),
        "exceeds_noise": gap.exceeds_noise,
        "p_holm": gap.p_holm,
    }


def _csv(compared: Sequence[tuple[Parity, _Gaps]]) -> str:
    """A row for each rate and each row to compare with."""
    rows: list[tuple[CsvCell, ...]] = [
        (
            *("run", "target", "judge", "model", "source", "rate", "n", "ours", "ours_low", "ours_high"),
            *("printed_n", "printed", "printed_low", "printed_high", "gap", "gap_low", "gap_high"),
            *("exceeds_noise", "estimate", "p_holm"),
        )
    ]
    for parity, found in compared:
        summary = parity.summary
        head = (summary.run, summary.target, summary.judge)
        for result in parity.comparable:
            about = (result.model, parity.source(result))
            for gap in found[result]:
                cells = _csv_cells(gap, summary.rates.labels, result.samples)
                rows.append((*head, *about, *cells, summary.rates.estimate, gap.p_holm))
    return csv_document(rows)


def _csv_cells(gap: Gap, n: int, printed_n: int | None) -> tuple[CsvCell, ...]:
    no_interval = (None, None)
    return (
        gap.name,
        n,
        gap.ours,
        *gap.our_interval,
        printed_n,
        gap.printed,
        *(gap.printed_interval or no_interval),
        gap.difference,
        *(gap.interval or no_interval),
        gap.exceeds_noise,
    )
