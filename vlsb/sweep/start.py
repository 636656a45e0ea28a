"""A sweep from what the user typed: its plan, its board, and who carries it out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Protocol

from vlsb.data import fetch_dataset
from vlsb.engines.checkpoint import fetch_checkpoint, fetch_for_engine, identify
from vlsb.engines.hardware import gpus, list_gpus
from vlsb.engines.install import AUTO
from vlsb.engines.lease import accept, ready_engine
from vlsb.engines.plan import Wishes
from vlsb.errors import ConfigError, SeveralErrors, VlsbError
from vlsb.records import VLSBENCH
from vlsb.steps import OnProgress, in_thread, threaded
from vlsb.sweep.board import Board, BoardEntry, Status, Stop
from vlsb.sweep.body import RunFolders, fetch_runs
from vlsb.sweep.cells import Matrix, Watch, matrix
from vlsb.sweep.ended import FILE as ENDED_FILE
from vlsb.sweep.ended import EndedRuns
from vlsb.sweep.here import AccountLimits, Slots, SweepHere, is_on_hub
from vlsb.sweep.money import Budget
from vlsb.sweep.on_ray import SweepOnRay, is_jobs_address, require_ray
from vlsb.sweep.on_slurm import SweepOnSlurm, require_slurm
from vlsb.sweep.plan import EntryModels, SweepPlan, find_models, unmatched
from vlsb.sweep.sizing import Sizing


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepWishes:
    """The options of `vlsb sweep`, as typed."""

    plan: str
    watch: bool = False
    offline: bool = False
    ray: str | None = None
    slurm: bool = False
    max_cost: float | None = None
    display: str | None = None
    yes: bool = False

    @property
    def is_elsewhere(self) -> bool:
        """Whether cells run on other machines."""
        return self.ray is not None or self.slurm

    @property
    def is_job(self) -> bool:
        """Whether the sweep itself runs on a cluster, as a job of its Jobs server."""
        return self.ray is not None and is_jobs_address(self.ray)

    def job_words(self) -> list[str]:
        """Return the words for the `vlsb sweep` of a job, after its plan."""
        return ["--offline"] * self.offline + ["--yes"] * self.yes + self._limit_words()

    def command(self, *, times: float = 1) -> list[str]:
        """Return the words that start this sweep again, with this many times the limit of money."""
        words = ["vlsb", "sweep", self.plan, *self._limit_words(times)]
        words += ["--watch"] * self.watch + ["--offline"] * self.offline + ["--slurm"] * self.slurm
        return words + (["--ray", self.ray] if self.ray is not None else []) + ["--yes"] * self.yes

    def _limit_words(self, times: float = 1) -> list[str]:
        return [] if self.max_cost is None else ["--max-cost", f"{self.max_cost * times:g}"]

    def own_environment(self) -> dict[str, str]:
        """Return the variables that every command of the sweep gets beside its machine's own.

        A limit of money in there is the sweep's: each command gets its share of it, or none.
        """
        variables = {"VLSB_MAX_COST": ""}
        variables |= {"HF_HUB_OFFLINE": "1"} if self.offline else {}
        return variables | ({"VLSB_YES": "1"} if self.yes else {})

    def sizing(self, plan: SweepPlan, slots: Slots | None) -> Sizing:
        """Return what counts the GPUs of models: by this machine's, or by those that the plan tells of."""
        if slots is not None and not slots.gpus:
            return Sizing(is_offline=self.offline)
        memory_bytes = (0 if slots is None else slots.memory_bytes) or plan.gpu_memory_bytes
        no_memory = "" if memory_bytes else "the plan has no gpu-memory-gb"
        return Sizing(memory_bytes, no_memory, is_offline=self.offline)

    def require_place(self) -> None:
        """Raise ConfigError where Ray or Slurm is asked for and cannot be used."""
        if self.ray is not None:
            require_ray(self.ray)
        if self.slurm:
            if self.max_cost is not None:
                raise ConfigError(
                    "--max-cost cannot be held on Slurm: a job that it puts into the queue again would spend "
                    "its share again. Run the sweep here or on Ray, or set a limit at the provider."
                )
            require_slurm()


class Runner(Protocol):
    """Carries the works of a board out, until all have ended or it is asked to stop."""

    hurry: ClassVar[str]
    """The line that is printed at the second signal."""

    async def run(self, stop: Stop) -> None: ...


@dataclass(slots=True)
class Sweep:
    """A sweep that can begin: every work of its plan stands on the board."""

    board: Board
    budget: Budget
    runner: Runner
    watch: Watch | None = None

    def require_models(self, plan: SweepPlan) -> None:
        """Raise ConfigError where a watch has ended and no folder ever matched."""
        if self.watch is not None and not self.board.entries:
            require_models(plan, self.watch.matches)


