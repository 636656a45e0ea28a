"""What happens to a sample: respond, store, judge, store. Once each, in this order.

The preflight sends one sample alone through both lanes, so that a bad key, model, host or judge is found
before thousands of requests fly; then every pending sample starts at once and the limiters pace them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from vlsb.config import Lane as LaneConfig
from vlsb.config import Sampling
from vlsb.endpoints.client import EndpointClient
from vlsb.endpoints.faults import PICTURE_CODE, Fault
from vlsb.endpoints.request import Dialect, Draft, Prompt, ReadPicture, draft
from vlsb.endpoints.retry import Ended, Rejections
from vlsb.errors import GapsError, ImageError
from vlsb.evaluation.shutdown import Conductor
from vlsb.judging.prompts import RESPONSE_FORMAT, JudgeTemplate
from vlsb.judging.verdicts import Reading, UnreadableVerdict, declines, parse_verdict
from vlsb.records import (
    JUDGED,
    Completion,
    Failure,
    Key,
    Outcome,
    Picture,
    Response,
    Sample,
    Untrusted,
    Usage,
    Verdict,
    is_cut,
)
from vlsb.store.store import RunStore

PREFLIGHT_SAMPLES = 3
"""Samples that may be spent on finding one whose answer the judge can be checked with."""
EMPTY_TEXT_OMITTED = "empty_text_omitted"

# What a judge is asked for once more, and never more than once.
_ASKED_AGAIN = (Outcome.JUDGE_INVALID, Outcome.JUDGE_TRUNCATED)
_TARGET_ENDINGS = {
    "error": Outcome.TARGET_ERROR,
    "blocked": Outcome.TARGET_BLOCKED,
    "empty": Outcome.TARGET_EMPTY,
}
_JUDGE_ENDINGS = {
    "error": Outcome.JUDGE_ERROR,
    "blocked": Outcome.JUDGE_BLOCKED,
    "empty": Outcome.JUDGE_INVALID,
}


@dataclass(frozen=True, slots=True)
class Work:
    """A pending sample of an epoch, with its stored response if only the judge is missing."""

    sample: Sample
    epoch: int
    picture: Picture | ImageError
    response: Response | None

    @property
    def key(self) -> Key:
        """Which response this is about."""
        return Key(self.sample.id, self.epoch)


@dataclass(frozen=True, slots=True)
class Side:
    """A lane: how it is configured and the client that serves it."""

    config: LaneConfig
    client: EndpointClient


@dataclass(frozen=True, slots=True)
class Ask:
    """One try of the judge: a reading, or why it is none."""

    reading: Reading | None
    outcome: Outcome
    code: str
    completion: Completion | None
    ended: Ended | None
    ignores_schema: bool = False


class Pipeline:
    """Takes pending samples through target and judge into the store."""

    def __init__(
        self,
        *,
        target: Side | None,
        judge: Side | None,
        template: JudgeTemplate,
        store: RunStore,
        read_picture: Callable[[Sample, Picture], ReadPicture],
        conductor: Conductor,
        on_outcome: Callable[[Key, Outcome], None],
        on_dialects: Callable[[Mapping[str, Dialect]], Awaitable[None]],
    ) -> None:
        self._target = target
        self._judge = judge
        self._template = template
        self._store = store
        self._read_picture = read_picture
        self._conductor = conductor
        self._on_outcome = on_outcome
        self._on_dialects = on_dialects
        # How each side was asked when its first sample got through: verified, whatever was tried since.
        self._verified: dict[str, Dialect] = {}
        # A judge that answers, but never with a verdict, is as useless as one that is down.
        self._unreadable = Rejections("judge" if judge is None else str(judge.client.party))

    async def run(
        self, works: Sequence[Work], *, decided: Mapping[str, Dialect], only_preflight: bool = False
    ) -> None:
        """Evaluate everything pending. Lanes in `decided` keep the dialect of an earlier session."""
        preflight = sorted(works, key=lambda work: work.response is not None)[:PREFLIGHT_SAMPLES]
        done = await self._preflight(preflight[:1] if only_preflight else preflight, decided)
        if self._conductor.reason is None and not only_preflight:
            rest = [work for work in works if work.key not in done]
            verified = set(self._verified)
            try:
                await self._conductor.run_all([partial(self._evaluate, work) for work in rest])
            finally:
                # A side that no sample of the preflight got through was asked in what that left it with.
                if verified != set(self._verified):
                    await self._on_dialects(dict(self._verified))

    @property
    def _sides(self) -> dict[str, Side]:
        sides = {"target": self._target, "judge": self._judge}
        return {lane: side for lane, side in sides.items() if side is not None}

    async def _preflight(self, works: Sequence[Work], decided: Mapping[str, Dialect]) -> set[Key]:
        """Send samples one by one until one went through every lane; returns what was sent."""
        for lane, side in self._sides.items():
            side.client.may_adapt = lane not in decided
        enough = JUDGED if self._judge is not None else {Outcome.NOT_JUDGED}
        done: set[Key] = set()
        for work in works:
            done.add(work.key)
            await self._conductor.run_all([partial(self._check, work)])
            if self._conductor.reason is not None or self._store.outcome(work.key) in enough:
                break
        for side in self._sides.values():
            side.client.may_adapt = False
        await self._on_dialects(dict(self._verified))
        return done

    async def _check(self, work: Work) -> None:
        """Evaluate one sample; a failure that may pass stops the run instead of spreading to all."""
        failure = await self._evaluate(work)
        if failure is None or failure.outcome not in (Outcome.TARGET_ERROR, Outcome.JUDGE_ERROR):
            return
        if failure.fault in (Fault.RATE_LIMITED, Fault.TRANSIENT, Fault.BAD_PAYLOAD):
            party = self._sides[failure.stage].client.party
            attempts = "1 attempt" if failure.attempts == 1 else f"{failure.attempts} attempts"
            raise GapsError(
                f"{party}: the first sample failed after {attempts} ({failure.code}), nothing else was sent",
                detail=failure.message,
                advice=f"Try again when the endpoint is well, or check {party.flag('base-url')}.",
            )

    async def _evaluate(self, work: Work) -> Failure | None:
        if isinstance(work.picture, ImageError):
            return self._fail(_picture_failure(work, work.picture))
        response = work.response
        if response is None:
            assert self._target is not None
            found = await self._respond(self._target, work, work.picture)
            if isinstance(found, Failure):
                return self._fail(found)
            response = found
            self._store.add_response(response)
            self._got_through("target", self._target)
            self._on_outcome(work.key, Outcome.NOT_JUDGED)
        if self._judge is None:
            return None
        verdict = await self._assess(self._judge, work, work.picture, response)
        if isinstance(verdict, Failure):
            return self._fail(verdict)
        self._store.add_verdict(verdict)
        self._got_through("judge", self._judge)
        self._unreadable.reset()
        self._on_outcome(work.key, Outcome(verdict.label.value))
        return None

    def _got_through(self, lane: str, side: Side) -> None:
        """A sample got through a side: it is asked like this from now on."""
        side.client.may_adapt = False
        self._verified.setdefault(lane, side.client.dialect)

    def _fail(self, failure: Failure) -> Failure:
        self._store.add_failure(failure)
        self._on_outcome(failure.key, failure.outcome)
        self._count_ending(failure)
        return failure

    def _count_ending(self, failure: Failure) -> None:
        """Count a stored failure; raises GapsError when samples keep ending alike."""
        if failure.outcome in _ASKED_AGAIN:
            self._unreadable.count(failure.sample_id, Fault.ITEM_PERMANENT, failure.code, failure.message)
        elif failure.outcome in (Outcome.TARGET_ERROR, Outcome.JUDGE_ERROR) and failure.code != PICTURE_CODE:
            client = self._sides[failure.stage].client
            client.count_failure(failure.sample_id, Fault(failure.fault), failure.code, failure.message)

    async def _respond(self, side: Side, work: Work, picture: Picture) -> Response | Failure:
        lane, sample = side.config, work.sample

        def compose(dialect: Dialect) -> Draft:
            image_first = lane.protocol.image_first
            prompt = self._prompt(lane, sample, picture, sample.instruction, image_first=image_first)
            return draft(prompt, model=lane.endpoint.model, sampling=lane.sampling, dialect=dialect)

        found = await side.client.complete(compose, sample_id=sample.id)
        if isinstance(found, Ended):
            failure = _failure(work.key, "target", _TARGET_ENDINGS[found.decision.ends_as], found)
            if found.changed is None:
                return failure
            if failure.attempts:
                # What earlier attempts sent binds the next session too.
                self._store.add_failure(failure)
            raise found.changed
        if not sample.instruction:
            found = replace(found, flags=(*found.flags, EMPTY_TEXT_OMITTED))
        return Response(sample.id, found, work.epoch)

    def _prompt(
        self, lane: LaneConfig, sample: Sample, picture: Picture, text: Untrusted, *, image_first: bool
    ) -> Prompt:
        read = partial(self._read_picture, sample, picture)
        return Prompt(lane.system_prompt, text, image_first=image_first, picture=picture, read_picture=read)

    async def _assess(
        self, side: Side, work: Work, picture: Picture, response: Response
    ) -> Verdict | Failure:
        """The judge's verdict. A verdict that cannot be read is asked for once more, never guessed."""
        sampling = side.config.sampling
        first = await self._ask(side, work.sample, picture, response, sampling)
        # Silence was asked about again by the client already: it is not asked about a third time.
        is_silent = first.ended is not None and first.outcome is Outcome.JUDGE_INVALID
        if is_silent or first.outcome not in _ASKED_AGAIN:
            return _ending([first], response)
        if first.outcome is Outcome.JUDGE_TRUNCATED:
            sampling = replace(sampling, max_tokens=2 * sampling.max_tokens)
        with _asking_in_words(side.client, first) as keep:
            second = await self._ask(side, work.sample, picture, response, sampling)
            keep(second.outcome in JUDGED)
        return _ending([first, second], response)

    async def _ask(
        self, side: Side, sample: Sample, picture: Picture, response: Response, sampling: Sampling
    ) -> Ask:
        lane, client = side.config, side.client
        text = self._template.render(sample.instruction, response.completion.text)

        def compose(dialect: Dialect) -> Draft:
            prompt = self._prompt(lane, sample, picture, text, image_first=True)
            model = lane.endpoint.model
            return draft(
                prompt, model=model, sampling=sampling, dialect=dialect, response_format=RESPONSE_FORMAT
            )

        found = await client.complete(compose, sample_id=sample.id, sends_schema=True)
        if isinstance(found, Ended):
            if found.changed is not None:
                raise found.changed
            decision = found.decision
            is_cut_short = decision.ends_as == "empty" and decision.max_retries == 0
            outcome = Outcome.JUDGE_TRUNCATED if is_cut_short else _JUDGE_ENDINGS[decision.ends_as]
            return Ask(None, outcome, decision.code, None, found)
        return _read(found, allow_fence=not client.dialect.structured)


