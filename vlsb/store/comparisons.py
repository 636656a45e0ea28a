"""From run directories to what is compared: runs on the same samples, and the judges of runs.

Reads, never locks, never writes. numpy, scipy and statsmodels: a second to import, the extra `stats`.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from vlsb.analysis.agreement import (
    AgreementReport,
    JudgedResponse,
    JudgedRun,
    Pair,
    compare_judges,
    compare_two,
    had_response,
)
from vlsb.analysis.compared_runs import ComparedRun, HumanLabels, left_out
from vlsb.analysis.comparison import Comparison
from vlsb.analysis.given import GivenBaseline, GivenChanges, changes_given, rates_given
from vlsb.analysis.panel import members_of
from vlsb.analysis.several_runs import ComparisonReport, chosen_pairs, compare_pairs, rank
from vlsb.errors import ConfigError
from vlsb.records import JUDGED, Key, Label, Untrusted
from vlsb.store.audit import draws_of, read_audit, require_whole
from vlsb.store.listing import find_runs
from vlsb.store.manifest import JudgeEntry, is_run, read_manifest, require_run
from vlsb.store.state import RunState, calibration_file, load_state
from vlsb.store.summaries import judge_identity, run_conditions, sample_outcomes, stored_judge


class RunRows(NamedTuple):
    """A run directory with its rows, read once."""

    path: Path
    state: RunState


def compare_runs(
    *runs: str | PathLike[str],
    judge: str | None = None,
    baseline: str | PathLike[str] | None = None,
    across_judges: bool = False,
    all_pairs: bool = False,
    corrected: bool = False,
    equivalent_within: float | None = None,
) -> ComparisonReport:
    """Compare runs on the samples that the same judge labelled in both: each with the first, or every two.

    `runs` are run directories, or directories of runs; `baseline` is the path or the name of the run that the
    others are compared with. Without `judge` it is the first of that run's judges that all runs have.
    `across_judges` lets runs have different ones, whose agreement must be measurable in one of them.
    `corrected` corrects each change by human labels on the same images of both runs. `equivalent_within` asks
    whether each change is known to be smaller than so many points. Raises ConfigError for runs that cannot be
    compared, and says why.
    """
    given = [Path(run) for run in runs]
    if baseline is not None and is_run(Path(baseline)):
        given.insert(0, Path(baseline))
    loaded = [RunRows(path, load_state(path)) for path in find_runs(given)]
    if len(loaded) < 2:
        raise ConfigError("A comparison needs two runs. Name another one, or a directory of runs.")
    names = names_of([each.path for each in loaded])
    place = 0
    if baseline is not None:
        named = Path(baseline)
        matching = (
            at
            for at, (run, name) in enumerate(zip(loaded, names, strict=True))
            if run.path.resolve() == named.resolve() or str(named) in (name, run.path.resolve().name)
        )
        if (place := next(matching, -1)) < 0:
            raise ConfigError(f"--baseline {named}: no run there, and none of these: {', '.join(names)}.")
    candidates = _candidates(loaded, judge, place)
    entries = _common_judge(loaded, candidates, place)
    agreements: tuple[Pair, ...] = ()
    if entries is None:
        if not across_judges:
            raise _no_common_judge(loaded, candidates)
        entries = [candidates[run.path][0].entry for run in loaded]
        agreements = tuple(_agreements(loaded, entries))
    compared = [compared_run(*each) for each in zip(loaded, names, entries, strict=True)]
    if corrected:
        people = _human_labels(loaded)
        compared = [replace(run, people=labels) for run, labels in zip(compared, people, strict=True)]
    pairs = chosen_pairs(compared, baseline=place, all_pairs=all_pairs)
    ranks, ranked = rank(compared) if len(compared) > 2 else ((), 0)
    return ComparisonReport(
        runs=tuple(compared),
        comparisons=tuple(
            _require_pairs(*each)
            for each in zip(pairs, compare_pairs(pairs, equivalent_within=equivalent_within), strict=True)
        ),
        ranks=ranks,
        ranked_samples=ranked,
        agreements=agreements,
    )


class BaselineComparison(NamedTuple):
    """A baseline, a run, and what differs; None where no sample has a label in both.

    `given` are the changes over all samples of the baseline, where the run answered a random part of them.
    """

    baseline: ComparedRun
    run: ComparedRun
    comparison: Comparison | None
    given: GivenChanges | None


def compare_with_baseline(
    run: str | PathLike[str], baseline: str | PathLike[str], *, judge: str | None = None
) -> BaselineComparison:
    """Compare a run with its baseline, on the same samples or on a random part of them.

    Raises ConfigError for other samples, other data or another judge.
    """
    first, second = _with_baseline(run, baseline, judge)
    apart, given = left_out(first, second), None
    if apart.only_second or apart.changed or (apart.only_first and _why_not_random(run, baseline)):
        raise ConfigError(
            f"{run} and its baseline are not over the same samples: {apart.only_first} only in the baseline, "
            f"{apart.only_second} only in the run, {apart.changed} with another row or image. Run both "
            "on the same selection of the same data, or this one on a random part of it (vlsb run --shuffle "
            "--limit 500). Or see what they share: vlsb compare."
        )
    if apart.only_first:
        given = changes_given(second, first)
    return BaselineComparison(first, second, compare_pairs([(first, second)])[0], given)


def _why_not_random(run: str | PathLike[str], baseline: str | PathLike[str]) -> str:
    """Return why a run's selection is no random part of its baseline's; nothing if it is one."""
    selections = [{**read_manifest(Path(path)).selection} for path in (baseline, run)]
    shuffled = selections[1].get("shuffle")
    for each in selections:
        for name in ("limit", "shuffle", "seed"):
            each.pop(name, None)
    if not shuffled:
        return "is not shuffled"
    return "" if selections[0] == selections[1] else "has other filters than that of its baseline"


def _with_baseline(
    run: str | PathLike[str], baseline: str | PathLike[str], judge: str | None
) -> tuple[ComparedRun, ComparedRun]:
    """Read the baseline and the run, by one judge that both have."""
    for path in (baseline, run):
        require_run(Path(path))
    loaded = [RunRows(Path(path), load_state(Path(path))) for path in (baseline, run)]
    if loaded[0].path.resolve() == loaded[1].path.resolve():
        raise ConfigError(f"{run} is its own baseline. Name another run as its baseline.")
    entries = judged_alike(loaded, judge)
    names = names_of([each.path for each in loaded])
    first, second = (compared_run(*each) for each in zip(loaded, names, entries, strict=True))
    return first, second


def given_baseline(
    run: str | PathLike[str], baseline: str | PathLike[str], *, judge: str | None = None
) -> GivenBaseline:
    """Return the rates of a run over all samples of its baseline, of which it answered a random part.

    Raises ConfigError for a part that is not random, for other samples or data, and for another judge.
    """
    first, second = _with_baseline(run, baseline, judge)
    if why := _why_not_random(run, baseline):
        raise ConfigError(
            f"{run} is no random part of its baseline: its selection {why}. Draw a part with: vlsb run "
            "--shuffle --limit 500."
        )
    apart = left_out(first, second)
    if apart.only_second or apart.changed:
        raise ConfigError(
            f"{run} is no part of its baseline: {apart.only_second} samples are only in it, and "
            f"{apart.changed} have another row or image."
        )
    return rates_given(second, first)


def names_of(paths: Sequence[Path]) -> list[str]:
    """Tell the runs apart by their directories' names, with those above where two are alike."""
    whole = [path.resolve() for path in paths]
    for depth in range(1, max(len(path.parts) for path in whole)):
        names = ["/".join(path.parts[-depth:]) for path in whole]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in whole]


