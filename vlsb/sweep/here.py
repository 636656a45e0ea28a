"""A sweep on this machine: first-fit over the GPUs that are free, each command a child that ends with us."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

from vlsb.engines.checkpoint import fetch_for_engine
from vlsb.engines.hardware import Gpu
from vlsb.engines.process import EngineProcess, start_process
from vlsb.errors import ConfigError, VlsbError
from vlsb.evaluation.named_models import RateAccount
from vlsb.evaluation.options import RunOptions
from vlsb.models.profile import ModelProfile
from vlsb.steps import ignore
from vlsb.sweep.board import Board, BoardEntry, Status, Stop
from vlsb.sweep.body import STOP_GRACE_S
from vlsb.sweep.cells import Matrix, SweepWork
from vlsb.sweep.money import Budget

# Checkpoints come minutes apart, and looking for them reads a folder.
WATCH_EVERY_S = 5.0
# A desktop takes less of a GPU than a fifth, a model more.
_FREE_SHARE = 0.8
# Each is a process with images in flight: a hundred of them would take a machine's memory.
_MOST_HOSTED = 16
_FETCH = "import sys; from vlsb.sweep.here import fetch; fetch(sys.argv[1], sys.argv[2] or None)"
# Divided among many, a limit must not become none.
_LEAST_RPM = 0.1
_LEAST_TPM = 1.0
_Identity = tuple[str, frozenset[str], str]


@dataclass(frozen=True, slots=True)
class AccountLimits:
    """The rate limits that works on one machine share: who takes turns, and who gets which part of a limit.

    Works that ask one target take turns. Judges' accounts are used side by side, so that no GPU waits for
    another one's judge: a limit that the plan declares is divided by as many as may ever use it at once, and
    what it does not declare each command learns from what the provider says is left, or refuses. Two
    variables with one key are one account.
    """

    environment: Mapping[str, str] = field(default_factory=dict)

    def turns(self, work: SweepWork) -> frozenset[_Identity]:
        """Return the accounts that it uses alone: its target's, or its judge's where nobody else is asked."""
        return frozenset(map(self._identity, work.turns))

    def shared_out(
        self, work: SweepWork, unfinished: Sequence[SweepWork], places: int, *, may_grow: bool
    ) -> RunOptions:
        """Divide each declared limit in a work's options by how many may use its account at once.

        `unfinished` are all that have not ended, itself included, and `places` is how many engines can run at
        once; `may_grow` says that more local models may come. As nobody begins with less company than there
        will be, the parts in use are never more than the whole.
        """
        options = work.options

        def users(account: RateAccount | None) -> int:
            if account is None:
                return 1
            identity = self._identity(account)
            # Judges alone and cells never run at once.
            beside = [
                each
                for each in unfinished
                if each.is_cell == work.is_cell and identity in map(self._identity, each.accounts)
            ]
            local = sum(each.num_gpus is not None for each in beside)
            hosted = len({self.turns(each) or each.name for each in beside if each.num_gpus is None})
            # Those that come are judged as the others are.
            is_bounded = not (may_grow and account in work.judge_accounts)
            return max(1, hosted + (min(local, places) if is_bounded else places))

        of_target = max(map(users, work.targets), default=1)
        of_judges = [users(account) for account in work.judge_accounts]
        return replace(
            options,
            rpm=None if options.rpm is None else max(_LEAST_RPM, options.rpm / of_target),
            tpm=None if options.tpm is None else max(_LEAST_TPM, options.tpm / of_target),
            judge_rpm=_divided(options.judge_rpm, of_judges, _LEAST_RPM),
            judge_tpm=_divided(options.judge_tpm, of_judges, _LEAST_TPM),
        )

    def _identity(self, account: RateAccount) -> _Identity:
        keys = frozenset(self.environment.get(name, f"unset {name}") for name in account.variables)
        return account.base_url, keys, account.model


def _divided(caps: Sequence[float], users: Sequence[int], least: float) -> tuple[float, ...]:
    """Divide one limit for all judges, or one each, for each judge."""
    if not caps or max(users, default=1) == 1:
        return tuple(caps)
    each = list(caps) if len(caps) > 1 else [caps[0]] * len(users)
    return tuple(max(least, cap / count) for cap, count in zip(each, users, strict=True))


@dataclass(slots=True)
class Slots:
    """What works here take turns in: GPUs, rate limits of hosted models, the CPU where there is no GPU."""

    gpus: Sequence[Gpu]
    limits: AccountLimits = field(default_factory=AccountLimits)
    _taken: dict[int, tuple[int, ...]] = field(default_factory=dict)
    _in_use: dict[int, frozenset[Any]] = field(default_factory=dict)
    _free: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Somebody else's are left alone, unless there are no others.
        free = [g for g in self.gpus if not g.memory_bytes or g.free_bytes >= _FREE_SHARE * g.memory_bytes]
        self._free = [gpu.index for gpu in free or self.gpus] if self.gpus else [-1]

    @property
    def size(self) -> int:
        """How many GPUs works may have, or 1 for the CPU."""
        return len(self._free)

    @property
    def memory_bytes(self) -> int:
        """What the smallest of them has; 0 where there is none, or the driver does not say."""
        return min((gpu.memory_bytes for gpu in self.gpus if gpu.index in self._free), default=0)

    def take(self, entry: BoardEntry) -> bool:
        """Give a work its GPUs, none to a hosted model's; False where it has to wait."""
        work = entry.work
        turns = self.limits.turns(work)
        if not turns.isdisjoint(chain.from_iterable(self._in_use.values())):
            return False
        held = {index for indices in self._taken.values() for index in indices}
        free = [index for index in self._free if index not in held]
        count = self.needed(work)
        if count > len(free) or (not count and list(self._taken.values()).count(()) >= _MOST_HOSTED):
            return False
        self._in_use[id(entry)] = turns
        self._taken[id(entry)] = tuple(free[:count])
        return True

    def taken(self, entry: BoardEntry) -> tuple[int, ...]:
        """Return the GPUs that a work was given."""
        return self._taken[id(entry)]

    def needed(self, work: SweepWork) -> int:
        """Count the slots that it takes: without a GPU an engine takes the one that the CPU is."""
        if work.num_gpus is None:
            return 0
        return work.num_gpus if self.gpus else 1

    def give_back(self, entry: BoardEntry) -> None:
        """Take back what a work held that has ended."""
        self._taken.pop(id(entry), None)
        self._in_use.pop(id(entry), None)

    def environment(self, taken: tuple[int, ...]) -> dict[str, str]:
        """Return the variables that show an engine its GPUs."""
        if not taken or taken == (-1,):
            return {}
        return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, taken))}


