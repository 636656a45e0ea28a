"""From a plan to what is done: cells, each a run, then each local judge over all of their runs.

Whether something is done its run directory says, from its rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from vlsb.analysis.summary import FailOnError
from vlsb.engines.plan import Wishes
from vlsb.engines.preflight import declares_gpus, gpus_taken
from vlsb.errors import ConfigError, StoreError
from vlsb.evaluation.leasing import engine_wishes, judge_wishes
from vlsb.evaluation.options import OF_EACH_JUDGE, RunOptions
from vlsb.evaluation.protocol import safe_name
from vlsb.evaluation.settings import (
    RateAccount,
    hosted_judges,
    hosted_target,
    judge_models,
    rate_accounts,
    run_directory,
    selection_of,
    target_profile,
)
from vlsb.models.catalog import name_of_place
from vlsb.models.profile import ModelProfile
from vlsb.store.gaps import find_gaps
from vlsb.store.manifest import Manifest, entries_named, is_run, read_manifest
from vlsb.store.state import FINDINGS, RESPONSES, VERDICTS, RunState, load_state
from vlsb.sweep.ended import Ended, EndedRuns
from vlsb.sweep.plan import JudgeChoice, ModelEntry, Plan, expand
from vlsb.sweep.sizing import Sizing, recorded_gpus, recorded_judge_gpus

_PIECE = 1 << 20
_NOT_IN_LOG_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


class Standing(NamedTuple):
    """Whether a work's command would find nothing to do; if so, in words what is missing all the same.

    What ended without a response or a verdict is not asked for again, and stays missing. `lacks` is empty
    where that is no more than `fail-on-error` allows.
    """

    is_done: bool
    lacks: str = ""


@dataclass(frozen=True, slots=True)
class Work:
    """One thing to do: the `vlsb` command of a cell, or of a judge over the runs of all cells.

    `num_gpus` is what its engine takes, None for what is asked elsewhere. `targets` are the accounts of a
    hosted target, `judge_accounts` those of its judges in their order, None for one that has none. `weights`
    are the local models that it needs.
    `may_lack` is how many samples may lack what it brings.
    """

    name: str
    options: RunOptions
    runs: tuple[Path, ...]
    judges: tuple[str, ...]
    num_gpus: int | None
    may_lack: FailOnError
    targets: tuple[RateAccount, ...] = ()
    judge_accounts: tuple[RateAccount | None, ...] = ()
    weights: tuple[ModelProfile, ...] = ()
    is_cell: bool = True

    @property
    def log_name(self) -> str:
        """The name of the file that its command's output goes to."""
        return f"{_NOT_IN_LOG_NAMES.sub('-', self.name)}.log"

    @property
    def accounts(self) -> tuple[RateAccount, ...]:
        """All accounts whose rate limits its requests use."""
        return (*self.targets, *(each for each in self.judge_accounts if each is not None))

    @property
    def turns(self) -> tuple[RateAccount, ...]:
        """The accounts that it does not share: those without which it would have nothing to do."""
        if self.is_cell:
            return self.targets
        return self.accounts if self.num_gpus is None else ()

    def command(self, options: RunOptions | None = None) -> list[str]:
        """The words after `vlsb`, with these options or its own. Runs that are not there are not judged."""
        options = self.options if options is None else options
        after = ["--", *options.engine_options] if options.engine_options else []
        if self.is_cell:
            return ["run", *options.as_words(), "--resume", *after]
        return ["judge", *(str(run) for run in self.runs if is_run(run)), *options.as_words()]

    def standing(self, ended: EndedRuns, *, is_tried: bool = False) -> Standing:
        """Where it stands by the rows of those of its runs that `ended` does not know. Blocking.

        Once `is_tried`, a judge is done when it is with the runs that are there. Raises StoreError for a
        damaged one.
        """
        lacking, runs = [], self.runs
        if is_tried and not self.is_cell:
            runs = tuple(run for run in runs if is_run(run))
        for run in runs:
            found = self.ended(run, ended, partial(load_state, run)) if is_run(run) else None
            if found is None:
                return Standing(False)
            if found.gaps is not None:
                lacking.append(found.gaps)
        if len(lacking) > 1:
            missing = sum(gaps.missing for gaps in lacking)
            return Standing(True, f"{missing:,} samples of {len(lacking)} runs have no verdict")
        return Standing(True, "".join(map(str, lacking)))

    def ended(self, run: Path, ended: EndedRuns, read: Callable[[], RunState]) -> Ended | None:
        """Whether one of its runs has ended, and with which gaps; None if not. It is read if need be."""
        question = (self.is_cell, *self.judges, *self.options.as_words())
        return ended.recall(run, question, lambda: self._ended_in(read()))

    def _ended_in(self, state: RunState) -> Ended | None:
        if self.is_cell and _is_smaller(state.manifest, self.options):
            return None
        if (files := _ended_files(state, self.judges, is_cell=self.is_cell)) is None:
            return None
        return Ended(find_gaps(state, files, self.may_lack, is_judging=not self.is_cell))

    def can_start(self) -> bool:
        """Whether there is anything to work on: a judge needs a run."""
        return self.is_cell or any(is_run(run) for run in self.runs)


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the matrix: the run of a model under a protocol, with so many epochs.

    `entry` is the number of the plan's entry that names the model.
    """

    model: str
    protocol: str
    epochs: int
    entry: int
    work: Work

    @property
    def directory(self) -> Path:
        """Where its run is."""
        return self.work.runs[0]


@dataclass(frozen=True, slots=True)
class Matrix:
    """All that a plan comes to: its cells, and the judges that follow when all cells have ended."""

    cells: tuple[Cell, ...]
    judging: tuple[Work, ...]

    @property
    def works(self) -> tuple[Work, ...]:
        """Everything, in its order."""
        return (*(cell.work for cell in self.cells), *self.judging)


def matrix(plan: Plan, sizing: Sizing, models: Sequence[Sequence[str]] | None = None) -> Matrix:
    """The cells of a plan and its judges, for the models that its entries name: those that are there now.

    `sizing` says how many GPUs each takes. Raises ConfigError with the line for what could not run.
    """
    models = [expand(entry) for entry in plan.models] if models is None else models
    beside, after = _split_judges(plan)
    judging = _Beside.of(beside)
    cells: list[Cell] = []
    places: dict[Path, int] = {}
    for entry, names in zip(plan.models, models, strict=True):
        for model in names:
            for protocol, changes in plan.protocols.items():
                for epochs in plan.epochs:
                    try:
                        cell = _cell(plan, sizing, entry, model, protocol, changes, epochs, judging)
                    except ConfigError as error:
                        raise ConfigError(f"{plan.at(entry.line)}: {error.message}") from None
                    if (line := places.setdefault(cell.directory, entry.line)) != entry.line:
                        raise ConfigError(
                            f"{plan.at(entry.line)}: {model} would write to {cell.directory}, as line {line} "
                            "does. Give one of the two a name."
                        )
                    cells.append(cell)
    runs = tuple(dict.fromkeys(cell.directory for cell in cells))
    return Matrix(tuple(cells), tuple(_judging(plan, sizing, choice, runs) for choice in after))


@dataclass(frozen=True, slots=True)
class _Beside:
    """The judges that label in the cells: their options as one command has them, titles and accounts."""

    options: Mapping[str, Any]
    titles: tuple[str, ...] = ()
    accounts: tuple[RateAccount | None, ...] = ()

    @classmethod
    def of(cls, choices: Sequence[JudgeChoice]) -> _Beside:
        if not choices:
            return cls({})
        merged = _merged(choices)
        options = RunOptions(**merged)
        return cls(merged, tuple(judge_models(options)), _accounts(options))


def _accounts(options: RunOptions) -> tuple[RateAccount | None, ...]:
    """The accounts of judges in the order of their options."""
    return tuple(
        None if settings is None else rate_accounts(settings)[0]
        for settings in hosted_judges(options).values()
    )


@dataclass(slots=True)
class Watch:
    """The matrix of a plan whenever its patterns match other folders than before; None while they do not."""

    plan: Plan
    sizing: Sizing
    _models: list[list[str]] = field(default_factory=list)
    _whole: set[str] = field(default_factory=set)

    def __call__(self) -> Matrix | None:
        """Look again. Blocking; raises as `matrix`."""
        found = [expand(entry, self._whole) for entry in self.plan.models]
        if found == self._models:
            return None
        self._models = found
        return matrix(self.plan, self.sizing, found)


def _cell(
    plan: Plan,
    sizing: Sizing,
    entry: ModelEntry,
    model: str,
    protocol: str,
    changes: Mapping[str, Any],
    epochs: int,
    judging: _Beside,
) -> Cell:
    base = entry.name or safe_name(name_of_place(model))
    if entry.name and entry.is_glob:
        base = f"{entry.name}-{safe_name(name_of_place(model))}"
    parts = [base, *([protocol] if len(plan.protocols) > 1 else [])]
    parts += [f"{epochs}x"] if len(plan.epochs) > 1 else []
    options = RunOptions(
        **{
            **entry.options,
            **changes,
            **judging.options,
            "model": model,
            "epochs": epochs,
            "no_judge": not judging.titles,
            "name": "--".join(parts),
            "output_dir": plan.output_dir,
            "display": "plain",
        }
    )
    directory, profile = run_directory(options), target_profile(options)
    assert directory is not None
    taken = None
    if profile is not None:
        wishes = engine_wishes(options)
        taken = _gpus(sizing, profile, wishes, entry.num_gpus, partial(recorded_gpus, directory))
        options = _shared_by(options, profile, wishes, taken)
        taken *= options.replicas
    target = hosted_target(options) if profile is None else None
    work = Work(
        name=directory.name,
        options=options,
        runs=(directory,),
        judges=judging.titles,
        num_gpus=taken,
        may_lack=FailOnError.parse(options.fail_on_error),
        targets=() if target is None else rate_accounts(target),
        judge_accounts=judging.accounts,
        weights=() if profile is None else (_at_revision(profile, options),),
    )
    return Cell(model, protocol, epochs, plan.models.index(entry), work)


def _gpus(
    sizing: Sizing,
    profile: ModelProfile,
    wishes: Wishes,
    num_gpus: int | None,
    recorded: Callable[[], int | None],
) -> int:
    """How many GPUs an engine takes: as its entry says, or its options, or what it needs."""
    if num_gpus is None:
        return sizing.count(profile, wishes, recorded)
    declared = gpus_taken(profile, wishes)
    if num_gpus not in (0, declared) and declared != 1:
        raise ConfigError(f"{profile.name}: num-gpus is {num_gpus}, and its options take {declared}.")
    return num_gpus


def _shared_by(options: RunOptions, profile: ModelProfile, wishes: Wishes, gpus: int) -> RunOptions:
    """The options with so many GPUs for a copy of the model, where nothing else says how they share it."""
    if gpus <= 1 or declares_gpus(profile, wishes):
        return options
    return replace(options, tensor_parallel_size=gpus)


def _at_revision(profile: ModelProfile, options: RunOptions) -> ModelProfile:
    return replace(
        profile,
        weights=options.weights or profile.weights,
        revision=options.revision or profile.revision,
    )


def _split_judges(plan: Plan) -> tuple[list[JudgeChoice], list[JudgeChoice]]:
    """Judges asked elsewhere, which label in the run, and those that follow it: local ones, and those whose
    options cannot stand beside another's."""
    beside: list[JudgeChoice] = []
    after: list[JudgeChoice] = []
    lines: dict[str, int] = {}
    for choice in plan.judges:
        try:
            models = judge_models(RunOptions(**choice.options, judge=(choice.judge,)))
        except ConfigError as error:
            raise ConfigError(f"{plan.at(choice.line)}: {error.message}") from None
        for title in models:
            # Whether a run is labelled, it tells by the judge's name.
            if title in lines:
                raise ConfigError(
                    f"{plan.at(choice.line)}: {title} is a judge already, in line {lines[title]}. Give "
                    "another judgement by it a name of its own (judges-dir), or use vlsb judge."
                )
            lines[title] = choice.line
        is_local = any(profile is not None for profile in models.values())
        fits = not beside or (_shared(choice) == _shared(beside[0]) and _same_kinds(choice, beside[0]))
        (after if is_local or not fits else beside).append(choice)
    return beside, after


