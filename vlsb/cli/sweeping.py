"""Carrying out `vlsb sweep`: the plan, where it runs, and what is shown meanwhile."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import ClassVar, Protocol

from vlsb.cli.live import Display, chosen_display
from vlsb.cli.screen import Screen
from vlsb.cli.sweep_end import show_end
from vlsb.cli.sweep_view import SweepView, live_lines
from vlsb.config import GRACE_S
from vlsb.endpoints import loops
from vlsb.engines.hardware import list_gpus
from vlsb.errors import ConfigError, SeveralErrors
from vlsb.records import Untrusted
from vlsb.reports.encode import for_terminal, json_document
from vlsb.sweep.board import Board, Status, Stop
from vlsb.sweep.cells import LineCounter, Watch, matrix
from vlsb.sweep.ended import FILE as ENDED_FILE
from vlsb.sweep.ended import EndedRuns
from vlsb.sweep.here import Slots, SweepHere
from vlsb.sweep.money import Budget
from vlsb.sweep.on_ray import SweepOnRay, require_ray
from vlsb.sweep.on_slurm import SweepOnSlurm, require_slurm
from vlsb.sweep.plan import Found, Plan, find_models, load_plan, plan_schema, unmatched
from vlsb.sweep.rates import Limits
from vlsb.sweep.ray_jobs import Job, is_jobs_address, run_job
from vlsb.sweep.sizing import Sizing
from vlsb.sweep.tasks import Places, fetch_runs
from vlsb.sweep.weights import prepare

_REFRESH_S = 1.0


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

    def sizing(self, plan: Plan, slots: Slots | None) -> Sizing:
        """What says how many GPUs models need: of this machine, or of those that the plan tells of."""
        if slots is not None and not slots.gpus:
            return Sizing(is_offline=self.offline)
        memory_bytes = (0 if slots is None else slots.memory_bytes) or plan.gpu_memory_bytes
        no_memory = "" if memory_bytes else "the plan has no gpu-memory-gb"
        return Sizing(memory_bytes, no_memory, is_offline=self.offline)

    def limit_words(self, times: float = 1) -> list[str]:
        """The limit of money as it is typed, or so many times as much."""
        return [] if self.max_cost is None else ["--max-cost", f"{self.max_cost * times:g}"]

    def own_environment(self) -> dict[str, str]:
        """What every command of the sweep is told beside its machine's own environment.

        A limit of money in there is the sweep's: each command is told its share of it, or none.
        """
        told = {"VLSB_MAX_COST": ""}
        told |= {"HF_HUB_OFFLINE": "1"} if self.offline else {}
        return told | ({"VLSB_YES": "1"} if self.yes else {})


class Runner(Protocol):
    """Carries the works of a board out, until all have ended or it is asked to stop."""

    hurry: ClassVar[str]
    """What is said at the second signal."""

    async def run(self, stop: Stop) -> None: ...


def schema_text() -> str:
    """The JSON schema of a plan."""
    return json_document(plan_schema())


def sweep(wishes: SweepWishes, screen: Screen) -> int:
    """Run what is left of a plan and return the exit code: the first that a cell ended with, if not 0."""
    plan = load_plan(wishes.plan)
    if wishes.ray is not None:
        if is_jobs_address(wishes.ray):
            words = ["--offline"] * wishes.offline + ["--yes"] * wishes.yes + wishes.limit_words()
            return loops.run(_sent(wishes.ray, Job.of(Path(plan.place), words), screen))
        require_ray(wishes.ray)
    if wishes.slurm:
        if wishes.max_cost is not None:
            raise ConfigError(
                "--max-cost cannot be held on Slurm: a job that it puts into the queue again would spend its "
                "share again. Run the sweep here or on Ray, or set a limit at the provider."
            )
        require_slurm()
    places = Places(plan.output_dir, plan.remote)
    board = Board(EndedRuns(plan.output_dir / ENDED_FILE, os.environ))
    kind = chosen_display(wishes.display)
    if kind != "rich":
        board.changed = live_lines(screen.notice)
    slots = None
    if not wishes.is_elsewhere:
        slots = Slots(list_gpus(os.environ).checked().gpus, Limits(os.environ))
    sizing = wishes.sizing(plan, slots)
    watch = Watch(plan, sizing, screen.notice) if wishes.watch else None
    models = None if watch is not None else models_now(plan, screen)
    if plan.remote:
        for work in matrix(plan, Sizing(), models).works:
            fetch_runs(work, places)
    board.add((matrix(plan, sizing, models) if watch is None else watch.first()).works)
    done = sum(entry.status is Status.DONE and not entry.lacks for entry in board.entries)
    if 0 < done < len(board.entries):
        screen.notice(f"{done:,} {'was' if done == 1 else 'were'} done before.")
    for line in unsized(sizing):
        screen.notice(line)
    again = partial(screen.command, _again(wishes, wishes.limit_words()))
    budget = Budget(wishes.max_cost, board.ended)
    budget.look(entry.work for entry in board.entries)
    runner = _runner(plan, wishes, board, places, slots, watch, budget)
    loops.run(_watched(runner, board, screen, kind, again))
    if watch is not None and not board.entries:
        require_models(plan, watch.found)
    if budget.is_reached(board):
        # With the same limit nothing would be left for it.
        again = partial(screen.command, _again(wishes, wishes.limit_words(times=2)))
    code = show_end(board, screen, again, budget)
    return code or (ConfigError.exit_code if watch is not None and watch.refused else 0)


def models_now(plan: Plan, screen: Screen) -> list[list[str]]:
    """The models that each entry of a plan names. Raises ConfigError for an entry that names none."""
    found = find_models(plan)
    require_models(plan, found)
    for folder, why in (each for one in found for each in one.unready.items()):
        screen.notice(f"{folder} is left out, as it is no whole checkpoint ({why.rstrip('.')}).")
    return [each.models for each in found]


def require_models(plan: Plan, found: Sequence[Found]) -> None:
    """Raise ConfigError for entries that name nothing."""
    advice = "--watch waits for checkpoints."
    if errors := [ConfigError(line, advice=advice) for line in unmatched(plan, found)]:
        raise SeveralErrors(errors) if len(errors) > 1 else errors[0]


async def _sent(address: str, job: Job, screen: Screen) -> int:
    """Run a sweep as a job of a cluster; a signal leaves it there."""
    stop = asyncio.Event()
    with loops.signals_in_loop(stop.set):
        return await run_job(
            address,
            job,
            stop,
            show=lambda line: screen.result(for_terminal(Untrusted(line), lines=True)),
            say=screen.notice,
        )


def unsized(sizing: Sizing) -> Iterator[str]:
    """What is said of models whose need could not be computed."""
    for why in dict.fromkeys(sizing.unknown.values()):
        names = ", ".join(name for name, reason in sizing.unknown.items() if reason == why)
        yield f"Taken to need one GPU: {names} ({why}). Say how many with num-gpus."


def _runner(
    plan: Plan,
    wishes: SweepWishes,
    board: Board,
    places: Places,
    slots: Slots | None,
    watch: Watch | None,
    budget: Budget,
) -> Runner:
    """Who carries a sweep out, as wished."""
    if wishes.ray is not None:
        return SweepOnRay(board, wishes.ray, places, wishes.own_environment(), plan.retries, budget)
    if slots is None:
        return SweepOnSlurm(board, plan.slurm, places, wishes.own_environment(), plan.retries)
    if plan.remote:
        raise ConfigError(f"output-dir: {plan.remote} is for --ray and --slurm. Here, name a folder.")
    return SweepHere(
        board,
        slots,
        {**os.environ, **wishes.own_environment()},
        plan.output_dir / "logs",
        plan.retries,
        budget,
        replan=watch,
    )


async def _watched(
    runner: Runner, board: Board, screen: Screen, kind: str, last_words: Callable[[], None]
) -> None:
    """Run a sweep while its table is shown; signals stop it as they stop a run."""
    stop, signals = Stop(), count(1)

    def asked() -> None:
        # Acts before it speaks: the terminal may be gone.
        number = next(signals)
        if number == 1:
            stop.asked.set()
            screen.notice(
                f"Stopping: what is in flight may finish for {GRACE_S:g} s and is stored. "
                "Press Ctrl-C again to drop it."
            )
        elif number == 2:
            stop.firmly.set()
            screen.notice(runner.hurry)
        else:
            loops.end_at_once(last_words)

    with loops.signals_in_loop(asked):
        shown = asyncio.create_task(_show(SweepView(board), screen)) if kind == "rich" else None
        try:
            await runner.run(stop)
        finally:
            if shown is not None:
                shown.cancel()
                with suppress(asyncio.CancelledError):
                    await shown


async def _show(view: SweepView, screen: Screen) -> None:
    from rich.console import Console
    from rich.live import Live

    console, counter = Console(stderr=True), LineCounter()
    with Live(console=console, auto_refresh=False, transient=True) as live:
        screen.above_bar = lambda line: console.print(line, markup=False, highlight=False)
        try:
            while True:
                size = shutil.get_terminal_size((80, 24))
                for work in view.uncounted(size.lines):
                    if (found := await asyncio.to_thread(counter.count, work)) is not None:
                        view.counts[work.name] = found
                live.update(view.draw(time.monotonic(), width=size.columns, height=size.lines), refresh=True)
                await asyncio.sleep(_REFRESH_S)
        finally:
            screen.above_bar = None


def _again(wishes: SweepWishes, limit: Sequence[str]) -> list[str]:
    words = ["vlsb", "sweep", wishes.plan, *limit]
    words += ["--watch"] * wishes.watch + ["--offline"] * wishes.offline + ["--slurm"] * wishes.slurm
    return words + (["--ray", wishes.ray] if wishes.ray is not None else []) + ["--yes"] * wishes.yes


def prepare_nodes(wishes: SweepWishes, screen: Screen) -> int:
    """Fetch all that the cells need, and return 2 where something could not be."""
    plan = load_plan(wishes.plan)
    found = matrix(plan, Sizing(), models_now(plan, screen))
    with Display(wishes.display, screen) as display:
        problems = loops.run(prepare(found, os.environ, on_progress=display.on_progress, say=screen.notice))
    for problem in problems:
        screen.line(f"Error: {problem}")
    if not problems:
        screen.result("Everything is here. On the nodes: vlsb sweep PLAN --offline")
    return 2 if problems else 0
