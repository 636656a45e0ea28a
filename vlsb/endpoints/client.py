"""A lane's client: one completion for one draft, retried, rate-limited and bounded in time.

The retry loop is outside, the slot inside: a sample that waits never holds a connection. A rate limit
does not use up attempts, an outage uses up neither attempts nor the sample's time.
"""

from __future__ import annotations

import asyncio
import time as system_time
from collections.abc import Callable
from dataclasses import replace

import httpx

from vlsb.config import Endpoint, RetryPolicy
from vlsb.endpoints.adaptive import AdaptiveLimit
from vlsb.endpoints.attempts import Counts, Ended, Event, Spending, StoppedError, Traffic
from vlsb.endpoints.completions import Answer, read_completion
from vlsb.endpoints.connect import Client
from vlsb.endpoints.dialects import Dialect, adapt
from vlsb.endpoints.drafts import Draft
from vlsb.endpoints.endings import PICTURE_CODE, fatal_error, redacted
from vlsb.endpoints.faults import Decision, Fault, classify
from vlsb.endpoints.keeper import ENGINE_KILLED, Fate, Keeper, Ticket
from vlsb.endpoints.models import model_names, url_with_version
from vlsb.endpoints.parties import Party
from vlsb.endpoints.secrets import Redactor
from vlsb.endpoints.timings import Timings, Wait
from vlsb.endpoints.traffic import Breaker, Gate, Limiter, Time, UploadBudget, backoff_s
from vlsb.endpoints.transport import Upload
from vlsb.errors import ImageError, UnknownModelError, VlsbError
from vlsb.records import Completion, Stage, Untrusted, Usage

# What a dying engine leaves behind: a broken connection, a 500, a text that was aborted.
_MAY_BE_A_DEATH = (Fault.TRANSIENT, Fault.BAD_PAYLOAD, Fault.RUN_FATAL)
_KILLED = Decision(
    Fault.ITEM_PERMANENT,
    ENGINE_KILLED,
    Untrusted("the engine died of this sample twice, the second time with nothing else in flight"),
)

Compose = Callable[[Dialect], Draft]