def _shared(choice: JudgeChoice) -> dict[str, Any]:
    """The options that all judges of one command have alike."""
    return {name: value for name, value in choice.options.items() if name not in OF_EACH_JUDGE}


def _same_kinds(choice: JudgeChoice, other: JudgeChoice) -> bool:
    """Whether both set the same of the options that are given once for each."""
    return set(choice.options) & set(OF_EACH_JUDGE) == set(other.options) & set(OF_EACH_JUDGE)


def _merged(choices: Sequence[JudgeChoice]) -> dict[str, Any]:
    """The options of several judges as one command takes them."""
    options = _shared(choices[0]) | {"judge": tuple(choice.judge for choice in choices)}
    for name in OF_EACH_JUDGE[1:]:
        values = [choice.options[name] for choice in choices if name in choice.options]
        if values:
            # One value stands for all of them.
            alike = all(value == values[0] for value in values)
            options[name] = values[0] if alike else tuple(each for value in values for each in value)
    return options


def _judging(plan: Plan, sizing: Sizing, choice: JudgeChoice, runs: tuple[Path, ...]) -> Work:
    options = RunOptions(**choice.options, judge=(choice.judge,), display="plain")
    models = judge_models(options)
    local = {title: profile for title, profile in models.items() if profile is not None}
    taken, wishes = None, judge_wishes(options)
    for title, profile in local.items():
        recorded = partial(recorded_judge_gpus, runs, title)
        taken = max(taken or 0, _gpus(sizing, profile, wishes, choice.num_gpus, recorded))
        options = _shared_by(options, profile, wishes, taken)
    return Work(
        name=f"judge {', '.join(models)}",
        options=options,
        runs=runs,
        judges=tuple(models),
        num_gpus=None if taken is None else taken * options.replicas,
        may_lack=FailOnError.parse(options.fail_on_error),
        judge_accounts=_accounts(options),
        weights=tuple(local.values()),
        is_cell=False,
    )


