"""An endpoint's client: one completion for one draft, retried, rate-limited and bounded in time.

The retry loop is outside, the connection inside: a sample that waits never holds one. A rate limit does not
use up attempts, an outage uses up neither attempts nor the sample's time.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import httpx

from vlsb import strict_json
from vlsb.config import Endpoint, Party
from vlsb.dialect import Dialect, begins_thought
from vlsb.endpoints.admission import Admission
from vlsb.endpoints.batch_api import BatchService
from vlsb.endpoints.completions import THOUGHT_SPLIT, CompletionContent, Reply, read_completion
from vlsb.endpoints.connect import open_client
from vlsb.endpoints.credentials import Credentials, Redactor
from vlsb.endpoints.faults import (
    CHANGED_CODE,
    IMAGE_CODE,
    NOTHING_SENT,
    Decision,
    Fault,
    classify,
    fatal_error,
    without_secrets,
)
from vlsb.endpoints.headers import named_limits
from vlsb.endpoints.replica import Pass, Replica
from vlsb.endpoints.request import OPTIONAL_FIELDS, Checksums, Draft
from vlsb.endpoints.retry import ENGINE_KILLED, Attempts, Ended, Fate, Unfinished
from vlsb.endpoints.traffic import Event
from vlsb.endpoints.transport import Upload
from vlsb.errors import (
    ConfigError,
    GapsError,
    ImageChangedError,
    ImageError,
    UnknownModelError,
    UnreachableError,
    machine_lack,
)
from vlsb.records import THINKING_CUT, Completion, Key, Untrusted, Usage, is_cut

# What a dying engine leaves behind: a broken connection, a 500, a text that was aborted.
_MAY_BE_A_DEATH = (Fault.TRANSIENT, Fault.BAD_PAYLOAD, Fault.RUN_FATAL)
_KILLED = Decision(
    Fault.ITEM_PERMANENT,
    ENGINE_KILLED,
    Untrusted("the engine died of this sample twice, the second time with nothing else in flight"),
)
_EITHER_FIELD = re.compile(r"\btemperature\b\W+and\W+top_p\b\W+cannot both be specified", re.IGNORECASE)
_REFUSED_FIELD = re.compile(r"\b(temperature|top_p)\b\W+is (?:deprecated|not supported)", re.IGNORECASE)
_STRUCTURED_WORDS = re.compile(r"response_format|json_schema|structured output|guided", re.IGNORECASE)
_MODEL_LIST_TIMEOUT_S = 10.0

Compose = Callable[[Dialect], Draft]


class Answered(NamedTuple):
    """A reply from a batch, the checksums of what was asked, and the dollars that were put by for it."""

    reply: Reply
    checksums: Checksums
    reserved_usd: float


Post: TypeAlias = Callable[[Key, Draft], Awaitable[Answered]]


class EndpointClient:
    """One endpoint as the target or the judge of a run.

    `dialect` may change only while `may_adapt` is set, which the preflight does. `thinking_tokens` are
    what a model gets that turns out to think, None for what it was asked with. From when it has a `post` its
    requests wait for a batch of the `service`, which is paid for as a whole; `batched` of them do, and
    `batch` says how it stands. Without `splits_thoughts` texts stay whole: a judge's quote what strangers
    wrote, tags included.
    """

    service: BatchService | None = None
    post: Post | None = None
    batched = 0
    batch = ""

    def __init__(
        self,
        party: Party,
        *,
        admission: Admission,
        dialect: Dialect,
        redactor: Redactor,
        thinking_tokens: int | None = None,
        splits_thoughts: bool = True,
    ) -> None:
        self.party = party
        self.admission = admission
        self.dialect = dialect
        self.may_adapt = False
        self.timings = admission.timings
        self._redactor = redactor
        self._thinking_tokens = thinking_tokens
        self._splits_thoughts = splits_thoughts
        self._context = admission.context
        self._time = admission.context.time
        # Where samples ended that brought no answer, until that is stored.
        self._ended_at: dict[int, Replica] = {}
        self._unfinished: dict[Key, Unfinished] = {}

    @property
    def is_batching(self) -> bool:
        """Whether requests wait for a batch."""
        return self.post is not None

    async def complete(self, compose: Compose, *, key: Key, sends_schema: bool = False) -> Completion | Ended:
        """Return the completion for a response or about one, or how it ended without one.

        Raises a VlsbError when the run cannot go on, StoppedError when it is being stopped.
        """
        began = self._time.clock()
        attempts = Attempts(key, self._context.policy, self._time)
        with self.admission.sample():
            try:
                outcome = await self._complete(compose, attempts, sends_schema=sends_schema)
            except BaseException:
                self.leave(key, Unfinished(attempts.sent, attempts.usage, attempts.image_sha256))
                raise
        self.timings.total.add(self._time.clock() - began)
        if isinstance(outcome, Ended) and isinstance(attempts.replica, Replica):
            self._ended_at[key.sample_id] = attempts.replica
        return outcome

    async def _complete(
        self, compose: Compose, attempts: Attempts, *, sends_schema: bool
    ) -> Completion | Ended:
        traffic = self._context.traffic
        while True:
            traffic.require_open()
            try:
                outcome = await self._attempt(compose, attempts)
            except ImageChangedError as error:
                changed = Decision(Fault.ITEM_PERMANENT, CHANGED_CODE, Untrusted(error.message))
                return attempts.end(changed, error)
            if outcome is not None and self._learn_thinking(outcome):
                continue
            if isinstance(outcome, Completion):
                return outcome
            if outcome is None or self._adapt(outcome, sends_schema=sends_schema):
                continue
            if outcome.fault is Fault.RUN_FATAL:
                await self._give_up(outcome, attempts)
                continue
            wait_s = await self._wait_before_retry(outcome, attempts)
            if wait_s is None:
                return attempts.end(outcome)
            traffic.require_open()
            self._note("retry", outcome, attempts, wait_s)
            self.timings.retry.add(wait_s)
            await self._time.sleep(wait_s)

    def leave(self, key: Key, unfinished: Unfinished) -> None:
        """Keep what was spent on a response, until `take_unfinished` asks for it."""
        self._unfinished[key] = unfinished.after(self._unfinished.get(key))

    def take_unfinished(self, key: Key) -> Unfinished | None:
        """Return what was spent on a response that stays unfinished; None if nobody charged for anything."""
        unfinished = self._unfinished.pop(key, None)
        return None if unfinished is None or unfinished.usage == Usage() else unfinished

    def count_failure(self, sample_id: int, fault: Fault, code: str, message: Untrusted) -> None:
        """Count a sample that ended in an error of this endpoint, once that is stored.

        A replica that keeps rejecting samples for the same reason is given up; the last one's GapsError is
        raised. A batch was paid for as a whole, and its failures come in a row: they stop nothing.
        """
        if self.is_batching:
            return
        replica = self._ended_at.pop(sample_id, self.admission.replicas[0])
        try:
            replica.rejections.count(sample_id, fault, code, message)
        except GapsError as error:
            self.admission.give_up(replica, error)

    async def _attempt(self, compose: Compose, attempts: Attempts) -> Completion | Decision | None:
        """Send one request, and return what it brought; None if it died with its engine and is sent again."""
        if self.post is not None:
            return await self._attempt_by_batch(self.post, compose, attempts)
        admitted = await self.admission.admit(attempts)
        if admitted is None:
            return _KILLED
        try:
            outcome = await self._send(compose(self.dialect), attempts, admitted)
            if isinstance(outcome, Decision) and outcome.fault in _MAY_BE_A_DEATH:
                fate = await self.admission.fate(admitted)
                if fate is Fate.LOST:
                    self._note("retry", replace(outcome, code="engine_lost"), attempts, 0.0)
                    return None
                return _KILLED if fate is Fate.KILLED_BY_SAMPLE else outcome
            return outcome
        finally:
            self.admission.leave(admitted)

    async def _attempt_by_batch(
        self, post: Post, compose: Compose, attempts: Attempts
    ) -> Completion | Decision:
        attempts.replica = self.admission.replicas[0]
        try:
            answered = await post(attempts.key, compose(self.dialect))
        except ImageError as error:
            return Decision(Fault.ITEM_PERMANENT, IMAGE_CODE, Untrusted(error.message))
        attempts.sent += 1
        attempts.checksums = answered.checksums
        result: CompletionContent | Decision
        if isinstance(answered.reply, Decision):
            result = without_secrets(answered.reply, self._redactor)
        else:
            result = self._interpret(answered.reply, attempts.sent, 0.0, has_succeeded=True)
        usage = result.usage.as_batch()
        attempts.usage += usage
        is_answer = not isinstance(result, Decision)
        unsaid_tokens = 0 if isinstance(result, Decision) else self._unsaid_tokens(result)
        self.admission.count_batched(
            usage, answered.reserved_usd, is_answer=is_answer, unsaid_tokens=unsaid_tokens
        )
        # No latency: what is known is when the batch was done, not how long the model took.
        began = self._time.clock()
        return result if isinstance(result, Decision) else self._completion(result, attempts, began)

    async def _send(self, draft: Draft, attempts: Attempts, admitted: Pass) -> Completion | Decision:
        give_back = await self.admission.make_room(attempts, draft.size)
        try:
            began = self._time.clock()
            try:
                pieces, checksums = await asyncio.to_thread(draft.pieces)
            except ImageError as error:
                return Decision(Fault.ITEM_PERMANENT, IMAGE_CODE, Untrusted(error.message))
            upload = Upload(pieces, give_back)
            del pieces  # a name of ours would keep them until the reply
            self.timings.body.add(self._time.clock() - began)
            self._context.traffic.require_open()
            with self.admission.sending(admitted):
                timeout_s = attempts.timeout_s(thinks=self.dialect.thinks)
                reply = await _reply(admitted.replica.http.ask("/chat/completions", upload), timeout_s)
            self.timings.add_exchange(upload.marks)
        finally:
            give_back()
        if not isinstance(reply, NOTHING_SENT):
            attempts.checksums = checksums
        return self._read(reply, attempts, admitted, began)

    def _read(
        self,
        reply: httpx.Response | httpx.RequestError,
        attempts: Attempts,
        admitted: Pass,
        began: float,
    ) -> Completion | Decision:
        now = time.time()
        # Where others of its replicas answer, one that cannot be reached is no wrong address.
        has_succeeded = self.admission.has_served or self.admission.has_others(admitted)
        result = self._interpret(reply, attempts.sent, now, has_succeeded=has_succeeded)
        attempts.usage += result.usage
        limits = named_limits(reply.headers, now=now) if isinstance(reply, httpx.Response) else ()
        brought, unsaid_tokens = (
            (result, 0) if isinstance(result, Decision) else (result.usage, self._unsaid_tokens(result))
        )
        is_served = self.admission.report(admitted, brought, limits, unsaid_tokens=unsaid_tokens)
        # A turn without a text is one of those that are counted.
        if is_served and not (isinstance(result, Decision) and result.ends_as == "empty"):
            admitted.replica.rejections.reset()
        return result if isinstance(result, Decision) else self._completion(result, attempts, began)

    def _unsaid_tokens(self, answer: CompletionContent) -> int:
        """Return the most output tokens of an answer whose endpoint counted none: each has a byte at least.

        What a model thought and nobody showed has no bytes: then they are all that the model is given.
        """
        if answer.usage.is_whole or answer.usage.input_tokens is None:
            return 0
        text = answer.text.expose() + (answer.reasoning.expose() if answer.reasoning else "")
        hidden = (self.dialect.max_tokens or 0) if self.dialect.thinks and not answer.reasoning else 0
        return max(len(text.encode("utf-8", "surrogatepass")), hidden)

    def _interpret(
        self, reply: httpx.Response | httpx.RequestError, attempt: int, now: float, *, has_succeeded: bool
    ) -> CompletionContent | Decision:
        """Return the answer in what came back, or what its absence means."""
        result: CompletionContent | Decision
        if isinstance(reply, httpx.Response) and 200 <= reply.status_code < 300:
            opened_by = "" if self.dialect.thinks_apart else self.dialect.opened_by
            result = read_completion(
                reply, now=now, splits_thoughts=self._splits_thoughts, opened_by=opened_by
            )
        else:
            result = classify(reply, has_succeeded=has_succeeded, attempt=attempt, now=now)
        return without_secrets(result, self._redactor) if isinstance(result, Decision) else result

    def _completion(self, answer: CompletionContent, attempts: Attempts, began: float) -> Completion:
        assert attempts.checksums is not None
        without_keys = self._redactor.answer
        return Completion(
            text=without_keys(answer.text),
            reasoning=answer.reasoning and without_keys(answer.reasoning),
            origin=answer.origin,
            finish_reason=answer.finish_reason and without_keys(answer.finish_reason),
            model=answer.model and without_keys(answer.model),
            usage=attempts.usage,
            attempts=attempts.sent,
            latency_s=self._time.clock() - began,
            request_sha256=attempts.checksums.request,
            image_sha256=attempts.checksums.image,
            flags=answer.flags,
        )

    async def _give_up(self, decision: Decision, attempts: Attempts) -> None:
        """Give up a replica that refuses everything. Raises what ends the run if no other is left.

        That says of an unknown model or address what the endpoint has instead.
        """
        replica = attempts.replica
        assert isinstance(replica, Replica)
        if not self.admission.has(replica):
            return
        self._context.traffic.is_doomed |= self.admission.is_last(replica)
        names: list[str] = []
        better_url = None
        if decision.error is UnknownModelError:
            names = _model_names(await _reply(replica.http.get("/models"), _MODEL_LIST_TIMEOUT_S)) or []
            url = replica.party.endpoint.base_url
            better_url = None if names else await _url_with_version(replica.http, url)
        error = fatal_error(decision, replica.party, names, self._redactor, better_url=better_url)
        self.admission.give_up(replica, error)

    def _adapt(self, decision: Decision, *, sends_schema: bool) -> bool:
        """Tell whether the preflight learned by this how the endpoint wants to be asked."""
        better = adapt(self.dialect, decision, sends_schema=sends_schema) if self.may_adapt else None
        if better is None:
            return False
        self.dialect = better
        self._context.observe(Event("dialect", self.party.stage, code=decision.param or decision.code))
        return True

    def _learn_thinking(self, outcome: Completion | Decision) -> bool:
        """Note at the preflight that a model thinks; whether what it was asked is worth asking again.

        It is where the answer was cut, and there is more room now.
        """
        before = self.dialect
        is_apart, was_cut = False, True
        if isinstance(outcome, Completion):
            is_split = THOUGHT_SPLIT in outcome.flags
            is_apart = bool(outcome.usage.reasoning_tokens or (outcome.reasoning and not is_split))
            was_cut = is_cut(outcome.finish_reason)
            is_thinking = is_apart or outcome.reasoning is not None or begins_thought(outcome.text.expose())
        else:
            is_thinking = outcome.code == THINKING_CUT
        if not self.may_adapt or not is_thinking:
            return False
        tokens = before.max_tokens or self._thinking_tokens
        is_apart = is_apart or before.thinks_apart
        self.dialect = replace(before, thinks=True, thinks_apart=is_apart, max_tokens=tokens)
        if not before.thinks:
            self._context.observe(Event("thinks", self.party.stage, limit=tokens))
        return was_cut and tokens != before.max_tokens

    async def _wait_before_retry(self, decision: Decision, attempts: Attempts) -> float | None:
        """Seconds to wait before the next attempt, None if there must be none."""
        if not decision.is_retryable:
            return None
        if self.is_batching:
            # It is in the next batch.
            return None if attempts.wait_after_failure_s(decision) is None else 0.0
        if decision.fault is Fault.RATE_LIMITED:
            return 0.0 if self.admission.pause_s(attempts) < attempts.left_s() else None
        if not attempts.is_excused:
            wait_s = attempts.wait_after_failure_s(decision)
            if wait_s is not None:
                return wait_s
            self._context.traffic.require_open()
            # Whoever replies is not down.
            if decision.is_a_reply or await self.admission.is_to_blame(attempts):
                return None
        # An outage is not this sample's fault, and its probes have a pace of their own.
        attempts.forgive()
        return 0.0

    def _note(self, kind: str, decision: Decision, attempts: Attempts, wait_s: float) -> None:
        self._context.observe(
            Event(
                kind,
                self.party.stage,
                attempts.sample_id,
                decision.code,
                wait_s,
                attempts.sent,
                decision.status,
                image_sha256=attempts.image_sha256,
                **(attempts.replica.place if isinstance(attempts.replica, Replica) else {}),
            )
        )


def adapt(dialect: Dialect, decision: Decision, *, sends_schema: bool) -> Dialect | None:
    """Return the dialect to try after a rejected preflight request; None if something else was wrong."""
    if decision.fault is not Fault.ITEM_PERMANENT or decision.status not in (400, 422):
        return None
    if decision.param == "max_tokens" and dialect.tokens_field == "max_tokens":
        return replace(dialect, tokens_field="max_completion_tokens")
    words = decision.message.expose()
    field = decision.param
    # Anthropic names the field in words alone.
    if not field and _EITHER_FIELD.search(words):
        field = "top_p"
    elif not field and (match := _REFUSED_FIELD.search(words)):
        field = match[1]
    if field in OPTIONAL_FIELDS and field not in dialect.unsent:
        return replace(dialect, unsent=(*dialect.unsent, field))
    names_schema = decision.param.startswith("response_format") or _STRUCTURED_WORDS.search(words)
    if sends_schema and dialect.structured and names_schema:
        return replace(dialect, structured=False)
    return None


async def list_models(party: Party, credentials: Credentials, *, ca_bundle: Path | None) -> list[str]:
    """Ask for the models that an endpoint lists. If it lists nothing, raises what would end a run there."""
    url = party.endpoint.base_url
    client = open_client(url, credentials=credentials, connections=1, ca_bundle=ca_bundle)
    try:
        reply = await _reply(client.get("/models"), _MODEL_LIST_TIMEOUT_S)
        is_success = isinstance(reply, httpx.Response) and reply.is_success
        if is_success and (names := _model_names(reply)) is not None:
            return names
        better_url = await _url_with_version(client, url)
    finally:
        await client.aclose()
    decision = classify(reply, has_succeeded=False, attempt=2, now=time.time())
    if is_success or decision.error is UnknownModelError:
        advice = "Check --base-url, or pass --model NAME."
        if better_url is not None:
            advice = f"Did you mean --base-url {better_url}?"
        raise ConfigError(f"{party}: it lists no models at /models", advice=advice)
    raise fatal_error(decision, party, (), Redactor(credentials.secrets()), better_url=better_url)


async def served_model(
    endpoints: Sequence[Endpoint],
    credentials: Credentials,
    *,
    is_named: bool,
    ca_bundle: Path | None,
    say: Callable[[str], None],
) -> str:
    """Return the target's model: of endpoints without a name their only one, which all of them must list.

    One that does not answer may do so later, as long as another one does. Raises what a run would end with,
    and ConfigError where there is no name and none or several are listed.
    """
    model = endpoints[0].request_model if is_named else None
    answered = 0
    for endpoint in endpoints:
        party = Party("target", endpoint if is_named else replace(endpoint, model=model or ""))
        try:
            names = await list_models(party, credentials, ca_bundle=ca_bundle)
        except UnreachableError as error:
            if endpoint is endpoints[-1] and not answered:
                raise
            say(f"Warning: {error.message}. The others are asked until it answers.")
            continue
        answered += 1
        if model is None:
            if len(names) != 1:
                raise ConfigError(
                    f"{endpoint.base_url} lists {len(names)} models. Pass --model NAME",
                    detail=Untrusted(", ".join(names[:10])) if names else None,
                )
            model = names[0]
        elif model not in names:
            raise UnknownModelError(
                f"{party}: it serves no {model}",
                detail=Untrusted(", ".join(names[:10])),
                advice="Every --base-url must serve the same model.",
            )
    return endpoints[0].model if is_named or model is None else model


async def _url_with_version(client: httpx.AsyncClient, base_url: str) -> str | None:
    """Return the base URL with `/v1` behind it if models are listed there and it had none; else None."""
    if base_url.endswith("/v1"):
        return None
    reply = await _reply(client.get("/v1/models"), _MODEL_LIST_TIMEOUT_S)
    # Without a key, or with a wrong one, it is still the place.
    is_there = isinstance(reply, httpx.Response) and reply.status_code in (200, 401, 403)
    return f"{base_url}/v1" if is_there else None


async def _reply(
    asking: Coroutine[Any, Any, httpx.Response], timeout_s: float
) -> httpx.Response | httpx.RequestError:
    """A whole reply, or what came in its place."""
    try:
        async with asyncio.timeout(timeout_s):
            return await asking
    except TimeoutError:
        return httpx.ReadTimeout(f"no whole reply within {timeout_s:g} s")
    except httpx.RequestError as error:
        # No socket could be opened: the endpoint has no part in that.
        if lack := machine_lack(error):
            raise lack from error
        return error


def _model_names(reply: httpx.Response | httpx.RequestError) -> list[str] | None:
    """Return the names in a list of models; None if there is no such list."""
    if not isinstance(reply, httpx.Response):
        return None
    try:
        listed = strict_json.loads(reply.content)["data"]
        return [each["id"] for each in listed if isinstance(each["id"], str)]
    except (ValueError, KeyError, TypeError):
        return None
