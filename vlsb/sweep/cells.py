"""From a plan to what is done: cells, each a run, then each local judge over all of their runs.

Whether something is done its run directory says, from its rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, product
from pathlib import Path
from typing import Any, NamedTuple

from vlsb.analysis.summary import FailOnError
from vlsb.engines.placement import declares_gpus, gpus_taken
from vlsb.engines.plan import Wishes
from vlsb.errors import ConfigError, RunMismatchError, StoreError
from vlsb.evaluation.identity import judging_files
from vlsb.evaluation.named_models import (
    Judges,
    NamedTarget,
    RateAccount,
    engine_wishes,
    rate_accounts,
    resolve_judges,
    run_directory,
)
from vlsb.evaluation.options import OF_EACH_JUDGE, RunOptions
from vlsb.evaluation.settings import selection_of
from vlsb.models.catalog import name_of_place, safe_name
from vlsb.models.profile import ModelProfile
from vlsb.store.manifest import entries_named, is_run, read_manifest
from vlsb.store.state import FINDINGS, RESPONSES, VERDICTS, RunState, load_state
from vlsb.store.summaries import find_gaps
from vlsb.sweep.ended import EndedRun, EndedRuns
from vlsb.sweep.plan import EntryModels, JudgeChoice, ModelEntry, SweepPlan, find_models, unmatched
from vlsb.sweep.sizing import Sizing, recorded_gpus, recorded_judge_gpus

OWN_FOLDERS = ("logs", "slurm")
"""Folders of a sweep beside its runs."""
_PIECE = 1 << 20
_NOT_IN_LOG_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


class WorkStatus(NamedTuple):
    """Whether a work's command would find nothing to do; if so, in words what is missing all the same.

    What ended without a response or a verdict is not asked for again, and stays missing. `lacks` is empty
    where that is no more than `fail-on-error` allows.
    """

    is_done: bool
    lacks: str = ""


@dataclass(frozen=True, slots=True)
class SweepWork:
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
        """Return the words after `vlsb`, with these options or its own. Only runs that exist are judged."""
        options = self.options if options is None else options
        after = ["--", *options.engine_options] if options.engine_options else []
        if self.is_cell:
            return ["run", *options.as_words(), "--resume", *after]
        return ["judge", *(str(run) for run in self.runs if is_run(run)), *options.as_words()]

    def standing(self, ended: EndedRuns, *, is_tried: bool = False) -> WorkStatus:
        """Read where it stands from those of its runs that `ended` does not know. Blocking.

        Once `is_tried`, its command has compared what it asks for with what is there, and a judge is done
        when it is with the runs that are there. Raises StoreError for a damaged run, and RunMismatchError for
        one that was made with other settings than its cell has.
        """
        lacking, runs = [], self.runs
        if is_tried and not self.is_cell:
            runs = tuple(run for run in runs if is_run(run))
        for run in runs:
            answer = self.ended(run, ended, is_tried=is_tried) if is_run(run) else None
            if answer is None:
                return WorkStatus(False)
            if answer.gaps is not None:
                lacking.append(answer.gaps)
        if len(lacking) > 1:
            missing = sum(gaps.missing for gaps in lacking)
            return WorkStatus(True, f"{missing:,} samples of {len(lacking)} runs have no verdict")
        return WorkStatus(True, "".join(map(str, lacking)))

    def ended(
        self, run: Path, ended: EndedRuns, rows: RunState | None = None, *, is_tried: bool = False
    ) -> EndedRun | None:
        """Say whether one of its runs has ended, and with which gaps; None if not. It is read if need be.

        What only its command can tell counts as not ended, unless that `is_tried`.
        """

        def find() -> EndedRun | None:
            state = rows or load_state(run)
            if is_tried:
                # By their names; of several the last.
                named = [entries_named(state.manifest, title) for title in self.judges]
                files = [each[-1].file for each in named] if all(named) else None
            else:
                files = self._compared(run, state, ended)
            # A plan may ask for more samples or epochs by now than the run was started with.
            is_other = state.manifest.selection != selection_of(self.options).describe()
            is_smaller = is_other or state.manifest.epochs < self.options.epochs
            if files is None or (self.is_cell and is_smaller):
                return None
            # Whether a resume would ask for a response, or for a label of these judges. For a judge alone,
            # responses that are not there do not count.
            keys = list(state.asked_for())
            if self.is_cell and any(state.is_left(key, None) for key in keys):
                return None
            if any(state.is_left(key, file) for key in keys if key in state.responses for file in files):
                return None
            return EndedRun(find_gaps(state, files, self.may_lack, is_judging=not self.is_cell))

        return ended.recall(run, (self.is_cell, *self.judges), self.options, find)

    def _compared(self, run: Path, state: RunState, ended: EndedRuns) -> list[str] | None:
        """Return the files of its judges in a run; None where only its command can tell."""
        if ended.decided_elsewhere(self.options):
            return None
        if not self.is_cell:
            return judging_files(self.options, state)
        try:
            return ended.identities.judge_files(self.options, run, state)
        except RunMismatchError as error:
            if error.detail is None:
                raise
            raise RunMismatchError(
                f"its run {run} was made with other settings than the plan has. Use the old ones, or give "
                "the entry another name for a new run",
                detail=error.detail,
            ) from error

    def can_start(self) -> bool:
        """Say whether there is anything to work on: a judge needs a run."""
        return self.is_cell or any(is_run(run) for run in self.runs)


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the matrix: the run of a model under a protocol, with this many epochs.

    `entry` is the number of the plan's entry that names the model.
    """

    model: str
    protocol: str
    epochs: int
    entry: int
    work: SweepWork

    @property
    def directory(self) -> Path:
        """Where its run is."""
        return self.work.runs[0]


