"""Runs as a paper needs them: beside the published row of their model, as a paragraph, and as citations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from vlsb.analysis.published import Published, PublishedResult, load_published
from vlsb.analysis.summary import Summary
from vlsb.reports.encode import Encode, for_latex, for_markdown, for_terminal
from vlsb.reports.methods import bibtex, methods_paragraph
from vlsb.reports.paper import Parity
from vlsb.store.listing import find_runs
from vlsb.store.manifest import JudgeEntry, Manifest, read_manifest, require_vlsbench
from vlsb.store.state import load_state
from vlsb.store.summaries import summarize_state

PROSE: Mapping[str, Encode] = {"table": for_terminal, "markdown": for_markdown, "latex": for_latex}


def parities_of(runs: Mapping[Path, str | None]) -> list[Parity]:
    """Each run, under the judge with that file or under each of its judges, beside what is published."""
    published = load_published()
    for run in runs:
        require_vlsbench(run, read_manifest(run), "--paper")
    return [
        Parity(
            summary=summary,
            manifest=manifest,
            judge=judge,
            published=published,
            results=_published_of(manifest, published),
        )
        for manifest, judge, summary in _judged_runs(runs)
    ]


def methods_text(runs: Mapping[Path, str | None], form: str) -> str:
    """A paragraph for each run and judge, on lines of their own; `runs` as for `parities_of`."""
    encode = PROSE[form]
    return "\n\n".join(encode(methods_paragraph(*each)) for each in _judged_runs(runs)) + "\n"


def bibtex_text(paths: Sequence[Path]) -> str:
    """The entries of VLSBench, and of vlsb in the versions that made these runs."""
    return bibtex([read_manifest(run).version for run in find_runs(paths)])


def _judged_runs(
    runs: Mapping[Path, str | None],
) -> Iterator[tuple[Manifest, JudgeEntry | None, Summary]]:
    """Every run with its judge of that file, or with each; with None once where it has none."""
    for run, file in runs.items():
        state = load_state(run)
        if not state.manifest.judges:
            yield state.manifest, None, summarize_state(state, run, None)
        for judge in state.manifest.judges:
            if file in (None, judge.file):
                yield state.manifest, judge, summarize_state(state, run, judge.file)


def _published_of(manifest: Manifest, published: Published) -> list[PublishedResult]:
    """What is published of a run's target: by its weights where it was served here, else by its name."""
    weights = manifest.settings.get("engine.weights")
    name = manifest.settings.get("model") if weights is None else weights.get("hub")
    return published.find(name) if isinstance(name, str) else []