class EndpointClient:
    """One endpoint as one lane of a run sees it.

    `dialect` may change only while `may_adapt` is set, which the preflight does.
    """

    def __init__(
        self,
        lane: Stage,
        http: Client,
        *,
        endpoint: Endpoint,
        dialect: Dialect,
        policy: RetryPolicy,
        limit: AdaptiveLimit,
        gate: Gate,
        redactor: Redactor,
        uploads: UploadBudget,
        keeper: Keeper,
        traffic: Traffic,
        time: Time,
        observe: Callable[[Event], None],
    ) -> None:
        self.lane = lane
        self.party = Party(lane, endpoint)
        self.dialect = dialect
        self.may_adapt = False
        self.limit = limit
        self.limiter = Limiter(limit.limit)
        self.gate = gate
        gate.on_episode.append(self._cut)
        self.breaker = Breaker(policy, time, name=str(self.party))
        self.counts = Counts()
        self.timings = Timings(time.clock)
        self._line = Limiter(1)
        self._http = http
        self._policy = policy
        self._redactor = redactor
        self._uploads = uploads
        self._keeper = keeper
        self._traffic = traffic
        self._time = time
        self._observe = observe
        self.has_succeeded = False

    async def complete(
        self, compose: Compose, *, sample_id: int, sends_schema: bool = False
    ) -> Completion | Ended:
        """The completion, or how it ended without one.

        Raises a VlsbError when the run cannot go on, StoppedError when it is being stopped.
        """
        request, began = Spending(self._policy, self._time), self._time.clock()
        ticket = Ticket(sample_id)
        while True:
            if self._traffic.is_over:
                raise StoppedError
            outcome = await self._attempt(compose, request, ticket)
            if isinstance(outcome, Completion):
                self.timings.total.add(self._time.clock() - began)
                return outcome
            if outcome is None:
                continue
            decision = self._adapted(outcome, sends_schema=sends_schema)
            if decision is None:
                continue
            if decision.fault is Fault.RUN_FATAL:
                self._traffic.is_doomed = True
                raise await self._fatal(decision)
            wait_s = self._wait_before_retry(decision, request)
            if wait_s is None:
                self.timings.total.add(self._time.clock() - began)
                return Ended(decision, request.sent, request.usage)
            if self._traffic.is_over:
                raise StoppedError
            self._note("retry", sample_id, decision, request, wait_s)
            self.timings.retry.add(wait_s)
            await self._time.sleep(wait_s)

    def ended(self, sample_id: int, fault: Fault, code: str, message: Untrusted) -> None:
        """Tell the breaker that a sample ended in an error of this lane, once that is stored.

        Raises GapsError when the endpoint keeps rejecting samples for the same reason.
        """
        if self.breaker.ended(sample_id, fault, code, message):
            self._observe(Event("outage", self.lane, sample_id, code))

    async def _attempt(
        self, compose: Compose, request: Spending, ticket: Ticket
    ) -> Completion | Decision | None:
        """What one request brought; None if it died with its engine and is to be sent again."""
        try:
            if not await self._queue(request, ticket):
                return _KILLED
            try:
                request.begin()
                outcome = await self._send(compose(self.dialect), request)
                if isinstance(outcome, Decision) and outcome.fault in _MAY_BE_A_DEATH:
                    return await self._with_fate(outcome, request, ticket)
                return outcome
            finally:
                self._keeper.leave(ticket)
                self.limiter.release()
        finally:
            self.breaker.leave()
            self.gate.leave()

    async def _with_fate(self, decision: Decision, request: Spending, ticket: Ticket) -> Decision | None:
        """The decision about a failed request, unless the engine died of it or with it."""
        asked = self._time.clock()
        fate = await self._keeper.fate(ticket)
        # However long an engine takes to die, it is not this sample's time.
        request.extend(self._time.clock() - asked)
        if fate is Fate.LOST:
            self._note("retry", ticket.sample_id, replace(decision, code="engine_lost"), request, 0.0)
            return None
        return _KILLED if fate is Fate.KILLED_BY_SAMPLE else decision

    async def _queue(self, request: Spending, ticket: Ticket) -> bool:
        """Hold a slot, with everybody who has a say agreeing, or wait until that is so.

        False, with nothing held, for a sample that the engine's keeper will never have sent again.

        Only the head of the line waits for gate and breaker; the others wait for the head, so that a pause
        wakes one task and not thousands.
        """
        began, closed_before = self._time.clock(), self.gate.closed_so_far_s()
        pauses_before, engine_s = self.timings.head.pauses_s(), 0.0
        is_admitted = False
        while not is_admitted:
            asked = self._time.clock()
            # Outside the line: while an engine is examined, who may go next need not be at its head.
            if not await self._keeper.admit(ticket):
                return False
            engine_s += self._time.clock() - asked
            await self._line.acquire(ahead=request.sent > 0)
            try:
                is_admitted = await self._slot(request, ticket)
            finally:
                self.timings.head.waits_for(Wait.LOOP if self._line.is_awaited else Wait.NOTHING)
                self._line.release()
        # Neither an outage nor the line for a slot is this sample's fault; a closed gate's time counts.
        waited, closed = self._time.clock() - began, self.gate.closed_so_far_s() - closed_before
        request.extend(max(0.0, waited - closed))
        self.timings.queued(waited, pauses_before, engine_s)
        return True

    async def _slot(self, request: Spending, ticket: Ticket) -> bool:
        """Take a slot as the head of the line; False if the engine's keeper will not have it now."""
        head = self.timings.head
        while self._keeper.admits(ticket):
            head.waits_for(Wait.OUTAGE)
            await self.breaker.admit()
            head.waits_for(Wait.RATE)
            await self.gate.wait()
            head.waits_for(Wait.SLOT)
            await self.limiter.acquire()
            if self._traffic.is_over:
                self.limiter.release()
                raise StoppedError
            if self.breaker.admits() and self.gate.is_open() and self._keeper.admits(ticket):
                request.booked = self.gate.depart()
                self._keeper.depart(ticket)
                return True
            self.limiter.release()
        # Whoever the keeper wants to go first may be the next to probe.
        self.breaker.leave()
        return False

    async def _send(self, draft: Draft, request: Spending) -> Completion | Decision:
        started = self._time.clock()
        async with self._uploads.reserved(draft.size) as give_back:
            waited, started = self._time.clock() - started, self._time.clock()
            request.extend(waited)
            self.timings.room.add(waited)
            try:
                # No name of ours for the pieces: they would live until the reply.
                upload = Upload(await asyncio.to_thread(draft.pieces), give_back)
            except ImageError as error:
                return Decision(Fault.ITEM_PERMANENT, PICTURE_CODE, Untrusted(error.message))
            self.timings.body.add(self._time.clock() - started)
            if self._traffic.is_over:
                raise StoppedError
            reply = await self._exchange(upload, request)
        return self._read(reply, request, draft, started)

    async def _exchange(self, upload: Upload, request: Spending) -> httpx.Response | httpx.RequestError:
        task = asyncio.current_task()
        assert task is not None
        self._traffic.spend_one()
        self._traffic.in_flight.add(task)
        self.counts.requests += 1
        request.sent += 1
        try:
            reply = await self._post(upload, request.attempt_timeout_s())
        finally:
            self._traffic.in_flight.discard(task)
        self.timings.exchanged(upload.marks)
        return reply

    async def _post(self, upload: Upload, timeout_s: float) -> httpx.Response | httpx.RequestError:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._http.ask("/chat/completions", upload)
        except TimeoutError:
            return httpx.ReadTimeout(f"no whole reply within {timeout_s:g} s")
        except httpx.RequestError as error:
            return error

    def _read(
        self, reply: httpx.Response | httpx.RequestError, request: Spending, draft: Draft, started: float
    ) -> Completion | Decision:
        now = system_time.time()
        if isinstance(reply, httpx.Response):
            self.gate.pace.heard(reply.headers, now=now)
        if isinstance(reply, httpx.Response) and 200 <= reply.status_code < 300:
            read = read_completion(reply, now=now)
            if isinstance(read, Answer):
                return self._answered(read, request, draft, started)
            decision = read
        else:
            decision = classify(reply, has_succeeded=self.has_succeeded, attempt=request.sent, now=now)
        decision = redacted(decision, self._redactor)
        request.add(decision.usage)
        if decision.fault is Fault.PROVIDER_BLOCKED or decision.ends_as == "empty":
            self._succeeded(request, decision.usage, started)
        elif decision.fault is Fault.RATE_LIMITED:
            self._rate_limited(decision, started)
        elif decision.is_retryable:
            self.limit.faltered()
        else:
            self.breaker.answered()
        return decision

    def _clean(self, text: Untrusted | None) -> Untrusted | None:
        return None if text is None else self._redactor.answer(text)

    def _answered(self, answer: Answer, request: Spending, draft: Draft, sent_at: float) -> Completion:
        self._succeeded(request, answer.usage, sent_at)
        self.counts.answered += 1
        request.add(answer.usage)
        return Completion(
            text=self._redactor.answer(answer.text),
            origin=answer.origin,
            finish_reason=self._clean(answer.finish_reason),
            model=self._clean(answer.model),
            usage=request.usage,
            attempts=request.sent,
            latency_s=self._time.clock() - sent_at,
            request_sha256=draft.sha256,
            flags=answer.flags,
        )

    def _succeeded(self, request: Spending, usage: Usage, sent_at: float) -> None:
        self.has_succeeded = True
        self.breaker.succeeded()
        self.gate.succeeded(sent_at=sent_at)
        counted = (usage.input_tokens, usage.output_tokens)
        tokens = None if counted == (None, None) else sum(each or 0 for each in counted)
        self.gate.pace.arrived(booked=request.booked, tokens=tokens)
        self.limit.succeeded(in_flight=self.limiter.in_flight, is_retry=request.sent > 1)
        self._resize("")

    def _cut(self, pause_s: float, code: str) -> None:
        """A rate-limit episode began at this lane's gate, whoever met it."""
        self.limit.rate_limited(pause_s=pause_s, too_steep=code == "slow_down")
        self._resize(code)

    def _resize(self, code: str) -> None:
        if self.limiter.limit != self.limit.limit:
            self.limiter.resize(self.limit.limit)
            self._observe(Event("limit", self.lane, code=code, limit=self.limit.limit))

    def _rate_limited(self, decision: Decision, sent_at: float) -> None:
        self.counts.rate_limited += 1
        pause = self.gate.rate_limited(sent_at=sent_at, wait_s=decision.retry_after_s, code=decision.code)
        if pause is not None:
            kind = "long_wait" if pause > self._policy.long_wait_s else "rate_limit"
            self._observe(Event(kind, self.lane, code=decision.code, wait_s=pause, status=decision.status))

    async def _fatal(self, decision: Decision) -> VlsbError:
        """What ends the run; for an unknown model or address with what the endpoint has instead."""
        names, better_url = [], None
        if decision.error is UnknownModelError:
            names = await model_names(self._http)
            better_url = None if names else await url_with_version(self._http, self.party.endpoint.base_url)
        return fatal_error(decision, self.party, names, self._redactor, better_url=better_url)

    def _adapted(self, decision: Decision, *, sends_schema: bool) -> Decision | None:
        """None if the preflight learned how this endpoint wants to be asked; else the decision."""
        better = adapt(self.dialect, decision, sends_schema=sends_schema) if self.may_adapt else None
        if better is None:
            return decision
        self.dialect = better
        self._observe(Event("dialect", self.lane, code=decision.param or decision.code))
        return None

    def _wait_before_retry(self, decision: Decision, request: Spending) -> float | None:
        """Seconds to wait before the next attempt, None if there must be none."""
        if not decision.is_retryable:
            return None
        if decision.fault is Fault.RATE_LIMITED:
            return 0.0 if self.gate.closed_for_s() < request.left_s() else None
        if self.breaker.is_open:
            return 0.0  # the breaker paces the probes, and an outage is not this sample's fault
        request.failed += 1
        request.failed_by_code[decision.code] += 1
        most = self._policy.max_attempts if decision.max_retries is None else decision.max_retries
        if request.failed >= self._policy.max_attempts or request.failed_by_code[decision.code] > most:
            return None
        wait_s = decision.retry_after_s or 0.0
        wait_s = max(wait_s, backoff_s(self._policy, request.failed - 1, self._time))
        return wait_s if wait_s < request.left_s() else None

    def _note(self, kind: str, sample_id: int, decision: Decision, request: Spending, wait_s: float) -> None:
        self._observe(Event(kind, self.lane, sample_id, decision.code, wait_s, request.sent, decision.status))