@dataclass(frozen=True, slots=True)
class Matrix:
    """All that a plan comes to: its cells, and the judges that follow when all cells have ended."""

    cells: tuple[Cell, ...]
    judging: tuple[SweepWork, ...]

    @property
    def works(self) -> tuple[SweepWork, ...]:
        """Everything, in its order."""
        return (*(cell.work for cell in self.cells), *self.judging)


class CellOrigin(NamedTuple):
    """What writes to a run directory: the number of the plan's entry, the model, and how it is asked."""

    entry: int
    model: str
    protocol: str
    epochs: int


def matrix(
    plan: SweepPlan,
    sizing: Sizing,
    models: Sequence[Sequence[str]] | None = None,
    *,
    places: dict[Path, CellOrigin] | None = None,
    leave_out: Callable[[ConfigError], None] | None = None,
) -> Matrix:
    """Lay out the cells of a plan and its judges, for the models that its entries name by now.

    `sizing` says how many GPUs each takes. Raises ConfigError with the line for what could not run, or would
    write where another cell does; with `leave_out` that is called with it, and the matrix lacks the cell.
    `places` has the directories that are in use, and takes up these.
    """
    models = [entries.models for entries in find_models(plan)] if models is None else models
    beside, after = _split_judges(plan)
    judging = _Beside.of(beside)
    cells: list[Cell] = []
    taken = {} if places is None else places
    for number, (entry, names) in enumerate(zip(plan.models, models, strict=True)):
        for model, (protocol, changes), epochs in product(names, plan.protocols.items(), plan.epochs):
            try:
                cell = _cell(plan, sizing, entry, model, protocol, changes, epochs, judging)
                place = CellOrigin(number, model, protocol, epochs)
                if (other := taken.setdefault(cell.directory, place)) != place:
                    first, advice = plan.models[other.entry], "Give one of the two a name."
                    if first is entry:
                        advice = "List them one by one, each with a name."
                    raise ConfigError(
                        f"{_entry_words(entry, place)} would write to {cell.directory}, as "
                        f"{_entry_words(first, other)} of line {first.line} does. {advice}"
                    )
            except ConfigError as error:
                refusal = ConfigError(f"{plan.at(entry.line)}: {error.message}")
                if leave_out is None:
                    raise refusal from None
                leave_out(refusal)
                continue
            cells.append(cell)
    runs = tuple(cell.directory for cell in cells)
    return Matrix(tuple(cells), tuple(_judging(plan, sizing, choice, runs) for choice in after))