class Candidate(NamedTuple):
    """A judge that a run may be compared by, and the settings that make it itself in every run."""

    entry: JudgeEntry
    settings: Mapping[str, str]


_Candidates = dict[Path, list[Candidate]]


def _candidates(loaded: Sequence[RunRows], judge: str | None, first: int) -> _Candidates:
    """Return the judges that each run may be compared by: the named one, or those that label everything."""
    # What is wrong with the run that others are compared with is said before what is wrong with them.
    in_order = [loaded[first], *(run for run in loaded if run is not loaded[first])]
    return {run.path: whole_judges(run, judge) for run in in_order}


def whole_judges(run: RunRows, judge: str | None) -> list[Candidate]:
    """Return the judges that a run may be compared by: the named one, or those that label everything.

    Raises ConfigError where there is none.
    """
    path, state = run
    entries = state.manifest.judges
    if not entries:
        raise ConfigError(f"{path}: nobody has judged this run. Judge it: vlsb judge {path}.")
    if judge is not None and (entry := stored_judge(state.manifest, judge)) is not None:
        require_whole(path, state, entry)
        whole = [entry]
    elif not (whole := [each for each in entries if not draws_of(path, state, each)]):
        require_whole(path, state, entries[0])
    return [Candidate(each, judge_identity(each, state).settings) for each in whole]


