"""One history: a drawn workload, with faults, kills and restarts, and what must hold at every step of it.

A run is evaluated session after session. Sessions are killed, cancelled, interrupted or let go; in the last
one nothing fails any more, and it has to bring the run to its end.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import random
import re
import shutil
import signal
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import orjson

import vlsb.api
from tests.simulation import faults
from tests.simulation.faults import KEY
from tests.simulation.limits import ON_ITS_WAY_S, Account, Enforced
from tests.simulation.loop import Deadlock
from tests.simulation.plans import MOST_SAMPLES, TOKENS, UNHEARD, USD_OF_ONE, USD_PER_TOKEN, Plan, SessionPlan
from tests.simulation.provider import MOST_BATCHES, Provider
from tests.simulation.world import BEGAN_AT, World, quietly
from tests.support.datasets import sharing_rows, write_dataset
from tests.support.endpoint import sample_of
from tests.support.run_files import records
from vlsb.config import RetryPolicy
from vlsb.errors import VlsbError
from vlsb.evaluation.session import Listeners
from vlsb.records import RETRIED_ON_RESUME
from vlsb.simulator import Action, BatchPlan, Reply, Request, Simulator, answer, rate_limited, verdict
from vlsb.store.store import BATCHES

LIMITS = ("429", "429 with a wait")
MOST_ATTEMPTS = RetryPolicy().max_attempts
HOST = "model.example"
# Only here and at known providers there are batches.
BATCH_HOST = "127.0.0.1"
KEY_VARIABLE = "SIMULATED_KEY"
KEPT_VARIABLES = {"HOME", "PATH", "PYTHONHASHSEED", "PYTHONPATH", "TMPDIR"}
MOST_COLLECTIONS = 5
# So often at most a history by batch has to be resumed once nothing fails: each of its batches may stop it.
MOST_RESUMES = 2 * MOST_BATCHES
# Within this many virtual seconds a session in which nothing fails has to end.
LIVENESS_S = 3600.0

# An answer that came so long before a kill has long been written.
KEPT_S = 0.2


class Violation(AssertionError):
    """Something that must never be was, or something that must be was not."""


class _Killed(BaseException):
    """SIGKILL: nothing of the session runs any more."""


class History:
    """The run of a plan in a directory of its own."""

    def __init__(self, seed: int, plan: Plan, directory: Path, data: Path) -> None:
        self.plan = plan
        self.log: list[str] = []
        self.virtual_s = 0.0
        self._seed = seed
        self._directory = directory
        self.data = data
        self._number = 0
        self.home = directory / "0"
        self._run = self.home / "r"
        # Samples of the target, and responses of each judge, that met a fault which may end them.
        self._excused: set[tuple[str, int]] = set()
        self._paid_usd = 0.0
        self._spent_at: float | None = None
        self._handed_over: list[tuple[float, str]] = []
        self._arrivals: list[tuple[float, str]] = []
        # By lane and sample: requests, those that met a fault, and of these the ones that met a rate limit.
        self._sent = Counter[tuple[str, int]]()
        self._failed = Counter[tuple[str, int]]()
        self._refused = Counter[tuple[str, int]]()
        # Until when an account's endpoint wants nothing.
        self._paused: dict[Account, float] = {}
        self._finished = _Finished(self._run)
        # The labels that a report counts, by judge, sample and epoch.
        self._labels: dict[tuple[str, int, int], int] = {}
        self.provider = Provider(plan.batches or (), random.Random(f"provider {seed}"))
        # The batch that the last session could not account for.
        self.lost_batch: str | None = None
        self._doubts = Counter[str]()
        self.has_stopped = False

    def carry_out(self) -> None:
        """Go through the sessions; Violation where something does not hold."""
        for number, session in enumerate(self.plan.sessions):
            is_last = number == len(self.plan.sessions) - 1
            if is_last:
                self.provider.let_all(BatchPlan())
            self._session(number, session, is_last=is_last)
        for _ in range(MOST_RESUMES if self.plan.batches is not None else 0):
            if not self.has_stopped:
                break
            number += 1
            self._session(number, session, is_last=True)
        if self.plan.batches is not None:
            # What an earlier session's batch said of a sample was read only now, and may pass.
            self._session(number + 1, session, is_last=True)
        self._require_complete()

    def digest(self) -> str:
        """A checksum of everything that was asked, logged and written."""
        whole = hashlib.sha256("\n".join(self.log).encode())
        for path in sorted(self.home.rglob("*")):
            if path.is_file() and path.name != ".lock":
                # The directory is another one in each process.
                contents = path.read_bytes().replace(str(self._directory.parent).encode(), b"")
                whole.update(path.name.encode() + contents)
        return whole.hexdigest()

    def _session(self, number: int, session: SessionPlan, *, is_last: bool) -> None:
        self._arrivals, self._handed_over, self._paid_usd, self._spent_at = [], [], 0.0, None
        self._sent, self._failed, self._refused, self._paused = Counter(), Counter(), Counter(), {}
        batches = len(self.provider.submitted)
        self.has_stopped, self.provider.calls, self.provider.call_faults = False, 0, session.call_faults
        with quietly():
            if self._is_killed(number, session, is_last=is_last):
                # What a dead session still wants to do goes to a directory that nobody looks at again.
                # What ends as it is freed may leave something that is freed only then.
                for _ in range(MOST_COLLECTIONS):
                    if not gc.collect():
                        break
        self._require_whole()
        self._require_counted()
        self._require_no_key()
        if session.max_requests is not None:
            sent = len(self._arrivals) + sum(map(len, self.provider.submitted[batches:]))
            if sent > session.max_requests:
                raise Violation(f"{sent} requests were sent, of {session.max_requests}")
        if session.rpm is not None:
            self._require_rate(session.rpm)
        if session.max_cost is not None:
            made_usd = sum(map(len, self.provider.submitted[batches:])) * USD_OF_ONE
            if made_usd > session.max_cost:
                raise Violation(f"batches for ${made_usd:g} were made, of ${session.max_cost:g}")

    def _is_killed(self, number: int, session: SessionPlan, *, is_last: bool) -> bool:
        """Let a session live; whether it was killed."""
        world = World(f"{self._seed} {number}", budget_bytes=self.plan.budget_bytes)
        world.skew_s = session.skew_s
        is_killed = False
        with world.entered(), _with_signals():
            try:
                world.run(_Main(self, world, session).run())
            except _Killed:
                is_killed = True
                self.note(world, "killed")
                world.loop.forget()
            except Deadlock as error:
                raise Violation(f"session {number}: {error}") from None
        self.virtual_s += world.loop.time()
        if world.bodies.most_bytes > max(self.plan.budget_bytes, world.bodies.largest):
            raise Violation(f"{world.bodies.most_bytes} bytes of bodies at once, of {self.plan.budget_bytes}")
        if is_last and world.loop.time() > LIVENESS_S:
            raise Violation(f"the last session took {world.loop.time():,.0f} virtual seconds")
        return is_killed

    def stopped(self, error: VlsbError) -> None:
        """Remember what a session ended with, maybe a batch that nobody can account for."""
        self.has_stopped = True
        if named := re.search(r"--batch-again (\S+)", error.advice or ""):
            # It is looked for in one more session before the user gives it up.
            self._doubts[named[1]] += 1
            self.lost_batch = named[1] if self._doubts[named[1]] > 1 else None

    def given_up(self) -> list[str] | None:
        """Return the batch that the user gives up in this session, if there is one."""
        if (name := self.lost_batch) is None:
            return None
        self.lost_batch = None
        steps = _rows(self._run / BATCHES)
        self.provider.ask_again(
            {each for step in steps if step["name"] == name for each in step.get("requests", ())}
        )
        return [name]

    def kill(self, world: World) -> None:
        """Leave the files as they are now to the next session, and end this one."""
        self._require_kept(world)
        self._number += 1
        home = self._directory / str(self._number)
        if self.home.exists():
            shutil.copytree(self.home, home, symlinks=True)
        self.home, self._run = home, home / "r"
        self._finished = _Finished(self._run)
        raise _Killed

    def note(self, world: World, what: str) -> None:
        """Remember what happened, and when."""
        self.log.append(f"{world.loop.time():.6f} {what}")

    def asked(self, world: World, request: Request, lane: str, plan: SessionPlan) -> None:
        """A request has arrived: it must ask for something that is not finished."""
        sample = sample_of(request)
        self.note(world, f"asked {lane} {sample}")
        if not request.headers:
            return
        self._arrivals.append((world.loop.time(), lane))
        if request.bearer != KEY:
            raise Violation(f"{lane} {sample} was asked without its key")
        if self._spent_at is not None and world.loop.time() > self._spent_at + ON_ITS_WAY_S:
            raise Violation(f"{lane} {sample} was asked when --max-cost was spent")
        self._require_no_pause(world, lane, request)
        self._require_few(lane, sample, plan)
        if lane == "t":
            done, asked = self._finished.of_target(sample, plan.retry), self.plan.epochs
        else:
            done, asked = self._finished.of_judge(lane, sample, request.judged_response or "", plan.retry)
        if done >= asked:
            raise Violation(f"{lane} was asked for sample {sample} again, which was done")

    def _require_no_pause(self, world: World, lane: str, request: Request) -> None:
        """While a rate limit is waited out, nothing is sent there."""
        ends_at = self._paused.get(_account(lane, request), 0.0)
        if world.loop.time() < ends_at:
            raise Violation(f"{lane} was asked {ends_at - world.loop.time():.3f} s before a pause ended")

    def _require_few(self, lane: str, sample: int, plan: SessionPlan) -> None:
        """A session sends a sample once for each time that it failed, and at most so often for an answer."""
        self._sent[lane, sample] += 1
        failed, most = (
            self._failed[lane, sample],
            self.plan.epochs * MOST_ATTEMPTS * (1 if lane == "t" else 2),
        )
        # What was on its way when its endpoint went down is nobody's fault; one that does not reply is down.
        is_up = not plan.outages and not UNHEARD.intersection(plan.stubborn.values())
        if is_up and self._sent[lane, sample] > self.plan.epochs + failed:
            raise Violation(f"{lane} was asked for sample {sample} more often than that failed")
        if is_up and self._sent[lane, sample] - self._refused[lane, sample] > most:
            raise Violation(f"{lane} was asked for sample {sample} more than {most} times")

    def failed(self, lane: str, sample: int, name: str) -> None:
        """A request has met a fault."""
        self._failed[lane, sample] += 1
        self._refused[lane, sample] += name in LIMITS

    def refused(self, world: World, account: Account, ends_at: float) -> None:
        """The endpoint has said until when it wants nothing more."""
        world.loop.call_later(ON_ITS_WAY_S, self._pause, account, ends_at)

    def _pause(self, account: Account, ends_at: float) -> None:
        self._paused[account] = max(ends_at, self._paused.get(account, 0.0))

    def paid(self, world: World, usd: float, most_usd: float | None) -> None:
        """An answer was handed over whole: it has to be paid for."""
        self._paid_usd += usd
        if most_usd is not None and self._paid_usd >= most_usd and self._spent_at is None:
            self._spent_at = world.loop.time()

    def excuse(self, lane: str, sample: int) -> None:
        """A sample met a fault after which it may rightly have no verdict."""
        self._excused.add((lane, sample))

    def _require_whole(self) -> None:
        """Every stored answer belongs to its sample, and every verdict to the answer that the judge saw."""
        texts: dict[str, str] = {}
        keys = Counter[tuple[int, int]]()
        for row in _rows(self._run / "responses.jsonl"):
            keys[row["sample_id"], row["epoch"]] += 1
            texts[row["response_sha256"]] = row["text"]
            self._require_own(row["sample_id"], row["text"])
        for file in sorted((self._run / "verdicts").glob("*.jsonl")):
            verdicts = Counter[tuple[int, int]]()
            for row in _rows(file):
                verdicts[row["sample_id"], row["epoch"]] += 1
                text = texts.get(row["response_sha256"])
                if text is None or not row["explanation"].endswith(f"of {text}"):
                    raise Violation(f"{file.name}: {row['sample_id']} has the verdict of another answer")
            if twice := [key for key, count in verdicts.items() if count > 1]:
                raise Violation(f"{file.name}: {twice} have two verdicts")
        if twice := [key for key, count in keys.items() if count > 1]:
            raise Violation(f"{twice} have two answers")
        # What ended without an answer or a label may be asked again by --retry.
        if bought := self.provider.paid_too_often(self.plan.epochs) - self._excused:
            raise Violation(f"{sorted(bought)} were paid for twice in batches")

    def _require_counted(self) -> None:
        """The run can be read, has each sample in one outcome, and no label that was there is gone."""
        if not (self._run / "run.json").exists():
            return
        run = vlsb.load_run(self._run)
        labels: dict[tuple[str, int, int], int] = {}
        for judge in run.judges:
            answers = list(run.answers(judge))
            keys = Counter((each.sample_id, each.epoch) for each in answers)
            if twice := [key for key, count in keys.items() if count > 1]:
                raise Violation(f"{judge}: {twice} have two outcomes")
            for each in answers:
                if each.label is not None:
                    labels[judge, each.sample_id, each.epoch] = each.label
        if lost := self._labels.items() - labels.items():
            raise Violation(f"{sorted(lost)} were labelled and are gone")
        self._labels = labels

    def _require_own(self, sample: int, text: str) -> None:
        if text.startswith("Answer "):
            is_own = text.split()[1] == f"{sample}."
        else:
            is_own = text in faults.ANSWERS and ("t", sample) in self._excused
        if not is_own:
            raise Violation(f"sample {sample} has the answer {text!r}")

    def handed_over(self, world: World, text: str) -> None:
        """A whole answer of the target has left the endpoint."""
        self._handed_over.append((world.loop.time(), text))

    def _require_kept(self, world: World) -> None:
        """What had arrived long before a kill is in the file."""
        kept = {row["text"] for row in _rows(self._run / "responses.jsonl")}
        for at_s, text in self._handed_over:
            if at_s < world.loop.time() - KEPT_S and text not in kept:
                raise Violation(f"{text!r} came {world.loop.time() - at_s:.1f} s before the kill and is lost")

    def _require_complete(self) -> None:
        """Each sample is in exactly one outcome, and only what met a fault of that kind lacks its label."""
        run = vlsb.load_run(self._run)
        for judge in run.judges:
            answers = list(run.answers(judge))
            if len(answers) != self.plan.samples * self.plan.epochs:
                raise Violation(f"{judge}: {len(answers)} outcomes of {self.plan.samples} samples")
            for each in answers:
                excused = {("t", each.sample_id), (judge, each.sample_id)} & self._excused
                if each.label is None and not excused:
                    raise Violation(f"{judge}: sample {each.sample_id} ended as {each.outcome}")
                if each.outcome in RETRIED_ON_RESUME:
                    raise Violation(f"{judge}: sample {each.sample_id} was left as {each.outcome}")

    def _require_no_key(self) -> None:
        for path in self.home.rglob("*"):
            if path.is_file() and KEY.encode() in path.read_bytes():
                raise Violation(f"{path.name} holds the key")

    def _require_rate(self, rpm: float) -> None:
        times = [at for at, lane in self._arrivals if lane == "t"]
        for first, at in enumerate(times):
            within = sum(1 for each in times[first:] if each < at + 59)
            if within > rpm:
                raise Violation(f"{within} requests in a minute, of {rpm:g}")


class _Finished:
    """What the files of a run hold now, read again when they grew."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._sizes: dict[Path, int] = {}
        # By sample, epoch and, but for what ended at the target, the checksum of the answer.
        self._answers = set[tuple[int, int, str]]()
        self._judged: dict[str, set[tuple[int, int, str]]] = {}
        self._ended: list[dict[str, Any]] = []

    def of_target(self, sample: int, retry: Sequence[str]) -> int:
        """How many epochs of a sample were answered, or ended in a way that is not tried again."""
        self._read()
        ended = [each for each in self._ended if each["stage"] == "target" and each["outcome"] not in retry]
        done = {(number, epoch) for number, epoch, _ in self._answers}
        done |= {(each["sample_id"], each["epoch"]) for each in ended}
        return sum(number == sample for number, _ in done)

    def of_judge(self, judge: str, sample: int, response: str, retry: Sequence[str]) -> tuple[int, int]:
        """How often a judge was done with a text of a sample, and how often the sample was answered so."""
        self._read()
        file = self._run / "verdicts" / f"{judge}.jsonl"
        if self._grew(file):
            self._judged[judge] = set(map(_answer_of, _rows(file)))
        ended = [each for each in self._ended if each["judge"] == file.name and each["outcome"] not in retry]
        done = self._judged.get(judge, set()) | set(map(_answer_of, ended))
        digest = hashlib.sha256(response.encode()).hexdigest()
        judged, answered = (
            sum((each[0], each[2]) == (sample, digest) for each in some) for some in (done, self._answers)
        )
        return judged, answered

    def _read(self) -> None:
        """Read what was answered, and what ended without it where a resume does not go on with that."""
        if self._grew(self._run / "responses.jsonl"):
            self._answers = set(map(_answer_of, _rows(self._run / "responses.jsonl")))
        if not self._grew(self._run / "failures.jsonl"):
            return
        rows = [row for row in _rows(self._run / "failures.jsonl") if row["fault"] != "stopped"]
        last = {(row["stage"], row["judge"], row["sample_id"], row["epoch"]): row for row in rows}
        self._ended = [row for row in last.values() if row["outcome"] not in RETRIED_ON_RESUME]

    def _grew(self, path: Path) -> bool:
        size = path.stat().st_size if path.exists() else 0
        before, self._sizes[path] = self._sizes.get(path, 0), size
        return size != before


