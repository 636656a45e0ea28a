"""Runs by batch: everything is submitted to the target, collected, and only then judged.

One state machine for all models of a session. What a batch asks is on the disk before it is made, and one
that may exist is never made again by itself: it is looked for, and then the run stops and says what to do.
Results count when they agree with the batch's own counts, and are always read from the disk. What a batch may
cost is reserved before it is made. Samples go through the same pipeline; their requests wait together.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from io import BytesIO
from itertools import count
from typing import Any

from vlsb.endpoints.batch_api import BatchService, CallFailed, Results, read_results, reply_of
from vlsb.endpoints.client import Answered, EndpointClient
from vlsb.endpoints.completions import is_success
from vlsb.endpoints.faults import Decision
from vlsb.endpoints.request import Checksums, Draft, batch_line, custom_id
from vlsb.endpoints.traffic import Traffic
from vlsb.errors import GapsError, ImageChangedError, ImageError, VlsbError
from vlsb.evaluation.pipeline import Job, SampleWork
from vlsb.evaluation.shutdown import Shutdown
from vlsb.models.providers import BatchApi
from vlsb.records import Key
from vlsb.store.codec import Batch, BatchStep
from vlsb.store.store import RunStore

# Seconds before each look at a batch that is not in the list, not known or not whole, for a `--backoff` of 1:
# a minute in all. Lists were seen that know of a batch half a minute after it was made.
_WAITS = (0, 1, 2, 4, 8, 16, 30)
_FIRST_POLL_S, _LONGEST_POLL_S = 0.25, 60.0
_LINE_BYTES = 256


@dataclass(eq=False, slots=True)
class _Ask:
    """A request that waits, under its custom id; `reserved_usd` is reserved once it may be in a batch."""

    name: str
    draft: Draft
    checksums: Checksums
    answer: asyncio.Future[Answered]
    reserved_usd: float | None = None


@dataclass(eq=False, slots=True)
class Lane:
    """A model that is asked by batch, its requests that wait, and its batches that have not ended.

    `judge` is its file, None for the target. One that `forgets` is a simulator of this process, which knows
    nothing of earlier sessions. Batches that are `stuck` are left alone.
    """

    name: str
    client: EndpointClient
    service: BatchService
    judge: str | None
    api: BatchApi
    forgets: bool
    has_room: bool = True
    waiting: dict[str, _Ask] = field(default_factory=dict)
    numbers: dict[Key, int] = field(default_factory=dict)
    batches: dict[str, Batch] = field(default_factory=dict)
    stuck: set[str] = field(default_factory=set)
    done: dict[str, int] = field(default_factory=dict)
    reported: tuple[int, int] = (0, 0)

    @property
    def under_way(self) -> list[Batch]:
        """The batches from which results are expected."""
        return [each for each in self.batches.values() if each.batch_id and each.name not in self.stuck]


@dataclass(eq=False, slots=True)
class BatchRun:
    """The stages of a session by batch. What cannot be had of the batches in `again` is asked again.

    Jobs that are `open` may still ask, and `changed` tells that one waits or is done. The `problem` is why
    nothing more is submitted; `unpaid` is too, until batches were cheaper than they might have been.
    """

    lanes: Mapping[str, Lane]
    store: RunStore
    shutdown: Shutdown
    traffic: Traffic
    say: Callable[[str], None]
    unit_s: float
    again: Sequence[str]
    open: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    problem: VlsbError | None = None
    unpaid: VlsbError | None = None

    def holds(self, work: SampleWork) -> bool:
        """Return whether a request for a sample is in a batch of an earlier session."""
        return work.key in self.store.state.keys_in_batches((None, *work.judges))

    async def carry_out(self, jobs: Mapping[str, Sequence[Job]]) -> None:
        """Run the jobs of models side by side, with what answers those that have a lane."""
        lanes = [self.lanes[name] for name, own in jobs.items() if own and name in self.lanes]
        for lane in lanes:
            lane.client.post = partial(self._post, lane)
            self.open += len(jobs[lane.name])

        async def counted(job: Job) -> None:
            try:
                await job()
            finally:
                self.open -= 1
                self.changed.set()

        together: list[Job] = [partial(self._serve, lanes)]
        for name, own in jobs.items():
            together += [partial(counted, job) for job in own] if name in self.lanes else own
        await self.shutdown.run_all(together)

    async def _post(self, lane: Lane, key: Key, draft: Draft) -> Answered:
        number = lane.numbers.setdefault(key, self.store.state.requests_for(key, lane.judge))
        _, checksums = await asyncio.to_thread(draft.pieces)
        ask = _Ask(custom_id(key, number, checksums), draft, checksums, asyncio.Future())
        lane.waiting[ask.name] = ask
        self.changed.set()
        answered = await ask.answer
        lane.numbers[key] = number + 1
        return answered

    async def _serve(self, lanes: Sequence[Lane]) -> None:
        """Answer what is asked until nobody asks any more."""
        try:
            for name in self.store.state.batches_without_plan():
                await self.store.add_batch(BatchStep(name=name, step="void"))
            for lane in lanes:
                await self._recover(lane)
            while True:
                # Until no job can go on by itself.
                while self.open > sum(len(lane.waiting) for lane in lanes):
                    self.changed.clear()
                    await self.changed.wait()
                if not self.open:
                    return
                if any([await self._answer(lane) for lane in lanes]):
                    continue
                self.unpaid = None
                for lane in lanes:
                    await self._submit(lane)
                if any(lane.under_way for lane in lanes):
                    await self._collect(lanes)
                elif reason := self.problem or self.unpaid:
                    raise reason
        finally:
            for lane in lanes:
                lane.client.batch, lane.client.batched = "", 0
                if count := len(lane.under_way):
                    goes_on = f"{count} still at work at the provider"
                    self._tell(lane, f"{goes_on}. A resume with --batch collects what comes.")

    async def _recover(self, lane: Lane) -> None:
        """Find out which of the batches of earlier sessions were made."""
        for batch in self.store.state.batches_of(lane.judge):
            if batch.status is None or not self.store.results_path(batch.name).exists():
                lane.batches[batch.name] = batch
                if batch.batch_id is None:
                    await self._find(lane, batch)
        if count := len(lane.under_way):
            self._tell(lane, f"{count} still under way from before.")

    async def _find(self, lane: Lane, batch: Batch) -> None:
        """Look for a batch that may have been made: it is under way then, else void or stuck."""
        why = "it is not in the list of batches"
        try:
            for wait in _WAITS if batch.file_id is not None else ():
                await asyncio.sleep(wait * self.unit_s)
                if listed := await lane.service.find(batch.name, batch.file_id or ""):
                    return await self._write(lane, batch.name, step="created", id=listed.id)
        except CallFailed as failed:
            why = f"the list of batches cannot be read: {failed.decision.code}"
        if batch.file_id is None or batch.name in self.again:
            return await self._end(lane, batch, "void")
        self._stick(lane, batch, f"may have been made or not: {why}")

    async def _answer(self, lane: Lane) -> bool:
        """Answer from the disk what is asked in batches that have ended; return whether there was any."""
        has_answered = False
        for batch in self.store.state.batches_of(lane.judge):
            names = lane.waiting.keys() & set(batch.requests)
            if batch.status is None or batch.name in lane.batches or not names:
                continue
            results = await asyncio.to_thread(read_results, self.store.results_path(batch.name), names)
            is_new = batch.name in lane.done
            replies = {
                name: reply_of(results.replies.get(name), batch.status, is_new=is_new) for name in names
            }
            # Answers are stored first: a fatal error among the others ends the session at once.
            for name in sorted(names, key=lambda name: not is_success(replies[name])):
                if (reply := replies[name]) is not None:
                    ask, has_answered = lane.waiting.pop(name), True
                    if not ask.answer.done():
                        ask.answer.set_result(Answered(reply, ask.checksums, ask.reserved_usd or 0.0))
        return has_answered

    async def _submit(self, lane: Lane) -> None:
        """Submit what is in no batch, in as many batches as it takes and as may be paid for."""
        held = {name for batch in lane.batches.values() for name in batch.requests}
        for name in held & lane.waiting.keys():
            self._put_by(lane, lane.waiting[name], is_sent=True)
        free = deque(ask for name, ask in lane.waiting.items() if name not in held)
        while free and self.problem is None and (lane.has_room or not lane.under_way):
            self.traffic.require_open()
            lane.client.batch = "reading images"
            names, content = await self._fill(lane, free)
            if not names:
                break
            await self._send(lane, names, content)
        lane.client.batched = len(lane.waiting) - len(free)

    async def _fill(self, lane: Lane, free: deque[_Ask]) -> tuple[tuple[str, ...], BytesIO]:
        """Choose the requests of the next batch, and make its file."""
        names: list[str] = []
        content = BytesIO()
        while free and len(names) < lane.api.most_requests:
            ask = free[0]
            if names and content.tell() + ask.draft.size + _LINE_BYTES > lane.api.most_bytes:
                break
            try:
                pieces, checksums = await asyncio.to_thread(ask.draft.pieces)
                if checksums != ask.checksums:
                    raise ImageError("image changed while its batch was prepared; start again")
                self._put_by(lane, ask)
            except (ImageError, ImageChangedError) as error:
                if not lane.waiting.pop(ask.name).answer.done():
                    ask.answer.set_exception(error)
            except VlsbError as error:
                self.unpaid = error
                break
            else:
                content.write(batch_line(ask.name, pieces))
                names.append(ask.name)
            free.popleft()
        return tuple(names), content

    def _put_by(self, lane: Lane, ask: _Ask, *, is_sent: bool = False) -> None:
        """Reserve what a request may cost. Raises a VlsbError where less is left, unless it was sent."""
        if ask.reserved_usd is None:
            ask.reserved_usd = lane.client.admission.reserve(ask.draft, is_sent=is_sent)

    async def _send(self, lane: Lane, requests: tuple[str, ...], content: BytesIO) -> None:
        """Submit one batch; each step is on the disk before the next."""
        name, plan = f"vlsb-{secrets.token_hex(8)}", {"judge": lane.judge, "requests": requests}
        await self._write(lane, name, step="planned", **plan)
        lane.client.batch = "uploading"
        try:
            file_id = await lane.service.upload(name, content)
            with self.traffic.finishing():
                # The plan stands twice: no single damaged line hides what a batch asks.
                await self._write(lane, name, step="uploaded", id=file_id, **plan)
                made = await lane.service.create(name, file_id)
                await self._write(lane, name, step="created", id=made.id)
        except CallFailed as failed:
            batch = lane.batches[name]
            if batch.file_id is not None and not failed.is_refused:
                return await self._find(lane, batch)
            self.problem = lane.service.error("the batch API takes no batch", failed.decision)
            return await self._end(lane, batch, "void")
        self._tell(lane, f"submitted {_requests(len(requests))} ({content.tell() / 1e6:,.1f} MB).")

    async def _collect(self, lanes: Sequence[Lane]) -> None:
        """Look at the batches until one is under way no more."""
        under_way = [(lane, batch) for lane in lanes for batch in lane.under_way]
        for poll in count():
            for lane, batch in under_way:
                self.traffic.require_open()
                await self._look(lane, batch)
                self._show(lane)
            if sum(len(lane.under_way) for lane in lanes) < len(under_way):
                return
            await asyncio.sleep(self.unit_s * min(_LONGEST_POLL_S, _FIRST_POLL_S * 2 ** min(poll, 9)))

    async def _look(self, lane: Lane, batch: Batch) -> None:
        """Look at a batch. Once it has ended its results are fetched until they are whole; else it sticks."""
        path, asked = self.store.results_path(batch.name), len(batch.requests)
        what, status, results = "", "", Results({}, 0, 0)
        for wait in _WAITS:
            await asyncio.sleep(wait * self.unit_s)
            try:
                state = await lane.service.state(batch.batch_id or "")
                lane.done[batch.name] = state.answered + state.failed
                if not state.status:
                    return
                if state.status == "failed":
                    return await self._refused(lane, batch, state.error)
                await lane.service.download(state, self.store.new_results_path(batch.name))
            except CallFailed as failed:
                if failed.decision.status != 404:
                    error = lane.service.error("the batch API gives no results", failed.decision)
                    return self._stick(lane, batch, error)
                if lane.forgets:
                    return await self._end(lane, batch, "void")
                what = "is not known there (404)"
                continue
            results = await asyncio.to_thread(read_results, path, batch.requests)
            came = f"{results.answered:,} answers came"
            what = f"says that it answered {state.answered:,} of {_requests(asked)}, and {came}"
            has_all = len(results.replies) >= state.answered + state.failed
            status = state.status if has_all and results.answered >= state.answered else ""
            if status and len(results.replies) == asked:
                break
        if status and (len(results.replies) == asked or status != "completed"):
            await self._end(lane, batch, status, results)
        elif batch.name in self.again:
            await self._end(lane, batch, "given_up" if path.exists() else "void", results)
        else:
            self._stick(lane, batch, what)

    async def _refused(self, lane: Lane, batch: Batch, why: Decision) -> None:
        """Settle a batch that was refused as a whole: nothing of it was asked."""
        await self._end(lane, batch, "void")
        if why.code != "token_limit_exceeded" or (len(batch.requests) == 1 and not lane.under_way):
            self.problem = self.problem or lane.service.error("a batch was refused", why)
            return
        # Of what the provider allows to wait, too much does.
        lane.api, lane.has_room = replace(lane.api, most_requests=max(1, len(batch.requests) // 2)), False
        less = f"batches of at most {_requests(lane.api.most_requests)} from now on, one at a time"
        self._tell(lane, f"the provider's queue is too small for it: {less}.")

    async def _end(self, lane: Lane, batch: Batch, status: str, results: Results | None = None) -> None:
        """Settle a batch that nothing more comes of; its results are on the disk, if it is not void."""
        is_void = status == "void"
        step = {"step": "void"} if is_void else {"step": "ended", "status": status}
        await self._write(lane, batch.name, **step)
        del lane.batches[batch.name]
        if is_void or results is None:
            return
        party, asked = lane.client.party, len(batch.requests)
        rows = {"rows": len(results.replies), "left_out": results.left_out}
        self.store.add_event("batch_ended", lane=party.stage, code=status, **rows)
        strange = f", {results.left_out:,} lines answer nothing that was asked" if results.left_out else ""
        self._tell(lane, f"{results.answered:,} of {_requests(asked)} answered ({status}){strange}.")
        missing = sum(reply_of(results.replies.get(name), status) is None for name in batch.requests)
        if missing and status == "cancelled":
            self.problem = self.problem or GapsError(
                f"{party}: a batch was cancelled there, with {missing:,} of its {asked:,} requests "
                "unanswered. The others are stored; a resume submits these again."
            )

    def _stick(self, lane: Lane, batch: Batch, why: str | VlsbError) -> None:
        """Leave a batch and its requests alone in this session, and submit nothing more."""
        lane.stuck.add(batch.name)
        if isinstance(why, str):
            advice = (
                "Resume with the same key and project: it is looked at again, and nothing is asked twice. "
                f"Where that does not help, --batch-again {batch.name} asks again for what is missing, and "
                "that may be paid for twice."
            )
            why = GapsError(f"{lane.client.party}: its batch {batch.name} {why}", advice=advice)
        self.problem = self.problem or why

    async def _write(self, lane: Lane, name: str, **step: Any) -> None:
        await self.store.add_batch(BatchStep(name=name, **step))
        lane.batches[name] = self.store.state.batches[name]

    def _show(self, lane: Lane) -> None:
        """Tell how the batches stand, in the panel and, when a tenth more is done, in a line."""
        batches = lane.under_way
        done = sum(lane.done.get(batch.name, 0) for batch in batches)
        asked = sum(len(batch.requests) for batch in batches)
        count = "1 batch" if len(batches) == 1 else f"{len(batches)} batches"
        lane.client.batch = f"{count}, {done:,} of {asked:,} answered" if batches else ""
        if batches and lane.reported != (standing := (len(batches), 10 * done // asked)):
            lane.reported = standing
            self._tell(lane, f"{lane.client.batch}.")

    def _tell(self, lane: Lane, what: str) -> None:
        self.say(f"The {lane.name}'s batches: {what}")


def _requests(number: int) -> str:
    return "1 request" if number == 1 else f"{number:,} requests"