def open_sweep(
    plan: SweepPlan,
    wishes: SweepWishes,
    environment: Mapping[str, str],
    *,
    on_change: Callable[[BoardEntry], None] | None,
    say: Callable[[str], None],
) -> Sweep:
    """Read what is done of a plan and choose who carries out the rest. Blocking; raises ConfigError."""
    wishes.require_place()
    folders = RunFolders(plan.output_dir, plan.remote)
    board = Board(EndedRuns(plan.output_dir / ENDED_FILE, environment))
    if on_change is not None:
        board.changed = on_change
    slots = None
    if not wishes.is_elsewhere:
        slots = Slots(list_gpus(environment).checked().gpus, AccountLimits(environment))
    sizing = wishes.sizing(plan, slots)
    watch = Watch(plan, sizing, say) if wishes.watch else None
    models = None if watch is not None else models_now(plan, say)
    if plan.remote:
        for work in matrix(plan, Sizing(), models).works:
            fetch_runs(work, folders)
    board.add((matrix(plan, sizing, models) if watch is None else watch.first()).works)
    done = sum(entry.status is Status.DONE and not entry.lacks for entry in board.entries)
    if 0 < done < len(board.entries):
        say(f"{done:,} {'was' if done == 1 else 'were'} done before.")
    for line in unsized(sizing):
        say(line)
    budget = Budget(wishes.max_cost, board.ended)
    budget.look(entry.work for entry in board.entries)
    own = wishes.own_environment()
    runner: Runner
    if wishes.ray is not None:
        runner = SweepOnRay(board, wishes.ray, folders, own, plan.retries, budget)
    elif slots is None:
        runner = SweepOnSlurm(board, plan.slurm, folders, own, plan.retries)
    elif plan.remote:
        raise ConfigError(f"output-dir: {plan.remote} is for --ray and --slurm. Here, name a folder.")
    else:
        logs = plan.output_dir / "logs"
        runner = SweepHere(board, slots, {**environment, **own}, logs, plan.retries, budget, replan=watch)
    return Sweep(board, budget, runner, watch)


def models_now(plan: SweepPlan, say: Callable[[str], None]) -> list[list[str]]:
    """Return the models that each entry of a plan names. Raises ConfigError for an entry that names none."""
    entries = find_models(plan)
    require_models(plan, entries)
    for folder, why in (each for one in entries for each in one.unready.items()):
        say(f"{folder} is left out, as it is not a whole checkpoint ({why.rstrip('.')}).")
    return [each.models for each in entries]


def require_models(plan: SweepPlan, entries: Sequence[EntryModels]) -> None:
    """Raise ConfigError for entries that name nothing."""
    advice = "--watch waits for checkpoints."
    if errors := [ConfigError(line, advice=advice) for line in unmatched(plan, entries)]:
        raise SeveralErrors(errors) if len(errors) > 1 else errors[0]


def unsized(sizing: Sizing) -> Iterator[str]:
    """Say which models are taken to need one GPU, and why nobody knows."""
    for why in dict.fromkeys(sizing.unknown.values()):
        names = ", ".join(name for name, reason in sizing.unknown.items() if reason == why)
        yield f"Taken to need one GPU: {names} ({why}). Say how many with num-gpus."


async def prepare(
    matrix: Matrix,
    environment: Mapping[str, str],
    *,
    on_progress: OnProgress,
    say: Callable[[str], None],
) -> list[str]:
    """Fetch the data set, the engines and the weights of a sweep, and return what failed, in words."""
    problems = []
    works = matrix.works
    cells = [work.options for work in works if work.is_cell]
    if any(each.dataset == VLSBENCH and each.data_root is None for each in cells):
        try:
            await in_thread(
                lambda report: fetch_dataset(revision=None, offline=False, on_progress=report), on_progress
            )
        except VlsbError as error:
            problems.append(f"The data set: {error.message}")
    needed = {
        (model.weights, model.revision, model.engine.name, work.options.engine): model
        for work in works
        for model in work.weights
    }
    for (*_, engine), model in needed.items():
        say(f"{model.name}: engine and weights")
        try:
            profile = await threaded(identify)(model)
            await ready_engine(
                profile,
                Wishes(engine=engine),
                environment=environment,
                may_install=accept,
                on_progress=on_progress,
                say=say,
                # What memory the nodes have cannot be seen from here.
                is_running=True,
            )
            if is_on_hub(model):
                # What is converted here comes in another form than what an engine reads itself.
                fetch = fetch_for_engine if profile.source_architecture is None else fetch_checkpoint
                await in_thread(partial(fetch, model.weights, model.revision), on_progress)
        except VlsbError as error:
            problems.append(f"{model.name}: {error.message}")
    if not needed:
        say("No local model is in the plan.")
    elif any(engine == AUTO for *_, engine in needed) and not gpus(environment):
        say("No GPU here: these engines are those for the CPU. For nodes with GPUs, prepare on one.")
    return problems
