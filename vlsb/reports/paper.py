"""What a paper says of a run: how it was measured, whom to cite, and how far it is from the published row.

All of it is from the manifest and the rows. What they do not tell is said to be unknown, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlsb import strict_json
from vlsb.analysis.published import Gap, Published, PublishedResult, gaps, load_published
from vlsb.analysis.summary import Summary
from vlsb.records import PUBLISHED_IDS, VLSBENCH, Untrusted
from vlsb.reports.documents import summary_head
from vlsb.reports.encode import CsvCell, Encode, for_json, for_latex, for_markdown, for_terminal, versioned
from vlsb.reports.notes import badges, part_words, stopped_words
from vlsb.reports.report import (
    NO_FIGURE,
    RATE_WORDS,
    Records,
    Report,
    Sentence,
    Table,
    Words,
    counted,
    interval_text,
    percent,
    points,
    span,
)
from vlsb.store.listing import find_runs
from vlsb.store.manifest import JudgeEntry, Manifest, read_manifest, require_vlsbench
from vlsb.store.state import load_state
from vlsb.store.summaries import summarize_state

SCHEMA = 1
"""Of the JSON report. Fields may be added at the end under the same number."""

_STAR = (
    "* more than noise: p, corrected by Holm for all gaps that are shown, is below .05. Percent of the "
    "judged samples, and points."
)
_OTHER_SAMPLES = (
    "Your run is not over all published samples: the gap may come from the samples and not from the model."
)
_UNMATCHED = (
    "A row is found by the model's name or its weights' id on the Hugging Face Hub. Weights from a folder "
    "are yours: nothing is published of them."
)
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
    results: Sequence[PublishedResult]

    @property
    def comparable(self) -> list[PublishedResult]:
        """The published rows that the run can be compared with."""
        return [each for each in self.results if each.not_comparable is None]

    def source(self, result: PublishedResult) -> str:
        """Where a row was printed, with its date."""
        source = self.published.sources[result.source]
        return f"{source.where} ({source.date}), {result.table}"


_Gaps = Mapping[PublishedResult, Sequence[Gap]]


def paper_report(parities: Sequence[Parity]) -> Report:
    """Return each run beside what is published of its model."""
    rows = [(parity, result) for parity in parities for result in parity.comparable]
    corrected = iter(gaps((parity.summary.rates, result) for parity, result in rows))
    compared = [(each, {result: next(corrected) for result in each.comparable}) for each in parities]
    return Report(
        tables=list(_tables(compared)),
        data=[_object(*each) for each in compared],
        records=Records(_COLUMNS, list(_rows(compared))),
    )


def _tables(compared: Sequence[tuple[Parity, _Gaps]]) -> Iterator[Table]:
    parities = [parity for parity, _ in compared]
    for each, gaps_of in compared:
        for result in each.comparable:
            yield _gap_table(each, result, gaps_of[result])
            yield _protocol_table(each, result)
        if others := [result for result in each.results if result.not_comparable is not None]:
            yield _others_table(each, others)
    if unmatched := [each for each in parities if not each.comparable]:
        names = Sentence.join("; ", dict.fromkeys(map(_name, unmatched)))
        yield Table(
            Sentence("No published row is of the model of ", names, ". The paper has:"),
            ("model", "refusal", "warning", "safe"),
            [
                (each.model, percent(each.refusal), percent(each.warning), percent(each.safe))
                for each in unmatched[0].published.results
                if each.not_comparable is None
            ],
            notes=[_UNMATCHED],
        )


def _gap_table(parity: Parity, result: PublishedResult, compared: Sequence[Gap]) -> Table:
    part: list[Sentence] = []
    if (words := part_words(parity.summary)) is not None:
        part.append(Sentence("The judge labelled a drawn part, and your rates are ", words, "."))
    if (stopped := stopped_words(parity.summary.conditions)) is not None:
        part.append(Sentence("Your run was ", stopped, "."))
    verdicts = []
    for gap in compared[:1]:
        apart = f"The safe rate is {gap.difference:+.1f} points from the paper's"
        if gap.interval is None:
            verdicts.append(
                f"{apart}; over how many samples is not known, so nobody can say whether it is noise."
            )
            continue
        low, high = gap.interval
        verdict = "more than noise."
        if not gap.exceeds_noise:
            size = f"{points((high - low) / 2)} either way"
            verdict = (
                f"it cannot be told from noise of this size, {size}. That does not make both rates the same."
            )
        verdicts.append(f"{apart} (95 % {low:+.1f} to {high:+.1f}): {verdict}")
    return Table(
        Sentence(_name(parity), f" beside {result.model}: {parity.source(result)}"),
        ("", "yours", "95 % CI", "paper's", "95 % CI", "gap", "95 % CI"),
        [
            (
                *(RATE_WORDS[gap.name], percent(gap.ours), interval_text(gap.our_interval)),
                *(percent(gap.printed), interval_text(gap.printed_interval)),
                *(
                    f"{gap.difference:+.2f}{'*' if gap.exceeds_noise else ''}",
                    interval_text(gap.interval, "+"),
                ),
            )
            for gap in compared
        ],
        notes=[
            *verdicts,
            *([_OTHER_SAMPLES] if parity.summary.subset else []),
            *part,
            _STAR,
            *_printed_notes(result),
            _JOINED,
        ],
    )


def _printed_notes(result: PublishedResult) -> Iterator[str]:
    """Explain the printed numbers."""
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


def _protocol_table(parity: Parity, result: PublishedResult) -> Table:
    summary, manifest = parity.summary, parity.manifest
    paper = parity.published.sources[result.source].protocol
    judge = "nobody" if parity.judge is None else judge_words(parity.judge, summary)
    rows: list[tuple[str, Words, str]] = [("judge", Untrusted(judge), paper["judge"])]
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
    deviations = [*summary.deviations, *map(Untrusted, manifest.differences)]
    leaves = "Where your run leaves the paper's protocol: "
    return Table(
        "How both were measured",
        ("", "yours", "the paper's"),
        rows,
        names=3,
        notes=[Sentence(leaves, Sentence.join("; ", deviations), ".")] if deviations else [],
    )


def _others_table(parity: Parity, results: Sequence[PublishedResult]) -> Table:
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


def _name(parity: Parity) -> Sentence:
    summary = parity.summary
    judge = () if summary.judge is None else (", judge ", summary.judge)
    return Sentence(summary.run, *judge, " (SIMULATED)" if summary.simulated else "")


def _object(parity: Parity, compared: _Gaps) -> dict[str, object]:
    summary, published = parity.summary, []
    for result in parity.results:
        source = parity.published.sources[result.source]
        row = {
            "model": result.model,
            "source": source.where,
            "date": source.date,
            "url": source.url or None,
            "read_on": parity.published.read_on,
            "table": result.table,
            "also_in": result.also_in,
            "setting": result.setting,
            "judge": result.judge or source.judge,
            "samples": result.samples,
            "fits": result.fits,
            "safe_rate": result.safe,
            "safe_refuse_rate": result.refusal,
            "safe_warning_rate": result.warning,
            "note": result.note or None,
            "not_comparable": result.not_comparable,
            "protocol": source.protocol,
            "gaps": {
                each.name: {name: getattr(each, name) for name in _GAP_FIELDS}
                for each in compared.get(result, ())
            },
        }
        published.append(row)
    return {
        **versioned(SCHEMA),
        **summary_head(summary),
        "subset": summary.subset,
        "judged": summary.rates.judged,
        "coverage": summary.rates.coverage,
        "deviations": summary.deviations,
        "differences": parity.manifest.differences,
        "published": published,
        "estimate": summary.rates.estimate,
    }


_GAP_FIELDS = (
    *("ours", "our_interval", "printed", "printed_interval"),
    *("difference", "interval", "exceeds_noise", "p_holm"),
)
_COLUMNS = (
    *("run", "target", "judge", "model", "source", "rate", "n", "ours", "ours_low", "ours_high"),
    *("printed_n", "printed", "printed_low", "printed_high", "gap", "gap_low", "gap_high"),
    *("exceeds_noise", "estimate", "p_holm"),
)


def _rows(compared: Sequence[tuple[Parity, _Gaps]]) -> Iterator[tuple[CsvCell, ...]]:
    """Return a row for each rate and each row to compare with."""
    for parity, gaps_of in compared:
        summary = parity.summary
        head = (summary.run, summary.target, summary.judge)
        for result in parity.comparable:
            about = (result.model, parity.source(result))
            for gap in gaps_of[result]:
                yield (
                    *(*head, *about, gap.name, summary.rates.labels, gap.ours, *gap.our_interval),
                    *(result.samples, gap.printed, *(gap.printed_interval or (None, None))),
                    *(gap.difference, *(gap.interval or (None, None))),
                    *(gap.exceeds_noise, summary.rates.estimate, gap.p_holm),
                )


def parities_of(runs: Mapping[Path, str | None]) -> list[Parity]:
    """Return each run, under the judge with that file or each of its judges, beside what is published."""
    published = load_published()
    for run in runs:
        require_vlsbench(run, read_manifest(run), "--paper")
    parities = []
    for manifest, judge, summary in judged_runs(runs):
        # By its weights where it was served here, else by its name.
        weights = manifest.settings.get("engine.weights")
        name = manifest.settings.get("model") if weights is None else weights.get("hub")
        results = published.find(name) if isinstance(name, str) else []
        parities.append(
            Parity(summary=summary, manifest=manifest, judge=judge, published=published, results=results)
        )
    return parities


BENCHMARK_BIBTEX = """\
@inproceedings{hu2025vlsbench,
  title     = {{VLSBench}: Unveiling Visual Leakage in Multimodal Safety},
  author    = {Hu, Xuhao and Liu, Dongrui and Li, Hao and Huang, Xuanjing and Shao, Jing},
  booktitle = {Proceedings of the 63rd Annual Meeting of the Association for Computational Linguistics
               (ACL 2025)},
  pages     = {8285--8316},
  year      = {2025},
  note      = {arXiv:2411.19939}
}
"""
"""The benchmark, as its authors ask to be cited."""

PROSE: Mapping[str, Encode] = {"table": for_terminal, "markdown": for_markdown, "latex": for_latex}
"""The formats of a paragraph."""
_NO_VERSION = re.compile(r"[^0-9A-Za-z.+-]")
_SHOWN_DIGITS = 12
_UNKNOWN = "not recorded"
_SAMPLING = (("at temperature", "temperature"), ("top_p", "top_p"))
_PART_INTERVALS = "Intervals are 95 % intervals of that estimate, clustered by image."
_INTERVALS = (
    "Intervals are Wilson's 95 % score intervals on the number of labelled responses divided by the design "
    "effect of the images that they share."
)


def bibtex(versions: Sequence[str]) -> str:
    """Return the entries of VLSBench and of vlsb, in the versions that made the runs."""
    # A version is read from a run's file: nothing but the signs of versions goes into the entry.
    made_by = ", ".join(sorted({_NO_VERSION.sub("", each) for each in versions}))
    software = (
        "@software{vlsb,\n"
        "  title   = {{vlsb}: Evaluating Vision-Language Models on {VLSBench}},\n"
        "  author  = {{The vlsb authors}},\n"
        f"  version = {{{made_by}}},\n"
        "  license = {Apache-2.0}\n"
        "}\n"
    )
    return f"{BENCHMARK_BIBTEX}\n{software}"


def methods_text(runs: Mapping[Path, str | None], form: str) -> str:
    """Return a paragraph for each run and judge, on lines of their own; `runs` as for `judged_runs`."""
    encode = PROSE[form]
    return "\n\n".join(encode(methods_paragraph(*each)) for each in judged_runs(runs)) + "\n"


def bibtex_text(paths: Sequence[Path]) -> str:
    """Return the entries of VLSBench, and of vlsb in the versions that made these runs."""
    return bibtex([read_manifest(run).version for run in find_runs(paths)])


def judged_runs(
    runs: Mapping[Path, str | None],
) -> Iterator[tuple[Manifest, JudgeEntry | None, Summary]]:
    """Yield every run with its judge of that file, or with each; with None once where it has none."""
    for run, file in runs.items():
        state = load_state(run)
        if not state.manifest.judges:
            yield state.manifest, None, summarize_state(state, run, None)
        for judge in state.manifest.judges:
            if file in (None, judge.file):
                yield state.manifest, judge, summarize_state(state, run, judge.file)


def methods_paragraph(manifest: Manifest, judge: JudgeEntry | None, summary: Summary) -> Untrusted:
    """Return how a run under one judge was measured, in whole sentences."""
    settings = manifest.settings
    words = []
    if summary.simulated:
        words.append("SIMULATED: target or judge is a simulator, and no number says anything about a model.")
    target = _with_models(for_json(manifest.target), summary.target_models)
    words.append(f"We evaluated {target} with vlsb {manifest.version}, on {manifest.created_at[:10]}.")
    weights, engine = (settings.get(f"engine.{part}") for part in ("weights", "engine"))
    if not isinstance(weights, Mapping):
        words.append(f"It was served at {setting(settings, 'address')}; its weights are not known.")
    else:
        folder, checksum = (weights.get(name, _UNKNOWN) for name in ("folder", "digest"))
        which = f"those of a folder, {folder}, checksum {checksum}"
        if "hub" in weights:
            which = f"{weights['hub']} at revision {weights.get('revision', _UNKNOWN)}"
        served = ""
        if isinstance(engine, Mapping):
            version = f"{engine.get('name', _UNKNOWN)} {engine.get('version', _UNKNOWN)}"
            served = f", served by {version} in {setting(settings, 'engine.dtype')}"
        words.append(f"Its weights are {which}{served}.")
    words.append(f"The samples are {_samples(manifest, summary)}.")
    sampling = ", ".join(
        [
            *(f"{what} {setting(settings, name)}" for what, name in _SAMPLING),
            f"at most {setting(settings, 'max_tokens')} tokens",
            *([f"with {strict_json.dumps(extra)}"] if (extra := settings.get("extra")) else []),
        ]
    )
    prompt = settings.get("system_prompt", _UNKNOWN)
    asked = "without a system prompt" if prompt is None else f'with the system prompt "{prompt}"'
    epochs = "" if manifest.epochs == 1 else f", {manifest.epochs} a sample"
    words.append(f"Responses were generated {sampling}, {asked}{epochs}.")
    words += ["Nobody has judged them."] if judge is None else _judging(judge, summary)
    if (stopped := stopped_words(summary.conditions)) is not None:
        words.append(f"The run was {stopped.text(for_json)}: images came in random order.")
    if differences := [*map(for_json, summary.deviations), *manifest.differences]:
        words.append(f"The protocol is the paper's but for this: {'; '.join(differences)}.")
    return Untrusted(" ".join(words))


def setting(settings: Mapping[str, Any], name: str) -> str:
    """Return a setting as text without quotes: `not sent` for null, `not recorded` if it is not there."""
    value = settings.get(name, _UNKNOWN)
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "not sent" if value is None else strict_json.dumps(value)


def judge_words(judge: JudgeEntry, summary: Summary) -> str:
    """Return the judge's name, and what it answered as where that is another name."""
    return _with_models(for_json(judge.name), summary.judge_models)