def _entry_words(entry: ModelEntry, place: CellOrigin) -> str:
    """Name a cell as its plan does: by the entry, the folder that its pattern matches, the protocol."""
    pattern = f" ({entry.model})" if entry.is_glob else ""
    protocol = f" under {place.protocol}" if place.protocol else ""
    return f"{place.model}{pattern}{protocol}"


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
        options = _frame(choices[0])[0] | {"judge": tuple(choice.judge for choice in choices)}
        for name in OF_EACH_JUDGE[1:]:
            values = [choice.options[name] for choice in choices if name in choice.options]
            if values:
                # One value stands for all of them.
                alike = all(value == values[0] for value in values)
                options[name] = values[0] if alike else tuple(each for value in values for each in value)
        judges = resolve_judges(RunOptions(**options))
        return cls(options, tuple(judges.profiles), _accounts(judges))


def _accounts(judges: Judges) -> tuple[RateAccount | None, ...]:
    """Return the accounts of judges in the order of their options."""
    return tuple(
        None if settings is None else rate_accounts(settings)[0] for settings in judges.hosted.values()
    )


@dataclass(slots=True)
class Watch:
    """The matrix of a plan whenever its patterns match other folders than before; None while they do not.

    `matches` has what they match now. `say` hears, once, of what is waited for, and of a cell that cannot
    be: it is left out, and `refused` has why.
    """

    plan: SweepPlan
    sizing: Sizing
    say: Callable[[str], None]
    matches: list[EntryModels] = field(default_factory=list)
    refused: list[ConfigError] = field(default_factory=list)
    _places: dict[Path, CellOrigin] = field(default_factory=dict)
    _whole: set[str] = field(default_factory=set)
    _said: set[str] = field(default_factory=set)

    def first(self) -> Matrix:
        """Lay out the matrix at the beginning, when nothing may be wrong. Blocking; raises as `matrix`."""
        self._look()
        return matrix(self.plan, self.sizing, self._models, places=self._places)

    def __call__(self) -> Matrix | None:
        """Look again. Blocking; raises as `find_models`."""
        before = self._models
        self._look()
        if self._models == before:
            return None

        def leave_out(error: ConfigError) -> None:
            if self._say_once(error.message, f"Error: {error.message} It is left out."):
                self.refused.append(error)

        return matrix(self.plan, self.sizing, self._models, places=self._places, leave_out=leave_out)

    @property
    def _models(self) -> list[list[str]]:
        return [each.models for each in self.matches]

    def _look(self) -> None:
        self.matches = find_models(self.plan, self._whole)
        for line in unmatched(self.plan, self.matches):
            self._say_once(line, f"{line} Waiting for it.")
        for folder, why in chain.from_iterable(each.unready.items() for each in self.matches):
            self._say_once(
                folder, f"{folder} is not a whole checkpoint yet ({why.rstrip('.')}). Waiting for it."
            )

    def _say_once(self, what: str, line: str) -> bool:
        is_new = what not in self._said
        self._said.add(what)
        if is_new:
            self.say(line)
        return is_new