def _is_smaller(manifest: Manifest, options: RunOptions) -> bool:
    """Whether a run may have fewer samples or epochs than its cell asks for by now."""
    return manifest.epochs < options.epochs or manifest.selection != selection_of(options).describe()


def _ended_files(state: RunState, judges: Sequence[str], *, is_cell: bool) -> tuple[str, ...] | None:
    """The files of these judges in a run that has every response, and every label, that a resume would ask
    for again; None for any other run. For a judge alone, responses that are not there do not count."""
    keys = list(state.asked_for())
    if is_cell and any(state.is_left(key, None) for key in keys):
        return None
    there, files = [key for key in keys if key in state.responses], []
    for title in judges:
        ended = [
            entry.file
            for entry in entries_named(state.manifest, title)
            if not any(state.is_left(key, entry.file) for key in there)
        ]
        if not ended:
            return None
        files.append(ended[-1])
    return tuple(files)


@dataclass(frozen=True, slots=True)
class Counts:
    """How far a work is: responses and labels that are there, of those that it will bring."""

    done: int
    total: int


@dataclass(slots=True)
class LineCounter:
    """Counts the rows of a growing run by the lines of its files, reading each byte once.

    A row that another replaces counts twice, so this is for a display and for nothing else.
    """

    _seen: dict[Path, tuple[int, int]] = field(default_factory=dict)
    _selected: dict[Path, int] = field(default_factory=dict)

    def count(self, work: Work) -> Counts | None:
        """How far it is; None before its run is there."""
        done = total = 0
        for run in work.runs:
            if (selected := self._selected_in(run)) is None:
                continue
            files = [run / RESPONSES] if work.is_cell else []
            stored = sorted(
                each for folder in (VERDICTS, FINDINGS) for each in (run / folder).glob("*.jsonl")
            )
            # A judge's own file is known by its name's beginning only to people.
            files += stored[: len(work.judges)] if work.is_cell else stored[-len(work.judges) :]
            done += sum(min(selected, self._lines(file)) for file in files)
            total += selected * (len(work.judges) + work.is_cell)
        return Counts(done, total) if total else None

    def _selected_in(self, run: Path) -> int | None:
        if run not in self._selected:
            try:
                manifest = read_manifest(run)
            except (StoreError, ConfigError):
                return None
            self._selected[run] = len(manifest.samples) * manifest.epochs
        return self._selected[run]

    def _lines(self, file: Path) -> int:
        at, lines = self._seen.get(file, (0, 0))
        try:
            with file.open("rb") as stream:
                stream.seek(at)
                while piece := stream.read(_PIECE):
                    at, lines = at + len(piece), lines + piece.count(b"\n")
        except OSError:
            return lines
        self._seen[file] = at, lines
        return lines