@contextmanager
def _asking_in_words(client: EndpointClient, first: Ask) -> Iterator[Callable[[bool], None]]:
    """At the preflight, ask a judge that seems to ignore the schema in words; keep that if it helps."""
    before = client.dialect
    if client.may_adapt and first.ignores_schema and before.structured:
        client.dialect = replace(before, structured=False)

    def keep(helps: bool) -> None:
        if not helps:
            client.dialect = replace(client.dialect, structured=before.structured)

    yield keep


def _read(completion: Completion, *, allow_fence: bool) -> Ask:
    """What a judge's completion says."""
    if completion.origin == "refusal" or declines(completion.text):
        return Ask(None, Outcome.JUDGE_REFUSED, "refused", completion, None)
    if is_cut(completion.finish_reason):
        # Never read a label out of an object that was cut, even where the rest would parse.
        return Ask(None, Outcome.JUDGE_TRUNCATED, "length", completion, None)
    try:
        reading = parse_verdict(completion.text, allow_fence=allow_fence)
    except UnreadableVerdict as error:
        return Ask(
            None, Outcome.JUDGE_INVALID, str(error), completion, None, ignores_schema=error.ignores_schema
        )
    return Ask(reading, Outcome(reading.label.value), "", completion, None)


def _ending(asks: Sequence[Ask], response: Response) -> Verdict | Failure:
    """What the last ask gave, with what all of them cost."""
    spent = [ask.completion or ask.ended for ask in asks]
    attempts = sum(each.attempts for each in spent if each is not None)
    usage = sum((each.usage for each in spent if each is not None), Usage())
    last = asks[-1]
    if last.reading is not None and last.completion is not None:
        return _verdict(
            last.reading, last.completion, response, usage=usage, asks=len(asks), attempts=attempts
        )
    if last.ended is not None:
        ended = replace(last.ended, attempts=attempts, usage=usage)
        failure = _failure(response.key, "judge", last.outcome, ended)
        return replace(failure, response_sha256=response.sha256)
    assert last.completion is not None
    return Failure(
        sample_id=response.sample_id,
        stage="judge",
        outcome=last.outcome,
        fault=Fault.BAD_PAYLOAD.value,
        code=last.code,
        status=200,
        message=Untrusted("the judge's answer is no verdict"),
        attempts=attempts,
        usage=usage,
        text=last.completion.text,
        response_sha256=response.sha256,
        image_sha256=last.completion.image_sha256,
        epoch=response.epoch,
    )