def _cell(
    plan: SweepPlan,
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
    of_judges = {name: value for name, value in judging.options.items() if plan.defaults.get(name) != value}
    options = RunOptions(
        **{
            # What judges have from the defaults alone is the model's entry's to change.
            **judging.options,
            **entry.options,
            **changes,
            **of_judges,
            "model": model,
            "epochs": epochs,
            "no_judge": not judging.titles,
            "name": "--".join(parts),
            "output_dir": plan.output_dir,
            "display": "plain",
        }
    )
    if options.name != safe_name(options.name or "") or options.name in OWN_FOLDERS:
        why = "the sweep has a folder of that name" if options.name in OWN_FOLDERS else "it is too long"
        raise ConfigError(f"{options.name} cannot be the name of a run: {why}. Give the entry a name.")
    directory, target = run_directory(options), NamedTarget.of(options)
    profile = target.profile if target.is_local else None
    assert directory is not None
    taken = None
    if profile is not None:
        wishes = engine_wishes(options)
        taken = _gpus(sizing, profile, wishes, entry.num_gpus, partial(recorded_gpus, directory))
        options = _shared_by(options, profile, wishes, taken)
        taken *= options.replicas
        weights, revision = options.weights or profile.weights, options.revision or profile.revision
    hosted = target.hosted(options)
    work = SweepWork(
        name=directory.name,
        options=options,
        runs=(directory,),
        judges=judging.titles,
        num_gpus=taken,
        may_lack=FailOnError.parse(options.fail_on_error),
        targets=() if hosted is None else rate_accounts(hosted),
        judge_accounts=judging.accounts,
        weights=() if profile is None else (replace(profile, weights=weights, revision=revision),),
    )
    return Cell(model, protocol, epochs, plan.models.index(entry), work)


def _gpus(
    sizing: Sizing,
    profile: ModelProfile,
    wishes: Wishes,
    num_gpus: int | None,
    recorded: Callable[[], int | None],
) -> int:
    """Count the GPUs of an engine: as its entry says, or its options, or as it needs."""
    if num_gpus is None:
        return sizing.count(profile, wishes, recorded)
    declared = gpus_taken(profile, wishes)
    if num_gpus not in (0, declared) and declared != 1:
        raise ConfigError(f"{profile.name}: num-gpus is {num_gpus}, and its options take {declared}.")
    return num_gpus


def _shared_by(options: RunOptions, profile: ModelProfile, wishes: Wishes, gpus: int) -> RunOptions:
    """Give a copy of the model so many GPUs, where nothing else says how they share it."""
    if gpus <= 1 or declares_gpus(profile, wishes):
        return options
    return replace(options, tensor_parallel_size=gpus)


def _split_judges(plan: SweepPlan) -> tuple[list[JudgeChoice], list[JudgeChoice]]:
    """Part the judges that label in the run from those that follow it.

    Those that follow are local, or their options cannot stand beside another's.
    """
    beside: list[JudgeChoice] = []
    after: list[JudgeChoice] = []
    lines: dict[str, int] = {}
    for choice in plan.judges:
        try:
            models = resolve_judges(RunOptions(**choice.options, judge=(choice.judge,))).profiles
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
        fits = not beside or _frame(choice) == _frame(beside[0])
        (after if is_local or not fits else beside).append(choice)
    return beside, after


def _frame(choice: JudgeChoice) -> tuple[dict[str, Any], set[str]]:
    """Return what all judges of one command have alike, and which options are given once for each."""
    shared = {name: value for name, value in choice.options.items() if name not in OF_EACH_JUDGE}
    return shared, choice.options.keys() - shared.keys()


def _judging(plan: SweepPlan, sizing: Sizing, choice: JudgeChoice, runs: tuple[Path, ...]) -> SweepWork:
    options = RunOptions(**choice.options, judge=(choice.judge,), display="plain")
    judges = resolve_judges(options)
    models = judges.profiles
    local = {title: profile for title, profile in models.items() if profile is not None}
    taken, wishes = None, engine_wishes(options).for_judge()
    for title, profile in local.items():
        recorded = partial(recorded_judge_gpus, runs, title)
        taken = max(taken or 0, _gpus(sizing, profile, wishes, choice.num_gpus, recorded))
        options = _shared_by(options, profile, wishes, taken)
    return SweepWork(
        name=f"judge {', '.join(models)}",
        options=options,
        runs=runs,
        judges=tuple(models),
        num_gpus=None if taken is None else taken * options.replicas,
        may_lack=FailOnError.parse(options.fail_on_error),
        judge_accounts=_accounts(judges),
        weights=tuple(local.values()),
        is_cell=False,
    )


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

    def count(self, work: SweepWork) -> Counts | None:
        """Count how far it is; None before its run exists."""
        done = total = 0
        for run in work.runs:
            if run not in self._selected:
                try:
                    manifest = read_manifest(run)
                except (StoreError, ConfigError):
                    continue
                self._selected[run] = len(manifest.samples) * manifest.epochs
            selected = self._selected[run]
            files = [run / RESPONSES] if work.is_cell else []
            stored = sorted(
                each for folder in (VERDICTS, FINDINGS) for each in (run / folder).glob("*.jsonl")
            )
            # A judge's own file is known by its name's beginning only to people.
            files += stored[: len(work.judges)] if work.is_cell else stored[-len(work.judges) :]
            for file in files:
                at, lines = self._seen.get(file, (0, 0))
                with suppress(OSError), file.open("rb") as stream:
                    stream.seek(at)
                    while piece := stream.read(_PIECE):
                        at, lines = at + len(piece), lines + piece.count(b"\n")
                self._seen[file] = at, lines
                done += min(selected, lines)
            total += selected * (len(work.judges) + work.is_cell)
        return Counts(done, total) if total else None