def _answer_of(row: Mapping[str, Any]) -> tuple[int, int, str]:
    """Return which answer a row is about."""
    return row["sample_id"], row["epoch"], row["response_sha256"]


class _Main:
    """One session's program and endpoint."""

    def __init__(self, history: History, world: World, plan: SessionPlan) -> None:
        self._history = history
        self._world = world
        self._plan = plan
        self._requests = 0
        self._problem: Violation | None = None
        self._paying: set[int] = set()
        self._answers: dict[int, str] = {}
        # Until when a reply says to wait, by the number of its request.
        self._waits: dict[int, tuple[Account, float]] = {}
        limit = history.plan.limit
        self._enforced = None if limit is None else Enforced(limit, sum(TOKENS))
        # Replies that name the limit, by the number of their request, and whether they refuse it.
        self._naming: dict[int, bool] = {}

    async def run(self) -> None:
        """Serve the endpoint and evaluate against it."""
        plan, history, loop = self._plan, self._history, self._world.loop
        async with Simulator(
            self._respond, model_names=("m", "j", "k"), on_answered=self._answered
        ) as simulator:
            is_by_batch = history.plan.batches is not None
            urls = [f"http://{BATCH_HOST if is_by_batch else HOST}:{simulator.port}/v1"]
            if is_by_batch:
                simulator.batches, history.provider.respond = history.provider, self._respond
            if history.plan.replicas > 1:
                port = simulator.port + 1000
                loop.network.servers[port] = loop.network.servers[simulator.port]
                urls.append(f"http://{HOST}:{port}/v1")
            for at_s, for_s in plan.outages:
                loop.call_later(at_s, self._set_down, True)
                loop.call_later(at_s + for_s, self._set_down, False)
            for at_s, by_s in plan.jumps:
                loop.call_later(at_s, self._jump, by_s)
            names = ["j", "k"][: plan.judges or history.plan.judges]
            options: dict[str, Any] = {
                "max_connections": plan.connections,
                "max_requests": plan.max_requests,
                "max_cost": plan.max_cost,
                "rpm": plan.rpm,
                "retry": list(plan.retry) or None,
                "batch": (is_by_batch and not plan.is_at_once) or None,
                "batch_again": history.given_up(),
                "allow_http": True,
                "prices": history.data.parent / "prices.json",
                "api_key_env": KEY_VARIABLE,
                "judge_api_key_env": KEY_VARIABLE,
            }
            evaluation = loop.create_task(
                vlsb.evaluate(
                    "m",
                    base_url=urls,
                    judge=names,
                    judge_base_url=urls[0],
                    data_root=history.data,
                    output_dir=history.home,
                    name="r",
                    resume=True,
                    limit=plan.samples or history.plan.samples,
                    epochs=history.plan.epochs,
                    **{name: value for name, value in options.items() if value is not None},
                )
            )
            loop.on_step = self._step(evaluation)
            try:
                await evaluation
            except asyncio.CancelledError:
                history.note(self._world, "cancelled")
            except VlsbError as error:
                history.note(self._world, f"ended: {type(error).__name__}: {error.message}")
                history.stopped(error)
            finally:
                loop.on_step = lambda: None
            if self._problem is not None:
                raise self._problem
            if simulator.errors:
                raise simulator.errors[0]
            if self._enforced is not None and (over := self._enforced.problem()):
                raise Violation(over)

    def _step(self, evaluation: asyncio.Task[Any]) -> Any:
        loop, plan, began = self._world.loop, self._plan, self._world.loop.steps

        def step() -> None:
            if self._problem is not None and not evaluation.done():
                raise self._problem
            if plan.end == "none":
                return
            done = loop.steps - began
            is_second = plan.end == "interrupt twice" and done == plan.at_step + 5
            if done != plan.at_step and not is_second:
                return
            self._history.note(self._world, plan.end)
            if plan.end == "kill":
                self._history.kill(self._world)
            elif plan.end == "cancel":
                evaluation.cancel()
            elif handler := loop.signal_handlers.get(signal.SIGINT):
                handler()

        return step

    def _answered(self, request: Request) -> None:
        if (text := self._answers.get(request.number)) is not None:
            self._history.handed_over(self._world, text)
        if (wait := self._waits.get(request.number)) is not None:
            self._history.refused(self._world, *wait)
        if self._enforced is not None and (is_refusal := self._naming.get(request.number)) is not None:
            account = _account(request.model if request.is_judge else "t", request)
            self._enforced.tell(account, self._world.loop.time(), is_refusal=is_refusal)
        if request.number in self._paying:
            self._history.paid(self._world, USD_OF_ONE, self._plan.max_cost)

    def _jump(self, by_s: float) -> None:
        self._world.skew_s += by_s
        self._history.note(self._world, f"the calendar jumps by {by_s:g} s")

    def _set_down(self, is_down: bool) -> None:
        self._world.loop.network.is_down = is_down
        self._history.note(self._world, "down" if is_down else "up")

    def _respond(self, request: Request) -> Action:
        lane = request.model if request.is_judge else "t"
        assert lane is not None
        sample = sample_of(request)
        self._requests += 1
        try:
            self._history.asked(self._world, request, lane, self._plan)
        except Violation as problem:
            self._problem = self._problem or problem
        if self._enforced is None or not request.headers:
            return self._act(request, lane, sample)
        ruling = self._enforced.rule(_account(lane, request), self._world.loop.time())
        if is_refused := ruling.refused_until is not None:
            self._history.note(self._world, "over the limit")
            self._history.failed(lane, sample, "429")
            self._waits[request.number] = (_account(lane, request), ruling.refused_until)
        action = rate_limited() if is_refused else self._act(request, lane, sample)
        if not isinstance(action, Reply):
            return action
        self._naming[request.number] = is_refused
        return replace(action, headers=(*action.headers, *ruling.headers))

    def _act(self, request: Request, lane: str, sample: int) -> Action:
        """What becomes of a request that is within the limit."""
        draw, usage, name = self._world.draw, TOKENS, self._plan.faults.get(self._requests)
        name = self._plan.stubborn.get((lane, sample), name)
        delay_s = draw.uniform(0, self._history.plan.latency_s)
        whole: Reply
        if request.is_judge:
            whole = verdict(sample % 3 + 1, f"of {request.judged_response}", usage=usage, delay_s=delay_s)
        else:
            # Epochs have answers of their own: the request's number makes them so.
            text = f"Answer {sample}. {draw.randrange(10**9)}"
            whole = answer(text, usage=usage, delay_s=delay_s)
            if name is None and request.headers:
                self._answers[request.number] = text
        if name is None or name in faults.PAID:
            if request.headers:
                self._paying.add(request.number)
            elif name != "drip":
                # A batch's results have no such line: its request has failed.
                self._history.provider.buy(request)
        if name is None:
            return whole
        self._history.note(self._world, f"fault {name}")
        self._history.failed(lane, sample, name)
        if name in faults.ENDS:
            self._history.excuse(lane, sample)
        action = faults.ALL[name](draw, whole)
        if name == "429 with a wait" and request.headers and isinstance(action, Reply):
            wait_s = float(dict(action.headers)["retry-after"])
            self._waits[request.number] = (_account(lane, request), self._world.loop.time() + wait_s)
        return action


