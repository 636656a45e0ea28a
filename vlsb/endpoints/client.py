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

from vlsb.config import Endpoint, Party, RetryPolicy
from vlsb.endpoints.admission import Admission, Pass
from vlsb.endpoints.attempts import Counts, Ended, Event, Spending, StoppedError, Traffic
from vlsb.endpoints.completions import Answer, read_completion
from vlsb.endpoints.connect import Client
from vlsb.endpoints.credentials import Redactor
from vlsb.endpoints.dialects import Dialect, adapt
from vlsb.endpoints.engine_guard import ENGINE_KILLED, Fate, InFlight
from vlsb.endpoints.faults import CHANGED_CODE, PICTURE_CODE, Decision, Fault, classify, fatal_error, redacted
from vlsb.endpoints.headers import named_limits
from vlsb.endpoints.models import model_names, url_with_version
from vlsb.endpoints.pacing import Rejections, Time, UploadBudget, backoff_s
from vlsb.endpoints.request import Checksums, Draft
from vlsb.endpoints.transport import Upload
from vlsb.errors import ImageChangedError, ImageError, UnknownModelError, VlsbError
from vlsb.records import Completion, Stage, Untrusted, Usage

# What a dying engine leaves behind: a broken connection, a 500, a text that was aborted.
_MAY_BE_A_DEATH = (Fault.TRANSIENT, Fault.BAD_PAYLOAD, Fault.RUN_FATAL)
_KILLED = Decision(
    Fault.ITEM_PERMANENT,
    ENGINE_KILLED,
    Untrusted("the engine died of this sample twice, the second time with nothing else in flight"),
)
# No byte of the image left us.
_NOTHING_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)

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
        admission: Admission,
        redactor: Redactor,
        uploads: UploadBudget,
        traffic: Traffic,
        time: Time,
        observe: Callable[[Event], None],
    ) -> None:
        self.lane = lane
        self.party = Party(lane, endpoint)
        self.dialect = dialect
        self.may_adapt = False
        self.admission = admission
        self.counts = Counts()
        self.timings = admission.timings
        self._rejections = Rejections(str(self.party))
        self._http = http
        self._policy = policy
        self._redactor = redactor
        self._uploads = uploads
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
        began = self._time.clock()
        async with self.admission.sample():
            found = await self._complete(compose, InFlight(sample_id), sends_schema=sends_schema)
        self.timings.total.add(self._time.clock() - began)
        return found

    async def _complete(
        self, compose: Compose, in_flight: InFlight, *, sends_schema: bool
    ) -> Completion | Ended:
        request = Spending(self._policy, self._time)
        while True:
            if self._traffic.is_over:
                raise StoppedError
            try:
                outcome = await self._attempt(compose, request, in_flight)
            except ImageChangedError as error:
                changed = Decision(Fault.ITEM_PERMANENT, CHANGED_CODE, Untrusted(error.message))
                return request.ended(changed, error)
            if isinstance(outcome, Completion):
                return outcome
            if outcome is None:
                continue
            decision = self._adapted(outcome, sends_schema=sends_schema)
            if decision is None:
                continue
            if decision.fault is Fault.RUN_FATAL:
                self._traffic.is_doomed = True
                raise await self._fatal(decision)
            wait_s = await self._wait_before_retry(decision, request, in_flight)
            if wait_s is None:
                return request.ended(decision)
            if self._traffic.is_over:
                raise StoppedError
            self._note("retry", in_flight.sample_id, decision, request, wait_s)
            self.timings.retry.add(wait_s)
            await self._time.sleep(wait_s)

    def ended(self, sample_id: int, fault: Fault, code: str, message: Untrusted) -> None:
        """Count a sample that ended in an error of this lane, once that is stored.

        Raises GapsError when the endpoint keeps rejecting samples for the same reason.
        """
        self._rejections.ended(sample_id, fault, code, message)

    async def _attempt(
        self, compose: Compose, request: Spending, in_flight: InFlight
    ) -> Completion | Decision | None:
        """What one request brought; None if it died with its engine and is to be sent again."""
        admitted = await self.admission.enter(in_flight, request)
        if admitted is None:
            return _KILLED
        try:
            request.begin()
            outcome = await self._send(compose(self.dialect), request, admitted)
            if isinstance(outcome, Decision) and outcome.fault in _MAY_BE_A_DEATH:
                return await self._with_fate(outcome, request, in_flight)
            return outcome
        finally:
            self.admission.leave(admitted)

    async def _with_fate(self, decision: Decision, request: Spending, in_flight: InFlight) -> Decision | None:
        """The decision about a failed request, unless the engine died of it or with it."""
        asked = self._time.clock()
        fate = await self.admission.fate(in_flight)
        # However long an engine takes to die, it is not this sample's time.
        request.extend(self._time.clock() - asked)
        if fate is Fate.LOST:
            self._note("retry", in_flight.sample_id, replace(decision, code="engine_lost"), request, 0.0)
            return None
        return _KILLED if fate is Fate.KILLED_BY_SAMPLE else decision

    async def _send(self, draft: Draft, request: Spending, admitted: Pass) -> Completion | Decision:
        started = self._time.clock()
        async with self._uploads.reserved(draft.size) as give_back:
            waited, started = self._time.clock() - started, self._time.clock()
            request.extend(waited)
            self.timings.room.add(waited)
            try:
                pieces, checksums = await asyncio.to_thread(draft.pieces)
            except ImageError as error:
                return Decision(Fault.ITEM_PERMANENT, PICTURE_CODE, Untrusted(error.message))
            upload = Upload(pieces, give_back)
            del pieces  # a name of ours would keep them until the reply
            self.timings.body.add(self._time.clock() - started)
            if self._traffic.is_over:
                raise StoppedError
            reply = await self._exchange(upload, request)
        if not isinstance(reply, _NOTHING_SENT):
            request.checksums = checksums
        return self._read(reply, request, checksums, started, admitted)

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
        self,
        reply: httpx.Response | httpx.RequestError,
        request: Spending,
        checksums: Checksums,
        started: float,
        admitted: Pass,
    ) -> Completion | Decision:
        now = system_time.time()
        if isinstance(reply, httpx.Response):
            self.admission.heard(admitted, named_limits(reply.headers, now=now))
        if isinstance(reply, httpx.Response) and 200 <= reply.status_code < 300:
            read = read_completion(reply, now=now)
            if isinstance(read, Answer):
                return self._answered(read, request, checksums, started, admitted)
            decision = read
        else:
            decision = classify(reply, has_succeeded=self.has_succeeded, attempt=request.sent, now=now)
        decision = redacted(decision, self._redactor)
        request.add(decision.usage)
        if decision.fault is Fault.PROVIDER_BLOCKED or decision.ends_as == "empty":
            self._succeeded(decision.usage, admitted)
        elif decision.fault is Fault.RATE_LIMITED:
            self.counts.rate_limited += 1
            self.admission.refused(admitted, decision)
        elif decision.is_retryable and not decision.is_a_reply:
            request.is_excused = self.admission.failed(admitted, decision.code)
        else:
            self.admission.answered(admitted, is_served=False)
        return decision

    def _clean(self, text: Untrusted | None) -> Untrusted | None:
        return None if text is None else self._redactor.answer(text)

    def _answered(
        self, answer: Answer, request: Spending, checksums: Checksums, sent_at: float, admitted: Pass
    ) -> Completion:
        self._succeeded(answer.usage, admitted)
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
            request_sha256=checksums.request,
            image_sha256=checksums.image,
            flags=answer.flags,
        )

    def _succeeded(self, usage: Usage, admitted: Pass) -> None:
        self.has_succeeded = True
        self._rejections.succeeded()
        self.admission.answered(admitted, usage)

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

    async def _wait_before_retry(
        self, decision: Decision, request: Spending, in_flight: InFlight
    ) -> float | None:
        """Seconds to wait before the next attempt, None if there must be none."""
        if not decision.is_retryable:
            return None
        if decision.fault is Fault.RATE_LIMITED:
            return 0.0 if self.admission.paused_for_s() < request.left_s() else None
        if request.is_excused:
            request.forgive()
            return 0.0  # the probes have a pace of their own, and an outage is not this sample's fault
        request.count_failure(decision.code)
        wait_s = max(decision.retry_after_s or 0.0, backoff_s(self._policy, request.failed - 1, self._time))
        if not self._is_spent(decision, request) and wait_s < request.left_s():
            return wait_s
        if self._traffic.is_over:
            raise StoppedError
        # Whoever replies is not down.
        if decision.is_a_reply or await self.admission.is_to_blame(in_flight, request):
            return None
        request.forgive()
        return 0.0

    def _is_spent(self, decision: Decision, request: Spending) -> bool:
        most = self._policy.max_attempts if decision.max_retries is None else decision.max_retries
        return request.failed >= self._policy.max_attempts or request.failed_by_code[decision.code] > most

    def _note(self, kind: str, sample_id: int, decision: Decision, request: Spending, wait_s: float) -> None:
        self._observe(
            Event(
                kind,
                self.lane,
                sample_id,
                decision.code,
                wait_s,
                request.sent,
                decision.status,
                image_sha256=request.image_sha256,
            )
        )