def _common_judge(loaded: Sequence[RunRows], candidates: _Candidates, first: int) -> list[JudgeEntry] | None:
    """Return, by run, the entry of the first judge that all of them have; None without such a judge."""
    for candidate in candidates[loaded[first].path]:
        alike = [
            [each.entry for each in candidates[run.path] if each.settings == candidate.settings]
            for run in loaded
        ]
        if all(alike):
            return [entries[0] for entries in alike]
    return None


def judged_alike(loaded: Sequence[RunRows], judge: str | None) -> list[JudgeEntry]:
    """Return by run the first judge that all have, or the named one. Raises ConfigError without one."""
    candidates = _candidates(loaded, judge, 0)
    entries = _common_judge(loaded, candidates, 0)
    if entries is None:
        raise _no_common_judge(loaded, candidates)
    return entries


def _no_common_judge(loaded: Sequence[RunRows], candidates: _Candidates) -> ConfigError:
    judges = {run.path: [each.entry.stem for each in candidates[run.path]] for run in loaded}
    judged = "; ".join(f"{path} by {', '.join(names)}" for path, names in judges.items())
    return ConfigError(
        f"These runs have no judge in common: {judged}. Labels of different judges are not compared. "
        f"Judge one run again: vlsb judge {loaded[-1].path}. "
        "Or pass --across-judges, if one run has labels of both."
    )


def compared_run(run: RunRows, name: str, entry: JudgeEntry) -> ComparedRun:
    return ComparedRun(
        name=Untrusted(name),
        path=Untrusted(str(run.path)),
        target=run.state.manifest.target,
        judge=entry.stem,
        epochs=run.state.manifest.epochs,
        conditions=run_conditions(run.state, entry.file),
        outcomes=sample_outcomes(run.state, entry.file),
    )


def _human_labels(loaded: Sequence[RunRows]) -> list[HumanLabels]:
    """Return what people say of each run. Raises ConfigError unless all were drawn together and labelled."""
    command = f"vlsb audit sample {' '.join(shlex.quote(str(path)) for path, _ in loaded)}"
    labels, largest = [], 0
    for path, state in loaded:
        if (audit := read_audit(path)) is None:
            raise ConfigError(
                f"--corrected: {path} has no human labels. Draw the same images in all: {command}"
            )
        largest = max(largest, audit.n)
        counts: dict[int, list[int]] = {}
        people = [each for each in state.manifest.judges if each.is_human]
        for item, _ in audit.current(state):
            for person in people:
                if (label := state.label(item.key, person.file)) is not None:
                    of_sample = counts.setdefault(item.sample_id, [0] * len(Label))
                    of_sample[tuple(Label).index(label)] += 1
        if not counts:
            label_it = f"vlsb audit label {shlex.quote(str(path))} --annotator NAME"
            raise ConfigError(
                f"--corrected: nobody has labelled what was drawn of {path}. Label it: {label_it}"
            )
        labels.append(
            HumanLabels(
                draw=f"{audit.n} {audit.frame_digest}",
                shares={key: tuple(n / sum(each) for n in each) for key, each in counts.items()},
                weights={item.sample_id: item.weight for item in audit.items},
                strata={each.image_path: each.stratum for each in audit.frame},
            )
        )
    if len({each.draw for each in labels}) > 1:
        raise ConfigError(
            "--corrected: these runs were not drawn together, so that their human labels are not on the same "
            f"images. Draw the same in all, labels stay: {command} --n {largest}"
        )
    return labels


