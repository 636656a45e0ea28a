"""What a paper says of a run: a paragraph on how it was measured, and whom to cite.

All of it is from the manifest and the rows. What they do not tell is said to be unknown, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlsb import strict_json
from vlsb.analysis.summary import Summary
from vlsb.records import PUBLISHED_IDS, VLSBENCH, Untrusted
from vlsb.reports.encode import Encode, for_json, for_latex, for_markdown, for_terminal
from vlsb.reports.notes import part_words
from vlsb.reports.report import Sentence, counted, percent, span
from vlsb.store.listing import find_runs
from vlsb.store.manifest import JudgeEntry, Manifest, read_manifest
from vlsb.store.state import load_state
from vlsb.store.summaries import summarize_state

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
    count, published = len(manifest.samples), len(PUBLISHED_IDS)
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