@dataclass(slots=True)
class SweepHere:
    """One sweep on this machine. `replan` gives the matrix where it is another by now, for `--watch`.

    `environment` is that of every command; `logs` is the folder of what they print.
    """

    hurry: ClassVar[str] = "Dropping what is in flight."
    board: Board
    slots: Slots
    environment: Mapping[str, str]
    logs: Path
    retries: int
    budget: Budget
    replan: Callable[[], Matrix | None] | None = None
    watch_every_s: float = WATCH_EVERY_S
    _children: dict[BoardEntry, EngineProcess] = field(default_factory=dict)
    _fetching: EngineProcess | None = None
    _fetched: set[tuple[str, str | None]] = field(default_factory=set)

    async def run(self, stop: Stop) -> None:
        """Run all works; when `stop` is asked, end the children in order and leave the rest.

        A work that fails never ends another.
        """
        stopping = asyncio.create_task(stop.asked.wait())
        ends: dict[asyncio.Task[int], BoardEntry] = {}
        try:
            while not stop.asked.is_set():
                self._start_all(ends)
                if not ends and any(self.board.waiting()):
                    # Those whose command could not be started were in their way.
                    continue
                if not ends and (self.replan is None or self.budget.is_reached(self.board)):
                    return
                wait_s = self.watch_every_s if self.replan is not None else None
                await asyncio.wait({*ends, stopping}, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
                for ended in [task for task in ends if task.done()]:
                    entry, code = ends.pop(ended), ended.result()
                    self._children.pop(entry, None)
                    self.slots.give_back(entry)
                    is_short = await asyncio.to_thread(self.budget.end, entry, code)
                    await self.board.end(entry, code, retries=self.retries, is_short=is_short)
                if self.replan is None or stop.asked.is_set():
                    continue
                if (matrix := await asyncio.to_thread(self.replan)) is not None:
                    await asyncio.to_thread(self.budget.look, matrix.works)
                    self.board.add(matrix.works)
        finally:
            stopping.cancel()
            children = [*self._children.values(), *([self._fetching] if self._fetching else [])]

            async def urge() -> None:
                # What they have in flight is dropped.
                await stop.firmly.wait()
                for child in children:
                    child.urge()

            urging = asyncio.create_task(urge())
            await asyncio.gather(*(child.stop(STOP_GRACE_S) for child in children))
            urging.cancel()
            for task in ends:
                task.cancel()
            await asyncio.gather(stopping, *ends, return_exceptions=True)
            self.board.stop()

    def _start_all(self, ends: dict[asyncio.Task[int], BoardEntry]) -> None:
        # More checkpoints may come while those that are there run.
        places = 1 if self.replan is None else self.slots.size

        def take(entry: BoardEntry) -> bool:
            """Say whether it can be started now, with slots that are its own from then on."""
            if (needed := self.slots.needed(entry.work)) > self.slots.size:
                free = len(self.slots.gpus)
                self.board.fail(entry, ConfigError(f"needs {needed} GPUs, and {free} are free here"))
                return False
            return self.slots.take(entry)

        for entry, share_usd in self.budget.to_start(self.board, take, places=places):
            taken, log = self.slots.taken(entry), self.logs / entry.work.log_name
            # Its part of the rate limits that others use, too.
            ended = (Status.DONE, Status.FAILED)
            unfinished = [each.work for each in self.board.entries if each.status not in ended]
            options = self.slots.limits.shared_out(
                entry.work, unfinished, self.slots.size, may_grow=self.replan is not None
            )
            options = replace(options, max_cost=share_usd)
            try:
                child = start_process(
                    [sys.executable, "-m", "vlsb", *entry.work.command(options)],
                    environment={**self.environment, **self.slots.environment(taken)},
                    log=log,
                )
            except VlsbError as error:
                self.slots.give_back(entry)
                self.budget.give_back(entry)
                self.board.fail(entry, error)
                continue
            self._children[entry] = child
            names = ",".join(map(str, taken))
            place = "" if not taken else "CPU" if taken == (-1,) else f"GPU {names}"
            self.board.start(entry, place, log)
            ends[asyncio.create_task(child.wait())] = entry
        self._fetch_next()

    def _fetch_next(self) -> None:
        """Download the weights of the next local model meanwhile; what fails, its cell says."""
        if self._fetching is not None and self._fetching.exit_code() is None:
            return
        for model in (model for entry in self.board.waiting() for model in entry.work.weights):
            if is_on_hub(model) and (model.weights, model.revision) not in self._fetched:
                self._fetched.add((model.weights, model.revision))
                with suppress(VlsbError):
                    self._fetching = start_process(
                        [sys.executable, "-c", _FETCH, model.weights, model.revision or ""],
                        environment=self.environment,
                        log=self.logs / "weights.log",
                    )
                return


def is_on_hub(model: ModelProfile) -> bool:
    """Say whether its weights are a repository of the Hugging Face Hub, and no folder here."""
    is_path = model.weights.startswith(("/", "./", "../", "~"))
    return bool(model.weights) and not is_path and not Path(model.weights).is_dir()


def fetch(name: str, revision: str | None) -> None:
    """Download a repository's weights into the Hugging Face cache, in a process of its own. Blocking."""
    try:
        fetch_for_engine(name, revision, on_progress=ignore)
    except VlsbError as error:
        sys.exit(f"{name}: {error.message}")