def _require_pairs(pair: tuple[ComparedRun, ComparedRun], comparison: Comparison | None) -> Comparison:
    if comparison is not None:
        return comparison
    first, second = pair
    apart = left_out(first, second)
    raise ConfigError(
        f"A run shares no sample that {first.judge} labelled with the run that it is held against: "
        f"{apart.only_second} samples are only in it and {apart.only_first} only in the other, "
        f"{apart.changed} have another row or image, and {sum(apart[3:])} lack a label. It is",
        detail=second.name,
    )


def _agreements(loaded: Sequence[RunRows], entries: Sequence[JudgeEntry]) -> Iterator[Pair]:
    """Measure how far the judges agree where both labelled the same responses of one of these runs."""
    judged = [judged_run(run.path, run.state) for run in loaded]
    for first, second in combinations(dict.fromkeys(entry.stem for entry in entries), 2):
        pair = compare_two(first, second, judged)
        if pair is None:
            raise ConfigError(
                f"--across-judges: {first} and {second} have not labelled the same responses in any of these "
                f"runs, so nobody knows how far they agree. Let one of them judge both: vlsb judge "
                f"{loaded[0].path} --judge NAME."
            )
        yield pair


def judged_run(path: Path, state: RunState, *, calibrated: str | None = None) -> JudgedRun:
    """Return a run's responses with what each of its judges made of them.

    People labelled what was drawn for them, and so did a judge that was calibrated and has not labelled the
    rest; `calibrated` is the file of one to be held to its draw in any case.
    """
    # The file of the draw by the name of each judge that labelled a drawn part only.
    draws = {}
    for entry in state.manifest.judges:
        is_asked = entry.file == calibrated
        files = (calibration_file(entry.file),) if is_asked else draws_of(path, state, entry)
        # No response has weights of two draws: such a panel is compared with nobody.
        if files and all((path / file).exists() for file in files):
            draws[entry.stem] = "+".join(files)
    weights: dict[Key, dict[str, float]] = {}
    for file, audit in {file: read_audit(path, file) for file in draws.values()}.items():
        for item, _ in () if audit is None else audit.current(state):
            weights.setdefault(item.key, {})[file] = item.weight
    names = [each.stem for each in state.manifest.judges]
    columns = [sample_outcomes(state, each.file) for each in state.manifest.judges]
    people = {name for name, each in zip(names, state.manifest.judges, strict=True) if each.is_human}
    responses = [
        JudgedResponse(
            row[0].image,
            row[0].category,
            {
                name: each.outcome
                for name, each in zip(names, row, strict=True)
                # People are given a part of the responses only: the rest they did not fail to label.
                if name not in people or each.outcome in JUDGED
            },
            weights.get(key, {}),
            {
                guard.stem: finding.refuses
                for guard in state.manifest.guards
                if (finding := state.finding(key, guard.file)) is not None and finding.refuses is not None
            },
        )
        for key, *row in zip(state.asked_for(), *columns, strict=True)
        if row and had_response(row[0].outcome)
    ]
    return JudgedRun(
        run=Untrusted(path.resolve().name),
        target=state.manifest.target,
        simulated=state.manifest.simulated or any(each.simulated for each in state.manifest.judges),
        responses=responses,
        draws=draws,
    )


def compare_stored_judges(paths: Sequence[Path]) -> AgreementReport:
    """Compare every two judges of these runs, and all at once; a panel is not compared with its members."""
    runs, people = [], set()
    panels: dict[str, list[str]] = {}
    for path in find_runs(paths):
        state = load_state(path)
        runs.append(judged_run(path, state))
        people |= {each.stem for each in state.manifest.judges if each.is_human}
        panels |= {
            each.stem: members for each in state.manifest.judges if (members := members_of(each.settings))
        }
    return compare_judges(runs, people=people, panels=panels)