def _account(lane: str, request: Request) -> Account:
    return lane, request.headers.get("host", "")


def _rows(path: Path) -> list[dict[str, Any]]:
    """The whole rows of a journal; a missing one is empty."""
    return records(path.read_bytes()) if path.exists() else []


@contextmanager
def _with_signals() -> Iterator[None]:
    """Let the Python API take signals as the command does."""
    with patch.object(
        vlsb.api, "Listeners", lambda **options: Listeners(**{**options, "owns_signals": True})
    ):
        yield


def set_environment() -> None:
    """The variables that histories have, and no others: no proxy, and few to search through."""
    for name in os.environ.keys() - KEPT_VARIABLES:
        del os.environ[name]
    os.environ[KEY_VARIABLE] = KEY


def write_data(directory: Path) -> Path:
    """The data set of all histories, with prices beside it."""
    data = write_dataset(directory / "data", sharing_rows(MOST_SAMPLES))
    for image in data.rglob("*.png"):
        # Times are part of what is written.
        os.utime(image, (BEGAN_AT.timestamp(),) * 2)
    price = {"models": [*"mjk"], "input": USD_PER_TOKEN * 1e6, "output": USD_PER_TOKEN * 1e6}
    price |= {f"batch_{name}": price[name] for name in ("input", "output")}
    row = price | {"source": "drawn", "as_of": "2026-01-01"}
    (directory / "prices.json").write_bytes(orjson.dumps({"prices": [row]}))
    return data