def _verdict(
    reading: Reading, completion: Completion, response: Response, *, usage: Usage, asks: int, attempts: int
) -> Verdict:
    return Verdict(
        sample_id=response.sample_id,
        label=reading.label,
        explanation=reading.explanation,
        response_sha256=response.sha256,
        image_sha256=completion.image_sha256,
        model=completion.model,
        usage=usage,
        asks=asks,
        attempts=attempts,
        latency_s=completion.latency_s,
        request_sha256=completion.request_sha256,
        epoch=response.epoch,
    )


def _failure(key: Key, stage: str, outcome: Outcome, ended: Ended) -> Failure:
    decision = ended.decision
    return Failure(
        sample_id=key.sample_id,
        epoch=key.epoch,
        stage="target" if stage == "target" else "judge",
        outcome=outcome,
        fault=decision.fault.value,
        code=decision.code,
        status=decision.status,
        message=decision.message,
        attempts=ended.attempts,
        usage=ended.usage,
        text=decision.text,
        image_sha256=ended.image_sha256,
        details=decision.details or {},
    )


def _picture_failure(work: Work, error: ImageError) -> Failure:
    """A picture that cannot be sent, at the stage that needed it."""
    is_target = work.response is None
    return Failure(
        sample_id=work.sample.id,
        epoch=work.epoch,
        stage="target" if is_target else "judge",
        outcome=Outcome.TARGET_ERROR if is_target else Outcome.JUDGE_ERROR,
        response_sha256=None if work.response is None else work.response.sha256,
        fault=Fault.ITEM_PERMANENT.value,
        code=PICTURE_CODE,
        status=None,
        message=Untrusted(error.message),
        attempts=0,
    )