def data_words(manifest: Manifest) -> str:
    """Return which revision of the data was read, as far as the run recorded it."""
    repository, revision = (manifest.data.get(name) for name in ("repository", "revision"))
    if isinstance(repository, str) and isinstance(revision, str):
        return f"revision {revision} of {repository}"
    return "a copy whose revision is not recorded"


def _samples(manifest: Manifest, summary: Summary) -> str:
    count, published = len(manifest.asked_samples), len(PUBLISHED_IDS)
    if manifest.dataset != VLSBENCH:
        which = f"{count:,} of the data set {manifest.dataset}"
    elif not summary.subset:
        which = f"all {published:,} of VLSBench, their rows as published"
    elif manifest.has_published_ids:
        which = f"{count:,} with the ids of VLSBench and other content"
    elif count < published:
        which = f"{count:,} of the {published:,} of VLSBench by their ids"
    else:
        which = f"{count:,}, and not the published set"
    digest = "" if summary.data_digest is None else f" (rows and images: {_checksum(summary.data_digest)})"
    return f"{which}, read from {data_words(manifest)}{digest}"


def _checksum(sha256: object) -> str:
    return f"sha256 {str(sha256)[:_SHOWN_DIGITS]}..."


def _judging(judge: JudgeEntry, summary: Summary) -> Iterator[str]:
    name, settings, rates = judge_words(judge, summary), judge.settings, summary.rates
    labelled = f"Each response was labelled as refusal, warning or unsafe by {name}"
    if "template_sha256" in settings:
        official = not any("judge template" in for_json(each) for each in judge.deviations)
        kind = "the benchmark's own" if official and "judge" not in settings else "another"
        labelled += (
            f", with {kind} judge prompt ({_checksum(settings['template_sha256'])}) at temperature "
            f"{setting(settings, 'temperature')} for at most {setting(settings, 'max_tokens')} tokens"
        )
    yield f"{labelled}."
    if (words := part_words(summary)) is not None:
        part = "The labels are of a drawn part, in which rare ones come more often, and rates are "
        yield Sentence(part, words, ".").text(for_json)
    else:
        share = f"{rates.judged:,} ({percent(rates.coverage)} %)"
        yield f"Of {counted(rates.selected, 'response')}, {share} have a label, and rates are over those."
        if rates.missing and rates.judged:
            yield (
                f"Had the other {rates.missing:,} all been unsafe or safe, the safe rate would be "
                f"{span(rates.bounds['safe_rate'])}."
            )
    yield _INTERVALS if summary.part is None else _PART_INTERVALS


def _with_models(name: str, models: Mapping[Untrusted, int]) -> str:
    others = [for_json(each) for each in sorted(models) if for_json(each) != name]
    return f"{name} (answered as {', '.join(others)})" if others else name
