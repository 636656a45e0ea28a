"""Runs by batch: everything is submitted to the target, collected, and only then judged.

What is submitted is written down before it is sent, and what of it was made is found out at the provider: a
session that is killed at any point goes on where it was, and nothing is paid for twice. The samples go
through the same pipeline as ever; only their requests wait together.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from tenacity import AsyncRetrying, retry_if_result, wait_exponential

from vlsb.endpoints.batch import (
    Answered,
    BatchedClient,
    BatchState,
    CallFailed,
    Row,
    custom_id,
    custom_id_start,
    is_success,
    read_rows,
    reply_of,
    request_line,
)
from vlsb.endpoints.faults import PICTURE_CODE, Decision, Fault
from vlsb.endpoints.request import Checksums, Draft
from vlsb.endpoints.traffic import Traffic
from vlsb.errors import GapsError, ImageChangedError, ImageError, VlsbError
from vlsb.evaluation.pipeline import Pipeline, Work
from vlsb.evaluation.shutdown import Shutdown
from vlsb.models.providers import BatchApi
from vlsb.records import Key, Untrusted
from vlsb.store.batches import FINISHED, Batch, BatchStep
from vlsb.store.state import BATCHES, RESULTS, Judged
from vlsb.store.store import RunStore

TARGET = "target"
_FIRST_POLL_S = 0.25
_LONGEST_POLL_S = 60.0
# A list may know of a batch a moment after it was made.
_LOOKS = 3
_LOOK_EVERY_S = 2.0
_LINE_BYTES = 256
_QUEUE_FULL = "token_limit_exceeded"

_Job = Callable[[], Coroutine[Any, Any, object]]


@dataclass(eq=False, slots=True)
class _Ask:
    """A request that waits; `checksums` are known once its image was read."""

    key: Key
    number: int
    draft: Draft
    answer: asyncio.Future[Answered]
    checksums: Checksums | None = None

    @property
    def custom_id(self) -> str:
        """Its name in a batch."""
        assert self.checksums is not None
        return custom_id(self.key, self.number, self.checksums)


@dataclass(frozen=True, slots=True)
class Desk:
    """What every queue of a session works with."""

    store: RunStore
    traffic: Traffic
    say: Callable[[str], None]
    sleep: Callable[[float], Awaitable[None]]


class BatchQueue:
    """The requests to one model: gathered until everybody waits, submitted, collected, handed out.

    `name` is what the session calls it, `judge` the judge's file, None for the target. One that `forgets` is
    a simulator of this process, which knows nothing of earlier sessions.
    """

    def __init__(
        self,
        name: str,
        client: BatchedClient,
        desk: Desk,
        judge: str | None,
        api: BatchApi,
        *,
        forgets: bool,
    ) -> None:
        self._name = name
        self._client = client
        self._service = client.service
        self._desk = desk
        self._judge = judge
        self._api = api
        self._forgets = forgets
        self._most_requests = api.most_requests
        self._has_room = True
        # Jobs that may still ask; requests that wait for a batch, and those in one, by custom id.
        self._open = 0
        self._changed = asyncio.Event()
        self._queue: list[_Ask] = []
        self._asked: dict[str, _Ask] = {}
        self._numbers: dict[Key, int] = {}
        self._under_way: dict[str, Batch] = {}
        self._states: dict[str, BatchState] = {}
        self._earlier: dict[str, list[tuple[Batch, str]]] = {}
        self._rows: dict[str, dict[str, Row]] = {}
        # Why nothing more is submitted.
        self._held: VlsbError | None = None
        self._said = ""
        self._promised = 0.0

    def jobs(self, jobs: Sequence[_Job]) -> list[_Job]:
        """The jobs of one stage, and what answers them; to be run together."""
        self._open += len(jobs)
        self._client.post = self._post
        return [*(partial(self._counted, job) for job in jobs), self._serve]

    async def _counted(self, job: _Job) -> None:
        try:
            await job()
        finally:
            self._open -= 1
            self._changed.set()

    async def _post(self, key: Key, draft: Draft) -> Answered:
        before = self._desk.store.state.requests_for(key, self._judge)
        number = self._numbers.setdefault(key, before)
        ask = _Ask(key, number, draft, asyncio.get_running_loop().create_future())
        self._queue.append(ask)
        self._changed.set()
        answered = await ask.answer
        if answered.checksums is not None:
            self._numbers[key] = number + 1
        return answered

    async def _serve(self) -> None:
        """Answer what is asked until nobody asks any more."""
        try:
            await self._recover()
            while await self._everybody_waits():
                if await self._take_over():
                    continue
                await self._submit()
                if self._under_way:
                    await self._collect()
                elif self._held is not None and self._queue:
                    raise self._held
        finally:
            self._client.batch = ""
            if left := len(self._under_way):
                batches = "1 batch goes" if left == 1 else f"{left} batches go"
                self._say(f"{batches} on at the provider. Whoever resumes with --batch collects what comes.")

    async def _everybody_waits(self) -> bool:
        """Return when no job can go on by itself; False when none is left."""
        while self._open > len(self._queue) + len(self._asked):
            self._changed.clear()
            await self._changed.wait()
        return self._open > 0

    # What earlier sessions submitted.

    async def _recover(self) -> None:
        """Find out which of the batches of earlier sessions were made."""
        for batch in self._desk.store.state.batches_of(self._judge):
            known: Batch | None = batch
            if batch.batch_id is None and batch.status is None:
                known = await self._find(batch)
            if known is not None:
                for name in known.requests:
                    self._earlier.setdefault(_start(name), []).append((known, name))
                if known.is_under_way or not await asyncio.to_thread(self._results(known).exists):
                    self._under_way[known.name] = known
        if self._under_way:
            count = len(self._under_way)
            self._say(f"{count} {'batch is' if count == 1 else 'batches are'} under way since before.")

    async def _find(self, batch: Batch) -> Batch | None:
        """A batch that may have been made by a session that was killed; None if it was not."""
        found = None
        if batch.file_id is not None:
            try:
                found = await self._look_for(batch.name, batch.file_id)
            except CallFailed as failed:
                raise self._unknown(batch, failed) from failed
        if found is None:
            await self._write(batch.name, "void")
            return None
        await self._write(batch.name, "created", found.id)
        return self._desk.store.state.batches[batch.name]

    async def _look_for(self, name: str, file_id: str) -> BatchState | None:
        for look in range(_LOOKS):
            if look:
                await self._desk.sleep(_LOOK_EVERY_S)
            if (found := await self._service.find(name, file_id)) is not None:
                return found
        return None

    def _unknown(self, batch: Batch, failed: CallFailed) -> VlsbError:
        return GapsError(
            f"{self._service.party}: nobody can tell whether the batch {batch.name} was made "
            f"({failed.decision.code}), and asking again might be paid for twice",
            advice="Resume when its list of batches is well. If the provider's own page shows no batch of "
            f"that name, remove {self._desk.store.directory / BATCHES} and resume.",
        )

    async def _take_over(self) -> bool:
        """Connect what is asked with earlier batches; whether anything was answered from the disk."""
        queue, self._queue = self._queue, []
        has_answered = False
        for ask in queue:
            known = self._earlier.get(custom_id_start(ask.key, ask.number), ())
            if not known or await self._pieces(ask) is None:
                # One without an image is answered by its failure.
                if not ask.answer.done():
                    self._queue.append(ask)
                continue
            batches = [batch for batch, name in known if name == ask.custom_id]
            answered = await self._answer_of(ask, batches)
            if answered is not None:
                ask.answer.set_result(answered)
                has_answered = True
            elif any(batch.name in self._under_way for batch in batches):
                self._asked[ask.custom_id] = ask
            else:
                self._queue.append(ask)
        self._count()
        return has_answered

    async def _answer_of(self, ask: _Ask, batches: Iterable[Batch]) -> Answered | None:
        """What the results on the disk say to a request; None where they say nothing."""
        for batch in batches:
            status = self._desk.store.state.batches[batch.name].status
            if batch.name in self._under_way or status not in FINISHED:
                continue
            if batch.name not in self._rows:
                rows, _ = await asyncio.to_thread(read_rows, self._results(batch))
                self._rows[batch.name] = _first_rows(rows, batch)[0]
            reply = reply_of(self._rows[batch.name].get(ask.custom_id), status)
            if reply is not None:
                return Answered(reply, ask.checksums)
        return None

    # Submitting.

    async def _submit(self) -> None:
        """Submit what waits, in as many batches as it takes and as may be paid for."""
        while self._queue and self._held is None and (self._has_room or not self._under_way):
            self._desk.traffic.require_open()
            self._client.batch = "reading images"
            asks, content = await self._fill()
            if not asks:
                break
            await self._send(asks, content)

    async def _fill(self) -> tuple[list[_Ask], BytesIO]:
        """The requests of the next batch, and its file."""
        asks: list[_Ask] = []
        content = BytesIO()
        while self._queue and len(asks) < self._most_requests:
            ask = self._queue[0]
            is_full = content.tell() + ask.draft.size + _LINE_BYTES > self._api.most_bytes
            if (asks and is_full) or not self._may_ask(len(self._asked) + len(asks)):
                break
            del self._queue[0]
            if (pieces := await self._pieces(ask)) is not None:
                await asyncio.to_thread(content.write, request_line(ask.custom_id, pieces))
                asks.append(ask)
        return asks, content

    def _may_ask(self, asked: int) -> bool:
        """Count one request beside `asked` others; False where requests or money are spent.

        `_held` says that then. Before anything is known of the costs one request goes alone.
        """
        traffic, spending = self._desk.traffic, self._desk.traffic.spending
        if spending.most_usd is not None:
            each, others = self._usd_each(), spending.promised_usd - self._promised
            if each is None and asked and not spending.usd:
                return False
            if spending.usd + others + (asked + 1) * (each or 0.0) > spending.most_usd:
                self._held = GapsError(
                    f"--max-cost is reached: ${spending.usd:,.4f} by this command, and one more request "
                    "could exceed it. Everything finished is stored."
                )
                return False
        try:
            traffic.spend_one()
        except VlsbError as error:
            self._held = error
            return False
        return True

    def _usd_each(self) -> float | None:
        """What a request costs on average, by the answers that are stored; None before there is one."""
        state = self._desk.store.state
        totals, answers = state.target_totals, len(state.responses)
        if self._judge is not None:
            judged = state.judged.get(self._judge, Judged())
            totals, answers = judged.totals, len(judged.verdicts) + len(judged.findings)
        usd = self._client.admission.batch_usd(totals.usage)
        return usd / answers if usd is not None and answers else None

    async def _pieces(self, ask: _Ask) -> tuple[bytes, ...] | None:
        """The body of a request; None where its image cannot be sent, which answers it."""
        try:
            pieces, ask.checksums = await asyncio.to_thread(ask.draft.pieces)
        except ImageChangedError as error:
            ask.answer.set_exception(error)
        except ImageError as error:
            decision = Decision(Fault.ITEM_PERMANENT, PICTURE_CODE, Untrusted(error.message))
            ask.answer.set_result(Answered(decision, None))
        else:
            return pieces
        return None

    async def _send(self, asks: Sequence[_Ask], content: BytesIO) -> None:
        """Submit one batch; each step is written down before the next."""
        name = f"vlsb-{secrets.token_hex(8)}"
        requests = tuple(ask.custom_id for ask in asks)
        plan = BatchStep(name=name, step="planned", judge=self._judge, requests=requests)
        await self._desk.store.add_batch(plan)
        self._client.batch = "uploading"
        try:
            file_id = await self._service.upload(name, content)
            await self._write(name, "uploaded", file_id)
            with self._may_finish():
                made = await self._create(name, file_id)
                await self._write(name, "created", made.id)
        except CallFailed as failed:
            await self._write(name, "void")
            raise self._service.error(failed, "take a batch") from failed
        self._under_way[name] = self._desk.store.state.batches[name]
        self._asked.update((ask.custom_id, ask) for ask in asks)
        self._count()
        size = f"{content.getbuffer().nbytes / 1e6:,.1f} MB"
        self._say(f"submitted {_requests(len(asks))} ({size}).")

    @contextmanager
    def _may_finish(self) -> Iterator[None]:
        """What the block does is not cut off when the session is asked to stop."""
        task, in_flight = asyncio.current_task(), self._desk.traffic.in_flight
        assert task is not None
        in_flight.add(task)
        try:
            yield
        finally:
            in_flight.discard(task)

    async def _create(self, name: str, file_id: str) -> BatchState:
        """Make a batch once, whatever becomes of the reply that says so. Raises CallFailed."""
        for look in range(_LOOKS):
            try:
                return await self._service.create(name, file_id)
            except CallFailed as failed:
                if not failed.decision.is_retryable or look == _LOOKS - 1:
                    raise
            try:
                found = await self._look_for(name, file_id)
            except CallFailed as failed:
                raise self._unknown(self._desk.store.state.batches[name], failed) from failed
            if found is not None:
                return found
        raise AssertionError("unreachable")

    # Collecting.

    async def _collect(self) -> None:
        """Ask how the batches stand until one has ended, and hand its results out."""
        polling = AsyncRetrying(
            retry=retry_if_result(lambda has_ended: not has_ended),
            wait=wait_exponential(multiplier=_FIRST_POLL_S, max=_LONGEST_POLL_S),
            sleep=self._desk.sleep,
        )
        await polling(self._poll)

    async def _poll(self) -> bool:
        """Look at every batch under way; whether one of them has ended."""
        has_ended = False
        for batch in list(self._under_way.values()):
            assert batch.batch_id is not None
            try:
                state = await self._service.state(batch.batch_id)
                self._states[batch.name] = state
                if state.has_ended:
                    has_ended = True
                    await self._end(batch, state)
            except CallFailed as failed:
                if failed.decision.status != 404 or not self._forgets:
                    raise self._lost(batch, failed) from failed
                has_ended = True
                await self._void(batch)
        self._show()
        return has_ended

    def _lost(self, batch: Batch, failed: CallFailed) -> VlsbError:
        if failed.decision.status != 404:
            return self._service.error(failed, "give its results")
        return GapsError(
            f"{self._service.party}: its batch {batch.name} is not known there (404). Perhaps by another key "
            "or project: resume with those it was made with",
            advice="To give its answers up and pay for them again, remove "
            f"{self._desk.store.directory / BATCHES} and resume.",
        )

    async def _end(self, batch: Batch, state: BatchState) -> None:
        """A batch has ended: fetch its results, write that down, and hand them out."""
        if state.status == "failed" and not state.files:
            await self._refused(batch, state)
            return
        path = self._results(batch)
        await asyncio.to_thread(partial(path.parent.mkdir, mode=0o700, exist_ok=True))
        for _ in range(2):
            await self._service.download(state, path)
            rows, unread = await asyncio.to_thread(read_rows, path)
            found, strangers = _first_rows(rows, batch)
            if not unread and len(found) >= state.answered + state.failed:
                break
        status = state.status if state.status in FINISHED else "cancelled"
        await self._write(batch.name, "ended", status=status)
        del self._under_way[batch.name]
        self._desk.store.add_event(
            "batch_ended",
            lane=self._service.party.stage,
            code=status,
            rows=len(found),
            left_out=strangers + unread,
        )
        if strangers + unread:
            self._say(f"{strangers + unread:,} lines of its results answer nothing that was asked: left out.")
        self._hand_out(batch, found, status)

    def _hand_out(self, batch: Batch, rows: Mapping[str, Row], status: str) -> None:
        asks = [self._asked.pop(name) for name in batch.requests if name in self._asked]
        replies = {ask: reply_of(rows.get(ask.custom_id), status) for ask in asks}
        # Answers are stored first: a fatal error among the others ends the session at once.
        for ask in sorted(asks, key=lambda ask: not is_success(replies[ask])):
            if (reply := replies[ask]) is not None:
                ask.answer.set_result(Answered(reply, ask.checksums))
        answered = sum(map(is_success, replies.values()))
        self._say(f"{answered:,} of {_requests(len(asks))} answered ({status}).")
        left = [ask for ask in asks if replies[ask] is None]
        self._queue += left
        self._count()
        if left:
            self._held = GapsError(
                f"{self._service.party}: a batch was cancelled there, with {len(left):,} of its "
                f"{len(batch.requests):,} requests unanswered. The others are stored; a resume submits these "
                "anew."
            )

    async def _refused(self, batch: Batch, state: BatchState) -> None:
        """A batch was refused as a whole, and nothing of it was asked."""
        await self._void(batch)
        is_full = state.error is not None and state.error.code == _QUEUE_FULL
        if is_full and len(batch.requests) > 1:
            # Of what the provider allows to wait, too much does: smaller ones, one after the other.
            self._most_requests = max(1, len(batch.requests) // 2)
            self._has_room = False
            self._say(
                f"the provider's queue is too small for it: batches of at most {self._most_requests:,} "
                "requests from now on, one at a time."
            )
        elif is_full and self._under_way:
            self._has_room = False
        else:
            self._held = self._service.refused(state.error)

    async def _void(self, batch: Batch) -> None:
        """Nothing came of a batch: its requests wait for another one."""
        await self._write(batch.name, "void")
        del self._under_way[batch.name]
        self._queue += [self._asked.pop(name) for name in batch.requests if name in self._asked]
        self._count()

    # Bookkeeping.

    async def _write(self, name: str, step: Any, id: str | None = None, status: str | None = None) -> None:
        await self._desk.store.add_batch(BatchStep(name=name, step=step, id=id, status=status))

    def _results(self, batch: Batch) -> Path:
        return self._desk.store.directory / RESULTS / f"{batch.name}.jsonl"

    def _count(self) -> None:
        """Bring up to date how many requests are in batches, and what they are going to cost."""
        self._client.batched = len(self._asked)
        promised = len(self._asked) * (self._usd_each() or 0.0)
        self._desk.traffic.spending.promised_usd += promised - self._promised
        self._promised = promised

    def _show(self) -> None:
        """Tell how the batches stand, in the panel and, when a tenth more is done, in a line."""
        there = [self._states[name] for name in self._under_way if name in self._states]
        if not there:
            self._client.batch = ""
            return
        done = sum(state.answered + state.failed for state in there)
        asked = sum(len(batch.requests) for batch in self._under_way.values())
        batches = "1 batch" if len(self._under_way) == 1 else f"{len(self._under_way)} batches"
        self._client.batch = f"{batches}, {done:,} of {asked:,} answered"
        tenth = f"{batches} {10 * done // max(1, asked)}"
        if tenth != self._said:
            self._said = tenth
            self._say(f"{self._client.batch}.")

    def _say(self, what: str) -> None:
        self._desk.say(f"The {self._name}'s batches: {what}")


class BatchStages:
    """Submit, collect, then judge: the stages of a session by batch."""

    def __init__(self, queues: Mapping[str, BatchQueue], store: RunStore, shutdown: Shutdown) -> None:
        self._queues = queues
        self._store = store
        self._shutdown = shutdown

    def holds(self, work: Work) -> bool:
        """Whether a request for a sample is in a batch of an earlier session."""
        return work.key in keys_under_way(self._store, (None, *work.judges))

    async def run(self, pipeline: Pipeline, works: Sequence[Work]) -> None:
        """Everything through the target, then everything that has a response through the judges."""
        await self._stage({TARGET: [partial(pipeline.respond, work) for work in works if not work.response]})
        if self._shutdown.reason is not None:
            return
        jobs: dict[str, list[_Job]] = {}
        for work in works:
            response = work.response or self._store.state.responses.get(work.key)
            if response is not None:
                for name in pipeline.judges_of(work):
                    jobs.setdefault(name, []).append(partial(pipeline.assess, name, work, response))
        await self._stage(jobs)

    async def _stage(self, jobs: Mapping[str, Sequence[_Job]]) -> None:
        """Run the jobs of models side by side, those that have no queue by themselves."""
        together: list[_Job] = []
        for name, own in jobs.items():
            queue = self._queues.get(name)
            together += own if queue is None or not own else queue.jobs(own)
        await self._shutdown.run_all(together)


def keys_under_way(store: RunStore, judges: Iterable[str | None]) -> set[Key]:
    """The responses that batches of earlier sessions ask for, or ask these judges about; None: the target."""
    wanted = set(judges)
    there = [each for each in store.state.batches.values() if each.is_under_way and each.judge in wanted]
    return {_key(name) for batch in there for name in batch.requests}


def _requests(count: int) -> str:
    return "1 request" if count == 1 else f"{count:,} requests"


def _start(name: str) -> str:
    """The part of a custom id before its checksum."""
    return name[: name.rfind("-") + 1]


def _key(name: str) -> Key:
    sample_id, epoch, *_ = name.split("-")
    return Key(int(sample_id), int(epoch))


def _first_rows(rows: Iterable[Row], batch: Batch) -> tuple[dict[str, Row], int]:
    """The first row for each request of a batch, and how many rows are none of these."""
    asked, found, others = set(batch.requests), dict[str, Row](), 0
    for row in rows:
        if row.custom_id in asked and row.custom_id not in found:
            found[row.custom_id] = row
        else:
            others += 1
    return found, others
